package probe

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postseal/postseal/internal/lab/fakesmtp"
	"github.com/postseal/postseal/policyd/policy"
)

// memStore is a Store in memory.
type memStore struct {
	mu     sync.Mutex
	m      map[string]Record
	events []Event
	saves  int
	err    error // of writing
	unread error // of reading one
}

func (s *memStore) LoadPostures(_ context.Context, each func(Record) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.m {
		if err := each(r); err != nil {
			return err
		}
	}
	return nil
}

func (s *memStore) LoadPosture(_ context.Context, dest string) (Record, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.m[dest]
	return r, ok, s.unread
}

func (s *memStore) SavePosture(ctx context.Context, r Record) error {
	return s.SavePostures(ctx, []Record{r})
}

func (s *memStore) SavePostures(_ context.Context, rs []Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.saves++
	if s.err != nil {
		return s.err
	}
	if s.m == nil {
		s.m = make(map[string]Record)
	}
	for _, r := range rs {
		s.events = append(s.events, r.Events...)
		r.Events = nil
		s.m[r.Dest] = r
	}
	return nil
}

func (s *memStore) DeleteEvents(context.Context, time.Time, int) error { return nil }

func (s *memStore) DeletePostures(_ context.Context, before time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for d, r := range s.m {
		if r.Checked.Before(before) {
			delete(s.m, d)
		}
	}
	return nil
}

func (s *memStore) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.m)
}

func (s *memStore) get(dest string) Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m[dest]
}

// sky is what a fake prober finds.
type sky struct {
	mu    sync.Mutex
	state map[string]policy.State // Unknown by default
	cert  *Certificate
	ttl   int
	looks map[string][]time.Time
	takes time.Duration
}

func (s *sky) set(dest string, st policy.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == nil {
		s.state = make(map[string]policy.State)
	}
	s.state[dest] = st
}

func (s *sky) times(dest string) []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.looks[dest])
}

func (s *sky) count(dest string) int { return len(s.times(dest)) }

func (s *sky) look(ctx context.Context, dest string, _ time.Duration) *Result {
	s.mu.Lock()
	if s.looks == nil {
		s.looks = make(map[string][]time.Time)
	}
	s.looks[dest] = append(s.looks[dest], time.Now())
	st, ttl, takes, cert := s.state[dest], s.ttl, s.takes, s.cert
	s.mu.Unlock()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return &Result{Dest: dest, MX: []MXResult{}}
	}
	r := &Result{Dest: dest, Domain: dest, State: st, TTL: ttl, MX: []MXResult{}, Checked: time.Now(), DANE: policy.DANEOff, STS: &STSResult{State: policy.STSOff}}
	if st != policy.NoMail && st != policy.Unknown {
		a := AddressResult{Addr: netip.MustParseAddr("192.0.2.1"), State: st}
		if st == policy.Works {
			a.TLS, a.Version, a.Cert = true, "TLSv1.3", cert
		}
		r.MX = append(r.MX, MXResult{Host: "mx." + dest, Addresses: []AddressResult{a}})
	}
	return r
}

func newManager(t *testing.T, s *sky, store Store, o ManagerOptions) *Manager {
	t.Helper()
	r, err := NewResolver([]string{"192.0.2.53:53"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewProber(Options{Resolver: r})
	if err != nil {
		t.Fatal(err)
	}
	m := NewManager(p, store, o)
	m.look = s.look
	return m
}

// running runs m until the end of the test or a call of what it returns.
func running(t *testing.T, m *Manager) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := m.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	return sync.OnceFunc(func() {
		cancel()
		<-done
	})
}

var anyTLS = policy.TLSParams{Level: policy.LevelEncrypt}

func TestPosture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(sky)
		s.set("d.example", policy.Works)
		m := newManager(t, s, nil, ManagerOptions{})
		defer running(t, m)()
		if p := m.Posture("D.Example.", anyTLS); !samePosture(p, policy.Posture{}) {
			t.Errorf("at first: %+v", p)
		}
		synctest.Wait()
		start := time.Now()
		if p := m.Posture("d.example", anyTLS); p.State != policy.Works || !p.Checked.Equal(start) || !p.Worked.Equal(start) || !p.Lost.IsZero() {
			t.Errorf("after the look: %+v", p)
		}
		for range 100 {
			m.Posture("d.example", anyTLS)
		}
		synctest.Wait()
		if n := s.count("d.example"); n != 1 {
			t.Errorf("%d looks, want 1", n)
		}
	})
}

