package probe

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/postseal/postseal/internal/lab/fakedns"
	"github.com/postseal/postseal/internal/lab/fakesmtp"
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/probe/dane"
)

func trustAll(o *Options) { o.Trusts = func(string) bool { return true } }

const ee = " 60 IN TLSA 3 1 1 0000000000000000000000000000000000000000000000000000000000000000"

// TestTLSA is the way from DNS to the DANE state of a destination (RFC 7672, section
// 2), and what Postfix is answered then: for mail of which nothing is required and for
// mail that must be encrypted.
func TestTLSA(t *testing.T) {
	const (
		mx   = "d.example. 60 IN MX 10 mx.d.example."
		addr = "mx.d.example. 60 IN A 192.0.2.1"
		mx2  = "d.example. 60 IN MX 20 mx2.d.example."
		add2 = "mx2.d.example. 60 IN A 192.0.2.2"
		rec  = "_25._tcp.mx.d.example." + ee
		rec2 = "_25._tcp.mx2.d.example." + ee
	)
	unusable := func(name string) string {
		return name + " 60 IN TLSA 1 1 1 0000000000000000000000000000000000000000000000000000000000000000"
	}
	tests := []struct {
		name     string
		dest     string // default d.example
		records  []string
		signed   []string // default d.example
		unsigned []string
		faults   map[string]uint16 // types by name
		fault    fakedns.Fault     // of them; default Bogus
		want     policy.DANE
		base     string // of the first host
		may      string // opportunistic
		must     string
	}{
		{name: "one host", records: []string{mx, addr, rec}, want: policy.DANEFull, base: "mx.d.example", may: "dane-only", must: "dane-only"},
		{name: "both hosts", records: []string{mx, addr, rec, mx2, add2, rec2}, want: policy.DANEFull, base: "mx.d.example", may: "dane-only", must: "dane-only"},
		{name: "one of two hosts", records: []string{mx, addr, rec, mx2, add2}, want: policy.DANEPartial, base: "mx.d.example", may: "dane", must: "dane-only"},
		{name: "none", records: []string{mx, addr}, want: policy.DANENone, base: "mx.d.example", must: "encrypt"},
		{name: "unusable", records: []string{mx, addr, unusable("_25._tcp.mx.d.example.")}, want: policy.DANEUnusable, base: "mx.d.example", may: "dane", must: "encrypt"},
		{name: "unusable beside usable", records: []string{mx, addr, rec, unusable("_25._tcp.mx.d.example.")}, want: policy.DANEFull, base: "mx.d.example", may: "dane-only", must: "dane-only"},
		{name: "unusable at one, usable at the other", records: []string{mx, addr, unusable("_25._tcp.mx.d.example."), mx2, add2, rec2}, want: policy.DANEPartial, base: "mx.d.example", may: "dane", must: "dane-only"},
		{name: "unusable at one, none at the other", records: []string{mx, addr, unusable("_25._tcp.mx.d.example."), mx2, add2}, want: policy.DANEUnusable, base: "mx.d.example", may: "dane", must: "encrypt"},

		{name: "bogus TLSA", records: []string{mx, addr, rec}, faults: map[string]uint16{"_25._tcp.mx.d.example": dns.TypeTLSA}, want: policy.DANEFailed, base: "mx.d.example", may: "dane", must: "dane-only"},
		{name: "bogus TLSA at one, none at the other", records: []string{mx, addr, rec, mx2, add2}, faults: map[string]uint16{"_25._tcp.mx.d.example": dns.TypeTLSA}, want: policy.DANEFailed, base: "mx.d.example", may: "dane", must: "dane-only"},
		{name: "bogus TLSA at one, unusable at the other", records: []string{mx, addr, rec, mx2, add2, unusable("_25._tcp.mx2.d.example.")}, faults: map[string]uint16{"_25._tcp.mx.d.example": dns.TypeTLSA}, want: policy.DANEFailed, base: "mx.d.example", may: "dane", must: "dane-only"},
		{name: "bogus TLSA at one, usable at the other", records: []string{mx, addr, rec, mx2, add2, rec2}, faults: map[string]uint16{"_25._tcp.mx.d.example": dns.TypeTLSA}, want: policy.DANEPartial, base: "mx.d.example", may: "dane", must: "dane-only"},
		{name: "no reply for TLSA", records: []string{mx, addr, rec}, faults: map[string]uint16{"_25._tcp.mx.d.example": dns.TypeTLSA}, fault: fakedns.Silent, want: policy.DANEFailed, base: "mx.d.example", may: "dane", must: "dane-only"},
		{name: "TLSA refused", records: []string{mx, addr, rec}, faults: map[string]uint16{"_25._tcp.mx.d.example": dns.TypeTLSA}, fault: fakedns.Refused, want: policy.DANEFailed, base: "mx.d.example", may: "dane", must: "dane-only"},
		{name: "TLSA by TCP", records: []string{mx, addr, rec}, faults: map[string]uint16{"_25._tcp.mx.d.example": dns.TypeTLSA}, fault: fakedns.TruncateUDP, want: policy.DANEFull, base: "mx.d.example", may: "dane-only", must: "dane-only"},
		{name: "no reply for TLSA of a host that is not signed", records: []string{"d.example. 60 IN MX 10 mx.e.example.", "mx.e.example. 60 IN A 192.0.2.1"}, faults: map[string]uint16{"_25._tcp.mx.e.example": dns.TypeTLSA}, fault: fakedns.Silent, want: policy.DANENone, base: "mx.e.example", must: "encrypt"},
		{name: "bogus address", records: []string{mx, addr, rec}, faults: map[string]uint16{"mx.d.example": 0}, want: policy.DANEFailed, base: "mx.d.example", may: "dane", must: "dane-only"},
		{name: "bogus address of one, none at the other", records: []string{mx, addr, rec, mx2, add2}, faults: map[string]uint16{"mx.d.example": 0}, want: policy.DANEFailed, base: "mx.d.example", may: "dane", must: "dane-only"},
		{name: "one family fails", records: []string{mx, addr, rec}, faults: map[string]uint16{"mx.d.example": dns.TypeAAAA}, want: policy.DANEFull, base: "mx.d.example", may: "dane-only", must: "dane-only"},
		{name: "bogus MX", records: []string{mx, addr, rec}, faults: map[string]uint16{"d.example": dns.TypeMX}, want: policy.DANEUnknown, must: "wait"},
		{name: "a host without address does not count", records: []string{"d.example. 60 IN MX 5 gone.d.example.", mx, addr, rec}, want: policy.DANEFull, may: "dane-only", must: "dane-only"},
		{name: "no host with an address", records: []string{mx}, want: policy.DANENone, base: "mx.d.example", must: "encrypt"},

		{name: "nothing is signed", records: []string{mx, addr, rec}, signed: []string{"other.example"}, want: policy.DANENone, must: "encrypt"},
		{name: "the MX is not", records: []string{"d.example. 60 IN MX 10 mx.e.example.", "mx.e.example. 60 IN A 192.0.2.1", "_25._tcp.mx.e.example." + ee}, signed: []string{"e.example"}, want: policy.DANENone, must: "encrypt"},
		{name: "the address is not", records: []string{"d.example. 60 IN MX 10 mx.e.example.", "mx.e.example. 60 IN A 192.0.2.1", "_25._tcp.mx.e.example." + ee}, want: policy.DANENone, base: "mx.e.example", must: "encrypt"},
		{name: "the TLSA records are not", records: []string{mx, addr, rec}, unsigned: []string{"_tcp.mx.d.example"}, want: policy.DANENone, base: "mx.d.example", must: "encrypt"},
		{name: "a host of another signed zone", records: []string{"d.example. 60 IN MX 10 mx.e.example.", "mx.e.example. 60 IN A 192.0.2.1", "_25._tcp.mx.e.example." + ee}, signed: []string{"d.example", "e.example"}, want: policy.DANEFull, base: "mx.e.example", may: "dane-only", must: "dane-only"},

		{name: "alias, records at its end", records: []string{mx, "mx.d.example. 60 IN CNAME real.e.example.", "real.e.example. 60 IN A 192.0.2.1", "_25._tcp.real.e.example." + ee, rec}, signed: []string{"d.example", "e.example"}, want: policy.DANEFull, base: "real.e.example", may: "dane-only", must: "dane-only"},
		{name: "alias, records at the host's own name", records: []string{mx, "mx.d.example. 60 IN CNAME real.e.example.", "real.e.example. 60 IN A 192.0.2.1", rec}, signed: []string{"d.example", "e.example"}, want: policy.DANEFull, base: "mx.d.example", may: "dane-only", must: "dane-only"},
		{name: "alias, bogus records at its end", records: []string{mx, "mx.d.example. 60 IN CNAME real.e.example.", "real.e.example. 60 IN A 192.0.2.1", rec}, signed: []string{"d.example", "e.example"}, faults: map[string]uint16{"_25._tcp.real.e.example": 0}, want: policy.DANEFailed, base: "real.e.example", may: "dane", must: "dane-only"},
		{name: "alias that leaves the signed zones, records at the host's own name", records: []string{mx, "mx.d.example. 60 IN CNAME real.e.example.", "real.e.example. 60 IN A 192.0.2.1", "_25._tcp.real.e.example." + ee, rec}, want: policy.DANEFull, base: "mx.d.example", may: "dane-only", must: "dane-only"},
		{name: "alias that leaves the signed zones, records at its end alone", records: []string{mx, "mx.d.example. 60 IN CNAME real.e.example.", "real.e.example. 60 IN A 192.0.2.1", "_25._tcp.real.e.example." + ee}, want: policy.DANENone, base: "mx.d.example", must: "encrypt"},
		{name: "alias of an unsigned zone", records: []string{"d.example. 60 IN MX 10 mx.e.example.", "mx.e.example. 60 IN CNAME real.d.example.", "real.d.example. 60 IN A 192.0.2.1", "_25._tcp.real.d.example." + ee}, want: policy.DANENone, base: "mx.e.example", must: "encrypt"},
		{name: "TLSA by CNAME", records: []string{mx, addr, "_25._tcp.mx.d.example. 60 IN CNAME keys.d.example.", "keys.d.example." + ee}, want: policy.DANEFull, base: "mx.d.example", may: "dane-only", must: "dane-only"},
		{name: "TLSA by CNAME to an unsigned zone", records: []string{mx, addr, "_25._tcp.mx.d.example. 60 IN CNAME keys.e.example.", "keys.e.example." + ee}, want: policy.DANENone, base: "mx.d.example", must: "encrypt"},

		{name: "no MX", records: []string{"d.example. 60 IN A 192.0.2.1", "_25._tcp.d.example." + ee}, want: policy.DANEFull, base: "d.example", may: "dane-only", must: "dane-only"},
		{name: "a host", dest: "[mx.d.example]", records: []string{addr, rec}, want: policy.DANEFull, base: "mx.d.example", may: "dane-only", must: "dane-only"},
		{name: "a host and port", dest: "[mx.d.example]:587", records: []string{addr, "_587._tcp.mx.d.example." + ee}, want: policy.DANEFull, base: "mx.d.example", may: "dane-only", must: "dane-only"},
		{name: "records of another port", dest: "[mx.d.example]:587", records: []string{addr, rec}, want: policy.DANENone, base: "mx.d.example", must: "encrypt"},
		{name: "a domain and port", dest: "d.example:26", records: []string{mx, addr, "_26._tcp.mx.d.example." + ee}, want: policy.DANEFull, base: "mx.d.example", may: "dane-only", must: "dane-only"},
		{name: "an address", dest: "[192.0.2.1]", want: policy.DANENone, must: "encrypt"},
		{name: "null MX", records: []string{"d.example. 60 IN MX 0 ."}, want: policy.DANENone, must: "encrypt"},
		{name: "no such domain", want: policy.DANENone, must: "encrypt"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, tt.records...)
			if tt.signed == nil {
				tt.signed = []string{"d.example"}
			}
			w.dns.SetAuthentic(true, tt.signed...)
			if tt.unsigned != nil {
				w.dns.SetAuthentic(false, tt.unsigned...)
			}
			for name, qtype := range tt.faults {
				w.dns.Fail(name, qtype, cmp.Or(tt.fault, fakedns.Bogus))
			}
			dest := tt.dest
			if dest == "" {
				dest = "d.example"
			}
			r := w.prober(trustAll).Discover(t.Context(), dest)
			if r.DANE != tt.want {
				t.Errorf("got %s, want %s", r.DANE, tt.want)
			}
			base := ""
			if len(r.MX) > 0 && r.MX[0].TLSA != nil && !strings.HasPrefix(r.MX[0].Host, "gone.") {
				base = r.MX[0].TLSA.Base
			}
			if base != tt.base {
				t.Errorf("base %q, want %q", base, tt.base)
			}
			for required, want := range map[bool]string{false: tt.may, true: tt.must} {
				d := policy.DemandTLS(policy.TLSInput{Domain: r.Domain, Required: required, Published: r.published()})
				got := d.Level.String()
				if d.Wait != "" {
					got = "wait"
				}
				if got != want {
					t.Errorf("required %t: answered %q, want %q", required, got, want)
				}
			}
		})
	}
}

