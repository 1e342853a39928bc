package escrow_test

import (
	"context"
	"errors"
	"net/mail"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/notify"
)

// withSenders makes a vault of the bench that knows clinic.example for its own and
// sends all mails to senders, or those of what.
func (b *bench) withSenders(what ...string) {
	b.t.Helper()
	if what == nil {
		what = escrow.SenderMails()
	}
	b.Vault = b.vault(b.keys, func(o *escrow.Options) {
		o.SenderMail = what
		o.OwnDomain = func(_ context.Context, domain string) (bool, error) { return domain == "clinic.example", nil }
	})
}

// kinds lists the mails to senders in the outbox, and takes all out.
func kinds(b *bench) (list []string, mails []notify.Entry) {
	b.t.Helper()
	for _, m := range b.mails() {
		if m.Kind == "notice" || m.Kind == "code" {
			continue
		}
		kind := m.Kind
		parsed, err := mail.ReadMessage(strings.NewReader(string(m.Text)))
		b.must(err)
		if m.From != "" || parsed.Header.Get("Auto-Submitted") == "" {
			b.t.Errorf("may be answered: %s", m.Text)
		}
		if got := regexp.MustCompile(`(?m)^Action: (\w+)`).FindSubmatch(m.Text); got != nil {
			kind += "/" + string(got[1])
		}
		if strings.Contains(string(m.Text), "report-type=disposition-notification") {
			kind += "/receipt"
		}
		list, mails = append(list, kind), append(mails, m)
	}
	slices.Sort(list)
	return list, mails
}

func TestWhatSendersAreTold(t *testing.T) {
	own, foreign := sender, "x@elsewhere.example"
	const all, none = "all", "none"
	tests := []struct {
		name, sender, notify, set string
		receipt                   bool
		sealed, read              string
		expiring, expired         string // of an unread one
		retracted, bounced        string
	}{
		{"nothing asked, all set", own, "", all, false, "sealed", "read", "expiring", "expired/failed", "retracted/failed", "failure/failed"},
		{"nothing asked, nothing set", own, "", none, false, "", "", "", "", "", ""},
		{"a sender elsewhere gets what nobody may lose", foreign, "", all, false, "", "", "", "expired/failed", "retracted/failed", "failure/failed"},
		{"never", own, "NEVER", all, false, "", "", "", "", "", ""},
		{"success", own, "SUCCESS", none, false, "", "read/delivered", "", "", "", ""},
		{"success instead of the mail", own, "SUCCESS", all, false, "sealed", "read/delivered", "expiring", "", "", ""},
		{"delay instead of the mail", own, "DELAY", all, false, "sealed/delayed", "read", "expiring", "", "", ""},
		{"delay and failure, nothing set", own, "FAILURE,DELAY", none, false, "sealed/delayed", "", "", "expired/failed", "retracted/failed", "failure/failed"},
		{"all, elsewhere", foreign, "SUCCESS,FAILURE,DELAY", none, false, "sealed/delayed", "read/delivered", "", "expired/failed", "retracted/failed", "failure/failed"},
		{"a receipt instead of the mail", own, "", all, true, "sealed", "read/receipt", "expiring", "expired/failed", "retracted/failed", "failure/failed"},
		{"a receipt, though never a report", own, "NEVER", none, true, "", "read/receipt", "", "", "", ""},
		{"both that were asked for", own, "SUCCESS", none, true, "", "read/delivered read/receipt", "", "", "", ""},
		{"the null sender", "", "SUCCESS,FAILURE,DELAY", all, true, "", "", "", "", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			if tt.set == none {
				b.withSenders("reply")
			} else {
				b.withSenders()
			}
			body := "Message-ID: <one@clinic.example>\r\nSubject: a word\r\n"
			if tt.receipt {
				body += "Disposition-Notification-To: <" + tt.sender + ">\r\n"
			}
			n := 0
			start := func() (item, secret string, token string) {
				n++
				m := message([]byte(body+"\r\n"+strings.Repeat("x", n)), escrow.Recipient{Address: recipient, Notify: tt.notify, ORCPT: "rfc822;P+2Bx@old.example"})
				m.Sender, m.EnvID, m.Ret = tt.sender, "id 1", "FULL"
				b.seal(m)
				var list []string
				for _, e := range b.mails() {
					switch e.Kind {
					case "notice":
						got := linkLine.FindSubmatch(e.Text)
						item, secret = string(got[1]), string(got[2])
						token, _ = b.IsBounceAddress(e.From)
					default:
						kind := e.Kind
						if strings.Contains(string(e.Text), "Action: delayed") {
							kind += "/delayed"
						}
						list = append(list, kind)
					}
				}
				if got := strings.Join(list, " "); got != tt.sealed {
					t.Errorf("sealed: %q, want %q", got, tt.sealed)
				}
				return item, secret, token
			}
			check := func(what, want string) {
				t.Helper()
				got, mails := kinds(b)
				if strings.Join(got, " ") != want {
					t.Errorf("%s: %q, want %q", what, got, want)
				}
				for _, m := range mails {
					text := string(m.Text)
					if m.To != tt.sender || strings.Contains(text, "a word") || strings.Contains(text, "xxx") {
						t.Errorf("%s, to %s: %s", what, m.To, text)
					}
					if strings.Contains(text, "/s/") != (tt.sender == own) {
						t.Errorf("%s: a link to the page? %s", what, text)
					}
				}
			}
			item, secret, _ := start()
			p := b.pickup(item, secret)
			if p.Receipt != (tt.receipt && tt.sender != "") {
				t.Errorf("the page says receipt: %v", p.Receipt)
			}
			first, second := b.code(p), b.code(p)
			b.open(p, first)
			b.open(b.pickup(item, secret), second) // once more: nothing more
			check("read", tt.read)
			b.pass(31 * 24 * time.Hour)
			b.Expire(t.Context())
			check("expired after it was read", "")

			start()
			b.pass(27*24*time.Hour - time.Second)
			b.Expire(t.Context())
			check("long before", "")
			b.pass(time.Second)
			b.Expire(t.Context())
			check("expiring", tt.expiring)
			b.pass(3 * 24 * time.Hour)
			b.Expire(t.Context())
			check("expired", tt.expired)
			b.Expire(t.Context())
			check("expired, again", "")

			item, _, _ = start()
			b.must(b.Retract(t.Context(), item, ""))
			b.Expire(t.Context())
			check("retracted", tt.retracted)

			_, _, token := start()
			for range 2 {
				b.must(b.Bounced(t.Context(), token, "", strings.NewReader(strings.Replace(dsn, "ACTION", "failed", 1))))
			}
			check("bounced", tt.bounced)
			b.pass(31 * 24 * time.Hour)
			b.Expire(t.Context())
			want := ""
			if tt.bounced == "" {
				want = tt.expired
			}
			check("expired after it bounced", want)
		})
	}
}

