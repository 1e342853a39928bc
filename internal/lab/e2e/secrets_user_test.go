package e2e

import (
	"bytes"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/descope/virtualwebauthn"
	"github.com/pquerna/otp/totp"
	"golang.org/x/sys/unix"

	"github.com/postseal/postseal/internal/lab"
	"github.com/postseal/postseal/internal/lab/fakeidp"
	"github.com/postseal/postseal/internal/lab/fakesmtp"
)

// user does what people do with Postseal, and tells the witness the secrets.
type user struct {
	*scene
	w *witness
	n int
}

// keys tells the secrets of the key file.
func (u *user) keys(file string) {
	u.t.Helper()
	text, err := os.ReadFile(file)
	u.check(err)
	for _, m := range regexp.MustCompile(`"value"\s*:\s*"([^"]+)"`).FindAllSubmatch(text, -1) {
		u.w.secret("key of the key file", string(m[1]))
		// The value is a message of protocol buffers, which ends with the key.
		raw, err := base64.StdEncoding.DecodeString(string(m[1]))
		u.check(err)
		u.w.secret("key of the key file", string(raw[len(raw)-32:]))
	}
}

// letter sends a message with a file, all of it secret, and returns it.
func (u *user) letter(before, to string) mail {
	u.t.Helper()
	u.n++
	subject, mark := fmt.Sprintf("Biopsie Nr. %d", 7300+u.n), fmt.Sprintf("der Verdacht hat sich bestätigt (%d)", u.n)
	name, file := fmt.Sprintf("Histologie-%d.pdf", u.n), []byte(fmt.Sprintf("%%PDF-1.7 Gewebeprobe Nummer %d ", u.n))
	file = append(file, bytes.Repeat([]byte{0, 1, 2, 3, byte(u.n), 0xfe}, 30<<10)...)
	u.tells(subject, mark, name, file)
	data := strings.ReplaceAll(fmt.Sprintf("From: %s\nTo: %s\nSubject: %s\nMessage-ID: <s%d@mua.example>\nMIME-Version: 1.0\n"+
		"Content-Type: multipart/mixed; boundary=bb\n\n--bb\nContent-Type: multipart/alternative; boundary=aa\n\n"+
		"--aa\nContent-Type: text/plain; charset=utf-8\n\n%s\n--aa\nContent-Type: text/html; charset=utf-8\n\n<p>%s</p>\n--aa--\n"+
		"--bb\nContent-Type: application/pdf\nContent-Disposition: attachment; filename=%q\nContent-Transfer-Encoding: base64\n\n%s\n--bb--\n",
		doctor, to, before+subject, u.n, mark, mark, name, lines64(file)), "\n", "\r\n")
	m := u.accepted(u.submit(lab.Message{From: doctor, To: []string{to}, Data: []byte(data)}))
	m.mark = mark
	return m
}

func lines64(data []byte) string {
	text := base64.StdEncoding.EncodeToString(data)
	var b strings.Builder
	for len(text) > 76 {
		b.WriteString(text[:76] + "\n")
		text = text[76:]
	}
	return b.String() + text
}

func (u *user) tells(subject, text, name string, file []byte) {
	u.w.secret("subject", subject)
	u.w.secret("text", text)
	u.w.secret("name of a file", name)
	u.w.secret("a file", string(file[:30]))
}

// link waits for the notice after so many others, and tells its secret.
func (u *user) link(to string, before int) string {
	u.t.Helper()
	_, link := u.notice(to, before)
	u.w.secret("link", link[strings.LastIndexByte(link, '/')+1:])
	return link
}

// open opens a page.
func (u *user) open(b *lab.Browser, ref string) {
	u.t.Helper()
	if err := b.Get(ref); err != nil || b.Status != http.StatusOK {
		u.t.Fatalf("a page was answered with %d, %v:\n%s", b.Status, err, b.Page)
	}
}

// press sends the form whose target ends so, with some fields, and wants a status.
func (u *user) press(b *lab.Browser, action string, status int, fields ...string) {
	u.t.Helper()
	for _, f := range b.Forms() {
		if !strings.HasSuffix(f.Action, action) {
			continue
		}
		for i := 0; i < len(fields); i += 2 {
			f.Fields.Set(fields[i], fields[i+1])
		}
		u.check(b.Submit(f))
		if b.Status != status {
			u.t.Fatalf("%s was answered with %d, want %d:\n%s", action, b.Status, status, b.Page)
		}
		return
	}
	u.t.Fatalf("no form for %s on this page:\n%s", action, b.Page)
}

