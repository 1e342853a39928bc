package check

import "time"

// NIST is the verdict by NIST SP 800-52r2.
type NIST struct {
	Meets   bool         `json:"meets"`
	Partial bool         `json:"partial"` // judged by one handshake alone, without a scan
	Reasons []NISTReason `json:"reasons"` // why it does not
}

// NISTReason is one demand that is not met.
type NISTReason struct {
	Section string `json:"section"` // of SP 800-52r2
	About   string `json:"about"`   // the address
	Text    string `json:"text"`
}

func nistOf(a *Address, now time.Time) *NIST { return nil }

func nistOverall(r *Report) *NIST { return nil }
