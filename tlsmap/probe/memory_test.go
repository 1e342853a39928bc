package probe

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/postseal/postseal/policyd/policy"
)

// TestMemoryIsATable: whatever is added, evicted and swept, the table knows the same
// destinations as a map does.
func TestMemoryIsATable(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	m := newMemory(40 * shards)
	want := map[string]*entry{}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 60_000 {
		dest := nameOf(random.IntN(6000))
		at := now.Add(time.Duration(random.IntN(1000)) * time.Minute)
		switch n := random.IntN(2000); {
		case n == 0:
			since := now.Add(time.Duration(random.IntN(700)) * time.Minute)
			m.sweep(since)
			for d, e := range want {
				if e.used() < since.Unix() {
					delete(want, d)
				}
			}
		case n < 1200:
			e, evicted, made := m.add(dest, at)
			if made != (want[dest] == nil) || !made && e != want[dest] {
				t.Fatalf("%s: made %t, and there was %v", dest, made, want[dest])
			}
			if evicted != nil {
				if want[evicted.dest()] != evicted {
					t.Fatalf("%s was evicted and not there", evicted.dest())
				}
				delete(want, evicted.dest())
			}
			want[dest] = e
		default:
			if e := m.get(dest); e != want[dest] {
				t.Fatalf("step %d: %s: %v, want %v", i, dest, e, want[dest])
			}
		}
		if m.len() != len(want) || m.len() > 40*shards {
			t.Fatalf("%d entries, want %d", m.len(), len(want))
		}
	}
	n := 0
	m.each(func(e *entry) {
		n++
		if want[e.dest()] != e {
			t.Errorf("%s is not there", e.dest())
		}
	})
	if n != len(want) {
		t.Errorf("%d entries, want %d", n, len(want))
	}
}

// nameOf is the i-th of names of all lengths around the room that an entry has for them.
func nameOf(i int) string { return strings.Repeat("x", i%40) + fmt.Sprint(i) }

// TestNamesAreKept: an entry knows its name whatever its length, before and after
// somebody looked, and is taken for no other.
func TestNamesAreKept(t *testing.T) {
	for n := range 2 * nameRoom {
		dest := strings.Repeat("d", n)
		e := newEntry(dest)
		if e.told() != nil {
			t.Errorf("%q: somebody has looked", dest)
		}
		for range 3 {
			if e.dest() != dest || !e.is(dest) || e.is(dest+"d") || n > 0 && (e.is(dest[1:]) || e.is(dest[1:]+"e")) {
				t.Errorf("%q is %q", dest, e.dest())
			}
			e.keepFacts(newFacts(policy.Published{DANE: policy.DANEFull}, nil), time.Now())
			if f := e.told(); f == nil || f.published.DANE != policy.DANEFull {
				t.Errorf("%q: %+v", dest, f)
			}
		}
	}
	if e, k := unsafe.Sizeof(entry{}), unsafe.Sizeof(known{}); e > 48 || k > 32 {
		t.Errorf("an entry takes %d bytes, and what is known of it %d", e, k)
	}
}

// TestMemoryIsReadWithoutALock: who reads finds what is there at any time, whatever is
// added, evicted and swept around it meanwhile, and never another destination.
func TestMemoryIsReadWithoutALock(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	m := newMemory(100 * shards)
	stay := make([]*entry, 1000)
	for i := range stay {
		stay[i], _, _ = m.add(nameOf(i), now.Add(time.Hour))
		stay[i].known.Store(&known{ev: never, checked: stampOf(now)}) // and so is not evicted
	}
	var writers, readers sync.WaitGroup
	var done atomic.Bool
	for w := range 2 {
		writers.Go(func() {
			for i := range 10_000 {
				m.add(nameOf(1000+(i*7919+w)%20_000), now)
				if i%2000 == 0 {
					m.sweep(now.Add(time.Minute))
				}
			}
		})
	}
	for r := range 2 {
		readers.Go(func() {
			for i := r; !done.Load(); i++ {
				n := i * 31 % 20_000
				dest := nameOf(n)
				e := m.get(dest)
				if n < len(stay) && e != stay[n] || e != nil && e.dest() != dest {
					t.Errorf("%s: found %v", dest, e)
					return
				}
				table, h := m.hash(dest)
				if e := table.find(dest, h); e != nil && e.dest() != dest {
					t.Errorf("%s: found %s", dest, e.dest())
					return
				}
			}
		})
	}
	writers.Wait()
	done.Store(true)
	readers.Wait()
}

