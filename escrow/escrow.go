// Package escrow keeps messages that could not go by TLS, sealed, until their
// recipients have picked them up.
//
// The way of a mail continues here: escrow/intake takes it from Postfix and
// calls [Vault.Seal]; in one transaction the sealed message, a pickup for each
// recipient, the notices (escrow/notify) and the record that keeps a retry from
// sealing twice come into being; escrow/portal shows it to whoever proves to be
// the recipient. Nothing here decides whether a message may be sealed: that is
// policyd/policy.
package escrow

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// Verifications, by the words of the command line.
const (
	VerifyCode       = "code"       // a one-time code by mail
	VerifyPassphrase = "passphrase" // agreed by other means, set beforehand
	VerifyAccount    = "account"    // enrolled at the first pickup: passkey or password
)

// Modes, by the words of the command line.
const (
	ModeRecoverable = "recoverable" // a lost notice can be sent anew
	ModeSealed      = "sealed"      // a lost link is a lost message
)

// States of a pickup, as escrow list shows them.
const (
	StateHeld      = "held"      // waiting for its recipient
	StateRead      = "read"      // opened after verification, still readable
	StateExpired   = "expired"   // its time is over, the keys are gone
	StateRetracted = "retracted" // taken back, the keys are gone
)

var (
	// ErrUnknown is all that a stranger learns: no such item, a wrong secret,
	// an expired or a retracted one look the same.
	ErrUnknown = errors.New("escrow: no such message")
	// ErrExpired and ErrRetracted are told only to who has the right secret.
	ErrExpired   = errors.New("escrow: the message has expired")
	ErrRetracted = errors.New("escrow: the message was retracted")
	// ErrWrong reports a wrong code or passphrase, counted against the limits.
	ErrWrong = errors.New("escrow: wrong code or passphrase")
	// ErrNoPassphrase reports that the rule demands a passphrase for a recipient
	// that has none set. Intake answers 4xx and the administrator is told.
	ErrNoPassphrase = errors.New("escrow: no passphrase set for the recipient")
	// ErrSettled reports that a recipient of this very message was settled
	// before: sealing it again would make a second copy.
	ErrSettled = errors.New("escrow: already settled")
	// ErrNoMailbox reports a person's mail to an address that only reports come to.
	ErrNoMailbox = errors.New("escrow: nobody reads mail to this address")
)

// LockedError reports that too many wrong tries were made. Nothing was checked.
type LockedError struct{ Until time.Time }

func (e *LockedError) Error() string {
	return "escrow: locked until " + e.Until.UTC().Format(time.RFC3339)
}

// Digest identifies a message as Postfix hands it over, across retries: SHA-256.
type Digest [32]byte

// Recipient is one recipient of a message to be sealed.
type Recipient struct {
	Address  string // RFC 5321 form, quoted where it must be
	Verify   string // "" for the default of [Options]
	Mode     string // "" for the default, recoverable
	Language string // BCP 47, "" for the default of [Options]
	Notify   string // NOTIFY of the DSN extension (RFC 3461, section 4.1), "" where it was not given
	ORCPT    string // as it came (RFC 3461, section 4.2)
	Life     policy.Lifetimes
}

// Message is what is to be sealed.
type Message struct {
	Sender     string // envelope sender, "" for the null sender
	Recipients []Recipient
	QueueID    string // Postfix's, for logs and listings
	Digest     Digest
	Size       int64  // bytes
	EnvID      string // ENVID, decoded (RFC 3461, section 4.4)
	Ret        string // RET: FULL, HDRS or ""
	// Body opens the raw RFC 5322 bytes, byte for byte as they were received.
	// It may be called more than once.
	Body func() (io.ReadCloser, error)
}

// Outcome says what was done with one recipient of one message.
type Outcome string

// The outcomes.
const (
	OutcomeSealed     Outcome = "sealed"
	OutcomeReinjected Outcome = "reinjected"
)

// Ledger remembers which recipients of which message are settled, for as long
// as Postfix may retry, so that a retry after a lost reply neither seals nor
// re-injects twice. A settlement is keyed by digest, envelope sender and
// recipient (folded).
type Ledger interface {
	// Settled returns the outcome of those recipients that are settled.
	Settled(ctx context.Context, d Digest, sender string, recipients []string) (map[string]Outcome, error)
	// Settle records an outcome. It is called after Postfix's 250.
	Settle(ctx context.Context, d Digest, sender string, recipients []string, o Outcome) error
	// Confirm records that the reply reached Postfix. Until then a recipient is
	// pinned: a retry must come to the splitter again, even where the
	// destination has TLS by now, lest the message be sealed and delivered.
	Confirm(ctx context.Context, d Digest, sender string, recipients []string) error
}
