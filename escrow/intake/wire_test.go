package intake

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/policyd/policy"
)

// closed waits for the server to close, and returns what it said before.
func (c *client) closed() string {
	c.t.Helper()
	b, err := io.ReadAll(c.r)
	if err != nil && !strings.Contains(err.Error(), "reset") {
		c.t.Fatalf("not closed: %v (after %q)", err, b)
	}
	return string(b)
}

func (b *bed) wantLog(parts ...string) {
	b.t.Helper()
	eventually(b.t, fmt.Sprintf("a log line with %q", parts), func() bool {
		for line := range strings.Lines(b.logged.String()) {
			all := true
			for _, p := range parts {
				all = all && strings.Contains(line, p)
			}
			if all {
				return true
			}
		}
		return false
	})
}

func TestGarbageIsClosedAndThePeerNamed(t *testing.T) {
	for name, garbage := range map[string]string{
		"TLS":              "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
		"HTTP":             "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"binary":           strings.Repeat("\x00\xff", 200) + "\n",
		"a long line":      strings.Repeat("A", 2*maxLine),
		"a long command":   "MAIL FROM:<" + strings.Repeat("a", 2*maxLine) + "@x.example>\r\n",
		"nonsense, slowly": strings.Repeat("FOOBAR\r\n", 10),
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, true)
			b.splitter(policy.None)
			other := b.dial()
			c := b.dial()
			go io.WriteString(c.c, garbage)
			if s := c.closed(); !strings.Contains(s, "50") {
				t.Errorf("closed with %q", s)
			}
			b.wantLog("level=WARN", "bad input", "peer="+c.c.LocalAddr().String())
			wantCodes(t, other.deliver(plainText, "plain@x.example"), "250 2.0.0")
		})
	}
}

func TestHalfOpenClientsAreClosed(t *testing.T) {
	for name, sent := range map[string]string{
		"nothing":         "",
		"half a command":  "LHLO te",
		"half a message":  "LHLO test\r\nMAIL FROM:<s@s.example>\r\nRCPT TO:<plain@x.example>\r\nDATA\r\n" + plainText,
		"half a chunk":    "LHLO test\r\nMAIL FROM:<s@s.example>\r\nRCPT TO:<plain@x.example>\r\nBDAT 10000 LAST\r\n" + plainText,
		"a chunk of many": "LHLO test\r\nMAIL FROM:<s@s.example>\r\nRCPT TO:<plain@x.example>\r\nBDAT 4\r\nabcd",
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, true)
			sp := NewSplitter(b.cfg, policy.None)
			sp.limits.idle = 50 * time.Millisecond
			b.run(sp.Run)
			c := b.dial()
			c.send(sent)
			said := c.closed()
			for line := range strings.Lines(said) {
				if line[0] == '5' {
					t.Errorf("a bounce: %q", line)
				}
			}
			b.stop()
			b.wantLog("level=WARN", "peer="+c.c.LocalAddr().String())
			if n := len(b.plain.messages()); n != 0 {
				t.Errorf("%d messages", n)
			}
		})
	}
}

func TestWhatIsCutOffIsNotAMessage(t *testing.T) {
	const begin = "LHLO test\r\nMAIL FROM:<s@s.example>\r\nRCPT TO:<plain@x.example>\r\n"
	for name, sent := range map[string]string{
		"DATA":             begin + "DATA\r\n" + plainText,
		"DATA, CR LF dot":  begin + "DATA\r\n" + plainText + ".",
		"BDAT LAST":        begin + fmt.Sprintf("BDAT %d LAST\r\n%s", len(plainText)+1, plainText),
		"BDAT":             begin + fmt.Sprintf("BDAT %d\r\n%s", len(plainText), plainText),
		"BDAT of bad size": begin + fmt.Sprintf("BDAT %d\r\n%sBDAT x LAST\r\n", len(plainText), plainText),
		"BDAT, garbage":    begin + fmt.Sprintf("BDAT %d\r\n%s\x00\r\n", len(plainText), plainText),
		"second BDAT LAST": begin + fmt.Sprintf("BDAT %d\r\n%sBDAT 10 LAST\r\nabc", len(plainText), plainText),
	} {
		for _, half := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, half closed %v", name, half), func(t *testing.T) {
				b := newBed(t, true)
				b.splitter(policy.None)
				c := b.dial()
				c.send(sent)
				if half {
					c.c.(*net.TCPConn).CloseWrite()
					for line := range strings.Lines(c.closed()) {
						if strings.HasPrefix(line, "5") && !strings.Contains(line, "closing") || strings.Contains(line, "Re-injected") {
							t.Errorf("said %q", line)
						}
					}
				} else {
					c.c.Close()
				}
				b.stop()
				if m := b.plain.messages(); len(m) != 0 {
					t.Errorf("re-injected %+v", m)
				}
			})
		}
	}
}

