package fakesmtp

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxData bounds a message, so that a runaway test does not eat the machine.
const maxData = 256 << 20

type session struct {
	s    *Server
	rec  *Session
	conn net.Conn
	r    *bufio.Reader

	helo       string
	tls        bool
	tlsState   tls.ConnectionState
	early      bool // the reply to the next EHLO was sent already
	inMail     bool
	from       string
	fromParams []string
	to         []Recipient
	chunks     []byte // of BDAT
}

func newSession(s *Server, conn net.Conn, rec *Session) *session {
	return &session{s: s, rec: rec, conn: conn, r: bufio.NewReaderSize(conn, 64<<10)}
}

// reply writes a reply and reports whether the session goes on.
func (c *session) reply(text string) bool {
	_, err := io.WriteString(c.conn, text+"\r\n")
	return err == nil && !strings.HasPrefix(text, "421")
}

func (c *session) resetMail() {
	c.inMail, c.from, c.fromParams, c.to, c.chunks = false, "", nil, nil, nil
}

func (c *session) serve() {
	b := c.s.Behaviour()
	if b.Silent {
		io.Copy(io.Discard, c.conn)
		return
	}
	time.Sleep(b.BannerDelay)
	banner := "220 " + b.name() + " ESMTP"
	if b.Banner != "" {
		banner = b.Banner
	}
	if b.Early {
		// In one write, so that both lie in the client's buffer.
		banner, c.early = banner+"\r\n"+strings.TrimSuffix(c.ehloReply(&b), "\r\n"), true
	}
	if !c.reply(banner) {
		return
	}
	if b.Banner != "" && !strings.HasPrefix(b.Banner, "220") {
		// RFC 5321, section 3.1: such a server waits for QUIT and refuses the rest.
		for {
			line, err := c.command()
			if err != nil {
				return
			}
			if verb(line) == "QUIT" {
				c.reply("221 2.0.0 bye")
				return
			}
			c.reply("503 5.5.1 no service here")
		}
	}
	for {
		line, err := c.command()
		if err != nil || !c.handle(line) {
			return
		}
	}
}

func (b *Behaviour) name() string {
	if b.Name == "" {
		return "mx.invalid"
	}
	return b.Name
}

func (c *session) command() (string, error) {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimRight(line, "\r\n")
	c.s.mu.Lock()
	c.rec.Commands = append(c.rec.Commands, line)
	c.s.mu.Unlock()
	return line, nil
}

func verb(line string) string {
	v, _, _ := strings.Cut(line, " ")
	return strings.ToUpper(v)
}

func (c *session) handle(line string) bool {
	b := c.s.Behaviour()
	_, arg, _ := strings.Cut(line, " ")
	switch v := verb(line); v {
	case "EHLO":
		if b.RefuseEHLO {
			return c.reply("502 5.5.1 command not implemented")
		}
		c.helo = arg
		c.resetMail()
		if c.early {
			c.early = false
			return true
		}
		_, err := io.WriteString(c.conn, c.ehloReply(&b))
		return err == nil
	case "HELO":
		c.helo = arg
		c.resetMail()
		return c.reply("250 " + b.name())
	case "STARTTLS":
		return c.starttls(&b)
	case "MAIL":
		return c.mail(&b, arg)
	case "RCPT":
		return c.rcpt(&b, arg)
	case "DATA":
		return c.data(&b)
	case "BDAT":
		return c.bdat(&b, arg)
	case "RSET":
		c.resetMail()
		return c.reply("250 2.0.0 ok")
	case "NOOP":
		return c.reply("250 2.0.0 ok")
	case "VRFY":
		return c.reply("252 2.0.0 perhaps")
	case "QUIT":
		c.reply("221 2.0.0 bye")
		return false
	}
	return c.reply("500 5.5.2 what?")
}

