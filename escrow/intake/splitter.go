package intake

import (
	"context"
	"errors"
	"io"
	"math/bits"
	"net"

	"github.com/emersion/go-smtp"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/policyd/policy"
)

// Splitter takes messages by LMTP (RFC 2033) and does with each recipient what its
// verdict says. It answers for each recipient alone, after what was done is on the
// disk.
type Splitter struct {
	*server
	// deliver is what is done with a message; tests replace it.
	deliver func(ctx context.Context, s *session, tx *transaction, m *message, jobs []*job) error
}

// NewSplitter makes the splitter of the port that adds the requirement floor; for
// policy.None everything is decided by rules, subject and marks.
func NewSplitter(cfg Config, floor policy.Requirement) *Splitter {
	sp := &Splitter{server: newServer(cfg, "splitter-"+floor.String(), floor, true)}
	sp.deliver = sp.split
	sp.session = func(s *session) smtp.Session { return &splitterSession{session: s, splitter: sp} }
	return sp
}

// Run serves ln, which it closes, until ctx is done, and finishes the messages in
// hand. It returns nil after such a shutdown.
func (sp *Splitter) Run(ctx context.Context, ln net.Listener) error { return sp.run(ctx, ln) }

type splitterSession struct {
	*session
	splitter *Splitter
}

// Rcpt takes any recipient that can be understood: Postfix gets its answer after
// the message.
func (s *splitterSession) Rcpt(to string, opts *smtp.RcptOptions) error {
	r, err := s.recipient(to, opts)
	if err != nil {
		return err
	}
	s.add(r)
	return nil
}

// Data is not called: this is LMTP.
func (s *splitterSession) Data(io.Reader) error { return internal() }

// LMTPData takes the message and answers for each recipient.
func (s *splitterSession) LMTPData(_ io.Reader, status smtp.StatusCollector) error {
	tx := s.envelope()
	jobs := make([]*job, len(tx.rcpts))
	for i := range tx.rcpts {
		jobs[i] = &job{r: &tx.rcpts[i], address: tx.rcpts[i].addr.String()}
	}
	if err := s.carefully(func() error { return s.handle(&tx, jobs) }); err != nil {
		endAll(jobs, outcomeError, asReply(err))
	}
	for _, j := range jobs {
		status.SetStatus(j.r.wire, asReply(j.reply))
	}
	return forgotten() // for a recipient that no job is about
}

func (s *splitterSession) handle(tx *transaction, jobs []*job) error {
	m, err := s.receive(tx)
	if err != nil {
		for _, j := range jobs {
			j.end(outcomeError, s.judged(tx, j.r, asReply(err)))
			s.done(nil, tx, j.r, j.outcome, j.reply)
		}
		return err
	}
	defer m.spool.Close()
	ctx, cancel := context.WithTimeout(s.ctx, workTime)
	defer cancel()
	work := jobs
	if err := s.carefully(func() error {
		work = s.expand(ctx, m, tx, jobs)
		return s.splitter.deliver(ctx, s.session, tx, m, work)
	}); err != nil {
		endAll(work, outcomeError, asReply(err))
	}
	s.finish(m, tx, work)
	gather(jobs)
	s.wire.checkPeer()
	s.cfg.Crash("before-reply")
	return nil
}

// split decides for each recipient and does what was decided: first what is
// sealed, then what goes back to Postfix, one message for each road.
func (sp *Splitter) split(ctx context.Context, s *session, tx *transaction, m *message, jobs []*job) error {
	if m.hops > maxHops {
		endAll(jobs, outcomeLoop, reply(554, "5.4.6", "Too many hops: the message goes in a circle"))
		return nil
	}
	for _, j := range jobs {
		if token, ok := s.cfg.Vault.IsBounceAddress(j.address); ok {
			s.bounced(ctx, m, tx, j, token)
		}
	}
	defer s.take(m, tx.sender, jobs)()
	if err := s.skipSettled(ctx, m, tx.sender.String(), jobs); err != nil {
		return err
	}
	for _, j := range open(jobs) {
		sp.decide(ctx, s, tx, m, j)
	}
	oneVerdict(jobs)

	var sealed []*job
	roads := make(map[road][]*job)
	var order []road
	for _, j := range open(jobs) {
		if j.answer.Channel == policy.Escrow {
			sealed = append(sealed, j)
			continue
		}
		r, ok := sp.road(&j.answer)
		if !ok {
			s.alarm("verdict that can't be carried out", "recipient", j.address, "channel", j.answer.Channel.String())
			j.end(outcomeError, internal())
			continue
		}
		if roads[r] == nil {
			order = append(order, r)
		}
		roads[r] = append(roads[r], j)
	}
	s.seal(ctx, m, tx, sealed, false)
	for _, r := range order {
		s.giveBack(ctx, m, tx, roads[r], r.addr, false)
	}
	return nil
}

