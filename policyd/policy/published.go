package policy

// Published is what a destination itself publishes of how its TLS is to be
// verified: TLSA records (DANE) and an MTA-STS policy. The zero value is "nobody
// has looked".
type Published struct {
	DANE DANE
	STS  STS
	// STSMatch are the policy's mx patterns as match= of Postfix wants them:
	// mx.a.example, and .a.example for *.a.example. Set with STSEnforce and
	// STSTesting.
	STSMatch []string
}

// DANE is what the TLSA records of a destination's MX hosts say (RFC 7672).
type DANE uint8

// The DANE states. What is not DANEFull, DANEPartial or DANEUnusable authenticates
// nobody.
const (
	DANEUnknown  DANE = iota // not looked at yet
	DANEOff                  // no resolver is trusted to have validated, or DANE is switched off
	DANENone                 // no MX host has TLSA records that are secure
	DANEPartial              // some MX hosts have usable records, others none
	DANEFull                 // every MX host has
	DANEUnusable             // secure records, no usable one: mandatory TLS, not authenticated (section 2.1.1)
	DANEFailed               // bogus or indeterminate: nobody knows, and nobody may guess (section 2.1.1)
)

var daneNames = [...]string{"unknown", "off", "none", "partial", "full", "unusable", "failed"}

func (d DANE) String() string { return nameOf(daneNames[:], d) }

// MarshalText writes the state's word.
func (d DANE) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads the state's word; one that is not known reads as unknown.
func (d *DANE) UnmarshalText(b []byte) error { *d = parseName[DANE](daneNames[:], b); return nil }

// STS is what is known of a destination's MTA-STS policy (RFC 8461).
type STS uint8

// The MTA-STS states.
const (
	STSUnknown STS = iota // not looked at yet, or the policy is still being fetched
	STSOff                // switched off, or the destination is no domain
	STSNone               // no record, or mode none
	STSTesting            // mode testing: failures are reported, nothing is demanded
	STSEnforce            // mode enforce
	STSFailed             // there may be a policy: the record or the policy could not be got, and none is kept
)

var stsNames = [...]string{"unknown", "off", "none", "testing", "enforce", "failed"}

func (s STS) String() string { return nameOf(stsNames[:], s) }

// MarshalText writes the state's word.
func (s STS) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the state's word; one that is not known reads as unknown.
func (s *STS) UnmarshalText(b []byte) error { *s = parseName[STS](stsNames[:], b); return nil }

func nameOf[T ~uint8](names []string, v T) string {
	if int(v) < len(names) {
		return names[v]
	}
	return names[0]
}

func parseName[T ~uint8](names []string, b []byte) T {
	for i, n := range names {
		if n == string(b) {
			return T(i)
		}
	}
	return 0
}
