package portal

import (
	"context"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	cdpage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/postseal/postseal/internal/lab/chromium"
)

// watch gathers what a page does: what runs, and what is asked for.
type watch struct {
	mu   sync.Mutex
	ran  []string
	asks []string // addresses that the browser asks for
	spy  *httptest.Server
	got  []string // paths that came to the spy, on loopback
}

// watched starts a spy, and looks at all that the browser's page does from now on.
func watched(t *testing.T, ctx context.Context) *watch {
	t.Helper()
	w := &watch{}
	w.spy = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.got = append(w.got, r.URL.Path)
		w.mu.Unlock()
		rw.Header().Set("Access-Control-Allow-Origin", "*")
		if strings.HasSuffix(r.URL.Path, ".js") || strings.HasSuffix(r.URL.Path, "/.j") {
			rw.Header().Set("Content-Type", "text/javascript")
		}
	}))
	t.Cleanup(w.spy.Close)
	if err := chromedp.Listen(ctx, func(ev any) {
		w.mu.Lock()
		defer w.mu.Unlock()
		switch e := ev.(type) {
		case *network.EventRequestWillBeSent:
			if !strings.HasPrefix(e.Request.URL, "data:") {
				w.asks = append(w.asks, e.Request.URL)
			}
		case *runtime.EventConsoleAPICalled:
			said := ""
			for _, a := range e.Args {
				said += " " + string(a.Value)
			}
			w.ran = append(w.ran, said)
		case *cdpage.EventJavascriptDialogOpening:
			w.ran = append(w.ran, " dialog "+e.Message)
			go chromedp.Call(ctx, cdpage.HandleJavaScriptDialog, cdpage.HandleJavaScriptDialogParams{Accept: true})
		}
	}); err != nil {
		t.Fatal(err)
	}
	// Dialogs would stop the page.
	if _, err := chromedp.Call(ctx, cdpage.AddScriptToEvaluateOnNewDocument, cdpage.AddScriptToEvaluateOnNewDocumentParams{
		Source: `for (const f of ["alert", "confirm", "prompt", "print"]) window[f] = x => console.log("ran", x)`,
	}); err != nil {
		t.Fatal(err)
	}
	return w
}

// take returns what was seen since the last time.
func (w *watch) take() (ran, asks, got []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ran, asks, got = w.ran, w.asks, w.got
	w.ran, w.asks, w.got = nil, nil, nil
	return
}

// aimed makes a sample say which one it is: what runs says so, and what it asks for.
func (w *watch) aimed(b bypass, id int) bypass {
	host := fmt.Sprintf("%s/s%d", strings.TrimPrefix(w.spy.URL, "http://"), id)
	b.html = strings.NewReplacer("SPY", host, "alert(1)", fmt.Sprintf("alert(%d)", id)).Replace(b.html)
	return b
}

