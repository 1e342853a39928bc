package tlsmap

import (
	"context"
	"fmt"
	"strings"

	"github.com/postseal/postseal/policyd/policy"
)

// TLSAnswer is what one of the two TLS maps answers for a next-hop, and what it came
// from.
type TLSAnswer struct {
	Text   string // as smtp_tls_policy_maps has it; "" where nothing is demanded, or it waits
	Demand policy.TLSDemand
	Input  policy.TLSInput // its Rule is merged with the administrator's own entry
	Rule   policy.Found    // the one for the domain, none where there is none
	Admin  string          // the administrator's own entry, "" where there is none or it was not asked for
}

// waitError reports that nothing may be delivered now.
type waitError struct{ why string }

func (e *waitError) Error() string { return "verified TLS is demanded, and the mail waits: " + e.why }

// TLS answers the map tls-policy or secure-tls-policy for a next-hop. An error means
// that nobody knows, and mail waits; where Demand.Wait is set it waits too.
func (s *Server) TLS(ctx context.Context, mapName, key string) (TLSAnswer, error) {
	var a TLSAnswer
	if mapName == MapSecureTLSPolicy {
		err := s.mandatory(ctx, key, &a)
		return a, err
	}
	err := s.opportunistic(ctx, key, &a)
	return a, err
}

// TLSGiven is TLS for a posture that the caller knows: what the destination publishes is
// not looked up.
func (s *Server) TLSGiven(ctx context.Context, mapName, key string, p policy.Posture) (TLSAnswer, error) {
	given, engine := *s, *s.cfg.Engine
	engine.Postures = givenPosture{p}
	given.cfg.Engine = &engine
	if s.cfg.Published != nil {
		given.cfg.Published = func(context.Context, string) policy.Published { return p.Published }
	}
	return given.TLS(ctx, mapName, key)
}

type givenPosture struct{ p policy.Posture }

func (g givenPosture) Posture(string, policy.TLSParams) policy.Posture { return g.p }

// tlsPolicy answers for a next-hop of an opportunistic transport: "" where neither a
// rule nor the destination demands anything.
func (s *Server) tlsPolicy(ctx context.Context, key string) (string, error) {
	var a TLSAnswer
	return s.tlsText(&a, s.opportunistic(ctx, key, &a))
}

// secureTLSPolicy answers for a next-hop of a mandatory transport: encrypt or above,
// for everything but our own fallback.
func (s *Server) secureTLSPolicy(ctx context.Context, key string) (string, error) {
	var a TLSAnswer
	return s.tlsText(&a, s.mandatory(ctx, key, &a))
}

func (s *Server) tlsText(a *TLSAnswer, err error) (string, error) {
	if err == nil && a.Demand.Wait != "" {
		err = &waitError{a.Demand.Wait}
	}
	if err == nil && a.Demand.By == policy.FromOverride {
		s.overridden(a)
	}
	return a.Text, err
}

// opportunistic is the answer for transports whose mail may go without TLS. Mail that
// must be encrypted goes by the mandatory transports, so where a rule requires
// something for the domain this is a second guard, and must not stand in the way of
// other mail for the same next-hop.
func (s *Server) opportunistic(ctx context.Context, key string, a *TLSAnswer) error {
	if s.isFallback(key) {
		a.Text = "none"
		return nil
	}
	a.Input.Domain = key
	if !isDomain(key) {
		// Postfix asks for the domain first, and LookupDomain has considered its parents.
		if key == "" || key == "*" || key[0] == '.' || strings.IndexByte(key, '@') >= 0 {
			*a = TLSAnswer{}
			return nil
		}
		if strings.ContainsAny(key, "[]:") {
			// Not the domain of a recipient: no rule speaks of it.
			a.Input.Domain = hostOf(key)
			return s.finish(ctx, key, a)
		}
		a.Input.Domain = policy.CanonicalDomain(key)
	}
	rules, now := s.cfg.Engine.Rules(), s.cfg.Engine.Now()
	a.Rule = rules.LookupDomain(a.Input.Domain, now)
	switch {
	case a.Rule.None():
	case a.Rule.Requirement == policy.None:
		a.Input.Rule, a.Input.Override = a.Rule.TLS, a.Rule.Override
	case rules.Exempts(a.Input.Domain, now):
		// Mail for the exempt address may go in plaintext.
	default:
		patient := within(ctx, s.cfg.DecisionTime)
		defer patient.end()
		own, err := s.cfg.Engine.Own.Own(patient, a.Input.Domain)
		if err != nil {
			return fmt.Errorf("own domains: %w", err)
		}
		if own {
			return nil
		}
		a.Input.Rule, a.Input.Required = a.Rule.TLS, true
	}
	return s.finish(ctx, key, a)
}

