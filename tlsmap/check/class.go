package check

import (
	"fmt"
	"strings"

	"github.com/postseal/postseal/policyd/policy"
)

// Class is what a destination is worth to a sender, from least to most. Scripts
// compare by it (--fail-below).
type Class uint8

// The classes. A destination has that of its worst host that answers, since mail
// can end at each of them; hosts that do not answer do not count where others do.
const (
	// ClassUnknown: nobody knows: DNS failed, or no host answers.
	ClassUnknown Class = iota
	// ClassNoMail: the domain takes no mail: null MX, or it does not exist.
	ClassNoMail
	// ClassNone: plaintext only, no STARTTLS.
	ClassNone
	// ClassBroken: STARTTLS is offered and no TLS above the floor comes about; or
	// what the destination itself demands (DANE, MTA-STS) is not met, so that
	// senders who verify cannot deliver.
	ClassBroken
	// ClassTLS: encrypted, and nobody is authenticated.
	ClassTLS
	// ClassVerified: encrypted, with a trusted certificate for the MX host's name.
	ClassVerified
	// ClassEnforced: verified by what the destination publishes, DANE or MTA-STS in
	// mode enforce: senders who look at it cannot be stripped of TLS.
	ClassEnforced
)

var classNames = [...]string{"unknown", "nomail", "none", "broken", "tls", "verified", "enforced"}

// Classes returns the words of all classes, from least to most.
func Classes() []string { return classNames[:] }

func (c Class) String() string {
	if int(c) < len(classNames) {
		return classNames[c]
	}
	return classNames[0]
}

// ParseClass reads the word of [Class.String].
func ParseClass(w string) (Class, error) {
	for i, n := range classNames {
		if n == w {
			return Class(i), nil
		}
	}
	return 0, fmt.Errorf("%q: want %s or %s", w, strings.Join(classNames[:len(classNames)-1], ", "), classNames[len(classNames)-1])
}

// MarshalText writes the class's word.
func (c Class) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads the class's word.
func (c *Class) UnmarshalText(b []byte) (err error) {
	*c, err = ParseClass(string(b))
	return err
}

// classOf returns the class of a destination and its reason.
func classOf(r *Report) (Class, string) {
	if r.State == policy.NoMail {
		return ClassNoMail, r.result.Reason
	}
	found := false
	worst, reason, all := ClassEnforced, "", 0
	for i := range r.MX {
		h := &r.MX[i]
		for j := range h.Addresses {
			a := &h.Addresses[j]
			if a.Class == ClassUnknown {
				continue
			}
			all++
			if _, why := classOfAddress(r, h, a); !found || a.Class < worst {
				found, worst, reason = true, a.Class, at(h, a)+": "+why
			}
		}
	}
	if !found {
		return ClassUnknown, r.result.Reason
	}
	return worst, reason
}

// at names an address of a host.
func at(h *Host, a *Address) string { return h.Host + "[" + a.Addr.String() + "]" }

// classOfAddress returns the class of one address and its reason.
func classOfAddress(r *Report, h *Host, a *Address) (Class, string) {
	switch state(&a.AddressResult) {
	case policy.Absent:
		return ClassNone, a.Error
	case policy.Broken:
		return ClassBroken, a.Error
	case policy.Works:
	default:
		return ClassUnknown, a.Error
	}
	if a.State != policy.Works {
		return ClassBroken, a.Error // below the floor
	}
	trusted := a.Cert != nil && a.Cert.Verified && a.NameMatch
	if a.DANE != "" {
		if a.DANE == daneMatch {
			return ClassEnforced, "the certificate matches a TLSA record (DANE)"
		}
		return ClassBroken, "DANE: " + a.DANE
	}
	if h.TLSA != nil && h.TLSA.State == policy.DANEFailed {
		return ClassBroken, "DANE: " + h.TLSA.Error
	}
	if r.STS != nil && r.STS.State == policy.STSEnforce {
		switch {
		case h.STSMatch == nil || !*h.STSMatch:
			return ClassBroken, "the MTA-STS policy does not name this host"
		case !trusted:
			return ClassBroken, "MTA-STS demands a trusted certificate for this host: " + mistrust(a)
		}
		return ClassEnforced, "trusted certificate, demanded by MTA-STS"
	}
	if !trusted {
		return ClassTLS, "encrypted, but " + mistrust(a)
	}
	return ClassVerified, "trusted certificate for the host's name"
}

// daneMatch is probe.AddressResult.DANE of a chain that matches.
const daneMatch = "match"

// mistrust says why the certificate does not authenticate the host.
func mistrust(a *Address) string {
	switch {
	case a.Cert == nil:
		return "there is no certificate"
	case !a.Cert.Verified:
		return a.Cert.VerifyError
	default:
		return "the certificate is for " + some(a.Cert.Names)
	}
}

// some names the first few.
func some(names []string) string {
	switch n := len(names); {
	case n == 0:
		return "no name"
	case n <= 3:
		return strings.Join(names, ", ")
	default:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), n-3)
	}
}
