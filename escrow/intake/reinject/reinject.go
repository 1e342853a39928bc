// Package reinject gives a message back to Postfix, byte for byte, over SMTP
// (RFC 5321) to one of the ports that Postfix keeps for it.
//
// It is a client of its own since nothing may be changed on the way: local parts
// are quoted again, the parameters of delivery status notifications (RFC 3461)
// travel on as they came, and the text goes by BDAT (RFC 3030) where the server
// takes it, which needs no dot-stuffing and can carry what DATA can't: a last line
// without an end.
package reinject

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// maxCommand is the longest command line that is sent, in bytes: Postfix's smtpd
// reads no more than line_length_limit (2048), and might take what follows for a
// command.
const maxCommand = 2000

// maxReplies bounds what a server can make us read in one session.
const maxReplies = 1 << 20

// ErrAddress reports an address that can't be sent in a command.
var ErrAddress = errors.New("reinject: address can't be written in a command")

// Envelope is the envelope of a message.
type Envelope struct {
	Sender     policy.Address // the zero Address for the null sender
	Recipients []Recipient
	Size       int64  // of the message, in bytes
	UTF8       bool   // SMTPUTF8 (RFC 6531)
	Body       string // 7BIT, 8BITMIME or ""
	Return     string // FULL, HDRS or ""
	ID         string // ENVID, decoded; "" for none
	Ident      string // queue id, for the log of Postfix; "" for none
	// All says to send to all recipients or to none.
	All bool
}

// Recipient is one recipient with its parameters.
type Recipient struct {
	Address policy.Address
	Notify  []string // NEVER, or some of SUCCESS, FAILURE, DELAY; nil for none
	// Original is the ORCPT parameter as it came, encoded; "" for none. One that
	// would not fit is left out.
	Original string
}

// Reply is what the server answered about a recipient.
type Reply struct {
	Code     int
	Enhanced [3]int // zero where the server gave none
	Text     string // without the codes
}

// OK reports whether the server has taken the message for that recipient.
func (r Reply) OK() bool { return r.Code/100 == 2 }

// Client sends messages to one address, one connection for each. Its methods may
// be called at the same time.
type Client struct {
	Addr string // HOST:PORT or unix:PATH
	Helo string
	// Command and Message bound the wait for a reply to a command and to the end
	// of the message, and Progress each write; zero: a minute, five, and a minute.
	Command, Message, Progress time.Duration
}

// Send sends a message once. The reply of each recipient is its own refusal, or
// else what the server said to the message. On an error nothing is known to be
// taken; the connection may have been lost after the server took it, though.
//
// open gives the message. With ErrAddress nothing was sent.
func (c *Client) Send(ctx context.Context, e Envelope, open func() (io.ReadCloser, error)) ([]Reply, error) {
	for _, a := range append([]policy.Address{e.Sender}, addresses(e.Recipients)...) {
		if err := checkAddress(a); err != nil {
			return nil, err
		}
	}
	s, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer s.quit()
	replies, err := s.send(e, open)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w (%w)", err, ctx.Err())
	}
	return replies, err
}

func addresses(rcpts []Recipient) []policy.Address {
	all := make([]policy.Address, len(rcpts))
	for i, r := range rcpts {
		all[i] = r.Address
	}
	return all
}

// checkAddress refuses what would be read differently from what it is.
func checkAddress(a policy.Address) error {
	s := a.String()
	if len(s) > maxCommand-100 {
		return fmt.Errorf("%w: it is too long", ErrAddress)
	}
	back, err := policy.ParseAddress(s)
	if err != nil || back != a {
		return ErrAddress
	}
	return nil
}

// session is one connection.
type session struct {
	c    *Client
	conn net.Conn
	r    *textproto.Reader
	w    *bufio.Writer
	ext  map[string]string
	stop func() bool
	dead bool // the connection is out of step: no QUIT
}

func (c *Client) dial(ctx context.Context) (*session, error) {
	network, addr := "tcp", c.Addr
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	d := net.Dialer{Timeout: 10 * time.Second}
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, fmt.Errorf("reinject: %w", err)
	}
	s := &session{
		c: c, conn: conn,
		r: textproto.NewReader(bufio.NewReader(io.LimitReader(conn, maxReplies))),
		w: bufio.NewWriterSize(progress{conn, or(c.Progress, time.Minute)}, 64<<10),
	}
	s.stop = context.AfterFunc(ctx, func() { conn.Close() })
	return s, nil
}

