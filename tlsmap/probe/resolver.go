package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// The patience with resolvers. Recursive resolvers answer within milliseconds or
// take seconds; a second try meets their filled cache.
const (
	dnsTry   = time.Second     // after which the next server is asked too, the first still being listened to
	dnsTotal = 2 * time.Second // for all tries over UDP
	dnsTCP   = 2 * time.Second // for the query over TCP after a truncated reply
	dnsHops  = 8               // CNAMEs followed in all
	ednsSize = 1232            // bytes; fits one packet anywhere
)

// ErrDNS is wrapped by every error of a lookup: nobody knows. That a name or a
// record does not exist is an answer and no error.
var ErrDNS = errors.New("dns lookup failed")

// Resolver asks recursive resolvers, over UDP with EDNS0, over TCP where the
// reply is truncated, and without EDNS0 where the server does not know it.
// It keeps nothing, since the resolvers have caches, but see [Resolver.Many].
type Resolver struct {
	servers func() []string
	try     time.Duration
	total   time.Duration

	slots chan struct{} // nil: no bound on the questions at a time
	cache *dnsCache     // nil: nothing is kept
}

// NewResolver makes a resolver that asks servers (HOST:PORT or HOST, port 53)
// in their order. With none it asks those of /etc/resolv.conf, read anew when it
// changes.
func NewResolver(servers []string) (*Resolver, error) {
	r := &Resolver{try: dnsTry, total: dnsTotal}
	if len(servers) == 0 {
		f := &resolvConf{path: "/etc/resolv.conf"}
		r.servers = f.servers
		return r, nil
	}
	fixed := make([]string, 0, len(servers))
	for _, s := range servers {
		addr, err := serverAddress(s)
		if err != nil {
			return nil, err
		}
		fixed = append(fixed, addr)
	}
	r.servers = func() []string { return fixed }
	return r, nil
}

func serverAddress(s string) (string, error) {
	if net.ParseIP(s) != nil {
		return net.JoinHostPort(s, "53"), nil
	}
	host, port, err := net.SplitHostPort(s)
	switch {
	case err != nil && !strings.Contains(s, ":") && s != "":
		return net.JoinHostPort(s, "53"), nil
	case err != nil || host == "" || port == "":
		return "", fmt.Errorf("resolver %q: want HOST:PORT", s)
	}
	return s, nil
}

// Servers returns the servers that are asked now, HOST:PORT each.
func (r *Resolver) Servers() []string { return slices.Clone(r.servers()) }

// Answer is what DNS says of one name and type.
type Answer struct {
	Records   []dns.RR // of the type asked for, at the end of the CNAMEs; empty: there are none
	Canonical string   // the name at the end of the CNAMEs, lower case, without the last dot
	NotFound  bool     // NXDOMAIN: the name does not exist
	Authentic bool     // the resolver validated all of it, each CNAME too (AD)
	TTL       time.Duration
}

// Addrs returns the addresses of A and AAAA records, in their order; IPv4 addresses in an
// IPv6 form are IPv4.
func (a *Answer) Addrs() []netip.Addr {
	var all []netip.Addr
	for _, rr := range a.Records {
		var addr netip.Addr
		switch rr := rr.(type) {
		case *dns.A:
			addr, _ = netip.AddrFromSlice(rr.A)
		case *dns.AAAA:
			addr, _ = netip.AddrFromSlice(rr.AAAA)
		}
		if addr.IsValid() {
			all = append(all, addr.Unmap())
		}
	}
	return all
}

// lookup follows CNAMEs to the records of a name.
func (r *Resolver) lookup(ctx context.Context, name string, qtype uint16) (*Answer, error) {
	answer := &Answer{Authentic: true, TTL: -1}
	at := strings.ToLower(dns.Fqdn(name))
	seen := []string{at}
	for {
		m, err := r.ask(ctx, at, qtype)
		if err != nil {
			return nil, fmt.Errorf("look up %s of %s: %w", dns.TypeToString[qtype], strings.TrimSuffix(at, "."), err)
		}
		answer.Authentic = answer.Authentic && m.AuthenticatedData
		for {
			var cname *dns.CNAME
			for _, rr := range m.Answer {
				if !strings.EqualFold(rr.Header().Name, at) || rr.Header().Class != dns.ClassINET {
					continue
				}
				if rr.Header().Rrtype == qtype {
					answer.Records = append(answer.Records, rr)
					answer.least(rr.Header().Ttl)
				} else if c, ok := rr.(*dns.CNAME); ok && cname == nil {
					cname = c
				}
			}
			if len(answer.Records) > 0 || cname == nil {
				break
			}
			answer.least(cname.Hdr.Ttl)
			at = strings.ToLower(cname.Target)
			if slices.Contains(seen, at) || len(seen) > dnsHops {
				return nil, fmt.Errorf("look up %s of %s: %w: CNAME loop or chain of more than %d", dns.TypeToString[qtype], name, ErrDNS, dnsHops)
			}
			seen = append(seen, at)
		}
		answer.Canonical = strings.TrimSuffix(at, ".")
		if len(answer.Records) > 0 {
			return answer, nil
		}
		soa := soaOf(m)
		switch {
		case m.Rcode == dns.RcodeNameError:
			answer.NotFound = true
		case soa == nil && len(m.Answer) > 0 && at != strings.ToLower(m.Question[0].Name):
			continue // the resolver left the end of the chain to us
		}
		if soa != nil {
			answer.least(min(soa.Hdr.Ttl, soa.Minttl)) // RFC 2308, section 5
		} else {
			answer.least(0)
		}
		return answer, nil
	}
}

