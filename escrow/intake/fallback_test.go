package intake

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/policyd/policy"
)

// fakeProber answers by destination.
type fakeProber struct {
	mu    sync.Mutex
	state map[string]policy.Posture
	asked []string
	err   error
}

func (p *fakeProber) Look(ctx context.Context, dest string, demand policy.TLSParams, maxAge time.Duration) (policy.Posture, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, fmt.Sprintf("%s %s %s", dest, demand.Level, maxAge))
	if p.err != nil {
		return policy.Posture{}, p.err
	}
	return p.state[dest], nil
}

func (p *fakeProber) NullMX(ctx context.Context, domain string) bool {
	return strings.HasPrefix(domain, "null")
}

func (p *fakeProber) Answers(ctx context.Context, dest string) bool {
	return !strings.HasPrefix(dest, "silent")
}

func (b *bed) fallback() (*Fallback, *fakeProber) {
	now := time.Now()
	p := &fakeProber{state: map[string]policy.Posture{
		"works.example":     {State: policy.Works},
		"unreach.example":   {State: policy.Unreachable},
		"nx.example":        {State: policy.NoMail},
		"null.example":      {State: policy.NoMail},
		"[nx]":              {State: policy.NoMail},
		"absent.example":    {State: policy.Absent},
		"[absent]":          {State: policy.Absent},
		"broken.example":    {State: policy.Broken},
		"lost.example":      {State: policy.Absent, Lost: now.Add(-time.Minute)},
		"longgone.example":  {State: policy.Absent, Lost: now.Add(-2 * time.Hour)},
		"strange.example":   {State: policy.State(77)},
		"absent.b.example":  {State: policy.Absent},
		"stsgone.example":   {Published: policy.Published{DANE: policy.DANENone, STS: policy.STSFailed}},
		"silent.example":    {Published: policy.Published{DANE: policy.DANENone, STS: policy.STSFailed}},
		"asking.example":    {Published: policy.Published{DANE: policy.DANENone, STS: policy.STSUnknown}},
		"bogus.example":     {Published: policy.Published{DANE: policy.DANEFailed, STS: policy.STSNone}},
		"mismatch.example":  {State: policy.Broken, Published: policy.Published{DANE: policy.DANEFull, STS: policy.STSNone}},
		"secondone.example": {State: policy.Absent},
	}}
	b.cfg.Prober = p
	f := NewFallback(b.cfg)
	b.run(f.Run)
	return f, p
}

func TestFallbackAtRecipient(t *testing.T) {
	tests := []struct{ rcpt, code string }{
		{"fallback@works.example", "451 4.4.1"},
		{"fallback@unreach.example", "451 4.4.1"},
		{"fallback@unknown.example", "451 4.4.3"},
		{"fallback@strange.example", "451 4.4.3"},
		{"fallback@nx.example", "550 5.1.2"},
		{"fallback@null.example", "556 5.1.10"},
		{`"fallback-[nx]"@x.example`, "451 4.4.3"},
		{"fallback@lost.example", "451 4.7.5"},
		{"forced@absent.example", "451 4.7.4"},
		{"forced@works.example", "451 4.7.4"},
		{"conflict@absent.example", "550 5.7.1"},
		{"error@absent.example", "451 4.3.0"},
		{"panic@absent.example", "451 4.3.0"},
		{"\"a\x01\"@absent.example", "553 5.1.3"},
		{"plain@works.example", "451 4.4.1"}, // what arrives here requires encryption
		{"plain@absent.example", "250"},
		{"fallback@absent.example", "250"},
		{"fallback@broken.example", "250"},
		{"fallback@longgone.example", "250"},
		{`"fallback-[absent]"@works.example`, "250"},
		{"sealed@works.example", "250"},
		{"own@own.example", "250"},
	}
	b := newBed(t, true)
	b.fallback()
	c := b.dial()
	c.cmd("EHLO test", "250")
	for _, tt := range tests {
		c.cmd("MAIL FROM:<s@s.example>", "250")
		c.send("RCPT TO:<" + tt.rcpt + ">\r\n")
		if got := c.reply(); !strings.HasPrefix(got, tt.code) {
			t.Errorf("%s: %q, want %s", tt.rcpt, got, tt.code)
		}
		c.cmd("RSET", "250")
	}
}

