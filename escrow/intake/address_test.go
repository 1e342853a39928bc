package intake

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"

	"github.com/postseal/postseal/policyd/policy"
)

func TestFromWire(t *testing.T) {
	for wire, want := range map[string]string{
		"":                       "",
		"a@x.example":            "a@x.example",
		"A.B@X.Example.":         "A.B@x.example",
		"a b@x.example":          `"a b"@x.example`,
		"a@b@x.example":          `"a@b"@x.example`,
		`"a"@x.example`:          `"\"a\""@x.example`,
		`a\@x.example`:           `"a\\"@x.example`,
		"a..b@x.example":         `"a..b"@x.example`,
		"ü@bücher.example":       "ü@xn--bcher-kva.example",
		"a@[192.0.2.1]":          "a@[192.0.2.1]",
		"a@[IPv6:2001:DB8:0::1]": "a@[ipv6:2001:db8::1]",
		"x@evil.example> NOTIFY=NEVER X=@own.example": `"x@evil.example> NOTIFY=NEVER X="@own.example`,
	} {
		a, err := fromWire(wire)
		if err != nil || a.String() != want {
			t.Errorf("fromWire(%q) = %q, %v, want %q", wire, a, err, want)
		}
	}
	for _, wire := range []string{"l@evil.example＠own.example", "l@evil.example﹫own.example", "a", "@x.example", "a@", "a\r\nb@x.example", "a\x00@x.example", "a@x example", "a@x>y", "a@x.example\r\nQUIT", `a@x"`, "a@b:c", strings.Repeat("a", 1800) + "@x.example"} {
		if a, err := fromWire(wire); err == nil {
			t.Errorf("fromWire(%q) = %q", wire, a)
		}
	}
}

// goSMTP asks go-smtp's own parser what a command means.
type goSMTP struct {
	w    net.Conn
	r    *bufio.Reader
	mail chan string
	rcpt chan parsed
}

type parsed struct {
	addr   string
	notify int
	orcpt  string
}

func newGoSMTP(t testing.TB) *goSMTP {
	g := &goSMTP{mail: make(chan string, 1), rcpt: make(chan parsed, 1)}
	srv := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return goSession{g}, nil }))
	srv.EnableDSN, srv.EnableSMTPUTF8, srv.MaxLineLength = true, true, 0
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	if g.w, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	g.r = bufio.NewReader(g.w)
	g.line(t)
	g.cmd(t, "EHLO x")
	return g
}

func (g *goSMTP) line(t testing.TB) string {
	for {
		s, err := g.r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if s[3] == ' ' {
			return s
		}
	}
}

func (g *goSMTP) cmd(t testing.TB, c string) string {
	if _, err := io.WriteString(g.w, c+"\r\n"); err != nil {
		t.Fatal(err)
	}
	return g.line(t)
}

type goSession struct{ g *goSMTP }

func (goSession) Reset()                                        {}
func (goSession) Logout() error                                 { return nil }
func (s goSession) Mail(from string, _ *smtp.MailOptions) error { s.g.mail <- from; return nil }
func (s goSession) Rcpt(to string, o *smtp.RcptOptions) error {
	s.g.rcpt <- parsed{to, len(o.Notify), o.OriginalRecipient}
	return nil
}
func (goSession) Data(io.Reader) error { return nil }

// FuzzAddress: whatever a local part and a domain hold, what is written for them
// between angle brackets is read as the same address, by our own reading and by
// another's, and nothing else gets into the command.
func FuzzAddress(f *testing.F) {
	for _, s := range []string{"a@x.example", "x@evil.example> NOTIFY=NEVER X=@own.example", `"@x.example`, `\@x`, `a\"b@x`, "a b@x", ".@x", "a@[::1]", "ü@ü.example", `"a"@x`, "a@b@c", "@@x", "\xff@x", "a>@x", "a@x.example ORCPT=rfc822;y", "a@Ⅷ.example", "a\u0085b@x"} {
		f.Add(s)
	}
	g := newGoSMTP(f)
	f.Fuzz(func(t *testing.T, wire string) {
		a, err := fromWire(wire)
		if err != nil || a.IsNull() {
			return
		}
		s := a.String()
		if strings.ContainsAny(s, "\r\n\x00") || len(s) > maxAddress {
			t.Fatalf("%q", s)
		}
		if back, err := policy.ParseAddress("<" + s + ">"); err != nil || back != a {
			t.Fatalf("%q reads as %+v, %v; it is %+v", s, back, err, a)
		}
		g.cmd(t, "RSET")
		g.cmd(t, "MAIL FROM:<>")
		<-g.mail
		rep := g.cmd(t, "RCPT TO:<"+s+">")
		if !strings.HasPrefix(rep, "250") {
			t.Fatalf("%q: %s", s, rep)
		}
		if p := <-g.rcpt; p.notify != 0 || p.orcpt != "" || p.addr != a.Local+"@"+a.Domain {
			t.Fatalf("%q is read as %+v", s, p)
		}
	})
}