func (u *user) sees(b *lab.Browser, what string) {
	u.t.Helper()
	if !strings.Contains(html.UnescapeString(string(b.Page)), what) {
		u.t.Fatalf("the page lacks %q:\n%s", what, b.Page)
	}
}

// target returns the first link of the page whose path has a part.
func (u *user) target(b *lab.Browser, part string) string {
	u.t.Helper()
	for _, l := range b.Links() {
		if strings.Contains(l, part) {
			return l
		}
	}
	u.t.Fatalf("no link to %s on this page:\n%s", part, b.Page)
	return ""
}

// asksForCode presses the button and returns the code that comes.
func (u *user) asksForCode(b *lab.Browser, to string) string {
	u.t.Helper()
	seen := len(u.Received())
	u.press(b, "/code", http.StatusOK)
	return strings.ReplaceAll(u.codeAfter(to, seen), " ", "")
}

func (u *user) pickupByCode() {
	t := u.t
	m := u.letter("", byCode)
	link := u.link(byCode, 0)
	b := lab.NewBrowser()
	u.open(b, link)
	code := u.asksForCode(b, byCode)
	u.press(b, "/verify", http.StatusUnprocessableEntity, "answer", "31415926")
	u.press(b, "/verify", http.StatusOK, "answer", code)
	u.sees(b, m.mark)
	self := b.URL.Path
	u.open(b, u.target(b, "/part/"))
	if !bytes.Contains(b.Page, []byte("Gewebeprobe")) {
		t.Errorf("the file came as %d bytes", len(b.Page))
	}
	u.open(b, self+"?as=html")
	u.open(b, strings.TrimSuffix(self, "/message")+"/html")
	u.open(b, strings.TrimSuffix(self, "/message")+"/raw")
	u.open(b, self)
	inbox := u.target(b, "/inbox/")
	u.open(b, inbox)
	u.open(b, u.target(b, "/zip"))
	u.open(b, inbox)
	u.press(b, "/search", http.StatusOK, "q", "Gallenblase")

	reply := lab.Attachment{Name: "Rückfrage-zur-OP.txt", Data: []byte("die Angehörigen wissen noch nichts davon")}
	draft, answer := "erst noch ein Entwurf, nur für mich", "ich habe große Angst vor dem Eingriff"
	u.tells("Re: no subject", answer, reply.Name, reply.Data)
	u.w.secret("text", draft)
	u.check(b.Reply(link, "save", draft, false, reply))
	u.check(b.Reply(link, "send", answer, false))
	u.mailbox(mail{mark: "Re: Biopsie Nr. 7301"}, doctor)
	// Who has no link learns nothing, also not from the log.
	stranger := lab.NewBrowser()
	u.check(stranger.Get(link + "x"))
	u.check(stranger.Get(u.w.base + "/m/no-such-item/not-a-secret-at-all/message"))
	u.open(b, link)
	u.open(b, self)
	u.press(b, "/leave", http.StatusOK)
}

func (u *user) pickupByPassphrase() {
	const phrase, wrong = "die grüne Giraffe & 7 Zwerge", "die grüne Giraffe"
	u.w.secret("passphrase", phrase)
	_, err := u.Postseal.CLIWith(phrase+"\n", "recipient", "set", byPhrase, "--verify", "passphrase")
	u.check(err)
	m := u.letter("", byPhrase)
	b := lab.NewBrowser()
	u.open(b, u.link(byPhrase, 0))
	u.press(b, "/verify", http.StatusUnprocessableEntity, "answer", wrong)
	u.press(b, "/verify", http.StatusOK, "answer", phrase)
	u.sees(b, m.mark)
}

func (u *user) sealedBySubject() {
	m := u.letter("[sealed] ", byTrigger)
	link := u.link(byTrigger, 0)
	b := lab.NewBrowser()
	u.open(b, link)
	u.press(b, "/verify", http.StatusOK, "answer", u.asksForCode(b, byTrigger))
	u.sees(b, m.mark)
}

