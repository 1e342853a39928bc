package escrow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/postseal/postseal/escrow/seal"
)

// ErrNeedsLink reports a message that the inbox lists and can't open: it was
// sealed without a way back, or wants a passphrase. Its link opens it.
var ErrNeedsLink = errors.New("escrow: this message opens by its own link alone")

// Limits of an inbox.
const (
	inboxPage = 50
	// inboxMost is how many messages of one recipient are searched and shown,
	// the newest.
	inboxMost  = 10_000
	inboxBatch = 500 // that a search reads at a time
)

// InboxItem is one message in a recipient's inbox.
type InboxItem struct {
	ItemID   string
	Sender   string // "" for the null sender
	Subject  string // "" where it can't be opened from the inbox
	From     string // of the header, for display; "" as Subject
	Date     time.Time
	Created  time.Time
	Expires  time.Time
	ReadAt   time.Time // zero: not yet
	State    string
	Size     int64
	Mode     string
	Verify   string
	Openable bool // from the inbox; else by its link
	Replied  bool
	Receipt  bool // the sender is told of the first reading, by a read receipt
}

// InboxQuery selects of an inbox. The zero query selects the newest.
type InboxQuery struct {
	Search string // words that sender, From or subject contain, without regard to case
	Offset int
	Limit  int // 0: 50
}

// InboxStore keeps what inboxes list.
type InboxStore interface {
	// InboxPickups lists the pickups of a recipient (folded) in any state, the
	// newest first.
	InboxPickups(ctx context.Context, recipient string, offset, limit int) ([]StoredInboxItem, error)
	// InboxCount returns how many there are.
	InboxCount(ctx context.Context, recipient string) (int, error)
}

// StoredInboxItem is a pickup as inboxes list it.
type StoredInboxItem struct {
	StoredPickup
	Summary []byte // under the server's keys, nil if there is none
	Replied bool
}

// Inbox lists what is held for a device's recipient, and what was until some weeks
// ago, the newest first. total is how many there are in all. Nothing is marked
// read by it. ErrUnknown if the device's time is over.
func (v *Vault) Inbox(ctx context.Context, d *Device, q InboxQuery) (items []InboxItem, total int, err error) {
	if !v.verified(d) {
		return nil, 0, ErrUnknown
	}
	q.Offset = max(q.Offset, 0)
	if q.Limit <= 0 {
		q.Limit = inboxPage
	}
	if search := NewSearch(q.Search); !search.Empty() {
		items, total, err = v.searchInbox(ctx, d, q, search)
	} else if q.Offset < inboxMost {
		if total, err = v.store.InboxCount(ctx, d.Address); err == nil {
			items, err = v.inboxItems(ctx, d, q.Offset, min(q.Limit, inboxMost-q.Offset))
		}
	}
	if err != nil {
		return nil, 0, fmt.Errorf("inbox: %w", err)
	}
	return items, min(total, inboxMost), nil
}

// searchInbox reads all summaries, since they are encrypted, and keeps what it is
// asked for.
func (v *Vault) searchInbox(ctx context.Context, d *Device, q InboxQuery, search Search) (found []InboxItem, total int, err error) {
	for offset := 0; offset < inboxMost; offset += inboxBatch {
		items, err := v.inboxItems(ctx, d, offset, inboxBatch)
		if err != nil {
			return nil, 0, err
		}
		for _, it := range items {
			if !search.Match(it.Sender, it.From, it.Subject) {
				continue
			}
			if total >= q.Offset && len(found) < q.Limit {
				found = append(found, it)
			}
			total++
		}
		if len(items) < inboxBatch {
			break
		}
	}
	return found, total, nil
}

