package check

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/postseal/postseal/internal/lab/fakedns"
	"github.com/postseal/postseal/internal/lab/fakesmtp"
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/check/scan"
	"github.com/postseal/postseal/tlsmap/probe"
)

// world is a small internet on loopback: a DNS server, and mail hosts behind
// addresses that nothing routes.
type world struct {
	t        *testing.T
	dns      *fakedns.Server
	ca       *fakesmtp.CA
	mu       sync.Mutex
	hosts    map[string]string // "address:25" to the real one
	policies policies
}

// policies are MTA-STS policies by domain.
type policies map[string]*probe.STSResult

func (p policies) Policy(_ context.Context, domain string) *probe.STSResult {
	if r := p[domain]; r != nil {
		c := *r
		return &c
	}
	return &probe.STSResult{State: policy.STSNone}
}

func (p policies) Refresh(ctx context.Context, domain string) *probe.STSResult {
	return p.Policy(ctx, domain)
}

func newWorld(t *testing.T, records ...string) *world {
	t.Helper()
	w := &world{t: t, hosts: map[string]string{}, policies: policies{}}
	var err error
	if w.dns, err = fakedns.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.dns.Close() })
	if w.ca, err = fakesmtp.NewCA(""); err != nil {
		t.Fatal(err)
	}
	if err := w.dns.Add(records...); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) cert(o fakesmtp.CertOptions) *tls.Certificate {
	w.t.Helper()
	c, err := w.ca.Issue(o)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// host starts a mail host at a made-up address.
func (w *world) host(addr string, b fakesmtp.Behaviour) {
	w.t.Helper()
	s, err := fakesmtp.Start("127.0.0.1:0", b)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { s.Close() })
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hosts[netip.AddrPortFrom(netip.MustParseAddr(addr), 25).String()] = s.Addr()
}

// good is a host with TLS and a certificate for name.
func (w *world) good(name string) fakesmtp.Behaviour {
	return fakesmtp.Behaviour{Name: name, STARTTLS: true, Certificate: w.cert(fakesmtp.CertOptions{Names: []string{name}})}
}

func (w *world) checker() *Checker {
	w.t.Helper()
	resolver, err := probe.NewResolver([]string{w.dns.Addr()})
	if err != nil {
		w.t.Fatal(err)
	}
	p, err := probe.NewProber(probe.Options{
		Resolver: resolver, HELO: "us.example", Timeout: 3 * time.Second, Roots: w.ca.Pool(), STS: w.policies,
		Trusts: func(string) bool { return true },
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			w.mu.Lock()
			to := w.hosts[address]
			w.mu.Unlock()
			if to == "" {
				return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
			}
			return new(net.Dialer).DialContext(ctx, network, to)
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return New(Options{Prober: p, Resolver: resolver, Scan: scan.Options{Timeout: 3 * time.Second}})
}
