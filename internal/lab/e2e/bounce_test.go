package e2e

import (
	"bytes"
	"strings"
	"testing"

	"github.com/postseal/postseal/internal/lab"
)

// TestBounceFromOutside is that a report which another server makes of a notice is
// taken, where all addresses are listed, and told to the sender.
func TestBounceFromOutside(t *testing.T) {
	s := newScene(t, lab.Options{
		Rules: []string{"domain add plain.example --require encryption"},
		Prepare: func(b *lab.Bed) error {
			return b.Postfix.AddMainCF("virtual_mailbox_maps", table(t, b, "mailboxes", "a@own.example all/\n"))
		},
	})
	s.sealed(s.send("a@own.example", "b@plain.example"), "b@plain.example")
	notices, _ := s.Notices("b@plain.example")
	to := notices[0].From
	report := strings.ReplaceAll(`From: mailer-daemon@plain.example
To: <`+to+`>
Subject: not delivered
Content-Type: multipart/report; report-type=delivery-status; boundary=b

--b
Content-Type: text/plain

no such user
--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.plain.example

Final-Recipient: rfc822; b@plain.example
Action: failed
Status: 5.1.1
--b--
`, "\n", "\r\n")
	s.accepted(s.submit(lab.Message{To: []string{to}, Data: []byte(report), Local: "127.0.9.9", Addr: lab.OwnAddr + ":25"}))
	if !s.Wait(patience, func() bool {
		for _, m := range s.Postfix.Mailbox("a@own.example") {
			if bytes.Contains(m, []byte("b@plain.example")) {
				return true
			}
		}
		return false
	}) {
		t.Error("the sender got no report")
	}
}