func (c *session) ehloReply(b *Behaviour) string {
	lines := []string{b.name()}
	keywords := b.Keywords
	if keywords == nil {
		keywords = DefaultKeywords
	}
	lines = append(lines, keywords...)
	if b.STARTTLS && !c.tls {
		lines = append(lines, "STARTTLS")
	}
	var out strings.Builder
	for i, l := range lines {
		sep := "-"
		if i == len(lines)-1 {
			sep = " "
		}
		fmt.Fprintf(&out, "250%s%s\r\n", sep, l)
	}
	return out.String()
}

func (c *session) starttls(b *Behaviour) bool {
	switch {
	case c.tls || !b.STARTTLS:
		return c.reply("502 5.5.1 not offered")
	case b.StartReply != "":
		return c.reply(b.StartReply)
	}
	if _, err := io.WriteString(c.conn, "220 2.0.0 ready\r\n"+b.Inject); err != nil {
		return false
	}
	switch b.Handshake {
	case HandshakeClose:
		return false
	case HandshakeSilent:
		io.Copy(io.Discard, c.conn)
		return false
	case HandshakeGarbage, HandshakeAlert:
		c.conn.Read(make([]byte, 4096)) // the ClientHello, so that it is not a reset
		answer := []byte("this is not the handshake that you are looking for\r\n")
		if b.Handshake == HandshakeAlert {
			answer = []byte{21, 3, 3, 0, 2, 2, 40} // fatal handshake_failure
		}
		c.conn.Write(answer)
		// Let the client read before the close: a reset would hide the answer.
		c.conn.SetReadDeadline(time.Now().Add(time.Second))
		io.Copy(io.Discard, c.conn)
		return false
	}
	conn := tls.Server(c.conn, b.tlsConfig())
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	if err := conn.Handshake(); err != nil {
		return false
	}
	conn.SetDeadline(time.Time{})
	c.conn, c.r = conn, bufio.NewReaderSize(conn, 64<<10)
	c.tls, c.tlsState, c.helo = true, conn.ConnectionState(), ""
	c.resetMail()
	c.s.mu.Lock()
	c.rec.TLS = true
	c.s.mu.Unlock()
	return true
}

func (b *Behaviour) tlsConfig() *tls.Config {
	var certs []tls.Certificate
	for _, c := range []*tls.Certificate{b.Certificate, b.Second} {
		if c != nil {
			certs = append(certs, *c)
		}
	}
	cfg := &tls.Config{MinVersion: b.MinTLS, MaxVersion: b.MaxTLS, CipherSuites: b.Suites, Certificates: certs}
	if b.ClientCert {
		cfg.ClientAuth = tls.RequireAnyClientCert
	}
	if b.RefuseSNI {
		// Where there are no Certificates and GetCertificate finds none, crypto/tls
		// answers with the alert unrecognized_name (RFC 6066, section 3).
		cfg.Certificates = nil
		cfg.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if hello.ServerName != "" {
				return nil, nil
			}
			return b.Certificate, nil
		}
	}
	return cfg
}

// path reads FROM:<address> PARAM… or TO:<address> PARAM….
func path(arg, keyword string) (addr string, params []string, ok bool) {
	if len(arg) < len(keyword) || !strings.EqualFold(arg[:len(keyword)], keyword) {
		return "", nil, false
	}
	arg = strings.TrimLeft(arg[len(keyword):], " ")
	if !strings.HasPrefix(arg, "<") {
		return "", nil, false
	}
	quoted := false
	for i := 1; i < len(arg); i++ {
		switch {
		case arg[i] == '\\' && quoted:
			i++
		case arg[i] == '"':
			quoted = !quoted
		case arg[i] == '>' && !quoted:
			return arg[1:i], strings.Fields(arg[i+1:]), true
		}
	}
	return "", nil, false
}

func (c *session) mail(b *Behaviour, arg string) bool {
	addr, params, ok := path(arg, "FROM:")
	switch {
	case !ok:
		return c.reply("501 5.5.4 syntax: MAIL FROM:<address>")
	case c.inMail:
		return c.reply("503 5.5.1 nested MAIL")
	case b.RequireTLS && !c.tls:
		return c.reply("530 5.7.0 must issue STARTTLS first")
	case b.MailReply != "":
		return c.reply(b.MailReply)
	}
	c.resetMail()
	c.inMail, c.from, c.fromParams = true, addr, params
	return c.reply("250 2.1.0 ok")
}

