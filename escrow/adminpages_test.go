package escrow_test

import (
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
	"github.com/postseal/postseal/policyd/policy"
)

// adminSite is the admin pages on the bench's database, past the login.
func (b *bench) adminSite() func(path string) (int, string) {
	b.t.Helper()
	rules, err := policy.NewSnapshot(1, nil, "")
	b.must(err)
	mux := http.NewServeMux()
	adminpages.New(adminpages.Options{
		Store: b.db, Rules: func() *policy.Snapshot { return rules }, Wrap: func(h http.Handler) http.Handler { return h }, Now: b.clock, Locked: b.LockedUntil,
	}).Register(mux)
	return func(path string) (int, string) {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, w.Body.String()
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
	b.pass(time.Hour)
	if locked() {
		t.Error("a lock that is over is seen")
	}
	if until, err := b.LockedUntil(ctx, "joe@law.example"); err != nil || !until.IsZero() {
		t.Errorf("somebody else: %v, %v", until, err)
	}
}