// TestHistory: when TLS worked and when it was lost, over everything that can be
// found in between.
func TestHistory(t *testing.T) {
	const (
		u = policy.Unknown
		w = policy.Works
		a = policy.Absent
		b = policy.Broken
		r = policy.Unreachable
		n = policy.NoMail
	)
	tests := []struct {
		name         string
		found        []policy.State // a minute apart
		worked, lost int            // minutes; -1 for never
	}{
		{"never worked", []policy.State{a, b, a}, -1, -1},
		{"works", []policy.State{a, w, w}, 2, -1},
		{"lost", []policy.State{w, w, a}, 1, 2},
		{"the first time counts", []policy.State{w, a, b, a}, 0, 1},
		{"not reaching it changes nothing", []policy.State{w, a, r, u, n, a}, 0, 1},
		{"not reaching it is no loss", []policy.State{w, r, u, n}, 0, -1},
		{"not reaching it does not begin a loss later", []policy.State{w, r, a}, 0, 2},
		{"back again", []policy.State{w, a, r, w}, 3, -1},
		{"lost again", []policy.State{w, a, w, b}, 2, 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, store := new(sky), new(memStore)
				start := time.Now()
				m := newManager(t, s, store, ManagerOptions{})
				var got policy.Posture
				for i, st := range tt.found {
					if i > 0 {
						time.Sleep(time.Minute)
					}
					s.set("d.example", st)
					var err error
					if got, _, err = m.Look(t.Context(), "d.example", anyTLS, 0); err != nil {
						t.Fatal(err)
					}
					if i == 1 { // a restart loses nothing
						m = newManager(t, s, store, ManagerOptions{})
						if err := m.Load(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
				}
				at := func(minutes int) time.Time {
					if minutes < 0 {
						return time.Time{}
					}
					return start.Add(time.Duration(minutes) * time.Minute)
				}
				want := policy.Posture{State: tt.found[len(tt.found)-1], Checked: at(len(tt.found) - 1), Worked: at(tt.worked), Lost: at(tt.lost)}
				if !samePosture(got, want) {
					t.Errorf("got %+v\nwant %+v", got, want)
				}
				rec := store.get("d.example")
				if !samePosture(policy.Posture{State: rec.State, Checked: rec.Checked, Worked: rec.Worked, Lost: rec.Lost}, want) {
					t.Errorf("stored %+v\nwant %+v", rec, want)
				}
			})
		})
	}
}

func samePosture(a, b policy.Posture) bool {
	return a.State == b.State && a.Checked.Equal(b.Checked) && a.Worked.Equal(b.Worked) && a.Lost.Equal(b.Lost)
}

// TestDemandHistory: a certificate that no longer matches is a loss for those
// who demand it, and for nobody else.
func TestDemandHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, store := new(sky), new(memStore)
		verify := policy.TLSParams{Level: policy.LevelVerify}
		s.cert = &Certificate{Verified: true, Names: []string{"mx.d.example"}}
		s.set("d.example", policy.Works)
		m := newManager(t, s, store, ManagerOptions{})
		start := time.Now()
		look := func(demand policy.TLSParams) policy.Posture {
			t.Helper()
			p, _, err := m.Look(t.Context(), "d.example", demand, 0)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		if p := look(verify); !samePosture(p, policy.Posture{State: policy.Works, Checked: start, Worked: start}) {
			t.Errorf("at first: %+v", p)
		}
		time.Sleep(time.Minute)
		s.cert = &Certificate{Verified: false, Names: []string{"mx.d.example"}, VerifyError: "expired"}
		lost := time.Now()
		if p := look(anyTLS); p.State != policy.Works || !p.Worked.Equal(lost) {
			t.Errorf("any TLS: %+v", p)
		}
		m = newManager(t, s, store, ManagerOptions{})
		if err := m.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := policy.Posture{State: policy.Broken, Checked: lost, Worked: start, Lost: lost}
		if p := m.Posture("d.example", verify); !samePosture(p, want) {
			t.Errorf("verify, from the store: %+v", p)
		}
		time.Sleep(time.Minute)
		want.Checked = time.Now()
		if p := look(verify); !samePosture(p, want) {
			t.Errorf("verify, later: %+v", p)
		}
		// A demand never heard of is judged by the last look.
		if p := m.Posture("d.example", policy.TLSParams{Level: policy.LevelSecure}); p.State != policy.Broken || !p.Lost.IsZero() {
			t.Errorf("secure: %+v", p)
		}
		for i := range 3 * maxDemands {
			m.Posture("d.example", policy.TLSParams{Level: policy.LevelSecure, Match: []string{fmt.Sprintf("m%d", i)}})
		}
		if n := len(m.mem.get("d.example").known.Load().unusual().demands); n != maxDemands {
			t.Errorf("%d demands are kept", n)
		}
	})
}

