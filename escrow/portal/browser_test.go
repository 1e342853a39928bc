package portal

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	cdbrowser "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	cdpage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/lab/chromium"
)

// submit presses something that leads to another page, and waits for that.
func submit(t *testing.T, ctx context.Context, step chromedp.Action[chromedp.Void]) {
	t.Helper()
	if _, err := chromedp.RunResponse(ctx, step); err != nil {
		t.Fatal(err)
	}
}

// contrast finds texts whose contrast to what lies behind them is below 4.5
// (WCAG 2.2, 1.4.3), from the colours as they are rendered.
const contrast = `(() => {
  const parse = s => { const m = s.match(/[\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
  const over = (a, b) => [0,1,2].map(i => a[i]*a[3] + b[i]*(1-a[3])).concat(1);
  const lum = c => { const f = v => { v /= 255; return v <= .04045 ? v/12.92 : ((v+.055)/1.055)**2.4; }; return .2126*f(c[0]) + .7152*f(c[1]) + .0722*f(c[2]); };
  const behind = e => { const stack = []; for (; e; e = e.parentElement) stack.push(parse(getComputedStyle(e).backgroundColor));
    let c = matchMedia("(prefers-color-scheme: dark)").matches ? [0,0,0,1] : [255,255,255,1]; while (stack.length) c = over(stack.pop(), c); return c; };
  const bad = []; let seen = 0;
  const check = (e, what) => { const bg = behind(e), fg = over(parse(getComputedStyle(e).color), bg);
    const a = lum(fg), b = lum(bg), r = (Math.max(a,b)+.05)/(Math.min(a,b)+.05); seen++;
    if (r < 4.5) bad.push(r.toFixed(2) + " " + what.trim().slice(0, 40)); };
  const w = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (w.nextNode()) { const e = w.currentNode.parentElement; if (w.currentNode.data.trim() && e.checkVisibility() && e.tagName !== "STYLE") check(e, w.currentNode.data); }
  for (const e of document.querySelectorAll("input,textarea")) check(e, "input");
  if (seen < 5) bad.push("only " + seen + " texts found");
  return bad;
})()`

