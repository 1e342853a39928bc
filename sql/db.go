// Package sql keeps what must survive a restart: the administrator's rules, what
// is known of destinations, and the escrow. It is the only user of database/sql,
// and implements the interfaces that other packages define for themselves.
//
// On the way of a mail: every server answers from a [policy.Snapshot] made of
// [DB.Rules], and makes a new one when [DB.Watch] tells of a change, so that no
// answer waits for a query here. What the prober finds out comes in by
// [DB.SavePosture]; what can't go by TLS is sealed and stored in one
// transaction before its receipt is acknowledged.
//
// The database is SQLite, in WAL mode with synchronous=FULL: what was committed
// survives a crash of the machine. Queries keep to what PostgreSQL understands
// too, their parameters written as ? in order.
package sql

import (
	"context"
	dbsql "database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mattn/go-sqlite3"

	"github.com/postseal/postseal/escrow"
)

// readers is how many queries may read at a time, beside the one writer.
const readers = 8

// busyTimeout is how long a connection waits for another process's write.
const busyTimeout = 10 * time.Second

// Options of [Open]. The zero value is good.
type Options struct {
	// NoMigrate leaves a database from an older version as it is. Open then
	// succeeds, and Pending tells; only Migrate may be called.
	NoMigrate bool
	Logger    *slog.Logger     // nil: none
	Now       func() time.Time // nil: time.Now
}

// DB is an open database. Its methods may be called at the same time.
type DB struct {
	path string
	w    *dbsql.DB // the one connection that writes
	r    *dbsql.DB
	log  *slog.Logger
	now  func() time.Time

	packBroken atomic.Bool // the pack of the rules could not be used

	window int // for tests: how many rows a page of a list looks at; 0: as many as it says
}

// Path returns the file of a DSN, which is sqlite:PATH.
func Path(dsn string) (string, error) {
	kind, path, ok := strings.Cut(dsn, ":")
	switch {
	case ok && (kind == "postgres" || kind == "postgresql"):
		return "", errors.New("database: PostgreSQL is not supported yet: use sqlite:PATH")
	case !ok || kind != "sqlite":
		// Not echoed: it may hold a password.
		return "", errors.New("database: want sqlite:PATH, such as sqlite:/var/lib/postseal/postseal.db")
	case path == "" || path == ":memory:" || strings.ContainsAny(path, "\x00\n"):
		return "", errors.New("database: sqlite: wants the path of a file")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("database: %w", err)
	}
	return path, nil
}

