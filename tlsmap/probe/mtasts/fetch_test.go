package mtasts

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/postseal/postseal/internal/lab/fakedns"
	"github.com/postseal/postseal/internal/lab/fakesmtp"
	"github.com/postseal/postseal/internal/lab/fakeweb"
	"github.com/postseal/postseal/tlsmap/probe"
)

// web is a small internet: DNS, and the policy hosts behind one made-up address.
type web struct {
	t     *testing.T
	dns   *fakedns.Server
	sites *fakeweb.Server
	ca    *fakesmtp.CA

	dials atomic.Int32
	now   atomic.Int32
	most  atomic.Int32
}

const webIP = "192.0.2.80"

func newWeb(t *testing.T) *web {
	t.Helper()
	w := &web{t: t}
	var err error
	if w.ca, err = fakesmtp.NewCA(""); err != nil {
		t.Fatal(err)
	}
	if w.sites, err = fakeweb.Start("127.0.0.1:0", w.ca); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.sites.Close() })
	if w.dns, err = fakedns.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.dns.Close() })
	return w
}

func (w *web) record(name, typ string, values ...string) {
	w.t.Helper()
	if err := w.dns.Set(name, typ, values...); err != nil {
		w.t.Fatal(err)
	}
}

// publish gives domain a record, and its policy host an address and a site.
func (w *web) publish(domain, id string, site fakeweb.Site) {
	w.t.Helper()
	w.record("_mta-sts."+domain, "TXT", fmt.Sprintf(`"v=STSv1; id=%s;"`, id))
	w.record("mta-sts."+domain, "A", webIP)
	w.sites.Set("mta-sts."+domain, site)
}

// dial knows the way to webIP alone.
func (w *web) dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.dials.Add(1)
	if address != webIP+":443" {
		return nil, errors.New("no route to " + address)
	}
	n := w.now.Add(1)
	for m := w.most.Load(); n > m && !w.most.CompareAndSwap(m, n); m = w.most.Load() {
	}
	c, err := new(net.Dialer).DialContext(ctx, network, w.sites.Addr())
	if err != nil {
		w.now.Add(-1)
		return nil, err
	}
	return &counted{Conn: c, end: func() { w.now.Add(-1) }}, nil
}

type counted struct {
	net.Conn
	done atomic.Bool
	end  func()
}

func (c *counted) Close() error {
	if c.done.CompareAndSwap(false, true) {
		c.end()
	}
	return c.Conn.Close()
}

func (w *web) resolver() *probe.Resolver {
	r, err := probe.NewResolver([]string{w.dns.Addr()})
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *web) fetcher() *Fetcher { return NewFetcher(w.resolver(), w.ca.Pool(), w.dial, 0) }

