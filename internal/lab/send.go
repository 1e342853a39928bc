package lab

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// Message is a submission over SMTP.
type Message struct {
	From string
	To   []string
	Data []byte // exact bytes, lines ending with CRLF

	Login      string            // SASL login, claimed by XCLIENT
	FromParams string            // such as "RET=FULL ENVID=x BODY=8BITMIME"
	ToParams   map[string]string // by recipient, such as "NOTIFY=NEVER"
	BDAT       bool              // with CHUNKING, so that the data needs no final CRLF
	Addr       string            // "" is LocalAddr port 25
	Local      string            // source address, "" for any
	// Between, if set, is called after the RCPT replies and before DATA.
	Between func()
}

// Result holds the replies to a submission, each with its code first.
type Result struct {
	Mail  string
	Rcpt  map[string]string
	Data  string // of the end of the data; that of DATA where there was no 354; "" where no recipient was accepted
	Queue string // id of the queue file
}

// Accepted reports whether the message was taken for at least one recipient.
func (r *Result) Accepted() bool { return strings.HasPrefix(r.Data, "2") }

// Client is a plain SMTP client that says exactly what it is told.
type Client struct {
	conn net.Conn
	r    *bufio.Reader
}

// Dial connects, reads the greeting and says EHLO. local is the source address,
// "" for any.
func Dial(addr, local string) (*Client, error) {
	d := net.Dialer{Timeout: 10 * time.Second}
	if local != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(local)}
	}
	conn, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &Client{conn: conn, r: bufio.NewReader(conn)}
	conn.SetDeadline(time.Now().Add(2 * time.Minute))
	if err := c.expect("2")(c.read()); err != nil {
		conn.Close()
		return nil, err
	}
	if err := c.expect("2")(c.Cmd("EHLO client.example")); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *Client) expect(prefix string) func(string, error) error {
	return func(reply string, err error) error {
		if err == nil && !strings.HasPrefix(reply, prefix) {
			err = errors.New("server answered: " + reply)
		}
		return err
	}
}

func (c *Client) read() (string, error) {
	var lines []string
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return "", err
		}
		line = strings.TrimRight(line, "\r\n")
		lines = append(lines, line)
		if len(line) < 4 || line[3] != '-' {
			return strings.Join(lines, "\n"), nil
		}
	}
}

// Cmd sends one line and returns the reply.
func (c *Client) Cmd(line string) (string, error) {
	if _, err := io.WriteString(c.conn, line+"\r\n"); err != nil {
		return "", err
	}
	return c.read()
}

// Login claims a SASL login by XCLIENT.
func (c *Client) Login(login string) error {
	if err := c.expect("220")(c.Cmd("XCLIENT LOGIN=" + login)); err != nil {
		return fmt.Errorf("xclient: %w", err)
	}
	return c.expect("2")(c.Cmd("EHLO client.example"))
}

// Body sends data by DATA or, with bdat, in one chunk, and returns the reply.
func (c *Client) Body(data []byte, bdat bool) (string, error) {
	if bdat {
		if _, err := fmt.Fprintf(c.conn, "BDAT %d LAST\r\n", len(data)); err != nil {
			return "", err
		}
		if _, err := c.conn.Write(data); err != nil {
			return "", err
		}
		return c.read()
	}
	reply, err := c.Cmd("DATA")
	if err != nil || !strings.HasPrefix(reply, "354") {
		return reply, err
	}
	if _, err := c.conn.Write(stuff(data)); err != nil {
		return "", err
	}
	return c.read()
}

// stuff doubles the dots at the start of lines and appends the end of the data.
func stuff(data []byte) []byte {
	var b bytes.Buffer
	bol := true
	for _, ch := range data {
		if bol && ch == '.' {
			b.WriteByte('.')
		}
		b.WriteByte(ch)
		bol = ch == '\n'
	}
	if !bytes.HasSuffix(data, []byte("\r\n")) {
		b.WriteString("\r\n")
	}
	b.WriteString(".\r\n")
	return b.Bytes()
}

// Transaction runs MAIL, RCPT and DATA on an open connection.
func (c *Client) Transaction(m Message) (*Result, error) {
	res := &Result{Rcpt: make(map[string]string)}
	var err error
	if res.Mail, err = c.Cmd(strings.TrimSpace("MAIL FROM:<" + m.From + "> " + m.FromParams)); err != nil {
		return nil, err
	}
	accepted := false
	for _, to := range m.To {
		reply, err := c.Cmd(strings.TrimSpace("RCPT TO:<" + to + "> " + m.ToParams[to]))
		if err != nil {
			return nil, err
		}
		res.Rcpt[to] = reply
		accepted = accepted || strings.HasPrefix(reply, "2")
	}
	if m.Between != nil {
		m.Between()
	}
	if !accepted {
		_, err := c.Cmd("RSET")
		return res, err
	}
	if res.Data, err = c.Body(m.Data, m.BDAT); err != nil {
		return nil, err
	}
	if _, id, ok := strings.Cut(res.Data, "queued as "); ok {
		res.Queue = strings.TrimSpace(id)
	}
	return res, nil
}

// Close says QUIT and closes.
func (c *Client) Close() error {
	c.Cmd("QUIT")
	return c.conn.Close()
}

// Send submits one message. Refusals are in the result; an error is a connection
// that failed.
func Send(m Message) (*Result, error) {
	addr := m.Addr
	if addr == "" {
		addr = LocalAddr + ":25"
	}
	c, err := Dial(addr, m.Local)
	if err != nil {
		return nil, fmt.Errorf("send: %w", err)
	}
	defer c.Close()
	if m.Login != "" {
		if err := c.Login(m.Login); err != nil {
			return nil, fmt.Errorf("send: %w", err)
		}
	}
	res, err := c.Transaction(m)
	if err != nil {
		return nil, fmt.Errorf("send: %w", err)
	}
	return res, nil
}

// Text makes a message with a few headers. The body comes as it is.
func Text(from, to, subject, body string) []byte {
	return fmt.Appendf(nil, "From: %s\r\nTo: %s\r\nSubject: %s\r\nMessage-ID: <%d@client.example>\r\nDate: %s\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n%s\r\n",
		from, to, subject, time.Now().UnixNano(), time.Now().Format(time.RFC1123Z), body)
}