// TestTLSATrust holds that without trust the AD bit means nothing.
func TestTLSATrust(t *testing.T) {
	w := newWorld(t, "d.example. 60 IN MX 10 mx.d.example.", "mx.d.example. 60 IN A 192.0.2.1", "_25._tcp.mx.d.example."+ee)
	w.dns.SetAuthentic(true)
	for name, change := range map[string]func(*Options){
		"nobody is trusted": func(*Options) {},
		"another is":        func(o *Options) { o.Trusts = func(s string) bool { return s != w.dns.Addr() } },
		"no longer": func(o *Options) { // resolv.conf changes during the look
			asked := 0
			o.Trusts = func(string) bool { asked++; return asked < 3 }
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := w.prober(change).Discover(t.Context(), "d.example")
			if r.DANE != policy.DANEOff || r.Authentic || r.MX[0].TLSA != nil || r.MX[0].Authentic {
				t.Errorf("%+v", r)
			}
		})
	}
	if r := w.prober(func(o *Options) { o.Trusts = TrustResolvers(nil) }).Discover(t.Context(), "d.example"); r.DANE != policy.DANEFull {
		t.Errorf("on loopback: %s", r.DANE)
	}
}

func TestTLSALimit(t *testing.T) {
	records := []string{"d.example. 60 IN MX 10 mx.d.example.", "mx.d.example. 60 IN A 192.0.2.1"}
	for i := range maxTLSA + 3 {
		records = append(records, fmt.Sprintf("_25._tcp.mx.d.example. 60 IN TLSA 3 1 1 %064x", i))
	}
	w := newWorld(t, records...)
	w.dns.SetAuthentic(true)
	r := w.prober(trustAll).Discover(t.Context(), "d.example")
	if got := r.MX[0].TLSA; r.DANE != policy.DANEFull || len(got.Records) != maxTLSA || !strings.HasPrefix(got.Error, "3 more") {
		t.Errorf("%s, %d records, %s", r.DANE, len(got.Records), got.Error)
	}
}

