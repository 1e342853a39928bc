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
// and can't be fetched, or one that contradicts the rule. That counts as broken TLS
// (RFC 8461 would let such mail go without the policy; we seal it instead). What DNS does
// not answer, or answers bogus, never does: the notice could not arrive either.
func (f *Fallback) unverifiable(ctx context.Context, dest string, demand policy.TLSParams, p *policy.Posture) bool {
	u := &f.unverified
	u.mu.Lock()
	defer u.mu.Unlock()
	if p.State != policy.Unknown || !policy.ProofTLS(dest, demand, p.Published).Hopeless {
		delete(u.since, dest)
		return false
	}
	now := f.cfg.Now()
	began, known := u.since[dest]
	if !known {
		if u.since == nil || len(u.since) >= maxUnverified {
			u.since = make(map[string]time.Time)
		}
		u.since[dest] = now
		began = now
	}
	if now.Sub(began) < f.cfg.Grace {
		return false
	}
	a, ok := f.cfg.Prober.(Answerer)
	return ok && a.Answers(ctx, dest)
}
