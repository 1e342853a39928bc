package tlsrpt

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"
)

// Poster sends reports by HTTPS (RFC 8460, section 5.4). Who publishes a record
// says where to, so it connects to public addresses alone, follows no redirect and
// uses no proxy.
//
// The RFC allows certificates that cannot be verified. They are refused here, as a
// report says which addresses we send from; the domain may ask for mail too.
type Poster struct {
	Resolver Resolver
	Roots    *x509.CertPool // nil: the system's
	// Allow reports whether an address may be connected to; nil: [Public].
	Allow func(netip.Addr) bool

	timeout time.Duration // for tests; 0: postTimeout
}

const (
	postTimeout = time.Minute // for all of it
	postDial    = 10 * time.Second
	postReply   = 16 << 10 // bytes of a response that are read
)

// Post sends a report. nil means that the server said that it took it (2xx).
func (p *Poster) Post(ctx context.Context, url string, compressed []byte) error {
	timeout := p.timeout
	if timeout == 0 {
		timeout = postTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	transport := &http.Transport{
		Proxy: nil, DialContext: p.dial, DisableKeepAlives: true, DisableCompression: true,
		TLSClientConfig:     &tls.Config{RootCAs: p.Roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: postDial, MaxResponseHeaderBytes: postReply, ForceAttemptHTTP2: true,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(compressed))
	if err != nil {
		return err
	}
	if req.URL.Scheme != "https" {
		return errors.New("not https")
	}
	req.Header.Set("Content-Type", "application/tlsrpt+gzip")
	req.Header.Set("User-Agent", "Postseal")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	io.CopyN(io.Discard, resp.Body, postReply)
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("the server says %d", resp.StatusCode)
	}
	return nil
}

// dial connects to the first address of a host that answers.
func (p *Poster) dial(ctx context.Context, _, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	addrs, err := p.addresses(ctx, host)
	if err != nil {
		return nil, err
	}
	allow := p.Allow
	if allow == nil {
		allow = Public
	}
	var errs []error
	for _, a := range addrs {
		if !allow(a) {
			errs = append(errs, fmt.Errorf("%s is no public address", a))
			continue
		}
		d := net.Dialer{Timeout: postDial}
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(a.String(), port))
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return nil, fmt.Errorf("%s has no address", host)
	}
	return nil, errors.Join(errs...)
}

// addresses returns a handful at most.
func (p *Poster) addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	const most = 4
	var all []netip.Addr
	var failed error
	for _, t := range [...]uint16{dns.TypeA, dns.TypeAAAA} {
		answer, err := p.Resolver.Lookup(ctx, host, t)
		if err != nil {
			failed = err
			continue
		}
		addrs := answer.Addrs()
		all = append(all, addrs[:min(most, len(addrs))]...)
	}
	if len(all) == 0 {
		return nil, failed
	}
	return all, nil
}

// Blocks that are not the public internet, beyond what netip knows (the IANA
// registries of special-purpose addresses).
var (
	special4 = prefixes("0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "240.0.0.0/4")
	special6 = prefixes("2001::/23", "2002::/16", "3fff::/20")
	global6  = netip.MustParsePrefix("2000::/3")
	nat64    = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052: an IPv4 address in the last four bytes
)

func prefixes(list ...string) (all []netip.Prefix) {
	for _, s := range list {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

// Public reports whether an address is of the public internet: not of this host,
// not private, not one that leads to such by translation.
func Public(a netip.Addr) bool {
	a = a.Unmap()
	within := func(p netip.Prefix) bool { return p.Contains(a) }
	switch {
	case !a.IsValid() || a.Zone() != "":
		return false
	case a.Is4():
		return a.IsGlobalUnicast() && !a.IsPrivate() && !slices.ContainsFunc(special4, within)
	case nat64.Contains(a):
		b := a.As16()
		return Public(netip.AddrFrom4([4]byte(b[12:])))
	}
	return global6.Contains(a) && !slices.ContainsFunc(special6, within)
}
