package tlsmap

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/probe"
)

// published is what destinations publish; one that is not listed: nothing.
var published = map[string]policy.Published{
	"dane.example":          {DANE: policy.DANEFull, STS: policy.STSEnforce, STSMatch: []string{"mx.dane.example"}},
	"xn--bcher-kva.example": {DANE: policy.DANEFull, STS: policy.STSNone},
	"[mx.dane.example]":     {DANE: policy.DANEFull, STS: policy.STSOff},
	"partial.example":       {DANE: policy.DANEPartial, STS: policy.STSNone},
	"unusable.example":      {DANE: policy.DANEUnusable, STS: policy.STSNone},
	"bogus.example":         {DANE: policy.DANEFailed, STS: policy.STSNone},
	"sts.example":           {DANE: policy.DANENone, STS: policy.STSEnforce, STSMatch: []string{"mx.sts.example", ".backup.example"}},
	"testing.example":       {DANE: policy.DANENone, STS: policy.STSTesting, STSMatch: []string{"mx.testing.example"}},
	"stsfailed.example":     {DANE: policy.DANENone, STS: policy.STSFailed},
	"unknown.example":       {},
	"broken.example":        {DANE: policy.DANEFull, STS: policy.STSNone},
	"brokensts.example":     {DANE: policy.DANENone, STS: policy.STSEnforce, STSMatch: []string{"mx.else.example"}},
	"named.example":         {DANE: policy.DANEFull, STS: policy.STSNone},
	"namedmet.example":      {DANE: policy.DANEFull, STS: policy.STSNone},
	"namedsts.example":      {DANE: policy.DANENone, STS: policy.STSEnforce, STSMatch: []string{".namedsts.example", "gw.example"}},
	"clash.example":         {DANE: policy.DANENone, STS: policy.STSEnforce, STSMatch: []string{"mx.clash.example"}},
	"exempt.example":        {DANE: policy.DANEFull, STS: policy.STSNone},
	"own.example":           {DANE: policy.DANEFull, STS: policy.STSNone},
	"stsonly.example":       {DANE: policy.DANEOff, STS: policy.STSEnforce, STSMatch: []string{"mx.stsonly.example"}},
	"[relay.example]:25":    {DANE: policy.DANENone, STS: policy.STSOff},
}

func lookUp(_ context.Context, dest string) policy.Published {
	p, ok := published[probe.Key(dest)]
	if !ok {
		return policy.Published{DANE: policy.DANENone, STS: policy.STSNone}
	}
	return p
}

var verifiedRules = []string{
	"recipient broken.example none override until=24h",
	"recipient brokensts.example none override until=24h",
	"recipient overridden.example none override until=24h",
	"recipient named.example tls level=secure match=.named.example",
	"recipient namedmet.example tls level=secure match=.namedmet.example",
	"recipient namedsts.example tls level=verify match=mx.namedsts.example:other.example",
	"recipient clash.example encryption level=secure match=other.example",
	"recipient exempt.example encryption",
	"recipient noreply@exempt.example none",
	"recipient own.example encryption",
	"recipient floor.example none protocols=>=TLSv1.3",
	"recipient always.example none level=encrypt",
	"sender @strict.example encryption",
}

func verifiedServer(t testing.TB, change func(*Config)) *Server {
	w := &world{own: []string{"own.example"}, postures: map[string]policy.Posture{"namedmet.example": {State: policy.Works, RuleMet: true}}}
	s, _ := newServer(t, w, func(c *Config) {
		c.Published = lookUp
		if change != nil {
			change(c)
		}
	}, verifiedRules...)
	return s
}

