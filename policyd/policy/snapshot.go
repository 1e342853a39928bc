package policy

import (
	"cmp"
	"hash/maphash"
	"slices"
	"strings"
	"time"
)

// Snapshot is an immutable set of rules, looked up without locks. Servers hold
// it behind an atomic pointer and replace it whole. It is made by [NewSnapshot] or a
// [Builder], or from the one before by [Snapshot.With].
type Snapshot struct {
	Version int64 // of the rules in the database
	Seq     int64 // number of the last change in it, as the database counts them

	records    records
	terms      []*Terms // by number
	uses       []uint32 // rules that have them
	interned   map[termsKey]uint32
	by         [scopes][forms]index
	byNexthop  map[string][]*Terms // of recipient rules with a next-hop, by NormalNexthop
	exempt     index               // address rules that require nothing: of each domain the one that ends last
	n          int                 // rules
	dead       int                 // bytes of records that are none any more
	delimiters Delimiters
	triggers   *Triggers
}

// WithTriggers returns a snapshot with the same rules and these triggers.
func (s *Snapshot) WithTriggers(t *Triggers) *Snapshot {
	copied := *s
	copied.triggers = t
	return &copied
}

// Triggers returns the triggers of the same moment; nil where there are none.
func (s *Snapshot) Triggers() *Triggers { return s.triggers }

// Len returns how many rules there are.
func (s *Snapshot) Len() int { return s.n }

// All goes through all rules, in no order.
func (s *Snapshot) All(yield func(Found) bool) {
	for f := range s.live {
		if !yield(f) {
			return
		}
	}
}

// live goes through all rules, with where they stand.
func (s *Snapshot) live(yield func(f Found, at uint32) bool) {
	for at := uint32(recordFirst); int(at) < len(s.records); at = s.records.next(at) {
		f := s.at(at)
		if s.dead > 0 {
			if now, _ := s.by[f.Scope][f.form].find(s.records, f.Pattern); now != at {
				continue // another took its place, or none
			}
		}
		if !yield(f, at) {
			return
		}
	}
}

// at returns the rule that stands at at.
func (s *Snapshot) at(at uint32) Found {
	return s.read(s.records.head(at), at)
}

func (s *Snapshot) read(h head, at uint32) Found {
	from := int(at) + recordHead
	to := from + h.pattern()
	return Found{s.terms[h.terms()], string(s.records[from:to]), string(s.records[to : to+h.note()])}
}

// Get returns the rule with exactly this canonical pattern, or none.
func (s *Snapshot) Get(scope Scope, pattern string) Found {
	if scope >= scopes {
		return Found{}
	}
	return s.get(&s.by[scope][patternForm(scope, pattern)], pattern)
}

// get is x.find of an index by pattern, and at, in one: it is on the way of each answer.
func (s *Snapshot) get(x *index, key string) Found {
	if x.n == 0 {
		return Found{}
	}
	return s.getHashed(x, key, maphash.String(seed, key))
}

func (s *Snapshot) getHashed(x *index, key string, h uint64) Found {
	mask, tag := uint64(len(x.slots)-1), uint32(h>>32)
	for i := h & mask; ; i = (i + 1) & mask {
		at := x.slots[i].at
		if at == 0 {
			return Found{}
		}
		if x.slots[i].tag != tag {
			continue
		}
		head := s.records.head(at)
		if from := int(at) + recordHead; head.pattern() == len(key) && string(s.records[from:from+len(key)]) == key {
			return s.read(head, at)
		}
	}
}

// filter says which of the rules that cover something count.
type filter struct {
	now time.Time
	any bool   // whether in force at now or not
	not string // pattern of one that does not
}

func (w *filter) takes(f *Found) bool {
	return f.Terms != nil && (w.any || f.Active(w.now)) && (w.not == "" || f.Pattern != w.not)
}