// TestLooks visits every page and state, narrow and wide, light and dark: nothing
// scrolls sideways at 320 pixels, every text has its contrast, nothing is loaded
// but the page. Set POSTSEAL_SCREENSHOTS to a directory to look at them.
func TestLooks(t *testing.T) {
	ctx := chromium.Start(t, chromium.OnlyLoopback)
	visit := func(name string, vault *fakeVault, change func(*testSite) (path string)) {
		t.Run(name, func(t *testing.T) {
			s := newTestSite(t, vault, func(c *Config) { c.Replies = looksOfReplies() })
			path := change(s)
			if err := clearCookies(ctx); err != nil {
				t.Fatal(err)
			}
			chromium.Do(t, ctx, chromedp.EmulateViewport(360, 740))
			var mu sync.Mutex
			var requests []string
			listen, stop := context.WithCancel(ctx)
			defer stop()
			if err := chromedp.Listen(listen, func(ev any) {
				if e, ok := ev.(*network.EventRequestWillBeSent); ok && !strings.HasPrefix(e.Request.URL, "data:") {
					mu.Lock()
					requests = append(requests, e.Request.URL)
					mu.Unlock()
				}
			}); err != nil {
				t.Fatal(err)
			}
			open(t, ctx, s, path)
			looks(t, ctx, name)
			mu.Lock()
			defer mu.Unlock()
			for _, u := range requests {
				if !strings.HasPrefix(u, s.link) && !strings.HasPrefix(u, s.link[:strings.Index(s.link, "/m/")]+"/nowhere") && !strings.HasPrefix(u, s.inbox("/account")) {
					t.Errorf("something was loaded: %s", u)
				}
			}
		})
	}
	passphrase := func() *fakeVault {
		v := newFakeVault(crlf(plainLetter))
		v.pickup.Verify = escrow.VerifyPassphrase
		return v
	}
	visit("landing", newFakeVault(crlf(plainLetter)), func(s *testSite) string { return "" })
	visit("landing-open", newFakeVault(crlf(plainLetter)), func(s *testSite) string { return "#open" })
	visit("sent", newFakeVault(crlf(plainLetter)), func(s *testSite) string { return "#sent" })
	visit("wrong", newFakeVault(crlf(plainLetter)), func(s *testSite) string { return "#wrong" })
	visit("passphrase", passphrase(), func(s *testSite) string { return "" })
	visit("passphrase-wrong", passphrase(), func(s *testSite) string { return "#wrong" })
	visit("locked", newFakeVault(crlf(plainLetter)), func(s *testSite) string { s.vault.lockTry = testNow.Add(20 * time.Minute); return "" })
	visit("no-codes", newFakeVault(crlf(plainLetter)), func(s *testSite) string { s.vault.lockCode = testNow.Add(20 * time.Minute); return "#sent" })
	visit("closed", newFakeVault(crlf(plainLetter)), func(s *testSite) string { return "?closed" })
	visit("cookies", newFakeVault(crlf(plainLetter)), func(s *testSite) string { return "?cookies" })
	visit("message-plain", newFakeVault(crlf(plainLetter)), func(s *testSite) string { return "#message" })
	visit("message-full", newFakeVault(crlf(fullLetter)), func(s *testSite) string { return "#message" })
	visit("message-html", newFakeVault(crlf(fullLetter)), func(s *testSite) string { return "#html" })
	account := func(means ...string) *fakeVault {
		v := newFakeVault(crlf(plainLetter))
		v.pickup.Verify = escrow.VerifyAccount
		if len(means) > 0 {
			enrolledBy(means...)(v)
		}
		return v
	}
	visit("enrol", account(), func(s *testSite) string { return "" })
	visit("enrol-sent", account(), func(s *testSite) string { return "#sent" })
	visit("enrol-weak", account(), func(s *testSite) string { return "#weak" })
	visit("enrol-locked", account(), func(s *testSite) string { s.vault.lockTry = testNow.Add(20 * time.Minute); return "" })
	visit("signin", account("password", "passkey", "totp"), func(s *testSite) string { return "" })
	visit("signin-password", account("password"), func(s *testSite) string { return "?closed" })
	visit("signin-passkey", account("passkey"), func(s *testSite) string { return "" })
	visit("signin-wrong", account("password"), func(s *testSite) string { return "#signin-wrong" })
	visit("signin-locked", account("password", "passkey"), func(s *testSite) string { s.vault.lockTry = testNow.Add(20 * time.Minute); return "" })
	visit("forgot", account("password"), func(s *testSite) string { return "/forgot" })
	visit("forgot-asked", account("password"), func(s *testSite) string { return "/forgot?asked" })
	visit("forgot-mailbox", account("password", "mailbox"), func(s *testSite) string { return "/forgot" })
	visit("account", account("password", "passkey"), func(s *testSite) string { return "#account" })
	visit("account-wrong", account("password", "passkey"), func(s *testSite) string { return "#account-wrong" })
	visit("account-totp", account("password", "passkey"), func(s *testSite) string { return "#account-totp" })
	for state := range replyStates {
		visit("reply-"+state, newFakeVault(crlf(fullLetter)), func(s *testSite) string { return "#reply-" + state })
	}
	visit("expired", newFakeVault(""), func(s *testSite) string { s.vault.err = escrow.ErrExpired; return "" })
	visit("retracted", newFakeVault(""), func(s *testSite) string { s.vault.err = escrow.ErrRetracted; return "" })
	visit("unknown", newFakeVault(""), func(s *testSite) string { return "/nowhere" })
	visit("refused", newFakeVault(crlf(plainLetter)), func(s *testSite) string { return "#refused" })
	visit("trouble", newFakeVault(""), func(s *testSite) string { s.vault.err = http.ErrServerClosed; return "" })
}

// looks measures the page that is open, narrow and wide, light and dark. Where
// POSTSEAL_SCREENSHOTS names a directory it keeps pictures there instead.
func looks(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	dir := os.Getenv("POSTSEAL_SCREENSHOTS")
	widths := []int64{320, 640, 1280} // 640 is 1280 at 200 % zoom, 320 at 400 %
	if dir != "" {
		widths = []int64{360, 1280}
	}
	for _, width := range widths {
		for _, mode := range []string{"light", "dark"} {
			chromium.Scheme(t, ctx, mode)
			chromium.Do(t, ctx, chromedp.EmulateViewport(width, 740))
			if over := chromium.Eval[int](t, ctx, `document.documentElement.scrollWidth - innerWidth`); over > 0 {
				t.Errorf("%d pixels wide: scrolls sideways by %d", width, over)
			}
			if bad := chromium.Eval[[]string](t, ctx, contrast); len(bad) > 0 {
				t.Errorf("%s, %d pixels: too little contrast: %q", mode, width, bad)
			}
			if width == 320 && mode == "light" || width == 1280 && mode == "dark" {
				chromium.Accessible(t, ctx, fmt.Sprintf("%s, %d pixels", mode, width))
			}
			if dir != "" {
				picture(t, ctx, filepath.Join(dir, fmt.Sprintf("%s-%d-%s.png", name, width, mode)))
			}
		}
	}
	if small := chromium.Eval[[]string](t, ctx, `[...document.querySelectorAll("button,input,textarea,summary,a")].filter(e => e.checkVisibility() && !e.closest(".text,.facts,p:not(.buttons)") && e.getBoundingClientRect().height < 44).map(e => e.outerHTML.slice(0, 60))`); len(small) > 0 {
		t.Errorf("too low for a finger: %q", small)
	}
	if dir == "" {
		tabs(t, ctx)
	}
}

