package policyd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/postseal/postseal/policyd/policy"
)

// Texts of refusals that are not about a rule.
const (
	textRouting  = "sender-specified routing is not possible for mail that must be encrypted"
	textExclude  = "the rules for the forms of the sender's address exclude each other"
	textSeparate = "this recipient has to be sent to in a message of its own, try again"
	textChanged  = "the rules for this message have just changed, try again"
	textNexthop  = "next-hop differs from that of the earlier recipients, try again"
	textUnlogged = "the decision cannot be logged for now, try again"
	textNoTLS    = "the rules no longer let this message go by TLS, try again"
)

// answer decides what to say to q. An error says that nothing may be said: the
// connection is to be closed.
func (s *Server) answer(ctx context.Context, q *request) (action, error) {
	switch q.state {
	case "RCPT", "DATA", "BDAT", "END-OF-MESSAGE":
	default: // CONNECT, EHLO, HELO, MAIL, VRFY, ETRN: nothing is sent yet
		return dunno, nil
	}
	sender, err := s.parse(q.sender)
	if err != nil {
		return reject("5.1.7", "bad sender address: "+err.Error()), nil
	}
	recipient, err := s.parse(q.recipient)
	if err != nil {
		return reject("5.1.3", "bad recipient address: "+err.Error()), nil
	}
	switch q.context {
	case ContextNotice:
		return s.notice(ctx, q, recipient[0])
	case ContextSecure:
		return s.reinjected(ctx, q, sender[0], recipient[0], policy.Encryption)
	case ContextForced:
		return s.reinjected(ctx, q, sender[0], recipient[0], policy.ForcedTLS)
	}
	if strings.HasPrefix(q.context, "postseal-") {
		return action{}, errors.New("unknown policy_context")
	}

	m := mail{server: s, request: q, sender: sender[1], recipient: recipient[1], recipientAs: recipient[0], twoFaced: recipient[1] != recipient[0]}
	if s.cfg.Canonical == nil && sender[1] == sender[0] {
		m.required = s.cfg.Engine.Sender(m.sender, q.login) // the usual case: no context, no allocation
	} else if err := m.rewrite(ctx, sender[0]); err != nil {
		return action{}, err
	}
	m.before, m.known = s.memory.get(q, s.cfg.Engine.Now())
	if !m.known {
		m.before = transaction{bySender: policy.AnyChannel, require: policy.AnyChannel}
	} else if m.required != 0 && m.before.bySender != 0 && m.required&m.before.bySender == 0 {
		return deferral("4.7.1", textChanged), nil
	}
	// What was required at the first recipient stays required, whatever becomes of
	// the rules in between.
	m.required &= m.before.bySender
	if q.state != "RCPT" {
		return m.atEnd()
	}
	return m.atRecipient(ctx)
}

// parse reads an address as smtpd hands it over, and returns it as Postfix will
// complete it: twice, where a bare local part can be understood in two ways. A bare
// local part belongs to $myorigin; but user%domain and domain!user are rewritten to
// user@domain (allow_percent_hack, swap_bangpath), unless the local part was quoted,
// which smtpd does not tell.
func (s *Server) parse(raw string) (forms [2]policy.Address, err error) {
	a, err := policy.ParseAddress(raw)
	if err != nil {
		return forms, err
	}
	forms[0], forms[1] = a, a
	if a.Domain != "" || a.Local == "" {
		return forms, nil
	}
	forms[0].Domain = s.cfg.Origin
	forms[1] = forms[0]
	if site, user, ok := strings.Cut(a.Local, "!"); ok && site != "" {
		forms[1] = policy.Address{Local: user, Domain: policy.CanonicalDomain(site)}
	} else if i := strings.LastIndexByte(a.Local, '%'); i >= 0 && i+1 < len(a.Local) {
		forms[1] = policy.Address{Local: a.Local[:i], Domain: policy.CanonicalDomain(a.Local[i+1:])}
	}
	return forms, nil
}

