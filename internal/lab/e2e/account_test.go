package e2e

import (
	"bytes"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/webauthn"
	"github.com/chromedp/chromedp"

	"github.com/postseal/postseal/internal/lab"
	"github.com/postseal/postseal/internal/lab/chromium"
)

// TestPasskeyInChromium is the pickup of a recipient who enrols: a message through a
// real Postfix, the notice and the code as they arrived, a passkey of the browser's
// virtual authenticator, and the sender told of it. The next message opens by its
// link; in a browser that was never here the passkey opens it.
func TestPasskeyInChromium(t *testing.T) {
	s := newScene(t, lab.Options{Rules: []string{"domain add plain.example --require encryption"}, Verify: "account"})
	const pat = "pat@plain.example"
	first := s.send("doc@own.example", pat)
	link := s.sealed(first, pat)
	ctx := chromium.Start(t)
	do := func(steps ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		if err := chromedp.Do(ctx, steps...); err != nil {
			t.Fatal("the page does not do that") // the error may name the link
		}
	}
	shows := func(words string) {
		t.Helper()
		page := ""
		if !lab.Poll(patience, func() bool {
			page, _ = chromedp.Run(ctx, chromedp.Evaluate[string]("document.body ? document.body.innerText : ''"))
			return strings.Contains(page, words)
		}) {
			t.Fatalf("the page lacks %q:\n%s", words, page)
		}
	}
	if _, err := chromedp.Call(ctx, webauthn.Enable, webauthn.EnableParams{}); err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Call(ctx, webauthn.AddVirtualAuthenticator, webauthn.AddVirtualAuthenticatorParams{Options: &webauthn.VirtualAuthenticatorOptions{
		Protocol: webauthn.AuthenticatorProtocolCtap2, Transport: webauthn.AuthenticatorTransportInternal,
		HasResidentKey: true, HasUserVerification: true, IsUserVerified: true, AutomaticPresenceSimulation: true,
	}}); err != nil {
		t.Fatal(err)
	}
	seen := len(s.Received())
	do(chromedp.Navigate(link))
	if _, err := chromedp.RunResponse(ctx, chromedp.Click(chromedp.CSS(`form[action$="/code"] button`))); err != nil {
		t.Fatal("no code can be asked for")
	}
	code := ""
	if !lab.Poll(patience, func() bool {
		for _, got := range s.Received()[seen:] {
			_, body, _ := bytes.Cut(got.Data, []byte("\r\n\r\n"))
			if c := mailedCode.FindSubmatch(body); got.HasTo(pat) && c != nil {
				code = string(c[1])
			}
		}
		return code != ""
	}) {
		t.Fatal("no code came")
	}
	do(chromedp.SendKeys(chromedp.ID("answer"), code), chromedp.Click(chromedp.CSS("[data-use]")))
	shows(first.mark)
	if !s.Wait(patience, func() bool {
		for _, got := range s.Postfix.Mailbox("doc@own.example") {
			if bytes.Contains(got, []byte("has made an account")) {
				return true
			}
		}
		return false
	}) {
		t.Error("the sender is not told of the enrolment")
	}

	second := s.send("doc@own.example", pat)
	next := ""
	if !s.Wait(patience, func() bool {
		_, links := s.Notices(pat)
		for _, l := range links {
			if l != link {
				next = l
			}
		}
		return next != ""
	}) {
		t.Fatal("no notice of the second message came")
	}
	do(chromedp.Navigate(next))
	shows(second.mark)

	if _, err := chromedp.Call(ctx, network.ClearBrowserCookies, struct{}{}); err != nil {
		t.Fatal(err)
	}
	do(chromedp.Navigate(next))
	shows("Use your passkey")
	do(chromedp.Click(chromedp.CSS("[data-use]")))
	shows(second.mark)
	if log := s.Postseal.Log(); strings.Contains(log, code) || strings.Contains(log, link[strings.LastIndexByte(link, '/')+1:]) {
		t.Error("a secret stands in the log")
	}
}
