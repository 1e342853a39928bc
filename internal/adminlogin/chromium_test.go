package adminlogin_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/postseal/postseal/internal/adminlogin"
	"github.com/postseal/postseal/internal/adminlogin/idp"
	"github.com/postseal/postseal/internal/adminpage"
	labchromium "github.com/postseal/postseal/internal/lab/chromium"
	"github.com/postseal/postseal/internal/lab/fakeidp"
)

// chromium is a real browser.
type chromium struct {
	*testing.T
	ctx context.Context
}

func newChromium(t *testing.T) *chromium {
	t.Helper()
	return &chromium{t, labchromium.Start(t, labchromium.OnlyLoopback)}
}

func (c *chromium) do(steps ...chromedp.Action[chromedp.Void]) {
	c.Helper()
	labchromium.Do(c.T, c.ctx, steps...)
}

func (c *chromium) eval(js string) string {
	c.Helper()
	return labchromium.Eval[string](c.T, c.ctx, js)
}

// sees waits for a text on the page.
func (c *chromium) sees(want string) {
	c.Helper()
	text := ""
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var err error // a page that is just leaving has none
		if text, err = chromedp.Run(c.ctx, chromedp.Evaluate[string](`document.body ? document.body.innerText : ""`)); err == nil && strings.Contains(text, want) {
			return
		}
	}
	c.Fatalf("at %s there is no %q:\n%s", c.eval(`location.href`), want, text)
}

// signIn fills the form in and sends it.
func (c *chromium) signIn(name, password, code string) {
	c.Helper()
	c.do(chromedp.WaitVisible("#code"), chromedp.SendKeys("#name", name), chromedp.SendKeys("#password", password), chromedp.SendKeys("#code", code),
		chromedp.Click("form.login button"))
}

// fits fails where the page is wider than a telephone.
func (c *chromium) fits(what string) {
	c.Helper()
	c.do(chromedp.EmulateViewport(320, 640))
	if c.eval(`String(document.documentElement.scrollWidth > document.documentElement.clientWidth)`) == "true" {
		c.Errorf("%s is wider than a telephone's screen", what)
	}
}

// accessible runs axe-core on the page.
func (c *chromium) accessible(what string) {
	c.Helper()
	labchromium.Accessible(c.T, c.ctx, what)
}

var signedInPage = adminpage.New(`{{define "content"}}<p>Here it is.</p>{{end}}`)

// serve serves the admin port on a port of its own.
func (b *bench) serve() (port string) {
	b.Helper()
	mux := http.NewServeMux()
	mux.Handle("/page", b.login.Require(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		signedInPage.Render(w, r, http.StatusOK, "A page", nil)
	})))
	mux.Handle("/", b.handler)
	srv := httptest.NewServer(mux)
	b.Cleanup(srv.Close)
	_, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	return port
}

// An administrator signs in with a real browser, is led back, and signs out. Another site
// that is open meanwhile, on another host or another port of this one, does nothing in
// the administrator's name, and a link from there works.
func TestAdminSignInInChromium(t *testing.T) {
	c := newChromium(t)
	b := newBench(t)
	b.add("olga", adminlogin.RoleOperator)
	port := b.serve()
	here := "http://127.0.0.1:" + port
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<form id="change" method="post" action="%s/change"></form><form id="out" method="post" action="%[1]s/logout"></form>
			<a id="link" href="%[1]s/page?from=elsewhere">there</a><iframe src="%[1]s/page"></iframe>`, here)
	}))
	defer evil.Close()
	_, evilPort, _ := net.SplitHostPort(evil.Listener.Addr().String())

	c.do(chromedp.Navigate(here + "/page?q=x"))
	c.fits("the login page")
	c.accessible("the login page")
	if focus := c.eval(`document.activeElement.id`); focus != "name" {
		t.Errorf("the focus is on %q", focus)
	}
	c.signIn("olga", password+"!", b.code("olga"))
	c.sees("Name, password or code is wrong.")
	c.accessible("the login page after a wrong try")
	c.signIn("olga", password, b.fresh("olga"))
	c.sees("Signed in as olga (operator)")
	if at := c.eval(`location.href`); at != here+"/page?q=x" {
		t.Errorf("led to %s", at)
	}
	c.fits("a page")
	c.accessible("a page")
	if kept := c.eval(`document.cookie`); kept != "" {
		t.Errorf("a script could read %s", kept)
	}

	for _, host := range []string{"localhost", "127.0.0.1"} { // another site; the same site, another port
		c.do(chromedp.Navigate("http://" + host + ":" + evilPort + "/"))
		for _, form := range []string{"change", "out"} {
			c.eval(`document.getElementById("` + form + `").submit(); ""`)
			c.sees("This was sent by another site.")
			c.do(chromedp.Navigate("http://" + host + ":" + evilPort + "/"))
		}
		c.do(chromedp.Click("#link"))
		c.sees("Signed in as olga")
		if at := c.eval(`location.href`); at != here+"/page?from=elsewhere" {
			t.Errorf("a link led to %s", at)
		}
	}
	if did := b.changed(); len(did) > 0 {
		t.Errorf("another site did %q", did)
	}

	c.do(chromedp.Click("form.signed button"))
	c.sees("You are signed out.")
	c.do(chromedp.Navigate(here + "/page"))
	c.sees("Code of your app")
}

// The same by an identity provider, which is another site.
func TestAdminSignInByOIDCInChromium(t *testing.T) {
	c := newChromium(t)
	p := fakeidp.New("postseal", clientSecret)
	defer p.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	here := "http://localhost:" + port
	b := newBench(t, func(cfg *adminlogin.Config) {
		cfg.URL = mustURL(here)
		cfg.Named = []adminlogin.Named{{Email: "jane@own.example"}}
		if cfg.Provider, err = idp.New(idp.Options{Issuer: p.URL, ClientID: "postseal", Secret: clientSecret, Redirect: here + "/login/oidc/callback"}); err != nil {
			t.Fatal(err)
		}
	})
	mux := http.NewServeMux()
	mux.Handle("/page", b.login.Require(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		signedInPage.Render(w, r, http.StatusOK, "A page", nil)
	})))
	mux.Handle("/", b.handler)
	srv := &http.Server{Handler: mux}
	defer srv.Close()
	go srv.Serve(ln)

	p.SignedIn(fakeidp.User{Subject: "1", Email: "joan@own.example", Verified: true})
	c.do(chromedp.Navigate(here+"/page?q=x"), chromedp.WaitVisible("main a"), chromedp.Click("main a"))
	c.sees("joan@own.example may not sign in here")
	p.SignedIn(fakeidp.User{Subject: "2", Email: "jane@own.example", Verified: true})
	c.do(chromedp.Navigate(here + "/page?q=x"))
	c.accessible("the login page")
	c.do(chromedp.Click("main a"))
	c.sees("Signed in as jane@own.example (viewer)")
	if at := c.eval(`location.href`); at != here+"/page?q=x" {
		t.Errorf("led to %s", at)
	}
	c.do(chromedp.Click("form.signed button"))
	c.sees("You are signed out.")
}