// account is an account with a password, an app that makes codes, and a passkey; it
// is forgotten, reset by the sender, and made anew with a passkey alone.
func (u *user) account() {
	t := u.t
	const password, second, wrong = "seven grey herons & co", "eight red herrings", "not seven herons"
	_, err := u.CLI("recipient", "set", byAccount, "--verify", "account")
	u.check(err)
	m := u.letter("", byAccount)
	link := u.link(byAccount, 0)
	b := lab.NewBrowser()
	u.open(b, link)
	code := u.asksForCode(b, byAccount)
	u.press(b, "/enrol", http.StatusUnprocessableEntity, "answer", "27182818", "password", password)
	u.press(b, "/enrol", http.StatusOK, "answer", code, "password", password)
	u.sees(b, m.mark)

	inbox := u.target(b, "/inbox/")
	account := inbox + "/account"
	u.open(b, account)
	u.press(b, "/account/totp", http.StatusOK)
	secret := regexp.MustCompile(`<span class="item" dir="ltr">([A-Z2-7 ]{16,})</span>`).FindSubmatch(b.Page)
	if secret == nil {
		t.Fatalf("no secret for an app on this page:\n%s", b.Page)
	}
	seed := strings.ReplaceAll(string(secret[1]), " ", "")
	u.w.secret("TOTP secret", string(secret[1]))
	u.w.secret("TOTP secret", seed)
	app := func(step int) string {
		c, err := totp.GenerateCode(seed, time.Now().Add(time.Duration(step)*30*time.Second))
		u.check(err)
		return c
	}
	u.press(b, "/totp/confirm", http.StatusUnprocessableEntity, "totp", "141421")
	u.press(b, "/totp/confirm", http.StatusOK, "totp", app(0))
	u.press(b, "/account/password", http.StatusUnprocessableEntity, "old", wrong, "password", second)
	u.press(b, "/account/password", http.StatusOK, "old", password, "password", second)
	key := newPasskey(u.w.base)
	u.addsPasskey(b, account, key)

	other := lab.NewBrowser()
	u.open(other, link)
	u.press(other, "/signin", http.StatusUnprocessableEntity, "password", wrong+"!", "totp", "662607")
	u.press(other, "/signin", http.StatusUnprocessableEntity, "password", second, "totp", "173205")
	u.press(other, "/signin", http.StatusOK, "password", second, "totp", app(1))
	u.sees(other, m.mark)
	third := lab.NewBrowser()
	u.open(third, link)
	u.signsIn(third, link, key)
	u.open(third, link)
	u.sees(third, m.mark)

	lost := lab.NewBrowser()
	u.open(lost, link)
	u.open(lost, u.target(lost, "/forgot"))
	u.press(lost, "/forgot", http.StatusOK)
	_, page := u.toSender(doctor, "Your recipient can't get in", m)
	sender := lab.NewBrowser()
	u.open(sender, page)
	u.open(sender, u.target(sender, "/reset"))
	u.press(sender, "/reset", http.StatusOK, "sure", string(sureLine.FindSubmatch(sender.Page)[1]))
	u.open(lost, link)
	u.enrolsByPasskey(lost, link, u.asksForCode(lost, byAccount), newPasskey(u.w.base))
	u.open(lost, link)
	u.sees(lost, m.mark)
}

// passkey is one without a browser.
type passkey struct {
	rp   virtualwebauthn.RelyingParty
	auth virtualwebauthn.Authenticator
	key  virtualwebauthn.Credential
}

func newPasskey(origin string) *passkey {
	key := virtualwebauthn.NewCredential(virtualwebauthn.KeyTypeEC2)
	for len(key.Key.AttestationData()) != 77 { // it leaves out leading zeros, which no real one does
		key = virtualwebauthn.NewCredential(virtualwebauthn.KeyTypeEC2)
	}
	return &passkey{virtualwebauthn.RelyingParty{ID: "localhost", Origin: origin}, virtualwebauthn.NewAuthenticator(), key}
}

// begins asks for a ceremony as the script of the page does.
func (u *user) begins(b *lab.Browser, path string, fields url.Values) (ceremony, options string) {
	u.t.Helper()
	u.check(b.Submit(lab.Form{Action: path, Method: "post", Fields: fields}))
	var a struct {
		Ceremony string
		Options  json.RawMessage
	}
	if err := json.Unmarshal(b.Page, &a); err != nil || a.Ceremony == "" {
		u.t.Fatalf("no ceremony began: %d %s", b.Status, b.Page)
	}
	u.w.secret("ceremony", a.Ceremony)
	return a.Ceremony, string(a.Options)
}

