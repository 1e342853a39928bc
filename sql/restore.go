package sql

import (
	"context"
	dbsql "database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postseal/postseal/internal/audit"
)

// RestoreOptions of [Restore]. The zero value is good.
type RestoreOptions struct {
	// Discard lets what only the present database holds, or may hold, be lost.
	Discard bool
	Now     func() time.Time // nil: time.Now
}

// Restored is what [Restore] did.
type Restored struct {
	Version int64  // of the backup, before it was migrated
	Aside   string // where the database is now that was there; "": there was none
	Ended   int    // pickups of the backup that were over in the present database, and are again
	Lost    int    // messages and queued replies that only the present database has
	Rules   bool   // the rules of the present database have changed since the backup
	Holds   int    // legal holds that were put since the backup, and are again
	Revoked int    // keys of the API, recovery keys, accounts and devices that were taken away since, and are again
	// Unread says why the present database could not be read: what was retracted since
	// the backup can be read again, and what was sealed since is lost. "": it was read.
	Unread string
}

// NewerMailError says that the present database holds, or may hold, mail that a backup
// lacks.
type NewerMailError struct {
	Count  int
	Unread string // why nobody knows
}

func (e *NewerMailError) Error() string {
	if e.Unread != "" {
		return fmt.Sprintf("the present database can't be read, so nobody knows what was taken or retracted since the backup: %s", e.Unread)
	}
	return fmt.Sprintf("%d messages or replies were taken since the backup, and are in the present database alone: they would be lost", e.Count)
}

// Restore puts a backup in the place of the database, which it keeps aside beside it.
// It does nothing while another process has the database open, with a backup that is
// damaged, of another program or of a newer Postseal, and, unless told to, where mail
// would be lost. What was retracted or had expired since the backup stays so, as far as
// the present database can be read.
//
// At each moment there is a whole database at the path, the old or the new one: if there
// were none, the next start of the server would make an empty one, without rules.
func Restore(ctx context.Context, dsn string, backup io.Reader, o RestoreOptions) (*Restored, error) {
	path, err := Path(dsn)
	if err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	// Held to the end: a process that opens the database waits for it.
	unlock, err := lockDir(ctx, filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	defer unlock()
	if err := unused(path); err != nil {
		return nil, err
	}
	// Of restores that were killed: each holds a whole database, and nobody else makes
	// such files meanwhile.
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), restorePart))
	for _, name := range left {
		removeDatabase(name)
	}
	part, err := copyBeside(path, backup)
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	defer removeDatabase(part)
	var r Restored
	if r.Version, err = verify(ctx, part); err != nil {
		return nil, fmt.Errorf("the backup can't be restored: %w", err)
	}
	fresh := &DB{path: part, now: o.Now}
	if err := fresh.settleRestore(ctx, path, &r); err != nil {
		return nil, err
	}
	if (r.Lost > 0 || r.Unread != "") && !o.Discard {
		return nil, &NewerMailError{r.Lost, r.Unread}
	}
	if r.Aside, err = putAside(path, o.Now()); err != nil {
		return nil, fmt.Errorf("keep the present database aside: %w", err)
	}
	if err := os.Rename(part, path); err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	return &r, syncDir(filepath.Dir(path))
}

// Bytes of the database file that SQLite locks (os.h, PENDING_BYTE). Who has a database
// in WAL mode open holds a lock there, until it ends by whatever means.
const lockBytes, lockLength = 0x40000000, 512

// unused fails if a process has the database open.
func unused(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: lockBytes, Len: lockLength}
	if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lock); err != nil {
		return fmt.Errorf("database %s: ask who has it open: %w", path, err)
	}
	if lock.Type != unix.F_UNLCK {
		return fmt.Errorf("database %s is in use by process %d: stop postseal serve first", path, lock.Pid)
	}
	return nil
}

// restorePart names the files that are to become the database.
const restorePart = ".postseal-restore-*"

// copyBeside copies a backup to a file beside the database, mode 0600.
func copyBeside(path string, backup io.Reader) (part string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), restorePart)
	if err != nil {
		return "", err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			os.Remove(f.Name())
		}
	}()
	if _, err := io.Copy(f, backup); err != nil {
		return "", err
	}
	return f.Name(), f.Sync()
}