// focusable are the places of a page that Tab has to come to: of radio buttons of one
// name it comes to the one that is chosen; a button that only Enter presses has no place.
const focusable = `[...document.querySelectorAll("a[href],button,input:not([type=hidden]),textarea,select,summary,iframe")]
  .filter(e => e.checkVisibility() && !e.disabled && e.tabIndex >= 0 && !(e.type === "radio" && !e.checked))`

// tabs goes through the page that is open by the keyboard alone: Tab comes to
// everything that can be used, and where it is can be seen.
func tabs(t *testing.T, ctx context.Context) {
	t.Helper()
	n := chromium.Eval[int](t, ctx, focusable+`.length`)
	var unseen []string
	for range n + 20 { // a frame has places of its own
		keys(t, ctx, kb.Tab)
		if at := chromium.Eval[string](t, ctx, `(e => { e.setAttribute("data-tabbed", "");
			const s = getComputedStyle(e); return e === document.body || e.tagName === "IFRAME" || s.outlineStyle === "solid" && parseFloat(s.outlineWidth) >= 2 ? "" : e.outerHTML.slice(0, 80); })(document.activeElement)`); at != "" {
			unseen = append(unseen, at)
		}
		if chromium.Eval[int](t, ctx, focusable+`.filter(e => !e.hasAttribute("data-tabbed")).length`) == 0 {
			break
		}
	}
	if len(unseen) > 0 {
		t.Errorf("the focus is not seen at %q", unseen)
	}
	if left := chromium.Eval[[]string](t, ctx, focusable+`.filter(e => !e.hasAttribute("data-tabbed")).map(e => e.outerHTML.slice(0, 80))`); len(left) > 0 {
		t.Errorf("Tab does not come to %q", left)
	}
}

// open goes to a page, by the steps that a person takes there.
func open(t *testing.T, ctx context.Context, s *testSite, state string) {
	t.Helper()
	if state == "/nowhere" {
		chromium.Do(t, ctx, chromedp.Navigate(s.link[:strings.Index(s.link, "/m/")]+state))
		return
	}
	path, steps, _ := strings.Cut(state, "#")
	if steps == "refused" { // a form on another site
		chromium.Do(t, ctx, chromedp.Navigate("about:blank"))
		chromium.Eval[int](t, ctx, `document.body.innerHTML = '<form method="post" action="`+s.link+`/code"><button></button></form>', 0`)
		submit(t, ctx, chromedp.Click(chromedp.CSS("button")))
		return
	}
	chromium.Do(t, ctx, chromedp.Navigate(s.link+path))
	send := func() { submit(t, ctx, chromedp.Click(chromedp.CSS(`form[action$="/code"] button`))) }
	enter := func(what string) {
		chromium.Do(t, ctx, chromedp.SendKeys(chromedp.ID("answer"), what))
		submit(t, ctx, chromedp.Click(chromedp.CSS(`form[action$="/verify"] button`)))
	}
	switch steps {
	case "open":
		chromium.Do(t, ctx, chromedp.Click(chromedp.CSS("form+details summary")), chromedp.Click(chromedp.CSS("#safe")))
	case "sent":
		send()
	case "wrong":
		if s.vault.pickup.Verify == escrow.VerifyCode {
			send()
		}
		enter("1234 5678")
	case "weak":
		send()
		chromium.Do(t, ctx, chromedp.SendKeys(chromedp.ID("answer"), testCode), chromedp.SendKeys(chromedp.ID("password"), "heron"))
		submit(t, ctx, chromedp.Click(chromedp.CSS(`form[action$="/enrol"] button[type=submit]`)))
	case "signin-wrong":
		chromium.Do(t, ctx, chromedp.SendKeys(chromedp.ID("password"), "heron"))
		submit(t, ctx, chromedp.Click(chromedp.CSS(`form[action$="/signin"] button[type=submit]`)))
	case "account", "account-wrong", "account-totp":
		chromium.Do(t, ctx, chromedp.SendKeys(chromedp.ID("password"), testPassword))
		submit(t, ctx, chromedp.Click(chromedp.CSS(`form[action$="/signin"] button[type=submit]`)))
		chromium.Do(t, ctx, chromedp.Navigate(s.inbox("/account")))
		switch steps {
		case "account-wrong":
			chromium.Do(t, ctx, chromedp.SendKeys(chromedp.ID("old"), "heron"), chromedp.SendKeys(chromedp.ID("password"), testPassword))
			submit(t, ctx, chromedp.Click(chromedp.CSS(`form[action$="/account/password"] button[type=submit]`)))
		case "account-totp":
			submit(t, ctx, chromedp.Click(chromedp.CSS(`form[action$="/totp"] button`)))
		}
	case "message", "html":
		send()
		enter(testCode)
		if steps == "html" {
			submit(t, ctx, chromedp.Click(chromedp.CSS(`a[href$="as=html"]`)))
			time.Sleep(300 * time.Millisecond) // the frame, for the picture
		}
	default:
		if !strings.HasPrefix(steps, "reply-") {
			return
		}
		open(t, ctx, s, path+"#message")
		replyStates[strings.TrimPrefix(steps, "reply-")](t, ctx, s)
	}
}

