package sql

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

func watch(t *testing.T, db *DB) <-chan int64 {
	t.Helper()
	seen := make(chan int64, 100)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan bool)
	go func() {
		defer close(done)
		db.Watch(ctx, 10*time.Millisecond, func(v int64) { seen <- v })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return seen
}

// next waits long: timings fail no test. How soon it is in practice is logged.
func next(t *testing.T, seen <-chan int64, want int64) {
	t.Helper()
	start := time.Now()
	select {
	case v := <-seen:
		if v != want {
			t.Fatalf("version %d, want %d", v, want)
		}
		t.Logf("seen after %v", time.Since(start))
	case <-time.After(10 * time.Second):
		t.Fatalf("version %d was never seen", want)
	}
}

func none(t *testing.T, seen <-chan int64) {
	t.Helper()
	select {
	case v := <-seen:
		t.Fatalf("told of version %d though no rule changed", v)
	case <-time.After(100 * time.Millisecond):
	}
}

func TestWatch(t *testing.T) {
	db := openTest(t)
	seen := watch(t, db)
	next(t, seen, 0)
	none(t, seen)

	add := func(db *DB, n int) {
		t.Helper()
		if err := db.AddRule(t.Context(), recipient(fmt.Sprintf("d%d.example", n), policy.ForcedTLS), plus); err != nil {
			t.Fatal(err)
		}
	}
	add(db, 1) // by itself
	next(t, seen, 1)
	other := openAt(t, db.path)
	add(other, 2)
	next(t, seen, 2)
	script(t, db.path, "add", "d3.example") // another process
	next(t, seen, 3)

	if err := other.Writable(t.Context()); err != nil { // a write, but not of rules
		t.Fatal(err)
	}
	none(t, seen)
}

func TestWatchSurvivesTrouble(t *testing.T) {
	db := openTest(t)
	seen := watch(t, db)
	next(t, seen, 0)
	mustExec(t, db.w, `ALTER TABLE meta RENAME TO gone`)
	time.Sleep(50 * time.Millisecond)
	mustExec(t, db.w, `UPDATE gone SET value = 7 WHERE name = 'rules_version'`)
	none(t, seen)
	mustExec(t, db.w, `ALTER TABLE gone RENAME TO meta`)
	next(t, seen, 7)
}
