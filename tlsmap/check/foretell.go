package check

import (
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/probe"
)

// Outcome is what becomes of a message, as far as a look at its destination can
// tell: the host may still refuse the recipient, or be another one tomorrow. A
// message that waits is tried again until Postfix gives up on it.
type Outcome string

// The outcomes.
const (
	OverTLS     Outcome = "over TLS"
	InPlaintext Outcome = "in plaintext"
	Sealed      Outcome = "sealed"
	Waits       Outcome = "waits"
	Bounces     Outcome = "bounces"
)

// ForetellRequired foretells what becomes of mail that must not go in plaintext,
// where TLS was chosen for it. state is that of its demand, and sealable says that
// the escrow is allowed too: it is the fallback.
func ForetellRequired(r *probe.Result, state policy.State, sealable bool) Outcome {
	switch state {
	case policy.Works:
		return OverTLS
	case policy.NoMail:
		return Bounces
	case policy.Absent, policy.Broken:
		if sealable {
			return Sealed
		}
	default:
		if hostless(r) && !sealable {
			return Bounces // Postfix gives up at once; the fallback has it wait
		}
	}
	return Waits
}

// ForetellOpportunistic foretells what becomes of mail of which nothing is required.
// demand is that of [policy.DemandTLS] for such mail, and state its state, which
// counts where the demand is mandatory.
func ForetellOpportunistic(r *probe.Result, demand policy.TLSDemand, state policy.State) Outcome {
	switch {
	case r.State == policy.NoMail:
		return Bounces
	case hostless(r):
		return Bounces
	case demand.Level >= policy.LevelEncrypt:
		if state == policy.Works {
			return OverTLS
		}
		return Waits
	}
	// As Postfix does: host by host, until one takes the mail. A host that breaks the
	// handshake gets it in plaintext only where no other host takes it over TLS.
	plaintext := false
	for i := range r.MX {
		mx := &r.MX[i]
		for j := range mx.Addresses {
			switch out := handed(mx, &mx.Addresses[j], demand.Level == policy.LevelDANE); out {
			case OverTLS, InPlaintext:
				return out
			case lastResort:
				plaintext = true
			}
		}
	}
	if plaintext {
		return InPlaintext
	}
	return Waits
}

// lastResort is an address that takes mail in plaintext once Postfix gives up on TLS.
const lastResort Outcome = "in plaintext, at last"

// handed is what becomes of opportunistic mail at one address. dane says that TLSA
// records count: those that can be used must match, others make TLS mandatory all the
// same (RFC 7672, section 2.2), and what is not known keeps the mail.
func handed(mx *probe.MXResult, a *probe.AddressResult, dane bool) Outcome {
	if dane && mx.TLSA != nil {
		switch mx.TLSA.State {
		case policy.DANEFull:
			if a.DANE == daneMatch {
				return OverTLS
			}
			return Waits
		case policy.DANEUnusable:
			if a.TLS {
				return OverTLS
			}
			return Waits
		case policy.DANEFailed, policy.DANEUnknown:
			return Waits
		}
	}
	switch {
	case a.TLS:
		return OverTLS
	case a.State == policy.Absent:
		return InPlaintext
	case a.State == policy.Broken:
		return lastResort
	case a.State == policy.Unreachable && a.STARTTLS: // STARTTLS was answered 4xx
		return InPlaintext
	}
	return Waits
}

// hostless reports whether DNS says of every MX host that it has no address.
func hostless(r *probe.Result) bool {
	for i := range r.MX {
		if mx := &r.MX[i]; mx.DNSFailed || len(mx.Addresses) > 0 {
			return false
		}
	}
	return len(r.MX) > 0 && r.Unprobed == 0
}
