// Package probe finds out how destinations take mail: whether TLS works there,
// is absent or broken, or whether nobody can say.
//
// The way of a question: a server asks the [Manager] for the posture of a
// destination and gets what is known at once, from memory. What is unknown or
// stale is queued; a worker lets the [Prober] look: the [Resolver] finds the MX
// hosts and their addresses, a short SMTP session with each tries STARTTLS, and
// one verdict comes out. The Manager remembers it, with the time when TLS last
// worked and the time when it was lost, saves it through the [Store] and looks
// again before it is stale. The fallback does not trust the memory: it has the
// Manager look now.
//
// In doubt the answer is Unknown or Unreachable, which never seals and never
// weakens: failing DNS, a 4xx, a refused connection and our own limits are never
// "no TLS".
//
// The package never sends mail and decides nothing.
package probe

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/policyd/policy"
)

// The limits of one look. What lies beyond them is not looked at and counts as
// unknown where nothing else works.
const (
	maxHosts     = 10 // MX hosts
	maxAddresses = 8  // of each host, unless Options say so
)

// Options say how a Prober looks. The zero value of each has a default.
type Options struct {
	Resolver    *Resolver      // default: that of /etc/resolv.conf
	HELO        string         // our name in EHLO; default: the host's name
	TLSFloor    uint16         // least version that works; default tls.VersionTLS12
	Timeout     time.Duration  // for each step of a session; default 10 s
	MaxParallel int            // sessions at a time, in the background and as many for Look and Probe; default 64
	MaxPerHost  int            // sessions at a time with one address; default 2
	MaxShared   int            // sessions remembered, for the domains that share a host; default 10,000 of about 2 kB
	MaxHostAddr int            // addresses of one host that are looked at; default 8
	Roots       *x509.CertPool // default: the system's
	Port        uint16         // default 25; of destinations that name none

	// STS knows MTA-STS policies; nil: they are not looked at.
	STS STSSource
	// Trusts reports whether a resolver (HOST:PORT) is trusted to have validated
	// what carries the AD bit; nil: DANE is off. DANE needs it of every resolver.
	Trusts func(server string) bool

	// Bind is the local address of connections, by family; zero: the system's
	// choice. With BindOrAny a connection that can't be made from there is made from
	// any address; else the host counts as unreachable.
	Bind      []netip.Addr
	BindOrAny bool
	// Skip are the families whose addresses are not looked up and not tried: the mail
	// server does not use them. SkipIPv4 and SkipIPv6 exclude each other.
	SkipIPv4, SkipIPv6 bool
	// PreferIPv4 puts IPv4 addresses first, as far as limits cut.
	PreferIPv4 bool
	// Dial connects to an address and port; default: a plain TCP connection.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Looked, where set, is called after every look at a destination's hosts, with the
	// sessions that it had itself: not those whose result it shares with others.
	// It must neither block nor change anything.
	Looked func(r *Result, had []Session)

	Log        *slog.Logger          // default: none
	Registerer prometheus.Registerer // default: no metrics
	Now        func() time.Time      // default time.Now
}

// Prober looks at destinations. It remembers nothing but the sessions of the
// last minutes.
type Prober struct {
	o       Options
	suites  []uint16
	hosts   *hosts
	metrics *metrics

	sessions  atomic.Int64
	distrusts atomic.Bool // at the last look a resolver was not trusted
}

// Sessions is how many SMTP sessions have been begun.
func (p *Prober) Sessions() int64 { return p.sessions.Load() }

// NewProber makes a prober. It fails where the metrics are registered already or
// there is no resolver.
func NewProber(o Options) (*Prober, error) {
	if o.Resolver == nil {
		r, err := NewResolver(nil)
		if err != nil {
			return nil, err
		}
		o.Resolver = r
	}
	if o.HELO == "" {
		o.HELO = localName()
	}
	if err := checkHELO(o.HELO); err != nil {
		return nil, err
	}
	if o.SkipIPv4 && o.SkipIPv6 {
		return nil, errors.New("no address family is left")
	}
	o.TLSFloor = cmp.Or(o.TLSFloor, tls.VersionTLS12)
	o.Timeout = cmp.Or(o.Timeout, 10*time.Second)
	o.MaxParallel = cmp.Or(o.MaxParallel, 64)
	o.MaxPerHost = cmp.Or(o.MaxPerHost, 2)
	o.MaxShared = cmp.Or(o.MaxShared, 10_000)
	o.MaxHostAddr = cmp.Or(o.MaxHostAddr, maxAddresses)
	o.Port = cmp.Or(o.Port, 25)
	if o.Dial == nil {
		o.Dial = Dialer(o.Bind, o.BindOrAny)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register the metrics of the prober: %w", err)
	}
	p := &Prober{o: o, suites: cipherSuites(), hosts: newHosts(o.MaxParallel, o.MaxPerHost, o.MaxShared), metrics: m}
	p.distrusts.Store(p.Distrusted() != "") // of that who starts us speaks
	return p, nil
}

