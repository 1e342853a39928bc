package intake

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/lab/logtext"
	"github.com/postseal/postseal/policyd/policy"
)

// fakePostfix is a smtpd that records what it gets, byte for byte.
type fakePostfix struct {
	addr    string
	chunks  bool                    // announce CHUNKING
	lacks   string                  // an extension that is not announced
	refuse  func(cmd string) string // a reply in the place of the usual one; "" for that, "drop" to close
	mu      sync.Mutex
	got     []mailed
	command []string
}

// mailed is a message that was taken.
type mailed struct {
	mail  string
	rcpts []string
	text  string
}

func newPostfix(t *testing.T, chunks bool) *fakePostfix {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &fakePostfix{addr: ln.Addr().String(), chunks: chunks}
	var conns sync.WaitGroup
	t.Cleanup(func() { ln.Close(); conns.Wait() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { p.serve(c) })
		}
	}()
	return p
}

func (p *fakePostfix) messages() []mailed {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.got)
}

func (p *fakePostfix) commands() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.command)
}

func (p *fakePostfix) serve(c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	r := bufio.NewReader(c)
	say := func(s string) { io.WriteString(c, s+"\r\n") }
	say("220 fake")
	var m mailed
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		cmd := strings.TrimSuffix(line, "\r\n")
		p.mu.Lock()
		p.command = append(p.command, cmd)
		p.mu.Unlock()
		verb, arg, _ := strings.Cut(cmd, " ")
		reply := ""
		if p.refuse != nil {
			reply = p.refuse(cmd)
		}
		switch verb {
		case "EHLO":
			say("250-fake")
			for _, x := range []string{"SIZE 0", "DSN", "SMTPUTF8", "8BITMIME", "XFORWARD NAME IDENT", "PIPELINING"} {
				if x != p.lacks {
					say("250-" + x)
				}
			}
			if p.chunks {
				say("250-CHUNKING")
			}
			say("250 ENHANCEDSTATUSCODES")
		case "MAIL", "RCPT":
			if reply == "" {
				reply = "250 2.1.0 Ok"
				if verb == "MAIL" {
					m = mailed{mail: arg}
				} else {
					m.rcpts = append(m.rcpts, arg)
				}
			}
			say(reply)
		case "DATA":
			say("354 go on")
			text, err := unstuffed(r)
			if err != nil {
				return
			}
			m.text = text
			p.took(m)
			if reply == "drop" {
				return
			}
			say(cmpOr(reply, "250 2.0.0 Ok: queued as FAKE1"))
		case "BDAT":
			n, _, _ := strings.Cut(arg, " ")
			size, err := strconv.Atoi(n)
			if err != nil {
				return
			}
			text := make([]byte, size)
			if _, err := io.ReadFull(r, text); err != nil {
				return
			}
			m.text = string(text)
			p.took(m)
			if reply == "drop" {
				return
			}
			say(cmpOr(reply, "250 2.0.0 Ok: queued as FAKE1"))
		case "QUIT":
			say("221 2.0.0 Bye")
			return
		default:
			say("250 2.0.0 Ok")
		}
	}
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (p *fakePostfix) took(m mailed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.got = append(p.got, m)
}

// unstuffed reads DATA in a simple way of its own: all until CR LF . CR LF.
func unstuffed(r *bufio.Reader) (string, error) {
	var b []byte
	for !bytes.HasSuffix(b, []byte("\r\n.\r\n")) && (len(b) != 3 || string(b) != ".\r\n") {
		c, err := r.ReadByte()
		if err != nil {
			return "", err
		}
		b = append(b, c)
	}
	b = b[:len(b)-3]
	s := strings.ReplaceAll("\r\n"+string(b), "\r\n.", "\r\n")
	return s[2:], nil
}

// fakeVault seals into memory, and is the ledger too.
type fakeVault struct {
	mu        sync.Mutex
	sealed    []escrow.Message
	texts     []string
	bounces   []string // token, from, report
	settled   map[string]escrow.Outcome
	confirmed []string
	pinned    []string

	seal    func(m escrow.Message) error // before anything is done
	bounced error
	ledger  error // of Settled
	settle  error // of Settle
}

func (v *fakeVault) Seal(ctx context.Context, m escrow.Message) ([]string, error) {
	if v.seal != nil {
		if err := v.seal(m); err != nil {
			return nil, err
		}
	}
	body, err := m.Body()
	if err != nil {
		return nil, err
	}
	defer body.Close()
	text, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	var already escrow.RecipientError
	for _, r := range m.Recipients {
		if _, ok := v.settled[ledgerKey(m.Digest, m.Sender, r.Address)]; ok {
			already.Err, already.Recipients = escrow.ErrSettled, append(already.Recipients, r.Address)
		}
	}
	if already.Err != nil {
		return nil, &already
	}
	v.sealed, v.texts = append(v.sealed, m), append(v.texts, string(text))
	for _, r := range m.Recipients {
		v.set(m.Digest, m.Sender, r.Address, escrow.OutcomeSealed)
	}
	return []string{"item1"}, nil
}

