package adminpages

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/lab/chromium"
	"github.com/postseal/postseal/internal/listing"
)

// focusable are the places of a page that Tab has to come to.
const focusable = `[...document.querySelectorAll("a[href],button,input,select,summary")].filter(e => e.checkVisibility() && e.tabIndex >= 0)`

// tabs goes through the page that is open by the keyboard alone: Tab comes to everything that
// can be used, and where it is can be seen.
func tabs(t *testing.T, ctx context.Context) {
	t.Helper()
	n := chromium.Eval[int](t, ctx, focusable+`.length`)
	var unseen []string
	for range n + 20 { // a date has places of its own
		chromium.Do(t, ctx, chromedp.KeyEvent(kb.Tab))
		if at := chromium.Eval[string](t, ctx, `(e => { e.setAttribute("data-tabbed", "");
			const s = getComputedStyle(e); return e === document.body || e.type === "date" || s.outlineStyle === "solid" && parseFloat(s.outlineWidth) >= 2 ? "" : e.outerHTML.slice(0, 80); })(document.activeElement)`); at != "" {
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

// TestLooks visits every page and state, on a phone, on a desktop and enlarged, light and dark:
// nothing scrolls sideways, axe-core finds nothing, nothing is loaded but the page, nothing
// is too low for a finger, and the keyboard comes everywhere. Set POSTSEAL_SCREENSHOTS to a directory to look at them.
func TestLooks(t *testing.T) {
	ctx := chromium.Start(t, chromium.OnlyLoopback)
	dir := os.Getenv("POSTSEAL_SCREENSHOTS")
	visit := func(name, path string, store *fakeStore, change func(*Options)) {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, store, change)
			srv := httptest.NewServer(s.mux)
			defer srv.Close()
			var mu sync.Mutex
			var requests []string
			listen, stop := context.WithCancel(ctx)
			defer stop()
			if err := chromedp.Listen(listen, func(ev any) {
				if e, ok := ev.(*network.EventRequestWillBeSent); ok && !strings.HasPrefix(e.Request.URL, "data:") { // the browser's own icon of a date
					mu.Lock()
					requests = append(requests, e.Request.URL)
					mu.Unlock()
				}
			}); err != nil {
				t.Fatal(err)
			}
			chromium.Do(t, ctx, chromedp.Navigate(srv.URL+path))
			for _, width := range []int64{320, 390, 768, 1280} { // 320 is 1280 at 400 % zoom
				for _, mode := range []string{"light", "dark"} {
					chromium.Scheme(t, ctx, mode)
					chromium.Do(t, ctx, chromedp.EmulateViewport(width, 800))
					if over := chromium.Eval[int](t, ctx, `document.documentElement.scrollWidth - innerWidth`); over > 0 {
						t.Errorf("%d pixels wide: scrolls sideways by %d", width, over)
					}
					if width == 390 && mode == "light" || width == 1280 && mode == "dark" || width == 320 && mode == "dark" {
						chromium.Accessible(t, ctx, fmt.Sprintf("%s, %d pixels", mode, width))
					}
					if dir != "" && (width == 390 || width == 1280) {
						shot, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
						if err != nil {
							t.Fatal(err)
						}
						if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("admin-%s-%d-%s.png", name, width, mode)), shot, 0o644); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			// WCAG 2.2, 2.5.8.
			if small := chromium.Eval[[]string](t, ctx, `[...document.querySelectorAll("button,input,select,summary,nav a")].filter(e => e.checkVisibility() && e.type !== "checkbox" && e.getBoundingClientRect().height < 24).map(e => e.outerHTML.slice(0, 60))`); len(small) > 0 {
				t.Errorf("too low for a finger: %q", small)
			}
			if dir == "" {
				tabs(t, ctx)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, u := range requests {
				if u != srv.URL+path && u != srv.URL+"/favicon.ico" {
					t.Errorf("something was loaded: %s", u)
				}
			}
			if len(requests) == 0 {
				t.Error("nothing was loaded")
			}
		})
	}
	full := func(o *Options) {
		o.Quota = escrow.Quota{Total: 20_000_000_000, Domain: 17_000_000_000}
		o.Trouble = func() int { return 2 }
		o.Alarms = func(context.Context, int) ([]Alarm, error) {
			return []Alarm{{"lost.example", "has lost its TLS, seen from 2026-02-01 to 2026-11-26: possible strip", testNow}}, nil
		}
		o.Locked = func(context.Context, string) (time.Time, error) { return testNow.Add(20 * time.Minute), nil }
	}
	visit("home", "/", fullStore(), full)
	visit("home-quiet", "/", quietStore(), nil)
	visit("home-broken", "/", quietStore(), func(o *Options) {
		o.Checks[0].OK = func(context.Context) error {
			return errors.New("database /var/lib/postseal/postseal.db can't grow: the disk is full")
		}
	})
	visit("items", "/items", fullStore(), nil)
	visit("items-empty", "/items", &fakeStore{}, nil)
	visit("items-none", "/items?from=nobody.example&show=held", &fakeStore{}, nil)
	visit("items-partial", "/items?from=nobody.example&to=odd.example", &fakeStore{next: listing.Key{"1", "a", "b"}, partial: true}, nil)
	visit("items-bad", "/items?from=%22%3E", &fakeStore{}, nil)
	visit("item", "/items/"+testID(0), fullStore(), nil)
	visit("item-unknown", "/items/"+testID(99), fullStore(), nil)
	visit("item-operator", "/items/"+testID(0), fullStore(), withActions(&fakeActions{}, true))
	visit("item-retract", "/items/"+testID(0)+"/retract", fullStore(), withActions(&fakeActions{}, true))
	visit("item-hold", "/items/"+testID(0)+"/hold", opens(false), withActions(&fakeActions{}, true))
	visit("item-extend", "/items/"+testID(0)+"/extend", fullStore(), withActions(&fakeActions{}, true))
	visit("recipient-unlock", "/recipients/pat@partner.example/unlock", fullStore(), withActions(&fakeActions{}, true))
	visit("recipients", "/recipients", fullStore(), nil)
	visit("recipients-empty", "/recipients", &fakeStore{}, nil)
	visit("recipient", "/recipients/pat@partner.example", fullStore(), full)
	visit("rules", "/rules", fullStore(), nil)
	visit("rules-asked", "/rules?q=newsletter@partner.example", fullStore(), nil)
	visit("rules-content", "/rules?scope=content", fullStore(), nil)
	visit("rules-empty", "/rules", &fakeStore{}, nil)
	visit("outbox", "/outbox", fullStore(), nil)
	visit("outbox-empty", "/outbox", &fakeStore{}, nil)
	visit("audit", "/audit", fullStore(), nil)
	visit("audit-filtered", "/audit?kind=admin&since=2026-11-01", fullStore(), nil)
	visit("audit-empty", "/audit", &fakeStore{}, nil)
}
