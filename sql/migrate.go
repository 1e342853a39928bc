package sql

import (
	"context"
	dbsql "database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/sqlite/*.sql
var migrations embed.FS

// applicationID marks a file as ours (PRAGMA application_id); it is set by the
// first migration.
const applicationID = 0x5053656c // "PSel"

// NewerError reports a database written by a newer Postseal. It is left alone.
type NewerError struct {
	Path       string
	Has, Knows int64
}

func (e *NewerError) Error() string {
	return fmt.Sprintf("database %s has version %d, this postseal knows up to %d: install the newer postseal or restore a backup", e.Path, e.Has, e.Knows)
}

func sqliteMigrations() fs.FS {
	sub, err := fs.Sub(migrations, "migrations/sqlite")
	if err != nil {
		panic(err) // the name is a constant
	}
	return sub
}

// latest returns the number of the newest migration that this program has.
func latest() int64 {
	var last int64
	names, _ := fs.Glob(sqliteMigrations(), "*.sql")
	for _, name := range names {
		number, _, _ := strings.Cut(name, "_")
		if n, err := strconv.ParseInt(number, 10, 64); err == nil {
			last = max(last, n)
		}
	}
	return last
}

// inspect reads, changing nothing, whether the file is a database that this
// program may open: an empty one, or one of ours that is not newer.
func (db *DB) inspect(ctx context.Context) error {
	// No journal mode here, since setting it writes.
	look, err := dbsql.Open("sqlite3", db.dsn("_query_only=on"))
	if err != nil {
		return db.explain(err)
	}
	defer look.Close()
	has, err := db.version(ctx, look)
	if err != nil {
		return err
	}
	if knows := latest(); has > knows {
		return &NewerError{Path: db.path, Has: has, Knows: knows}
	}
	return nil
}

// version returns the number of the newest migration that the database has; 0
// for an empty one.
func (db *DB) version(ctx context.Context, q *dbsql.DB) (int64, error) {
	var tables, ours int
	err := q.QueryRowContext(ctx, `SELECT count(*), count(CASE WHEN name = ? THEN 1 END) FROM sqlite_master`, goose.DefaultTablename).Scan(&tables, &ours)
	if err != nil {
		return 0, db.explain(err)
	}
	if tables == 0 {
		return 0, nil
	}
	var id int64
	if err := q.QueryRowContext(ctx, `PRAGMA application_id`).Scan(&id); err != nil {
		return 0, db.explain(err)
	}
	var has int64
	if ours > 0 {
		if err := q.QueryRowContext(ctx, `SELECT coalesce(max(version_id), 0) FROM `+goose.DefaultTablename).Scan(&has); err != nil {
			return 0, db.explain(err)
		}
	}
	// Version 0 is one whose very first migration was cut short.
	if ours == 0 || has > 0 && id != applicationID {
		return 0, fmt.Errorf("database %s is of another program; name another file", db.path)
	}
	return has, nil
}

// Pending reports whether Migrate has something to do.
func (db *DB) Pending(ctx context.Context) (bool, error) {
	has, err := db.version(ctx, db.r)
	return has < latest(), err
}

// Migrate brings the database to the version of this program, each step a
// transaction. It returns the versions before and after.
func (db *DB) Migrate(ctx context.Context) (from, to int64, err error) {
	unlock, err := lockDir(ctx, filepath.Dir(db.path))
	if err != nil {
		return 0, 0, fmt.Errorf("database %s: %w", db.path, err)
	}
	defer unlock()
	return db.migrate(ctx)
}

func (db *DB) migrate(ctx context.Context) (from, to int64, err error) {
	if from, err = db.version(ctx, db.w); err != nil {
		return 0, 0, err
	}
	if knows := latest(); from > knows {
		return from, from, &NewerError{Path: db.path, Has: from, Knows: knows}
	} else if from == knows {
		return from, from, nil
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db.w, sqliteMigrations(),
		goose.WithDisableGlobalRegistry(true), goose.WithSlog(db.log))
	if err != nil {
		return from, from, fmt.Errorf("migrations: %w", err)
	}
	if _, err := p.Up(ctx); err != nil {
		return from, from, fmt.Errorf("migrate the database %s from version %d: %w", db.path, from, err)
	}
	if to, err = db.version(ctx, db.w); err != nil {
		return from, from, err
	}
	return from, to, nil
}

// lockDir keeps two processes from creating or migrating databases of one
// directory at the same time. The database itself can't be locked so: SQLite
// uses its locks.
func lockDir(ctx context.Context, dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("its directory %s does not exist: create it, owned by the user that postseal serves as", dir)
	case err != nil:
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		switch err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
		case err == nil:
			return func() { d.Close() }, nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			d.Close()
			return nil, fmt.Errorf("lock directory %s: %w", dir, err)
		}
		select {
		case <-ctx.Done():
			d.Close()
			return nil, fmt.Errorf("wait for another postseal that opens or migrates a database in %s: %w", dir, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
