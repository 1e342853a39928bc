package escrow_test

import (
	"archive/zip"
	"bytes"
	dbsql "database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/portal"
)

// letter seals a message of its own and returns its item.
func (b *bench) letter(head, body string, r escrow.Recipient) string {
	b.t.Helper()
	b.pass(time.Minute)
	return b.seal(message([]byte(head+"\r\n\r\n"+body), r))[0]
}

func (b *bench) verifiedBy(how string) *escrow.Device {
	return &escrow.Device{Address: recipient, Tag: b.RecipientTag(recipient), How: how, Created: b.clock(), Expires: b.clock().Add(24 * time.Hour)}
}

func (b *bench) inbox(d *escrow.Device, q escrow.InboxQuery) ([]escrow.InboxItem, int) {
	b.t.Helper()
	items, total, err := b.Inbox(b.t.Context(), d, q)
	b.must(err, "inbox:")
	return items, total
}

func (b *bench) fromInbox(d *escrow.Device, item string) (string, error) {
	b.t.Helper()
	p, s, err := b.InboxOpen(b.t.Context(), d, item)
	if err != nil {
		return "", err
	}
	r, err := b.Open(b.t.Context(), p, s)
	if err != nil {
		return "", err
	}
	defer r.Close()
	raw, err := io.ReadAll(r)
	return string(raw), err
}

// exec changes the database behind the vault's back.
func (b *bench) exec(query string, args ...any) {
	b.t.Helper()
	db, err := dbsql.Open("sqlite3", "file:"+b.path())
	b.must(err)
	defer db.Close()
	_, err = db.Exec(query, args...)
	b.must(err)
}

func TestInboxListsWhatIsHeldForOneAddress(t *testing.T) {
	b := newBench(t)
	to := escrow.Recipient{Address: recipient}
	first := b.letter("Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nFrom: =?iso-8859-1?q?Dr=2E_Do=E9?= <doc@clinic.example>\r\nDate: Tue, 24 Nov 2026 14:05:00 +0100", "first", to)
	second := b.letter("subject: second", "second", escrow.Recipient{Address: "PAT@old.Example"})
	other := b.letter("Subject: of another", "no", escrow.Recipient{Address: "mo@old.example"})
	p := b.pickup(b.link(recipient))
	d := b.device(p, b.prove(p, b.code(p)))

	items, total := b.inbox(d, escrow.InboxQuery{})
	if total != 2 || len(items) != 2 || items[0].ItemID != second || items[1].ItemID != first {
		t.Fatalf("%d of %d: %+v", len(items), total, items)
	}
	got := items[1]
	if got.Subject != "Grüße" || got.From != "Dr. Doé <doc@clinic.example>" || !got.Date.Equal(time.Date(2026, 11, 24, 13, 5, 0, 0, time.UTC)) ||
		got.Sender != sender || !got.Openable || got.State != escrow.StateHeld || !got.ReadAt.IsZero() || got.Replied {
		t.Errorf("%+v", got)
	}
	// Nothing is read by being listed, nor by being looked into.
	q, s, err := b.InboxOpen(t.Context(), d, first)
	b.must(err)
	r, err := b.Peek(t.Context(), q, s)
	b.must(err)
	if raw, err := io.ReadAll(r); err != nil || !strings.HasSuffix(string(raw), "first") {
		t.Errorf("peeked %q, %v", raw, err)
	}
	if items, _ := b.inbox(d, escrow.InboxQuery{}); items[1].State != escrow.StateHeld {
		t.Errorf("listing and looking made it %s", items[1].State)
	}
	if raw, err := b.fromInbox(d, first); err != nil || !strings.HasSuffix(raw, "first") {
		t.Errorf("%q, %v", raw, err)
	}
	if items, _ := b.inbox(d, escrow.InboxQuery{}); items[1].State != escrow.StateRead || items[1].ReadAt.IsZero() || items[0].State != escrow.StateHeld {
		t.Errorf("after reading: %+v", items)
	}
	for _, id := range []string{other, "", "x", strings.Repeat("a", 26), first[:25] + "!"} {
		if _, err := b.fromInbox(d, id); !errors.Is(err, escrow.ErrUnknown) {
			t.Errorf("%q: %v", id, err)
		}
	}
	b.pass(12 * time.Hour)
	if _, _, err := b.Inbox(t.Context(), d, escrow.InboxQuery{}); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("listed after the device's time: %v", err)
	}
	if _, err := b.fromInbox(d, first); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("opened after the device's time: %v", err)
	}
	if _, err := b.Peek(t.Context(), q, s); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("a session after the device's time: %v", err)
	}
	for _, d := range []*escrow.Device{nil, {}, {Expires: b.clock().Add(time.Hour)}} {
		if _, _, err := b.Inbox(t.Context(), d, escrow.InboxQuery{}); !errors.Is(err, escrow.ErrUnknown) {
			t.Errorf("%+v: %v", d, err)
		}
	}
}