func clearCookies(ctx context.Context) error {
	_, err := chromedp.Call(ctx, network.ClearBrowserCookies, struct{}{})
	return err
}

// keys types on the keyboard, at whatever has the focus.
func keys(t *testing.T, ctx context.Context, s string) {
	t.Helper()
	chromium.Do(t, ctx, chromedp.KeyEvent(s))
}

// tabTo presses Tab until the focus, which must be seen, is on what a selector
// finds.
func tabTo(t *testing.T, ctx context.Context, selector string) {
	t.Helper()
	for range 30 {
		keys(t, ctx, kb.Tab)
		if chromium.Eval[bool](t, ctx, fmt.Sprintf("document.activeElement.matches(%q)", selector)) {
			if w := chromium.Eval[string](t, ctx, "getComputedStyle(document.activeElement).outlineWidth + getComputedStyle(document.activeElement).outlineStyle"); w != "3pxsolid" {
				t.Errorf("the focus on %s is not seen: %s", selector, w)
			}
			return
		}
	}
	t.Fatalf("Tab never comes to %s", selector)
}

// press presses Enter and waits for the page that it leads to.
func press(t *testing.T, ctx context.Context) {
	t.Helper()
	submit(t, ctx, chromedp.KeyEvent(kb.Enter))
}

// back goes back in the history. Where the browser kept the page no load is told.
func back(t *testing.T, ctx context.Context, to string) {
	t.Helper()
	history, err := chromedp.Call(ctx, cdpage.GetNavigationHistory, cdp.Empty{})
	if err != nil || history.CurrentIndex < 1 {
		t.Fatalf("no history: %v", err)
	}
	if _, err := chromedp.Call(ctx, cdpage.NavigateToHistoryEntry, cdpage.NavigateToHistoryEntryParams{EntryID: history.Entries[history.CurrentIndex-1].ID}); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		at, err := chromedp.Run(ctx, chromedp.Evaluate[string]("document.readyState + location.href"))
		if err == nil && strings.HasPrefix(at, "complete"+to) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("back leads to %s, %v", at, err)
		}
	}
}

func text(t *testing.T, ctx context.Context) string {
	t.Helper()
	return chromium.Eval[string](t, ctx, "document.body.innerText")
}

func reads(t *testing.T, ctx context.Context, words ...string) {
	t.Helper()
	body := text(t, ctx)
	for _, w := range words {
		if !strings.Contains(body, w) {
			t.Fatalf("the page lacks %q: %s", w, body)
		}
	}
}