// mail is one question about a message that comes through smtpd.
type mail struct {
	server  *Server
	request *request

	sender      policy.Address // as it will be in the queue
	recipient   policy.Address // likewise
	recipientAs policy.Address // as it was typed
	twoFaced    bool           // the recipient can be understood in two ways

	required policy.Channels    // what sender and login require of every recipient
	floor    policy.Requirement // what is required of the sender by another form of its address
	before   transaction        // what is remembered
	known    bool               // something is
}

// rewrite applies the canonical maps, and gathers what the rules require of the
// sender in any form of its address: a rule for the address that was typed counts as
// one for what it becomes.
func (m *mail) rewrite(ctx context.Context, other policy.Address) error {
	s := m.server
	forms := []policy.Address{m.sender, other}
	if canonical := s.cfg.Canonical; canonical != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DecisionTime)
		defer cancel()
		for _, a := range forms[:2] {
			c, err := canonical(ctx, a, true)
			if err != nil {
				return fmt.Errorf("canonical form of the sender: %w", err)
			}
			forms = append(forms, c)
		}
		m.sender = forms[2]
		if m.request.state == "RCPT" {
			c, err := canonical(ctx, m.recipient, false)
			if err != nil {
				return fmt.Errorf("canonical form of the recipient: %w", err)
			}
			m.recipient = c
		}
	}
	m.required = s.cfg.Engine.Sender(m.sender, m.request.login)
	others := policy.AnyChannel
	for _, a := range forms {
		if a != m.sender {
			others &= s.cfg.Engine.Sender(a, "")
		}
	}
	m.required &= others
	if r, ok := others.Requirement(); ok {
		m.floor = r
	} else {
		m.required = 0
	}
	return nil
}

func (m *mail) question() policy.Question {
	q := policy.Question{Sender: m.sender, Login: m.request.login, Recipient: m.recipient, Floor: m.floor}
	if m.recipientAs != m.recipient {
		q.Original = m.recipientAs
	}
	return q
}

func (m *mail) atRecipient(ctx context.Context) (action, error) {
	s, question := m.server, m.question()
	var a policy.Answer
	if !m.required.Required() && s.cfg.Engine.Plain(&question, &a) {
		return dunno, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DecisionTime)
	defer cancel()
	a, err := s.cfg.Engine.Decide(ctx, question)
	if err != nil {
		return action{}, err
	}
	// A refusal concerns this recipient alone: it leaves nothing in the memory.
	if refusal, ok := m.refusal(&a); ok {
		s.log.Info("recipient refused", "action", refusal.verb, "text", refusal.text,
			"sender", m.sender.String(), "recipient", m.recipient.String())
		return m.audited(&a, refusal), nil
	}
	aliased := false
	if s.cfg.Aliased != nil && a.Reason != policy.OwnDomain {
		if aliased, err = s.cfg.Aliased(ctx, m.recipient); err != nil {
			return action{}, fmt.Errorf("aliases of the recipient: %w", err)
		}
	}
	if m.required.Required() {
		return m.bySender(&a, aliased), nil
	}
	return m.byRecipient(&a, aliased), nil
}

// refusal is the answer for a recipient that cannot be accepted.
func (m *mail) refusal(a *policy.Answer) (action, bool) {
	own := a.Reason == policy.OwnDomain
	switch {
	case a.Reason == policy.Conflict:
		return reject("5.7.1", policy.ConflictText(a.Input)), true
	case m.required == 0 && !own:
		return reject("5.7.1", textExclude), true
	case own && m.required.Required() && m.recipient.Routed():
		// Postfix would send it on to elsewhere, after everybody took it for a
		// recipient here.
		return reject("5.7.1", textRouting), true
	case own:
		return action{}, false
	case a.Channel == policy.TLS && a.Blocked != "":
		return deferral("4.7.1", "mail for "+m.recipient.Domain+" must be encrypted, and cannot be for now: "+a.Blocked), true
	}
	onlyTLS := a.Allowed == policy.Channels(policy.TLS)
	p := a.Input.Posture
	if onlyTLS && p.State == policy.Absent && !p.InGrace(a.Input.Now, a.Input.Grace) {
		text := "mail for " + m.recipient.Domain + " must go over TLS, which " + a.Destination(m.recipient) + " does not offer"
		switch m.server.cfg.ForcedUnreachable {
		case UnreachableReject:
			return reject("5.7.4", text), true
		case UnreachableDefer:
			return deferral("4.7.4", text), true
		}
	}
	return action{}, false
}