func ledgerKey(d escrow.Digest, sender, rcpt string) string {
	return fmt.Sprintf("%x %s %s", d, strings.ToLower(sender), strings.ToLower(rcpt))
}

func (v *fakeVault) set(d escrow.Digest, sender, rcpt string, o escrow.Outcome) {
	if v.settled == nil {
		v.settled = make(map[string]escrow.Outcome)
	}
	v.settled[ledgerKey(d, sender, rcpt)] = o
}

func (v *fakeVault) Settled(ctx context.Context, d escrow.Digest, sender string, rcpts []string) (map[string]escrow.Outcome, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ledger != nil {
		return nil, v.ledger
	}
	found := make(map[string]escrow.Outcome)
	for _, r := range rcpts {
		if o, ok := v.settled[ledgerKey(d, sender, r)]; ok {
			found[r] = o
		}
	}
	return found, nil
}

func (v *fakeVault) Settle(ctx context.Context, d escrow.Digest, sender string, rcpts []string, o escrow.Outcome) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.settle != nil {
		return v.settle
	}
	for _, r := range rcpts {
		v.set(d, sender, r, o)
	}
	return nil
}

func (v *fakeVault) Confirm(ctx context.Context, d escrow.Digest, sender string, rcpts []string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.confirmed = append(v.confirmed, rcpts...)
	return nil
}

func (v *fakeVault) confirms() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.confirmed)
}

func (v *fakeVault) IsBounceAddress(a string) (string, bool) {
	return strings.CutPrefix(a, "postseal-bounce+")
}

func (v *fakeVault) IsReply(a string) bool { return strings.HasPrefix(a, "postseal-bounce+r") }

func (v *fakeVault) Bounced(ctx context.Context, token, from string, r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.bounces = append(v.bounces, token, from, string(b))
	return v.bounced
}

func (v *fakeVault) Mark(r policy.Requirement, sender string) string {
	return r.String() + " genuine-" + sender
}

func (v *fakeVault) VerifyMark(value, sender string) (policy.Requirement, bool) {
	word, mac, _ := strings.Cut(value, " ")
	r, err := policy.ParseRequirement(word)
	return r, err == nil && mac == "genuine-"+sender
}

// deciderFunc decides.
type deciderFunc func(q policy.Question) (policy.Answer, error)

func (f deciderFunc) Decide(ctx context.Context, q policy.Question) (policy.Answer, error) {
	return f(q)
}

// byWord decides by what the local part of the recipient says: plain, own, secure,
// forced, sealed, conflict, blocked, error; and the floor and the content, as Decide
// does. A next-hop follows a dash.
func byWord(q policy.Question) (policy.Answer, error) {
	word, hop, _ := strings.Cut(q.Recipient.Local, "-")
	in := policy.Input{Floor: q.Floor, Content: q.Content, Now: time.Now(), TriedByPostfix: q.TriedByPostfix, Grace: time.Hour}
	rule := &policy.Rule{Scope: policy.ByRecipient, Pattern: q.Recipient.Domain}
	blocked := ""
	switch word {
	case "plain":
	case "own":
		in.Own = true
		rule.Requirement = policy.Encryption
	case "secure", "blocked":
		rule.Requirement = policy.Encryption
		in.Posture.State = policy.Works
		if word == "blocked" {
			blocked = "the road is not SMTP"
		}
	case "forced":
		rule.Requirement = policy.ForcedTLS
	case "sealed":
		rule.Requirement = policy.EscrowOnly
	case "fallback":
		rule.Requirement = policy.Encryption
	case "conflict":
		rule.Requirement = policy.EscrowOnly
		in.Sender = (&policy.Rule{Scope: policy.BySender, Pattern: "s.example", Requirement: policy.ForcedTLS}).Found()
	case "error":
		return policy.Answer{}, errors.New("no rules today")
	case "panic":
		panic("decider")
	}
	in.Recipient = rule.Found()
	if q.Fresh != nil {
		in.Posture = *q.Fresh
	}
	v := policy.Decide(in)
	return policy.Answer{Verdict: v, Input: in, Nexthop: hop, Blocked: blocked}, nil
}

