package check

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"

	"github.com/postseal/postseal/internal/lab/fakesmtp"
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/probe"
)

// whole checks a destination that has all.
func whole(t *testing.T) *Report {
	t.Helper()
	w := newWorld(t,
		"a.example. 300 IN MX 10 mx.a.example.",
		"mx.a.example. 300 IN A 192.0.2.1",
		`_smtp._tls.a.example. 300 IN TXT "v=TLSRPTv1; rua=mailto:tls@a.example"`,
	)
	w.dns.SetAuthentic(true)
	host := w.good("mx.a.example")
	sum := sha256.Sum256(host.Certificate.Certificate[0])
	if err := w.dns.Add(
		"_25._tcp.mx.a.example. 300 IN TLSA 3 0 1 "+hex.EncodeToString(sum[:]),
		"_25._tcp.mx.a.example. 300 IN TLSA 3 1 1 "+strings.Repeat("ab", 32),
		"_25._tcp.mx.a.example. 300 IN TLSA 1 0 1 "+strings.Repeat("cd", 32),
	); err != nil {
		t.Fatal(err)
	}
	w.host("192.0.2.1", host)
	w.policies["a.example"] = &probe.STSResult{State: policy.STSEnforce, Mode: "enforce", MX: []string{"*.a.example"}, MaxAge: 604800}
	return w.checker().Deep(t.Context(), "A.example")
}

// A whole check finds what there is: versions and suites, the certificate, TLSA
// records one by one, the MTA-STS policy and the TLSRPT record.
func TestDeep(t *testing.T) {
	r := whole(t)
	if r.Class != ClassEnforced || !strings.Contains(r.Reason, "TLSA") {
		t.Errorf("class %s (%s)", r.Class, r.Reason)
	}
	a := r.MX[0].Addresses[0]
	if a.Scan == nil || !a.Scan.Complete || !a.Scan.Has("TLSv1.3") || !a.Scan.Has("TLSv1.2") || a.Scan.Has("TLSv1.1") {
		t.Errorf("scan %+v", a.Scan)
	}
	if !a.NameMatch || a.DaysLeft == nil || *a.DaysLeft < 300 || a.Cert.Signature != "ECDSA-SHA256" || len(a.Others) != 0 {
		t.Errorf("certificate %+v, name %v, days %v, others %v", a.Cert, a.NameMatch, a.DaysLeft, a.Others)
	}
	if len(a.TLSA) != 3 || a.TLSA[0].Match || !a.TLSA[1].Match || a.TLSA[2].Match {
		t.Errorf("TLSA %+v of %+v", a.TLSA, r.MX[0].TLSA)
	}
	if r.TLSRPT == nil || len(r.TLSRPT.RUA) != 1 || r.TLSRPT.RUA[0] != "mailto:tls@a.example" {
		t.Errorf("TLSRPT %+v", r.TLSRPT)
	}
	if r.NIST == nil || r.NIST.Meets || r.NIST.Partial || !strings.Contains(fmtReasons(r.NIST), "CHACHA20") {
		t.Errorf("NIST %+v", r.NIST)
	}
	var out bytes.Buffer
	if err := r.WriteText(&out, Style{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"a.example: enforced", "MX 10 mx.a.example, DNSSEC", "192.0.2.1: enforced, TLSv1.3", "TLSA        3 0 1",
		"match: ", "no match: ", "TLSv1.2     offered: ", "groups      ", "MTA-STS     enforce: *.a.example", "TLSRPT      mailto:tls@a.example",
		"does not meet SP 800-52r2", "trusted; the host's name",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the text lacks %q:\n%s", want, &out)
		}
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("escapes without colour")
	}
}

func fmtReasons(n *NIST) string {
	var all []string
	for _, r := range n.Reasons {
		all = append(all, r.Text)
	}
	return strings.Join(all, "\n")
}

// One handshake finds the class as a whole scan does, and says that it has seen but
// one.
func TestQuick(t *testing.T) {
	w := newWorld(t, "a.example. 300 IN MX 10 mx.a.example.", "mx.a.example. 300 IN A 192.0.2.1")
	w.host("192.0.2.1", w.good("mx.a.example"))
	r := w.checker().Quick(t.Context(), "a.example")
	if r.Class != ClassVerified || r.Deep || r.MX[0].Addresses[0].Scan != nil || r.NIST == nil || !r.NIST.Partial {
		t.Errorf("%+v", r)
	}
}