// bySender answers for a recipient of a message that sender or login require
// something of.
func (m *mail) bySender(a *policy.Answer, aliased bool) (act action) {
	defer func() { act = m.audited(a, act) }()
	t := m.before
	t.bySender = m.required
	if t.require &= m.required; t.require == 0 && m.required != 0 || t.conflicts(t.require) {
		return deferral("4.5.3", textSeparate) // the rules have changed since the first recipient
	}
	first := !m.known && m.request.queueID == "" // else earlier recipients went who knows where
	direct := a.Channel == policy.TLS && a.Allowed.In(m.required) && !m.twoFaced && !m.server.cfg.AddsRecipients
	if direct && !aliased { // the splitter is never equal to a road, so that it stays
		if road := a.Transport(a.Nexthop, m.server.cfg.Splitter); first || t.filter == road {
			t.filter = road
			return m.remember(t)
		}
	}
	return m.remember(m.splitter(t))
}

// byRecipient answers where sender and login require nothing, but a rule for the
// recipient does. The transport table answers for that, unless the recipient that it
// is asked for is not the one that has the rule: then the FILTER carries what the rule
// requires, for the whole message.
func (m *mail) byRecipient(a *policy.Answer, aliased bool) (act action) {
	defer func() { act = m.audited(a, act) }()
	t := m.before
	set := policy.AnyChannel
	switch {
	case a.Reason == policy.OwnDomain:
		// An own address that has a rule of its own may be an alias to outside, where
		// the rule must hold too: cleanup replaces the address after us.
		for _, r := range [...]policy.Found{a.Input.Recipient, a.Input.Original} {
			if !r.None() && r.IsExplicit() {
				set &= r.Requirement.Channels()
			}
		}
		if !set.Required() {
			return dunno
		}
	case !a.Required():
		return dunno
	case !aliased && !a.Input.ByOriginal():
		if t.require&a.Allowed == 0 {
			return deferral("4.5.3", textSeparate)
		}
		t.allowed |= 1 << a.Allowed
		m.remember(t)
		return dunno
	default:
		set = a.Allowed
	}
	if both := t.require & set; both == 0 || t.conflicts(both) {
		return deferral("4.5.3", textSeparate)
	}
	t.require &= set
	return m.remember(m.splitter(t))
}

// splitter makes t a transaction that goes to the splitter, for what it requires.
func (m *mail) splitter(t transaction) transaction {
	t.filter = m.server.cfg.Splitter.Transport(m.carried(t))
	return t
}

// carried is the requirement that the FILTER of t stands for.
func (m *mail) carried(t transaction) policy.Requirement {
	if r, ok := t.require.Requirement(); ok {
		return r
	}
	// Sender and login exclude each other, so nobody outside may get the
	// message; those inside may, and only they come here. The port carries the
	// login's, the envelope carries the sender's: whoever an alias puts outside
	// meets both.
	if r := m.loginRequires(); r != policy.None {
		return r
	}
	return policy.EscrowOnly
}