// TestSchedule: how often a destination is looked at, without a word from
// outside.
func TestSchedule(t *testing.T) {
	tests := []struct {
		state     policy.State
		ttl       int // seconds
		in        time.Duration
		low, high int // looks within in
	}{
		{policy.Works, 60, 10 * time.Hour, 12, 18},
		{policy.Works, 6 * 3600, 20 * time.Hour, 4, 7},
		{policy.Works, 1e9, 23 * time.Hour, 1, 3},
		{policy.Absent, 60, time.Hour, 3, 4},
		{policy.Broken, 60, 23 * time.Hour, 7, 11},
		{policy.NoMail, 60, 23 * time.Hour, 7, 11},
		{policy.Unreachable, 60, 10 * time.Minute, 4, 5},
		{policy.Unknown, 60, 23 * time.Hour, 48, 70},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s %d", tt.state, tt.ttl), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &sky{ttl: tt.ttl}
				s.set("d.example", tt.state)
				m := newManager(t, s, nil, ManagerOptions{})
				defer running(t, m)()
				m.Posture("d.example", anyTLS)
				time.Sleep(tt.in)
				synctest.Wait()
				n := s.count("d.example")
				if n < tt.low || n > tt.high {
					t.Errorf("%d looks in %v, want %d to %d", n, tt.in, tt.low, tt.high)
				}
				// Only the last in the row would be stale.
				k := m.mem.get("d.example").known.Load()
				if !time.Now().Before(k.expires.time()) {
					t.Error("stale in spite of the refreshing")
				}
				// Nobody asks any more.
				time.Sleep(refreshUsed + worksMost)
				n = s.count("d.example")
				time.Sleep(10 * 24 * time.Hour)
				if more := s.count("d.example") - n; more > 0 {
					t.Errorf("%d looks that nobody wants", more)
				}
			})
		})
	}
}

// TestNeverStale: a destination in use that works is never unknown or stale, and
// one that is asked for while stale is looked at.
func TestNeverStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sky{takes: 5 * time.Second}
		s.set("d.example", policy.Works)
		m := newManager(t, s, nil, ManagerOptions{})
		defer running(t, m)()
		m.Posture("d.example", anyTLS)
		time.Sleep(time.Minute)
		for range 24 * 60 {
			p := m.Posture("d.example", anyTLS)
			if p.State != policy.Works || time.Since(p.Checked) > worksLeast {
				t.Fatalf("%+v at %v", p, time.Now())
			}
			time.Sleep(time.Minute)
		}
		time.Sleep(3 * refreshUsed)
		old := m.Posture("d.example", anyTLS)
		if old.State != policy.Works || time.Since(old.Checked) < worksLeast {
			t.Errorf("after days: %+v", old)
		}
		time.Sleep(time.Minute)
		if p := m.Posture("d.example", anyTLS); !p.Checked.After(old.Checked) {
			t.Errorf("not looked at: %+v", p)
		}
	})
}

// TestStaleBad: old news that there is no TLS is not believed, yet not forgotten.
func TestStaleBad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, bad := range []policy.State{policy.Absent, policy.Broken} {
			s := new(sky)
			m := newManager(t, s, nil, ManagerOptions{}) // not running
			s.set("d.example", policy.Works)
			m.Look(t.Context(), "d.example", anyTLS, 0)
			s.set("d.example", bad)
			lost := time.Now()
			m.Look(t.Context(), "d.example", anyTLS, 0)
			if p := m.Posture("d.example", anyTLS); p.State != bad {
				t.Errorf("at first: %+v", p)
			}
			time.Sleep(badFirst)
			if p := m.Posture("d.example", anyTLS); p.State != policy.Unknown || !p.Lost.Equal(lost) {
				t.Errorf("stale: %+v", p)
			}
		}
	})
}

func TestLookMaxAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(sky)
		s.set("d.example", policy.Absent)
		m := newManager(t, s, nil, ManagerOptions{})
		look := func(maxAge time.Duration, want policy.State, looks int) {
			t.Helper()
			p, r, err := m.Look(t.Context(), "d.example", anyTLS, maxAge)
			if err != nil || p.State != want || r == nil || r.State != want || s.count("d.example") != looks {
				t.Errorf("%+v, %+v, %v after %d looks; want %s, %d", p, r, err, s.count("d.example"), want, looks)
			}
		}
		look(time.Minute, policy.Absent, 1)
		s.set("d.example", policy.Works)
		time.Sleep(time.Minute)
		look(time.Minute, policy.Absent, 1)
		look(0, policy.Works, 2)
		s.set("d.example", policy.Absent)
		time.Sleep(time.Minute + 1)
		look(time.Minute, policy.Absent, 3)
	})
}

// TestSingleFlight: however many ask, one looks.
func TestSingleFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sky{takes: time.Second}
		s.set("d.example", policy.Works)
		m := newManager(t, s, new(memStore), ManagerOptions{})
		defer running(t, m)()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if p, _, err := m.Look(t.Context(), "d.example", anyTLS, 0); err != nil || p.State != policy.Works {
					t.Errorf("%+v, %v", p, err)
				}
				m.Posture("d.example", anyTLS)
			})
		}
		wg.Wait()
		if n := s.count("d.example"); n != 1 {
			t.Errorf("%d looks, want 1", n)
		}
	})
}

// TestLookJoins: a look in the background may use somewhat old sessions, which is
// not what Look promises.
func TestLookJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sky{takes: time.Second}
		s.set("d.example", policy.Works)
		m := newManager(t, s, nil, ManagerOptions{})
		defer running(t, m)()
		m.Posture("d.example", anyTLS)
		synctest.Wait() // the look is going on
		if _, _, err := m.Look(t.Context(), "d.example", anyTLS, backgroundReuse); err != nil || s.count("d.example") != 1 {
			t.Errorf("%v, %d looks; want to join the first", err, s.count("d.example"))
		}
		m.Posture("e.example", anyTLS)
		synctest.Wait()
		if _, _, err := m.Look(t.Context(), "e.example", anyTLS, 0); err != nil || s.count("e.example") != 2 {
			t.Errorf("%v, %d looks; want one of its own", err, s.count("e.example"))
		}
	})
}

// TestQueuedOnce: a destination waits once, and not for a look that has been
// done meanwhile.
func TestQueuedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(sky)
		m := newManager(t, s, nil, ManagerOptions{})
		for range 5 {
			m.Posture("d.example", anyTLS)
		}
		if n := len(m.queue); n != 1 {
			t.Errorf("%d are waiting", n)
		}
		m.Look(t.Context(), "d.example", anyTLS, 0)
		defer running(t, m)()
		synctest.Wait()
		if n := s.count("d.example"); n != 1 {
			t.Errorf("%d looks, want 1", n)
		}
	})
}

func TestLookErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sky{takes: time.Hour}
		s.set("d.example", policy.Absent)
		m := newManager(t, s, nil, ManagerOptions{MaxLook: time.Minute})
		stop := running(t, m)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if p, r, err := m.Look(ctx, "d.example", anyTLS, 0); !errors.Is(err, context.DeadlineExceeded) || r != nil || p.State != policy.Unknown {
			t.Errorf("%+v, %v", p, err)
		}
		// The look itself went on, until its own limit.
		if p, _, err := m.Look(t.Context(), "d.example", anyTLS, 0); err != nil || p.State != policy.Unknown || s.count("d.example") != 1 {
			t.Errorf("%+v, %v after %d looks", p, err, s.count("d.example"))
		}
		time.AfterFunc(time.Second, stop)
		if _, _, err := m.Look(t.Context(), "d.example", anyTLS, 0); !errors.Is(err, ErrStopped) {
			t.Errorf("shut down meanwhile: %v", err)
		}
		stop()
		if _, _, err := m.Look(t.Context(), "d.example", anyTLS, 0); !errors.Is(err, ErrStopped) {
			t.Errorf("shut down: %v", err)
		}
	})
}

// TestPanic: a fault in a look is no answer and no end.
func TestPanic(t *testing.T) {
	m := newManager(t, new(sky), nil, ManagerOptions{})
	m.look = func(context.Context, string, time.Duration) *Result { panic("oops") }
	p, r, err := m.Look(t.Context(), "d.example", anyTLS, 0)
	if err != nil || p.State != policy.Unknown || r.State != policy.Unknown {
		t.Errorf("%+v, %+v, %v", p, r, err)
	}
}

func TestOnChange(t *testing.T) {
	s := new(sky)
	n := 0
	m := newManager(t, s, nil, ManagerOptions{OnChange: func() { n++ }})
	for i, step := range []struct {
		found policy.State
		calls int
	}{{policy.Unknown, 0}, {policy.Works, 1}, {policy.Works, 1}, {policy.Absent, 2}, {policy.Absent, 2}, {policy.Unreachable, 3}} {
		s.set("d.example", step.found)
		m.Look(t.Context(), "d.example", anyTLS, 0)
		if n != step.calls {
			t.Errorf("step %d, %s: %d calls, want %d", i, step.found, n, step.calls)
		}
	}
}

func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sky{takes: time.Second}
		m := newManager(t, s, nil, ManagerOptions{Queue: 5, Workers: 2})
		for i := range 100 {
			m.Posture(fmt.Sprintf("d%d.example", i), anyTLS)
		}
		if n := len(m.queue); n != 5 {
			t.Errorf("%d are waiting", n)
		}
		defer running(t, m)()
		time.Sleep(time.Minute)
		if p := m.Posture("d99.example", anyTLS); !p.Checked.IsZero() {
			t.Errorf("%+v", p)
		}
		time.Sleep(time.Minute)
		if p := m.Posture("d99.example", anyTLS); p.Checked.IsZero() {
			t.Error("not looked at when asked for again")
		}
	})
}

func TestMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, new(sky), nil, ManagerOptions{MaxEntries: 640})
		m.Look(t.Context(), "busy.example", anyTLS, 0)
		for i := range 20_000 {
			m.Posture(fmt.Sprintf("d%d.example", i), anyTLS)
			if i%100 == 0 {
				time.Sleep(time.Minute)
				m.Posture("busy.example", anyTLS)
			}
		}
		if n := m.mem.len(); n > 640 || n < 320 {
			t.Errorf("%d entries", n)
		}
		if e := m.mem.get("busy.example"); e == nil || e.known.Load().checked == 0 {
			t.Error("the busiest had to go")
		}
		n := 0
		m.mem.each(func(e *entry) {
			if e.planned() {
				n++
			}
		})
		if n > 1 {
			t.Errorf("%d are scheduled", n)
		}
	})
}

func TestSaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, store := new(sky), &memStore{err: errors.New("disk full")}
		m := newManager(t, s, store, ManagerOptions{})
		stop := running(t, m)
		for i := range 600 {
			d := fmt.Sprintf("d%d.example", i)
			s.set(d, policy.Works)
			m.Posture(d, anyTLS)
		}
		time.Sleep(time.Minute)
		if store.len() != 0 {
			t.Error("saved in spite of the error")
		}
		store.mu.Lock()
		store.err, store.saves = nil, 0
		store.mu.Unlock()
		time.Sleep(time.Minute)
		store.mu.Lock()
		saves := store.saves
		store.mu.Unlock()
		if store.len() != 600 || saves > 10 {
			t.Errorf("%d saved in %d transactions", store.len(), saves)
		}
		// The last one, learned while the saver rests, is saved at the end.
		s.set("last.example", policy.Works)
		m.Look(t.Context(), "d1.example", anyTLS, 0)
		synctest.Wait()
		m.Look(t.Context(), "last.example", anyTLS, 0)
		stop()
		r := store.get("last.example")
		if r.State != policy.Works || !r.Expires.After(r.Checked) {
			t.Errorf("%+v", r)
		}
		var res Result
		if err := json.Unmarshal(r.Result, &res); err != nil || res.Dest != "last.example" {
			t.Errorf("result %s: %v", r.Result, err)
		}
	})
}

func TestSaveWithoutRun(t *testing.T) {
	s, store := new(sky), new(memStore)
	s.set("d.example", policy.Absent)
	m := newManager(t, s, store, ManagerOptions{})
	m.Look(t.Context(), "d.example", anyTLS, 0)
	m.Look(t.Context(), "d.example", anyTLS, 0)
	if r := store.get("d.example"); r.State != policy.Absent || r.Failures != 2 {
		t.Errorf("%+v", r)
	}
}