// bed is a server under test with everything around it.
type bed struct {
	t      *testing.T
	cfg    Config
	vault  *fakeVault
	plain  *fakePostfix
	secure *fakePostfix
	forced *fakePostfix
	addr   string
	logged *syncBuffer
	points []string
	mu     sync.Mutex
	stop   func() // and wait
}

type syncBuffer = logtext.Log

func newBed(t *testing.T, chunks bool) *bed {
	t.Helper()
	b := &bed{t: t, vault: &fakeVault{}, logged: &syncBuffer{}}
	b.plain, b.secure, b.forced = newPostfix(t, chunks), newPostfix(t, chunks), newPostfix(t, chunks)
	b.cfg = Config{
		Decider: deciderFunc(byWord), Vault: b.vault, Ledger: b.vault,
		Plain: b.plain.addr, Secure: b.secure.addr, Forced: b.forced.addr,
		MaxMessageSize: 1 << 20, SpoolDir: t.TempDir(), Hostname: "mx.test", RequeueUID: "105", Grace: time.Hour,
		Log: slog.New(slog.NewTextHandler(b.logged, nil)),
		Crash: func(p string) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.points = append(b.points, p)
		},
		Pin: func(r string) {
			b.vault.mu.Lock()
			defer b.vault.mu.Unlock()
			b.vault.pinned = append(b.vault.pinned, r)
		},
	}
	return b
}

func (b *bed) splitter(floor policy.Requirement) *Splitter {
	sp := NewSplitter(b.cfg, floor)
	b.run(sp.Run)
	return sp
}

func (b *bed) run(run func(context.Context, net.Listener) error) {
	b.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	b.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx, ln) }()
	var once sync.Once
	b.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				b.t.Errorf("Run = %v", err)
			}
		})
	}
	b.t.Cleanup(b.stop)
}

// client speaks to the server, by hand.
type client struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
}

func (b *bed) dial() *client {
	b.t.Helper()
	c, err := net.Dial("tcp", b.addr)
	if err != nil {
		b.t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(15 * time.Second))
	cl := &client{b.t, c, bufio.NewReader(c)}
	b.t.Cleanup(func() { c.Close() })
	cl.expect("220")
	return cl
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.c, s); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// reply reads one reply, all its lines.
func (c *client) reply() string {
	c.t.Helper()
	var all string
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			c.t.Fatalf("no reply: %v (got %q)", err, all)
		}
		all += line
		if len(line) < 4 || line[3] != '-' {
			return strings.TrimSuffix(all, "\r\n")
		}
	}
}

func (c *client) expect(prefix string) string {
	c.t.Helper()
	got := c.reply()
	if !strings.HasPrefix(got, prefix) {
		c.t.Fatalf("reply %q, want %s…", got, prefix)
	}
	return got
}

func (c *client) cmd(cmd, prefix string) string {
	c.t.Helper()
	c.send(cmd + "\r\n")
	return c.expect(prefix)
}

// stuffed is a message as DATA carries it, in the simple way.
func stuffed(text string) string {
	s := strings.ReplaceAll("\r\n"+text, "\r\n.", "\r\n..")[2:]
	if !strings.HasSuffix(s, "\r\n") && s != "" {
		s += "\r\n"
	}
	return s + ".\r\n"
}

const receivedLine = "Received: from a (b [192.0.2.1])\r\n\tby mx.test (Postfix) with ESMTPS id 4XYZ123\r\n\tfor <r@x>; Tue, 24 Nov 2026 00:00:00 +0000\r\n"

var plainText = receivedLine + "Subject: hello\r\n\r\ntext\r\n"

// deliver sends one message over LMTP and returns the replies, one for each
// recipient.
func (b *bed) deliver(text string, rcpts ...string) []string {
	b.t.Helper()
	c := b.dial()
	replies := c.deliver(text, rcpts...)
	c.cmd("QUIT", "221")
	c.c.Close()
	return replies
}

func (c *client) deliver(text string, rcpts ...string) []string {
	c.t.Helper()
	c.cmd("LHLO test", "250")
	c.cmd("MAIL FROM:<sender@s.example>", "250")
	for _, r := range rcpts {
		c.cmd("RCPT TO:<"+r+">", "250")
	}
	c.cmd("DATA", "354")
	c.send(stuffed(text))
	var replies []string
	for range rcpts {
		replies = append(replies, c.reply())
	}
	return replies
}

func wantCodes(t *testing.T, replies []string, codes ...string) {
	t.Helper()
	if len(replies) != len(codes) {
		t.Fatalf("%d replies %q, want %d", len(replies), replies, len(codes))
	}
	for i, c := range codes {
		if !strings.HasPrefix(replies[i], c+" ") {
			t.Errorf("reply %d is %q, want %s", i, replies[i], c)
		}
	}
}

// eventually waits for what another goroutine does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}
