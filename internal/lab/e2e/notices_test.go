package e2e

import (
	"bytes"
	"strings"
	"testing"

	"github.com/postseal/postseal/internal/lab"
	"github.com/postseal/postseal/internal/lab/fakesmtp"
)

// refuse makes the host of a domain refuse every recipient.
func (s *scene) refuse(domain string) {
	s.host(domain).Update(func(b *fakesmtp.Behaviour) {
		b.Recipients = map[string]string{"*": "550 5.1.1 no such user"}
	})
}

// TestNoticeIsNeverSealed is that a notice to a domain with a rule of its own
// arrives, once, and has no way back into the escrow.
func TestNoticeIsNeverSealed(t *testing.T) {
	s := newScene(t, lab.Options{Rules: []string{
		"domain add plain.example --require encryption",
		"sender add @own.example --require encryption",
	}})
	m := s.send("a@own.example", "b@plain.example")
	s.sealed(m, "b@plain.example")
	s.drained("b@plain.example")
	mails, _ := s.Notices("b@plain.example")
	if len(mails) != 1 {
		t.Fatalf("%d notices arrived, want 1", len(mails))
	}
	if head, _, _ := bytes.Cut(mails[0].Data, []byte("\r\n\r\n")); !bytes.Contains(head, []byte("Auto-Submitted: auto-generated")) ||
		bytes.Contains(mails[0].Data, []byte("a private subject")) {
		t.Errorf("the notice is\n%s", mails[0].Data)
	}
	s.sealed(m, "b@plain.example") // once still
}

// TestBouncedNotice is that a notice which can't be delivered becomes a report
// to the original sender.
func TestBouncedNotice(t *testing.T) {
	for name, mainCF := range map[string]func(*lab.Bed) error{
		"every address exists": nil,
		"addresses are listed": func(b *lab.Bed) error {
			return b.Postfix.AddMainCF("virtual_mailbox_maps", table(t, b, "mailboxes", "a@own.example all/\n"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, lab.Options{Rules: []string{"domain add plain.example --require encryption"}, Prepare: mainCF})
			s.refuse("plain.example")
			s.send("a@own.example", "nobody@plain.example")
			if !s.Wait(patience, func() bool {
				for _, m := range s.Postfix.Mailbox("a@own.example") {
					if bytes.Contains(m, []byte("nobody@plain.example")) {
						return true
					}
				}
				return false
			}) {
				t.Error("the sender got no report")
			}
		})
	}
}

// TestBounceDoesNotReturnInPlaintext is that a refused message does not come back
// in clear to a sender whose domain is hosted elsewhere, without TLS.
func TestBounceDoesNotReturnInPlaintext(t *testing.T) {
	s := newScene(t, lab.Options{
		Hosts: map[string]lab.Kind{"elsewhere.example": lab.NoTLS, "refuses.example": lab.GoodTLS, "alsorefuses.example": lab.GoodTLS},
		Rules: []string{"sender add doc@elsewhere.example --require encryption", "domain add alsorefuses.example --require tls"},
	})
	s.refuse("refuses.example")
	s.refuse("alsorefuses.example")
	bounced := func(to string) {
		t.Helper()
		offset := 0
		if !s.Wait(patience, func() bool {
			return strings.Contains(s.Postfix.Log()[offset:], "to=<"+to+">") && strings.Contains(s.Postfix.Log(), "status=bounced")
		}) {
			t.Fatalf("mail for %s did not bounce", to)
		}
		s.drained(to)
	}
	s.run("of a sender with a rule", func(t *testing.T) {
		s.accepted(s.secret(lab.Message{From: "doc@elsewhere.example", To: []string{"b@refuses.example"}, FromParams: "RET=FULL"}))
		bounced("b@refuses.example")
		s.drained("doc@elsewhere.example")
	})
	s.run("to a sender without, of forced TLS", func(t *testing.T) {
		s.accepted(s.secret(lab.Message{From: "x@elsewhere.example", To: []string{"b@alsorefuses.example"}, FromParams: "RET=FULL"}))
		bounced("b@alsorefuses.example")
		s.drained("x@elsewhere.example")
		if !s.Wait(patience, func() bool {
			for _, m := range s.host("elsewhere.example").Server.Received() {
				if m.HasTo("x@elsewhere.example") {
					return true
				}
			}
			return false
		}) {
			t.Error("the sender was never told")
		}
	})
}

// TestSubjectFiresOnce is that re-injected mail is not taken by the subject
// pattern again.
func TestSubjectFiresOnce(t *testing.T) {
	s := newScene(t, lab.Options{Env: []string{"POSTSEAL_SECURE_SUBJECT=[secure]"}})
	mark, data := s.text("[secure] hello")
	s.must = append(s.must, mark)
	m := s.accepted(s.submit(lab.Message{From: "a@own.example", To: []string{"b@tls.example", "c@own.example"}, Data: data}))
	m.mark = mark
	if got := s.arrivesByTLS(m, "b@tls.example"); hops(got) > 3 {
		t.Errorf("taken %d times by Postfix and us, want 3 at most", hops(got))
	}
	s.mailbox(m, "c@own.example")
	// An encoded subject without the pattern takes the same road, plainly.
	other := s.accepted(s.submit(lab.Message{From: "a@own.example", To: []string{"b@plain.example"},
		Data: lab.Text("a@own.example", "b@plain.example", "=?utf-8?Q?gr=C3=BC=C3=9Fe?=", "mark-encoded")}))
	other.mark = "mark-encoded"
	s.arrives(other, "b@plain.example")
}

// TestSendmail is that mail which comes by sendmail(1) follows the rules too.
func TestSendmail(t *testing.T) {
	s := newScene(t, lab.Options{Rules: []string{
		"sender add doc@own.example --require encryption",
		"domain add forced@tls.example --require tls",
	}})
	send := func(from string, to ...string) mail {
		t.Helper()
		mark, data := s.text("by sendmail")
		s.must = append(s.must, mark)
		s.check(s.Postfix.Sendmail(from, to, bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))))
		return mail{mark: mark, data: data}
	}
	m := send("doc@own.example", "b@tls.example", "b@plain.example", "c@own.example")
	s.arrivesByTLS(m, "b@tls.example")
	s.sealed(m, "b@plain.example")
	s.mailbox(m, "c@own.example")
	s.arrivesByTLS(send("a@own.example", "forced@tls.example"), "forced@tls.example")
	m = send("a@own.example", "d@plain.example")
	s.must = s.must[:len(s.must)-1]
	if got := s.arrives(m, "d@plain.example"); got.TLS {
		t.Error("plain.example has no TLS")
	}
}