// bounced hands over what came to the envelope sender of a notice.
func (s *session) bounced(ctx context.Context, m *message, tx *transaction, j *job, token string) {
	body, err := m.spool.Open()
	if err == nil {
		defer body.Close()
		err = s.cfg.Vault.Bounced(ctx, token, tx.sender.String(), body)
	}
	if errors.Is(err, escrow.ErrNoMailbox) {
		j.end(outcomeBounce, reply(550, "5.1.1", "Nobody reads mail to this address: write to the one in From or Reply-To"))
		return
	}
	if err != nil && !errors.Is(err, escrow.ErrUnknown) {
		s.log.Error("bounce of a notice can't be handled", "error", err, "queue_id", m.queueID)
		j.end(outcomeError, internal())
		return
	}
	// What is about a message that is gone by now interests nobody any more.
	j.end(outcomeBounce, reply(250, "2.0.0", "Noted"))
}

// decide asks for the verdict. It ends the job where there is nothing to carry out.
func (sp *Splitter) decide(ctx context.Context, s *session, tx *transaction, m *message, j *job) {
	floor, possible := m.floor(sp.floor)
	if !possible {
		floor = policy.EscrowOnly // own recipients get it still
	}
	q := policy.Question{Sender: tx.sender, Recipient: j.r.addr, Original: j.r.original, Content: m.content, Floor: floor}
	a, err := s.cfg.Decider.Decide(ctx, q)
	if err != nil {
		s.log.Error("no verdict", "error", err, "recipient", j.address, "queue_id", m.queueID)
		j.end(outcomeError, reply(451, "4.3.0", "No decision can be made for now, try again"))
		return
	}
	if m.require && possible && a.Channel == policy.TLS && a.Reason != policy.OwnDomain {
		if a, err = s.verified(ctx, q, a); err != nil {
			j.end(outcomeWait, asReply(err))
			return
		}
	}
	j.answer = a
	switch {
	case a.Reason == policy.OwnDomain && a.Channel == policy.Plain:
		if a.Allowed.Required() && j.r.addr.Routed() {
			j.end(outcomeConflict, reply(554, "5.7.1", "Sender-specified routing is not possible for mail that must be encrypted"))
		}
	case !possible:
		j.end(outcomeConflict, reply(554, "5.7.1", "What the message's login and its way require excludes each other"))
	case a.Channel == 0:
		j.end(outcomeConflict, reply(554, "5.7.1", "%s", policy.ConflictText(a.Input)))
	case !a.Allowed.Has(a.Channel):
		s.alarm("verdict that its rules forbid", "recipient", j.address, "channel", a.Channel.String())
		j.end(outcomeError, internal())
	case a.Channel == policy.Escrow && s.isNotice(tx.sender):
		j.end(outcomeLoop, noticeRefused())
	case a.Channel == policy.TLS && a.Allowed.Required() && a.Blocked != "":
		j.end(outcomeWait, reply(451, "4.7.1", "Must be encrypted, and cannot be for now: %s", a.Blocked))
	}
}

// isNotice reports whether a message comes from the envelope sender of a notice. It
// is never sealed: the notice of that would come here too, for ever. What is refused
// bounces to that sender, and so the sender of the sealed message is told. A reply is
// none, though its envelope sender looks alike: a person has written it, and each
// further round takes a person again.
func (s *session) isNotice(sender policy.Address) bool {
	a := sender.String()
	_, ok := s.cfg.Vault.IsBounceAddress(a)
	return ok && !s.cfg.Vault.IsReply(a)
}

func noticeRefused() *smtp.SMTPError {
	return reply(554, "5.7.1", "A notice about a sealed message can't be sealed itself")
}

// oneVerdict sees to it that an address that stands twice in the envelope (two
// aliases lead to it) has one verdict, the strictest: the message reaches it
// once, or twice by the same road.
func oneVerdict(jobs []*job) {
	byAddress := make(map[policy.Address][]*job)
	for _, j := range jobs {
		a := j.r.addr.Folded()
		byAddress[a] = append(byAddress[a], j)
	}
	for _, same := range byAddress {
		if len(same) < 2 {
			continue
		}
		allowed, strict := policy.AnyChannel, same[0]
		for _, j := range same {
			if j.reply != nil {
				endAll(same, j.outcome, j.reply)
				for _, other := range same {
					other.settled = other.settled || j.settled
				}
				break
			}
			allowed &= j.answer.Allowed
			if bits.OnesCount8(uint8(j.answer.Allowed)) < bits.OnesCount8(uint8(strict.answer.Allowed)) {
				strict = j
			}
		}
		own := strict.answer.Reason == policy.OwnDomain
		for _, j := range open(same) {
			if allowed == 0 && !own {
				j.end(outcomeConflict, reply(554, "5.7.1", "The rules of two aliases of this recipient exclude each other"))
				continue
			}
			j.answer = strict.answer
		}
	}
}

// road is a way back into Postfix. A message is given back once for each next-hop,
// since the FILTER that carries it counts for all recipients.
type road struct{ addr, nexthop string }

// road returns the way back for a verdict. Only what nothing forbids, or who is of
// this server, goes to the plain port.
func (sp *Splitter) road(a *policy.Answer) (road, bool) {
	switch {
	case a.Channel == policy.Plain && (a.Reason == policy.OwnDomain || !a.Allowed.Required()):
		return road{addr: sp.cfg.Plain}, true
	case a.Channel == policy.TLS && a.Allowed.Has(policy.Escrow):
		return road{sp.cfg.Secure, a.Nexthop}, true
	case a.Channel == policy.TLS:
		return road{sp.cfg.Forced, a.Nexthop}, true
	}
	return road{}, false
}
