package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/postseal/postseal/internal/lab/fakedns"
)

func startDNS(t *testing.T, records ...string) *fakedns.Server {
	t.Helper()
	s, err := fakedns.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.Add(records...); err != nil {
		t.Fatal(err)
	}
	return s
}

func resolve(t *testing.T, name string, qtype uint16, servers ...string) (*Answer, error) {
	t.Helper()
	r, err := NewResolver(servers)
	if err != nil {
		t.Fatal(err)
	}
	return r.Lookup(t.Context(), name, qtype)
}

// inVain is resolve where an error is expected, with less patience.
func inVain(t *testing.T, name string, qtype uint16, servers ...string) (*Answer, error) {
	t.Helper()
	r, err := NewResolver(servers)
	if err != nil {
		t.Fatal(err)
	}
	r.try, r.total = 100*time.Millisecond, 200*time.Millisecond
	return r.Lookup(t.Context(), name, qtype)
}

func TestLookup(t *testing.T) {
	many := make([]string, 0, 200)
	for i := range 200 {
		many = append(many, fmt.Sprintf("many.example. 60 IN MX %d host-with-a-long-name-%d.example.", i, i))
	}
	chain := make([]string, 0, 20)
	for i := range 20 {
		chain = append(chain, fmt.Sprintf("c%d.example. 60 IN CNAME c%d.example.", i, i+1))
	}
	chain = append(chain, "c20.example. 60 IN A 192.0.2.1")
	records := slices.Concat(many, chain, []string{
		"a.example. 60 IN A 192.0.2.1", "a.example. 30 IN A 192.0.2.2",
		"alias.example. 20 IN CNAME a.example.",
		"loop.example. 60 IN CNAME loop2.example.", "loop2.example. 60 IN CNAME loop.example.",
	})
	tests := []struct {
		name, ask string
		qtype     uint16
		fault     fakedns.Fault
		records   int
		notFound  bool
		fails     bool
		ttl       time.Duration
	}{
		{"records", "A.example", dns.TypeA, 0, 2, false, false, 30 * time.Second},
		{"no such type", "a.example", dns.TypeMX, 0, 0, false, false, time.Second},
		{"no such name", "b.example", dns.TypeA, 0, 0, true, false, time.Second},
		{"by an alias", "alias.example", dns.TypeA, 0, 2, false, false, 20 * time.Second},
		{"by an alias to another type", "alias.example", dns.TypeMX, 0, 0, false, false, time.Second},
		{"a chain short enough", "c15.example", dns.TypeA, 0, 1, false, false, 60 * time.Second},
		{"a chain too long", "c5.example", dns.TypeA, 0, 0, false, true, 0},
		{"a loop", "loop.example", dns.TypeA, 0, 0, false, true, 0},
		{"a large reply comes by TCP", "many.example", dns.TypeMX, 0, 200, false, false, 60 * time.Second},
		{"truncation", "a.example", dns.TypeA, fakedns.TruncateUDP, 2, false, false, 30 * time.Second},
		{"no EDNS", "a.example", dns.TypeA, fakedns.FormErrOnEDNS, 2, false, false, 30 * time.Second},
		{"late", "a.example", dns.TypeA, fakedns.Delay, 2, false, false, 30 * time.Second},
		{"SERVFAIL is no answer", "a.example", dns.TypeA, fakedns.Servfail, 0, false, true, 0},
		{"REFUSED is no answer", "a.example", dns.TypeA, fakedns.Refused, 0, false, true, 0},
		{"a referral is no answer", "a.example", dns.TypeA, fakedns.Referral, 0, false, true, 0},
		{"garbage is no answer", "a.example", dns.TypeA, fakedns.Garbage, 0, false, true, 0},
		{"a name too long", strings.Repeat("a.", 200), dns.TypeA, 0, 0, false, true, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := startDNS(t, records...)
			s.Fail(tt.ask, tt.qtype, tt.fault)
			ask := resolve
			if tt.fails {
				ask = inVain
			}
			got, err := ask(t, tt.ask, tt.qtype, s.Addr())
			if tt.fails {
				if err == nil || !errors.Is(err, ErrDNS) {
					t.Fatalf("got %+v, %v; want an error", got, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Records) != tt.records || got.NotFound != tt.notFound || got.TTL != tt.ttl || got.Authentic {
				t.Errorf("got %d records, not found %t, TTL %v, authentic %t", len(got.Records), got.NotFound, got.TTL, got.Authentic)
			}
		})
	}
}

func TestAuthentic(t *testing.T) {
	s := startDNS(t, "a.example. 60 IN A 192.0.2.1")
	s.SetAuthentic(true)
	for _, name := range []string{"a.example", "b.example"} {
		if got, err := resolve(t, name, dns.TypeA, s.Addr()); err != nil || !got.Authentic {
			t.Errorf("%s: %+v, %v; want authentic", name, got, err)
		}
	}
}

// TestSilentResolver: a resolver that says nothing is an error after about two
// seconds, and is passed by where there is another.
func TestSilentResolver(t *testing.T) {
	t.Parallel()
	silent, good := startDNS(t), startDNS(t, "a.example. 60 IN A 192.0.2.1")
	silent.Fail("", 0, fakedns.Silent)
	start := time.Now()
	_, err := resolve(t, "a.example", dns.TypeA, silent.Addr())
	if !errors.Is(err, ErrDNS) {
		t.Errorf("error %v", err)
	}
	if took := time.Since(start); took < dnsTotal-100*time.Millisecond {
		t.Errorf("gave up after %v", took)
	}
	if n := silent.Queries("a.example", dns.TypeA); n < 2 {
		t.Errorf("%d tries", n)
	}
	if got, err := resolve(t, "a.example", dns.TypeA, silent.Addr(), good.Addr()); err != nil || len(got.Records) != 1 {
		t.Errorf("with a good one beside: %+v, %v", got, err)
	}
}

// TestSeveralResolvers: a failing one is passed by at once.
func TestSeveralResolvers(t *testing.T) {
	t.Parallel()
	bad, good := startDNS(t), startDNS(t, "a.example. 60 IN A 192.0.2.1")
	closed, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, f := range []fakedns.Fault{fakedns.Servfail, fakedns.Refused, fakedns.Referral, fakedns.Garbage} {
		bad.Fail("", 0, f)
		if got, err := resolve(t, "a.example", dns.TypeA, bad.Addr(), closed.LocalAddr().String(), good.Addr()); err != nil || len(got.Records) != 1 {
			t.Errorf("fault %d: %+v, %v", f, got, err)
		}
	}
	// The first that answers counts, an NXDOMAIN too.
	bad.Fail("", 0, fakedns.NoFault)
	if got, err := resolve(t, "a.example", dns.TypeA, bad.Addr(), good.Addr()); err != nil || !got.NotFound {
		t.Errorf("%+v, %v; want not found", got, err)
	}
}

// TestSlowResolver: the first query is still listened to when the second is
// out.
func TestSlowResolver(t *testing.T) {
	t.Parallel()
	s := startDNS(t, "a.example. 60 IN A 192.0.2.1")
	s.SetDelay(1300 * time.Millisecond)
	s.Fail("", 0, fakedns.Delay)
	if got, err := resolve(t, "a.example", dns.TypeA, s.Addr()); err != nil || len(got.Records) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestLookupCancelled(t *testing.T) {
	s := startDNS(t)
	s.Fail("", 0, fakedns.Silent)
	r, err := NewResolver([]string{s.Addr()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Lookup(ctx, "a.example", dns.TypeA); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// odd is a server whose replies are made by a function.
func odd(t *testing.T, f func(q *dns.Msg) *dns.Msg) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	s := &dns.Server{PacketConn: pc, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		w.WriteMsg(f(q))
	})}
	go s.ActivateAndServe()
	<-started
	t.Cleanup(func() { s.Shutdown() })
	return pc.LocalAddr().String()
}

// TestOddReplies: a reply that is not one to our question is not believed.
func TestOddReplies(t *testing.T) {
	rr := func(line string) dns.RR {
		rr, err := dns.NewRR(line)
		if err != nil {
			t.Fatal(err)
		}
		return rr
	}
	resolver := func(q *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		m.RecursionAvailable = true
		return m
	}
	tests := []struct {
		name  string
		reply func(q *dns.Msg) *dns.Msg
		want  int // records; -1 for an error
	}{
		{"another name", func(q *dns.Msg) *dns.Msg {
			m := resolver(q)
			m.Question[0].Name = "b.example."
			return m
		}, -1},
		{"another type", func(q *dns.Msg) *dns.Msg {
			m := resolver(q)
			m.Question[0].Qtype = dns.TypeTXT
			return m
		}, -1},
		{"records of another name", func(q *dns.Msg) *dns.Msg {
			m := resolver(q)
			m.Answer = []dns.RR{rr("b.example. 60 IN A 192.0.2.1")}
			return m
		}, 0},
		{"neither recursion nor authority", func(q *dns.Msg) *dns.Msg { return new(dns.Msg).SetReply(q) }, -1},
		{"a referral that claims recursion", func(q *dns.Msg) *dns.Msg {
			m := resolver(q)
			m.Ns = []dns.RR{rr("example. 60 IN NS ns.example.")}
			return m
		}, -1},
		{"no data without SOA", resolver, 0},
		{"a query instead of a reply", func(q *dns.Msg) *dns.Msg { return q.Copy() }, -1},
		{"always truncated", func(q *dns.Msg) *dns.Msg {
			m := resolver(q)
			m.Truncated = true
			return m
		}, -1},
		{"a chain left to us", func(q *dns.Msg) *dns.Msg {
			m := resolver(q)
			if q.Question[0].Name == "a.example." {
				m.Answer = []dns.RR{rr("a.example. 60 IN CNAME b.example.")}
			} else {
				m.Answer = []dns.RR{rr("b.example. 60 IN A 192.0.2.1")}
			}
			return m
		}, 1},
		{"a chain without end left to us", func(q *dns.Msg) *dns.Msg {
			m := resolver(q)
			m.Answer = []dns.RR{rr(q.Question[0].Name + " 60 IN CNAME x" + q.Question[0].Name)}
			return m
		}, -1},
		{"a chain to no data left to us", func(q *dns.Msg) *dns.Msg {
			m := resolver(q)
			if q.Question[0].Name == "a.example." {
				m.Answer = []dns.RR{rr("a.example. 60 IN CNAME b.example.")}
			}
			return m
		}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ask := resolve
			if tt.want < 0 {
				ask = inVain
			}
			got, err := ask(t, "a.example", dns.TypeA, odd(t, tt.reply))
			if tt.want < 0 {
				if err == nil {
					t.Errorf("got %+v, want an error", got)
				}
			} else if err != nil || len(got.Records) != tt.want {
				t.Errorf("got %+v, %v; want %d records", got, err, tt.want)
			}
		})
	}
}

func TestResolvConf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	f := &resolvConf{path: path}
	look := func() []string {
		f.looked = time.Time{}
		return f.servers()
	}
	if got := look(); !slices.Equal(got, []string{"127.0.0.1:53"}) {
		t.Errorf("no file: %v", got)
	}
	write := func(text string, at time.Time) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	write("search lan\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n", now)
	if got := look(); !slices.Equal(got, []string{"192.0.2.1:53", "[2001:db8::1]:53"}) {
		t.Errorf("first: %v", got)
	}
	write("nameserver 192.0.2.2\n", now.Add(time.Second))
	if got := look(); !slices.Equal(got, []string{"192.0.2.2:53"}) {
		t.Errorf("changed: %v", got)
	}
	os.Remove(path)
	if got := look(); !slices.Equal(got, []string{"192.0.2.2:53"}) {
		t.Errorf("gone: %v", got)
	}
}
