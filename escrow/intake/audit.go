package intake

import (
	"context"

	"github.com/emersion/go-smtp"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/policyd/policy"
)

// Auditor takes entries of the audit log that are about nothing that changes the
// database; [*audit.Writer].
type Auditor interface {
	Add(e audit.Entry) error
}

// required reports whether anything is required of j's message: only that is logged.
func (j *job) required() bool {
	return j.answer.Allowed.Required() && (j.answer.Channel != 0 || j.answer.Reason == policy.Conflict)
}

// decision returns the entry of a verdict that led to outcome.
func (s *session) decision(m *message, tx *transaction, j *job, outcome string) audit.Entry {
	details := j.answer.Words()
	details["queue_id"], details["outcome"] = m.queueID, outcome
	return audit.Entry{
		Kind: audit.Decision, Actor: audit.Actor{Kind: audit.ActorPostfix, Name: s.name},
		Sender: tx.sender.Folded().String(), Recipient: j.r.addr.Folded().String(), Details: details,
	}
}

// deciding returns a context in which the decisions for jobs are logged together with
// what is done, in its transaction.
func (s *session) deciding(ctx context.Context, m *message, tx *transaction, jobs []*job, outcome escrow.Outcome) context.Context {
	ctx = audit.With(ctx, audit.Actor{Kind: audit.ActorPostfix, Name: s.name})
	for _, j := range jobs {
		if !j.required() {
			continue
		}
		e := s.decision(m, tx, j, string(outcome))
		ctx = audit.Also(ctx, e)
		if outcome == escrow.OutcomeReinjected {
			e.Kind, e.Details = audit.Reinjected, audit.Details{"channel": j.answer.Channel.String(), "nexthop": j.answer.Nexthop, "queue_id": m.queueID}
			ctx = audit.Also(ctx, e)
		}
	}
	return ctx
}

// undone logs the decision for a job of which nothing was done. A refusal for good that
// can't be logged is none: the message waits.
func (s *session) undone(m *message, tx *transaction, j *job) {
	if m == nil || s.cfg.Audit == nil || j.settled || !j.required() {
		return
	}
	e := s.decision(m, tx, j, j.outcome)
	e.Details["why"] = j.reply.Message
	j.reply = s.logged(e, j.reply)
}

// judged logs a recipient that was not taken, likewise.
func (s *session) judged(tx *transaction, r *recipient, rep *smtp.SMTPError) *smtp.SMTPError {
	if s.cfg.Audit == nil {
		return rep
	}
	outcome := outcomeWait
	if rep.Code/100 == 5 {
		outcome = "refused"
	}
	return s.logged(audit.Entry{
		Kind: audit.Decision, Actor: audit.Actor{Kind: audit.ActorPostfix, Name: s.name},
		Sender: tx.sender.Folded().String(), Recipient: r.addr.Folded().String(),
		Details: audit.Details{"floor": policy.Encryption.String(), "queue_id": tx.ident, "outcome": outcome, "why": rep.Message},
	}, rep)
}

func (s *session) logged(e audit.Entry, rep *smtp.SMTPError) *smtp.SMTPError {
	if err := s.cfg.Audit.Add(e); err != nil {
		s.log.Error("decision can't be logged", "error", err, "queue_id", e.Details["queue_id"])
		if rep.Code/100 == 5 {
			return reply(451, "4.3.0", "The decision can't be logged for now, try again")
		}
	}
	return rep
}
