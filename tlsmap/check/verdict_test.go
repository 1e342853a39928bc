package check

import (
	"bytes"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/check/scan"
	"github.com/postseal/postseal/tlsmap/probe"
)

var update = flag.Bool("update", false, "write the golden files anew")

// noon is the time of all that is built here.
var noon = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// offers is a whole scan of a host with these suites, by version, newest first.
func offers(versions ...scan.Version) *scan.Result {
	r := &scan.Result{Complete: true, Groups: []string{"X25519MLKEM768", "X25519"}, PostQuantum: true, Connections: 21}
	for _, name := range []string{"TLSv1.3", "TLSv1.2", "TLSv1.1", "TLSv1", "SSLv3"} {
		v := scan.Version{Version: name, Complete: true, Refusal: "protocol_version"}
		for _, o := range versions {
			if o.Version == name {
				v = o
			}
		}
		r.Versions = append(r.Versions, v)
	}
	return r
}

func version(name string, suites ...scan.Suite) scan.Version {
	return scan.Version{Version: name, Offered: true, Complete: true, Order: "server", Suites: suites}
}

var (
	tls13 = version("TLSv1.3", scan.NewSuite(0x1302, "", 0), scan.NewSuite(0x1301, "", 0))
	tls12 = version("TLSv1.2", scan.NewSuite(0xc02f, "X25519", 0), scan.NewSuite(0x009e, "DHE 2048", 2048))
)

func goodCert() *probe.Certificate {
	return &probe.Certificate{
		Names: []string{"mx.a.example"}, Subject: "CN=mx.a.example", Issuer: "CN=An Authority", NotBefore: noon.AddDate(0, -1, 0), NotAfter: noon.AddDate(0, 2, 0),
		KeyType: "RSA", KeyBits: 2048, Signature: "SHA256-RSA", Verified: true, Chain: []probe.ChainCert{{Subject: "CN=An Authority", Issuer: "CN=A Root"}},
	}
}

// result is a look at a.example, with one host that has all.
func result(change ...func(*probe.Result, *probe.MXResult, *probe.AddressResult)) *probe.Result {
	r := &probe.Result{
		Dest: "a.example", Domain: "a.example", State: policy.Works, DANE: policy.DANENone, Checked: noon, STS: &probe.STSResult{State: policy.STSNone},
		MX: []probe.MXResult{{Host: "mx.a.example", Preference: 10, Addresses: []probe.AddressResult{{
			Addr: netip.MustParseAddr("192.0.2.1"), State: policy.Works, STARTTLS: true, TLS: true, Banner: "220 mx.a.example ESMTP", EHLO: []string{"PIPELINING", "SIZE 1000"},
			Version: "TLSv1.3", Cipher: "TLS_AES_256_GCM_SHA384", Cert: goodCert(),
		}}}},
	}
	for _, f := range change {
		f(r, &r.MX[0], &r.MX[0].Addresses[0])
	}
	return r
}

func scanOf(s *scan.Result) Scans { return Scans{{"mx.a.example", "192.0.2.1"}: s} }

