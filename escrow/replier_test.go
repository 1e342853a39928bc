package escrow_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/mail"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/sql"
)

// splitter takes replies by LMTP, and keeps what it was given.
type splitter struct {
	addr string
	mu   sync.Mutex
	got  []taken
	// answers are the replies by recipient, for one try each; 250 after the last.
	answers map[string][]int
}

type taken struct {
	from, to string
	code     int
	data     []byte
}

func newSplitter(t *testing.T, answers map[string][]int) *splitter {
	t.Helper()
	s := &splitter{answers: answers}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	srv := smtp.NewServer(s)
	srv.LMTP, srv.Domain, srv.EnableDSN, srv.EnableSMTPUTF8 = true, "splitter", true, true
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return s
}

func (s *splitter) NewSession(*smtp.Conn) (smtp.Session, error) { return &splitSession{s: s}, nil }

type splitSession struct {
	s    *splitter
	from string
	to   []string
}

func (s *splitSession) Mail(from string, o *smtp.MailOptions) error {
	if o.Return != smtp.DSNReturnHeaders {
		return &smtp.SMTPError{Code: 550, Message: "a bounce would carry the reply"}
	}
	s.from, s.to = from, nil
	return nil
}

func (s *splitSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	if strings.HasPrefix(to, "bad") {
		return &smtp.SMTPError{Code: 553, Message: "bad"}
	}
	s.to = append(s.to, to)
	return nil
}

func (s *splitSession) Data(io.Reader) error { return errors.New("not LMTP") }
func (s *splitSession) Reset()               {}
func (s *splitSession) Logout() error        { return nil }

func (s *splitSession) LMTPData(r io.Reader, status smtp.StatusCollector) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.s.mu.Lock()
	defer s.s.mu.Unlock()
	for _, to := range s.to {
		code := 250
		if left := s.s.answers[to]; len(left) > 0 {
			code, s.s.answers[to] = left[0], left[1:]
		}
		s.s.got = append(s.s.got, taken{s.from, to, code, data})
		if code == 250 {
			status.SetStatus(to, nil)
		} else {
			status.SetStatus(to, &smtp.SMTPError{Code: code, Message: "no"})
		}
	}
	return nil
}

// to returns the codes that a recipient got.
func (s *splitter) to(address string) (codes []int, last taken) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.got {
		if g.to == address {
			codes, last = append(codes, g.code), g
		}
	}
	return codes, last
}

// deliver runs the replier until done, and moves the clock meanwhile.
func (b *bench) deliver(s *splitter, done func() bool) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 20*time.Second)
	r := &escrow.Replier{Vault: b.Vault, Splitter: s.addr}
	var wg sync.WaitGroup
	wg.Go(func() { r.Run(ctx) })
	for ctx.Err() == nil && !done() {
		time.Sleep(20 * time.Millisecond)
		b.pass(time.Hour)
		r.Wake()
	}
	cancel()
	wg.Wait()
	if !done() {
		b.t.Error("was not delivered in time")
	}
}

// sent sends a reply to all.
func (b *bench) reply(p *escrow.Pickup, s *escrow.Session) *escrow.Reply {
	b.t.Helper()
	ctx := b.t.Context()
	_, err := b.SaveDraft(ctx, p, s, "the text", true)
	b.must(err)
	_, err = b.AddFile(ctx, p, s, "a.bin", "", strings.NewReader(strings.Repeat("file ", 300000)))
	b.must(err)
	r, err := b.SendReply(ctx, p, s)
	b.must(err)
	return r
}

func (b *bench) stateOf(id string) string {
	b.t.Helper()
	r, err := b.db.ReplyByID(b.t.Context(), id)
	b.must(err)
	return r.State
}

