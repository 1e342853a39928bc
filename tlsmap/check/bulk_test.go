package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// kept collects rows.
type kept struct {
	asked   []string
	flushed int
	mu      sync.Mutex
	after   func(n int) error // called at each row
}

func (k *kept) Write(r *Row) error {
	k.mu.Lock()
	k.asked = append(k.asked, r.Asked)
	k.mu.Unlock()
	if k.after != nil {
		return k.after(len(k.asked))
	}
	return nil
}

func (k *kept) Flush() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.flushed = len(k.asked)
	return nil
}

// done returns how many rows were flushed, while more are written.
func (k *kept) done() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.flushed
}

// numbered is a list of n domains that is never whole in memory.
func numbered(n int) io.Reader {
	r, w := io.Pipe()
	go func() {
		for i := range n {
			if _, err := fmt.Fprintf(w, "d%d.example\n", i); err != nil {
				return
			}
		}
		w.Close()
	}()
	return r
}

func inOrder(t *testing.T, asked []string) {
	t.Helper()
	for i, a := range asked {
		if want := fmt.Sprintf("d%d.example", i); a != want {
			t.Fatalf("row %d is for %s, want %s", i, a, want)
		}
	}
}

func rowFor(asked string) *Row { return &Row{Asked: asked, Class: "tls", State: "works"} }

// TestBulkKeepsOrder: however long each takes, the rows come in the order of the
// list, no more looks than allowed go on at a time, and a panic is a row.
func TestBulkKeepsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int64
		b := &Bulk{Parallel: 8, Window: 50, Look: func(_ context.Context, asked string) *Row {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			defer now.Add(-1)
			time.Sleep(rand.N(time.Second))
			if asked == "d77.example" {
				panic("odd")
			}
			return rowFor(asked)
		}}
		out := new(kept)
		if err := b.Run(t.Context(), NewLines(numbered(1000)), out); err != nil {
			t.Fatal(err)
		}
		inOrder(t, out.asked)
		if len(out.asked) != 1000 || out.flushed != 1000 || b.Looked() != 1000 {
			t.Errorf("%d rows, %d flushed, %d looked at, want 1000", len(out.asked), out.flushed, b.Looked())
		}
		if most.Load() != 8 {
			t.Errorf("%d at a time, want 8", most.Load())
		}
	})
}

// TestBulkGoesOnByOne: a row is written and flushed when it is there, while a later
// one takes its time.
func TestBulkGoesOnByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Bulk{Parallel: 4, Look: func(_ context.Context, asked string) *Row {
			if asked == "d5.example" {
				time.Sleep(time.Hour)
			}
			return rowFor(asked)
		}}
		out := new(kept)
		go b.Run(t.Context(), NewLines(numbered(10)), out)
		time.Sleep(time.Minute)
		synctest.Wait()
		if out.done() != 5 || b.Looked() != 9 {
			t.Errorf("%d rows flushed, %d looked at; want 5 and 9", out.done(), b.Looked())
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if out.done() != 10 {
			t.Errorf("%d rows flushed at the end", out.done())
		}
	})
}

// TestBulkIsBounded: a hundred thousand domains of which the first never answers
// hold up no more than the window, and take no memory worth naming.
func TestBulkIsBounded(t *testing.T) {
	const all, window, parallel = 100_000, 1000, 16
	stuck, release := make(chan struct{}), make(chan struct{})
	b := &Bulk{Parallel: parallel, Window: window, Look: func(_ context.Context, asked string) *Row {
		if asked == "d0.example" {
			close(stuck)
			<-release
		}
		r := rowFor(asked)
		r.Reason = strings.Repeat("x", 1000) // 100 MB in all, were they all kept
		return r
	}}
	var mem runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&mem)
	before, high, n := mem.HeapAlloc, uint64(0), 0
	out := writeFunc(func(r *Row) error {
		if want := fmt.Sprintf("d%d.example", n); r.Asked != want {
			return fmt.Errorf("row %d is for %s", n, r.Asked)
		}
		if n++; n%5000 == 0 {
			runtime.GC()
			runtime.ReadMemStats(&mem)
			high = max(high, mem.HeapAlloc)
		}
		return nil
	})
	ended := make(chan error)
	go func() { ended <- b.Run(t.Context(), NewLines(numbered(all)), out) }()
	<-stuck
	for last := int64(-1); last != b.Looked(); time.Sleep(200 * time.Millisecond) {
		last = b.Looked()
	}
	if n := b.Looked(); n < window/2 || n > window+parallel {
		t.Errorf("%d looked at while the first was stuck, want about %d", n, window)
	}
	close(release)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if n != all {
		t.Errorf("%d rows", n)
	}
	if grown := int64(high) - int64(before); grown > 10<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
}

type writeFunc func(*Row) error

func (f writeFunc) Write(r *Row) error { return f(r) }
func (writeFunc) Flush() error         { return nil }

// TestBulkInterrupted: what was finished before the interruption is written, in
// order and without gaps; what was not is not, and a list that blocks holds nobody.
func TestBulkInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		b := &Bulk{Parallel: 3, Look: func(ctx context.Context, asked string) *Row {
			if asked == "d4.example" {
				<-ctx.Done() // half of a look
			}
			return rowFor(asked)
		}}
		out := new(kept)
		r, w := io.Pipe() // never ends
		go func() {
			for i := range 9 {
				fmt.Fprintf(w, "d%d.example\n", i)
			}
		}()
		ended := make(chan error)
		go func() { ended <- b.Run(ctx, NewLines(r), out) }()
		time.Sleep(time.Second)
		synctest.Wait()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		inOrder(t, out.asked)
		if len(out.asked) != 4 || out.flushed != 4 {
			t.Errorf("%d rows, %d flushed, want the 4 before the unfinished one", len(out.asked), out.flushed)
		}
		w.Close()
	})
}

// TestBulkFails: a full disk and a list that can't be read end the run with their
// error.
func TestBulkFails(t *testing.T) {
	b := &Bulk{Look: func(_ context.Context, asked string) *Row { return rowFor(asked) }}
	full := errors.New("disk full")
	out := &kept{after: func(n int) error {
		if n == 20 {
			return full
		}
		return nil
	}}
	if err := b.Run(t.Context(), NewLines(numbered(1000)), out); !errors.Is(err, full) || len(out.asked) != 20 {
		t.Errorf("%v after %d rows", err, len(out.asked))
	}
	bad := errors.New("unreadable")
	in := NewLines(io.MultiReader(numbered(3), errReader{bad}))
	if err := b.Run(t.Context(), in, new(kept)); !errors.Is(err, bad) {
		t.Errorf("%v, want that of the list", err)
	}
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }
