package escrow

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postseal/postseal/escrow/seal"
	"github.com/postseal/postseal/policyd/policy"
)

// Events that senders get a mail of, by the words of the setting sender-mail.
const (
	MailSealed   = "sealed"   // the message waits for its recipients
	MailEnrolled = "enrolled" // a recipient has made an account
	MailRead     = "read"     // first reading
	MailReply    = "reply"    // a recipient has replied
	MailExpiring = "expiring" // it will expire, unread
	MailExpired  = "expired"  // it has expired, unread
	MailFailure  = "failure"  // the notice came back
)

// SenderMails are all of them.
func SenderMails() []string {
	return []string{MailSealed, MailEnrolled, MailRead, MailReply, MailExpiring, MailExpired, MailFailure}
}

// DefaultSenderMail is what senders get a mail of where nothing is set.
func DefaultSenderMail() []string {
	return []string{MailEnrolled, MailExpiring, MailExpired, MailFailure}
}

// DefaultExpiringBefore is how long before its end an unread message is told of.
const DefaultExpiringBefore = 3 * 24 * time.Hour

// senderMail is what senders are told.
type senderMail struct {
	wanted map[string]bool
	before time.Duration
	mta    string
}

func newSenderMail(o *Options) (senderMail, error) {
	m := senderMail{wanted: make(map[string]bool), before: o.ExpiringBefore, mta: o.MTA}
	list := o.SenderMail
	if list == nil {
		list = DefaultSenderMail()
	}
	for _, what := range list {
		if !slices.Contains(SenderMails(), what) {
			return m, fmt.Errorf("mail to senders of %q: want some of %s", what, strings.Join(SenderMails(), ", "))
		}
		m.wanted[what] = true
	}
	if m.before <= 0 {
		m.before = DefaultExpiringBefore
	}
	return m, nil
}

// senderTag is the length of the tag in the link to a sender's page, in bytes.
const senderTag = 20

// SenderLink returns the address of the sender's page of an item. Who has it has
// power over the message.
func (v *Vault) SenderLink(item string) string {
	return v.url + "/s/" + item + "/" + seal.EncodeTag(v.keys.tag(senderTag, "sender/1", item))
}

// senderLinkFor is SenderLink for a mail to a sender: "" where the sender's mail
// does not end at this server. It would cross the wire in the clear.
func (v *Vault) senderLinkFor(ctx context.Context, sender, item string) string {
	if !v.isOwn(ctx, sender) {
		return ""
	}
	return v.SenderLink(item)
}

// isOwn reports whether an address is of a domain of this server. What can't be
// found out is not.
func (v *Vault) isOwn(ctx context.Context, address string) bool {
	a, err := policy.ParseAddress(address)
	if err != nil || a.Domain == "" || v.ownDomain == nil {
		return false
	}
	own, err := v.ownDomain(ctx, a.Domain)
	if err != nil {
		v.log.Warn("own domains can't be asked for", "error", err)
	}
	return err == nil && own
}