func TestResetWithinChunks(t *testing.T) {
	b := newBed(t, true)
	b.splitter(policy.None)
	c := b.dial()
	c.cmd("LHLO test", "250")
	for range 3 {
		c.cmd("MAIL FROM:<s@s.example>", "250")
		c.cmd("RCPT TO:<plain@x.example>", "250")
		c.send("BDAT 4\r\nabcd")
		c.expect("250")
		c.cmd("RSET", "250")
	}
	wantCodes(t, c.deliver(plainText, "plain@x.example"), "250 2.0.0")
	if m := b.plain.messages(); len(m) != 1 || m[0].text != plainText {
		t.Errorf("re-injected %+v", m)
	}
}

func TestCommandsBetweenChunks(t *testing.T) {
	b := newBed(t, true)
	b.splitter(policy.None)
	c := b.dial()
	c.cmd("LHLO test", "250")
	c.cmd("MAIL FROM:<s@s.example>", "250")
	c.cmd("RCPT TO:<plain@x.example>", "250")
	c.cmd("RCPT TO:<sealed@x.example>", "250")
	c.cmd("BDAT 0", "250")
	c.cmd("NOOP", "250")
	c.cmd("MAIL FROM:<x@s.example>", "503")
	c.cmd("DATA", "503")
	c.send(fmt.Sprintf("BDAT %d\r\n%sBDAT 0 LAST\r\nMAIL FROM:<y@s.example>\r\n", len(plainText), plainText))
	for _, code := range []string{"250 2.0.0 Continue", "250 2.0.0 <plain", "250 2.0.0 <sealed", "250"} {
		c.expect(code)
	}
	c.cmd("RCPT TO:<plain@x.example>", "250")
	c.send("BDAT 1\r\nx")
	c.expect("250 2.0.0 Continue")
	c.send("QUIT\r\n")
	c.expect("221")
	if m := b.plain.messages(); len(m) != 1 || m[0].text != plainText {
		t.Errorf("re-injected %+v", m)
	}
}

func TestChunkWithoutRecipientIsSkipped(t *testing.T) {
	b := newBed(t, true)
	b.splitter(policy.None)
	c := b.dial()
	c.cmd("LHLO test", "250")
	c.cmd("MAIL FROM:<s@s.example>", "250")
	c.send("BDAT 6 LAST\r\nQUIT\r\n")
	c.expect("502")
	c.cmd("NOOP", "250")
}

func TestPipelining(t *testing.T) {
	b := newBed(t, true)
	b.splitter(policy.None)
	c := b.dial()
	c.cmd("LHLO test", "250")
	// As Postfix does: everything up to DATA at once, the end of the message with
	// QUIT; here with a second transaction, too.
	c.send("MAIL FROM:<s@s.example>\r\nRCPT TO:<plain@x.example> ORCPT=x400;a\r\nRCPT TO:<sealed@x.example>\r\nDATA\r\n")
	for _, code := range []string{"250", "250", "250", "354"} {
		c.expect(code)
	}
	c.send(stuffed(plainText) + "MAIL FROM:<s@s.example>\r\nRCPT TO:<forced@x.example> ORCPT=x400;b\r\nDATA\r\n")
	for _, code := range []string{"250 2.0.0", "250 2.0.0", "250", "250", "354"} {
		c.expect(code)
	}
	c.send(stuffed(plainText) + "QUIT\r\n")
	c.expect("250 2.0.0")
	c.expect("221")
	if g := b.plain.messages()[0].rcpts[0]; g != "TO:<plain@x.example> ORCPT=x400;a" {
		t.Error(g)
	}
	if g := b.forced.messages()[0].rcpts[0]; g != "TO:<forced@x.example> ORCPT=x400;b" {
		t.Error(g)
	}
}

