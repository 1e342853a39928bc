package intake

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/intake/reinject"
	"github.com/postseal/postseal/escrow/intake/spool"
	"github.com/postseal/postseal/policyd/policy"
)

// session is one connection, as go-smtp drives it. Its methods may be called by
// several goroutines: the server may end the session while a message is in hand.
type session struct {
	*server
	ctx  context.Context
	wire *wire

	mu      sync.Mutex
	tx      transaction
	settled []settlement // by the last message, not confirmed
	replied bool         // the replies to the last message were written
}

// transaction is the envelope.
type transaction struct {
	sender policy.Address
	mail   smtp.MailOptions
	ident  string
	rcpts  []recipient
}

// recipient is one recipient as it came.
type recipient struct {
	wire     string // go-smtp's key for it
	addr     policy.Address
	notify   []string
	orcpt    string         // encoded, "" for none or a bad one
	original policy.Address // what orcpt says

	verdict verdict // the fallback's, at RCPT
}

func (r *recipient) reinject() reinject.Recipient {
	return reinject.Recipient{Address: r.addr, Notify: r.notify, Original: r.orcpt}
}

// settlement is what has to be confirmed when the client goes on.
type settlement struct {
	digest     escrow.Digest
	sender     string
	recipients []string
}

// Mail begins a transaction.
func (s *session) Mail(from string, opts *smtp.MailOptions) error {
	s.goesOn()
	sender, err := fromWire(from)
	if err != nil {
		s.log.Warn("sender refused", "peer", peerName(s.wire), "error", err)
		return reply(553, "5.1.7", "Bad sender address")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tx = transaction{sender: sender, mail: *opts, ident: s.wire.ident}
	return nil
}

// recipient reads a RCPT command.
func (s *session) recipient(to string, opts *smtp.RcptOptions) (recipient, error) {
	addr, err := fromWire(to)
	if err != nil || addr.IsNull() {
		s.log.Warn("recipient refused", "peer", peerName(s.wire), "error", err)
		return recipient{}, reply(553, "5.1.3", "Bad recipient address")
	}
	r := recipient{wire: to, addr: addr}
	for _, n := range opts.Notify {
		r.notify = append(r.notify, string(n))
	}
	if o := s.wire.orcpt; validORCPT(o) {
		r.orcpt, r.original = o, originalAddress(o)
	}
	return r, nil
}

func (s *session) add(r recipient) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tx.rcpts = append(s.tx.rcpts, r)
}

func (s *session) envelope() transaction {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tx
}

// Reset ends a transaction. go-smtp calls it after the replies to a message too.
func (s *session) Reset() {
	s.wire.setBusy(false)
	s.wire.ident = ""
	s.mu.Lock()
	s.tx = transaction{}
	first := len(s.settled) > 0 && !s.replied
	s.replied = true
	s.mu.Unlock()
	if first {
		s.cfg.Crash("after-reply")
		return
	}
	s.goesOn()
}

// Logout ends the session. Whether the client has read the replies to its last
// message shows when it closes.
func (s *session) Logout() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if settled := s.settled; len(settled) > 0 && s.replied {
		s.settled = nil
		s.wire.confirmed = func(read bool) {
			if read {
				s.confirm(settled)
			}
		}
	}
	return nil
}

// settle keeps what is to be confirmed, just before the replies are written.
func (s *session) settle(x settlement) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settled, s.replied = nil, false
	if len(x.recipients) > 0 {
		s.settled = []settlement{x}
	}
}

// goesOn notes that the client sends a command after the replies to a message: it
// has read them.
func (s *session) goesOn() {
	s.mu.Lock()
	settled := s.settled
	if !s.replied {
		settled = nil
	} else {
		s.settled = nil
	}
	s.mu.Unlock()
	if len(settled) > 0 && !s.wire.gone.Load() {
		s.wire.gate.background.Go(func() { s.confirm(settled) })
	}
}

// confirm is best effort: what is not confirmed stays pinned to the splitter.
func (s *session) confirm(settled []settlement) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), 30*time.Second)
	defer cancel()
	for _, x := range settled {
		if err := s.cfg.Ledger.Confirm(ctx, x.digest, x.sender, x.recipients); err != nil {
			s.log.Warn("could not confirm a settlement", "error", err)
		}
	}
}

// message is what came behind the envelope.
type message struct {
	spool   *spool.Spool
	digest  escrow.Digest
	queueID string
	hops    int
	content []*policy.Rule       // what the triggers require that it sets off
	marks   []policy.Requirement // genuine ones
	require bool                 // sent with REQUIRETLS, see RequireTLSHeader
	edits   []edit               // what is changed before it goes on
}

