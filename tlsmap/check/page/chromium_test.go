package page

import (
	"context"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/postseal/postseal/internal/lab/chromium"
	"github.com/postseal/postseal/tlsmap/check"
)

// A person types a domain in a real browser, without scripts, on a telephone's width,
// waits, and sees the report.
func TestPageInChromium(t *testing.T) {
	ctx := chromium.Start(t, chromium.OnlyLoopback)
	srv := httptest.NewServer(New(Options{Listen: "127.0.0.1:8646", Check: func(_ context.Context, domain string) *check.Report {
		time.Sleep(500 * time.Millisecond)
		return report(domain)
	}}))
	defer srv.Close()
	do := func(steps ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		if err := chromedp.Do(ctx, steps...); err != nil {
			t.Fatal(err)
		}
	}
	do(chromedp.EmulateViewport(360, 740), chromedp.Navigate(srv.URL+"/check"), chromedp.SendKeys(chromedp.CSS("#domain"), "a.example"), chromedp.Click(chromedp.CSS("form button")), chromedp.WaitVisible(chromedp.CSS("details")))
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.body.innerText`))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"mx.a.example", "nothing is required", "TLSv1.3", evil} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks %q:\n%s", want, text)
		}
	}
	wide, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`document.documentElement.scrollWidth > document.documentElement.clientWidth`))
	if err != nil {
		t.Fatal(err)
	}
	if wide {
		t.Error("on a telephone the page is wider than the screen")
	}
	styled, err := chromedp.Run(ctx, chromedp.Evaluate[string](`getComputedStyle(document.querySelector("dl")).display`))
	if err != nil {
		t.Fatal(err)
	}
	if styled != "grid" {
		t.Error("the page's own policy keeps its style out")
	}
	shot, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err == nil && os.Getenv("SHOT") != "" {
		os.WriteFile(os.Getenv("SHOT"), shot, 0o600)
	}
}
