// Package policyd answers Postfix's policy delegation protocol
// (SMTPD_POLICY_README): may this recipient be accepted, and by which way must the
// message leave?
//
// The way of a mail through here: smtpd asks at each RCPT, at DATA and at the end
// of the message. What sender and login require is known at the first RCPT
// ([policy.Engine.Sender]). Where they require nothing the answer is DUNNO, and the
// tables (package tlsmap) route each recipient by its own rule. Where they do, the
// answer is FILTER, which stays in the queue file: straight to mandatory TLS while
// every recipient so far may take that same road, else to the splitter
// (escrow/intake), which decides for each recipient alone. A FILTER is for the
// whole message and the last one wins, so once a transaction goes to the splitter
// it always does; what was answered is remembered by transaction ([memory]), and a
// transaction that is not remembered goes to the splitter.
//
// It never answers DUNNO because something is wrong: it closes the connection,
// upon which Postfix answers 451 to its client and the mail waits there.
package policyd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/internal/accept"
	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/policyd/policy"
)

// The values of policy_context by which our own re-injection ports ask. They are
// answered with FILTER to mandatory TLS, and never with the splitter, where their
// mail comes from.
const (
	ContextSecure = "postseal-secure" // 8652: mandatory TLS, with the fallback
	ContextForced = "postseal-forced" // 8654: mandatory TLS or nothing
	ContextNotice = "postseal-notice" // 8653: notices, by the administrator's road
)

// RequirementHeader carries inside the message what the envelope does not tell
// (a login's requirement, that of an address that was rewritten), since header_checks
// replace a FILTER and postsuper -r drops it from the queue file. Its value is made by a [Marker].
const RequirementHeader = "X-Postseal-Requirement"

// What --forced-unreachable may say of a destination that must get its mail by TLS
// and is known to have none.
const (
	UnreachableQueue  = "queue"  // accept: it waits in the queue and bounces at the end
	UnreachableDefer  = "defer"  // 4xx to the client
	UnreachableReject = "reject" // 5xx to the client
)

// Marker makes the value of [RequirementHeader]: one line that proves, to whoever
// has the key, that a message of sender was required to be treated so.
type Marker interface {
	Mark(r policy.Requirement, sender string) string
}

// Auditor takes entries of the audit log; [*audit.Writer].
type Auditor interface {
	Add(e audit.Entry) error
}

// Config is what a [Server] needs. Engine and Splitter are required.
type Config struct {
	Engine   *policy.Engine
	Splitter policy.Splitter

	// AddsRecipients says that Postfix may add recipients after smtpd
	// (always_bcc, *_bcc_maps, milters): the road of those that are asked for then
	// says nothing of the others, and required mail always goes to the splitter.
	AddsRecipients bool
	// ForcedUnreachable is queue (the default), defer or reject.
	ForcedUnreachable string
	// Origin is $myorigin, which Postfix appends to a bare local part.
	Origin string
	// Canonical rewrites an address as canonical_maps and sender_ or
	// recipient_canonical_maps will after smtpd. nil: there are none.
	Canonical func(ctx context.Context, a policy.Address, sender bool) (policy.Address, error)
	// Aliased reports whether virtual_alias_maps replaces a recipient that is not of
	// an own domain: its rule must hold for whom it becomes. nil: there are none.
	Aliased func(ctx context.Context, a policy.Address) (bool, error)
	// Audit is told of each decision on mail that must be encrypted, before Postfix is;
	// where it fails, the mail waits. nil: nobody is told.
	Audit Auditor
	// Marker is nil where requirements are not marked.
	Marker Marker

	Log        *slog.Logger          // nil: none
	Registerer prometheus.Registerer // nil: none

	// Limits on connections. The idle limit must be longer than Postfix's
	// smtpd_policy_service_max_idle (300 s), lest Postfix finds its connection
	// closed; the default is 10 minutes.
	Limits accept.Limits
	// Transactions is how many are remembered at most (default 100,000, about
	// 300 bytes each), TransactionAge for how long after the last request of one
	// (default one hour). What is forgotten goes to the splitter.
	Transactions   int
	TransactionAge time.Duration
	// DecisionTime is how long one answer may take, the lookups in Postfix's own
	// tables included (default 20 s; Postfix itself waits 100 s).
	DecisionTime time.Duration
}

// Server is the policy delegation server.
type Server struct {
	cfg     Config
	log     *slog.Logger
	memory  *memory
	metrics metrics
}

// New checks cfg. It fails on a missing part and on metrics that are registered
// already.
func New(cfg Config) (*Server, error) {
	if cfg.Engine == nil {
		return nil, errors.New("policyd: no engine")
	}
	for _, hop := range []string{cfg.Splitter.Encryption, cfg.Splitter.Forced, cfg.Splitter.Escrow} {
		if hop == "" || !printable(hop) {
			return nil, fmt.Errorf("policyd: next-hop %q of the splitter", hop)
		}
	}
	switch cfg.ForcedUnreachable {
	case "":
		cfg.ForcedUnreachable = UnreachableQueue
	case UnreachableQueue, UnreachableDefer, UnreachableReject:
	default:
		return nil, fmt.Errorf("forced-unreachable %q: want queue, defer or reject", cfg.ForcedUnreachable)
	}
	cfg.Origin = policy.CanonicalDomain(cfg.Origin)
	cfg.Limits = cfg.Limits.WithDefaults(10 * time.Minute)
	if cfg.Transactions == 0 {
		cfg.Transactions = 100_000
	}
	if cfg.TransactionAge == 0 {
		cfg.TransactionAge = time.Hour
	}
	if cfg.DecisionTime == 0 {
		cfg.DecisionTime = 20 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, log: cfg.Log, memory: newMemory(cfg.Transactions, cfg.TransactionAge)}
	s.metrics = newMetrics(s.memory.len)
	if err := s.metrics.register(cfg.Registerer); err != nil {
		return nil, fmt.Errorf("policyd: register metrics: %w", err)
	}
	return s, nil
}

// Run answers requests on ln, a TCP or unix listener, which it closes, until ctx is
// done; requests already read are still answered. It returns nil after such a
// shutdown, else the error that ended ln. It may run on several listeners at once,
// which then share their memory of transactions.
func (s *Server) Run(ctx context.Context, ln net.Listener) error {
	return accept.Loop(ctx, ln, s.cfg.Limits, s.log, s.serve)
}

// serve answers the requests of one connection, one after the other. An error
// closes the connection, unanswered.
func (s *Server) serve(c *accept.Conn) error {
	s.metrics.connections.Inc()
	defer s.metrics.connections.Dec()
	var req request
	err := c.Serve(maxRequest, func(in, out []byte) (int, []byte, error) {
		raw, err := whole(in)
		if err != nil || raw == nil {
			return 0, nil, err
		}
		if err := req.parse(raw); err != nil {
			return 0, nil, fmt.Errorf("bad request: %w", err)
		}
		act, err := s.answer(c.Context(), &req)
		if err != nil {
			return 0, nil, fmt.Errorf("no answer: %w", err)
		}
		if !printable(act.verb) || !printable(act.text) {
			return 0, nil, errors.New("no answer: it would not have been one line of printable text")
		}
		s.metrics.count(act.verb)
		return len(raw), act.append(out), nil
	})
	if err != nil {
		s.metrics.closed.Inc()
	}
	return err
}