func TestEachRecipientOfAReply(t *testing.T) {
	const doc, nurse = "doc@clinic.example", "nurse@clinic.example"
	for _, tt := range []struct {
		name        string
		answers     map[string][]int
		doc, nurse  []int
		state, told string
	}{
		{"both at once", nil, []int{250}, []int{250}, escrow.ReplySent, ""},
		{"one is deferred: the other gets it once", map[string][]int{nurse: {451, 421}}, []int{250}, []int{451, 421, 250}, escrow.ReplySent, ""},
		{"one is refused", map[string][]int{nurse: {550}}, []int{250}, []int{550}, escrow.ReplyFailed, nurse},
		{"one is refused, the other waits", map[string][]int{nurse: {554}, doc: {451}}, []int{451, 250}, []int{554}, escrow.ReplyFailed, nurse},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, p, s := answering(t, nil)
			r := b.reply(p, s)
			sp := newSplitter(t, tt.answers)
			b.deliver(sp, func() bool { return b.stateOf(r.ID) == tt.state })
			gotDoc, last := sp.to(doc)
			gotNurse, _ := sp.to(nurse)
			if !slices.Equal(gotDoc, tt.doc) || !slices.Equal(gotNurse, tt.nurse) {
				t.Errorf("got %v and %v", gotDoc, gotNurse)
			}
			if !b.IsReply(last.from) || b.chunks() != 0 {
				t.Errorf("from %s, %d chunks are left", last.from, b.chunks())
			}
			var mails []string
			for _, e := range b.mails() {
				mails = append(mails, e.To+" "+e.Kind)
				if !bytes.Contains(e.Text, []byte(tt.told)) || bytes.Contains(e.Text, []byte("the text")) || bytes.Contains(e.Text, []byte("ntgen")) || e.From != "" {
					t.Errorf("told by\n%s", e.Text)
				}
			}
			if want := map[bool]string{true: "pat@old.example reply-failed"}[tt.told != ""]; strings.Join(mails, ", ") != want {
				t.Errorf("told %q, want %q", mails, want)
			}
			list, err := b.Replies(t.Context(), p, escrow.SessionOf(p, b.clock().Add(time.Hour)))
			b.must(err)
			if len(list) != 1 || list[0].Text != "the text" || strings.Join(list[0].Failed, "") != tt.told {
				t.Errorf("the page shows %+v", list)
			}
			m, err := mail.ReadMessage(bytes.NewReader(last.data))
			b.must(err)
			for name, want := range map[string]string{
				"From": "<pat@old.example>", "Sender": "<notice@clinic.example>", "Cc": "<nurse@clinic.example>", "In-Reply-To": "<m1@clinic.example>",
				"References": "<m0@clinic.example> <m1@clinic.example>", "Auto-Submitted": "", "Received": "",
			} {
				if got := m.Header.Get(name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
		})
	}
}

func TestAReplyIsTheSameBytesAtEachTry(t *testing.T) {
	b, p, s := answering(t, nil)
	r := b.reply(p, s)
	sp := newSplitter(t, map[string][]int{"doc@clinic.example": {451}, "nurse@clinic.example": {451}})
	b.deliver(sp, func() bool { return b.stateOf(r.ID) == escrow.ReplySent })
	if len(sp.got) != 4 || sha256.Sum256(sp.got[0].data) != sha256.Sum256(sp.got[3].data) {
		t.Errorf("%d tries, of other bytes", len(sp.got))
	}
}

// A file that can't be read whole never passes for a message.
func TestADamagedReplyIsNotSentInPart(t *testing.T) {
	b, p, s := answering(t, nil)
	r := b.reply(p, s)
	var n int
	b.must(queryInt(t, b.path(), `DELETE FROM escrow_reply_chunk WHERE n = 1 RETURNING 1`, &n))
	sp := newSplitter(t, nil)
	b.deliver(sp, func() bool { return b.stateOf(r.ID) == escrow.ReplyFailed })
	if len(sp.got) != 0 {
		t.Errorf("%d bytes were taken", len(sp.got[0].data))
	}
	if m := b.mails(); len(m) != 1 || m[0].Kind != "reply-failed" {
		t.Errorf("after five days its writer was told %+v", m)
	}
}

func TestAReplyOnItsWayOutlivesItsMessage(t *testing.T) {
	b, p, s := answering(t, nil)
	r := b.reply(p, s)
	b.must(b.Retract(t.Context(), p.ItemID, ""))
	b.pass(200 * 24 * time.Hour)
	b.must(b.db.Sweep(t.Context(), b.clock(), time.Hour))
	sp := newSplitter(t, nil)
	b.deliver(sp, func() bool { return b.stateOf(r.ID) == escrow.ReplySent })
	if codes, _ := sp.to("doc@clinic.example"); !slices.Equal(codes, []int{250}) {
		t.Errorf("got %v", codes)
	}
	stored, err := b.db.ReplyByID(t.Context(), r.ID)
	b.must(err)
	if stored.Wrap != nil {
		t.Error("the key of what nobody can read any more is kept")
	}
	// And a bounce of it is still told.
	b.mails()
	report := "Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; x\r\n\r\nFinal-Recipient: rfc822; doc@clinic.example\r\nAction: failed\r\n--b--\r\n"
	_, last := sp.to("doc@clinic.example")
	token, _ := b.IsBounceAddress(last.from)
	for range 2 {
		b.must(b.Bounced(t.Context(), token, "", strings.NewReader(report)))
	}
	if m := b.mails(); len(m) != 1 || m[0].To != recipient || m[0].Kind != "reply-failed" {
		t.Errorf("told: %+v", m)
	}
}

