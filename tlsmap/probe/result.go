package probe

import (
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/postseal/postseal/policyd/policy"
)

// Result is what one look at a destination found. Its JSON is what
// `postseal check --json` prints and what the store keeps, so fields are only
// ever added. All texts that come from the destination are bounded and hold no
// control characters.
type Result struct {
	Dest       string       `json:"dest"`   // as asked, canonical
	Domain     string       `json:"domain"` // the name looked up; "" for an address literal
	State      policy.State `json:"state"`  // by the TLS floor alone, see Judge
	Reason     string       `json:"reason"`
	NullMX     bool         `json:"null_mx,omitempty"`     // RFC 7505
	ImplicitMX bool         `json:"implicit_mx,omitempty"` // RFC 5321, section 5.1: no MX, so the domain itself
	Canonical  string       `json:"canonical,omitempty"`   // the domain after CNAMEs; "" where there are none
	Authentic  bool         `json:"authentic,omitempty"`   // the resolver vouches for the MX lookup (AD)
	MX         []MXResult   `json:"mx"`                    // by preference
	DANE       policy.DANE  `json:"dane"`                  // over all MX hosts
	STS        *STSResult   `json:"mta_sts,omitempty"`     // nil in results of older versions
	Unprobed   int          `json:"unprobed,omitempty"`    // hosts and addresses beyond the limits
	Checked    time.Time    `json:"checked"`
	TTL        int          `json:"ttl"` // seconds: the least of all records found; 0 where there are none
	DurationMS int64        `json:"duration_ms"`
	// Demands is what was asked beyond the floor of this destination, kept
	// from look to look by the Manager.
	Demands []DemandResult `json:"demands,omitempty"`
	// Kept is what the Manager remembers of earlier looks.
	Kept *Kept `json:"kept,omitempty"`
}

// Answers reports whether some mail host answered, whatever it said of TLS.
func (r *Result) Answers() bool {
	for i := range r.MX {
		for j := range r.MX[i].Addresses {
			switch r.MX[i].Addresses[j].State {
			case policy.Works, policy.Absent, policy.Broken:
				return true
			}
		}
	}
	return false
}

// MXResult is one mail host.
type MXResult struct {
	Host       string      `json:"host"` // "" for an address literal
	Preference uint16      `json:"preference"`
	Canonical  string      `json:"canonical,omitempty"` // the host after CNAMEs; "" where there are none
	Authentic  bool        `json:"authentic,omitempty"` // AD on its addresses
	DNSFailed  bool        `json:"dns_failed,omitempty"`
	Error      string      `json:"error,omitempty"` // of the address lookup
	TLSA       *TLSAResult `json:"tlsa,omitempty"`
	// STSMatch says whether the host is one of those that the domain's MTA-STS policy
	// names; nil where there is none, or its mode is none.
	STSMatch  *bool           `json:"sts_match,omitempty"`
	Addresses []AddressResult `json:"addresses"`
	TTL       int             `json:"ttl,omitempty"` // of the addresses, seconds
}

// AddressResult is one SMTP session, or what became of the try.
type AddressResult struct {
	Addr     netip.Addr   `json:"addr"`
	Local    netip.Addr   `json:"local,omitzero"` // of our side; zero where there was no connection
	State    policy.State `json:"state"`          // never NoMail
	Banner   string       `json:"banner,omitempty"`
	EHLO     []string     `json:"ehlo,omitempty"` // keywords with parameters, over TLS where there was TLS
	STARTTLS bool         `json:"starttls"`       // offered
	SNI      string       `json:"sni,omitempty"`  // sent
	TLS      bool         `json:"tls"`            // handshake done and EHLO answered over it, whatever the floor
	Version  string       `json:"version,omitempty"`
	Cipher   string       `json:"cipher,omitempty"`
	Cert     *Certificate `json:"certificate,omitempty"`
	// DANE says how the chain stands to the host's TLSA records: "match", or why it
	// does not; "" where there are none that count.
	DANE string `json:"dane,omitempty"`
	// TLSA says the same of each of the host's records, in their order.
	TLSA       []TLSAMatch `json:"tlsa,omitempty"`
	Error      string      `json:"error,omitempty"`
	DurationMS int64       `json:"duration_ms"`

	// Sent is the chain in DER, until it has been held against the TLSA records.
	Sent [][]byte `json:"-"`
}

// TLSAMatch is how a chain stands to one TLSA record.
type TLSAMatch struct {
	Match bool   `json:"match"`
	Why   string `json:"why"` // which certificate it is, or why there is none
}

// Certificate is what a host showed in the handshake.
type Certificate struct {
	// Names are the DNS names that count for Postfix: those of the subject's
	// alternative names, and only where there are none, the common name.
	Names       []string    `json:"names"`
	Subject     string      `json:"subject"`
	Issuer      string      `json:"issuer"`
	NotBefore   time.Time   `json:"not_before"`
	NotAfter    time.Time   `json:"not_after"`
	KeyType     string      `json:"key_type"` // RSA, ECDSA, Ed25519
	KeyBits     int         `json:"key_bits"`
	Signature   string      `json:"signature,omitempty"` // the issuer's, such as SHA256-RSA
	Fingerprint string      `json:"sha256"`              // of the certificate, hexadecimal
	SPKI        string      `json:"spki_sha256"`         // of its public key (SubjectPublicKeyInfo), hexadecimal; "" in results of older versions
	Verified    bool        `json:"verified"`
	VerifyError string      `json:"verify_error,omitempty"`
	Chain       []ChainCert `json:"chain"` // as sent, without the leaf
}

// ChainCert is an intermediate certificate as the host sent it.
type ChainCert struct {
	Subject  string    `json:"subject"`
	Issuer   string    `json:"issuer"`
	NotAfter time.Time `json:"not_after"`
}

// DemandResult is how a destination has met one demand over time.
type DemandResult struct {
	Level      string       `json:"level"`
	Match      []string     `json:"match,omitempty"`
	Protocols  string       `json:"protocols,omitempty"`
	Servername string       `json:"servername,omitempty"`
	State      policy.State `json:"state"`
	Worked     time.Time    `json:"worked,omitzero"`
	Lost       time.Time    `json:"lost,omitzero"`
	Since      time.Time    `json:"since,omitzero"`
}

// The bounds of foreign text in a result.
const (
	maxText     = 300
	maxKeywords = 64
	maxNames    = 200
	maxChain    = 10
)

// clean bounds foreign text and takes out what could play tricks on a terminal
// or a log.
func clean(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
		for len(s) > 0 && !utf8.ValidString(s[max(0, len(s)-utf8.UTFMax):]) {
			if r, n := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || n != 1 {
				break
			}
			s = s[:len(s)-1]
		}
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
