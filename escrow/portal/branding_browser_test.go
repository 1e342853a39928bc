package portal

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/postseal/postseal/escrow/words"
	"github.com/postseal/postseal/internal/lab/chromium"
)

// TestLooksOfLanguages looks at branded pages in every language: the brand's style
// and logo are taken by the browser under the page's policy, texts keep their
// contrast, no language's words are too wide for 320 pixels, and Arabic pages run
// from right to left.
func TestLooksOfLanguages(t *testing.T) {
	ctx := chromium.Start(t, chromium.OnlyLoopback)
	dir := os.Getenv("POSTSEAL_SCREENSHOTS")
	for _, l := range words.Languages() {
		t.Run(l.Tag, func(t *testing.T) {
			v := newFakeVault(crlf(fullLetter))
			v.pickup.Language = l.Tag
			s := newTestSite(t, v, func(c *Config) { c.Brands, c.Replies = testBrands(t), looksOfReplies() })
			for _, state := range []string{"", "#open", "#wrong", "#message", "/nowhere"} {
				if err := clearCookies(ctx); err != nil {
					t.Fatal(err)
				}
				chromium.Do(t, ctx, chromedp.EmulateViewport(360, 740))
				open(t, ctx, s, state)
				for _, mode := range []string{"light", "dark"} {
					chromium.Scheme(t, ctx, mode)
					chromium.Do(t, ctx, chromedp.EmulateViewport(320, 740))
					if over := chromium.Eval[int](t, ctx, `document.documentElement.scrollWidth - innerWidth`); over > 0 {
						t.Errorf("%q scrolls sideways by %d", state, over)
					}
					if bad := chromium.Eval[[]string](t, ctx, contrast); len(bad) > 0 {
						t.Errorf("%s, %q: too little contrast: %q", mode, state, bad)
					}
					if state == "/nowhere" {
						continue
					}
					if got := chromium.Eval[string](t, ctx, `document.documentElement.lang + " " + getComputedStyle(document.body).direction`); got != l.Tag+" "+l.Dir {
						t.Errorf("%q: the page is %s", state, got)
					}
					want := map[string]string{"light": "rgb(0, 105, 92)", "dark": "rgb(128, 203, 196)"}[mode]
					if got := chromium.Eval[string](t, ctx, `getComputedStyle(document.querySelector("a")).color`); got != want {
						t.Errorf("%s, %q: links are %s, want %s", mode, state, got, want)
					}
					if !chromium.Eval[bool](t, ctx, `document.querySelector("img.logo").naturalWidth > 0`) {
						t.Errorf("%q: the logo is not shown", state)
					}
					if dir == "" {
						continue
					}
					chromium.Do(t, ctx, chromedp.EmulateViewport(360, 740))
					name := "brand" + map[string]string{"": "", "#open": "-open", "#wrong": "-wrong", "#message": "-message"}[state]
					picture(t, ctx, filepath.Join(dir, fmt.Sprintf("%s-%s-360-%s.png", name, l.Tag, mode)))
				}
			}
		})
	}
}
