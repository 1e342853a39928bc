package adminpages

import (
	"context"
	"crypto/sha256"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/seal"
	"github.com/postseal/postseal/internal/adminpage"
	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/internal/listing"
	"github.com/postseal/postseal/policyd/policy"
)

var testNow = time.Date(2026, 11, 27, 12, 30, 0, 0, time.UTC)

// testID is the id of the nth message.
func testID(n int) string {
	sum := sha256.Sum256([]byte{byte(n)})
	return seal.EncodeTag(sum[:16])
}

// fakeStore answers with what it has, and remembers what it was asked. What it has on further
// pages is the same.
type fakeStore struct {
	summary  listing.Summary
	messages []listing.Message
	item     *listing.Item
	persons  []listing.Person
	rules    []policy.Rule
	mails    []listing.Mail
	replies  []listing.Reply
	audit    []audit.Record
	next     listing.Key
	partial  bool
	err      error
	asked    []any
}

func rows[T any](s *fakeStore, p listing.Page, all []T) (listing.Rows[T], error) {
	if s.err != nil {
		return listing.Rows[T]{}, s.err
	}
	return listing.Rows[T]{All: all[:min(len(all), p.Limit)], Next: s.next, Partial: s.partial}, nil
}

func (s *fakeStore) Summary(context.Context, time.Time) (listing.Summary, error) {
	return s.summary, s.err
}

func (s *fakeStore) ListMessages(_ context.Context, q listing.MessageQuery) (listing.Rows[listing.Message], error) {
	s.asked = append(s.asked, q)
	return rows(s, q.Page, s.messages)
}

func (s *fakeStore) ItemOf(_ context.Context, id string) (listing.Item, error) {
	if s.item == nil || s.item.ID != id {
		return listing.Item{}, escrow.ErrUnknown
	}
	return *s.item, s.err
}

func (s *fakeStore) ListPersons(_ context.Context, q listing.PersonQuery) (listing.Rows[listing.Person], error) {
	s.asked = append(s.asked, q)
	if q.Exactly == "" {
		return rows(s, q.Page, s.persons)
	}
	i := slices.IndexFunc(s.persons, func(p listing.Person) bool { return p.Address == q.Exactly })
	if i < 0 {
		return listing.Rows[listing.Person]{}, s.err
	}
	return listing.Rows[listing.Person]{All: s.persons[i : i+1]}, s.err
}

func (s *fakeStore) ListRules(_ context.Context, q listing.RuleQuery) (listing.Rows[policy.Rule], error) {
	s.asked = append(s.asked, q)
	return rows(s, q.Page, s.rules)
}

func (s *fakeStore) ListMails(_ context.Context, q listing.MailQuery) (listing.Rows[listing.Mail], error) {
	s.asked = append(s.asked, q)
	return rows(s, q.Page, s.mails)
}

func (s *fakeStore) QueuedReplies(context.Context, int) ([]listing.Reply, error) {
	return s.replies, s.err
}

func (s *fakeStore) ListAudit(_ context.Context, q listing.AuditQuery) (listing.Rows[audit.Record], error) {
	s.asked = append(s.asked, q)
	return rows(s, q.Page, s.audit)
}