// Equal reports whether s and o have the same rules, and would answer alike.
func (s *Snapshot) Equal(o *Snapshot) bool {
	if s.n != o.n || s.exempt.n != o.exempt.n || len(s.byNexthop) != len(o.byNexthop) {
		return false
	}
	alike := make(map[*Terms]*Terms)
	for f := range s.All {
		g := o.Get(f.Scope, f.Pattern)
		if g.None() || g.Note != f.Note {
			return false
		}
		if f.Terms != g.Terms && alike[f.Terms] != g.Terms {
			if f.Terms.key() != g.Terms.key() {
				return false
			}
			alike[f.Terms] = g.Terms
		}
	}
	return true
}

// Lookup returns the most specific rule of scope (recipient or sender) that
// covers a and is in force at now: the address, the address without its
// extension, the domain, its nearest parent, *; none if there is none. It is the
// order of Postfix's transport(5) and access(5).
func (s *Snapshot) Lookup(scope Scope, a Address, now time.Time) Found {
	if addresses := &s.by[scope][formAddress]; addresses.n > 0 {
		if a.IsNull() {
			if f := s.get(addresses, "<>"); f.Terms != nil && f.Active(now) {
				return f
			}
		} else {
			var buf [320]byte
			if f := s.get(addresses, string(appendKey(buf[:0], a.Local, a.Domain))); f.Terms != nil && f.Active(now) {
				return f
			}
			if base, ok := s.delimiters.Split(a.Local); ok {
				if f := s.get(addresses, string(appendKey(buf[:0], base, a.Domain))); f.Terms != nil && f.Active(now) {
					return f
				}
			}
		}
	}
	return s.lookupDomain(scope, a.Domain, &filter{now: now})
}

