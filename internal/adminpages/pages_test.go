package adminpages

import (
	"context"
	"errors"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/internal/listing"
	"github.com/postseal/postseal/policyd/policy"
)

var allPaths = []string{"/", "/items", "/items/" + testID(0), "/recipients", "/recipients/pat@partner.example", "/rules", "/rules?scope=content", "/outbox", "/audit"}

// TestFilters holds that what stands in an address reaches the database as it is meant.
func TestFilters(t *testing.T) {
	day := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	tests := []struct {
		path string
		want any
	}{
		{"/items", listing.MessageQuery{}},
		{"/items?from=Dr.Hansen@CLINIC.example.", listing.MessageQuery{Sender: "dr.hansen@clinic.example"}},
		{"/items?from=%3C%3E", listing.MessageQuery{Sender: "<>"}},
		{"/items?from=@Clinic.example&to=bücher.example", listing.MessageQuery{FromDomain: "clinic.example", ToDomain: "xn--bcher-kva.example"}},
		{"/items?to=+pat@partner.example+&show=held", listing.MessageQuery{Recipient: "pat@partner.example", Show: "held"}},
		{"/items?show=hold&since=2026-11-01&until=2026-11-01", listing.MessageQuery{Show: listing.OnHold, Since: day, Until: day.AddDate(0, 0, 1)}},
		{"/items?id=" + testID(3), listing.MessageQuery{Item: testID(3)}},
		{"/items?id=4Q0Tz1Wz9Y", listing.MessageQuery{QueueID: "4Q0Tz1Wz9Y"}},
		{"/items?after=" + url.QueryEscape(listing.Key{"1", "b", "c d"}.String()), listing.MessageQuery{Page: listing.Page{After: listing.Key{"1", "b", "c d"}}}},
		{"/recipients?q=PAT&show=account", listing.PersonQuery{Contains: "pat", Show: listing.WithAccount}},
		{"/rules?scope=sender&requirement=tls&q=Bank&show=weaker", listing.RuleQuery{Scope: "sender", Requirement: "tls", Contains: "bank", Show: listing.Weaker}},
		{"/outbox?kind=notice&failed=1", listing.MailQuery{Kind: "notice", Failed: true}},
		{"/audit?kind=wrong&to=Pat@partner.example&item=x&actor=192.0.2.7", listing.AuditQuery{Kinds: []string{audit.TryWrong, audit.Locked, audit.AdminRefused}, Recipient: "pat@partner.example", Item: "x", Actor: "192.0.2.7"}},
		{"/audit?kind=read&from=%3C%3E&until=2026-11-01", listing.AuditQuery{Kinds: []string{audit.Read}, Sender: "<>", Until: day.AddDate(0, 0, 1)}},
		{"/audit?kind=admin", listing.AuditQuery{Kinds: adminKinds()}},
	}
	for _, tt := range tests {
		t.Run(tt.path, func(t *testing.T) {
			store := &fakeStore{}
			code, body := newSite(t, store, nil).get(tt.path)
			if code != http.StatusOK || len(store.asked) != 1 {
				t.Fatalf("%d, %d queries: %s", code, len(store.asked), text(body))
			}
			got := store.asked[0]
			switch q := got.(type) {
			case listing.MessageQuery:
				if q.Limit != pageRows || !q.Now.Equal(testNow) {
					t.Errorf("%+v", q)
				}
				q.Limit, q.Now = 0, time.Time{}
				got = q
			case listing.PersonQuery:
				q.Limit, q.Now = 0, time.Time{}
				got = q
			case listing.RuleQuery:
				q.Limit = 0
				got = q
			case listing.MailQuery:
				q.Limit = 0
				got = q
			case listing.AuditQuery:
				q.Limit = 0
				got = q
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("asks for %+v, want %+v", got, tt.want)
			}
		})
	}
}

// TestWhatCannotBeLookedForIsSaid holds that a filter that is not understood is never taken for none.
func TestWhatCannotBeLookedForIsSaid(t *testing.T) {
	for _, path := range []string{
		"/items?show=odd", "/items?from=a%22%3E%3Cb@c%3E", "/items?to=a%00b@c.example", "/items?since=27.11.2026", "/items?until=2026-13-01", "/items?since=0001-01-01",
		"/items?after=%5C", "/recipients?show=odd", "/rules?scope=odd", "/rules?requirement=odd", "/rules?show=odd", "/outbox?kind=odd", "/audit?kind=odd", "/audit?to=a%0Ab@c.example",
		"/recipients?q=" + strings.Repeat("a", 400), "/rules?q=" + strings.Repeat("a", 600),
	} {
		store := &fakeStore{}
		code, body := newSite(t, store, nil).get(path)
		if code != http.StatusBadRequest || len(store.asked) > 0 {
			t.Errorf("%s: %d, %d queries: %s", path, code, len(store.asked), text(body))
		}
	}
}

