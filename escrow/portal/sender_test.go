package portal

import (
	"context"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/lab/chromium"
)

const testSenderToken = "senderstokenofthirtytwocharacters"

// fakeSenders shows one message of several recipients, and notes what is asked for.
type fakeSenders struct {
	view escrow.SenderView
	err  error // of every action
	done []string
}

func newFakeSenders() *fakeSenders {
	at := func(d time.Duration) time.Time { return testNow.Add(d) }
	r := func(id, address, state string, change func(*escrow.SenderRecipient)) escrow.SenderRecipient {
		out := escrow.SenderRecipient{
			ID: id, Address: address, State: state, Notice: escrow.NoticeSent, Verify: escrow.VerifyAccount, CanResend: true,
			Expires: at(3 * 24 * time.Hour), Events: []escrow.Event{{At: at(-2 * time.Hour), What: escrow.EventNotice}},
		}
		if state == escrow.StateHeld || state == escrow.StateRead {
			out.ExtendTo = at(30 * 24 * time.Hour)
		}
		if change != nil {
			change(&out)
		}
		return out
	}
	return &fakeSenders{view: escrow.SenderView{
		ItemID: testItem, Sender: testSender, Mode: escrow.ModeRecoverable, Size: 123456,
		Created: at(-2 * time.Hour), Expires: at(3 * 24 * time.Hour),
		Recipients: []escrow.SenderRecipient{
			r("p1", testHolder, escrow.StateRead, func(r *escrow.SenderRecipient) {
				r.Enrolled, r.ReadHow, r.ReadAt = true, "passkey", at(-time.Hour)
				for i, what := range []string{escrow.EventCode, escrow.EventEnrolled, escrow.EventVerified, escrow.EventRead, escrow.EventDownload, escrow.EventReply, escrow.EventExtended} {
					r.Events = append(r.Events, escrow.Event{At: at(time.Duration(i-60) * time.Minute), What: what, Detail: map[string]string{escrow.EventEnrolled: "passkey", escrow.EventVerified: "passkey", escrow.EventRead: "passkey"}[what]})
				}
			}),
			r("p2", "held@old.example", escrow.StateHeld, func(r *escrow.SenderRecipient) { r.Locked = at(20 * time.Minute) }),
			r("p3", "bounced@old.example", escrow.StateHeld, func(r *escrow.SenderRecipient) { r.Notice = escrow.NoticeBounced }),
			r("p4", "gone@old.example", escrow.StateRetracted, nil),
			r("p5", "late@old.example", escrow.StateExpired, nil),
			r("p6", strings.Repeat("long", 15)+"@old.example", escrow.StateHeld, func(r *escrow.SenderRecipient) {
				r.Verify, r.NeedsPhrase, r.Notice = escrow.VerifyPassphrase, true, escrow.NoticeQueued
			}),
		},
	}}
}

func (f *fakeSenders) SenderView(_ context.Context, item, token string) (*escrow.SenderView, error) {
	if item != testItem || token != testSenderToken {
		return nil, escrow.ErrUnknown
	}
	v := f.view
	return &v, nil
}

func (f *fakeSenders) act(what, pickup string) error {
	f.done = append(f.done, strings.TrimSpace(what+" "+pickup))
	return f.err
}

func (f *fakeSenders) SenderExtend(_ context.Context, _ *escrow.SenderView, pickup string) (time.Time, error) {
	return testNow, f.act("extend", pickup)
}
func (f *fakeSenders) SenderResend(_ context.Context, _ *escrow.SenderView, pickup string) error {
	return f.act("resend", pickup)
}
func (f *fakeSenders) SenderRetract(_ context.Context, _ *escrow.SenderView, pickup string) error {
	return f.act("retract", pickup)
}
func (f *fakeSenders) SenderPassphrase(_ context.Context, _ *escrow.SenderView, pickup, phrase string) error {
	if len(phrase) < escrow.MinPassphrase {
		return &escrow.PassphraseError{Err: http.ErrBodyNotAllowed}
	}
	return f.act("passphrase", pickup)
}
func (f *fakeSenders) SenderReset(_ context.Context, _ *escrow.SenderView, pickup string) error {
	return f.act("reset", pickup)
}
func (f *fakeSenders) Downloaded(context.Context, *escrow.Pickup) {}

func senderSite(t *testing.T, f *fakeSenders) *testSite {
	s := newTestSite(t, newFakeVault(crlf(plainLetter)), func(c *Config) { c.Senders = f })
	s.link = s.link[:strings.Index(s.link, "/m/")] + "/s/" + testItem + "/" + testSenderToken
	return s
}

