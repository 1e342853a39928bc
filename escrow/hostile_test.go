package escrow_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/portal"
)

// site serves the bench's vault, as the real portal does.
func (b *bench) site(reg *prometheus.Registry) *httptest.Server {
	b.t.Helper()
	base, _ := url.Parse("http://portal.clinic.example/x")
	h, err := portal.New(portal.Config{Vault: b.Vault, Accounts: b.Vault, Inbox: b.Vault, Replies: b.Vault, Senders: b.Vault, BaseURL: base, Now: b.clock, Registerer: reg, Log: slog.New(slog.NewTextHandler(b.logs, nil))})
	b.must(err)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Host = base.Host
		h.ServeHTTP(w, r)
	}))
	b.t.Cleanup(srv.Close)
	return srv
}

// browser keeps cookies and follows redirections.
func browser() *http.Client {
	jar, _ := cookiejar.New(nil)
	return &http.Client{Jar: jar}
}

func fetch(t *testing.T, c *http.Client, u string, fields url.Values) (*http.Response, string) {
	t.Helper()
	ask := func() (*http.Response, error) { return c.Get(u) }
	if fields != nil {
		ask = func() (*http.Response, error) { return c.PostForm(u, fields) }
	}
	r, err := ask()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r, string(body)
}

var formOrLink = regexp.MustCompile(`(action|href|src)="([^"#:]+)"`)

// A mail scanner opens the link, fills every form and presses every button, again
// and again, and learns nothing; the recipient reads the message all the same.
func TestAScannerThatPressesEveryButton(t *testing.T) {
	b := newBench(t)
	b.seal(message([]byte("Subject: lab values\r\n\r\nthe values are fine\r\n")))
	item, secret := b.link(recipient)
	reg := prometheus.NewRegistry()
	srv := b.site(reg)
	link := srv.URL + "/x/m/" + item + "/" + secret
	for range 12 {
		scanner := browser()
		for _, answer := range []string{"", "test", "12345678", "x@y.example 0000"} {
			_, page := fetch(t, scanner, link, nil)
			for _, m := range formOrLink.FindAllStringSubmatch(page, -1) {
				var fields url.Values
				if m[1] == "action" {
					fields = url.Values{"answer": {answer}}
				}
				_, got := fetch(t, scanner, srv.URL+m[2], fields)
				if strings.Contains(got, "values") {
					t.Fatalf("a scanner reads the message:\n%s", got)
				}
			}
		}
		for _, p := range []string{"/message", "/html", "/raw", "/part/1", "/leave", "/code", "/verify"} {
			if _, got := fetch(t, scanner, link+p, nil); strings.Contains(got, "values") {
				t.Fatalf("a scanner reads the message at %s", p)
			}
		}
		b.pass(time.Minute)
	}
	if l, err := b.List(t.Context(), escrow.Filter{}); err != nil || len(l) != 1 || l[0].State != escrow.StateHeld {
		t.Fatalf("%+v, %v", l, err)
	}
	codes := 0
	for _, e := range b.mails() {
		if e.Kind == "code" {
			codes++
		}
	}
	if codes == 0 || codes > 15 {
		t.Errorf("%d codes were mailed", codes)
	}
	b.pass(3 * time.Hour) // longer than the locks that it earned
	human := browser()
	fetch(t, human, link+"/code", url.Values{})
	code := ""
	for _, e := range b.mails() {
		if m := codeLine.FindSubmatch(e.Text); e.Kind == "code" && m != nil {
			code = string(m[1])
		}
	}
	if _, page := fetch(t, human, link+"/verify", url.Values{"answer": {code}}); !strings.Contains(page, "the values are fine") {
		t.Errorf("the recipient gets\n%s", page)
	}
	// Nothing of it is in the log or the metrics.
	w := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if !strings.Contains(w.Body.String(), "postseal_portal_requests_total") || !strings.Contains(b.logs.String(), "portal request") {
		t.Error("no metrics, or no log, to look at")
	}
	for _, s := range []string{secret, code, "lab values", "values are fine", recipient} {
		if strings.Contains(w.Body.String(), s) || strings.Contains(b.logs.String(), s) {
			t.Errorf("log or metrics hold %q", s)
		}
	}
}

