package e2e

import (
	"bytes"
	"context"
	"io"
	"mime"
	"mime/quotedprintable"
	netmail "net/mail"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	cdbrowser "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/webauthn"
	"github.com/chromedp/chromedp"

	"github.com/postseal/postseal/internal/lab"
	"github.com/postseal/postseal/internal/lab/chromium"
	"github.com/postseal/postseal/internal/lab/fakesmtp"
)

// Selectors of what a recipient presses.
const (
	askForCode    = `form[action$="/code"] button`
	enrolButton   = `form[action$="/enrol"] button[type=submit]`
	signInButton  = `form[action$="/signin"] button[type=submit]`
	verifyButton  = `form[action$="/verify"] button`
	passkeyButton = `[data-use]`
)

// person is somebody before a Chromium of their own. Steps counts what was pressed
// and filled in since a link was opened.
type person struct {
	t     *testing.T
	ctx   context.Context
	steps int
}

func newPerson(t *testing.T) *person {
	t.Helper()
	return &person{t: t, ctx: chromium.Start(t)}
}

func (p *person) do(what string, step chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 20*time.Second) // Chromium waits for what is hidden
	defer cancel()
	if err := chromedp.Do(ctx, step); err != nil {
		p.t.Fatalf("%s: %v, on this page:\n%s", what, err, p.text())
	}
}

// open opens a link, as by a mail program.
func (p *person) open(link string) {
	p.t.Helper()
	p.steps = 0
	if err := chromedp.Do(p.ctx, chromedp.Navigate(link)); err != nil {
		p.t.Fatal("the page does not open") // the error may name the link
	}
}

// press presses what leads to another page.
func (p *person) press(selector string) {
	p.t.Helper()
	p.finds(selector)
	if _, err := chromedp.RunResponse(p.ctx, chromedp.Click(chromedp.CSS(selector))); err != nil {
		p.t.Fatalf("%s: %v", selector, err)
	}
}

// touch presses what a script answers to.
func (p *person) touch(selector string) {
	p.t.Helper()
	p.finds(selector)
	p.do(selector, chromedp.Click(chromedp.CSS(selector)))
}

func (p *person) fill(selector, what string) {
	p.t.Helper()
	p.finds(selector)
	p.do(selector, chromedp.SendKeys(chromedp.CSS(selector), what))
}

// sureLine says what a sender has to type before something is deleted for good.
var sureLine = regexp.MustCompile(`To go on, type (\d{4}) here`)

func (p *person) isSure() {
	p.t.Helper()
	m := sureLine.FindStringSubmatch(p.text())
	if m == nil {
		p.t.Fatalf("nothing is to be typed here:\n%s", p.text())
	}
	p.fill("#sure", m[1])
}

// finds counts a step, and ends the test where what it is about is not on the page.
func (p *person) finds(selector string) {
	p.t.Helper()
	p.steps++
	if !lab.Poll(10*time.Second, func() bool { return p.has(selector) }) {
		p.t.Fatalf("there is no %s on this page:\n%s", selector, p.text())
	}
}

// finger is laid on the sensor, which the authenticator does by itself.
func (p *person) finger() { p.steps++ }

func (p *person) within(most int) {
	p.t.Helper()
	if p.steps > most {
		p.t.Errorf("%d interactions after the link was opened, at most %d are allowed", p.steps, most)
	}
}

func (p *person) text() string {
	text, err := chromedp.Run(p.ctx, chromedp.Evaluate[string]("document.body ? document.body.innerText : ''"))
	if err != nil {
		return ""
	}
	return text
}

func (p *person) has(selector string) bool {
	there, err := chromedp.Run(p.ctx, chromedp.Evaluate[bool]("!!document.querySelector(`"+selector+"`)"))
	return err == nil && there
}

// sees waits until the page has all of some words.
func (p *person) sees(words ...string) {
	p.t.Helper()
	for _, w := range words {
		if !lab.Poll(20*time.Second, func() bool { return strings.Contains(p.text(), w) }) {
			p.t.Fatalf("the page never has %q:\n%s", w, p.text())
		}
	}
}

// seesNot checks that the page has none of some words.
func (p *person) seesNot(words ...string) {
	p.t.Helper()
	for _, w := range words {
		if strings.Contains(p.text(), w) {
			p.t.Errorf("the page has %q:\n%s", w, p.text())
		}
	}
}

// download presses a link and returns the file that comes.
func (p *person) download(selector string) (raw []byte) {
	p.t.Helper()
	dir := p.t.TempDir()
	if _, err := chromedp.Call(p.ctx, cdbrowser.SetDownloadBehavior, cdbrowser.SetDownloadBehaviorParams{
		Behavior: cdbrowser.SetDownloadBehaviorBehaviorAllow, DownloadPath: dir,
	}); err != nil {
		p.t.Fatal(err)
	}
	p.do(selector, chromedp.Click(chromedp.CSS(selector)))
	if !lab.Poll(patience, func() bool {
		all, _ := filepath.Glob(filepath.Join(dir, "*"))
		if len(all) == 1 && !strings.HasSuffix(all[0], ".crdownload") {
			raw, _ = os.ReadFile(all[0])
		}
		return raw != nil
	}) {
		p.t.Fatal("nothing was downloaded")
	}
	return raw
}

