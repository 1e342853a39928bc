package policy

import (
	"slices"
	"strings"
	"testing"
)

// TestDemandTLS is the table of docs/verified-tls.md, and more.
func TestDemandTLS(t *testing.T) {
	const domain = "bank.example"
	none := Published{DANE: DANENone, STS: STSNone}
	dane := func(d DANE) Published { return Published{DANE: d, STS: STSNone} }
	sts := func(s STS, match ...string) Published { return Published{DANE: DANENone, STS: s, STSMatch: match} }
	enforce := sts(STSEnforce, "mx.bank.example", ".mail.example")
	secure := "secure match=mx.bank.example:.mail.example servername=hostname"
	rule := func(l Level, match ...string) TLSParams { return TLSParams{Level: l, Match: match} }

	tests := []struct {
		name string
		in   TLSInput
		want string // policy; "" nothing; wait…: to wait, with a part of why
		by   Source
	}{
		// Opportunistic, no rule.
		{"nobody has looked", TLSInput{}, "", FromNothing},
		{"nothing published", TLSInput{Published: none}, "", FromNothing},
		{"off", TLSInput{Published: Published{DANE: DANEOff, STS: STSOff}}, "", FromNothing},
		{"full", TLSInput{Published: dane(DANEFull)}, "dane-only", FromDANE},
		{"partial", TLSInput{Published: dane(DANEPartial)}, "dane", FromDANE},
		{"unusable", TLSInput{Published: dane(DANEUnusable)}, "dane", FromDANE},
		{"failed", TLSInput{Published: dane(DANEFailed)}, "dane", FromDANE},
		{"enforce", TLSInput{Published: enforce}, secure, FromSTS},
		{"enforce, DANE unknown", TLSInput{Published: Published{DANE: DANEUnknown, STS: STSEnforce, STSMatch: enforce.STSMatch}}, secure, FromSTS},
		{"testing", TLSInput{Published: sts(STSTesting, "mx.bank.example")}, "", FromNothing},
		{"STS failed", TLSInput{Published: sts(STSFailed)}, "", FromNothing},
		{"STS unknown", TLSInput{Published: sts(STSUnknown)}, "", FromNothing},
		{"DANE before STS", TLSInput{Published: Published{DANE: DANEFull, STS: STSEnforce, STSMatch: enforce.STSMatch}}, "dane-only", FromDANE},
		{"partial DANE before STS", TLSInput{Published: Published{DANE: DANEPartial, STS: STSEnforce, STSMatch: enforce.STSMatch}}, "dane", FromDANE},
		{"enforce without a name", TLSInput{Published: sts(STSEnforce)}, "", FromNothing},
		{"enforce without a sound name", TLSInput{Published: sts(STSEnforce, "", ".", "a b", "hostname", "x=y", ".a:b")}, "", FromNothing},
		{"unsound names are left out", TLSInput{Published: sts(STSEnforce, "mx.bank.example", "nexthop", "a b")}, "secure match=mx.bank.example servername=hostname", FromSTS},

		// Opportunistic, with a rule.
		{"floor", TLSInput{Rule: TLSParams{Protocols: ">=TLSv1.2"}, Published: none}, "may protocols=>=TLSv1.2", FromRule},
		{"floor kept", TLSInput{Rule: TLSParams{Protocols: ">=TLSv1.2", Ciphers: "high", Servername: "x.example"}, Published: dane(DANEFull)}, "dane-only protocols=>=TLSv1.2 ciphers=high", FromDANE},
		{"floor kept by dane", TLSInput{Rule: TLSParams{Protocols: ">=TLSv1.2"}, Published: dane(DANEPartial)}, "dane protocols=>=TLSv1.2", FromDANE},
		{"floor kept by STS", TLSInput{Rule: TLSParams{Protocols: ">=TLSv1.2"}, Published: enforce}, "secure match=mx.bank.example:.mail.example protocols=>=TLSv1.2 servername=hostname", FromSTS},
		{"may", TLSInput{Rule: rule(LevelMay), Published: dane(DANEFull)}, "dane-only", FromDANE},
		{"encrypt", TLSInput{Rule: rule(LevelEncrypt), Published: dane(DANEPartial)}, "dane-only", FromDANE},
		{"encrypt, unusable", TLSInput{Rule: rule(LevelEncrypt), Published: dane(DANEUnusable)}, "encrypt", FromRule},
		{"encrypt, failed", TLSInput{Rule: rule(LevelEncrypt), Published: dane(DANEFailed)}, "dane-only", FromDANE},
		{"encrypt, nothing known", TLSInput{Rule: rule(LevelEncrypt)}, "encrypt", FromRule},
		{"encrypt, enforce", TLSInput{Rule: rule(LevelEncrypt), Published: enforce}, secure, FromSTS},
		{"secure, contradicted", TLSInput{Rule: rule(LevelSecure, "gw.example"), Published: enforce}, "wait gw.example", FromRule},

		// Override.
		{"override", TLSInput{Override: true, Published: dane(DANEFull)}, "may", FromOverride},
		{"override, enforce", TLSInput{Override: true, Published: enforce}, "may", FromOverride},
		{"override keeps the rule", TLSInput{Override: true, Rule: TLSParams{Level: LevelEncrypt, Protocols: ">=TLSv1.2"}, Published: enforce}, "encrypt protocols=>=TLSv1.2", FromOverride},
		{"override, required", TLSInput{Override: true, Required: true, Published: dane(DANEFull)}, "dane-only", FromDANE},
		{"override, required, enforce", TLSInput{Override: true, Required: true, Published: enforce}, secure, FromSTS},
		{"override, required, failed", TLSInput{Override: true, Required: true, Published: sts(STSFailed)}, "wait can't be had", FromFloor},

		// Required, no level in the rule.
		{"required, nobody has looked", TLSInput{Required: true}, "wait TLSA", FromFloor},
		{"required, nothing published", TLSInput{Required: true, Published: none}, "encrypt", FromFloor},
		{"required, off", TLSInput{Required: true, Published: Published{DANE: DANEOff, STS: STSOff}}, "encrypt", FromFloor},
		{"required, full", TLSInput{Required: true, Published: dane(DANEFull)}, "dane-only", FromDANE},
		{"required, partial", TLSInput{Required: true, Published: dane(DANEPartial)}, "dane-only", FromDANE},
		{"required, failed", TLSInput{Required: true, Published: dane(DANEFailed)}, "dane-only", FromDANE},
		{"required, unusable", TLSInput{Required: true, Published: dane(DANEUnusable)}, "encrypt", FromDANE},
		{"required, unusable, enforce", TLSInput{Required: true, Published: Published{DANE: DANEUnusable, STS: STSEnforce, STSMatch: enforce.STSMatch}}, secure, FromSTS},
		{"required, unusable, STS unknown", TLSInput{Required: true, Published: Published{DANE: DANEUnusable}}, "wait MTA-STS", FromDANE},
		{"required, full, STS unknown", TLSInput{Required: true, Published: Published{DANE: DANEFull}}, "dane-only", FromDANE},
		{"required, enforce", TLSInput{Required: true, Published: enforce}, secure, FromSTS},
		{"required, testing", TLSInput{Required: true, Published: sts(STSTesting, "mx.bank.example")}, "encrypt", FromFloor},
		{"required, STS failed", TLSInput{Required: true, Published: sts(STSFailed)}, "wait can't be had", FromFloor},
		{"required, STS unknown", TLSInput{Required: true, Published: sts(STSUnknown)}, "wait MTA-STS", FromFloor},
		{"required, enforce without a name", TLSInput{Required: true, Published: sts(STSEnforce)}, "wait can't be had", FromFloor},

		// Required, with levels.
		{"required may", TLSInput{Required: true, Rule: rule(LevelMay), Published: none}, "encrypt", FromFloor},
		{"required dane", TLSInput{Required: true, Rule: rule(LevelDANE), Published: none}, "encrypt", FromFloor},
		{"required dane-only, none", TLSInput{Required: true, Rule: rule(LevelDANEOnly), Published: enforce}, "dane-only", FromRule},
		{"required dane-only, full", TLSInput{Required: true, Rule: rule(LevelDANEOnly), Published: dane(DANEFull)}, "dane-only", FromDANE},
		{"required verify, STS failed", TLSInput{Required: true, Rule: rule(LevelVerify), Published: sts(STSFailed)}, "verify", FromRule},
		{"required secure, STS unknown", TLSInput{Required: true, Rule: rule(LevelSecure, ".x.example"), Published: sts(STSUnknown)}, "secure match=.x.example", FromRule},
		{"required secure, DANE unknown", TLSInput{Required: true, Rule: rule(LevelSecure), Published: sts(STSNone, "")}, "secure", FromRule},
		{"required secure, full, met", TLSInput{Required: true, RuleMet: true, Rule: rule(LevelSecure), Published: dane(DANEFull)}, "dane-only", FromDANE},
		{"required secure, full, not met", TLSInput{Required: true, Rule: rule(LevelSecure), Published: dane(DANEFull)}, "wait meets both", FromRule},
		{"required secure, partial, not met", TLSInput{Required: true, Rule: rule(LevelSecure), Published: dane(DANEPartial)}, "wait meets both", FromRule},
		{"required secure, unusable", TLSInput{Required: true, Rule: rule(LevelSecure), Published: dane(DANEUnusable)}, "secure", FromRule},

		// Names of the rule and of the policy.
		{"same", TLSInput{Required: true, Rule: rule(LevelSecure, "mx.bank.example"), Published: enforce}, "secure match=mx.bank.example servername=hostname", FromSTS},
		{"rule below pattern", TLSInput{Required: true, Rule: rule(LevelSecure, "a.mail.example"), Published: enforce}, "secure match=a.mail.example servername=hostname", FromSTS},
		{"pattern below rule", TLSInput{Required: true, Rule: rule(LevelSecure, ".bank.example"), Published: enforce}, "secure match=mx.bank.example servername=hostname", FromSTS},
		{"parents", TLSInput{Required: true, Rule: rule(LevelSecure, ".eu.mail.example", ".example"), Published: enforce}, "secure match=mx.bank.example:.eu.mail.example:.mail.example servername=hostname", FromSTS},
		{"hostname", TLSInput{Required: true, Rule: rule(LevelVerify), Published: enforce}, secure, FromSTS},
		{"default of secure", TLSInput{Required: true, Rule: rule(LevelSecure), Published: enforce}, "secure match=mx.bank.example servername=hostname", FromSTS},
		{"nexthop, dot-nexthop", TLSInput{Required: true, Rule: rule(LevelVerify, "nexthop", "dot-nexthop"), Published: sts(STSEnforce, "bank.example", "mx.bank.example", "mx.other.example")}, "secure match=bank.example:mx.bank.example servername=hostname", FromSTS},
		{"a label is not a suffix", TLSInput{Required: true, Rule: rule(LevelSecure, "xmail.example"), Published: enforce}, "wait xmail.example", FromRule},
		{"a domain is not below itself", TLSInput{Required: true, Rule: rule(LevelSecure, "mail.example"), Published: enforce}, "wait mail.example", FromRule},
		{"the rule's SNI", TLSInput{Required: true, Rule: TLSParams{Level: LevelVerify, Servername: "sni.example"}, Published: enforce}, "secure match=mx.bank.example:.mail.example servername=sni.example", FromSTS},
	}
	for _, tt := range tests {
		tt.in.Domain = domain
		d := DemandTLS(tt.in)
		got := ""
		if !d.None() {
			got = d.PostfixPolicy(LevelMay)
		}
		if want, ok := strings.CutPrefix(tt.want, "wait "); ok {
			if !strings.Contains(d.Wait, want) || !strings.Contains(d.Wait, domain) {
				t.Errorf("%s: %q, wait %q; want to wait: %s", tt.name, got, d.Wait, want)
			}
		} else if got != tt.want || d.Wait != "" {
			t.Errorf("%s: got %q, wait %q; want %q", tt.name, got, d.Wait, tt.want)
		}
		if d.By != tt.by {
			t.Errorf("%s: by %s, want %s", tt.name, d.By, tt.by)
		}
	}
}