func TestVerifiedTLS(t *testing.T) {
	s := verifiedServer(t, nil)
	const floor = " protocols=>=TLSv1.2"
	wait := func(why string) string { return "TEMP verified TLS is demanded, and the mail waits: " + why }
	for _, tt := range []struct{ key, plain, secure string }{
		{"nothing.example", "NOTFOUND", encrypt},
		{"dane.example", "OK dane-only", "OK dane-only" + floor},
		{"DANE.Example", "OK dane-only", "OK dane-only" + floor},
		{"Bücher.example", "OK dane-only", "OK dane-only" + floor}, // as typed
		{"[bücher.example]", "NOTFOUND", encrypt},
		{".dane.example", "NOTFOUND", encrypt}, // nobody's destination
		{"[mx.dane.example]", "OK dane-only", "OK dane-only" + floor},
		{"[192.0.2.1]", "NOTFOUND", encrypt},
		{"partial.example", "OK dane", "OK dane-only" + floor},
		{"unusable.example", "OK dane", encrypt},
		{"bogus.example", "OK dane", "OK dane-only" + floor},
		{"sts.example", "OK secure match=mx.sts.example:.backup.example servername=hostname", "OK secure match=mx.sts.example:.backup.example" + floor + " servername=hostname"},
		{"testing.example", "NOTFOUND", encrypt},
		{"stsfailed.example", "NOTFOUND", wait("stsfailed.example may have an MTA-STS policy, and it can't be had")},
		{"unknown.example", "NOTFOUND", wait("it is not known whether unknown.example publishes TLSA records (DANE)")},
		{"broken.example", "OK may", "OK dane-only" + floor},
		{"brokensts.example", "OK may", "OK secure match=mx.else.example" + floor + " servername=hostname"},
		{"overridden.example", "OK may", encrypt},
		{"named.example", wait("named.example publishes TLSA records (DANE), and its rule demands secure match=.named.example: no host is known that meets both"),
			wait("named.example publishes TLSA records (DANE), and its rule demands secure match=.named.example: no host is known that meets both")},
		{"namedmet.example", "OK dane-only" + floor, "OK dane-only" + floor},
		{"namedsts.example", "OK secure match=mx.namedsts.example" + floor + " servername=hostname", "OK secure match=mx.namedsts.example" + floor + " servername=hostname"},
		{"clash.example", wait("the MTA-STS policy of clash.example names mx.clash.example, and its rule other.example: no certificate can meet both"),
			wait("the MTA-STS policy of clash.example names mx.clash.example, and its rule other.example: no certificate can meet both")},
		{"exempt.example", "OK dane-only", "OK dane-only" + floor},
		{"own.example", "NOTFOUND", "OK dane-only" + floor},
		{"floor.example", "OK may protocols=>=TLSv1.3", encrypt},
		{"always.example", "OK encrypt", encrypt},
		{"[127.0.0.1]:8644", "OK none", "OK none"},
	} {
		if got := ask(t, s, MapTLSPolicy, tt.key); got != tt.plain {
			t.Errorf("tls-policy %s: got %q, want %q", tt.key, got, tt.plain)
		}
		if got := ask(t, s, MapSecureTLSPolicy, tt.key); got != tt.secure {
			t.Errorf("secure-tls-policy %s: got %q, want %q", tt.key, got, tt.secure)
		}
	}
}

// A client with a level of its own is not answered with less, by what is published.
func TestVerifiedTLSAndAClientsOwnLevel(t *testing.T) {
	for _, tt := range []struct{ own, key, want string }{
		{"encrypt", "partial.example", "NOTFOUND"},
		{"encrypt", "unusable.example", "NOTFOUND"},
		{"encrypt", "bogus.example", "NOTFOUND"},
		{"encrypt", "dane.example", "OK dane-only"},
		{"encrypt", "sts.example", "OK secure match=mx.sts.example:.backup.example servername=hostname"},
		{"encrypt", "broken.example", "OK may"}, // a rule says so
		{"secure", "dane.example", "NOTFOUND"},
		{"secure", "sts.example", "OK secure match=mx.sts.example:.backup.example servername=hostname"},
	} {
		s := verifiedServer(t, func(c *Config) { c.OwnLevel = tt.own })
		if got := ask(t, s, MapTLSPolicy, tt.key); got != tt.want {
			t.Errorf("%s, a client at %s: got %q, want %q", tt.key, tt.own, got, tt.want)
		}
		if got := ask(t, s, MapSecureTLSPolicy, tt.key); got == "NOTFOUND" {
			t.Errorf("secure-tls-policy of %s: %q", tt.key, got)
		}
	}
}

