package portal

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/lab/chromium"
)

// until waits for a condition of the page, or of the fake.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// someFile writes a file to be uploaded.
func someFile(t *testing.T, name string, size int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// slowReplies reads files no further than it is let.
type slowReplies struct {
	*fakeReplies
	half  int64
	rest  chan struct{}
	begun chan string
}

func (s *slowReplies) AddFile(ctx context.Context, p *escrow.Pickup, session *escrow.Session, name, mediaType string, r io.Reader) (*escrow.Reply, error) {
	s.begun <- name
	return s.fakeReplies.AddFile(ctx, p, session, name, mediaType, io.MultiReader(io.LimitReader(r, s.half), gated{s.rest}, r))
}

type gated struct{ open chan struct{} }

func (g gated) Read([]byte) (int, error) { <-g.open; return 0, io.EOF }

// replyStates are the pages of a reply and their states, and how to come there from
// the message.
var replyStates = map[string]func(t *testing.T, ctx context.Context, s *testSite){
	"empty": func(t *testing.T, ctx context.Context, s *testSite) {
		chromium.Do(t, ctx, chromedp.Navigate(s.link+"/reply"))
	},
	"draft": func(t *testing.T, ctx context.Context, s *testSite) {
		writeAnd(t, ctx, s, "save", someFile(t, "Überweisung an die Klinik 2026-11-25.pdf", 800), someFile(t, "a.png", 100))
	},
	"refused": func(t *testing.T, ctx context.Context, s *testSite) {
		writeAnd(t, ctx, s, "send", someFile(t, "Überweisung an die Klinik 2026-11-25.pdf", 800), someFile(t, "a film of the knee.mp4", 1200))
	},
	"conflict": func(t *testing.T, ctx context.Context, s *testSite) {
		chromium.Do(t, ctx, chromedp.Navigate(s.link+"/reply"))
		s.verified().write("Written on the telephone.", "save")
		chromium.Do(t, ctx, chromedp.SendKeys(chromedp.ID("text"), "Written at the desk."))
		submit(t, ctx, chromedp.Click(chromedp.CSS("button[value=save]")))
	},
	"uploading": func(t *testing.T, ctx context.Context, s *testSite) {
		chromium.Do(t, ctx, chromedp.Navigate(s.link+"/reply"), chromedp.SetUploadFiles(chromedp.ID("files"), []string{someFile(t, "slow.mp4", 900), someFile(t, "too large to take.mp4", 2000)}))
		until(t, "uploading", func() bool { return chromium.Eval[bool](t, ctx, `!!document.querySelector("progress")`) })
	},
	"sent": func(t *testing.T, ctx context.Context, s *testSite) { writeAnd(t, ctx, s, "send") },
	"lost": func(t *testing.T, ctx context.Context, s *testSite) {
		chromium.Do(t, ctx, chromedp.Navigate(s.link+"/reply"))
		if err := clearCookies(ctx); err != nil {
			t.Fatal(err)
		}
		chromium.Do(t, ctx, chromedp.SendKeys(chromedp.ID("text"), "Dear doctor,\n\nthank you for the values."))
		submit(t, ctx, chromedp.Click(chromedp.CSS("button[value=save]")))
	},
	"lost-retracted": func(t *testing.T, ctx context.Context, s *testSite) {
		chromium.Do(t, ctx, chromedp.Navigate(s.link+"/reply"), chromedp.SendKeys(chromedp.ID("text"), "Dear doctor,\n\nthank you for the values."))
		s.vault.mu.Lock()
		s.vault.err = escrow.ErrRetracted
		s.vault.mu.Unlock()
		submit(t, ctx, chromedp.Click(chromedp.CSS("button[value=save]")))
	},
}

// writeAnd writes a reply, chooses files, and presses a button.
func writeAnd(t *testing.T, ctx context.Context, s *testSite, button string, files ...string) {
	t.Helper()
	chromium.Do(t, ctx, chromedp.Navigate(s.link+"/reply"), chromedp.SendKeys(chromedp.ID("text"), "Dear doctor,\n\nthank you for the values."))
	if len(files) > 0 {
		// Without the script the form brings them.
		chromium.Eval[bool](t, ctx, `document.getElementById("files").addEventListener("change", e => e.stopImmediatePropagation(), true); document.getElementById("files").parentElement.addEventListener("change", e => e.stopPropagation(), true); true`)
		chromium.Do(t, ctx, chromedp.SetUploadFiles(chromedp.ID("files"), files))
	}
	submit(t, ctx, chromedp.Click(chromedp.CSS("button[value="+button+"]")))
}

// looksOfReplies are those of the pages that are looked at: an upload of slow.mp4
// takes its time.
func looksOfReplies() Replies {
	r := newFakeReplies()
	r.all = []string{"Praxis am Markt <office@clinic.example>", "lab@clinic.example"}
	return &slowLooks{r}
}

type slowLooks struct{ *fakeReplies }

func (s *slowLooks) AddFile(ctx context.Context, p *escrow.Pickup, session *escrow.Session, name, mediaType string, r io.Reader) (*escrow.Reply, error) {
	if name == "slow.mp4" {
		select {
		case <-ctx.Done():
		case <-time.After(8 * time.Second):
		}
	}
	return s.fakeReplies.AddFile(ctx, p, session, name, mediaType, r)
}

func TestBrowserReply(t *testing.T) {
	ctx := chromium.Start(t, chromium.OnlyLoopback)
	replies := &slowReplies{newFakeReplies(), 3 << 20, make(chan struct{}, 9), make(chan string, 9)}
	replies.most = 20 << 20
	replies.all = []string{"Praxis <office@clinic.example>"}
	s := newTestSite(t, newFakeVault(crlf(fullLetter)), func(c *Config) { c.Replies = replies })
	s.vault.codes = []string{testCode}
	open(t, ctx, s, "#message")
	chromium.Do(t, ctx, chromedp.Navigate(s.link+"/reply"), chromedp.SendKeys(chromedp.ID("text"), "Dear doctor"))
	until(t, "the text is kept by itself", func() bool { return replies.copy().Text == "Dear doctor" })
	until(t, "the page says so", func() bool { return strings.Contains(text(t, ctx), "Saved.") })
	// Three files, one of them unwanted, one too large.
	chromium.Do(t, ctx, chromedp.SetUploadFiles(chromedp.ID("files"), []string{someFile(t, "one.bin", 16<<20), someFile(t, "two.bin", 100), someFile(t, "three.bin", 21<<20)}))
	if name := <-replies.begun; name != "one.bin" {
		t.Fatalf("begun with %s", name)
	}
	until(t, "progress", func() bool {
		v := chromium.Eval[float64](t, ctx, `document.querySelector("progress").value`)
		return v > 0.1 && v < 1
	})
	reads(t, ctx, "Uploading one.bin", "three.bin is too large: the files of a reply can have", " %")
	// Who presses Send now does not send without the files.
	chromium.Do(t, ctx, chromedp.Click(chromedp.CSS("button[value=send]")))
	until(t, "it waits", func() bool { return strings.Contains(text(t, ctx), "as soon as all files are uploaded") })
	chromium.Do(t, ctx, chromedp.SendKeys(chromedp.ID("text"), ", thank you"))
	until(t, "the text is kept while a file is uploaded", func() bool { return replies.copy().Text == "Dear doctor, thank you" })
	// Cancelled, it leaves nothing; the next one takes its turn.
	chromium.Do(t, ctx, chromedp.Click(chromedp.CSS(`button[aria-label="Cancel the upload of one.bin"]`)))
	replies.rest <- struct{}{}
	<-replies.begun
	replies.rest <- struct{}{}
	until(t, "two.bin is attached", func() bool { return strings.Contains(text(t, ctx), "two.bin is attached") })
	reads(t, ctx, "1 file attached")
	if got := replies.names(); !slices.Equal(got, []string{"two.bin"}) {
		t.Errorf("files: %q", got)
	}
	if len(replies.sent) > 0 {
		t.Error("sent though an upload was cancelled")
	}
	chromium.Do(t, ctx, chromedp.Click(chromedp.CSS("input[name=all][value='1']")))
	submit(t, ctx, chromedp.Click(chromedp.CSS("button[value=send]")))
	reads(t, ctx, "on its way", "office@clinic.example")
	if len(replies.sent) != 1 || replies.sent[0].Text != "Dear doctor, thank you" || len(replies.sent[0].Files) != 1 || !replies.sent[0].All {
		t.Errorf("sent %+v", replies.sent)
	}
	// The old page, from the history, sends nothing twice.
	back(t, ctx, s.link+"/reply")
	chromium.Do(t, ctx, chromedp.Navigate(s.link+"/reply"))
	if v := chromium.Eval[string](t, ctx, "document.getElementById('text').value"); v != "" {
		t.Errorf("a new reply begins with %q", v)
	}
}

// Another window, another device, a session that ends: the script tells, and goes
// on to keep what is typed where it can.
func TestBrowserReplyElsewhere(t *testing.T) {
	ctx := chromium.Start(t, chromium.OnlyLoopback)
	replies := newFakeReplies()
	s := newTestSite(t, newFakeVault(crlf(fullLetter)), func(c *Config) { c.Replies = replies })
	s.vault.codes = []string{testCode}
	s.verified()
	open(t, ctx, s, "#message")
	chromium.Do(t, ctx, chromedp.Navigate(s.link+"/reply"), chromedp.SendKeys(chromedp.ID("text"), "one"))
	until(t, "kept", func() bool { return replies.copy().Text == "one" })
	s.write("two", "save")
	chromium.Do(t, ctx, chromedp.SendKeys(chromedp.ID("text"), " and more"))
	until(t, "the other text is shown", func() bool { return strings.Contains(text(t, ctx), "changed in another window") })
	if v := chromium.Eval[string](t, ctx, "document.getElementById('other').value"); v != "two" || replies.copy().Text != "two" {
		t.Errorf("the other text is %q, kept %q", v, replies.copy().Text)
	}
	submit(t, ctx, chromedp.Click(chromedp.CSS("button[value=save]")))
	reads(t, ctx, "is saved")
	if replies.copy().Text != "one and more" {
		t.Errorf("kept %q", replies.copy().Text)
	}
	if err := clearCookies(ctx); err != nil {
		t.Fatal(err)
	}
	chromium.Do(t, ctx, chromedp.SendKeys(chromedp.ID("text"), "!"))
	until(t, "it tells that the session is over", func() bool { return strings.Contains(text(t, ctx), "not signed in here any more") })
	submit(t, ctx, chromedp.Click(chromedp.CSS("button[value=send]")))
	reads(t, ctx, "could not be taken", "Copy it")
	if v := chromium.Eval[string](t, ctx, "document.getElementById('text').value"); v != "!one and more" {
		t.Errorf("the text that is left is %q", v)
	}
}

// All of it without a script, by the keyboard.
func TestBrowserReplyWithoutScript(t *testing.T) {
	ctx := chromium.Start(t, chromium.OnlyLoopback)
	replies := newFakeReplies()
	replies.all = []string{"Praxis <office@clinic.example>"}
	s := newTestSite(t, newFakeVault(crlf(fullLetter)), func(c *Config) { c.Replies = replies })
	s.vault.codes = []string{testCode}
	open(t, ctx, s, "#message")
	if _, err := chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		t.Fatal(err)
	}
	chromium.Do(t, ctx, chromedp.Navigate(s.link+"/reply"))
	tabTo(t, ctx, "#text")
	keys(t, ctx, "ありがとう")
	chromium.Do(t, ctx, chromedp.SetUploadFiles(chromedp.ID("files"), []string{someFile(t, "one.bin", 500), someFile(t, "two.bin", 600)}))
	tabTo(t, ctx, "button[value=attach]:not(.default)")
	press(t, ctx)
	reads(t, ctx, "two.bin is too large", "one.bin", "1 file attached")
	if v := chromium.Eval[string](t, ctx, "document.getElementById('text').value"); v != "ありがとう" {
		t.Errorf("the text is %q", v)
	}
	tabTo(t, ctx, "button[name=remove]")
	press(t, ctx)
	if strings.Contains(text(t, ctx), "one.bin") || len(replies.names()) > 0 {
		t.Error("removed, and still there")
	}
	// Enter in the choice of receivers removes nothing and sends nothing.
	chromium.Do(t, ctx, chromedp.SetUploadFiles(chromedp.ID("files"), []string{someFile(t, "three.bin", 5)}))
	tabTo(t, ctx, "input[name=all]")
	press(t, ctx)
	reads(t, ctx, "three.bin")
	tabTo(t, ctx, "button[value=send]")
	press(t, ctx)
	reads(t, ctx, "on its way", "doc@clinic.example")
	if len(replies.sent) != 1 || replies.sent[0].Text != "ありがとう" || replies.sent[0].Files[0].Name != "three.bin" {
		t.Errorf("sent %+v", replies.sent)
	}
}