func (u *user) creates(k *passkey, options string) string {
	u.t.Helper()
	o, err := virtualwebauthn.ParseAttestationOptions(options)
	u.check(err)
	k.auth.Options.UserHandle = []byte(o.UserID)
	return virtualwebauthn.CreateAttestationResponse(k.rp, k.auth, k.key, *o)
}

func (u *user) ends(b *lab.Browser, path, ceremony, response string) {
	u.t.Helper()
	u.check(b.Submit(lab.Form{Action: path, Method: "post", Fields: url.Values{"ceremony": {ceremony}, "response": {response}}}))
	if b.Status != http.StatusOK {
		u.t.Fatalf("a passkey was answered with %d:\n%s", b.Status, b.Page)
	}
}

func (u *user) addsPasskey(b *lab.Browser, account string, k *passkey) {
	u.t.Helper()
	ceremony, options := u.begins(b, account+"/passkey", nil)
	u.ends(b, account+"/passkey/add", ceremony, u.creates(k, options))
}

func (u *user) enrolsByPasskey(b *lab.Browser, link, code string, k *passkey) {
	u.t.Helper()
	ceremony, options := u.begins(b, link+"/enrol/passkey", url.Values{"answer": {code}})
	u.ends(b, link+"/enrol", ceremony, u.creates(k, options))
}

func (u *user) signsIn(b *lab.Browser, link string, k *passkey) {
	u.t.Helper()
	ceremony, options := u.begins(b, link+"/signin/passkey", nil)
	o, err := virtualwebauthn.ParseAssertionOptions(options)
	u.check(err)
	k.key.Counter++
	auth := k.auth
	auth.Options.UserHandle = nil
	u.ends(b, link+"/signin", ceremony, virtualwebauthn.CreateAssertionResponse(k.rp, auth, k.key, *o))
}

// senderPage is a new link, a passphrase for one message, and taking it back; then a
// new link and taking back from the command line.
func (u *user) senderPage() {
	const to, phrase = "page@plain.example", "Schnee im August"
	m := u.letter("", to)
	u.link(to, 0)
	var page string
	for _, link := range u.senderLinks(to) {
		page = link
	}
	u.w.secret("sender's link", page[strings.LastIndexByte(page, '/')+1:])
	b := lab.NewBrowser()
	u.open(b, page)
	u.press(b, "/resend", http.StatusOK)
	u.link(to, 1)
	u.open(b, page)
	u.open(b, u.target(b, "/passphrase"))
	u.press(b, "/passphrase", http.StatusUnprocessableEntity, "phrase", "kurz-1")
	u.press(b, "/passphrase", http.StatusOK, "phrase", phrase)
	p := lab.NewBrowser()
	u.open(p, u.link(to, 2))
	u.press(p, "/verify", http.StatusUnprocessableEntity, "answer", "Schnee im Juli")
	u.press(p, "/verify", http.StatusOK, "answer", phrase)
	u.sees(p, m.mark)
	u.open(b, page)
	u.open(b, u.target(b, "/retract"))
	u.press(b, "/retract", http.StatusUnprocessableEntity)
	u.press(b, "/retract", http.StatusOK, "sure", string(sureLine.FindSubmatch(b.Page)[1]))

	u.letter("", "cli@plain.example")
	u.link("cli@plain.example", 0)
	id := u.item("cli@plain.example")
	for _, command := range [][]string{{"resend", id}, {"extend", id, "--for", "1h"}, {"show", id}, {"list"}, {"retract", id}} {
		_, err := u.CLI(append([]string{"escrow"}, command...)...)
		u.check(err)
	}
}

// senderLinks returns the sender's links of mails about messages to a recipient.
func (u *user) senderLinks(recipient string) (links []string) {
	u.t.Helper()
	u.Wait(patience, func() bool {
		links = nil
		for _, raw := range u.Postfix.Mailbox(doctor) {
			if _, text := plainly(u.t, raw); strings.Contains(text, recipient) {
				if m := senderLink.FindStringSubmatch(text); m != nil {
					links = append(links, m[1])
				}
			}
		}
		return len(links) > 0
	})
	if len(links) == 0 {
		u.t.Fatalf("no mail about %s leads to the sender's page", recipient)
	}
	return links
}

// item returns the id of the one message for a recipient.
func (u *user) item(to string) string {
	u.t.Helper()
	items, err := u.Escrowed(to)
	u.check(err)
	if len(items) != 1 {
		u.t.Fatalf("the items for %s are %+v", to, items)
	}
	return items[0].ID
}

