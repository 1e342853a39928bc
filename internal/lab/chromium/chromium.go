// Package chromium starts a real Chromium for a test, and asks axe-core whether a page can
// be used by everybody.
package chromium

import (
	"context"
	_ "embed"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// stuck is when a browser is given up; a busy machine is not stuck.
const stuck = 12 * time.Minute

// OnlyLoopback leaves no name but that of this machine.
var OnlyLoopback = chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1")

// Start starts a Chromium with nothing from before, which ends with the test. Without one on
// the machine, and in short mode, the test is skipped; in CI it fails.
func Start(t *testing.T, more ...chromedp.ExecAllocatorOption) context.Context {
	t.Helper()
	if testing.Short() {
		t.Skip("skipped in short mode: starts Chromium")
	}
	path := find()
	if path == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("no Chromium on this machine, and CI wants it: apt-get install chromium")
		}
		t.Skip("no Chromium on this machine: apt-get install chromium")
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-gpu", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-quic", true),
	)
	if os.Geteuid() == 0 {
		opts = append(opts, chromedp.NoSandbox)
	}
	ctx, cancel := context.WithTimeout(context.Background(), stuck)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, append(opts, more...)...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(func() { chromedp.Cancel(ctx); cancel() })
	Do(t, ctx, chromedp.Navigate("about:blank"))
	return ctx
}

func find() string {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// Do takes steps, one after the other.
func Do(t testing.TB, ctx context.Context, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.Fatal(err)
	}
}

// Eval returns the value of a script on the page.
func Eval[T any](t testing.TB, ctx context.Context, js string) T {
	t.Helper()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](js))
	if err != nil {
		t.Fatalf("%.60s: %v", js, err)
	}
	return v
}

// Scheme sets which colour scheme is preferred: light or dark.
func Scheme(t testing.TB, ctx context.Context, name string) {
	t.Helper()
	_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// axe is axe-core (Deque Systems, MPL 2.0, see axe.LICENSE), which checks a page against WCAG.
//
//go:embed axe.min.js
var axe string

// runAxe asks for every rule of WCAG 2.0 to 2.2, levels A and AA, that a program can
// check, and the best practices, which screen readers' users depend on as much. Each
// finding is the rule, why, and where.
const runAxe = `(async () => {
  const r = await axe.run(document, {iframes: false, resultTypes: ["violations"],
    runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]});
  if (r.passes.length < 10) return ["only " + r.passes.length + " rules passed: was the page checked?"];
  return r.violations.flatMap(v => v.nodes.map(n => v.id + ": " + v.help + ": " + n.target.join(" ") + " " + n.html.slice(0, 120)));
})()`

// Accessible fails the test for what axe-core finds on the page that is open; where names it.
func Accessible(t testing.TB, ctx context.Context, where string) {
	t.Helper()
	Eval[int](t, ctx, axe+"\n;0")
	findings, err := chromedp.Run(ctx, chromedp.Evaluate[[]string](runAxe, chromedp.EvalAwaitPromise))
	if err != nil {
		t.Fatalf("%s: axe-core: %v", where, err)
	}
	for _, finding := range findings {
		t.Errorf("%s: %s", where, finding)
	}
}