// What the administrator's own table or main.cf demands and what is published: neither
// is lost.
func TestVerifiedTLSAndTheAdministratorsTable(t *testing.T) {
	const floor = " protocols=>=TLSv1.2"
	for _, tt := range []struct{ key, entry, level, plain, secure string }{
		{"dane.example", "may", "", "OK dane-only", "OK dane-only" + floor},
		{"dane.example", "none", "", "OK dane-only", "OK dane-only" + floor},
		{"dane.example", "encrypt ciphers=high", "", "OK dane-only ciphers=high", "OK dane-only" + floor + " ciphers=high"},
		{"dane.example", "secure match=x.example", "", "TEMP", "TEMP"}, // both, and no host is known
		{"namedmet.example", "verify", "", "OK dane-only" + floor, "OK dane-only" + floor},
		{"dane.example", "fingerprint match=aa:bb", "", "OK fingerprint match=aa:bb", "OK fingerprint match=aa:bb" + floor},
		{"dane.example", "secure match=x.example tafile=/ca.pem", "", "OK secure match=x.example tafile=/ca.pem", "OK secure match=x.example tafile=/ca.pem" + floor},
		{"namedmet.example", "verify tafile=/ca.pem", "", "OK secure match=.namedmet.example" + floor + " tafile=/ca.pem", "OK secure match=.namedmet.example" + floor + " tafile=/ca.pem"},
		{"dane.example", "encrypt exclude=aNULL:MD5", "", "OK dane-only exclude=aNULL:MD5", "OK dane-only" + floor + " exclude=aNULL:MD5"},
		{"partial.example", "encrypt", "", "OK dane-only", "OK dane-only" + floor},
		{"partial.example", "dane", "", "OK dane", "OK dane-only" + floor},
		{"sts.example", "secure match=mx.sts.example", "", "OK secure match=mx.sts.example servername=hostname", "OK secure match=mx.sts.example" + floor + " servername=hostname"},
		{"sts.example", "secure match=mx.sts.example tafile=/ca.pem", "", "OK secure match=mx.sts.example servername=hostname tafile=/ca.pem", "OK secure match=mx.sts.example" + floor + " servername=hostname tafile=/ca.pem"},
		{"sts.example", "secure match=x.example", "", "TEMP", "TEMP"},
		{"sts.example", "encrypt", "", "OK secure match=mx.sts.example:.backup.example servername=hostname", "OK secure match=mx.sts.example:.backup.example" + floor + " servername=hostname"},
		{"sts.example", "dane-only", "", "OK dane-only", "OK dane-only" + floor},
		{"namedsts.example", "dane-only", "", "TEMP", "TEMP"},
		{"nothing.example", "secure match=x.example", "", "NOTFOUND", "OK secure match=x.example" + floor},
		{"broken.example", "encrypt", "", "OK encrypt", "OK dane-only" + floor},
		{"broken.example", "dane", "", "OK dane", "OK dane-only" + floor},
		// main.cf's own level: no answer is below it.
		{"partial.example", "", "encrypt", "OK dane-only", "OK dane-only" + floor},
		{"unusable.example", "", "encrypt", "OK encrypt", encrypt},
		{"broken.example", "", "encrypt", "OK encrypt", "OK dane-only" + floor},
		{"broken.example", "", "dane", "OK may", "OK dane-only" + floor},
		{"nothing.example", "", "encrypt", "NOTFOUND", encrypt},
		{"nothing.example", "", "secure", "NOTFOUND", "OK secure" + floor},
		// Postfix looks TLSA records up, and we do not.
		{"stsonly.example", "", "dane", "OK dane", "OK secure match=mx.stsonly.example" + floor + " servername=hostname"},
		{"stsonly.example", "dane protocols=>=TLSv1.3", "may", "OK dane protocols=>=TLSv1.3", "OK secure match=mx.stsonly.example" + floor + " servername=hostname"},
		{"stsonly.example", "may", "dane", "OK secure match=mx.stsonly.example servername=hostname", "OK secure match=mx.stsonly.example" + floor + " servername=hostname"},
		{"stsonly.example", "", "may", "OK secure match=mx.stsonly.example servername=hostname", "OK secure match=mx.stsonly.example" + floor + " servername=hostname"},
		{"sts.example", "", "dane", "OK secure match=mx.sts.example:.backup.example servername=hostname", "OK secure match=mx.sts.example:.backup.example" + floor + " servername=hostname"},
		// nexthop and dot-nexthop, its default, and the patterns
		{"sts.example", "", "secure", "OK secure match=mx.sts.example servername=hostname", "OK secure match=mx.sts.example" + floor + " servername=hostname"},
		{"brokensts.example", "", "secure", "OK secure", "TEMP"},
		{"sts.example", "", "verify", "OK secure match=mx.sts.example:.backup.example servername=hostname", "OK secure match=mx.sts.example:.backup.example" + floor + " servername=hostname"},
	} {
		s := verifiedServer(t, func(c *Config) {
			c.AdminLevel = tt.level
			c.AdminTLS = func(_ context.Context, key string) (string, error) {
				if key == tt.key {
					return tt.entry, nil
				}
				return "", nil
			}
		})
		for m, want := range map[string]string{MapTLSPolicy: tt.plain, MapSecureTLSPolicy: tt.secure} {
			if want == encrypt && tt.entry != "" {
				t.Fatal("the table is wrong")
			}
			got := ask(t, s, m, tt.key)
			if want == "TEMP" && strings.HasPrefix(got, "TEMP verified TLS is demanded") {
				continue
			}
			if got != want {
				t.Errorf("%s %s with %q, main.cf %q: got %q, want %q", m, tt.key, tt.entry, tt.level, got, want)
			}
		}
	}
}