// floor returns what the way demands that the message came: the port's requirement,
// the marks in it, and REQUIRETLS, which counts as the requirement encryption: who writes
// the field by himself only asks for more. ok is false where they exclude each other.
func (m *message) floor(port policy.Requirement) (policy.Requirement, bool) {
	allowed := port.Channels()
	if m.require {
		allowed &= policy.Encryption.Channels()
	}
	for _, mark := range m.marks {
		allowed &= mark.Channels()
	}
	return allowed.Requirement()
}

// receive reads the message, whole, whatever becomes of it, from the wire: go-smtp's
// reader has nothing. The error is a reply.
func (s *session) receive(tx *transaction) (*message, error) {
	m := &message{spool: spool.New(s.cfg.SpoolDir)}
	digest := newDigester(s.cfg.RequeueUID)
	if err := s.fill(m.spool, digest, s.wire.text); err != nil {
		m.spool.Close()
		return nil, err
	}
	m.digest, m.queueID = digest.sum(tx.ident), tx.ident
	if err := s.look(m, tx.sender); err != nil {
		m.spool.Close()
		s.log.Error("spool can't be read", "error", err)
		return nil, internal()
	}
	return m, nil
}

// fill reads to the end even when nothing more can be kept: go-smtp must not find
// anything left.
func (s *session) fill(sp *spool.Spool, digest *digester, r io.Reader) error {
	buf := make([]byte, 32<<10)
	var size int64
	var failed error
	for {
		n, err := r.Read(buf)
		if size += int64(n); failed == nil {
			if limit := s.cfg.MaxMessageSize; limit > 0 && size > limit {
				failed = reply(552, "5.3.4", "Message is larger than %d bytes", limit)
			} else if _, werr := sp.Write(buf[:n]); werr != nil {
				s.log.Error("message can't be spooled", "error", werr)
				failed = reply(452, "4.3.1", "No room for the message, try again")
			}
			digest.Write(buf[:n])
		}
		switch {
		case err == io.EOF:
			return failed
		case err != nil:
			return reply(451, "4.4.2", "Message cut off")
		}
	}
}

// look reads the header.
func (s *session) look(m *message, sender policy.Address) error {
	body, err := m.spool.Open()
	if err != nil {
		return err
	}
	defer body.Close()
	triggers, now := s.cfg.Triggers(), s.cfg.Now()
	var fired []policy.Fired
	h := header{
		concerns: triggers.Concerns,
		field: func(f field) {
			fired = append(fired, triggers.Match(f.name, f.value, sender, now)...)
			if !f.whole {
				return
			}
			if text, changed := triggers.Rewrite(f.text, sender, now); changed {
				m.edits = append(m.edits, edit{f.from, int64(len(f.text)), text})
			}
		},
		mark: func(v string) {
			if r, ok := s.cfg.Vault.VerifyMark(v, sender.String()); ok {
				m.marks = append(m.marks, r)
			}
		},
	}
	if err := h.read(body); err != nil {
		return err
	}
	m.hops, m.content, m.require = h.hops, policy.Rules(fired), h.require
	if m.queueID == "" {
		m.queueID = h.queueID
	}
	return nil
}

// carefully calls f, and turns a panic into an error.
func (s *session) carefully(f func() error) (err error) {
	defer func() {
		if fault := recover(); fault != nil {
			s.alarm("panic: please report this", "fault", fmt.Sprint(fault), "stack", string(debug.Stack()))
			err = internal()
		}
	}()
	return f()
}

// alarm logs what an administrator must look at.
func (s *session) alarm(msg string, args ...any) {
	s.metrics.alarms.Inc()
	s.log.Error(msg, args...)
}

// log of one recipient's end.
func (s *session) done(m *message, tx *transaction, r *recipient, outcome string, rep *smtp.SMTPError, args ...any) {
	s.metrics.recipients.WithLabelValues(s.name, outcome).Inc()
	level := slog.LevelInfo
	if !accepted(rep) {
		level = slog.LevelWarn
	}
	queueID := tx.ident
	if m != nil {
		queueID = m.queueID
	}
	args = append([]any{"queue_id", queueID, "sender", tx.sender.String(), "recipient", r.addr.String(),
		"outcome", outcome, "code", rep.Code, "text", rep.Message}, args...)
	s.log.Log(context.Background(), level, "recipient", args...)
}
