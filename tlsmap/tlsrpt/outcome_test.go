package tlsrpt

import (
	"crypto/x509"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postseal/postseal/internal/lab/fakesmtp"
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/probe"
	"github.com/postseal/postseal/tlsmap/probe/dane"
)

var noon = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// look makes results of looks at a.example with one MX host.
func look(sts policy.STS, tlsa policy.DANE, a probe.AddressResult) *probe.Result {
	a.Addr, a.Local = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")
	a.Banner = "220 mx.a.example ESMTP"
	mx := probe.MXResult{Host: "mx.a.example", Addresses: []probe.AddressResult{a}}
	r := &probe.Result{Dest: "a.example", Domain: "a.example", Checked: noon, MX: []probe.MXResult{mx}}
	if tlsa != policy.DANENone {
		r.MX[0].TLSA = &probe.TLSAResult{Base: mx.Host, State: tlsa, Records: []probe.TLSARecord{{Usage: 3, Selector: 1, Matching: 1, Data: "ab01"}}}
	}
	r.STS = &probe.STSResult{State: sts, Mode: sts.String(), MX: []string{"*.a.example"}, MaxAge: 86400}
	if sts == policy.STSEnforce || sts == policy.STSTesting {
		match := true
		r.MX[0].STSMatch = &match
	}
	return r
}

