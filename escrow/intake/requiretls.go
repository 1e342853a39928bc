package intake

import (
	"context"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// verifiedAge is how old a look may be by which a message with REQUIRETLS goes over TLS.
const verifiedAge = 10 * time.Minute

// verified decides anew for a message that was sent with REQUIRETLS (RFC 8689), and that
// is to go over TLS: only where the destination's TLS is verified, at level secure or by
// what it publishes. Else it is sealed, where the verdict allows that, or waits. The
// error is a reply.
func (s *session) verified(ctx context.Context, q policy.Question, a policy.Answer) (policy.Answer, error) {
	if s.cfg.Prober == nil {
		return a, reply(451, "4.7.30", "REQUIRETLS: nobody can look at the destination")
	}
	dest, demand := a.Destination(q.Recipient), a.TLS
	demand.Level = max(demand.Level, policy.LevelSecure)
	look, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	p, err := s.cfg.Prober.Look(look, dest, demand, verifiedAge)
	if err == nil && p.State != policy.Works && verifies(p.Published) {
		// By what it publishes the names are those of its hosts, hardly ever its own.
		p, err = s.cfg.Prober.Look(look, dest, a.TLS, verifiedAge)
	}
	switch {
	case err != nil:
		s.log.Warn("destination can't be looked at", "dest", dest, "error", err)
		return a, reply(451, "4.4.3", "%s can't be looked at for now", dest)
	case p.State == policy.Works:
		return a, nil
	case p.State != policy.Absent && p.State != policy.Broken:
		return a, reply(451, "4.7.30", "REQUIRETLS: it is not known whether TLS of %s can be verified (%s)", dest, p.State)
	}
	q.Fresh, q.TriedByPostfix = &p, true // TLS without verification is no way for it
	if a, err = s.cfg.Decider.Decide(ctx, q); err != nil {
		s.log.Error("no verdict", "error", err, "recipient", q.Recipient.String())
		return a, reply(451, "4.3.0", "No decision can be made for now, try again")
	}
	if a.Channel == policy.TLS {
		return a, reply(451, "4.7.30", "REQUIRETLS: TLS of %s can't be verified, and the message waits for it", dest)
	}
	return a, nil
}

// verifies reports whether what a destination publishes verifies its hosts: TLS that works
// for required mail does so by that, then.
func verifies(p policy.Published) bool {
	return p.DANE == policy.DANEFull || p.DANE == policy.DANEPartial || p.STS == policy.STSEnforce
}