func (v *Vault) inboxItems(ctx context.Context, d *Device, offset, limit int) ([]InboxItem, error) {
	stored, err := v.store.InboxPickups(ctx, d.Address, offset, limit)
	if err != nil {
		return nil, err
	}
	now := v.now()
	items := make([]InboxItem, len(stored))
	for i := range stored {
		s := &stored[i]
		it := InboxItem{
			ItemID: s.ItemID, Sender: s.Sender, Created: s.Created, Expires: s.Expires, ReadAt: s.ReadAt,
			State: stateOf(&s.StoredPickup, now), Size: s.Size, Mode: s.Mode, Verify: s.Verify, Replied: s.Replied, Receipt: s.Receipt && v.canTell(&s.StoredPickup),
		}
		// The subject of a message that this device can't open is not for it,
		// and what is over can't be read any more.
		if it.Openable = openable(&s.StoredPickup, d) && (it.State == StateHeld || it.State == StateRead); it.Openable {
			about := v.openSummary(s.Summary, s.ItemID)
			it.Subject, it.From, it.Date = about.Subject, about.From, about.Date
		}
		items[i] = it
	}
	return items, nil
}

// openable reports whether a device proves enough for a message, without its link.
func openable(s *StoredPickup, d *Device) bool {
	return s.Mode == ModeRecoverable && (s.Verify == VerifyCode || s.Verify == VerifyAccount && d.How == VerifyAccount)
}

// verified reports whether a device is, still.
func (v *Vault) verified(d *Device) bool {
	return d != nil && d.Address != "" && v.now().Before(d.Expires)
}

// InboxOpen finds a message in a device's inbox, for [Vault.Open]. It is
// ErrUnknown where there is none for this recipient, ErrNeedsLink where only its
// link opens it, and with the pickup ErrExpired or ErrRetracted where it is over.
func (v *Vault) InboxOpen(ctx context.Context, d *Device, item string) (*Pickup, *Session, error) {
	if !v.verified(d) || !seal.IsID(item) {
		return nil, nil, ErrUnknown
	}
	now := v.now()
	list, err := v.store.Pickups(ctx, PickupFilter{ItemID: item, Recipient: d.Address, Now: now})
	if err != nil {
		return nil, nil, fmt.Errorf("inbox: %w", err)
	}
	if len(list) == 0 {
		return nil, nil, ErrUnknown
	}
	s := &list[0]
	p := &Pickup{
		ItemID: s.ItemID, Recipient: s.Recipient, Sender: s.Sender, Verify: s.Verify, Mode: s.Mode, State: stateOf(s, now),
		Created: s.Created, Expires: s.Expires, ReadAt: s.ReadAt, Size: s.Size, Language: s.Language, Tag: d.Tag, id: s.ID, folded: s.Folded,
		Receipt: s.Receipt && v.canTell(s),
	}
	switch {
	case p.State == StateRetracted:
		return p, nil, ErrRetracted
	case p.State == StateExpired:
		return p, nil, ErrExpired
	case !openable(s, d):
		return p, nil, ErrNeedsLink
	}
	session := &Session{Expires: d.Expires, How: d.How, pickup: s.ID, recover: true, device: d.id}
	if p.Expires.Before(session.Expires) {
		session.Expires = p.Expires
	}
	return p, session, nil
}

// recoverKey returns the key of a message by its own wrap: ErrUnknown where there
// is none, or it is gone.
func (v *Vault) recoverKey(ctx context.Context, item string) (*seal.Key, error) {
	wrap, err := v.store.RecoverWrap(ctx, item)
	if err != nil {
		return nil, err
	}
	return seal.UnwrapRecover(v.keys.aead, wrap, item)
}

// Peek returns the raw message as [Vault.Open] does, and does not count as
// reading: for what looks into a message to list or search it.
func (v *Vault) Peek(ctx context.Context, p *Pickup, s *Session) (io.ReadCloser, error) {
	if s == nil || s.pickup != p.id || !v.now().Before(s.Expires) {
		return nil, ErrUnknown
	}
	var key *seal.Key
	var err error
	if s.recover {
		// The item's own wrap outlives the one pickup that was retracted.
		if _, err = v.store.Wrap(ctx, p.id); err == nil {
			key, err = v.recoverKey(ctx, p.ItemID)
		}
	} else {
		key, err = v.unwrap(ctx, p, s.hashed)
	}
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	chunks := v.chunks(ctx, p.ItemID)
	r, err := key.Decrypt(chunks, p.ItemID, partRaw)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	return &messageReader{Reader: r, left: p.Size}, nil
}
