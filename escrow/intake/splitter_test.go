package intake

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/policyd/policy"
)

func TestEachRecipientGoesItsWay(t *testing.T) {
	b := newBed(t, true)
	b.splitter(policy.None)
	got := b.deliver(plainText, "plain@x.example", "own@own.example", "secure@x.example", `"secure-[relay]:25"@y.example`,
		`"secure-[relay]:25"@z.example`, "forced@x.example", "sealed@x.example", "sealed@y.example", "conflict@x.example", "blocked@x.example", "error@x.example")
	wantCodes(t, got, "250 2.0.0", "250 2.0.0", "250 2.0.0", "250 2.0.0", "250 2.0.0", "250 2.0.0", "250 2.0.0", "250 2.0.0", "554 5.7.1", "451 4.7.1", "451 4.3.0")
	if !strings.Contains(got[8], "recipient rule x.example (escrow)") || !strings.Contains(got[8], "sender rule s.example (tls)") {
		t.Errorf("conflict does not name its rules: %q", got[8])
	}
	rcpts := func(p *fakePostfix) (all [][]string) {
		for _, m := range p.messages() {
			all = append(all, m.rcpts)
			if m.text != plainText {
				t.Errorf("text changed: %q", m.text)
			}
		}
		return all
	}
	want := map[*fakePostfix]string{
		b.plain:  "[[TO:<plain@x.example> TO:<own@own.example>]]",
		b.secure: `[[TO:<secure@x.example>] [TO:<"secure-[relay]:25"@y.example> TO:<"secure-[relay]:25"@z.example>]]`,
		b.forced: "[[TO:<forced@x.example>]]",
	}
	for p, w := range want {
		if g := fmt.Sprint(rcpts(p)); g != w {
			t.Errorf("got %s, want %s", g, w)
		}
	}
	if len(b.vault.sealed) != 1 || len(b.vault.sealed[0].Recipients) != 2 || b.vault.texts[0] != plainText {
		t.Errorf("sealed: %+v", b.vault.sealed)
	}
	if q := b.vault.sealed[0].QueueID; q != "4XYZ123" {
		t.Errorf("queue id %q", q)
	}
	if !slices.Equal(b.vault.pinned, []string{"sealed@x.example", "sealed@y.example"}) {
		t.Errorf("pinned: %q", b.vault.pinned)
	}
}

func TestFloorOfThePortHolds(t *testing.T) {
	for floor, want := range map[policy.Requirement]string{
		policy.None: "plain", policy.Encryption: "secure", policy.ForcedTLS: "forced", policy.EscrowOnly: "sealed",
	} {
		t.Run(floor.String(), func(t *testing.T) {
			b := newBed(t, false)
			b.splitter(floor)
			wantCodes(t, b.deliver(plainText, "plain@x.example"), "250 2.0.0")
			got := map[string]int{"plain": len(b.plain.messages()), "secure": len(b.secure.messages()), "forced": len(b.forced.messages()), "sealed": len(b.vault.sealed)}
			for way, n := range got {
				if n != 0 && way != want || n != 1 && way == want {
					t.Errorf("went %v, want %s", got, want)
				}
			}
		})
	}
}

// Odd texts that must come out as they went in.
func oddTexts() map[string]string {
	head := receivedLine + "Subject: odd\r\n\r\n"
	return map[string]string{
		"a line of 5000 bytes":        head + strings.Repeat("x", 5000) + "\r\n",
		"a line of 100000 bytes":      head + strings.Repeat("y", 100000) + "\r\n",
		"dots":                        head + ".\r\n..\r\n.x\r\n. \r\nx.\r\n.\r\n",
		"dot first in the message":    ".\r\n.\r\n",
		"NUL":                         head + "a\x00b\x00\r\n",
		"bare CR":                     head + "a\rb\r\r\n.after CR CR LF\r\n",
		"last line ends with CR":      head + "a\r\r\n",
		"bare LF":                     head + "a\nb\n.c\n.\nd\r\n",
		"bare CR before a dot":        head + "a\r.\r\n",
		"8 bit":                       head + "\xff\xfe\x80\r\n",
		"spooled to disk":             head + strings.Repeat("0123456789abcdef\r\n.", 20000) + "\r\n",
		"empty lines":                 head + "\r\n\r\n\r\n",
		"dot CR":                      head + ".\rx\r\n",
		"empty":                       "",
		"header only":                 "Subject: a\r\n",
		"multiples of the chunk size": head + strings.Repeat("z", 262144-len(head)-2) + "\r\n",
	}
}

func TestBytesStayAsTheyAre(t *testing.T) {
	texts := oddTexts()
	for _, out := range []bool{false, true} {
		for _, in := range []string{"DATA", "BDAT", "BDAT in pieces"} {
			t.Run(fmt.Sprintf("in by %s, out by chunks %v", in, out), func(t *testing.T) {
				b := newBed(t, out)
				b.splitter(policy.None)
				c := b.dial()
				c.cmd("LHLO test", "250")
				for name, text := range texts {
					c.cmd("MAIL FROM:<s@s.example> BODY=8BITMIME", "250")
					c.cmd("RCPT TO:<secure@x.example>", "250")
					c.cmd("RCPT TO:<sealed@x.example>", "250")
					switch in {
					case "DATA":
						c.cmd("DATA", "354")
						c.send(stuffed(text))
					case "BDAT":
						c.send(fmt.Sprintf("BDAT %d LAST\r\n%s", len(text), text))
					default:
						half := len(text) / 2
						c.send(fmt.Sprintf("BDAT %d\r\n%s", half, text[:half]))
						c.expect("250")
						c.send(fmt.Sprintf("BDAT %d\r\n%s", len(text)-half, text[half:]))
						c.expect("250")
						c.send("BDAT 0 LAST\r\n")
					}
					c.expect("250 2.0.0")
					c.expect("250 2.0.0")
					back, sealed := b.secure.messages(), b.vault.texts
					if g := back[len(back)-1].text; g != text {
						t.Errorf("%s: re-injected %d bytes, want %d: %.80q", name, len(g), len(text), g)
					}
					if g := sealed[len(sealed)-1]; g != text {
						t.Errorf("%s: sealed %d bytes, want %d: %.80q", name, len(g), len(text), g)
					}
				}
			})
		}
	}
}

