package sql

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// packed is a database with n rules of all kinds, and their pack.
func packed(t testing.TB, n int) *DB {
	t.Helper()
	db, w := openTest(t), rand.New(rand.NewPCG(5, 6))
	var rules []*policy.Rule
	seen := make(map[key]bool)
	for i := range n {
		r := weakened(recipient(fmt.Sprintf("d%d.example", i), policy.Requirement(i%4)))
		if i%20 == 0 {
			if other := randomRule(w); !seen[keyOf(other)] {
				r = other
			}
		}
		seen[keyOf(r)] = true
		rules = append(rules, r)
	}
	if err := db.ImportRules(t.Context(), rules, false, plus); err != nil {
		t.Fatal(err)
	}
	pack(t, db)
	return db
}

func pack(t testing.TB, db *DB) {
	t.Helper()
	rows, same, err := db.VerifyRules(t.Context(), "+", loaded(t, db, nil))
	if err != nil || !same {
		t.Fatalf("verified: %v, %v", same, err)
	}
	if err := db.PackRules(t.Context(), rows); err != nil {
		t.Fatal(err)
	}
}

// byPack loads by the pack or fails.
func byPack(t testing.TB, db *DB) (*policy.Snapshot, error) {
	t.Helper()
	tx, err := db.r.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	now, err := readMark(t.Context(), tx)
	if err != nil {
		t.Fatal(err)
	}
	return db.readPack(t.Context(), tx, "+", now, true)
}

const several = partRules + packMany // rules that take several parts

// TestPackIsWhatTheRowsSay: the pack and what has changed since are what the rows say.
func TestPackIsWhatTheRowsSay(t *testing.T) {
	db, w := packed(t, several), rand.New(rand.NewPCG(1, 1))
	for step := range 4 {
		s, err := byPack(t, db)
		if err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		sameRules(t, db, s)
		for range 6 {
			r := randomRule(w)
			switch w.IntN(4) {
			case 0, 1:
				db.ImportRules(t.Context(), []*policy.Rule{r}, true, plus)
			case 2:
				db.RemoveRule(t.Context(), r.Scope, r.Pattern, plus)
			case 3:
				db.RemoveRule(t.Context(), policy.ByRecipient, fmt.Sprintf("d%d.example", w.IntN(several)), plus)
			}
		}
		mustExec(t, db.w, `UPDATE rule SET note = 'by hand' WHERE id % 5000 = ?`, w.IntN(5000))
		if step == 2 {
			pack(t, db)
		}
	}
}

// TestPackInDoubtIsNotUsed breaks packs in every way, and the rules are right all the same.
func TestPackInDoubtIsNotUsed(t *testing.T) {
	db := packed(t, packMany+5)
	for _, tt := range []struct{ name, query string }{
		{"no pack", `DELETE FROM rule_pack`},
		{"no head", `DELETE FROM rule_pack WHERE part = 0`},
		{"a part is gone", `DELETE FROM rule_pack WHERE part = 1`},
		{"a head that is none", `UPDATE rule_pack SET data = x'00' WHERE part = 0`},
		{"a part is cut off", `UPDATE rule_pack SET data = substr(data, 1, 1000) WHERE part = 1`},
		{"a part without anything", `UPDATE rule_pack SET data = x'' WHERE part = 1`},
		{"a byte is another", `UPDATE rule_pack SET data = CAST(substr(data, 1, 1000) || x'41' || substr(data, 1002) AS BLOB) WHERE part = 1`},
		{"fewer rules than the head says", `UPDATE rule_pack SET data = CAST(replace(CAST(data AS TEXT), '"rules":', '"rules":1') AS BLOB) WHERE part = 0`},
		{"of a later moment", `UPDATE rule_pack SET data = CAST(replace(CAST(data AS TEXT), '"seq":', '"seq":9') AS BLOB) WHERE part = 0`},
		{"of another format", `UPDATE rule_pack SET data = CAST(replace(CAST(data AS TEXT), '"format":"', '"format":"0') AS BLOB) WHERE part = 0`},
		{"a change that is not listed", `INSERT INTO rule_change (scope, pattern) VALUES ('', '')`},
		{"a listed change is gone", `INSERT INTO rule_change (seq, scope, pattern) VALUES ((SELECT seq + 2 FROM sqlite_sequence WHERE name = 'rule_change'), 'login', 'x')`},
		{"a rule that no trigger saw go", `DROP TRIGGER rule_removed; DELETE FROM rule WHERE id = (SELECT max(id) FROM rule)`},
		{"a column that it does not know", `ALTER TABLE rule ADD COLUMN more TEXT NOT NULL DEFAULT ''`},
	} {
		if _, err := byPack(t, db); err != nil {
			t.Fatalf("before %s: %v", tt.name, err)
		}
		for q := range strings.SplitSeq(tt.query, ";") {
			mustExec(t, db.w, q)
		}
		if _, err := byPack(t, db); err == nil {
			t.Errorf("%s, and it was used", tt.name)
		}
		sameRules(t, db, loaded(t, db, nil))
		if due, err := db.PackDue(t.Context(), packMany+5); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		} else if !due {
			t.Errorf("%s, and no new one is due", tt.name)
		}
		pack(t, db)
	}
}

