package escrow_test

import (
	"bytes"
	"io"
	"mime/quotedprintable"
	"net/mail"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/policyd/policy"
)

const dsn = "From: MAILER-DAEMON@mx.example (Mail Delivery System)\r\n" +
	"Auto-Submitted: auto-replied\r\n" +
	"Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"b/x\"\r\n\r\n" +
	"This is a MIME message.\r\n--b/x\r\nContent-Type: text/plain\r\n\r\nI'm sorry.\r\n" +
	"--b/x\r\nContent-Type: message/delivery-status\r\n\r\n" +
	"Reporting-MTA: dns; mx.example\r\nX-Postfix-Queue-ID: 1\r\n\r\n" +
	"Final-Recipient: rfc822; pat@old.example\r\nAction: ACTION\r\nStatus: 5.1.1\r\n\r\n" +
	"--b/x\r\nContent-Type: message/rfc822-headers\r\n\r\nSubject: Protected message\r\n\r\n--b/x--\r\n"

func TestBounces(t *testing.T) {
	reply := func(headers string) string {
		return "From: Pat <pat@old.example>\r\n" + headers + "Subject: Re: hello\r\n\r\nmy bank account is 1234\r\n"
	}
	tests := []struct {
		name, from, report, want string // kind of mail that it makes
	}{
		{"a failure", "", strings.Replace(dsn, "ACTION", "failed", 1), "failure"},
		{"a failure with a comment", "", strings.Replace(dsn, "ACTION", "Failed (gone)", 1), "failure"},
		{"a failure cut short", "", dsn[:strings.Index(dsn, "Reporting-MTA")], "failure"},
		{"a delay warning", "", strings.Replace(dsn, "ACTION", "delayed", 1), ""},
		{"a success report", "", strings.Replace(dsn, "ACTION", "delivered", 1), ""},
		{"an old-style bounce", "", "From: MAILER-DAEMON@mx.example\r\nSubject: failure notice\r\n\r\nHi. This is the qmail-send program.\r\n", "failure"},
		{"a vacation note", "", reply("Auto-Submitted: auto-replied (vacation)\r\n"), ""},
		{"a read receipt", "", "From: p@old.example\r\nContent-Type: multipart/report; report-type=disposition-notification; boundary=x\r\n\r\n", ""},
		{"garbage from nobody", "", "\x00\x01", "failure"},
		{"a person's reply", "pat@old.example", reply(""), "answer"},
		{"a reply marked as no robot's", "pat@old.example", reply("Auto-Submitted: no\r\n"), "answer"},
		{"a robot's reply", "pat@old.example", reply("Auto-Submitted: auto-generated\r\n"), ""},
		{"a list", "pat@old.example", reply("Precedence: bulk\r\n"), ""},
		{"garbage from somebody", "pat@old.example", "\x00\x01", ""},
		{"a reply without a domain", "pat", reply(""), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			b.seal(message([]byte("x")))
			notice := b.mails()[0]
			token, ok := b.IsBounceAddress(strings.ToUpper(notice.From))
			if !ok {
				t.Fatalf("%s is not known again", notice.From)
			}
			for range 2 { // the second makes nothing
				b.must(b.Bounced(t.Context(), token, tt.from, strings.NewReader(tt.report)))
			}
			got := b.mails()
			if tt.want == "" {
				if len(got) != 0 {
					t.Fatalf("makes a mail of kind %s", got[0].Kind)
				}
				return
			}
			if len(got) != 1 || got[0].Kind != tt.want || got[0].From != "" {
				t.Fatalf("makes %d mails: %v", len(got), got)
			}
			to := sender
			if tt.want == "answer" {
				to = tt.from
			}
			if got[0].To != to || bytes.Contains(got[0].Text, []byte("1234")) {
				t.Errorf("to %s:\n%s", got[0].To, got[0].Text)
			}
			if l, _ := b.List(t.Context(), escrow.Filter{}); (l[0].Notice == escrow.NoticeBounced) != (tt.want == "failure") {
				t.Errorf("the notice is %s", l[0].Notice)
			}
		})
	}
}