// everyInput goes through all combinations that matter.
func everyInput(yield func(TLSInput) bool) {
	matches := [][]string{nil, {"hostname"}, {"nexthop", "dot-nexthop"}, {".bank.example"}, {"mx.bank.example", "gw.other.example"}, {"nowhere.example"}}
	patterns := [][]string{nil, {"mx.bank.example"}, {".bank.example", "gw.other.example"}, {"third.example"}, {"", "a b"}}
	for level := LevelUnset; level <= LevelSecure; level++ {
		for mi, match := range matches {
			if mi > 0 && level < LevelVerify {
				break
			}
			for dane := DANEUnknown; dane <= DANEFailed; dane++ {
				for sts := STSUnknown; sts <= STSFailed; sts++ {
					for _, pattern := range patterns {
						for bits := range 16 {
							in := TLSInput{
								Domain: "bank.example",
								Rule:   TLSParams{Level: level, Match: match},
								Published: Published{
									DANE: dane, STS: sts, STSMatch: pattern,
								},
								Required: bits&1 != 0, Override: bits&2 != 0, RuleMet: bits&4 != 0,
							}
							if bits&8 != 0 {
								in.Rule.Protocols, in.Rule.Ciphers, in.Rule.Servername = ">=TLSv1.2", "high", "nexthop"
							}
							if !yield(in) {
								return
							}
						}
					}
				}
			}
		}
	}
}