func TestOutcome(t *testing.T) {
	cert := func(change ...func(*probe.Certificate)) *probe.Certificate {
		c := &probe.Certificate{Names: []string{"mx.a.example"}, NotAfter: noon.Add(time.Hour), Verified: true}
		for _, f := range change {
			f(c)
		}
		return c
	}
	named := func(names ...string) func(*probe.Certificate) {
		return func(c *probe.Certificate) { c.Names = names }
	}
	untrusted := func(c *probe.Certificate) { c.Verified, c.VerifyError = false, "signed by unknown authority" }
	expired := func(c *probe.Certificate) {
		c.NotAfter, c.Verified, c.VerifyError = noon.Add(-time.Hour), false, "expired"
	}
	works := func(c *probe.Certificate, dane string) probe.AddressResult {
		return probe.AddressResult{State: policy.Works, STARTTLS: true, TLS: true, Cert: c, DANE: dane}
	}
	failed := func(s policy.State, why string) probe.AddressResult {
		return probe.AddressResult{State: s, Error: why}
	}
	old := works(cert(), "")
	old.State, old.Error = policy.Broken, "TLSv1 is below the floor of TLSv1.2"
	const none, enforce, trial, full = policy.STSNone, policy.STSEnforce, policy.STSTesting, policy.DANEFull
	tests := []struct {
		name   string
		sts    policy.STS
		dane   policy.DANE
		a      probe.AddressResult
		policy PolicyType
		want   ResultType // "": success; "-": not counted
		reason string
	}{
		{"any TLS will do where nothing is published", none, policy.DANENone, works(cert(untrusted, named("x.example")), ""), NoPolicy, "", ""},
		{"no STARTTLS", none, policy.DANENone, failed(policy.Absent, "no STARTTLS"), NoPolicy, STARTTLSNotSupported, ""},
		{"no EHLO", none, policy.DANENone, failed(policy.Absent, "EHLO: 502; HELO works"), NoPolicy, STARTTLSNotSupported, "EHLO: 502; HELO works"},
		{"a handshake that fails", none, policy.DANENone, failed(policy.Broken, "TLS handshake: timeout"), NoPolicy, ValidationFailure, "TLS handshake: timeout"},
		{"too old for us", none, policy.DANENone, old, NoPolicy, ValidationFailure, "TLSv1 is below the floor of TLSv1.2"},
		{"nobody there", none, policy.DANENone, failed(policy.Unreachable, "connect: refused"), NoPolicy, "-", ""},
		{"not looked at", none, policy.DANENone, failed(policy.Unknown, "too busy"), NoPolicy, "-", ""},
		{"busy at STARTTLS", enforce, policy.DANENone, failed(policy.Unreachable, "STARTTLS: 454"), STS, "-", ""},

		{"MTA-STS met", enforce, policy.DANENone, works(cert(), ""), STS, "", ""},
		{"MTA-STS met by a wildcard", enforce, policy.DANENone, works(cert(named("*.A.example")), ""), STS, "", ""},
		{"a wildcard is one label", enforce, policy.DANENone, works(cert(named("*.example")), ""), STS, CertificateHostMismatch, "the certificate is for *.example"},
		{"a pattern of the policy is no name", enforce, policy.DANENone, works(cert(named("other.a.example")), ""), STS, CertificateHostMismatch, "the certificate is for other.a.example"},
		{"testing is judged too", trial, policy.DANENone, works(cert(named("x.example")), ""), STS, CertificateHostMismatch, "the certificate is for x.example"},
		{"expired", enforce, policy.DANENone, works(cert(expired), ""), STS, CertificateExpired, "since 2026-11-27T11:00:00Z"},
		{"untrusted", enforce, policy.DANENone, works(cert(untrusted), ""), STS, CertificateNotTrusted, "signed by unknown authority"},
		{"no STARTTLS under MTA-STS", enforce, policy.DANENone, failed(policy.Absent, "no STARTTLS"), STS, STARTTLSNotSupported, ""},
		{"a policy that could not be got is none", policy.STSFailed, policy.DANENone, works(cert(untrusted), ""), NoPolicy, "", ""},

		{"DANE met, whatever the certificate says", none, full, works(cert(untrusted, expired, named("x.example")), "match"), TLSA, "", ""},
		{"DANE beats MTA-STS", enforce, full, works(cert(untrusted), "match"), TLSA, "", ""},
		{"no record matches", none, full, works(cert(), "no record matches"), TLSA, TLSAInvalid, "no record matches"},
		{"not for the host", none, full, works(cert(), "found, but the certificate is not for mx.a.example"), TLSA, CertificateHostMismatch, "found, but the certificate is not for mx.a.example"},
		{"expired below a trust anchor", none, full, works(cert(), "found, but: a certificate has expired or is not yet valid"), TLSA, CertificateExpired, "found, but: a certificate has expired or is not yet valid"},
		{"records that cannot be used", none, policy.DANEUnusable, works(cert(), ""), TLSA, TLSAInvalid, "no record can be used"},
		{"DANE switched off", enforce, policy.DANEOff, works(cert(), ""), STS, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := look(tt.sts, tt.dane, tt.a)
			s := probe.Session{MX: &r.MX[0], Address: &r.MX[0].Addresses[0]}
			p := applied(r, s.MX)
			f, counted := outcome(r, s, p)
			if p.Type != tt.policy || p.Domain != "a.example" {
				t.Errorf("policy %+v", p)
			}
			var want *Failure
			if tt.want != "" && tt.want != "-" {
				want = &Failure{Type: tt.want, SendingIP: "198.51.100.1", MX: "mx.a.example", HELO: "mx.a.example", IP: "192.0.2.1", Reason: tt.reason}
			}
			if diff := cmp.Diff(want, f); diff != "" || counted != (tt.want != "-") {
				t.Errorf("counted %v\n%s", counted, diff)
			}
		})
	}
	t.Run("an MX host that is none of the policy", func(t *testing.T) {
		r := look(enforce, policy.DANENone, works(cert(), ""))
		*r.MX[0].STSMatch = false
		s := probe.Session{MX: &r.MX[0], Address: &r.MX[0].Addresses[0]}
		if f, ok := outcome(r, s, applied(r, s.MX)); !ok || f.Type != ValidationFailure || f.Reason == "" {
			t.Errorf("%+v", f)
		}
	})
}

// TestApplied is what RFC 8460, section 4.5 shows of policies.
func TestApplied(t *testing.T) {
	r := look(policy.STSTesting, policy.DANENone, probe.AddressResult{})
	want := Policy{Type: STS, Domain: "a.example", MXHost: []string{"*.a.example"}, Text: []string{"version: STSv1", "mode: testing", "mx: *.a.example", "max_age: 86400"}}
	if diff := cmp.Diff(want, applied(r, &r.MX[0])); diff != "" {
		t.Error(diff)
	}
	r = look(policy.STSTesting, policy.DANEFull, probe.AddressResult{})
	want = Policy{Type: TLSA, Domain: "a.example", MXHost: []string{"mx.a.example"}, Text: []string{"3 1 1 AB01"}}
	if diff := cmp.Diff(want, applied(r, &r.MX[0])); diff != "" {
		t.Error(diff)
	}
}