func localName() string {
	if h, err := os.Hostname(); err == nil && checkName(h) == nil {
		return h
	}
	return "localhost"
}

// checkHELO keeps a name from breaking out of the command it is put into.
func checkHELO(name string) error {
	for i := 0; i < len(name); i++ {
		if name[i] <= ' ' || name[i] >= 0x7f {
			return fmt.Errorf("EHLO name %q: want a host name", name)
		}
	}
	return nil
}

// Dialer returns a function that makes TCP connections from these local addresses, one of
// each family. orAny is Options.BindOrAny.
func Dialer(bind []netip.Addr, orAny bool) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		d := net.Dialer{KeepAlive: -1}
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return nil, err
		}
		for _, b := range bind {
			if b.Is4() == to.Addr().Is4() {
				d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(b, 0))
			}
		}
		conn, err := d.DialContext(ctx, network, address)
		if err != nil && orAny && d.LocalAddr != nil && CheckBind(d.LocalAddr.(*net.TCPAddr).AddrPort().Addr()) != nil {
			d.LocalAddr = nil
			return d.DialContext(ctx, network, address)
		}
		return conn, err
	}
}

// CheckBind reports why connections can't be made from a local address.
func CheckBind(a netip.Addr) error {
	ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	if err != nil {
		return fmt.Errorf("no connection can be made from %s: %s", a, reason(err))
	}
	return ln.Close()
}

// Probe looks at a destination now: a domain, domain:port, [host], [host]:port
// or an address literal such as [192.0.2.1]. It never returns nil: what goes wrong
// is in the State and Reason of the result. It takes as long as the slowest host,
// at most about a minute, and ends with ctx.
func (p *Prober) Probe(ctx context.Context, dest string) *Result {
	return p.probe(ctx, dest, 0)
}

// ProbeShared is Probe for one of many destinations, most of which share their mail
// hosts: a session with the same host and address that is not older than the TTL
// of the address (10 minutes at least, 6 hours at most) counts for this one too.
func (p *Prober) ProbeShared(ctx context.Context, dest string) *Result {
	return p.probe(ctx, dest, byTTL)
}

// probe is Probe that accepts the result of a session that is not older than
// reuse.
func (p *Prober) probe(ctx context.Context, dest string, reuse time.Duration) *Result {
	start := time.Now()
	r := &Result{Dest: Key(dest), MX: []MXResult{}, Checked: p.o.Now().UTC()}
	p.look(ctx, r, reuse)
	if ctx.Err() != nil && r.State == policy.Unknown {
		r.Reason = "not looked at to the end"
	}
	r.Reason = clean(r.Reason)
	took := time.Since(start)
	r.DurationMS = took.Milliseconds()
	p.metrics.observe(r.State, took)
	p.o.Log.Debug("looked at a destination", "dest", r.Dest, "state", r.State, "reason", r.Reason, "duration", took)
	return r
}

// Discover is Probe without its sessions: DNS and MTA-STS alone.
func (p *Prober) Discover(ctx context.Context, dest string) *Result {
	r := &Result{Dest: Key(dest), MX: []MXResult{}, Checked: p.o.Now().UTC()}
	p.discover(ctx, r)
	return r
}