func TestMessageSizeLimit(t *testing.T) {
	const limit = 1000
	b := newBed(t, true)
	b.cfg.MaxMessageSize = limit
	b.splitter(policy.None)
	c := b.dial()
	if s := c.cmd("LHLO test", "250"); !strings.Contains(s, fmt.Sprintf("SIZE %d", limit)) {
		t.Errorf("announced %q", s)
	}
	c.cmd(fmt.Sprintf("MAIL FROM:<s@s.example> SIZE=%d", limit+1), "552 5.3.4")
	for i, tt := range []struct {
		size int
		code string
	}{{limit, "250 2.0.0"}, {limit + 1, "552 5.3.4"}, {100 * limit, "552 5.3.4"}} {
		text := fmt.Sprintf("Received: %d\r\n\r\n", i)
		text += strings.Repeat("x", tt.size-len(text)-2) + "\r\n"
		c.cmd("MAIL FROM:<s@s.example>", "250")
		c.cmd("RCPT TO:<plain@x.example>", "250")
		c.cmd("DATA", "354")
		c.send(stuffed(text))
		c.expect(tt.code)
		c.cmd("MAIL FROM:<s@s.example>", "250")
		c.cmd("RCPT TO:<sealed@x.example>", "250")
		c.send(fmt.Sprintf("BDAT %d LAST\r\n%s", len(text), text))
		c.expect(tt.code)
	}
}

func TestAnnouncements(t *testing.T) {
	b := newBed(t, true)
	b.splitter(policy.None)
	s := b.dial().cmd("LHLO test", "250")
	for _, x := range []string{"SIZE", "8BITMIME", "SMTPUTF8", "DSN", "PIPELINING", "CHUNKING", "ENHANCEDSTATUSCODES"} {
		if !strings.Contains(s, x) {
			t.Errorf("%s is not announced: %q", x, s)
		}
	}
	for _, x := range []string{"STARTTLS", "AUTH", "BINARYMIME"} {
		if strings.Contains(s, x) {
			t.Errorf("%s is announced: %q", x, s)
		}
	}
}