func TestFallbackSealsNoNotice(t *testing.T) {
	b := newBed(t, true)
	b.fallback()
	c := b.dial()
	c.cmd("EHLO test", "250")
	c.cmd("MAIL FROM:<postseal-bounce+tok@own.example>", "250")
	c.cmd("RCPT TO:<any@absent.example>", "554 5.7.1")
}

func TestFallbackSealsAReply(t *testing.T) {
	b := newBed(t, true)
	b.fallback()
	c := b.dial()
	c.cmd("EHLO test", "250")
	c.cmd("MAIL FROM:<postseal-bounce+reply@own.example>", "250")
	c.cmd("RCPT TO:<any@absent.example>", "250")
}

func TestFallbackLooksAfresh(t *testing.T) {
	b := newBed(t, true)
	_, p := b.fallback()
	c := b.dial()
	c.cmd("EHLO test", "250")
	c.cmd("MAIL FROM:<s@s.example>", "250")
	c.cmd("RCPT TO:<fallback@absent.example>", "250")
	if got := fmt.Sprint(p.asked); got != "[absent.example encrypt 10s]" {
		t.Errorf("asked %s", got)
	}
	p.mu.Lock()
	p.err = errors.New("resolver is down")
	p.mu.Unlock()
	c.cmd("RCPT TO:<fallback@broken.example>", "451 4.4.3")
}

// send sends a message by SMTP to recipients that are all taken.
func (c *client) sendSMTP(text string, rcpts ...string) string {
	c.t.Helper()
	c.cmd("MAIL FROM:<s@s.example>", "250")
	for _, r := range rcpts {
		c.cmd("RCPT TO:<"+r+">", "250")
	}
	c.cmd("DATA", "354")
	c.send(stuffed(text))
	return c.reply()
}

func TestFallbackSealsAllInOneStep(t *testing.T) {
	b := newBed(t, true)
	b.fallback()
	c := b.dial()
	c.cmd("EHLO test", "250")
	c.cmd("MAIL FROM:<s@s.example>", "250")
	c.cmd("RCPT TO:<fallback@absent.example>", "250")
	c.cmd("RCPT TO:<fallback@works.example>", "451 4.4.1")
	c.cmd("RCPT TO:<own@own.example>", "451 4.5.3")
	c.cmd("RCPT TO:<fallback@broken.example>", "250")
	c.cmd("DATA", "354")
	c.send(stuffed(plainText))
	c.expect("250 2.0.0")
	if len(b.vault.sealed) != 1 || len(b.vault.sealed[0].Recipients) != 2 || b.vault.texts[0] != plainText {
		t.Errorf("sealed %+v", b.vault.sealed)
	}
	for _, p := range []*fakePostfix{b.plain, b.secure, b.forced} {
		if m := p.messages(); len(m) != 0 {
			t.Errorf("re-injected %+v", m)
		}
	}
	// Again, since the reply was lost.
	if got := c.sendSMTP(plainText, "fallback@absent.example", "fallback@broken.example"); !strings.HasPrefix(got, "250") {
		t.Error(got)
	}
	// And with one that is new.
	if got := c.sendSMTP(plainText, "fallback@absent.example", "fallback@longgone.example"); !strings.HasPrefix(got, "250") {
		t.Error(got)
	}
	if len(b.vault.sealed) != 2 || len(b.vault.sealed[1].Recipients) != 1 {
		t.Errorf("sealed %+v", b.vault.sealed)
	}
	c.cmd("QUIT", "221")
	c.c.Close()
	eventually(t, "confirmed", func() bool { return len(b.vault.confirms()) >= 3 })
}

