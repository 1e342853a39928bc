package probe

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// Starter returns a function that connects to one address of an MX host of dest
// and speaks SMTP up to the reply to STARTTLS: what its connection reads next is
// TLS. It keeps to the limits on sessions; the slot is free again when the function
// returns, so its callers go one after the other.
func (p *Prober) Starter(dest, host string, addr netip.Addr) func(context.Context) (net.Conn, error) {
	d, _ := parseDestination(Key(dest))
	t := target{host: host, addr: addr, port: cmp.Or(d.port, p.o.Port)}
	return func(ctx context.Context) (conn net.Conn, err error) {
		_, ok := p.hosts.do(ctx, t, 0, 0, func() AddressResult {
			conn, err = p.startTLS(ctx, t)
			return AddressResult{State: policy.Unknown} // not to be remembered
		})
		if !ok {
			return nil, errors.New("too busy")
		}
		return conn, err
	}
}

func (p *Prober) startTLS(ctx context.Context, t target) (net.Conn, error) {
	dialing, cancel := context.WithTimeout(ctx, p.o.Timeout)
	defer cancel()
	conn, err := p.o.Dial(dialing, "tcp", netip.AddrPortFrom(t.addr, t.port).String())
	if err != nil {
		return nil, fmt.Errorf("connect: %s", reason(err))
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	c := newClient(conn, p.o.Timeout, time.Now().Add(3*p.o.Timeout))
	if err := c.startTLS(p.o.HELO); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// startTLS is the session in plaintext, of a host that is known to offer STARTTLS.
func (c *client) startTLS(helo string) error {
	for _, line := range []string{"", "EHLO " + helo, "STARTTLS"} {
		var got reply
		var err error
		what := line
		if line == "" {
			what = "greeting"
			got, err = c.read()
		} else {
			got, err = c.command(line)
		}
		if err != nil {
			return fmt.Errorf("%s: %s", what, reason(err))
		}
		if got.class() != 2 {
			return fmt.Errorf("%s: %s", what, got)
		}
	}
	if c.r.Buffered() > 0 {
		return errEarly
	}
	return nil
}

// Describe writes down a chain that a host of r showed elsewhere than in the session,
// leaf first, and holds it against the host's TLSA records; what it says of these is
// as in [AddressResult].
func (p *Prober) Describe(r *Result, mx *MXResult, chain []*x509.Certificate) (c *Certificate, dane string, tlsa []TLSAMatch) {
	a := AddressResult{Version: "any"}
	for _, cert := range chain {
		a.Sent = append(a.Sent, cert.Raw)
	}
	now := p.o.Now()
	r.matchTLSA(mx, &a, now)
	return describe(chain, p.o.Roots, now), a.DANE, a.TLSA
}

// CheckDestination tells a destination that can be looked at from what is none: a
// domain, domain:port, [host], [host]:port or an address literal.
func CheckDestination(dest string) error {
	_, err := parseDestination(Key(dest))
	return err
}