// An override is counted and logged at each use that changed the answer, and only then.
func TestOverrideIsLogged(t *testing.T) {
	var l logged
	reg := prometheus.NewRegistry()
	s := verifiedServer(t, func(c *Config) { c.Log, c.Registerer = l.logger(), reg })
	for _, key := range []string{"broken.example", "broken.example", "brokensts.example", "overridden.example", "dane.example"} {
		ask(t, s, MapTLSPolicy, key)
		ask(t, s, MapSecureTLSPolicy, key)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var counted float64
	for _, f := range families {
		if f.GetName() == "postseal_override_uses_total" {
			counted = f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	if counted != 3 {
		t.Errorf("%v uses counted, want 3", counted)
	}
	if n := strings.Count(l.String(), `msg="override used"`); n != 3 {
		t.Errorf("%d uses logged, want 3:\n%s", n, &l)
	}
	for _, want := range []string{`dest=broken.example rule="recipient rule broken.example (none)" answer=may demanded=dane-only`, "dest=brokensts.example"} {
		if !strings.Contains(l.String(), want) {
			t.Errorf("the log has no %q:\n%s", want, &l)
		}
	}
}

func TestTLSRPTAttributes(t *testing.T) {
	sts := map[string]*probe.STSResult{
		"sts.example": {State: policy.STSEnforce, MX: []string{"mx.sts.example", "*.backup.example"}, MaxAge: 86400},
		// Testing and failed ones demand nothing, and are reported.
		"testing.example":   {State: policy.STSTesting, MX: []string{"mx.testing.example"}, MaxAge: 600},
		"stsfailed.example": {State: policy.STSFailed, Failure: "sts-policy-fetch-error"},
		"brokensts.example": {State: policy.STSEnforce, MX: []string{"mx.else.example"}, MaxAge: 1},
		"dane.example":      {State: policy.STSEnforce, MX: []string{"mx.dane.example"}, MaxAge: 1},
	}
	const stsText = " policy_type=sts policy_domain=sts.example policy_ttl=86400 { policy_string = version: STSv1 } { policy_string = mode: enforce }" +
		" { policy_string = mx: mx.sts.example } { policy_string = mx: *.backup.example } { policy_string = max_age: 86400 }" +
		" mx_host_pattern=mx.sts.example mx_host_pattern=*.backup.example"
	const testing1 = "policy_type=sts policy_domain=testing.example policy_ttl=600 { policy_string = version: STSv1 } { policy_string = mode: testing }" +
		" { policy_string = mx: mx.testing.example } { policy_string = max_age: 600 } mx_host_pattern=mx.testing.example"
	entry := ""
	on := func(level string) *Server {
		return verifiedServer(t, func(c *Config) {
			c.STS, c.AdminLevel = func(d string) *probe.STSResult { return sts[d] }, level
			c.AdminTLS = func(context.Context, string) (string, error) { return entry, nil }
		})
	}
	for _, tt := range []struct{ level, mapName, key, want string }{
		{"may", MapTLSPolicy, "sts.example", "OK secure match=mx.sts.example:.backup.example servername=hostname" + stsText},
		{"may", MapSecureTLSPolicy, "sts.example", "OK secure match=mx.sts.example:.backup.example protocols=>=TLSv1.2 servername=hostname" + stsText},
		{"may", MapTLSPolicy, "testing.example", "OK may " + testing1},
		{"encrypt", MapTLSPolicy, "testing.example", "OK encrypt " + testing1},
		{"dane", MapTLSPolicy, "testing.example", "NOTFOUND"},
		{"none", MapTLSPolicy, "testing.example", "NOTFOUND"},
		{"", MapTLSPolicy, "testing.example", "NOTFOUND"},
		{"may", MapSecureTLSPolicy, "testing.example", encrypt + " " + testing1},
		{"may", MapTLSPolicy, "stsfailed.example", "OK may policy_type=sts policy_domain=stsfailed.example policy_failure=sts-policy-fetch-error"},
		{"may", MapTLSPolicy, "dane.example", "OK dane-only"},
		{"may", MapTLSPolicy, "nothing.example", "NOTFOUND"},
		{"may", MapTLSPolicy, "brokensts.example", "OK may"}, // overridden: not carried out
		{"may", MapTLSPolicy, "[relay.example]:25", "NOTFOUND"},
	} {
		if got := ask(t, on(tt.level), tt.mapName, tt.key); got != tt.want {
			t.Errorf("main.cf %q, %s %s:\n got %q\nwant %q", tt.level, tt.mapName, tt.key, got, tt.want)
		}
	}
	entry = "may protocols=>=TLSv1.2"
	if got := ask(t, on("may"), MapTLSPolicy, "testing.example"); got != "NOTFOUND" {
		t.Errorf("the administrator's own entry is hidden by %q", got)
	}
	// Off: no attribute, ever.
	for key := range published {
		for _, m := range []string{MapTLSPolicy, MapSecureTLSPolicy} {
			if got := ask(t, verifiedServer(t, nil), m, key); strings.Contains(got, "policy_") || strings.Contains(got, "mx_host") {
				t.Errorf("%s %s: %q without the setting", m, key, got)
			}
		}
	}
}

// FuzzSTSAttributes: whatever a destination publishes, the attributes read back as
// written, by the rules of Postfix (mystrtokq, extpar).
func FuzzSTSAttributes(f *testing.F) {
	f.Add("a.example", "mx.a.example\n*.b.example", "sts-webpki-invalid", int64(1))
	f.Add("a.example", "mx } { policy_type=tlsa", "x y", int64(-1))
	f.Add("a b", "", "", int64(0))
	f.Fuzz(func(t *testing.T, domain, mx, failure string, age int64) {
		for _, state := range []policy.STS{policy.STSEnforce, policy.STSFailed} {
			text := stsAttributes(domain, &probe.STSResult{State: state, MX: strings.Split(mx, "\n"), MaxAge: age, Failure: failure})
			if text == "" {
				continue
			}
			if !printable(text) {
				t.Fatalf("not printable: %q", text)
			}
			rest := text
			for rest != "" {
				rest = strings.TrimPrefix(rest, " ")
				var item string
				if strings.HasPrefix(rest, "{") {
					end := strings.IndexByte(rest, '}')
					if end < 0 {
						t.Fatalf("brace left open: %q", text)
					}
					item, rest = strings.TrimSpace(rest[1:end]), rest[end+1:]
				} else {
					item, rest, _ = strings.Cut(rest, " ")
				}
				name, value, ok := strings.Cut(item, "=")
				names := []string{"policy_type", "policy_domain", "policy_ttl", "policy_string", "mx_host_pattern", "policy_failure"}
				if !ok || !slices.Contains(names, strings.TrimSpace(name)) || strings.TrimSpace(value) == "" {
					t.Fatalf("%q in %q", item, text)
				}
			}
		}
	})
}

func TestVerifiedLookupsHardlyAllocate(t *testing.T) {
	s := verifiedServer(t, nil)
	for _, tt := range []struct {
		mapName, key string
		most         float64
	}{
		{MapTLSPolicy, "nothing.example", 0},
		{MapTLSPolicy, "dane.example", 0},
		{MapTLSPolicy, "partial.example", 0},
		{MapTLSPolicy, "sts.example", 3},
		{MapSecureTLSPolicy, "dane.example", 0},
		{MapSecureTLSPolicy, "unusable.example", 0},
		{MapSecureTLSPolicy, "sts.example", 3},
	} {
		if n := testing.AllocsPerRun(100, func() { s.Query(t.Context(), tt.mapName, tt.key) }); n > tt.most {
			t.Errorf("%s %s: %v allocations, want at most %v", tt.mapName, tt.key, n, tt.most)
		}
	}
}

// TestIsDomain: what is taken for a domain at a glance is one by all that else looks at keys.
func TestIsDomain(t *testing.T) {
	s, _ := newServer(t, standardWorld(), func(c *Config) {
		c.Published = func(context.Context, string) policy.Published { return policy.Published{} }
	})
	const letters = "ab9-_..A@[]:* \x7f\u00fc"
	yes := 0
	for range 200_000 {
		b := make([]byte, rand.N(6))
		for i := range b {
			b[i] = letters[rand.N(len(letters))]
		}
		key := string(b)
		if !isDomain(key) {
			continue
		}
		yes++
		if hostOf(key) != key || policy.CanonicalDomain(key) != key || key == "" || key[0] == '.' || strings.ContainsAny(key, "@*[]: ") || !printable(key) || s.isFallback(key) {
			t.Errorf("%q", key)
		}
	}
	for _, key := range []string{"example.org", "xn--bcher-kva.example", "a", "_smtp.a-b.example"} {
		if !isDomain(key) || !s.askable(key) {
			t.Errorf("%q is none", key)
		}
	}
	for _, key := range []string{"", ".", "example.org.", ".example.org", "a..b", "Example.org", "b\u00fccher.example", "[192.0.2.1]", "a:25", "*", "a b", "a@b"} {
		if isDomain(key) {
			t.Errorf("%q is one", key)
		}
	}
	if yes < 1000 {
		t.Errorf("only %d were tried", yes)
	}
}
