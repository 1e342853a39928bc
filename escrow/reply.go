package escrow

import (
	"errors"
	"time"
)

// Limits of a reply.
const (
	MaxReplyText  = 256 << 10 // bytes
	MaxReplyFiles = 20
)

// ErrTooLarge reports a reply whose text or files exceed the limit.
var ErrTooLarge = errors.New("escrow: the reply is too large")

// States of a reply.
const (
	ReplyDraft  = "draft"
	ReplyQueued = "queued" // Postfix has not taken it yet
	ReplySent   = "sent"
	ReplyFailed = "failed" // it came back, or can't be delivered
)

// Reply is a recipient's answer to a message: a draft, or sent.
type Reply struct {
	ID      string
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
	Sent    time.Time // zero: not yet
}

// ReplyFile is an attachment of a reply.
type ReplyFile struct {
	N         int
	Name      string
	MediaType string
	Size      int64 // bytes
}
