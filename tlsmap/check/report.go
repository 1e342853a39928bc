package check

import (
	"crypto/x509"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/check/scan"
	"github.com/postseal/postseal/tlsmap/probe"
)

// Report is all that a check found of one destination. Its JSON is a contract
// (docs/check.schema.json): fields are only ever added. Texts of the destination
// are bounded and hold no control characters.
type Report struct {
	Asked      string           `json:"asked"`       // as typed
	Dest       string           `json:"destination"` // looked at: the domain, or a next-hop by rule or routing
	Domain     string           `json:"domain"`      // of the lookups; the address for an address literal
	Class      Class            `json:"class"`
	Reason     string           `json:"reason"` // of the class
	State      policy.State     `json:"state"`  // by the TLS floor alone
	NullMX     bool             `json:"null_mx"`
	ImplicitMX bool             `json:"implicit_mx"`
	Authentic  bool             `json:"authentic"` // the MX answer is vouched for by DNSSEC
	MX         []Host           `json:"mx"`        // by preference
	DANE       policy.DANE      `json:"dane"`
	STS        *probe.STSResult `json:"mta_sts"` // null where the destination is no domain
	TLSRPT     *TLSRPT          `json:"tlsrpt"`
	NIST       *NIST            `json:"nist"`     // null where no handshake was done
	Decision   *Decision        `json:"decision"` // null where nobody asked
	Advice     []Advice         `json:"advice"`   // worst first
	Unprobed   int              `json:"unprobed"` // hosts and addresses beyond the limits of a look
	Checked    time.Time        `json:"checked"`
	TTL        int              `json:"ttl"` // seconds, of the DNS records
	DurationMS int64            `json:"duration_ms"`
	Deep       bool             `json:"deep"` // versions and suites were asked one by one

	result *probe.Result
}

// Host is one MX host.
type Host struct {
	probe.MXResult
	Addresses []Address `json:"addresses"` // instead of MXResult's
}

// Address is one address of a host: the session with it, and what follows.
type Address struct {
	probe.AddressResult
	Class Class `json:"class"`
	// NameMatch reports that a name of the certificate is that of the MX host.
	NameMatch bool `json:"name_match"`
	// DaysLeft is how long the certificate holds, rounded down; negative where it
	// has ended; null where there is none.
	DaysLeft *int         `json:"days_left"`
	NIST     *NIST        `json:"nist"`
	Scan     *scan.Result `json:"scan"` // null where no scan was asked for
	// Others are further certificates that the scan saw, such as one by ECDSA
	// beside one by RSA.
	Others []Other `json:"other_certificates,omitempty"`
}

// Other is a certificate that the session did not show.
type Other struct {
	Certificate *probe.Certificate `json:"certificate"`
	NameMatch   bool               `json:"name_match"`
	DaysLeft    int                `json:"days_left"`
	DANE        string             `json:"dane,omitempty"` // as in AddressResult
	TLSA        []probe.TLSAMatch  `json:"tlsa,omitempty"`
}

// TLSRPT is the record that asks for reports of TLS failures (RFC 8460, section 3).
type TLSRPT struct {
	Record string   `json:"record"` // "" where there is none
	RUA    []string `json:"rua"`    // where reports go
	// Ignored says what of the record does not count, and why.
	Ignored []string `json:"ignored,omitempty"`
	Error   string   `json:"error,omitempty"` // why nothing is known, or why the record does not count
}

// Build makes a report of what a prober found, and of scans where there were any.
// describe says what there is to say of a certificate that only a scan saw; nil leaves
// those out. It is pure. Asked, TLSRPT and Decision are left to the caller, who calls
// [Advise] after that.
func Build(result *probe.Result, scans Scans, describe Describer, now time.Time) *Report {
	r := &Report{
		Asked: result.Dest, Dest: result.Dest, Domain: result.Domain, State: result.State,
		NullMX: result.NullMX, ImplicitMX: result.ImplicitMX, Authentic: result.Authentic,
		MX: []Host{}, DANE: result.DANE, STS: result.STS, Unprobed: result.Unprobed,
		Checked: result.Checked, TTL: result.TTL, DurationMS: result.DurationMS, Advice: []Advice{},
		Deep: scans != nil, result: result,
	}
	for _, mx := range result.MX {
		h := Host{MXResult: mx, Addresses: []Address{}}
		for _, a := range mx.Addresses {
			one := Address{AddressResult: a, Scan: scans[ScanKey{mx.Host, a.Addr.String()}]}
			if c := a.Cert; c != nil {
				one.NameMatch = nameMatch(c.Names, mx.Host)
				days := daysLeft(c.NotAfter, now)
				one.DaysLeft = &days
			}
			one.Others = others(result, &mx, &one, describe, now)
			one.Class, _ = classOfAddress(r, &h, &one)
			one.NIST = nistOf(mx.Host, &one, now)
			h.Addresses = append(h.Addresses, one)
		}
		r.MX = append(r.MX, h)
	}
	r.Class, r.Reason = classOf(r)
	r.NIST = nistOverall(r)
	r.Advice = Advise(r)
	return r
}

// Describer describes a chain that a host showed; [probe.Prober.Describe] does.
type Describer func(r *probe.Result, mx *probe.MXResult, chain []*x509.Certificate) (*probe.Certificate, string, []probe.TLSAMatch)

// others describes what certificates the scan saw beside that of the session.
func others(r *probe.Result, mx *probe.MXResult, a *Address, describe Describer, now time.Time) (all []Other) {
	if a.Scan == nil || describe == nil {
		return nil
	}
	for _, chain := range a.Scan.Chains {
		c, dane, tlsa := describe(r, mx, chain)
		if c == nil || a.Cert != nil && c.Fingerprint == a.Cert.Fingerprint {
			continue
		}
		all = append(all, Other{c, nameMatch(c.Names, mx.Host), daysLeft(c.NotAfter, now), dane, tlsa})
	}
	return all
}

// Result is what the prober found, as it found it.
func (r *Report) Result() *probe.Result { return r.result }

// named reports whether the destination has a name: an address literal publishes
// nothing.
func (r *Report) named() bool {
	_, err := netip.ParseAddr(r.Domain)
	return r.Domain != "" && err != nil
}

// daysLeft counts whole days.
func daysLeft(end, now time.Time) int {
	d := end.Sub(now)
	days := int(d / (24 * time.Hour))
	if d < 0 {
		days-- // ended an hour ago is -1
	}
	return days
}

// nameMatch reports whether one of a certificate's names is the host's; a wildcard
// stands for one label (RFC 6125, section 6.4.3).
func nameMatch(names []string, host string) bool {
	for _, n := range names {
		if n == "" || host == "" {
			continue
		}
		if strings.EqualFold(n, host) {
			return true
		}
		if rest, ok := strings.CutPrefix(n, "*."); ok {
			if _, parent, ok := strings.Cut(host, "."); ok && strings.EqualFold(rest, parent) {
				return true
			}
		}
	}
	return false
}

// maxText bounds foreign text.
const maxText = 300

// text bounds foreign text and takes out what could play tricks on a terminal.
func text(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.Map(printable, s)
}

func printable(r rune) rune {
	if r == utf8.RuneError || !unicode.IsPrint(r) {
		return '?'
	}
	return r
}