func TestWhatOpensFromTheInbox(t *testing.T) {
	b := newBench(t)
	b.must(b.SetRecipient(t.Context(), "phrase@old.example", escrow.VerifyPassphrase, []byte("seven grey herons")))
	code := b.letter("Subject: code", "x", escrow.Recipient{Address: recipient})
	account := b.letter("Subject: account", "x", escrow.Recipient{Address: recipient})
	b.exec(`UPDATE escrow_pickup SET verify = 'account' WHERE item_id = ?`, account)
	sealed := b.letter("Subject: sealed", "x", escrow.Recipient{Address: recipient, Mode: escrow.ModeSealed})
	phrase := b.letter("Subject: phrase", "x", escrow.Recipient{Address: "phrase@old.example"})
	b.exec(`UPDATE escrow_pickup SET recipient = ?, recipient_key = ? WHERE item_id = ?`, recipient, recipient, phrase)

	for how, opens := range map[string]map[string]bool{
		escrow.VerifyCode:    {code: true},
		escrow.VerifyAccount: {code: true, account: true},
	} {
		d := b.verifiedBy(how)
		items, total := b.inbox(d, escrow.InboxQuery{})
		if total != 4 {
			t.Fatalf("%d items", total)
		}
		for _, it := range items {
			if it.Openable != opens[it.ItemID] || it.Openable != (it.Subject != "") {
				t.Errorf("by %s: %+v", how, it)
			}
			p, s, err := b.InboxOpen(t.Context(), d, it.ItemID)
			if opens[it.ItemID] && (err != nil || s.How != how) || !opens[it.ItemID] && (!errors.Is(err, escrow.ErrNeedsLink) || s != nil || p == nil) {
				t.Errorf("by %s: %s opens: %v", how, it.ItemID, err)
			}
		}
		for _, word := range []string{"sealed", "phrase"} { // what can't be opened is not found either
			if items, total := b.inbox(d, escrow.InboxQuery{Search: word}); len(items) != 0 || total != 0 {
				t.Errorf("%q finds %+v", word, items)
			}
		}
	}
	if n := b.count(`SELECT COUNT(*) FROM escrow_item WHERE summary IS NOT NULL AND mode = 'sealed'`); n != 0 {
		t.Error("a sealed message has a summary")
	}
	_ = sealed
}

func (b *bench) count(query string, args ...any) (n int) {
	b.t.Helper()
	db, err := dbsql.Open("sqlite3", "file:"+b.path())
	b.must(err)
	defer db.Close()
	b.must(db.QueryRow(query, args...).Scan(&n))
	return n
}

