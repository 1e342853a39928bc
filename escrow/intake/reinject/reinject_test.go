package reinject

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/textproto"
	"strings"
	"testing"
	"testing/quick"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// text is what a server reads of a text that was stuffed; textproto turns CR LF into
// LF, so this is done by hand.
func unstuff(t *testing.T, s string) string {
	t.Helper()
	end := strings.Index("\r\n"+s, "\r\n.\r\n")
	if end != len(s)-3 {
		t.Fatalf("ends at %d of %d", end, len(s))
	}
	return strings.ReplaceAll("\r\n"+s[:end], "\r\n.", "\r\n")[2:]
}

func TestStuff(t *testing.T) {
	check := func(in []byte) bool {
		var out bytes.Buffer
		w := bufio.NewWriterSize(&out, 16)
		if err := stuff(w, iotestOneByte{bytes.NewReader(in)}); err != nil {
			t.Fatal(err)
		}
		w.Flush()
		want := string(in)
		if want != "" && !strings.HasSuffix(want, "\r\n") {
			want += "\r\n"
		}
		return unstuff(t, out.String()) == want
	}
	for _, s := range []string{"", ".", "..", ".\r\n", "a\r\n.\r\n", "a\r.\r\n", "\r\r\n.\r\n", "a\n.\n", "a\r", "\r\n\r\n", "\r\n.\r\n.\r\n"} {
		if !check([]byte(s)) {
			t.Errorf("%q changes", s)
		}
	}
	alphabet := []byte(".\r\nx")
	if err := quick.Check(func(in []byte) bool {
		for i := range in {
			in[i] = alphabet[int(in[i])%len(alphabet)]
		}
		return check(in)
	}, &quick.Config{MaxCount: 5000}); err != nil {
		t.Error(err)
	}
}

type iotestOneByte struct{ r io.Reader }

func (o iotestOneByte) Read(p []byte) (int, error) { return o.r.Read(p[:min(1, len(p))]) }

// Whatever the local part, the server sees one address, in quotes where needed, and
// the parameters stay ours.
func TestLocalPartsStayInside(t *testing.T) {
	s := &session{ext: map[string]string{"DSN": "", "SIZE": ""}}
	check := func(local string) bool {
		a := policy.Address{Local: local, Domain: "own.example"}
		if checkAddress(a) != nil {
			return true // not sent
		}
		line := s.rcpt(Recipient{Address: a, Notify: []string{"NEVER"}})
		in, ok := strings.CutPrefix(line, "RCPT TO:<")
		if !ok {
			return false
		}
		// The end of the path, read as RFC 5321 says.
		i := 0
		if in[0] == '"' {
			for i = 1; in[i] != '"'; i++ {
				if in[i] == '\\' {
					i++
				}
			}
		}
		return in[i+strings.IndexByte(in[i:], '>'):] == "> NOTIFY=NEVER" && !strings.ContainsAny(line, "\r\n\x00")
	}
	for _, local := range []string{"x@evil.example> NOTIFY=NEVER X=", `"`, `\`, `a"> `, "a\r\nRCPT TO:<b@c>", "a>", "<", "", `\"`, "ü", "\xff>"} {
		if local != "" && !check(local) {
			t.Errorf("%q breaks out", local)
		}
	}
	if err := quick.Check(check, &quick.Config{MaxCount: 5000}); err != nil {
		t.Error(err)
	}
}

func TestNothingIsSentForABadAddress(t *testing.T) {
	for _, a := range []policy.Address{{Local: "a\r\nb", Domain: "x"}, {Local: "a", Domain: "x> y"}, {Local: strings.Repeat("a", 2000), Domain: "x"}} {
		_, err := (&Client{Addr: "127.0.0.1:1"}).Send(t.Context(), Envelope{Recipients: []Recipient{{Address: a}}}, nil)
		if !errors.Is(err, ErrAddress) {
			t.Errorf("%+v: %v", a, err)
		}
	}
}

func TestCommandsFitIntoALine(t *testing.T) {
	s := &session{ext: map[string]string{"DSN": "", "SIZE": "", "SMTPUTF8": "", "8BITMIME": ""}}
	long := policy.Address{Local: strings.Repeat("a", 900), Domain: strings.Repeat("b.", 440) + "c"}
	if l := s.rcpt(Recipient{Address: long, Notify: []string{"SUCCESS", "FAILURE", "DELAY"}, Original: "rfc822;" + strings.Repeat("x", 1400)}); len(l) > maxCommand || strings.Contains(l, "ORCPT") || !strings.Contains(l, "NOTIFY=SUCCESS,FAILURE,DELAY") {
		t.Errorf("%d bytes: %.40s", len(l), l)
	}
	l, err := s.mail(Envelope{Sender: long, Size: 1 << 40, UTF8: true, Body: "8BITMIME", Return: "HDRS", ID: strings.Repeat("x", 1000)})
	if err != nil || len(l) > maxCommand || !strings.Contains(l, "RET=HDRS") {
		t.Errorf("%d bytes, %v: %.40s", len(l), err, l)
	}
	if l := s.rcpt(Recipient{Address: policy.Address{Local: "a", Domain: "x"}, Original: "rfc822;a b"}); strings.Contains(l, "ORCPT") {
		t.Error(l)
	}
}