// mandatory is the answer for transports whose mail must be encrypted.
func (s *Server) mandatory(ctx context.Context, key string, a *TLSAnswer) error {
	if s.isFallback(key) {
		a.Text = "none"
		return nil
	}
	a.Input.Domain, a.Input.Required = key, true
	if !isDomain(key) {
		a.Input.Domain = policy.CanonicalDomain(hostOf(key))
	}
	a.Rule, a.Input.Rule = s.demand(key, a.Input.Domain)
	a.Input.Override = !a.Rule.None() && a.Rule.Override // without effect; explain says so
	return s.finish(ctx, key, a)
}

// demand returns the strongest that the rules demand of the TLS of a next-hop: those
// whose mail goes there, and the one for its domain.
func (s *Server) demand(key, domain string) (r policy.Found, demand policy.TLSParams) {
	rules, now := s.cfg.Engine.Rules(), s.cfg.Engine.Now()
	r = rules.LookupDomain(domain, now)
	// What a rule that requires nothing says of opportunistic TLS is no demand here.
	if !r.None() && (r.Requirement != policy.None || r.TLS.Level >= policy.LevelEncrypt) {
		demand = r.TLS
	}
	for _, r := range rules.ByNexthop(key, now) {
		demand = stronger(demand, r.TLS)
	}
	return r, demand
}

// finish joins the rule with the administrator's own table and with what the
// destination publishes, and writes the answer.
func (s *Server) finish(ctx context.Context, key string, a *TLSAnswer) error {
	in := &a.Input
	if s.askable(key) {
		in.Published = s.cfg.Published(ctx, key)
		if !in.Required && in.Published.DANE == policy.DANEUnknown && s.cfg.DANE != nil && s.cfg.DANE() {
			// Not known in time is not "none": Postfix looks by itself, and waits where
			// it learns nothing either (RFC 7672, section 2.1).
			in.Published.DANE = policy.DANEFailed
		}
	} else {
		in.Published = policy.Published{DANE: policy.DANEOff, STS: policy.STSOff}
	}
	a.Demand = policy.DemandTLS(*in)
	if !in.Required && a.Demand.None() {
		return s.report(ctx, key, a) // Postfix goes on to the administrator's own table
	}
	extra, err := s.joinAdmin(ctx, key, a)
	if err != nil {
		return err
	}
	if extra.fixed != "" { // by the administrator's table alone
		a.Text, a.Demand = extra.fixed, policy.TLSDemand{By: policy.FromAdmin}
		return nil
	}
	if extra.anchored != "" && authenticates(in.Published.DANE) {
		// The anchors are the administrator's own, as a fingerprint would be.
		a.Text, a.Demand = extra.anchored, policy.TLSDemand{By: policy.FromAdmin}
		return nil
	}
	if in.Rule.Level >= policy.LevelVerify && authenticates(in.Published.DANE) {
		in.RuleMet = s.cfg.Engine.Postures.Posture(key, in.Rule).RuleMet
	}
	if extra.joined || in.RuleMet {
		a.Demand = policy.DemandTLS(*in)
	}
	if a.Demand.Wait == "" && extra.dane && in.Rule.Level >= policy.LevelVerify && a.Demand.Level != policy.LevelDANEOnly {
		a.Demand.Wait = "your own TLS policy table demands dane-only of " + in.Domain + ", a rule or its MTA-STS policy demands names, and it has no TLSA records that count"
	}
	if a.Demand.Wait != "" {
		return nil
	}
	if in.Required {
		a.Demand.TLSParams = s.withFloor(a.Demand.TLSParams)
	} else if s.lessThanOwn(&a.Demand) {
		a.Demand = policy.TLSDemand{By: policy.FromNothing}
		return s.report(ctx, key, a)
	}
	a.Text = s.policyText(&a.Demand, extra.attrs)
	return s.report(ctx, key, a)
}

