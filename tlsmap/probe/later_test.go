package probe

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// slowStore stops in the middle of reading, until told to go on.
type slowStore struct {
	*memStore
	on   chan struct{}
	fail error
}

func (s *slowStore) LoadPostures(ctx context.Context, each func(Record) error) error {
	var all []Record
	s.memStore.LoadPostures(ctx, func(r Record) error { all = append(all, r); return nil })
	for i, r := range all {
		if i == len(all)/2 {
			select {
			case <-s.on:
			case <-ctx.Done():
				return ctx.Err()
			}
			if s.fail != nil {
				return s.fail
			}
		}
		if err := each(r); err != nil {
			return err
		}
	}
	return nil
}

// filled is a store that knows d0.example and so on; every third lost its TLS.
func filled(t *testing.T, s *sky, n int) *memStore {
	t.Helper()
	store := new(memStore)
	m := newManager(t, s, store, ManagerOptions{})
	look := func(i int, st policy.State) {
		t.Helper()
		d := fmt.Sprintf("d%d.example", i)
		s.set(d, st)
		if _, _, err := m.Look(t.Context(), d, anyTLS, 0); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		look(i, policy.Works)
	}
	time.Sleep(30 * time.Second) // what is published counts for longer
	for i := 0; i < n; i += 3 {
		look(i, policy.Absent)
	}
	return store
}

// TestQuestionsWhileTheStoreIsRead are answered as if all of it were in memory already.
func TestQuestionsWhileTheStoreIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 40
		s := new(sky)
		store := &slowStore{memStore: filled(t, s, n), on: make(chan struct{})}
		whole := newManager(t, s, store.memStore, ManagerOptions{})
		if err := whole.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		m := newManager(t, s, store, ManagerOptions{})
		m.discover = func(_ context.Context, dest string) *Result {
			t.Errorf("%s is looked up", dest)
			return &Result{Dest: dest}
		}
		m.LoadLater()
		stop := running(t, m)
		defer stop()
		synctest.Wait()
		if have := m.mem.len(); have == 0 || have >= n {
			t.Fatalf("%d destinations in memory: tests nothing", have)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if known, err := m.Known(short); err == nil {
			t.Errorf("not all is there, and %d are said to be all", len(known))
		}
		for i := range n - 10 {
			d := fmt.Sprintf("d%d.example", i)
			if got, want := m.Posture(d, anyTLS), whole.Posture(d, anyTLS); !samePosture(got, want) || want.State == policy.Unknown {
				t.Errorf("%s: %+v, want %+v", d, got, want)
			}
			if got := m.Published(t.Context(), d); got.DANE != policy.DANEOff {
				t.Errorf("%s publishes %+v", d, got)
			}
			m.STS(d)
		}
		if got := m.Posture("never.example", anyTLS); got.State != policy.Unknown {
			t.Errorf("of one that nobody knows: %+v", got)
		}
		// What a look finds meanwhile has its history, and stays.
		time.Sleep(time.Minute)
		var learned []policy.Posture
		for i := n - 10; i < n; i++ {
			d := fmt.Sprintf("d%d.example", i)
			s.set(d, policy.Broken)
			p, _, err := m.Look(t.Context(), d, anyTLS, 0)
			if err != nil || p.State != policy.Broken || p.Worked.IsZero() || p.Lost.IsZero() {
				t.Errorf("%s: %+v, %v", d, p, err)
			}
			learned = append(learned, p)
		}
		close(store.on)
		known, err := m.Known(t.Context())
		if err != nil || len(known) < n {
			t.Errorf("%d known, %v", len(known), err)
		}
		for i, want := range learned {
			d := fmt.Sprintf("d%d.example", n-10+i)
			if got := m.Posture(d, anyTLS); !samePosture(got, want) {
				t.Errorf("%s, when all is read: %+v, want %+v", d, got, want)
			}
		}
		for i := range n {
			e := m.mem.get(fmt.Sprintf("d%d.example", i))
			if e == nil || e.known.Load().checked == 0 {
				t.Errorf("d%d is not in memory", i)
				continue
			}
			if !e.planned() {
				t.Errorf("%s is never looked at again", e.dest())
			}
		}
	})
}

func TestAStoreThatCannotBeReadEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(sky)
		store := &slowStore{memStore: filled(t, s, 10), on: make(chan struct{}), fail: errFailed}
		m := newManager(t, s, store, ManagerOptions{})
		m.LoadLater()
		done := make(chan error)
		go func() { done <- m.Run(t.Context()) }()
		close(store.on)
		if err := <-done; !errors.Is(err, errFailed) {
			t.Errorf("Run ends with %v", err)
		}
	})
}

// An end in the middle of reading is no failure.
func TestEndWhileTheStoreIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(sky)
		store := &slowStore{memStore: filled(t, s, 10), on: make(chan struct{})}
		m := newManager(t, s, store, ManagerOptions{})
		m.LoadLater()
		stop := running(t, m)
		synctest.Wait()
		stop()
	})
}
