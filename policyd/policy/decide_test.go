package policy

import (
	"slices"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// options are the rules that one scope may have: none, or one a requirement.
func options(s Scope, pattern string) []Found {
	rules := []Found{{}}
	for q := None; q <= EscrowOnly; q++ {
		rules = append(rules, (&Rule{Scope: s, Pattern: pattern, Requirement: q}).Found())
	}
	return rules
}

// eachInput calls fn with every combination of rules, floor, own domain and
// posture.
func eachInput(fn func(Input)) {
	postures := []Posture{
		{State: Unknown}, {State: Works}, {State: Unreachable}, {State: NoMail},
		{State: Absent}, {State: Absent, Lost: now.Add(-time.Minute)}, {State: Absent, Lost: now.Add(-time.Hour)},
		{State: Broken}, {State: Broken, Lost: now.Add(-time.Minute)},
	}
	secret := func(q Requirement) *Rule { return &Rule{Scope: ByContent, Pattern: "secret", Requirement: q} }
	content := [][]*Rule{nil, {secret(Encryption)}, {secret(EscrowOnly), secret(Encryption)}}
	for _, recipient := range options(ByRecipient, "b.example") {
		for _, original := range options(ByRecipient, "o.example") {
			for _, sender := range options(BySender, "a.example") {
				for _, login := range options(ByLogin, "doc") {
					for _, returns := range options(BySender, "b.example") {
						for _, c := range content {
							for floor := None; floor <= EscrowOnly; floor++ {
								for i := range len(postures) * 4 {
									fn(Input{
										Recipient: recipient, Original: original, Sender: sender, Login: login, Returns: returns, Content: c,
										Floor: floor, Own: i&1 != 0, TriedByPostfix: i&2 != 0,
										Posture: postures[i/4], Now: now, Grace: 30 * time.Minute,
									})
								}
							}
						}
					}
				}
			}
		}
	}
}

func TestDecideHoldsItsPromise(t *testing.T) {
	bad := 0
	eachInput(func(in Input) {
		v := Decide(in)
		left := in.Floor.Channels()
		forbidden := false
		all := []Found{in.Recipient, in.Original, in.Sender, in.Login, in.Returns}
		for _, r := range in.Content {
			all = append(all, r.Found())
		}
		for _, r := range all {
			if !r.None() {
				left &= r.Requirement.Channels()
				forbidden = forbidden || v.Channel != 0 && !r.Requirement.Channels().Has(v.Channel)
			}
		}
		forbidden = forbidden || v.Channel != 0 && !in.Floor.Channels().Has(v.Channel)
		p := in.Posture
		fresh := !p.Lost.IsZero() && in.Now.Sub(p.Lost) < in.Grace
		gone := !fresh && (p.State == Absent || p.State == Broken && in.TriedByPostfix)
		for _, check := range []struct {
			holds bool
			text  string
		}{
			{v.Allowed == left, "allowed is what all scopes leave"},
			{in.Own || !forbidden, "no scope's ban is passed over"},
			{!in.Own || v.Channel == Plain && v.Reason == OwnDomain && !v.Required(), "mail of own domains does not leave"},
			{in.Own || (v.Channel == 0) == (left == 0), "a conflict exactly where nothing is left"},
			{in.Own || (v.Reason == Conflict) == (left == 0), "a conflict says so"},
			{in.Own || (v.Channel == Plain) == left.Has(Plain), "plain exactly where nothing is required"},
			{in.Own || v.Required() == left.Required(), "required where a scope requires"},
			{v.Channel != Escrow || gone || !left.Has(TLS), "sealed only where TLS is forbidden or known to be gone"},
			{in.Own || left != Channels(TLS|Escrow) || (v.Channel == Escrow) == gone, "sealed where TLS is known to be gone"},
			{v.Channel != TLS || v.TLS.Level >= LevelEncrypt, "chosen TLS is mandatory"},
		} {
			if !check.holds {
				if bad++; bad <= 10 {
					t.Errorf("%s: %+v gives %+v", check.text, in, v)
				}
			}
		}
	})
	if bad > 10 {
		t.Errorf("and %d more", bad-10)
	}
}

func TestNoScopeWeakensAnother(t *testing.T) {
	bad := 0
	eachInput(func(in Input) {
		if in.Posture.State != Works || bad > 10 {
			return
		}
		with := Decide(in).Allowed
		for _, r := range []*Found{&in.Recipient, &in.Original, &in.Sender, &in.Login, &in.Returns} {
			kept := *r
			*r = Found{}
			if without := Decide(in).Allowed; !with.In(without) {
				bad++
				t.Errorf("%v added %s to %s", kept, with&^without, without)
			}
			*r = kept
		}
		for i := range in.Content {
			less := in
			less.Content = slices.Delete(slices.Clone(in.Content), i, i+1)
			if without := Decide(less).Allowed; !with.In(without) {
				bad++
				t.Errorf("%v added %s to %s", in.Content[i], with&^without, without)
			}
		}
	})
}

// Of several rules that say how a sealed message is picked up the strictest counts,
// whichever scope it is of.
func TestTheStrictestVerificationCounts(t *testing.T) {
	words := []string{"", "code", "account", "passphrase"}
	modes := []string{"", "recoverable", "sealed"}
	rule := func(i, m int) Found {
		return (&Rule{Requirement: Encryption, Verify: words[i], Mode: modes[m]}).Found()
	}
	for a := range words {
		for b := range words {
			for c := range words {
				in := Input{Recipient: rule(a, a%3), Sender: rule(b, b%3), Login: rule(c, c%3)}
				v := Decide(in)
				if want := words[max(a, b, c)]; v.Verify != want {
					t.Errorf("%q, %q and %q: %q, want %q", words[a], words[b], words[c], v.Verify, want)
				}
				if want := modes[max(a%3, b%3, c%3)]; v.Mode != want {
					t.Errorf("%q, %q and %q: %q, want %q", modes[a%3], modes[b%3], modes[c%3], v.Mode, want)
				}
			}
		}
	}
}

func TestRuleOfTheRecipientCountsForTLS(t *testing.T) {
	strict := TLSParams{Level: LevelSecure, Match: []string{"x.example"}}
	v := Decide(Input{Recipient: (&Rule{Requirement: ForcedTLS, TLS: strict, Nexthop: "[x.example]:25"}).Found(), Now: now})
	if v.TLS.Level != LevelSecure || v.Nexthop != "[x.example]:25" {
		t.Errorf("verdict %+v", v)
	}
	if v := Decide(Input{Recipient: (&Rule{Requirement: ForcedTLS}).Found()}); v.TLS.Level != LevelEncrypt {
		t.Errorf("level %s without one in the rule", v.TLS.Level)
	}
}

func TestUnknownRequirementAllowsNothing(t *testing.T) {
	if v := Decide(Input{Sender: (&Rule{Requirement: 99}).Found()}); v.Channel != 0 || v.Reason != Conflict {
		t.Errorf("verdict %+v", v)
	}
}

func TestConflictNamesTheRules(t *testing.T) {
	in := Input{
		Recipient: (&Rule{Scope: ByRecipient, Pattern: "b.example", Requirement: ForcedTLS}).Found(),
		Sender:    (&Rule{Scope: BySender, Pattern: "a.example", Requirement: EscrowOnly}).Found(),
		Login:     (&Rule{Scope: ByLogin, Pattern: "doc", Requirement: Encryption}).Found(),
	}
	v := Decide(in)
	text := strings.Join(Explain(in, v), "\n")
	for _, want := range []string{"recipient rule b.example (tls)", "sender rule a.example (escrow)", "exclude each other"} {
		if !strings.Contains(ConflictText(in), want) || !strings.Contains(text, want) {
			t.Errorf("%q is not in %q", want, text)
		}
	}
	if strings.Contains(ConflictText(in), "doc") {
		t.Errorf("%q names a rule that does not matter", ConflictText(in))
	}
}

func TestExplainHasAReasonForEveryVerdict(t *testing.T) {
	seen := make(map[Reason]bool)
	eachInput(func(in Input) {
		v := Decide(in)
		if !seen[v.Reason] {
			seen[v.Reason] = true
			why := Explain(in, v)
			if len(why) == 0 {
				t.Errorf("reason %d: nothing is explained", v.Reason)
				return
			}
			t.Logf("%s", why[len(why)-1])
		}
	})
	for r := NothingRequired; r <= Conflict; r++ {
		if !seen[r] {
			t.Errorf("reason %d never came up", r)
		}
	}
}

func TestTransportCarriesTheVerdict(t *testing.T) {
	s := Splitter{Decide: "d", Encryption: "e", Forced: "f", Escrow: "x"}
	tests := []struct {
		allowed Channels
		channel Channel
		want    string
	}{
		{AnyChannel, Plain, ""},
		{0, 0, ""},
		{Channels(TLS | Escrow), TLS, "securesmtp:hop"},
		{Channels(TLS), TLS, "forcedsmtp:hop"},
		{Channels(TLS | Escrow), Escrow, "escrow:e"},
		{Channels(Escrow), Escrow, "escrow:x"},
	}
	for _, tt := range tests {
		if got := (Verdict{Allowed: tt.allowed, Channel: tt.channel}).Transport("hop", s); got != tt.want {
			t.Errorf("%s of %s: %q, want %q", tt.channel, tt.allowed, got, tt.want)
		}
	}
}

func TestRequirementOfChannels(t *testing.T) {
	for q := None; q <= EscrowOnly; q++ {
		if got, ok := q.Channels().Requirement(); !ok || got != q {
			t.Errorf("%s comes back as %s, %v", q, got, ok)
		}
		if got, err := ParseRequirement(q.String()); err != nil || got != q {
			t.Errorf("%s parses as %s, %v", q, got, err)
		}
	}
	for _, s := range []Channels{0, Channels(Plain), Channels(Plain | TLS)} {
		if r, ok := s.Requirement(); ok {
			t.Errorf("%s has requirement %s", s, r)
		}
	}
}