func (u *user) byAPI() {
	out, err := u.CLI("api-key", "new", "--sender", "@own.example", "--note", "the laboratory")
	u.check(err)
	key := lastLine(out)
	u.w.secret("API key", key)
	wrong := key[:len(key)-4] + "AAAA"
	u.w.secret("API key", wrong)
	send := func(key, subject, text, name string, file []byte) int {
		u.t.Helper()
		u.tells(subject, text, name, file)
		body, err := json.Marshal(map[string]any{
			"from": fromDoctor, "to": []string{"api@plain.example"}, "subject": subject, "text": text,
			"attachments": []map[string]any{{"name": name, "type": "application/pdf", "content": base64.StdEncoding.EncodeToString(file)}},
		})
		u.check(err)
		r, err := http.NewRequest(http.MethodPost, apiURL, bytes.NewReader(body))
		u.check(err)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+key)
		r.Header.Set("Idempotency-Key", name[:3]+fmt.Sprint(len(name)))
		res, err := http.DefaultClient.Do(r)
		u.check(err)
		res.Body.Close()
		return res.StatusCode
	}
	file := bytes.Repeat([]byte("ein Laborwert, der niemanden etwas angeht; "), 5000)
	if status := send(wrong, "Laborbefund 4711", "HIV-Test: reaktiv", "Laborwerte.pdf", file); status != http.StatusUnauthorized {
		u.t.Errorf("a wrong key was answered with %d", status)
	}
	if status := send(key, "Laborbefund 4712", "Kreatinin: 4,2 mg/dl", "Laborwerte-2.pdf", file); status != http.StatusAccepted {
		u.t.Errorf("a letter was answered with %d", status)
	}
	u.link("api@plain.example", 0)
	u.tells("Befund 815 liegt vor", "Nierensteine auf beiden Seiten", "none.pdf-not-sent", file[7:])
	_, err = u.Postseal.CLIWith("Subject: Befund 815 liegt vor\n\nNierensteine auf beiden Seiten\n", "escrow", "send", "--from", fromDoctor, "--to", "send@plain.example", "--require", "escrow")
	u.check(err)
	u.link("send@plain.example", 0)
}

// alarm is TLS that vanishes, with a webhook that fails.
func (u *user) alarm() {
	m := u.letter("", "a@tls.example")
	if !u.Wait(patience, func() bool { return u.countFile(m, "a@tls.example") == 1 }) {
		u.t.Fatal("nothing arrived over TLS")
	}
	if !lab.Poll(patience, func() bool {
		out, err := u.CLI("posture", "list", "--state", "works")
		return err == nil && strings.Contains(out, "tls.example")
	}) {
		u.t.Fatal("the posture is not known")
	}
	u.host("tls.example").Update(func(b *fakesmtp.Behaviour) { b.STARTTLS = false })
	u.letter("", "b@tls.example")
	u.link("b@tls.example", 0) // after the period of grace
	if !lab.Poll(patience, func() bool {
		m, err := u.Postseal.Metrics()
		return err == nil && strings.Contains(m, `postseal_alarm_tries_total{result="failed",way="webhook"}`)
	}) {
		u.t.Error("the webhook was not tried")
	}
}

func (u *user) countFile(m mail, to string) (n int) {
	for _, got := range u.Received() {
		if got.Accepted && got.TLS && got.HasTo(to) && bytes.Contains(got.Data, []byte(m.mark)) {
			n++
		}
	}
	return n
}

// recoveryKey makes a recovery key and returns its private half, as on paper.
func (u *user) recoveryKey() string {
	u.t.Helper()
	out, err := u.CLI("key", "recovery-new", "--note", "the safe")
	u.check(err)
	paper := lastLine(out)
	bare := strings.ReplaceAll(strings.TrimPrefix(paper, "POSTSEAL-RECOVERY-"), "-", "")
	u.w.secret("recovery key", paper)
	u.w.secret("recovery key", bare)
	u.w.secret("recovery key", strings.ToLower(bare))
	raw, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(bare)
	u.check(err)
	u.w.secret("recovery key", string(raw[1:33])) // after a byte of the version
	return paper
}

