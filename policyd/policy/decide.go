package policy

import (
	"fmt"
	"slices"
	"time"
)

// State is what is known of a destination's TLS.
type State uint8

// The states. Only Absent and Broken are answers of the destination; Unknown
// and Unreachable never weaken anything and never seal.
const (
	Unknown     State = iota // not looked at yet, or DNS failed
	Works                    // Postfix, trying the MX hosts, finds TLS at or above the floor
	Absent                   // some MX answers, and none offers STARTTLS
	Broken                   // STARTTLS is offered, but no handshake meets the demand
	Unreachable              // no MX answers, or only with 4xx
	NoMail                   // authoritative: NXDOMAIN or a null MX (RFC 7505)
)

var stateNames = [...]string{"unknown", "works", "absent", "broken", "unreachable", "nomail"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("state(%d)", s)
}

// ParseState reads the word of [State.String].
func ParseState(w string) (State, error) {
	for i, n := range stateNames {
		if w == n {
			return State(i), nil
		}
	}
	return Unknown, fmt.Errorf("unknown posture state %q", w)
}

// MarshalText writes the state's word.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the state's word.
func (s *State) UnmarshalText(b []byte) (err error) {
	*s, err = ParseState(string(b))
	return err
}

// Posture is what Decide needs to know of a destination, judged against the TLS
// that the rule demands.
type Posture struct {
	State   State
	Checked time.Time // when last looked at
	Worked  time.Time // when TLS was last seen to work; zero: never
	Lost    time.Time // when it was first found absent or broken after it had worked; zero: not lost
	Since   time.Time // since when it has worked without a break, as of Worked; zero: never
	// Alarmed is when the loss of TLS became an alarm; zero: it did not.
	Alarmed time.Time
	// Published is what the destination demands of its senders' TLS.
	Published Published
	// RuleMet says that of the hosts last seen every one whose certificate matched its
	// TLSA records met the rule's names too, and that there was one.
	RuleMet bool
}

// InGrace reports whether the loss of TLS is too fresh to be believed: a
// stripped STARTTLS looks the same as a removed one.
func (p Posture) InGrace(now time.Time, grace time.Duration) bool {
	return (p.State == Absent || p.State == Broken) && !p.Lost.IsZero() && now.Sub(p.Lost) < grace
}

// Input is all that a verdict depends on. Rules are the most specific ones of
// their scope, none where there is none.
type Input struct {
	Recipient Found
	Sender    Found
	Login     Found
	Content   []*Rule // of all triggers that the message sets off
	// Returns is the sender rule that covers the recipient: a bounce carries
	// a message back to its sender, so what a sender requires holds for mail to
	// that address too.
	Returns Found
	// Original is the recipient rule of the address that an alias or a
	// rewriting replaced.
	Original Found

	// DomainTLS is what the rule for the recipient's whole domain demands of the TLS,
	// where Recipient is the rule of an address, which demands nothing of it.
	DomainTLS TLSParams

	// Floor is a requirement carried by the way the message came: the port of
	// the splitter, a FILTER, the fallback.
	Floor Requirement
	// Own says that the recipient's domain is one of this server's own: such
	// mail does not leave, so nothing is demanded of its way.
	Own bool

	Posture Posture
	// TriedByPostfix says that Postfix's own mandatory TLS has just failed, as
	// in the fallback. A posture that only our probe calls broken is not
	// believed without (its TLS library is not Postfix's).
	TriedByPostfix bool
	Now            time.Time
	Grace          time.Duration
}

// rules goes through the rules that there are.
func (in *Input) rules(yield func(Found) bool) {
	for _, r := range [...]*Found{&in.Recipient, &in.Original, &in.Sender, &in.Login} {
		if !r.None() && !yield(*r) {
			return
		}
	}
	for _, r := range in.Content {
		if !yield(r.Found()) {
			return
		}
	}
	if !in.Returns.None() {
		yield(in.Returns)
	}
}

// ByOriginal reports whether the address that an alias or a rewriting replaced
// requires what the recipient, looked up by itself, does not.
func (in *Input) ByOriginal() bool {
	if in.Original.None() {
		return false
	}
	alone := AnyChannel
	for _, r := range [...]Found{in.Recipient, in.Returns} {
		if !r.None() {
			alone &= r.Requirement.Channels()
		}
	}
	return !alone.In(in.Original.Requirement.Channels())
}

// Reason says which step of Decide settled the verdict.
type Reason uint8

