package probe

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/postseal/postseal/internal/lab/fakesmtp"
	"github.com/postseal/postseal/policyd/policy"
)

// TestProbeShared: whatever the number of domains behind a mail host, one session
// with it counts for all, however many ask at a time; a host of another name at the
// same address has one of its own.
func TestProbeShared(t *testing.T) {
	w := newWorld(t, "mx.example. 60 IN A 192.0.2.1", "other.example. 60 IN A 192.0.2.1", "dead.example. 60 IN A 192.0.2.2", "dead2.example. 60 IN A 192.0.2.2")
	s := w.host("192.0.2.1", w.good("mx.example"))
	for i := range 40 {
		w.add(fmt.Sprintf("d%d.example. 60 IN MX 10 mx.example.", i))
	}
	w.add("e.example. 60 IN MX 10 other.example.", "f.example. 60 IN MX 10 dead.example.", "g.example. 60 IN MX 10 dead2.example.")
	p := w.prober(func(o *Options) { o.Resolver = o.Resolver.Many(4, 100) })
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			if got := p.ProbeShared(t.Context(), fmt.Sprintf("d%d.example", i)); got.State != policy.Works {
				t.Errorf("d%d: %s, %s", i, got.State, got.Reason)
			}
		})
	}
	wg.Wait()
	if n := len(s.Sessions()); n != 1 {
		t.Errorf("%d sessions for 40 domains, want 1", n)
	}
	if n := w.dns.Queries("mx.example", dns.TypeA); n > 40/4 {
		t.Errorf("asked %d times for the address of the shared host", n)
	}
	p.ProbeShared(t.Context(), "e.example")
	if n := len(s.Sessions()); n != 2 {
		t.Errorf("%d sessions for two names of a host, want 2", n)
	}
	dials := w.dials.Load()
	for _, d := range []string{"f.example", "g.example", "f.example"} {
		if got := p.ProbeShared(t.Context(), d); got.State != policy.Unreachable {
			t.Errorf("%s: %s", d, got.State)
		}
	}
	if n := w.dials.Load() - dials; n != 1 {
		t.Errorf("%d connections to an address that takes none, want 1", n)
	}
	if got := p.Probe(t.Context(), "d1.example"); got.State != policy.Works || len(s.Sessions()) != 3 {
		t.Errorf("a probe that shares nothing: %s, %d sessions", got.State, len(s.Sessions()))
	}
}

// TestSharedByTTL: a session counts for as long as the TTL says, in bounds.
func TestSharedByTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHosts(8, 2, 100)
		n := 0
		ask := func(host string, ttl time.Duration, s policy.State) {
			h.do(t.Context(), target{host: host, addr: netip.MustParseAddr("192.0.2.1"), port: 25}, byTTL, ttl, func() AddressResult {
				n++
				return AddressResult{State: s, Error: "greeting: 451"}
			})
		}
		for _, tt := range []struct {
			ttl, after time.Duration
			state      policy.State
			want       int
		}{
			{time.Hour, 59 * time.Minute, policy.Works, 1},
			{time.Hour, 61 * time.Minute, policy.Works, 2},
			{time.Second, 9 * time.Minute, policy.Absent, 1}, // no TTL makes us ask every second
			{time.Second, 11 * time.Minute, policy.Absent, 2},
			{30 * time.Hour, 7 * time.Hour, policy.Broken, 2},
			{time.Hour, 4 * time.Minute, policy.Unreachable, 1},
			{time.Hour, 6 * time.Minute, policy.Unreachable, 2},
			{time.Hour, time.Second, policy.Unknown, 2}, // nothing was learned
		} {
			n = 0
			host := fmt.Sprint(tt)
			ask(host, tt.ttl, tt.state)
			time.Sleep(tt.after)
			if ask(host, tt.ttl, tt.state); n != tt.want {
				t.Errorf("%+v: %d sessions", tt, n)
			}
		}
	})
}

// TestSharedIsBounded: hosts of one domain each do not crowd out those that many
// share, and the memory of sessions has a bound.
func TestSharedIsBounded(t *testing.T) {
	h := newHosts(8, 2, 64)
	addr := netip.MustParseAddr("192.0.2.1")
	n := 0
	ask := func(host string) {
		h.do(t.Context(), target{host: host, addr: addr, port: 25}, byTTL, time.Hour, func() AddressResult {
			if host == "busy" {
				n++
			}
			return AddressResult{State: policy.Works}
		})
	}
	for i := range 2000 {
		ask(fmt.Sprint("own", i))
		ask("busy")
		if len(h.recent) > 64 {
			t.Fatalf("%d sessions remembered", len(h.recent))
		}
	}
	if n > 10 {
		t.Errorf("the shared host had %d sessions among 2000 others", n)
	}
	if len(h.gates)+len(h.lines) > 0 {
		t.Errorf("%d gates and %d lines are left", len(h.gates), len(h.lines))
	}
}

// TestManyAddresses: a name with a great many addresses does not make as many sessions.
func TestManyAddresses(t *testing.T) {
	w := newWorld(t, "d.example. 60 IN MX 10 mx.example.")
	for i := range 8 {
		w.add(fmt.Sprintf("mx.example. 60 IN A 192.0.2.%d", i+1))
		w.host(fmt.Sprintf("192.0.2.%d", i+1), fakesmtp.Behaviour{})
	}
	p := w.prober(func(o *Options) { o.MaxHostAddr = 3 })
	if got := p.ProbeShared(t.Context(), "d.example"); len(got.MX[0].Addresses) != 3 || got.Unprobed != 5 || got.State != policy.Unknown {
		t.Errorf("%d addresses, %d unprobed, %s", len(got.MX[0].Addresses), got.Unprobed, got.State)
	}
}