// rotation puts a new key into the key file, and everything under it.
func (u *user) rotation() {
	u.t.Helper()
	_, err := u.CLI("key", "rotate", "--keep-old")
	u.check(err)
	u.keys(filepath.Join(u.Dir, "postseal.key"))
	_, err = u.CLI("key", "list")
	u.check(err)
}

// recovers opens the message for a recipient with the private half of a recovery key.
func (u *user) recovers(to, paper string) {
	u.t.Helper()
	file := filepath.Join(u.t.TempDir(), "recovered.eml")
	_, err := u.Postseal.CLIWith(paper+"\n", "escrow", "recover", u.item(to), "--output", file)
	u.check(err)
	if got, err := os.ReadFile(file); err != nil || !bytes.Contains(got, []byte("Subject: Biopsie")) {
		u.t.Errorf("what was recovered is %.200q, %v", got, err)
	}
}

// expiry is a message whose time is over.
func (u *user) expiry() {
	const to = "late@plain.example"
	u.check(u.Postseal.Stop())
	u.check(u.Postseal.Start("POSTSEAL_LOG_FORMAT=json", "POSTSEAL_MESSAGE_LIFETIME=5s", "POSTSEAL_EXPIRING_BEFORE=1s"))
	u.check(u.Postfix.Reload())
	u.letter("", to)
	link := u.link(to, 0)
	b := lab.NewBrowser()
	if !lab.Poll(patience, func() bool { return b.Get(link) == nil && b.Status == http.StatusGone }) {
		u.t.Errorf("it does not expire: %d", b.Status)
	}
	u.check(u.Postseal.Stop())
	u.check(u.Postseal.Start("POSTSEAL_LOG_FORMAT=json")) // what is over is deleted at the start
	if !lab.Poll(patience, func() bool {
		items, err := u.Escrowed(to)
		return err == nil && len(items) == 1 && items[0].State == "expired"
	}) {
		u.t.Error("it is not deleted")
	}
}

// adminURL is how browsers reach the admin port, and adminSecret what the identity
// provider has for it.
const (
	adminURL    = "http://localhost:8646"
	adminSecret = "idp-secret-5b0d17a94c"
)

// adminLink leads from a list to one message, one recipient, or what can be done with it.
var adminLink = regexp.MustCompile(`href="(/(?:items|recipients)/[^"?]+)"`)

// adminPort signs in by an account and by the identity provider, and keeps what the admin
// port shows, before and after.
func (u *user) adminPort(provider *fakeidp.Provider) {
	u.t.Helper()
	pages := []string{"/metrics", "/healthz", "/readyz", "/destinations", "/destinations/tls.example", "/check", "/items", "/recipients", "/rules", "/outbox", "/audit", "/"}
	const password, guess = "nine purple turnips", "nine yellow turnips"
	u.w.secret("administrator's password", password)
	u.w.secret("administrator's password", guess)
	secret, err := u.Postseal.AddAdmin("jane", password, "--role", "operator")
	u.check(err)
	enrolled := time.Now().Unix() / 30 // the step of its code, at the latest
	u.w.secret("administrator's TOTP secret", secret)
	raw, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(secret)
	u.check(err)
	u.w.secret("administrator's TOTP secret", string(raw))

	visit := func(who string, b *lab.Browser) {
		u.t.Helper()
		for _, path := range pages {
			u.check(b.Get(adminURL + path))
			u.w.keep("the admin port's "+path+" "+who, b.Page)
			for _, m := range adminLink.FindAllSubmatch(b.Page, 20) {
				below := string(m[1])
				u.check(b.Get(adminURL + below))
				u.w.keep("the admin port's "+below+" "+who, b.Page)
			}
		}
		at, err := url.Parse(adminURL)
		u.check(err)
		for _, c := range b.Client.Jar.Cookies(at) {
			u.w.secret("administrator's cookie", c.Value)
		}
	}
	in := func(b *lab.Browser, as string) {
		u.t.Helper()
		u.check(b.Get(adminURL + "/destinations"))
		if !bytes.Contains(b.Page, []byte("Signed in as <strong>"+as+"</strong>")) {
			u.t.Fatalf("not signed in as %s: %d %s", as, b.Status, b.Page)
		}
	}
	b := lab.NewBrowser()
	visit("for nobody", b)
	u.check(b.Get(adminURL + "/destinations")) // leads to the login page
	u.check(b.SignIn("jane", guess, "000000"))
	u.w.keep("the login page after a wrong try", b.Page)
	u.check(b.SignIn(guess, "jane", "000000")) // a password in the field of the name
	for time.Now().Unix()/30 <= enrolled {     // the code of the account's making counts no more
		time.Sleep(time.Second)
	}
	code, err := totp.GenerateCode(secret, time.Now())
	u.check(err)
	u.check(b.Get(adminURL + "/login?to=/destinations"))
	u.check(b.SignIn("jane", password, code))
	in(b, "jane")
	visit("for an administrator", b)

	other := lab.NewBrowser()
	u.check(other.Get(adminURL + "/login/oidc?to=/destinations"))
	in(other, "olga@own.example")
	visit("by the identity provider", other)
	for _, token := range provider.Tokens() {
		u.w.secret("ID token", token)
	}
	u.w.secret("secret of the identity provider", adminSecret)
	for _, f := range other.Forms() {
		if f.Action == "/logout" {
			u.check(other.Submit(f))
			break
		}
	}
}