// pokes does to every element of a document what a reader might, tries what becomes of
// the document when it is written out and read again, and tells what is out of order.
const pokes = `(() => {
  const bad = [], say = x => bad.length < 20 && bad.push(x);
  const look = () => { for (const e of document.body.querySelectorAll("*")) {
    if (e.namespaceURI !== "http://www.w3.org/1999/xhtml" || /^(SCRIPT|IFRAME|OBJECT|EMBED|LINK|META|BASE|FORM|INPUT|BUTTON|SELECT|TEXTAREA|TEMPLATE|NOSCRIPT|VIDEO|AUDIO|SOURCE|DIALOG|TITLE|PLAINTEXT|XMP)$/.test(e.tagName)) say(e.outerHTML);
    for (const a of e.attributes) if (/^on|^(name|srcset|background|ping|action|formaction|srcdoc|data|poster|is|slot|popover|xlink:href)$/i.test(a.name)) say(e.outerHTML);
    if (e.shadowRoot) say("shadow of " + e.outerHTML);
    if (e.tagName === "A" && e.hasAttribute("href") && !/^(https?|mailto|tel):$/.test(e.protocol)) say(e.outerHTML);
    if (e.tagName === "IMG" && e.hasAttribute("src") && !e.src.startsWith("data:image/")) say(e.outerHTML);
    for (const p of [null, "::before", "::after"]) { const s = getComputedStyle(e, p);
      if (!p && s.position !== "static" || p && !/^(none|normal|open-quote|close-quote)$/.test(s.content) || /url\(/.test(s.background + s.listStyleImage + s.borderImageSource + s.cursor + s.filter + s.maskImage + s.content) || s.transform !== "none" || s.animationName !== "none") say(p + " of " + e.outerHTML.slice(0, 300)); }
  } };
  look();
  if (document.title !== "Message") say("title " + document.title);
  if (document.baseURI !== location.href) say("base " + document.baseURI);
  for (const type of ["click", "mouseover", "mouseenter", "focus", "focusin", "pointerdown", "keydown", "load", "error", "animationstart", "transitionend", "toggle", "begin", "end", "wheel", "copy", "paste", "dragstart", "submit", "beforetoggle"])
    for (const e of document.querySelectorAll("*")) { const ev = new Event(type, {bubbles: false, cancelable: true}); ev.preventDefault(); if (type !== "click" || !e.closest("a")) e.dispatchEvent(ev); }
  const own = document.getElementById; if (typeof own !== "function" || typeof document.createElement !== "function" || !(document.forms instanceof HTMLCollection)) say("the document is clobbered");
  for (let i = 0, before = document.body.innerHTML; i < 3; i++) { document.body.innerHTML = before; look(); before = document.body.innerHTML; }
  for (const e of document.querySelectorAll("a,[tabindex],[id]")) e.focus();
  return bad;
})()`