// Both certificates of a host that has two are seen, and each is held against the
// TLSA records and the name.
func TestTwoCertificates(t *testing.T) {
	w := newWorld(t, "a.example. 300 IN MX 10 mx.a.example.", "mx.a.example. 300 IN A 192.0.2.1")
	w.dns.SetAuthentic(true)
	host := w.good("mx.a.example")
	host.Second = w.cert(fakesmtp.CertOptions{Names: []string{"mx.a.example"}, RSA: true})
	sum := sha256.Sum256(host.Certificate.Certificate[0])
	if err := w.dns.Add("_25._tcp.mx.a.example. 300 IN TLSA 3 0 1 " + hex.EncodeToString(sum[:])); err != nil {
		t.Fatal(err)
	}
	w.host("192.0.2.1", host)
	r := w.checker().Deep(t.Context(), "a.example")
	a := r.MX[0].Addresses[0]
	if len(a.Others) != 1 {
		t.Fatalf("%d other certificates: %+v", len(a.Others), a.Cert)
	}
	o := a.Others[0]
	kinds := a.Cert.KeyType + " " + o.Certificate.KeyType
	if kinds != "ECDSA RSA" && kinds != "RSA ECDSA" {
		t.Errorf("kinds %s", kinds)
	}
	if !hasAdvice(r, Critical, "certificate") {
		t.Errorf("nobody is told that one certificate matches no TLSA record: %+v", r.Advice)
	}
}

func hasAdvice(r *Report, s Severity, text string) bool {
	for _, a := range r.Advice {
		if a.Severity == s && strings.Contains(a.Text, text) {
			return true
		}
	}
	return false
}

func TestClasses(t *testing.T) {
	type host func(*world) fakesmtp.Behaviour
	good := func(w *world) fakesmtp.Behaviour { return w.good("mx.a.example") }
	wrong := func(w *world) fakesmtp.Behaviour { return w.good("other.example") }
	self := func(w *world) fakesmtp.Behaviour {
		return fakesmtp.Behaviour{STARTTLS: true, Certificate: w.cert(fakesmtp.CertOptions{Names: []string{"mx.a.example"}, SelfSigned: true})}
	}
	old := func(w *world) fakesmtp.Behaviour {
		b := w.good("mx.a.example")
		b.MinTLS, b.MaxTLS = tls.VersionTLS10, tls.VersionTLS10
		return b
	}
	none := func(*world) fakesmtp.Behaviour { return fakesmtp.Behaviour{} }
	broken := func(w *world) fakesmtp.Behaviour {
		b := w.good("mx.a.example")
		b.Handshake = fakesmtp.HandshakeAlert
		return b
	}
	busy := func(*world) fakesmtp.Behaviour { return fakesmtp.Behaviour{Banner: "421 busy"} }
	enforce := &probe.STSResult{State: policy.STSEnforce, MX: []string{"mx.a.example"}}
	tlsa := func(data string) string { return "_25._tcp.mx.a.example. 300 IN TLSA 3 1 1 " + data }
	for _, tt := range []struct {
		name   string
		host   host
		second host // of a second MX
		sts    *probe.STSResult
		more   []string // records
		want   Class
		reason string
		advice string // Critical
	}{
		{name: "trusted", host: good, want: ClassVerified},
		{name: "the wrong name", host: wrong, want: ClassTLS, reason: "other.example"},
		{name: "signed by itself", host: self, want: ClassTLS},
		{name: "TLS 1.0", host: old, want: ClassBroken, reason: "below the floor", advice: "switch TLS 1.2"},
		{name: "no STARTTLS", host: none, want: ClassNone, reason: "no STARTTLS", advice: "switch STARTTLS on"},
		{name: "broken", host: broken, want: ClassBroken, advice: "repair TLS"},
		{name: "busy", host: busy, want: ClassUnknown, advice: "no MX host answers"},
		{name: "the worst of two counts", host: good, second: none, want: ClassNone, advice: "switch STARTTLS on"},
		{name: "who does not answer does not count", host: good, second: busy, want: ClassVerified},
		{name: "MTA-STS", host: good, sts: enforce, want: ClassEnforced, reason: "MTA-STS"},
		{name: "MTA-STS and the wrong name", host: wrong, sts: enforce, want: ClassBroken, reason: "MTA-STS", advice: "for the host's name"},
		{name: "MTA-STS without the host", host: good, sts: &probe.STSResult{State: policy.STSEnforce, MX: []string{"mx.b.example"}}, want: ClassBroken, reason: "does not name", advice: "add this host"},
		{name: "MTA-STS testing", host: wrong, sts: &probe.STSResult{State: policy.STSTesting, MX: []string{"mx.a.example"}}, want: ClassTLS},
		{name: "DANE that does not match", host: good, more: []string{tlsa(strings.Repeat("ab", 32))}, want: ClassBroken, reason: "DANE", advice: "publish TLSA records"},
		{name: "DANE that can't be used", host: good, more: []string{tlsa("abcd")}, want: ClassVerified},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, append(tt.more, "a.example. 300 IN MX 10 mx.a.example.", "mx.a.example. 300 IN A 192.0.2.1")...)
			w.dns.SetAuthentic(true)
			w.host("192.0.2.1", tt.host(w))
			if tt.second != nil {
				if err := w.dns.Add("a.example. 300 IN MX 20 mx2.a.example.", "mx2.a.example. 300 IN A 192.0.2.2"); err != nil {
					t.Fatal(err)
				}
				w.host("192.0.2.2", tt.second(w))
			}
			if tt.sts != nil {
				w.policies["a.example"] = tt.sts
			}
			r := w.checker().Quick(t.Context(), "a.example")
			if r.Class != tt.want || !strings.Contains(r.Reason, tt.reason) {
				t.Errorf("%s (%s), want %s", r.Class, r.Reason, tt.want)
			}
			critical := 0
			for _, a := range r.Advice {
				if a.Severity == Critical {
					critical++
				}
			}
			if tt.advice != "" && !hasAdvice(r, Critical, tt.advice) || tt.advice == "" && critical > 0 {
				t.Errorf("advice %+v", r.Advice)
			}
		})
	}
}

