package escrow

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/postseal/postseal/escrow/compose"
	"github.com/postseal/postseal/escrow/seal"
	"github.com/postseal/postseal/policyd/policy"
)

// outgoing is what is settled when a reply is sent off, so that each try to deliver
// it gives the same bytes, and the ledger knows it again.
type outgoing struct {
	MessageID  string         `json:"message_id"` // without brackets
	Boundary   string         `json:"boundary"`
	Date       time.Time      `json:"date"`
	From       mailbox        `json:"from"`
	Sender     mailbox        `json:"sender,omitzero"`
	ReplyTo    mailbox        `json:"reply_to,omitzero"`
	Recipients []outRecipient `json:"recipients"`
	Told       int            `json:"told,omitempty"` // how many failed ones the writer was told of
}

// outRecipient is one recipient of a reply.
type outRecipient struct {
	Address string `json:"address"`
	State   string `json:"state,omitempty"`
}

// States of a recipient of a reply.
const (
	outWaits = ""
	outTaken = "taken" // by Postfix, or sealed
	outFails = "fails" // refused for good, or it came back
)

// outgoing settles how a reply leaves. Where all recipients are of own domains it
// comes from the person who wrote it. Outside, that would be a forgery of a domain
// that is not ours (SPF, DKIM, DMARC): there it comes from us, for that person.
func (v *Vault) outgoing(ctx context.Context, p *Pickup, c *replyContent, now time.Time) (*outgoing, error) {
	own := true
	var to []outRecipient
	for _, m := range recipientsOf(c) {
		a, err := policy.ParseAddress(m.Address)
		if err != nil {
			return nil, fmt.Errorf("recipient: %w", err)
		}
		here, err := v.ownDomain(ctx, a.Domain)
		if err != nil {
			return nil, fmt.Errorf("own domains: %w", err)
		}
		own = own && here
		to = append(to, outRecipient{Address: m.Address})
	}
	us, person := mailbox{Address: v.writer.From.String()}, mailbox{Address: p.Recipient}
	o := &outgoing{
		MessageID: seal.NewID() + "@" + v.writer.From.Domain, Boundary: compose.NewBoundary(), Date: now, Recipients: to,
	}
	if own {
		o.From, o.Sender = person, us
	} else {
		o.From, o.ReplyTo = mailbox{p.Recipient, us.Address}, person
	}
	return o, nil
}

// recipientsOf returns whom a reply goes to.
func recipientsOf(c *replyContent) []mailbox {
	if c.All {
		return append(append([]mailbox{}, c.Plan.To...), c.Plan.Cc...)
	}
	return c.Plan.To
}

// open returns the addresses that still wait.
func (o *outgoing) open() []string {
	var list []string
	for _, r := range o.Recipients {
		if r.State == outWaits {
			list = append(list, r.Address)
		}
	}
	return list
}

// failed returns the addresses that the reply did not reach.
func (o *outgoing) failed() []string {
	var list []string
	for _, r := range o.Recipients {
		if r.State == outFails {
			list = append(list, r.Address)
		}
	}
	return list
}

// fail marks recipients as failed, and reports whether one is new among them. One
// that waits may be: the report can be faster than our record that it was taken.
func (o *outgoing) fail(which func(folded string) bool) (any bool) {
	for i := range o.Recipients {
		r := &o.Recipients[i]
		if f, err := fold(r.Address); err == nil && r.State != outFails && which(f) {
			r.State, any = outFails, true
		}
	}
	return any
}

// failTaken is fail for all that were taken.
func (o *outgoing) failTaken() (any bool) {
	for i := range o.Recipients {
		if r := &o.Recipients[i]; r.State == outTaken {
			r.State, any = outFails, true
		}
	}
	return any
}

// knows reports whether one of these addresses, folded, is a recipient.
func (o *outgoing) knows(folded map[string]bool) bool {
	for _, r := range o.Recipients {
		if f, err := fold(r.Address); err == nil && folded[f] {
			return true
		}
	}
	return false
}

// message is a reply as it leaves; its files are read when it is written.
func (v *Vault) message(ctx context.Context, r *reply) *compose.Message {
	c, o := &r.content, r.content.Out
	m := &compose.Message{
		Date: o.Date, From: compose.Address(o.From), Sender: compose.Address(o.Sender),
		To: composed(c.Plan.To), Subject: c.Plan.Subject, MessageID: o.MessageID, References: c.Plan.References,
		Text: c.Text, Boundary: o.Boundary,
	}
	if o.ReplyTo.Address != "" {
		m.ReplyTo = []compose.Address{compose.Address(o.ReplyTo)}
	}
	if c.All {
		m.Cc = composed(c.Plan.Cc)
	}
	if c.Plan.InReplyTo != "" {
		m.InReplyTo = []string{c.Plan.InReplyTo}
	}
	for _, f := range c.Files {
		m.Attachments = append(m.Attachments, compose.File{
			Name: f.Name, MediaType: f.MediaType,
			Open: func() (io.ReadCloser, error) { return v.replyFile(ctx, r, f) },
		})
	}
	return m
}

func composed(list []mailbox) []compose.Address {
	all := make([]compose.Address, len(list))
	for i, m := range list {
		all[i] = compose.Address(m)
	}
	return all
}

// replyFile reads a file of a reply.
func (v *Vault) replyFile(ctx context.Context, r *reply, f ReplyFile) (io.ReadCloser, error) {
	chunks := &chunkReader{chunk: func(n int, buf []byte) ([]byte, error) { return v.store.ReplyChunk(ctx, r.ID, f.N, n, buf) }}
	plain, err := r.key.Decrypt(chunks, replyName(r.ID), partFile(f.N))
	if err != nil {
		return nil, err
	}
	return &messageReader{Reader: plain, left: f.Size}, nil
}
