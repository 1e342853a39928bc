package policy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
)

// Builder gathers the rules of a [Snapshot]. Several may gather for the same one at a
// time, each for itself: see [Builder.Beside].
type Builder struct {
	delimiters Delimiters
	all        *interner
	records    []byte
	n          [scopes][forms]int
}

// NewBuilder returns an empty builder. delimiters is Postfix's recipient_delimiter.
func NewBuilder(delimiters Delimiters) *Builder {
	return &Builder{delimiters: delimiters, all: newInterner()}
}

// Beside returns another builder, to be given to the same Snapshot call: it may be used
// at the same time as b.
func (b *Builder) Beside() *Builder { return &Builder{delimiters: b.delimiters, all: b.all} }

// Kind stands for rules that differ in nothing but their pattern and note.
type Kind struct {
	like Rule
	ids  [forms]uint32 // of terms, by form of pattern; 0: no rule of that form yet
}

// NewKind returns the kind of r, whose pattern and note don't matter.
func NewKind(r *Rule) *Kind { return &Kind{like: *r} }

// Add adds a rule. It fails on an invalid one.
func (b *Builder) Add(r *Rule) error { return b.AddLike(NewKind(r), r.Pattern, r.Note) }

// AddLike adds a rule of a kind. A kind must not be used by two builders at a time. It
// fails where [Rule.Validate] would.
func (b *Builder) AddLike(k *Kind, pattern, note string) error {
	if k.like.Scope >= scopes {
		return fmt.Errorf("unknown scope in rule %q", pattern)
	}
	form := patternForm(k.like.Scope, pattern)
	id := k.ids[form]
	if id == 0 || !plainPattern(k.like.Scope, pattern, form) || k.like.checkNote(note) != nil {
		r := k.like
		r.Pattern, r.Note = pattern, note
		if err := r.Validate(); err != nil {
			return fmt.Errorf("rule %d (%s %s): %w", r.ID, r.Scope, r.Pattern, err)
		}
		if id == 0 {
			t := r.terms()
			id = b.all.intern(&t)
			k.ids[form] = id
		}
	}
	if len(pattern) > math.MaxUint16 || len(note) > math.MaxUint16 {
		return fmt.Errorf("%s rule %.80q: pattern or note is too long", k.like.Scope, pattern)
	}
	b.records = appendRecord(b.records, id, pattern, note)
	b.n[k.like.Scope][form]++
	return nil
}