func TestPagesSayWhatTheyShow(t *testing.T) {
	full := newSite(t, fullStore(), func(o *Options) {
		o.Quota = escrow.Quota{Total: 20_000_000_000, Domain: 17_000_000_000}
		o.Trouble = func() int { return 1 }
		o.Locked = func(context.Context, string) (time.Time, error) { return testNow.Add(time.Hour), nil }
		o.Alarms = func(_ context.Context, n int) ([]Alarm, error) {
			return slices.Repeat([]Alarm{{"lost.example", "has lost its TLS: possible strip", testNow}}, n), nil
		}
	})
	empty := newSite(t, &fakeStore{}, nil)
	quiet := newSite(t, quietStore(), nil)
	broken := newSite(t, quietStore(), func(o *Options) {
		o.Checks[2].OK = func(context.Context) error { return errors.New("the oldest mail waits since 3h0m0s") }
	})
	tests := []struct {
		site *site
		path string
		code int
		want []string
		not  []string
	}{
		{full, "/", 200, []string{"To be looked at", "now lost.example has lost its TLS: possible strip.", "More destinations have an alarm", "mail met something once", "3 unread messages have notices that came back",
			"41 unread messages end within three days", "quota of the escrow is used by 92 %", "quota of sender domain clinic.example is used up", "Held 1,284", "Expired 100,000+", "18.4 GB of sealed messages, 92 % of the quota of 20.0 GB",
			"clinic.example 9,001 17.0 GB 100 %", "(null sender) 12", "at entry 4100", "It has 4,211 entries", "Signed in as anna (viewer)"}, []string{"Nothing needs you"}},
		{quiet, "/", 200, []string{"Nothing needs you."}, []string{"To be looked at"}},
		{broken, "/", 200, []string{"now Not ready: outbox: the oldest mail waits since 3h0m0s", "outbox the oldest mail"}, []string{"Nothing needs you"}},
		{empty, "/", 200, []string{"has no signed checkpoint yet"}, []string{"Nothing needs you"}},
		{full, "/items", 200, []string{"dr.hansen@clinic.example pat@partner.example held sent", "null sender joe+cases@law.example held legal hold queued", "Next page"}, []string{"To the start"}},
		{full, "/items?after=1+a+b", 200, []string{"To the start Next page"}, nil},
		{empty, "/items", 200, []string{"No message is sealed."}, []string{"Clear"}},
		{empty, "/items?show=held", 200, []string{"No message is like that.", "Clear"}, nil},
		{full, "/items/" + testID(0), 200, []string{"On legal hold since 2026-11-27 12:30:00 UTC, by anna: case 12/26", "recoverable: a lost notice can be sent anew", "1 can open it", "kept, encrypted", "by account", "What happened to it", "verify-failed", "All of it"}, nil},
		{full, "/items/" + testID(50), 404, []string{"No message with this id is known", "Look in the audit log"}, nil},
		{full, "/items/odd", 404, []string{"This is not the id of a message."}, []string{"audit?item"}},
		{full, "/recipients", 200, []string{"joe+cases@law.example 2", "account password, one-time codes of an app, passkeys 3", "passphrase"}, nil},
		{full, "/recipients?q=pat@partner.example", 200, []string{"There is pat@partner.example."}, nil},
		{empty, "/recipients", 200, []string{"There are none yet."}, nil},
		{full, "/recipients/PAT@Partner.example", 200, []string{"Locked until 2026-11-27 13:30:00 UTC", "partner.example counts recipient encryption", "* recipient none", "since 2026-11-23 08:30:00 UTC: a passkey", "All messages to this recipient"}, nil},
		{empty, "/recipients/nobody@partner.example", 404, []string{"Nothing is known of this recipient"}, nil},
		{full, "/rules", 200, []string{"7 rules and 2 triggers are in force", "newsletter@partner.example recipient none weaker, on purpose", "overrides DANE, MTA-STS", "TLS level secure names .partner.example, nexthop", "lifetime 14 days at most 30 days"}, []string{"What counts for"}},
		{full, "/rules?q=Newsletter@partner.example", 200, []string{"What counts for newsletter@partner.example", "As a recipient Pattern For Requires More Note Ends (UTC) Made newsletter@partner.example counts recipient none weaker", "As a sender No rule"}, nil},
		{full, "/rules?q=someone@sub.partner.example", 200, []string{".partner.example counts recipient tls"}, nil},
		{full, "/rules?q=@clinic.example", 200, []string{"As a sender Pattern For Requires More Note Ends (UTC) Made clinic.example counts sender encryption"}, nil},
		{full, "/rules?q=partner.example", 200, []string{"partner.example counts recipient encryption"}, nil},
		{full, "/rules?q=scanner", 200, nil, []string{"What counts for"}},
		{full, "/rules?scope=content", 200, []string{"[secure] subject", "X-Secure: yes header @clinic.example escrow the button in Outlook"}, nil},
		{full, "/rules?scope=content&q=outlook", 200, []string{"X-Secure"}, []string{"[secure]"}},
		{empty, "/rules", 200, []string{"There is no rule: mail goes by opportunistic TLS"}, nil},
		{full, "/outbox", 200, []string{"late notice of a message joe+cases@law.example 3", "to the sender: account made 0", "Replies on their way", "pat@partner.example 1"}, nil},
		{empty, "/outbox", 200, []string{"Nothing waits"}, nil},
		{full, "/audit", 200, []string{"locked portal 2001:db8:4711:cafe:1234:5678:9abc:def0 dr.hansen@clinic.example → to pat@partner.example", "scope recipient pattern partner.example before tls after encryption"}, nil},
		{empty, "/audit", 200, []string{"The log is empty."}, nil},
		{newSite(t, &fakeStore{next: listing.Key{"1", "2"}, partial: true}, nil), "/audit?actor=x", 200, []string{"has looked at as many rows as one page may, and found none so far", "Search on"}, []string{"No entry is like that"}},
	}
	for _, tt := range tests {
		t.Run(tt.path, func(t *testing.T) {
			code, body := tt.site.get(tt.path)
			got := text(body)
			if code != tt.code {
				t.Errorf("status %d", code)
			}
			for _, w := range tt.want {
				if !strings.Contains(got, w) {
					t.Errorf("no %q in\n%s", w, got)
				}
			}
			for _, w := range tt.not {
				if strings.Contains(got, w) {
					t.Errorf("%q in\n%s", w, got)
				}
			}
		})
	}
}