func (p *Prober) look(ctx context.Context, r *Result, reuse time.Duration) {
	d, more := p.discover(ctx, r)
	if !more {
		return
	}
	port := cmp.Or(d.port, p.o.Port)
	var ran sessions
	var wg sync.WaitGroup
	for i := range r.MX {
		mx := &r.MX[i]
		for j := range mx.Addresses {
			a := &mx.Addresses[j]
			if a.Error != "" {
				continue
			}
			t := target{host: mx.Host, addr: a.Addr, port: port}
			if mx.TLSA.secure() {
				t.host, t.dane = mx.TLSA.Base, true
			}
			wg.Go(func() {
				got, ok := p.hosts.do(ctx, t, reuse, time.Duration(mx.TTL)*time.Second, func() AddressResult {
					ran.add(mx, a)
					return p.session(ctx, t)
				})
				if !ok {
					got = AddressResult{Addr: t.addr, State: policy.Unknown, Error: "not looked at: too busy"}
				}
				r.matchTLSA(mx, &got, p.o.Now())
				*a = got
			})
		}
	}
	wg.Wait()
	r.State = r.Judge(policy.TLSParams{}, p.o.TLSFloor)
	r.Reason = r.explain()
	if p.o.Looked != nil {
		p.o.Looked(r, ran.list)
	}
}

// mxHosts fills in the hosts of MX records, by preference and then name. Postfix
// shuffles equal preferences, which makes no difference where any host will do.
func (r *Result) mxHosts(records []dns.RR) {
	for _, rr := range records {
		mx, ok := rr.(*dns.MX)
		if !ok {
			continue
		}
		host := strings.ToLower(strings.TrimSuffix(mx.Mx, "."))
		if slices.ContainsFunc(r.MX, func(m MXResult) bool { return m.Host == host }) {
			continue
		}
		r.MX = append(r.MX, MXResult{Host: host, Preference: mx.Preference})
	}
	if len(r.MX) == 1 && r.MX[0].Host == "" {
		r.NullMX, r.MX = true, []MXResult{}
	}
	slices.SortFunc(r.MX, func(a, b MXResult) int {
		return cmp.Or(cmp.Compare(a.Preference, b.Preference), strings.Compare(a.Host, b.Host))
	})
}

// addresses looks the hosts up, all at once.
func (p *Prober) addresses(ctx context.Context, r *Result, least func(*Answer)) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	extra := make([]int, len(r.MX))
	for i := range r.MX {
		mx := &r.MX[i]
		if mx.Host == "" && len(mx.Addresses) > 0 {
			continue // an address literal
		}
		mx.Addresses = []AddressResult{}
		if err := checkName(mx.Host); err != nil {
			mx.Host, mx.Error = clean(mx.Host), err.Error()
			continue
		}
		wg.Go(func() {
			found, answers := p.hostAddresses(ctx, mx)
			mu.Lock()
			defer mu.Unlock()
			for _, a := range answers {
				least(a)
				if seconds := ttlSeconds(a); seconds > 0 && (mx.TTL == 0 || seconds < mx.TTL) {
					mx.TTL = seconds
				}
			}
			if extra[i] = len(found) - p.o.MaxHostAddr; extra[i] > 0 {
				found = found[:p.o.MaxHostAddr]
			}
			for _, addr := range found {
				a := AddressResult{Addr: addr, State: policy.Unreachable}
				if addr.IsUnspecified() || addr.IsMulticast() {
					a.Error = "not the address of a host"
				}
				mx.Addresses = append(mx.Addresses, a)
			}
		})
	}
	wg.Wait()
	for _, n := range extra {
		r.Unprobed += max(0, n)
	}
}

// ttlSeconds is 0 where there is no record.
func ttlSeconds(a *Answer) int {
	if a == nil || len(a.Records) == 0 {
		return 0
	}
	return int(a.TTL / time.Second)
}