// plainPattern reports whether pattern is of letters, digits, dots, hyphens and
// underscores, and so canonical, as most are. For others it says no, and
// [canonicalPattern] is to be asked.
func plainPattern(scope Scope, pattern string, form int) bool {
	if scope != ByRecipient && scope != BySender || len(pattern) > 253 {
		return false
	}
	domain := pattern
	switch form {
	case formAddress:
		at := strings.LastIndexByte(pattern, '@')
		if at < 1 || at > 64 {
			return false
		}
		for i := range at {
			if c := pattern[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' && c != '+' {
				return false
			}
		}
		domain = pattern[at+1:]
	case formParent:
		domain = pattern[1:]
	case formAny:
		return true
	}
	start := 0
	for i := 0; i <= len(domain); i++ {
		if i == len(domain) || domain[i] == '.' {
			if i == start || i-start > 63 || domain[start] == '-' || domain[i-1] == '-' {
				return false
			}
			start = i + 1
		} else if c := domain[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	last := domain[len(domain)-1]
	return last >= 'a' && last <= 'z' // and so it is no IPv4 address
}

// Snapshot makes the snapshot of what b and more, which were made by [Builder.Beside],
// have gathered. None of them can be used any more. It fails on two rules for one pattern
// of one scope.
func (b *Builder) Snapshot(version int64, more ...*Builder) (*Snapshot, error) {
	s := &Snapshot{Version: version, delimiters: b.delimiters, exempt: index{byDomain: true}, interned: b.all.ids, terms: b.all.terms}
	parts, size := append([]*Builder{b}, more...), recordFirst
	var n [scopes][forms]int
	for _, p := range parts {
		size += len(p.records)
		for scope := range n {
			for form := range n[scope] {
				n[scope][form] += p.n[scope][form]
			}
		}
	}
	if size > math.MaxUint32 {
		return nil, errTooMany
	}
	var all strings.Builder
	all.Grow(size)
	all.WriteByte(0)
	for _, p := range parts {
		all.Write(p.records)
		p.records = nil
	}
	s.records = records(all.String())
	for scope := range n {
		for form := range n[scope] {
			s.by[scope][form].reserve(s.records, n[scope][form])
		}
	}
	s.uses = make([]uint32, len(s.terms))
	for at := uint32(recordFirst); int(at) < len(s.records); at = s.records.next(at) {
		id := s.records.terms(at)
		t := s.terms[id]
		if s.by[t.Scope][t.form].put(s.records, at) != 0 {
			return nil, fmt.Errorf("two %s rules for %s", t.Scope, s.records.pattern(at))
		}
		s.uses[id]++
		s.n++
		if t.exempts() {
			s.exempt.putLater(s, at)
		}
	}
	s.indexNexthops()
	return s, nil
}

var errTooMany = errors.New("too many rules: their patterns and notes take more than 4 GiB")

// exempts reports whether the rule is for an address of which nothing is required.
func (t *Terms) exempts() bool {
	return t.Scope == ByRecipient && t.form == formAddress && t.Requirement == None
}

// putLater puts the record at at into an index by domain, unless one with the same
// domain is there that ends later, or never.
func (x *index) putLater(s *Snapshot, at uint32) {
	before := x.put(s.records, at)
	if before == 0 {
		return
	}
	old, new := s.terms[s.records.terms(before)].Until, s.terms[s.records.terms(at)].Until
	if old.IsZero() || !new.IsZero() && old.After(new) {
		x.put(s.records, before)
	}
}

// indexNexthops lists the terms of recipient rules with a next-hop.
func (s *Snapshot) indexNexthops() {
	s.byNexthop = nil
	for id, t := range s.terms {
		if t == nil || t.Nexthop == "" || s.uses[id] == 0 {
			continue
		}
		if s.byNexthop == nil {
			s.byNexthop = make(map[string][]*Terms)
		}
		hop := NormalNexthop(t.Nexthop)
		s.byNexthop[hop] = append(s.byNexthop[hop], t)
	}
	for _, all := range s.byNexthop { // the numbers go by who was read first
		slices.SortFunc(all, func(a, b *Terms) int {
			return cmp.Or(-cmp.Compare(a.TLS.Level, b.TLS.Level), strings.Compare(fmt.Sprint(*a), fmt.Sprint(*b)))
		})
	}
}

// interner gives each distinct Terms a number.
type interner struct {
	mu    sync.Mutex
	ids   map[termsKey]uint32
	terms []*Terms // by number; number 0 is none
}

// termsKey says all that Terms say.
type termsKey struct {
	scope                           Scope
	requirement                     Requirement
	weaken, override                bool
	form                            uint8
	level                           Level
	match                           string
	protocols, ciphers, servername  string
	nexthop, verify, mode, language string
	life                            Lifetimes
	ends                            bool
	until                           int64 // seconds
	untilNano                       int
}

func (t *Terms) key() termsKey {
	k := termsKey{
		t.Scope, t.Requirement, t.Weaken, t.Override, t.form, t.TLS.Level, strings.Join(t.TLS.Match, ":"), t.TLS.Protocols, t.TLS.Ciphers,
		t.TLS.Servername, t.Nexthop, t.Verify, t.Mode, t.Language, t.Life, !t.Until.IsZero(), 0, 0,
	}
	if k.ends {
		k.until, k.untilNano = t.Until.Unix(), t.Until.Nanosecond()
	}
	return k
}

func newInterner() *interner {
	return &interner{ids: make(map[termsKey]uint32), terms: []*Terms{nil}}
}

func (n *interner) intern(t *Terms) uint32 {
	n.mu.Lock()
	defer n.mu.Unlock()
	k := t.key()
	id, ok := n.ids[k]
	if !ok {
		kept := *t
		kept.TLS.Match = slices.Clone(t.TLS.Match)
		id = uint32(len(n.terms))
		n.terms = append(n.terms, &kept)
		n.ids[k] = id
	}
	return id
}

// Change is a rule that is new, or in the place of the one there was; or none any more.
type Change struct {
	Scope   Scope
	Pattern string
	Rule    *Rule // nil: removed; else of this scope and pattern
}

// With returns a snapshot in which these rules have changed. Its triggers are those of s.
// It answers as one made anew of all rules would.
func (s *Snapshot) With(version int64, changes []Change) (*Snapshot, error) {
	n := *s
	n.Version = version
	if len(changes) == 0 {
		return &n, nil
	}
	all := &interner{ids: maps.Clone(s.interned), terms: slices.Clone(s.terms)}
	b := &Builder{delimiters: s.delimiters, all: all}
	for _, c := range changes {
		if c.Rule == nil {
			continue
		}
		if c.Rule.Scope != c.Scope || c.Rule.Pattern != c.Pattern {
			return nil, fmt.Errorf("%s is in the place of the %s rule for %s", c.Rule, c.Scope, c.Pattern)
		}
		if err := b.Add(c.Rule); err != nil {
			return nil, err
		}
	}
	if len(s.records)+len(b.records) > math.MaxUint32 {
		return nil, errTooMany
	}
	n.records, n.terms, n.interned = s.records+records(b.records), all.terms, all.ids
	if len(s.records) == 0 {
		n.records = "\x00" + n.records
	}
	n.uses = append(slices.Clone(s.uses), make([]uint32, len(n.terms)-len(s.uses))...)

	var copied [scopes][forms]bool
	own := func(scope Scope, form uint8) *index {
		x := &n.by[scope][form]
		if !copied[scope][form] {
			*x, copied[scope][form] = x.clone(), true
		}
		return x
	}
	exempt := make(map[string]bool) // domains whose exemptions may be others now
	gone := func(at uint32) {
		t := n.terms[n.records.terms(at)]
		n.uses[n.records.terms(at)]--
		n.n--
		n.dead += int(n.records.next(at) - at)
		if t.exempts() {
			exempt[domainOf(n.records.pattern(at))] = true
		}
	}
	at := max(uint32(len(s.records)), recordFirst)
	for _, c := range changes {
		if c.Rule == nil {
			if c.Scope >= scopes {
				return nil, fmt.Errorf("unknown scope of the rule for %q", c.Pattern)
			}
			if was := own(c.Scope, uint8(patternForm(c.Scope, c.Pattern))).remove(n.records, c.Pattern); was != 0 {
				gone(was)
			}
			continue
		}
		id := n.records.terms(at)
		t := n.terms[id]
		if was := own(t.Scope, t.form).put(n.records, at); was != 0 {
			gone(was)
		}
		n.uses[id]++
		n.n++
		if t.exempts() {
			exempt[domainOf(c.Pattern)] = true
		}
		at = n.records.next(at)
	}
	if n.dead > len(n.records)/4 {
		return n.compact()
	}
	if len(exempt) > 0 {
		n.exempt = n.exempt.clone()
		for d := range exempt {
			n.exempt.remove(n.records, d)
		}
		addresses := &n.by[ByRecipient][formAddress]
		for _, sl := range addresses.slots {
			if sl.at != 0 && n.terms[n.records.terms(sl.at)].exempts() && exempt[domainOf(n.records.pattern(sl.at))] {
				n.exempt.putLater(&n, sl.at)
			}
		}
	}
	n.indexNexthops()
	return &n, nil
}

// compact returns the same snapshot without what takes room and is not used any more.
func (s *Snapshot) compact() (*Snapshot, error) {
	b := NewBuilder(s.delimiters)
	ids := make([]uint32, len(s.terms))
	for f, at := range s.live {
		id := s.records.terms(at)
		if ids[id] == 0 {
			ids[id] = b.all.intern(f.Terms)
		}
		b.records = appendRecord(b.records, ids[id], f.Pattern, f.Note)
		b.n[f.Scope][f.form]++
	}
	n, err := b.Snapshot(s.Version)
	if err != nil {
		return nil, err
	}
	n.Seq, n.triggers = s.Seq, s.triggers
	return n, nil
}

// NewSnapshot indexes rules. delimiters is Postfix's recipient_delimiter. It
// fails on an invalid rule and on two rules for one pattern of one scope, so that
// a damaged database is never read as "no rule".
func NewSnapshot(version int64, rules []*Rule, delimiters Delimiters) (*Snapshot, error) {
	b := NewBuilder(delimiters)
	var last *Kind // most are of the same kind as the one before
	for _, r := range rules {
		if last == nil || !last.likes(r) {
			last = NewKind(r)
		}
		last.like.ID = r.ID // for errors
		if err := b.AddLike(last, r.Pattern, r.Note); err != nil {
			return nil, err
		}
	}
	return b.Snapshot(version)
}

// likes reports whether r is of the kind.
func (k *Kind) likes(r *Rule) bool {
	l := &k.like
	return l.Scope == r.Scope && l.Requirement == r.Requirement && l.TLS.Level == r.TLS.Level && slices.Equal(l.TLS.Match, r.TLS.Match) &&
		l.TLS.Protocols == r.TLS.Protocols && l.TLS.Ciphers == r.TLS.Ciphers && l.TLS.Servername == r.TLS.Servername && l.Nexthop == r.Nexthop &&
		l.Verify == r.Verify && l.Mode == r.Mode && l.Language == r.Language && l.Life == r.Life && l.Weaken == r.Weaken && l.Override == r.Override &&
		l.Until.Equal(r.Until) && l.Until.IsZero() == r.Until.IsZero()
}