// TestLinksKeepTheFilter follows the links of a list.
func TestLinksKeepTheFilter(t *testing.T) {
	s := newSite(t, fullStore(), nil)
	_, body := s.get("/items?from=clinic.example&show=held&to=&after=1+a+b")
	for _, want := range []string{
		`href="/items?after=1795000000000000+` + testID(1) + `+pat%40partner.example&from=clinic.example&show=held" rel="next"`,
		`href="/items?from=clinic.example&show=held">To the start`,
		`<option value="held" selected>`, `value="clinic.example"`,
	} {
		if !strings.Contains(html.UnescapeString(body), want) {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
}

// TestPagesOnlyShow holds that nothing but GET is answered, that a page of a stranger gets none,
// and that who may not ask gets none.
func TestPagesOnlyShow(t *testing.T) {
	s := newSite(t, fullStore(), nil)
	closed := newSite(t, fullStore(), func(o *Options) {
		o.Wrap = func(http.Handler) http.Handler { return http.NotFoundHandler() }
	})
	for _, path := range allPaths {
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch} {
			r := httptest.NewRequest(method, path, nil)
			r.Host = "127.0.0.1:8646"
			w := httptest.NewRecorder()
			if s.mux.ServeHTTP(w, r); w.Code != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: %d", method, path, w.Code)
			}
		}
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Host = "evil.example"
		w := httptest.NewRecorder()
		if s.mux.ServeHTTP(w, r); w.Code != http.StatusMisdirectedRequest {
			t.Errorf("%s for evil.example: %d", path, w.Code)
		}
		if code, body := closed.get(path); code != http.StatusNotFound || strings.Contains(body, "example") {
			t.Errorf("%s past the door: %d", path, code)
		}
		code, body := s.get(path)
		if code != http.StatusOK || strings.Contains(body, "<script") || strings.Contains(body, "style=") || strings.Contains(body, " on") && strings.Contains(body, "onclick") {
			t.Errorf("%s: %d", path, code)
		}
	}
}

// TestTroubleIsNoPage holds that a database that fails is said, on every page.
func TestTroubleIsNoPage(t *testing.T) {
	for _, path := range allPaths {
		if path == "/rules?scope=content" { // from memory
			continue
		}
		store := fullStore()
		store.err = errors.New("the disk is gone")
		if code, body := newSite(t, store, nil).get(path); code != http.StatusInternalServerError || !strings.Contains(text(body), "The database could not be read: the disk is gone") {
			t.Errorf("%s: %d %s", path, code, text(body))
		}
	}
}

