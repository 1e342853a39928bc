package policy

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"
)

func rule(t testing.TB, scope Scope, typed string) *Rule {
	t.Helper()
	p, err := CanonicalPattern(scope, typed)
	if err != nil {
		t.Fatal(err)
	}
	return &Rule{Scope: scope, Pattern: p, Requirement: Encryption}
}

func snapshot(t testing.TB, d Delimiters, rules ...*Rule) *Snapshot {
	t.Helper()
	s, err := NewSnapshot(1, rules, d)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func address(t testing.TB, s string) Address {
	t.Helper()
	a, err := ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestOnePatternCoversOneAddress(t *testing.T) {
	tests := []struct {
		typed, address string
		covered        bool
	}{
		{"bank.example", "joe@bank.example", true},
		{"bank.example", "joe@BANK.EXAMPLE", true},
		{"Bank.Example.", "joe@bank.example.", true},
		{"bank.example", "joe@sub.bank.example", false},
		{"bank.example", "joe@notbank.example", false},
		{".bank.example", "joe@sub.bank.example", true},
		{".bank.example", "joe@a.b.bank.example", true},
		{".bank.example", "joe@bank.example", false},
		{".bank.example", "joe@notbank.example", false},
		{"*", "joe@bank.example", true},
		{"*", "joe", true},
		{"*", "joe@[192.0.2.1]", true},
		{"Joe@bank.example", "jOE@bank.example", true},
		{"JOSÉ@bank.example", "josé@bank.example", true},
		{"joe@bank.example", "jo@bank.example", false},
		{"joe@bank.example", "joe+x@bank.example", true},
		{"joe@bank.example", "joe+x+y@bank.example", true},
		{"joe+x@bank.example", "joe@bank.example", false},
		{"joe+x@bank.example", "joe+x@bank.example", true},
		{"joe@bank.example", "joe-x@bank.example", false},
		{"joe@bank.example", `"joe"@bank.example`, true},
		{`"john doe"@bank.example`, "john doe@bank.example", true},
		{`"john doe"@bank.example`, `"john\ doe"@bank.example`, true},
		{`"joe@evil.example"@bank.example`, `"joe@evil.example"@bank.example`, true},
		{"bank.example", `"joe@evil.example"@bank.example`, true},
		{"evil.example", `"joe@evil.example"@bank.example`, false},
		{"bank.example", "@relay.example:joe@bank.example", true},
		{"bücher.example", "joe@xn--bcher-kva.example", true},
		{"xn--bcher-kva.example", "joe@BÜCHER.example", true},
		{".bücher.example", "joe@www.BÜCHER.example", true},
		{"bücher.example", "joe@bücher。example", true},
		{"[192.0.2.1]", "joe@[192.0.2.1]", true},
		{"192.0.2.1", "joe@[192.0.2.1]", false},
		{"[IPv6:2001:db8::1]", "joe@[ipv6:2001:DB8:0::1]", true},
		{"joe@[192.0.2.1]", "JOE@[192.0.2.1]", true},
		{".2.1]", "joe@[192.0.2.1]", false},
		{"a_b.example", "joe@A_B.example", true},
		{"localhost", "root@localhost", true},
	}
	for _, tt := range tests {
		p, err := CanonicalPattern(ByRecipient, tt.typed)
		if err != nil {
			if tt.covered {
				t.Errorf("%q: %v", tt.typed, err)
			}
			continue
		}
		r := &Rule{Scope: ByRecipient, Pattern: p, Requirement: Encryption}
		if got := snapshot(t, "+", r).Lookup(ByRecipient, address(t, tt.address), now); !got.None() != tt.covered {
			t.Errorf("%q covers %q: %v, want %v", tt.typed, tt.address, !got.None(), tt.covered)
		}
	}
}

func TestMostSpecificFirst(t *testing.T) {
	order := []string{"joe+x@a.b.example", "joe@a.b.example", "a.b.example", ".b.example", ".example", "*"}
	for first := range order {
		var rules []*Rule
		for i := len(order) - 1; i >= first; i-- {
			rules = append(rules, rule(t, ByRecipient, order[i]))
		}
		s := snapshot(t, "+", rules...)
		if got := s.Lookup(ByRecipient, address(t, "Joe+X@A.B.Example"), now); got.Pattern != order[first] {
			t.Errorf("with %v: %v", order[first:], got)
		}
	}
}

func TestSenderPatterns(t *testing.T) {
	s := snapshot(t, "+", rule(t, BySender, "@a.example"), rule(t, BySender, "@.a.example"), rule(t, BySender, "joe@a.example"), rule(t, BySender, "<>"))
	for in, want := range map[string]string{
		"x@a.example": "a.example", "x@b.a.example": ".a.example", "JOE@a.example": "joe@a.example", "": "<>", "x@other.example": "", "x": "",
	} {
		got := s.Lookup(BySender, address(t, in), now)
		if got.None() != (want == "") || got.Pattern != want {
			t.Errorf("%q: %v, want %q", in, got, want)
		}
	}
	if got := snapshot(t, "", rule(t, BySender, "*")).Lookup(BySender, Address{}, now); got.None() {
		t.Error("* does not cover the null sender")
	}
}

func TestLogins(t *testing.T) {
	s := snapshot(t, "+", rule(t, ByLogin, "DrSmith"), rule(t, ByLogin, "@Clinic"), rule(t, ByLogin, "joe@clinic"))
	for in, want := range map[string]string{
		"drsmith": "drsmith", "DRSMITH": "drsmith", "JOE@CLINIC": "joe@clinic", "x@clinic": "@clinic", "x@other": "", "": "", "drsmith@other": "",
	} {
		got := s.LookupLogin(in, now)
		if got.None() != (want == "") || got.Pattern != want {
			t.Errorf("%q: %v, want %q", in, got, want)
		}
	}
	any := snapshot(t, "", rule(t, ByLogin, "*"))
	if any.LookupLogin("x", now).None() || !any.LookupLogin("", now).None() {
		t.Error("* covers every login, and no mail without one")
	}
}

func TestEndedRuleGivesWay(t *testing.T) {
	narrow, broad := rule(t, ByRecipient, "joe@a.example"), rule(t, ByRecipient, "a.example")
	narrow.Until = now
	s := snapshot(t, "", narrow, broad)
	if got := s.Lookup(ByRecipient, address(t, "joe@a.example"), now.Add(-1)); got.Pattern != narrow.Pattern {
		t.Errorf("before its end: %v", got)
	}
	if got := s.Lookup(ByRecipient, address(t, "joe@a.example"), now); got.Pattern != broad.Pattern {
		t.Errorf("at its end: %v", got)
	}
}

func TestLookupDomain(t *testing.T) {
	s := snapshot(t, "", rule(t, ByRecipient, "a.example"), rule(t, ByRecipient, ".a.example"), rule(t, ByRecipient, "joe@b.example"))
	for in, want := range map[string]string{"a.example": "a.example", "x.a.example": ".a.example", "b.example": "", "": ""} {
		got := s.LookupDomain(in, now)
		if got.None() != (want == "") || got.Pattern != want {
			t.Errorf("%q: %v, want %q", in, got, want)
		}
	}
}

func TestSnapshotRefuses(t *testing.T) {
	a := rule(t, ByRecipient, "a.example")
	twin := *a
	if _, err := NewSnapshot(1, []*Rule{a, &twin}, ""); err == nil {
		t.Error("two rules for one pattern")
	}
	for _, bad := range []Rule{
		{Scope: ByRecipient, Pattern: "A.example"},
		{Scope: ByRecipient, Pattern: "a.example", Requirement: 9},
		{Scope: 9, Pattern: "a.example"},
		{Scope: ByRecipient, Pattern: "a.example", Weaken: true},
		{Scope: ByRecipient, Pattern: "a.example", Verify: "x"},
		{Scope: ByRecipient, Pattern: "a.example", Mode: "x"},
		{Scope: ByRecipient, Pattern: "a.example", Note: "x\ny"},
		{Scope: BySender, Pattern: "a.example", Requirement: ForcedTLS, Nexthop: "[x]:25"},
		{Scope: ByRecipient, Pattern: "a.example", Nexthop: "[x]:25"},
		{Scope: ByRecipient, Pattern: "a.example", Requirement: EscrowOnly, Nexthop: "[x]:25"},
		{Scope: ByRecipient, Pattern: "a.example", Requirement: ForcedTLS, Nexthop: "x y"},
		{Scope: ByRecipient, Pattern: "a.example", Requirement: ForcedTLS, TLS: TLSParams{Level: LevelMay}},
		{Scope: ByRecipient, Pattern: "a.example", Requirement: ForcedTLS, TLS: TLSParams{Level: LevelEncrypt, Match: []string{"x.example"}}},
		{Scope: ByRecipient, Pattern: "a.example", Requirement: ForcedTLS, TLS: TLSParams{Level: LevelSecure, Match: []string{"x example"}}},
		{Scope: ByRecipient, Pattern: "a.example", Requirement: ForcedTLS, TLS: TLSParams{Level: LevelSecure, Match: []string{""}}},
		{Scope: ByRecipient, Pattern: "a.example", Requirement: ForcedTLS, TLS: TLSParams{Protocols: "x"}},
		{Scope: ByRecipient, Pattern: "a.example", Requirement: ForcedTLS, TLS: TLSParams{Ciphers: "x"}},
		{Scope: ByRecipient, Pattern: "a.example", Requirement: ForcedTLS, TLS: TLSParams{Servername: "x y"}},
		{Scope: ByRecipient, Pattern: "j@a.example", Requirement: ForcedTLS, TLS: TLSParams{Level: LevelSecure}},
		{Scope: BySender, Pattern: "a.example", Requirement: ForcedTLS, TLS: TLSParams{Level: LevelSecure}},
		{Scope: ByRecipient, Pattern: "a.example", Requirement: EscrowOnly, TLS: TLSParams{Level: LevelSecure}},
	} {
		if _, err := NewSnapshot(1, []*Rule{&bad}, ""); err == nil {
			t.Errorf("took %+v", bad)
		}
	}
}

// same reports whether f is r: all that a snapshot keeps of it.
func same(f Found, r *Rule) bool {
	if r == nil || f.None() {
		return r == nil && f.None()
	}
	kept := *r
	kept.ID, kept.Created = 0, time.Time{}
	return reflect.DeepEqual(f.Rule(), &kept)
}

func TestCanonicalPattern(t *testing.T) {
	tests := []struct {
		scope       Scope
		typed, want string // want "" for an error
	}{
		{ByRecipient, " Bank.Example. ", "bank.example"},
		{ByRecipient, ".Bücher.example", ".xn--bcher-kva.example"},
		{ByRecipient, "*", "*"},
		{ByRecipient, `"John Doe"@Bank.example`, "john doe@bank.example"},
		{ByRecipient, "Joe+X@bank.example", "joe+x@bank.example"},
		{ByRecipient, "[IPv6:2001:DB8:0::1]", "[ipv6:2001:db8::1]"},
		{ByRecipient, "", ""},
		{ByRecipient, "@bank.example", ""},
		{ByRecipient, "<>", ""},
		{ByRecipient, "*.bank.example", ""},
		{ByRecipient, "bank example", ""},
		{ByRecipient, "-bank.example", ""},
		{ByRecipient, "bank-.example", ""},
		{ByRecipient, "bank..example", ""},
		{ByRecipient, "..bank.example", ""},
		{ByRecipient, ".", ""},
		{ByRecipient, "joe@", ""},
		{ByRecipient, `""@bank.example`, ""},
		{ByRecipient, "[192.0.2.999]", ""},
		{ByRecipient, ".[192.0.2.1]", ""},
		{ByRecipient, strings.Repeat("x", 64) + ".example", ""},
		{ByRecipient, strings.Repeat("x.", 130) + "example", ""},
		{BySender, "@bank.example", "bank.example"},
		{BySender, "@.bank.example", ".bank.example"},
		{BySender, ".bank.example", ".bank.example"},
		{BySender, "bank.example", ""},
		{BySender, "<>", "<>"},
		{ByLogin, "DrSmith", "drsmith"},
		{ByLogin, "a\nb", ""},
	}
	for _, tt := range tests {
		got, err := CanonicalPattern(tt.scope, tt.typed)
		if got != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("%s %q: %q, %v; want %q", tt.scope, tt.typed, got, err, tt.want)
			continue
		}
		if err != nil {
			continue
		}
		if r := (&Rule{Scope: tt.scope, Pattern: got}); r.Validate() != nil {
			t.Errorf("%s %q: %q is not valid: %v", tt.scope, tt.typed, got, r.Validate())
		}
	}
}

func FuzzCanonicalPattern(f *testing.F) {
	for scope := range byte(3) {
		for _, s := range []string{"*", "<>", ".a.example", "@a.example", "@.a", `"a b"@c`, "BÜCHER.example", "a@[IPv6:::1]", "x", "a+b@c", "＊", "．a", "ａ@b"} {
			f.Add(scope, s)
		}
	}
	f.Fuzz(func(t *testing.T, b byte, s string) {
		scope := Scope(b % 3)
		p, err := CanonicalPattern(scope, s)
		if err != nil {
			return
		}
		if err := (&Rule{Scope: scope, Pattern: p}).Validate(); err != nil {
			t.Fatalf("%s %q: %q is kept, but not valid: %v", scope, s, p, err)
		}
	})
}

// TestLookupAgainstAList compares Lookup with going through all patterns, from
// specific to broad, by their definition.
func TestLookupAgainstAList(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	labels, locals := []string{"a", "b", "example"}, []string{"x", "x+y", "x+y+z", "y"}
	domain := func() string {
		d := labels[rnd.IntN(3)]
		for range rnd.IntN(3) {
			d = labels[rnd.IntN(3)] + "." + d
		}
		return d
	}
	for range 3000 {
		var rules []*Rule
		have := make(map[string]*Rule)
		for range rnd.IntN(8) {
			p := domain()
			switch rnd.IntN(4) {
			case 0:
				p = locals[rnd.IntN(4)] + "@" + p
			case 1:
				p = "." + p
			case 2:
				if rnd.IntN(3) == 0 {
					p = "*"
				}
			}
			if have[p] == nil {
				r := &Rule{Scope: ByRecipient, Pattern: p, Requirement: Requirement(rnd.IntN(4))}
				if rnd.IntN(4) == 0 {
					r.Until = now.Add(time.Duration(rnd.IntN(3)-1) * time.Hour)
				}
				have[p] = r
				rules = append(rules, r)
			}
		}
		a := Address{locals[rnd.IntN(4)], domain()}
		base, _, _ := strings.Cut(a.Local, "+")
		keys := []string{a.Local + "@" + a.Domain, base + "@" + a.Domain, a.Domain}
		for rest := a.Domain; strings.Contains(rest, "."); {
			_, rest, _ = strings.Cut(rest, ".")
			keys = append(keys, "."+rest)
		}
		var want *Rule
		for _, k := range append(keys, "*") {
			if r := have[k]; r != nil && (r.Until.IsZero() || now.Before(r.Until)) {
				want = r
				break
			}
		}
		if got := snapshot(t, "+", rules...).Lookup(ByRecipient, a, now); !same(got, want) {
			t.Fatalf("%v of %v: %v, want %v", a, rules, got, want)
		}
	}
}

func TestBroaderIsWhatCountsWithoutTheRule(t *testing.T) {
	all := []string{"*", ".example", ".a.example", "a.example", "b.a.example", "x@a.example", "x+y@a.example", "x@b.a.example"}
	probe := map[string]string{".example": "n@n.example", ".a.example": "n@n.a.example", "a.example": "n@a.example", "b.a.example": "n@b.a.example"}
	for set := range 1 << len(all) {
		for i, p := range all {
			if set&(1<<i) == 0 || p == "*" {
				continue
			}
			var with, without []*Rule
			var r *Rule
			for j, q := range all {
				if set&(1<<j) == 0 {
					continue
				}
				other := &Rule{Scope: ByRecipient, Pattern: q}
				with = append(with, other)
				if i == j {
					r = other
				} else {
					without = append(without, other)
				}
			}
			covered := p
			if probe[p] != "" {
				covered = probe[p]
			}
			want := snapshot(t, "+", without...).Lookup(ByRecipient, address(t, covered), now)
			if got := snapshot(t, "+", with...).Broader(r.Found()); got.Pattern != want.Pattern {
				t.Fatalf("of %v above %s: %v, want %v", with, p, got, want)
			}
		}
	}
}

func TestWeakenings(t *testing.T) {
	r := func(p string, q Requirement, l Level) *Rule {
		return &Rule{Scope: ByRecipient, Pattern: p, Requirement: q, TLS: TLSParams{Level: l}}
	}
	exempt := r("a.example", None, 0)
	exempt.Weaken, exempt.Note = true, "newsletter"
	until := r("a.example", None, 0)
	until.Weaken, until.Note, until.Until = true, "for now", now
	endsAt := func(x *Rule, end time.Time) *Rule { x.Until = end; return x }
	tests := []struct {
		name  string
		rules []*Rule
		want  string
	}{
		{"ending after the exemption it is under", []*Rule{r(".example", ForcedTLS, 0), until, endsAt(r("x@a.example", None, 0), now.Add(1))}, "x@a.example"},
		{"ending with the exemption it is under", []*Rule{r(".example", ForcedTLS, 0), until, endsAt(r("x@a.example", None, 0), now)}, ""},
		{"stricter", []*Rule{r(".example", Encryption, 0), r("a.example", ForcedTLS, 0)}, ""},
		{"none under encryption", []*Rule{r(".example", Encryption, 0), r("a.example", None, 0)}, "a.example"},
		{"marked", []*Rule{r(".example", Encryption, 0), exempt}, ""},
		{"escrow under tls", []*Rule{r("*", ForcedTLS, 0), r("a.example", EscrowOnly, 0)}, "a.example"},
		{"lower TLS level", []*Rule{r(".example", ForcedTLS, LevelSecure), r("a.example", ForcedTLS, LevelEncrypt)}, "a.example"},
		{"unset TLS level", []*Rule{r(".example", ForcedTLS, LevelVerify), r("a.example", ForcedTLS, LevelUnset)}, "a.example"},
		{"encrypt is what unset means", []*Rule{r(".example", ForcedTLS, LevelEncrypt), r("a.example", ForcedTLS, LevelUnset)}, ""},
		{"an address has no level", []*Rule{r("a.example", ForcedTLS, LevelSecure), r("x@a.example", ForcedTLS, 0)}, ""},
		{"under an exemption", []*Rule{r(".example", ForcedTLS, 0), exempt, r("x@a.example", None, 0)}, ""},
		{"under an exemption that ends", []*Rule{r(".example", ForcedTLS, 0), until, r("x@a.example", None, 0)}, "x@a.example"},
		{"unrelated", []*Rule{r("a.example", Encryption, 0), r("b.example", None, 0), r(".a.example", None, 0)}, ""},
	}
	for _, tt := range tests {
		var got []string
		for _, w := range snapshot(t, "+", tt.rules...).Weakenings() {
			got = append(got, w.Rule.Pattern)
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %v, want %q", tt.name, got, tt.want)
		}
	}
}

func TestLookupDoesNotAllocate(t *testing.T) {
	s := snapshot(t, "+", rule(t, ByRecipient, ".example"), rule(t, ByRecipient, "joe@other.example"))
	a := Address{"Joe+Ext", "mail.bank.example"}
	if n := testing.AllocsPerRun(100, func() {
		if s.Lookup(ByRecipient, a, now).None() {
			t.Error("not found")
		}
	}); n > 0 {
		t.Errorf("%v allocations a lookup", n)
	}
}

func BenchmarkLookupAmongAMillion(b *testing.B) {
	rules := make([]*Rule, 1_000_000)
	for i := range rules {
		rules[i] = &Rule{Scope: ByRecipient, Pattern: fmt.Sprintf("domain-%d.example", i), Requirement: Encryption}
	}
	s := snapshot(b, "+", rules...)
	a := Address{"joe", "domain-999999.example"}
	for b.Loop() {
		if s.Lookup(ByRecipient, a, now).None() {
			b.Fatal("not found")
		}
	}
}
