package e2e

import (
	"bufio"
	"bytes"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	netmail "net/mail"
	"net/textproto"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/internal/lab"
	"github.com/postseal/postseal/internal/lab/fakesmtp"
)

// received is a mail that a sender got.
type received struct {
	netmail.Header
	text   string                 // plain text, or the first part
	groups []textproto.MIMEHeader // of the machine's part: of the message, then of each recipient
	third  string
	raw    []byte
}

func (r received) kind() string {
	_, params, _ := mime.ParseMediaType(r.Get("Content-Type"))
	return params["report-type"]
}

func parseReceived(t *testing.T, raw []byte) received {
	t.Helper()
	m, err := netmail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	r := received{Header: m.Header, raw: raw}
	kind, params, _ := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if kind != "multipart/report" {
		b, _ := io.ReadAll(m.Body)
		r.text = string(b)
		return r
	}
	parts := multipart.NewReader(m.Body, params["boundary"])
	for n := 0; ; n++ {
		p, err := parts.NextPart()
		if err == io.EOF {
			return r
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, raw)
		}
		b, _ := io.ReadAll(p)
		switch n {
		case 0:
			r.text = string(b)
		case 1:
			fields := textproto.NewReader(bufio.NewReader(bytes.NewReader(append(b, "\r\n\r\n"...))))
			for {
				h, err := fields.ReadMIMEHeader()
				if len(h) > 0 {
					r.groups = append(r.groups, h)
				}
				if err != nil {
					break
				}
			}
		default:
			r.third = string(b)
		}
	}
}

// told waits until the mailbox of a sender has n mails that want accepts, and
// returns them; more are a failure.
func (s *scene) told(address string, n int, want func(received) bool) []received {
	s.t.Helper()
	var got []received
	count := func() int {
		got = nil
		for _, raw := range s.Postfix.Mailbox(address) {
			if r := parseReceived(s.t, raw); want(r) {
				got = append(got, r)
			}
		}
		return len(got)
	}
	if !s.Wait(patience, func() bool { return count() >= n }) {
		s.t.Fatalf("%d such mails came to %s, want %d; there are:\n%s", len(got), address, n, bytes.Join(s.Postfix.Mailbox(address), []byte("\n=====\n")))
	}
	if len(got) > n {
		s.t.Errorf("%d such mails came to %s, want %d", len(got), address, n)
	}
	return got
}

func isDSN(action string) func(received) bool {
	return func(r received) bool {
		if r.kind() != "delivery-status" {
			return false
		}
		for _, g := range r.groups {
			if strings.HasPrefix(g.Get("Action"), action) {
				return true
			}
		}
		return false
	}
}

// fields compares fields of a report.
func fields(t *testing.T, got textproto.MIMEHeader, want map[string]string) {
	t.Helper()
	for name, value := range want {
		if got.Get(name) != value {
			t.Errorf("%s is %q, want %q, in %v", name, got.Get(name), value, got)
		}
	}
}

