package probe

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// crowded has memory full of others, so that x.example has to go.
func crowded(t *testing.T, m *Manager) {
	t.Helper()
	for i := 0; m.mem.get("x.example") != nil; i++ {
		if i > 100_000 {
			t.Fatal("never evicted")
		}
		m.mem.add(fmt.Sprintf("d%d.example", i), time.Now().Add(time.Hour))
	}
}

// TestHistorySurvivesEviction: a destination that had to go from memory, or for which there
// was no room at a start, loses its TLS as it would have in memory: with a grace period and
// an alarm, whether its record is saved yet or not.
func TestHistorySurvivesEviction(t *testing.T) {
	verify := policy.TLSParams{Level: policy.LevelVerify}
	for _, tt := range []struct {
		name  string
		saved bool
		again func(t *testing.T, s *sky, store Store, m *Manager) *Manager
	}{
		{"evicted", true, func(t *testing.T, s *sky, store Store, m *Manager) *Manager { crowded(t, m); return m }},
		{"evicted before it was saved", false, func(t *testing.T, s *sky, store Store, m *Manager) *Manager { crowded(t, m); return m }},
		{"no room at the start", true, func(t *testing.T, s *sky, store Store, _ *Manager) *Manager {
			m := newManager(t, s, store, ManagerOptions{MaxEntries: 64})
			for i := range 100 {
				m.mem.add(fmt.Sprintf("d%d.example", i), time.Now())
			}
			m.o.MaxEntries = m.mem.len()
			if err := m.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
			if m.mem.get("x.example") != nil {
				t.Fatal("there was room")
			}
			return m
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, store := new(sky), new(memStore)
				m := newManager(t, s, store, ManagerOptions{MaxEntries: 64})
				stop := func() {}
				if !tt.saved {
					stop = running(t, m)
				}
				defer func() { stop() }()
				look := func(d policy.TLSParams) policy.Posture {
					t.Helper()
					p, _, err := m.Look(t.Context(), "x.example", d, 0)
					if err != nil {
						t.Fatal(err)
					}
					return p
				}
				s.set("x.example", policy.Works)
				look(anyTLS)
				began := time.Now()
				time.Sleep(10 * 24 * time.Hour)
				if !tt.saved {
					store.mu.Lock()
					store.err = errFailed
					store.mu.Unlock()
				}
				look(anyTLS)
				worked := time.Now()
				time.Sleep(time.Second)

				m = tt.again(t, s, store, m)
				s.set("x.example", policy.Absent)
				m.Posture("x.example", verify) // a demand noted before the look
				p := look(anyTLS)
				if p.State != policy.Absent || !p.Since.Equal(began) || !p.Worked.Equal(worked) || !p.Lost.Equal(time.Now()) {
					t.Errorf("posture %+v", p)
				}
				if p.Alarmed.IsZero() {
					t.Error("no alarm")
				}
				if _, noted := m.mem.get("x.example").known.Load().fresh("x.example", verify, testFloor); !noted {
					t.Error("the demand is not noted any more")
				}
				store.mu.Lock()
				store.err = nil
				store.mu.Unlock()
				time.Sleep(time.Minute)
				if r := store.get("x.example"); r.State != policy.Absent || !r.Worked.Equal(worked) || r.Lost.IsZero() || !r.Since.Equal(began) {
					t.Errorf("saved %+v", r)
				}
				if !slices.ContainsFunc(store.events, func(e Event) bool { return e.Kind == TLSLost && e.Alarm }) {
					t.Errorf("events %v", store.events)
				}
			})
		})
	}
}

// TestAnUnreadHistoryIsNotOverwritten: where the record can't be read a look does not
// count. The destination is unknown, as if nobody had looked, until it can.
func TestAnUnreadHistoryIsNotOverwritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, store := new(sky), new(memStore)
		m := newManager(t, s, store, ManagerOptions{MaxEntries: 64})
		defer running(t, m)()
		s.set("x.example", policy.Works)
		m.Look(t.Context(), "x.example", anyTLS, 0)
		time.Sleep(time.Minute)
		before := store.get("x.example")
		crowded(t, m)
		s.set("x.example", policy.Absent)
		store.mu.Lock()
		store.unread = errors.New("disk")
		store.mu.Unlock()
		p, r, err := m.Look(t.Context(), "x.example", anyTLS, 0)
		if err != nil || r == nil || p.State != policy.Unknown {
			t.Errorf("unread: %+v, %v, %v", p, r, err)
		}
		n := s.count("x.example")
		for range 100 {
			m.Posture("x.example", anyTLS)
		}
		synctest.Wait()
		if got := s.count("x.example"); got != n {
			t.Errorf("%d looks more at once", got-n)
		}
		time.Sleep(3 * time.Second)
		if got := store.get("x.example"); !got.Checked.Equal(before.Checked) || got.State != policy.Works {
			t.Errorf("overwritten: %+v", got)
		}
		store.mu.Lock()
		store.unread = nil
		store.mu.Unlock()
		time.Sleep(2 * time.Minute) // nobody asks
		if p := m.Posture("x.example", anyTLS); p.State != policy.Absent || !p.Worked.Equal(before.Worked) || p.Lost.IsZero() {
			t.Errorf("read: %+v", p)
		}
	})
}
