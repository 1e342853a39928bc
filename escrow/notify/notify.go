// Package notify writes the mails of the escrow and hands them to Postfix.
//
// On the way of a mail: when a message is sealed, the vault writes a notice for
// each recipient ([Notice]) into its outbox, in the same transaction. [Sender]
// takes it from there to the Postfix port for notices, past every rule, and
// only then it is deleted. So a notice is never lost; a crash between Postfix's
// 250 and the deletion sends it twice, with the same Message-ID.
//
// Everything sent is text that this package wrote. Nothing of a sealed message
// is in it, not even the subject.
package notify

import "time"

// Mail is a mail ready to be sent.
type Mail struct {
	From string `json:"from"` // envelope sender, "" for the null sender
	To   string `json:"to"`   // envelope recipient, RFC 5321 form
	Text []byte `json:"text"` // RFC 5322, lines end with CR LF, 7-bit but for addresses (RFC 6532)
}

// Entry is a mail in the outbox.
type Entry struct {
	Mail
	ID       string
	Kind     string
	Attempts int // that failed
	Created  time.Time
}