// FuzzCutORCPT: what is cut out of a RCPT command is a parameter that go-smtp would
// have seen too, and the path stays.
func FuzzCutORCPT(f *testing.F) {
	for _, s := range []string{
		"TO:<a@x> ORCPT=rfc822;a", `TO:<"> ORCPT=rfc822;a"@x> NOTIFY=NEVER ORCPT=rfc822;b`, "TO:<@a,@b:c@x> orcpt=rfc822;a", "to: a@x ORCPT=rfc822;q",
		`TO:<"a\" ORCPT=x;y"@x>`, "TO:<a@x", "TO:<a@x>ORCPT=rfc822;c", `TO:"a"b@x ORCPT=rfc822;d`, "TO:<a@x> \u00a0ORCPT=rfc822;e", "TO:<a@x> ORCPT=", "TO:<a@x>  NOTIFY=NEVER  ORCPT=rfc822;e",
	} {
		f.Add(s)
	}
	g := newGoSMTP(f)
	ask := func(t *testing.T, arg string) (parsed, bool) {
		g.cmd(t, "RSET")
		g.cmd(t, "MAIL FROM:<>")
		<-g.mail
		if strings.HasPrefix(g.cmd(t, "RCPT "+arg), "250") {
			return <-g.rcpt, true
		}
		return parsed{}, false
	}
	f.Fuzz(func(t *testing.T, arg string) {
		if arg == "" || strings.ContainsAny(arg, "\r\n") || len(arg) > 1000 || strings.TrimSpace(arg) != arg {
			return
		}
		before, ok := ask(t, arg)
		rest, cut := cutORCPT(arg)
		if !ok {
			return
		}
		after, ok := ask(t, rest)
		if !ok || after.addr != before.addr || after.notify != before.notify || after.orcpt != "" {
			t.Fatalf("%q: %+v; without ORCPT, %q: %+v, %v", arg, before, rest, after, ok)
		}
		if (before.orcpt != "") != (cut != "") {
			t.Fatalf("%q: cut %q, go-smtp has %q", arg, cut, before.orcpt)
		}
	})
}

func FuzzORCPT(f *testing.F) {
	for _, s := range []string{"rfc822;a@x.example", "RFC822;a+2Bb@x", "utf-8;ü@x", `utf-8;\x{FC}@x`, "rfc822;+C3+BC@x", "x400;/c=us", "x400;a", "rfc822;+", "rfc822;+1", "rfc822;++2", ";", "a;", "utf-8;\\x{110000}@x", "utf-8;\\x{}", "rfc822;a b", "rfc822;a+20b@x", "rfc822;a+00@x", "rfc822;a+3E+0D+0Ab@x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, v string) {
		a := originalAddress(v)
		if !validORCPT(v) {
			if !a.IsNull() {
				t.Fatalf("%q is not valid, and %q", v, a)
			}
			return
		}
		if strings.ContainsAny(v, " \t\r\n\x00=") || len(v) > maxORCPT || len(strings.Fields(v)) != 1 {
			t.Fatalf("%q would break out of its command", v)
		}
		if s := a.String(); strings.ContainsAny(s, "\r\n\x00") {
			t.Fatalf("%q is %q", v, s)
		}
	})
}

func TestOriginalAddress(t *testing.T) {
	for v, want := range map[string]string{
		"rfc822;a@x.example":           "a@x.example",
		"RFC822;a+2Bb@X.example":       "a+b@x.example",
		"rfc822;+22a+20b+22@x.example": `"a b"@x.example`,
		"utf-8;ü@x.example":            "ü@x.example",
		`utf-8;\x{FC}@x.example`:       "ü@x.example",
		"utf-8;+C3+BC@x.example":       "ü@x.example",
		"x400;a@x.example":             "",
		"rfc822;a+0Ab@x.example":       "",
		"a@x.example":                  "",
		"":                             "",
	} {
		if got := originalAddress(v).String(); got != want {
			t.Errorf("originalAddress(%q) = %q, want %q", v, got, want)
		}
	}
}