func TestNoFinalNewline(t *testing.T) {
	const text = "Subject: a\r\n\r\nno end"
	for _, chunks := range []bool{true, false} {
		b := newBed(t, chunks)
		b.splitter(policy.None)
		c := b.dial()
		c.cmd("LHLO test", "250")
		c.cmd("MAIL FROM:<s@s.example>", "250")
		c.cmd("RCPT TO:<sealed@x.example>", "250")
		c.cmd("RCPT TO:<plain@x.example>", "250")
		c.send(fmt.Sprintf("BDAT %d LAST\r\n%s", len(text), text))
		c.expect("250")
		c.expect("250")
		if b.vault.texts[0] != text {
			t.Errorf("sealed %q", b.vault.texts[0])
		}
		want := text
		if !chunks {
			want += "\r\n" // DATA can't do without
		}
		if g := b.plain.messages()[0].text; g != want {
			t.Errorf("re-injected %q, want %q", g, want)
		}
	}
}

func TestTroubleIsNeverABounce(t *testing.T) {
	for name, deliver := range map[string]func(context.Context, *session, *transaction, *message, []*job) error{
		"plain error": func(context.Context, *session, *transaction, *message, []*job) error {
			return errors.New("database is locked")
		},
		"panic":               func(context.Context, *session, *transaction, *message, []*job) error { panic("oops") },
		"forgotten recipient": func(context.Context, *session, *transaction, *message, []*job) error { return nil },
		"bad code": func(_ context.Context, _ *session, _ *transaction, _ *message, jobs []*job) error {
			return reply(354, "", "go on")
		},
	} {
		for _, bdat := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, bdat %v", name, bdat), func(t *testing.T) {
				b := newBed(t, false)
				sp := NewSplitter(b.cfg, policy.None)
				sp.deliver = deliver
				b.run(sp.Run)
				c := b.dial()
				c.cmd("LHLO test", "250")
				c.cmd("MAIL FROM:<s@s.example>", "250")
				c.cmd("RCPT TO:<plain@x.example>", "250")
				c.cmd("RCPT TO:<sealed@x.example>", "250")
				if bdat {
					c.send(fmt.Sprintf("BDAT %d LAST\r\n%s", len(plainText), plainText))
				} else {
					c.cmd("DATA", "354")
					c.send(stuffed(plainText))
				}
				c.expect("451 4.")
				c.expect("451 4.")
				if s := c.cmd("NOOP", "250"); strings.Contains(s, "locked") {
					t.Error("the error went out")
				}
			})
		}
	}
	t.Run("decider panics for one", func(t *testing.T) {
		b := newBed(t, false)
		b.splitter(policy.None)
		wantCodes(t, b.deliver(plainText, "plain@x.example", "panic@x.example"), "451 4.3.0", "451 4.3.0")
		if len(b.plain.messages()) != 0 {
			t.Error("re-injected before all was decided")
		}
		if !strings.Contains(b.logged.String(), "level=ERROR") {
			t.Error("no error logged")
		}
		// Nothing is left in hand.
		wantCodes(t, b.deliver(plainText, "plain@x.example"), "250 2.0.0")
	})
	t.Run("vault panics", func(t *testing.T) {
		b := newBed(t, false)
		b.vault.seal = func(escrow.Message) error { panic("vault") }
		b.splitter(policy.None)
		wantCodes(t, b.deliver(plainText, "sealed@x.example", "plain@x.example"), "451 4.3.0", "451 4.3.0")
	})
	t.Run("vault fails", func(t *testing.T) {
		b := newBed(t, false)
		b.vault.seal = func(escrow.Message) error { return errors.New("disk full") }
		b.splitter(policy.None)
		wantCodes(t, b.deliver(plainText, "sealed@x.example", "plain@x.example"), "451 4.3.0", "250 2.0.0")
	})
	t.Run("ledger can't be read", func(t *testing.T) {
		b := newBed(t, false)
		b.vault.ledger = errors.New("locked")
		b.splitter(policy.None)
		wantCodes(t, b.deliver(plainText, "plain@x.example"), "451 4.3.0")
		if len(b.plain.messages()) != 0 {
			t.Error("re-injected without knowing whether it was before")
		}
	})
	t.Run("no room to spool", func(t *testing.T) {
		b := newBed(t, false)
		b.cfg.SpoolDir = "/nonexistent"
		b.splitter(policy.None)
		wantCodes(t, b.deliver(plainText+strings.Repeat("x", 300<<10), "plain@x.example"), "452 4.3.1")
	})
}