// TestScheduleIsAPlan: whatever is planned, again and for other times, comes up once, not
// before its time, and hardly later.
func TestScheduleIsAPlan(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	m := newMemory(100 * shards)
	s := newSchedule(m)
	random := rand.New(rand.NewPCG(3, 4))
	want := map[*entry]stamp{}
	for range 5000 {
		switch random.IntN(4) {
		case 0:
			now = now.Add(time.Duration(random.IntN(90)) * time.Second)
			ready, next := s.pop(now)
			for _, e := range ready {
				if at, ok := want[e]; !ok || at.time().After(now) {
					t.Fatalf("%s came up at %v, planned for %v (%t)", e.dest(), now, at.time(), ok)
				}
				delete(want, e)
			}
			for e, at := range want {
				if at.time().Before(now.Add(-2*time.Second)) || at.time().Before(next.Add(-2*time.Second)) || next.IsZero() {
					t.Fatalf("%s is planned for %v, did not come up at %v, and the next at %v", e.dest(), at.time(), now, next)
				}
			}
		default:
			e, evicted, _ := m.add(nameOf(random.IntN(2000)), now)
			delete(want, evicted)
			at := stampOf(now.Add(time.Duration(random.IntN(3600)) * time.Second))
			e.known.Store(&known{ev: never, next: at})
			want[e] = at
			s.set(e, at)
		}
	}
}

// TestEvictionSparesHistories: mail to many destinations of which nothing is required
// does not push out what looks at the others have found, however old.
func TestEvictionSparesHistories(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	m := newMemory(40 * shards)
	for i := range 500 {
		e, _, _ := m.add(fmt.Sprint("looked-at", i), now)
		e.known.Store(&known{ev: never, checked: stampOf(now)})
	}
	for i := range 100_000 {
		m.add(fmt.Sprint("passing", i), now.Add(time.Hour))
	}
	gone := 0
	for i := range 500 {
		if m.get(fmt.Sprint("looked-at", i)) == nil {
			gone++
		}
	}
	// All of the few that are compared may have been looked at.
	if gone > 5 || m.len() > 40*shards {
		t.Errorf("%d of 500 are gone, %d entries", gone, m.len())
	}
}

// TestEntryFlags: whether an entry waits and when it was asked for share a word and do
// not disturb each other.
func TestEntryFlags(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	var e entry
	e.touch(now)
	if e.queued() || !e.queue() || e.queue() || !e.queued() {
		t.Error("queued")
	}
	e.touch(now.Add(time.Hour))
	if !e.queued() || e.used() != now.Add(time.Hour).Unix()/60*60 {
		t.Errorf("queued %t, used %d", e.queued(), e.used())
	}
	e.unqueue()
	if e.queued() || e.used() != now.Add(time.Hour).Unix()/60*60 {
		t.Errorf("queued %t, used %d", e.queued(), e.used())
	}
}

func sharedResult(dest, host string, change func(*Result)) *Result {
	r := &Result{
		Dest: dest, Domain: dest, State: policy.Works, DANE: policy.DANENone, STS: &STSResult{State: policy.STSNone},
		MX: []MXResult{{Host: host, Addresses: []AddressResult{{
			Addr: netip.MustParseAddr("192.0.2.1"), State: policy.Works, TLS: true, Version: "TLSv1.3",
			Cert: &Certificate{Names: []string{host}, Verified: true},
		}}}},
	}
	if change != nil {
		change(r)
	}
	return r
}

// TestEvidenceIsShared: destinations with the same hosts have their evidence in common,
// and only where it says the same in every respect that counts for a verdict.
func TestEvidenceIsShared(t *testing.T) {
	of := func(r *Result) *evidence { ev := r.evidence(); return shared(r.Dest, &ev) }
	a := of(sharedResult("a.example", "mx.hoster.example", nil))
	if b := of(sharedResult("b.example", "mx.hoster.example", nil)); a != b {
		t.Error("not shared")
	}
	mismatch := false
	for i, change := range []func(*Result){
		func(r *Result) { r.State = policy.Broken },
		func(r *Result) { r.DANE = policy.DANEFull },
		func(r *Result) { r.STS.State = policy.STSTesting },
		func(r *Result) { r.STS.State, r.STS.MX = policy.STSEnforce, []string{"mx.hoster.example"} },
		func(r *Result) { r.STS.State, r.STS.MX = policy.STSEnforce, []string{"*.hoster.example"} },
		func(r *Result) { r.Unprobed = 1 },
		func(r *Result) { r.MX[0].DNSFailed = true },
		func(r *Result) { r.MX[0].Host = "mx2.hoster.example" },
		func(r *Result) { r.MX[0].STSMatch = &mismatch },
		func(r *Result) { r.MX[0].TLSA = &TLSAResult{State: policy.DANEFull} },
		func(r *Result) { r.MX[0].TLSA = &TLSAResult{State: policy.DANEFailed} },
		func(r *Result) { r.MX[0].Addresses[0].State, r.MX[0].Addresses[0].TLS = policy.Absent, false },
		func(r *Result) { r.MX[0].Addresses[0].Version = "TLSv1.2" },
		func(r *Result) { r.MX[0].Addresses[0].Cert.Verified = false },
		func(r *Result) { r.MX[0].Addresses[0].Cert.Names = []string{"other.example"} },
		func(r *Result) { r.MX[0].Addresses[0].Cert.Names = []string{"mx.hoster.example", "other.example"} },
		func(r *Result) { r.MX = append(r.MX, sharedResult("", "mx3.hoster.example", nil).MX...) },
		func(r *Result) { r.MX = nil },
	} {
		if of(sharedResult("c.example", "mx.hoster.example", change)) == a {
			t.Errorf("change %d: shared with what is different", i)
		}
	}
	runtime.KeepAlive(a)
	// Own hosts are not kept in common, and nothing is kept for longer than it is used.
	evidences.Lock()
	before := len(evidences.m)
	evidences.Unlock()
	for i := range 1000 {
		of(sharedResult(fmt.Sprintf("d%d.example", i), fmt.Sprintf("mx.d%d.example", i), nil))
	}
	for i := range 1000 {
		of(sharedResult("e.example", fmt.Sprintf("mx%d.hoster.example", i), nil))
	}
	for range 50 {
		runtime.GC()
		time.Sleep(time.Millisecond)
		evidences.Lock()
		n := len(evidences.m)
		evidences.Unlock()
		if n <= before {
			return
		}
	}
	t.Errorf("%d evidences are kept, %d before", len(evidences.m), before)
}