func TestParseReply(t *testing.T) {
	for _, tt := range []struct {
		code int
		text string
		want Reply
	}{
		{250, "2.0.0 Ok", Reply{250, [3]int{2, 0, 0}, "Ok"}},
		{451, "4.3.0 a\n4.3.0 b", Reply{451, [3]int{4, 3, 0}, "a 4.3.0 b"}},
		{550, "no code", Reply{550, [3]int{}, "no code"}},
		{550, "4.1.1 lies", Reply{550, [3]int{}, "4.1.1 lies"}},
		{250, "2.0.99999 x", Reply{250, [3]int{}, "2.0.99999 x"}},
		{250, "", Reply{250, [3]int{}, ""}},
	} {
		if got := parseReply(tt.code, tt.text); got != tt.want {
			t.Errorf("%d %q: %+v, want %+v", tt.code, tt.text, got, tt.want)
		}
	}
}

// A server that does what it should not.
func serve(t *testing.T, talk func(c *textproto.Conn, conn net.Conn)) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		talk(textproto.NewConn(conn), conn)
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

func one() Envelope {
	return Envelope{Recipients: []Recipient{{Address: policy.Address{Local: "a", Domain: "x"}}}, Size: 6}
}

func body(s string) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(s)), nil }
}

func TestServersThatMisbehave(t *testing.T) {
	ok := func(c *textproto.Conn, n int) {
		for range n {
			c.ReadLine()
			c.PrintfLine("250 ok")
		}
	}
	for name, talk := range map[string]func(c *textproto.Conn, conn net.Conn){
		"closes at once":          func(c *textproto.Conn, conn net.Conn) {},
		"speaks another protocol": func(c *textproto.Conn, conn net.Conn) { io.WriteString(conn, "SSH-2.0-x\r\n") },
		"never answers":           func(c *textproto.Conn, conn net.Conn) { c.ReadLine() },
		"endless reply": func(c *textproto.Conn, conn net.Conn) {
			for {
				if c.PrintfLine("220-%s", strings.Repeat("x", 1000)) != nil {
					return
				}
			}
		},
		"354 to the message": func(c *textproto.Conn, conn net.Conn) {
			c.PrintfLine("220 hi")
			ok(c, 3)
			c.ReadLine()
			c.PrintfLine("354 go")
			c.ReadDotBytes()
			c.PrintfLine("354 go")
			c.ReadLine()
		},
		"250 to DATA": func(c *textproto.Conn, conn net.Conn) {
			c.PrintfLine("220 hi")
			ok(c, 4)
			c.ReadLine()
		},
	} {
		t.Run(name, func(t *testing.T) {
			addr := serve(t, talk)
			c := &Client{Addr: addr, Helo: "x", Command: 100 * time.Millisecond, Message: 100 * time.Millisecond}
			if r, err := c.Send(t.Context(), one(), body("a\r\nb\r\n")); err == nil {
				t.Errorf("no error: %+v", r)
			}
		})
	}
	t.Run("given up", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		addr := serve(t, func(c *textproto.Conn, conn net.Conn) { cancel(); c.ReadLine() })
		if _, err := (&Client{Addr: addr, Helo: "x"}).Send(ctx, one(), body("")); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Run("greeting is a refusal", func(t *testing.T) {
		addr := serve(t, func(c *textproto.Conn, conn net.Conn) { c.PrintfLine("421 4.3.2 busy"); c.ReadLine() })
		r, err := (&Client{Addr: addr, Helo: "x"}).Send(t.Context(), one(), body(""))
		if err != nil || len(r) != 1 || r[0].Code != 421 {
			t.Error(r, err)
		}
	})
}

func TestABodyThatBreaksOffIsNotSentAsComplete(t *testing.T) {
	for _, chunking := range []bool{true, false} {
		sent := make(chan []byte, 1)
		addr := serve(t, func(c *textproto.Conn, conn net.Conn) {
			c.PrintfLine("220 hi")
			c.ReadLine()
			if chunking {
				c.PrintfLine("250-hi")
				c.PrintfLine("250 CHUNKING")
			} else {
				c.PrintfLine("250 hi")
			}
			for range 2 {
				c.ReadLine()
				c.PrintfLine("250 ok")
			}
			if !chunking {
				c.ReadLine()
				c.PrintfLine("354 go")
			}
			got, _ := io.ReadAll(c.R)
			sent <- got
		})
		e := one()
		e.Size = 100
		open := func() (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(strings.NewReader("abc\r\n"), failing{})), nil
		}
		if r, err := (&Client{Addr: addr, Helo: "x"}).Send(t.Context(), e, open); err == nil {
			t.Errorf("taken: %+v", r)
		}
		if got := <-sent; bytes.Contains(got, []byte("\r\n.\r\n")) || bytes.Contains(got, []byte("QUIT")) {
			t.Errorf("sent %q", got)
		}
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("disk") }