func TestWhoGetsNoFailureReport(t *testing.T) {
	b := newBench(t)
	failed := strings.Replace(dsn, "ACTION", "failed", 1)
	bounce := func(name string) {
		t.Helper()
		notice := b.mails()[0]
		token, _ := b.IsBounceAddress(notice.From)
		b.must(b.Bounced(t.Context(), token, "", strings.NewReader(failed)))
		if got := b.mails(); len(got) != 0 {
			t.Errorf("%s: a mail to %q", name, got[0].To)
		}
	}
	m := message([]byte("x"))
	m.Sender = ""
	b.seal(m)
	bounce("the null sender")
	b.seal(message([]byte("y")))
	p := b.pickup(b.link(recipient))
	b.must(b.SendCode(t.Context(), p, stranger))
	bounce("a code mail")
}

func TestForgedBounceAddresses(t *testing.T) {
	b := newBench(t)
	b.seal(message([]byte("x")))
	from := b.mails()[0].From
	local, domain, _ := strings.Cut(from, "@")
	for _, bad := range []string{
		"", "postseal-bounce+@" + domain, local, local + "@other.example", local + "a@" + domain, local[:len(local)-1] + "@" + domain,
		"x" + from, strings.Replace(from, "+n", "+c", 1), strings.Replace(from, ".", "", 1), "notice@" + domain,
		strings.Replace(from, "+n", "+nn", 1), "postseal-bounce+n" + strings.Repeat("a", 26) + ".@" + domain,
	} {
		if _, ok := b.IsBounceAddress(bad); ok {
			t.Errorf("%s counts as a bounce address", bad)
		}
	}
	if err := b.Bounced(t.Context(), "n"+strings.Repeat("a", 26)+"."+strings.Repeat("a", 16), "", strings.NewReader("")); err != escrow.ErrUnknown {
		t.Error(err)
	}
	if len(local) > 64 {
		t.Errorf("the local part has %d bytes (RFC 5321: 64)", len(local))
	}
}

func TestMarks(t *testing.T) {
	b := newBench(t)
	for r := policy.None; r <= policy.EscrowOnly; r++ {
		mark := b.Mark(r, "Doc@Clinic.example")
		if got, ok := b.VerifyMark("  "+mark+" ", sender); !ok || got != r {
			t.Errorf("%v: %v, %v", r, got, ok)
		}
		word, tag, _ := strings.Cut(mark, " ")
		for _, bad := range []string{"", word, "none " + tag, "tls " + tag, word + " " + tag[1:], word + " ", mark + "a"} {
			if got, ok := b.VerifyMark(bad, sender); ok && bad != mark {
				t.Errorf("%q passes as %v", bad, got)
			}
		}
		if _, ok := b.VerifyMark(mark, "other@clinic.example"); ok {
			t.Error("another sender's mark passes")
		}
	}
}