func TestARetryDoesNothingTwice(t *testing.T) {
	b := newBed(t, true)
	b.splitter(policy.None)
	for range 3 {
		wantCodes(t, b.deliver(plainText, "plain@x.example", "sealed@x.example"), "250 2.0.0", "250 2.0.0")
	}
	// A requeue puts a Received field on top.
	requeued := "Received: by mx.test (Postfix, from userid 105)\r\n\tid 4NEW; Tue, 24 Nov 2026 01:00:00 +0000\r\n" + plainText
	wantCodes(t, b.deliver(requeued, "plain@x.example", "sealed@x.example"), "250 2.0.0", "250 2.0.0")
	if p, s := len(b.plain.messages()), len(b.vault.sealed); p != 1 || s != 1 {
		t.Errorf("re-injected %d times, sealed %d times", p, s)
	}
	// The same text, submitted anew, is another message.
	again := strings.Replace(plainText, "4XYZ123", "4XYZ124", 1)
	wantCodes(t, b.deliver(again, "plain@x.example", "sealed@x.example"), "250 2.0.0", "250 2.0.0")
	if p, s := len(b.plain.messages()), len(b.vault.sealed); p != 2 || s != 2 {
		t.Errorf("a second submission: re-injected %d times, sealed %d times", p, s)
	}
}

func TestSubmissionsWithoutReceivedAreToldApartByTheQueueID(t *testing.T) {
	const text = "Subject: cron\r\n\r\nok\r\n"
	b := newBed(t, true)
	b.splitter(policy.None)
	c := b.dial()
	if !strings.Contains(c.cmd("LHLO test", "250"), "250-XFORWARD IDENT\r\n") {
		t.Fatal("XFORWARD is not announced")
	}
	for i, id := range []string{"4AAAA1", "4AAAA1", "4AAAA2"} {
		c.cmd("XFORWARD IDENT="+id, "250")
		c.cmd("MAIL FROM:<s@s.example>", "250")
		c.cmd("RCPT TO:<plain@x.example>", "250")
		c.cmd("DATA", "354")
		c.send(stuffed(text))
		c.expect("250 2.0.0")
		if n, want := len(b.plain.messages()), []int{1, 1, 2}[i]; n != want {
			t.Errorf("after %s: re-injected %d times, want %d", id, n, want)
		}
	}
	if cmds := b.plain.commands(); !slices.Contains(cmds, "XFORWARD IDENT=4AAAA2") {
		t.Errorf("queue id not passed on: %q", cmds)
	}
}

func TestSealingThatIsSettledForSomeOnly(t *testing.T) {
	// The vault says of all that they are settled, where only one is.
	b := newBed(t, true)
	first := true
	b.vault.seal = func(m escrow.Message) error {
		if !first {
			return nil
		}
		first = false
		b.vault.mu.Lock()
		defer b.vault.mu.Unlock()
		b.vault.set(m.Digest, m.Sender, "sealed@x.example", escrow.OutcomeSealed)
		return &escrow.RecipientError{Recipients: []string{"sealed@x.example", "sealed@y.example"}, Err: escrow.ErrSettled}
	}
	b.splitter(policy.None)
	wantCodes(t, b.deliver(plainText, "sealed@x.example", "sealed@y.example"), "250 2.0.0", "250 2.0.0")
	if len(b.vault.sealed) != 1 || len(b.vault.sealed[0].Recipients) != 1 || b.vault.sealed[0].Recipients[0].Address != "sealed@y.example" {
		t.Errorf("sealed: %+v", b.vault.sealed)
	}
}

func TestNoPassphraseConcernsOneRecipient(t *testing.T) {
	b := newBed(t, true)
	b.vault.seal = func(m escrow.Message) error {
		if len(m.Recipients) > 1 {
			return &escrow.RecipientError{Recipients: []string{"sealed@x.example"}, Err: escrow.ErrNoPassphrase}
		}
		return nil
	}
	b.splitter(policy.None)
	wantCodes(t, b.deliver(plainText, "sealed@x.example", "sealed@y.example"), "451 4.7.0", "250 2.0.0")
	if !strings.Contains(b.logged.String(), "passphrase") {
		t.Error("nobody is told")
	}
}

// A quota that is used up is a matter of time: the message waits, and nobody gets it by
// another way.
func TestAQuotaDefersWhatWouldBeSealed(t *testing.T) {
	for want, full := range map[string]*escrow.QuotaError{
		"452 4.2.2": {Domain: "s.example", Used: 90, Needs: 20, Quota: 100},
		"452 4.3.1": {Total: true, Used: 90, Needs: 20, Quota: 100},
	} {
		b := newBed(t, true)
		b.vault.seal = func(escrow.Message) error { return fmt.Errorf("seal: %w", full) }
		b.splitter(policy.None)
		got := b.deliver(plainText, "sealed@x.example", "plain@y.example")
		wantCodes(t, got, want, "250 2.0.0")
		if !strings.Contains(got[0], full.Of()+" is full") {
			t.Errorf("does not say whose quota: %s", got[0])
		}
		if len(b.vault.sealed) != 0 || !strings.Contains(b.logged.String(), "a quota is used up") {
			t.Errorf("sealed %d, or nobody is told", len(b.vault.sealed))
		}

		f := newBed(t, true)
		f.vault.seal = b.vault.seal
		f.fallback()
		c := f.dial()
		c.cmd("EHLO test", "250")
		if got := c.sendSMTP(plainText, "fallback@absent.example", "fallback@broken.example"); !strings.HasPrefix(got, want) {
			t.Errorf("fallback: %s", got)
		}
		if len(f.vault.sealed) != 0 || len(f.vault.settled) != 0 {
			t.Errorf("fallback: sealed %+v", f.vault.sealed)
		}
	}
}