// daneWorld is a destination with two hosts, the records of their certificates, and
// what to change in them.
type daneWorld struct {
	*world
	hosts [2]*fakesmtp.Server
	leaf  [2]*x509.Certificate
}

func newDANEWorld(t *testing.T) *daneWorld {
	w := &daneWorld{world: newWorld(t, "d.example. 60 IN MX 10 mx1.d.example.", "d.example. 60 IN MX 20 mx2.d.example.",
		"mx1.d.example. 60 IN A 192.0.2.1", "mx2.d.example. 60 IN A 192.0.2.2")}
	w.dns.SetAuthentic(true)
	for i := range w.hosts {
		name := fmt.Sprintf("mx%d.d.example", i+1)
		b := w.good(name)
		w.leaf[i], _ = x509.ParseCertificate(b.Certificate.Certificate[0])
		w.hosts[i] = w.host(fmt.Sprintf("192.0.2.%d", i+1), b)
	}
	return w
}

func (w *daneWorld) tlsa(host int, records ...dane.Record) {
	w.t.Helper()
	var values []string
	for _, r := range records {
		values = append(values, r.String())
	}
	if err := w.dns.Set(fmt.Sprintf("_25._tcp.mx%d.d.example", host), "TLSA", values...); err != nil {
		w.t.Fatal(err)
	}
}

