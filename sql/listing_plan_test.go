package sql

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/internal/listing"
	"github.com/postseal/postseal/tlsmap/probe"
)

// plan returns how SQLite carries a query out, a line a step.
func plan(t *testing.T, db *DB, query string, args []any) []string {
	t.Helper()
	rows, err := db.r.Query(`EXPLAIN QUERY PLAN `+query, args...)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	var steps []string
	for rows.Next() {
		var id, parent, unused int
		var step string
		if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
			t.Fatal(err)
		}
		steps = append(steps, step)
	}
	return steps
}

// whole is a table that is read as a whole.
var whole = regexp.MustCompile(`^SCAN \S+( USING COVERING INDEX \S+)?$`)

// TestListsAreReadByIndex looks at the plan of each query of each list, on the first page and
// on a further one: the rows come in the order of an index, so that nothing is sorted, and the
// page ends when it is full, or at the end of what it may look at.
func TestListsAreReadByIndex(t *testing.T) {
	db := openTest(t)
	all := fillMessages(t, db, 40)
	check := func(what, index string, s *scan, columns string, after listing.Key) {
		t.Helper()
		for _, p := range []listing.Page{{Limit: 50}, {Limit: 50, After: after}} {
			end, rows, err := s.queries(columns, p)
			if err != nil {
				t.Fatal(err)
			}
			endQuery, endArgs := end()
			if !strings.HasSuffix(endQuery, fmt.Sprintf("LIMIT 1 OFFSET %d", s.window-1)) || s.window > windowIndex {
				t.Errorf("%s: the search has no end: %s", what, endQuery)
			}
			values, err := s.values(after)
			if err != nil {
				t.Fatal(err)
			}
			rowsQuery, rowsArgs := rows(values)
			if !strings.HasSuffix(rowsQuery, "LIMIT 51") {
				t.Errorf("%s: the page has no end: %s", what, rowsQuery)
			}
			for query, args := range map[string][]any{endQuery: endArgs, rowsQuery: rowsArgs} {
				steps := strings.Join(plan(t, db, query, args), "\n")
				if strings.Contains(steps, "TEMP B-TREE") || strings.Contains(steps, "AUTOMATIC") || !strings.Contains(steps, index) {
					t.Errorf("%s (wants %s): %s\n%s", what, index, query, steps)
				}
				for n, step := range strings.Split(steps, "\n") {
					if n > 0 && strings.HasPrefix(step, "SCAN") || n == 0 && step == "SCAN "+strings.Fields(s.from)[0] {
						t.Errorf("%s: reads a table as a whole: %s", what, step)
					}
				}
			}
		}
	}

	messages := []string{"1", "item1", "a@b.example"}
	for _, tt := range []struct {
		q     listing.MessageQuery
		index string
		key   listing.Key
	}{
		{listing.MessageQuery{}, "escrow_pickup_newest", messages},
		{listing.MessageQuery{Since: listingNow, Until: listingNow}, "escrow_pickup_newest (created_at>", messages},
		{listing.MessageQuery{Item: "x"}, "(item_id=?", listing.Key{"a@b.example"}},
		{listing.MessageQuery{QueueID: "x"}, "escrow_item_queue (queue_id=?", messages},
		{listing.MessageQuery{Sender: "x"}, "escrow_item_sender (sender_key=?", messages},
		{listing.MessageQuery{FromDomain: "x"}, "escrow_item_sender_domain (sender_domain=?", messages},
		{listing.MessageQuery{ToDomain: "x"}, "escrow_pickup_domain (<expr>=?", messages},
		{listing.MessageQuery{Recipient: "x"}, "escrow_pickup_inbox (recipient_key=?", messages},
		{listing.MessageQuery{Show: escrow.StateRetracted}, "escrow_pickup_state (state=?", messages},
		{listing.MessageQuery{Show: listing.OnHold}, "escrow_item_held", messages},
		{listing.MessageQuery{Show: listing.Bounced}, "escrow_pickup_bounced", messages},
	} {
		check(fmt.Sprintf("messages %+v", tt.q), tt.index, messageScan(&tt.q), messageColumns, tt.key)
	}
	for _, q := range messageQueries(all) { // together
		s := messageScan(&q)
		key := listing.Key(messages)
		if len(s.key) == 1 {
			key = key[2:]
		}
		check(fmt.Sprintf("messages %+v", q), "INDEX", s, messageColumns, key)
	}

	for _, tt := range []struct {
		q     listing.RuleQuery
		index string
	}{
		{listing.RuleQuery{}, "sqlite_autoindex_rule"}, {listing.RuleQuery{Scope: "sender"}, "(scope=?"}, {listing.RuleQuery{Contains: "x", Requirement: "tls"}, "sqlite_autoindex_rule"},
		{listing.RuleQuery{Show: listing.Weaker}, "rule_weaker"}, {listing.RuleQuery{Show: listing.Overrides, Scope: "sender"}, "rule_override"}, {listing.RuleQuery{Show: listing.Ending, Contains: "x"}, "rule_ending"},
	} {
		check(fmt.Sprintf("rules %+v", tt.q), tt.index, ruleScan(&tt.q), ruleColumns, listing.Key{"sender", "x"})
	}

	for _, q := range []listing.MailQuery{{}, {Kind: "notice", Failed: true}} {
		check(fmt.Sprintf("mails %+v", q), "outbox_created", mailScan(&q), `o.id`, listing.Key{"1", "x"})
	}

	for _, tt := range []struct {
		q     listing.AuditQuery
		kind  string
		index string
	}{
		{listing.AuditQuery{}, "", "audit_at"}, {listing.AuditQuery{Since: listingNow, Until: listingNow, Actor: "x"}, "", "audit_at (at>"},
		{listing.AuditQuery{Since: listingNow, Sender: "x"}, audit.Sealed, "audit_kind (kind=?"},
		{listing.AuditQuery{Item: "x", Kinds: []string{"a", "b"}, Since: listingNow}, "", "audit_item (item=?"}, {listing.AuditQuery{Recipient: "x"}, "", "audit_recipient (recipient=?"},
	} {
		s := auditScan(&tt.q, tt.kind)
		check(fmt.Sprintf("audit %+v %s", tt.q, tt.kind), tt.index, s, auditColumns, listing.Key{"1", "2"}[2-len(s.key):])
	}
}