func TestMarksAndSubjects(t *testing.T) {
	subjects, err := policy.NewTriggers([]string{"[secure]"}, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	mark := func(v string) string { return MarkHeader + ": " + v + "\r\n" + plainText }
	tests := []struct {
		name  string
		floor policy.Requirement
		text  string
		rcpt  string
		code  string
		way   string
	}{
		{"no mark", policy.None, plainText, "plain@x.example", "250 2.0.0", "plain"},
		{"genuine mark", policy.None, mark("encryption genuine-sender@s.example"), "plain@x.example", "250 2.0.0", "secure"},
		{"folded mark", policy.None, mark("tls\r\n\tgenuine-sender@s.example"), "plain@x.example", "250 2.0.0", "forced"},
		{"forged mark", policy.None, mark("escrow forged"), "plain@x.example", "250 2.0.0", "plain"},
		{"mark of another sender", policy.None, mark("escrow genuine-other@s.example"), "plain@x.example", "250 2.0.0", "plain"},
		{"mark in the body", policy.None, plainText + MarkHeader + ": escrow genuine-sender@s.example\r\n", "plain@x.example", "250 2.0.0", "plain"},
		{"mark narrows the port", policy.Encryption, mark("escrow genuine-sender@s.example"), "plain@x.example", "250 2.0.0", "sealed"},
		{"mark and port exclude each other", policy.EscrowOnly, mark("tls genuine-sender@s.example"), "plain@x.example", "554 5.7.1", ""},
		{"the same for an own recipient", policy.EscrowOnly, mark("tls genuine-sender@s.example"), "own@own.example", "250 2.0.0", "plain"},
		{"marks exclude each other", policy.None, mark("tls genuine-sender@s.example\r\n" + MarkHeader + ": escrow genuine-sender@s.example"), "plain@x.example", "554 5.7.1", ""},
		{"subject", policy.None, strings.Replace(plainText, "hello", "[Secure] hello", 1), "plain@x.example", "250 2.0.0", "secure"},
		{"second subject", policy.None, "Subject: x\r\nsubject : a [secure]\r\n" + plainText, "plain@x.example", "250 2.0.0", "secure"},
		{"encoded subject", policy.None, strings.Replace(plainText, "hello", "=?utf-8?B?W3NlY3VyZV0=?=", 1), "plain@x.example", "250 2.0.0", "secure"},
		{"subject behind a line that is none", policy.None, "not a field\r\nSubject: [secure]\r\n\r\nx\r\n", "plain@x.example", "250 2.0.0", "secure"},
		{"subject in the body", policy.None, plainText + "Subject: [secure]\r\n", "plain@x.example", "250 2.0.0", "plain"},
		{"routed own recipient", policy.None, plainText, `"own%evil.example"@own.example`, "554 5.7.1", ""},
		{"51 hops", policy.None, strings.Repeat(receivedLine, 51) + "\r\n", "plain@x.example", "554 5.4.6", ""},
		{"50 hops", policy.None, strings.Repeat(receivedLine, 50) + "\r\n", "plain@x.example", "250 2.0.0", "plain"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBed(t, true)
			b.cfg.Triggers = func() *policy.Triggers { return subjects }
			b.cfg.Decider = deciderFunc(func(q policy.Question) (policy.Answer, error) {
				if q.Recipient.Routed() {
					q.Recipient.Local = "own"
				}
				return byWord(q)
			})
			b.splitter(tt.floor)
			wantCodes(t, b.deliver(tt.text, tt.rcpt), tt.code)
			got := map[string]int{"plain": len(b.plain.messages()), "secure": len(b.secure.messages()), "forced": len(b.forced.messages()), "sealed": len(b.vault.sealed)}
			for way, n := range got {
				if want := way == tt.way; (n > 0) != want {
					t.Errorf("went %v, want %s", got, tt.way)
				}
			}
		})
	}
}

// TestRequireTLS: a message that was sent with REQUIRETLS requires encryption, and goes
// over TLS only where that is verified; the field stays, for Postfix to demand the rest.
func TestRequireTLS(t *testing.T) {
	with := func(v string) string { return RequireTLSHeader + ": " + v + "\r\n" + plainText }
	for _, tt := range []struct {
		name, text, rcpt, code, way string
		state                       policy.State
	}{
		{"verified", with("yes"), "plain@x.example", "250 2.0.0", "secure", policy.Works},
		{"in capitals", with("YES "), "plain@x.example", "250 2.0.0", "secure", policy.Works},
		{"not verified", with("yes"), "plain@x.example", "250 2.0.0", "sealed", policy.Broken},
		{"no TLS", with("yes"), "plain@x.example", "250 2.0.0", "sealed", policy.Absent},
		{"not known", with("yes"), "plain@x.example", "451 4.7.30", "", policy.Unknown},
		{"silent", with("yes"), "plain@x.example", "451 4.7.30", "", policy.Unreachable},
		{"forced and verified", with("yes"), "forced@x.example", "250 2.0.0", "forced", policy.Works},
		{"forced, not verified", with("yes"), "forced@x.example", "451 4.7.30", "", policy.Broken},
		{"always the escrow", with("yes"), "sealed@x.example", "250 2.0.0", "sealed", policy.Works},
		{"own", with("yes"), "own@own.example", "250 2.0.0", "plain", policy.Broken},
		{"no", with("no"), "plain@x.example", "250 2.0.0", "plain", policy.Broken},
		{"in the body", plainText + RequireTLSHeader + ": yes\r\n", "plain@x.example", "250 2.0.0", "plain", policy.Broken},
		{"TLS-Required: No", "TLS-Required: No\r\n" + plainText, "secure@x.example", "250 2.0.0", "secure", policy.Works},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBed(t, true)
			prober := &fakeProber{state: map[string]policy.Posture{"x.example": {State: tt.state}}}
			b.cfg.Prober = prober
			b.splitter(policy.None)
			wantCodes(t, b.deliver(tt.text, tt.rcpt), tt.code)
			got := map[string]int{"plain": len(b.plain.messages()), "secure": len(b.secure.messages()), "forced": len(b.forced.messages()), "sealed": len(b.vault.sealed)}
			for way, n := range got {
				if want := way == tt.way; (n > 0) != want {
					t.Errorf("went %v, want %q", got, tt.way)
				}
			}
			for _, m := range append(b.secure.messages(), b.forced.messages()...) {
				if m.text != tt.text {
					t.Errorf("the message was changed: %q", m.text)
				}
			}
			for _, a := range prober.asked {
				if a != "x.example secure 10m0s" {
					t.Errorf("asked %s", a)
				}
			}
		})
	}
}

