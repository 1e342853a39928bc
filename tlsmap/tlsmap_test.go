package tlsmap

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

type pins []string

func (p pins) Has(r string) bool {
	for _, x := range p {
		if x == r {
			return true
		}
	}
	return false
}

func TestAnswers(t *testing.T) {
	s, _ := newServer(t, standardWorld(), func(c *Config) {
		c.Pins = pins{"pinned@plain.example", `"pin ned"@plain.example`, "pinned@own.example"}
		c.Bounce = func(a string) bool { return strings.HasPrefix(a, "postseal-bounce+") }
		c.Reply = func(a string) bool { return strings.HasPrefix(a, "postseal-bounce+r") }
	})
	for _, tt := range []struct{ mapName, key, want string }{
		{MapTransport, "x@plain.example", "NOTFOUND"},
		{MapTransport, "*", "NOTFOUND"},
		{MapTransport, "bank.example", "NOTFOUND"},
		{MapTransport, ".bank.example", "NOTFOUND"},
		{MapTransport, "x@bank.example", "OK forcedsmtp:"},
		{MapTransport, "X@BANK.Example.", "OK forcedsmtp:"},
		{MapTransport, "x@sub.bank.example", "NOTFOUND"},
		{MapTransport, "info@bank.example", "OK securesmtp:"},
		{MapTransport, "info+ext@bank.example", "OK securesmtp:"},
		{MapTransport, "x@clinic.example", "OK securesmtp:"},
		{MapTransport, "noreply@clinic.example", "NOTFOUND"},
		{MapTransport, "joe@old.example", toEscrow},
		{MapTransport, "jane@old.example", "NOTFOUND"},
		{MapTransport, "x@vault.example", toEscrow},
		{MapTransport, "x@notls.example", toEncryption},
		{MapTransport, "x@forcednotls.example", "OK forcedsmtp:"},
		{MapTransport, "x@a.corp.example", "OK securesmtp:"},
		{MapTransport, "x@corp.example", "NOTFOUND"},
		{MapTransport, "x@free.corp.example", "NOTFOUND"},
		{MapTransport, "x@own.corp.example", "NOTFOUND"},
		{MapTransport, "x@own.example", "NOTFOUND"},
		{MapTransport, "x@hop.example", "OK securesmtp:[10.0.0.5]:25"},
		{MapTransport, "x@relayed.example", "OK securesmtp:[relay.example]:587"},
		{MapTransport, "x@uucp.example", "TEMP mail must be encrypted, and cannot be: transport uucp?is not SMTP"},
		{MapTransport, "x@bücher.example", "OK securesmtp:"},
		{MapTransport, "x@[192.0.2.7]", "OK securesmtp:"},
		{MapTransport, `""@bank.example`, "OK forcedsmtp:"},
		{MapTransport, "@bank.example", "OK forcedsmtp:"}, // an empty local part
		{MapTransport, "a@b@bank.example", "OK forcedsmtp:"},
		{MapTransport, `"a@plain.example"@bank.example`, "OK forcedsmtp:"},
		{MapTransport, "doc@practice.example", "OK securesmtp:"}, // bounces return there
		{MapTransport, "boss@vault.example", "OK error:5.7.1 recipient rule vault.example (escrow) and sender rule boss@vault.example (tls) exclude each other"},
		{MapTransport, "pinned@plain.example", toEncryption},
		{MapTransport, "pinned@own.example", "NOTFOUND"}, // the splitter would give it back, for ever
		{MapTransport, "PINNED@plain.example", toEncryption},
		{MapTransport, "pin ned@plain.example", toEncryption},
		{MapTransport, "postseal-bounce+x.y@clinic.example", toEncryption},
		{MapTransport, "x\n@bank.example", "PERM key has a control character"},
		{MapTransport, strings.Repeat("x", 2000) + "@bank.example", "PERM key is not an address"},

		{MapTLSPolicy, "plain.example", "NOTFOUND"},
		{MapTLSPolicy, "bank.example", "OK secure match=.bank.example protocols=>=TLSv1.2 ciphers=high"},
		{MapTLSPolicy, "Bank.Example", "OK secure match=.bank.example protocols=>=TLSv1.2 ciphers=high"},
		{MapTLSPolicy, ".bank.example", "NOTFOUND"},
		{MapTLSPolicy, "sub.bank.example", "NOTFOUND"},
		{MapTLSPolicy, "clinic.example", "NOTFOUND"}, // noreply@ is exempt
		{MapTLSPolicy, "notls.example", encrypt},
		{MapTLSPolicy, "a.corp.example", "OK encrypt protocols=>=TLSv1.3"},
		{MapTLSPolicy, "free.corp.example", "NOTFOUND"},
		{MapTLSPolicy, "own.corp.example", "NOTFOUND"},
		{MapTLSPolicy, "alt.example", "OK may protocols=>=TLSv1.1"},
		{MapTLSPolicy, "[10.0.0.5]:25", "NOTFOUND"},
		{MapTLSPolicy, "[mail.bank.example]", "NOTFOUND"},
		{MapTLSPolicy, "[127.0.0.1]:8644", "OK none"},
		{MapTLSPolicy, "*", "NOTFOUND"},
		{MapTLSPolicy, "", "NOTFOUND"},

		{MapSecureTLSPolicy, "plain.example", encrypt},
		{MapSecureTLSPolicy, ".plain.example", encrypt},
		{MapSecureTLSPolicy, "*", encrypt},
		{MapSecureTLSPolicy, "", encrypt},
		{MapSecureTLSPolicy, "\xff:[", encrypt},
		{MapSecureTLSPolicy, "bank.example", "OK secure match=.bank.example protocols=>=TLSv1.2 ciphers=high"},
		{MapSecureTLSPolicy, "a.corp.example", "OK encrypt protocols=>=TLSv1.3"},
		{MapSecureTLSPolicy, "alt.example", encrypt},
		{MapSecureTLSPolicy, "own.example", encrypt},
		{MapSecureTLSPolicy, "[10.0.0.5]:25", "OK verify match=hop.example protocols=>=TLSv1.2"},
		{MapSecureTLSPolicy, "[10.0.0.5]", "OK verify match=hop.example protocols=>=TLSv1.2"},
		{MapSecureTLSPolicy, "[10.0.0.5]:26", encrypt},
		{MapSecureTLSPolicy, "[relay.example]:587", encrypt},
		{MapSecureTLSPolicy, "[127.0.0.1]:8644", "OK none"},
		{MapSecureTLSPolicy, "[LOCALHOST]:8644", "OK none"},
		{MapSecureTLSPolicy, "[127.0.0.1]:8643", encrypt},
		{MapSecureTLSPolicy, "127.0.0.1:8644", encrypt},
		{MapSecureTLSPolicy, "[127.0.0.1]", encrypt},

		{MapSenderTransport, "x@plain.example", "NOTFOUND"},
		{MapSenderTransport, "doc@practice.example", "OK securesmtp:"},
		{MapSenderTransport, "Doc+x@Practice.Example", "OK securesmtp:"},
		{MapSenderTransport, "nurse@practice.example", "NOTFOUND"},
		{MapSenderTransport, "x@forced.example", "OK forcedsmtp:"},
		{MapSenderTransport, "x@sealed.example", toEscrow},
		{MapSenderTransport, "<>", "NOTFOUND"},
		{MapSenderTransport, "", "NOTFOUND"},
		{MapSenderTransport, "*", "NOTFOUND"},
		{MapSenderTransport, `""@forced.example`, "OK forcedsmtp:"}, // an empty local part
		{MapSenderTransport, `"@x"@forced.example`, "OK forcedsmtp:"},
		{MapSenderTransport, "@forced.example", "NOTFOUND"},
		{MapSenderTransport, "postseal-bounce+rx.y@clinic.example", "OK securesmtp:"}, // a reply, wherever it is forwarded
		{MapSenderTransport, "postseal-bounce+nx.y@clinic.example", "NOTFOUND"},

		{"nomap", "x", "PERM no such map: want one of transport, tls-policy, secure-tls-policy, sender-transport"},
		{"", "", "PERM no such map: want one of transport, tls-policy, secure-tls-policy, sender-transport"},
	} {
		if got := ask(t, s, tt.mapName, tt.key); got != tt.want {
			t.Errorf("%s %q: got %q, want %q", tt.mapName, tt.key, got, tt.want)
		}
	}
}