// What one recipient has is of no use at another recipient's link to the same
// message: neither cookie nor code.
func TestRecipientsOfOneMessageAreApart(t *testing.T) {
	b := newBench(t)
	b.seal(message([]byte("Subject: x\r\n\r\nfor both\r\n"), escrow.Recipient{Address: "a@old.example"}, escrow.Recipient{Address: "b@old.example"}))
	links := map[string]*escrow.Pickup{}
	secrets := map[string]string{}
	for _, e := range b.mails() {
		m := linkLine.FindSubmatch(e.Text)
		links[e.To], secrets[e.To] = b.pickup(string(m[1]), string(m[2])), string(m[2])
	}
	mine, theirs := links["a@old.example"], links["b@old.example"]
	code := b.code(mine)
	if _, err := b.Verify(t.Context(), theirs, code, stranger); !errors.Is(err, escrow.ErrWrong) {
		t.Errorf("another recipient's code: %v", err)
	}
	token, err := b.Verify(t.Context(), mine, code, stranger)
	b.must(err)
	if _, err := b.CheckToken(t.Context(), theirs, token); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("another recipient's device: %v", err)
	}
	session, err := b.CheckToken(t.Context(), mine, token)
	b.must(err)
	if _, err := b.Open(t.Context(), theirs, session); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("another recipient's session: %v", err)
	}
	// A device, which is verified for all messages to the one, is not for the other's: not by
	// the cookie under the other's name, nor by what the cookie stands for, nor in the inbox.
	grant := b.prove(mine, b.code(mine))
	device := b.device(mine, grant)
	if _, err := b.CheckDevice(t.Context(), theirs.Tag, grant.Token); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("a cookie under another recipient's name: %v", err)
	}
	if _, err := b.Admit(t.Context(), theirs, device); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("another recipient's device is admitted: %v", err)
	}
	if p, _, err := b.InboxOpen(t.Context(), device, theirs.ItemID); err != nil || p.Recipient != "a@old.example" {
		t.Errorf("the inbox opens the copy of %v, %v", p, err)
	}
	for to, want := range map[string]error{"a@old.example": nil, "b@old.example": escrow.ErrUnknown} {
		id := b.seal(message([]byte("for one: "+to), escrow.Recipient{Address: to}))[0]
		if _, _, err := b.InboxOpen(t.Context(), device, id); !errors.Is(err, want) {
			t.Errorf("the inbox opens what is for %s: %v", to, err)
		}
	}
	if items, _, err := b.Inbox(t.Context(), device, escrow.InboxQuery{}); err != nil || len(items) != 2 {
		t.Errorf("the inbox lists %d messages, %v", len(items), err)
	}
	// The browser of one, at the link of the other, under every name of a cookie.
	srv := b.site(prometheus.NewRegistry())
	client := browser()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	at := srv.URL + "/x/m/" + theirs.ItemID + "/" + secrets["b@old.example"]
	own, _ := fetch(t, client, at+"/code", url.Values{}) // sets a cookie of the other's name
	u, _ := url.Parse(at)
	u.Path = path.Dir(u.Path)
	var fixed []*http.Cookie
	for _, c := range own.Cookies() {
		fixed = append(fixed, &http.Cookie{Name: strings.Replace(c.Name, "sent", "device", 1), Value: token})
	}
	if len(fixed) == 0 {
		t.Fatal("no cookie to rename")
	}
	client.Jar.SetCookies(u, fixed)
	for _, p := range []string{"/message", "/html", "/raw", "/part/1"} {
		if r, body := fetch(t, client, at+p, nil); r.StatusCode != http.StatusSeeOther || strings.Contains(body, "for both") {
			t.Errorf("%s: %s", p, r.Status)
		}
	}
}

// A recipient is limited over all messages, however the address is written; and a
// clock that is set back, or a new link, makes no new tries.
func TestARecipientIsLimitedOverAllMessages(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	var pickups []*escrow.Pickup
	for i, to := range []string{recipient, "pat@OLD.example", "PAT@old.example.", recipient} {
		b.seal(message([]byte{byte(i)}, escrow.Recipient{Address: to}))
		pickups = append(pickups, b.pickup(b.link(to)))
	}
	checked := 0
	for i, p := range pickups {
		for j := range 4 { // no pickup of its own is locked by so many
			if _, err := b.Verify(ctx, p, fmt.Sprintf("0000%02d%02d", i, j), escrow.Client{}); errors.Is(err, escrow.ErrWrong) {
				checked++
			} else if !isLocked(err) {
				t.Fatal(err)
			}
			b.pass(-time.Hour)
		}
	}
	if checked != 10 {
		t.Errorf("%d tries against one recipient were checked", checked)
	}
	secretOf(t, b, pickups[0])
	if _, err := b.Verify(ctx, pickups[0], "00000000", escrow.Client{}); !isLocked(err) {
		t.Errorf("after a new link: %v", err)
	}
}