// The reasons.
const (
	NothingRequired Reason = iota // no rule forbids plain delivery
	OwnDomain                     // the recipient is of this server
	TLSOnly                       // nothing but TLS is allowed
	EscrowOnlyLeft                // nothing but the escrow is allowed
	TLSWorks                      // TLS preferred: it works
	TLSUntried                    // TLS preferred: nothing known, the escrow is the fallback
	TLSUnreachable                // TLS preferred: the destination does not answer; waits
	TLSInGrace                    // TLS vanished only just now; waits
	TLSDoubted                    // only our probe calls the TLS broken; Postfix tries
	NoTLS                         // the destination answers and has no TLS
	BrokenTLS                     // its TLS fails, by our probe and by Postfix
	NoMailHost                    // authoritative: the domain takes no mail; Postfix bounces it
	Conflict                      // the rules leave nothing
)

// Verdict is what happens to one recipient of one message.
type Verdict struct {
	Allowed Channels // what all scopes together allow; for an own domain, what they would
	Channel Channel  // the one chosen; 0 for a conflict
	Reason  Reason
	TLS     TLSParams // demanded of the TLS, level encrypt or above where TLS is chosen for required mail
	Nexthop string    // of the recipient's rule; "" for the MX of the domain
	Verify  string    // pickup verification, the strictest of all rules; "" for the default
	Mode    string    // seal mode, likewise
	Life    Lifetimes // of the sealed message, the strictest of all rules
	// Language of notices and pages by rule, BCP 47; "" where none says.
	Language string
}

// Required reports whether the message must not go in plaintext.
func (v Verdict) Required() bool { return v.Allowed.Required() && v.Reason != OwnDomain }

// Decide intersects what the scopes allow and prefers of what is left: plain,
// then TLS, then the escrow. It never returns a channel that one of the scopes
// forbids, except for recipients of own domains, whose mail does not leave.
func Decide(in Input) Verdict {
	v := demanded(&in)
	return v.settled(&in)
}

// demanded is what the rules say, before anything is chosen by it.
func demanded(in *Input) Verdict {
	v := Verdict{Allowed: in.Floor.Channels()}
	for r := range in.rules {
		v.Allowed &= r.Requirement.Channels()
		v.Verify = stricter(verifications, v.Verify, r.Verify)
		v.Mode = stricter(modes, v.Mode, r.Mode)
		if v.Language == "" {
			v.Language = r.Language
		}
		v.Life = v.Life.With(r.Life)
	}
	if !in.Recipient.None() {
		v.TLS = in.Recipient.TLS
		if in.Recipient.IsAddress() {
			v.TLS = in.DomainTLS
		}
		v.Nexthop = in.Recipient.Nexthop
	}
	return v
}

// settled is v with the channel that is chosen, by where the recipient is and what is known of
// the destination.
func (v Verdict) settled(in *Input) Verdict {
	if in.Own {
		v.Channel, v.Reason = Plain, OwnDomain
		return v
	}
	v.Channel, v.Reason = prefer(in, v.Allowed)
	if v.Channel == TLS {
		v.TLS.Level = max(v.TLS.Level, LevelEncrypt)
	}
	return v
}

// What rules may say of a sealed message, the strictest last.
var (
	verifications = []string{"", "code", "account", "passphrase"}
	modes         = []string{"", "recoverable", "sealed"}
)

// stricter returns the one of two words that stands further behind in order: no scope
// weakens what another demands.
func stricter(order []string, a, b string) string {
	if slices.Index(order, b) > slices.Index(order, a) {
		return b
	}
	return a
}

func prefer(in *Input, allowed Channels) (Channel, Reason) {
	switch {
	case allowed == 0:
		return 0, Conflict
	case allowed.Has(Plain):
		return Plain, NothingRequired
	case allowed == Channels(TLS):
		return TLS, TLSOnly
	case allowed == Channels(Escrow):
		return Escrow, EscrowOnlyLeft
	}
	switch in.Posture.State {
	case Works:
		return TLS, TLSWorks
	case Absent, Broken:
		if in.Posture.InGrace(in.Now, in.Grace) {
			return TLS, TLSInGrace
		}
		if in.Posture.State == Absent {
			return Escrow, NoTLS
		}
		if in.TriedByPostfix {
			return Escrow, BrokenTLS
		}
		return TLS, TLSDoubted
	case Unreachable:
		return TLS, TLSUnreachable
	case NoMail:
		return TLS, NoMailHost
	}
	return TLS, TLSUntried
}