// fullStore has something of everything.
func fullStore() *fakeStore {
	s := &fakeStore{next: listing.Key{"1795000000000000", testID(1), "pat@partner.example"}}
	at := func(hours int) time.Time { return testNow.Add(-time.Duration(hours) * time.Hour) }
	states := []string{escrow.StateHeld, escrow.StateRead, escrow.StateHeld, escrow.StateExpired, escrow.StateRetracted}
	for i := range 14 {
		m := listing.Message{
			Item: testID(i), QueueID: fmt.Sprintf("4Q%dTz1Wz9Y", i), Sender: []string{"dr.hansen@clinic.example", "billing@clinic.example", ""}[i%3],
			Recipient: []string{"pat@partner.example", "Maximilian.von.und.zu.Hohenlohe-Langenburg@insurance.partner.example", "joe+cases@law.example"}[i%3],
			State:     states[i%5], Verify: []string{"account", "code", "passphrase"}[i%3], Mode: "recoverable", Notice: []string{"sent", "sent", "queued", "bounced"}[i%4],
			Size: int64(i*i*i) * 37_123, Sealed: at(i * 7), Expires: at(i*7 - 720), Held: i == 2,
		}
		if m.State == escrow.StateRead {
			m.Read, m.ReadHow = at(i*7-3), "account"
		}
		if m.State == escrow.StateExpired || m.State == escrow.StateRetracted {
			m.Ended = at(i)
		}
		s.messages = append(s.messages, m)
	}
	s.item = &listing.Item{ID: testID(0), QueueID: "4Q0Tz1Wz9Y", Sender: "dr.hansen@clinic.example", Mode: "recoverable", Size: 48_113, Sealed: at(0), Expires: at(-720), Kept: true, Recovery: 1,
		HeldAt: at(0), HeldBy: "anna", HeldNote: "case 12/26, asked for by counsel"}
	s.persons = []listing.Person{
		{Address: "joe+cases@law.example", Verify: "passphrase", Passphrase: true, Set: at(900), Messages: 2, Last: at(14)},
		{Address: "maximilian.von.und.zu.hohenlohe-langenburg@insurance.partner.example", Account: true, Password: true, TOTP: true, Passkeys: 2, Enrolled: at(3000), Devices: 3, Messages: 4, Last: at(7)},
		{Address: "pat@partner.example", Account: true, Passkeys: 1, Enrolled: at(100), Devices: 1, Messages: 5, Last: at(0)},
	}
	s.rules = testRules()
	s.mails = []listing.Mail{
		{ID: "m1", Kind: "notice", Item: testID(2), Recipient: "joe+cases@law.example", Attempts: 3, Queued: at(2), Due: at(-1), Expiry: at(-700)},
		{ID: "m2", Kind: "code", Item: testID(0), Recipient: "pat@partner.example", Queued: testNow.Add(-time.Minute), Due: testNow, Expiry: testNow.Add(14 * time.Minute)},
		{ID: "m3", Kind: "enrolled", Queued: testNow.Add(-time.Second), Due: testNow},
	}
	s.replies = []listing.Reply{{ID: "r1", Item: testID(1), Recipient: "pat@partner.example", State: "queued", Attempts: 1, Size: 2_400_000, Queued: at(1), Due: at(0)}}
	entry := func(kind string, a audit.Actor, item, sender, recipient string, d audit.Details) {
		n := len(s.audit)
		s.audit = append(s.audit, audit.Record{Seq: int64(4211 - n), Entry: audit.Entry{At: testNow.Add(-time.Duration(n*n) * time.Minute), Kind: kind, Actor: a, Item: item, Sender: sender, Recipient: recipient, Details: d}})
	}
	pickup := audit.Actor{Kind: audit.ActorPortal, Client: "2001:db8:4711:cafe:1234:5678:9abc:def0"}
	entry(audit.Locked, pickup, testID(0), "dr.hansen@clinic.example", "pat@partner.example", audit.Details{"how": "code"})
	entry(audit.TryWrong, pickup, testID(0), "dr.hansen@clinic.example", "pat@partner.example", audit.Details{"how": "code"})
	entry(audit.Read, pickup, testID(1), "billing@clinic.example", "maximilian.von.und.zu.hohenlohe-langenburg@insurance.partner.example", audit.Details{"how": "account"})
	entry(audit.RuleChanged, audit.Actor{Kind: audit.ActorCommand, Name: "anna (root by sudo)"}, "", "", "", audit.Details{"scope": "recipient", "pattern": "partner.example", "before": "tls", "after": "encryption level=verify match=.partner.example note=contract of 2026"})
	entry(audit.Sealed, audit.Actor{Kind: audit.ActorPostfix, Name: "fallback", Client: "127.0.0.1"}, testID(0), "dr.hansen@clinic.example", "pat@partner.example", audit.Details{"mode": "recoverable", "verify": "account", "size": "48113", "queue_id": "4Q0Tz1Wz9Y", "until": "2026-12-27T12:30:00Z"})
	entry(audit.Decision, audit.Actor{Kind: audit.ActorPostfix, Name: "policy"}, "", "dr.hansen@clinic.example", "pat@partner.example", audit.Details{"answer": "FILTER securesmtp:", "rules": "recipient rule partner.example (encryption)"})
	entry(audit.Started, audit.Actor{Kind: audit.ActorServer}, "", "", "", audit.Details{"version": "1.0", "audit_key": "3q2+7wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="})
	s.summary = listing.Summary{
		States: map[string]listing.Count{escrow.StateHeld: {N: 1284}, escrow.StateRead: {N: 9077}, escrow.StateExpired: {N: 100_000, More: true}, escrow.StateRetracted: {N: 31}},
		OnHold: listing.Count{N: 2}, Bounced: listing.Count{N: 3}, Ending: listing.Count{N: 41}, Mails: listing.Count{N: 3}, Retried: listing.Count{N: 1}, Oldest: at(2), Replies: listing.Count{N: 1},
		Bytes: 18_400_000_000, Domains: []listing.Usage{{Domain: "clinic.example", Bytes: 17_000_000_000, Items: 9001}, {Domain: "", Bytes: 1_400_000_000, Items: 12}},
		Checkpoint: &listing.Checkpoint{Kind: audit.Daily, At: at(12), Seq: 4100}, Entries: 4211,
	}
	return s
}

