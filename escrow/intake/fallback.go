package intake

import (
	"context"
	"io"
	"net"
	"sync"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/postseal/postseal/policyd/policy"
)

const (
	// fresh is how old a look at a destination may be that counts here.
	fresh = 10 * time.Second
	// lookTime is how long a look may take. Postfix waits 5 minutes for a reply to
	// RCPT (smtp_rcpt_timeout), and sends all recipients at once.
	lookTime = time.Minute
	// lackingTime is how long a recipient without its passphrase is refused before
	// it is tried again. It must not keep the others of its message from being
	// sealed.
	lackingTime = time.Hour
	maxLacking  = 10000
)

// Fallback takes by SMTP (RFC 5321) what mandatory TLS could not deliver. It looks at
// the destination itself, and takes a recipient only for the escrow, or because it is of
// this server; everybody else stays in Postfix's queue. The reply to RCPT is for one
// recipient; the one reply to the message is for all, so all are sealed together or none.
type Fallback struct {
	*server
	// deliver is what is done with a message; tests replace it.
	deliver func(ctx context.Context, s *session, tx *transaction, m *message, jobs []*job) error

	mu      sync.Mutex
	lacking map[policy.Address]time.Time // recipients without the passphrase that a rule demands

	unverified unverified
}

// NewFallback makes the fallback.
func NewFallback(cfg Config) *Fallback {
	f := &Fallback{server: newServer(cfg, "fallback", policy.Encryption, false), lacking: make(map[policy.Address]time.Time)}
	f.deliver = f.commit
	f.session = func(s *session) smtp.Session { return &fallbackSession{session: s, fallback: f} }
	return f
}

// Run serves ln, which it closes, until ctx is done, and finishes the messages in
// hand. It returns nil after such a shutdown.
func (f *Fallback) Run(ctx context.Context, ln net.Listener) error { return f.run(ctx, ln) }

// verdict is what the fallback has found out about a recipient.
type verdict struct {
	kind    kind
	posture *policy.Posture // nil where it did not matter
	answer  policy.Answer
}

// kind is what is done with the recipients of one transaction.
type kind uint8

const (
	toSeal kind = iota + 1
	toOwn       // of this server: given back plainly
)

type fallbackSession struct {
	*session
	fallback *Fallback
}

// Rcpt decides. Where it takes the recipient, nothing but trouble can keep it from
// being done.
func (s *fallbackSession) Rcpt(to string, opts *smtp.RcptOptions) error {
	r, err := s.recipient(to, opts)
	if err != nil {
		return err
	}
	tx := s.envelope()
	err = s.carefully(func() (err error) {
		r.verdict, err = s.fallback.judge(s.session, &tx, &r)
		if err == nil && len(tx.rcpts) > 0 && tx.rcpts[0].verdict.kind != r.verdict.kind {
			// They can't be done in one step.
			err = reply(451, "4.5.3", "This recipient needs a transaction of its own, try again")
		}
		return err
	})
	if err != nil {
		rep := s.judged(&tx, &r, asReply(err))
		s.done(nil, &tx, &r, outcomeWait, rep)
		return rep
	}
	s.add(r)
	return nil
}

// judge decides for one recipient. The error is a reply; nil means that it can be
// taken.
func (f *Fallback) judge(s *session, tx *transaction, r *recipient) (verdict, error) {
	ctx, cancel := context.WithTimeout(s.ctx, lookTime+10*time.Second)
	defer cancel()
	if _, ok := f.cfg.Vault.IsBounceAddress(r.addr.String()); ok {
		return verdict{kind: toOwn}, nil // the plain port routes it to the splitter
	}
	q := policy.Question{
		Sender: tx.sender, Recipient: r.addr, Original: r.original,
		Floor: policy.Encryption, TriedByPostfix: true,
	}
	a, err := f.cfg.Decider.Decide(ctx, q)
	switch {
	case err != nil:
		s.log.Error("no verdict", "error", err, "recipient", r.addr.String())
		return verdict{}, reply(451, "4.3.0", "No decision can be made for now, try again")
	case a.Reason == policy.OwnDomain && a.Channel == policy.Plain:
		if r.addr.Routed() {
			return verdict{}, reply(550, "5.7.1", "Sender-specified routing is not possible for mail that must be encrypted")
		}
		return verdict{kind: toOwn, answer: a}, nil
	case a.Channel == 0:
		return verdict{}, reply(550, "5.7.1", "%s", policy.ConflictText(a.Input))
	case !a.Allowed.Has(policy.Escrow):
		return verdict{}, reply(451, "4.7.4", "Only TLS is allowed for this recipient, and it has failed just now")
	}
	if s.isNotice(tx.sender) {
		return verdict{}, noticeRefused()
	}
	if wait, ok := f.isLacking(r.addr); ok {
		return verdict{}, reply(451, "4.7.0", "No passphrase is set for the recipient; next try after %s", wait.UTC().Format(time.RFC3339))
	}
	if !a.Allowed.Has(policy.TLS) {
		return verdict{kind: toSeal, answer: a}, sealable(a)
	}
	posture, err := f.look(ctx, s, &a, r.addr)
	if err != nil {
		return verdict{}, err
	}
	q.Fresh = &posture
	if a, err = f.cfg.Decider.Decide(ctx, q); err != nil {
		s.log.Error("no verdict", "error", err, "recipient", r.addr.String())
		return verdict{}, reply(451, "4.3.0", "No decision can be made for now, try again")
	}
	return verdict{kind: toSeal, posture: &posture, answer: a}, sealable(a)
}

// sealable is the last look at a verdict before it is acted on.
func sealable(a policy.Answer) error {
	if a.Channel != policy.Escrow || !a.Allowed.Has(policy.Escrow) {
		return reply(451, "4.7.4", "The message waits for TLS")
	}
	return nil
}

