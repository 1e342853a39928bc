package probe

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/postseal/postseal/internal/lab/fakedns"
	"github.com/postseal/postseal/internal/lab/fakesmtp"
)

// world is a small internet: a DNS server and mail hosts behind addresses that
// nothing routes.
type world struct {
	t   *testing.T
	dns *fakedns.Server
	ca  *fakesmtp.CA

	mu    sync.Mutex
	hosts map[netip.AddrPort]string // to the real address; "" for no route
	dials atomic.Int32
	now   atomic.Int32 // sessions going on
	most  atomic.Int32
}

var bed struct { // shared by all tests: keys take time
	once sync.Once
	ca   *fakesmtp.CA
	err  error
}

func newWorld(t *testing.T, records ...string) *world {
	t.Helper()
	bed.once.Do(func() { bed.ca, bed.err = fakesmtp.NewCA("") })
	if bed.err != nil {
		t.Fatal(bed.err)
	}
	w := &world{t: t, ca: bed.ca, hosts: make(map[netip.AddrPort]string)}
	var err error
	if w.dns, err = fakedns.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.dns.Close() })
	w.add(records...)
	return w
}

func (w *world) add(records ...string) {
	w.t.Helper()
	if err := w.dns.Add(records...); err != nil {
		w.t.Fatal(err)
	}
}

// cert issues a certificate; without names it is for no particular host.
func (w *world) cert(o fakesmtp.CertOptions) *tls.Certificate {
	w.t.Helper()
	c, err := w.ca.Issue(o)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// host starts a mail host at a made-up address, port 25 unless given.
func (w *world) host(addr string, b fakesmtp.Behaviour) *fakesmtp.Server {
	w.t.Helper()
	s, err := fakesmtp.Start("127.0.0.1:0", b)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { s.Close() })
	w.route(addr, s.Addr())
	return s
}

func (w *world) route(addr, to string) {
	w.t.Helper()
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		a, err := netip.ParseAddr(addr)
		if err != nil {
			w.t.Fatal(err)
		}
		at = netip.AddrPortFrom(a, 25)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hosts[at] = to
}

// good is a host with TLS and a certificate for name.
func (w *world) good(name string) fakesmtp.Behaviour {
	return fakesmtp.Behaviour{Name: name, STARTTLS: true, Certificate: w.cert(fakesmtp.CertOptions{Names: []string{name}})}
}

func (w *world) dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.dials.Add(1)
	w.mu.Lock()
	to, ok := w.hosts[netip.MustParseAddrPort(address)]
	w.mu.Unlock()
	switch {
	case !ok:
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	case to == "":
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ENETUNREACH}
	}
	n := w.now.Add(1)
	for {
		m := w.most.Load()
		if n <= m || w.most.CompareAndSwap(m, n) {
			break
		}
	}
	c, err := new(net.Dialer).DialContext(ctx, network, to)
	if err != nil {
		w.now.Add(-1)
		return nil, err
	}
	return &countedConn{Conn: c, w: w}, nil
}

type countedConn struct {
	net.Conn
	w    *world
	once sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.w.now.Add(-1) })
	return c.Conn.Close()
}

func (w *world) resolver() *Resolver {
	w.t.Helper()
	r, err := NewResolver([]string{w.dns.Addr()})
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// prober looks into the world with little patience.
func (w *world) prober(change ...func(*Options)) *Prober {
	w.t.Helper()
	o := Options{
		Resolver: w.resolver(), HELO: "us.example", Timeout: 3 * time.Second,
		Roots: w.ca.Pool(), Dial: w.dial,
	}
	for _, f := range change {
		f(&o)
	}
	p, err := NewProber(o)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func impatient(o *Options) { o.Timeout = 200 * time.Millisecond }

// raw is a host that says what script says, one element for each line that it
// reads, the first at once; it then keeps quiet.
func (w *world) raw(addr string, script ...string) {
	w.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { ln.Close() })
	w.route(addr, ln.Addr().String())
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 4096)
				for i, s := range script {
					if i > 0 {
						if _, err := c.Read(buf); err != nil {
							return
						}
					}
					fmt.Fprint(c, s)
				}
				for {
					if _, err := c.Read(buf); err != nil {
						return
					}
				}
			}()
		}
	}()
}
