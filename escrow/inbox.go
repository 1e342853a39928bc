package escrow

import (
	"errors"
	"time"
)

// ErrNeedsLink reports a message that the inbox lists and can't open: it was
// sealed without a way back, or wants a passphrase. Its link opens it.
var ErrNeedsLink = errors.New("escrow: this message opens by its own link alone")

// InboxItem is one message in a recipient's inbox.
type InboxItem struct {
	ItemID   string
	Sender   string // "" for the null sender
	Subject  string // "" where it is sealed
	From     string // of the header, for display; "" where it is sealed
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
}

// InboxQuery selects of an inbox. The zero query selects the newest.
type InboxQuery struct {
	Search string // words that sender, From or subject contain, without regard to case
	Offset int
	Limit  int // 0: 50
}