// TestReceipts is that a sender gets the delivery reports (RFC 3461) and the read
// receipt (RFC 8098) that were asked for, once each, when what they say is true:
// delayed at sealing, delivered and displayed at the first reading; and that Postfix
// reports for itself what never came to us.
func TestReceipts(t *testing.T) {
	s := newScene(t, lab.Options{Rules: []string{"domain add plain.example --require encryption", "domain add tls.example --require encryption"}})
	const doc = "doc@own.example"
	s.host("tls.example").Update(func(b *fakesmtp.Behaviour) { b.Keywords = []string{"PIPELINING", "8BITMIME"} }) // without DSN: Postfix has to report
	mark, data := s.text("a private subject")
	data = append([]byte("Message-ID: <one@own.example>\r\nDisposition-Notification-To: Doc <Doc@Own.example>\r\n"), data...)
	s.must = append(s.must, mark)
	m := s.accepted(s.submit(lab.Message{From: doc, To: []string{"b@plain.example", "c@plain.example", "d@tls.example"}, Data: data,
		FromParams: "RET=FULL ENVID=QQ+2B1",
		ToParams: map[string]string{
			"b@plain.example": "NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;B+2Bx@plain.example",
			"c@plain.example": "NOTIFY=NEVER",
			"d@tls.example":   "NOTIFY=SUCCESS",
		}}))
	m.mark = mark
	link := s.sealed(m, "b@plain.example")
	s.sealed(m, "c@plain.example")
	s.arrivesByTLS(m, "d@tls.example")

	delayed := s.told(doc, 1, isDSN("delayed"))[0]
	if len(delayed.groups) != 2 {
		t.Fatalf("the report is about %d recipients: %s", len(delayed.groups)-1, delayed.raw)
	}
	fields(t, delayed.groups[0], map[string]string{"Original-Envelope-Id": "QQ+1"})
	fields(t, delayed.groups[1], map[string]string{
		"Original-Recipient": "rfc822; B+x@plain.example", "Final-Recipient": "rfc822; b@plain.example", "Action": "delayed", "Status": "4.7.0",
	})
	if delayed.groups[1].Get("Will-Retry-Until") == "" || delayed.groups[0].Get("Reporting-Mta") == "" {
		t.Errorf("until when, or by whom? %s", delayed.raw)
	}
	s.told(doc, 0, isDSN("delivered")) // sealing is none

	got, err := s.Pickup("b@plain.example", link, "")
	s.check(err)
	if !bytes.Contains(got, []byte(mark)) {
		t.Error("the download is not the message")
	}
	delivered := s.told(doc, 1, isDSN("delivered"))[0]
	fields(t, delivered.groups[0], map[string]string{"Original-Envelope-Id": "QQ+1"})
	fields(t, delivered.groups[1], map[string]string{
		"Original-Recipient": "rfc822; B+x@plain.example", "Final-Recipient": "rfc822; b@plain.example", "Action": "delivered", "Status": "2.0.0",
	})
	mdn := s.told(doc, 1, func(r received) bool { return r.kind() == "disposition-notification" })[0]
	fields(t, mdn.groups[0], map[string]string{
		"Original-Recipient": "rfc822; B+x@plain.example", "Final-Recipient": "rfc822; b@plain.example", "Original-Message-Id": "<one@own.example>",
		"Disposition": "manual-action/MDN-sent-automatically; displayed",
	})
	if from, err := mdn.AddressList("From"); err != nil || from[0].Address != "b@plain.example" {
		t.Errorf("the receipt is from %v (%v)", from, err)
	}
	// Once more, and by the other: nothing more for the first; for the other the
	// receipt alone, which NOTIFY=NEVER does not speak of.
	_, err = s.Pickup("b@plain.example", link, "")
	s.check(err)
	other, err := s.WaitNotice("c@plain.example", patience)
	s.check(err)
	_, err = s.Pickup("c@plain.example", other, "")
	s.check(err)
	s.told(doc, 2, func(r received) bool { return r.kind() == "disposition-notification" })
	s.told(doc, 1, isDSN("delivered"))
	// What went by TLS is Postfix's to report, once.
	s.told(doc, 1, isDSN("relayed"))
	for _, raw := range s.Postfix.Mailbox(doc) {
		if bytes.Contains(raw, []byte("private subject")) && bytes.Contains(raw, []byte("Postseal")) || bytes.Contains(raw, []byte(mark)) {
			t.Errorf("a report holds words of the message:\n%s", raw)
		}
		if r := parseReceived(t, raw); r.Get("Auto-Submitted") == "" || r.Get("Return-Path") != "<>" {
			t.Errorf("a report may be answered:\n%s", raw)
		}
	}
}

var senderLink = regexp.MustCompile(`(?m)^(https?://\S+/s/\S+)\r?$`)