// proves is what a delivery by d is sure of.
type proves struct {
	nothingGoes bool // it waits
	tls         bool // it is mandatory
	dane        int  // 1: where there are records (dane); 2: always
	names       []string
	any         bool // no names are demanded
}

func proved(d TLSDemand, domain string, ruleMet bool, rule TLSParams) proves {
	if d.Wait != "" {
		return proves{nothingGoes: true}
	}
	p := proves{tls: d.Level >= LevelEncrypt, any: true}
	switch {
	case d.Level == LevelDANE && d.By == FromDANE: // a rule's dane alone is a hope
		p.dane = 1
	case d.Level == LevelDANEOnly:
		p.dane = 2
		if ruleMet && rule.Level >= LevelVerify { // so it is shown by a look
			p.names, p.any = rule.names(domain), false
		}
	case d.Level >= LevelVerify:
		p.names, p.any = d.names(domain), false
	}
	return p
}

// atLeast reports whether p is sure of all that q is.
func (p proves) atLeast(q proves) bool {
	if p.nothingGoes {
		return true
	}
	if q.nothingGoes || q.tls && !p.tls || p.dane < q.dane {
		return false
	}
	if q.any {
		return true
	}
	if p.any {
		return p.dane == 2 // DANE authenticates in place of names that nobody but MTA-STS or the default demands
	}
	for _, n := range p.names {
		if !slices.ContainsFunc(q.names, func(m string) bool { return narrower(n, m) == n || m == "hostname" }) {
			return false
		}
	}
	return true
}