func TestNIST(t *testing.T) {
	for _, tt := range []struct {
		name    string
		scan    *scan.Result
		cert    func(*probe.Certificate)
		section string // "" where it meets
		text    string
	}{
		{name: "all as it should be", scan: offers(tls13, tls12)},
		{name: "no TLS 1.3", scan: offers(tls12), section: "3.1", text: "TLSv1.3 is not offered"},
		{name: "no TLS 1.2", scan: offers(tls13), section: "3.1", text: "TLSv1.2 is not offered"},
		{name: "TLS 1.1", scan: offers(tls13, tls12, version("TLSv1.1", scan.NewSuite(0xc013, "", 0))), section: "3.1", text: "should not be"},
		{name: "TLS 1.0", scan: offers(tls13, tls12, version("TLSv1", scan.NewSuite(0xc013, "", 0))), section: "3.1", text: "shall not be"},
		{name: "SSL 3", scan: offers(tls13, tls12, version("SSLv3", scan.NewSuite(0x0033, "DHE 2048", 2048))), section: "3.1", text: "SSLv3"},
		{name: "ChaCha20 in TLS 1.3", scan: offers(version("TLSv1.3", scan.NewSuite(0x1303, "", 0)), tls12), section: "3.3.1.2", text: "CHACHA20"},
		{name: "CCM in TLS 1.3", scan: offers(version("TLSv1.3", scan.NewSuite(0x1304, "", 0)), tls12)},
		{name: "key transport", scan: offers(tls13, version("TLSv1.2", scan.NewSuite(0x009c, "", 0))), section: "3.3.1.1", text: "TLS_RSA_WITH_AES_128_GCM_SHA256"},
		{name: "3DES", scan: offers(tls13, version("TLSv1.2", scan.NewSuite(0xc012, "", 0))), section: "3.3.1.1", text: "3DES"},
		{name: "CBC", scan: offers(tls13, version("TLSv1.2", scan.NewSuite(0xc027, "", 0), scan.NewSuite(0xc028, "", 0), scan.NewSuite(0x006b, "DHE 3072", 3072), scan.NewSuite(0xc0ac, "", 0)))},
		{name: "a small prime", scan: offers(tls13, version("TLSv1.2", scan.NewSuite(0x009e, "DHE 1024", 1024))), section: "3.4.2", text: "1024 bits"},
		{name: "a small key", scan: offers(tls13, tls12), cert: func(c *probe.Certificate) { c.KeyBits = 1024 }, section: "3.2.1", text: "1024 bits"},
		{name: "a small curve", scan: offers(tls13, tls12), cert: func(c *probe.Certificate) { c.KeyType, c.KeyBits = "ECDSA", 224 }, section: "3.2.1", text: "224 bits"},
		{name: "Ed25519", scan: offers(tls13, tls12), cert: func(c *probe.Certificate) { c.KeyType, c.KeyBits = "Ed25519", 256 }, section: "3.2.1", text: "Ed25519"},
		{name: "SHA-1", scan: offers(tls13, tls12), cert: func(c *probe.Certificate) { c.Signature = "SHA1-RSA" }, section: "3.2.1", text: "SHA1-RSA"},
		{name: "not trusted", scan: offers(tls13, tls12), cert: func(c *probe.Certificate) { c.Verified, c.VerifyError = false, "unknown authority" }, section: "3.2.1", text: "trusted authority"},
		{name: "another name", scan: offers(tls13, tls12), cert: func(c *probe.Certificate) { c.Names = []string{"b.example"} }, section: "3.2.1", text: "name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res := result(func(_ *probe.Result, _ *probe.MXResult, a *probe.AddressResult) {
				if tt.cert != nil {
					tt.cert(a.Cert)
				}
				if !tt.scan.Has("TLSv1.3") {
					a.Version, a.Cipher = "TLSv1.2", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"
				}
				if v := tt.scan.Versions[0]; v.Offered {
					a.Cipher = v.Suites[0].Name
				}
			})
			n := Build(res, scanOf(tt.scan), nil, noon).NIST
			if n.Meets != (tt.section == "") || n.Partial {
				t.Fatalf("%+v", n)
			}
			if tt.section == "" {
				return
			}
			if len(n.Reasons) != 1 || n.Reasons[0].Section != tt.section || !strings.Contains(n.Reasons[0].Text, tt.text) || n.Reasons[0].About != "mx.a.example[192.0.2.1]" {
				t.Errorf("%+v, want section %s, %q", n.Reasons, tt.section, tt.text)
			}
		})
	}
	// Before 2024 TLS 1.3 was a matter of choice.
	if n := Build(result(func(_ *probe.Result, _ *probe.MXResult, a *probe.AddressResult) {
		a.Version, a.Cipher = "TLSv1.2", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"
	}), scanOf(offers(tls12)), nil, time.Date(2023, 12, 31, 0, 0, 0, 0, time.UTC)).NIST; !n.Meets {
		t.Errorf("%+v", n)
	}
	// Plaintext does not meet it; of a host that does not answer there is no verdict.
	bare := func(s policy.State) *probe.Result {
		return result(func(r *probe.Result, _ *probe.MXResult, a *probe.AddressResult) {
			*a = probe.AddressResult{Addr: a.Addr, State: s, Error: "x"}
		})
	}
	if n := Build(bare(policy.Absent), nil, nil, noon).NIST; n == nil || n.Meets {
		t.Errorf("%+v", n)
	}
	if n := Build(bare(policy.Unreachable), nil, nil, noon).NIST; n != nil {
		t.Errorf("%+v", n)
	}
}