// TestVerifyFindsAWrongPack: one that is sound, and says something else than the rows.
func TestVerifyFindsAWrongPack(t *testing.T) {
	db := packed(t, packMany+5)
	right := loaded(t, db, nil)
	wrong, err := right.With(right.Version, []policy.Change{
		{Scope: policy.ByRecipient, Pattern: "d1.example"},
		{Scope: policy.ByRecipient, Pattern: "other.example", Rule: recipient("other.example", policy.None)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.PackRules(t.Context(), wrong); err != nil {
		t.Fatal(err)
	}
	s := loaded(t, db, nil)
	if !s.Get(policy.ByRecipient, "d1.example").None() {
		t.Fatal("the pack was not used: tests nothing")
	}
	rows, same, err := db.VerifyRules(t.Context(), "+", s)
	if err != nil || same {
		t.Errorf("verified: %v, %v", same, err)
	}
	sameRules(t, db, rows)
	if _, err := byPack(t, db); !errors.Is(err, errNoPack) {
		t.Errorf("it is still there: %v", err)
	}
	if _, same, err := db.VerifyRules(t.Context(), "+", loaded(t, db, nil)); err != nil || !same {
		t.Errorf("verified: %v, %v", same, err)
	}
}

func TestPackIsDue(t *testing.T) {
	db, ctx := openTest(t), t.Context()
	due := func(n int, want bool, when string) {
		t.Helper()
		if got, err := db.PackDue(ctx, n); err != nil || got != want {
			t.Errorf("%s: %v, %v", when, got, err)
		}
	}
	due(0, false, "no rules")
	due(packMany-1, false, "few rules")
	due(packMany, true, "many rules")
	db = packed(t, packMany+5)
	due(packMany, false, "packed just now")
	if err := db.AddRule(ctx, weakened(recipient("one.example", policy.ForcedTLS)), plus); err != nil {
		t.Fatal(err)
	}
	due(packMany, false, "a change")
	mustExec(t, db.w, `UPDATE rule SET note = 'x' WHERE id <= ?`, packOld)
	due(packMany, true, "many changes")
	pack(t, db)
	due(packMany, false, "packed again")
	due(packMany-1, true, "few rules are left")
	few, err := policy.NewSnapshot(0, nil, "+")
	if err != nil {
		t.Fatal(err)
	}
	if err := db.PackRules(ctx, few); err != nil {
		t.Fatal(err)
	}
	due(packMany-1, false, "and the pack is gone")
}

// TestPackedWhileRead: parts of two packs are never taken for one.
func TestPackedWhileRead(t *testing.T) {
	db := packed(t, several)
	other := openAt(t, db.path)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		w := rand.New(rand.NewPCG(2, 2))
		for {
			select {
			case <-stop:
				return
			default:
			}
			// The same rules in another order: another part has each.
			s := loaded(t, other, nil)
			var changes []policy.Change
			for f := range s.All {
				if r := f.Rule(); w.IntN(50) == 0 {
					changes = append(changes, policy.Change{Scope: r.Scope, Pattern: r.Pattern, Rule: r})
				}
			}
			moved, err := s.With(s.Version, changes)
			if err == nil {
				err = other.PackRules(t.Context(), moved)
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	want := slowly(t, db)
	for until := time.Now().Add(time.Second); time.Now().Before(until); {
		if s := loaded(t, db, nil); !s.Equal(want) {
			t.Error("other rules")
			break
		}
	}
	close(stop)
	<-stopped
}

func TestPackedTermsAreReadBack(t *testing.T) {
	w := rand.New(rand.NewPCG(3, 3))
	for range 2000 {
		f := randomRule(w).Found()
		r, err := parsePacked(packedTerms(f.Terms))
		if err != nil {
			t.Fatal(err)
		}
		r.Pattern = f.Pattern
		if got := r.Found(); fmt.Sprintf("%+v", *got.Terms) != fmt.Sprintf("%+v", *f.Terms) {
			t.Fatalf("%+v, want %+v", *got.Terms, *f.Terms)
		}
	}
}

func FuzzReadPart(f *testing.F) {
	w := rand.New(rand.NewPCG(4, 4))
	for n := range 4 {
		var p partWriter
		for range n * n {
			p.add(randomRule(w).Found())
		}
		f.Add(string(p.bytes()), true)
		f.Add(string(p.bytes()[:n]), false)
	}
	f.Add("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", true)
	f.Fuzz(func(t *testing.T, data string, sum bool) {
		if sum { // let it pass by the checksum
			if len(data) >= 4 {
				data = data[:len(data)-4]
			}
			data = checked(data)
		}
		b := policy.NewBuilder("+")
		if err := readPart(data, b, make(map[string]*policy.Kind)); err != nil {
			return
		}
		s, err := b.Snapshot(1)
		if err != nil {
			return
		}
		var p partWriter
		for f := range s.All {
			p.add(f)
		}
		again := policy.NewBuilder("+")
		if err := readPart(string(p.bytes()), again, make(map[string]*policy.Kind)); err != nil {
			t.Fatal(err)
		}
		if back, err := again.Snapshot(1); err != nil || !back.Equal(s) {
			t.Fatalf("%v", err)
		}
	})
}

// checked is data with its checksum.
func checked(data string) string {
	return string(binary.LittleEndian.AppendUint32([]byte(data), crc32.Checksum([]byte(data), castagnoli)))
}