func or(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

// progress gives each write a deadline of its own, so that a large message may
// take long, but not stand still.
type progress struct {
	net.Conn
	limit time.Duration
}

func (p progress) Write(b []byte) (int, error) {
	if err := p.SetWriteDeadline(time.Now().Add(p.limit)); err != nil {
		return 0, err
	}
	return p.Conn.Write(b)
}

// quit says goodbye in the background: what the caller has to record does not
// wait for it.
func (s *session) quit() {
	if s.dead {
		s.stop()
		s.conn.Close()
		return
	}
	go func() {
		defer s.conn.Close()
		defer s.stop()
		s.c = &Client{Command: 5 * time.Second, Progress: 5 * time.Second}
		s.command("QUIT")
	}()
}

func (s *session) reply(limit time.Duration) (Reply, error) {
	if err := s.conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		s.dead = true
		return Reply{}, fmt.Errorf("reinject: %w", err)
	}
	code, text, err := s.r.ReadResponse(0)
	if err != nil {
		s.dead = true
		return Reply{}, fmt.Errorf("reinject: read reply: %w", err)
	}
	return parseReply(code, text), nil
}

func parseReply(code int, text string) Reply {
	r := Reply{Code: code, Text: strings.ReplaceAll(text, "\n", " ")}
	first, rest, _ := strings.Cut(text, " ")
	parts := strings.Split(first, ".")
	if len(parts) != 3 {
		return r
	}
	var e [3]int
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n > 999 {
			return r
		}
		e[i] = int(n)
	}
	if e[0] != code/100 {
		return r
	}
	r.Enhanced, r.Text = e, strings.ReplaceAll(rest, "\n", " ")
	return r
}

// command sends one command and reads its reply.
func (s *session) command(line string) (Reply, error) {
	if strings.ContainsAny(line, "\r\n\x00") || len(line) > maxCommand {
		s.dead = true
		return Reply{}, ErrAddress // no caller's check should let it come to this
	}
	if _, err := s.w.WriteString(line + "\r\n"); err != nil {
		s.dead = true
		return Reply{}, fmt.Errorf("reinject: %w", err)
	}
	if err := s.w.Flush(); err != nil {
		s.dead = true
		return Reply{}, fmt.Errorf("reinject: %w", err)
	}
	return s.reply(or(s.c.Command, time.Minute))
}

func (s *session) send(e Envelope, open func() (io.ReadCloser, error)) ([]Reply, error) {
	all := func(r Reply) []Reply {
		replies := make([]Reply, len(e.Recipients))
		for i := range replies {
			replies[i] = r
		}
		return replies
	}
	r, err := s.hello()
	if err != nil {
		return nil, err
	} else if !r.OK() {
		return all(r), nil
	}
	if e.Ident != "" && strings.Contains(" "+s.ext["XFORWARD"]+" ", " IDENT ") {
		// For the log alone; a refusal does no harm.
		if _, err := s.command("XFORWARD IDENT=" + Xtext(e.Ident)); err != nil {
			return nil, err
		}
	}
	line, err := s.mail(e)
	if err != nil {
		return nil, err
	}
	if r, err = s.command(line); err != nil {
		return nil, err
	} else if !r.OK() {
		return all(r), nil
	}
	replies, accepted := make([]Reply, len(e.Recipients)), 0
	for i, rcpt := range e.Recipients {
		if replies[i], err = s.command(s.rcpt(rcpt)); err != nil {
			return nil, err
		} else if replies[i].OK() {
			accepted++
		}
	}
	if accepted == 0 || e.All && accepted < len(replies) {
		for i, r := range replies {
			if r.OK() { // taken back
				replies[i] = Reply{Code: 451, Enhanced: [3]int{4, 3, 0}, Text: "another recipient was refused"}
			}
		}
		return replies, nil
	}
	body, err := open()
	if err != nil {
		s.dead = true
		return nil, fmt.Errorf("reinject: %w", err)
	}
	defer body.Close()
	if r, err = s.text(e.Size, body); err != nil {
		return nil, err
	}
	for i := range replies {
		if replies[i].OK() {
			replies[i] = r
		}
	}
	return replies, nil
}

func (s *session) hello() (Reply, error) {
	r, err := s.reply(or(s.c.Command, time.Minute))
	if err != nil || !r.OK() {
		return r, err
	}
	if _, err := s.w.WriteString("EHLO " + s.c.Helo + "\r\n"); err != nil {
		s.dead = true
		return r, fmt.Errorf("reinject: %w", err)
	}
	if err := s.w.Flush(); err != nil {
		s.dead = true
		return r, fmt.Errorf("reinject: %w", err)
	}
	if err := s.conn.SetReadDeadline(time.Now().Add(or(s.c.Command, time.Minute))); err != nil {
		s.dead = true
		return r, fmt.Errorf("reinject: %w", err)
	}
	code, text, err := s.r.ReadResponse(0)
	if err != nil {
		s.dead = true
		return r, fmt.Errorf("reinject: read reply: %w", err)
	}
	lines := strings.Split(text, "\n")
	s.ext = make(map[string]string)
	for _, l := range lines[1:] {
		word, args, _ := strings.Cut(l, " ")
		s.ext[strings.ToUpper(word)] = strings.ToUpper(args)
	}
	return parseReply(code, text), nil
}

func (s *session) has(extension string) bool {
	_, ok := s.ext[extension]
	return ok
}