func (a *Answer) least(seconds uint32) {
	if ttl := time.Duration(seconds) * time.Second; a.TTL < 0 || ttl < a.TTL {
		a.TTL = ttl
	}
}

func soaOf(m *dns.Msg) *dns.SOA {
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return soa
		}
	}
	return nil
}

func refers(m *dns.Msg) bool {
	return slices.ContainsFunc(m.Ns, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeNS })
}

// ask races the servers: the next one is asked when the one before failed or
// has been silent for a while, and the first usable reply counts.
func (r *Resolver) ask(ctx context.Context, name string, qtype uint16) (*dns.Msg, error) {
	servers := r.servers()
	if len(servers) == 0 {
		return nil, fmt.Errorf("%w: no resolver configured", ErrDNS)
	}
	// A name of up to 255 bytes on the wire; Pack would fail for more.
	if _, ok := dns.IsDomainName(name); !ok {
		return nil, fmt.Errorf("%w: not a domain name", ErrDNS)
	}
	tries := max(2, min(len(servers), 4))
	wait := min(r.try, r.total/time.Duration(tries))
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	deadline := time.Now().Add(r.total)

	type reply struct {
		m   *dns.Msg
		err error
	}
	replies := make(chan reply, tries)
	var errs []error
	next := time.NewTimer(0)
	defer next.Stop()
	for started := 0; ; {
		select {
		case <-next.C:
			if started < tries {
				server := servers[started%len(servers)]
				started++
				go func() {
					m, err := exchange(inner, server, name, qtype, deadline)
					replies <- reply{m, err}
				}()
				next.Reset(wait)
			}
		case got := <-replies:
			if got.err == nil {
				return got.m, nil
			}
			errs = append(errs, got.err)
			if len(errs) == tries {
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				return nil, fmt.Errorf("%w: %w", ErrDNS, errs[0])
			}
			if len(errs) == started {
				next.Reset(0)
			}
		}
	}
}

// exchange asks one server. An answer that says anything but "here it is" or
// "there is none" is an error.
func exchange(ctx context.Context, server, name string, qtype uint16, deadline time.Time) (m *dns.Msg, err error) {
	defer func() {
		if fault := recover(); fault != nil { // foreign input must not end the program
			m, err = nil, fmt.Errorf("%s: internal fault: %v", server, fault)
		}
	}()
	q := new(dns.Msg).SetQuestion(name, qtype)
	q.AuthenticatedData = true // asks for AD in the reply (RFC 6840, section 5.7)
	q.SetEdns0(ednsSize, false)
	m, err = roundTrip(ctx, "udp", server, q, deadline)
	if err == nil && m.Rcode != dns.RcodeSuccess && m.IsEdns0() == nil &&
		(m.Rcode == dns.RcodeFormatError || m.Rcode == dns.RcodeNotImplemented) {
		q.Extra = nil
		q.Id = dns.Id()
		m, err = roundTrip(ctx, "udp", server, q, deadline)
	}
	if err == nil && m.Truncated {
		q.Id = dns.Id()
		m, err = roundTrip(ctx, "tcp", server, q, time.Now().Add(dnsTCP))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", server, err)
	}
	switch {
	case m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError:
		return nil, fmt.Errorf("%s: %s", server, rcodeName(m.Rcode))
	case m.Truncated:
		return nil, fmt.Errorf("%s: truncated over TCP", server)
	case !m.RecursionAvailable && !m.Authoritative:
		// A referral, or the cache of a server that does not recurse for us.
		return nil, fmt.Errorf("%s: lame: neither recursion nor authority", server)
	case len(m.Answer) == 0 && !m.Authoritative && soaOf(m) == nil && refers(m):
		return nil, fmt.Errorf("%s: lame: a referral", server)
	}
	return m, nil
}

func rcodeName(rcode int) string {
	if s, ok := dns.RcodeToString[rcode]; ok {
		return s
	}
	return fmt.Sprintf("rcode %d", rcode)
}

func roundTrip(ctx context.Context, network, server string, q *dns.Msg, deadline time.Time) (*dns.Msg, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	conn.SetDeadline(deadline)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	c := &dns.Conn{Conn: conn, UDPSize: dns.MaxMsgSize - 1}
	if err := c.WriteMsg(q); err != nil {
		return nil, err
	}
	for {
		m, err := c.ReadMsg()
		switch {
		case err != nil && network == "udp" && m != nil && m.Id != q.Id:
			continue // a stray packet
		case err != nil:
			return nil, err
		case m.Id != q.Id || !m.Response:
			if network == "udp" {
				continue
			}
			return nil, errors.New("reply to another question")
		case m.Rcode == dns.RcodeFormatError && len(m.Question) == 0:
			return m, nil
		case len(m.Question) != 1 || !strings.EqualFold(m.Question[0].Name, q.Question[0].Name) ||
			m.Question[0].Qtype != q.Question[0].Qtype || m.Question[0].Qclass != dns.ClassINET:
			return nil, errors.New("reply to another question")
		}
		return m, nil
	}
}