// publisher is a destination whose hosts are verified by what it publishes, under names
// of their own.
type publisher struct{ policy.Published }

func (p publisher) Look(_ context.Context, _ string, demand policy.TLSParams, _ time.Duration) (policy.Posture, error) {
	if demand.Level == policy.LevelSecure {
		return policy.Posture{State: policy.Unknown, Published: p.Published}, nil
	}
	return policy.Posture{State: policy.Works, Published: p.Published}, nil
}

// TestRequireTLSByWhatIsPublished: DANE and MTA-STS verify a host under its own name; mail
// with REQUIRETLS does not wait for a certificate of the recipient's domain.
func TestRequireTLSByWhatIsPublished(t *testing.T) {
	for _, tt := range []struct {
		published policy.Published
		code      string
	}{
		{policy.Published{DANE: policy.DANEFull}, "250 2.0.0"},
		{policy.Published{DANE: policy.DANENone, STS: policy.STSEnforce, STSMatch: []string{"mx.hoster.example"}}, "250 2.0.0"},
		{policy.Published{DANE: policy.DANEUnusable}, "451 4.7.30"},
		{policy.Published{DANE: policy.DANENone, STS: policy.STSTesting}, "451 4.7.30"},
	} {
		b := newBed(t, true)
		b.cfg.Prober = publisher{tt.published}
		b.splitter(policy.None)
		wantCodes(t, b.deliver(RequireTLSHeader+": yes\r\n"+plainText, "plain@x.example"), tt.code)
		if n := len(b.secure.messages()); (n == 1) != (tt.code[0] == '2') {
			t.Errorf("%+v: %d messages by mandatory TLS", tt.published, n)
		}
	}
}

// A notice is never sealed: the notice of that would come here too, for ever.
func TestANoticeIsNotSealed(t *testing.T) {
	b := newBed(t, true)
	b.splitter(policy.None)
	c := b.dial()
	c.cmd("LHLO test", "250")
	c.cmd("MAIL FROM:<postseal-bounce+tok@own.example>", "250")
	for _, to := range []string{"sealed@x.example", "secure@x.example", "own@own.example"} {
		c.cmd("RCPT TO:<"+to+">", "250")
	}
	c.cmd("DATA", "354")
	c.send(stuffed(plainText))
	c.expect("554 5.7.1")
	c.expect("250")
	c.expect("250")
	if len(b.vault.sealed) != 0 {
		t.Errorf("sealed %+v", b.vault.sealed)
	}
}

// A reply is, though its envelope sender looks like that of a notice.
func TestAReplyIsSealed(t *testing.T) {
	b := newBed(t, true)
	b.splitter(policy.Encryption)
	c := b.dial()
	c.cmd("LHLO test", "250")
	c.cmd("MAIL FROM:<postseal-bounce+reply@own.example>", "250")
	c.cmd("RCPT TO:<sealed@x.example>", "250")
	c.cmd("DATA", "354")
	c.send(stuffed(plainText))
	c.expect("250")
	if len(b.vault.sealed) != 1 || b.vault.sealed[0].Sender != "postseal-bounce+reply@own.example" {
		t.Errorf("sealed %+v", b.vault.sealed)
	}
}

func TestBouncesOfNotices(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		code string
	}{"fine": {nil, "250 2.0.0"}, "gone": {escrow.ErrUnknown, "250 2.0.0"}, "nobody's": {escrow.ErrNoMailbox, "550 5.1.1"}, "trouble": {errors.New("locked"), "451 4.3.0"}} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, true)
			b.vault.bounced = tt.err
			b.splitter(policy.Encryption)
			c := b.dial()
			c.cmd("LHLO test", "250")
			c.cmd("MAIL FROM:<>", "250")
			c.cmd("RCPT TO:<postseal-bounce+tok@own.example>", "250")
			c.cmd("RCPT TO:<secure@x.example>", "250")
			c.cmd("DATA", "354")
			c.send(stuffed(plainText))
			c.expect(tt.code)
			c.expect("250")
			if !slices.Equal(b.vault.bounces, []string{"tok@own.example", "", plainText}) {
				t.Errorf("bounced %q", b.vault.bounces)
			}
			if m := b.secure.messages(); len(m) != 1 || !strings.HasPrefix(m[0].mail, "FROM:<> ") {
				t.Errorf("re-injected %+v", m)
			}
		})
	}
}