// mark returns the requirement that a header must carry, since a FILTER gets lost:
// another takes its place (header_checks, for a subject), and postsuper -r drops it.
// What the envelope sender requires is found again by its rule; what a login, another
// form of the sender's address, or the address that an alias replaced requires is not.
func (m *mail) mark(t transaction) (policy.Requirement, bool) {
	if t.filter == "" && !m.required.Required() {
		return policy.None, false
	}
	t.require &= m.required
	r := m.carried(t)
	if !r.Channels().Required() {
		return r, false
	}
	again := m.server.cfg.Engine.Sender(m.sender, "").In(t.require)
	return r, !again || m.loginRequires() != policy.None
}

func (m *mail) loginRequires() policy.Requirement {
	e := m.server.cfg.Engine
	if r := e.Rules().LookupLogin(m.request.login, e.Now()); !r.None() {
		return r.Requirement
	}
	return policy.None
}

func (m *mail) remember(t transaction) action {
	m.server.memory.put(m.request, t, m.server.cfg.Engine.Now())
	return filter(t.filter)
}

// atEnd answers at DATA and at the end of the message: it repeats the last FILTER,
// since another table may have answered with one of its own in between.
func (m *mail) atEnd() (action, error) {
	s := m.server
	if m.request.state != "END-OF-MESSAGE" && s.cfg.Marker != nil {
		if r, ok := m.mark(m.before); ok {
			return action{"PREPEND", RequirementHeader + ": " + s.cfg.Marker.Mark(r, m.sender.String())}, nil
		}
	}
	t := m.before
	switch {
	case t.filter != "" && t.require.In(m.required):
	case m.required.Required():
		t.bySender = m.required
		if t.require &= m.required; t.require == 0 && m.required != 0 {
			return deferral("4.7.1", textChanged), nil
		}
		t = m.splitter(t)
	default:
		return dunno, nil
	}
	return m.remember(t), nil
}

// reinjected answers our own ports 8652 and 8654. The splitter has decided that the
// message goes by TLS; what is asked here is the road. It never answers DUNNO, which
// would send the message by any road.
func (s *Server) reinjected(ctx context.Context, q *request, sender, recipient policy.Address, floor policy.Requirement) (action, error) {
	before, known := s.memory.get(q, s.cfg.Engine.Now())
	if q.state != "RCPT" {
		if !known {
			return deferral("4.3.0", textChanged), nil
		}
		return filter(before.filter), nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DecisionTime)
	defer cancel()
	a, err := s.cfg.Engine.Decide(ctx, policy.Question{Sender: sender, Recipient: recipient, Floor: floor})
	if err != nil {
		return action{}, err
	}
	transport := policy.SecureTransport
	if floor == policy.ForcedTLS {
		transport = policy.ForcedTransport
	}
	road := transport + ":" + a.Nexthop
	switch {
	case a.Reason == policy.OwnDomain, !a.Allowed.Has(policy.TLS):
		return deferral("4.7.1", textNoTLS), nil
	case a.Blocked != "":
		return deferral("4.7.1", "mail for "+recipient.Domain+" must be encrypted, and cannot be for now: "+a.Blocked), nil
	case known && before.filter != road, !known && q.queueID != "":
		return deferral("4.5.3", textNexthop), nil
	}
	s.memory.put(q, transaction{filter: road}, s.cfg.Engine.Now())
	return filter(road), nil
}

// notice answers the port of our notices: by the administrator's road to the
// recipient, in plaintext or not. DUNNO leaves the port's own FILTER in force, to the
// MX; mail for the MX of a domain that is relayed here would come back.
func (s *Server) notice(ctx context.Context, q *request, recipient policy.Address) (action, error) {
	if q.state != "RCPT" {
		return dunno, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DecisionTime)
	defer cancel()
	own, err := s.cfg.Engine.Own.Own(ctx, recipient.Domain)
	if err != nil || own {
		return dunno, err
	}
	route, err := s.cfg.Engine.Routes.Route(ctx, recipient)
	if err != nil || route.Blocked != "" || route.Nexthop == "" {
		return dunno, err
	}
	return filter(policy.NoticeTransport + ":" + route.Nexthop), nil
}