func TestNoMail(t *testing.T) {
	w := newWorld(t, "null.example. 300 IN MX 0 .")
	for _, domain := range []string{"null.example", "gone.example"} {
		r := w.checker().Deep(t.Context(), domain)
		if r.Class != ClassNoMail || r.NIST != nil || len(r.Advice) != 0 {
			t.Errorf("%s: %+v", domain, r)
		}
	}
}

// A check that is broken off ends, with what it has.
func TestBrokenOff(t *testing.T) {
	w := newWorld(t, "a.example. 300 IN MX 10 mx.a.example.", "mx.a.example. 300 IN A 192.0.2.1")
	w.host("192.0.2.1", w.good("mx.a.example"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := w.checker().Deep(ctx, "a.example"); r.Class != ClassUnknown {
		t.Errorf("%+v", r)
	}
}

// Nothing that a destination says reaches a terminal as an escape sequence, in text or
// JSON.
func TestForeignText(t *testing.T) {
	w := newWorld(t, "a.example. 300 IN MX 10 mx.a.example.", "mx.a.example. 300 IN A 192.0.2.1",
		`_smtp._tls.a.example. 300 IN TXT "v=TLSRPTv1; rua=mailto:a\027[2J@a.example"`)
	b := w.good("evil\x1b[31m.example")
	b.Banner = "220 \x1b]0;owned\x07 <script>alert(1)</script> \u202e"
	b.Keywords = []string{"SIZE \x1b[2J", "\u009b31m"}
	w.host("192.0.2.1", b)
	r := w.checker().Deep(t.Context(), "a.example")
	var out bytes.Buffer
	if err := r.WriteText(&out, Style{}); err != nil {
		t.Fatal(err)
	}
	j, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]string{"text": out.String(), "JSON": string(j)} {
		for _, bad := range []string{"\x1b", "\x07", "\u202e", "\u009b", `\u001b`, `\u0007`, `\u202e`} {
			if strings.Contains(s, bad) {
				t.Errorf("%s holds %q", name, bad)
			}
		}
	}
	if !strings.Contains(out.String(), "<script>") {
		t.Errorf("the banner is not shown:\n%s", &out)
	}
}

// The writer cleans what it is given by itself, whoever forgot to.
func TestWriterCleans(t *testing.T) {
	r := Build(&probe.Result{Dest: "a\x1b[2J", Reason: "\u009b31m\u202e", State: policy.NoMail}, nil, nil, noon)
	r.Decision = &Decision{Line: "\x07", Reasons: []string{"a\r\nb"}}
	for _, s := range []Style{{}, {Color: true}} {
		var out bytes.Buffer
		if err := r.WriteText(&out, s); err != nil {
			t.Fatal(err)
		}
		text := out.String()
		for _, code := range []string{"\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m"} { // ours
			text = strings.ReplaceAll(text, code, "")
		}
		if strings.ContainsAny(text, "\x1b\x07\r\u009b\u202e") || strings.Count(text, "\n") != 3 {
			t.Errorf("%q", out.String())
		}
	}
}
