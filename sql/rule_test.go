package sql

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/postseal/postseal/policyd/policy"
)

var plus = ChangeOptions{Delimiters: "+"}

func recipient(pattern string, q policy.Requirement) *policy.Rule {
	return &policy.Rule{Scope: policy.ByRecipient, Pattern: pattern, Requirement: q}
}

func weakened(r *policy.Rule) *policy.Rule {
	r.Weaken, r.Note = true, "on purpose"
	return r
}

func patterns(t testing.TB, db *DB) string {
	t.Helper()
	rules, _, err := db.Rules(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var s []string
	for _, r := range rules {
		s = append(s, fmt.Sprintf("%s:%s:%s", r.Scope, r.Pattern, r.Requirement))
	}
	return strings.Join(s, " ")
}

func version(t testing.TB, db *DB) int64 {
	t.Helper()
	v, err := db.RulesVersion(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestRulesComeBackAsTheyWere(t *testing.T) {
	db := openTest(t)
	until := time.Date(2031, 2, 3, 4, 5, 6, 789000, time.UTC)
	soon := time.Now().UTC().Add(80 * 24 * time.Hour).Truncate(time.Microsecond)
	created := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	want := []*policy.Rule{
		{Scope: policy.ByLogin, Pattern: "drsmith", Requirement: policy.Encryption, Created: created},
		{Scope: policy.ByLogin, Pattern: "@clinic", Requirement: policy.ForcedTLS, Created: created},
		{
			Scope: policy.ByRecipient, Pattern: "bank.example", Requirement: policy.ForcedTLS,
			TLS:     policy.TLSParams{Level: policy.LevelSecure, Match: []string{"bank.example", ".bank.example", "dot-nexthop"}, Protocols: ">=TLSv1.2", Ciphers: "high", Servername: "hostname"},
			Nexthop: "[10.0.0.5]:25", Verify: "passphrase", Mode: "sealed", Language: "de", Note: "Größe; 'DROP TABLE rule' --", Until: until, Created: created,
		},
		{Scope: policy.ByRecipient, Pattern: ".broken.example", Override: true, Note: "their TLS", Until: soon, Created: created},
		{Scope: policy.BySender, Pattern: "*", Requirement: policy.None, Created: created},
		{Scope: policy.BySender, Pattern: "<>", Requirement: policy.EscrowOnly, Created: created},
		{Scope: policy.BySender, Pattern: `"od d"'%@x.example`, Requirement: policy.EscrowOnly, Weaken: true, Note: "why", Created: created},
	}
	if err := db.ImportRules(t.Context(), want, false, plus); err != nil {
		t.Fatal(err)
	}
	got, v, err := db.Rules(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if v != 1 || version(t, db) != 1 {
		t.Errorf("version %d after the first change", v)
	}
	byPattern := cmpopts.SortSlices(func(a, b *policy.Rule) bool { return a.Pattern < b.Pattern })
	if d := cmp.Diff(want, got, byPattern, cmpopts.IgnoreFields(policy.Rule{}, "ID")); d != "" {
		t.Error(d)
	}
	if _, err := policy.NewSnapshot(v, got, "+"); err != nil {
		t.Error(err)
	}
}

func TestCreatedStaysWhenARuleIsSet(t *testing.T) {
	db := openTest(t)
	first := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	db.now = func() time.Time { return first }
	if err := db.AddRule(t.Context(), recipient("a.example", policy.ForcedTLS), plus); err != nil {
		t.Fatal(err)
	}
	db.now = func() time.Time { return first.AddDate(0, 1, 0) }
	r := recipient("a.example", policy.Encryption)
	r.Note = "new"
	if err := db.SetRule(t.Context(), r, plus); err != nil {
		t.Fatal(err)
	}
	rules, _, err := db.Rules(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := rules[0]; !got.Created.Equal(first) || got.Requirement != policy.Encryption || got.Note != "new" {
		t.Errorf("rule %+v", got)
	}
}

func TestAddSetRemove(t *testing.T) {
	db, ctx := openTest(t), t.Context()
	add := func(r *policy.Rule) error { return db.AddRule(ctx, r, plus) }
	if err := add(recipient("a.example", policy.Encryption)); err != nil {
		t.Fatal(err)
	}
	if err := add(recipient("a.example", policy.ForcedTLS)); !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), "use set") {
		t.Errorf("adding twice: %v", err)
	}
	if err := db.SetRule(ctx, recipient("b.example", policy.ForcedTLS), plus); !errors.Is(err, ErrNotFound) {
		t.Errorf("setting a missing one: %v", err)
	}
	for _, bad := range []*policy.Rule{
		recipient("A.example", policy.ForcedTLS),
		recipient("", policy.ForcedTLS),
		recipient("c.example", 77),
		{Scope: policy.ByContent, Pattern: "secret", Requirement: policy.Encryption},
		{Scope: policy.ByRecipient, Pattern: "c.example", Weaken: true},
		{Scope: policy.ByRecipient, Pattern: "c.example", Override: true, Note: "why"},
		{Scope: policy.ByRecipient, Pattern: "c.example", Override: true, Until: time.Now().Add(time.Hour)},
		{Scope: policy.ByRecipient, Pattern: "c.example", Override: true, Note: "why", Until: time.Now().Add(92 * 24 * time.Hour)},
		{Scope: policy.ByRecipient, Pattern: "c.example", Override: true, Note: "why", Until: time.Now().Add(time.Hour), Requirement: policy.ForcedTLS},
		{Scope: policy.ByRecipient, Pattern: "*", Override: true, Note: "why", Until: time.Now().Add(time.Hour)},
		{Scope: policy.ByRecipient, Pattern: "a@c.example", Override: true, Note: "why", Until: time.Now().Add(time.Hour)},
		{Scope: policy.BySender, Pattern: "c.example", Override: true, Note: "why", Until: time.Now().Add(time.Hour)},
	} {
		var re *RuleError
		if err := add(bad); !errors.As(err, &re) {
			t.Errorf("adding %v: %v, want a RuleError", bad, err)
		}
	}
	if v := version(t, db); v != 1 {
		t.Errorf("failed changes moved the version to %d", v)
	}
	if removed, err := db.RemoveRule(ctx, policy.BySender, "a.example", plus); err != nil || removed {
		t.Errorf("removing what is not there: %v, %v", removed, err)
	}
	if v := version(t, db); v != 1 {
		t.Errorf("removing nothing moved the version to %d", v)
	}
	if removed, err := db.RemoveRule(ctx, policy.ByRecipient, "a.example", plus); err != nil || !removed {
		t.Errorf("removing: %v, %v", removed, err)
	}
	if got, v := patterns(t, db), version(t, db); got != "" || v != 2 {
		t.Errorf("rules %q, version %d", got, v)
	}
}

func TestImportIsAllOrNothing(t *testing.T) {
	db, ctx := openTest(t), t.Context()
	if err := db.AddRule(ctx, recipient("old.example", policy.ForcedTLS), plus); err != nil {
		t.Fatal(err)
	}
	a, old, bad := recipient("a.example", policy.ForcedTLS), recipient("old.example", policy.Encryption), recipient("no domain", policy.ForcedTLS)
	tests := []struct {
		name    string
		rules   []*policy.Rule
		replace bool
		index   int
	}{
		{"an existing one", []*policy.Rule{a, old}, false, 1},
		{"an invalid one", []*policy.Rule{a, old, bad}, true, 2},
		{"one that comes twice", []*policy.Rule{a, old, a}, true, 2},
	}
	for _, tt := range tests {
		var re *RuleError
		if err := db.ImportRules(ctx, tt.rules, tt.replace, plus); !errors.As(err, &re) || re.Index != tt.index {
			t.Errorf("%s: error %v, want a RuleError at %d", tt.name, err, tt.index)
		}
		if got := patterns(t, db); got != "recipient:old.example:tls" {
			t.Errorf("%s: left %s", tt.name, got)
		}
	}
	if err := db.ImportRules(ctx, []*policy.Rule{a, old}, true, plus); err != nil {
		t.Fatal(err)
	}
	if got := patterns(t, db); got != "recipient:a.example:tls recipient:old.example:encryption" {
		t.Errorf("replaced to %s", got)
	}
}

func TestWeakeningIsRefused(t *testing.T) {
	soon := time.Now().Add(time.Hour)
	until := func(r *policy.Rule, end time.Time) *policy.Rule { r.Until = end; return r }
	login := func(p string, q policy.Requirement) *policy.Rule {
		return &policy.Rule{Scope: policy.ByLogin, Pattern: p, Requirement: q}
	}
	add := func(r *policy.Rule) func(*DB) error {
		return func(db *DB) error { return db.AddRule(context.Background(), r, plus) }
	}
	set := func(r *policy.Rule) func(*DB) error {
		return func(db *DB) error { return db.SetRule(context.Background(), r, plus) }
	}
	remove := func(p string) func(*DB) error {
		return func(db *DB) error {
			removed, err := db.RemoveRule(context.Background(), policy.ByRecipient, p, plus)
			if removed != (err == nil) {
				return fmt.Errorf("removed is %v with an error: %v", removed, err)
			}
			return err
		}
	}
	tests := []struct {
		name    string
		have    []*policy.Rule
		change  func(*DB) error
		refused bool
	}{
		{"an address below its domain", []*policy.Rule{recipient("a.example", policy.Encryption)}, add(recipient("x@a.example", policy.None)), true},
		{"the same, marked", []*policy.Rule{recipient("a.example", policy.Encryption)}, add(weakened(recipient("x@a.example", policy.None))), false},
		{"an extension below its address", []*policy.Rule{recipient("x@a.example", policy.Encryption)}, add(recipient("x+y@a.example", policy.None)), true},
		{"a stricter one", []*policy.Rule{recipient("a.example", policy.Encryption)}, add(recipient("x@a.example", policy.ForcedTLS)), false},
		{"escrow under forced TLS", []*policy.Rule{recipient(".example", policy.ForcedTLS)}, add(recipient("a.example", policy.EscrowOnly)), true},
		{"a broad one above an existing exemption", []*policy.Rule{recipient("x@a.example", policy.None)}, add(recipient("*", policy.Encryption)), true},
		{"another scope", []*policy.Rule{login("@a.example", policy.Encryption)}, add(recipient("x@a.example", policy.None)), false},
		{"a login below its realm", []*policy.Rule{login("@a.example", policy.Encryption)}, add(login("x@a.example", policy.None)), true},
		{"taking a mark away", []*policy.Rule{recipient("a.example", policy.ForcedTLS), weakened(recipient("x@a.example", policy.None))}, set(recipient("x@a.example", policy.None)), true},
		{"strengthening the broader one", []*policy.Rule{recipient("a.example", policy.None), recipient("x@a.example", policy.None)}, set(recipient("a.example", policy.ForcedTLS)), true},
		{"removing what stood between", []*policy.Rule{recipient(".example", policy.ForcedTLS), weakened(recipient("a.example", policy.None)), recipient("x@a.example", policy.None)}, remove("a.example"), true},
		{"removing what nothing hangs on", []*policy.Rule{recipient(".example", policy.ForcedTLS), weakened(recipient("a.example", policy.None))}, remove("a.example"), false},
		{"hiding behind a rule that ends", []*policy.Rule{recipient(".example", policy.ForcedTLS), until(weakened(recipient("a.example", policy.None)), soon)}, add(recipient("x@a.example", policy.None)), true},
		{"ending with the rule that ends", []*policy.Rule{recipient(".example", policy.ForcedTLS), until(weakened(recipient("a.example", policy.None)), soon)}, add(until(recipient("x@a.example", policy.None), soon)), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			db := openTest(t)
			if err := db.ImportRules(t.Context(), tt.have, false, plus); err != nil {
				t.Fatal(err)
			}
			before := patterns(t, db)
			err := tt.change(db)
			var we *WeakeningError
			if !tt.refused {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.As(err, &we) || len(we.Weakenings) == 0 || !strings.Contains(err.Error(), "--weaken --note") {
				t.Errorf("error %v, want a WeakeningError", err)
			}
			if after := patterns(t, db); after != before {
				t.Errorf("refused, but left %s", after)
			}
		})
	}
}

func TestOldWeakeningBlocksNothingElse(t *testing.T) {
	db := openTest(t)
	// Such as after recipient_delimiter was changed.
	if err := db.ImportRules(t.Context(), []*policy.Rule{recipient("x@a.example", policy.Encryption), recipient("x+y@a.example", policy.None)}, false, ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := db.AddRule(t.Context(), recipient("b.example", policy.ForcedTLS), plus); err != nil {
		t.Errorf("an unrelated change: %v", err)
	}
	var we *WeakeningError
	if err := db.SetRule(t.Context(), recipient("x@a.example", policy.ForcedTLS), plus); !errors.As(err, &we) {
		t.Errorf("a related change: %v", err)
	}
}

// exposed returns an unmarked rule that at now lets something happen that the
// rule in force without it forbids. It goes by lookups, not by Broader, which
// the checks under test use.
func exposed(rules []*policy.Rule, now time.Time) string {
	for i, r := range rules {
		if r.Weaken || !r.Active(now) {
			continue
		}
		rest := append(append([]*policy.Rule{}, rules[:i]...), rules[i+1:]...)
		s, err := policy.NewSnapshot(0, rest, "+")
		if err != nil {
			return err.Error()
		}
		var b policy.Found
		local, domain, isAddress := strings.Cut(r.Pattern, "@")
		switch {
		case r.Scope == policy.ByLogin && r.Pattern == "*":
		case r.Scope == policy.ByLogin && local == "":
			b = s.LookupLogin("nobody"+r.Pattern, now)
		case r.Scope == policy.ByLogin:
			b = s.LookupLogin(r.Pattern, now)
		case r.Pattern == "*":
		case r.Pattern == "<>":
			b = s.Lookup(r.Scope, policy.Address{}, now)
		case isAddress:
			b = s.Lookup(r.Scope, policy.Address{Local: local, Domain: domain}, now)
		case r.Pattern[0] == '.':
			b = s.Lookup(r.Scope, policy.Address{Local: "nobody", Domain: "nowhere" + r.Pattern}, now)
		default:
			b = s.Lookup(r.Scope, policy.Address{Local: "nobody", Domain: r.Pattern}, now)
		}
		if !b.None() && !r.Requirement.Channels().In(b.Requirement.Channels()) {
			return fmt.Sprintf("%s under %s", r, b)
		}
	}
	return ""
}

func TestNoSeriesOfChangesLeavesAnUnmarkedWeakening(t *testing.T) {
	mailPatterns := []string{"*", ".example", ".a.example", "a.example", "b.a.example", "x@a.example", "x+y@a.example", "x+y+z@a.example", "x@b.a.example"}
	all := map[policy.Scope][]string{
		policy.ByRecipient: mailPatterns,
		policy.BySender:    append([]string{"<>"}, mailPatterns...),
		policy.ByLogin:     {"*", "@a.example", "x@a.example", "x"},
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	ends := []time.Time{{}, {}, {}, now.Add(time.Hour), now.Add(2 * time.Hour), now.Add(-time.Hour)}
	moments := []time.Time{now.Add(-2 * time.Hour), now, now.Add(90 * time.Minute), now.Add(3 * time.Hour)}
	for seed := range uint64(2) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		db, ctx := openTest(t), t.Context()
		random := func() *policy.Rule {
			scope := policy.Scope(rnd.IntN(3))
			r := &policy.Rule{
				Scope: scope, Pattern: all[scope][rnd.IntN(len(all[scope]))],
				Requirement: policy.Requirement(rnd.IntN(4)), Until: ends[rnd.IntN(len(ends))],
			}
			if rnd.IntN(4) == 0 {
				weakened(r)
			}
			return r
		}
		refused, done := 0, 0
		for range 120 {
			var err error
			switch r := random(); rnd.IntN(5) {
			case 0, 1:
				err = db.AddRule(ctx, r, plus)
			case 2:
				err = db.SetRule(ctx, r, plus)
			case 3:
				_, err = db.RemoveRule(ctx, r.Scope, r.Pattern, plus)
			case 4:
				err = db.ImportRules(ctx, []*policy.Rule{r, random(), random()}, rnd.IntN(2) == 0, plus)
			}
			var we *WeakeningError
			var re *RuleError
			switch {
			case err == nil:
				done++
			case errors.As(err, &we):
				refused++
			case !errors.As(err, &re) && !errors.Is(err, ErrNotFound):
				t.Fatal(err)
			}
			rules, _, err := db.Rules(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range moments {
				if bad := exposed(rules, m); bad != "" {
					t.Fatalf("seed %d: %s", seed, bad)
				}
			}
		}
		if done == 0 || refused == 0 {
			t.Errorf("seed %d: %d done, %d refused: tests nothing", seed, done, refused)
		}
	}
}

// TestNoPlanLeavesAnUnmarkedWeakening is the same without the database, on one
// chain of patterns with many marks and ends, where it takes few changes to hide
// behind a rule that ends.
func TestNoPlanLeavesAnUnmarkedWeakening(t *testing.T) {
	chain := []string{"*", ".example", "a.example", "x@a.example", "x+y@a.example"}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	rnd := rand.New(rand.NewPCG(7, 7))
	for series := range 150 {
		var rules []*policy.Rule
		for range 25 {
			r := recipient(chain[rnd.IntN(len(chain))], policy.Requirement(rnd.IntN(4)))
			if rnd.IntN(2) == 0 {
				r.Until = now.Add(time.Duration(rnd.IntN(3)+1) * time.Hour)
			}
			if rnd.IntN(2) == 0 {
				weakened(r)
			}
			remove := rnd.IntN(4) == 0
			before, err := policy.NewSnapshot(0, rules, "+")
			if err != nil {
				t.Fatal(err)
			}
			_, err = check(before, time.Now(), func(*policy.Snapshot) (change, error) {
				if remove {
					return change{remove: []key{keyOf(r)}}, nil
				}
				return change{set: []*policy.Rule{r}}, nil
			})
			if err != nil {
				continue
			}
			rules = slices.DeleteFunc(rules, func(o *policy.Rule) bool { return keyOf(o) == keyOf(r) })
			if !remove {
				rules = append(rules, r)
			}
			for h := range 5 {
				if bad := exposed(rules, now.Add(time.Duration(h)*time.Hour)); bad != "" {
					t.Fatalf("series %d, after %d hours: %s", series, h, bad)
				}
			}
		}
	}
}

func TestConcurrentWriters(t *testing.T) {
	path := openTest(t).path
	var all sync.WaitGroup
	const processes, each = 4, 15
	for p := range processes {
		db := openAt(t, path)
		all.Go(func() {
			for i := range each {
				if err := db.AddRule(t.Context(), recipient(fmt.Sprintf("d%d-%d.example", p, i), policy.ForcedTLS), plus); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	db := openAt(t, path)
	rules, v, err := db.Rules(t.Context())
	if err != nil || len(rules) != processes*each || v != processes*each {
		t.Errorf("%d rules at version %d (%v), want %d", len(rules), v, err, processes*each)
	}
}

func TestCheckHoldsAgainstARace(t *testing.T) {
	// Two changes, each sound alone, that together make a weakening: one of
	// them must be refused, however they meet.
	path := openTest(t).path
	a, b := openAt(t, path), openAt(t, path)
	for i := range 25 {
		domain := fmt.Sprintf("d%d.example", i)
		var errs [2]error
		var both sync.WaitGroup
		both.Go(func() { errs[0] = a.AddRule(t.Context(), recipient(domain, policy.Encryption), plus) })
		both.Go(func() { errs[1] = b.AddRule(t.Context(), recipient("x@"+domain, policy.None), plus) })
		both.Wait()
		var we *WeakeningError
		if (errs[0] == nil) == (errs[1] == nil) || !errors.As(errors.Join(errs[:]...), &we) {
			t.Fatalf("errors %v, want exactly one refusal", errs)
		}
	}
}

func TestUnreadableRuleIsAnError(t *testing.T) {
	for _, column := range []string{"scope", "requirement", "level"} {
		db := openTest(t)
		if err := db.AddRule(t.Context(), recipient("a.example", policy.ForcedTLS), plus); err != nil {
			t.Fatal(err)
		}
		mustExec(t, db.w, `PRAGMA ignore_check_constraints = on`)
		mustExec(t, db.w, `UPDATE rule SET `+column+` = 'future'`)
		if rules, _, err := db.Rules(t.Context()); err == nil {
			t.Errorf("%s: read as %v", column, rules[0])
		}
		if err := db.AddRule(t.Context(), recipient("b.example", policy.ForcedTLS), plus); err == nil {
			t.Errorf("%s: a rule was added on top", column)
		}
	}
}

func BenchmarkLoadAMillionRules(b *testing.B) {
	db := openTest(b)
	rules := make([]*policy.Rule, 1_000_000)
	for i := range rules {
		rules[i] = recipient(fmt.Sprintf("domain-%d.example", i), policy.Encryption)
	}
	start := time.Now()
	if err := db.ImportRules(b.Context(), rules, false, plus); err != nil {
		b.Fatal(err)
	}
	b.Logf("import: %v", time.Since(start))
	start = time.Now()
	if err := db.AddRule(b.Context(), recipient("one.more.example", policy.Encryption), plus); err != nil {
		b.Fatal(err)
	}
	b.Logf("one more rule: %v", time.Since(start))
	for b.Loop() {
		loaded(b, db, nil)
	}
}