func TestWhatIsOverIsListedAndClosed(t *testing.T) {
	b := newBench(t)
	to := escrow.Recipient{Address: recipient}
	gone := b.letter("Subject: secret one", "x", to)
	shared := b.seal(message([]byte("Subject: secret two\r\n\r\nx"), to, escrow.Recipient{Address: "mo@old.example"}))[0]
	d := b.verifiedBy(escrow.VerifyCode)
	d.Expires = b.clock().Add(500 * 24 * time.Hour)
	open, s, err := b.InboxOpen(t.Context(), d, shared)
	b.must(err)
	b.must(b.Retract(t.Context(), gone, ""))
	b.must(b.Retract(t.Context(), shared, recipient))
	items, total := b.inbox(d, escrow.InboxQuery{})
	if total != 2 || items[0].State != escrow.StateRetracted || items[0].Openable || items[0].Subject != "" || items[1].Subject != "" || items[0].Sender != sender {
		t.Errorf("%+v", items)
	}
	for _, id := range []string{gone, shared} {
		if p, s, err := b.InboxOpen(t.Context(), d, id); !errors.Is(err, escrow.ErrRetracted) || p == nil || p.ItemID != id || s != nil {
			t.Errorf("%v, %v", p, err)
		}
	}
	if _, err := b.Open(t.Context(), open, s); err == nil { // the other's copy has the same recover wrap
		t.Error("a message opens that was retracted since")
	}
	if n := b.count(`SELECT COUNT(*) FROM escrow_item WHERE summary IS NOT NULL AND id = ?`, gone); n != 0 {
		t.Error("the subject outlives the keys")
	}
	late := b.letter("Subject: late", "x", to)
	b.pass(30 * 24 * time.Hour)
	if items, _ := b.inbox(d, escrow.InboxQuery{}); items[0].ItemID != late || items[0].State != escrow.StateExpired || items[0].Subject != "" {
		t.Errorf("due, not yet swept: %+v", items[0])
	}
	if _, _, err := b.InboxOpen(t.Context(), d, late); !errors.Is(err, escrow.ErrExpired) {
		t.Errorf("expired: %v", err)
	}
	_, err = b.Expire(t.Context())
	b.must(err)
	if _, total := b.inbox(d, escrow.InboxQuery{}); total != 3 {
		t.Errorf("%d after the end of all", total)
	}
	b.pass(91 * 24 * time.Hour)
	_, err = b.Expire(t.Context())
	b.must(err)
	if items, total := b.inbox(d, escrow.InboxQuery{}); total != 0 || len(items) != 0 {
		t.Errorf("%d after 90 days more", total)
	}
}

func TestInboxByThePage(t *testing.T) {
	b := newBench(t)
	var ids []string
	for i := range 120 {
		ids = append(ids, b.letter(fmt.Sprintf("Subject: number %d of %s", i, []string{"apples", "Pears"}[i%2]), "x", escrow.Recipient{Address: recipient}))
	}
	d := b.verifiedBy(escrow.VerifyCode)
	for _, tt := range []struct {
		q           escrow.InboxQuery
		len, total  int
		first, last int
	}{
		{escrow.InboxQuery{}, 50, 120, 119, 70},
		{escrow.InboxQuery{Offset: 100}, 20, 120, 19, 0},
		{escrow.InboxQuery{Offset: 119, Limit: 5}, 1, 120, 0, 0},
		{escrow.InboxQuery{Offset: -3, Limit: 1}, 1, 120, 119, 119},
		{escrow.InboxQuery{Search: "PEARS"}, 50, 60, 119, 21},
		{escrow.InboxQuery{Search: " number  apples ", Offset: 50}, 10, 60, 18, 0},
		{escrow.InboxQuery{Search: "ｎｕｍｂｅｒ 1 pears", Limit: 3}, 3, 0, 119, 115},
		{escrow.InboxQuery{Search: "doc@CLINIC number 7"}, 0, 0, 0, 0},
	} {
		items, total := b.inbox(d, tt.q)
		if tt.total != 0 && total != tt.total || tt.len != 0 && len(items) != tt.len {
			t.Errorf("%+v: %d of %d", tt.q, len(items), total)
			continue
		}
		if len(items) == 0 {
			t.Errorf("%+v: nothing", tt.q)
		} else if tt.len != 0 && (items[0].ItemID != ids[tt.first] || items[len(items)-1].ItemID != ids[tt.last]) {
			t.Errorf("%+v: other messages", tt.q)
		}
	}
	for _, q := range []escrow.InboxQuery{{Offset: 120}, {Offset: 1 << 40}, {Search: "plums"}, {Search: "pears", Offset: 60}} {
		if items, _ := b.inbox(d, q); len(items) != 0 {
			t.Errorf("%+v: %d items", q, len(items))
		}
	}
}

