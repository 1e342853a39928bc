// Package mtasts reads, fetches and keeps MTA-STS policies (RFC 8461).
//
// The way of a policy: a domain says by a TXT record ([ParseRecord]) that it has
// one, and under which id; the [Fetcher] gets its text from the domain's policy
// host over HTTPS; [ParsePolicy] reads it; the [Cache] keeps it until it
// expires, in memory and in a [Store], and gets it anew long before.
//
// A policy that is kept goes by nothing but a newer policy and its own expiry:
// a record that vanished, DNS that fails, or a policy host that is down or sends
// nonsense, change nothing (section 5.1). So who can block a refresh gains nothing
// for as long as max_age lasts.
package mtasts

import "errors"

// Mode is what a policy asks for.
type Mode string

// The modes (RFC 8461, section 5).
const (
	Enforce Mode = "enforce" // no delivery to hosts that fail
	Testing Mode = "testing" // failures are reported only
	None    Mode = "none"    // the domain has no policy any more
)

// MaxAge is the most that max_age may be, in seconds (section 3.2): a year.
const MaxAge = 31557600

// MaxPolicy is the most that is read of a policy, in bytes (section 3.3).
const MaxPolicy = 64 << 10

// ErrNoRecord reports that a domain has no usable record, and so no policy
// (section 3.1).
var ErrNoRecord = errors.New("no MTA-STS record")