// TestJudgeDANE holds the state of a destination against what Postfix does at the
// level that it is answered.
func TestJudgeDANE(t *testing.T) {
	wrong := dane.Record{Usage: 3, Selector: 1, Matching: 1, Data: make([]byte, 32)}
	unusable := dane.Record{Usage: 1, Selector: 1, Matching: 1, Data: make([]byte, 32)}
	verify := policy.TLSParams{Level: policy.LevelVerify}
	other := policy.TLSParams{Level: policy.LevelSecure, Match: []string{"other.example"}}
	tests := []struct {
		name   string
		set    func(w *daneWorld)
		rule   policy.TLSParams
		want   policy.State
		reason string // in it, without a rule
		met    bool
	}{
		{name: "both match", set: func(w *daneWorld) { w.match(1); w.match(2) }, want: policy.Works, reason: "mx1", met: true},
		{name: "the second matches", set: func(w *daneWorld) { w.tlsa(1, wrong); w.match(2) }, want: policy.Works, reason: "mx2", met: true},
		{name: "none matches", set: func(w *daneWorld) { w.tlsa(1, wrong); w.tlsa(2, wrong) }, want: policy.Broken, reason: "DANE"},
		{name: "partial, matches", set: func(w *daneWorld) { w.match(2) }, want: policy.Works, reason: "mx2", met: true},
		{name: "partial, does not match: the other is passed by", set: func(w *daneWorld) { w.tlsa(2, wrong) }, want: policy.Broken, reason: "DANE"},
		{name: "partial, down: the other is passed by", set: func(w *daneWorld) { w.match(2); w.route("192.0.2.2", "") }, want: policy.Unreachable, reason: "mx2"},
		{name: "partial, no STARTTLS", set: func(w *daneWorld) { w.match(2); w.hosts[1].Set(fakesmtp.Behaviour{}) }, want: policy.Absent, reason: "no STARTTLS"},
		{name: "partial and failed", set: func(w *daneWorld) {
			w.dns.Fail("_25._tcp.mx1.d.example", dns.TypeTLSA, fakedns.Bogus)
			w.tlsa(2, wrong)
		}, want: policy.Unknown, reason: "TLSA"},
		{name: "failed", set: func(w *daneWorld) { w.dns.Fail("_25._tcp.mx1.d.example", dns.TypeTLSA, fakedns.Bogus) }, want: policy.Unknown, reason: "TLSA"},
		{name: "unusable", set: func(w *daneWorld) { w.tlsa(1, unusable); w.tlsa(2, unusable) }, want: policy.Works},
		{name: "none", set: func(w *daneWorld) {}, want: policy.Works},
		{name: "a rule besides, met", set: func(w *daneWorld) { w.match(1); w.match(2) }, rule: verify, want: policy.Works, met: true},
		{name: "a rule besides, not met", set: func(w *daneWorld) { w.match(1); w.match(2) }, rule: other, want: policy.Broken},
		{name: "a rule besides, met by the host that does not match", set: func(w *daneWorld) { w.match(1); w.tlsa(2, wrong) },
			rule: policy.TLSParams{Level: policy.LevelSecure, Match: []string{"mx2.d.example"}}, want: policy.Broken},
		{name: "a rule besides, met by one of two", set: func(w *daneWorld) { w.match(1); w.match(2) },
			rule: policy.TLSParams{Level: policy.LevelSecure, Match: []string{"mx2.d.example"}}, want: policy.Works},
		{name: "a rule for DANE, none", set: func(w *daneWorld) {}, rule: policy.TLSParams{Level: policy.LevelDANEOnly}, want: policy.Broken},
		{name: "a rule for DANE, matches", set: func(w *daneWorld) { w.match(2) }, rule: policy.TLSParams{Level: policy.LevelDANEOnly}, want: policy.Works, met: true},
		{name: "expired, DANE-EE", set: func(w *daneWorld) {
			w.replace(1, fakesmtp.CertOptions{Names: []string{"x.example"}, Expired: true})
			w.match(1)
			w.replace(2, fakesmtp.CertOptions{SelfSigned: true})
			w.match(2)
		}, want: policy.Works, reason: "mx1", met: true},
		{name: "DANE-TA by the next-hop's name", set: func(w *daneWorld) {
			w.tlsa(1, dane.Of(w.ca.Cert, 2, 0, 0))
			w.replace(1, fakesmtp.CertOptions{Names: []string{"d.example"}})
			w.tlsa(2, wrong)
		}, want: policy.Works, reason: "mx1", met: true},
		{name: "DANE-TA, another name", set: func(w *daneWorld) {
			w.tlsa(1, dane.Of(w.ca.Cert, 2, 0, 0))
			w.replace(1, fakesmtp.CertOptions{Names: []string{"e.example"}})
			w.tlsa(2, wrong)
		}, want: policy.Broken, reason: "not for mx1.d.example or d.example"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newDANEWorld(t)
			tt.set(w)
			r := w.prober(trustAll).Probe(t.Context(), "d.example")
			if got := r.Judge(tt.rule, tls.VersionTLS12); got != tt.want {
				t.Errorf("got %s, want %s: %+v", got, tt.want, r)
			}
			if got := r.RuleMet(tt.rule, tls.VersionTLS12); got != tt.met {
				t.Errorf("rule met: %t", got)
			}
			if plain(tt.rule) && !strings.Contains(r.Reason, tt.reason) {
				t.Errorf("reason %q, want %q in it", r.Reason, tt.reason)
			}
			for _, mx := range r.MX {
				for _, a := range mx.Addresses {
					if n := len(a.TLSA); a.Sent != nil || mx.TLSA.secure() && a.TLS && (n != len(mx.TLSA.Records) || a.SNI != mx.TLSA.Base) {
						t.Errorf("%s: %+v", mx.Host, a)
					}
				}
			}
		})
	}
}

