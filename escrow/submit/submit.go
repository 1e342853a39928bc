// Package submit takes messages from systems that are not mail clients: from the
// command line (postseal escrow send) and by HTTP (POST /api/v1/messages).
//
// On the way of a mail: a [Letter] is composed (escrow/compose) and given to
// Postseal's own splitter by LMTP, at the port of what it requires. From there it
// goes the way of all other mail: every rule counts, and nothing leaves in
// plaintext. The answer for each recipient comes after the message was sealed, or
// was taken by Postfix.
package submit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/postseal/postseal/escrow/compose"
	"github.com/postseal/postseal/escrow/lmtp"
	"github.com/postseal/postseal/policyd/policy"
)

// Limits of a letter.
const (
	MaxRecipients = 100
	MaxText       = 4 << 20 // bytes, of text and HTML each
	MaxFiles      = 100
)

// timeout is how long one letter may take on its way to the splitter.
const timeout = 10 * time.Minute

// Letter is a message to be sent.
type Letter struct {
	From        compose.Address
	To, Cc, Bcc []compose.Address
	ReplyTo     []compose.Address
	Subject     string
	Text, HTML  string
	InReplyTo   []string // message ids without brackets
	References  []string
	Inline      []compose.File
	Attachments []compose.File
	Require     policy.Requirement // Encryption or EscrowOnly
	Date        time.Time
	MessageID   string // without brackets
	Boundary    string
}

// Outcomes for one recipient.
const (
	Sealed   = "sealed"      // waits in the escrow; the notice is on its way
	Handed   = "handed-over" // Postfix has it: for a mailbox here, or over TLS; if TLS fails there, it is sealed then
	Deferred = "deferred"    // not taken now; send it again, with the same idempotency key
	Refused  = "refused"     // will not be taken
)

// Result is what was done for one recipient.
type Result struct {
	Address string `json:"address"`
	Outcome string `json:"outcome"`
	Item    string `json:"item,omitempty"` // of the escrow, where sealed
	Code    int    `json:"code"`           // SMTP reply code
	Detail  string `json:"detail"`

	full, quota bool // deferred since the escrow is full, or the part of the sender's domain
}

// Submitter gives letters to the splitter. All fields are needed.
type Submitter struct {
	Encryption string // where the splitter listens for requirement encryption: HOST:PORT or unix:PATH
	Escrow     string // the same for escrow
	Hostname   string // for LHLO
}

// A FieldError says what is wrong with a letter, for its writer.
type FieldError struct{ Field, Problem string }

func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

// Check reports what keeps a letter from being sent, as a [*FieldError].
func (l *Letter) Check() error {
	if l.From.Address == "" {
		return &FieldError{"from", "is missing"}
	}
	if len(l.To)+len(l.Cc)+len(l.Bcc) == 0 {
		return &FieldError{"to", "name a recipient in to, cc or bcc"}
	}
	if n := len(l.To) + len(l.Cc) + len(l.Bcc); n > MaxRecipients {
		return &FieldError{"to", fmt.Sprintf("%d recipients, at most %d are taken at a time", n, MaxRecipients)}
	}
	for _, list := range []struct {
		field string
		all   []compose.Address
	}{{"from", []compose.Address{l.From}}, {"to", l.To}, {"cc", l.Cc}, {"bcc", l.Bcc}, {"reply_to", l.ReplyTo}} {
		for _, a := range list.all {
			if p, err := policy.ParseAddress(a.Address); err != nil || p.Domain == "" || p.Local == "" {
				return &FieldError{list.field, fmt.Sprintf("%.200q is not an address: want local@domain or Name <local@domain>", a.Address)}
			}
		}
	}
	for _, t := range []struct{ field, text string }{{"text", l.Text}, {"html", l.HTML}} {
		if len(t.text) > MaxText {
			return &FieldError{t.field, fmt.Sprintf("is longer than %d bytes: attach it as a file", MaxText)}
		}
	}
	if n := len(l.Inline) + len(l.Attachments); n > MaxFiles {
		return &FieldError{"attachments", fmt.Sprintf("%d files, at most %d are taken", n, MaxFiles)}
	}
	if l.Require != policy.Encryption && l.Require != policy.EscrowOnly {
		return &FieldError{"require", "want encryption or escrow"}
	}
	if _, err := l.message().Header(); err != nil {
		return &FieldError{"header", strings.TrimPrefix(err.Error(), "compose: ")}
	}
	return nil
}

