package intake

import (
	"context"
	"sync"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// maxUnverified bounds the destinations whose trouble is remembered. With one more
// all are forgotten, and their mail waits a grace period more.
const maxUnverified = 10000

// unverified remembers since when destinations can't be verified. It lives as long
// as the process: after a restart the time starts anew, which only makes mail wait
// longer.
type unverified struct {
	mu    sync.Mutex
	since map[string]time.Time
}

// unverifiable reports that a destination answers, but TLS as it and the rule demand
// it can't be had, for longer than the grace period: an MTA-STS policy that is announced
// and can't be fetched, one whose TXT record at _mta-sts.DOMAIN can't be looked up (SERVFAIL,
// bogus, no answer), so that nobody knows whether there is one, or one that contradicts the
// rule. That counts as broken TLS (RFC 8461 would let such mail go without the policy; we
// seal it instead). The mail hosts were found and one answers, so the notice can arrive.
// Where the lookups of MX, addresses or TLSA records fail or are bogus it never does: the
// notice could not arrive either.
func (f *Fallback) unverifiable(ctx context.Context, dest string, demand policy.TLSParams, p *policy.Posture) bool {
	hopeless := p.State == policy.Unknown && policy.ProofTLS(dest, demand, p.Published).Hopeless
	if f.unverified.note(dest, hopeless, f.cfg.Now()) < f.cfg.Grace || !hopeless {
		return false
	}
	a, ok := f.cfg.Prober.(Answerer) // may look: others must not wait for that
	return ok && a.Answers(ctx, dest)
}

// note notes at now whether a destination is hopeless, and returns for how long it has
// been.
func (u *unverified) note(dest string, hopeless bool, now time.Time) time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !hopeless {
		delete(u.since, dest)
		return 0
	}
	began, known := u.since[dest]
	if !known {
		if u.since == nil || len(u.since) >= maxUnverified {
			u.since = make(map[string]time.Time)
		}
		u.since[dest] = now
		began = now
	}
	return now.Sub(began)
}