// match publishes a record of the certificate that a host shows.
func (w *daneWorld) match(host int) { w.tlsa(host, dane.Of(w.leaf[host-1], 3, 1, 1)) }

func (w *daneWorld) replace(host int, o fakesmtp.CertOptions) {
	c := w.cert(o)
	w.leaf[host-1], _ = x509.ParseCertificate(c.Certificate[0])
	w.hosts[host-1].Set(fakesmtp.Behaviour{STARTTLS: true, Certificate: c})
}

// TestPublishedAfterRestart holds that a restart while DNS fails does not forget that
// there were TLSA records.
func TestPublishedAfterRestart(t *testing.T) {
	w := newDANEWorld(t)
	w.match(1)
	w.match(2)
	store := new(memStore)
	m := NewManager(w.prober(trustAll), store, ManagerOptions{})
	if p, _, err := m.Look(t.Context(), "d.example", policy.TLSParams{}, 0); err != nil || p.Published.DANE != policy.DANEFull {
		t.Fatal(p, err)
	}
	w.dns.Fail("d.example", dns.TypeMX, fakedns.Servfail)
	m = NewManager(w.prober(trustAll), store, ManagerOptions{})
	if err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	rule := policy.TLSParams{Level: policy.LevelVerify}
	if p := m.Posture("d.example", rule); p.State != policy.Works || !p.RuleMet || p.Published.DANE != policy.DANEFull {
		t.Errorf("%+v", p)
	}
	if p := m.Published(t.Context(), "d.example"); p.DANE != policy.DANEFull {
		t.Errorf("%+v", p)
	}
	if p := m.Posture("d.example", rule); p.Published.DANE != policy.DANEFull {
		t.Errorf("%+v", p)
	}
}

