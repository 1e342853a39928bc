package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/postseal/postseal/internal/lab"
)

// TestForgottenPassword is the way back of a recipient who can't sign in: the sender
// is asked by a mail, allows it on the page that the mail leads to, and the recipient
// makes the account anew with a code. Until then a code is not enough; from then on
// the old password and the old devices are nothing.
func TestForgottenPassword(t *testing.T) {
	const fresh = "nine quiet otters"
	s := accountScene(t)
	m, link := s.firstNotice("the result")
	old, p := newPerson(t), newPerson(t)
	old.open(link)
	s.enrols(old, patient, lab.Password)
	old.sees(m.mark)

	p.open(link)
	p.sees("Open your protected message")
	p.press(`a[href$="/forgot"]`)
	p.sees("A code by mail is not enough")
	p.press(`form[action$="/forgot"] button`)
	p.sees("We have asked " + doctor)
	text, page := s.toSender(doctor, "Your recipient can't get in", m)
	if !strings.Contains(text, patient) || !strings.Contains(text, "Ask by telephone") {
		t.Errorf("the sender is told:\n%s", text)
	}
	p.open(link) // asking changes nothing
	p.sees("Open your protected message")
	old.open(link)
	old.sees(m.mark)

	sender := newPerson(t)
	sender.open(page)
	sender.sees(patient, "The recipient's account")
	sender.seesNot(m.mark, "the result")
	sender.press(`a[href*="/reset"]`)
	sender.sees("Make sure by telephone")
	sender.isSure()
	sender.press(`form[action$="/reset"] button`)
	sender.sees("The account is deleted.")

	old.open(link)
	old.seesNot(m.mark)
	old.sees("Get your code")
	p.open(link)
	s.enrols(p, patient, fresh)
	p.sees(m.mark)
	old.open(link)
	old.seesNot(m.mark)
	old.fill("#password", lab.Password)
	old.press(signInButton)
	old.sees("That is not the password that you chose here")
	old.fill("#password", fresh)
	old.press(signInButton)
	old.sees(m.mark)
	sender.open(page)
	sender.history()
	sender.sees("The recipient's account was deleted from this page.")
}

// TestReplyInChromium is a reply with a file as it is written in a browser, as it
// arrives at the sender's server, and as the sender's page tells of it.
func TestReplyInChromium(t *testing.T) {
	s := replyScene(t, lab.Options{Verify: "account", Env: []string{"POSTSEAL_SENDER_MAIL=sealed reply"}})
	mark := "mark-of-the-picture"
	data := []byte("From: Dr. Who <" + doctor + ">\r\nTo: " + patient + "\r\nSubject: =?utf-8?q?Ihr_R=C3=B6ntgenbild?=\r\n" +
		"Message-ID: <m1@mua.example>\r\nReferences: <first@mua.example>\r\n\r\nCome in on Monday. " + mark + "\r\n")
	s.must = append(s.must, mark)
	m := mail{mark: mark}
	s.accepted(s.submit(lab.Message{From: doctor, To: []string{patient}, Data: data}))
	_, link := s.notice(patient, 0)
	_, page := s.toSender(doctor, "Waiting to be read", m)

	reply, text, file := s.secretReply()
	name := filepath.Join(t.TempDir(), file.Name)
	s.check(os.WriteFile(name, file.Data, 0o600))
	p := newPerson(t)
	p.open(link)
	s.enrols(p, patient, lab.Password)
	p.sees(mark)
	p.press(`a[href$="/reply"]`)
	p.do("files", chromedp.SetUploadFiles(chromedp.ID("files"), []string{name}))
	p.sees("1 file attached", file.Name)
	p.fill("#text", text)
	p.touch(`button[name=do][value=send]`)
	p.sees("Your reply is on its way")

	s.isReply(s.mailbox(reply, doctor), "m1", text, file, map[string]string{"From": "<" + patient + ">", "Sender": "<" + lab.NoticeFrom + ">"})
	told, again := s.toSender(doctor, "Answered", m)
	if again != page || strings.Contains(told, reply.mark) {
		t.Errorf("the mail about the answer:\n%s", told)
	}
	p.open(link)
	p.sees("Your replies", "sent")
	p.open(page)
	p.history()
	p.sees("A reply was sent.")
	p.seesNot(reply.mark, mark)
}

