package tlsrpt

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// PolicyType says which policy was applied to a session (RFC 8460, section 4.4).
type PolicyType string

// The policy types.
const (
	TLSA     PolicyType = "tlsa"
	STS      PolicyType = "sts"
	NoPolicy PolicyType = "no-policy-found"
)

// Policy is the policy that was applied to a session.
type Policy struct {
	Type   PolicyType `json:"policy-type"`
	Text   []string   `json:"policy-string,omitempty"` // TLSA records, or the lines of the MTA-STS policy
	Domain string     `json:"policy-domain"`           // A-labels
	MXHost []string   `json:"mx-host,omitempty"`       // of an MTA-STS policy the mx patterns; of TLSA records, their host
}

// ResultType says how a session failed (section 4.3).
type ResultType string

// The result types. DANERequired is not used: it takes a demand of our own, and a
// probe has none.
const (
	STARTTLSNotSupported    ResultType = "starttls-not-supported"
	CertificateHostMismatch ResultType = "certificate-host-mismatch"
	CertificateExpired      ResultType = "certificate-expired"
	CertificateNotTrusted   ResultType = "certificate-not-trusted"
	ValidationFailure       ResultType = "validation-failure"
	TLSAInvalid             ResultType = "tlsa-invalid"
	DNSSECInvalid           ResultType = "dnssec-invalid"
	DANERequired            ResultType = "dane-required"
	STSPolicyFetchError     ResultType = "sts-policy-fetch-error"
	STSPolicyInvalid        ResultType = "sts-policy-invalid"
	STSWebPKIInvalid        ResultType = "sts-webpki-invalid"
)

// Failure is one kind of failure (section 4.4, failure-details, without the
// count).
type Failure struct {
	Type      ResultType `json:"result-type"`
	SendingIP string     `json:"sending-mta-ip,omitempty"`
	MX        string     `json:"receiving-mx-hostname,omitempty"`
	HELO      string     `json:"receiving-mx-helo,omitempty"` // of its banner
	IP        string     `json:"receiving-ip,omitempty"`
	Reason    string     `json:"failure-reason-code,omitempty"`
}

// FailureDetails is a kind of failure and how often it was.
type FailureDetails struct {
	Failure
	Sessions int64 `json:"failed-session-count"`
}

// Document is a report (section 4.4).
type Document struct {
	Organization string          `json:"organization-name"`
	Range        DateRange       `json:"date-range"`
	Contact      string          `json:"contact-info"`
	ID           string          `json:"report-id"`
	Policies     []PolicyResults `json:"policies"`
}

// DateRange is what time a report is about, to the second, UTC.
type DateRange struct {
	Start time.Time `json:"start-datetime"`
	End   time.Time `json:"end-datetime"`
}

// PolicyResults is how the sessions under one policy went.
type PolicyResults struct {
	Policy  Policy           `json:"policy"`
	Summary Summary          `json:"summary"`
	Details []FailureDetails `json:"failure-details,omitempty"`
}

// Summary is how many sessions there were.
type Summary struct {
	Succeeded int64 `json:"total-successful-session-count"`
	Failed    int64 `json:"total-failure-session-count"`
}

// Total sums up all policies.
func (d *Document) Total() (s Summary) {
	for _, p := range d.Policies {
		s.Succeeded += p.Summary.Succeeded
		s.Failed += p.Summary.Failed
	}
	return s
}

// fill adds the counts of one domain and day, the policies with most failures
// first.
func (d *Document) fill(counts []Count) error {
	at := make(map[string]int) // in d.Policies, by the JSON of the policy
	for _, c := range counts {
		i, ok := at[c.Policy]
		if !ok {
			var p Policy
			if err := json.Unmarshal([]byte(c.Policy), &p); err != nil {
				return fmt.Errorf("counted policy of %s: %w", c.Domain, err)
			}
			i = len(d.Policies)
			at[c.Policy] = i
			d.Policies = append(d.Policies, PolicyResults{Policy: p})
		}
		r := &d.Policies[i]
		if c.Outcome == "" {
			r.Summary.Succeeded += c.Sessions
			continue
		}
		f := FailureDetails{Sessions: c.Sessions}
		if err := json.Unmarshal([]byte(c.Outcome), &f.Failure); err != nil {
			return fmt.Errorf("counted outcome of %s: %w", c.Domain, err)
		}
		r.Summary.Failed += c.Sessions
		r.Details = append(r.Details, f)
	}
	for _, p := range d.Policies {
		slices.SortFunc(p.Details, func(a, b FailureDetails) int {
			if a.Sessions != b.Sessions {
				return int(min(max(b.Sessions-a.Sessions, -1), 1))
			}
			return strings.Compare(encode(a.Failure), encode(b.Failure))
		})
	}
	slices.SortFunc(d.Policies, func(a, b PolicyResults) int {
		if a.Summary.Failed != b.Summary.Failed {
			return int(min(max(b.Summary.Failed-a.Summary.Failed, -1), 1))
		}
		return strings.Compare(encode(a.Policy), encode(b.Policy))
	})
	return nil
}

// encode writes what cannot fail to be written.
func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // texts and numbers alone
	}
	return string(b)
}

// compressed is the document as it is sent (section 5.2).
func (d *Document) compressed() ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	enc := json.NewEncoder(z)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(d); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// ReadDocument reads a report as it is sent.
func ReadDocument(compressed []byte) (*Document, error) {
	z, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return nil, err
	}
	d := new(Document)
	if err := json.NewDecoder(z).Decode(d); err != nil {
		return nil, err
	}
	return d, nil
}