func TestAdvise(t *testing.T) {
	yes, no := true, false
	enforce := &probe.STSResult{State: policy.STSEnforce, MX: []string{"mx.a.example"}, MaxAge: 604800}
	type change = func(*probe.Result, *probe.MXResult, *probe.AddressResult)
	for _, tt := range []struct {
		name     string
		change   change
		scan     *scan.Result
		tlsrpt   *TLSRPT
		severity Severity // "" for no advice at all
		text     string
	}{
		{name: "nothing to do", change: func(r *probe.Result, m *probe.MXResult, _ *probe.AddressResult) { r.STS, m.STSMatch = enforce, &yes }},
		{name: "plaintext", change: func(_ *probe.Result, _ *probe.MXResult, a *probe.AddressResult) {
			*a = probe.AddressResult{Addr: a.Addr, State: policy.Absent, Error: "no STARTTLS"}
		}, severity: Critical, text: "switch STARTTLS on"},
		{name: "broken", change: func(_ *probe.Result, _ *probe.MXResult, a *probe.AddressResult) {
			*a = probe.AddressResult{Addr: a.Addr, State: policy.Broken, STARTTLS: true, Error: "TLS handshake: EOF"}
		}, severity: Critical, text: "repair TLS"},
		{name: "below the floor", change: func(_ *probe.Result, _ *probe.MXResult, a *probe.AddressResult) {
			a.State, a.Version, a.Error = policy.Broken, "TLSv1", "TLSv1 is below the floor"
		}, severity: Critical, text: "switch TLS 1.2 and 1.3 on"},
		{name: "nobody answers", change: func(_ *probe.Result, _ *probe.MXResult, a *probe.AddressResult) {
			*a = probe.AddressResult{Addr: a.Addr, State: policy.Unreachable, Error: "connection refused"}
		}, severity: Critical, text: "no MX host answers"},
		{name: "a host without address", change: func(r *probe.Result, _ *probe.MXResult, _ *probe.AddressResult) {
			r.MX = append(r.MX, probe.MXResult{Host: "mx2.a.example", Error: "no such host"})
		}, severity: Warning, text: "take this host out"},
		{name: "a host whose DNS fails", change: func(r *probe.Result, _ *probe.MXResult, _ *probe.AddressResult) {
			r.MX = append(r.MX, probe.MXResult{Host: "mx2.a.example", DNSFailed: true, Error: "SERVFAIL"})
		}, severity: Critical, text: "repair the DNS"},
		{name: "no MX", change: func(r *probe.Result, _ *probe.MXResult, _ *probe.AddressResult) { r.ImplicitMX = true }, severity: Notice, text: "publish an MX record"},
		{name: "an MX that is an alias", change: func(_ *probe.Result, m *probe.MXResult, _ *probe.AddressResult) { m.Canonical = "c.example" }, severity: Notice, text: "name c.example"},
		{name: "ended", change: func(_ *probe.Result, _ *probe.MXResult, a *probe.AddressResult) {
			a.Cert.NotAfter, a.Cert.Verified = noon.Add(-time.Hour), false
		}, severity: Warning, text: "it ended on 2026-11-27"},
		{name: "ends soon", change: func(_ *probe.Result, _ *probe.MXResult, a *probe.AddressResult) {
			a.Cert.NotAfter = noon.AddDate(0, 0, 5)
		}, severity: Warning, text: "in 5 days"},
		{name: "signed by itself", change: func(_ *probe.Result, _ *probe.MXResult, a *probe.AddressResult) {
			a.Cert.Verified, a.Cert.Issuer, a.Cert.Chain = false, a.Cert.Subject, nil
		}, severity: Warning, text: "signed by itself"},
		{name: "no intermediates", change: func(_ *probe.Result, _ *probe.MXResult, a *probe.AddressResult) {
			a.Cert.Verified, a.Cert.Chain, a.Cert.VerifyError = false, nil, "unknown authority"
		}, severity: Warning, text: "send the intermediate"},
		{name: "unknown authority", change: func(_ *probe.Result, _ *probe.MXResult, a *probe.AddressResult) {
			a.Cert.Verified, a.Cert.VerifyError = false, "unknown authority"
		}, severity: Warning, text: "that is trusted: unknown authority"},
		{name: "out of order", change: func(_ *probe.Result, _ *probe.MXResult, a *probe.AddressResult) {
			a.Cert.Chain[0].Subject = "CN=Another"
		}, severity: Notice, text: "in order"},
		{name: "another name", change: func(_ *probe.Result, _ *probe.MXResult, a *probe.AddressResult) {
			a.Cert.Names = []string{"b.example", "c.example", "d.example", "e.example"}
		}, severity: Warning, text: "b.example, c.example, d.example and 1 more"},
		{name: "a small key", change: func(_ *probe.Result, _ *probe.MXResult, a *probe.AddressResult) { a.Cert.KeyBits = 1024 }, severity: Warning, text: "larger key"},
		{name: "SHA-1", change: func(_ *probe.Result, _ *probe.MXResult, a *probe.AddressResult) { a.Cert.Signature = "SHA1-RSA" }, severity: Warning, text: "SHA1-RSA"},
		{name: "TLSA that does not match", change: func(r *probe.Result, m *probe.MXResult, a *probe.AddressResult) {
			r.DANE, m.TLSA, a.DANE = policy.DANEFull, &probe.TLSAResult{State: policy.DANEFull}, "another key"
		}, severity: Critical, text: "publish TLSA records for this certificate"},
		{name: "TLSA lookup fails", change: func(r *probe.Result, m *probe.MXResult, _ *probe.AddressResult) {
			r.DANE, m.TLSA = policy.DANEFailed, &probe.TLSAResult{State: policy.DANEFailed, Error: "SERVFAIL"}
		}, severity: Critical, text: "repair DNSSEC"},
		{name: "TLSA of no use", change: func(r *probe.Result, m *probe.MXResult, _ *probe.AddressResult) {
			r.DANE, m.TLSA = policy.DANEUnusable, &probe.TLSAResult{State: policy.DANEUnusable}
		}, severity: Warning, text: "that can be used"},
		{name: "TLSA without DNSSEC", change: func(_ *probe.Result, m *probe.MXResult, _ *probe.AddressResult) {
			m.TLSA = &probe.TLSAResult{State: policy.DANENone, Error: "TLSA records that are not authenticated"}
		}, severity: Warning, text: "sign the zone"},
		{name: "TLSA of some hosts", change: func(r *probe.Result, m *probe.MXResult, a *probe.AddressResult) {
			r.DANE, m.TLSA, a.DANE = policy.DANEPartial, &probe.TLSAResult{State: policy.DANEFull}, "match"
		}, severity: Warning, text: "for every MX host"},
		{name: "a host that MTA-STS does not name", change: func(r *probe.Result, m *probe.MXResult, _ *probe.AddressResult) {
			r.STS, m.STSMatch = enforce, &no
		}, severity: Critical, text: "add this host to the mx lines"},
		{name: "MTA-STS and no trusted certificate", change: func(r *probe.Result, m *probe.MXResult, a *probe.AddressResult) {
			r.STS, m.STSMatch, a.Cert.Names = enforce, &yes, []string{"b.example"}
		}, severity: Critical, text: "for the host's name"},
		{name: "MTA-STS testing", change: func(r *probe.Result, m *probe.MXResult, _ *probe.AddressResult) {
			r.STS, m.STSMatch = &probe.STSResult{State: policy.STSTesting, MX: enforce.MX}, &yes
		}, severity: Notice, text: "from testing to enforce"},
		{name: "MTA-STS fails", change: func(r *probe.Result, _ *probe.MXResult, _ *probe.AddressResult) {
			r.STS = &probe.STSResult{State: policy.STSFailed, Error: "404"}
		}, severity: Warning, text: "repair the MTA-STS policy: 404"},
		{name: "MTA-STS for a minute", change: func(r *probe.Result, m *probe.MXResult, _ *probe.AddressResult) {
			r.STS, m.STSMatch = &probe.STSResult{State: policy.STSEnforce, MX: enforce.MX, MaxAge: 60}, &yes
		}, severity: Notice, text: "max_age of weeks"},
		{name: "nothing published", severity: Notice, text: "publish TLSA records (DANE) or an MTA-STS policy"},
		{name: "no TLSRPT", tlsrpt: &TLSRPT{}, severity: Notice, text: "publish a TLSRPT record"},
		{name: "a bad TLSRPT record", tlsrpt: &TLSRPT{Error: "two"}, severity: Notice, text: "repair the TLSRPT record: two"},
		{name: "old versions", scan: offers(tls13, tls12, version("TLSv1.1"), version("TLSv1")), severity: Notice, text: "switch TLSv1 and TLSv1.1 off"},
		{name: "SSL 3", scan: offers(tls13, tls12, version("SSLv3")), severity: Warning, text: "switch SSLv3 off"},
		{name: "no TLS 1.3", scan: offers(tls12), severity: Notice, text: "switch TLS 1.3 on"},
		{name: "RC4", scan: offers(tls13, version("TLSv1.2", scan.NewSuite(0x0005, "", 0))), severity: Warning, text: "RC4 (RFC 7465)): TLS_RSA_WITH_RC4_128_SHA"},
		{name: "no forward secrecy", scan: offers(tls13, version("TLSv1.2", scan.NewSuite(0x009c, "", 0))), severity: Notice, text: "no forward secrecy"},
		{name: "a small prime", scan: offers(tls13, version("TLSv1.2", scan.NewSuite(0x009e, "DHE 1024", 1024))), severity: Notice, text: "2048 bits at least"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res := result()
			if tt.change != nil {
				tt.change(res, &res.MX[0], &res.MX[0].Addresses[0])
			}
			var scans Scans
			if tt.scan != nil {
				scans = scanOf(tt.scan)
			}
			r := Build(res, scans, nil, noon)
			r.TLSRPT = tt.tlsrpt
			all := Advise(r)
			if tt.severity == "" {
				if len(all) > 0 {
					t.Errorf("%+v", all)
				}
				return
			}
			found := false
			for i, a := range all {
				found = found || a.Severity == tt.severity && strings.Contains(a.Text, tt.text)
				if i > 0 && a.Severity == Critical && all[i-1].Severity != Critical {
					t.Errorf("not the worst first: %+v", all)
				}
			}
			if !found {
				t.Errorf("no %s with %q: %+v", tt.severity, tt.text, all)
			}
		})
	}
}

