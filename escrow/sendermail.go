package escrow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postseal/postseal/escrow/notify"
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

// told begins a mail to the sender about pickups of one item, at least one.
func (v *Vault) told(ctx context.Context, what string, list []StoredPickup) notify.Told {
	s := &list[0]
	t := notify.Told{
		ID: seal.NewID(), To: s.Sender, What: what, ItemID: s.ItemID, Link: v.senderLinkFor(ctx, s.Sender, s.ItemID),
		MessageID: s.MessageID, Sealed: s.Created, Created: v.now(), Expires: s.Expires,
	}
	for _, s := range list {
		t.Recipients = append(t.Recipients, s.Recipient)
		if s.Expires.Before(t.Expires) {
			t.Expires = s.Expires
		}
	}
	return t
}

// queued writes the mail and encrypts it for the outbox.
func (v *Vault) queued(t notify.Told) (NewMail, error) {
	return v.newMail(t.ID, t.What, "", v.writer.Tell(t), t.Created, time.Time{})
}

// canTell reports whether there is a sender to tell: neither the null sender nor
// our own notices want mail.
func (v *Vault) canTell(s *StoredPickup) bool {
	if s.Sender == "" {
		return false
	}
	_, ours := v.IsBounceAddress(s.Sender)
	return !ours
}

// asked reports whether the sender asked by NOTIFY for a report of this kind, such
// as SUCCESS (RFC 3461, section 4.1).
func asked(s *StoredPickup, kind string) bool {
	return slices.Contains(strings.Split(s.Notify, ","), kind)
}

// wantsFailure reports whether the sender is to be told that a message did not
// reach its recipient: as the sender asked, else as the setting what says.
func (v *Vault) wantsFailure(s *StoredPickup, what string) bool {
	if !v.canTell(s) {
		return false
	}
	if s.Notify == "" {
		return v.senders.wanted[what]
	}
	return asked(s, "FAILURE")
}

// wantsMail reports whether the sender gets a mail that nobody asked for in the
// message. Senders elsewhere don't: the address may be forged.
func (v *Vault) wantsMail(ctx context.Context, s *StoredPickup, what string) bool {
	return v.senders.wanted[what] && v.canTell(s) && v.isOwn(ctx, s.Sender)
}

// delivery begins the machine's part of a delivery status notification.
func (v *Vault) delivery(s *StoredPickup) *notify.Delivery {
	mta := v.senders.mta
	if mta == "" {
		mta = v.writer.ServerName
	}
	return &notify.Delivery{MTA: mta, EnvelopeID: s.EnvID, Arrival: s.Created}
}

// tellSealed adds the mails about a new item to it: a message that waits here is
// delayed, to those who want to know of delays.
func (v *Vault) tellSealed(ctx context.Context, item *NewItem) error {
	var list, delayed []StoredPickup
	for _, p := range item.Pickups {
		s := StoredPickup{
			ID: p.ID, ItemID: item.ID, Recipient: p.Recipient, Folded: p.Folded, Sender: item.Sender, Created: item.Created, Expires: item.Expires,
			Notify: p.Notify, ORCPT: p.ORCPT, EnvID: item.EnvID, MessageID: item.MessageID,
		}
		late := v.canTell(&s) && asked(&s, "DELAY")
		if late {
			delayed = append(delayed, s)
		}
		if late || s.Notify != "NEVER" && v.wantsMail(ctx, &s, MailSealed) {
			list = append(list, s)
		}
	}
	if len(list) == 0 {
		return nil
	}
	t := v.told(ctx, MailSealed, list)
	if len(delayed) > 0 {
		t.Delivery = v.delivery(&delayed[0])
		for _, s := range delayed {
			t.Delivery.Recipients = append(t.Delivery.Recipients, notify.Status{
				Final: s.Recipient, Original: s.ORCPT, Action: "delayed", Code: "4.7.0",
				Diagnostic: "x-postseal; waits to be picked up by the recipient", RetryUntil: s.Expires,
			})
		}
	}
	m, err := v.queued(t)
	item.Mails = append(item.Mails, m)
	return err
}

// markRead notes a reading. With the first, and in its transaction, the sender
// gets what the sender asked for: a delivery report, since the portal is where
// the message ends, and a read receipt; else what the setting says.
func (v *Vault) markRead(ctx context.Context, p *Pickup, how string, now time.Time) (first bool, err error) {
	var mails []NewMail
	if p.State == StateHeld {
		s, err := v.store.PickupByID(ctx, p.id)
		if err != nil {
			return false, err
		}
		if s.State == StateHeld {
			if mails, err = v.readMails(ctx, s, how); err != nil {
				return false, err
			}
		}
	}
	first, err = v.store.MarkRead(ctx, p.id, how, now, mails)
	if err != nil || !first {
		return false, err
	}
	v.metrics.opened.Inc()
	v.log.Info("message opened", "item", p.ItemID)
	if len(mails) > 0 {
		v.wake()
	}
	return true, nil
}