// TestManyNamesAreKeptOnce: the names of a certificate that many hosts have are in memory
// once, also where the hosts' own names differ.
func TestManyNamesAreKeptOnce(t *testing.T) {
	of := func(dest string) string {
		ev := sharedResult(dest, "mx."+dest, func(r *Result) {
			names := make([]string, 20)
			for i := range names {
				names[i] = fmt.Sprintf("mx.customer%d.example", i)
			}
			r.MX[0].Addresses[0].Cert.Names = names
		}).evidence()
		return shared(dest, &ev).facts[0].names
	}
	a, b := of("customer1.example"), of("customer2.example")
	if a != b || unsafe.StringData(a) != unsafe.StringData(b) {
		t.Error("kept twice")
	}
}

// TestPublishedSurvivesARestart: what a destination publishes is known after a restart,
// until its time is over, and beyond that where DNS fails; not under other settings.
func TestPublishedSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := NewResolver([]string{"192.0.2.53:53"})
		if err != nil {
			t.Fatal(err)
		}
		p, err := NewProber(Options{Resolver: r, Trusts: func(string) bool { return true }, STS: &stsSource{}})
		if err != nil {
			t.Fatal(err)
		}
		store := &memStore{}
		looks, fails := 0, false
		start := func(p *Prober) *Manager {
			m := NewManager(p, store, ManagerOptions{FactsWait: time.Second})
			m.discover = func(_ context.Context, dest string) *Result {
				looks++
				if fails {
					return &Result{Dest: dest, DANE: policy.DANEUnknown, STS: &STSResult{State: policy.STSNone}}
				}
				return &Result{Dest: dest, DANE: policy.DANENone, STS: &STSResult{State: policy.STSNone}, TTL: 600}
			}
			m.look = func(_ context.Context, dest string, _ time.Duration) *Result {
				r := sharedResult(dest, "mx.hoster.example", func(r *Result) { r.DANE, r.TTL, r.Checked = policy.DANEFull, 600, time.Now() })
				return r
			}
			if err := m.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
			return m
		}
		m := start(p)
		if _, _, err := m.Look(t.Context(), "d.example", policy.TLSParams{}, 0); err != nil {
			t.Fatal(err)
		}
		m = start(p)
		if got := m.Published(t.Context(), "d.example"); got.DANE != policy.DANEFull || looks != 0 {
			t.Errorf("after a restart: %+v, %d lookups", got, looks)
		}
		time.Sleep(11 * time.Minute)
		fails = true
		m = start(p)
		if got := m.Published(t.Context(), "d.example"); got.DANE != policy.DANEFull || looks != 1 {
			t.Errorf("stale, and DNS fails: %+v, %d lookups", got, looks)
		}
		fails = false
		m = start(p)
		if got := m.Published(t.Context(), "d.example"); got.DANE != policy.DANENone || looks != 2 {
			t.Errorf("stale: %+v, %d lookups", got, looks)
		}
		other, err := NewProber(Options{Resolver: r, STS: &stsSource{}}) // no resolver is trusted
		if err != nil {
			t.Fatal(err)
		}
		m = start(other)
		if e := m.mem.get("d.example"); e.until.Load() != 0 {
			t.Errorf("taken for fresh under other settings: %+v", e.facts.Load())
		}
	})
}

// TestResultIsReadFromTheStore: results are not in memory, and still come with a
// look that is not too old, whether they are saved yet or not.
func TestResultIsReadFromTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(sky)
		store := &memStore{}
		m := newManager(t, s, store, ManagerOptions{})
		s.set("d.example", policy.Works)
		ask := func(about string, looks int) {
			t.Helper()
			_, r, err := m.Look(t.Context(), "d.example", anyTLS, time.Hour)
			if err != nil || r == nil || r.Dest != "d.example" || s.count("d.example") != looks {
				t.Errorf("%s: %v, %v, %d looks, want %d", about, r, err, s.count("d.example"), looks)
			}
		}
		ask("at first", 1)
		ask("at once", 1)
		store.mu.Lock()
		rec := store.m["d.example"]
		rec.Checked = rec.Checked.Add(time.Minute) // another server has looked since
		store.m["d.example"] = rec
		store.mu.Unlock()
		ask("another server's", 2)
		store.mu.Lock()
		delete(store.m, "d.example")
		store.mu.Unlock()
		ask("gone from the store", 3)
	})
}