// Of several processes one tells the sender, once for all recipients.
func TestSendersAreToldOnce(t *testing.T) {
	b := newBench(t)
	b.withSenders("expired")
	other := b.vault(b.keys)
	b.seal(message([]byte("x"), escrow.Recipient{Address: "a@old.example"}, escrow.Recipient{Address: "b@old.example"}))
	b.mails()
	b.pass(31 * 24 * time.Hour)
	var wg sync.WaitGroup
	for _, v := range []*escrow.Vault{b.Vault, other, b.Vault, other} {
		wg.Go(func() {
			if _, err := v.Expire(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got, mails := kinds(b)
	if len(got) != 1 || strings.Count(string(mails[0].Text), "Action: failed") != 2 {
		t.Errorf("told %v", got)
	}
}

// token reads the link to the sender's page out of a mail.
func senderToken(t *testing.T, text []byte) (item, token string) {
	t.Helper()
	got := regexp.MustCompile(`(?m)^https://portal\.clinic\.example/x/s/([a-z2-7]{26})/([a-z2-7]+)\r$`).FindSubmatch(text)
	if got == nil {
		t.Fatalf("no link in\n%s", text)
	}
	return string(got[1]), string(got[2])
}

func TestSenderView(t *testing.T) {
	b := newBench(t)
	b.withSenders("sealed")
	ctx := t.Context()
	b.seal(message([]byte("Subject: s\r\n\r\nx"), escrow.Recipient{Address: recipient}, escrow.Recipient{Address: "second@old.example"}))
	var token, item, secret string
	for _, e := range b.mails() {
		switch {
		case e.Kind == "sealed":
			item, token = senderToken(t, e.Text)
		case e.To == recipient:
			got := linkLine.FindSubmatch(e.Text)
			secret = string(got[2])
		}
	}
	for _, bad := range [][2]string{{item, ""}, {item, token[1:]}, {item, secret}, {"a" + item[1:], token}, {item, token + "a"}, {item, strings.Repeat("a", 32)}} {
		if _, err := b.SenderView(ctx, bad[0], bad[1]); !errors.Is(err, escrow.ErrUnknown) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	view := func() *escrow.SenderView {
		t.Helper()
		v, err := b.SenderView(ctx, item, token)
		b.must(err)
		return v
	}
	of := func(address string) escrow.SenderRecipient {
		t.Helper()
		for _, r := range view().Recipients {
			if r.Address == address {
				return r
			}
		}
		t.Fatal("no " + address)
		return escrow.SenderRecipient{}
	}
	p := b.pickup(item, secret)
	b.open(p, b.code(p))
	if r := of(recipient); r.State != escrow.StateRead || r.ReadHow != escrow.VerifyCode || r.ReadAt.IsZero() || len(r.Events) < 3 {
		t.Errorf("%+v", r)
	}
	if r := of("second@old.example"); r.State != escrow.StateHeld || r.Notice != escrow.NoticeSent || !r.CanResend || len(r.Events) != 1 {
		t.Errorf("%+v", r)
	}

	// Extended: device and link stay good for the new time.
	b.pass(29 * 24 * time.Hour)
	until, err := b.SenderExtend(ctx, view(), of(recipient).ID)
	b.must(err)
	if !until.Equal(b.clock().Add(escrow.DefaultLifetime)) || !of(recipient).Expires.Equal(until) || of("second@old.example").Expires.Equal(until) {
		t.Errorf("extended to %v: %+v", until, view())
	}
	b.pass(2 * 24 * time.Hour)
	b.Expire(ctx)
	if r := of("second@old.example"); r.State != escrow.StateExpired || !r.Over() {
		t.Errorf("%+v", r)
	}
	if err := b.SenderResend(ctx, view(), of("second@old.example").ID); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("resend of what is over: %v", err)
	}
	p = b.pickup(item, secret)
	b.open(p, b.code(p))
	b.mails()

	// A passphrase, for this message alone.
	var bad *escrow.PassphraseError
	if err := b.SenderPassphrase(ctx, view(), of(recipient).ID, "short"); !errors.As(err, &bad) {
		t.Errorf("a short one: %v", err)
	}
	b.must(b.SenderPassphrase(ctx, view(), of(recipient).ID, "seven grey herons"))
	if _, err := b.Pickup(ctx, item, secret); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("the old link: %v", err)
	}
	_, secret = b.link(recipient)
	p = b.pickup(item, secret)
	if p.Verify != escrow.VerifyPassphrase || !of(recipient).NeedsPhrase {
		t.Errorf("%+v", p)
	}
	b.open(p, "seven grey herons")
	if set, err := b.Recipients(ctx); err != nil || len(set) != 0 {
		t.Errorf("it is set for other messages too: %v %v", set, err)
	}
	if err := b.SenderResend(ctx, view(), of(recipient).ID); !errors.Is(err, escrow.ErrNoPassphrase) {
		t.Errorf("a new link without it: %v", err)
	}
	var locked *escrow.LockedError
	b.SenderPassphrase(ctx, view(), of(recipient).ID, "seven grey herons")
	if err := b.SenderPassphrase(ctx, view(), of(recipient).ID, "seven grey herons"); !errors.As(err, &locked) {
		t.Errorf("as many mails as one likes: %v", err)
	}
	b.mails()
	b.must(b.SenderRetract(ctx, view(), ""))
	if got, _ := kinds(b); len(got) != 0 {
		t.Errorf("told of what the sender did: %v", got)
	}
	if r := of(recipient); r.State != escrow.StateRetracted || r.Events[len(r.Events)-1].Detail != "sender" {
		t.Errorf("%+v", r)
	}
	if err := b.SenderRetract(ctx, view(), ""); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("again: %v", err)
	}
	if _, err := b.SenderExtend(ctx, view(), ""); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("extended after the end: %v", err)
	}
}

// The page of the sender, by HTTP, as a person uses it.
func TestSenderPage(t *testing.T) {
	b := newBench(t)
	b.withSenders("sealed")
	b.seal(message([]byte("Subject: secret word\r\n\r\nx"), escrow.Recipient{Address: recipient}, escrow.Recipient{Address: "second@old.example"}))
	var item, token string
	for _, e := range b.mails() {
		if e.Kind == "sealed" {
			item, token = senderToken(t, e.Text)
		}
	}
	srv := b.site(prometheus.NewRegistry())
	c := browser()
	page := srv.URL + "/x/s/" + item + "/" + token
	r, body := fetch(t, c, page, nil)
	if r.StatusCode != 200 || r.Header.Get("Cache-Control") != "no-store" || !strings.Contains(body, recipient) || strings.Contains(body, "secret word") {
		t.Errorf("%d %v\n%s", r.StatusCode, r.Header, body)
	}
	ids := regexp.MustCompile(`name="to" value="([a-z2-7]{26})"`).FindAllStringSubmatch(body, -1)
	if len(ids) == 0 {
		t.Fatalf("no recipient can be chosen:\n%s", body)
	}
	to := ids[0][1]
	// What asks changes nothing, nor does what has no right link.
	for _, path := range []string{"/retract", "/retract?to=" + to, "/passphrase?to=" + to} {
		if r, body := fetch(t, c, page+path, nil); r.StatusCode != 200 || !strings.Contains(body, "<form") {
			t.Errorf("%s: %d %s", path, r.StatusCode, body)
		}
	}
	if r, _ := fetch(t, c, srv.URL+"/x/s/"+item+"/"+token[1:]+"a/retract", url.Values{"to": {""}}); r.StatusCode != 404 {
		t.Errorf("a stranger: %d", r.StatusCode)
	}
	if list, _ := b.List(t.Context(), escrow.Filter{State: escrow.StateHeld}); len(list) != 2 {
		t.Fatalf("changed: %v", list)
	}
	if r, body := fetch(t, c, page+"/resend", url.Values{"to": {to}}); r.StatusCode != 200 || !strings.Contains(body, "A new link is on its way") {
		t.Errorf("resend: %d %s", r.StatusCode, body)
	}
	if r, body := fetch(t, c, page+"/passphrase", url.Values{"to": {to}, "phrase": {"short"}}); r.StatusCode != 422 || !strings.Contains(body, `value="short"`) {
		t.Errorf("a short passphrase: %d %s", r.StatusCode, body)
	}
	if r, body := fetch(t, c, page+"/passphrase", url.Values{"to": {to}, "phrase": {"seven grey herons"}}); r.StatusCode != 200 || strings.Contains(body, "herons") {
		t.Errorf("passphrase: %d %s", r.StatusCode, body)
	}
	fetch(t, c, page+"/passphrase", url.Values{"to": {to}, "phrase": {"seven grey herons"}})
	if r, body := fetch(t, c, page+"/passphrase", url.Values{"to": {to}, "phrase": {"seven grey herons"}}); r.StatusCode != 429 || r.Header.Get("Retry-After") == "" || !strings.Contains(body, "too many") {
		t.Errorf("too often: %d %s", r.StatusCode, body)
	}
	b.pass(10 * 24 * time.Hour)
	if r, body := fetch(t, c, page+"/extend", url.Values{"to": {""}}); r.StatusCode != 200 || strings.Count(body, "10 January 2027") < 2 {
		t.Errorf("extend: %d %s", r.StatusCode, body)
	}
	sure := func(act string) string {
		_, body := fetch(t, c, page+act+"?to="+to, nil)
		if m := regexp.MustCompile(`type (\d{4}) here`).FindStringSubmatch(body); m != nil {
			return m[1]
		}
		return ""
	}
	if r, body := fetch(t, c, page+"/retract", url.Values{"to": {to}}); r.StatusCode != 422 || !strings.Contains(body, "Nothing was done") {
		t.Errorf("retract by a button alone: %d %s", r.StatusCode, body)
	}
	if r, body := fetch(t, c, page+"/reset", url.Values{"to": {to}, "sure": {sure("/reset")}}); r.StatusCode != 409 || !strings.Contains(body, "too late") {
		t.Errorf("reset of no account: %d %s", r.StatusCode, body)
	}
	if r, body := fetch(t, c, page+"/retract", url.Values{"to": {to}, "sure": {sure("/retract")}}); r.StatusCode != 200 || !strings.Contains(body, "Taken back unread") {
		t.Errorf("retract: %d %s", r.StatusCode, body)
	}
	if r, body := fetch(t, c, page+"/extend", url.Values{"to": {"nobody"}}); r.StatusCode != 409 {
		t.Errorf("nobody: %d %s", r.StatusCode, body)
	}
	if list, _ := b.List(t.Context(), escrow.Filter{State: escrow.StateHeld}); len(list) != 1 {
		t.Errorf("left: %v", list)
	}
	for _, secret := range []string{token, "herons"} {
		if strings.Contains(b.logs.String(), secret) {
			t.Errorf("%q in the log:\n%s", secret, b.logs)
		}
	}
}

// A store that fails to note events fails nobody.
func TestEventsFailNobody(t *testing.T) {
	b := newBench(t)
	b.seal(message([]byte("x")))
	item, secret := b.link(recipient)
	p := b.pickup(item, secret)
	for range 3 { // repeats are kept once
		b.code(p)
	}
	events, err := b.db.Events(t.Context(), item)
	b.must(err)
	n := 0
	for _, list := range events {
		for _, e := range list {
			if e.What == escrow.EventCode {
				n++
			}
		}
	}
	if n != 1 {
		t.Errorf("%d codes noted", n)
	}
}