// Open opens the database of dsn, sqlite:PATH. A missing file is created, mode
// 0600, in a directory that must exist; an older database is migrated. A newer
// one, a damaged one and a file that is none of ours are errors that say what to
// do, and are left as they are.
//
// Whoever runs as root calls [DropToOwner] first, lest files of root's remain
// that the service can't open.
func Open(ctx context.Context, dsn string, o Options) (*DB, error) {
	path, err := Path(dsn)
	if err != nil {
		return nil, err
	}
	db := &DB{path: path, log: o.Logger, now: o.Now}
	if db.log == nil {
		db.log = slog.New(slog.DiscardHandler)
	}
	if db.now == nil {
		db.now = time.Now
	}
	unlock, err := lockDir(ctx, filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	defer unlock()
	if err := create(path); err != nil {
		return nil, err
	}
	if err := db.inspect(ctx); err != nil {
		return nil, err
	}
	if err := db.open(ctx, o.NoMigrate); err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

func (db *DB) open(ctx context.Context, noMigrate bool) (err error) {
	if db.w, err = dbsql.Open("sqlite3", db.dsn("_txlock=immediate", "_journal_mode=WAL")); err != nil {
		return db.explain(err)
	}
	db.w.SetMaxOpenConns(1)
	if db.r, err = dbsql.Open("sqlite3", db.dsn("_query_only=on")); err != nil {
		return db.explain(err)
	}
	db.r.SetMaxOpenConns(readers)
	db.r.SetMaxIdleConns(readers)
	if err := db.w.PingContext(ctx); err != nil {
		return db.explain(err)
	}
	if noMigrate {
		return nil
	}
	from, to, err := db.migrate(ctx)
	if err != nil {
		return err
	}
	if from != to {
		db.log.Info("database migrated", "path", db.path, "from", from, "to", to)
	}
	return nil
}

// dsn returns the driver's name of the file. The pragmas are in it so that every
// connection of a pool gets them.
func (db *DB) dsn(more ...string) string {
	params := append([]string{
		"mode=rw", // never creates: see create
		"_synchronous=FULL",
		"_foreign_keys=on",
		"_secure_delete=on",
		fmt.Sprintf("_busy_timeout=%d", busyTimeout.Milliseconds()),
	}, more...)
	return "file:" + (&url.URL{Path: db.path}).EscapedPath() + "?" + strings.Join(params, "&")
}

// create makes an empty file where there is none, with the mode that SQLite then
// gives to its -wal and -shm too. An existing file is not opened: closing it
// would drop the locks that this process holds on it (fcntl(2)).
func create(path string) error {
	fi, err := os.Stat(path)
	switch {
	case err == nil && !fi.Mode().IsRegular():
		return fmt.Errorf("database %s: is not a regular file", path)
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("database: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("create the database: %w", err)
	}
	return f.Close()
}

// Close closes the database.
func (db *DB) Close() error {
	var errs []error
	for _, p := range []*dbsql.DB{db.r, db.w} {
		if p != nil {
			errs = append(errs, p.Close())
		}
	}
	return errors.Join(errs...)
}

// write runs fn in a transaction that may write, one at a time. It commits if fn
// returns nil; what it then returned nil for is on the disk. fn must use nothing
// but its transaction.
func (db *DB) write(ctx context.Context, fn func(tx *dbsql.Tx) error) error {
	tx, err := db.w.BeginTx(ctx, nil)
	if err != nil {
		return db.explain(err)
	}
	defer tx.Rollback() // after a panic too; nothing once it is committed
	if err := fn(tx); err != nil {
		return db.explain(err)
	}
	return db.explain(tx.Commit())
}

// reader returns the connections for queries. They can't write.
func (db *DB) reader() *dbsql.DB { return db.r }

// Writable proves, by a commit, that the database takes writes.
func (db *DB) Writable(ctx context.Context) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE meta SET value = ? WHERE name = 'heartbeat'`, db.now().UnixMicro())
		return err
	})
}

// checkpointPatience is how long Checkpoint waits for those who read an older state. So
// long nobody writes either.
const checkpointPatience = 250 * time.Millisecond

// Checkpoint moves what was committed from the write-ahead log to the database
// and empties the log, so that overwritten and deleted content is gone from
// there too. done is false where somebody still reads an older state, such as a backup:
// then it is to be called again.
func (db *DB) Checkpoint(ctx context.Context) (done bool, err error) {
	conn, err := db.w.Conn(ctx)
	if err != nil {
		return false, db.explain(err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, fmt.Sprintf(`PRAGMA busy_timeout = %d`, checkpointPatience.Milliseconds())); err != nil {
		return false, db.explain(err)
	}
	var busy, log, moved int
	err = conn.QueryRowContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &log, &moved)
	// Whatever came of it, the next one to write has its patience back.
	_, back := conn.ExecContext(context.WithoutCancel(ctx), fmt.Sprintf(`PRAGMA busy_timeout = %d`, busyTimeout.Milliseconds()))
	return err == nil && busy == 0, db.explain(errors.Join(err, back))
}

// explain adds to an error of SQLite which file it is about and what to do.
func (db *DB) explain(err error) error {
	var e sqlite3.Error
	if err == nil || !errors.As(err, &e) {
		return err
	}
	if e.ExtendedCode == sqlite3.ErrConstraintTrigger && strings.Contains(e.Error(), "key retired") { // 0006_keys.sql
		return fmt.Errorf("database %s: %w", db.path, escrow.ErrKeyRetired)
	}
	hint := ""
	switch e.Code {
	case sqlite3.ErrNotADB:
		hint = "is not a database of Postseal; name another file, or move this one away"
	case sqlite3.ErrCorrupt:
		hint = "is damaged; restore a backup"
	case sqlite3.ErrReadonly, sqlite3.ErrPerm, sqlite3.ErrCantOpen, sqlite3.ErrAuth:
		hint = "can't be opened for writing; check who owns it and its directory"
	case sqlite3.ErrFull:
		hint = "can't grow: the disk is full"
	case sqlite3.ErrBusy, sqlite3.ErrLocked:
		hint = "is in use by another process for too long"
	default:
		return fmt.Errorf("database %s: %w", db.path, err)
	}
	return fmt.Errorf("database %s %s: %w", db.path, hint, err)
}

// micros and fromMicros turn times into Unix microseconds and back; the zero
// time is NULL.
func micros(t time.Time) dbsql.NullInt64 {
	return dbsql.NullInt64{Int64: t.UnixMicro(), Valid: !t.IsZero()}
}

func fromMicros(n dbsql.NullInt64) time.Time {
	if !n.Valid {
		return time.Time{}
	}
	return time.UnixMicro(n.Int64).UTC()
}

// duration and fromDuration turn durations into microseconds and back; zero is NULL.
func duration(d time.Duration) dbsql.NullInt64 {
	return dbsql.NullInt64{Int64: d.Microseconds(), Valid: d != 0}
}

func fromDuration(n dbsql.NullInt64) time.Duration {
	return time.Duration(n.Int64) * time.Microsecond
}

// row is one row of an answer, or the only one.
type row interface{ Scan(...any) error }

// list reads all rows of a query.
func list[T any](ctx context.Context, db *DB, scan func(row) (*T, error), query string, args ...any) ([]T, error) {
	all, err := listIn(ctx, db.r, scan, query, args...)
	return all, db.explain(err)
}

// listIn does the same by q.
func listIn[T any](ctx context.Context, q querier, scan func(row) (*T, error), query string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		one, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, *one)
	}
	return all, rows.Err()
}
