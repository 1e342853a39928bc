package policy

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// naive is what a Snapshot must answer like: a list of rules that is gone through from
// front to back for each question, by the definition of what a pattern covers.
type naive struct {
	rules      []*Rule
	delimiters Delimiters
}

// rank says how specifically the pattern of r covers a, 0 for the address itself; false:
// not at all.
func (n *naive) rank(r *Rule, a Address, domainOnly bool) (int, bool) {
	p := r.Pattern
	switch {
	case p == "*":
		return 1000, true
	case p == "<>":
		return 0, !domainOnly && a.IsNull()
	case p[0] == '.':
		return 500 - len(p), a.Domain != "" && a.Domain[0] != '[' && strings.HasSuffix(a.Domain, p)
	case !strings.Contains(p, "@"):
		return 2, a.Domain == p
	case domainOnly || a.IsNull():
		return 0, false
	case p == strings.ToLower(a.Local)+"@"+a.Domain:
		return 0, true
	}
	base, ok := n.delimiters.Split(a.Local)
	return 1, ok && p == strings.ToLower(base)+"@"+a.Domain
}

func (n *naive) lookup(scope Scope, a Address, domainOnly bool, now time.Time) *Rule {
	var best *Rule
	least := 0
	for _, r := range n.rules {
		if r.Scope != scope || !r.Active(now) {
			continue
		}
		if rank, ok := n.rank(r, a, domainOnly); ok && (best == nil || rank < least) {
			best, least = r, rank
		}
	}
	return best
}

func (n *naive) login(login string, now time.Time) *Rule {
	login = strings.ToLower(login)
	realm := "no realm"
	if i := strings.LastIndexByte(login, '@'); i >= 0 {
		realm = login[i:]
	}
	for _, p := range []string{login, realm, "*"} {
		for _, r := range n.rules {
			if login != "" && r.Scope == ByLogin && r.Pattern == p && r.Active(now) {
				return r
			}
		}
	}
	return nil
}

func (n *naive) exempts(domain string, now time.Time) bool {
	return slices.ContainsFunc(n.rules, func(r *Rule) bool {
		return r.Scope == ByRecipient && r.Requirement == None && r.Active(now) && strings.HasSuffix(r.Pattern, "@"+domain)
	})
}

