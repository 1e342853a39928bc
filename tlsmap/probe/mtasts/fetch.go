package mtasts

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/postseal/postseal/tlsmap/probe"
)

// The limits of a fetch (RFC 8461, section 3.3).
const (
	fetchTime    = time.Minute      // for all of it, addresses that do not answer included
	connectTime  = 10 * time.Second // for the connection to one address
	maxAddresses = 4                // tried, the families taking turns
	maxHeader    = 16 << 10         // bytes
	policyPath   = "/.well-known/mta-sts.txt"
)

// Fetcher asks DNS and policy hosts. It keeps nothing.
type Fetcher struct {
	resolver *probe.Resolver
	roots    *x509.CertPool
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	perHost  int

	mu    sync.Mutex
	gates map[netip.Addr]*gate
}

// gate is the slots of one address, kept while somebody holds or wants one.
type gate struct {
	slots chan struct{}
	users int
}

// NewFetcher makes a fetcher. roots nil are those of the system; dial nil is a plain
// TCP connection. At most perHost connections are made to one address at a time;
// 0 is 4.
func NewFetcher(resolver *probe.Resolver, roots *x509.CertPool, dial func(ctx context.Context, network, address string) (net.Conn, error), perHost int) *Fetcher {
	if dial == nil {
		dial = (&net.Dialer{KeepAlive: -1}).DialContext
	}
	if perHost == 0 {
		perHost = 4
	}
	return &Fetcher{resolver: resolver, roots: roots, dial: dial, perHost: perHost, gates: make(map[netip.Addr]*gate)}
}

// Record looks up the id that a domain publishes, and for how long that, or that
// there is none, counts. An error that wraps [ErrNoRecord] says that there is
// none; every other, that nobody knows.
func (f *Fetcher) Record(ctx context.Context, domain string) (id string, ttl time.Duration, err error) {
	name := "_mta-sts." + domain
	if _, ok := dns.IsDomainName(name); !ok || len(name) > 253 {
		return "", 0, fmt.Errorf("%w: the name of the domain leaves no room for it", ErrNoRecord)
	}
	a, err := f.resolver.Lookup(ctx, name, dns.TypeTXT)
	if err != nil {
		return "", 0, err
	}
	var records []string
	for _, rr := range a.Records {
		if txt, ok := rr.(*dns.TXT); ok {
			records = append(records, strings.Join(txt.Txt, ""))
		}
	}
	id, err = ParseRecord(records)
	return id, max(0, a.TTL), err
}

// Policy fetches the text of a domain's policy, of at most [MaxPolicy] bytes, and
// reads it. It takes a minute at most.
//
// It goes to port 443 alone, shows no cookie, keeps no connection, follows no
// redirect, and asks no proxy: what comes must come from the policy host itself,
// under a certificate that is valid for it. Addresses are tried in turn until one
// answers the request.
func (f *Fetcher) Policy(ctx context.Context, domain string) (*Policy, []byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, fetchTime, errors.New("took longer than a minute"))
	defer cancel()
	host := "mta-sts." + domain
	addresses, err := f.addresses(ctx, host)
	if err != nil {
		return nil, nil, err
	}
	var first error
	for _, addr := range addresses {
		text, answered, err := f.get(ctx, host, addr)
		if err == nil {
			p, err := ParsePolicy(text)
			return p, text, err
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		err = fmt.Errorf("%s[%s]: %w", host, addr, err)
		if answered || ctx.Err() != nil {
			return nil, nil, err
		}
		if first == nil {
			first = err
		}
	}
	return nil, nil, first
}

// addresses returns up to maxAddresses of a host, the families taking turns.
func (f *Fetcher) addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	if len(host) > 253 {
		return nil, fmt.Errorf("%.40s…: the name is too long", host)
	}
	types := [...]uint16{dns.TypeAAAA, dns.TypeA}
	var lists [len(types)][]netip.Addr
	var errs [len(types)]error
	var wg sync.WaitGroup
	for i, t := range types {
		wg.Go(func() {
			a, err := f.resolver.Lookup(ctx, host, t)
			if err != nil {
				errs[i] = err
				return
			}
			for _, addr := range a.Addrs() {
				if !addr.IsUnspecified() && !addr.IsMulticast() {
					lists[i] = append(lists[i], addr)
				}
			}
		})
	}
	wg.Wait()
	var found []netip.Addr
	for i := range max(len(lists[0]), len(lists[1])) {
		for _, l := range lists {
			if i < len(l) && len(found) < maxAddresses {
				found = append(found, l[i])
			}
		}
	}
	if len(found) > 0 {
		return found, nil
	}
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("%s has no address", host)
}

// get asks one address for the text. answered reports that the host answered the
// request, and so that no other address need be asked.
func (f *Fetcher) get(ctx context.Context, host string, addr netip.Addr) (text []byte, answered bool, err error) {
	leave, err := f.enter(ctx, addr)
	if err != nil {
		return nil, false, err
	}
	defer leave()
	conn, err := f.connect(ctx, addr)
	if err != nil {
		return nil, false, err
	}
	defer conn.Close() // before the slot is free again; the transport closes when it likes
	t := &http.Transport{
		DialContext:            func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		TLSClientConfig:        &tls.Config{ServerName: host, RootCAs: f.roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    connectTime,
		DisableKeepAlives:      true,
		DisableCompression:     true, // 64 KiB are meant as sent
		MaxResponseHeaderBytes: maxHeader,
	}
	defer t.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+policyPath, nil)
	if err != nil {
		return nil, false, err
	}
	r.Header.Set("User-Agent", "Postseal")
	// RoundTrip knows neither redirects nor cookies.
	res, err := t.RoundTrip(r)
	if err != nil {
		return nil, false, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		if to := res.Header.Get("Location"); to != "" {
			return nil, true, fmt.Errorf("status %d, a redirect, which is not followed", res.StatusCode)
		}
		return nil, true, fmt.Errorf("status %d: want 200", res.StatusCode)
	}
	if kind, _, err := mime.ParseMediaType(res.Header.Get("Content-Type")); err != nil || kind != "text/plain" {
		return nil, true, fmt.Errorf("content type %.80q: want text/plain", res.Header.Get("Content-Type"))
	}
	if text, err = io.ReadAll(io.LimitReader(res.Body, MaxPolicy+1)); err != nil {
		return nil, true, err
	}
	if len(text) > MaxPolicy {
		return nil, true, fmt.Errorf("longer than %d bytes", MaxPolicy)
	}
	return text, true, nil
}

func (f *Fetcher) connect(ctx context.Context, addr netip.Addr) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	return f.dial(ctx, "tcp", netip.AddrPortFrom(addr, 443).String())
}

// enter waits for a slot of an address. Many domains share a policy host.
func (f *Fetcher) enter(ctx context.Context, addr netip.Addr) (leave func(), err error) {
	f.mu.Lock()
	g := f.gates[addr]
	if g == nil {
		g = &gate{slots: make(chan struct{}, f.perHost)}
		f.gates[addr] = g
	}
	g.users++
	f.mu.Unlock()
	done := func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if g.users--; g.users == 0 {
			delete(f.gates, addr)
		}
	}
	select {
	case g.slots <- struct{}{}:
		return func() { <-g.slots; done() }, nil
	case <-ctx.Done():
		done()
		return nil, ctx.Err()
	}
}
