package intake

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/emersion/go-smtp"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/intake/reinject"
	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/policyd/policy"
)

// job is what is to be done for one recipient.
type job struct {
	r       *recipient
	address string // as it goes to ledger and vault
	answer  policy.Answer
	reply   *smtp.SMTPError // nil: not done yet
	outcome string          // for log and metrics
	settled bool            // in the ledger

	as []*job // what is done in its place, for whom its aliases name; nil: itself
}

func (j *job) end(outcome string, r *smtp.SMTPError) { j.outcome, j.reply = outcome, r }

// Outcomes beside escrow's.
const (
	outcomeBefore       = "settled before"
	outcomeBounce       = "notice bounced"
	outcomeConflict     = "conflict"
	outcomeWait         = "deferred"
	outcomeLoop         = "loop"
	outcomeError        = "error"
	outcomeNoPassphrase = "no passphrase"
	outcomeQuota        = "quota"
)

func addressesOf(jobs []*job) []string {
	all := make([]string, len(jobs))
	for i, j := range jobs {
		all[i] = j.address
	}
	return all
}

// open returns the jobs that have no reply yet.
func open(jobs []*job) []*job {
	var rest []*job
	for _, j := range jobs {
		if j.reply == nil {
			rest = append(rest, j)
		}
	}
	return rest
}

func endAll(jobs []*job, outcome string, r *smtp.SMTPError) {
	for _, j := range open(jobs) {
		j.end(outcome, r)
	}
}

// take keeps other sessions of this process from the same deliveries; a job whose
// delivery another has in hand is deferred. free gives them back.
func (s *session) take(m *message, sender policy.Address, jobs []*job) (free func()) {
	var mine []delivery
	for _, j := range open(jobs) {
		d := delivery{m.digest, sender.Folded().String(), j.r.addr.Folded().String()}
		if slices.Contains(mine, d) {
			continue // the same address twice
		}
		if !s.cfg.InHand.take(d) {
			j.end(outcomeWait, reply(451, "4.3.0", "This message is in hand already, try again"))
			continue
		}
		mine = append(mine, d)
	}
	return func() {
		for _, d := range mine {
			s.cfg.InHand.free(d)
		}
	}
}

// skipSettled ends the jobs that were done when the message was here before.
func (s *session) skipSettled(ctx context.Context, m *message, sender string, jobs []*job) error {
	jobs = open(jobs)
	if len(jobs) == 0 {
		return nil
	}
	done, err := s.cfg.Ledger.Settled(ctx, m.digest, sender, addressesOf(jobs))
	if err != nil {
		s.log.Error("ledger can't be read", "error", err)
		return internal()
	}
	for _, j := range jobs {
		if o, ok := done[j.address]; ok {
			j.settled = true
			j.end(outcomeBefore, reply(250, "2.0.0", "Already %s", o))
		}
	}
	return nil
}

// seal seals for all jobs that are open, in one transaction. Jobs that turn out to be
// settled are done; those that lack a passphrase are deferred, and the others with
// them if together is set.
func (s *session) seal(ctx context.Context, m *message, tx *transaction, jobs []*job, together bool) {
	for rest := open(jobs); len(rest) > 0; rest = open(jobs) {
		sealed := escrow.Message{
			Sender: tx.sender.String(), QueueID: m.queueID, Digest: m.digest, Size: m.size(), Body: m.open,
			EnvID: tx.mail.EnvelopeID, Ret: string(tx.mail.Return),
		}
		for _, j := range rest {
			sealed.Recipients = append(sealed.Recipients, escrow.Recipient{
				Address: j.address, Verify: j.answer.Verify, Mode: j.answer.Mode, Language: j.answer.Language, Life: j.answer.Life,
				Notify: strings.Join(j.r.notify, ","), ORCPT: j.r.orcpt,
			})
			s.cfg.Pin(j.address)
		}
		ctx := s.deciding(ctx, m, tx, rest, escrow.OutcomeSealed)
		s.cfg.Crash("before-seal")
		ids, err := s.cfg.Vault.Seal(ctx, sealed)
		if err == nil {
			s.cfg.Crash("after-seal")
			text := "Sealed"
			if len(ids) > 0 {
				text += " as " + ids[0]
			}
			for _, j := range rest {
				j.settled = true
				j.end(string(escrow.OutcomeSealed), reply(250, "2.0.0", "%s", text))
			}
			return
		}
		if !s.sortOut(ctx, m, tx, rest, err) || together && slices.ContainsFunc(rest, func(j *job) bool { return j.reply != nil && !j.settled }) {
			endAll(rest, outcomeWait, reply(451, "4.3.0", "The message can't be sealed for now, try again"))
			return
		}
	}
}