func TestTooManyConnections(t *testing.T) {
	b := newBed(t, true)
	sp := NewSplitter(b.cfg, policy.None)
	sp.limits.connections = 2
	b.run(sp.Run)
	b.dial()
	second := b.dial()
	c, err := net.Dial("tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if s, _ := io.ReadAll(c); !strings.HasPrefix(string(s), "421 4.3.2") {
		t.Errorf("said %q", s)
	}
	b.wantLog("too many", "peer="+c.LocalAddr().String())
	second.cmd("LHLO test", "250")
	second.cmd("QUIT", "221")
	second.c.Close()
	eventually(t, "a place is free again", func() bool {
		c, err := net.Dial("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		s, _ := bufio.NewReader(c).ReadString('\n')
		return strings.HasPrefix(s, "220")
	})
}

func TestShutdownFinishesWhatIsInHand(t *testing.T) {
	b := newBed(t, true)
	in, out := make(chan bool), make(chan bool)
	b.vault.seal = func(escrow.Message) error { in <- true; <-out; return nil }
	b.splitter(policy.None)
	idle := b.dial()
	idle.cmd("LHLO test", "250")
	c := b.dial()
	c.cmd("LHLO test", "250")
	c.cmd("MAIL FROM:<s@s.example>", "250")
	c.cmd("RCPT TO:<sealed@x.example>", "250")
	c.cmd("DATA", "354")
	c.send(stuffed(plainText))
	<-in
	stopped := make(chan bool)
	go func() { b.stop(); close(stopped) }()
	if s := idle.closed(); !strings.HasPrefix(s, "421") {
		t.Errorf("idle connection closed with %q", s)
	}
	close(out)
	c.expect("250 2.0.0")
	if s := c.closed(); !strings.HasPrefix(s, "421") {
		t.Errorf("closed with %q", s)
	}
	c.c.Close()
	<-stopped
}

func TestShutdownGivesUpInTheEnd(t *testing.T) {
	b := newBed(t, true)
	in := make(chan bool)
	b.cfg.Decider = deciderCtx(func(ctx context.Context) error { close(in); <-ctx.Done(); return ctx.Err() })
	sp := NewSplitter(b.cfg, policy.None)
	sp.limits.drain = 20 * time.Millisecond
	b.run(sp.Run)
	c := b.dial()
	c.cmd("LHLO test", "250")
	c.cmd("MAIL FROM:<s@s.example>", "250")
	c.cmd("RCPT TO:<sealed@x.example>", "250")
	c.cmd("DATA", "354")
	c.send(stuffed(plainText))
	<-in
	b.stop()
	if s := c.closed(); strings.HasPrefix(s, "2") || strings.HasPrefix(s, "5") {
		t.Errorf("said %q", s)
	}
}

type deciderCtx func(context.Context) error

func (f deciderCtx) Decide(ctx context.Context, q policy.Question) (policy.Answer, error) {
	return policy.Answer{}, f(ctx)
}

func TestUnixSocket(t *testing.T) {
	b := newBed(t, true)
	sp := NewSplitter(b.cfg, policy.None)
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- sp.Run(ctx, ln) }()
	conn, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t, conn, bufio.NewReader(conn)}
	c.expect("220")
	wantCodes(t, c.deliver(plainText, "sealed@x.example"), "250 2.0.0")
	c.cmd("QUIT", "221")
	conn.Close()
	eventually(t, "confirmed", func() bool { return len(b.vault.confirms()) == 1 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestRunReportsABrokenListener(t *testing.T) {
	b := newBed(t, true)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if err := NewSplitter(b.cfg, policy.None).Run(t.Context(), ln); err == nil {
		t.Error("no error")
	}
}

// FuzzDotReader holds the reader of DATA against a simple one: everything before the
// first CR LF . CR LF, with one dot less where two begin a line.
func FuzzDotReader(f *testing.F) {
	for _, text := range oddTexts() {
		if len(text) < 1000 {
			f.Add([]byte(stuffed(text)))
		}
	}
	f.Add([]byte(".\r\n"))
	f.Add([]byte(".\rx\r\n..\r\n\r\r\n.\r\nQUIT\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, size := range []int{16, 4096} {
			dotted(t, in, bufio.NewReaderSize(bytes.NewReader(in), size))
			dotted(t, in, bufio.NewReaderSize(iotest.OneByteReader(bytes.NewReader(in)), size))
		}
	})
}

// dotted holds what dotReader makes of in, which br reads, against what RFC 5321 says.
func dotted(t *testing.T, in []byte, br *bufio.Reader) {
	got, err := io.ReadAll(newDotReader(br))
	full := append([]byte("\r\n"), in...)
	end := bytes.Index(full, []byte("\r\n.\r\n"))
	if end < 0 {
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("no end, and no error: %v", err)
		}
		return
	}
	want := strings.ReplaceAll(string(full[:end+2]), "\r\n.", "\r\n")[2:]
	if err != nil || string(got) != want {
		t.Fatalf("got %q, %v, want %q", got, err, want)
	}
	rest, _ := io.ReadAll(br)
	if string(rest) != string(full[end+5:]) {
		t.Fatalf("what follows: %q, want %q", rest, full[end+5:])
	}
}
