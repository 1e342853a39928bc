package check

import (
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
	Domain     string           `json:"domain"`      // of the lookups; "" for an address literal
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
	// MTASTS says whether an mx pattern of the MTA-STS policy matches the host; null
	// where there is no policy.
	MTASTS    *bool     `json:"mta_sts_match"`
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
	Records  []Match      `json:"tlsa_matches,omitempty"` // one for each TLSA record of the host
	NIST     *NIST        `json:"nist"`
	Scan     *scan.Result `json:"scan"` // null where no scan was asked for
	// Others are further certificates that the scan saw, such as one by ECDSA
	// beside one by RSA.
	Others []*probe.Certificate `json:"other_certificates,omitempty"`
}

// Match is how the certificate stands to one TLSA record.
type Match struct {
	Record probe.TLSARecord `json:"record"`
	// Result is "match", "no match" or "unusable".
	Result string `json:"result"`
}

// TLSRPT is the record that asks for reports of TLS failures (RFC 8460, section 3).
type TLSRPT struct {
	Record string   `json:"record"` // "" where there is none
	RUA    []string `json:"rua"`    // where reports go
	Error  string   `json:"error,omitempty"`
}

// Build makes a report of what a prober found, and of scans where there were any.
// It is pure. Asked, TLSRPT and Decision are left to the caller, who calls [Advise]
// after that.
func Build(result *probe.Result, scans Scans, now time.Time) *Report {
	r := &Report{
		Asked: result.Dest, Dest: result.Dest, Domain: result.Domain, State: result.State,
		NullMX: result.NullMX, ImplicitMX: result.ImplicitMX, Authentic: result.Authentic,
		MX: []Host{}, DANE: result.DANE, STS: result.STS, Unprobed: result.Unprobed,
		Checked: result.Checked, TTL: result.TTL, DurationMS: result.DurationMS, Advice: []Advice{},
		Deep: scans != nil, result: result,
	}
	for _, mx := range result.MX {
		h := Host{MXResult: mx, Addresses: []Address{}, MTASTS: stsMatch(result.STS, mx.Host)}
		for _, a := range mx.Addresses {
			one := Address{AddressResult: a, Scan: scans[ScanKey{mx.Host, a.Addr.String()}]}
			if c := a.Cert; c != nil {
				one.NameMatch = nameMatch(c.Names, mx.Host)
				days := daysLeft(c.NotAfter, now)
				one.DaysLeft = &days
			}
			one.Class, _ = classOfAddress(r, &h, &one)
			one.NIST = nistOf(&one, now)
			h.Addresses = append(h.Addresses, one)
		}
		r.MX = append(r.MX, h)
	}
	r.Class, r.Reason = classOf(r)
	r.NIST = nistOverall(r)
	r.Advice = Advise(r)
	return r
}

// Result is what the prober found, as it found it.
func (r *Report) Result() *probe.Result { return r.result }

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

// stsMatch reports whether an mx pattern of a policy matches a host (RFC 8461,
// section 4.1).
func stsMatch(sts *probe.STSResult, host string) *bool {
	if sts == nil || len(sts.MX) == 0 {
		return nil
	}
	ok := nameMatch(sts.MX, host)
	return &ok
}

// maxText bounds foreign text.
const maxText = 300

// text bounds foreign text and takes out what could play tricks on a terminal.
func text(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// parseTLSRPT reads the TXT records at _smtp._tls (RFC 8460, section 3): of those
// that begin with v=TLSRPTv1 there must be one.
func parseTLSRPT(records []string) *TLSRPT {
	out := &TLSRPT{RUA: []string{}}
	n := 0
	for _, rec := range records {
		fields := strings.Split(rec, ";")
		if strings.TrimSpace(fields[0]) != "v=TLSRPTv1" {
			continue
		}
		n++
		out.Record = text(rec)
		for _, f := range fields[1:] {
			key, value, _ := strings.Cut(strings.TrimSpace(f), "=")
			if strings.TrimSpace(key) != "rua" {
				continue
			}
			for uri := range strings.SplitSeq(value, ",") {
				if uri = strings.TrimSpace(uri); uri != "" {
					out.RUA = append(out.RUA, text(uri))
				}
			}
		}
	}
	switch {
	case n > 1:
		out.RUA, out.Error = []string{}, "more than one record: senders take it for none"
	case n == 1 && len(out.RUA) == 0:
		out.Error = "the record has no rua"
	}
	return out
}
