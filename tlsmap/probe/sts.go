package probe

import (
	"context"
	"strings"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// STSResult is the MTA-STS policy of a destination. How the MX hosts stand to it
// is in each [MXResult].
type STSResult struct {
	State   policy.STS `json:"state"`
	ID      string     `json:"id,omitempty"`      // of the TXT record
	Mode    string     `json:"mode,omitempty"`    // of the policy
	MX      []string   `json:"mx,omitempty"`      // patterns as published, canonical
	MaxAge  int64      `json:"max_age,omitempty"` // seconds
	Fetched time.Time  `json:"fetched,omitzero"`
	Expires time.Time  `json:"expires,omitzero"`
	// Stale says why the policy in use is a kept one: the error of the last refresh.
	Stale string `json:"stale,omitempty"`
	Error string `json:"error,omitempty"` // why there is none
	// Failure is Error as RFC 8460, section 4.3.2.2, sorts it: sts-policy-fetch-error,
	// sts-policy-invalid or sts-webpki-invalid; "" where it fits none.
	Failure string `json:"failure,omitempty"`
}

// STSSource knows MTA-STS policies. Both methods wait for lookups and fetches until
// ctx is done; then the state is [policy.STSUnknown] where nothing is known, and
// the fetch goes on. They never return nil.
type STSSource interface {
	// Policy returns what is known of a domain.
	Policy(ctx context.Context, domain string) *STSResult
	// Refresh is Policy that does not trust what is kept: for a domain whose MX
	// hosts do not match its kept policy, which may have been changed with them. The
	// source itself sees to it that nobody is asked too often.
	Refresh(ctx context.Context, domain string) *STSResult
}

// MatchSTS reports whether an mx pattern of an MTA-STS policy matches the name of
// an MX host (RFC 8461, section 4.1): a leading "*." stands for exactly one
// label. Both must be canonical, see Key.
func MatchSTS(pattern, host string) bool {
	parent, wildcard := strings.CutPrefix(pattern, "*.")
	if !wildcard {
		return pattern == host && host != ""
	}
	label, rest, _ := strings.Cut(host, ".")
	return label != "" && rest == parent && rest != ""
}

// stsPatience is how long a look waits for a policy. One that comes later is found
// by the next look.
const stsPatience = 10 * time.Second

func (p *Prober) stsPolicy(ctx context.Context, domain string) *STSResult {
	ctx, cancel := context.WithTimeout(ctx, stsPatience)
	defer cancel()
	return p.o.STS.Policy(ctx, domain)
}

// sts has the policy of a domain say what it demands of each MX host. Where a
// host does not match, the policy is looked at anew first: a domain that moved to
// other hosts publishes a policy for them, too.
func (p *Prober) sts(ctx context.Context, r *Result) {
	if r.STS.demands() && !r.matchSTS() {
		ctx, cancel := context.WithTimeout(ctx, stsPatience)
		defer cancel()
		if fresh := p.o.STS.Refresh(ctx, r.Domain); fresh.State != policy.STSUnknown {
			r.STS = fresh
			r.matchSTS()
		}
	}
}

// demands reports whether there is a policy whose patterns count, if only for
// reports.
func (s *STSResult) demands() bool {
	return s.State == policy.STSEnforce || s.State == policy.STSTesting
}

// matchSTS fills in STSMatch of the MX hosts, and reports whether it is true of
// all.
func (r *Result) matchSTS() bool {
	all := true
	for i := range r.MX {
		mx := &r.MX[i]
		mx.STSMatch = nil
		if !r.STS.demands() {
			continue
		}
		match := false
		for _, pattern := range r.STS.MX {
			match = match || MatchSTS(pattern, mx.Host)
		}
		mx.STSMatch = &match
		all = all && match
	}
	return all
}

// stsMatch turns mx patterns into those of Postfix's match=. Postfix's .a.example
// matches names of any depth below a.example; the pattern *.a.example, those one
// label below.
func stsMatch(patterns []string) []string {
	out := make([]string, 0, len(patterns))
	for _, p := range patterns {
		out = append(out, strings.TrimPrefix(p, "*"))
	}
	return out
}
