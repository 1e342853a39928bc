package page

import (
	"context"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/postseal/postseal/tlsmap/check"
)

// A person types a domain in a real browser, without scripts, on a telephone's width,
// waits, and sees the report.
func TestPageInChromium(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped in short mode: starts Chromium")
	}
	path, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no Chromium on this machine, and CI wants it: apt-get install chromium")
		}
		t.Skip("no Chromium on this machine: apt-get install chromium")
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-gpu", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-quic", true),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"),
	)
	if os.Geteuid() == 0 {
		opts = append(opts, chromedp.NoSandbox)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // what is stuck; a busy machine is not
	defer cancel()
	ctx, cancel = chromedp.NewExecAllocator(ctx, opts...)
	defer cancel()
	ctx, cancel = chromedp.NewContext(ctx)
	defer func() { chromedp.Cancel(ctx); cancel() }()

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
