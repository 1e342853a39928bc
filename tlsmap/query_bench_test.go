package tlsmap

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/probe"
)

// BenchmarkQuery is an answer without its network.
func BenchmarkQuery(b *testing.B) {
	s, _ := newServer(b, standardWorld(), nil)
	for _, q := range [][2]string{{MapTransport, "x@plain.example"}, {MapTransport, "x@clinic.example"}, {MapTLSPolicy, "plain.example"}, {MapSecureTLSPolicy, "plain.example"}} {
		b.Run(q[0]+" "+q[1], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Query(b.Context(), q[0], q[1])
			}
		})
	}
}

// kept is a store with the postures of the first n domains.
type kept struct {
	probe.Store // of what is not called
	n           int
}

func (s kept) LoadPostures(_ context.Context, each func(probe.Record) error) error {
	now := time.Now().UTC().Truncate(time.Second).Add(-time.Minute)
	for i := range s.n {
		host := fmt.Sprintf("mx%d.hoster.example", i*i%300)
		if i%10 == 0 {
			host = "mx." + benchDomain(i)
		}
		r := &probe.Result{
			Dest: benchDomain(i), Domain: benchDomain(i), State: policy.Works, DANE: policy.DANENone,
			STS: &probe.STSResult{State: policy.STSNone}, Checked: now, TTL: 3600,
			MX: []probe.MXResult{{Host: host, Addresses: []probe.AddressResult{{
				Addr: netip.MustParseAddr("198.18.0.1"), State: policy.Works, TLS: true, Version: "TLSv1.3",
				Cert: &probe.Certificate{Names: []string{host}, Verified: true},
			}}}},
		}
		b, err := json.Marshal(r)
		if err != nil {
			return err
		}
		if err := each(probe.Record{
			Dest: r.Dest, State: r.State, Checked: now, Worked: now, Since: now.Add(-30 * 24 * time.Hour), Expires: now.Add(20 * time.Hour), Result: b,
		}); err != nil {
			return err
		}
	}
	return nil
}

func benchDomain(i int) string { return fmt.Sprintf("domain-%d.example", i) }

var benchNow time.Time

// BenchmarkWarm is an answer without its network, where a million rules and a hundred
// thousand postures are in memory: for one domain, and for one of them all at random, as
// make bench asks for them over loopback. The parts of an answer are measured apart too.
func BenchmarkWarm(b *testing.B) {
	const domains, rules = 100_000, 1_000_000
	all := make([]*policy.Rule, rules)
	for i := range all {
		all[i] = &policy.Rule{ID: int64(i), Scope: policy.ByRecipient, Pattern: benchDomain(i), Requirement: policy.Encryption, Created: time.Now()}
	}
	snapshot, err := policy.NewSnapshot(1, all, "+")
	if err != nil {
		b.Fatal(err)
	}
	resolver, err := probe.NewResolver([]string{"127.0.0.1:9"})
	if err != nil {
		b.Fatal(err)
	}
	prober, err := probe.NewProber(probe.Options{Resolver: resolver, STS: noPolicies{}, Trusts: func(string) bool { return true }})
	if err != nil {
		b.Fatal(err)
	}
	m := probe.NewManager(prober, kept{n: domains}, probe.ManagerOptions{})
	if err := m.Load(b.Context()); err != nil {
		b.Fatal(err)
	}
	nobody := &world{}
	s, _ := newServer(b, nobody, func(c *Config) {
		c.Engine.Rules = func() *policy.Snapshot { return snapshot }
		c.Engine.Postures, c.Published, c.DANE = m, m.Published, m.DANE
	})
	query := func(mapName string) func(string) {
		return func(key string) {
			if r, err := s.Query(b.Context(), mapName, key); r.Status != OK {
				b.Fatal(r, err)
			}
		}
	}
	for _, q := range []struct {
		name, local string
		ask         func(key string)
	}{
		{"time.Now", "", func(string) { benchNow = time.Now() }},
		{"rule", "", func(key string) { snapshot.LookupDomain(key, time.Time{}) }},
		{"published", "", func(key string) { m.Published(b.Context(), key) }},
		{"posture", "", func(key string) { m.Posture(key, policy.TLSParams{}) }},
		{MapTLSPolicy, "", query(MapTLSPolicy)},
		{MapSecureTLSPolicy, "", query(MapSecureTLSPolicy)},
		{MapTransport, "joe@", query(MapTransport)},
	} {
		for _, n := range []int{1, domains} {
			// The keys lie in one piece, so that to read them costs little.
			var text []byte
			ends := []int{0}
			for range 10 * n {
				text = append(append(text, q.local...), benchDomain(max(1, rand.N(n)))...)
				ends = append(ends, len(text))
			}
			keys := string(text)
			b.Run(fmt.Sprintf("%s/%d", q.name, n), func(b *testing.B) {
				b.ReportAllocs()
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				i, began := 0, threadTime()
				for b.Loop() {
					if i++; i == len(ends) {
						i = 1
					}
					q.ask(keys[ends[i-1]:ends[i]])
				}
				b.ReportMetric(float64(threadTime()-began)/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

// threadTime is the processor time of the calling thread: what others use of a busy machine does
// not count.
func threadTime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// noPolicies is MTA-STS where nobody has a policy.
type noPolicies struct{}

func (noPolicies) Policy(context.Context, string) *probe.STSResult {
	return &probe.STSResult{State: policy.STSNone}
}

func (noPolicies) Refresh(context.Context, string) *probe.STSResult {
	return &probe.STSResult{State: policy.STSNone}
}