func TestSenderPage(t *testing.T) {
	f := newFakeSenders()
	s := senderSite(t, f)
	a := s.get("")
	if a.StatusCode != 200 {
		t.Fatal(a.Status)
	}
	for _, want := range []string{testHolder, "held@old.example", "gone@old.example", testItem, "passkey"} {
		if !strings.Contains(a.body, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(s.log.String(), testSenderToken) {
		t.Error("the token stands in the log")
	}
	for _, path := range []string{"", "/retract", "/retract?to=p2", "/passphrase?to=p2", "/reset?to=p1", "?done=extend", "?done=<script>"} {
		if a := s.get(path); a.StatusCode != 200 || strings.Contains(a.body, "<script>") {
			t.Errorf("GET %s: %s", path, a.Status)
		}
	}
	for _, path := range []string{"/passphrase", "/reset?to=p2", "/retract?to=p4", "/retract?to=nobody", "/passphrase?to=p5"} {
		if a := s.get(path); a.StatusCode != 303 {
			t.Errorf("GET %s, which is about nothing that can be done: %s", path, a.Status)
		}
	}
	for _, path := range []string{"/extend", "/resend"} {
		if a := s.get(path); a.StatusCode < 400 {
			t.Errorf("GET %s: %s", path, a.Status)
		}
	}
	for _, act := range []string{"", "/extend", "/resend", "/retract", "/passphrase", "/reset"} {
		s.do("HEAD", act+"?to=p1", nil, nil)
		s.do("GET", act+"?to=p1&sure=1234&phrase=seven+grey+herons", nil, nil)
	}
	if len(f.done) > 0 {
		t.Errorf("GET or HEAD did %q", f.done)
	}
	s.link = s.link[:len(s.link)-1]
	if a := s.get(""); a.StatusCode != 404 || !strings.Contains(a.body, "There is no message here") {
		t.Errorf("a wrong link: %s", a.Status)
	}
}

var numberLine = regexp.MustCompile(`To go on, type (\d{4}) here`)

// number returns what the page that asks wants to be typed.
func (s *testSite) number(path, to string) string {
	s.t.Helper()
	m := numberLine.FindStringSubmatch(s.get(path + to).body)
	if m == nil {
		s.t.Fatalf("%s%s asks for no number", path, to)
	}
	return m[1][:2] + " " + m[1][2:] // as people type
}

func TestSenderActs(t *testing.T) {
	for _, c := range []struct {
		path   string
		fields []string
		err    error
		status int
		done   string
	}{
		{"/extend", []string{"to", "p2"}, nil, 303, "extend p2"},
		{"/extend", []string{"to", ""}, nil, 303, "extend"},
		{"/resend", []string{"to", "p2"}, nil, 303, "resend p2"},
		{"/resend", []string{"to", "p2"}, &escrow.LockedError{Until: testNow.Add(time.Hour)}, 429, "resend p2"},
		{"/resend", []string{"to", "p6"}, escrow.ErrNoPassphrase, 303, "resend p6"},
		{"/resend", []string{"to", "p4"}, escrow.ErrUnknown, 409, "resend p4"},
		{"/retract", []string{"to", "", "sure", "all"}, nil, 303, "retract"},
		{"/retract", []string{"to", "p2", "sure", "p2"}, nil, 303, "retract p2"},
		{"/retract", []string{"to", "p2", "sure", "all"}, nil, 422, ""},
		{"/retract", []string{"to", "p2", "sure", "1"}, nil, 422, ""},
		{"/retract", []string{"to", ""}, nil, 422, ""},
		{"/retract", []string{"to", "p4"}, nil, 409, ""},
		{"/reset", []string{"to", "p1"}, nil, 422, ""},
		{"/passphrase", []string{"to", "p2", "phrase", "seven grey herons"}, nil, 303, "passphrase p2"},
		{"/passphrase", []string{"to", "p2", "phrase", "x"}, nil, 422, ""},
		{"/reset", []string{"to", "p1", "sure", "p1"}, nil, 303, "reset p1"},
		{"/reset", []string{"to", "p1", "sure", "p1"}, http.ErrServerClosed, 503, "reset p1"},
	} {
		f := newFakeSenders()
		f.err = c.err
		s := senderSite(t, f)
		fields := slices.Clone(c.fields)
		if len(fields) == 4 && fields[2] == "sure" && fields[3] != "1" {
			fields[3] = s.number(c.path, map[bool]string{true: "?to=" + fields[3]}[fields[3] != "all"])
		}
		a := s.post(c.path, fields...)
		if a.StatusCode != c.status || strings.Join(f.done, ",") != c.done {
			t.Errorf("%s %q: %s, did %q", c.path, c.fields, a.Status, f.done)
		}
		if strings.Contains(s.log.String(), "herons") {
			t.Errorf("%s: the passphrase stands in the log", c.path)
		}
		if a := s.do("POST", c.path, map[string][]string{"to": {"p2"}}, http.Header{"Sec-Fetch-Site": {"cross-site"}}); a.StatusCode != 403 {
			t.Errorf("%s from another site: %s", c.path, a.Status)
		}
	}
}

// TestLooksOfSenders visits the sender's page in its states.
func TestLooksOfSenders(t *testing.T) {
	ctx := chromium.Start(t, chromium.OnlyLoopback)
	one := newFakeSenders()
	one.view.Mode, one.view.Recipients = escrow.ModeSealed, one.view.Recipients[1:2]
	one.view.Recipients[0].CanResend = false
	three := newFakeSenders()
	three.view.Recipients = three.view.Recipients[:3]
	for _, c := range []struct {
		name, path string
		f          *fakeSenders
	}{
		{"sender", "", three},
		{"sender-all-states", "", newFakeSenders()},
		{"sender-done", "?done=resend", newFakeSenders()},
		{"sender-sealed", "", one},
		{"sender-retract", "/retract?to=p2", newFakeSenders()},
		{"sender-passphrase", "/passphrase?to=p2", newFakeSenders()},
		{"sender-reset", "/reset?to=p1", newFakeSenders()},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := senderSite(t, c.f)
			chromium.Do(t, ctx, chromedp.EmulateViewport(360, 740), chromedp.Navigate(s.link+c.path))
			if c.name == "sender" {
				chromium.Eval[int](t, ctx, `document.querySelectorAll("details").forEach(d => d.open = true), 0`)
			}
			looks(t, ctx, c.name)
		})
	}
}
