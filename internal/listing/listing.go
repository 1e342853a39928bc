// Package listing is what the admin pages ask the database for, and what they get: rows
// of lists, a page at a time, and the figures of the overview. It does no I/O.
//
// A list is read along an index, from a [Key] on, so that a page costs the same whether
// there are ten rows or a million, and stays where it is while others write. What no
// index knows (a word within a name, say) is looked for in so many rows at most, and the
// page then says where to go on.
//
// Nothing here holds a word of a message, a subject, a file name, a link, a code or a key.
package listing

import (
	"time"
)

// Rows is a page of a list.
type Rows[T any] struct {
	All []T
	// Next is where the following page begins; nil on the last one.
	Next Key
	// Partial is set where the search ended before the page was full, since it has looked at
	// as many rows as one page may: there may be more from Next on.
	Partial bool
}

// Page says which page of a list is asked for.
type Page struct {
	After Key // where the page before has ended; nil: the first
	Limit int // rows, at least 1
}

// Message is a sealed message for one of its recipients.
type Message struct {
	Item, QueueID     string
	Sender, Recipient string // as they came; "" for the null sender
	State             string // as escrow.Listed has it
	Verify, Mode      string
	Notice            string // queued, sent, bounced
	Size              int64  // bytes of the raw message
	Sealed, Expires   time.Time
	Read, Ended       time.Time // zero: not
	ReadHow           string    // the verification of the first reader
	Most              time.Time // it can't be extended beyond; zero: no end
	Language          string
	Held              bool // on legal hold
}

// Shows are the messages that a list can be limited to, beside the states.
const (
	OnHold  = "hold"
	Bounced = "bounced" // whose notice came back
)

// MessageQuery selects messages: by what is not zero. Addresses are folded, domains
// canonical.
type MessageQuery struct {
	Page
	Item, QueueID     string
	Sender, Recipient string
	FromDomain        string
	ToDomain          string
	Show              string // a state, [OnHold], [Bounced]
	Since, Until      time.Time
	Now               time.Time // what has expired by then counts as expired
}

// Item is what all recipients of a message have in common.
type Item struct {
	ID, QueueID, Sender, Mode string
	Size                      int64
	Sealed, Expires           time.Time
	Ended                     bool // no recipient can read it any more
	Kept                      bool // its ciphertext is still there
	Recovery                  int  // for how many recovery keys it is wrapped
	HeldAt                    time.Time
	HeldBy, HeldNote          string
}

// Person is a recipient: somebody who was sent a message, for whom something is set, or
// who has an account.
type Person struct {
	Address    string // folded
	Verify     string // what is set; "": nothing
	Passphrase bool   // one is set
	Set        time.Time
	Account    bool
	Password   bool
	TOTP       bool
	Passkeys   int
	Enrolled   time.Time
	Devices    int // browsers that are signed in
	Messages   int // of the newest [MostCounted], those that can still be read
	Last       time.Time
}

// MostCounted is how far what is counted for a page is counted.
const MostCounted = 1000

// What persons a list can be limited to.
const (
	WithAccount = "account"
	WithSetting = "setting"
)

// PersonQuery selects recipients.
type PersonQuery struct {
	Page
	Exactly  string // this one alone
	Contains string // within the address, lower case
	Show     string // [WithAccount], [WithSetting]
	Now      time.Time
}

// What rules a list can be limited to.
const (
	Weaker    = "weaker"   // than a broader rule
	Overrides = "override" // of DANE and MTA-STS
	Ending    = "ending"   // at a time
)

// RuleQuery selects rules. Words are as the database has them.
type RuleQuery struct {
	Page
	Scope       string
	Requirement string
	Contains    string // within the pattern, lower case
	Show        string
}

// Mail is one that waits to be handed to Postfix.
type Mail struct {
	ID, Kind            string
	Item, Recipient     string // of the message that it dies with; "": of none
	Attempts            int
	Queued, Due, Expiry time.Time // Expiry zero: none
}

// MailQuery selects mails that wait, the oldest first.
type MailQuery struct {
	Page
	Kind   string
	Failed bool // at least once
}

// Reply is an answer on its way to the sender.
type Reply struct {
	ID, Item, Recipient string // Recipient is who wrote it
	State               string
	Attempts            int
	Size                int64 // of its files, bytes
	Queued, Due         time.Time
}

// AuditQuery selects entries of the audit log, the newest first. Addresses are folded.
type AuditQuery struct {
	Page
	Kinds             []string
	Item              string
	Sender, Recipient string
	Actor             string // a kind of actor, a name or a client address
	Since, Until      time.Time
}

// Checkpoint is a signed one of the audit log.
type Checkpoint struct {
	Kind string
	At   time.Time
	Seq  int64
}

// Summary is the overview.
type Summary struct {
	States  map[string]Count // messages, by state
	OnHold  Count
	Bounced Count // messages that can be read whose notice came back
	Ending  Count // unread ones that end before a time
	Mails   Count // in the outbox
	Retried Count // of those, tried before
	Oldest  time.Time
	Replies Count // on their way
	Bytes   int64 // of messages that are held
	Domains []Usage

	Checkpoint *Checkpoint // the last daily one; nil: there is none
	Entries    int64       // number of the newest entry of the audit log
}

// Count is a number that was counted so far.
type Count struct {
	N    int
	More bool // there are more than N
}

// MostTold is how far the overview counts.
const MostTold = 100_000

// Usage is what is held of a sender domain.
type Usage struct {
	Domain string // "": the null sender
	Bytes  int64
	Items  int64
}