// TestLoad: after a start what was known is known, and what is stale is looked
// at again, but not all at once.
func TestLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, store := new(sky), new(memStore)
		m := newManager(t, s, store, ManagerOptions{})
		for i := range 100 {
			d := fmt.Sprintf("d%d.example", i)
			s.set(d, policy.Works)
			m.Look(t.Context(), d, anyTLS, 0)
		}
		s.set("none.example", policy.Absent)
		m.Look(t.Context(), "none.example", anyTLS, 0)
		broken := store.get("d1.example")
		broken.Dest, broken.Result = "damaged.example", []byte("{")
		store.SavePosture(t.Context(), broken)
		future := store.get("d1.example")
		future.Checked = time.Now().Add(30 * 24 * time.Hour)
		future.Expires = future.Checked.Add(time.Hour)
		store.SavePosture(t.Context(), future)

		time.Sleep(3 * time.Hour)
		start := time.Now()
		m = newManager(t, s, store, ManagerOptions{})
		if err := m.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		if p := m.Posture("d7.example", anyTLS); p.State != policy.Works || p.Worked.IsZero() {
			t.Errorf("loaded: %+v", p)
		}
		if p := m.Posture("none.example", anyTLS); p.State != policy.Unknown {
			t.Errorf("stale and bad: %+v", p)
		}
		if p := m.Posture("damaged.example", policy.TLSParams{Level: policy.LevelVerify}); p.State == policy.Works {
			t.Errorf("damaged: %+v", p)
		}
		queued := len(m.queue)
		if queued != 3 {
			t.Errorf("%d queued, want those asked for", queued)
		}
		defer running(t, m)()
		time.Sleep(spreadAtStart + time.Minute)
		var when []time.Time
		for i := range 100 {
			l := s.times(fmt.Sprintf("d%d.example", i))
			if len(l) < 2 {
				t.Fatalf("d%d not looked at", i)
			}
			when = append(when, l[1])
		}
		slices.SortFunc(when, time.Time.Compare)
		if early := when[len(when)/2].Sub(start); early < time.Minute {
			t.Errorf("half of them were looked at within %v", early)
		}
	})
}

func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, store := new(sky), new(memStore)
		m := newManager(t, s, store, ManagerOptions{})
		defer running(t, m)()
		m.Look(t.Context(), "d.example", anyTLS, 0)
		time.Sleep(forgetAfter + refreshUsed + 2*sweepEvery)
		synctest.Wait()
		if m.mem.len() != 0 || store.len() != 0 {
			t.Errorf("%d remembered, %d stored", m.mem.len(), store.len())
		}
	})
}

// TestRealLook goes all the way: a hundred callers, one session, TLS that goes
// and comes back.
func TestRealLook(t *testing.T) {
	w := newWorld(t, "d.example. 60 IN MX 10 mx.d.example.", "mx.d.example. 60 IN A 192.0.2.1")
	b := w.good("mx.d.example")
	b.BannerDelay = 50 * time.Millisecond
	h := w.host("192.0.2.1", b)
	store := new(memStore)
	m := NewManager(w.prober(), store, ManagerOptions{})
	var wg sync.WaitGroup
	var works atomic.Int32
	for range 100 {
		wg.Go(func() {
			p, r, err := m.Look(t.Context(), "d.example", policy.TLSParams{Level: policy.LevelSecure}, time.Minute)
			if err == nil && p.State == policy.Works && r.MX[0].Addresses[0].Version == "TLSv1.3" {
				works.Add(1)
			}
		})
	}
	wg.Wait()
	if works.Load() != 100 || len(h.Sessions()) != 1 {
		t.Errorf("%d callers found TLS, in %d sessions", works.Load(), len(h.Sessions()))
	}
	h.Update(func(b *fakesmtp.Behaviour) { b.STARTTLS = false })
	if p, _, err := m.Look(t.Context(), "d.example", anyTLS, 0); err != nil || p.State != policy.Absent || p.Lost.IsZero() ||
		!p.InGrace(time.Now(), time.Hour) {
		t.Errorf("TLS gone: %+v, %v", p, err)
	}
	w.dns.Fail("", 0, 1)
	if p, _, err := m.Look(t.Context(), "d.example", anyTLS, 0); err != nil || p.State != policy.Unknown || p.Lost.IsZero() {
		t.Errorf("DNS gone: %+v, %v", p, err)
	}
	w.dns.Fail("", 0, 0)
	h.Set(b)
	if p, _, err := m.Look(t.Context(), "d.example", anyTLS, 0); err != nil || p.State != policy.Works || !p.Lost.IsZero() {
		t.Errorf("TLS back: %+v, %v", p, err)
	}
	var res Result
	if err := json.Unmarshal(store.get("d.example").Result, &res); err != nil || res.Judge(anyTLS, tls.VersionTLS12) != policy.Works {
		t.Errorf("stored: %v, %+v", err, res)
	}
}

