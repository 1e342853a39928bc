package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Source says whose demand a [TLSDemand] carries out in the first place.
type Source uint8

// The sources.
const (
	FromNothing  Source = iota // nothing is demanded: Postfix does what it does by itself
	FromRule                   // the rule's own level
	FromDANE                   // TLSA records (RFC 7672)
	FromSTS                    // an MTA-STS policy (RFC 8461)
	FromOverride               // a rule that passes by what is published, for opportunistic mail
	FromFloor                  // the mail must be encrypted, and nothing more is known or asked
	FromAdmin                  // the administrator's own TLS policy table alone
)

var sourceNames = [...]string{"nothing", "rule", "dane", "mta-sts", "override", "floor", "table"}

func (s Source) String() string { return nameOf(sourceNames[:], s) }

// MarshalText writes the source's word.
func (s Source) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the source's word; one that is not known reads as nothing.
func (s *Source) UnmarshalText(b []byte) error {
	*s = parseName[Source](sourceNames[:], b)
	return nil
}

// TLSInput is all that the demand on the TLS of one destination depends on.
type TLSInput struct {
	// Domain is the next-hop without brackets and port, canonical: what nexthop and
	// dot-nexthop stand for in match=.
	Domain    string
	Rule      TLSParams // of the rule that counts, zero where there is none
	Required  bool      // the mail must not go in plaintext
	Override  bool      // the rule passes by what is published; without effect where Required
	Published Published
	// RuleMet says that at the last look every host whose certificate matched its TLSA
	// records met Rule too, and that there was one ([Posture.RuleMet]). It matters
	// only where a rule of level verify or secure meets DANE: no policy of Postfix can
	// demand both at once.
	RuleMet bool
}

// TLSDemand is what is demanded of the TLS of a destination now.
type TLSDemand struct {
	TLSParams
	By Source
	// Wait, if not empty, says why nothing may be delivered now; TLSParams are then the
	// rule's, at least encrypt for required mail.
	Wait string
	// Hopeless says of a Wait that no lookup going on will end it: the policy can't be had,
	// or rule and policy contradict each other.
	Hopeless bool
}

// None reports whether nothing at all is demanded: there is no policy to answer with.
func (d *TLSDemand) None() bool {
	return d.Wait == "" && d.Level == LevelUnset && len(d.Match) == 0 && d.Protocols == "" && d.Ciphers == "" && d.Servername == ""
}

// DemandTLS joins what a rule demands of a destination's TLS with what the
// destination itself publishes. The rule only adds: the answer holds all of both, or
// says to wait. DANE goes before MTA-STS (RFC 8461, section 2). Protocols and ciphers
// of the rule are kept in every answer.
//
// Mail of which nothing is required ("opportunistic") gets:
//
//	override         the rule alone, at least an explicit may (main.cf may say dane)
//	DANE full        dane-only
//	DANE partial, unusable, failed
//	                 dane: Postfix then does host by host what RFC 7672 says
//	MTA-STS enforce  secure, the policy's patterns, SNI of the MX host
//	else             the rule alone, or nothing
//
// What is not known or failed counts as not published (RFC 8461, section 3.3). A rule
// of level encrypt or above makes it mandatory: dane becomes dane-only then, since dane
// falls back to less than the rule.
//
// Required mail never gets less than encrypt, and never dane, which falls back to may:
//
//	DANE full, partial, failed
//	                 dane-only (a bogus answer: Postfix waits by itself)
//	DANE unknown     wait
//	MTA-STS enforce  secure, the policy's patterns, SNI of the MX host
//	MTA-STS unknown or failed
//	                 wait, unless the rule itself names whom to trust
//	else             the rule, or encrypt
//
// Unusable TLSA records authenticate nobody, so for mandatory TLS MTA-STS is asked
// too: to wait where it is unknown is stricter than RFC 8461 wants it, but else who
// blocks the fetch of a policy turns secure into encrypt.
//
// A rule of level verify or secure names whom the administrator trusts. With MTA-STS
// enforce both must hold: the names are intersected, and where nothing is left the mail
// waits. With DANE both must hold too, and a policy of Postfix can't say that: it is
// dane-only where RuleMet, else the mail waits. (The rule alone in its place would let a
// certificate through that DANE refuses.)
func DemandTLS(in TLSInput) TLSDemand {
	d := TLSDemand{TLSParams: in.Rule, By: FromRule}
	if d.Level == LevelDANEOnly {
		d.Servername = "" // the TLSA base domain is sent
	}
	if in.Override && !in.Required {
		d.Level, d.By = max(d.Level, LevelMay), FromOverride
		return d
	}
	if in.Required && d.Level < LevelEncrypt {
		d.Level, d.By = LevelEncrypt, FromFloor
	}
	if d.None() {
		d.By = FromNothing
	}
	mandatory, named := d.Level >= LevelEncrypt, d.Level >= LevelVerify

	switch in.Published.DANE {
	case DANEFull, DANEPartial, DANEFailed:
		switch {
		case named && !in.RuleMet:
			d.Wait = fmt.Sprintf("%s publishes TLSA records (DANE), and its rule demands %s: no host is known that meets both", in.Domain, in.Rule.PostfixPolicy(LevelVerify))
			return d
		case mandatory, in.Published.DANE == DANEFull:
			d.Level, d.Match, d.Servername = LevelDANEOnly, nil, ""
		default:
			d.Level = LevelDANE
		}
		d.By = FromDANE
		return d
	case DANEUnusable:
		if !mandatory {
			d.Level, d.By = LevelDANE, FromDANE
			return d
		}
		if d.By == FromFloor {
			d.By = FromDANE
		}
	case DANEUnknown:
		if in.Required {
			d.Wait = fmt.Sprintf("it is not known whether %s publishes TLSA records (DANE)", in.Domain)
			return d
		}
	}
	if d.Level == LevelDANEOnly {
		return d // by the rule: only TLSA records that match will do
	}

	sts, patterns := in.Published.STS, in.Published.STSMatch
	if sts == STSEnforce {
		if patterns = sound(patterns); len(patterns) == 0 {
			sts = STSFailed
		}
	}
	switch sts {
	case STSEnforce:
		if named {
			both := intersect(in.Rule.names(in.Domain), patterns)
			if len(both) == 0 {
				d.Wait = fmt.Sprintf("the MTA-STS policy of %s names %s, and its rule %s: no certificate can meet both",
					in.Domain, few(patterns), few(in.Rule.names(in.Domain)))
				d.Hopeless = true
				return d
			}
			patterns = both
		}
		d.Level, d.Match, d.By = LevelSecure, patterns, FromSTS
		if d.Servername == "" {
			d.Servername = "hostname"
		}
	case STSUnknown:
		if in.Required && !named {
			d.Wait = fmt.Sprintf("it is not known whether %s has an MTA-STS policy", in.Domain)
		}
	case STSFailed:
		if in.Required && !named {
			d.Wait = fmt.Sprintf("%s may have an MTA-STS policy, and it can't be had", in.Domain)
			d.Hopeless = true
		}
	}
	return d
}

