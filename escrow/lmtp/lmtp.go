// Package lmtp gives messages that Postseal itself has composed to its splitter
// (escrow/intake), by LMTP (RFC 2033): replies and what is sent by the API. There
// they are decided on as all other mail, recipient by recipient.
package lmtp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/emersion/go-smtp"
)

// Envelope of a message.
type Envelope struct {
	From   string   // RFC 5321 form, "" for the null sender
	To     []string // RFC 5321 form
	UTF8   bool     // the header holds UTF-8 (RFC 6531); an address that does is seen by itself
	Notify []smtp.DSNNotify
}

// Result is the splitter's answer for one recipient.
type Result struct {
	Address string // as it was given
	Code    int    // of the reply: 2xx taken, 4xx try again, 5xx refused
	Text    string
	Status  string // enhanced status code of a reply that is not 2xx, such as 4.3.1 (RFC 3463)
}

// Taken, Refused and Deferred sort the codes.
func (r Result) Taken() bool    { return r.Code/100 == 2 }
func (r Result) Refused() bool  { return r.Code/100 == 5 }
func (r Result) Deferred() bool { return !r.Taken() && !r.Refused() }

// Deliver gives one message to the splitter at addr, HOST:PORT or unix:PATH, within
// timeout. write gives the message, lines ending with CR LF. A recipient who is not
// among the results is as before, and the error says why; nobody knows whether an
// answer that did not arrive was a 250: the same bytes, sent again, are known to the
// splitter's ledger.
func Deliver(ctx context.Context, addr, hostname string, timeout time.Duration, e Envelope, write func(io.Writer) error) ([]Result, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	// The client sets deadlines of its own; a cut connection ends all of them.
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	c := smtp.NewClientLMTP(conn)
	c.CommandTimeout, c.SubmissionTimeout = timeout, timeout
	results, err := transact(c, hostname, e, write)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	}
	return results, err
}

func transact(c *smtp.Client, hostname string, e Envelope, write func(io.Writer) error) ([]Result, error) {
	if err := c.Hello(hostname); err != nil {
		return nil, fmt.Errorf("greeting: %w", err)
	}
	utf8 := e.UTF8 || !ascii(e.From)
	for _, a := range e.To {
		utf8 = utf8 || !ascii(a)
	}
	// A bounce need not carry the message.
	if err := c.Mail(e.From, &smtp.MailOptions{Return: smtp.DSNReturnHeaders, UTF8: utf8}); err != nil {
		return nil, fmt.Errorf("MAIL: %w", err)
	}
	var results []Result
	taken := 0
	for _, a := range e.To {
		if strings.ContainsAny(a, "<>\r\n") && !strings.HasPrefix(a, `"`) {
			results = append(results, Result{Address: a, Code: 553, Text: "Not sent: the address breaks out of the command"})
			continue
		}
		err := c.Rcpt(a, &smtp.RcptOptions{Notify: e.Notify})
		var refused *smtp.SMTPError
		switch {
		case err == nil:
			taken++
		case errors.As(err, &refused):
			results = append(results, Result{a, refused.Code, refused.Message, enhanced(refused.EnhancedCode)})
		default:
			return nil, fmt.Errorf("RCPT: %w", err)
		}
	}
	if taken == 0 {
		return results, nil
	}
	w, err := c.Data()
	if err != nil {
		return results, fmt.Errorf("DATA: %w", err)
	}
	if err := write(w); err != nil {
		// The connection is cut: what is there must not pass for a whole message.
		return results, fmt.Errorf("write the message: %w", err)
	}
	ok, err := w.CloseWithLMTPResponse()
	for a, res := range ok {
		results = append(results, Result{Address: a, Code: 250, Text: res.StatusText})
	}
	var each smtp.LMTPDataError
	if errors.As(err, &each) {
		for a, res := range each {
			results = append(results, Result{a, res.Code, res.Message, enhanced(res.EnhancedCode)})
		}
		if len(results) == len(e.To) {
			err = nil
		}
	}
	if err == nil {
		c.CommandTimeout = time.Second
		c.Quit()
	}
	return results, err
}

func enhanced(c smtp.EnhancedCode) string { return fmt.Sprintf("%d.%d.%d", c[0], c[1], c[2]) }

func ascii(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