func TestNoticesAreAsPromised(t *testing.T) {
	b := newBench(t)
	for _, to := range []string{recipient, `"odd name"@old.example`, "m\u00fcller@old.example", `"a>b"@old.example`} {
		m := message([]byte("Subject: private\r\n\r\nbody " + to))
		m.Recipients[0].Address = to
		m.Sender = "j\u00fcrgen@clinic.example"
		b.seal(m)
		e := b.mails()[0]
		got, err := mail.ReadMessage(bytes.NewReader(e.Text))
		if err != nil {
			t.Fatal(err)
		}
		if e.To != to {
			t.Errorf("envelope to %s", e.To)
		}
		for name, want := range map[string]string{
			"Auto-Submitted": "auto-generated", "Content-Transfer-Encoding": "quoted-printable", "Content-Language": "en", "To": "<" + to + ">", "From": `"Clinic" <notice@clinic.example>`,
		} {
			if v := got.Header.Get(name); v != want {
				t.Errorf("%s is %q", name, v)
			}
		}
		if a, err := mail.ParseAddress(got.Header.Get("To")); err != nil {
			t.Errorf("To does not parse: %v, %v", a, err)
		}
		if d, err := got.Header.Date(); err != nil || !d.Equal(b.clock().Truncate(time.Second)) {
			t.Errorf("date %v, %v", d, err)
		}
		_, body, _ := bytes.Cut(e.Text, []byte("\r\n\r\n"))
		for _, line := range bytes.Split(e.Text, []byte("\r\n")) {
			if len(line) > 998 || bytes.ContainsAny(line, "\r\n") {
				t.Errorf("line %q", line)
			}
		}
		for _, c := range body {
			if c >= 0x80 {
				t.Fatalf("the text is not 7-bit:\n%s", body)
			}
		}
		if body, err = io.ReadAll(quotedprintable.NewReader(bytes.NewReader(body))); err != nil {
			t.Fatal(err)
		}
		if !linkLine.Match(body) || !bytes.Contains(body, []byte("j\u00fcrgen@clinic.example")) || !bytes.Contains(body, []byte("31 December 2026")) || bytes.Contains(e.Text, []byte("private")) {
			t.Errorf("text:\n%s", e.Text)
		}
	}
}

func FuzzBounced(f *testing.F) {
	f.Add("", dsn)
	f.Add("", strings.Replace(dsn, "ACTION", "failed", 1))
	f.Add("a@b", "Content-Type: multipart/report; report-type=delivery-status\r\n\r\n")
	f.Add("", "Content-Type: multipart/report; report-type=delivery-status; boundary=a\r\n\r\n--a\r\nContent-Type: message/delivery-status\r\n\r\n: \r\n")
	f.Fuzz(func(t *testing.T, from, report string) {
		escrow.Classify(from, strings.NewReader(report)) // must end, without a panic
	})
}

func TestWhyANoticeFailed(t *testing.T) {
	report := func(fields string) string {
		return strings.Replace(dsn, "Action: ACTION\r\nStatus: 5.1.1\r\n", "Action: failed\r\n"+fields, 1)
	}
	for _, tt := range []struct{ name, report, code, diagnostic string }{
		{"with a reply", report("Status: 5.1.1\r\nDiagnostic-Code: smtp; 550 5.1.1 no such user, see https://portal.example/m/secret\r\n"), "5.1.1", "smtp; 550 5.1.1"},
		{"without one", report("Status: 5.2.2\r\n"), "5.2.2", "x-postseal; the notice came back"},
		{"of no final class", report("Status: 4.2.2\r\n"), "5.0.0", "x-postseal; the notice came back"},
		{"an old-style bounce", "From: MAILER-DAEMON@x\r\n\r\nHi.\r\n", "5.0.0", "x-postseal; the notice came back"},
		{"garbage", "\x00", "5.0.0", "x-postseal; the notice came back"},
	} {
		if s := escrow.FailureStatus([]byte(tt.report)); s.Code != tt.code || s.Diagnostic != tt.diagnostic {
			t.Errorf("%s: %+v", tt.name, s)
		}
	}
}

func FuzzWhyANoticeFailed(f *testing.F) {
	f.Add([]byte(dsn))
	f.Add([]byte(strings.Replace(dsn, "ACTION", "failed\r\nDiagnostic-Code: smtp; 550 5.1.1 no", 1)))
	f.Add([]byte("Content-Type: multipart/report; boundary=\"\"\r\n\r\n--\r\n"))
	f.Fuzz(func(t *testing.T, report []byte) {
		s := escrow.FailureStatus(report)
		if !strings.HasPrefix(s.Code, "5.") || len(s.Code) > 10 || len(s.Diagnostic) > 60 {
			t.Errorf("%+v", s)
		}
	})
}