// TestOtherQueriesKeepTheirIndex holds that the indexes of the lists mislead no query that was
// there before.
func TestOtherQueriesKeepTheirIndex(t *testing.T) {
	db := openTest(t)
	access, args := auditQuery(&audit.Filter{Kinds: []string{audit.Opened, audit.Read}, Item: "x", Recipient: "y", Since: listingNow, Limit: 100})
	for _, k := range []probe.Kind{probe.TLSLost, probe.DANELost, probe.STSLost} {
		if !strings.Contains(open, "'"+string(k)+"'") {
			t.Errorf("an alarm of kind %s is never open", k)
		}
	}
	for _, tt := range []struct {
		query string
		args  []any
		want  string
	}{
		{access, args, "audit_recipient"},
		{`SELECT EXISTS (SELECT 1 FROM escrow_pickup WHERE wrap IS NOT NULL AND expires_at <= ?)`, []any{1}, "escrow_pickup_due"},
		{`SELECT min(expires_at) FROM escrow_pickup WHERE wrap IS NOT NULL`, nil, "escrow_pickup_due"},
		{`SELECT id FROM escrow_pickup WHERE wrap IS NOT NULL AND expires_at <= ?`, []any{1}, "escrow_pickup_due"},
		{`SELECT id FROM escrow_pickup WHERE wrap IS NOT NULL AND item_id = ? AND recipient_key = ?`, []any{"a", "b"}, "(item_id=? AND recipient_key=?)"},
		{selectPickup + `WHERE p.item_id = ? AND p.secret_hash = ?`, []any{"a", "b"}, "(item_id=?)"},
		{`SELECT id FROM outbox WHERE due_at <= ? ORDER BY due_at, id LIMIT 5`, []any{1}, "outbox_due"},
		{`SELECT min(created_at) FROM outbox`, nil, "outbox_created"},
		{`SELECT ` + eventColumns + ` FROM posture_event e WHERE ` + open + ` ORDER BY id DESC LIMIT 5`, nil, "posture_event_lost"},
		{`SELECT ` + eventColumns + ` FROM posture_event WHERE alarm = 1 AND told_at IS NULL AND mailed_at IS NULL ORDER BY id LIMIT 5`, nil, "posture_event_untold"},
	} {
		if steps := strings.Join(plan(t, db, tt.query, tt.args), "\n"); !strings.Contains(steps, tt.want) {
			t.Errorf("%s:\n%s\nwant %s", tt.query, steps, tt.want)
		}
	}
}

// TestTheOverviewReadsIndexes holds that no figure of the overview reads a table as a whole but
// for those that are small.
func TestTheOverviewReadsIndexes(t *testing.T) {
	db := openTest(t)
	for _, q := range []string{
		`SELECT 1 FROM escrow_pickup WHERE state = 'held' LIMIT 9`, `SELECT 1 FROM escrow_item WHERE held_at IS NOT NULL LIMIT 9`,
		`SELECT 1 FROM escrow_pickup WHERE notice = 'bounced' AND state = 'held' LIMIT 9`,
		`SELECT 1 FROM escrow_pickup WHERE wrap IS NOT NULL AND expires_at <= 5 AND state = 'held' LIMIT 9`,
		`SELECT 1 FROM escrow_reply WHERE state = 'queued' LIMIT 9`,
	} {
		if steps := strings.Join(plan(t, db, q, nil), "\n"); !strings.Contains(steps, "INDEX") {
			t.Errorf("%s: %s", q, steps)
		}
	}
	steps := plan(t, db, written, []any{"", 5, 5, "", "", 5})
	for _, s := range steps {
		if whole.MatchString(s) && !strings.Contains(s, "person") {
			t.Errorf("recipients: %s in\n%s", s, strings.Join(steps, "\n"))
		}
	}
}