// TestExpiredUnread is that a sender is told of a message that was not read in time,
// once, whoever restarts; with a link to the page by a mail that stays here, and
// without where it goes elsewhere.
func TestExpiredUnread(t *testing.T) {
	s := newScene(t, lab.Options{
		Rules: []string{"domain add plain.example --require encryption"},
		Hosts: map[string]lab.Kind{"elsewhere.example": lab.GoodTLS},
		Env:   []string{"POSTSEAL_MESSAGE_LIFETIME=40s", "POSTSEAL_EXPIRING_BEFORE=30s", "POSTSEAL_SENDER_MAIL=sealed read expiring expired failure"},
	})
	const doc = "doc@own.example"
	m := s.send(doc, "b@plain.example", "c@plain.example")
	s.sealed(m, "b@plain.example")
	quiet := s.accepted(s.secret(lab.Message{From: "quiet@own.example", To: []string{"d@plain.example"}, ToParams: map[string]string{"d@plain.example": "NOTIFY=NEVER"}}))
	s.sealed(quiet, "d@plain.example")
	away := s.send("x@elsewhere.example", "e@plain.example")
	s.sealed(away, "e@plain.example")

	about := func(words string) func(received) bool {
		return func(r received) bool { return r.kind() == "" && strings.Contains(r.Get("Subject"), words) }
	}
	sealed := s.told(doc, 1, about("Waiting"))[0]
	link := senderLink.FindStringSubmatch(sealed.text)
	if link == nil || !strings.Contains(sealed.text, "b@plain.example") || !strings.Contains(sealed.text, "c@plain.example") {
		t.Fatalf("no link, or not both recipients:\n%s", sealed.raw)
	}
	page := lab.NewBrowser()
	if err := page.Get(link[1]); err != nil || page.Status != http.StatusOK || !bytes.Contains(page.Page, []byte("Not read yet")) {
		t.Errorf("the page (%v): %s", err, page.Page)
	}
	time.Sleep(22 * time.Second) // more than half of its time
	s.check(s.Postseal.Stop())   // a start looks at once, not within a minute
	s.check(s.Postseal.Start())
	if reminder := s.told(doc, 1, about("Not read yet"))[0]; !strings.Contains(reminder.text, link[1]) {
		t.Errorf("the reminder:\n%s", reminder.raw)
	}
	failed := s.told(doc, 1, isDSN("failed"))[0]
	if len(failed.groups) != 3 {
		t.Errorf("about %d recipients, want 2: %s", len(failed.groups)-1, failed.raw)
	}
	fields(t, failed.groups[1], map[string]string{"Final-Recipient": "rfc822; b@plain.example", "Action": "failed", "Status": "5.4.7"})
	if bytes.Contains(failed.raw, []byte("private")) || !strings.Contains(failed.text, "NOT been read") {
		t.Errorf("the report:\n%s", failed.raw)
	}
	if !s.Wait(patience, func() bool {
		for _, got := range s.host("elsewhere.example").Server.Received() {
			if got.HasTo("x@elsewhere.example") && bytes.Contains(got.Data, []byte("Action: failed")) {
				if senderLink.Match(got.Data) {
					t.Errorf("power over the message goes over the wire:\n%s", got.Data)
				}
				return true
			}
		}
		return false
	}) {
		t.Error("the sender elsewhere was never told")
	}
	s.check(s.Postseal.Stop())
	s.check(s.Postseal.Start())
	s.told(doc, 1, isDSN("failed"))
	s.told(doc, 1, about("Not read yet"))
	if n := len(s.Postfix.Mailbox("quiet@own.example")); n != 0 {
		t.Errorf("NOTIFY=NEVER got %d mails", n)
	}
}

// TestAnswersEndLoops is that a person's reply to a notice gets one answer, which
// quotes nothing, and that robots, lists and bounces get none.
func TestAnswersEndLoops(t *testing.T) {
	s := newScene(t, lab.Options{Rules: []string{"domain add plain.example --require encryption"}})
	s.sealed(s.send("doc@own.example", "b@plain.example"), "b@plain.example")
	notices, _ := s.Notices("b@plain.example")
	to := notices[0].From
	reply := func(from, header, body string) {
		t.Helper()
		text := "From: <b@plain.example>\r\nTo: <" + to + ">\r\nSubject: Re: hello\r\n" + header + "\r\n" + body + "\r\n"
		s.accepted(s.submit(lab.Message{From: from, To: []string{to}, Data: []byte(text), Local: "127.0.9.9", Addr: lab.OwnAddr + ":25"}))
	}
	answers := func() (n int) {
		for _, m := range s.Received() {
			if m.HasTo("b@plain.example") && bytes.Contains(m.Data, []byte("Auto-Submitted: auto-replied")) {
				n++
				if bytes.Contains(m.Data, []byte("my bank account")) || m.From != "" || bytes.Contains(m.Data, []byte(notices[0].From)) {
					t.Errorf("the answer quotes, or can be answered (from %q):\n%s", m.From, m.Data)
				}
				if !bytes.Contains(m.Data, []byte("open the link")) {
					t.Errorf("the answer does not point to the page:\n%s", m.Data)
				}
			}
		}
		return n
	}
	taken := func() int { return strings.Count(s.Postseal.Log(), `outcome="notice bounced"`) }
	for i, header := range []string{"Auto-Submitted: auto-replied\r\n", "Precedence: list\r\n", "List-Id: <l.plain.example>\r\n", "X-Autoreply: yes\r\n"} {
		reply("b@plain.example", header, "a robot")
		if !s.Wait(patience, func() bool { return taken() > i }) {
			t.Fatalf("%q was not taken", header)
		}
	}
	reply("", "Auto-Submitted: auto-replied\r\n", "a vacation note")
	if !s.Wait(patience, func() bool { return taken() == 5 }) {
		t.Fatal("the vacation note was not taken")
	}
	if n := answers(); n != 0 {
		t.Fatalf("%d answers to robots", n)
	}
	reply("b@plain.example", "", "my bank account is 1234")
	if !s.Wait(patience, func() bool { return answers() == 1 }) {
		t.Fatal("no answer")
	}
	reply("b@plain.example", "", "my bank account, again")
	if !s.Wait(patience, func() bool { return taken() == 7 }) {
		t.Fatal("the second reply was not taken")
	}
	s.drained("b@plain.example")
	if n := answers(); n != 1 {
		t.Errorf("%d answers, want one", n)
	}
	for _, raw := range s.Postfix.Mailbox("doc@own.example") {
		t.Errorf("the sender got\n%s", raw)
	}
}
