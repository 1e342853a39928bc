package sql

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/internal/listing"
)

// cpu is the processor time of this process so far.
func cpu() time.Duration {
	var r syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// fillMany puts n messages, rules and entries of the audit log into the database.
func fillMany(t testing.TB, db *DB, messages, rules int) {
	t.Helper()
	count := func(n int) string {
		return fmt.Sprintf(`WITH RECURSIVE c (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM c WHERE i < %d) `, n-1)
	}
	for _, q := range []string{
		count(messages) + `INSERT INTO escrow_item (id, sender, sender_key, queue_id, mode, size, created_at, expires_at, sender_domain)
			SELECT printf('item%07d', i), printf('d%d@clinic.example', i % 50), printf('d%d@clinic.example', i % 50), printf('4Q%d', i), 'sealed', 1000, 1700000000000000 + i * 1000000, 2000000000000000, 'clinic.example' FROM c`,
		count(messages) + `INSERT INTO escrow_pickup (id, item_id, recipient, recipient_key, verify, state, secret_hash, expires_at, created_at)
			SELECT printf('p%07d', i), printf('item%07d', i), printf('r%d@x%d.example', i % 30000, i % 7), printf('r%d@x%d.example', i % 30000, i % 7), 'code',
			CASE i % 4 WHEN 0 THEN 'held' WHEN 1 THEN 'read' ELSE 'expired' END, x'00', 2000000000000000, 1700000000000000 + i * 1000000 FROM c`,
		count(messages) + `INSERT INTO audit (seq, format, at, kind, actor, name, client, item, sender, recipient, details, hash)
			SELECT i + 1, 1, 1700000000000000 + i * 1000000, CASE WHEN i % 5000 = 1 THEN 'rule-added' ELSE 'decision' END, 'postfix', 'policy', '', printf('item%07d', i), 'd@clinic.example', printf('r%d@x.example', i % 1000), '{}', zeroblob(32) FROM c`,
		count(rules) + `INSERT INTO rule (scope, pattern, requirement, created_at, weaken)
			SELECT 'recipient', printf('d%07d.example', i), CASE WHEN i % 100000 = 50000 THEN 'escrow' ELSE 'encryption' END, 1, 0 FROM c`,
	} {
		mustExec(t, db.w, q)
	}
}

// pagesOf are lists with hits that lie thick, thin or nowhere.
func pagesOf(db *DB, t testing.TB) map[string]func() (rows int, partial bool) {
	ctx, p := t.Context(), listing.Page{Limit: 50}
	message := func(q listing.MessageQuery) func() (int, bool) {
		return func() (int, bool) {
			q.Page = p
			r, err := db.ListMessages(ctx, q)
			if err != nil {
				t.Fatal(err)
			}
			return len(r.All), r.Partial
		}
	}
	rule := func(q listing.RuleQuery) func() (int, bool) {
		return func() (int, bool) {
			q.Page = p
			r, err := db.ListRules(ctx, q)
			if err != nil {
				t.Fatal(err)
			}
			return len(r.All), r.Partial
		}
	}
	log := func(q listing.AuditQuery) func() (int, bool) {
		return func() (int, bool) {
			q.Page = p
			r, err := db.ListAudit(ctx, q)
			if err != nil {
				t.Fatal(err)
			}
			return len(r.All), r.Partial
		}
	}
	person := func(q listing.PersonQuery) func() (int, bool) {
		return func() (int, bool) {
			q.Page = p
			r, err := db.ListPersons(ctx, q)
			if err != nil {
				t.Fatal(err)
			}
			return len(r.All), r.Partial
		}
	}
	return map[string]func() (int, bool){
		"messages": message(listing.MessageQuery{}), "held messages": message(listing.MessageQuery{Show: escrow.StateHeld}),
		"messages of a sender": message(listing.MessageQuery{Sender: "d7@clinic.example"}), "messages to a domain": message(listing.MessageQuery{ToDomain: "x3.example"}),
		"messages of a domain that were taken back": message(listing.MessageQuery{FromDomain: "clinic.example", Show: escrow.StateRetracted}),
		"messages in the middle":                    message(listing.MessageQuery{Until: time.UnixMicro(1700000000000000 + 50_000*1000000)}),
		"recipients":                                person(listing.PersonQuery{}), "recipients with a word": person(listing.PersonQuery{Contains: "r29999"}), "nobody": person(listing.PersonQuery{Contains: "nobody"}),
		"rules": rule(listing.RuleQuery{}), "rules with a word": rule(listing.RuleQuery{Contains: "d09999"}), "weaker rules": rule(listing.RuleQuery{Show: listing.Weaker}), "rare rules": rule(listing.RuleQuery{Requirement: "escrow"}),
		"audit": log(listing.AuditQuery{}), "rare entries": log(listing.AuditQuery{Kinds: []string{audit.RuleAdded, audit.KeyChanged}}), "entries by nobody": log(listing.AuditQuery{Actor: "nobody"}),
	}
}

// TestPagesCostTheSameHoweverMuchThereIs has 100,000 messages and entries of the audit log, and a
// million rules, against a fifth of it: each page has what it should, or says that it has not
// looked through everything. What the processor takes is told and fails nothing; that only an index is walked
// is what TestListsAreReadByIndex holds.
func TestPagesCostTheSameHoweverMuchThereIs(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped in short mode: fills large tables")
	}
	few, many := openTest(t), openTest(t)
	fillMany(t, few, windowRows, windowIndex)
	fillMany(t, many, 100_000, 1_000_000)
	cheapest := func(read func() (int, bool)) time.Duration {
		best := time.Hour
		for range 3 {
			begin := cpu()
			read()
			best = min(best, cpu()-begin)
		}
		return best
	}
	base := pagesOf(few, t)
	for name, read := range pagesOf(many, t) {
		rows, partial := read()
		short := map[string]bool{"messages of a domain that were taken back": true, "nobody": true, "weaker rules": true, "rare rules": true, "rare entries": true, "entries by nobody": true, "recipients with a word": true, "rules with a word": true}[name]
		if !short && rows != 50 {
			t.Errorf("%s: %d rows", name, rows)
		}
		if bounded := short && name != "weaker rules" && name != "rare entries"; partial != bounded { // those two have an index of their own
			t.Errorf("%s: partial is %v", name, partial)
		}
		t.Logf("%-45s %2d rows, partial %v, %v, with a fifth %v", name, rows, partial, cheapest(read), cheapest(base[name]))
	}
	begin := cpu()
	s, err := many.Summary(t.Context(), time.UnixMicro(1))
	if err != nil || s.States[escrow.StateExpired].N != 50_000 {
		t.Errorf("%+v, %v", s, err)
	}
	t.Logf("the overview: %v", cpu()-begin)
}