func TestFallbackGivesOwnRecipientsBack(t *testing.T) {
	b := newBed(t, true)
	b.fallback()
	c := b.dial()
	c.cmd("EHLO test", "250")
	c.cmd("MAIL FROM:<s@s.example> RET=FULL", "250")
	c.cmd("RCPT TO:<own@own.example> NOTIFY=DELAY", "250")
	c.cmd("RCPT TO:<fallback@absent.example>", "451 4.5.3")
	c.cmd("RCPT TO:<own-2@own.example>", "250")
	c.cmd("DATA", "354")
	c.send(stuffed(plainText))
	c.expect("250 2.0.0")
	m := b.plain.messages()
	if len(m) != 1 || m[0].text != plainText || fmt.Sprint(m[0].rcpts) != "[TO:<own@own.example> NOTIFY=DELAY TO:<own-2@own.example>]" || !strings.Contains(m[0].mail, "RET=HDRS") {
		t.Errorf("re-injected %+v", m)
	}
	if len(b.vault.sealed) != 0 {
		t.Error("sealed")
	}
	// All or none.
	b.plain.refuse = func(cmd string) string {
		if strings.HasPrefix(cmd, "RCPT TO:<own-2") {
			return "450 4.2.0 Later"
		}
		return ""
	}
	if got := c.sendSMTP("Received: x\r\n\r\n", "own@own.example", "own-2@own.example"); !strings.HasPrefix(got, "451") && !strings.HasPrefix(got, "450") {
		t.Error(got)
	}
	if len(b.plain.messages()) != 1 {
		t.Error("re-injected for one of two")
	}
}

func TestFallbackAllOrNone(t *testing.T) {
	for name, tt := range map[string]struct {
		seal func(escrow.Message) error
		text string
	}{
		"vault fails":  {seal: func(escrow.Message) error { return errors.New("disk full") }, text: plainText},
		"vault panics": {seal: func(escrow.Message) error { panic("x") }, text: plainText},
		"no passphrase": {seal: func(m escrow.Message) error {
			if len(m.Recipients) == 2 {
				return &escrow.RecipientError{Recipients: []string{"fallback@broken.example"}, Err: escrow.ErrNoPassphrase}
			}
			return nil
		}, text: plainText},
		"mark demands tls": {text: MarkHeader + ": tls genuine-s@s.example\r\n" + plainText},
		"marks conflict":   {text: MarkHeader + ": tls genuine-s@s.example\r\n" + MarkHeader + ": escrow genuine-s@s.example\r\n" + plainText},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, true)
			b.vault.seal = tt.seal
			b.fallback()
			c := b.dial()
			c.cmd("EHLO test", "250")
			if got := c.sendSMTP(tt.text, "fallback@absent.example", "fallback@broken.example"); !strings.HasPrefix(got, "451 4.") {
				t.Error(got)
			}
			if len(b.vault.sealed) != 0 || len(b.vault.settled) != 0 {
				t.Errorf("sealed %+v", b.vault.sealed)
			}
		})
	}
	t.Run("too many hops", func(t *testing.T) {
		b := newBed(t, true)
		b.fallback()
		c := b.dial()
		c.cmd("EHLO test", "250")
		if got := c.sendSMTP(strings.Repeat(receivedLine, 51)+"\r\n", "fallback@absent.example"); !strings.HasPrefix(got, "554 5.4.6") {
			t.Error(got)
		}
	})
}

func TestFallbackTroubleIsNeverABounce(t *testing.T) {
	for name, deliver := range map[string]func(context.Context, *session, *transaction, *message, []*job) error{
		"plain error": func(context.Context, *session, *transaction, *message, []*job) error { return errors.New("locked") },
		"panic":       func(context.Context, *session, *transaction, *message, []*job) error { panic("oops") },
		"forgotten":   func(context.Context, *session, *transaction, *message, []*job) error { return nil },
		"forgotten, one of two": func(_ context.Context, _ *session, _ *transaction, _ *message, jobs []*job) error {
			jobs[0].end("x", reply(250, "2.0.0", "ok"))
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, true)
			b.cfg.Prober = &fakeProber{state: map[string]policy.Posture{"absent.example": {State: policy.Absent}}}
			f := NewFallback(b.cfg)
			f.deliver = deliver
			b.run(f.Run)
			c := b.dial()
			c.cmd("EHLO test", "250")
			if got := c.sendSMTP(plainText, "fallback@absent.example", "sealed@absent.example"); !strings.HasPrefix(got, "451 4.3.0") {
				t.Error(got)
			}
		})
	}
}

