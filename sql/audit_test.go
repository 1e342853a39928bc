package sql

import (
	"bytes"
	"context"
	"crypto/ed25519"
	dbsql "database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow/submit"
	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/policyd/policy"
)

var auditSigner = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, ed25519.SeedSize))

func auditPublic() ed25519.PublicKey { return auditSigner.Public().(ed25519.PublicKey) }

// auditLog fills a log of n entries, an hour between them.
func auditLog(t testing.TB, db *DB, n int) {
	t.Helper()
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range n {
		err := db.Audit(audit.With(t.Context(), audit.Actor{Kind: audit.ActorPortal, Client: "192.0.2.7"}), audit.Entry{
			At: begin.Add(time.Duration(i) * time.Hour), Kind: audit.TryWrong, Item: fmt.Sprint("item", i%3), Sender: "doc@own.example",
			Recipient: fmt.Sprintf("pat%d@old.example", i%2), Details: audit.Details{"how": "code"},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func verified(t testing.TB, db *DB, more ...audit.Checkpoint) audit.Report {
	t.Helper()
	r, err := db.VerifyAudit(t.Context(), auditPublic(), more)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// tamper changes the database file as somebody who has taken the triggers away.
func tamper(t *testing.T, db *DB, queries ...string) {
	t.Helper()
	for _, q := range append([]string{`DROP TRIGGER audit_unchanged`, `DROP TRIGGER audit_kept`}, queries...) {
		mustExec(t, db.w, q)
	}
}

// TestTamperingShows falsifies the log in the database file in every way, and wants to
// be told where.
func TestTamperingShows(t *testing.T) {
	for _, c := range []struct {
		name    string
		queries []string
		at      int64
		why     string
	}{
		{"nothing", nil, 0, ""},
		{"an address changed", []string{`UPDATE audit SET recipient = 'mo@old.example' WHERE seq = 7`}, 7, "does not go with its hash"},
		{"an actor changed", []string{`UPDATE audit SET client = '192.0.2.8' WHERE seq = 7`}, 7, "does not go with its hash"},
		{"a detail changed", []string{`UPDATE audit SET details = '{"how":"passphrase"}' WHERE seq = 7`}, 7, "does not go with its hash"},
		{"details that are none", []string{`UPDATE audit SET details = 'x' WHERE seq = 7`}, 7, "does not go with its hash"},
		{"a time changed", []string{`UPDATE audit SET at = at + 1 WHERE seq = 7`}, 7, "does not go with its hash"},
		{"a hash changed", []string{`UPDATE audit SET hash = zeroblob(32) WHERE seq = 7`}, 7, "does not go with its hash"},
		{"one deleted", []string{`DELETE FROM audit WHERE seq = 7`}, 7, "entry 7 is missing"},
		{"the first deleted", []string{`DELETE FROM audit WHERE seq <= 3`}, 1, "entries 1 to 3 are missing"},
		{"one deleted, the gap closed", []string{`DELETE FROM audit WHERE seq = 7`, `UPDATE audit SET seq = seq - 1 WHERE seq > 7`}, 7, "does not go with its hash"},
		{"two exchanged", []string{`UPDATE audit SET seq = 99 WHERE seq = 7`, `UPDATE audit SET seq = 7 WHERE seq = 8`, `UPDATE audit SET seq = 8 WHERE seq = 99`}, 7, "does not go with its hash"},
		{"one put in", []string{`UPDATE audit SET seq = seq + 100 WHERE seq > 7`, `INSERT INTO audit SELECT 8, format, at, kind, actor, name, client, item, sender, recipient, details, hash FROM audit WHERE seq = 7`,
			`UPDATE audit SET seq = seq - 99 WHERE seq > 100`}, 8, "was put in"},
		{"cut at the end", []string{`DELETE FROM audit WHERE seq > 15`}, 20, "cut at its end"},
		{"all deleted", []string{`DELETE FROM audit`}, 20, "cut at its end"},
		{"cut at the end, with its checkpoint", []string{`DELETE FROM audit WHERE seq > 15`, `DELETE FROM audit_checkpoint`}, 20, "cut at its end"}, // by the copy
		{"a checkpoint moved", []string{`DELETE FROM audit WHERE seq > 15`, `UPDATE audit_checkpoint SET seq = 15, hash = (SELECT hash FROM audit WHERE seq = 15)`}, 15, "was not signed"},
		{"a checkpoint made a cut", []string{`UPDATE audit_checkpoint SET kind = 'cut'`, `DELETE FROM audit WHERE seq <= 20`}, 20, "was not signed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := openTest(t)
			auditLog(t, db, 20)
			copied, err := db.AuditCheckpoint(t.Context(), audit.Daily, auditSigner)
			if err != nil {
				t.Fatal(err)
			}
			auditLog(t, db, 5)
			if c.queries != nil {
				tamper(t, db, c.queries...)
			}
			r := verified(t, db, copied)
			if c.at == 0 {
				if !r.OK() || r.Entries != 25 || r.Checkpoints == 0 {
					t.Errorf("%+v", r)
				}
				return
			}
			if !slices.ContainsFunc(r.Problems, func(p audit.Problem) bool { return p.Seq == c.at && strings.Contains(p.Why, c.why) }) {
				t.Errorf("%+v, want %d: %s", r.Problems, c.at, c.why)
			}
		})
	}
}

// TestTheLogIsOnlyAppendedTo holds that no mistake of ours changes an entry.
func TestTheLogIsOnlyAppendedTo(t *testing.T) {
	db := openTest(t)
	auditLog(t, db, 3)
	for _, q := range []string{`UPDATE audit SET recipient = 'x'`, `DELETE FROM audit WHERE seq = 1`, `DELETE FROM audit`} {
		if _, err := db.w.Exec(q); err == nil || !strings.Contains(err.Error(), "only appended to") {
			t.Errorf("%s: %v", q, err)
		}
	}
	if r := verified(t, db); !r.OK() || r.Entries != 3 {
		t.Errorf("%+v", r)
	}
}

// TestNothingHappensUnlogged holds that a change whose entry can't be written is none,
// and that an entry of a change that fails is none.
func TestNothingHappensUnlogged(t *testing.T) {
	db := openTest(t)
	rule := &policy.Rule{Scope: policy.ByRecipient, Pattern: "bank.example", Requirement: policy.ForcedTLS}
	boom := errors.New("boom")
	err := db.write(t.Context(), func(tx *dbsql.Tx) error {
		return errors.Join(appendAudit(t.Context(), tx, time.Now(), audit.Entry{Kind: audit.Read}), boom)
	})
	if list, err2 := db.AuditEntries(t.Context(), audit.Filter{}); !errors.Is(err, boom) || err2 != nil || len(list) != 0 {
		t.Errorf("%v, %v, %+v", err, err2, list)
	}
	mustExec(t, db.w, `ALTER TABLE audit RENAME TO elsewhere`)
	if err := db.AddRule(t.Context(), rule, ChangeOptions{}); err == nil {
		t.Error("a rule was added unlogged")
	}
	if err := db.AddAPIKey(t.Context(), submit.Key{ID: "k", Hash: []byte{1}}); err == nil {
		t.Error("an API key was added unlogged")
	}
	rules, _, err := db.Rules(t.Context())
	keys, err2 := db.APIKeys(t.Context())
	if err != nil || err2 != nil || len(rules) != 0 || len(keys) != 0 {
		t.Errorf("%d rules, %d keys, %v, %v", len(rules), len(keys), err, err2)
	}
	mustExec(t, db.w, `ALTER TABLE elsewhere RENAME TO audit`)
	if err := db.AddRule(t.Context(), rule, ChangeOptions{}); err != nil {
		t.Error(err)
	}
}

func TestRulesAreLoggedBeforeAndAfter(t *testing.T) {
	db := openTest(t)
	ctx := audit.With(t.Context(), audit.Actor{Kind: audit.ActorCommand, Name: "alice"})
	rule := func(r policy.Requirement, note string) *policy.Rule {
		return &policy.Rule{Scope: policy.ByRecipient, Pattern: "bank.example", Requirement: r, Note: note}
	}
	for _, err := range []error{
		db.AddRule(ctx, rule(policy.Encryption, "contract"), ChangeOptions{}),
		db.SetRule(ctx, rule(policy.EscrowOnly, ""), ChangeOptions{}),
		db.SetRule(ctx, rule(policy.EscrowOnly, ""), ChangeOptions{}), // as it is
		db.ImportRules(ctx, []*policy.Rule{rule(policy.ForcedTLS, "")}, true, ChangeOptions{}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if ok, err := db.RemoveRule(ctx, policy.ByRecipient, "bank.example", ChangeOptions{}); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if ok, err := db.RemoveRule(ctx, policy.ByRecipient, "bank.example", ChangeOptions{}); ok || err != nil {
		t.Fatal(ok, err)
	}
	list, err := db.AuditEntries(t.Context(), audit.Filter{Oldest: true})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range list {
		if r.Actor.Name != "alice" || r.Details["pattern"] != "bank.example" || r.Details["scope"] != "recipient" {
			t.Errorf("%+v", r)
		}
		got = append(got, fmt.Sprintf("%s %s>%s", r.Kind, r.Details["before"], r.Details["after"]))
	}
	want := []string{
		"rule-added >encryption note=contract", "rule-changed encryption note=contract>escrow",
		"rule-changed escrow>tls", "rule-removed tls>",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// TestAHugeImportIsOneEntry keeps the log from growing by a million at a time.
func TestAHugeImportIsOneEntry(t *testing.T) {
	db := openTest(t)
	var rules []*policy.Rule
	for i := range rulesEach + 1 {
		rules = append(rules, &policy.Rule{Scope: policy.ByRecipient, Pattern: fmt.Sprintf("d%d.example", i), Requirement: policy.Encryption})
	}
	if err := db.ImportRules(t.Context(), rules, false, ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	list, err := db.AuditEntries(t.Context(), audit.Filter{})
	if err != nil || len(list) != 1 || list[0].Kind != audit.RulesImported || list[0].Details["added"] != "10001" || len(list[0].Details["sha256"]) != 64 {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestAuditEntriesAreFilteredAndPaged(t *testing.T) {
	db := openTest(t)
	auditLog(t, db, 20)
	if err := db.Audit(audit.With(t.Context(), audit.Actor{Kind: audit.ActorCommand, Name: "alice"}), audit.Entry{Kind: audit.Started, At: time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)}); err != nil {
		t.Fatal(err)
	}
	seqs := func(f audit.Filter) (list []int64) {
		t.Helper()
		all, err := db.AuditEntries(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range all {
			list = append(list, r.Seq)
		}
		return list
	}
	for _, c := range []struct {
		f    audit.Filter
		want []int64
	}{
		{audit.Filter{Limit: 2}, []int64{21, 20}},
		{audit.Filter{Limit: 2, Before: 20}, []int64{19, 18}},
		{audit.Filter{Limit: 2, After: 19, Oldest: true}, []int64{20, 21}},
		{audit.Filter{Kinds: []string{audit.Started, audit.Read}}, []int64{21}},
		{audit.Filter{Item: "item1", Limit: 3}, []int64{20, 17, 14}},
		{audit.Filter{Item: "item1", Recipient: "pat1@old.example"}, []int64{20, 14, 8, 2}},
		{audit.Filter{Sender: "doc@own.example", Limit: 1}, []int64{20}},
		{audit.Filter{Sender: "no@own.example"}, nil},
		{audit.Filter{Actor: "alice"}, []int64{21}},
		{audit.Filter{Actor: audit.ActorCommand}, []int64{21}},
		{audit.Filter{Actor: "192.0.2.7", Limit: 1}, []int64{20}},
		{audit.Filter{Since: time.Date(2026, 1, 1, 18, 0, 0, 0, time.UTC), Until: time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC)}, []int64{20, 19}},
	} {
		if got := seqs(c.f); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %v, want %v", c.f, got, c.want)
		}
	}
}

// TestPruningKeepsTheRestVerifiable prunes in small steps, is told that nothing else may
// go, and prunes all but the newest.
func TestPruningKeepsTheRestVerifiable(t *testing.T) {
	db := openTest(t)
	n := pruneMost + 20
	entries := make([]audit.Entry, n)
	begin := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range entries {
		entries[i] = audit.Entry{Kind: audit.Read, At: begin.Add(time.Duration(i) * time.Minute)}
	}
	if err := db.Audit(t.Context(), entries...); err != nil {
		t.Fatal(err)
	}
	if _, err := db.AuditCheckpoint(t.Context(), audit.Daily, auditSigner); err != nil {
		t.Fatal(err)
	}
	gone, err := db.PruneAudit(t.Context(), begin.Add(time.Duration(n-10)*time.Minute), auditSigner)
	if err != nil || gone != int64(n-10) {
		t.Fatal(gone, err)
	}
	r := verified(t, db)
	if !r.OK() || r.Entries != 11 || r.First != int64(n-9) || r.Checkpoints != 2 {
		t.Errorf("%+v", r)
	}
	last, err := db.AuditEntries(t.Context(), audit.Filter{Limit: 1})
	if err != nil || last[0].Kind != audit.Pruned || last[0].Details["entries"] != fmt.Sprint(n-10) {
		t.Errorf("%+v, %v", last, err)
	}
	if again, err := db.PruneAudit(t.Context(), begin.Add(time.Duration(n-10)*time.Minute), auditSigner); again != 0 || err != nil {
		t.Error(again, err)
	}
	// All of it is old: the newest stays, and the chain goes on.
	if _, err := db.PruneAudit(t.Context(), time.Now().Add(time.Hour), auditSigner); err != nil {
		t.Fatal(err)
	}
	auditLog(t, db, 2)
	if r = verified(t, db); !r.OK() || r.Entries != 4 || r.Checkpoints != 2 {
		t.Errorf("%+v", r)
	}
	// Who deletes more than that is found.
	tamper(t, db, fmt.Sprintf(`DELETE FROM audit WHERE seq = %d`, r.First))
	if r := verified(t, db); r.OK() {
		t.Errorf("%+v", r)
	}
}

// TestAnOldEntryBehindAYoungOneStays: a clock that was wrong must not open a hole.
func TestAnOldEntryBehindAYoungOneStays(t *testing.T) {
	db := openTest(t)
	at := func(year int) audit.Entry {
		return audit.Entry{Kind: audit.Read, At: time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)}
	}
	if err := db.Audit(t.Context(), at(2001), at(2030), at(2002), at(2030)); err != nil {
		t.Fatal(err)
	}
	if n, err := db.PruneAudit(t.Context(), time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), auditSigner); n != 1 || err != nil {
		t.Error(n, err)
	}
	if r := verified(t, db); !r.OK() || r.First != 2 {
		t.Errorf("%+v", r)
	}
}

// TestConcurrentEntriesMakeOneChain appends from two connections of two opened
// databases, as serve and a command do.
func TestConcurrentEntriesMakeOneChain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.db")
	done := make(chan error)
	for range 2 {
		db := openAt(t, path)
		go func() {
			var err error
			for range 50 {
				err = errors.Join(err, db.Audit(context.Background(), audit.Entry{Kind: audit.Read}, audit.Entry{Kind: audit.Opened}))
			}
			done <- err
		}()
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if r := verified(t, openAt(t, path)); !r.OK() || r.Entries != 200 {
		t.Errorf("%+v", r)
	}
}

// BenchmarkVerifyAudit verifies a million entries in a database (POSTSEAL_BENCH_ENTRIES).
func BenchmarkVerifyAudit(b *testing.B) {
	n := 100_000
	if s := os.Getenv("POSTSEAL_BENCH_ENTRIES"); s != "" {
		fmt.Sscan(s, &n)
	}
	db := openTest(b)
	for i := 0; i < n; i += 10_000 {
		entries := make([]audit.Entry, min(10_000, n-i))
		for j := range entries {
			entries[j] = audit.Entry{
				Kind: audit.Sealed, Item: "abcdefghijklmnopqrstuvwxyz", Sender: "doctor@clinic.example", Recipient: "patient@example.org",
				Details: audit.Details{"mode": "recoverable", "verify": "account", "size": "123456", "queue_id": "4Q1RsT2Uv3", "until": "2026-12-27T21:00:00Z"},
			}
		}
		if err := db.Audit(b.Context(), entries...); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if r := verified(b, db); !r.OK() || r.Entries != int64(n) {
			b.Fatalf("%+v", r)
		}
	}
	b.ReportMetric(float64(b.N)*float64(n)/b.Elapsed().Seconds(), "entries/s")
}
