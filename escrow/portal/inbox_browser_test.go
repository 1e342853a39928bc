package portal

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cdbrowser "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/lab/chromium"
)

// scripting switches JavaScript on or off.
func scripting(t *testing.T, ctx context.Context, on bool) {
	t.Helper()
	if _, err := chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !on}); err != nil {
		t.Fatal(err)
	}
}

// The inbox by the keyboard alone, with JavaScript off: a search, a message and back,
// all as one file, and the end.
func TestBrowserInbox(t *testing.T) {
	ctx := chromium.Start(t, chromium.OnlyLoopback)
	f := newFakeInbox("Befund für Jane", "שלום עולם", "", "sealed", "gone", strings.Repeat("Donaudampfschifffahrtsgesellschaft", 4), "read")
	f.items[3].Openable, f.items[3].Subject, f.items[3].From = false, "", ""
	f.items[4].State, f.items[4].Openable, f.items[4].Subject, f.items[4].From = escrow.StateRetracted, false, "", ""
	f.items[6].State, f.items[6].Replied = escrow.StateRead, true
	s := inboxSite(t, f)
	_, err := chromedp.Call(ctx, network.SetCookie, network.SetCookieParams{Name: "device-" + testTag, Value: "device", URL: s.link, Path: "/"})
	if err != nil {
		t.Fatal(err)
	}
	scripting(t, ctx, false)
	dir := t.TempDir()
	if _, err := chromedp.Call(ctx, cdbrowser.SetDownloadBehavior, cdbrowser.SetDownloadBehaviorParams{Behavior: cdbrowser.SetDownloadBehaviorBehaviorAllow, DownloadPath: dir}); err != nil {
		t.Fatal(err)
	}
	chromium.Do(t, ctx, chromedp.Navigate(s.link))
	reads(t, ctx, "Your messages", "Befund für Jane", "7 messages")
	scripting(t, ctx, true) // axe-core waits for timers
	looks(t, ctx, "inbox")
	scripting(t, ctx, false)
	chromium.Do(t, ctx, chromedp.EmulateViewport(360, 740))
	tabTo(t, ctx, "#q")
	keys(t, ctx, "letter 1")
	press(t, ctx)
	reads(t, ctx, "0 messages found", "1 more found in the text", "שלום עולם")
	scripting(t, ctx, true) // axe-core waits for timers
	looks(t, ctx, "inbox-search")
	scripting(t, ctx, false)
	tabTo(t, ctx, ".inbox .what a")
	press(t, ctx)
	reads(t, ctx, "The text of letter 1.")
	tabTo(t, ctx, ".up a")
	press(t, ctx)
	reads(t, ctx, "7 messages")
	tabTo(t, ctx, `a[href$="/zip"]`)
	keys(t, ctx, kb.Enter)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if b, err := os.ReadFile(filepath.Join(dir, "messages-2026-11-25.zip")); err == nil && len(b) > 22 {
			if files := unzip(t, string(b)); len(files) != 5 {
				t.Errorf("%d files", len(files))
			}
			break
		}
		if time.Now().After(end) {
			t.Fatal("no archive came")
		}
	}
	chromium.Do(t, ctx, chromedp.Navigate(s.link+"/m/"+f.items[3].ItemID+"/message"))
	reads(t, ctx, "opens only by the link")
	scripting(t, ctx, true) // axe-core waits for timers
	looks(t, ctx, "inbox-needs-link")
	scripting(t, ctx, false)
	chromium.Do(t, ctx, chromedp.Navigate(s.link))
	tabTo(t, ctx, `form[action$="/leave"] button`)
	press(t, ctx)
	reads(t, ctx, "closed on this device")
	scripting(t, ctx, true) // axe-core waits for timers
	looks(t, ctx, "inbox-closed")
	scripting(t, ctx, false)
	chromium.Do(t, ctx, chromedp.Navigate(s.link+"/m/"+f.items[0].ItemID+"/message"))
	reads(t, ctx, "closed on this device")
}