func TestEnvelopeTravelsOn(t *testing.T) {
	tests := []struct {
		name, mail, rcpt   string
		wantMail, wantRcpt string
	}{
		{"plain", "MAIL FROM:<s@s.example>", "RCPT TO:<plain@x.example>",
			"FROM:<s@s.example> SIZE=# RET=HDRS", "TO:<plain@x.example>"},
		{"everything", "MAIL FROM:<s@s.example> SIZE=10 BODY=8BITMIME SMTPUTF8 RET=FULL ENVID=a+2Bb+20c", "RCPT TO:<plain@x.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;o+2B1@x.example",
			"FROM:<s@s.example> SIZE=# BODY=8BITMIME SMTPUTF8 RET=FULL ENVID=a+2Bb+20c", "TO:<plain@x.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;o+2B1@x.example"},
		{"a bounce of required mail carries no text", "MAIL FROM:<s@s.example> RET=FULL", "RCPT TO:<secure@x.example> NOTIFY=NEVER",
			"FROM:<s@s.example> SIZE=# RET=HDRS", "TO:<secure@x.example> NOTIFY=NEVER"},
		{"required, own recipient", "MAIL FROM:<s@s.example> RET=FULL", "RCPT TO:<own@x.example>",
			"FROM:<s@s.example> SIZE=# RET=HDRS", "TO:<own@x.example>"},
		{"null sender", "MAIL FROM:<>", "RCPT TO:<plain@x.example>", "FROM:<> SIZE=# RET=HDRS", "TO:<plain@x.example>"},
		{"ORCPT of another type", "MAIL FROM:<s@s.example>", "RCPT TO:<plain@x.example> ORCPT=x400;c+3Dus NOTIFY=DELAY",
			"FROM:<s@s.example> SIZE=# RET=HDRS", "TO:<plain@x.example> NOTIFY=DELAY ORCPT=x400;c+3Dus"},
		{"ORCPT with octets above 127", "MAIL FROM:<s@s.example>", "RCPT TO:<plain@x.example> ORCPT=rfc822;+C3+BC@x.example",
			"FROM:<s@s.example> SIZE=# RET=HDRS", "TO:<plain@x.example> ORCPT=rfc822;+C3+BC@x.example"},
		{"broken ORCPT", "MAIL FROM:<s@s.example>", "RCPT TO:<plain@x.example> ORCPT=rfc822;+G0 NOTIFY=NEVER",
			"FROM:<s@s.example> SIZE=# RET=HDRS", "TO:<plain@x.example> NOTIFY=NEVER"},
		{"UTF-8", "MAIL FROM:<jürgen@s.example> SMTPUTF8", "RCPT TO:<plain-ü@bücher.example> ORCPT=utf-8;ü@x.example",
			"FROM:<jürgen@s.example> SIZE=# SMTPUTF8 RET=HDRS", "TO:<plain-ü@xn--bcher-kva.example> ORCPT=utf-8;ü@x.example"},
		{"quoted local parts", `MAIL FROM:<"a b"@s.example>`, `RCPT TO:<"plain-\"\\ x"@x.example>`,
			`FROM:<"a b"@s.example> SIZE=# RET=HDRS`, `TO:<"plain-\"\\ x"@x.example>`},
		{"local part that breaks out", "MAIL FROM:<s@s.example>", `RCPT TO:<"plain-@evil.example> NOTIFY=NEVER X="@own.example> NOTIFY=DELAY`,
			"FROM:<s@s.example> SIZE=# RET=HDRS", `TO:<"plain-@evil.example> NOTIFY=NEVER X="@own.example> NOTIFY=DELAY`},
		{"ORCPT inside of a local part", "MAIL FROM:<s@s.example>", `RCPT TO:<"plain-> ORCPT=rfc822;a"@own.example> ORCPT=rfc822;b@x`,
			"FROM:<s@s.example> SIZE=# RET=HDRS", `TO:<"plain-> ORCPT=rfc822;a"@own.example> ORCPT=rfc822;b@x`},
		{"source route", "MAIL FROM:<s@s.example>", "RCPT TO:<@a.example,@b.example:plain@x.example> ORCPT=rfc822;b@x",
			"FROM:<s@s.example> SIZE=# RET=HDRS", "TO:<plain@x.example> ORCPT=rfc822;b@x"},
	}
	for _, chunks := range []bool{true, false} {
		b := newBed(t, chunks)
		b.splitter(policy.None)
		c := b.dial()
		c.cmd("LHLO test", "250")
		for i, tt := range tests {
			c.cmd(tt.mail, "250")
			c.cmd(tt.rcpt, "250")
			c.cmd("DATA", "354")
			text := fmt.Sprintf("Received: %d\r\n%s", i, plainText)
			c.send(stuffed(text))
			c.expect("250")
			all := append(b.plain.messages(), b.secure.messages()...)
			var m mailed
			for _, x := range all {
				if x.text == text {
					m = x
				}
			}
			if want := strings.ReplaceAll(tt.wantMail, "#", fmt.Sprint(len(text))); m.mail != want {
				t.Errorf("%s: MAIL %s, want %s", tt.name, m.mail, want)
			}
			if len(m.rcpts) != 1 || m.rcpts[0] != tt.wantRcpt {
				t.Errorf("%s: RCPT %s, want %s", tt.name, m.rcpts, tt.wantRcpt)
			}
		}
	}
}

func TestOriginalRecipientIsAskedFor(t *testing.T) {
	b := newBed(t, true)
	var asked []policy.Question
	b.cfg.Decider = deciderFunc(func(q policy.Question) (policy.Answer, error) {
		asked = append(asked, q)
		return byWord(q)
	})
	b.splitter(policy.ForcedTLS)
	c := b.dial()
	c.cmd("LHLO test", "250")
	c.cmd("MAIL FROM:<S@s.example>", "250")
	c.cmd("RCPT TO:<plain@x.example> ORCPT=rfc822;Joe+2Bx@Clinic.example", "250")
	c.cmd("DATA", "354")
	c.send(stuffed(plainText))
	c.expect("250")
	if len(asked) != 1 || asked[0].Original != (policy.Address{Local: "Joe+x", Domain: "clinic.example"}) || asked[0].Floor != policy.ForcedTLS || asked[0].Sender.Local != "S" {
		t.Errorf("asked %+v", asked)
	}
}