// hostAddresses returns the addresses of a host, the families taking turns. As
// with Postfix a family whose lookup fails counts for nothing where the other has
// addresses; else it sets DNSFailed.
func (p *Prober) hostAddresses(ctx context.Context, mx *MXResult) ([]netip.Addr, []*Answer) {
	types := p.families()
	answers := make([]*Answer, len(types))
	errs := make([]error, len(types))
	var wg sync.WaitGroup
	for i, t := range types {
		wg.Go(func() { answers[i], errs[i] = p.o.Resolver.Lookup(ctx, mx.Host, t) })
	}
	wg.Wait()
	lists := make([][]netip.Addr, len(types))
	have, authentic := false, true
	for i, a := range answers {
		if a == nil {
			continue
		}
		if a.Canonical != mx.Host {
			mx.Canonical = a.Canonical
		}
		if len(a.Records) > 0 { // Postfix looks at the addresses that there are
			have, authentic = true, authentic && a.Authentic
		}
		for _, addr := range a.Addrs() {
			if !slices.Contains(lists[i], addr) {
				lists[i] = append(lists[i], addr)
			}
		}
		slices.SortFunc(lists[i], netip.Addr.Compare)
	}
	mx.Authentic = have && authentic
	var found []netip.Addr
	for i, more := 0, true; more; i++ {
		more = false
		for _, l := range lists {
			if i < len(l) {
				found, more = append(found, l[i]), true
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		mx.DNSFailed = len(found) == 0
		for _, e := range errs {
			if e != nil {
				mx.Error = clean(e.Error())
				break
			}
		}
	} else if len(found) == 0 {
		mx.Error = "no address"
		switch {
		case answers[0].NotFound:
			mx.Error = noSuchHost
		case p.o.SkipIPv4:
			mx.Error = "no IPv6 address, and the mail server does not use IPv4"
		case p.o.SkipIPv6:
			mx.Error = "no IPv4 address, and the mail server does not use IPv6"
		}
	}
	return found, answers
}

const noSuchHost = "no such host"

// families are the record types of the addresses that are tried, the first before the
// others.
func (p *Prober) families() []uint16 {
	switch {
	case p.o.SkipIPv6:
		return []uint16{dns.TypeA}
	case p.o.SkipIPv4:
		return []uint16{dns.TypeAAAA}
	case p.o.PreferIPv4:
		return []uint16{dns.TypeA, dns.TypeAAAA}
	}
	return []uint16{dns.TypeAAAA, dns.TypeA}
}

// explain names the host that settled the verdict.
func (r *Result) explain() string {
	proof := policy.ProofTLS(r.Domain, policy.TLSParams{}, r.published())
	if r.State == policy.Unknown && proof.Wait != "" {
		return proof.Wait
	}
	for i := range r.MX {
		mx := &r.MX[i]
		if r.State == policy.Unknown && mx.DNSFailed {
			return mx.Error
		}
		if r.State == policy.Unknown && proof.DANE && mx.TLSA != nil && mx.TLSA.State == policy.DANEFailed {
			return mx.Host + ": " + mx.TLSA.Error
		}
		for j := range mx.Addresses {
			a := &mx.Addresses[j]
			at := "[" + a.Addr.String() + "]"
			if mx.Host != "" {
				at = mx.Host + at
			}
			why := r.unproven(&proof, mx, a)
			switch {
			case r.State == policy.Broken && a.State == policy.Works && why != "":
				return at + ": " + why
			case a.State != r.State || a.State == policy.Works && why != "" || proof.DANE && daneStateOf(mx, a) == daneNone:
			case a.State == policy.Works:
				return at + ": " + a.Version
			default:
				return at + ": " + a.Error
			}
		}
	}
	if r.State == policy.Unknown && r.Unprobed > 0 {
		return fmt.Sprintf("none of the hosts looked at works, and %d more were not looked at", r.Unprobed)
	}
	for i := range r.MX {
		if r.MX[i].Error != "" {
			return r.MX[i].Host + ": " + r.MX[i].Error
		}
	}
	if proof.DANE {
		return "no host with TLSA records (DANE) answers"
	}
	return "no host answers"
}

// unproven says what a host with TLS does not show of what the destination
// publishes; "" where it shows all.
func (r *Result) unproven(proof *policy.Proof, mx *MXResult, a *AddressResult) string {
	switch {
	case proof.DANE && daneStateOf(mx, a) == daneNone:
		return "no TLSA records (DANE), as other hosts have"
	case proof.DANE && a.DANE != daneMatches:
		return "DANE: " + a.DANE
	case proof.DANE || r.STS == nil || r.STS.State != policy.STSEnforce:
		return ""
	case mx.STSMatch != nil && !*mx.STSMatch:
		return "the MTA-STS policy does not name this host"
	case a.Cert == nil:
		return "MTA-STS demands a certificate"
	case !a.Cert.Verified:
		return "MTA-STS: " + a.Cert.VerifyError
	}
	for _, n := range a.Cert.Names {
		if matches(n, proof.TLSParams, mx.Host, r.Domain) {
			return ""
		}
	}
	return "MTA-STS: the certificate is for another name"
}