// sortOut ends the jobs that an error of Seal is about. It reports whether there
// were such.
func (s *session) sortOut(ctx context.Context, m *message, tx *transaction, jobs []*job, err error) bool {
	var about *escrow.RecipientError
	var full *escrow.QuotaError
	switch {
	case errors.Is(err, escrow.ErrSettled):
		// The ledger is asked, since the error may be about one of them only: a
		// 250 for another would lose it.
		if s.skipSettled(ctx, m, tx.sender.String(), jobs) != nil {
			return false
		}
	case errors.Is(err, escrow.ErrNoPassphrase) && errors.As(err, &about):
		for _, j := range jobs {
			if slices.Contains(about.Recipients, j.address) {
				s.alarm("a rule demands a passphrase, and none is set for the recipient", "recipient", j.address, "queue_id", m.queueID)
				j.end(outcomeNoPassphrase, reply(451, "4.7.0", "No passphrase is set for the recipient"))
			}
		}
	case errors.As(err, &full):
		s.alarm("a quota is used up: mail waits in the queue", "of", full.Of(), "used", full.Used, "needs", full.Needs, "quota", full.Quota, "queue_id", m.queueID)
		endAll(jobs, outcomeQuota, quotaReply(full))
	default:
		s.alarm("message can't be sealed", "error", err, "queue_id", m.queueID)
		return false
	}
	return len(open(jobs)) < len(jobs)
}

// giveBack gives the message back to Postfix for all jobs that are open, at addr;
// with all set, for all or for none.
func (s *session) giveBack(ctx context.Context, m *message, tx *transaction, jobs []*job, addr string, all bool) {
	jobs = open(jobs)
	if len(jobs) == 0 {
		return
	}
	marks := s.marked(m, tx.sender)
	env := reinject.Envelope{
		Sender: tx.sender, Size: m.size() + int64(len(marks)), UTF8: tx.mail.UTF8, Body: string(tx.mail.Body),
		Return: "HDRS", ID: tx.mail.EnvelopeID, Ident: m.queueID, All: all,
	}
	required := false
	for _, j := range jobs {
		env.Recipients = append(env.Recipients, j.r.reinject())
		required = required || j.answer.Allowed.Required()
	}
	if !required && tx.mail.Return == smtp.DSNReturnFull {
		env.Return = "FULL" // a bounce carries the text: only where nothing is required
	}
	client := reinject.Client{Addr: addr, Helo: s.cfg.Hostname}
	s.cfg.Crash("before-reinject")
	replies, err := client.Send(ctx, env, func() (io.ReadCloser, error) { return m.openBehind(marks) })
	if err != nil {
		s.alarm("message can't be given back to Postfix", "to", addr, "error", err, "queue_id", m.queueID)
		endAll(jobs, outcomeError, reply(451, "4.3.0", "The message can't be given back to Postfix for now, try again"))
		return
	}
	var taken []*job
	for i, j := range jobs {
		if replies[i].OK() {
			taken = append(taken, j)
			j.settled = true
			j.end(string(escrow.OutcomeReinjected), reply(250, "2.0.0", "Re-injected: %s", replies[i].Text))
		} else {
			j.end(outcomeWait, s.refusal(addr, m, replies[i]))
		}
	}
	if len(taken) == 0 {
		return
	}
	ctx = s.deciding(ctx, m, tx, taken, escrow.OutcomeReinjected)
	s.cfg.Crash("after-reinject")
	s.cfg.Crash("before-settle")
	if err := s.cfg.Ledger.Settle(context.WithoutCancel(ctx), m.digest, tx.sender.String(), addressesOf(taken), escrow.OutcomeReinjected); err != nil {
		// Postfix has it. To say anything but 250 would make a second copy.
		s.alarm("re-injection could not be recorded", "error", err, "queue_id", m.queueID)
		s.afterwards(audit.Pending(ctx))
	}
	s.cfg.Crash("after-settle")
}

// refusal turns a refusal by one of our own ports into a reply. A 5xx is a mistake of
// Postfix's settings, not of the message: it waits until somebody has looked.
func (s *session) refusal(addr string, m *message, r reinject.Reply) *smtp.SMTPError {
	if r.Code/100 != 4 {
		s.alarm("our own port of Postfix refuses a message", "port", addr, "code", r.Code, "text", r.Text, "queue_id", m.queueID)
		return reply(451, "4.3.5", "Re-injection refused: %s", r.Text)
	}
	rep := reply(r.Code, "", "Re-injection deferred: %s", r.Text)
	if rep.Code == 421 {
		rep.Code = 451 // ours does not close the connection
	}
	if r.Enhanced[0] == 4 {
		rep.EnhancedCode = smtp.EnhancedCode(r.Enhanced)
	}
	return rep
}

// finish logs the ends of all jobs, and notes what is to be confirmed.
func (s *session) finish(m *message, tx *transaction, jobs []*job) {
	x := settlement{digest: m.digest, sender: tx.sender.String()}
	for _, j := range jobs {
		if j.reply == nil {
			j.end(outcomeError, forgotten())
		}
		s.undone(m, tx, j)
		if j.settled {
			x.recipients = append(x.recipients, j.address)
		}
		s.done(m, tx, j.r, j.outcome, j.reply)
	}
	s.settle(x)
}