func TestBadAddressesAreRefused(t *testing.T) {
	b := newBed(t, true)
	b.splitter(policy.None)
	c := b.dial()
	c.cmd("LHLO test", "250")
	c.cmd("MAIL FROM:<s@s.example>", "250")
	c.cmd("RCPT TO:<\"a\x01b\"@x.example>", "553 5.1.3")
	c.cmd(`RCPT TO:<a@x"y.example>`, "553 5.1.3")
	c.cmd("RCPT TO:<a@x,y.example>", "553 5.1.3")
	c.cmd("RCPT TO:<"+strings.Repeat("a", 1900)+"@x.example>", "553 5.1.3")
	c.cmd("RSET", "250")
	c.cmd("MAIL FROM:<\"a\x7f\"@x.example>", "553 5.1.7")
}

func TestWhatPostfixAnswersToReinjection(t *testing.T) {
	on := func(prefix, reply string) func(string) string {
		return func(cmd string) string {
			if strings.HasPrefix(cmd, prefix) {
				return reply
			}
			return ""
		}
	}
	tests := []struct {
		name    string
		refuse  func(string) string
		codes   [2]string
		alarm   bool
		settled int
	}{
		{"one recipient deferred", on("RCPT TO:<plain@y", "450 4.2.0 Later"), [2]string{"250 2.0.0", "450 4.2.0"}, false, 1},
		{"one recipient refused", on("RCPT TO:<plain@y", "550 5.1.1 Unknown"), [2]string{"250 2.0.0", "451 4.3.5"}, true, 1},
		{"all recipients refused", on("RCPT", "554 5.7.1 Denied"), [2]string{"451 4.3.5", "451 4.3.5"}, true, 0},
		{"sender refused", on("MAIL", "552 5.3.4 Too big"), [2]string{"451 4.3.5", "451 4.3.5"}, true, 0},
		{"closing", on("MAIL", "421 4.3.0 Down"), [2]string{"451 4.3.0", "451 4.3.0"}, false, 0},
		{"message deferred", on("BDAT", "452 4.3.1 No room"), [2]string{"452 4.3.1", "452 4.3.1"}, false, 0},
		{"message refused", on("BDAT", "554 5.6.0 No"), [2]string{"451 4.3.5", "451 4.3.5"}, true, 0},
		{"reply lost", on("BDAT", "drop"), [2]string{"451 4.3.0", "451 4.3.0"}, true, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBed(t, true)
			b.plain.refuse = tt.refuse
			b.splitter(policy.None)
			wantCodes(t, b.deliver(plainText, "plain@x.example", "plain@y.example"), tt.codes[0], tt.codes[1])
			if got := strings.Contains(b.logged.String(), "level=ERROR"); got != tt.alarm {
				t.Errorf("alarm %v: %s", got, b.logged)
			}
			if len(b.vault.settled) != tt.settled {
				t.Errorf("settled %v", b.vault.settled)
			}
		})
	}
	t.Run("Postfix is down", func(t *testing.T) {
		b := newBed(t, true)
		b.cfg.Plain = "127.0.0.1:1"
		b.splitter(policy.None)
		wantCodes(t, b.deliver(plainText, "plain@x.example", "secure@x.example"), "451 4.3.0", "250 2.0.0")
	})
	t.Run("SMTPUTF8 is missing", func(t *testing.T) {
		b := newBed(t, true)
		b.plain.lacks = "SMTPUTF8"
		b.splitter(policy.None)
		c := b.dial()
		c.cmd("LHLO test", "250")
		c.cmd("MAIL FROM:<ü@s.example> SMTPUTF8", "250")
		c.cmd("RCPT TO:<plain@x.example>", "250")
		c.cmd("DATA", "354")
		c.send(stuffed(plainText))
		c.expect("451 4.3.0")
	})
	t.Run("what can't be recorded is taken all the same", func(t *testing.T) {
		b := newBed(t, true)
		b.vault.settle = errors.New("locked")
		b.splitter(policy.None)
		wantCodes(t, b.deliver(plainText, "plain@x.example"), "250 2.0.0")
	})
}

func TestSameDeliveryInParallel(t *testing.T) {
	b := newBed(t, true)
	in, out := make(chan bool), make(chan bool)
	b.vault.seal = func(m escrow.Message) error {
		in <- true
		<-out
		return nil
	}
	b.splitter(policy.None)
	first := b.dial()
	done := make(chan []string)
	go func() { done <- first.deliver(plainText, "sealed@x.example") }()
	<-in
	wantCodes(t, b.deliver(plainText, "sealed@X.example", "plain@x.example"), "451 4.3.0", "250 2.0.0")
	close(out)
	wantCodes(t, <-done, "250 2.0.0")
	b.vault.seal = nil
	wantCodes(t, b.deliver(plainText, "sealed@x.example"), "250 2.0.0")
	if len(b.vault.sealed) != 1 {
		t.Errorf("sealed %d times", len(b.vault.sealed))
	}
}