func (w *web) cert(o fakesmtp.CertOptions) *tls.Certificate {
	w.t.Helper()
	c, err := w.ca.Issue(o)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

const good = "version: STSv1\r\nmode: enforce\r\nmx: mx.a.example\r\nmax_age: 86400\r\n"

func TestFetch(t *testing.T) {
	w := newWeb(t)
	good := fakeweb.Site{Text: good}
	with := func(change func(*fakeweb.Site)) fakeweb.Site {
		s := good
		change(&s)
		return s
	}
	const host = "mta-sts.a.example"
	for _, tt := range []struct {
		name string
		site fakeweb.Site
		want string // in the error; "": none
	}{
		{"good", good, ""},
		{"with a charset", with(func(s *fakeweb.Site) { s.ContentType = "Text/Plain; charset=utf-8" }), ""},
		{"by a wildcard certificate", with(func(s *fakeweb.Site) { s.Certificate = w.cert(fakesmtp.CertOptions{Names: []string{"*.a.example"}}) }), ""},
		{"the largest", with(func(s *fakeweb.Site) { s.Oversize = MaxPolicy - 64 - len(s.Text)/64*64 - 64 }), ""},
		{"TLS 1.2", with(func(s *fakeweb.Site) { s.MaxTLS = tls.VersionTLS12 }), ""},
		{"slow", with(func(s *fakeweb.Site) { s.Slow = time.Microsecond; s.Delay = time.Millisecond }), ""},

		{"TLS 1.1", with(func(s *fakeweb.Site) { s.MaxTLS = tls.VersionTLS11 }), "protocol version"},
		{"not found", with(func(s *fakeweb.Site) { s.Status = 404 }), "status 404"},
		{"another success", with(func(s *fakeweb.Site) { s.Status = 203 }), "status 203"},
		{"redirect", with(func(s *fakeweb.Site) { s.Redirect = "https://mta-sts.b.example" + policyPath }), "redirect"},
		{"redirect to itself", with(func(s *fakeweb.Site) { s.Redirect = policyPath; s.Status = 308 }), "redirect"},
		{"a page", with(func(s *fakeweb.Site) { s.ContentType = "text/html" }), "content type"},
		{"no type", with(func(s *fakeweb.Site) { s.ContentType = "-" }), "content type"},
		{"bad type", with(func(s *fakeweb.Site) { s.ContentType = "text/plain/x" }), "content type"},
		{"too large", with(func(s *fakeweb.Site) { s.Oversize = MaxPolicy }), "longer than 65536 bytes"},
		{"not a policy", with(func(s *fakeweb.Site) { s.Text = "hello" }), "not a valid policy"},
		{"another name", with(func(s *fakeweb.Site) { s.Certificate = w.cert(fakesmtp.CertOptions{Names: []string{"a.example"}}) }), "certificate"},
		{"a wildcard too high", with(func(s *fakeweb.Site) { s.Certificate = w.cert(fakesmtp.CertOptions{Names: []string{"*.example"}}) }), "certificate"},
		{"expired", with(func(s *fakeweb.Site) {
			s.Certificate = w.cert(fakesmtp.CertOptions{Names: []string{host}, Expired: true})
		}), "expired"},
		{"self-signed", with(func(s *fakeweb.Site) {
			s.Certificate = w.cert(fakesmtp.CertOptions{Names: []string{host}, SelfSigned: true})
		}), "certificate"},
		{"no such site", with(func(s *fakeweb.Site) { s.Alert = true }), "tls"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.publish("a.example", "1", tt.site)
			before := w.sites.Requests("mta-sts.b.example") + w.sites.Requests(host)
			p, text, err := w.fetcher().Policy(t.Context(), "a.example")
			if tt.want == "" {
				if err != nil || p.Mode != Enforce || !strings.HasSuffix(string(text), good.Text) {
					t.Errorf("%v, %q, %v", p, text, err)
				}
				return
			}
			if err == nil || p != nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, %v; want an error with %q", p, err, tt.want)
			}
			if n := w.sites.Requests("mta-sts.b.example") + w.sites.Requests(host) - before; n > 1 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

func TestFetchEndsWithItsContext(t *testing.T) {
	w := newWeb(t)
	w.publish("a.example", "1", fakeweb.Site{Hang: true})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, _, err := w.fetcher().Policy(ctx, "a.example"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestFetchTriesAllAddresses(t *testing.T) {
	w := newWeb(t)
	w.publish("a.example", "1", fakeweb.Site{Text: good})
	w.record("mta-sts.a.example", "AAAA", "2001:db8::1", "2001:db8::2")
	w.record("mta-sts.a.example", "A", "192.0.2.1", webIP, "192.0.2.3", "0.0.0.0")
	if _, _, err := w.fetcher().Policy(t.Context(), "a.example"); err != nil {
		t.Error(err)
	}
	if n := w.dials.Load(); n < 2 || n > maxAddresses {
		t.Errorf("%d connections", n)
	}
	w.dns.Fail("mta-sts.a.example", dns.TypeAAAA, fakedns.Servfail)
	if _, _, err := w.fetcher().Policy(t.Context(), "a.example"); err != nil {
		t.Errorf("with one family failing: %v", err)
	}
	w.dns.Fail("mta-sts.a.example", dns.TypeA, fakedns.Servfail)
	if _, _, err := w.fetcher().Policy(t.Context(), "a.example"); !errors.Is(err, probe.ErrDNS) {
		t.Errorf("with both: %v", err)
	}
	w.record("mta-sts.b.example", "AAAA")
	if _, _, err := w.fetcher().Policy(t.Context(), "b.example"); err == nil {
		t.Error("no error without an address")
	}
	// A CNAME to a provider, whose certificate is for our name (section 8.2).
	w.record("mta-sts.c.example", "CNAME", "policies.provider.example.")
	w.record("policies.provider.example", "A", webIP)
	w.sites.Set("mta-sts.c.example", fakeweb.Site{Text: good})
	if _, _, err := w.fetcher().Policy(t.Context(), "c.example"); err != nil {
		t.Errorf("by CNAME: %v", err)
	}
}

func TestFetchAsksNoProxy(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	w := newWeb(t)
	w.publish("a.example", "1", fakeweb.Site{Text: good})
	if _, _, err := w.fetcher().Policy(t.Context(), "a.example"); err != nil {
		t.Error(err)
	}
}

func TestFetchIsPoliteToAHost(t *testing.T) {
	w := newWeb(t)
	f := NewFetcher(w.resolver(), w.ca.Pool(), w.dial, 2)
	errs := make(chan error)
	const domains = 12
	for i := range domains {
		domain := fmt.Sprintf("d%d.example", i)
		w.publish(domain, "1", fakeweb.Site{Text: good, Delay: 10 * time.Millisecond})
		go func() {
			_, _, err := f.Policy(t.Context(), domain)
			errs <- err
		}()
	}
	for range domains {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := w.most.Load(); n > 2 {
		t.Errorf("%d connections to one address at a time", n)
	}
	if len(f.gates) != 0 {
		t.Errorf("%d gates are left", len(f.gates))
	}
}

func TestRecord(t *testing.T) {
	w := newWeb(t)
	f := w.fetcher()
	w.record("_mta-sts.split.example", "TXT", `"v=STSv1; i" "d=2016;"`)
	w.record("_mta-sts.alias.example", "CNAME", "_mta-sts.split.example.")
	w.record("_mta-sts.other.example", "TXT", `"v=spf1 -all"`)
	w.record("_mta-sts.empty.example", "A", "192.0.2.1")
	w.dns.Fail("_mta-sts.fail.example.", dns.TypeTXT, fakedns.Servfail)
	long := strings.Repeat("a.", 120) + "example"
	for domain, want := range map[string]struct {
		id  string
		err error
	}{
		"split.example":   {"2016", nil},
		"alias.example":   {"2016", nil},
		"other.example":   {"", ErrNoRecord},
		"empty.example":   {"", ErrNoRecord},
		"nothing.example": {"", ErrNoRecord},
		"fail.example":    {"", probe.ErrDNS},
		long:              {"", ErrNoRecord},
	} {
		id, _, err := f.Record(t.Context(), domain)
		if id != want.id || !errors.Is(err, want.err) {
			t.Errorf("%s: %q, %v; want %v", domain, id, err, want)
		}
	}
}

func TestFailureType(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("mta-sts.a.example: %w", ErrPolicy), "sts-policy-invalid"},
		{fmt.Errorf("get: %w", &tls.CertificateVerificationError{Err: errors.New("expired")}), "sts-webpki-invalid"},
		{errors.New("connection refused"), "sts-policy-fetch-error"},
	} {
		if got := failureType(tt.err); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.err, got, tt.want)
		}
	}
}
