package intake

import (
	"context"

	"github.com/emersion/go-smtp"

	"github.com/postseal/postseal/escrow/intake/reinject"
	"github.com/postseal/postseal/policyd/policy"
)

// expand puts those whom a recipient is an alias for in its place, where the message
// has not come through Postfix.
func (s *session) expand(ctx context.Context, m *message, tx *transaction, jobs []*job) []*job {
	if s.cfg.Aliases == nil || tx.ident != "" || m.hops > 0 {
		return jobs
	}
	var work []*job
	known := make(map[policy.Address]*job)
	add := func(j *job) *job {
		key := j.r.addr.Folded()
		if known[key] == nil {
			known[key], work = j, append(work, j)
		}
		return known[key]
	}
	for _, j := range jobs {
		if _, bounce := s.cfg.Vault.IsBounceAddress(j.address); bounce {
			work = append(work, j)
			continue
		}
		list, err := s.cfg.Aliases(ctx, j.r.addr)
		if err != nil || len(list) == 0 {
			s.log.Error("aliases of a recipient can't be read", "error", err, "recipient", j.address)
			j.end(outcomeError, reply(451, "4.3.0", "The aliases of the recipient can't be read for now, try again"))
			work = append(work, j)
			continue
		}
		for _, a := range list {
			if a.Folded() == j.r.addr.Folded() {
				j.as = append(j.as, add(j))
				continue
			}
			r := *j.r
			if r.addr = a; r.orcpt == "" {
				r.original = j.r.addr
				if o := "rfc822;" + reinject.Xtext(j.address); validORCPT(o) {
					r.orcpt = o
				}
			}
			j.as = append(j.as, add(&job{r: &r, address: a.String()}))
		}
	}
	return work
}

// gather gives a recipient that was an alias the worst of the replies for those in its
// place: who was done is in the ledger, and stays done when the others are tried again.
func gather(jobs []*job) {
	ends := make([]job, len(jobs))
	for i, j := range jobs {
		ends[i].end(j.outcome, j.reply)
		for n, other := range j.as {
			if n == 0 || severity(other.reply) > severity(ends[i].reply) {
				ends[i].end(other.outcome, other.reply)
			}
		}
	}
	for i, j := range jobs {
		j.end(ends[i].outcome, ends[i].reply)
	}
}

// severity orders replies: taken, refused, to be tried again.
func severity(r *smtp.SMTPError) int {
	switch {
	case r == nil:
		return 2
	case r.Code/100 == 2:
		return 0
	case r.Code/100 == 5:
		return 1
	}
	return 2
}
