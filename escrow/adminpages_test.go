package escrow_test

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/adminpages"
	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/policyd/policy"
)

// adminMux is the admin pages on the bench's database, past the login of an operator.
func (b *bench) adminMux() http.Handler {
	b.t.Helper()
	rules, err := policy.NewSnapshot(1, nil, "")
	b.must(err)
	wrap := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(w, r.WithContext(audit.With(r.Context(), audit.Actor{Kind: audit.ActorAdminPage, Name: "olga", Client: "192.0.2.8"})))
		})
	}
	mux := http.NewServeMux()
	adminpages.New(adminpages.Options{
		Store: b.db, Rules: func() *policy.Snapshot { return rules }, Wrap: wrap, Now: b.clock, Locked: b.LockedUntil,
		Actions: b.Vault, Operate: wrap, MayOperate: func(context.Context) bool { return true },
	}).Register(mux)
	return mux
}

func (b *bench) adminSite() func(path string) (int, string) {
	b.t.Helper()
	mux := b.adminMux()
	return func(path string) (int, string) {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
}

// TestOperatorsActOnMessages presses every button of the admin pages on real messages: what they say
// becomes true, and is logged with who did it.
func TestOperatorsActOnMessages(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	h := b.adminMux()
	post := func(path string, fields url.Values) int {
		t.Helper()
		r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(fields.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	b.seal(message([]byte("a"), escrow.Recipient{Address: recipient}, escrow.Recipient{Address: "joe@law.example"}))
	id, _ := b.link(recipient)
	state := func() (list []string) {
		t.Helper()
		all, err := b.List(ctx, escrow.Filter{ItemID: id})
		b.must(err)
		for _, l := range all {
			s := l.Recipient + " " + l.State
			if l.Hold != nil {
				s += " held by " + l.Hold.By + ": " + l.Hold.Note
			}
			list = append(list, s+" "+l.Expires.Format("01-02"))
		}
		return list
	}
	seen, err := b.db.AuditEntries(ctx, audit.Filter{Limit: 1})
	b.must(err)
	for _, step := range []struct {
		path   string
		fields url.Values
		code   int
		want   string
	}{
		{"extend", url.Values{"recipient": {"joe@law.example"}, "days": {"60"}}, 303, "joe@law.example held 01-30 pat@old.example held 12-31"},
		{"hold", url.Values{"note": {"case 12"}}, 303, "joe@law.example held held by olga: case 12 01-30 pat@old.example held held by olga: case 12 12-31"},
		{"hold", url.Values{"note": {"again"}}, 409, "joe@law.example held held by olga: case 12 01-30 pat@old.example held held by olga: case 12 12-31"},
		{"retract", url.Values{"recipient": {recipient}}, 303, "joe@law.example held held by olga: case 12 01-30 pat@old.example retracted held by olga: case 12 12-31"},
		{"retract", url.Values{"recipient": {recipient}}, 409, "joe@law.example held held by olga: case 12 01-30 pat@old.example retracted held by olga: case 12 12-31"},
		{"release", url.Values{"note": {"closed"}}, 303, "joe@law.example held 01-30 pat@old.example retracted 12-31"},
		{"release", url.Values{"note": {"closed"}}, 409, "joe@law.example held 01-30 pat@old.example retracted 12-31"},
		{"retract", url.Values{"recipient": {"*"}}, 303, "joe@law.example retracted 01-30 pat@old.example retracted 12-31"},
		{"extend", url.Values{"recipient": {"*"}, "days": {"60"}}, 409, "joe@law.example retracted 01-30 pat@old.example retracted 12-31"},
		{"hold", url.Values{"note": {"late"}}, 409, "joe@law.example retracted 01-30 pat@old.example retracted 12-31"},
	} {
		if code := post("/items/"+id+"/"+step.path, step.fields); code != step.code {
			t.Errorf("%s %v: %d, want %d", step.path, step.fields, code, step.code)
		}
		if got := strings.Join(state(), " "); got != step.want {
			t.Errorf("after %s %v: %s, want %s", step.path, step.fields, got, step.want)
		}
	}
	log, err := b.db.AuditEntries(ctx, audit.Filter{After: seen[0].Seq, Oldest: true})
	b.must(err)
	var kinds []string
	for _, r := range log {
		if r.Actor.Kind == audit.ActorAdminPage {
			kinds = append(kinds, r.Kind)
			if r.Actor.Name != "olga" || r.Actor.Client != "192.0.2.8" || r.Item != id {
				t.Errorf("logged: %+v", r)
			}
		}
	}
	if got := strings.Join(kinds, " "); got != "extended held retracted released retracted purged" {
		t.Errorf("logged: %s", got)
	}
}

// disguises are a secret as it could stand in a page.
func disguises(secret string) []string {
	list := []string{secret, html.EscapeString(secret), url.QueryEscape(secret), url.PathEscape(secret), hex.EncodeToString([]byte(secret))}
	for shift := range 3 { // base64 of it within something longer
		inner := base64.StdEncoding.EncodeToString(append(make([]byte, shift), secret...))
		inner = strings.TrimRight(inner, "=")
		if len(inner) > 8 {
			list = append(list, inner[4:len(inner)-2], strings.NewReplacer("+", "-", "/", "_").Replace(inner[4:len(inner)-2]))
		}
	}
	return list
}

// TestAdminPagesShowNoSecret uses the vault with secrets of every kind, follows every link of the
// admin pages, with every filter, and looks for each of them.
func TestAdminPagesShowNoSecret(t *testing.T) {
	b, p, s := answering(t, nil)
	ctx := t.Context()
	secrets := map[string]string{
		"subject": "SUBJECT-biopsy-result", "text": "TEXT-the-tumour-is-benign", "file name": "FILENAME-biopsy.pdf", "name": "NAME-of-the-doctor", "file": "FILE-content-of-it",
		"reply": "REPLY-thank-you-doctor", "reply's file name": "REPLYFILE-insurance-card", "passphrase": "correct horse battery staple 9", "draft": "DRAFT-not-sent-yet",
	}
	body := "From: " + secrets["name"] + " <doc@clinic.example>\r\nSubject: " + secrets["subject"] + "\r\nMessage-ID: <secret@clinic.example>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n" +
		"--x\r\n\r\n" + secrets["text"] + "\r\n--x\r\nContent-Type: application/pdf; name=\"" + secrets["file name"] + "\"\r\nContent-Disposition: attachment; filename=\"" + secrets["file name"] + "\"\r\n\r\n" + secrets["file"] + "\r\n--x--\r\n"

	// A message that is read by a code, and answered.
	secrets["code"] = b.code(p)
	_, err := b.SaveDraft(ctx, p, s, secrets["reply"], false)
	b.must(err)
	_, err = b.AddFile(ctx, p, s, secrets["reply's file name"]+".txt", "text/plain", strings.NewReader(secrets["file"]))
	b.must(err)
	_, err = b.SendReply(ctx, p, s)
	b.must(err)
	_, err = b.SaveDraft(ctx, p, s, secrets["draft"], false)
	b.must(err)

	// One that asks for an account, with wrong tries until it is locked, on legal hold.
	ids := b.seal(message([]byte(body), escrow.Recipient{Address: recipient, Verify: escrow.VerifyAccount}, escrow.Recipient{Address: "joe@law.example", Mode: escrow.ModeSealed}))
	item, secret := b.link(recipient)
	secrets["link"] = secret
	q := b.pickup(item, secret)
	b.enrolled(q)
	secrets["password"] = goodPassword
	for range 6 {
		if _, err := b.SignIn(ctx, q, escrow.SignIn{Password: "not-the-password"}, stranger); err == nil {
			t.Fatal("a wrong password signs in")
		}
	}
	b.must(b.Hold(ctx, item, "case 12/26"))

	// One with a passphrase, whose notice waits in the outbox with its link.
	b.must(b.SetRecipient(ctx, "mo@bank.example", escrow.VerifyPassphrase, []byte(secrets["passphrase"])))
	b.seal(message([]byte(body+" "), escrow.Recipient{Address: "mo@bank.example"}))
	waiting, _, err := b.Due(ctx, 100)
	b.must(err)
	for _, m := range waiting {
		if l := linkLine.FindSubmatch(m.Text); l != nil && m.To == "mo@bank.example" {
			secrets["waiting link"] = string(l[2])
		}
	}
	if secrets["waiting link"] == "" {
		t.Fatal("no notice waits")
	}

	// One that is over.
	old := b.seal(message([]byte(body+"  "), escrow.Recipient{Address: "old@bank.example"}))
	b.must(b.Retract(ctx, old[0], ""))

	get := b.adminSite()
	links, seen := []string{"/", "/items", "/recipients", "/rules", "/outbox", "/audit",
		"/items?from=clinic.example", "/items?to=" + recipient, "/items?show=hold", "/items?show=retracted", "/items?id=4Q1", "/audit?kind=wrong", "/audit?from=" + sender, "/audit?actor=portal", "/recipients?q=bank", "/outbox?kind=notice"}, map[string]bool{}
	for shown := regexp.MustCompile(`href="(/[^"]*)"`); len(links) > 0; links = links[1:] {
		path := html.UnescapeString(links[0])
		if seen[path] || strings.HasPrefix(path, "/destinations") || path == "/check" || path == "/metrics" {
			continue
		}
		seen[path] = true
		code, page := get(path)
		if code != http.StatusOK {
			t.Errorf("%s: %d", path, code)
		}
		for what, secret := range secrets {
			for _, d := range disguises(secret) {
				if strings.Contains(page, d) {
					t.Errorf("%s shows the %s, as %s", path, what, d)
				}
			}
		}
		for _, m := range shown.FindAllStringSubmatch(page, -1) {
			links = append(links, m[1])
		}
	}
	for _, want := range []string{"/items/" + item, "/items/" + ids[1], "/items/" + old[0], "/recipients/" + recipient, "/recipients/joe@law.example", "/recipients/mo@bank.example", "/items?show=hold"} {
		if !seen[want] {
			t.Errorf("no link leads to %s: what was looked at?", want)
		}
	}
	// It was all there.
	for path, want := range map[string]string{
		"/items/" + item: "case 12/26", "/recipients/" + recipient: "Locked until", "/recipients/mo@bank.example": "a passphrase is set", "/outbox": "mo@bank.example", "/audit?kind=wrong": "verify-failed",
	} {
		if _, page := get(path); !strings.Contains(page, want) {
			t.Errorf("%s lacks %q:\n%s", path, want, page)
		}
	}
	if found := disguises("abcdefghijkl"); !strings.Contains(base64.StdEncoding.EncodeToString([]byte("xyabcdefghijklz")), found[len(found)-2]) {
		t.Error("what base64 hides is not found")
	}
}

func TestWhoIsLockedOutIsSeen(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	locked := func() bool {
		t.Helper()
		until, err := b.LockedUntil(ctx, "PAT@old.example")
		b.must(err)
		if !until.IsZero() && !until.After(b.clock()) {
			t.Errorf("locked until %v, and it is %v", until, b.clock())
		}
		return !until.IsZero()
	}
	b.seal(message([]byte("a"), escrow.Recipient{Address: recipient, Verify: escrow.VerifyCode}))
	p := b.pickup(b.link(recipient))
	for range 4 {
		if _, err := b.Verify(ctx, p, "00000000", escrow.Client{}); !errors.Is(err, escrow.ErrWrong) {
			t.Fatal(err)
		}
	}
	if locked() {
		t.Error("four wrong codes lock")
	}
	if _, err := b.Verify(ctx, p, "00000000", escrow.Client{}); !errors.Is(err, escrow.ErrWrong) {
		t.Fatal(err)
	}
	if !locked() {
		t.Error("five wrong codes are not seen")
	}
	if err := b.Unlock(ctx, "Pat@OLD.example"); err != nil || locked() {
		t.Errorf("unlocked: %v", err)
	}
	if got, err := b.db.AuditEntries(ctx, audit.Filter{Kinds: []string{audit.Unlocked}}); err != nil || len(got) != 1 || got[0].Recipient != recipient {
		t.Errorf("logged: %+v, %v", got, err)
	}
	if err := b.Unlock(ctx, recipient); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("once more: %v", err)
	}
	for range 5 {
		if _, err := b.Verify(ctx, p, "00000000", escrow.Client{}); !errors.Is(err, escrow.ErrWrong) {
			t.Fatal(err)
		}
	}
	if !locked() {
		t.Error("after that nothing locks")
	}
	b.pass(time.Hour)
	if locked() {
		t.Error("a lock that is over is seen")
	}
	if until, err := b.LockedUntil(ctx, "joe@law.example"); err != nil || !until.IsZero() {
		t.Errorf("somebody else: %v, %v", until, err)
	}
}