// look looks at the destination now. Only where it answers, and has no TLS or none that
// works, is there a posture and no error: everything else is a reply.
func (f *Fallback) look(ctx context.Context, s *session, a *policy.Answer, rcpt policy.Address) (policy.Posture, error) {
	dest, demand := a.Destination(rcpt), a.TLS
	demand.Level = max(demand.Level, policy.LevelEncrypt)
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	p, err := f.cfg.Prober.Look(ctx, dest, demand, fresh)
	if err != nil {
		s.log.Warn("destination can't be looked at", "dest", dest, "error", err)
		return p, reply(451, "4.4.3", "%s can't be looked at for now", dest)
	}
	if f.unverifiable(ctx, dest, demand, &p) {
		p.State = policy.Broken
	}
	switch p.State {
	case policy.Absent, policy.Broken:
		if p.InGrace(f.cfg.Now(), f.cfg.Grace) {
			return p, reply(451, "4.7.5", "%s had TLS until %s: that may be a disturbance, and the message waits for it until %s", dest,
				p.Lost.UTC().Format(time.RFC3339), p.Lost.Add(f.cfg.Grace).UTC().Format(time.RFC3339))
		}
		return p, nil
	case policy.Works:
		return p, reply(451, "4.4.1", "TLS of %s works by now, the message stays in the queue for it", dest)
	case policy.Unreachable:
		return p, reply(451, "4.4.1", "%s does not answer", dest)
	case policy.NoMail:
		if a.Nexthop != "" {
			return p, reply(451, "4.4.3", "Next-hop %s does not exist", dest) // a mistake in the settings
		}
		if n, ok := f.cfg.Prober.(NullMXer); ok && n.NullMX(ctx, dest) {
			return p, reply(556, "5.1.10", "%s takes no mail (null MX)", dest)
		}
		return p, reply(550, "5.1.2", "%s does not exist, or has no mail server", dest)
	}
	if w := policy.ProofTLS(dest, demand, p.Published).Wait; w != "" && p.Published.DANE != policy.DANEUnknown {
		return p, reply(451, "4.7.5", "The message waits for verified TLS: %s", w)
	}
	return p, reply(451, "4.4.3", "It is not known how %s takes mail", dest)
}

// Data takes the message and does all of it or nothing.
func (s *fallbackSession) Data(io.Reader) error {
	tx := s.envelope()
	jobs := make([]*job, len(tx.rcpts))
	for i := range tx.rcpts {
		r := &tx.rcpts[i]
		jobs[i] = &job{r: r, address: r.addr.String(), answer: r.verdict.answer}
	}
	if err := s.carefully(func() error { return s.handle(&tx, jobs) }); err != nil {
		endAll(jobs, outcomeError, asReply(err))
	}
	answer := forgotten()
	for _, j := range jobs {
		if answer = asReply(j.reply); !accepted(answer) {
			break // one that is not done speaks for all
		}
	}
	return answer
}

func (s *fallbackSession) handle(tx *transaction, jobs []*job) error {
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
	if err := s.carefully(func() error { return s.fallback.deliver(ctx, s.session, tx, m, jobs) }); err != nil {
		endAll(jobs, outcomeError, asReply(err))
	}
	s.finish(m, tx, jobs)
	s.wire.checkPeer()
	s.cfg.Crash("before-reply")
	return nil
}

// commit does for all recipients what was decided at RCPT, which the message itself
// may still forbid.
func (f *Fallback) commit(ctx context.Context, s *session, tx *transaction, m *message, jobs []*job) error {
	if m.hops > maxHops {
		return reply(554, "5.4.6", "Too many hops: the message goes in a circle")
	}
	defer s.take(m, tx.sender, jobs)()
	if len(open(jobs)) < len(jobs) {
		return reply(451, "4.3.0", "This message is in hand already, try again")
	}
	if err := s.skipSettled(ctx, m, tx.sender.String(), jobs); err != nil {
		return err
	}
	if len(jobs) > 0 && jobs[0].r.verdict.kind == toOwn {
		s.giveBack(ctx, m, tx, jobs, f.cfg.Plain, true)
		return nil
	}
	floor, possible := m.floor(policy.Encryption)
	if !possible {
		return reply(451, "4.7.4", "What the message requires excludes the escrow")
	}
	for _, j := range open(jobs) {
		a, err := f.cfg.Decider.Decide(ctx, policy.Question{
			Sender: tx.sender, Recipient: j.r.addr, Original: j.r.original, Content: m.content,
			Floor: floor, Fresh: j.r.verdict.posture, TriedByPostfix: true,
		})
		if err != nil {
			s.log.Error("no verdict", "error", err, "recipient", j.address, "queue_id", m.queueID)
			return reply(451, "4.3.0", "No decision can be made for now, try again")
		}
		if err := sealable(a); err != nil {
			return err
		}
		j.answer = a
	}
	s.seal(ctx, m, tx, jobs, true)
	for _, j := range jobs {
		if j.outcome == outcomeNoPassphrase {
			f.setLacking(j.r.addr)
		}
	}
	return nil
}

func (f *Fallback) setLacking(a policy.Address) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.lacking) >= maxLacking {
		clear(f.lacking)
	}
	f.lacking[a.Folded()] = f.cfg.Now().Add(lackingTime)
}

func (f *Fallback) isLacking(a policy.Address) (until time.Time, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	until, ok = f.lacking[a.Folded()]
	if ok && !f.cfg.Now().Before(until) {
		delete(f.lacking, a.Folded())
		return time.Time{}, false
	}
	return until, ok
}
