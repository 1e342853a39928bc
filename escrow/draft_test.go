package escrow_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/compose"
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/sql"
)

const original = "From: Dr. Who <doc@clinic.example>\r\nTo: pat@old.example, nurse@clinic.example, other@elsewhere.example\r\n" +
	"Subject: =?utf-8?q?R=C3=B6ntgen?=\r\nMessage-ID: <m1@clinic.example>\r\nReferences: <m0@clinic.example>\r\n\r\nThe text.\r\n"

// answering makes a vault for which clinic.example is an own domain, and a message in
// it that a verified recipient reads.
func answering(t *testing.T, change func(*escrow.Options)) (*bench, *escrow.Pickup, *escrow.Session) {
	t.Helper()
	b := newBench(t)
	keys, err := escrow.LoadKeys(b.keys)
	b.must(err)
	o := escrow.Options{
		Store: b.db, Keys: keys, PortalURL: "https://portal.clinic.example/x", NoticeFrom: "Clinic <notice@clinic.example>",
		Now: b.clock, Log: slog.New(slog.NewTextHandler(b.logs, nil)), Replies: escrow.ReplyOptions{Size: 3 << 20, SpoolDir: b.dir},
		OwnDomain: func(_ context.Context, d string) (bool, error) { return d == "clinic.example", nil },
	}
	if change != nil {
		change(&o)
	}
	b.Vault, err = escrow.NewVault(o)
	b.must(err)
	b.seal(message([]byte(original)))
	p := b.pickup(b.link(recipient))
	return b, p, escrow.SessionOf(p, b.clock().Add(time.Hour))
}

func TestADraftIsKept(t *testing.T) {
	b, p, s := answering(t, nil)
	ctx := t.Context()
	r, err := b.Draft(ctx, p, s)
	b.must(err)
	if r.ID != "" || r.Subject != "Re: Röntgen" || fmt.Sprint(r.To) != "[Dr. Who <doc@clinic.example>]" || fmt.Sprint(r.AllTo) != "[nurse@clinic.example]" || r.Cc != nil {
		t.Errorf("a fresh draft: %+v", r)
	}
	if _, err := b.db.ReplyDraft(ctx, "x"); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("looking at a draft has saved one: %v", err)
	}
	r, err = b.SaveDraft(ctx, p, s, "a text", true)
	b.must(err)
	if r.ID == "" || r.Text != "a text" || fmt.Sprint(r.Cc) != "[nurse@clinic.example]" {
		t.Errorf("saved: %+v", r)
	}
	_, err = b.AddFile(ctx, p, s, `C:\tmp\a.pdf`, "application/pdf", strings.NewReader("the file"))
	b.must(err)
	_, err = b.SaveDraft(ctx, p, s, "newer", false) // another tab, which does not know of the file
	b.must(err)
	r, err = b.Draft(ctx, p, s)
	b.must(err)
	if r.Text != "newer" || len(r.Files) != 1 || r.Files[0] != (escrow.ReplyFile{N: 1, Name: "a.pdf", MediaType: "application/pdf", Size: 8}) || r.Size != 8 {
		t.Errorf("after another tab: %+v", r)
	}
	_, err = b.RemoveFile(ctx, p, s, 1)
	b.must(err)
	r, err = b.RemoveFile(ctx, p, s, 1)
	b.must(err)
	if len(r.Files) != 0 || r.Size != 0 || b.chunks() != 0 {
		t.Errorf("after its removal: %+v, %d chunks", r, b.chunks())
	}
	b.must(b.DiscardDraft(ctx, p, s))
	b.must(b.DiscardDraft(ctx, p, s))
	if r, err = b.Draft(ctx, p, s); err != nil || r.ID != "" || r.Text != "" {
		t.Errorf("discarded: %+v, %v", r, err)
	}
}

func (b *bench) chunks() (n int) {
	b.t.Helper()
	b.must(queryInt(b.t, b.path(), `SELECT count(*) FROM escrow_reply_chunk`, &n))
	return n
}