// TestPublishedChange holds that a destination is looked at anew when it publishes
// something else, and that the posture tells it at once.
func TestPublishedChange(t *testing.T) {
	w := newDANEWorld(t)
	m := NewManager(w.prober(trustAll), nil, ManagerOptions{})
	defer running(t, m)()
	if p, _, err := m.Look(t.Context(), "d.example", policy.TLSParams{}, 0); err != nil || p.State != policy.Works || p.Published.DANE != policy.DANENone {
		t.Fatal(p, err)
	}
	w.tlsa(1, dane.Record{Usage: 3, Selector: 1, Matching: 1, Data: make([]byte, 32)})
	w.tlsa(2, dane.Record{Usage: 3, Selector: 1, Matching: 1, Data: make([]byte, 32)})
	e := m.mem.get("d.example")
	e.until.Store(0) // it is stale
	if p := m.Published(t.Context(), "d.example"); p.DANE != policy.DANEFull {
		t.Fatal(p)
	}
	if p := m.Posture("d.example", policy.TLSParams{}); p.Published.DANE != policy.DANEFull {
		t.Error(p)
	}
	for m.Posture("d.example", policy.TLSParams{}).State != policy.Broken {
		if t.Context().Err() != nil {
			t.Fatal("not looked at anew")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestLossOfTrustIsSaid: DANE that ends while we run, since resolv.conf has changed, weakens
// what required mail is verified by: that is logged, once.
func TestLossOfTrustIsSaid(t *testing.T) {
	w := newWorld(t)
	var log bytes.Buffer
	trust := true
	p := w.prober(func(o *Options) {
		o.Trusts = func(string) bool { return trust }
		o.Log = slog.New(slog.NewTextHandler(&log, nil))
	})
	for i, want := range []int{0, 1, 1} {
		p.Discover(t.Context(), "d.example")
		if n := strings.Count(log.String(), "DANE is off from now on"); n != want {
			t.Errorf("look %d: said %d times: %s", i, n, log.String())
		}
		trust = false
	}
	trust = true
	if p.Discover(t.Context(), "d.example"); !strings.Contains(log.String(), "DANE is on again") {
		t.Errorf("%s", log.String())
	}
}
