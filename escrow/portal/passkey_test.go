package portal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/webauthn"
	"github.com/chromedp/chromedp"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/lab/chromium"
	"github.com/postseal/postseal/sql"
)

// realSite is a portal on a vault and a database, at a name that passkeys can be of.
type realSite struct {
	*escrow.Vault
	t    *testing.T
	base string
	sent int // messages
}

func newRealSite(t *testing.T, change ...func(*escrow.Options)) *realSite {
	t.Helper()
	dir := t.TempDir()
	var h http.Handler
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(w, r) }))
	t.Cleanup(server.Close)
	s := &realSite{t: t, base: strings.Replace(server.URL, "127.0.0.1", "localhost", 1)}
	if err := escrow.NewKeyFile(filepath.Join(dir, "keys")); err != nil {
		t.Fatal(err)
	}
	keys, err := escrow.LoadKeys(filepath.Join(dir, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open(t.Context(), "sqlite:"+filepath.Join(dir, "escrow.db"), sql.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	o := escrow.Options{Store: db, Keys: keys, PortalURL: s.base, NoticeFrom: "notice@clinic.example", Accounts: escrow.AccountOptions{Verify: escrow.VerifyAccount}}
	for _, f := range change {
		f(&o)
	}
	if s.Vault, err = escrow.NewVault(o); err != nil {
		t.Fatal(err)
	}
	base, err := url.Parse(s.base)
	if err != nil {
		t.Fatal(err)
	}
	if h, err = New(Config{Vault: s.Vault, Accounts: s.Vault, Inbox: s.Vault, Replies: s.Vault, BaseURL: base}); err != nil {
		t.Fatal(err)
	}
	return s
}

// mailed returns what the first match of a pattern has in parentheses, in the mails
// that are to go out now.
func (s *realSite) mailed(kind, pattern string) string {
	s.t.Helper()
	list, _, err := s.Due(s.t.Context(), 100)
	if err != nil {
		s.t.Fatal(err)
	}
	found := ""
	for _, e := range list {
		if err := s.Sent(s.t.Context(), e.ID); err != nil {
			s.t.Fatal(err)
		}
		if m := regexp.MustCompile(pattern).FindSubmatch(e.Text); e.Kind == kind && m != nil {
			found = string(m[1])
		}
	}
	if found == "" {
		s.t.Fatalf("no mail of kind %s has %s", kind, pattern)
	}
	return found
}

// seal seals a message to the recipient and returns its link.
func (s *realSite) seal(to string) string {
	s.t.Helper()
	s.sent++
	raw := []byte(crlf(fmt.Sprintf("From: %s\nTo: %s\nSubject: result %d\n\nall values of %d are as they should be\n", testSender, to, s.sent, s.sent)))
	_, err := s.Seal(s.t.Context(), escrow.Message{
		Sender: testSender, Recipients: []escrow.Recipient{{Address: to}}, QueueID: "4Q1", Digest: sha256.Sum256(raw), Size: int64(len(raw)),
		Body: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil },
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return s.mailed("notice", `(?m)^(`+regexp.QuoteMeta(s.base)+`/m/\S+)\r?$`)
}

func (s *realSite) code() string { s.t.Helper(); return s.mailed("code", `(?m)^([0-9]{8})\r?$`) }

// authenticator is one that the device has, with a fingerprint that is right or not.
type authenticator struct {
	t   *testing.T
	ctx context.Context
	id  webauthn.AuthenticatorID
}

func newAuthenticator(t *testing.T, ctx context.Context) *authenticator {
	t.Helper()
	if _, err := chromedp.Call(ctx, webauthn.Enable, webauthn.EnableParams{}); err != nil {
		t.Fatal(err)
	}
	r, err := chromedp.Call(ctx, webauthn.AddVirtualAuthenticator, webauthn.AddVirtualAuthenticatorParams{Options: &webauthn.VirtualAuthenticatorOptions{
		Protocol: webauthn.AuthenticatorProtocolCtap2, Transport: webauthn.AuthenticatorTransportInternal,
		HasResidentKey: true, HasUserVerification: true, IsUserVerified: true, AutomaticPresenceSimulation: true,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return &authenticator{t, ctx, r.AuthenticatorID}
}

// verifies sets whether the finger is the right one.
func (a *authenticator) verifies(ok bool) {
	a.t.Helper()
	if _, err := chromedp.Call(a.ctx, webauthn.SetUserVerified, webauthn.SetUserVerifiedParams{AuthenticatorID: a.id, IsUserVerified: ok}); err != nil {
		a.t.Fatal(err)
	}
}

func (a *authenticator) passkeys() int {
	a.t.Helper()
	r, err := chromedp.Call(a.ctx, webauthn.GetCredentials, webauthn.GetCredentialsParams{AuthenticatorID: a.id})
	if err != nil {
		a.t.Fatal(err)
	}
	return len(r.Credentials)
}

// person counts what is pressed and filled in.
type person struct {
	t     *testing.T
	ctx   context.Context
	steps int
}

func (p *person) press(selector string) {
	p.t.Helper()
	p.steps++
	submit(p.t, p.ctx, chromedp.Click(chromedp.CSS(selector)))
}

// touch presses what the script answers to, which may lead to another page.
func (p *person) touch(selector string) {
	p.t.Helper()
	p.steps++
	chromium.Do(p.t, p.ctx, chromedp.Click(chromedp.CSS(selector)))
}

func (p *person) fill(selector, what string) {
	p.t.Helper()
	p.steps++
	chromium.Do(p.t, p.ctx, chromedp.SendKeys(chromedp.CSS(selector), what))
}

// finger is laid on the sensor, which the authenticator does by itself.
func (p *person) finger() { p.steps++ }

// within checks how many steps it took since the link was opened.
func (p *person) within(most int) {
	p.t.Helper()
	if p.steps > most {
		p.t.Errorf("%d interactions, at most %d are allowed", p.steps, most)
	}
	p.t.Logf("%d interactions", p.steps)
	p.steps = 0
}

// waitFor waits until the page has some words.
func waitFor(t *testing.T, ctx context.Context, words string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		body, err := chromedp.Run(ctx, chromedp.Evaluate[string]("document.body ? document.body.innerText : ''"))
		if err == nil && strings.Contains(body, words) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the page never has %q (%v): %s", words, err, body)
		}
	}
}

// sees waits for all of some words.
func sees(t *testing.T, ctx context.Context, words ...string) {
	t.Helper()
	for _, w := range words {
		waitFor(t, ctx, w)
	}
}

const (
	sendButton   = `form[action$="/code"] button`
	openButton   = `form[data-passkey] button[type=submit]`
	passkeyUse   = `[data-use]`
	forgotButton = `a[href$="/forgot"]`
)

// A new recipient makes a passkey at the first pickup; the device then opens the
// next message by its link alone; on a new device, the passkey signs in. Of
// interactions it takes no more than promised.
func TestBrowserPasskey(t *testing.T) {
	ctx := chromium.Start(t, chromium.OnlyLoopback)
	s := newRealSite(t)
	auth := newAuthenticator(t, ctx)
	me := &person{t: t, ctx: ctx}
	link := s.seal(testHolder)
	var mu sync.Mutex
	var requests []string
	if err := chromedp.Listen(ctx, func(ev any) {
		if e, ok := ev.(*network.EventRequestWillBeSent); ok && !strings.HasPrefix(e.Request.URL, "data:") {
			mu.Lock()
			requests = append(requests, e.Request.Method+" "+e.Request.URL)
			mu.Unlock()
		}
	}); err != nil {
		t.Fatal(err)
	}
	loaded := func() (list []string) {
		mu.Lock()
		defer mu.Unlock()
		list, requests = requests, nil
		return list
	}

	chromium.Do(t, ctx, chromedp.Navigate(link))
	if got := loaded(); len(got) != 1 {
		t.Errorf("the page wanted more than itself: %q", got)
	}
	if n := chromium.Eval[int](t, ctx, "document.documentElement.outerHTML.length"); n > 50_000 {
		t.Errorf("the page has %d characters", n)
	}
	me.press(sendButton)
	code := s.code()
	// To the mail program and back.
	chromium.Do(t, ctx, chromedp.Navigate("about:blank"))
	chromium.Do(t, ctx, chromedp.Navigate(link))
	sees(t, ctx, "A code was sent")
	me.fill("#answer", code[:4]+" "+code[4:])
	me.touch(passkeyUse)
	me.finger()
	waitFor(t, ctx, "all values of 1")
	me.within(4)
	if n := auth.passkeys(); n != 1 {
		t.Errorf("%d passkeys were made", n)
	}

	second := s.seal(testHolder)
	chromium.Do(t, ctx, chromedp.Navigate(second))
	waitFor(t, ctx, "all values of 2")
	me.within(2)

	// A device that was never here.
	if err := clearCookies(ctx); err != nil {
		t.Fatal(err)
	}
	loaded()
	chromium.Do(t, ctx, chromedp.Navigate(second))
	sees(t, ctx, "Open your protected message", "Use your passkey")
	if got := loaded(); len(got) != 1 {
		t.Errorf("the page wanted more than itself: %q", got)
	}
	auth.verifies(false)
	me.touch(passkeyUse)
	waitFor(t, ctx, "No passkey was used")
	if focus := chromium.Eval[string](t, ctx, "document.activeElement.getAttribute('role') || ''"); focus != "alert" {
		t.Errorf("the focus is not on what went wrong: %q", focus)
	}
	auth.verifies(true)
	me.steps = 0
	me.touch(passkeyUse)
	me.finger()
	waitFor(t, ctx, "all values of 2")
	me.within(2)

	// The account: one passkey more is refused on the same device, and the last one
	// stays while there is no password.
	chromium.Do(t, ctx, chromedp.Navigate(s.base+"/inbox/"+s.RecipientTag(testHolder)+"/account"))
	sees(t, ctx, "Passkeys", "Chrome, Linux")
	me.touch(`form[action$="/passkey/add"] [data-use]`)
	waitFor(t, ctx, "There is a passkey for these messages on this device already")
	me.press(`form[action$="/passkey/remove"] button`)
	sees(t, ctx, "It is your only way to sign in")
	me.fill("#password", testPassword)
	me.press(`form[action$="/account/password"] button[type=submit]`)
	sees(t, ctx, "Your password is changed")
	me.press(`form[action$="/passkey/remove"] button`)
	sees(t, ctx, "The passkey is removed")
	// Now it is a stranger's, and another can be made.
	me.touch(`form[action$="/passkey/add"] [data-use]`)
	waitFor(t, ctx, "The passkey is added")
	me.press(`form[action$="/signout/all"] button`)
	// Where there is a password too, its field offers passkeys (conditional mediation);
	// Chromium takes that of a virtual authenticator at once.
	waitFor(t, ctx, "result 2")
	if n := len(chromium.Eval[string](t, ctx, "document.querySelector('[data-options]') ? 'signin' : ''")); n != 0 {
		t.Error("still at the sign-in page")
	}
}

// Who cancels the passkey goes on with a password; the code is not asked for again,
// and the page may be left meanwhile.
func TestBrowserPasskeyCancelled(t *testing.T) {
	ctx := chromium.Start(t, chromium.OnlyLoopback)
	s := newRealSite(t)
	auth := newAuthenticator(t, ctx)
	auth.verifies(false)
	me := &person{t: t, ctx: ctx}
	link := s.seal(testHolder)
	chromium.Do(t, ctx, chromedp.Navigate(link))
	me.press(sendButton)
	me.touch(passkeyUse)
	waitFor(t, ctx, "Enter the code from the mail")
	me.fill("#answer", "11112222")
	me.touch(passkeyUse)
	waitFor(t, ctx, "wrong or no longer valid")
	if v := chromium.Eval[string](t, ctx, `document.activeElement.id + " " + document.activeElement.value`); v != "answer 11112222" {
		t.Errorf("the focus is on %q", v)
	}
	chromium.Eval[string](t, ctx, `document.getElementById("answer").value = ""`)
	me.fill("#answer", s.code())
	me.touch(passkeyUse)
	waitFor(t, ctx, "No passkey was used")
	sees(t, ctx, "Your code was right")
	chromium.Do(t, ctx, chromedp.Navigate("about:blank"))
	chromium.Do(t, ctx, chromedp.Navigate(link))
	sees(t, ctx, "Your code was right", "Choose a password")
	// The passkey can be tried again, too.
	me.touch(passkeyUse)
	waitFor(t, ctx, "No passkey was used")
	me.fill("#password", "short")
	me.press(openButton)
	sees(t, ctx, "too short", "Your code was right")
	me.fill("#password", testPassword)
	me.touch(`[data-show="password"]`)
	if kind := chromium.Eval[string](t, ctx, `document.getElementById("password").type`); kind != "text" {
		t.Errorf("the password is not shown: %s", kind)
	}
	me.press(openButton)
	sees(t, ctx, "all values of 1")
	if auth.passkeys() != 0 {
		t.Error("a passkey was made")
	}
}

// With a password, and no script.
func TestBrowserPasswordWithoutScript(t *testing.T) {
	ctx := chromium.Start(t, chromium.OnlyLoopback)
	s := newRealSite(t)
	scripts(t, ctx, false)
	me := &person{t: t, ctx: ctx}
	link := s.seal(testHolder)
	chromium.Do(t, ctx, chromedp.Navigate(link))
	me.press(sendButton)
	if text := text(t, ctx); strings.Contains(text, "passkey") || strings.Contains(text, "Show the password") {
		t.Error("there is a button that does nothing")
	}
	me.fill("#answer", s.code())
	me.fill("#password", testPassword)
	me.press(`form[action$="/enrol"] button[type=submit]`)
	sees(t, ctx, "all values of 1")
	me.within(4)
	if err := clearCookies(ctx); err != nil {
		t.Fatal(err)
	}
	chromium.Do(t, ctx, chromedp.Navigate(link))
	me.fill("#password", "not this one")
	me.press(`form[action$="/signin"] button[type=submit]`)
	sees(t, ctx, "That is not the password that you chose here")
	me.steps = 0
	me.fill("#password", testPassword)
	me.press(`form[action$="/signin"] button[type=submit]`)
	sees(t, ctx, "all values of 1")
	me.within(2)

	// Forgotten: the sender is asked, and the old password holds until it is allowed.
	if err := clearCookies(ctx); err != nil {
		t.Fatal(err)
	}
	chromium.Do(t, ctx, chromedp.Navigate(link))
	me.press(forgotButton)
	sees(t, ctx, "A code by mail is not enough")
	me.press(`form[action$="/forgot"] button`)
	sees(t, ctx, "We have asked "+testSender)
	if ok, err := s.ResetAccount(t.Context(), testHolder, "sender"); !ok || err != nil {
		t.Fatalf("reset: %v, %v", ok, err)
	}
	chromium.Do(t, ctx, chromedp.Navigate(link))
	sees(t, ctx, "Send me a code")
}

func scripts(t *testing.T, ctx context.Context, on bool) {
	t.Helper()
	if _, err := chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !on}); err != nil {
		t.Fatal(err)
	}
}