// LookupDomain returns the most specific recipient rule for a whole domain (or
// a next-hop's host name): the domain, its nearest parent, *; none if there is none.
func (s *Snapshot) LookupDomain(domain string, now time.Time) Found {
	return s.lookupDomain(ByRecipient, domain, &filter{now: now})
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

// ByNexthop returns what the recipient rules in force at now say whose mail goes to hop.
// What several of them say alike comes once.
func (s *Snapshot) ByNexthop(hop string, now time.Time) []*Terms {
	if len(s.byNexthop) == 0 {
		return nil
	}
	all := s.byNexthop[NormalNexthop(hop)]
	for i, t := range all {
		if !t.Active(now) { // rare: only then is a copy made
			active := slices.Clone(all[:i])
			for _, t := range all[i+1:] {
				if t.Active(now) {
					active = append(active, t)
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
	at, _ := s.exempt.find(s.records, domain)
	return at != 0 && s.at(at).Active(now)
}

func (s *Snapshot) lookupDomain(scope Scope, domain string, w *filter) Found {
	if domain != "" {
		if f := s.get(&s.by[scope][formDomain], domain); w.takes(&f) {
			return f
		}
		if parents := &s.by[scope][formParent]; parents.n > 0 && domain[0] != '[' {
			for i := 0; i < len(domain); i++ {
				if domain[i] == '.' {
					if f := s.get(parents, domain[i:]); w.takes(&f) {
						return f
					}
				}
			}
		}
	}
	if f := s.get(&s.by[scope][formAny], "*"); w.takes(&f) {
		return f
	}
	return Found{}
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
// @realm, *; none if there is none or login is empty.
func (s *Snapshot) LookupLogin(login string, now time.Time) Found {
	if by := &s.by[ByLogin]; login == "" || by[formAddress].n+by[formDomain].n+by[formParent].n+by[formAny].n == 0 {
		return Found{}
	}
	login = strings.ToLower(login)
	keys := [3]string{login, "", "*"}
	if i := strings.LastIndexByte(login, '@'); i >= 0 {
		keys[1] = login[i:]
	}
	for _, k := range keys {
		if k == "" {
			continue
		}
		if f := s.Get(ByLogin, k); f.Terms != nil && f.Active(now) {
			return f
		}
	}
	return Found{}
}

// Broader returns the rule that f falls under: the next, less specific one of
// its scope, in force or not; none if there is none.
func (s *Snapshot) Broader(f Found) Found {
	other := &filter{any: true, not: f.Pattern}
	or := func(b Found) Found {
		if other.takes(&b) {
			return b
		}
		return Found{}
	}
	switch patternForm(f.Scope, f.Pattern) {
	case formAny:
		return Found{}
	case formAddress:
		i := strings.LastIndexByte(f.Pattern, '@')
		if f.Scope == ByLogin {
			if i >= 0 {
				if b := s.Get(ByLogin, f.Pattern[i:]); other.takes(&b) {
					return b
				}
			}
			return or(s.Get(ByLogin, "*"))
		}
		if i < 0 { // <>
			return or(s.Get(f.Scope, "*"))
		}
		if base, ok := s.delimiters.Split(f.Pattern[:i]); ok {
			if b := s.Get(f.Scope, base+f.Pattern[i:]); other.takes(&b) {
				return b
			}
		}
		return s.lookupDomain(f.Scope, f.Pattern[i+1:], other)
	case formDomain:
		if f.Scope == ByLogin {
			return or(s.Get(ByLogin, "*"))
		}
		return s.lookupDomain(f.Scope, f.Pattern, other)
	}
	// Of a parent: not the domain of the same name, which it does not fall under.
	if parents := &s.by[f.Scope][formParent]; parents.n > 0 {
		for i := 1; i < len(f.Pattern); i++ {
			if f.Pattern[i] == '.' {
				if b := s.get(parents, f.Pattern[i:]); other.takes(&b) {
					return b
				}
			}
		}
	}
	return or(s.Get(f.Scope, "*"))
}

// Weakening is a rule that allows what the broader rule it falls under forbids.
type Weakening struct {
	Rule, Broader Found
	Why           string
}

// Weakenings returns every rule that is weaker than the broader rule it falls
// under, without being marked so (Weaken), sorted by pattern. A change of the
// rules that would make one is refused. Where the broader rule ends before the
// rule does, the rule will fall under the next one, which then counts too.
func (s *Snapshot) Weakenings() []Weakening { return s.weakenings(func(Found) bool { return true }) }

// WeakeningsUnder returns those of Weakenings whose rule is one of changes, or may fall
// under one of them. Others can't come or go by these changes.
func (s *Snapshot) WeakeningsUnder(changes []Change) []Weakening {
	if len(changes) > 100 { // with so many it is not quicker
		return s.Weakenings()
	}
	return s.weakenings(func(f Found) bool {
		return slices.ContainsFunc(changes, func(c Change) bool { return c.Scope == f.Scope && mayCover(c.Pattern, f.Pattern) })
	})
}

// mayCover reports whether a rule for under can fall under one for pattern of the same
// scope, or is one for it. It may say yes where it does not.
func mayCover(pattern, under string) bool {
	if pattern == "*" || strings.HasSuffix(under, pattern) {
		return true
	}
	i := strings.LastIndexByte(pattern, '@') // an address, under which are its extensions
	return i > 0 && strings.HasSuffix(under, pattern[i:]) && strings.HasPrefix(under, pattern[:i])
}

func (s *Snapshot) weakenings(about func(Found) bool) []Weakening {
	var found []Weakening
	for f := range s.All {
		if f.Weaken || !about(f) {
			continue
		}
		for b := s.Broader(f); !b.None(); b = s.Broader(b) {
			if why, weaker := f.WeakerThan(b); weaker {
				found = append(found, Weakening{f, b, why})
				break
			}
			if b.Until.IsZero() || !f.Until.IsZero() && !f.Until.After(b.Until) {
				break // f is never in force without b
			}
		}
	}
	slices.SortFunc(found, func(a, b Weakening) int {
		return cmp.Or(strings.Compare(a.Rule.Pattern, b.Rule.Pattern), cmp.Compare(a.Rule.Scope, b.Rule.Scope))
	})
	return found
}
