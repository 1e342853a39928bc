package sql

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/internal/listing"
	"github.com/postseal/postseal/policyd/policy"
)

// walk reads all pages of a list.
func walk[T any](t *testing.T, what string, read func(listing.Page) (listing.Rows[T], error), limit int) (all []T) {
	t.Helper()
	p := listing.Page{Limit: limit}
	for n := 0; ; n++ {
		got, err := read(p)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if len(got.All) > limit {
			t.Fatalf("%s: %d rows on a page of %d", what, len(got.All), limit)
		}
		if got.Partial && (got.Next == nil || len(got.All) == limit) {
			t.Fatalf("%s: a page that is full, or the last one, says that the search goes on", what)
		}
		if !got.Partial && got.Next != nil && len(got.All) != limit {
			t.Fatalf("%s: a page of %d that is not the last, and does not say why", what, len(got.All))
		}
		all = append(all, got.All...)
		if got.Next == nil {
			return all
		}
		key, err := listing.ParseKey(got.Next.String())
		if err != nil || !reflect.DeepEqual(key, got.Next) {
			t.Fatalf("%s: key %q, %v", what, got.Next, err)
		}
		if p.After = key; n > 10_000 {
			t.Fatalf("%s: no end", what)
		}
	}
}

type testMessage struct {
	listing.Message
	senderKey, recipientKey string
}

