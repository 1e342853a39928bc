package tlsrpt

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/postseal/postseal/internal/lab/fakedns"
	"github.com/postseal/postseal/internal/lab/fakesmtp"
	"github.com/postseal/postseal/internal/lab/fakeweb"
	"github.com/postseal/postseal/tlsmap/probe"
	"github.com/postseal/postseal/tlsmap/probe/mtasts"
)

// TestWatch fetches policies from a real server that fails in each way.
func TestWatch(t *testing.T) {
	ca, err := fakesmtp.NewCA("")
	if err != nil {
		t.Fatal(err)
	}
	other, err := ca.Issue(fakesmtp.CertOptions{Names: []string{"other.example"}})
	if err != nil {
		t.Fatal(err)
	}
	web, err := fakeweb.Start("127.0.0.1:0", ca)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { web.Close() })
	names, err := fakedns.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { names.Close() })
	resolver, err := probe.NewResolver([]string{names.Addr()})
	if err != nil {
		t.Fatal(err)
	}
	const text = "version: STSv1\r\nmode: enforce\r\nmx: *.a.example\r\nmax_age: 86400\r\n"
	tests := []struct {
		domain string
		site   fakeweb.Site
		roots  *x509.CertPool
		want   ResultType
	}{
		{"good.example", fakeweb.Site{Text: text}, ca.Pool(), ""},
		{"missing.example", fakeweb.Site{Status: 404}, ca.Pool(), STSPolicyFetchError},
		{"moved.example", fakeweb.Site{Redirect: "https://good.example/"}, ca.Pool(), STSPolicyFetchError},
		{"html.example", fakeweb.Site{Text: text, ContentType: "text/html"}, ca.Pool(), STSPolicyFetchError},
		{"alert.example", fakeweb.Site{Alert: true}, ca.Pool(), STSPolicyFetchError},
		{"nonsense.example", fakeweb.Site{Text: "version: STSv2\r\n"}, ca.Pool(), STSPolicyInvalid},
		{"wrong.example", fakeweb.Site{Text: text, Certificate: other}, ca.Pool(), STSWebPKIInvalid},
		{"untrusted.example", fakeweb.Site{Text: text}, x509.NewCertPool(), STSWebPKIInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.domain, func(t *testing.T) {
			web.Set("mta-sts."+tt.domain, tt.site)
			if err := names.Add("mta-sts." + tt.domain + ". 60 IN A 192.0.2.1"); err != nil {
				t.Fatal(err)
			}
			dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, web.Addr())
			}
			store := newMemory()
			c := &Counter{Store: store, Now: func() time.Time { return noon }}
			src := c.Watch(mtasts.NewFetcher(resolver, tt.roots, dial, 0))
			_, _, err := src.Policy(t.Context(), tt.domain)
			if (err == nil) != (tt.want == "") {
				t.Errorf("fetched: %v", err)
			}
			r := &Reporter{Store: store, From: "a@us.example", Now: c.Now}
			if err := c.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			d, err := r.Preview(t.Context(), DayOf(noon), tt.domain)
			switch {
			case err != nil:
				t.Fatal(err)
			case tt.want == "" && d != nil:
				t.Errorf("counted %+v", d)
			case tt.want != "":
				p := d.Policies[0]
				if p.Policy.Type != STS || len(p.Details) != 1 || p.Details[0].Type != tt.want || p.Details[0].Reason == "" {
					t.Errorf("counted %+v", p)
				}
			}
		})
	}
	t.Run("a shutdown is no failure", func(t *testing.T) {
		store := newMemory()
		c := &Counter{Store: store}
		src := c.Watch(stopped{})
		if _, _, err := src.Policy(t.Context(), "a.example"); err == nil {
			t.Fatal("no error")
		}
		if err := c.Flush(t.Context()); err != nil || len(store.counts) != 0 {
			t.Errorf("counted %v, %v", store.counts, err)
		}
	})
}

// stopped is a source whose fetches a shutdown cuts.
type stopped struct{ mtasts.Source }

func (stopped) Policy(context.Context, string) (*mtasts.Policy, []byte, error) {
	return nil, nil, errors.Join(errors.New("fetch"), context.Canceled)
}

// Who publishes a domain learns nothing of our own network by the reports of it.
func TestReasonsDoNotSpeakOfOurNetwork(t *testing.T) {
	c := &Counter{}
	for _, tt := range []struct {
		why   string
		quiet bool
	}{
		{"mta-sts.evil.example[10.0.0.5]: connection refused", true},
		{"mta-sts.evil.example[fd00::5]: connection refused", true},
		{"look up TLSA of _25._tcp.mx.a.example: 127.0.0.1:53: SERVFAIL", true},
		{"look up A: [::1]:53: SERVFAIL", true},
		{"dial tcp [fe80::1]:443: i/o timeout", true},
		{"mta-sts.a.example[8.8.8.8]: status 404: want 200", false},
		{"mta-sts.a.example[2606:4700::1111]: connection refused", false},
		{"not a valid policy: line 3: want NAME: VALUE", false},
		{"version 1.2 of TLS: bad", false},
	} {
		if got := c.reason(tt.why); (got == "") != tt.quiet {
			t.Errorf("%q: %q", tt.why, got)
		}
	}
}