// byNexthop is what the rules say whose mail goes to hop, each thing once, as text.
func (n *naive) byNexthop(hop string, now time.Time) []string {
	var all []string
	for _, r := range n.rules {
		if r.Scope == ByRecipient && r.Nexthop != "" && NormalNexthop(r.Nexthop) == NormalNexthop(hop) && r.Active(now) {
			all = append(all, fmt.Sprintf("%+v", r.terms()))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// world makes random rules of few names, so that they meet.
type world struct{ *rand.Rand }

func pick[T any](w world, all ...T) T { return all[w.IntN(len(all))] }

func (w world) domain() string {
	if w.IntN(12) == 0 {
		return pick(w, "[192.0.2.1]", "[ipv6:2001:db8::1]", "xn--bcher-kva.example", "a_b.example", "x9")
	}
	d := pick(w, "a", "b", "example", "x-1")
	for range w.IntN(4) {
		d = pick(w, "a", "b", "example") + "." + d
	}
	return d
}

func (w world) local() string {
	return pick(w, "x", "X", "x+y", "x+y+z", "y", "+x", "john doe", "josé", "a@b", "postmaster", "postmaster+x", "owner-x", "x'")
}

// pattern returns a canonical one.
func (w world) pattern(scope Scope) string {
	typed := w.domain()
	switch kind := w.IntN(6); {
	case scope == ByLogin:
		typed = pick(w, "*", "doc", "doc@a", "@a", "@b.example", ".x", "a\x1fb")
	case kind == 0 && w.IntN(2) == 0:
		typed = "*"
	case kind == 1 && scope == BySender && w.IntN(2) == 0:
		typed = "<>"
	case kind < 3 && typed[0] != '[':
		typed = "." + typed
		if scope == BySender {
			typed = "@" + typed
		}
	case kind < 5:
		typed = (Address{w.local(), typed}).String()
	case scope == BySender:
		typed = "@" + typed
	}
	p, err := CanonicalPattern(scope, typed)
	if err != nil {
		return w.pattern(scope)
	}
	return p
}

// rule returns a valid one.
func (w world) rule() *Rule {
	for {
		r := &Rule{ID: w.Int64(), Scope: pick(w, ByRecipient, ByRecipient, BySender, ByLogin), Created: now}
		r.Pattern = w.pattern(r.Scope)
		r.Requirement = pick(w, None, ForcedTLS, Encryption, EscrowOnly)
		if w.IntN(3) == 0 {
			r.Until = now.Add(time.Duration(w.IntN(5)-2) * time.Hour)
		}
		if w.IntN(4) == 0 {
			r.Note = pick(w, "why", "because\x1fof", "größer", strings.Repeat("long ", 200))
			r.Weaken = w.IntN(2) == 0
			r.Override = w.IntN(2) == 0 && !r.Until.IsZero()
		}
		if w.IntN(3) == 0 {
			r.TLS = TLSParams{
				Level: pick(w, LevelUnset, LevelMay, LevelEncrypt, LevelVerify, LevelSecure), Protocols: pick(w, "", ">=TLSv1.2"),
				Ciphers: pick(w, "", "high"), Servername: pick(w, "", "hostname"),
			}
			if r.TLS.Level >= LevelVerify {
				r.TLS.Match = pick(w, nil, []string{"a.example"}, []string{"a.example", ".b.example"})
			}
		}
		if w.IntN(4) == 0 {
			r.Nexthop = pick(w, "[a.example]:25", "[A.example]", "b.example", "[a.example]:587")
		}
		r.Verify, r.Mode, r.Language = pick(w, "", "", "code", "account"), pick(w, "", "", "sealed"), pick(w, "", "", "de")
		r.Life = pick(w, Lifetimes{}, Lifetimes{}, Lifetimes{Usual: time.Hour}, Lifetimes{Min: time.Hour, Max: 2 * time.Hour})
		if r.Validate() == nil {
			return r
		}
	}
}

// set puts r into the list, in the place of the one with its pattern.
func (n *naive) set(scope Scope, pattern string, r *Rule) {
	n.rules = slices.DeleteFunc(n.rules, func(o *Rule) bool { return o.Scope == scope && o.Pattern == pattern })
	if r != nil {
		n.rules = append(n.rules, r)
	}
}

// compare asks both the same questions.
func (n *naive) compare(t *testing.T, w world, s *Snapshot) {
	t.Helper()
	if s.Len() != len(n.rules) {
		t.Fatalf("%d rules, want %d", s.Len(), len(n.rules))
	}
	order := func(a, b *Rule) int {
		return cmp.Or(cmp.Compare(a.Scope, b.Scope), strings.Compare(a.Pattern, b.Pattern))
	}
	var all []*Rule
	for f := range s.All {
		all = append(all, f.Rule())
	}
	slices.SortFunc(all, order)
	want := slices.SortedFunc(slices.Values(n.rules), order)
	if len(all) != len(want) {
		t.Fatalf("All gives %d rules, want %d", len(all), len(want))
	}
	for i, r := range want {
		f := s.Get(r.Scope, r.Pattern)
		if !same(f, r) || !reflect.DeepEqual(f.Rule(), all[i]) {
			t.Fatalf("Get or All gives %+v, want %+v", f.Rule(), r)
		}
		if f.IsAddress() != r.IsAddress() || f.IsExplicit() != r.IsExplicit() || f.String() != r.String() {
			t.Fatalf("%s says other things of itself than %s", f, r)
		}
	}
	for range 30 {
		at := now.Add(time.Duration(w.IntN(7)-3) * 30 * time.Minute)
		a := Address{w.local(), w.domain()}
		switch w.IntN(10) {
		case 0:
			a = Address{}
		case 1:
			a.Domain = ""
		}
		for _, scope := range []Scope{ByRecipient, BySender} {
			if got, want := s.Lookup(scope, a, at), n.lookup(scope, a, false, at); !same(got, want) {
				t.Fatalf("%s %v: %v, want %v", scope, a, got, want)
			}
		}
		if got, want := s.LookupDomain(a.Domain, at), n.lookup(ByRecipient, Address{"", a.Domain}, true, at); !same(got, want) {
			t.Fatalf("domain %s: %v, want %v", a.Domain, got, want)
		}
		login := pick(w, "", "doc", "DOC@a", "x@a", "y@b.example", "@a", "other", ".x", "*", "a\x1fb")
		if got, want := s.LookupLogin(login, at), n.login(login, at); !same(got, want) {
			t.Fatalf("login %q: %v, want %v", login, got, want)
		}
		if got, want := s.Exempts(a.Domain, at), n.exempts(a.Domain, at); got != want {
			t.Fatalf("%s exempts: %v, want %v", a.Domain, got, want)
		}
		hop := pick(w, "[a.example]", "[A.EXAMPLE]:25", "b.example:smtp", "[a.example]:587", "c.example")
		var got []string
		for _, terms := range s.ByNexthop(hop, at) {
			got = append(got, fmt.Sprintf("%+v", *terms))
		}
		slices.Sort(got)
		if want := n.byNexthop(hop, at); !slices.Equal(got, want) {
			t.Fatalf("next-hop %s:\n%q, want\n%q", hop, got, want)
		}
	}
}

// TestSnapshotAnswersAsAListWould compares snapshots with [naive]: made at once, and
// by any series of changes from the one before, which must stay as it was.
func TestSnapshotAnswersAsAListWould(t *testing.T) {
	rounds := 300
	if testing.Short() {
		rounds = 50
	}
	for seed := range uint64(rounds) {
		w := world{rand.New(rand.NewPCG(seed, 7))}
		n := &naive{delimiters: pick(w, Delimiters("+"), "+-", "")}
		for range w.IntN(120) {
			r := w.rule()
			n.set(r.Scope, r.Pattern, r)
		}
		whole := func() *Snapshot {
			first, second := NewBuilder(n.delimiters), (*Builder)(nil)
			second = first.Beside()
			for _, r := range n.rules {
				if err := pick(w, first, second).Add(r); err != nil {
					t.Fatal(err)
				}
			}
			s, err := first.Snapshot(1, second)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		s := whole()
		n.compare(t, w, s)
		if listed := snapshot(t, n.delimiters, n.rules...); !reflect.DeepEqual(listed.Weakenings(), asListed(s.Weakenings(), listed)) {
			t.Fatal("weakenings depend on how it was made")
		}
		for range 6 {
			old, before := naive{slices.Clone(n.rules), n.delimiters}, s
			var changes []Change
			for range w.IntN(12) {
				r := w.rule()
				if len(n.rules) > 0 && w.IntN(2) == 0 { // one that is there
					there := pick(w, n.rules...)
					r.Scope, r.Pattern = there.Scope, there.Pattern
				}
				c := Change{r.Scope, r.Pattern, r}
				if w.IntN(3) == 0 || r.Validate() != nil {
					c.Rule = nil
				}
				changes = append(changes, c)
				n.set(c.Scope, c.Pattern, c.Rule)
			}
			var err error
			if s, err = s.With(s.Version+1, changes); err != nil {
				t.Fatal(err)
			}
			n.compare(t, w, s)
			old.compare(t, w, before)
			anew := whole()
			if got, want := s.Weakenings(), anew.Weakenings(); !reflect.DeepEqual(got, asListed(want, s)) {
				t.Fatalf("weakenings %v, want %v", got, want)
			}
			came := func(all []Weakening, other []Weakening) (list []string) {
				for _, a := range all {
					if !slices.ContainsFunc(other, func(b Weakening) bool { return a.Why == b.Why && a.Rule.String() == b.Rule.String() }) {
						list = append(list, a.Why)
					}
				}
				return list
			}
			all := came(s.Weakenings(), before.Weakenings())
			if some := came(s.WeakeningsUnder(changes), before.WeakeningsUnder(changes)); !slices.Equal(all, some) {
				t.Fatalf("the change makes the weakenings %v, and is said to make %v", all, some)
			}
		}
	}
}

// asListed gives weakenings the rules of s, so that they can be compared.
func asListed(all []Weakening, s *Snapshot) []Weakening {
	all = slices.Clone(all)
	for i, w := range all {
		all[i].Rule, all[i].Broader = s.Get(w.Rule.Scope, w.Rule.Pattern), s.Get(w.Broader.Scope, w.Broader.Pattern)
	}
	return all
}

// TestTermsSayAllOfARule fails when a rule gets a field that a snapshot would lose.
func TestTermsSayAllOfARule(t *testing.T) {
	terms, rule := reflect.TypeFor[Terms](), reflect.TypeFor[Rule]()
	for i := range rule.NumField() {
		name := rule.Field(i).Name
		switch name {
		case "ID", "Pattern", "Note", "Created":
			continue
		}
		if _, ok := terms.FieldByName(name); !ok {
			t.Errorf("Terms have no %s", name)
		}
	}
	// And each field tells two apart.
	w := world{rand.New(rand.NewPCG(1, 1))}
	seen := make(map[termsKey]Terms)
	for range 20000 {
		r := w.rule()
		a := r.terms()
		if b, twice := seen[a.key()]; twice && !reflect.DeepEqual(a, b) {
			t.Fatalf("one key for %+v and %+v", a, b)
		}
		seen[a.key()] = a
		if k := NewKind(r); !k.likes(r) {
			t.Fatalf("%+v is not like itself", r)
		}
		if other := w.rule(); NewKind(r).likes(other) {
			x, y := r.terms(), other.terms()
			x.form, y.form = 0, 0
			if x.key() != y.key() {
				t.Fatalf("%+v is taken for %+v", x, y)
			}
		}
	}
}

func TestPlainPatternsAreCanonical(t *testing.T) {
	w := world{rand.New(rand.NewPCG(3, 4))}
	n := 0
	for range 200_000 {
		var b []byte
		for range w.IntN(14) {
			b = append(b, pick(w, []byte("aab01.-_@+X é")...))
		}
		p, scope := string(b), Scope(w.IntN(3))
		if form := patternForm(scope, p); p == "" || !plainPattern(scope, p, form) {
			continue
		}
		n++
		if c, err := canonicalPattern(scope, (&Rule{Scope: scope, Pattern: p}).typed()); err != nil || c != p {
			t.Fatalf("%s %q is taken, and is %q, %v", scope, p, c, err)
		}
	}
	if n < 1000 {
		t.Errorf("only %d were plain: tests nothing", n)
	}
	long := strings.Repeat("x", 64)
	for _, p := range []string{long + ".example", "." + long, strings.Repeat("x.", 130) + "example", strings.Repeat("x", 300) + "@a.example", "192.0.2.1", "a..b", "a.", "-a", "a-.b", "a b", "@a", "."} {
		if plainPattern(ByRecipient, p, patternForm(ByRecipient, p)) {
			t.Errorf("%s is taken unseen", p)
		}
	}
	for _, p := range []string{"domain-1.example", "joe@bank.example", ".bank.example", "joe.x+y@sub.bank.example", "*"} {
		if !plainPattern(ByRecipient, p, patternForm(ByRecipient, p)) {
			t.Errorf("%s is not plain", p)
		}
	}
}

// TestIndexComparesKeys: two keys whose hashes are the same are two keys nonetheless.
func TestIndexComparesKeys(t *testing.T) {
	s := snapshot(t, "", rule(t, ByRecipient, "a.example"), rule(t, ByRecipient, "b.example"))
	x := &s.by[ByRecipient][formDomain]
	h := maphash.String(seed, "a.example")
	if at, _ := x.probe(s.records, "a.example", h); at == 0 {
		t.Error("not found")
	}
	if f := s.getHashed(x, "a.example", h); f.Pattern != "a.example" {
		t.Errorf("found %s", f)
	}
	for _, other := range []string{"c.example", "a.exampl", "a.example2"} {
		if at, _ := x.probe(s.records, other, h); at != 0 {
			t.Errorf("found %s", s.at(at))
		}
		if f := s.getHashed(x, other, h); !f.None() {
			t.Errorf("found %s", f)
		}
	}
}