var listingNow = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// fillMessages puts items with one to three recipients each into the database; many have
// the same time.
func fillMessages(t *testing.T, db *DB, items int) (all []testMessage) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	domains := []string{"clinic.example", "bank.example", "law.example"}
	states := []string{escrow.StateHeld, escrow.StateHeld, escrow.StateRead, escrow.StateExpired, escrow.StateRetracted}
	tx, err := db.w.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	for i := range items {
		id := fmt.Sprintf("item%04d", r.IntN(10)*1000+i)
		sender := fmt.Sprintf("Doc%d@%s", r.IntN(4), domains[r.IntN(3)])
		if r.IntN(10) == 0 {
			sender = ""
		}
		sealed := listingNow.Add(-time.Duration(r.IntN(items/3+1)) * time.Hour)
		queue, held := fmt.Sprintf("4Q%d", i/2), r.IntN(8) == 0
		domain := sender[strings.LastIndexByte(sender, '@')+1:]
		var heldAt any
		if held {
			heldAt = sealed.UnixMicro()
		}
		if _, err := tx.Exec(`INSERT INTO escrow_item (id, sender, sender_key, queue_id, mode, size, created_at, expires_at, sender_domain, held_at)
			VALUES (?, ?, ?, ?, 'sealed', ?, ?, ?, ?, ?)`, id, sender, strings.ToLower(sender), queue, 1000+i, sealed.UnixMicro(), sealed.AddDate(0, 1, 0).UnixMicro(), domain, heldAt); err != nil {
			t.Fatal(err)
		}
		for n := range 1 + r.IntN(3) {
			m := testMessage{Message: listing.Message{
				Item: id, QueueID: queue, Sender: sender, Recipient: fmt.Sprintf("Pat%d.%d@%s", n, r.IntN(5), domains[r.IntN(3)]), Verify: "code", Mode: "sealed",
				State: states[r.IntN(len(states))], Notice: []string{"queued", "sent", "sent", "bounced"}[r.IntN(4)], Size: int64(1000 + i),
				Sealed: sealed, Expires: sealed.AddDate(0, 1, 0), Held: held,
			}, senderKey: strings.ToLower(sender)}
			m.recipientKey = strings.ToLower(m.Recipient)
			if _, err := tx.Exec(`INSERT INTO escrow_pickup (id, item_id, recipient, recipient_key, verify, state, secret_hash, wrap, notice, expires_at, created_at)
				VALUES (?, ?, ?, ?, 'code', ?, x'00', x'000000', ?, ?, ?)`, fmt.Sprintf("%s/%d", id, n), id, m.Recipient, m.recipientKey, m.State, m.Notice, m.Expires.UnixMicro(), sealed.UnixMicro()); err != nil {
				t.Fatal(err)
			}
			all = append(all, m)
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	return all
}

func (m *testMessage) meets(q *listing.MessageQuery) bool {
	domain := func(a string) string { return a[strings.LastIndexByte(a, '@')+1:] }
	switch {
	case q.Item != "" && m.Item != q.Item, q.QueueID != "" && m.QueueID != q.QueueID,
		q.Sender != "" && m.senderKey != strings.Trim(q.Sender, "<>"), q.Recipient != "" && m.recipientKey != q.Recipient,
		q.FromDomain != "" && domain(m.senderKey) != q.FromDomain, q.ToDomain != "" && domain(m.recipientKey) != q.ToDomain,
		!q.Since.IsZero() && m.Sealed.Before(q.Since), !q.Until.IsZero() && !m.Sealed.Before(q.Until):
		return false
	}
	switch q.Show {
	case "":
		return true
	case listing.OnHold:
		return m.Held
	case listing.Bounced:
		return m.Notice == "bounced"
	}
	return m.State == q.Show
}

// messageQueries are all filters by themselves, and many together.
func messageQueries(all []testMessage) (list []listing.MessageQuery) {
	r := rand.New(rand.NewPCG(3, 4))
	for mask := range 1 << 8 {
		m := all[r.IntN(len(all))]
		var q listing.MessageQuery
		if mask&1 != 0 {
			q.Show = []string{escrow.StateHeld, escrow.StateRetracted, listing.OnHold, listing.Bounced}[r.IntN(4)]
		}
		if mask&2 != 0 {
			q.Recipient = m.recipientKey
		}
		if mask&4 != 0 {
			q.Sender = cmp.Or(m.senderKey, "<>")
		}
		if mask&8 != 0 {
			q.ToDomain = m.recipientKey[strings.LastIndexByte(m.recipientKey, '@')+1:]
		}
		if mask&16 != 0 {
			q.FromDomain = "clinic.example"
		}
		if mask&32 != 0 {
			q.Since = listingNow.AddDate(0, 0, -5)
		}
		if mask&64 != 0 {
			q.Until = listingNow.AddDate(0, 0, -1)
		}
		if mask&128 != 0 {
			if r.IntN(2) == 0 {
				q.Item = m.Item
			} else {
				q.QueueID = m.QueueID
			}
		}
		list = append(list, q)
	}
	return list
}

// TestListOfMessages compares each filter, each page length and each window with what
// a walk over everything finds.
func TestListOfMessages(t *testing.T) {
	db := openTest(t)
	all := fillMessages(t, db, 300)
	slices.SortFunc(all, func(a, b testMessage) int {
		return cmp.Or(b.Sealed.Compare(a.Sealed), cmp.Compare(b.Item, a.Item), cmp.Compare(b.recipientKey, a.recipientKey))
	})
	for i, q := range messageQueries(all) {
		db.window = []int{0, 5, 40}[i%3]
		var want []listing.Message
		for _, m := range all {
			if m.meets(&q) {
				want = append(want, m.Message)
			}
		}
		if q.Item != "" {
			slices.SortFunc(want, func(a, b listing.Message) int {
				return cmp.Compare(strings.ToLower(a.Recipient), strings.ToLower(b.Recipient))
			})
		}
		what := fmt.Sprintf("%+v", q)
		got := walk(t, what, func(p listing.Page) (listing.Rows[listing.Message], error) {
			q := q
			q.Page = p
			return db.ListMessages(t.Context(), q)
		}, 1+i%9)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%s: %d rows, want %d", what, len(got), len(want))
		}
	}
}

// TestListStaysWhereItIs holds that who turns pages sees each message that was there once, whatever
// comes meanwhile.
func TestListStaysWhereItIs(t *testing.T) {
	db := openTest(t)
	all := fillMessages(t, db, 50)
	seen := make(map[string]int)
	p := listing.Page{Limit: 4}
	for n := 0; ; n++ {
		got, err := db.ListMessages(t.Context(), listing.MessageQuery{Page: p})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range got.All {
			seen[m.Item+m.Recipient]++
		}
		if got.Next == nil {
			break
		}
		p.After = got.Next
		mustExec(t, db.w, `INSERT INTO escrow_item (id, sender, sender_key, queue_id, mode, size, created_at, expires_at) VALUES (?, '', '', '', 'sealed', 1, ?, 1)`,
			fmt.Sprint("new", n), listingNow.Add(time.Hour).UnixMicro())
		mustExec(t, db.w, `INSERT INTO escrow_pickup (id, item_id, recipient, recipient_key, verify, secret_hash, expires_at, created_at) VALUES (?, ?, 'x', 'x', 'code', x'00', 1, ?)`,
			fmt.Sprint("new", n), fmt.Sprint("new", n), listingNow.Add(time.Hour).UnixMicro())
	}
	for _, m := range all {
		if seen[m.Item+m.Recipient] != 1 {
			t.Errorf("%s for %s was seen %d times", m.Item, m.Recipient, seen[m.Item+m.Recipient])
		}
	}
	if len(seen) != len(all) {
		t.Errorf("%d messages, want %d", len(seen), len(all))
	}
}