// lessThanOwn reports whether what a destination publishes would take the place of a
// client's own level that is stronger.
func (s *Server) lessThanOwn(d *policy.TLSDemand) bool {
	return (d.By == policy.FromDANE || d.By == policy.FromSTS) && adminLevel(d.Level.String()) < adminLevel(s.cfg.OwnLevel)
}

// policyText writes a demand. The usual ones are made once.
func (s *Server) policyText(d *policy.TLSDemand, extra []attr) string {
	if len(extra) == 0 && len(d.Match) == 0 && d.Ciphers == "" && d.Servername == "" {
		switch {
		case d.Level == policy.LevelEncrypt && d.Protocols == s.defaultProtocols:
			return s.encrypt
		case d.Level == policy.LevelDANEOnly && d.Protocols == s.defaultProtocols:
			return s.daneOnly
		case d.Protocols == "" && (d.Level == policy.LevelDANE || d.Level == policy.LevelDANEOnly):
			return d.Level.String()
		}
	}
	text := d.PostfixPolicy(policy.LevelMay)
	for _, a := range extra {
		if a.name == "tafile" && d.Level < policy.LevelVerify {
			continue // an error there
		}
		text += " " + a.name + "=" + a.value
	}
	return text
}

// authenticates reports whether a host must match TLSA records, or nobody knows.
func authenticates(d policy.DANE) bool {
	return d == policy.DANEFull || d == policy.DANEPartial || d == policy.DANEFailed
}

// askable reports whether key can be a destination that publishes something: a domain
// or a host name. An address publishes nothing, nor does a parent's key.
func (s *Server) askable(key string) bool {
	switch {
	case s.cfg.Published == nil:
		return false
	case isDomain(key):
		return true
	case key == "" || key == "*" || key[0] == '.':
		return false
	}
	host := hostOf(key)
	if host == key { // Postfix asks as the recipient's address is written, maybe in Unicode
		host = policy.CanonicalDomain(host)
	}
	return host != "" && host[0] != '[' && !strings.ContainsAny(host, "]@ ") && printable(host)
}

// overridden logs and counts an answer that an override changed. Each use is logged.
func (s *Server) overridden(a *TLSAnswer) {
	in := a.Input
	in.Override = false
	without := policy.DemandTLS(in)
	if without.Wait == "" && (without.None() || without.PostfixPolicy(policy.LevelMay) == a.Demand.PostfixPolicy(policy.LevelMay)) {
		return // nothing is published that it passes by
	}
	s.metrics.overrides.Inc()
	demanded := without.PostfixPolicy(policy.LevelMay)
	if without.Wait != "" {
		demanded = without.Wait
	}
	rule := ""
	if !a.Rule.None() {
		rule = a.Rule.String()
	}
	s.log.Info("override used", "dest", in.Domain, "rule", rule, "answer", a.Text, "demanded", demanded)
}

// isDomain reports whether key is for sure a domain in its canonical form, as nearly every
// key is: it is its own host then, and can be asked for. It is all that is looked at.
func isDomain(key string) bool {
	prev := byte('.')
	for i := 0; i < len(key); i++ {
		switch c := key[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
		case c == '.' && prev != '.':
		default:
			return false
		}
		prev = key[i]
	}
	return prev != '.'
}

// hostOf returns the host or domain of a next-hop: [host]:port, [host], domain:port,
// domain. An address in brackets keeps them.
func hostOf(hop string) string {
	if strings.HasPrefix(hop, "[") {
		in, _, ok := strings.Cut(hop[1:], "]")
		if !ok || strings.ContainsRune(in, ':') || strings.Trim(in, "0123456789.") == "" {
			return "[" + in + "]"
		}
		return in
	}
	host, _, _ := strings.Cut(hop, ":")
	return host
}

func (s *Server) withFloor(p policy.TLSParams) policy.TLSParams {
	if p.Protocols == "" {
		p.Protocols = s.defaultProtocols
	}
	return p
}

// unsaid reports whether p demands nothing.
func unsaid(p policy.TLSParams) bool {
	d := policy.TLSDemand{TLSParams: p}
	return d.None()
}
