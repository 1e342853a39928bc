package probe

import (
	"strings"
	"time"
)

// Kind says what happened at a destination.
type Kind string

// The kinds. Those that end with -lost and -back are the two ends of an alarm.
const (
	TLSAppeared Kind = "tls-appeared" // it has TLS, and was seen without before
	TLSLost     Kind = "tls-lost"     // it had TLS, and answers without or with a broken one
	TLSBack     Kind = "tls-back"
	NewCert     Kind = "certificate" // a certificate that was not seen at this host before, with a key that was
	NewKey      Kind = "key"         // the same with a new key
	NewMX       Kind = "mx"          // the set of MX hosts changed
	DANEChanged Kind = "dane"        // how much TLSA records say (see policy.DANE)
	DANELost    Kind = "dane-lost"   // TLSA records that matched don't any more, or can't be had
	DANEBack    Kind = "dane-back"
	STSChanged  Kind = "mta-sts"      // another policy, or none
	STSLost     Kind = "mta-sts-lost" // no host meets the policy (mode enforce) any more
	STSBack     Kind = "mta-sts-back"
)

// Ends returns the kind that an alarm of kind k ends with, and whether there is one.
func (k Kind) Ends() (Kind, bool) {
	what, ok := strings.CutSuffix(string(k), "-lost")
	return Kind(what + "-back"), ok
}

// Headline is an alarm in a few words, after "a destination".
func (k Kind) Headline() string {
	switch k {
	case TLSLost:
		return "has lost its TLS"
	case TLSBack:
		return "has TLS again"
	case DANELost:
		return "is not vouched for by its TLSA records any more"
	case DANEBack:
		return "is vouched for by its TLSA records again"
	case STSLost:
		return "does not meet its MTA-STS policy any more"
	case STSBack:
		return "meets its MTA-STS policy again"
	}
	return string(k)
}

// Event is something that changed at a destination.
type Event struct {
	ID     int64 // of the store; 0: not stored yet
	Dest   string
	At     time.Time // when it was noticed
	Kind   Kind
	Detail Detail
	// Alarm says that somebody is to be told of it.
	Alarm bool
	Told  time.Time // when everybody was; zero: not yet
}

// Detail is what there is to say of an event. Texts from the destination are bounded
// and hold no control characters.
type Detail struct {
	Host   string   `json:"host,omitempty"` // the mail host, where it is about one
	Before []string `json:"before,omitempty"`
	After  []string `json:"after,omitempty"`
	Reason string   `json:"reason,omitempty"`
	// Of a loss: since when it had worked without a break, and when that was last
	// seen. Of its end: from when to when it was lost.
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
}

// String says in one line what happened, without the destination and the time.
func (e *Event) String() string {
	d := &e.Detail
	change := list(d.Before) + " → " + list(d.After)
	reason := ""
	if d.Reason != "" {
		reason = " (" + d.Reason + ")"
	}
	span := func(verb string) string {
		if d.Since.IsZero() {
			return ""
		}
		return verb + " from " + d.Since.UTC().Format(time.RFC3339) + " to " + d.Until.UTC().Format(time.RFC3339)
	}
	switch e.Kind {
	case TLSAppeared:
		return "has TLS now" + reason
	case TLSLost:
		return "has lost its TLS" + span(", seen") + ": possible strip" + reason
	case TLSBack:
		return "has TLS again" + span(", lost") + reason
	case NewCert:
		return d.Host + ": new certificate, same key: " + change + reason
	case NewKey:
		return d.Host + ": new certificate and key: " + change + reason
	case NewMX:
		return "other MX hosts: " + change + reason
	case DANEChanged:
		return "DANE: " + change + reason
	case DANELost:
		return "TLSA records don't vouch for its hosts any more" + span(", they did") + reason
	case DANEBack:
		return "TLSA records vouch for its hosts again" + span(", lost") + reason
	case STSChanged:
		return "MTA-STS: " + change + reason
	case STSLost:
		return "no host meets its MTA-STS policy any more" + span(", one did") + reason
	case STSBack:
		return "a host meets its MTA-STS policy again" + span(", lost") + reason
	}
	return string(e.Kind) + ": " + change + reason
}

func list(words []string) string {
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, " ")
}
