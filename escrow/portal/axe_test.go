package portal

import (
	"context"
	"os"
	"sync"
	"testing"

	"github.com/chromedp/chromedp"
)

// axe is axe-core (Deque Systems, MPL 2.0), which checks a page against WCAG.
var axe = sync.OnceValues(func() ([]byte, error) { return os.ReadFile("testdata/axe/axe.min.js") })

// runAxe asks for every rule of WCAG 2.0 to 2.2, levels A and AA, that a program can
// check, and the best practices, which screen readers' users depend on as much. Each
// finding is the rule, why, and where.
const runAxe = `(async () => {
  const r = await axe.run(document, {iframes: false, resultTypes: ["violations"],
    runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]});
  if (r.passes.length < 10) return ["only " + r.passes.length + " rules passed: was the page checked?"];
  return r.violations.flatMap(v => v.nodes.map(n => v.id + ": " + v.help + ": " + n.target.join(" ") + " " + n.html.slice(0, 120)));
})()`

// accessible fails the test for what axe-core finds on the page that is open.
func accessible(t *testing.T, ctx context.Context, where string) {
	t.Helper()
	script, err := axe()
	if err != nil {
		t.Fatal(err)
	}
	eval[int](t, ctx, string(script)+"\n;0")
	findings, err := chromedp.Run(ctx, chromedp.Evaluate[[]string](runAxe, chromedp.EvalAwaitPromise))
	if err != nil {
		t.Fatalf("%s: axe-core: %v", where, err)
	}
	for _, finding := range findings {
		t.Errorf("%s: %s", where, finding)
	}
}