// TestHotPath: an answer from memory costs no allocation.
func TestHotPath(t *testing.T) {
	s := new(sky)
	s.cert = &Certificate{Verified: true, Names: []string{"mx.d.example"}}
	s.set("d.example", policy.Works)
	m := newManager(t, s, nil, ManagerOptions{})
	secure := policy.TLSParams{Level: policy.LevelSecure, Match: []string{"hostname"}}
	m.Look(t.Context(), "d.example", secure, 0)
	for _, demand := range []policy.TLSParams{anyTLS, secure} {
		if n := testing.AllocsPerRun(100, func() {
			if p := m.Posture("d.example", demand); p.State != policy.Works {
				t.Errorf("%+v", p)
			}
		}); n > 0 {
			t.Errorf("%v allocations for %s", n, demand.Level)
		}
	}
}

func BenchmarkPosture(b *testing.B) {
	s := new(sky)
	r, _ := NewResolver([]string{"192.0.2.53:53"})
	p, err := NewProber(Options{Resolver: r})
	if err != nil {
		b.Fatal(err)
	}
	m := NewManager(p, nil, ManagerOptions{})
	m.look = s.look
	s.set("d.example", policy.Works)
	m.Look(b.Context(), "d.example", anyTLS, 0)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.Posture("d.example", anyTLS)
		}
	})
}

// What foreign input may do to a lookup does not end the mail server's helper.
func TestAFaultInALookupIsSurvived(t *testing.T) {
	m := newManager(t, new(sky), nil, ManagerOptions{})
	m.discover = func(context.Context, string) *Result { panic("foreign input") }
	if p := m.Published(t.Context(), "d.example"); p.DANE != policy.DANEUnknown || p.STS != policy.STSUnknown {
		t.Errorf("%+v", p)
	}
}

// A loss that the clock dates into the future would be in its grace period until then.
func TestALossIsNeverInTheFuture(t *testing.T) {
	now := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	h := history{}.after(policy.Works, now.AddDate(1, 0, 0)).after(policy.Absent, now.AddDate(1, 0, 1))
	if h = h.after(policy.Absent, now); !h.lost.Equal(now) {
		t.Errorf("lost %s", h.lost)
	}
	if h = h.after(policy.Absent, now.Add(time.Hour)); !h.lost.Equal(now) {
		t.Errorf("lost %s", h.lost)
	}
}

// TestTheClockIsSetBack: what was learned by a clock that was ahead does not count until
// the time comes that it showed.
func TestTheClockIsSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ahead, dane atomic.Int64
		ahead.Store(int64(365 * 24 * time.Hour))
		s := new(sky)
		m := newManager(t, s, nil, ManagerOptions{Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
		m.discover = func(_ context.Context, dest string) *Result {
			return &Result{Dest: dest, Domain: dest, State: policy.Works, DANE: policy.DANE(dane.Load()), STS: &STSResult{State: policy.STSNone}, TTL: 3600}
		}
		defer running(t, m)()
		s.set("d.example", policy.Absent)
		// Of another destination than the posture, which would be looked at for what is
		// published.
		dane.Store(int64(policy.DANENone))
		m.Published(t.Context(), "p.example")
		m.Posture("d.example", anyTLS)
		time.Sleep(time.Minute + time.Second) // when no timer of the Manager is due
		synctest.Wait()
		if p := m.Posture("d.example", anyTLS); p.State != policy.Absent {
			t.Fatal(p)
		}
		ahead.Store(0)
		s.set("d.example", policy.Works)
		dane.Store(int64(policy.DANEFull))
		if p := m.Published(t.Context(), "p.example"); p.DANE != policy.DANEFull {
			t.Errorf("published as of next year: %+v", p)
		}
		if p := m.Posture("d.example", anyTLS); p.State != policy.Unknown {
			t.Errorf("posture as of next year: %+v", p)
		}
		time.Sleep(time.Minute)
		if p := m.Posture("d.example", anyTLS); p.State != policy.Works {
			t.Errorf("not looked at anew: %+v", p)
		}
	})
}