// expires returns until when the one message for a recipient can be read.
func (s *scene) expires(recipient string) time.Time {
	s.t.Helper()
	items, err := s.Escrowed(recipient)
	s.check(err)
	if len(items) != 1 || items[0].Expires.IsZero() {
		s.t.Fatalf("the items for %s are %+v", recipient, items)
	}
	return items[0].Expires
}

// TestSenderPage is what a sender does on the page that a mail led to: a new link, more
// time, a passphrase for this message alone, and taking it back.
func TestSenderPage(t *testing.T) {
	const phrase = "correct horse battery"
	s := newScene(t, lab.Options{Env: []string{"POSTSEAL_SENDER_MAIL=sealed", "POSTSEAL_MESSAGE_LIFETIME=10m", "POSTSEAL_EXPIRING_BEFORE=1m"}, Rules: []string{"domain add plain.example --require encryption"}})
	m := s.letter(doctor, "the result", patient)
	_, first := s.notice(patient, 0)
	_, page := s.toSender(doctor, "Waiting to be read", m)
	sender, p := newPerson(t), newPerson(t)
	sender.open(page)
	sender.sees(patient, "Not read yet", "A code that is sent to the mailbox")

	sender.press(`form[action$="/resend"] button`)
	sender.sees("A new link is on its way.")
	_, second := s.notice(patient, 1)
	p.open(first)
	p.sees("There is no message here")
	p.open(second)
	seen := len(s.Received())
	p.press(askForCode)
	p.fill("#answer", s.codeAfter(patient, seen))
	p.press(verifyButton)
	p.sees("the result", m.mark)
	if raw := p.download(`a[href$="/raw"]`); !bytes.HasSuffix(raw, m.data) {
		t.Errorf("the download is not what was sent:\n%q", raw)
	}
	sender.open(page)
	sender.sees("Read.", "with a code from the mailbox")

	sender.press(`a[href*="/passphrase"]`)
	sender.fill("#phrase", phrase)
	sender.press(`form[action$="/passphrase"] button`)
	sender.sees("It asks for the passphrase")
	_, third := s.notice(patient, 2)
	p.open(second)
	p.sees("There is no message here")
	p.open(third)
	p.sees("Enter your passphrase")
	p.seesNot(m.mark)
	p.fill("#answer", "not this one")
	p.press(verifyButton)
	p.sees("That is not the passphrase")
	p.fill("#answer", phrase)
	p.press(verifyButton)
	p.sees(m.mark)

	until := s.expires(patient)
	sender.open(page)
	sender.press(`form[action$="/extend"] button`)
	sender.sees("Extended.")
	if later := s.expires(patient); !later.After(until) {
		t.Errorf("extended from %s to %s", until, later)
	}
	p.open(third)
	p.sees(m.mark)

	sender.press(`a[href*="/retract"]`)
	sender.isSure()
	sender.press(`form[action$="/retract"] button`)
	sender.sees("Taken back")
	p.open(third)
	p.sees("The sender has taken this message back")
	p.seesNot(m.mark, "the result")
	for _, got := range s.Received() {
		if bytes.Contains(got.Data, []byte(phrase)) {
			t.Errorf("the passphrase goes by mail:\n%s", got.Data)
		}
	}
	if log := s.Postseal.Log(); strings.Contains(log, phrase) || strings.Contains(log, page[strings.LastIndexByte(page, '/')+1:]) {
		t.Error("a secret stands in the log")
	}
}
