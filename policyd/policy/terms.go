package policy

import (
	"fmt"
	"time"
)

// Terms are what a rule says, but for whom. Of a million rules most say the same, and
// share them: they must not be changed.
type Terms struct {
	// See [Rule].
	Scope       Scope
	Requirement Requirement
	Weaken      bool
	Override    bool
	form        uint8     // of the patterns of all rules that have them
	Until       time.Time // end, exclusive; zero: none
	TLS         TLSParams
	Nexthop     string
	Verify      string
	Mode        string
	Language    string
	Life        Lifetimes
}

// Active reports whether a rule with these terms is in force at now.
func (t *Terms) Active(now time.Time) bool { return t.Until.IsZero() || now.Before(t.Until) }

// IsAddress reports whether the rule is for one address or login.
func (t *Terms) IsAddress() bool { return t.form == formAddress }

// IsExplicit reports whether the rule names an address or an exact domain, and
// not merely covers it by a parent or *.
func (t *Terms) IsExplicit() bool { return t.form <= formDomain }

// Found is a rule as a [Snapshot] finds it. The zero Found is no rule. Two of one
// snapshot are the same rule where they are equal.
type Found struct {
	*Terms
	Pattern string // canonical
	Note    string
}

// None reports whether there is no rule.
func (f Found) None() bool { return f.Terms == nil }

// String names the rule in reasons and errors, such as "recipient rule
// bank.example (tls)".
func (f Found) String() string {
	if f.Terms == nil {
		return "no rule"
	}
	return fmt.Sprintf("%s rule %s (%s)", f.Scope, f.Pattern, f.Requirement)
}

// WeakerThan reports whether f lets something happen that the broader rule b
// forbids, and says what.
func (f Found) WeakerThan(b Found) (why string, weaker bool) {
	if extra := f.Requirement.Channels() &^ b.Requirement.Channels(); extra != 0 {
		return fmt.Sprintf("%s allows %s, which %s forbids", f, extra, b), true
	}
	if f.Requirement.Channels().Has(TLS) && f.Scope == ByRecipient && !f.IsAddress() && f.TLS.Level < b.TLS.Level && b.TLS.Level > LevelEncrypt {
		return fmt.Sprintf("%s has TLS level %s, below the %s of %s", f, max(f.TLS.Level, LevelEncrypt), b.TLS.Level, b), true
	}
	return "", false
}

// Rule returns the rule without its ID and without when it was made, which a snapshot
// does not keep; nil for none.
func (f Found) Rule() *Rule {
	if f.Terms == nil {
		return nil
	}
	return &Rule{
		Scope: f.Scope, Pattern: f.Pattern, Requirement: f.Requirement, TLS: f.TLS, Nexthop: f.Nexthop, Verify: f.Verify, Mode: f.Mode,
		Language: f.Language, Life: f.Life, Weaken: f.Weaken, Override: f.Override, Note: f.Note, Until: f.Until,
	}
}

// Found returns r as a snapshot would find it; none for nil.
func (r *Rule) Found() Found {
	if r == nil {
		return Found{}
	}
	t := r.terms()
	return Found{&t, r.Pattern, r.Note}
}

func (r *Rule) terms() Terms {
	return Terms{
		Scope: r.Scope, Requirement: r.Requirement, Weaken: r.Weaken, Override: r.Override, form: uint8(patternForm(r.Scope, r.Pattern)),
		Until: r.Until, TLS: r.TLS, Nexthop: r.Nexthop, Verify: r.Verify, Mode: r.Mode, Language: r.Language, Life: r.Life,
	}
}
