// Package relaymail hands mails that Postseal wrote itself to Postfix, by the
// notice port. What goes that way is past every rule: generated text alone.
package relaymail

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/emersion/go-smtp"
)

const (
	// DefaultTimeout is for one mail, from dialing to the last reply.
	DefaultTimeout = 2 * time.Minute
	// shutdownGrace is how long a shutdown waits for a mail that is being sent.
	shutdownGrace = 5 * time.Second
)

// Relay is the smtpd that takes them.
type Relay struct {
	Addr       string        // HOST:PORT
	ServerName string        // for EHLO; "": localhost
	Timeout    time.Duration // 0: DefaultTimeout
}

// Send hands one mail over. nil means that Postfix has it on its disk; an error
// with a reply of Postfix is a [*smtp.SMTPError]. from may be empty, for mail that
// must not bounce; a bounce carries the header alone. A shutdown (ctx done) gives
// it a moment to end: cut at the last reply, it would be sent twice.
func (r Relay) Send(ctx context.Context, from, to string, text []byte) error {
	timeout := r.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	shutdown := ctx
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	defer context.AfterFunc(shutdown, func() { time.AfterFunc(shutdownGrace, cancel) })()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", r.Addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	// The client sets deadlines of its own; a cut connection ends all of them.
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	c := smtp.NewClient(conn)
	c.CommandTimeout, c.SubmissionTimeout = timeout, timeout
	if err := r.transact(c, from, to, text); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		}
		return err
	}
	return nil
}

func (r Relay) transact(c *smtp.Client, from, to string, text []byte) error {
	name := r.ServerName
	if name == "" {
		name = "localhost"
	}
	if err := c.Hello(name); err != nil {
		return fmt.Errorf("greeting: %w", err)
	}
	mail := &smtp.MailOptions{
		Return: smtp.DSNReturnHeaders, // a bounce need not carry a link
		UTF8:   !ascii(to) || !ascii(from),
	}
	if err := c.Mail(from, mail); err != nil {
		return fmt.Errorf("MAIL: %w", err)
	}
	notify := smtp.DSNNotifyFailure
	if from == "" {
		notify = smtp.DSNNotifyNever
	}
	if strings.ContainsAny(to, "<>\r\n") && !strings.HasPrefix(to, `"`) {
		return errors.New("RCPT: address breaks out of the command")
	}
	if err := c.Rcpt(to, &smtp.RcptOptions{Notify: []smtp.DSNNotify{notify}}); err != nil {
		return fmt.Errorf("RCPT: %w", err)
	}
	w, err := c.Data()
	if err != nil {
		return fmt.Errorf("DATA: %w", err)
	}
	if _, err := w.Write(text); err != nil {
		return fmt.Errorf("DATA: %w", err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("end of data: %w", err)
	}
	// Postfix has it; the sooner that is recorded the better, and no answer to
	// QUIT changes it.
	c.CommandTimeout = time.Second
	c.Quit()
	return nil
}

func ascii(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
