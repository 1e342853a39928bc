package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	cdbrowser "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/chromedp"

	"github.com/postseal/postseal/internal/lab"
	"github.com/postseal/postseal/internal/lab/chromium"
)

// pickupIn opens a link in Chromium, proves by answer, and returns the text of the
// page and the original as downloaded.
func pickupIn(t *testing.T, link string, ask bool, answer func() string) (page string, raw []byte) {
	t.Helper()
	ctx := chromium.Start(t) // inside the namespace
	press := func(selector string) {
		t.Helper()
		if _, err := chromedp.RunResponse(ctx, chromedp.Click(chromedp.CSS(selector))); err != nil {
			t.Fatalf("%s: %v", selector, err)
		}
	}
	if err := chromedp.Do(ctx, chromedp.Navigate(link)); err != nil {
		t.Fatal("the page does not open") // the error may name the link
	}
	if ask {
		press(`form[action$="/code"] button`)
	}
	if err := chromedp.Do(ctx, chromedp.SendKeys(chromedp.ID("answer"), answer())); err != nil {
		t.Fatal(err)
	}
	press(`form[action$="/verify"] button`)
	page, err := chromedp.Run(ctx, chromedp.Evaluate[string]("document.body.innerText"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := chromedp.Call(ctx, cdbrowser.SetDownloadBehavior, cdbrowser.SetDownloadBehaviorParams{
		Behavior: cdbrowser.SetDownloadBehaviorBehaviorAllow, DownloadPath: dir,
	}); err != nil {
		t.Fatal(err)
	}
	if err := chromedp.Do(ctx, chromedp.Click(chromedp.CSS(`a[href$="/raw"]`))); err != nil {
		t.Fatal(err)
	}
	lab.Poll(patience, func() bool {
		done, _ := filepath.Glob(filepath.Join(dir, "*.eml"))
		if len(done) == 1 {
			raw, _ = os.ReadFile(done[0])
		}
		return raw != nil
	})
	return page, raw
}

var mailedCode = regexp.MustCompile(`(?m)^\s*(\d{4} ?\d{4})\s*$`)

// TestPickupInChromium is the whole way of a sealed message: through a real Postfix,
// the notice as it arrived, the page in a real browser, the code as it arrived, and the
// original, byte for byte.
func TestPickupInChromium(t *testing.T) {
	s := newScene(t, lab.Options{Rules: []string{"domain add plain.example --require encryption"}})
	m := s.send("doc@own.example", "pat@plain.example")
	link := s.sealed(m, "pat@plain.example")
	seen := len(s.Received())
	page, raw := pickupIn(t, link, true, func() (code string) {
		lab.Poll(patience, func() bool {
			for _, got := range s.Received()[seen:] {
				_, body, _ := bytes.Cut(got.Data, []byte("\r\n\r\n"))
				if c := mailedCode.FindSubmatch(body); got.HasTo("pat@plain.example") && c != nil {
					code = string(c[1])
				}
			}
			return code != ""
		})
		return code
	})
	if !strings.Contains(page, m.mark) {
		t.Errorf("the page does not show the message:\n%s", page)
	}
	if !bytes.HasSuffix(raw, m.data) {
		t.Errorf("the download is not what was sent:\n%q", raw)
	}
	items, err := s.Escrowed("pat@plain.example")
	s.check(err)
	if len(items) != 1 || items[0].State != "read" {
		t.Errorf("the item is %+v, want it read", items)
	}
}

// TestPassphraseInChromium is the same with a passphrase that was set beforehand, by
// the command line, from standard input.
func TestPassphraseInChromium(t *testing.T) {
	const phrase = "correct horse battery staple"
	s := newScene(t, lab.Options{Rules: []string{"domain add plain.example --require encryption --verify passphrase"}})
	_, err := s.Postseal.CLIWith(phrase+"\n", "recipient", "set", "pat@plain.example", "--verify", "passphrase")
	s.check(err)
	m := s.send("doc@own.example", "pat@plain.example")
	link := s.sealed(m, "pat@plain.example")
	page, raw := pickupIn(t, link, false, func() string { return phrase })
	if !strings.Contains(page, m.mark) || !bytes.HasSuffix(raw, m.data) {
		t.Errorf("the message was not shown:\n%s", page)
	}
	if strings.Contains(s.Postseal.Log(), phrase) || strings.Contains(s.Postseal.Log(), link[strings.LastIndexByte(link, '/')+1:]) {
		t.Error("a secret stands in the log")
	}
}
