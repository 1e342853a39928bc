package sql

import (
	"context"
	dbsql "database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/audit"
)

var _ escrow.RecoverySource = (*BackupFile)(nil)

// AddRecoveryKey keeps the public half of a new recovery key.
func (db *DB) AddRecoveryKey(ctx context.Context, r escrow.RecoveryKey) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO recovery_key (id, public, tag, note, created_at) VALUES (?, ?, ?, ?, ?)`,
			r.ID, r.Public, r.Tag, r.Note, micros(r.Created))
		if err != nil {
			return err
		}
		return auditKey(ctx, tx, r.Created, audit.Details{"what": "recovery key made", "key": r.ID, "note": r.Note})
	})
}

// RetireRecoveryKey ends that new messages are wrapped for a recovery key. Those that
// are keep their wraps. ok is false where there is no such key that was not retired.
func (db *DB) RetireRecoveryKey(ctx context.Context, id string, now time.Time) (ok bool, err error) {
	err = db.write(ctx, func(tx *dbsql.Tx) error {
		n, err := affected(tx.ExecContext(ctx, `UPDATE recovery_key SET retired_at = ? WHERE id = ? AND retired_at IS NULL`, micros(now), id))
		if ok = n > 0; err != nil || !ok {
			return err
		}
		return auditKey(ctx, tx, now, audit.Details{"what": "recovery key retired", "key": id})
	})
	return ok, err
}

// RecoveryKeys lists the recovery keys, the oldest first.
func (db *DB) RecoveryKeys(ctx context.Context) ([]escrow.RecoveryKey, error) {
	return list(ctx, db, func(row row) (*escrow.RecoveryKey, error) {
		var r escrow.RecoveryKey
		var created, retired dbsql.NullInt64
		if err := row.Scan(&r.ID, &r.Public, &r.Tag, &r.Note, &created, &retired); err != nil {
			return nil, err
		}
		r.Created, r.Retired = fromMicros(created), fromMicros(retired)
		return &r, nil
	}, `SELECT id, public, tag, note, created_at, retired_at FROM recovery_key ORDER BY created_at, id`)
}

// CountRecovery counts the messages that each recovery key opens now.
func (db *DB) CountRecovery(ctx context.Context) (map[string]int, error) {
	rows, err := db.r.QueryContext(ctx, `SELECT key_id, count(*) FROM escrow_recovery GROUP BY key_id`)
	if err != nil {
		return nil, db.explain(err)
	}
	defer rows.Close()
	counts := make(map[string]int)
	for rows.Next() {
		var id string
		var n int
		if err := rows.Scan(&id, &n); err != nil {
			return nil, db.explain(err)
		}
		counts[id] = n
	}
	return counts, db.explain(rows.Err())
}

// BackupFile is a database that is only read: a backup, on any machine, of any version that
// has recovery keys.
type BackupFile struct{ db *DB }

// firstWithRecovery is the migration that brought recovery keys.
const firstWithRecovery = 6

// OpenBackup opens the database of dsn to read it. Nothing of it is changed; where its
// directory can't be written it must not be in use.
func OpenBackup(ctx context.Context, dsn string) (*BackupFile, error) {
	path, err := Path(dsn)
	if err != nil {
		return nil, err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("database %s: is not a regular file", path)
	}
	name := "file:" + (&url.URL{Path: path}).EscapedPath() + "?mode=ro&_query_only=on&_busy_timeout=10000"
	if _, err := os.Stat(path + "-wal"); errors.Is(err, os.ErrNotExist) && !canWrite(path) {
		// SQLite would want to make files beside it.
		name += "&immutable=1"
	}
	db := &DB{path: path, now: time.Now}
	if db.r, err = dbsql.Open("sqlite3", name); err != nil {
		return nil, db.explain(err)
	}
	has, err := db.version(ctx, db.r)
	if err == nil && has < firstWithRecovery {
		err = fmt.Errorf("database %s has version %d, from before there were recovery keys", path, has)
	}
	if err != nil {
		db.Close()
		return nil, err
	}
	return &BackupFile{db}, nil
}

// canWrite reports whether files can be made beside path.
func canWrite(path string) bool {
	f, err := os.CreateTemp(filepath.Dir(path), ".postseal-*")
	if err != nil {
		return false
	}
	f.Close()
	return os.Remove(f.Name()) == nil
}

// Close closes the database.
func (b *BackupFile) Close() error { return b.db.Close() }

// RecoveryWraps returns an item's wraps for recovery; see [escrow.RecoverySource].
func (b *BackupFile) RecoveryWraps(ctx context.Context, item string) (wraps []escrow.RecoveryWrap, size int64, err error) {
	err = b.db.r.QueryRowContext(ctx, `SELECT size FROM escrow_item WHERE id = ?`, item).Scan(&size)
	if errors.Is(err, dbsql.ErrNoRows) {
		return nil, 0, escrow.ErrUnknown
	} else if err != nil {
		return nil, 0, b.db.explain(err)
	}
	wraps, err = list(ctx, b.db, func(row row) (*escrow.RecoveryWrap, error) {
		var r escrow.RecoveryWrap
		return &r, row.Scan(&r.Key, &r.Wrap)
	}, `SELECT key_id, wrap FROM escrow_recovery WHERE item_id = ? ORDER BY key_id`, item)
	return wraps, size, err
}

// Chunk returns a chunk of an item's ciphertext, as [DB.Chunk] does.
func (b *BackupFile) Chunk(ctx context.Context, item string, n int, buf []byte) ([]byte, error) {
	return b.db.Chunk(ctx, item, n, buf)
}

// ReadOnlyError reports a database that can't be written.
type ReadOnlyError struct {
	Path string
	Err  error
}

func (e *ReadOnlyError) Error() string { return fmt.Sprintf("%s can't be written: %v", e.Path, e.Err) }
func (e *ReadOnlyError) Unwrap() error { return e.Err }

// NoteRecovery appends to the audit log of a database that an item of it is about to be
// opened with a recovery key. A *ReadOnlyError says that the database can't take that,
// such as a backup of another version; it is left as it is.
func NoteRecovery(ctx context.Context, dsn, item, key string) error {
	path, err := Path(dsn)
	if err != nil {
		return err
	}
	// Open would make a missing one, and migrate an older one.
	b, err := OpenBackup(ctx, dsn)
	if err != nil {
		return err
	}
	has, err := b.db.version(ctx, b.db.r)
	b.Close()
	if err != nil {
		return err
	}
	if has != latest() {
		return &ReadOnlyError{path, fmt.Errorf("it has version %d, this postseal has %d", has, latest())}
	}
	// Not by opening it: closing it then would drop the locks that this process holds on it.
	if err := unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS); err != nil {
		return &ReadOnlyError{path, err}
	}
	if !canWrite(path) {
		return &ReadOnlyError{path, errors.New("its directory can't")}
	}
	db, err := Open(ctx, dsn, Options{NoMigrate: true})
	if err != nil {
		return &ReadOnlyError{path, err}
	}
	defer db.Close()
	err = db.write(ctx, func(tx *dbsql.Tx) error {
		var e audit.Entry
		err := tx.QueryRowContext(ctx, `SELECT id, sender_key FROM escrow_item WHERE id = ?`, item).Scan(&e.Item, &e.Sender)
		if errors.Is(err, dbsql.ErrNoRows) {
			return escrow.ErrUnknown
		} else if err != nil {
			return err
		}
		e.Kind, e.Details = audit.Recovered, audit.Details{"key": key}
		return appendAudit(ctx, tx, db.now(), e)
	})
	if err != nil && !errors.Is(err, escrow.ErrUnknown) {
		return &ReadOnlyError{path, err}
	}
	return err
}