func TestACutUploadLeavesNothing(t *testing.T) {
	b, p, s := answering(t, nil)
	_, err := b.AddFile(t.Context(), p, s, "a", "", io.MultiReader(strings.NewReader(strings.Repeat("x", 2<<20)), broken{}))
	if !errors.Is(err, errBroken) {
		t.Errorf("a cut upload: %v", err)
	}
	if r, err := b.Draft(t.Context(), p, s); err != nil || r.ID != "" || b.chunks() != 0 {
		t.Errorf("left: %+v, %d chunks, %v", r, b.chunks(), err)
	}
}

func TestTheFilesOfAReplyAreLimited(t *testing.T) {
	b, p, s := answering(t, nil)
	ctx := t.Context()
	if _, err := b.SaveDraft(ctx, p, s, strings.Repeat("x", escrow.MaxReplyText+1), false); !errors.Is(err, escrow.ErrTooLarge) {
		t.Errorf("a long text: %v", err)
	}
	_, err := b.AddFile(ctx, p, s, "a", "", strings.NewReader(strings.Repeat("x", 2<<20)))
	b.must(err)
	endless := &counter{}
	if _, err := b.AddFile(ctx, p, s, "b", "", endless); !errors.Is(err, escrow.ErrTooLarge) {
		t.Errorf("an endless file: %v", err)
	}
	if endless.n > 2<<20 {
		t.Errorf("read %d bytes of what is too large by the first", endless.n)
	}
	_, err = b.AddFile(ctx, p, s, "c", "", strings.NewReader(strings.Repeat("x", 1<<20)))
	b.must(err, "as much as there is room for:")
	for range escrow.MaxReplyFiles - 2 {
		_, err := b.AddFile(ctx, p, s, "d", "", strings.NewReader(""))
		b.must(err)
	}
	if _, err := b.AddFile(ctx, p, s, "d", "", strings.NewReader("")); !errors.Is(err, escrow.ErrTooLarge) {
		t.Errorf("too many files: %v", err)
	}
}

type counter struct{ n int }

func (c *counter) Read(p []byte) (int, error) { c.n += len(p); return len(p), nil }