// settleRestore migrates the copy of the backup, db, and brings over from the database
// at path what must not be undone. It leaves either as one file, without a journal.
func (db *DB) settleRestore(ctx context.Context, path string, r *Restored) (err error) {
	db.log = slog.New(slog.DiscardHandler)
	if err := db.open(ctx, false); err != nil {
		db.Close()
		return fmt.Errorf("restore: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close(), syncFile(db.path)) }()
	// Nobody is signed in who was so when the backup was made.
	err = db.write(ctx, func(tx *dbsql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM admin_session`)
		return err
	})
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	seq, hash, err := auditHead(ctx, db.r)
	if err != nil {
		return fmt.Errorf("restore: %w", db.explain(err))
	}
	old := &DB{path: path}
	was, err := old.afterBackup(ctx, seq, hash)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.Unread = err.Error()
	}
	if was != nil {
		// Holds come first, since they decide what an end leaves.
		for _, step := range []func() error{
			func() error { return db.keepHolds(ctx, was, r) },
			func() error { return db.keepEnds(ctx, was, r) },
			func() error { return db.keepReleases(ctx, was) },
			func() error { return db.keepRevoked(ctx, was, r) },
			func() (err error) { r.Lost, err = db.lost(ctx, was); return err },
		} {
			if err := step(); err != nil {
				return fmt.Errorf("restore: %w", err)
			}
		}
		has, err := rulesVersion(ctx, db.r)
		if err != nil {
			return fmt.Errorf("restore: %w", err)
		}
		r.Rules = has != was.rules
	}
	err = db.Audit(ctx, audit.Entry{Kind: audit.Restored, Details: audit.Details{
		"version": strconv.FormatInt(r.Version, 10), "ended": strconv.Itoa(r.Ended), "lost": strconv.Itoa(r.Lost), "unread": r.Unread,
		"holds": strconv.Itoa(r.Holds), "revoked": strconv.Itoa(r.Revoked),
	}})
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return db.oneFile(ctx)
}

// afterBackup reads of the present database what a restore of a backup, whose audit log
// ends at seq, must not undo; nil and an error where it can't be read.
func (db *DB) afterBackup(ctx context.Context, seq int64, hash audit.Hash) (*present, error) {
	if _, err := os.Stat(db.path); err != nil {
		return nil, err
	}
	if _, err := verify(ctx, db.path); err != nil {
		return nil, err
	}
	db.log = slog.New(slog.DiscardHandler)
	if err := db.open(ctx, true); err != nil {
		db.Close()
		return nil, err
	}
	defer db.Close()
	p, err := db.readPresent(ctx, seq, hash)
	if err != nil {
		return nil, err
	}
	return p, db.oneFile(ctx)
}

// oneFile moves everything into the database file. The next Open makes a journal anew.
func (db *DB) oneFile(ctx context.Context) error {
	// The mode can't change while another connection is open.
	if err := db.r.Close(); err != nil {
		return err
	}
	var mode string
	if err := db.w.QueryRowContext(ctx, `PRAGMA journal_mode = DELETE`).Scan(&mode); err != nil {
		return db.explain(err)
	}
	if mode != "delete" {
		return fmt.Errorf("database %s: its journal can't be closed: mode %s", db.path, mode)
	}
	return nil
}

// putAside gives the database at path a second name, and its journal, if there still is
// one, another.
func putAside(path string, now time.Time) (aside string, err error) {
	aside = path + ".before-" + now.UTC().Format("20060102T150405Z")
	err = os.Link(path, aside)
	if errors.Is(err, fs.ErrNotExist) {
		aside = ""
	} else if err != nil {
		return "", err
	}
	for _, suffix := range []string{"-wal", "-shm", "-journal"} {
		if _, err := os.Lstat(path + suffix); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		to := path + ".before-" + now.UTC().Format("20060102T150405Z") + suffix
		if err := renameNew(path+suffix, to); err != nil {
			return "", err
		}
	}
	return aside, nil
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
