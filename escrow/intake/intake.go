// Package intake takes messages from Postfix: over LMTP as the splitter
// ([Splitter]), over SMTP as the fallback of mandatory TLS ([Fallback]).
//
// The way of a mail: the message is read once into a spool (intake/spool), its
// digest is taken on the way, and its header is read for the subject and for
// marks. Each recipient is decided anew by policyd/policy, with the requirement
// that the port carries. Then it is sealed (escrow), or given back to Postfix
// (intake/reinject) for mandatory TLS, or, where nothing is required or the
// recipient is of this server, without a demand. Only when that is on the disk,
// here or in Postfix's queue, does the recipient get its 250. Everything that
// goes wrong is a 4xx, and Postfix keeps the message and comes again; the ledger
// knows what was done already.
//
// Nothing is sent to the outside from here, and nothing is decided here.
//
// The server side of the protocol is go-smtp, behind a [wire] that makes good what
// it would get wrong: see there.
package intake

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/policyd/policy"
)

// MarkHeader is the header field that carries a requirement through the queue,
// where a FILTER gets lost (postsuper -r). Its value is signed.
const MarkHeader = "X-Postseal-Requirement"

// Decider decides for one recipient; [*policy.Engine].
type Decider interface {
	Decide(ctx context.Context, q policy.Question) (policy.Answer, error)
}

// Vault seals; [*escrow.Vault].
type Vault interface {
	// Seal seals for all recipients or for none, and settles them. A
	// [*escrow.RecipientError] names those that it can't be done for.
	Seal(ctx context.Context, m escrow.Message) (ids []string, err error)
	// IsBounceAddress reports whether an address is the envelope sender of one
	// of our own notices.
	IsBounceAddress(address string) (token string, ok bool)
	// IsReply reports whether an address is the envelope sender of a reply that
	// its recipient has written at the portal.
	IsReply(address string) bool
	// Bounced takes what came to such an address, from an envelope sender ("" for
	// the null sender).
	Bounced(ctx context.Context, token, from string, report io.Reader) error
	// Mark makes a value of [MarkHeader].
	Mark(r policy.Requirement, sender string) string
	// VerifyMark reads a value of [MarkHeader].
	VerifyMark(value, sender string) (r policy.Requirement, ok bool)
}

// Prober looks at a destination, unless it was looked at within maxAge.
type Prober interface {
	Look(ctx context.Context, dest string, demand policy.TLSParams, maxAge time.Duration) (policy.Posture, error)
}

// NullMXer is what a [Prober] may add: whether a domain whose posture is
// [policy.NoMail] says so itself, by a null MX (RFC 7505), or does not exist. Without
// it the latter is assumed.
type NullMXer interface {
	NullMX(ctx context.Context, domain string) bool
}

// Answerer is what a [Prober] may add: whether some mail host of a destination answered
// at the last look, whatever its TLS is worth. Without it nobody knows, and what can't be
// verified waits.
type Answerer interface {
	Answers(ctx context.Context, dest string) bool
}

// Config is what splitter and fallback need. Decider, Vault, Ledger and the
// addresses of re-injection are needed, Prober for the fallback alone.
type Config struct {
	Decider  Decider
	Vault    Vault
	Ledger   escrow.Ledger
	Triggers func() *policy.Triggers // the current ones; nil: there are none
	Prober   Prober
	// Aliases returns whom Postfix would make of a recipient. The splitter asks for
	// what Postseal composed itself: it came past cleanup(8), and no port that it is
	// given back to knows aliases. nil: there are none.
	Aliases func(ctx context.Context, a policy.Address) ([]policy.Address, error)

	// Where messages are given back to Postfix, HOST:PORT or unix:PATH.
	Plain  string // nothing is demanded, 8651
	Secure string // mandatory TLS, then the fallback, 8652
	Forced string // mandatory TLS, 8654

	MaxMessageSize int64  // bytes; 0: no limit
	SpoolDir       string // for large messages, encrypted; "": the system's
	Hostname       string // in greetings
	// RequeueUID is the user id of Postfix's mail_owner: postsuper -r puts a
	// Received field with it on top. "": none is looked for.
	RequeueUID string
	Grace      time.Duration // see policy.Posture.InGrace
	InHand     *InHand       // shared by all listeners of a process; nil: one for each

	Now        func() time.Time
	Log        *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
	// Crash is called at named points, for tests that end the process there. It
	// may be nil.
	Crash func(point string)
	// Audit takes the decisions of which nothing comes that is kept: refusals, and what
	// waits. What is sealed or given back is logged in the transaction that says so. nil:
	// nobody takes them.
	Audit Auditor
	// Pin is told each recipient whose sealing Postfix may not have learned of
	// yet, before it is sealed. It may be nil.
	Pin func(recipient string)
}

func (c Config) withDefaults() Config {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Triggers == nil {
		c.Triggers = func() *policy.Triggers { return nil }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Crash == nil {
		c.Crash = func(string) {}
	}
	if c.Pin == nil {
		c.Pin = func(string) {}
	}
	if c.InHand == nil {
		c.InHand = new(InHand)
	}
	if c.Hostname == "" {
		c.Hostname = "localhost"
	}
	return c
}