// Proof is what a host must show so that TLS of its destination works for required
// mail, as far as a probe can tell.
type Proof struct {
	DANE bool // its certificate matches its TLSA records
	// TLSParams it meets: at verify and secure a trusted chain with one of the
	// names, and the protocols in any case.
	TLSParams
	Wait     string // not empty: nobody can say for now; see [TLSDemand.Wait]
	Hopeless bool   // see [TLSDemand.Hopeless]
}

// ProofTLS returns what a host of domain must show: what [DemandTLS] demands of
// required mail, with DANE and names apart, since a probe can ask for both.
func ProofTLS(domain string, rule TLSParams, p Published) Proof {
	d := DemandTLS(TLSInput{Domain: domain, Rule: rule, Required: true, Published: p, RuleMet: true})
	proof := Proof{DANE: d.Level == LevelDANEOnly, TLSParams: d.TLSParams, Wait: d.Wait, Hopeless: d.Hopeless}
	if proof.DANE {
		proof.Level = LevelEncrypt
		if rule.Level >= LevelVerify {
			proof.Level, proof.Match = rule.Level, rule.Match
		}
		proof.Servername = ""
	}
	return proof
}

// names returns the names that a rule of level verify or secure accepts, with
// Postfix's defaults (smtp_tls_verify_cert_match, smtp_tls_secure_cert_match) and
// nexthop written out. hostname stays: it depends on the MX.
func (p TLSParams) names(domain string) []string {
	if len(p.Match) == 0 {
		if p.Level == LevelVerify {
			return []string{"hostname"}
		}
		return []string{domain, "." + domain}
	}
	names := make([]string, len(p.Match))
	for i, m := range p.Match {
		switch m {
		case "nexthop":
			m = domain
		case "dot-nexthop":
			m = "." + domain
		}
		names[i] = m
	}
	return names
}

// intersect returns the names that match one of rule and one of patterns. hostname,
// the name of whichever MX it is, is what a pattern narrows.
func intersect(rule, patterns []string) []string {
	var both []string
	for _, p := range patterns {
		for _, r := range rule {
			n := narrower(r, p)
			if n != "" && !slices.Contains(both, n) {
				both = append(both, n)
			}
		}
	}
	return both
}

func narrower(a, b string) string {
	switch {
	case a == "hostname", a == b:
		return b
	case strings.HasPrefix(b, ".") && len(a) > len(b) && strings.HasSuffix(a, b):
		return a
	case strings.HasPrefix(a, ".") && len(b) > len(a) && strings.HasSuffix(b, a):
		return b
	}
	return ""
}

// sound returns the patterns that may stand in match=: mx.example.org or .example.org.
// What a destination publishes is not to be trusted to be one; fewer names are
// stricter. It makes no copy where all are sound.
func sound(patterns []string) []string {
	ok := func(p string) bool { return isDomainName(strings.TrimPrefix(p, ".")) && !isKeyword(p) }
	for i, p := range patterns {
		if !ok(p) {
			good := slices.Clone(patterns[:i])
			for _, p := range patterns[i+1:] {
				if ok(p) {
					good = append(good, p)
				}
			}
			return good
		}
	}
	return patterns
}

// isKeyword reports whether match= takes p for more than a name.
func isKeyword(p string) bool { return p == "hostname" || p == "nexthop" || p == "dot-nexthop" }

// few lists names for a person, not all of a thousand.
func few(names []string) string {
	if len(names) > 3 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), len(names)-3)
	}
	return strings.Join(names, ", ")
}