// The whole pickup by the keyboard alone, with JavaScript off, and with a look
// into the mailbox in between.
func TestBrowserCodeByKeyboard(t *testing.T) {
	ctx := chromium.Start(t, chromium.OnlyLoopback)
	s := newTestSite(t, newFakeVault(crlf(fullLetter)))
	chromium.Do(t, ctx, chromedp.EmulateViewport(360, 740))
	if _, err := chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		t.Fatal(err)
	}
	chromium.Do(t, ctx, chromedp.Navigate(s.link))
	reads(t, ctx, "A protected message for you", testSender)
	tabTo(t, ctx, `form[action$="/code"] button`)
	press(t, ctx)
	reads(t, ctx, "A code was sent")
	// To the mail program and back: the page is left, loaded anew, opened anew.
	chromium.Do(t, ctx, chromedp.Navigate("about:blank"))
	back(t, ctx, s.link)
	reads(t, ctx, "A code was sent")
	chromium.Do(t, ctx, chromedp.Reload())
	reads(t, ctx, "A code was sent")
	chromium.Do(t, ctx, chromedp.Navigate(s.link))
	reads(t, ctx, "A code was sent")
	if s.vault.sent != 1 {
		t.Errorf("%d codes were sent", s.vault.sent)
	}
	tabTo(t, ctx, "#answer")
	keys(t, ctx, "1234 5678")
	press(t, ctx)
	reads(t, ctx, "That code is wrong")
	if v := chromium.Eval[string](t, ctx, "document.activeElement.value"); v != "1234 5678" {
		t.Errorf("what was typed is lost: %q", v)
	}
	keys(t, ctx, kb.End+strings.Repeat(kb.Backspace, 9)+"3141 5926")
	press(t, ctx)
	reads(t, ctx, "Befund für Jane", "die Werte sind gut")
	// Back and forward, and the link again: still verified.
	chromium.Do(t, ctx, chromedp.Navigate("about:blank"))
	back(t, ctx, s.link)
	reads(t, ctx, "die Werte sind gut")
	chromium.Do(t, ctx, chromedp.Navigate(s.link))
	reads(t, ctx, "die Werte sind gut")
	tabTo(t, ctx, `a[href$="as=html"]`)
	press(t, ctx)
	reads(t, ctx, "Pictures and other content from the internet are not loaded")
	tabTo(t, ctx, `form[action$="/leave"] button`)
	press(t, ctx)
	reads(t, ctx, "closed on this device", "Send me a code")
}

func TestBrowserPassphrase(t *testing.T) {
	ctx := chromium.Start(t, chromium.OnlyLoopback)
	v := newFakeVault(crlf(plainLetter))
	v.pickup.Verify = escrow.VerifyPassphrase
	s := newTestSite(t, v)
	chromium.Do(t, ctx, chromedp.Navigate(s.link), chromedp.SendKeys(chromedp.ID("answer"), "wrong"))
	submit(t, ctx, chromedp.Click(chromedp.CSS("button.main")))
	reads(t, ctx, "That is not the passphrase")
	if v := chromium.Eval[string](t, ctx, `document.getElementById("answer").value`); v != "" {
		t.Error("the passphrase came back")
	}
	chromium.Do(t, ctx, chromedp.SendKeys(chromedp.ID("answer"), testPhrase))
	submit(t, ctx, chromedp.Click(chromedp.CSS("button.main")))
	reads(t, ctx, "all values are as they should be")
}

// What leaves the page arrives: the document on a page of its own, the original
// byte for byte, an attachment under its name.
func TestBrowserDownloads(t *testing.T) {
	ctx := chromium.Start(t, chromium.OnlyLoopback)
	s := newTestSite(t, newFakeVault(crlf(fullLetter)))
	s.vault.codes = []string{testCode}
	dir := t.TempDir()
	if _, err := chromedp.Call(ctx, cdbrowser.SetDownloadBehavior, cdbrowser.SetDownloadBehaviorParams{Behavior: cdbrowser.SetDownloadBehaviorBehaviorAllow, DownloadPath: dir}); err != nil {
		t.Fatal(err)
	}
	open(t, ctx, s, "#message")
	for link, want := range map[string]struct{ name, body string }{
		`a[href$="/raw"]`:    {"message.eml", crlf(fullLetter)},
		`a[href$="/part/4"]`: {"Befund für Jane.pdf", "%PDF-1.4 not really" + strings.Repeat(".", 400)},
		`a[href$="/part/5"]`: {"evil.html", "<script>alert(1)</script>"},
	} {
		chromium.Do(t, ctx, chromedp.Click(chromedp.CSS(link)))
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			b, err := os.ReadFile(filepath.Join(dir, want.name))
			if err == nil && string(b) == want.body {
				break
			}
			if time.Now().After(end) {
				names, _ := filepath.Glob(dir + "/*")
				t.Fatalf("%s: %v; there are %q, %q", want.name, err, names, b)
			}
		}
	}
	chromium.Do(t, ctx, chromedp.Navigate(s.link+"/html"))
	reads(t, ctx, "Liebe Jane", "14,1 g/dl", "[spy]")
}

