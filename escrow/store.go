package escrow

import (
	"context"
	"time"

	"github.com/postseal/postseal/internal/audit"
)

// Store keeps what the vault seals. All that it is given of messages, links,
// codes, passphrases and mails is encrypted or hashed already. Each method that
// changes something is one transaction, on the disk when it returns.
type Store interface {
	PinLedger
	AccountStore
	InboxStore
	SenderStore
	ReplyStore
	RecoveryStore

	// Create makes items exist: the pickups, wraps, chunks and mails of each,
	// and the settlements of all their recipients. If one of these is settled
	// already nothing is written, and the error wraps ErrSettled. Nor is anything where
	// more than the quota would be held: then it is a *QuotaError.
	Create(ctx context.Context, items []NewItem, d Digest, sender string, recipients []string, q Quota) error
	// Usage returns how many bytes of messages are held of each sender domain ("": the
	// null sender): what has not ended, or is on hold.
	Usage(ctx context.Context) (map[string]int64, error)

	// PickupBySecret finds a pickup by the hash of its link's secret, in any
	// state; ErrUnknown if there is none.
	PickupBySecret(ctx context.Context, item string, secretHash []byte) (*StoredPickup, error)
	// PickupByID finds a pickup by its id; ErrUnknown if there is none.
	PickupByID(ctx context.Context, id string) (*StoredPickup, error)
	// Pickups lists, the newest first.
	Pickups(ctx context.Context, f PickupFilter) ([]StoredPickup, error)
	// Wrap returns a pickup's wrapped key, ErrUnknown if it is gone.
	Wrap(ctx context.Context, pickup string) ([]byte, error)
	// RecoverWrap returns an item's own wrap, ErrUnknown if it has none.
	RecoverWrap(ctx context.Context, item string) ([]byte, error)
	// Chunk returns the nth chunk of an item's ciphertext, from 0, in the memory of
	// buf where it has room; nil after the last.
	Chunk(ctx context.Context, item string, n int, buf []byte) ([]byte, error)
	// MarkRead turns a held pickup into a read one, and queues mails. first is
	// false if it was not held: then nothing is done.
	MarkRead(ctx context.Context, pickup, how string, now time.Time, mails []NewMail) (first bool, err error)
	// Relink gives a pickup that is held or read a new secret, and drops its
	// codes and unsent mails; ErrUnknown if it is over.
	Relink(ctx context.Context, pickup string, link Link, now time.Time) error
	// Retract ends the pickups of an item that are held or read, of one recipient
	// (folded) or of all (""), and deletes their wraps, codes and unsent mails. by
	// is who does it: the sender need not be told of what the sender did. n is how
	// many it ended.
	Retract(ctx context.Context, item, recipient, by string, now time.Time) (n int, err error)
	// ExpireDue does the same for pickups whose time is over.
	ExpireDue(ctx context.Context, now time.Time) (n int, err error)
	// Sweep deletes, in small transactions, what nothing needs any more: chunks
	// of ended items, codes, counters, settlements, and ended pickups older
	// than keep.
	Sweep(ctx context.Context, now time.Time, keep time.Duration) error

	// Hold puts an item on legal hold; ErrUnknown, ErrOver or ErrHeld if that can't be.
	// Its pickups end as others do, but what their keys were is kept, and so is the
	// item's own key and its ciphertext.
	Hold(ctx context.Context, item, note string, now time.Time) error
	// Release ends a legal hold, ErrNotHeld if there is none, and deletes the keys of what
	// ended meanwhile.
	Release(ctx context.Context, item, note string, now time.Time) error
	// ForgetItems deletes what is still known of items that have ended and are purged: of one,
	// or of all that ended before a time (not zero). ErrUnknown, ErrNotOver or ErrHeld
	// where it was one for which that can't be.
	ForgetItems(ctx context.Context, item string, before, now time.Time) (n int, err error)

	// AddCode keeps the tag of a code and queues its mail. Of a pickup's codes
	// at most keep stay, the newest.
	AddCode(ctx context.Context, pickup string, tag []byte, expires time.Time, keep int, mail NewMail) error

	// Charge counts one try against every limit, or if one of them is locked
	// against none: then locked is until when. A try that reaches a limit is
	// allowed, and locks it; those are returned.
	Charge(ctx context.Context, limits []Limit, now time.Time) (locked time.Time, locks []string, err error)
	// Refund takes back one try, and the locks that it made.
	Refund(ctx context.Context, limit Limit, locked bool) error
	// Forget deletes counters and their locks.
	Forget(ctx context.Context, keys []string) error
	// Unlock deletes counters and their locks for an administrator, and logs that with the
	// entry, where there are any. n is how many.
	Unlock(ctx context.Context, keys []string, e audit.Entry) (n int, err error)
	// Locked returns until when the keys are locked, zero if they are not.
	Locked(ctx context.Context, keys []string, now time.Time) (time.Time, error)
	// TellLock queues a mail if one of the keys has a lock, made before that
	// time, of which nobody was told.
	TellLock(ctx context.Context, keys []string, before, now time.Time, mail NewMail) (told bool, err error)

	// NoticeBounced marks a notice as bounced and queues a mail (nil: none), the
	// first time. Where there is a mail, the sender is told of the end with it.
	NoticeBounced(ctx context.Context, pickup string, mail *NewMail) (first bool, err error)
	// NoticeAnswered queues the answer to a reply, the first time.
	NoticeAnswered(ctx context.Context, pickup string, mail NewMail) (first bool, err error)

	// SetRecipient keeps a setting in the place of the one there was.
	SetRecipient(ctx context.Context, r StoredRecipient) error
	// Recipients returns the settings of these folded addresses, or of all
	// (nil), sorted.
	Recipients(ctx context.Context, addresses []string) ([]StoredRecipient, error)
	// ResetRecipient deletes a setting.
	ResetRecipient(ctx context.Context, address string) (deleted bool, err error)

	// DueMails returns mails whose time to send has come, the oldest first, and
	// when the next of the others is due, zero if there are none.
	DueMails(ctx context.Context, now time.Time, limit int) (mails []StoredMail, next time.Time, err error)
	// MailSent deletes a mail and marks its notice as sent.
	MailSent(ctx context.Context, id string, now time.Time) error
	// MailFailed puts a mail off.
	MailFailed(ctx context.Context, id string, due time.Time) error
	// OldestMail returns when the oldest mail was queued, zero if there is none.
	OldestMail(ctx context.Context) (time.Time, error)

	// Audit appends entries to the audit log. What the other methods change they log
	// themselves, in their transactions.
	Audit(ctx context.Context, entries ...audit.Entry) error
	// AuditAccess appends the entry of a reading or a download, unless the same client
	// has done the same within minutes.
	AuditAccess(ctx context.Context, e audit.Entry) error

	// Checkpoint clears deleted content from the database's journal; not done where
	// somebody still reads an older state.
	Checkpoint(ctx context.Context) (done bool, err error)
}

