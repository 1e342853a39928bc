// Package policy decides how one mail may leave. It is the vocabulary that
// every other package shares: what a [Rule] demands, which [Channels] that
// leaves, what is known of a destination ([Posture]) and what follows
// ([Decide]).
//
// The way of a mail starts here. A rule's [Requirement] allows a set of
// channels. The rules of four scopes (recipient, envelope sender, SASL login,
// content) are looked up in a [Snapshot], the most specific of each; their sets
// are intersected, so that no scope weakens another; and of what is left one
// channel is preferred: plain where nothing is required, else TLS where it may
// work, else the escrow, else nothing at all. policyd answers Postfix's policy
// queries with the verdict, tlsmap its table lookups, escrow/intake acts on it.
//
// The package does no I/O and keeps no clock: the time is an argument.
package policy

import (
	"fmt"
	"strings"
)

// Channel is one way to deliver a message.
type Channel uint8

// The channels. Their zero value is no channel.
const (
	TLS    Channel = 1 << iota // SMTP over TLS, mandatory (RFC 3207)
	Escrow                     // sealed here, picked up on a web page
	Plain                      // whatever Postfix does by itself: opportunistic TLS
)

func (c Channel) String() string {
	switch c {
	case TLS:
		return "tls"
	case Escrow:
		return "escrow"
	case Plain:
		return "plain"
	}
	return "none"
}

// Channels is a set of channels.
type Channels uint8

// AnyChannel allows everything: nothing is required.
const AnyChannel = Channels(TLS | Escrow | Plain)

// Has reports whether c is in the set.
func (s Channels) Has(c Channel) bool { return s&Channels(c) != 0 }

// In reports whether every channel of s is in t.
func (s Channels) In(t Channels) bool { return s&^t == 0 }

// Required reports whether the set forbids plain delivery.
func (s Channels) Required() bool { return !s.Has(Plain) }

func (s Channels) String() string {
	var names []string
	for _, c := range []Channel{TLS, Escrow, Plain} {
		if s.Has(c) {
			names = append(names, c.String())
		}
	}
	if names == nil {
		return "nothing"
	}
	return strings.Join(names, "+")
}

// Requirement returns the requirement whose set s is. An empty set (a conflict)
// has none, and neither has a set that no requirement allows: ok is false.
func (s Channels) Requirement() (r Requirement, ok bool) {
	for r := None; r <= EscrowOnly; r++ {
		if r.Channels() == s {
			return r, true
		}
	}
	return None, false
}

// Requirement is what a rule demands.
type Requirement uint8

// The requirements, by the words of the command line: none, tls, encryption,
// escrow.
const (
	None       Requirement = iota // opportunistic TLS, as Postfix does by itself
	ForcedTLS                     // over TLS or never
	Encryption                    // over TLS where it works, else the escrow
	EscrowOnly                    // always the escrow
)

var requirementNames = [...]string{"none", "tls", "encryption", "escrow"}

func (r Requirement) String() string {
	if int(r) < len(requirementNames) {
		return requirementNames[r]
	}
	return fmt.Sprintf("requirement(%d)", r)
}

// ParseRequirement reads one of the words none, tls, encryption, escrow.
func ParseRequirement(s string) (Requirement, error) {
	for i, n := range requirementNames {
		if s == n {
			return Requirement(i), nil
		}
	}
	return None, fmt.Errorf("unknown requirement %q: want none, tls, encryption or escrow", s)
}

// Channels returns the channels that r allows. An unknown requirement allows
// none.
func (r Requirement) Channels() Channels {
	switch r {
	case None:
		return AnyChannel
	case ForcedTLS:
		return Channels(TLS)
	case Encryption:
		return Channels(TLS | Escrow)
	case EscrowOnly:
		return Channels(Escrow)
	}
	return 0
}

// MarshalText writes the word of the command line.
func (r Requirement) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads the word of the command line.
func (r *Requirement) UnmarshalText(b []byte) (err error) {
	*r, err = ParseRequirement(string(b))
	return err
}

// Scope says which property of a message a rule looks at.
type Scope uint8

// The scopes.
const (
	ByRecipient Scope = iota // envelope recipient: address, domain, .parent, *
	BySender                 // envelope sender: the same, and <> for bounces
	ByLogin                  // SASL login: name, @realm, *
	ByContent                // the subject
	scopes
)

var scopeNames = [...]string{"recipient", "sender", "login", "content"}

func (s Scope) String() string {
	if s < scopes {
		return scopeNames[s]
	}
	return fmt.Sprintf("scope(%d)", s)
}

// ParseScope reads one of the words recipient, sender, login, content.
func ParseScope(w string) (Scope, error) {
	for i, n := range scopeNames {
		if w == n {
			return Scope(i), nil
		}
	}
	return 0, fmt.Errorf("unknown scope %q", w)
}

// MarshalText writes the scope's word.
func (s Scope) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