func TestBouncesOfAReply(t *testing.T) {
	report := func(fields string) string {
		return "Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; x\r\n\r\n" + fields + "--b--\r\n"
	}
	for _, tt := range []struct {
		name, from, mail string
		failed           string
	}{
		{"one of two", "", report("Final-Recipient: rfc822; NURSE@clinic.example\r\nAction: failed\r\n"), "nurse@clinic.example"},
		{"behind an alias", "", report("Original-Recipient: rfc822;doc@clinic.example\r\nFinal-Recipient: rfc822; x@y.example\r\nAction: failed\r\n"), "doc@clinic.example"},
		{"who, it does not say", "", report("Final-Recipient: rfc822; x@y.example\r\nAction: failed\r\n"), "doc@clinic.example nurse@clinic.example"},
		{"a delay", "", report("Final-Recipient: rfc822; doc@clinic.example\r\nAction: delayed\r\n"), ""},
		{"a person", "doc@clinic.example", "Subject: Re: x\r\n\r\nthanks\r\n", ""},
		{"a vacation note", "", "Auto-Submitted: auto-replied\r\n\r\naway\r\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, p, s := answering(t, nil)
			r := b.reply(p, s)
			sp := newSplitter(t, nil)
			b.deliver(sp, func() bool { return b.stateOf(r.ID) == escrow.ReplySent })
			b.mails()
			_, last := sp.to("doc@clinic.example")
			token, ok := b.IsBounceAddress(strings.ToUpper(last.from))
			if !ok {
				t.Fatalf("%s is no address of ours", last.from)
			}
			for range 2 {
				err := b.Bounced(t.Context(), token, tt.from, strings.NewReader(tt.mail))
				if tt.name == "a person" {
					if !errors.Is(err, escrow.ErrNoMailbox) {
						t.Errorf("a person's mail: %v", err)
					}
					continue
				}
				b.must(err)
			}
			list, err := b.Replies(t.Context(), p, escrow.SessionOf(p, b.clock().Add(time.Hour)))
			b.must(err)
			if got := strings.Join(list[0].Failed, " "); got != tt.failed {
				t.Errorf("failed %q, want %q", got, tt.failed)
			}
			if m := b.mails(); len(m) > 1 || (len(m) == 1) != (tt.failed != "") {
				t.Errorf("told %d times", len(m))
			}
		})
	}
	b, _, _ := answering(t, nil)
	if err := b.Bounced(t.Context(), "raaaaaaaaaaaaaaaaaaaaaaaaaa.aaaaaaaaaaaaaaaa", "", strings.NewReader("")); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("a token that is not ours: %v", err)
	}
}

// A reply that is sealed again is a message of who wrote it, settled under the
// envelope sender that Postfix knows.
func TestAReplyIsSealedAgain(t *testing.T) {
	b, p, s := answering(t, nil)
	r := b.reply(p, s)
	sp := newSplitter(t, nil)
	b.deliver(sp, func() bool { return b.stateOf(r.ID) == escrow.ReplySent })
	b.mails()
	_, last := sp.to("doc@clinic.example")
	m := message(last.data, escrow.Recipient{Address: "doc@nosec.example"})
	m.Sender = last.from
	b.seal(m)
	if _, err := b.Seal(t.Context(), m); !errors.Is(err, escrow.ErrSettled) {
		t.Errorf("sealed twice: %v", err)
	}
	settled, err := b.db.Settled(t.Context(), m.Digest, last.from, []string{"doc@nosec.example"})
	if err != nil || len(settled) != 1 {
		t.Errorf("settled: %v, %v", settled, err)
	}
	p = b.pickup(b.link("doc@nosec.example"))
	if p.Sender != recipient {
		t.Errorf("its sender is %q", p.Sender)
	}
	d, err := b.Draft(t.Context(), p, escrow.SessionOf(p, b.clock().Add(time.Hour)))
	b.must(err)
	if strings.Join(d.To, " ") != recipient {
		t.Errorf("an answer to it goes to %q", d.To)
	}
}