// What is known to get around sanitisers runs nothing and loads nothing in a real
// browser: as the portal serves it, where sandbox and policy stand behind the
// sanitiser; and what the sanitiser leaves, by itself, without them. And without the
// sanitiser a good part of it does run.
func TestBrowserBypasses(t *testing.T) {
	ctx := chromium.Start(t, chromium.OnlyLoopback)
	w := watched(t, ctx)
	corpus := bypasses(t)
	groups := map[string][]bypass{}
	for i, b := range corpus {
		groups[b.group] = append(groups[b.group], w.aimed(b, i))
	}
	names := slices.Sorted(maps.Keys(groups))
	settle := func() { time.Sleep(60 * time.Millisecond) } // what is asked for after the page is there

	// quiet reports what was done beyond asking for some addresses.
	quiet := func(t *testing.T, name string, own ...string) {
		t.Helper()
		ran, asks, got := w.take()
		for _, x := range ran {
			t.Errorf("%s: something ran: %s: %s", name, x, named(corpus, x))
		}
		for _, x := range got {
			t.Errorf("%s: the spy got %s: %s", name, x, named(corpus, x))
		}
		seen := false
		for _, x := range asks {
			seen = seen || slices.Contains(own, x)
			if !slices.Contains(own, x) && !strings.HasSuffix(x, "/favicon.ico") {
				t.Errorf("%s: asked for %s: %s", name, x, named(corpus, x))
			}
		}
		if !seen {
			t.Errorf("%s: not even the page was asked for, but %q", name, asks)
		}
	}

	t.Run("as served", func(t *testing.T) {
		s := newTestSite(t, newFakeVault(crlf(plainLetter)))
		open(t, ctx, s, "#message")
		page, frame := s.link+"/message?as=html", s.link+"/html"
		for _, name := range names {
			s.vault.mu.Lock()
			s.vault.raw = []byte(bypassMail(groups[name]))
			s.vault.mu.Unlock()
			w.take()
			chromium.Do(t, ctx, chromedp.Navigate(page))
			settle()
			if at := chromium.Eval[string](t, ctx, "location.href + ' ' + document.title"); at != page+" bypasses" {
				t.Errorf("%s: the page is %s", name, at)
			}
			if n := chromium.Eval[int](t, ctx, "frames.length"); n != 1 {
				t.Errorf("%s: %d frames", name, n)
			}
			quiet(t, name, page, frame)
			chromium.Do(t, ctx, chromedp.Navigate(frame))
			settle()
			if n := chromium.Eval[int](t, ctx, `document.querySelectorAll("article").length`); n < 2 {
				t.Errorf("%s: nothing is shown", name)
			}
			quiet(t, name+" by itself", frame)
		}
	})
	chromium.Do(t, ctx, chromedp.Navigate("about:blank"))
	t.Run("the sanitiser alone", func(t *testing.T) {
		sanitizer, docs := newSanitizer(), map[string]string{}
		for _, name := range names {
			c, err := scan(strings.NewReader(bypassMail(groups[name])))
			if err != nil {
				t.Fatal(err)
			}
			if docs["/"+name], err = sanitizer.document(c, nil); err != nil {
				t.Fatal(err)
			}
		}
		site := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", "text/html; charset=utf-8")
			fmt.Fprint(rw, docs[r.URL.Path])
		}))
		defer site.Close()
		for _, name := range names {
			w.take()
			chromium.Do(t, ctx, chromedp.Navigate(site.URL+"/"+name))
			settle()
			for _, bad := range chromium.Eval[[]string](t, ctx, pokes) {
				t.Errorf("%s: %s: %s", name, bad, named(corpus, bad))
			}
			settle()
			if at := chromium.Eval[string](t, ctx, "location.href"); at != site.URL+"/"+name {
				t.Errorf("%s: the page went to %s", name, at)
			}
			quiet(t, name, site.URL+"/"+name)
		}
	})
	chromium.Do(t, ctx, chromedp.Navigate("about:blank"))
	t.Run("without the sanitiser", func(t *testing.T) {
		const every, most = 5, 60 // a part is enough: all of them take half a minute
		site := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if id, err := strconv.Atoi(r.URL.Path[1:]); err == nil && id < len(corpus) {
				b := w.aimed(corpus[id], id)
				rw.Header().Set("Content-Type", mime.FormatMediaType("text/html", map[string]string{"charset": b.charset}))
				fmt.Fprint(rw, b.html)
				return
			}
			rw.Header().Set("Content-Type", "text/html")
			var from, to int
			if _, err := fmt.Sscanf(r.URL.Path, "/from/%d/%d", &from, &to); err == nil {
				for i := from; i < to; i += every {
					fmt.Fprintf(rw, "<iframe width=9 height=9 src=/%d></iframe>\n", i)
				}
			}
		}))
		defer site.Close()
		w.take()
		live := map[int]bool{}
		for from := 0; from < len(corpus); from += every * most {
			chromium.Do(t, ctx, chromedp.Navigate(fmt.Sprintf("%s/from/%d/%d", site.URL, from, min(from+every*most, len(corpus)))))
			settle()
			ran, asks, got := w.take()
			for _, list := range [][]string{ran, asks, got} {
				for _, x := range list {
					if i, ok := sampleOf(x); ok && i < len(corpus) {
						live[i] = true
					}
				}
			}
		}
		tried := (len(corpus) + every - 1) / every
		t.Logf("%d of %d run or load in this browser", len(live), tried)
		if len(live) < tried/4 { // 223 of 543 did; the others are for browsers that were
			t.Errorf("only %d of %d run or load where nothing hinders them: the test would not notice", len(live), tried)
		}
	})
}

var sampleNumber = regexp.MustCompile(`(?:/s|ran" |alert\()(\d+)\b`)

// sampleOf finds which sample something comes from.
func sampleOf(s string) (int, bool) {
	m := sampleNumber.FindStringSubmatch(s)
	if m == nil {
		return 0, false
	}
	n, err := strconv.Atoi(m[1])
	return n, err == nil
}

func named(corpus []bypass, s string) string {
	if i, ok := sampleOf(s); ok && i < len(corpus) {
		return fmt.Sprintf("%s %q", corpus[i].at, corpus[i].html)
	}
	return "of no known sample"
}