// A lookup by recipient knows no sender, and takes nobody for the null sender.
func TestSenderIsUnknown(t *testing.T) {
	s, _ := newServer(t, standardWorld(), nil, "sender <> tls", "recipient vault.example escrow")
	for key, want := range map[string]string{"x@plain.example": "NOTFOUND", "x@vault.example": toEscrow} {
		if got := ask(t, s, MapTransport, key); got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	for _, key := range []string{"<>", "", `"<>"`} {
		if got := ask(t, s, MapSenderTransport, key); got != "OK forcedsmtp:" {
			t.Errorf("sender %q: %q", key, got)
		}
	}
}

func TestRuleForEverything(t *testing.T) {
	s, _ := newServer(t, standardWorld(), func(c *Config) { c.Floor, c.Relay = "", "[relay.example]:587" }, "recipient * encryption", "sender * encryption")
	for _, tt := range []struct{ mapName, key, want string }{
		{MapTransport, "x@plain.example", "OK securesmtp:"},
		{MapTransport, "x@own.example", "NOTFOUND"},
		{MapTransport, "*", "NOTFOUND"},
		{MapTLSPolicy, "plain.example", "OK encrypt"},
		{MapTLSPolicy, "[10.0.0.9]:25", "NOTFOUND"},
		{MapSecureTLSPolicy, "plain.example", "OK encrypt"},
		{MapSenderTransport, "<>", "OK securesmtp:[relay.example]:587"},
	} {
		if got := ask(t, s, tt.mapName, tt.key); got != tt.want {
			t.Errorf("%s %q: got %q, want %q", tt.mapName, tt.key, got, tt.want)
		}
	}
}

func TestTroubleIsTemporary(t *testing.T) {
	down := errors.New("secret detail of the table")
	for name, tt := range map[string]struct {
		change   func(*world)
		adminErr error
		maps     []string
	}{
		"own domains": {change: func(w *world) { w.ownErr = down }, maps: []string{MapTransport, MapTLSPolicy}},
		"routes":      {change: func(w *world) { w.routeErr = down }, maps: []string{MapTransport}},
		"admin table": {change: func(w *world) {}, adminErr: down, maps: []string{MapTLSPolicy, MapSecureTLSPolicy}},
	} {
		w := standardWorld()
		tt.change(w)
		s, _ := newServer(t, w, func(c *Config) {
			c.AdminTLS = func(context.Context, string) (string, error) { return "", tt.adminErr }
		})
		for _, m := range tt.maps {
			key := "bank.example"
			if m == MapTransport {
				key = "x@" + key
			}
			r, err := s.Query(t.Context(), m, key)
			if r.Status != Temp || err == nil || strings.Contains(r.Text, "secret") {
				t.Errorf("%s, %s: %+v, %v", name, m, r, err)
			}
		}
	}
}

func TestMergeWithTheAdministratorsTable(t *testing.T) {
	table := map[string]string{}
	s, _ := newServer(t, standardWorld(), func(c *Config) {
		c.AdminTLS = func(_ context.Context, key string) (string, error) { return table[key], nil }
	})
	for _, tt := range []struct{ mapName, key, admin, want string }{
		{MapSecureTLSPolicy, "plain.example", "", "encrypt protocols=>=TLSv1.2"},
		{MapSecureTLSPolicy, "plain.example", "none", "encrypt protocols=>=TLSv1.2"},
		{MapSecureTLSPolicy, "plain.example", "may protocols=!SSLv2", "encrypt protocols=>=TLSv1.2"},
		{MapSecureTLSPolicy, "plain.example", "dane", "encrypt protocols=>=TLSv1.2"},
		{MapSecureTLSPolicy, "plain.example", "encrypt ciphers=high", "encrypt protocols=>=TLSv1.2 ciphers=high"},
		{MapSecureTLSPolicy, "plain.example", "encrypt protocols=!SSLv2:!SSLv3", "encrypt protocols=>=TLSv1.2"},
		{MapSecureTLSPolicy, "plain.example", "encrypt protocols=!SSLv2:!SSLv3:!TLSv1:!TLSv1.1:!TLSv1.2", "encrypt protocols=!SSLv2:!SSLv3:!TLSv1:!TLSv1.1:!TLSv1.2"},
		{MapSecureTLSPolicy, "plain.example", "encrypt protocols=TLSv1.3", "encrypt protocols=TLSv1.3"},
		{MapSecureTLSPolicy, "plain.example", "dane-only", "dane-only protocols=>=TLSv1.2"},
		{MapSecureTLSPolicy, "plain.example", "secure match=.plain.example", "secure match=.plain.example protocols=>=TLSv1.2"},
		{MapSecureTLSPolicy, "plain.example", "Secure match=a.example match=b.example", "secure match=a.example:b.example protocols=>=TLSv1.2"},
		{MapSecureTLSPolicy, "plain.example", "fingerprint match=aa:bb|cc match=dd", "fingerprint match=aa:bb|cc|dd protocols=>=TLSv1.2"},
		{MapSecureTLSPolicy, "bank.example", "secure match=other.example servername=hostname", "secure match=.bank.example protocols=>=TLSv1.2 ciphers=high servername=hostname"},
		{MapSecureTLSPolicy, "bank.example", "verify match=other.example tafile=/x", "secure match=.bank.example protocols=>=TLSv1.2 ciphers=high tafile=/x"},
		{MapSecureTLSPolicy, "a.corp.example", "secure protocols=>=TLSv1.2", "secure protocols=>=TLSv1.3"},
		{MapSecureTLSPolicy, "[127.0.0.1]:8644", "secure", "none"},
		{MapTLSPolicy, "bank.example", "may", "secure match=.bank.example protocols=>=TLSv1.2 ciphers=high"},
		{MapTLSPolicy, "notls.example", "secure match=x.example", "secure match=x.example protocols=>=TLSv1.2"},
		{MapTLSPolicy, "alt.example", "dane", "dane"},
		{MapTLSPolicy, "alt.example", "encrypt", "encrypt protocols=>=TLSv1.1"},
		{MapTLSPolicy, "alt.example", "none", "may protocols=>=TLSv1.1"},
	} {
		clear(table)
		table[tt.key] = tt.admin
		if got := ask(t, s, tt.mapName, tt.key); got != "OK "+tt.want {
			t.Errorf("%s %s with %q: got %q, want %q", tt.mapName, tt.key, tt.admin, got, tt.want)
		}
	}
	clear(table)
	table[".plain.example"] = "secure"
	for key, want := range map[string]string{
		"a.b.plain.example":   "OK secure protocols=>=TLSv1.2", // as smtp(8) would have found it
		"[a.plain.example]":   encrypt,
		"a.plain.example:587": encrypt,
	} {
		if got := ask(t, s, MapSecureTLSPolicy, key); got != want {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
	for _, bad := range []string{"very-secure", "secure match", "encrypt protocols=", " , "} {
		table["plain.example"] = bad
		if got := ask(t, s, MapSecureTLSPolicy, "plain.example"); !strings.HasPrefix(got, "TEMP") {
			t.Errorf("bad policy %q: %q", bad, got)
		}
	}
}

func TestMinVersion(t *testing.T) {
	for in, want := range map[string]string{
		"": "", ">=TLSv1.2": "TLSv1.2", "TLSv1.3:TLSv1.2": "TLSv1.2", "!SSLv2:!SSLv3": "TLSv1", "!SSLv3:!TLSv1:!TLSv1.1": "TLSv1.2",
		">=TLSv1:!TLSv1": "TLSv1.1", "<=TLSv1.2": "", "!TLSv1.3": "", ">=nonsense": "", "!SSLv3:!TLSv1:!TLSv1.1:!TLSv1.2:!TLSv1.3": "TLSv1.3",
	} {
		if got := minVersion(in); got != version(want) {
			t.Errorf("minVersion(%q) = %d, want %d", in, got, version(want))
		}
	}
}

// Random rules and postures: the transport never contradicts Decide, and what must be
// encrypted is never below encrypt.
func TestAnswersFollowTheDecision(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	domains := []string{"a.example", "b.a.example", "c.example", "own.example", "x.own.example"}
	patterns := []string{"*", ".example", ".a.example", ".own.example", "a.example", "b.a.example", "c.example", "own.example", "joe@a.example", "joe@c.example", "joe@own.example"}
	reqs := []string{"none", "tls", "encryption", "escrow"}
	adminTexts := []string{"", "", "none", "may", "dane", "encrypt", "dane-only", "fingerprint match=aa", "verify", "secure match=x protocols=TLSv1.3", "bogus"}
	for round := range 500 {
		var rules []string
		for _, p := range patterns {
			if rng.IntN(3) == 0 {
				line := fmt.Sprintf("recipient %s %s", p, reqs[rng.IntN(4)])
				if !strings.Contains(p, "@") && !strings.HasSuffix(line, "escrow") {
					line += []string{"", " protocols=>=TLSv1.3", " level=secure", " level=verify match=.x.example"}[rng.IntN(4)]
				}
				rules = append(rules, line)
			}
			if rng.IntN(6) == 0 {
				sp := p
				if !strings.Contains(p, "@") && p != "*" {
					sp = "@" + p
				}
				rules = append(rules, fmt.Sprintf("sender %s %s", sp, reqs[rng.IntN(4)]))
			}
		}
		w := &world{own: []string{"own.example"}, postures: map[string]policy.Posture{}}
		for _, d := range domains {
			w.postures[d] = policy.Posture{State: policy.State(rng.IntN(6)), Checked: time.Now()}
		}
		random := policy.Published{DANE: policy.DANE(rng.IntN(7)), STS: policy.STS(rng.IntN(6)), STSMatch: []string{"mx.example", ".x.example"}[:rng.IntN(3)]}
		s, _ := newServer(t, w, func(c *Config) {
			if round%3 != 0 {
				c.Published = func(context.Context, string) policy.Published { return random }
			}
			c.AdminLevel = []string{"", "may", "dane", "encrypt", "secure"}[rng.IntN(5)]
			if round%2 == 0 {
				c.AdminTLS = func(context.Context, string) (string, error) { return adminTexts[rng.IntN(len(adminTexts))], nil }
			}
		}, append(rules, "login nobody none")...)
		for _, d := range domains {
			for _, local := range []string{"joe", "joe+x", "ann"} {
				key := local + "@" + d
				a, err := policy.ParseAddress(key)
				if err != nil {
					t.Fatal(err)
				}
				v, err := s.cfg.Engine.Decide(t.Context(), policy.Question{Recipient: a, SenderUnknown: true})
				if err != nil {
					t.Fatal(err)
				}
				got := ask(t, s, MapTransport, key)
				ok := false
				switch {
				case v.Reason == policy.Conflict:
					ok = strings.HasPrefix(got, "OK error:5.7.1 ")
				case v.Channel == policy.Plain:
					ok = got == "NOTFOUND" && (!v.Allowed.Required() || d == "own.example")
				case v.Channel == policy.TLS:
					ok = got == "OK securesmtp:" && v.Allowed.Has(policy.Escrow) || got == "OK forcedsmtp:" && !v.Allowed.Has(policy.Escrow)
				case v.Channel == policy.Escrow:
					ok = got == toEncryption && v.Allowed.Has(policy.TLS) || got == toEscrow && !v.Allowed.Has(policy.TLS)
				}
				if !ok {
					t.Fatalf("rules %q: transport of %s is %q, the verdict %+v", rules, key, got, v.Verdict)
				}
			}
			for _, hop := range []string{d, "[" + d + "]", d + ":587", "." + d} {
				got := ask(t, s, MapSecureTLSPolicy, hop)
				level, _, _ := strings.Cut(strings.TrimPrefix(got, "OK "), " ")
				if !strings.HasPrefix(got, "TEMP ") && adminLevel(level) < adminLevel("encrypt") {
					t.Fatalf("rules %q: secure-tls-policy of %s is %q", rules, hop, got)
				}
				if strings.Contains(got+" ", "match= ") {
					t.Fatalf("rules %q: an empty match= for %s: %q", rules, hop, got)
				}
				plain := ask(t, s, MapTLSPolicy, hop)
				level, _, _ = strings.Cut(strings.TrimPrefix(plain, "OK "), " ")
				if round%3 != 0 && hop == d && random.DANE == policy.DANEFull && d != "own.example" && !strings.HasPrefix(plain, "TEMP ") &&
					adminLevel(level) < adminLevel("dane-only") {
					t.Fatalf("rules %q: TLSA records everywhere, and tls-policy of %s is %q", rules, hop, plain)
				}
			}
		}
	}
}

func TestBadConfig(t *testing.T) {
	good, _ := newServer(t, standardWorld(), nil)
	for name, change := range map[string]func(*Config){
		"no engine":   func(c *Config) { c.Engine = nil },
		"no splitter": func(c *Config) { c.Splitter.Encryption = "" },
		"floor":       func(c *Config) { c.Floor = "1.2" },
		"relay":       func(c *Config) { c.Relay = "[a] [b]" },
	} {
		cfg := good.cfg
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestPlainKeys(t *testing.T) {
	for _, key := range []string{"a@b.example", "a.b+c@x.example", "A@b.example", "a b@c.example", `"a"@c.example`, "a@B.example", "a@b.example.", "a..b@c.example", ".a@b.example", "a.@b.example", "a@", "@b", "a@b@c.example", "a%b@c.example", "bücher@c.example", "a@[192.0.2.1]"} {
		a, err := policy.ParseAddress(key)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := quoted(key, a), a.String(); got != want {
			t.Errorf("quoted(%q) = %q, want %q", key, got, want)
		}
		if got, want := foldedKey(key, a), a.Folded().String(); got != want {
			t.Errorf("foldedKey(%q) = %q, want %q", key, got, want)
		}
	}
}