func TestTabsLoseNoFiles(t *testing.T) {
	b, p, s := answering(t, nil)
	var wg sync.WaitGroup
	for i := range 5 {
		wg.Go(func() {
			if _, err := b.AddFile(t.Context(), p, s, fmt.Sprint(i), "", strings.NewReader("file")); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if _, err := b.SaveDraft(t.Context(), p, s, fmt.Sprint(i), false); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	r, err := b.Draft(t.Context(), p, s)
	b.must(err)
	if len(r.Files) != 5 || r.Size != 20 {
		t.Errorf("%+v", r)
	}
}

func TestNothingOfAReplyLiesInTheClear(t *testing.T) {
	b, p, s := answering(t, nil)
	const secret = "SECRET-OF-THE-REPLY"
	_, err := b.SaveDraft(t.Context(), p, s, secret, false)
	b.must(err)
	_, err = b.AddFile(t.Context(), p, s, secret+".txt", "text/plain", strings.NewReader(strings.Repeat(secret, 50000)))
	b.must(err)
	files, err := filepath.Glob(filepath.Join(b.dir, "*"))
	b.must(err)
	for _, f := range files {
		data, err := os.ReadFile(f)
		b.must(err)
		if bytes.Contains(data, []byte(secret)) {
			t.Errorf("%s holds the reply", f)
		}
	}
	if strings.Contains(b.logs.String(), secret) {
		t.Error("the log holds the reply")
	}
}

func TestPressedTwiceItIsSentOnce(t *testing.T) {
	b, p, s := answering(t, nil)
	ctx := t.Context()
	if _, err := b.SendReply(ctx, p, s); !errors.Is(err, escrow.ErrEmpty) {
		t.Errorf("without a draft: %v", err)
	}
	_, err := b.SaveDraft(ctx, p, s, " \n", false)
	b.must(err)
	if _, err := b.SendReply(ctx, p, s); !errors.Is(err, escrow.ErrEmpty) {
		t.Errorf("an empty draft: %v", err)
	}
	press := func(text string) *escrow.Reply {
		t.Helper()
		_, err := b.SaveDraft(ctx, p, s, text, false)
		b.must(err)
		r, err := b.SendReply(ctx, p, s)
		b.must(err)
		return r
	}
	_, err = b.AddFile(ctx, p, s, "f", "", strings.NewReader("f"))
	b.must(err)
	first := press("text")
	again := press("text")
	only, err := b.SendReply(ctx, p, s)
	b.must(err)
	if first.State != escrow.ReplyQueued || again.ID != first.ID || only.ID != first.ID || len(again.Files) != 1 {
		t.Errorf("%+v\n%+v\n%+v", first, again, only)
	}
	b.pass(time.Second)
	other := press("another text")
	list, err := b.Replies(ctx, p, s)
	b.must(err)
	if len(list) != 2 || list[0].ID != first.ID || list[1].ID != other.ID || list[0].Text != "text" {
		t.Errorf("sent: %+v", list)
	}
	if d, err := b.Draft(ctx, p, s); err != nil || d.ID != "" || d.Text != "" {
		t.Errorf("the next draft: %+v, %v", d, err)
	}
	b.pass(time.Hour - time.Minute)
	if later := press("another text"); later.ID == other.ID {
		t.Error("the same words an hour later were not sent")
	}
}

func TestTheSenderIsToldOfAReply(t *testing.T) {
	for _, tt := range []struct {
		setting []string
		want    int
	}{{[]string{escrow.MailReply}, 1}, {nil, 0}} {
		b, p, s := answering(t, func(o *escrow.Options) { o.SenderMail = tt.setting })
		_, err := b.SaveDraft(t.Context(), p, s, "SECRET", false)
		b.must(err)
		for range 2 {
			_, err = b.SendReply(t.Context(), p, s)
			b.must(err)
		}
		m := b.mails()
		if len(m) != tt.want || len(m) == 1 && (m[0].To != sender || bytes.Contains(m[0].Text, []byte("SECRET"))) {
			t.Errorf("setting %q: %d mails, %+v", tt.setting, len(m), m)
		}
	}
}

func TestAReplyToWhatIsOver(t *testing.T) {
	for _, end := range []error{escrow.ErrExpired, escrow.ErrRetracted} {
		b, p, s := answering(t, nil)
		ctx := t.Context()
		_, err := b.SaveDraft(ctx, p, s, "sent", false)
		b.must(err)
		_, err = b.SendReply(ctx, p, s)
		b.must(err)
		_, err = b.SaveDraft(ctx, p, s, "half of", false)
		b.must(err)
		if end == escrow.ErrExpired {
			b.pass(escrow.DefaultLifetime)
			s = escrow.SessionOf(p, b.clock().Add(time.Hour))
		} else {
			b.must(b.Retract(ctx, p.ItemID, ""))
		}
		_, err = b.SaveDraft(ctx, p, s, "text", false)
		_, err2 := b.AddFile(ctx, p, s, "a", "", strings.NewReader("a"))
		_, err3 := b.SendReply(ctx, p, s)
		d, err4 := b.Draft(ctx, p, s)
		for _, err := range []error{err, err2, err3, err4} {
			if !errors.Is(err, end) {
				t.Errorf("%v, want %v", err, end)
			}
		}
		if d == nil || d.Text != "half of" {
			t.Errorf("the draft is lost: %+v", d)
		}
	}
}

func TestOnlyTheVerifiedAnswer(t *testing.T) {
	b, p, s := answering(t, nil)
	b.seal(message([]byte(original+"other"), escrow.Recipient{Address: "x@old.example"}))
	other := escrow.SessionOf(b.pickup(b.link("x@old.example")), b.clock().Add(time.Hour))
	for _, s := range []*escrow.Session{nil, other, escrow.SessionOf(p, b.clock())} {
		if _, err := b.SaveDraft(t.Context(), p, s, "text", false); !errors.Is(err, escrow.ErrUnknown) {
			t.Errorf("%v", err)
		}
	}
	_ = s
}

func TestWhomAnAnswerGoesTo(t *testing.T) {
	b, _, _ := answering(t, nil)
	for _, tt := range []struct {
		name, sender, header, to, cc string
	}{
		{"From", "doc@clinic.example", "From: Doc <doc@clinic.example>\n", "doc@clinic.example", ""},
		{"Reply-To comes first", "doc@clinic.example", "From: doc@clinic.example\nReply-To: <desk@clinic.example>\n", "desk@clinic.example", ""},
		{"a foreign Reply-To is passed over", "doc@clinic.example", "From: doc@clinic.example\nReply-To: evil@evil.example\n", "doc@clinic.example", ""},
		{"a foreign From too", "doc@clinic.example", "From: evil@evil.example\n", "doc@clinic.example", ""},
		{"no header at all", "doc@clinic.example", "", "doc@clinic.example", ""},
		{"the sender's own domain", "a@law.example", "From: b@law.example\nTo: pat@old.example, c@law.example, x@y.example\n", "b@law.example", "c@law.example"},
		{"the null sender, own From", "", "From: b@clinic.example\n", "b@clinic.example", ""},
		{"nobody", "", "From: b@evil.example\n", "", ""},
		{"twice is once", "doc@clinic.example", "From: doc@clinic.example\nTo: DOC@clinic.example, n@clinic.example\nCc: n@CLINIC.example\n", "doc@clinic.example", "n@clinic.example"},
		{"not the recipient", "pat@clinic.example", "From: n@clinic.example\nTo: PAT@old.example, <pat@old.example>\n", "n@clinic.example", ""},
		{"not our notices", "doc@clinic.example", "From: doc@clinic.example\nTo: notice@clinic.example\n", "doc@clinic.example", ""},
		{"a group, folded", "doc@clinic.example", "From: doc@clinic.example\nTo: us:\n a@clinic.example,\n\tb@clinic.example;\n", "doc@clinic.example", "a@clinic.example b@clinic.example"},
		{"a list that can't be read", "doc@clinic.example", "From: doc@clinic.example\nTo: (broken, a@clinic.example, Müll. [x] <b@clinic.example>\n", "doc@clinic.example", "a@clinic.example b@clinic.example"},
		{"an unknown charset", "doc@clinic.example", "From: =?x-no?q?D=20c?= <doc@clinic.example>\n", "doc@clinic.example", ""},
		{"percent hack", "doc@clinic.example", "From: x%evil.example@clinic.example\n", "doc@clinic.example", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			to, cc, _, _, _, err := b.PlanAnswer(t.Context(), tt.sender, "pat@old.example", tt.header+"\ntext")
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(to, " "); got != tt.to {
				t.Errorf("to %q, want %q", got, tt.to)
			}
			if got := strings.Join(cc, " "); got != tt.cc {
				t.Errorf("cc %q, want %q", got, tt.cc)
			}
		})
	}
}

func TestThreading(t *testing.T) {
	b, _, _ := answering(t, nil)
	long := ""
	for i := range 50 {
		long += fmt.Sprintf(" <%d@x>", i)
	}
	for _, tt := range []struct {
		name, header, subject, inReplyTo, references string
	}{
		{"a first mail", "Subject: Hello\nMessage-ID: <1@x>\n", "Re: Hello", "1@x", "1@x"},
		{"an answer", "Subject: RE: Hello\nMessage-ID: <3@x>\nIn-Reply-To: <2@x>\nReferences: <1@x>\n <2@x>\n", "RE: Hello", "3@x", "1@x 2@x 3@x"},
		{"no References", "Message-ID: <3@x>\nIn-Reply-To: <2@x>\n", "Re:", "3@x", "2@x 3@x"},
		{"two parents, no References", "Message-ID: <3@x>\nIn-Reply-To: <2@x> <1@x>\n", "Re:", "3@x", "3@x"},
		{"no Message-ID", "References: <1@x>\n", "Re:", "", "1@x"},
		{"nothing", "", "Re:", "", ""},
		{"no id", "Message-ID: 3@x\n", "Re:", "", ""},
		{"injection", "Subject: =?utf-8?q?a=0D=0ABcc:_x@y?=\nMessage-ID: <a\n b@x>\n", "Re: a Bcc: x@y", "", ""},
		{"long", "Message-ID: <new@x>\nReferences:" + long + "\n", "Re:", "new@x", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, subject, inReplyTo, references, err := b.PlanAnswer(t.Context(), "doc@clinic.example", "pat@old.example", tt.header+"\n")
			if err != nil || subject != tt.subject || inReplyTo != tt.inReplyTo {
				t.Errorf("%q, %q, %v", subject, inReplyTo, err)
			}
			if got := strings.Join(references, " "); got != tt.references && tt.name != "long" {
				t.Errorf("References %q, want %q", got, tt.references)
			}
			if tt.name == "long" && (len(references) != 30 || references[0] != "0@x" || references[29] != "new@x") {
				t.Errorf("References %q", references)
			}
		})
	}
}

// FuzzPlanAnswer is that no header sends an answer to who is not on the sender's side,
// or puts into its own header what can't stand there.
func FuzzPlanAnswer(f *testing.F) {
	f.Add("doc@clinic.example", "From: a@clinic.example\nReply-To: x@evil.example, b@clinic.example\nSubject: =?utf-8?b?4oCu?=\nReferences: <a@b>\n\n")
	f.Add("", "To: us: a@clinic.example, \"b@evil.example\" <c@clinic.example>;\nFrom: x@evil.example(<d@clinic.example>)\nMessage-ID: <<a@b>>\n")
	f.Add("x@law.example", "From: \"a@evil.example>, <\"@law.example\nCc: @evil.example:a@law.example, a%evil.example@law.example, a!b@law.example\n")
	v := fuzzVault(f)
	f.Fuzz(func(t *testing.T, sender, header string) {
		to, cc, subject, inReplyTo, references, err := v.PlanAnswer(t.Context(), sender, recipient, header)
		if err != nil {
			t.Fatal(err)
		}
		side := "clinic.example"
		if a, err := policy.ParseAddress(sender); err == nil && a.Domain != "" {
			side = a.Domain
		}
		m := &compose.Message{Subject: subject, References: references, Text: "x"}
		if inReplyTo != "" {
			m.InReplyTo = []string{inReplyTo}
		}
		for _, list := range [][]string{to, cc} {
			for _, s := range list {
				a, err := policy.ParseAddress(s)
				if err != nil || a.Domain != side && a.Domain != "clinic.example" || a.Routed() {
					t.Errorf("an answer goes to %q: %v", s, err)
				}
			}
		}
		if _, err := m.WriteTo(io.Discard); err != nil {
			t.Errorf("can't be written: %v", err)
		}
	})
}

// fuzzVault returns a vault that is used for what needs no store.
func fuzzVault(f *testing.F) *escrow.Vault {
	f.Helper()
	dir := f.TempDir()
	if err := escrow.NewKeyFile(filepath.Join(dir, "keys")); err != nil {
		f.Fatal(err)
	}
	keys, err := escrow.LoadKeys(filepath.Join(dir, "keys"))
	if err != nil {
		f.Fatal(err)
	}
	db, err := sql.Open(f.Context(), "sqlite:"+filepath.Join(dir, "db"), sql.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { db.Close() })
	v, err := escrow.NewVault(escrow.Options{
		Store: db, Keys: keys, PortalURL: "https://portal.clinic.example", NoticeFrom: "notice@clinic.example",
		OwnDomain: func(_ context.Context, d string) (bool, error) { return d == "clinic.example", nil },
	})
	if err != nil {
		f.Fatal(err)
	}
	return v
}
