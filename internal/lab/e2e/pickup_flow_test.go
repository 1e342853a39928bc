package e2e

import (
	"bytes"
	"strings"
	"testing"

	"github.com/postseal/postseal/internal/lab"
)

const doctor = "doc@own.example"

// accountScene is one as people have it who set nothing: recipients make accounts.
func accountScene(t *testing.T, env ...string) *scene {
	t.Helper()
	return newScene(t, lab.Options{Verify: "account", Env: env, Rules: []string{"domain add plain.example --require encryption"}})
}

// firstNotice sends the first message, looks at the notice as it arrived, and returns
// its link.
func (s *scene) firstNotice(subject string) (mail, string) {
	s.t.Helper()
	m := s.letter(doctor, subject, patient)
	got, link := s.notice(patient, 0)
	title, text := plainly(s.t, got.Data)
	if title != "Protected message from "+doctor || !strings.Contains(text, "you choose a passkey or a password") {
		s.t.Errorf("the notice %q:\n%s", title, text)
	}
	for _, secret := range []string{m.mark, subject} {
		if bytes.Contains(got.Data, []byte(secret)) {
			s.t.Errorf("the notice holds %q", secret)
		}
	}
	return m, link
}

// readsByLinkAlone sends another message, and opens its link on a device that is
// known.
func (s *scene) readsByLinkAlone(p *person, subject string, before int) mail {
	s.t.Helper()
	m := s.letter(doctor, subject, patient)
	_, link := s.notice(patient, before)
	p.open(link)
	p.sees(subject, m.mark)
	p.within(2)
	return m
}

// TestFirstPickupByPassword is the way of a recipient who has never been here: the
// notice, the code, a password, the message, in four interactions; then the next
// message by its link alone, and both in the inbox. The sender is told.
func TestFirstPickupByPassword(t *testing.T) {
	s := accountScene(t)
	m, link := s.firstNotice("the first result")
	p := newPerson(t)
	p.open(link)
	p.sees(doctor)
	p.seesNot(m.mark, "the first result", patient)
	s.enrols(p, patient, lab.Password)
	p.sees("the first result", m.mark)
	p.within(4)
	if raw := p.download(`a[href$="/raw"]`); !bytes.HasSuffix(raw, m.data) {
		t.Errorf("the download is not what was sent:\n%q", raw)
	}
	second := s.readsByLinkAlone(p, "the second result", 1)

	p.press(`nav.up a`)
	p.sees("2 messages", "the first result", "the second result")
	if strings.Contains(p.url(), "@") || strings.Contains(p.url(), "plain.example") {
		t.Errorf("the address stands in a URL")
	}
	if zip := p.download(`a[href$="/zip"]`); !bytes.HasPrefix(zip, []byte("PK")) {
		t.Errorf("the archive of all messages is %d bytes, and no zip", len(zip))
	}
	text, page := s.toSender(doctor, "Your recipient has made an account", m)
	if !strings.Contains(text, patient) {
		t.Errorf("who has made one?\n%s", text)
	}
	p.open(page)
	p.history()
	p.sees("The recipient has made an account, with a password.", "signed in to the account")
	for _, secret := range []string{lab.Password, link[strings.LastIndexByte(link, '/')+1:], second.mark, "first result"} {
		if strings.Contains(s.Postseal.Log(), secret) {
			t.Error("a secret stands in the log")
		}
	}
}

// TestFirstPickupByPasskey is the same by a passkey, which then signs in on a device
// that was never here.
func TestFirstPickupByPasskey(t *testing.T) {
	s := accountScene(t)
	m, link := s.firstNotice("the first result")
	p := newPerson(t)
	sensor := p.fingerprint()
	p.open(link)
	seen := len(s.Received())
	p.press(askForCode)
	p.fill("#answer", s.codeAfter(patient, seen))
	p.touch(passkeyButton)
	p.finger()
	p.sees("the first result", m.mark)
	p.within(4)
	keys := sensor.passkeys()
	if len(keys) != 1 || keys[0].RpID != "localhost" {
		t.Fatalf("%d passkeys were made", len(keys))
	}
	s.readsByLinkAlone(p, "the second result", 1)
	keys = sensor.passkeys() // its counter

	other := newPerson(t)
	other.fingerprint(keys...)
	other.open(link)
	other.seesNot(m.mark, "the first result")
	other.touch(passkeyButton)
	other.finger()
	other.sees("the first result", m.mark)
	other.within(2)
	_, page := s.toSender(doctor, "Your recipient has made an account", m)
	other.open(page)
	other.history()
	other.sees("The recipient has made an account, with a passkey.")
}