// What a stranger writes into a header never keeps a message from being sealed.
func TestHostileHeadersAreSealed(t *testing.T) {
	b := newBench(t)
	for i, raw := range [][]byte{
		nil,
		[]byte("\r\n\r\n"),
		[]byte("no header at all"),
		bytes.Repeat([]byte("Subject: "), 100_000),
		append([]byte("Subject: "), bytes.Repeat([]byte("=?utf-8?b?"), 50_000)...),
		append([]byte("From: "), bytes.Repeat([]byte("("), 500_000)...),
		append([]byte("Disposition-Notification-To: "), bytes.Repeat([]byte("<a@b>,"), 50_000)...),
		[]byte("Subject: \x00\xff\xfe\r\nDate: \x80\r\nMessage-ID: <\x00>\r\n\r\n"),
		bytes.Repeat([]byte("\r"), 300_000),
		[]byte("Subject: =?hz-gb-2312?b?fn5+fg==?= =?utf-7?q?+AGE-?= =?gb18030?b?gQ==?=\r\n\r\n"),
	} {
		raw = append(bytes.Clone(raw), fmt.Sprintf("\r\n%d", i)...) // each is another message
		id := b.seal(message(raw))[0]
		if got, err := b.fromInbox(b.verifiedBy(escrow.VerifyCode), id); err != nil || got != string(raw) {
			t.Errorf("%.40q: %v", raw, err)
		}
	}
	b.inbox(b.verifiedBy(escrow.VerifyCode), escrow.InboxQuery{})
}

// A summary that does not open hides no message.
func TestADamagedSummary(t *testing.T) {
	b := newBench(t)
	one := b.letter("Subject: one", "x", escrow.Recipient{Address: recipient})
	b.letter("Subject: two", "x", escrow.Recipient{Address: recipient})
	b.exec(`UPDATE escrow_item SET summary = (SELECT summary FROM escrow_item WHERE id <> ?) WHERE id = ?`, one, one)
	items, _ := b.inbox(b.verifiedBy(escrow.VerifyCode), escrow.InboxQuery{})
	if len(items) != 2 || items[1].Subject != "" || !items[1].Openable || items[0].Subject != "two" {
		t.Errorf("%+v", items)
	}
}

func TestReceiptAndMessageID(t *testing.T) {
	const to = "Disposition-Notification-To: "
	for head, want := range map[string]bool{
		"":                                  false,
		to + sender:                         true,
		to + "Doc <DOC@Clinic.Example>":     true,
		to + "doc@other.example":            false,
		to + sender + ", doc@other.example": false,
		to + sender + "\r\n" + to + sender:  false,
		to + "nobody":                       false,
		to + sender + "\r\nDisposition-Notification-Options: x=required,y": false,
	} {
		b := newBench(t)
		id := b.letter("Message-ID: <1.2@clinic.example>\r\n"+head, "x", escrow.Recipient{Address: recipient})
		if n := b.count(`SELECT receipt FROM escrow_item WHERE id = ? AND message_id = '1.2@clinic.example'`, id); (n == 1) != want {
			t.Errorf("%q: receipt %d", head, n)
		}
	}
	b := newBench(t)
	m := message([]byte(to + "<>\r\n\r\n"))
	m.Sender = ""
	if n := b.count(`SELECT receipt FROM escrow_item WHERE id = ?`, b.seal(m)[0]); n != 0 {
		t.Error("a receipt to nobody")
	}
}

func TestSearchMatch(t *testing.T) {
	for _, tt := range []struct {
		query string
		texts []string
		want  bool
	}{
		{"grüsse", []string{"Grüße"}, true}, // ß folds to ss
		{"GRÜSSE doc", []string{"Grüße", "doc@clinic.example"}, true},
		{"gru\u0308ße", []string{"Grüße"}, true},
		{"ｐｄｆ", []string{"scan.PDF"}, true},
		{"ΣΊΣΥΦΟΣ", []string{"σίσυφος"}, true},
		{"a b", []string{"a"}, false},
		{"", []string{"a"}, true},
		{strings.Repeat("x ", 50) + "y", []string{"x"}, true}, // more than ten words: the first
	} {
		if got := escrow.NewSearch(tt.query).Match(tt.texts...); got != tt.want {
			t.Errorf("%.20q in %q: %v", tt.query, tt.texts, got)
		}
	}
	if !escrow.NewSearch(" \u3000 ").Empty() || escrow.NewSearch("a").Empty() {
		t.Error("what is empty")
	}
}