func TestAMessageIsOverBeforeTheServerSaysSo(t *testing.T) {
	db := openTest(t)
	fillMessages(t, db, 30)
	got, err := db.ListMessages(t.Context(), listing.MessageQuery{Page: listing.Page{Limit: 100}, Show: escrow.StateHeld, Now: listingNow.AddDate(1, 0, 0)})
	if err != nil || len(got.All) == 0 {
		t.Fatal(got, err)
	}
	for _, m := range got.All {
		if m.State != escrow.StateExpired {
			t.Errorf("%s is %s", m.Item, m.State)
		}
	}
}

func TestForeignKeysOfListsAreRefused(t *testing.T) {
	db := openTest(t)
	for _, k := range []listing.Key{{"x"}, {"1", "2"}, {"x", "y", "z"}, {"1", "2", "3", "4"}} {
		if _, err := db.ListMessages(t.Context(), listing.MessageQuery{Page: listing.Page{After: k, Limit: 5}}); err == nil {
			t.Errorf("messages after %q are listed", k)
		}
	}
	if _, err := db.ListPersons(t.Context(), listing.PersonQuery{Page: listing.Page{After: listing.Key{"a", "b"}, Limit: 5}}); err == nil {
		t.Error("persons after two values are listed")
	}
}

func TestListOfPersons(t *testing.T) {
	db := openTest(t)
	all := fillMessages(t, db, 200)
	want := make(map[string]bool)
	for _, m := range all {
		want[m.recipientKey] = true
	}
	for i := range 40 {
		a := fmt.Sprintf("acc%02d@clinic.example", i)
		mustExec(t, db.w, `INSERT INTO escrow_account (address, tag, handle, password, created_at, changed_at) VALUES (?, ?, ?, x'000000000000000000', 5, 5)`, a, a, []byte(a))
		want[a] = true
		if i%2 == 0 {
			a = fmt.Sprintf("set%02d@bank.example", i)
		}
		mustExec(t, db.w, `INSERT INTO escrow_recipient (address, verify, changed_at) VALUES (?, 'account', 6)`, a)
		want[a] = true
	}
	for _, contains := range []string{"", "bank", "pat1.", "acc1", "%", "nobody"} {
		for _, window := range []int{0, 1, 7} {
			for _, show := range []string{"", listing.WithAccount, listing.WithSetting} {
				db.window = window
				var names []string
				for a := range want {
					account := strings.HasPrefix(a, "acc")
					setting := strings.HasPrefix(a, "set") || account && (a[4]-'0')%2 == 1
					if strings.Contains(a, contains) && (show == "" || show == listing.WithAccount && account || show == listing.WithSetting && setting) {
						names = append(names, a)
					}
				}
				slices.Sort(names)
				what := fmt.Sprintf("%q, window %d, show %q", contains, window, show)
				var got []string
				for _, p := range walk(t, what, func(p listing.Page) (listing.Rows[listing.Person], error) {
					return db.ListPersons(t.Context(), listing.PersonQuery{Page: p, Contains: contains, Show: show, Now: listingNow})
				}, 6) {
					got = append(got, p.Address)
				}
				if !slices.Equal(got, names) {
					t.Fatalf("%s: %d persons %v, want %d", what, len(got), got, len(names))
				}
			}
		}
	}
	db.window = 0
	p, err := db.ListPersons(t.Context(), listing.PersonQuery{Page: listing.Page{Limit: 1}, Exactly: "acc01@clinic.example", Now: listingNow})
	if err != nil || len(p.All) != 1 || !p.All[0].Account || !p.All[0].Password || p.All[0].Verify != "account" || p.All[0].Passphrase {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err = db.ListPersons(t.Context(), listing.PersonQuery{Page: listing.Page{Limit: 1}, Exactly: "nobody@clinic.example"}); err != nil || len(p.All) != 0 {
		t.Errorf("nobody: %+v, %v", p, err)
	}
}

func TestListOfRules(t *testing.T) {
	db := openTest(t)
	var rules []*policy.Rule
	for i := range 120 {
		r := &policy.Rule{Scope: policy.ByRecipient, Pattern: fmt.Sprintf("d%03d.example", i), Requirement: policy.ForcedTLS}
		switch i % 4 {
		case 1:
			r.Requirement = policy.Encryption
		case 2:
			r.Scope, r.Requirement = policy.BySender, policy.EscrowOnly
		case 3:
			r.Until = listingNow.AddDate(10, 0, 0)
		}
		rules = append(rules, r)
	}
	if err := db.ImportRules(t.Context(), rules, false, ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(rules, func(a, b *policy.Rule) int {
		return cmp.Or(cmp.Compare(a.Scope.String(), b.Scope.String()), cmp.Compare(a.Pattern, b.Pattern))
	})
	for i, q := range []listing.RuleQuery{
		{}, {Scope: "sender"}, {Requirement: "encryption"}, {Contains: "d05"}, {Contains: "d05", Scope: "recipient", Requirement: "tls"},
		{Show: listing.Ending}, {Show: listing.Ending, Contains: "7"}, {Show: listing.Weaker}, {Show: listing.Overrides}, {Contains: "_"},
	} {
		for _, db.window = range []int{0, 3, 50} {
			var want, got []string
			for _, r := range rules {
				if (q.Scope == "" || r.Scope.String() == q.Scope) && (q.Requirement == "" || r.Requirement.String() == q.Requirement) &&
					strings.Contains(r.Pattern, q.Contains) && (q.Show == "" || q.Show == listing.Ending && !r.Until.IsZero()) {
					want = append(want, r.String())
				}
			}
			for _, r := range walk(t, fmt.Sprintf("%+v", q), func(p listing.Page) (listing.Rows[policy.Rule], error) {
				q := q
				q.Page = p
				return db.ListRules(t.Context(), q)
			}, 5+i) {
				got = append(got, r.String())
			}
			if !slices.Equal(got, want) {
				t.Errorf("%+v: %v, want %v", q, got, want)
			}
		}
	}
}

func TestListOfMailsAndReplies(t *testing.T) {
	db := openTest(t)
	fillMessages(t, db, 5)
	for i := range 60 {
		kind, pickup := "notice", any(nil)
		if i%3 == 0 {
			kind = "enrolled"
		} else if err := db.w.QueryRow(`SELECT id FROM escrow_pickup ORDER BY id LIMIT 1`).Scan(&pickup); err != nil {
			t.Fatal(err)
		}
		mustExec(t, db.w, `INSERT INTO outbox (id, kind, pickup_id, sealed, attempts, created_at, due_at) VALUES (?, ?, ?, x'000000000000000000', ?, ?, ?)`,
			fmt.Sprint("mail", i), kind, pickup, i%2, i/4, 7)
	}
	for _, tt := range []struct {
		q    listing.MailQuery
		want int
	}{{listing.MailQuery{}, 60}, {listing.MailQuery{Kind: "enrolled"}, 20}, {listing.MailQuery{Failed: true}, 30}, {listing.MailQuery{Kind: "enrolled", Failed: true}, 10}, {listing.MailQuery{Kind: "x"}, 0}} {
		for _, db.window = range []int{0, 4} {
			got := walk(t, fmt.Sprint(tt.q), func(p listing.Page) (listing.Rows[listing.Mail], error) {
				q := tt.q
				q.Page = p
				return db.ListMails(t.Context(), q)
			}, 7)
			if len(got) != tt.want || !slices.IsSortedFunc(got, func(a, b listing.Mail) int { return a.Queued.Compare(b.Queued) }) {
				t.Errorf("%+v: %d mails, want %d: %+v", tt.q, len(got), tt.want, got)
			}
			for _, m := range got {
				if (m.Kind == "notice") != (m.Recipient != "") {
					t.Errorf("%+v", m)
				}
			}
		}
	}
	var pickup string
	if err := db.w.QueryRow(`SELECT id FROM escrow_pickup LIMIT 1`).Scan(&pickup); err != nil {
		t.Fatal(err)
	}
	mustExec(t, db.w, `INSERT INTO escrow_reply (id, pickup_id, state, wrap, sealed, size, attempts, created_at, changed_at, due_at) VALUES
		('r1', ?, 'queued', x'00000000000000000000', x'00', 5, 2, 1, 2, 9), ('r2', ?, 'queued', x'00000000000000000000', x'00', 5, 2, 1, 2, 8), ('r3', ?, 'sent', NULL, x'00', 5, 2, 1, 2, NULL)`, pickup, pickup, pickup)
	replies, err := db.QueuedReplies(t.Context(), 10)
	if err != nil || len(replies) != 2 || replies[0].ID != "r2" || replies[0].Item == "" {
		t.Errorf("%+v, %v", replies, err)
	}
}

func TestListOfAudit(t *testing.T) {
	db := openTest(t)
	var all []audit.Record
	for i := range 200 {
		kind := []string{audit.TryWrong, audit.Sealed, audit.Started, audit.RuleAdded}[i*7%4]
		e := audit.Entry{At: listingNow.Add(time.Duration(i/3-i%2) * time.Minute), Kind: kind, Actor: audit.Actor{Kind: "portal", Name: fmt.Sprint("n", i%3), Client: "192.0.2.7"},
			Item: fmt.Sprint("item", i%5), Sender: fmt.Sprintf("s%d@x.example", i%2), Recipient: fmt.Sprintf("r%d@x.example", i%4)}
		if err := db.Audit(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		all = append(all, audit.Record{Seq: int64(i + 1), Entry: e})
	}
	for i, q := range []listing.AuditQuery{
		{}, {Kinds: []string{audit.Sealed}}, {Kinds: []string{audit.Sealed, audit.Started, audit.RuleAdded}}, {Item: "item3"}, {Recipient: "r1@x.example", Kinds: []string{audit.Sealed, audit.TryWrong}},
		{Item: "item2", Recipient: "r1@x.example"}, {Sender: "s1@x.example"}, {Actor: "n1"}, {Actor: "192.0.2.7"}, {Kinds: []string{audit.Sealed, audit.Started}, Actor: "n2", Sender: "s1@x.example"},
		{Since: listingNow.Add(10 * time.Minute)}, {Until: listingNow.Add(20 * time.Minute)}, {Since: listingNow.Add(10 * time.Minute), Until: listingNow.Add(20 * time.Minute), Kinds: []string{audit.TryWrong, audit.Sealed}},
		{Item: "item1", Since: listingNow.Add(5 * time.Minute), Until: listingNow.Add(30 * time.Minute)}, {Kinds: []string{"none"}},
	} {
		for _, db.window = range []int{0, 2, 30} {
			var want, got []int64
			list := slices.Clone(all)
			slices.SortFunc(list, func(a, b audit.Record) int {
				if q.Item != "" || q.Recipient != "" {
					return cmp.Compare(b.Seq, a.Seq)
				}
				return cmp.Or(b.At.Compare(a.At), cmp.Compare(b.Seq, a.Seq))
			})
			for _, r := range list {
				if (q.Kinds == nil || slices.Contains(q.Kinds, r.Kind)) && (q.Item == "" || r.Item == q.Item) && (q.Sender == "" || r.Sender == q.Sender) &&
					(q.Recipient == "" || r.Recipient == q.Recipient) && (q.Actor == "" || r.Actor.Name == q.Actor || r.Actor.Client == q.Actor) &&
					(q.Since.IsZero() || !r.At.Before(q.Since)) && (q.Until.IsZero() || r.At.Before(q.Until)) {
					want = append(want, r.Seq)
				}
			}
			what := fmt.Sprintf("%+v, window %d", q, db.window)
			for _, r := range walk(t, what, func(p listing.Page) (listing.Rows[audit.Record], error) {
				q := q
				q.Page = p
				return db.ListAudit(t.Context(), q)
			}, 4+i) {
				got = append(got, r.Seq)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: %v, want %v", what, got, want)
			}
		}
	}
}