// Each wall holds alone: what the sanitiser lets through, and, with no sanitiser
// before it, the frame's policy and sandbox. A spy on loopback counts what comes.
func TestBrowserHostileHTML(t *testing.T) {
	ctx := chromium.Start(t, chromium.OnlyLoopback)
	var mu sync.Mutex
	var spied []string
	spy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		spied = append(spied, r.URL.Path)
		mu.Unlock()
		w.Header().Set("Access-Control-Allow-Origin", "*")
	}))
	defer spy.Close()
	port := spy.URL[strings.LastIndexByte(spy.URL, ':')+1:]
	visits := func(name string) {
		chromium.Do(t, ctx, chromedp.Navigate(spy.URL+"/visit-"+name))
		mu.Lock()
		defer mu.Unlock()
		for _, path := range spied {
			if !strings.HasPrefix(path, "/visit-") && path != "/favicon.ico" {
				t.Errorf("%s: the spy got %s", name, path)
			}
		}
		if len(spied) == 0 {
			t.Fatal("the spy sees nothing at all")
		}
		spied = nil
	}
	loud := `<script>fetch("http://127.0.0.1:` + port + `/ran");new Image().src="http://127.0.0.1:` + port + `/img";parent.document.title="ran";top.location="http://127.0.0.1:` + port + `/top"</script>`
	var all strings.Builder
	for _, in := range hostile(t) {
		if !strings.Contains(in, "<plaintext") && !strings.Contains(in, "<frameset") && !strings.Contains(in, "<!ENTITY") {
			// Each alone, that what stays open in one does not swallow the next.
			all.WriteString(strings.ReplaceAll(strings.ReplaceAll(in, "PORT", port), "alert(1)", "fetch('http://127.0.0.1:"+port+"/ran')") + "\n</script></style></textarea></title></svg></math></xmp></noscript></template></select><!-- -->\">\n")
		}
	}
	t.Run("through the portal", func(t *testing.T) {
		for name, in := range map[string]string{"all": all.String(), "script": loud + "<p>read me</p>"} {
			s := newTestSite(t, newFakeVault("Content-Type: text/html; charset=utf-8\r\n\r\n"+in)).verified()
			s.vault.codes = []string{testCode}
			if err := clearCookies(ctx); err != nil { // they do not heed the port
				t.Fatal(err)
			}
			chromium.Do(t, ctx, chromedp.Navigate(s.link), chromedp.Click(chromedp.CSS("details summary")), chromedp.SendKeys(chromedp.ID("answer"), testCode))
			submit(t, ctx, chromedp.Click(chromedp.CSS(`form[action$="/verify"] button`)))
			time.Sleep(300 * time.Millisecond)
			if title := chromium.Eval[string](t, ctx, "document.title"); title != "Message without a subject" {
				t.Errorf("%s: the title is %q", name, title)
			}
			chromium.Do(t, ctx, chromedp.Navigate(s.link+"/html")) // the document by itself, on top
			time.Sleep(300 * time.Millisecond)
			visits(name)
		}
	})
	t.Run("without the sanitiser", func(t *testing.T) {
		site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			switch r.URL.Path {
			case "/frame":
				w.Header().Set("Content-Security-Policy", frameCSP)
				fmt.Fprint(w, frameHead+loud+all.String()+loud)
			case "/":
				fmt.Fprint(w, `<!doctype html><title>quiet</title><iframe src="/frame" sandbox="allow-popups allow-popups-to-escape-sandbox"></iframe>`)
			}
		}))
		defer site.Close()
		chromium.Do(t, ctx, chromedp.Navigate(site.URL+"/"))
		time.Sleep(500 * time.Millisecond)
		if title := chromium.Eval[string](t, ctx, "document.title"); title != "quiet" {
			t.Errorf("the title is %q", title)
		}
		chromium.Do(t, ctx, chromedp.Navigate(site.URL+"/frame"))
		time.Sleep(300 * time.Millisecond)
		visits("frame")
	})
	t.Run("the spy would notice", func(t *testing.T) {
		site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			fmt.Fprint(w, loud)
		}))
		defer site.Close()
		chromium.Do(t, ctx, chromedp.Navigate(site.URL+"/"))
		time.Sleep(500 * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		if len(spied) == 0 {
			t.Error("it does not")
		}
	})
}