// fingerprint gives the person a device with a sensor; from is another one whose
// passkeys it has too, as where they are synchronised.
func (p *person) fingerprint(from ...*webauthn.Credential) *sensor {
	p.t.Helper()
	if _, err := chromedp.Call(p.ctx, webauthn.Enable, webauthn.EnableParams{}); err != nil {
		p.t.Fatal(err)
	}
	r, err := chromedp.Call(p.ctx, webauthn.AddVirtualAuthenticator, webauthn.AddVirtualAuthenticatorParams{Options: &webauthn.VirtualAuthenticatorOptions{
		Protocol: webauthn.AuthenticatorProtocolCtap2, Transport: webauthn.AuthenticatorTransportInternal,
		HasResidentKey: true, HasUserVerification: true, IsUserVerified: true, AutomaticPresenceSimulation: true,
	}})
	if err != nil {
		p.t.Fatal(err)
	}
	for _, c := range from {
		if _, err := chromedp.Call(p.ctx, addCredential, map[string]any{"authenticatorId": r.AuthenticatorID, "credential": map[string]any{
			"credentialId": c.CredentialID, "isResidentCredential": c.IsResidentCredential, "rpId": c.RpID, "privateKey": c.PrivateKey,
			"userHandle": c.UserHandle, "signCount": c.SignCount, "backupEligibility": c.BackupEligibility, "backupState": c.BackupState,
		}}); err != nil {
			p.t.Fatal(err)
		}
	}
	return &sensor{p, r.AuthenticatorID}
}

// addCredential is webauthn.AddCredential without the fields that this authenticator
// refuses, whatever is in them.
var addCredential = cdp.Command[map[string]any, cdp.Empty]{Method: webauthn.CommandAddCredential}

type sensor struct {
	*person
	id webauthn.AuthenticatorID
}

func (s *sensor) passkeys() []*webauthn.Credential {
	s.t.Helper()
	r, err := chromedp.Call(s.ctx, webauthn.GetCredentials, webauthn.GetCredentialsParams{AuthenticatorID: s.id})
	if err != nil {
		s.t.Fatal(err)
	}
	return r.Credentials
}

// letter sends a message that must be encrypted, of a subject that must not be seen
// either.
func (s *scene) letter(from, subject string, to ...string) mail {
	s.t.Helper()
	mark, data := s.text(subject)
	s.must = append(s.must, mark, subject)
	m := s.accepted(s.submit(lab.Message{From: from, To: to, Data: data}))
	m.mark = mark
	return m
}

// notice waits for the notice after so many others, and returns it as it arrived,
// with its link.
func (s *scene) notice(to string, before int) (fakesmtp.Mail, string) {
	s.t.Helper()
	if !s.Wait(patience, func() bool { return len(s.links(to)) > before }) {
		s.t.Fatalf("no notice arrived for %s after %d", to, before)
	}
	mails, links := s.Notices(to)
	return mails[before], links[before]
}

// codeAfter waits for a code that arrived after so many mails.
func (s *scene) codeAfter(to string, seen int) (code string) {
	s.t.Helper()
	if !s.Wait(patience, func() bool {
		for _, got := range s.Received()[seen:] {
			_, body, _ := bytes.Cut(got.Data, []byte("\r\n\r\n"))
			if c := mailedCode.FindSubmatch(body); got.HasTo(to) && c != nil {
				code = string(c[1])
			}
		}
		return code != ""
	}) {
		s.t.Fatalf("no code arrived for %s", to)
	}
	return code
}

// enrols asks for a code, and chooses a password with it.
func (s *scene) enrols(p *person, address, password string) {
	s.t.Helper()
	seen := len(s.Received())
	p.press(askForCode)
	p.fill("#answer", s.codeAfter(address, seen))
	p.fill("#password", password)
	p.press(enrolButton)
}

// plainly returns the subject and the text of a mail of Postseal, decoded and with
// the lines of a paragraph in one.
func plainly(t *testing.T, data []byte) (subject, text string) {
	t.Helper()
	m, err := netmail.ReadMessage(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if subject, err = new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject")); err != nil {
		t.Fatal(err)
	}
	body := io.Reader(m.Body)
	if m.Header.Get("Content-Transfer-Encoding") == "quoted-printable" {
		body = quotedprintable.NewReader(body)
	}
	b, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	text = strings.ReplaceAll(string(b), "\r\n", "\n")
	return subject, foldedLine.ReplaceAllString(text, "$1 $2")
}

var foldedLine = regexp.MustCompile(`(\S)\n(\S)`)

// history shows what happened to a message, on the sender's page.
func (p *person) history() {
	p.t.Helper()
	p.touch("section details summary")
}

// toSender waits for the one mail to a sender whose subject has some words, and
// returns its text and the link to the sender's page. It must hold nothing of the
// message.
func (s *scene) toSender(address, words string, m mail) (text, link string) {
	s.t.Helper()
	got := s.told(address, 1, func(r received) bool {
		subject, err := new(mime.WordDecoder).DecodeHeader(r.Get("Subject"))
		return err == nil && strings.Contains(subject, words)
	})[0]
	_, text = plainly(s.t, got.raw)
	found := senderLink.FindStringSubmatch(text)
	if found == nil {
		s.t.Fatalf("no link to the sender's page in:\n%s", text)
	}
	if bytes.Contains(got.raw, []byte(m.mark)) {
		s.t.Errorf("a mail about the message holds its text:\n%s", got.raw)
	}
	return text, found[1]
}

func (p *person) url() string {
	at, err := chromedp.Run(p.ctx, chromedp.Evaluate[string]("location.href"))
	if err != nil {
		p.t.Fatal(err)
	}
	return at
}