// The way of a recipient through the real portal: a code opens the message of its
// link, and the list of all others, without their links.
func TestInboxThroughThePortal(t *testing.T) {
	b := newBench(t)
	first := b.letter("Subject: first", "the first text", escrow.Recipient{Address: recipient})
	item, secret := b.link(recipient)
	second := b.letter("Subject: =?utf-8?q?zweite_Gr=C3=BC=C3=9Fe?=", "the second text", escrow.Recipient{Address: "PAT@old.example"})
	b.mails()
	base, _ := url.Parse("http://portal.clinic.example/x")
	h, err := portal.New(portal.Config{Vault: b.Vault, Inbox: b.Vault, BaseURL: base, Now: b.clock, Log: slog.New(slog.NewTextHandler(b.logs, nil))})
	b.must(err)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Host = base.Host
		h.ServeHTTP(w, r)
	}))
	defer srv.Close()
	c := browser()
	link := srv.URL + "/x/m/" + item + "/" + secret
	_, page := fetch(t, c, link+"/verify", url.Values{"answer": {b.code(b.pickup(item, secret))}})
	if !strings.Contains(page, "the first text") {
		t.Fatalf("not verified:\n%s", page)
	}
	inbox := "/x/inbox/" + b.RecipientTag(recipient)
	if !strings.Contains(page, `href="`+inbox+`"`) {
		t.Error("the message does not lead to the inbox")
	}
	_, page = fetch(t, c, srv.URL+inbox, nil)
	if !strings.Contains(page, "zweite Grüße") || !strings.Contains(page, first) || strings.Count(page, "badge") != 1+strings.Count(page, ".badge{") {
		t.Errorf("the list:\n%s", page)
	}
	_, page = fetch(t, c, srv.URL+inbox+"/search", url.Values{"q": {"SECOND"}})
	if !strings.Contains(page, "1 more found in the text") {
		t.Errorf("the search:\n%s", page)
	}
	if n := b.count(`SELECT COUNT(*) FROM escrow_pickup WHERE state = 'held'`); n != 1 {
		t.Error("listing or searching counts as reading")
	}
	_, page = fetch(t, c, srv.URL+inbox+"/m/"+second+"/message", nil)
	if !strings.Contains(page, "the second text") {
		t.Errorf("the second message:\n%s", page)
	}
	if n := b.count(`SELECT COUNT(*) FROM escrow_pickup WHERE state = 'read'`); n != 2 {
		t.Errorf("%d are read", n)
	}
	r, page := fetch(t, c, srv.URL+inbox+"/zip", nil)
	archive, err := zip.NewReader(strings.NewReader(page), int64(len(page)))
	if err != nil || len(archive.File) != 2 || r.StatusCode != 200 {
		t.Errorf("the archive: %v", err)
	}
	fetch(t, c, srv.URL+inbox+"/leave", url.Values{})
	if r, _ := fetch(t, c, srv.URL+inbox, nil); r.StatusCode != 403 {
		t.Errorf("after closing: %s", r.Status)
	}
	for _, secret := range []string{b.RecipientTag(recipient), "Grü", "second text", "SECOND", secret} {
		if strings.Contains(b.logs.String(), secret) {
			t.Errorf("%q is in the log", secret)
		}
	}
}

// TestSearchTokensTellNothing: what stands in the address of a page of results is not the
// words, nor how many they are, and is of use to this recipient alone.
func TestSearchTokensTellNothing(t *testing.T) {
	b := newBench(t)
	d := b.verifiedBy(escrow.VerifyCode)
	other := *d
	other.Address = "other@old.example"
	lengths := make(map[int]bool)
	seen := make(map[string]bool)
	for _, words := range []string{"x", "biopsy", "biopsy", "grün und  blau", strings.Repeat("w", 60)} {
		token, err := b.SearchToken(d, words)
		b.must(err)
		if url.QueryEscape(token) != token || strings.Contains(token, words) && len(words) > 1 || seen[token] {
			t.Errorf("token %s", token)
		}
		seen[token], lengths[len(token)] = true, true
		if got := b.SearchOf(d, token); got != words {
			t.Errorf("%q came back as %q", words, got)
		}
		for what, got := range map[string]string{
			"another recipient": b.SearchOf(&other, token), "a part": b.SearchOf(d, token[1:]), "plain words": b.SearchOf(d, words), "too much": b.SearchOf(d, token+strings.Repeat("A", 4096)),
		} {
			if got != "" {
				t.Errorf("%s: %q", what, got)
			}
		}
	}
	if len(lengths) != 1 {
		t.Errorf("lengths of tokens: %v", lengths)
	}
	if token, err := b.SearchToken(d, strings.Repeat("ä", 5000)); err != nil || b.SearchOf(d, token) != strings.Repeat("ä", escrow.MaxSearch) {
		t.Errorf("long words: %v", err)
	}
}