func (c *session) rcpt(b *Behaviour, arg string) bool {
	addr, params, ok := path(arg, "TO:")
	if !ok {
		return c.reply("501 5.5.4 syntax: RCPT TO:<address>")
	}
	if !c.inMail {
		return c.reply("503 5.5.1 MAIL first")
	}
	r, refused := b.Recipients[strings.ToLower(addr)]
	if !refused {
		r, refused = b.Recipients["*"]
	}
	if refused {
		return c.reply(r)
	}
	client, _, _ := net.SplitHostPort(c.rec.Client)
	if c.s.greylisted(client, c.from, addr, b.Greylist) {
		return c.reply("451 4.7.1 greylisted, come back later")
	}
	c.to = append(c.to, Recipient{addr, params})
	return c.reply("250 2.1.5 ok")
}

func (c *session) data(b *Behaviour) bool {
	if len(c.to) == 0 {
		return c.reply("554 5.5.1 no valid recipients")
	}
	if !c.reply("354 go on") {
		return false
	}
	body, err := readData(c.r)
	if err != nil {
		return false
	}
	return c.finish(b, body)
}

// readData reads up to <CRLF>.<CRLF> and takes the dots away that the client
// stuffed. Everything else stays as it was sent: bare CR and LF, NUL, long lines.
func readData(r *bufio.Reader) ([]byte, error) {
	var out bytes.Buffer
	bol := true // after CRLF, or at the start
	for out.Len() < maxData {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return nil, err
		}
		if bol && line[0] == '.' {
			if string(line) == ".\r\n" {
				return out.Bytes(), nil
			}
			line = line[1:]
		}
		bol = len(line) >= 2 && line[len(line)-2] == '\r'
		out.Write(line)
	}
	return nil, fmt.Errorf("more than %d bytes", maxData)
}

func (c *session) bdat(b *Behaviour, arg string) bool {
	f := strings.Fields(arg)
	if len(f) == 0 {
		return c.reply("501 5.5.4 syntax: BDAT size [LAST]")
	}
	n, err := strconv.Atoi(f[0])
	if err != nil || n < 0 || n > maxData {
		return c.reply("501 5.5.4 syntax: BDAT size [LAST]")
	}
	chunk := make([]byte, n)
	if _, err := io.ReadFull(c.r, chunk); err != nil {
		return false
	}
	if len(c.to) == 0 {
		return c.reply("554 5.5.1 no valid recipients")
	}
	c.chunks = append(c.chunks, chunk...)
	if len(f) < 2 || !strings.EqualFold(f[1], "LAST") {
		return c.reply("250 2.0.0 go on")
	}
	return c.finish(b, c.chunks)
}

func (c *session) finish(b *Behaviour, body []byte) bool {
	answer := "250 2.0.0 taken"
	if b.DataReply != "" {
		answer = b.DataReply
	}
	m := Mail{
		Server: b.name(), Addr: c.s.Addr(), Client: c.rec.Client, Helo: c.helo,
		From: c.from, FromParams: c.fromParams, To: c.to,
		Data: slices.Clone(body), TLS: c.tls,
		Accepted: strings.HasPrefix(answer, "2") && !b.DropAtData,
		Time:     time.Now(),
	}
	if c.tls {
		m.TLSVersion, m.SNI = tls.VersionName(c.tlsState.Version), c.tlsState.ServerName
	}
	c.s.mu.Lock()
	m.Commands = slices.Clone(c.rec.Commands)
	c.s.mu.Unlock()
	c.s.record(m)
	c.resetMail()
	if b.DropAtData {
		return false
	}
	time.Sleep(b.ReplyDelay)
	return c.reply(answer)
}
