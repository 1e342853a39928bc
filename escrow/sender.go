package escrow

import "time"

// Events of a pickup, as the sender's page shows them.
const (
	EventNotice    = "notice"    // Postfix took the notice; detail: resent
	EventBounced   = "bounced"   // the notice came back
	EventCode      = "code"      // a code was mailed
	EventLocked    = "locked"    // too many wrong tries
	EventEnrolled  = "enrolled"  // detail: password, passkey
	EventReset     = "reset"     // the account was reset; detail: sender, administrator, mailbox
	EventVerified  = "verified"  // detail: code, passphrase, password, passkey, totp
	EventRead      = "read"      // first reading; detail: the verification
	EventDownload  = "download"  // of the original
	EventReply     = "reply"     // a reply was sent
	EventExtended  = "extended"  //
	EventRetracted = "retracted" //
	EventExpired   = "expired"   //
)

// Event is one line of what happened to a pickup.
type Event struct {
	At     time.Time `json:"at"`
	What   string    `json:"what"`
	Detail string    `json:"detail,omitempty"`
}

// SenderView is what the sender of a message sees of it.
type SenderView struct {
	ItemID     string
	Sender     string
	Mode       string
	Size       int64
	Created    time.Time
	Expires    time.Time // the latest of its recipients
	Recipients []SenderRecipient
}

// SenderRecipient is one recipient on the sender's page.
type SenderRecipient struct {
	ID        string // of the pickup
	Address   string
	State     string
	Notice    string
	Verify    string
	ReadHow   string // the verification at the first reading
	ReadAt    time.Time
	Expires   time.Time
	Locked    time.Time // zero: not locked
	Enrolled  bool      // has an account
	CanResend bool      // and so get a passphrase, for this message
	Events    []Event
}