// NewItem is one sealed message to be created.
type NewItem struct {
	ID      string
	Sender  string
	QueueID string
	Mode    string
	Size    int64
	Created time.Time
	Expires time.Time
	Recover []byte // nil in mode sealed

	Recovery []RecoveryWrap // for the recovery keys

	Mails     []NewMail
	Summary   []byte // what lists show, under the server's keys; nil in mode sealed
	MessageID string // of the sealed message, without brackets
	Receipt   bool   // a read receipt was asked for
	EnvID     string // as in [Message]
	Ret       string

	Pickups  []NewPickup
	WriteOut func(chunk func([]byte) error) error // gives the ciphertext; a chunk is not kept by the caller
}

// NewPickup is a recipient of a NewItem.
type NewPickup struct {
	ID        string
	Recipient string
	Folded    string
	Notify    string // as in [Recipient]
	ORCPT     string
	Language  string
	Expires   time.Time
	Lifetime  time.Duration // of a message with its rules; zero: as for all
	Most      time.Time     // it is never extended beyond; zero: no end
	Link      Link
}

// Link is what a new link brings along.
type Link struct {
	Verify     string
	SecretHash []byte
	Wrap       []byte
	Passphrase []byte // how it is hashed, nil where none is needed
	Mail       NewMail
}

// NewMail is a mail to be queued.
type NewMail struct {
	ID      string
	Kind    string
	Pickup  string // dies with it; "": with none
	Sealed  []byte // envelope and text, under the server's keys
	Created time.Time
	Until   time.Time // not sent after that; zero: no end
}

// StoredMail is a queued mail.
type StoredMail struct {
	NewMail
	Attempts int
}

// StoredPickup is a pickup with what it needs of its item.
type StoredPickup struct {
	ID, ItemID, Recipient, Folded, Sender, QueueID string
	Verify, Mode, State, Notice                    string
	Size                                           int64
	Created, Expires, ReadAt                       time.Time
	SecretHash, Passphrase                         []byte

	Notify, ORCPT, EnvID, Ret string // as in [Message] and [Recipient]
	MessageID                 string // of the sealed message, without brackets
	Receipt                   bool   // a read receipt was asked for
	ReadHow                   string // the verification of the first reader
	Language                  string
	Hold                      Hold          // of its item
	Lifetime                  time.Duration // by rule; zero: as for all
	Most                      time.Time     // it is never extended beyond; zero: no end
}

// PickupFilter selects pickups: by what is not zero. Addresses are folded.
type PickupFilter struct {
	ItemID, Recipient, Sender, State string
	Now                              time.Time // pickups whose time is over count as expired
	Limit                            int
}

// Limit is a counter of tries, under an opaque key.
type Limit struct {
	Key           string
	Tries         int           // that lock
	Window        time.Duration // after the first of them tries are forgotten
	First, Most   time.Duration // of a lock: each doubles the one before
	ForgetDoubles time.Duration // quiet time after which doubling starts anew
}

// StoredRecipient is a recipient's setting.
type StoredRecipient struct {
	Address    string // folded
	Verify     string
	Passphrase []byte // how it is hashed
	Hashed     []byte // under the server's keys
	Changed    time.Time
}