func TestOneWithoutPassphraseDoesNotHoldUpTheOthers(t *testing.T) {
	b := newBed(t, true)
	now := time.Now()
	b.cfg.Now = func() time.Time { return now }
	b.vault.seal = func(m escrow.Message) error {
		for _, r := range m.Recipients {
			if r.Address == "fallback@broken.example" {
				return &escrow.RecipientError{Recipients: []string{r.Address}, Err: escrow.ErrNoPassphrase}
			}
		}
		return nil
	}
	b.fallback()
	c := b.dial()
	c.cmd("EHLO test", "250")
	if got := c.sendSMTP(plainText, "fallback@absent.example", "fallback@broken.example"); !strings.HasPrefix(got, "451") {
		t.Error(got)
	}
	// The next try.
	c.cmd("MAIL FROM:<s@s.example>", "250")
	c.cmd("RCPT TO:<fallback@absent.example>", "250")
	c.cmd("RCPT TO:<Fallback@broken.example>", "451 4.7.0")
	c.cmd("DATA", "354")
	c.send(stuffed(plainText))
	c.expect("250 2.0.0")
	c.cmd("RSET", "250")
	now = now.Add(lackingTime + time.Second)
	c.cmd("MAIL FROM:<s@s.example>", "250")
	c.cmd("RCPT TO:<fallback@broken.example>", "250")
}

func TestBytesStayInTheFallback(t *testing.T) {
	b := newBed(t, true)
	b.fallback()
	c := b.dial()
	c.cmd("EHLO test", "250")
	for name, text := range oddTexts() {
		if got := c.sendSMTP(text, "fallback@absent.example"); !strings.HasPrefix(got, "250") {
			t.Errorf("%s: %s", name, got)
		}
		if got := b.vault.texts[len(b.vault.texts)-1]; got != text {
			t.Errorf("%s: sealed %.60q", name, got)
		}
	}
}

func TestSplitterAndFallbackShareWhatIsInHand(t *testing.T) {
	b := newBed(t, true)
	b.cfg.InHand = new(InHand)
	in, out := make(chan bool), make(chan bool)
	b.vault.seal = func(escrow.Message) error { in <- true; <-out; return nil }
	b.splitter(policy.None)
	first := b.dial()
	done := make(chan []string)
	go func() {
		first.cmd("LHLO test", "250")
		first.cmd("MAIL FROM:<s@s.example>", "250")
		first.cmd("RCPT TO:<sealed@absent.example>", "250")
		first.cmd("DATA", "354")
		first.send(stuffed(plainText))
		done <- []string{first.reply()}
	}()
	<-in
	b.fallback()
	c := b.dial()
	c.cmd("EHLO test", "250")
	if got := c.sendSMTP(plainText, "sealed@absent.example"); !strings.HasPrefix(got, "451 4.3.0") {
		t.Error(got)
	}
	close(out)
	wantCodes(t, <-done, "250 2.0.0")
}

// TestFallbackAndVerifiedTLS: verified TLS that can't be had counts as broken after the
// grace period, if somebody answers; what is only not known waits for ever.
func TestFallbackAndVerifiedTLS(t *testing.T) {
	b := newBed(t, true)
	now := time.Now()
	var mu sync.Mutex
	b.cfg.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	_, p := b.fallback()
	c := b.dial()
	c.cmd("EHLO test", "250")
	c.cmd("MAIL FROM:<s@s.example>", "250")
	c.cmd("RCPT TO:<fallback@mismatch.example>", "250") // looked at, and refused for good
	c.cmd("RSET", "250")
	after := func(d time.Duration, want map[string]string) {
		t.Helper()
		mu.Lock()
		now = now.Add(d)
		mu.Unlock()
		for rcpt, code := range want {
			c.cmd("MAIL FROM:<s@s.example>", "250")
			c.cmd("RCPT TO:<"+rcpt+">", code)
			c.cmd("RSET", "250")
		}
	}
	waits := map[string]string{
		"fallback@stsgone.example": "451 4.7.5", "fallback@silent.example": "451 4.7.5",
		"fallback@asking.example": "451 4.7.5", "fallback@bogus.example": "451 4.4.3", "forced@stsgone.example": "451 4.7.4",
	}
	after(0, waits)
	after(b.cfg.Grace-time.Second, waits)
	waits["fallback@stsgone.example"] = "250"
	after(2*time.Second, waits)
	// The policy is there again, and gone once more: the time starts anew.
	gone := p.state["stsgone.example"]
	p.mu.Lock()
	p.state["stsgone.example"] = policy.Posture{State: policy.Works}
	p.mu.Unlock()
	after(0, map[string]string{"fallback@stsgone.example": "451 4.4.1"})
	p.mu.Lock()
	p.state["stsgone.example"] = gone
	p.mu.Unlock()
	after(b.cfg.Grace, map[string]string{"fallback@stsgone.example": "451 4.7.5"})
}