func (v *Vault) readMails(ctx context.Context, s *StoredPickup, how string) (mails []NewMail, err error) {
	if !v.canTell(s) {
		return nil, nil
	}
	t := v.told(ctx, MailRead, []StoredPickup{*s})
	t.How = how
	add := func(t notify.Told) {
		if err == nil {
			var m NewMail
			m, err = v.queued(t)
			mails = append(mails, m)
		}
	}
	if asked(s, "SUCCESS") {
		t := t
		t.Delivery = v.delivery(s)
		t.Delivery.Recipients = []notify.Status{{Final: s.Recipient, Original: s.ORCPT, Action: "delivered", Code: "2.0.0"}}
		add(t)
	}
	if s.Receipt {
		t := t
		t.ID = seal.NewID()
		t.Receipt = &notify.Receipt{
			UA: v.writer.ServerName + "; Postseal", Final: s.Recipient, Original: s.ORCPT, FromReader: t.Link != "",
		}
		add(t)
	}
	if len(mails) == 0 && s.Notify != "NEVER" && v.wantsMail(ctx, s, MailRead) {
		add(t)
	}
	return mails, err
}

// tellBatch is how many items are told of at a time.
const tellBatch = 50

// tellEnds tells senders of messages that are over and were never read, and of
// those that soon will be; each once, whoever else does the same.
func (v *Vault) tellEnds(ctx context.Context) error {
	err := v.tellAll(ctx, func() ([]StoredPickup, error) { return v.store.Unsettled(ctx, tellBatch) }, v.endMail, v.store.SettleEnd)
	if err != nil {
		return err
	}
	return v.tellAll(ctx, func() ([]StoredPickup, error) {
		return v.store.Expiring(ctx, v.now(), v.senders.before, tellBatch)
	}, v.reminder, v.store.Remind)
}

func (v *Vault) tellAll(ctx context.Context, due func() ([]StoredPickup, error), write func(context.Context, []StoredPickup) (*NewMail, error),
	settle func(context.Context, []StoredPickup, time.Time, *NewMail) error) error {
	for {
		list, err := due()
		if err != nil || len(list) == 0 {
			return err
		}
		progress := false
		for _, group := range byItem(list) {
			mail, err := write(ctx, group)
			if err != nil {
				return err
			}
			err = settle(ctx, group, v.now(), mail)
			if errors.Is(err, ErrSettled) {
				continue // by another process, or it was read just now
			} else if err != nil {
				return err
			}
			progress = true
			if mail != nil {
				v.log.Info("sender told", "item", group[0].ItemID, "kind", mail.Kind, "recipients", len(group))
				v.wake()
			}
		}
		if !progress {
			return nil // the next run sees what is left
		}
	}
}

// byItem parts pickups, in the order of items, by item and state.
func byItem(list []StoredPickup) (groups [][]StoredPickup) {
	at := make(map[[2]string]int)
	for _, s := range list {
		key := [2]string{s.ItemID, s.State}
		i, ok := at[key]
		if !ok {
			i = len(groups)
			at[key] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], s)
	}
	return groups
}

// endMail writes the report that a message is over and was not read; nil where
// nobody is to be told.
func (v *Vault) endMail(ctx context.Context, group []StoredPickup) (*NewMail, error) {
	what, setting, status := MailExpired, MailExpired, notify.Status{Code: "5.4.7", Diagnostic: "x-postseal; not read before it expired"}
	if group[0].State == StateRetracted {
		what, setting, status = StateRetracted, MailFailure, notify.Status{Code: "5.7.1", Diagnostic: "x-postseal; taken back by an administrator, unread"}
	}
	var list []StoredPickup
	for _, s := range group {
		if v.wantsFailure(&s, setting) {
			list = append(list, s)
		}
	}
	return v.failed(ctx, what, list, status)
}

// failed writes a report that a message did not reach these recipients; nil where
// there are none.
func (v *Vault) failed(ctx context.Context, what string, list []StoredPickup, status notify.Status) (*NewMail, error) {
	if len(list) == 0 {
		return nil, nil
	}
	t := v.told(ctx, what, list)
	t.Delivery = v.delivery(&list[0])
	for _, s := range list {
		status := status
		status.Final, status.Original, status.Action = s.Recipient, s.ORCPT, "failed"
		t.Delivery.Recipients = append(t.Delivery.Recipients, status)
	}
	m, err := v.queued(t)
	return &m, err
}

func (v *Vault) reminder(ctx context.Context, group []StoredPickup) (*NewMail, error) {
	var list []StoredPickup
	for _, s := range group {
		if s.Notify != "NEVER" && v.wantsMail(ctx, &s, MailExpiring) {
			list = append(list, s)
		}
	}
	if len(list) == 0 {
		return nil, nil
	}
	m, err := v.queued(v.told(ctx, MailExpiring, list))
	return &m, err
}

// replyMail writes the mail that a recipient has replied; nil where none is wanted.
func (v *Vault) replyMail(ctx context.Context, p *Pickup) (*NewMail, error) {
	s, err := v.store.PickupByID(ctx, p.id)
	if err != nil {
		return nil, err
	}
	if !v.wantsMail(ctx, s, MailReply) {
		return nil, nil
	}
	m, err := v.queued(v.told(ctx, MailReply, []StoredPickup{*s}))
	return &m, err
}

// Downloaded notes that the recipient has downloaded the original.
func (v *Vault) Downloaded(ctx context.Context, p *Pickup) {
	v.note(ctx, p.ItemID, p.id, EventDownload, "")
}
