package escrow

import (
	"context"
	"errors"
	"time"
)

// Limits of a reply.
const (
	MaxReplyText  = 256 << 10 // bytes
	MaxReplyFiles = 20
	// DefaultReplySize is how large the files of a reply may be together, in
	// bytes.
	DefaultReplySize = 60 << 20
)

var (
	// ErrTooLarge reports a reply whose text or files exceed the limit.
	ErrTooLarge = errors.New("escrow: the reply is too large")
	// ErrNobody reports a message that can't be answered: it names no address
	// on its sender's side.
	ErrNobody = errors.New("escrow: there is nobody to reply to")
	// ErrEmpty reports a reply with neither text nor files.
	ErrEmpty = errors.New("escrow: the reply is empty")
)

// ReplyOptions of [NewVault]. The zero ReplyOptions are good.
type ReplyOptions struct {
	Size     int64  // of a reply's files together, bytes; zero: [DefaultReplySize]
	SpoolDir string // where a file waits, encrypted, while it is uploaded; "": the system's
	Wake     func() // called after a reply was queued
}

func (o ReplyOptions) filled() ReplyOptions {
	if o.Size <= 0 {
		o.Size = DefaultReplySize
	}
	if o.Wake == nil {
		o.Wake = func() {}
	}
	return o
}

// States of a reply.
const (
	ReplyDraft  = "draft"
	ReplyQueued = "queued" // Postfix has not taken it yet
	ReplySent   = "sent"
	ReplyFailed = "failed" // it came back, or can't be delivered
)

// Reply is a recipient's answer to a message: a draft, or sent.
type Reply struct {
	ID      string // "": nothing is saved yet
	State   string
	All     bool     // to all of the sender's side, not to the sender alone
	To      []string // for display: whom it goes to
	Cc      []string
	AllTo   []string // whom a reply to all would add; nil: nobody
	Subject string
	Text    string
	Files   []ReplyFile
	Size    int64 // of the files, bytes
	Most    int64 // that the files may have together, bytes
	Created time.Time
	Changed time.Time
	Sent    time.Time // when it was queued; zero: not yet
	Failed  []string  // those of To and Cc whom it did not reach, where it is failed
}

// ReplyFile is an attachment of a reply.
type ReplyFile struct {
	N         int // names it in its reply, for ever: numbers of removed files are not used again
	Name      string
	MediaType string
	Size      int64 // bytes
}

// ReplyStore keeps replies. All that it is given is encrypted.
type ReplyStore interface {
	// ReplyDraft returns the draft of a pickup, ErrUnknown if there is none.
	ReplyDraft(ctx context.Context, pickup string) (*StoredReply, error)
	// SentReplies returns a pickup's replies that are no drafts, the oldest first.
	SentReplies(ctx context.Context, pickup string) ([]StoredReply, error)
	// ReplyByID returns a reply, ErrUnknown if there is none.
	ReplyByID(ctx context.Context, id string) (*StoredReply, error)
	// CreateReply adds a draft, ErrChanged if the pickup has one.
	CreateReply(ctx context.Context, r StoredReply) error
	// ChangeReply changes a reply that is still as it was read, else ErrChanged.
	ChangeReply(ctx context.Context, c ReplyChange) error
	// DeleteReply deletes a reply that is still as it was read, else ErrChanged.
	DeleteReply(ctx context.Context, id string, version int64) error
	// ReplyChunk returns the nth chunk of a file's ciphertext, from 0; nil after
	// the last.
	ReplyChunk(ctx context.Context, reply string, file, n int, buf []byte) ([]byte, error)
	// DueReplies returns queued replies whose time has come, the oldest first,
	// and when the next of the others is due, zero if there are none.
	DueReplies(ctx context.Context, now time.Time, limit int) (replies []StoredReply, next time.Time, err error)
	// OldestReply returns when the oldest queued reply was sent off, zero if there
	// is none.
	OldestReply(ctx context.Context) (time.Time, error)
}

// StoredReply is a reply as it is kept.
type StoredReply struct {
	ID, Pickup, State               string
	Version                         int64
	Wrap                            []byte // its key, under the server's keys; nil: over
	Sealed                          []byte // all that is to be known of it, under its key
	Size                            int64  // of the files, bytes
	Attempts                        int
	Created, Changed, Due, QueuedAt time.Time
}

// ReplyChange is what becomes of a reply. Everything in it counts.
type ReplyChange struct {
	ID                     string
	Version                int64 // of the reply that was read
	State                  string
	Sealed                 []byte
	Size                   int64
	Attempts               int
	Changed, Due, QueuedAt time.Time

	Drop    int // number of a file to be deleted; 0: none
	DropAll bool
	// Add is the number of a file to be added, 0 for none. WriteOut gives its
	// ciphertext; a chunk is not kept by the caller.
	Add      int
	WriteOut func(chunk func([]byte) error) error
	// Quota bounds what a file may be added to: messages that are held and files of replies
	// that have not gone off, together. Beyond its total it is a *QuotaError.
	Quota Quota
	Mail  *NewMail // queued with it, nil for none
}
