package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Snapshot is an immutable set of rules, looked up without locks. Servers hold
// it behind an atomic pointer and replace it whole.
type Snapshot struct {
	Version    int64 // of the rules in the database
	rules      []*Rule
	by         [scopes]map[string]*Rule
	byNexthop  map[string][]*Rule // recipient rules with a next-hop, by NormalNexthop
	exempt     map[string][]*Rule // address rules that require nothing, by domain
	delimiters Delimiters
	triggers   *Triggers
}

// NewSnapshot indexes rules. delimiters is Postfix's recipient_delimiter. It
// fails on an invalid rule and on two rules for one pattern of one scope, so that
// a damaged database is never read as "no rule".
func NewSnapshot(version int64, rules []*Rule, delimiters Delimiters) (*Snapshot, error) {
	s := &Snapshot{Version: version, rules: rules, delimiters: delimiters}
	for i := range s.by {
		s.by[i] = make(map[string]*Rule)
	}
	s.byNexthop, s.exempt = make(map[string][]*Rule), make(map[string][]*Rule)
	for _, r := range rules {
		if err := r.Validate(); err != nil {
			return nil, fmt.Errorf("rule %d (%s %s): %w", r.ID, r.Scope, r.Pattern, err)
		}
		if _, twice := s.by[r.Scope][r.Pattern]; twice {
			return nil, fmt.Errorf("two %s rules for %s", r.Scope, r.Pattern)
		}
		s.by[r.Scope][r.Pattern] = r
		if r.Nexthop != "" {
			hop := NormalNexthop(r.Nexthop)
			s.byNexthop[hop] = append(s.byNexthop[hop], r)
		}
		if at := strings.LastIndexByte(r.Pattern, '@'); at > 0 && r.Scope == ByRecipient && r.Requirement == None {
			s.exempt[r.Pattern[at+1:]] = append(s.exempt[r.Pattern[at+1:]], r)
		}
	}
	return s, nil
}

// WithTriggers returns a snapshot with the same rules and these triggers.
func (s *Snapshot) WithTriggers(t *Triggers) *Snapshot {
	copied := *s
	copied.triggers = t
	return &copied
}

// Triggers returns the triggers of the same moment; nil where there are none.
func (s *Snapshot) Triggers() *Triggers { return s.triggers }

// Rules returns all rules. The slice must not be changed.
func (s *Snapshot) Rules() []*Rule { return s.rules }

// Get returns the rule with exactly this canonical pattern, or nil.
func (s *Snapshot) Get(scope Scope, pattern string) *Rule { return s.by[scope][pattern] }

// Lookup returns the most specific rule of scope (recipient or sender) that
// covers a and is in force at now: the address, the address without its
// extension, the domain, its nearest parent, *; nil if there is none. It is the
// order of Postfix's transport(5) and access(5).
func (s *Snapshot) Lookup(scope Scope, a Address, now time.Time) *Rule {
	m := s.by[scope]
	if len(m) == 0 {
		return nil
	}
	active := func(r *Rule) bool { return r != nil && r.Active(now) }
	if a.IsNull() {
		if r := m["<>"]; active(r) {
			return r
		}
	} else {
		var buf [320]byte
		if r := m[string(appendKey(buf[:0], a.Local, a.Domain))]; active(r) {
			return r
		}
		if base, ok := s.delimiters.Split(a.Local); ok {
			if r := m[string(appendKey(buf[:0], base, a.Domain))]; active(r) {
				return r
			}
		}
	}
	return lookupDomain(m, a.Domain, active)
}

// LookupDomain returns the most specific recipient rule for a whole domain (or
// a next-hop's host name): the domain, its nearest parent, *; nil if none.
func (s *Snapshot) LookupDomain(domain string, now time.Time) *Rule {
	return lookupDomain(s.by[ByRecipient], domain, func(r *Rule) bool { return r != nil && r.Active(now) })
}

// NormalNexthop returns the form in which next-hops are compared: lower case,
// without the port where it is SMTP's.
func NormalNexthop(hop string) string {
	hop = strings.ToLower(hop)
	if in, ok := strings.CutSuffix(hop, ":25"); ok {
		return in
	}
	return strings.TrimSuffix(hop, ":smtp")
}