// commands keeps what commands print and write, the audit log and a backup among it.
func (u *user) commands() {
	u.t.Helper()
	backup := filepath.Join(u.t.TempDir(), "backup.db")
	for _, command := range []string{
		"escrow list --json", "recipient list --json", "api-key list", "domain list", "trigger list", "posture list --json", "tlsrpt list",
		"key list", "key recovery-list", "admin list", "admin list --json", "audit list", "audit export", "audit verify", "audit checkpoint", "db backup " + backup,
	} {
		out, err := u.CLI(strings.Fields(command)...)
		u.check(err)
		u.w.keep("postseal "+command, []byte(out))
	}
	copied, err := os.ReadFile(backup)
	u.check(err)
	u.w.keep("a backup", copied)
	if export := u.w.places["postseal audit export"]; !bytes.Contains(export, []byte(byAccount)) {
		u.t.Errorf("the audit log knows nothing of %s:\n%.2000s", byAccount, export)
	}
}

// cores is that a crash leaves no core file.
func (u *user) cores() {
	t := u.t
	t.Helper()
	unit, err := os.ReadFile("../../../contrib/systemd/postseal.service")
	u.check(err)
	if !bytes.Contains(unit, []byte("\nLimitCORE=0\n")) {
		t.Error("the systemd unit allows core dumps")
	}
	var old unix.Rlimit
	u.check(unix.Getrlimit(unix.RLIMIT_CORE, &old))
	u.check(unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: old.Max, Max: old.Max}))
	defer unix.Setrlimit(unix.RLIMIT_CORE, &old)
	dir := t.TempDir() // core files are written where a program runs
	dumps := func(name string, args ...string) bool {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), append(u.Postseal.Env, "GOTRACEBACK=crash")...)
		out := &bytes.Buffer{}
		cmd.Stdout, cmd.Stderr = out, out
		in, err := cmd.StdinPipe() // kept open: the command waits for it
		u.check(err)
		defer in.Close()
		u.check(cmd.Start())
		if !lab.Poll(patience, func() bool {
			env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", cmd.Process.Pid))
			limits, _ := os.ReadFile(fmt.Sprintf("/proc/%d/limits", cmd.Process.Pid))
			return len(env) > 0 && (name == "sleep" || regexp.MustCompile(`Max core file size +0 +0 `).Match(limits))
		}) {
			t.Errorf("%s %s does not forbid core dumps", name, args)
		}
		time.Sleep(300 * time.Millisecond) // it is past its first lines
		u.check(cmd.Process.Signal(syscall.SIGABRT))
		cmd.Wait()
		status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
		if !ok || !status.Signaled() {
			t.Fatalf("%s %s ended with %v:\n%s", name, args, cmd.ProcessState, out)
		}
		files, _ := filepath.Glob(filepath.Join(dir, "core*"))
		for _, f := range files {
			os.Remove(f)
		}
		return status.CoreDump() || len(files) > 0
	}
	if !dumps("sleep", "60") {
		t.Log("core dumps are off on this machine: that Postseal forbids them is seen by its limit alone")
	}
	if dumps(u.Postseal.Binary, "recipient", "set", "core@plain.example", "--verify", "passphrase") {
		t.Error("a command leaves a core file")
	}
	u.check(u.Postseal.Stop())
	if dumps(u.Postseal.Binary, "serve") {
		t.Error("serve leaves a core file")
	}
	u.check(u.Postseal.Start("POSTSEAL_LOG_FORMAT=json"))
}
