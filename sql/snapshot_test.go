package sql

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// contents is all that a snapshot has, as text.
func contents(t testing.TB, s *policy.Snapshot) string {
	t.Helper()
	var lines []string
	for f := range s.All {
		if got := s.Get(f.Scope, f.Pattern); got != f {
			t.Fatalf("Get of %s gives %s", f, got)
		}
		lines = append(lines, fmt.Sprintf("%+v %q %q", *f.Terms, f.Pattern, f.Note))
	}
	if len(lines) != s.Len() {
		t.Fatalf("%d rules in a snapshot of %d", len(lines), s.Len())
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// slowly is the snapshot of the rules as they are read row by row.
func slowly(t testing.TB, db *DB) *policy.Snapshot {
	t.Helper()
	rules, v, err := db.Rules(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s, err := policy.NewSnapshot(v, rules, "+")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func sameRules(t testing.TB, db *DB, s *policy.Snapshot) {
	t.Helper()
	want := slowly(t, db)
	if s.Version != want.Version {
		t.Fatalf("version %d, want %d", s.Version, want.Version)
	}
	if got, want := contents(t, s), contents(t, want); got != want {
		t.Fatalf("in memory:\n%s\nin the database:\n%s", got, want)
	}
}

func loaded(t testing.TB, db *DB, have *policy.Snapshot) *policy.Snapshot {
	t.Helper()
	s, err := db.Snapshot(t.Context(), "+", have)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// random returns a valid rule that uses every field now and then.
func randomRule(w *rand.Rand) *policy.Rule {
	one := func(all ...string) string { return all[w.IntN(len(all))] }
	for {
		r := &policy.Rule{Scope: policy.Scope(w.IntN(3)), Requirement: policy.Requirement(w.IntN(4)), Weaken: true, Note: one("why", "w\x1fh\x1fy", "größer", "a 'note'")}
		typed := one("a", "b", "c") + fmt.Sprint(w.IntN(6)) + ".example"
		switch {
		case r.Scope == policy.ByLogin:
			typed = one("*", "doc", "@realm", "d\x1foc", typed)
		case w.IntN(3) == 0:
			typed = one("x", "x+y", `"j d"`, "josé") + "@" + typed
		case r.Scope == policy.BySender:
			typed = one("@", "@.") + typed
		case w.IntN(3) == 0:
			typed = one("*", "."+typed, "[192.0.2.1]", "[IPv6:2001:db8::1]")
		}
		var err error
		if r.Pattern, err = policy.CanonicalPattern(r.Scope, typed); err != nil {
			panic(err)
		}
		if w.IntN(3) == 0 {
			r.Until = time.Date(2030, 1, 1+w.IntN(3), 0, 0, 0, 1000*w.IntN(3), time.UTC)
		}
		if w.IntN(2) == 0 {
			r.TLS = policy.TLSParams{Level: policy.Level(w.IntN(7)), Protocols: one("", ">=TLSv1.2"), Ciphers: one("", "high"), Servername: one("", "nexthop")}
			if w.IntN(2) == 0 {
				r.TLS.Match = []string{"a.example", ".b.example"}
			}
		}
		r.Nexthop, r.Verify, r.Mode, r.Language = one("", "", "[a.example]:25"), one("", "code"), one("", "sealed"), one("", "de")
		r.Life = policy.Lifetimes{Usual: time.Duration(w.IntN(2)) * time.Hour, Max: time.Duration(w.IntN(2)) * 5 * time.Hour}
		if r.Validate() == nil {
			return r
		}
	}
}

// TestSnapshotIsWhatTheRowsSay: reading many rules in one answer of SQLite gives what
// reading them row by row does.
func TestSnapshotIsWhatTheRowsSay(t *testing.T) {
	w := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		db := openTest(t)
		var rules []*policy.Rule
		seen := make(map[key]bool)
		for range w.IntN(150) {
			if r := randomRule(w); !seen[keyOf(r)] {
				seen[keyOf(r)] = true
				rules = append(rules, r)
			}
		}
		if err := db.ImportRules(t.Context(), rules, false, plus); err != nil {
			t.Fatal(err)
		}
		sameRules(t, db, loaded(t, db, nil))
	}
}

// TestManyRulesAreReadBesideEachOther takes so many that several connections read, with
// gaps between the IDs.
func TestManyRulesAreReadBesideEachOther(t *testing.T) {
	db := openTest(t)
	var rules []*policy.Rule
	for i := range 5 * packedRows / 2 {
		r := recipient(fmt.Sprintf("d%d.example", i), policy.Requirement(i%4))
		if i%1000 == 7 {
			weakened(r)
			r.Note = fmt.Sprintf("reason\x1f%d", i)
		}
		rules = append(rules, r)
	}
	if err := db.ImportRules(t.Context(), rules, false, plus); err != nil {
		t.Fatal(err)
	}
	sameRules(t, db, loaded(t, db, nil))
	mustExec(t, db.w, `DELETE FROM rule WHERE id % 7 = 3 OR id BETWEEN 2000 AND 30000`)
	mustExec(t, db.w, `UPDATE rule SET id = id + 4000000000000000000 WHERE id % 5 = 1`)
	mustExec(t, db.w, `UPDATE rule SET id = id - 5000000000 WHERE id % 11 = 1`)
	sameRules(t, db, loaded(t, db, nil))
	mustExec(t, db.w, `UPDATE rule SET id = 9223372036854775807 WHERE id = (SELECT max(id) FROM rule)`)
	sameRules(t, db, loaded(t, db, nil))
	mustExec(t, db.w, `DELETE FROM rule`)
	sameRules(t, db, loaded(t, db, nil))
}

// TestLoadingByDifferenceIsLoadingWhole makes series of changes, also by other
// connections, another process, and a hand in the database, and follows them by
// difference, now and then after several.
func TestLoadingByDifferenceIsLoadingWhole(t *testing.T) {
	for seed := range uint64(4) {
		w := rand.New(rand.NewPCG(seed, 9))
		db, ctx := openTest(t), t.Context()
		other := openAt(t, db.path)
		s := loaded(t, db, nil)
		for step := range 80 {
			by := []*DB{db, other}[w.IntN(2)]
			r := randomRule(w)
			switch w.IntN(9) {
			case 0, 1, 2, 3:
				by.ImportRules(ctx, []*policy.Rule{r, randomRule(w), randomRule(w)}, true, plus) // or refused, as twice the same
			case 4:
				by.SetRule(ctx, r, plus)
			case 5, 6:
				by.RemoveRule(ctx, r.Scope, r.Pattern, plus)
			case 7: // by hand
				for _, q := range []string{
					`UPDATE rule SET requirement = 'escrow', level = '', match_names = '', protocols = '', ciphers = '', servername = '', nexthop = '' WHERE id % 3 = 1`,
					`DELETE FROM rule WHERE id % 5 = 2`,
					`UPDATE OR IGNORE rule SET pattern = 'renamed.example' WHERE id = (SELECT max(id) FROM rule WHERE scope = 'sender')`,
					`INSERT OR REPLACE INTO rule (scope, pattern, requirement, created_at) VALUES ('recipient', 'a1.example', 'tls', 1)`,
				}[w.IntN(4):] {
					mustExec(t, by.w, q)
					break
				}
				mustExec(t, by.w, `UPDATE meta SET value = value + 1 WHERE name = 'rules_version'`)
			case 8:
				trigger := &policy.Trigger{Kind: policy.OnSubject, Pattern: fmt.Sprint("t", step), Sender: "*", Requirement: policy.Encryption}
				if err := by.ImportTriggers(ctx, []*policy.Trigger{trigger}, true); err != nil {
					t.Fatal(err)
				}
			}
			if step == 40 {
				script(t, db.path, "add", fmt.Sprintf("process-%d.example", seed))
			}
			if w.IntN(3) > 0 {
				s = loaded(t, db, s)
				sameRules(t, db, s)
			}
		}
		if s.Len() == 0 {
			t.Error("no rules: tests nothing")
		}
	}
}

// since, by which changes are read, gives up where it can't know them all: then
// everything is read.
func TestWholeInDoubt(t *testing.T) {
	db, ctx := openTest(t), t.Context()
	bySince := func(have *policy.Snapshot) error {
		tx, err := db.r.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback()
		now, err := readMark(ctx, tx)
		if err != nil {
			t.Fatal(err)
		}
		_, err = since(ctx, tx, have, now)
		return err
	}
	add := func(n int, from string) {
		t.Helper()
		var rules []*policy.Rule
		for i := range n {
			rules = append(rules, recipient(fmt.Sprintf("%s%d.example", from, i), policy.ForcedTLS))
		}
		if err := db.ImportRules(ctx, rules, false, plus); err != nil {
			t.Fatal(err)
		}
	}
	add(3, "a")
	s := loaded(t, db, nil)
	add(listedMost, "b")
	if err := bySince(s); err != nil {
		t.Errorf("after a few changes: %v", err)
	}
	for _, doubt := range []struct {
		name string
		make func()
	}{
		{"an import that is not listed", func() { add(listedMost+1, "c") }},
		{"an entry is gone", func() {
			add(3, "d")
			mustExec(t, db.w, `DELETE FROM rule_change WHERE seq = (SELECT max(seq) - 1 FROM rule_change)`)
		}},
		{"all entries are gone", func() { add(3, "e"); mustExec(t, db.w, `DELETE FROM rule_change`) }},
		{"an entry of a scope to come", func() { mustExec(t, db.w, `INSERT INTO rule_change (scope, pattern) VALUES ('moon', 'x')`) }},
		{"an older database in its place", func() { mustExec(t, db.w, `UPDATE meta SET value = value - 1 WHERE name = 'rules_version'`) }},
		{"its entries counted anew", func() { mustExec(t, db.w, `UPDATE sqlite_sequence SET seq = 1 WHERE name = 'rule_change'`) }},
		{"too many changes", func() {
			mustExec(t, db.w, fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i <= %d)
				INSERT INTO rule_change (scope, pattern) SELECT 'recipient', 'a1.example' FROM n`, changesMost))
		}},
	} {
		s := loaded(t, db, nil)
		if err := bySince(s); err != nil {
			t.Errorf("before %s: %v", doubt.name, err)
		}
		doubt.make()
		if err := bySince(s); err == nil {
			t.Errorf("%s, and the changes are known", doubt.name)
		}
		sameRules(t, db, loaded(t, db, s))
	}
}

// TestEntriesOfChangesAreDeleted: their table stays small.
func TestEntriesOfChangesAreDeleted(t *testing.T) {
	db := openTest(t)
	mustExec(t, db.w, fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
		INSERT INTO rule_change (scope, pattern) SELECT 'recipient', 'a1.example' FROM n`, 2*changesKept))
	if err := db.AddRule(t.Context(), recipient("a.example", policy.ForcedTLS), plus); err != nil {
		t.Fatal(err)
	}
	if n := one[int64](t, db.w, `SELECT count(*) FROM rule_change`); n != changesKept {
		t.Errorf("%d entries", n)
	}
}

// A rule that can't be read is an error, never none, in either way of reading.
func TestDamagedRulesAreNotLoaded(t *testing.T) {
	for _, damage := range []string{
		`UPDATE rule SET requirement = 'maybe'`,
		`UPDATE rule SET scope = 'moon'`,
		`UPDATE rule SET level = 'much'`,
		`UPDATE rule SET pattern = 'A.example'`,
		`UPDATE rule SET pattern = 'a' || char(10) || 'b.example'`,
		`UPDATE rule SET pattern = 'a' || char(31) || 'b.example'`,
		`UPDATE rule SET note = 'a' || char(10) || 'b'`,
		`UPDATE rule SET weaken = 1, note = ' '`,
		`UPDATE rule SET nexthop = 'x y'`,
		`UPDATE rule SET lifetime = 1`,
		`UPDATE rule SET verify = 'maybe'`,
	} {
		db := openTest(t)
		if err := db.AddRule(t.Context(), recipient("a.example", policy.ForcedTLS), plus); err != nil {
			t.Fatal(err)
		}
		s := loaded(t, db, nil)
		mustExec(t, db.w, `PRAGMA ignore_check_constraints = ON`)
		mustExec(t, db.w, damage)
		if _, err := db.Snapshot(t.Context(), "+", nil); err == nil {
			t.Errorf("loaded after %s", damage)
		}
		if _, err := db.Snapshot(t.Context(), "+", s); err == nil {
			t.Errorf("loaded by difference after %s", damage)
		}
	}
}

// TestUnpackRefusesWhatItWouldMisread: a text that holds the characters which part fields
// and lines is read row by row.
func TestUnpackRefusesWhatItWouldMisread(t *testing.T) {
	db := openTest(t)
	r := weakened(recipient("a.example", policy.ForcedTLS))
	r.Note = "x\x1fescrow"
	if err := db.AddRule(t.Context(), r, plus); err != nil {
		t.Fatal(err)
	}
	if err := db.AddRule(t.Context(), recipient("b.example", policy.Encryption), plus); err != nil {
		t.Fatal(err)
	}
	tx, err := db.r.BeginTx(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	var n, last int64
	var text string
	if err := tx.QueryRow(selectPacked, 0, 100, packedRows).Scan(&n, &last, &text); err != nil || n != 2 {
		t.Fatalf("%d rows, %v", n, err)
	}
	reader := ruleReader{tx: tx, to: policy.NewBuilder("+"), kinds: make(map[string]*policy.Kind)}
	if sound, err := reader.unpack(text, int(n)); sound || err != nil {
		t.Errorf("taken: %v, %v", sound, err)
	}
	if got := loaded(t, db, nil).Get(policy.ByRecipient, "a.example"); got.Note != r.Note || !reflect.DeepEqual(got.Requirement, r.Requirement) {
		t.Errorf("read %+v", got.Rule())
	}
}