func TestLooked(t *testing.T) {
	count := func(r *probe.Result) (list []string) {
		store := newMemory()
		c := &Counter{Store: store, Now: func() time.Time { return noon }}
		var had []probe.Session
		for i := range r.MX {
			for j := range r.MX[i].Addresses {
				had = append(had, probe.Session{MX: &r.MX[i], Address: &r.MX[i].Addresses[j]})
			}
		}
		c.Looked(r, had)
		if err := c.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		for k, n := range store.counts {
			if k.day != "2026-11-27" || k.domain != "a.example" || n != 1 {
				t.Errorf("%+v: %d", k, n)
			}
			list = append(list, k.outcome)
		}
		return list
	}
	good := probe.AddressResult{State: policy.Works, TLS: true}
	if got := count(look(policy.STSNone, policy.DANENone, good)); len(got) != 1 || got[0] != "" {
		t.Errorf("a success: %q", got)
	}
	// Nobody sends mail to a host whose records are bogus: that is the failure, and
	// that our session had TLS is none of the news.
	if got := count(look(policy.STSNone, policy.DANEFailed, good)); len(got) != 1 || !strings.Contains(got[0], `"dnssec-invalid"`) {
		t.Errorf("bogus records: %q", got)
	}
	down := look(policy.STSNone, policy.DANEFailed, good)
	down.MX[0].DNSFailed, down.MX[0].Addresses = true, nil
	if got := count(down); len(got) != 0 {
		t.Errorf("DNS is down: %q", got)
	}
	for _, dest := range []string{"[a.example]", "a.example:587"} {
		r := look(policy.STSNone, policy.DANENone, good)
		r.Dest = dest
		if got := count(r); len(got) != 0 {
			t.Errorf("%s: %q", dest, got)
		}
	}
}

func TestBanner(t *testing.T) {
	for in, want := range map[string]string{
		"220 mx.a.example ESMTP": "mx.a.example", "220-mx.a.example x": "", "220 localhost": "", "": "", "220": "",
		"220 m\u00fc.example": "", "220 a.b;c.d": "", "220 " + strings.Repeat("a.", 200): "",
	} {
		if got := banner(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

// TestDANEReasons: what package dane says of real chains is told apart.
func TestDANEReasons(t *testing.T) {
	ca, err := fakesmtp.NewCA("")
	if err != nil {
		t.Fatal(err)
	}
	root := dane.Of(ca.Cert, dane.DANETA, dane.SPKI, dane.SHA256)
	tests := []struct {
		name   string
		cert   fakesmtp.CertOptions
		record dane.Record
		want   ResultType
	}{
		{"in order", fakesmtp.CertOptions{Names: []string{"mx.a.example"}}, root, ""},
		{"expired", fakesmtp.CertOptions{Names: []string{"mx.a.example"}, Expired: true}, root, CertificateExpired},
		{"another name", fakesmtp.CertOptions{Names: []string{"x.example"}}, root, CertificateHostMismatch},
		{"another key", fakesmtp.CertOptions{Names: []string{"mx.a.example"}}, dane.Of(ca.Cert, dane.DANEEE, dane.SPKI, dane.SHA256), TLSAInvalid},
		{"unusable", fakesmtp.CertOptions{Names: []string{"mx.a.example"}}, dane.Of(ca.Cert, 1, dane.SPKI, dane.SHA256), TLSAInvalid},
	}
	for _, tt := range tests {
		tt.cert.SendRoot = true
		c, err := ca.Issue(tt.cert)
		if err != nil {
			t.Fatal(err)
		}
		var chain []*x509.Certificate
		for _, der := range c.Certificate {
			x, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			chain = append(chain, x)
		}
		v := dane.Match([]dane.Record{tt.record}, chain, []string{"mx.a.example"}, time.Now())
		r := look(policy.STSNone, policy.DANEFull, probe.AddressResult{State: policy.Works, TLS: true, DANE: v.Reason})
		s := probe.Session{MX: &r.MX[0], Address: &r.MX[0].Addresses[0]}
		got := ResultType("")
		if f, ok := outcome(r, s, applied(r, s.MX)); !ok || f != nil {
			got = f.Type
		}
		if got != tt.want {
			t.Errorf("%s (%s): %q, want %q", tt.name, v.Reason, got, tt.want)
		}
	}
}