// quietStore is of a server that works, and where nothing is to be done.
func quietStore() *fakeStore {
	return &fakeStore{summary: listing.Summary{Checkpoint: &listing.Checkpoint{At: testNow.Add(-time.Hour), Seq: 1}, Entries: 1}}
}

func testRules() []policy.Rule {
	at := testNow.AddDate(0, -3, 0)
	return []policy.Rule{
		{ID: 1, Scope: policy.ByRecipient, Pattern: "*", Requirement: policy.None, Created: at},
		{ID: 2, Scope: policy.ByRecipient, Pattern: ".partner.example", Requirement: policy.ForcedTLS, Created: at, Note: "contract of 2026, § 4"},
		{ID: 3, Scope: policy.ByRecipient, Pattern: "newsletter@partner.example", Requirement: policy.None, Weaken: true, Note: "public mailing list", Created: at},
		{ID: 4, Scope: policy.ByRecipient, Pattern: "partner.example", Requirement: policy.Encryption, TLS: policy.TLSParams{Level: policy.LevelSecure, Match: []string{".partner.example", "nexthop"}}, Verify: "account", Mode: "sealed",
			Life: policy.Lifetimes{Usual: 14 * 24 * time.Hour, Max: 30 * 24 * time.Hour}, Created: at},
		{ID: 5, Scope: policy.ByRecipient, Pattern: "broken.example", Requirement: policy.None, Override: true, Note: "their TLSA records are wrong until the move", Until: testNow.AddDate(0, 0, 10), Created: at},
		{ID: 6, Scope: policy.BySender, Pattern: "clinic.example", Requirement: policy.Encryption, Created: at},
		{ID: 7, Scope: policy.ByLogin, Pattern: "scanner", Requirement: policy.EscrowOnly, Created: at},
	}
}

func testSnapshot(t testing.TB) *policy.Snapshot {
	t.Helper()
	var rules []*policy.Rule
	for _, r := range testRules() {
		rules = append(rules, &r)
	}
	s, err := policy.NewSnapshot(3, rules, "+")
	if err != nil {
		t.Fatal(err)
	}
	triggers, err := policy.NewTriggers([]string{"[secure]"}, []*policy.Trigger{
		{ID: 1, Kind: policy.OnHeader, Header: "x-secure", Pattern: "yes", Sender: "clinic.example", Requirement: policy.EscrowOnly, Note: "the button in Outlook"},
	}, "+")
	if err != nil {
		t.Fatal(err)
	}
	return s.WithTriggers(triggers)
}

// site is the pages, seen by somebody who is signed in.
type site struct {
	mux *http.ServeMux
}

func newSite(t testing.TB, store Store, change func(*Options)) *site {
	t.Helper()
	snapshot := testSnapshot(t)
	o := Options{
		Store: store, Rules: func() *policy.Snapshot { return snapshot }, Now: func() time.Time { return testNow },
		Wrap: func(h http.Handler) http.Handler {
			return adminpage.Guard("127.0.0.1:8646", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				h.ServeHTTP(w, r.WithContext(adminpage.SignedIn(r.Context(), "anna", "viewer")))
			}))
		},
		Checks: []Check{{"database", func(context.Context) error { return nil }}, {"keys", func(context.Context) error { return nil }}, {"outbox", func(context.Context) error { return nil }}},
	}
	if change != nil {
		change(&o)
	}
	s := &site{http.NewServeMux()}
	New(o).Register(s.mux)
	return s
}

func (s *site) get(path string) (int, string) {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Host = "127.0.0.1:8646"
	w := httptest.NewRecorder()
	s.mux.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// text returns a page without its tags and style.
func text(page string) string {
	_, page, _ = strings.Cut(page, "</style>")
	var b strings.Builder
	for part := range strings.SplitSeq(page, "<") {
		tag, after, _ := strings.Cut(part, ">")
		if name, _, _ := strings.Cut(strings.TrimPrefix(tag, "/"), " "); !slices.Contains([]string{"a", "strong", "code", "time"}, name) {
			b.WriteByte(' ')
		}
		b.WriteString(after)
	}
	return strings.Join(strings.Fields(html.UnescapeString(b.String())), " ")
}
