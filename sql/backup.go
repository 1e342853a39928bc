package sql

import (
	"context"
	dbsql "database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postseal/postseal/internal/audit"
)

// Backup writes what is committed when it begins to a new file, while other processes
// go on writing, and returns its version. The file appears whole, checked and on the
// disk, mode 0600, or not at all; one that exists is never replaced. It holds no journal
// and no pages of what was deleted.
//
// The database is one that exists, of this version or an older one: it is not migrated.
func Backup(ctx context.Context, dsn, file string) (version int64, err error) {
	path, err := Path(dsn)
	if err != nil {
		return 0, err
	}
	if _, err := os.Stat(path); err != nil {
		return 0, fmt.Errorf("database: %w", err)
	}
	if _, err := os.Lstat(file); err == nil {
		return 0, fmt.Errorf("backup %s: %w; name another file", file, fs.ErrExist)
	}
	db, err := Open(ctx, dsn, Options{NoMigrate: true})
	if err != nil {
		return 0, err
	}
	defer db.Close()
	if version, err = db.version(ctx, db.r); err != nil {
		return 0, err
	}
	if version == 0 {
		return 0, fmt.Errorf("database %s: is empty", path)
	}
	tidyBackups(filepath.Dir(file))
	part, err := os.CreateTemp(filepath.Dir(file), backupPart) // mode 0600
	if err != nil {
		return 0, fmt.Errorf("backup: want a directory that the user whose the database is can write to: %w", err)
	}
	defer removeDatabase(part.Name())
	defer part.Close()
	if err := unix.Flock(int(part.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil && !errors.Is(err, unix.ENOLCK) && !errors.Is(err, unix.EOPNOTSUPP) {
		return 0, fmt.Errorf("backup: %w", err)
	}
	if err := db.copyInto(ctx, part.Name()); err != nil {
		return 0, fmt.Errorf("backup %s: %w", file, err)
	}
	if err := part.Sync(); err != nil {
		return 0, fmt.Errorf("backup: %w", err)
	}
	has, err := verify(ctx, part.Name())
	if err != nil {
		return 0, fmt.Errorf("backup: %w", err)
	}
	if has != version {
		return 0, fmt.Errorf("backup of %s: has version %d, want %d", path, has, version)
	}
	if version == latest() { // an older one may have no log yet
		if err := db.Audit(ctx, audit.Entry{Kind: audit.BackedUp, Details: audit.Details{"file": file}}); err != nil {
			return 0, fmt.Errorf("backup: %w", err)
		}
	}
	if err := renameNew(part.Name(), file); err != nil {
		return 0, fmt.Errorf("backup %s: %w", file, err)
	}
	return version, syncDir(filepath.Dir(file))
}

// backupPart names the files that are to become backups.
const backupPart = ".postseal-backup-*"

// tidyBackups deletes what backups that were killed have left in a directory: each may hold
// a whole database. One that is being written is locked, or was made just now.
func tidyBackups(dir string) {
	left, _ := filepath.Glob(filepath.Join(dir, backupPart))
	for _, name := range left {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		fi, err := f.Stat()
		if err == nil && time.Since(fi.ModTime()) > time.Minute && unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			removeDatabase(name)
		}
		f.Close()
	}
}

// copyInto writes a consistent copy of the database to an empty file. SQLite reads all
// of it within one read transaction, which in WAL mode keeps no writer out.
func (db *DB) copyInto(ctx context.Context, file string) error {
	// Not a connection for queries: query_only forbids VACUUM.
	pool, err := dbsql.Open("sqlite3", db.dsn())
	if err != nil {
		return err
	}
	defer pool.Close()
	_, err = pool.ExecContext(ctx, `VACUUM INTO ?`, file)
	return db.explain(err)
}

// verify checks a file that nobody else uses: that it is a database of ours which this
// program knows, and whole. It returns its version.
func verify(ctx context.Context, path string) (version int64, err error) {
	db := &DB{path: path}
	if err := db.inspect(ctx); err != nil {
		return 0, err
	}
	look, err := dbsql.Open("sqlite3", db.dsn())
	if err != nil {
		return 0, db.explain(err)
	}
	defer look.Close()
	if version, err = db.version(ctx, look); err != nil {
		return 0, err
	}
	if version == 0 {
		return 0, fmt.Errorf("%s is empty: no database of Postseal", path)
	}
	var found string
	if err := look.QueryRowContext(ctx, `PRAGMA integrity_check(1)`).Scan(&found); err != nil {
		return 0, db.explain(err)
	}
	if found != "ok" {
		return 0, fmt.Errorf("%s is damaged: %s", path, found)
	}
	var orphan string
	switch err := look.QueryRowContext(ctx, `SELECT "table" FROM pragma_foreign_key_check LIMIT 1`).Scan(&orphan); {
	case err == nil:
		return 0, fmt.Errorf("%s is damaged: table %s refers to rows that are not there", path, orphan)
	case !errors.Is(err, dbsql.ErrNoRows):
		return 0, db.explain(err)
	}
	return version, nil
}

// renameNew renames a file; where the new name exists that is an error that wraps
// fs.ErrExist.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // a file system without it
		if err = os.Link(from, to); err == nil {
			err = os.Remove(from)
		}
	}
	return err
}

func removeDatabase(path string) {
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		os.Remove(path + suffix)
	}
}

// syncDir puts the names of a directory's files on the disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