func (l *Letter) message() *compose.Message {
	return &compose.Message{
		Date: l.Date, From: l.From, ReplyTo: l.ReplyTo, To: l.To, Cc: l.Cc, Subject: l.Subject,
		MessageID: l.MessageID, InReplyTo: l.InReplyTo, References: l.References,
		Text: l.Text, HTML: l.HTML, Inline: l.Inline, Attachments: l.Attachments, Boundary: l.Boundary,
	}
}

// recipients returns each address once, in RFC 5321 form.
func (l *Letter) recipients() (all []string) {
	seen := map[string]bool{}
	for _, list := range [][]compose.Address{l.To, l.Cc, l.Bcc} {
		for _, a := range list {
			p, err := policy.ParseAddress(a.Address)
			if err != nil || seen[p.Folded().String()] {
				continue
			}
			seen[p.Folded().String()] = true
			all = append(all, p.String())
		}
	}
	return all
}

// Send gives a checked letter to the splitter. There is a result for each recipient,
// also where an error is returned: those that nothing is known of are deferred.
func (s *Submitter) Send(ctx context.Context, l *Letter) ([]Result, error) {
	addr := s.Encryption
	if l.Require == policy.EscrowOnly {
		addr = s.Escrow
	}
	from, err := policy.ParseAddress(l.From.Address)
	if err != nil {
		return nil, &FieldError{"from", "is not an address"}
	}
	m, to := l.message(), l.recipients()
	e := lmtp.Envelope{From: from.String(), To: to, UTF8: m.UTF8(), Notify: []smtp.DSNNotify{smtp.DSNNotifyFailure}}
	got, err := lmtp.Deliver(ctx, addr, s.Hostname, timeout, e, func(w io.Writer) error {
		_, err := m.WriteTo(w)
		return err
	})
	byAddress := map[string]lmtp.Result{}
	for _, r := range got {
		byAddress[r.Address] = r
	}
	results := make([]Result, len(to))
	for i, a := range to {
		results[i] = result(a, byAddress[a])
	}
	if err != nil {
		err = fmt.Errorf("give the message to the splitter: %w", err)
	}
	return results, err
}

func result(address string, r lmtp.Result) Result {
	// Behind the enhanced status code the address is named once more.
	text := strings.TrimLeft(r.Text, "0123456789. ")
	text = strings.TrimSpace(strings.TrimPrefix(text, "<"+address+">"))
	out := Result{Address: address, Code: r.Code, Detail: text}
	switch {
	case r.Code == 0:
		out.Outcome, out.Code, out.Detail = Deferred, 451, "Postseal did not answer"
	case r.Refused():
		out.Outcome = Refused
	case r.Deferred():
		out.Outcome = Deferred
		out.full = r.Code == 452 && r.Status == "4.3.1"
		out.quota = r.Code == 452 && r.Status == "4.2.2"
	default:
		out.Outcome = Handed
		// The splitter's own words, see escrow/intake.
		if id, ok := strings.CutPrefix(text, "Sealed as "); ok {
			out.Outcome, out.Item = Sealed, id
		} else if strings.HasPrefix(text, "Already sealed") {
			out.Outcome = Sealed
		}
	}
	return out
}

// ErrTooLarge reports a letter larger than what is taken.
var ErrTooLarge = errors.New("submit: the message is too large")