// TestReplyChild is the process that TestReplyKilled kills.
func TestReplyChild(t *testing.T) {
	point := os.Getenv("POSTSEAL_TEST_REPLY_CRASH")
	if point == "" {
		return // it runs in a process that another test starts
	}
	ctx := t.Context()
	db, err := sql.Open(ctx, "sqlite:"+os.Getenv("POSTSEAL_TEST_DB"), sql.Options{})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := escrow.LoadKeys(os.Getenv("POSTSEAL_TEST_KEYS"))
	if err != nil {
		t.Fatal(err)
	}
	die := func(at string) {
		if at == point {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	v, err := escrow.NewVault(escrow.Options{
		Store: db, Keys: keys, PortalURL: "https://portal.clinic.example/x", NoticeFrom: "notice@clinic.example", Crash: die,
	})
	if err != nil {
		t.Fatal(err)
	}
	p, err := v.Pickup(ctx, os.Getenv("POSTSEAL_TEST_ITEM"), os.Getenv("POSTSEAL_TEST_SECRET"))
	if err != nil {
		t.Fatal(err)
	}
	s := escrow.SessionOf(p, time.Now().Add(time.Hour))
	if _, err := v.AddFile(ctx, p, s, "f", "", strings.NewReader("file")); err != nil {
		t.Fatal(err)
	}
	if _, err := v.SendReply(ctx, p, s); err != nil {
		t.Fatal(err)
	}
	(&escrow.Replier{Vault: v, Splitter: os.Getenv("POSTSEAL_TEST_RELAY"), Crash: die}).Run(ctx)
}

// Killed at each point a reply is a draft, is queued, or is sent: nothing between, and
// what is tried again is the same message.
func TestReplyKilled(t *testing.T) {
	for _, tt := range []struct {
		point string
		files int // in the draft
		state string
		taken int // by the splitter, before and after
	}{
		{"reply-file-before-commit", 0, escrow.ReplyDraft, 0},
		{"reply-after-commit", 0, escrow.ReplyQueued, 1},
		{"reply-before-send", 0, escrow.ReplyQueued, 1},
		{"reply-after-send", 0, escrow.ReplyQueued, 2}, // whose ledger knows it
		{"reply-after-record", 0, escrow.ReplySent, 1},
	} {
		t.Run(tt.point, func(t *testing.T) {
			b := newBench(t)
			b.now.Store(time.Now().UnixMicro()) // as in the child
			b.seal(message([]byte(original)))
			item, secret := b.link(recipient)
			p := b.pickup(item, secret)
			s := escrow.SessionOf(p, b.clock().Add(time.Hour))
			_, err := b.SaveDraft(t.Context(), p, s, "text", false)
			b.must(err)
			b.db.Close()
			sp := newSplitter(t, nil)
			exe, err := os.Executable()
			b.must(err)
			cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestReplyChild$")
			cmd.Env = append(os.Environ(), "POSTSEAL_TEST_REPLY_CRASH="+tt.point, "POSTSEAL_TEST_DB="+b.path(), "POSTSEAL_TEST_KEYS="+b.keys,
				"POSTSEAL_TEST_RELAY="+sp.addr, "POSTSEAL_TEST_ITEM="+item, "POSTSEAL_TEST_SECRET="+secret)
			out, _ := cmd.CombinedOutput()
			if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
				t.Fatalf("was not killed: %v\n%s", cmd.ProcessState, out)
			}
			b.db = nil
			b.now.Store(time.Now().Add(time.Minute).UnixMicro())
			b.start()
			if tt.state == escrow.ReplyDraft {
				d, err := b.Draft(t.Context(), p, s)
				b.must(err)
				if d.Text != "text" || len(d.Files) != tt.files || b.chunks() != 0 {
					t.Errorf("%+v, %d chunks", d, b.chunks())
				}
				return
			}
			list, err := b.db.SentReplies(t.Context(), p.PickupID())
			b.must(err)
			if len(list) != 1 || list[0].State != tt.state {
				t.Fatalf("%+v", list)
			}
			b.deliver(sp, func() bool { return b.stateOf(list[0].ID) == escrow.ReplySent })
			if len(sp.got) != tt.taken || !bytes.Equal(sp.got[0].data, sp.got[len(sp.got)-1].data) {
				t.Errorf("was taken %d times", len(sp.got))
			}
		})
	}
}