// mail writes the MAIL command. What the message needs and the server lacks is an
// error, not left out: SMTPUTF8.
func (s *session) mail(e Envelope) (string, error) {
	var b strings.Builder
	b.WriteString("MAIL FROM:<" + e.Sender.String() + ">")
	if s.has("SIZE") {
		b.WriteString(" SIZE=" + strconv.FormatInt(e.Size, 10))
	}
	if e.Body != "" && s.has("8BITMIME") {
		b.WriteString(" BODY=" + e.Body)
	}
	if e.UTF8 {
		if !s.has("SMTPUTF8") {
			return "", errors.New("reinject: the server lacks SMTPUTF8")
		}
		b.WriteString(" SMTPUTF8")
	}
	if s.has("DSN") {
		if e.Return != "" {
			b.WriteString(" RET=" + e.Return)
		}
		if id := " ENVID=" + Xtext(e.ID); e.ID != "" && b.Len()+len(id) <= maxCommand {
			b.WriteString(id)
		}
	}
	return b.String(), nil
}

func (s *session) rcpt(r Recipient) string {
	line := "RCPT TO:<" + r.Address.String() + ">"
	if !s.has("DSN") {
		return line
	}
	if len(r.Notify) > 0 {
		line += " NOTIFY=" + strings.Join(r.Notify, ",")
	}
	if p := " ORCPT=" + r.Original; r.Original != "" && len(line)+len(p) <= maxCommand && oneWord(r.Original) {
		line += p
	}
	return line
}

// oneWord reports whether s can't end the parameter it is put into.
func oneWord(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c == 0x7f })
}

// Xtext encodes s (RFC 3461, section 4).
func Xtext(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < '!' || c > '~' || c == '+' || c == '=' {
			fmt.Fprintf(&b, "+%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// text sends the message.
func (s *session) text(size int64, body io.Reader) (Reply, error) {
	if s.has("CHUNKING") {
		return s.bdat(size, body)
	}
	r, err := s.command("DATA")
	if err != nil || r.Code != 354 {
		if err == nil && r.Code/100 < 4 {
			s.dead = true
			err = fmt.Errorf("reinject: unexpected reply %d to DATA", r.Code)
		}
		return r, err
	}
	if err := stuff(s.w, body); err != nil {
		s.dead = true // the text has no end: the server drops it
		return r, fmt.Errorf("reinject: send: %w", err)
	}
	return s.end()
}

// end waits for the reply to the whole message.
func (s *session) end() (Reply, error) {
	if err := s.w.Flush(); err != nil {
		s.dead = true
		return Reply{}, fmt.Errorf("reinject: send: %w", err)
	}
	r, err := s.reply(or(s.c.Message, 5*time.Minute))
	if err == nil && r.Code/100 != 2 && r.Code/100 != 4 && r.Code/100 != 5 {
		s.dead = true
		err = fmt.Errorf("reinject: unexpected reply %d to the message", r.Code)
	}
	return r, err
}

// bdat sends the message as one chunk.
func (s *session) bdat(size int64, body io.Reader) (Reply, error) {
	if _, err := fmt.Fprintf(s.w, "BDAT %d LAST\r\n", size); err != nil {
		s.dead = true
		return Reply{}, fmt.Errorf("reinject: send: %w", err)
	}
	n, err := io.Copy(s.w, io.LimitReader(body, size))
	if err == nil && n < size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		s.dead = true // the chunk is not complete: the server drops it
		return Reply{}, fmt.Errorf("reinject: send: %w", err)
	}
	return s.end()
}

// stuff writes the text for DATA (RFC 5321, section 4.5.2): a dot at the front of a
// line gets another, and the last line an end if it has none. A line ends with CR LF
// alone; nothing else is touched.
func stuff(w *bufio.Writer, body io.Reader) error {
	buf := make([]byte, 32<<10)
	const (
		front  = iota // of a line
		middle        // of a line
		cr            // after a CR
	)
	state := front
	for {
		n, err := body.Read(buf)
		for p := buf[:n]; len(p) > 0; {
			c := p[0]
			if state == front && c == '.' {
				if err := w.WriteByte('.'); err != nil {
					return err
				}
			}
			if state == cr && c == '\n' {
				state = front
				if err := w.WriteByte(c); err != nil {
					return err
				}
				p = p[1:]
				continue
			}
			// Up to the next CR nothing can happen.
			i := bytes.IndexByte(p, '\r')
			switch {
			case i < 0:
				i, state = len(p), middle
			default:
				i, state = i+1, cr
			}
			if _, err := w.Write(p[:i]); err != nil {
				return err
			}
			p = p[i:]
		}
		if err == io.EOF {
			break
		} else if err != nil {
			return err
		}
	}
	if state != front {
		if _, err := w.WriteString("\r\n"); err != nil {
			return err
		}
	}
	_, err := w.WriteString(".\r\n")
	return err
}