// A passphrase that is set after a message was sealed is needed at its next link,
// and a setting that was taken back does not weaken one.
func TestAPassphraseSetLater(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	id := b.seal(message([]byte("x")))[0]
	old := b.pickup(b.link(recipient))
	code := b.code(old)
	b.must(b.SetRecipient(ctx, recipient, escrow.VerifyPassphrase, []byte("seven grey herons")))
	if got := b.open(old, code); string(got) != "x" {
		t.Errorf("the link from before: %q", got)
	}
	b.must(b.Resend(ctx, id, ""))
	mails, _, err := b.Due(ctx, 10)
	b.must(err)
	if len(mails) != 1 || mails[0].Kind != "notice" || !bytes.Contains(mails[0].Text, []byte("passphrase that you have agreed on")) {
		t.Errorf("the notice: %d mails\n%s", len(mails), mails[0].Text)
	}
	p := b.pickup(b.link(recipient))
	if p.Verify != escrow.VerifyPassphrase {
		t.Fatalf("the new link wants a %s", p.Verify)
	}
	if err := b.SendCode(ctx, p, stranger); err == nil {
		t.Error("a code was sent")
	}
	if _, err := b.Verify(ctx, p, code, stranger); !errors.Is(err, escrow.ErrWrong) {
		t.Errorf("the old code: %v", err)
	}
	if got := b.open(p, "seven grey herons"); string(got) != "x" {
		t.Errorf("got %q", got)
	}
	b.must(b.SetRecipient(ctx, recipient, escrow.VerifyCode, nil))
	if err := b.Resend(ctx, id, ""); !errors.Is(err, escrow.ErrNoPassphrase) {
		t.Errorf("without the passphrase: %v", err)
	}
	if got := b.open(p, "seven grey herons"); string(got) != "x" {
		t.Errorf("the link that there was: %q", got)
	}
}

// A right answer in the middle of a flood of wrong ones gives no more tries than
// the limits do, whoever hangs up when.
func TestHangingUpSavesNoTry(t *testing.T) {
	b := newBench(t)
	b.seal(message([]byte("x")))
	p := b.pickup(b.link(recipient))
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 {
		if _, err := b.Verify(gone, p, "00000000", escrow.Client{}); err == nil {
			t.Fatal("verified")
		}
	}
	checked := 0
	for range 20 {
		if _, err := b.Verify(t.Context(), p, "00000000", escrow.Client{}); errors.Is(err, escrow.ErrWrong) {
			checked++
		}
	}
	if checked != 5 {
		t.Errorf("%d tries", checked)
	}
}

// A scanner in the sender's mailbox follows the link to the sender's page, all that is on it,
// and presses every button that it finds there, twice over, with and without something in
// the fields. The recipient keeps the message and the account.
func TestAScannerInTheSendersMailbox(t *testing.T) {
	b := newBench(t)
	b.withSenders("sealed")
	p := b.accountItem(recipient)
	b.enrolled(p)
	b.seal(message([]byte("Subject: lab values\r\n\r\nfine\r\n"), escrow.Recipient{Address: recipient, Verify: escrow.VerifyAccount}, escrow.Recipient{Address: "second@old.example"}))
	var page string
	for _, e := range b.mails() {
		if e.Kind == "sealed" {
			item, token := senderToken(t, e.Text)
			page = "/x/s/" + item + "/" + token
		}
	}
	srv := b.site(prometheus.NewRegistry())
	asked := map[string]bool{}
	for _, filling := range []string{"", "x", "0000", "1234", "test@example.com"} {
		scanner := browser()
		next, seen := []string{page}, map[string]bool{page: true}
		for len(next) > 0 {
			_, got := fetch(t, scanner, srv.URL+next[0], nil)
			next = next[1:]
			for _, part := range strings.SplitAfter(got, "</form>") {
				fields := url.Values{}
				for _, m := range regexp.MustCompile(`name="([a-z]+)"(?: value="([^"]*)")?`).FindAllStringSubmatch(part, -1) {
					if fields.Set(m[1], m[2]); m[1] == "sure" {
						fields.Set("sure", filling)
					}
				}
				for _, m := range formOrLink.FindAllStringSubmatch(part, -1) {
					to, _, _ := strings.Cut(m[2], "#")
					switch {
					case m[1] == "action" && !strings.HasSuffix(to, "/passphrase"): // which wants one to be thought up
						asked[path.Base(to)] = true
						fetch(t, scanner, srv.URL+to, fields)
					case m[1] == "href" && strings.HasPrefix(to, page) && !seen[to] && !strings.Contains(to, "lang="):
						seen[to] = true
						next = append(next, to)
					}
				}
			}
		}
	}
	if !asked["retract"] || !asked["reset"] || !asked["resend"] {
		t.Errorf("the scanner has found %v", asked)
	}
	list, err := b.List(t.Context(), escrow.Filter{State: escrow.StateHeld})
	if err != nil || len(list) != 3 {
		t.Errorf("of three recipients' messages %d can be read, %v", len(list), err)
	}
	if b.count(`SELECT count(*) FROM escrow_account`) != 1 {
		t.Error("the account is gone")
	}
}