// ByNexthop returns the recipient rules in force at now whose mail goes to hop.
func (s *Snapshot) ByNexthop(hop string, now time.Time) []*Rule {
	if len(s.byNexthop) == 0 {
		return nil
	}
	all := s.byNexthop[NormalNexthop(hop)]
	for i, r := range all {
		if !r.Active(now) { // rare: only then is a copy made
			active := slices.Clone(all[:i])
			for _, r := range all[i+1:] {
				if r.Active(now) {
					active = append(active, r)
				}
			}
			return active
		}
	}
	return all
}

// Exempts reports whether an address of domain is exempt at now from what holds
// for the domain: mail to it goes by the domain's next-hop without any demand.
func (s *Snapshot) Exempts(domain string, now time.Time) bool {
	return slices.ContainsFunc(s.exempt[domain], func(r *Rule) bool { return r.Active(now) })
}

func lookupDomain(m map[string]*Rule, domain string, active func(*Rule) bool) *Rule {
	if domain != "" {
		if r := m[domain]; active(r) {
			return r
		}
		if domain[0] != '[' {
			for i := 0; i < len(domain); i++ {
				if domain[i] == '.' {
					if r := m[domain[i:]]; active(r) {
						return r
					}
				}
			}
		}
	}
	if r := m["*"]; active(r) {
		return r
	}
	return nil
}

func appendKey(b []byte, local, domain string) []byte {
	for i := 0; i < len(local); i++ {
		if local[i] >= 0x80 {
			b = append(b, strings.ToLower(local)...)
			b = append(b, '@')
			return append(b, domain...)
		}
	}
	for i := 0; i < len(local); i++ {
		c := local[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	b = append(b, '@')
	return append(b, domain...)
}

// LookupLogin returns the most specific rule for a SASL login: the login, its
// @realm, *; nil if there is none or login is empty.
func (s *Snapshot) LookupLogin(login string, now time.Time) *Rule {
	m := s.by[ByLogin]
	if login == "" || len(m) == 0 {
		return nil
	}
	login = strings.ToLower(login)
	keys := [3]string{login, "", "*"}
	if i := strings.LastIndexByte(login, '@'); i >= 0 {
		keys[1] = login[i:]
	}
	for _, k := range keys {
		if r := m[k]; k != "" && r != nil && r.Active(now) {
			return r
		}
	}
	return nil
}

// Broader returns the rule that r falls under: the next, less specific one of
// its scope, active or not; nil if there is none.
func (s *Snapshot) Broader(r *Rule) *Rule {
	m := s.by[r.Scope]
	any := func(b *Rule) bool { return b != nil && b != r && b.Pattern != r.Pattern }
	switch patternForm(r.Scope, r.Pattern) {
	case formAny:
		return nil
	case formAddress:
		if r.Scope == ByLogin {
			if i := strings.LastIndexByte(r.Pattern, '@'); i >= 0 && any(m[r.Pattern[i:]]) {
				return m[r.Pattern[i:]]
			}
			return m["*"]
		}
		i := strings.LastIndexByte(r.Pattern, '@')
		if i < 0 { // <>
			return m["*"]
		}
		if base, ok := s.delimiters.Split(r.Pattern[:i]); ok {
			if b := m[base+r.Pattern[i:]]; any(b) {
				return b
			}
		}
		return lookupDomain(m, r.Pattern[i+1:], any)
	case formDomain:
		if r.Scope == ByLogin {
			return m["*"]
		}
		return lookupDomain(m, r.Pattern, any)
	}
	return lookupDomain(m, r.Pattern[1:], func(b *Rule) bool {
		return any(b) && b.Pattern != r.Pattern[1:]
	})
}

// Weakening is a rule that allows what the broader rule it falls under forbids.
type Weakening struct {
	Rule, Broader *Rule
	Why           string
}

// Weakenings returns every rule that is weaker than the broader rule it falls
// under, without being marked so (Weaken), sorted by pattern. A change of the
// rules that would make one is refused. Where the broader rule ends before the
// rule does, the rule will fall under the next one, which then counts too.
func (s *Snapshot) Weakenings() []Weakening {
	var found []Weakening
	for _, r := range s.rules {
		if r.Weaken {
			continue
		}
		for b := s.Broader(r); b != nil; b = s.Broader(b) {
			if why, weaker := r.WeakerThan(b); weaker {
				found = append(found, Weakening{r, b, why})
				break
			}
			if b.Until.IsZero() || !r.Until.IsZero() && !r.Until.After(b.Until) {
				break // r is never in force without b
			}
		}
	}
	slices.SortFunc(found, func(a, b Weakening) int { return strings.Compare(a.Rule.Pattern, b.Rule.Pattern) })
	return found
}
