package policy

import (
	"context"
	"fmt"
	"time"
)

// OwnDomains knows the domains whose mail this Postfix delivers itself:
// mydestination, virtual_mailbox_domains and virtual_alias_domains, not
// relay_domains. An error means that nobody knows, and the mail waits.
type OwnDomains interface {
	Own(ctx context.Context, domain string) (bool, error)
}

// Router knows by which road Postfix would send mail of its own accord.
type Router interface {
	// Route returns the administrator's road for a recipient: from
	// transport_maps or relayhost. The zero Route is the MX of the domain.
	Route(ctx context.Context, recipient Address) (Route, error)
}

// Route is the administrator's road for a recipient.
type Route struct {
	// Nexthop is where mandatory TLS goes: [host]:port or a domain, "" for the
	// MX of the recipient's domain.
	Nexthop string
	// Blocked says why required mail can't take the administrator's road,
	// such as a transport that is not SMTP; "" where it can.
	Blocked string
}

// Postures knows how destinations take mail. Posture never blocks: what is not
// known is Unknown, and is looked up meanwhile. dest is a domain or a next-hop
// ([host]:port); demand is what the rule asks of the TLS.
type Postures interface {
	Posture(dest string, demand TLSParams) Posture
}

// Engine gathers what [Decide] needs. Its fields are set once.
type Engine struct {
	Rules    func() *Snapshot // the current one; never nil
	Own      OwnDomains
	Routes   Router
	Postures Postures
	Grace    time.Duration
	Now      func() time.Time
	// Observe, where set, is told the channel of every verdict, 0 for a conflict.
	Observe func(Channel)
}

// Question is one recipient of one message.
type Question struct {
	Sender Address
	// SenderUnknown says that nobody knows the sender, as in a table lookup by
	// recipient: Sender is ignored then, and not taken for the null sender.
	SenderUnknown bool
	Login         string // SASL login, where known
	Recipient     Address
	Original      Address // the recipient before aliases (ORCPT), zero where unknown
	Content       []*Rule // what follows from the triggers that the message sets off
	Floor         Requirement
	// Fresh is a posture looked up just now; nil asks Postures.
	Fresh          *Posture
	TriedByPostfix bool
}

// Answer is the verdict and what it came from.
type Answer struct {
	Verdict
	Input   Input
	Nexthop string // destination of TLS: rule's next-hop, administrator's, "" for the MX
	Blocked string // see Route.Blocked; TLS can't be carried out while it is set
}

// Destination is the key of the posture that counts for the answer: the
// next-hop, else the recipient's domain.
func (a *Answer) Destination(recipient Address) string {
	if a.Nexthop != "" {
		return a.Nexthop
	}
	return recipient.Domain
}

// Plain reports that no rule forbids plain delivery: Decide would say
// [NothingRequired]. It does no I/O and does not allocate. What it has looked up is in a, for
// [Engine.Complete].
func (e *Engine) Plain(q *Question, a *Answer) bool {
	in := &a.Input
	e.gather(q, in)
	allowed := in.Floor.Channels()
	for r := range in.rules {
		allowed &= r.Requirement.Channels()
	}
	if allowed.Required() {
		return false
	}
	e.observe(Plain)
	return true
}

func (e *Engine) observe(c Channel) {
	if e.Observe != nil {
		e.Observe(c)
	}
}

// gather looks up the rules that a question falls under.
func (e *Engine) gather(q *Question, in *Input) {
	rules, now := e.Rules(), e.Now()
	*in = Input{
		Login:          rules.LookupLogin(q.Login, now),
		Content:        q.Content,
		Recipient:      rules.Lookup(ByRecipient, q.Recipient, now),
		Floor:          q.Floor,
		TriedByPostfix: q.TriedByPostfix,
		Now:            now,
		Grace:          e.Grace,
	}
	if !in.Recipient.None() && in.Recipient.IsAddress() {
		// As the map secure-tls-policy, which is asked for the domain.
		if r := rules.LookupDomain(q.Recipient.Domain, now); !r.None() && (r.Requirement != None || r.TLS.Level >= LevelEncrypt) {
			in.DomainTLS = r.TLS
		}
	}
	if !q.SenderUnknown {
		in.Sender = rules.Lookup(BySender, q.Sender, now)
	}
	if !q.Recipient.IsNull() {
		// Not by a rule for *: it covers the null sender, and so each bounce by itself.
		if r := rules.Lookup(BySender, q.Recipient, now); !r.None() && r.Pattern != "*" {
			in.Returns = r
		}
	}
	if !q.Original.IsNull() && q.Original.Folded() != q.Recipient.Folded() {
		in.Original = rules.Lookup(ByRecipient, q.Original, now)
	}
}

// Decide answers a question. It asks Own, Routes and Postures only where a rule
// forbids plain delivery. An error means that the verdict is not known: the
// caller defers, and never lets the message pass.
func (e *Engine) Decide(ctx context.Context, q Question) (Answer, error) {
	var a Answer
	e.gather(&q, &a.Input)
	err := e.Complete(ctx, &q, &a)
	return a, err
}

// Complete is Decide with the rules in a that [Engine.Plain] has just looked up for the same
// question. After an error nothing in a counts.
func (e *Engine) Complete(ctx context.Context, q *Question, a *Answer) error {
	if err := e.complete(ctx, q, a); err != nil {
		*a = Answer{}
		return err
	}
	e.observe(a.Channel)
	return nil
}

func (e *Engine) complete(ctx context.Context, q *Question, a *Answer) error {
	in := &a.Input
	d := demanded(in)
	a.Verdict = d.settled(in)
	if !a.Allowed.Required() {
		return nil
	}
	own, err := e.Own.Own(ctx, q.Recipient.Domain)
	if err != nil {
		return fmt.Errorf("own domains: %w", err)
	}
	if own {
		in.Own = true
		a.Verdict = d.settled(in)
		return nil
	}
	a.Nexthop = a.Verdict.Nexthop
	if a.Nexthop == "" {
		route, err := e.Routes.Route(ctx, q.Recipient)
		if err != nil {
			return fmt.Errorf("route of %s: %w", q.Recipient.Domain, err)
		}
		a.Nexthop, a.Blocked = route.Nexthop, route.Blocked
	}
	if q.Fresh != nil {
		in.Posture = *q.Fresh
	} else {
		in.Posture = e.Postures.Posture(a.Destination(q.Recipient), a.TLS)
	}
	a.Verdict = d.settled(in)
	return nil
}

// Sender returns what sender and login require of every recipient: the
// intersection of their rules.
func (e *Engine) Sender(sender Address, login string) Channels {
	rules, now := e.Rules(), e.Now()
	allowed := AnyChannel
	for _, r := range [...]Found{rules.Lookup(BySender, sender, now), rules.LookupLogin(login, now)} {
		if !r.None() {
			allowed &= r.Requirement.Channels()
		}
	}
	return allowed
}