// TestDemandProperties: what must hold of every combination.
func TestDemandProperties(t *testing.T) {
	n := 0
	for in := range everyInput {
		n++
		d := DemandTLS(in)
		text := d.PostfixPolicy(LevelMay)
		bad := func(what string) { t.Errorf("%s: %+v gives %q (wait %q)", what, in, text, d.Wait) }

		if in.Required && (d.Level < LevelEncrypt) {
			bad("required mail below encrypt")
		}
		if in.Required && d.By == FromOverride {
			bad("an override touches required mail")
		}
		if in.Required {
			plain := in
			plain.Override = false
			if p := DemandTLS(plain); p.PostfixPolicy(LevelMay) != text || p.Wait != d.Wait {
				bad("an override touches required mail")
			}
		}
		if strings.Contains(text+" ", "match= ") || strings.Contains(text, "match=:") || strings.Contains(text, "::") {
			bad("an empty match=")
		}
		if len(d.Match) > 0 && d.Level < LevelVerify {
			bad("match= below verify, which Postfix takes for an error")
		}
		if d.Level == LevelDANEOnly && d.Servername != "" {
			bad("servername at dane-only")
		}
		if d.Protocols != in.Rule.Protocols || d.Ciphers != in.Rule.Ciphers {
			bad("protocols or ciphers of the rule are lost")
		}
		got := proved(d, in.Domain, in.RuleMet, in.Rule)

		// The rule itself: never less.
		alone := TLSDemand{TLSParams: in.Rule}
		if in.Required && alone.Level < LevelEncrypt {
			alone.Level = LevelEncrypt
		}
		if !got.atLeast(proved(alone, in.Domain, false, in.Rule)) {
			bad("less than the rule")
		}
		if in.Rule.Level >= LevelVerify && d.Wait == "" && got.any {
			bad("the rule's names are lost")
		}
		if in.Override && !in.Required {
			if d.Wait != "" || d.Level != max(in.Rule.Level, LevelMay) {
				bad("an override is not the rule alone")
			}
			continue
		}

		// What is published: never less than without a rule.
		without := in
		without.Rule = TLSParams{}
		if w := DemandTLS(without); !(w.Wait != "" && in.Rule.Level >= LevelDANEOnly) && // the rule says whom to trust
			!got.atLeast(proved(w, in.Domain, false, TLSParams{})) && in.Rule.Level != LevelDANEOnly {
			if in.Published.DANE != DANEUnusable || d.Level < LevelEncrypt { // dane with unusable records is encrypt
				bad("less than what is published")
			}
		}
		// Required mail: never less than other mail.
		if in.Required {
			other := in
			other.Required = false
			o := DemandTLS(other)
			if !got.atLeast(proved(o, in.Domain, in.RuleMet, in.Rule)) && (in.Published.DANE != DANEUnusable || d.Level < LevelEncrypt) {
				bad("less than opportunistic mail")
			}
		}
		// The probe asks for no less than Postfix.
		if p := ProofTLS(in.Domain, in.Rule, in.Published); in.Required && d.Wait == "" {
			if p.Wait != "" || p.DANE != (d.Level == LevelDANEOnly) || !p.DANE && (p.Level != d.Level || !slices.Equal(p.Match, d.Match)) {
				bad("the probe asks for something else than Postfix")
			}
			if in.Rule.Level >= LevelVerify && p.Level < LevelVerify {
				bad("the probe forgets the rule's names")
			}
		}
	}
	if n < 10_000 {
		t.Errorf("only %d combinations", n)
	}
}

func TestDemandAllocates(t *testing.T) {
	in := TLSInput{Domain: "bank.example", Required: true, Published: Published{DANE: DANENone, STS: STSEnforce, STSMatch: []string{"mx.bank.example"}}}
	if n := testing.AllocsPerRun(100, func() { DemandTLS(in) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