// TestHostileWordsStayWords puts markup where others can write.
func TestHostileWordsStayWords(t *testing.T) {
	const evil = `"><script>alert(1)</script><img src=x onerror=alert(2)>`
	store := fullStore()
	store.messages[0].Sender, store.messages[0].Recipient, store.messages[0].QueueID = evil, evil, evil
	store.item.HeldNote, store.item.Sender, store.item.QueueID = evil, evil, evil
	store.persons[0].Address = evil
	store.rules[0].Note, store.rules[0].Pattern = evil, evil
	store.mails[0].Kind, store.mails[0].Recipient = evil, evil
	store.audit[0].Actor.Name, store.audit[0].Sender, store.audit[0].Recipient, store.audit[0].Details = evil, evil, evil, audit.Details{evil: evil}
	store.summary.Domains[0].Domain = evil
	s := newSite(t, store, func(o *Options) {
		o.Alarms = func(context.Context, int) ([]Alarm, error) { return []Alarm{{evil, evil, testNow}}, nil }
		o.Checks[0].OK = func(context.Context) error { return errors.New(evil) }
	})
	for _, path := range append(slices.Clone(allPaths), "/rules?q="+url.QueryEscape(evil), "/recipients?q="+url.QueryEscape(evil), "/audit?actor="+url.QueryEscape(evil), "/items?id="+url.QueryEscape(evil), "/items/"+url.PathEscape(evil)) {
		_, body := s.get(path)
		if strings.Contains(body, "<script") || strings.Contains(body, "<img") {
			t.Errorf("%s: markup in\n%s", path, body)
		}
	}
}

// TestEachKindOfEntryIsInAGroup holds that what administrators do is found under their own word, and
// that a new kind of entry is put where it belongs.
func TestEachKindOfEntryIsInAGroup(t *testing.T) {
	words := regexp.MustCompile(`^(rule|rules|trigger|api-key|admin|key)-|^(looked-at|backed-up|restored|started|pruned)$`)
	seen := make(map[string]bool)
	for _, g := range entryGroups {
		for _, k := range g.kinds {
			if g.Value != groupWrong && seen[k] {
				t.Errorf("%s is in two groups", k)
			}
			seen[k] = true
			if !slices.Contains(audit.Kinds, k) {
				t.Errorf("%s is no kind of entry", k)
			}
		}
	}
	for _, k := range audit.Kinds {
		if admin := slices.Contains(adminKinds(), k); admin != words.MatchString(k) || !admin && !seen[k] {
			t.Errorf("%s: which group is it in?", k)
		}
	}
}

func TestNumbers(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000"} {
		if got := adminCount(n); got != want {
			t.Errorf("%d is written %s", n, got)
		}
	}
	for d, want := range map[time.Duration]string{24 * time.Hour: "1 day", 14 * 24 * time.Hour: "14 days", 36 * time.Hour: "36h0m0s"} {
		if got := span(d); got != want {
			t.Errorf("%v is written %s", d, got)
		}
	}
	if got := percent(5, 0); got != -1 {
		t.Errorf("of no quota: %d %%", got)
	}
	if got := percent(1<<62, 1); got != 999 {
		t.Errorf("of a tiny quota: %d %%", got)
	}
}

// TestMailKindsAreKnown holds that each mail to senders has words of its own.
func TestMailKindsAreKnown(t *testing.T) {
	for _, k := range escrow.SenderMails() {
		if mailKind(k) == k {
			t.Errorf("the mail %s has no words", k)
		}
	}
}

func FuzzFilters(f *testing.F) {
	f.Add("from=a@b.example&show=held", 0)
	f.Add("q=%22&scope=content&after=1+2", 1)
	f.Add("kind=admin&since=2026-11-01", 2)
	snapshot := testSnapshot(f)
	mux := http.NewServeMux()
	New(Options{Store: fullStore(), Rules: func() *policy.Snapshot { return snapshot }, Wrap: func(h http.Handler) http.Handler { return h }, Now: func() time.Time { return testNow }}).Register(mux)
	f.Fuzz(func(t *testing.T, query string, page int) {
		path := []string{"/items", "/rules", "/audit", "/recipients", "/outbox"}[uint(page)%5]
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.URL.RawQuery = query
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		if w.Code != http.StatusOK && w.Code != http.StatusBadRequest {
			t.Errorf("%s?%s: %d %s", path, query, w.Code, text(w.Body.String()))
		}
		if strings.Contains(w.Body.String(), "<script") {
			t.Errorf("%s?%s: markup", path, query)
		}
	})
}