func TestAnAddressThatStandsTwiceHasOneVerdict(t *testing.T) {
	b := newBed(t, true)
	b.cfg.Decider = deciderFunc(func(q policy.Question) (policy.Answer, error) {
		q.Recipient.Local = q.Original.Local // an alias decides
		return byWord(q)
	})
	b.splitter(policy.None)
	for i, tt := range []struct{ one, two, codes, way string }{
		{"plain", "sealed", "250 250", "sealed"},
		{"secure", "plain", "250 250", "secure"},
		{"forced", "secure", "250 250", "forced"},
		{"forced", "sealed", "554 554", ""},
		{"error", "plain", "451 451", ""},
	} {
		before := map[string]int{"plain": len(b.plain.messages()), "secure": len(b.secure.messages()), "forced": len(b.forced.messages()), "sealed": len(b.vault.sealed)}
		c := b.dial()
		c.cmd("LHLO test", "250")
		c.cmd("MAIL FROM:<s@s.example>", "250")
		c.cmd("RCPT TO:<r@x.example> ORCPT=rfc822;"+tt.one+"@own.example", "250")
		c.cmd("RCPT TO:<R@x.example> ORCPT=rfc822;"+tt.two+"@own.example", "250")
		c.cmd("DATA", "354")
		c.send(stuffed(fmt.Sprintf("Received: %d\r\n\r\n", i)))
		one, two, _ := strings.Cut(tt.codes, " ")
		wantCodes(t, []string{c.reply(), c.reply()}, one, two)
		after := map[string]int{"plain": len(b.plain.messages()), "secure": len(b.secure.messages()), "forced": len(b.forced.messages()), "sealed": len(b.vault.sealed)}
		for way := range after {
			if n := after[way] - before[way]; n > 0 != (way == tt.way) {
				t.Errorf("%s and %s: %d went %s, want %s", tt.one, tt.two, n, way, tt.way)
			}
		}
	}
}

func TestConfirmation(t *testing.T) {
	start := func(t *testing.T) (*bed, *client) {
		b := newBed(t, true)
		b.splitter(policy.None)
		c := b.dial()
		c.cmd("LHLO test", "250")
		c.cmd("MAIL FROM:<s@s.example>", "250")
		c.cmd("RCPT TO:<sealed@x.example>", "250")
		c.cmd("DATA", "354")
		return b, c
	}
	confirmed := func(b *bed) bool { return slices.Equal(b.vault.confirms(), []string{"sealed@x.example"}) }
	t.Run("next transaction", func(t *testing.T) {
		b, c := start(t)
		c.send(stuffed(plainText))
		c.expect("250")
		if confirmed(b) {
			t.Error("confirmed before the client went on")
		}
		c.cmd("MAIL FROM:<s@s.example>", "250")
		eventually(t, "confirmed", func() bool { return confirmed(b) })
	})
	t.Run("RSET", func(t *testing.T) {
		b, c := start(t)
		c.send(stuffed(plainText))
		c.expect("250")
		c.cmd("RSET", "250")
		eventually(t, "confirmed", func() bool { return confirmed(b) })
	})
	t.Run("QUIT with the message, as Postfix does", func(t *testing.T) {
		b, c := start(t)
		c.send(stuffed(plainText) + "QUIT\r\n")
		c.expect("250")
		c.expect("221")
		time.Sleep(20 * time.Millisecond)
		if confirmed(b) {
			t.Error("confirmed before the client closed")
		}
		c.c.Close()
		eventually(t, "confirmed", func() bool { return confirmed(b) })
	})
	t.Run("closed without QUIT", func(t *testing.T) {
		b, c := start(t)
		c.send(stuffed(plainText))
		c.expect("250")
		c.c.Close()
		eventually(t, "confirmed", func() bool { return confirmed(b) })
	})
	lost := func(t *testing.T, quit string, gone func(*client)) {
		b := newBed(t, true)
		in, out := make(chan bool), make(chan bool)
		b.vault.seal = func(m escrow.Message) error {
			in <- true
			<-out
			return nil
		}
		b.splitter(policy.None)
		c := b.dial()
		c.cmd("LHLO test", "250")
		c.cmd("MAIL FROM:<s@s.example>", "250")
		c.cmd("RCPT TO:<sealed@x.example>", "250")
		c.cmd("DATA", "354")
		c.send(stuffed(plainText) + quit)
		<-in
		gone(c)
		time.Sleep(20 * time.Millisecond) // for the FIN to come
		close(out)
		b.stop()
		if len(b.vault.sealed) != 1 || len(b.vault.confirms()) != 0 {
			t.Errorf("sealed %d, confirmed %q", len(b.vault.sealed), b.vault.confirms())
		}
	}
	t.Run("client gone before the reply", func(t *testing.T) {
		lost(t, "", func(c *client) { c.c.Close() })
	})
	t.Run("client gone before the reply, QUIT sent", func(t *testing.T) {
		lost(t, "QUIT\r\n", func(c *client) { c.c.Close() })
	})
	t.Run("client half closed before the reply", func(t *testing.T) {
		lost(t, "", func(c *client) { c.c.(*net.TCPConn).CloseWrite() })
	})
	t.Run("reset", func(t *testing.T) {
		lost(t, "", func(c *client) { c.c.(*net.TCPConn).SetLinger(0); c.c.Close() })
	})
	t.Run("reply not read", func(t *testing.T) {
		b, c := start(t)
		c.send(stuffed(plainText) + "QUIT\r\n")
		eventually(t, "sealed", func() bool { b.vault.mu.Lock(); defer b.vault.mu.Unlock(); return len(b.vault.sealed) == 1 })
		time.Sleep(50 * time.Millisecond)
		c.c.Close() // the kernel says by RST that something was not read
		b.stop()
		if got := b.vault.confirms(); len(got) != 0 {
			t.Errorf("confirmed %q", got)
		}
	})
}

func TestCrashPointsComeInOrder(t *testing.T) {
	b := newBed(t, true)
	b.splitter(policy.None)
	b.deliver(plainText, "plain@x.example", "sealed@x.example")
	b.stop()
	want := []string{"before-seal", "after-seal", "before-reinject", "after-reinject", "before-settle", "after-settle", "before-reply", "after-reply"}
	if !slices.Equal(b.points, want) {
		t.Errorf("points %q", b.points)
	}
}