// The text for a person, to the letter: testdata/*.txt. -update writes it anew.
func TestGolden(t *testing.T) {
	yes, no := true, false
	all := result(func(r *probe.Result, m *probe.MXResult, a *probe.AddressResult) {
		r.Authentic, m.Authentic, r.DANE = true, true, policy.DANEPartial
		r.STS = &probe.STSResult{State: policy.STSEnforce, ID: "20261127", MX: []string{"mx.a.example", "*.b.example"}, MaxAge: 604800}
		m.STSMatch = &yes
		m.TLSA = &probe.TLSAResult{Base: "mx.a.example", State: policy.DANEFull, Records: []probe.TLSARecord{
			{Usage: 1, Selector: 0, Matching: 1, Data: strings.Repeat("cd", 32), Unusable: "usage 1 is not for SMTP"}, {Usage: 3, Selector: 1, Matching: 1, Data: strings.Repeat("ab", 32)},
		}}
		a.DANE, a.TLSA = "match", []probe.TLSAMatch{{Match: false, Why: "unusable: usage 1 is not for SMTP"}, {Match: true, Why: "the host's own key"}}
		second := *a
		second.Addr = netip.MustParseAddr("2001:db8::1")
		m.Addresses = append(m.Addresses, second)
		r.MX = append(r.MX, probe.MXResult{Host: "mx.c.example", Preference: 20, Canonical: "host.c.example", STSMatch: &no, TLSA: &probe.TLSAResult{State: policy.DANENone, Error: "no TLSA records"},
			Addresses: []probe.AddressResult{{Addr: netip.MustParseAddr("192.0.2.3"), State: policy.Absent, Banner: "220 old", Error: "no STARTTLS"}}},
			probe.MXResult{Host: "gone.a.example", Preference: 30, Error: "no such host"})
	})
	scans := scanOf(offers(tls13, tls12, version("TLSv1", scan.NewSuite(0x000a, "", 0), scan.NewSuite(0x0005, "", 0))))
	scans[ScanKey{"mx.a.example", "2001:db8::1"}] = scans[ScanKey{"mx.a.example", "192.0.2.1"}]
	long := Build(all, scans, nil, noon)
	long.TLSRPT = &TLSRPT{Record: "v=TLSRPTv1; rua=mailto:tls@a.example", RUA: []string{"mailto:tls@a.example"}}
	long.Decision = &Decision{Channel: "tls", Transport: "securesmtp:", TLSPolicy: "dane-only", Reasons: []string{"recipient rule a.example (encryption)"}}
	long.Decision.Line = long.Decision.Sentence()
	long.Advice = Advise(long)
	null := Build(&probe.Result{Dest: "null.example", Domain: "null.example", State: policy.NoMail, Reason: "null MX: the domain takes no mail", NullMX: true}, nil, nil, noon)
	for name, r := range map[string]*Report{"long": long, "null": null, "quick": Build(result(), nil, nil, noon)} {
		for style, s := range map[string]Style{"": {}, "-color": {Color: true}} {
			var out bytes.Buffer
			if err := r.WriteText(&out, s); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+style+".txt")
			if *update {
				if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if out.String() != string(want) {
				t.Errorf("%s is not what is printed:\n%s", file, &out)
			}
		}
	}
}
