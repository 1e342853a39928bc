package intake

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"time"

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
	if s.cfg.Audit == nil || j.settled || j.outcome == outcomeBounce {
		return
	}
	if j.required() {
		e := s.decision(m, tx, j, j.outcome)
		e.Details["why"] = j.reply.Message
		j.reply = s.logged(tx, e, j.reply)
		return
	}
	// No rule was asked, or none could be: what is required is known from the way it came.
	if undecided := j.answer.Channel == 0 && j.answer.Allowed == 0; undecided {
		floor, _ := m.floor(s.floor)
		if floor.Channels().Required() || j.reply.Code/100 == 5 {
			j.reply = s.unjudged(tx, j.r, floor, j.outcome, j.reply)
		}
	}
}

// judged logs a recipient that was not taken, likewise.
func (s *session) judged(tx *transaction, r *recipient, rep *smtp.SMTPError) *smtp.SMTPError {
	if s.cfg.Audit == nil || !s.floor.Channels().Required() {
		return rep
	}
	outcome := outcomeWait
	if rep.Code/100 == 5 {
		outcome = "refused"
	}
	return s.unjudged(tx, r, s.floor, outcome, rep)
}

func (s *session) unjudged(tx *transaction, r *recipient, floor policy.Requirement, outcome string, rep *smtp.SMTPError) *smtp.SMTPError {
	return s.logged(tx, audit.Entry{
		Kind: audit.Decision, Actor: audit.Actor{Kind: audit.ActorPostfix, Name: s.name},
		Sender: tx.sender.Folded().String(), Recipient: r.addr.Folded().String(),
		Details: audit.Details{"floor": floor.String(), "queue_id": tx.ident, "outcome": outcome, "why": rep.Message},
	}, rep)
}

// logged logs a decision that led to rep. That a message goes on waiting, for the same
// reason, is logged once a day: Postfix tries a hundred times.
func (s *session) logged(tx *transaction, e audit.Entry, rep *smtp.SMTPError) *smtp.SMTPError {
	waits := rep.Code/100 == 4
	key := waitKey(tx, &e)
	if waits && s.waiting.known(key, s.cfg.Now()) {
		return rep
	}
	if err := s.cfg.Audit.Add(e); err != nil {
		s.log.Error("decision can't be logged", "error", err, "queue_id", e.Details["queue_id"])
		if !waits {
			return reply(451, "4.3.0", "The decision can't be logged for now, try again")
		}
		s.waiting.forget(key)
	}
	return rep
}

// afterwards logs what was done and could not be recorded where it was done.
func (s *session) afterwards(entries []audit.Entry) {
	for _, e := range entries {
		if s.cfg.Audit == nil {
			return
		}
		if err := s.cfg.Audit.Add(e); err != nil {
			s.alarm("what was done is not in the audit log", "error", err, "recipient", e.Recipient, "queue_id", e.Details["queue_id"])
		}
	}
}

// Of what waits it is remembered for waitingKept that it was logged.
const (
	waitingKept = 24 * time.Hour
	waitingMost = 50_000
)

// waiting remembers which decisions to wait were logged. It lives as long as the process.
type waiting struct {
	mu   sync.Mutex
	seen map[[16]byte]time.Time
}

// waitKey names a decision of one message in Postfix's queue. The fallback is not told its
// id: there its size has to do. Numbers in the reason do not count: they tell when the next
// try is.
func waitKey(tx *transaction, e *audit.Entry) [16]byte {
	h := sha256.New()
	why := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, e.Details["why"])
	message := e.Details["queue_id"]
	if tx.ident == "" {
		message = fmt.Sprint(tx.mail.Size, " ", tx.mail.EnvelopeID)
	}
	for _, part := range []string{message, e.Sender, e.Recipient, e.Details["outcome"], e.Details["requires"], e.Details["rules"], why} {
		fmt.Fprintf(h, "%d %s\n", len(part), part)
	}
	return [16]byte(h.Sum(nil))
}

// known reports whether it was logged within the day, and remembers it as logged now.
func (w *waiting) known(key [16]byte, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if at, ok := w.seen[key]; ok && now.Sub(at) < waitingKept && !now.Before(at) {
		return true
	}
	if w.seen == nil || len(w.seen) >= waitingMost {
		w.seen = make(map[[16]byte]time.Time)
	}
	w.seen[key] = now
	return false
}

func (w *waiting) forget(key [16]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.seen, key)
}
