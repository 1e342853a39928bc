package escrow

import (
	"context"
	"fmt"
	"io"
	"mime"
	"net/mail"
	"regexp"
	"slices"
	"strings"

	"github.com/emersion/go-message/charset"

	"github.com/postseal/postseal/escrow/header"
	"github.com/postseal/postseal/policyd/policy"
)

// Limits of what is taken over from the header of a message into its answer.
const (
	maxAnswerTo    = 100 // addresses
	maxReferences  = 30  // the first and the newest stay
	maxMessageID   = 250 // bytes
	maxDisplayName = 120 // runes
	maxSubject     = 400 // runes
)

// mailbox is an address with what is displayed for it.
type mailbox struct {
	Name    string `json:"name,omitempty"`
	Address string `json:"address"` // RFC 5321 form
}

// String writes a mailbox for display, not for a header.
func (m mailbox) String() string {
	if m.Name == "" || strings.EqualFold(m.Name, m.Address) {
		return m.Address
	}
	return m.Name + " <" + m.Address + ">"
}

// answerPlan is what a message's header tells who wants to answer it.
type answerPlan struct {
	To         []mailbox `json:"to"`
	Cc         []mailbox `json:"cc,omitempty"` // whom an answer to all adds
	Subject    string    `json:"subject"`
	InReplyTo  string    `json:"in_reply_to,omitempty"` // message ids without brackets
	References []string  `json:"references,omitempty"`
}

// planAnswer reads of a message's header whom an answer goes to: Reply-To, else
// From, else the envelope sender; to all, To and Cc beside (RFC 5322, section
// 3.6.3). Of these only addresses count that are on the sender's side: in the
// domain of the envelope sender, or own domains. There may be none.
func (v *Vault) planAnswer(ctx context.Context, p *Pickup, message io.Reader) (*answerPlan, error) {
	h, err := header.Read(message)
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	side := v.sendersSide(p)
	var plan answerPlan
	for _, from := range [][]string{h.Values("Reply-To"), h.Values("From"), {p.Sender}} {
		if plan.To, err = side(ctx, from, nil); err != nil {
			return nil, err
		}
		if len(plan.To) > 0 {
			break
		}
	}
	if plan.Cc, err = side(ctx, slices.Concat(h.Values("To"), h.Values("Cc")), plan.To); err != nil {
		return nil, err
	}
	plan.Subject = answerSubject(h)
	plan.InReplyTo, plan.References = thread(h)
	return &plan, nil
}

// sendersSide returns a function that reads address fields, and drops what is not
// on the sender's side, the recipient itself, our own automatic addresses, and what
// is in not.
func (v *Vault) sendersSide(p *Pickup) func(ctx context.Context, fields []string, not []mailbox) ([]mailbox, error) {
	sender, _ := policy.ParseAddress(p.Sender) // the zero Address if it is odd
	known := map[string]bool{}
	if sender.Domain != "" {
		known[sender.Domain] = true
	}
	return func(ctx context.Context, fields []string, not []mailbox) (list []mailbox, err error) {
		seen := map[string]bool{}
		for _, a := range append([]string{p.Recipient, v.writer.From.String()}, addressesIn(not)...) {
			if f, err := fold(a); err == nil {
				seen[f] = true
			}
		}
		for _, m := range mailboxes(fields) {
			a, err := policy.ParseAddress(m.Address)
			if err != nil || a.Local == "" || a.Domain == "" || a.Routed() || len(list) == maxAnswerTo {
				continue
			}
			if f := a.Folded().String(); seen[f] {
				continue
			} else {
				seen[f] = true
			}
			if _, ours := v.IsBounceAddress(m.Address); ours {
				continue
			}
			on, asked := known[a.Domain]
			if !asked {
				if on, err = v.ownDomain(ctx, a.Domain); err != nil {
					return nil, fmt.Errorf("own domains: %w", err)
				}
				known[a.Domain] = on
			}
			if on {
				list = append(list, mailbox{m.Name, a.String()})
			}
		}
		return list, nil
	}
}

func addressesIn(list []mailbox) []string {
	all := make([]string, len(list))
	for i, m := range list {
		all[i] = m.Address
	}
	return all
}

var words2047 = mime.WordDecoder{CharsetReader: charset.Reader}

// mailboxes reads address fields (RFC 5322, section 3.4). Of a field that can't be
// read whole, what can is taken.
func mailboxes(fields []string) []mailbox {
	var list []mailbox
	parser := mail.AddressParser{WordDecoder: &words2047}
	add := func(a *mail.Address) {
		list = append(list, mailbox{displayName(a.Name), a.Address})
	}
	for _, f := range fields {
		if f == "" {
			continue
		}
		if all, err := parser.ParseList(f); err == nil {
			for _, a := range all {
				add(a)
			}
			continue
		}
		for _, one := range splitAddresses(f) {
			if a, err := parser.Parse(one); err == nil {
				add(a)
			} else if i := strings.LastIndexByte(one, '<'); i >= 0 && strings.HasSuffix(one, ">") {
				if a, err := parser.Parse(one[i:]); err == nil {
					add(a) // with a display name that is none
				}
			}
		}
	}
	return list
}

func displayName(s string) string {
	s = header.Clean(s)
	if r := []rune(s); len(r) > maxDisplayName {
		s = string(r[:maxDisplayName-1]) + "…"
	}
	return s
}

// splitAddresses parts a list at the commas and semicolons that are outside of
// quotes.
func splitAddresses(s string) []string {
	var list []string
	quoted, from := false, 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case (c == ',' || c == ';') && !quoted:
			list = append(list, strings.TrimSpace(s[from:i]))
			from = i + 1
		}
	}
	return append(list, strings.TrimSpace(s[from:]))
}

// answered are prefixes that say what "Re:" says.
var answered = []string{"re:", "aw:", "sv:", "antw:", "rif:", "odp:", "رد:", "re："}

func answerSubject(h header.Header) string {
	subject := strings.Join(strings.Fields(h.Text("Subject", maxSubject)), " ")
	low := strings.ToLower(subject)
	for _, p := range answered {
		if strings.HasPrefix(low, p) {
			return subject
		}
	}
	return strings.TrimSpace("Re: " + subject)
}

var messageID = regexp.MustCompile(`<([!-;=?-~]+@[!-;=?-~]+)>`)

func messageIDs(fields []string) []string {
	var ids []string
	for _, f := range fields {
		for _, m := range messageID.FindAllStringSubmatch(f, -1) {
			if len(m[1]) <= maxMessageID && !slices.Contains(ids, m[1]) {
				ids = append(ids, m[1])
			}
		}
	}
	return ids
}

// thread returns In-Reply-To and References of an answer (RFC 5322, section 3.6.4).
func thread(h header.Header) (inReplyTo string, references []string) {
	references = messageIDs(h.Values("References"))
	if parents := messageIDs(h.Values("In-Reply-To")); len(references) == 0 && len(parents) == 1 {
		references = parents
	}
	if id := messageIDs(h.Values("Message-ID")); len(id) > 0 {
		inReplyTo = id[0]
		references = append(slices.DeleteFunc(references, func(r string) bool { return r == inReplyTo }), inReplyTo)
	}
	if n := len(references); n > maxReferences {
		references = append(references[:1], references[n-maxReferences+1:]...)
	}
	return inReplyTo, references
}
