package sql

import (
	"context"
	dbsql "database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func openTest(t testing.TB) *DB {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "postseal.db"))
}

func openAt(t testing.TB, path string) *DB {
	t.Helper()
	db, err := Open(context.Background(), "sqlite:"+path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func mustExec(t testing.TB, db *dbsql.DB, query string, args ...any) {
	t.Helper()
	if _, err := db.Exec(query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func one[T any](t testing.TB, db interface {
	QueryRow(string, ...any) *dbsql.Row
}, query string) (v T) {
	t.Helper()
	if err := db.QueryRow(query).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

func TestOpenMakesAPrivateDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "odd ?name#100%41.db")
	db := openAt(t, path)
	if err := db.Writable(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, path + "-wal", path + "-shm"} {
		fi, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode().Perm() != 0o600 {
			t.Errorf("mode of %s is %v, want 0600", filepath.Base(p), fi.Mode())
		}
	}
	if p, err := db.Pending(t.Context()); err != nil || p {
		t.Errorf("Pending() = %v, %v after Open", p, err)
	}
	if got := one[string](t, db.r, `PRAGMA integrity_check`); got != "ok" {
		t.Errorf("integrity check: %s", got)
	}
	if v := one[int64](t, db.r, `SELECT max(version_id) FROM goose_db_version`); v != latest() || v == 0 {
		t.Errorf("version %d, want %d", v, latest())
	}
}

func TestPragmasHoldOnEveryConnection(t *testing.T) {
	db := openTest(t)
	pools := map[string]*dbsql.DB{"writer": db.w, "reader": db.r}
	for name, pool := range pools {
		n := readers
		if pool == db.w {
			n = 1
		}
		for range n {
			// Held until the end, so that each one is another connection.
			c, err := pool.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for pragma, want := range map[string]string{
				"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1",
				"busy_timeout": "10000", "secure_delete": "1",
			} {
				var got string
				if err := c.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
					t.Errorf("%s: %s is %s (%v), want %s", name, pragma, got, err, want)
				}
			}
		}
	}
}

func TestReadersCannotWrite(t *testing.T) {
	db := openTest(t)
	if _, err := db.reader().Exec(`DELETE FROM meta`); err == nil {
		t.Error("the read pool wrote")
	}
}

func TestWriterLocksFromTheStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "postseal.db")
	a, b := openAt(t, path), openAt(t, path)
	inside, leave := make(chan bool), make(chan bool)
	go a.write(context.Background(), func(*dbsql.Tx) error { inside <- true; <-leave; return nil })
	<-inside
	mustExec(t, b.r, `PRAGMA busy_timeout`) // readers are not kept out
	one[int64](t, b.r, `SELECT count(*) FROM rule`)
	done := make(chan error)
	go func() { done <- b.Writable(context.Background()) }()
	select {
	case err := <-done:
		close(leave)
		t.Fatalf("a second process wrote beside the first (%v)", err)
	case <-time.After(100 * time.Millisecond):
	}
	close(leave)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestWriteRollsBack(t *testing.T) {
	db := openTest(t)
	background, stop := context.WithTimeout(t.Context(), time.Minute) // a stuck writer fails, and does not hang
	defer stop()
	insert := func(tx *dbsql.Tx) {
		if _, err := tx.Exec(`INSERT INTO meta VALUES ('x', 1)`); err != nil {
			t.Error(err)
		}
	}
	boom := errors.New("boom")
	if err := db.write(background, func(tx *dbsql.Tx) error { insert(tx); return boom }); !errors.Is(err, boom) {
		t.Errorf("error %v, want boom", err)
	}
	func() {
		defer func() { recover() }()
		db.write(background, func(tx *dbsql.Tx) error { insert(tx); panic("boom") })
	}()
	ctx, cancel := context.WithCancel(background)
	if err := db.write(ctx, func(tx *dbsql.Tx) error { insert(tx); cancel(); return nil }); err == nil {
		t.Error("committed although the context was done")
	}
	if n := one[int](t, db.r, `SELECT count(*) FROM meta WHERE name = 'x'`); n != 0 {
		t.Error("a failed transaction left something")
	}
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := db.Writable(ctx); err != nil {
		t.Fatalf("the writer is unusable after a panic: %v", err)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	junk := filepath.Join(dir, "junk.db")
	if err := os.WriteFile(junk, []byte(strings.Repeat("this is not a database\n", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	short := filepath.Join(dir, "short.db")
	if err := os.WriteFile(short, []byte("SQLite format 3\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(dir, "foreign.db")
	f, err := dbsql.Open("sqlite3", "file:"+foreign)
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, f, `CREATE TABLE bookmarks (url TEXT)`)
	f.Close()
	goosed := filepath.Join(dir, "goosed.db")
	if f, err = dbsql.Open("sqlite3", "file:"+goosed); err != nil {
		t.Fatal(err)
	}
	mustExec(t, f, `CREATE TABLE goose_db_version (version_id INTEGER); INSERT INTO goose_db_version VALUES (1)`)
	f.Close()

	tests := []struct{ name, dsn, want string }{
		{"PostgreSQL comes later", "postgres://u:hunter2@h/db", "not supported yet"},
		{"no scheme", "/var/lib/postseal.db", "want sqlite:PATH"},
		{"another scheme", "mysql:x", "want sqlite:PATH"},
		{"empty", "", "want sqlite:PATH"},
		{"no path", "sqlite:", "path of a file"},
		{"in memory", "sqlite::memory:", "path of a file"},
		{"no directory", "sqlite:" + dir + "/missing/x.db", "does not exist: create it"},
		{"a directory", "sqlite:" + dir, "not a regular file"},
		{"not a database", "sqlite:" + junk, "is not a database of Postseal"},
		{"a database cut short", "sqlite:" + short, "is not a database of Postseal"},
		{"another program's database", "sqlite:" + foreign, "of another program"},
		{"another program's migrations", "sqlite:" + goosed, "of another program"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := strings.TrimPrefix(tt.dsn, "sqlite:")
			before, _ := os.ReadFile(path)
			db, err := Open(t.Context(), tt.dsn, Options{})
			if err == nil {
				db.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q, want one with %q", err, tt.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error %q gives a password away", err)
			}
			if after, _ := os.ReadFile(path); string(after) != string(before) {
				t.Error("the file was changed")
			}
		})
	}
}

func TestDamagedDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "postseal.db")
	db, err := Open(t.Context(), "sqlite:"+path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := 100; i < len(b); i++ { // all but the file's header
		b[i] = 0xaa
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err = Open(t.Context(), "sqlite:"+path, Options{})
	if err == nil {
		db.Close()
		t.Fatal("opened")
	}
	if !strings.Contains(err.Error(), "is damaged; restore a backup") {
		t.Errorf("error %q", err)
	}
}

func TestNewerDatabaseIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "postseal.db")
	db, err := Open(t.Context(), "sqlite:"+path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, db.w, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`)
	db.Close()
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []Options{{}, {NoMigrate: true}} {
		db, err = Open(t.Context(), "sqlite:"+path, o)
		var newer *NewerError
		if err == nil {
			db.Close()
			t.Fatal("opened")
		}
		if !errors.As(err, &newer) || newer.Has != 9999 || newer.Knows != latest() || !strings.Contains(err.Error(), "restore a backup") {
			t.Errorf("error %v", err)
		}
	}
	if after, _ := os.ReadFile(path); string(after) != string(before) {
		t.Error("the newer database was changed")
	}
}

func TestMigrateByHand(t *testing.T) {
	dsn := "sqlite:" + filepath.Join(t.TempDir(), "postseal.db")
	db, err := Open(t.Context(), dsn, Options{NoMigrate: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if p, err := db.Pending(t.Context()); err != nil || !p {
		t.Errorf("Pending() = %v, %v before", p, err)
	}
	from, to, err := db.Migrate(t.Context())
	if err != nil || from != 0 || to != latest() {
		t.Errorf("Migrate() = %d, %d, %v", from, to, err)
	}
	from, to, err = db.Migrate(t.Context())
	if err != nil || from != to || to != latest() {
		t.Errorf("Migrate() again = %d, %d, %v", from, to, err)
	}
	if p, err := db.Pending(t.Context()); err != nil || p {
		t.Errorf("Pending() = %v, %v after", p, err)
	}
}

func TestDirectoryLockIsExclusive(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lockDir(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := lockDir(ctx, dir); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("locked twice: %v", err)
	}
	unlock()
	if unlock, err = lockDir(t.Context(), dir); err != nil {
		t.Fatalf("after the unlock: %v", err)
	}
	unlock()
}

func TestManyOpenAMissingDatabaseAtOnce(t *testing.T) {
	dsn := "sqlite:" + filepath.Join(t.TempDir(), "postseal.db")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			db, err := Open(t.Context(), dsn, Options{})
			if err != nil {
				t.Error(err)
				return
			}
			defer db.Close()
			if err := db.Writable(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func TestCheckpointEmptiesTheLog(t *testing.T) {
	db := openTest(t)
	mustExec(t, db.w, `INSERT INTO meta VALUES ('needle-in-the-log', 1)`)
	mustExec(t, db.w, `DELETE FROM meta WHERE name = 'needle-in-the-log'`)
	holds := func() bool {
		for _, suffix := range []string{"", "-wal"} {
			b, err := os.ReadFile(db.path + suffix)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(b), "needle-in-the-log") {
				return true
			}
		}
		return false
	}
	if !holds() {
		t.Fatal("the log never held it: the test tests nothing")
	}
	if done, err := db.Checkpoint(t.Context()); err != nil || !done {
		t.Fatal(err)
	}
	if holds() {
		t.Error("deleted content is still in the files")
	}
}
