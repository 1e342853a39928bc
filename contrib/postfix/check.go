package postfix

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/postseal/postseal/policyd/policy"
)

// Severity says what a finding may cost.
type Severity string

// The severities, the worst first.
const (
	Leak Severity = "leak" // mail that must be encrypted may leave in plaintext
	Loop Severity = "loop" // mail may go in a circle
	Lose Severity = "lose" // mail may bounce, or wait until it expires
	Warn Severity = "warn" // the promise has a limit here, or something is odd
	OK   Severity = "ok"
)

var severities = []Severity{Leak, Loop, Lose, Warn, OK}

// Finding is what Check found in one place.
type Finding struct {
	Severity Severity `json:"severity"`
	ID       string   `json:"id"`    // of the kind, such as policy-after-permit
	Where    string   `json:"where"` // main.cf: parameter, master.cf: service
	What     string   `json:"what"`
	Fix      string   `json:"fix,omitempty"`
}

// CheckOptions are what a check needs to know of Postseal.
type CheckOptions struct {
	Options                  // where Postseal listens, triggers, notice address
	Rules   *policy.Snapshot // nil for none
	// Own are the own domains that the server decides by; nil for Postfix's.
	Own policy.OwnDomains
	// MailHosts returns the addresses of the MX hosts of the notice domain; nil
	// does not look.
	MailHosts func(ctx context.Context, domain string) ([]netip.Addr, error)
}

// Check reads the configuration as each of Postfix's services would, and returns what
// may leak, loop or lose mail, the worst first; a single OK where there is nothing. An
// error means that the configuration could not be read.
func (p *Instance) Check(ctx context.Context, o CheckOptions) ([]Finding, error) {
	c := &checker{CheckOptions: o, ctx: ctx, p: p}
	if err := c.read(); err != nil {
		return nil, err
	}
	for _, check := range []func(){
		c.checkIntake, c.checkPickup, c.checkMaps, c.checkTransports, c.checkReinjection,
		c.checkSettings, c.checkFilters, c.checkTriggers, c.checkRoads, c.checkDomains, c.checkNotice,
		c.checkCopies, c.checkRules, c.checkDANE, c.checkAuthorities, c.checkOwnLevels, c.checkYielding,
	} {
		check()
	}
	if c.err != nil {
		return nil, c.err
	}
	if len(c.found) == 0 {
		return []Finding{{OK, "ok", "main.cf, master.cf", "nothing leaks, loops or gets lost", ""}}, nil
	}
	slices.SortStableFunc(c.found, func(a, b Finding) int {
		return slices.Index(severities, a.Severity) - slices.Index(severities, b.Severity)
	})
	return c.found, nil
}

type checker struct {
	CheckOptions
	ctx context.Context
	p   *Instance

	main      map[string]string            // all parameters, expanded
	services  []Service                    // of master.cf
	overrides map[string]map[string]string // by service, expanded
	found     []Finding
	err       error
}

const rerun = "run postseal postfix setup"

func (c *checker) read() error {
	out, err := c.p.postconf(c.ctx, "-x")
	if err != nil {
		return fmt.Errorf("main.cf: %w", err)
	}
	c.main = parameters(out)
	if c.services, err = c.p.Services(c.ctx); err != nil {
		return fmt.Errorf("master.cf: %w", err)
	}
	if out, err = c.p.postconf(c.ctx, "-P", "-x"); err != nil {
		return fmt.Errorf("master.cf: %w", err)
	}
	c.overrides = make(map[string]map[string]string)
	for line := range strings.Lines(out) {
		path, value, ok := strings.Cut(line, "=")
		if !ok {
			continue
		}
		path = strings.TrimSpace(path)
		i := strings.LastIndexByte(path, '/')
		if i < 0 {
			continue
		}
		service, name := path[:i], path[i+1:]
		if c.overrides[service] == nil {
			c.overrides[service] = make(map[string]string)
		}
		c.overrides[service][name] = strings.TrimSpace(value)
	}
	return nil
}

// eff returns the value of a parameter in one service, expanded.
func (c *checker) eff(s Service, name string) string {
	if v, ok := c.overrides[s.String()][name]; ok {
		return v
	}
	return c.main[name]
}

func (c *checker) add(sev Severity, id, where, fix, format string, args ...any) {
	c.found = append(c.found, Finding{sev, id, where, fmt.Sprintf(format, args...), fix})
}

func inMain(name string) string { return "main.cf: " + name }

func (s Service) where() string { return "master.cf: " + s.String() }

func (c *checker) service(name, kind string) (Service, bool) {
	for _, s := range c.services {
		if s.Name == name && s.Type == kind {
			return s, true
		}
	}
	return Service{}, false
}

// ours reports whether s is one of our re-injection ports.
func (c *checker) ours(s Service) bool {
	return s.Type == "inet" && slices.Contains([]string{c.Plain, c.Secure, c.Forced, c.Notice}, s.Name)
}

// restriction is one element of a list of restrictions, with its argument.
type restriction struct{ name, arg string }

func restrictions(list string) []restriction {
	var rs []restriction
	words := splitList(list)
	for i := 0; i < len(words); i++ {
		r := restriction{name: strings.ToLower(words[i])}
		if takesArgument(r.name) && i+1 < len(words) {
			i++
			r.arg = words[i]
		}
		rs = append(rs, r)
	}
	return rs
}

// policyArg splits the argument of check_policy_service into endpoint and attributes.
func policyArg(arg string) (endpoint string, attrs map[string]string) {
	attrs = make(map[string]string)
	if !strings.HasPrefix(arg, "{") {
		return arg, attrs
	}
	words := splitList(strings.TrimSuffix(arg[1:], "}"))
	for i, w := range words {
		if i == 0 {
			endpoint = w
			continue
		}
		if strings.HasPrefix(w, "{") {
			w = strings.TrimSuffix(w[1:], "}")
		}
		if n, v, ok := strings.Cut(w, "="); ok {
			attrs[strings.TrimSpace(n)] = strings.TrimSpace(v)
		}
	}
	return endpoint, attrs
}

// policyAt returns the first call of our policy service in a list, -1 for none.
func (c *checker) policyAt(rs []restriction) int {
	return slices.IndexFunc(rs, c.isPolicy)
}

func (c *checker) isPolicy(r restriction) bool {
	e, _ := policyArg(r.arg)
	return r.name == "check_policy_service" && e == c.Policy
}

// intake are the smtpd services that take mail from others.
func (c *checker) intake() []Service {
	var in []Service
	for _, s := range c.services {
		if s.Command == "smtpd" && !c.ours(s) {
			in = append(in, s)
		}
	}
	return in
}

// checkIntake looks at each smtpd service by itself: options of master.cf count.
func (c *checker) checkIntake() {
	for _, s := range c.intake() {
		c.checkPolicy(s)
		if v := c.eff(s, "smtpd_proxy_filter"); v != "" {
			c.add(Leak, "proxy-filter", s.where(), "use content_filter or a milter, or put the policy service on the port that the proxy returns to (login rules cannot work there: it sees no login)",
				"smtpd_proxy_filter=%s switches off every FILTER: what the policy service says has no effect here", v)
		}
		if v := c.eff(s, "content_filter"); v != "" && !strings.HasPrefix(v, policy.EscrowTransport+":") {
			c.add(Warn, "content-filter", s.where(), "put check_policy_service "+c.Policy+" in the smtpd service that the content filter returns its mail to, and not here; login rules then see no login, so cover those senders by address",
				"content_filter=%s: a FILTER of the policy service replaces it, so required mail goes past the content filter", v)
		}
		if !c.Triggers.Empty() && slices.Contains(splitList(c.eff(s, "receive_override_options")), "no_header_body_checks") {
			c.add(Leak, "no-header-checks", s.where(), "take no_header_body_checks out of receive_override_options here, unless all its mail has passed header_checks before",
				"receive_override_options has no_header_body_checks: triggers are not looked at")
		}
		if v := c.eff(s, "smtpd_milters"); v != "" {
			c.add(Warn, "milter", s.where(), "if a milter adds recipients, set always_bcc or run Postseal so that all required mail goes by the splitter",
				"smtpd_milters=%s: a recipient that a milter adds is not seen by the policy service", v)
		}
	}
}

func (c *checker) checkPolicy(s Service) {
	name := "smtpd_recipient_restrictions"
	rs := restrictions(c.eff(s, name))
	at := c.policyAt(rs)
	eod := restrictions(c.eff(s, "smtpd_end_of_data_restrictions"))
	data := restrictions(c.eff(s, "smtpd_data_restrictions"))
	if at < 0 {
		c.add(Leak, "policy-missing", s.where(), rerun+", or put check_policy_service "+c.Policy+" into "+name+" of this service, before the first permit",
			"%s has no call of the policy service: mail taken here is not decided on", name)
	}
	for i, r := range rs {
		if i >= at {
			break
		}
		switch {
		case strings.HasPrefix(r.name, "permit"):
			c.add(Leak, "policy-after-permit", s.where(), "put check_policy_service before "+r.name, "%s: %s ends the list before the policy service is asked", name, r.name)
		case r.name == "reject" || r.name == "defer":
			c.add(Lose, "policy-after-reject", s.where(), "put check_policy_service before "+r.name, "%s: %s ends the list before the policy service is asked", name, r.name)
		case rejects([]string{r.name, r.arg}) == 0 && r.name != "warn_if_reject":
			c.add(Warn, "policy-after-access", s.where(), "put check_policy_service before it, or be sure that it never answers OK", "%s: an OK of %s %s ends the list before the policy service is asked", name, r.name, r.arg)
		}
	}
	if at >= 0 {
		c.checkStrangers(s, rs, at)
	}
	for _, l := range []struct {
		name string
		rs   []restriction
	}{{"smtpd_data_restrictions", data}, {"smtpd_end_of_data_restrictions", eod}} {
		i := c.policyAt(l.rs)
		if i < 0 {
			c.add(Warn, "guard-missing", s.where(), rerun, "%s has no call of the policy service: the second guard is missing where another restriction sets a FILTER or permits", l.name)
			continue
		}
		for _, r := range l.rs[:i] {
			if strings.HasPrefix(r.name, "permit") {
				c.add(Warn, "guard-after-permit", s.where(), "put check_policy_service before "+r.name, "%s: %s ends the list before the policy service is asked", l.name, r.name)
			}
		}
	}
	for _, r := range slices.Concat(rs, data, eod) {
		if !c.isPolicy(r) {
			continue
		}
		_, attrs := policyArg(r.arg)
		action, own := attrs["default_action"]
		if !own {
			action = c.eff(s, "smtpd_policy_service_default_action")
		}
		if !isRefusal(action) {
			c.add(Leak, "default-action", s.where(), "set smtpd_policy_service_default_action = 451 4.3.5 Server configuration problem", "without an answer of the policy service mail gets %q: it passes undecided", action)
			break
		}
	}
}

// isRefusal reports whether an access(5) action keeps mail from passing.
func isRefusal(action string) bool {
	w, _, _ := strings.Cut(strings.TrimSpace(action), " ")
	switch u := strings.ToUpper(w); {
	case u == "REJECT", u == "DEFER", u == "HOLD":
		return true
	case u == "DEFER_IF_PERMIT":
		return true
	default:
		return len(u) == 3 && (u[0] == '4' || u[0] == '5')
	}
}

// checkStrangers finds a policy service that is asked about recipients that the
// client may not send to.
func (c *checker) checkStrangers(s Service, rs []restriction, at int) {
	guarded := func(rs []restriction) bool {
		return slices.ContainsFunc(rs, func(r restriction) bool {
			return r.name == "reject_unauth_destination" || r.name == "defer_unauth_destination" || r.name == "reject" || r.name == "defer"
		})
	}
	before := c.eff(s, "smtpd_relay_before_recipient_restrictions") != "no"
	if before && guarded(restrictions(c.eff(s, "smtpd_relay_restrictions"))) || guarded(rs[:at]) ||
		guarded(restrictions(c.eff(s, "smtpd_client_restrictions"))) {
		return
	}
	c.add(Warn, "strangers", s.where(), "set smtpd_relay_restrictions = permit_mynetworks, permit_sasl_authenticated, defer_unauth_destination and smtpd_relay_before_recipient_restrictions = yes",
		"the policy service is asked before relaying is refused: strangers can make Postseal probe any domain")
}

func (c *checker) checkPickup() {
	want := c.Splitter.Transport(policy.None)
	for _, s := range c.services {
		if s.Command != "pickup" && s.Command != "qmqpd" {
			continue
		}
		switch v := c.eff(s, "content_filter"); {
		case strings.HasPrefix(v, policy.EscrowTransport+":"):
		case v == "":
			c.add(Leak, "pickup", s.where(), rerun+", or add -o content_filter="+want, "mail from %s, and mail that postsuper -r sends round again, passes no policy service", s.Command)
		default:
			c.add(Leak, "pickup-filter", s.where(), "put check_policy_service "+c.Policy+" in the smtpd service that the content filter returns its mail to", "mail from %s goes to content_filter=%s, and from there without a decision unless the policy service stands on the way back", s.Command, v)
		}
	}
}

func (c *checker) ourMap(name string) string { return "socketmap:" + c.Maps + ":" + name }

func (c *checker) checkMaps() {
	rewrite, ok := c.service("rewrite", "unix")
	if !ok {
		rewrite = Service{Name: "rewrite", Type: "unix"}
	}
	for _, m := range []struct {
		param, name string
		sev         Severity
		id, what    string
	}{
		{"transport_maps", "transport", Leak, "transport-map", "recipients with a rule take the administrator's road, in plaintext"},
		{"sender_dependent_default_transport_maps", "sender-transport", Leak, "safety-net", "forwards by local(8) and other mail that no policy service sees leave in plaintext"},
	} {
		list := splitList(c.eff(rewrite, m.param))
		switch at := slices.Index(list, c.ourMap(m.name)); {
		case at < 0:
			c.add(m.sev, m.id+"-missing", inMain(m.param), rerun, "%s is not there: %s", c.ourMap(m.name), m.what)
		case at > 0:
			c.add(m.sev, m.id+"-order", inMain(m.param), "put "+c.ourMap(m.name)+" first", "%s answers before ours: what it has goes past the rules", list[0])
		}
	}
	if list := splitList(c.main["smtp_tls_policy_maps"]); !slices.Contains(list, c.ourMap("tls-policy")) {
		c.add(Warn, "tls-policy-missing", inMain("smtp_tls_policy_maps"), rerun, "%s is not there: TLS levels of rules without a requirement have no effect", c.ourMap("tls-policy"))
	}
}

// encrypts reports whether a smtp_tls_security_level is mandatory.
func encrypts(level string) bool {
	return slices.Contains([]string{"encrypt", "dane-only", "fingerprint", "verify", "secure"}, level)
}

func (c *checker) checkTransports() {
	for _, name := range []string{policy.SecureTransport, policy.ForcedTransport, policy.NoticeTransport, policy.EscrowTransport} {
		s, ok := c.service(name, "unix")
		if !ok {
			c.add(Lose, "transport-missing", "master.cf: "+name+"/unix", rerun, "the transport is not there: required mail waits until it expires")
			continue
		}
		switch name {
		case policy.EscrowTransport:
			c.checkEscrow(s)
		case policy.NoticeTransport:
			c.checkNotices(s)
		default:
			c.checkMust(s)
		}
	}
}

func (c *checker) checkMust(s Service) {
	if s.Command != "smtp" {
		c.add(Leak, "must-command", s.where(), rerun, "the transport runs %s, not smtp", s.Command)
		return
	}
	if v := c.eff(s, "smtp_tls_security_level"); !encrypts(v) {
		c.add(Leak, "must-level", s.where(), "set -o smtp_tls_security_level=encrypt", "smtp_tls_security_level is %q: TLS is not mandatory", v)
	}
	list := splitList(c.eff(s, "smtp_tls_policy_maps"))
	for _, m := range list {
		if m != c.ourMap("secure-tls-policy") {
			c.add(Leak, "must-policy", s.where(), "set -o smtp_tls_policy_maps="+c.ourMap("secure-tls-policy"), "smtp_tls_policy_maps has %s, which may answer below encrypt and beats the transport's own level", m)
		}
	}
	if len(list) == 0 {
		c.add(Lose, "must-policy-missing", s.where(), "set -o smtp_tls_policy_maps="+c.ourMap("secure-tls-policy"), "smtp_tls_policy_maps is empty: the hand-over to the fallback would demand TLS, and TLS levels of rules have no effect")
	}
	switch v := c.eff(s, "smtp_fallback_relay"); {
	case s.Name == policy.ForcedTransport && v != "":
		c.add(Leak, "forced-fallback", s.where(), "set -o smtp_fallback_relay= (empty)", "smtp_fallback_relay=%s: forced TLS ends there", v)
	case s.Name == policy.SecureTransport && v == "":
		c.add(Lose, "fallback-missing", s.where(), "set -o smtp_fallback_relay="+c.Fallback, "smtp_fallback_relay is empty: what TLS does not take never reaches the escrow")
	case s.Name == policy.SecureTransport && v != c.Fallback:
		c.add(Leak, "fallback-other", s.where(), "set -o smtp_fallback_relay="+c.Fallback, "smtp_fallback_relay=%s is not Postseal's fallback", v)
	}
	if v := c.eff(s, "smtp_tls_wrappermode"); v == "yes" {
		c.add(Lose, "wrappermode", s.where(), "set -o smtp_tls_wrappermode=no", "smtp_tls_wrappermode=yes: neither MX hosts nor the fallback speak TLS from the start")
	}
	if !strings.HasPrefix(c.eff(s, "best_mx_transport"), policy.EscrowTransport+":") {
		c.add(Lose, "best-mx", s.where(), "set -o best_mx_transport="+c.Splitter.Transport(policy.Encryption), "a recipient of this host that comes here bounces (mail loops back to myself)")
	}
	if s.Name == policy.SecureTransport {
		if v := c.eff(s, "smtp_bind_address"); v != "" {
			if a, err := netip.ParseAddr(v); err != nil || !a.IsLoopback() {
				c.add(Warn, "bind-address", s.where(), "let the fallback listener accept this address, or use smtp_bind_address6 or a policy route instead", "smtp_bind_address=%s: the fallback on loopback sees that address as its client, or cannot be reached", v)
			}
		}
		if !slices.ContainsFunc(splitList(c.eff(s, "inet_protocols")), func(w string) bool { return w == "all" || w == "ipv4" }) {
			c.add(Lose, "ipv6-only", s.where(), "set -o inet_protocols=all", "inet_protocols=%s: the fallback %s cannot be reached", c.eff(s, "inet_protocols"), c.Fallback)
		}
		if c.eff(s, "smtp_line_length_limit") != "0" {
			c.add(Warn, "line-limit", s.where(), "set -o smtp_line_length_limit=0", "long lines are folded: the escrowed message is not the one that was sent")
		}
	}
}

func (c *checker) checkNotices(s Service) {
	for _, m := range splitList(c.eff(s, "smtp_tls_policy_maps")) {
		if strings.HasPrefix(m, "socketmap:"+c.Maps+":") {
			c.add(Lose, "notice-policy", s.where(), "set -o smtp_tls_policy_maps= (empty)", "notices to a domain that requires TLS never arrive: %s is asked", m)
		}
	}
	if v := c.eff(s, "smtp_fallback_relay"); v != "" {
		c.add(Lose, "notice-fallback", s.where(), "set -o smtp_fallback_relay= (empty)", "smtp_fallback_relay=%s: notices end there", v)
	}
}

func (c *checker) checkEscrow(s Service) {
	if s.Command != "lmtp" {
		c.add(Lose, "escrow-command", s.where(), rerun, "the transport runs %s, not lmtp: one recipient's answer would count for all", s.Command)
		return
	}
	if v := c.eff(s, "lmtp_tls_security_level"); v != "none" && v != "" {
		c.add(Lose, "escrow-tls", s.where(), "set -o lmtp_tls_security_level=none", "lmtp_tls_security_level=%s: the hand-over to Postseal fails", v)
	}
	if c.eff(s, "lmtp_line_length_limit") != "0" {
		c.add(Warn, "line-limit", s.where(), "set -o lmtp_line_length_limit=0", "long lines are folded: the escrowed message is not the one that was sent")
	}
	if v := c.eff(s, "lmtp_generic_maps"); v != "" {
		c.add(Warn, "escrow-generic", s.where(), "set -o lmtp_generic_maps= (empty)", "lmtp_generic_maps=%s hides the sender from the splitter", v)
	}
}

func (c *checker) checkReinjection() {
	for _, port := range []struct{ name, filter string }{
		{c.Plain, ""}, {c.Secure, policy.SecureTransport}, {c.Forced, policy.ForcedTransport}, {c.Notice, policy.NoticeTransport},
	} {
		host, number, _ := net.SplitHostPort(port.name)
		for _, s := range c.services {
			// The same port on another address.
			h, n, err := net.SplitHostPort(s.Name)
			if s.Type == "inet" && (s.Name == number || err == nil && n == number && h != host && !isLoopback(h)) {
				c.add(Leak, "reinjection-open", s.where(), "name it "+port.name, "a re-injection port is open to other hosts: what comes in there passes no rule")
			}
		}
		s, ok := c.service(port.name, "inet")
		if !ok {
			c.add(Lose, "reinjection-missing", "master.cf: "+port.name+"/inet", rerun, "the re-injection port is not there: mail waits in Postseal's splitter until it expires")
			continue
		}
		c.checkPort(s, port.filter)
	}
}

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

func (c *checker) checkPort(s Service, filter string) {
	if s.Command != "smtpd" {
		c.add(Lose, "reinjection-command", s.where(), rerun, "the re-injection port runs %s, not smtpd", s.Command)
		return
	}
	for _, n := range splitList(c.eff(s, "mynetworks")) {
		net, err := netip.ParsePrefix(n)
		if err != nil || !net.Addr().IsLoopback() {
			c.add(Leak, "reinjection-open", s.where(), "set -o mynetworks=127.0.0.0/8", "mynetworks has %s: hosts other than this one may use the re-injection port", n)
		}
	}
	for _, r := range restrictions(c.eff(s, "smtpd_client_restrictions")) {
		if r.name != "permit_mynetworks" && r.name != "reject" {
			c.add(Lose, "reinjection-restrictions", s.where(), rerun, "smtpd_client_restrictions has %s: accepted mail may be refused on its way back", r.name)
		}
	}
	for _, name := range []string{"smtpd_helo_restrictions", "smtpd_sender_restrictions", "smtpd_data_restrictions", "smtpd_end_of_data_restrictions"} {
		if v := c.eff(s, name); v != "" {
			sev := Lose
			if c.policyAt(restrictions(v)) >= 0 {
				sev = Loop
			}
			c.add(sev, "reinjection-restrictions", s.where(), "set -o "+name+"= (empty)", "%s=%s is inherited from main.cf", name, v)
		}
	}
	for _, r := range restrictions(c.eff(s, "smtpd_relay_restrictions")) {
		if r.name != "permit_mynetworks" && r.name != "reject" {
			c.add(Lose, "reinjection-restrictions", s.where(), "set -o smtpd_relay_restrictions=permit_mynetworks,reject", "smtpd_relay_restrictions has %s: accepted mail may be refused on its way back", r.name)
		}
	}
	for _, name := range []string{"content_filter", "smtpd_proxy_filter"} {
		if v := c.eff(s, name); v != "" {
			c.add(Loop, "reinjection-filter", s.where(), "set -o "+name+"= (empty)", "%s=%s is inherited: the message goes in a circle", name, v)
		}
	}
	overrides := splitList(c.eff(s, "receive_override_options"))
	for _, o := range []struct {
		name string
		sev  Severity
		what string
	}{
		{"no_header_body_checks", Loop, "header_checks fire again, and a FILTER there sends the message round in a circle"},
		{"no_address_mappings", Leak, "aliases and bcc maps are applied again: a copy may leave in plaintext"},
	} {
		if !slices.Contains(overrides, o.name) {
			c.add(o.sev, "reinjection-override", s.where(), "set -o receive_override_options=no_header_body_checks,no_address_mappings", "receive_override_options lacks %s: %s", o.name, o.what)
		}
	}
	if v := c.eff(s, "smtpd_tls_security_level"); v != "none" && v != "" && v != "may" || c.eff(s, "smtpd_tls_wrappermode") == "yes" {
		c.add(Lose, "reinjection-tls", s.where(), "set -o smtpd_tls_security_level=none -o smtpd_tls_wrappermode=no", "TLS is demanded on a loopback port: accepted mail does not come back")
	}
	if v := c.eff(s, "smtpd_discard_ehlo_keywords"); v != "" {
		c.add(Warn, "reinjection-ehlo", s.where(), "set -o smtpd_discard_ehlo_keywords= (empty)", "smtpd_discard_ehlo_keywords=%s: what the sender asked for (DSN, SMTPUTF8) is lost on the way back", v)
	}
	if v := c.eff(s, "smtpd_milters"); v != "" && filter != policy.NoticeTransport && !slices.Contains(overrides, "no_milters") {
		c.add(Warn, "reinjection-milters", s.where(), "set -o smtpd_milters= (empty)", "milters see the message twice, and may change or refuse what they have signed")
	}
	if v := c.eff(s, "message_size_limit"); v != "0" && v != c.main["message_size_limit"] {
		c.add(Lose, "reinjection-size", s.where(), "set -o message_size_limit=0", "message_size_limit=%s: a message that was accepted may be too long on its way back", v)
	}
	rs := restrictions(c.eff(s, "smtpd_recipient_restrictions"))
	sets := slices.ContainsFunc(rs, func(r restriction) bool {
		return r.name == "check_client_access" && strings.Contains(r.arg, "FILTER "+filter+":")
	})
	switch at := c.policyAt(rs); {
	case filter == "" && at >= 0:
		c.add(Loop, "reinjection-policy", s.where(), "set -o smtpd_recipient_restrictions=permit_mynetworks,reject", "the policy service is asked again, and sends the message back to the splitter")
	case filter == "" && slices.ContainsFunc(rs, func(r restriction) bool { return strings.Contains(r.arg, "FILTER ") }):
		c.add(Loop, "reinjection-policy", s.where(), "set -o smtpd_recipient_restrictions=permit_mynetworks,reject", "the port for plain mail sets a FILTER")
	case filter != "" && !sets:
		c.add(Leak, "reinjection-mark", s.where(), rerun, "nothing on this port sets FILTER %s:, so that what comes in here goes like any other mail", filter)
	case filter != "" && at >= 0:
		if _, attrs := policyArg(rs[at].arg); attrs["policy_context"] == "" {
			c.add(Loop, "reinjection-context", s.where(), rerun, "the policy service is asked without its policy_context, and sends the message back to the splitter")
		}
	}
	if relay := strings.Join(splitList(c.main["relayhost"]), ","); sets && filter != "" &&
		!strings.Contains(c.eff(s, "smtpd_recipient_restrictions"), "FILTER "+filter+":"+relay+"}") {
		c.add(Warn, "reinjection-relay", s.where(), rerun, "the FILTER does not go to relayhost %q as it is now", relay)
	}
}

func (c *checker) checkSettings() {
	m := c.main
	if v := m["default_filter_nexthop"]; v != "" {
		c.add(Lose, "default-filter-nexthop", inMain("default_filter_nexthop"), "set default_filter_nexthop = (empty)", "default_filter_nexthop=%s: FILTERed mail without a next-hop finds no way out", v)
	}
	if v, known := m["tls_required_enable"]; known && v != "no" {
		c.add(Leak, "tls-required", inMain("tls_required_enable"), "set tls_required_enable = no", `a header "TLS-Required: no" that the sender writes switches mandatory TLS off`)
	}
	if v := m["bounce_size_limit"]; v != "1" {
		c.add(Leak, "bounce-size", inMain("bounce_size_limit"), "set bounce_size_limit = 1", "bounce_size_limit=%s: a bounce carries the text back to the sender, by whatever way that address has", v)
	}
	if v := m["relayhost"]; v != "" {
		c.add(Warn, "relayhost", inMain("relayhost"), "", "required mail goes to %s by mandatory TLS, too: the guarantee ends there, and what that host does next is not Postseal's to see", v)
	}
	if v := m["sender_dependent_relayhost_maps"]; v != "" {
		c.add(Warn, "sender-relayhost", inMain("sender_dependent_relayhost_maps"), "give the rule a --nexthop where the road matters", "required mail does not follow sender_dependent_relayhost_maps: it takes relayhost or the MX, by mandatory TLS")
	}
	if theirs := c.p.theirMaps(m["sender_dependent_default_transport_maps"]); len(theirs) > 0 {
		c.add(Warn, "sender-transport", inMain("sender_dependent_default_transport_maps"), "give the rule a --nexthop where the road matters", "required mail does not follow %s: it takes relayhost or the MX, by mandatory TLS", strings.Join(theirs, ", "))
	}
	if v := m["smtp_generic_maps"]; v != "" {
		c.add(Warn, "generic-maps", inMain("smtp_generic_maps"), "", "smtp_generic_maps=%s rewrites the sender before the fallback sees it: notices and reports name the rewritten address", v)
	}
	if v := m["smtp_tls_wrappermode"]; v == "yes" {
		c.add(Lose, "relay-wrappermode", inMain("smtp_tls_wrappermode"), "use the relayhost's port 587 with STARTTLS", "smtp_tls_wrappermode=yes: required mail speaks STARTTLS to the relayhost, and waits")
	}
	if v := m["soft_bounce"]; v == "yes" {
		c.add(Warn, "soft-bounce", inMain("soft_bounce"), "set soft_bounce = no", "conflicts of rules are not told to the sender until the message expires")
	}
	for _, name := range []string{"local_transport", "virtual_transport", "mailbox_transport"} {
		channel, hop, _ := strings.Cut(m[name], ":")
		s, ok := c.service(channel, "unix")
		if ok && s.Command == "smtp" && !encrypts(c.eff(s, "smtp_tls_security_level")) {
			c.add(Warn, "own-road", inMain(name), "set "+name+" = "+policy.SecureTransport+":"+hop, "mail for own domains, required or not, leaves this host by %s without mandatory TLS", m[name])
		}
	}
	if v, err := c.p.Version(c.ctx); err != nil {
		c.err = err
	} else if v.Before(3, 7) {
		c.add(Warn, "version", "postconf mail_version", "", "Postfix %s: Postseal was tried on 3.7 and later", v)
	}
	for _, f := range []struct {
		names []string
		what  string
	}{{[]string{"sender_canonical_maps", "canonical_maps", "recipient_canonical_maps"}, "addresses are rewritten after the policy service has seen them"}} {
		for _, name := range f.names {
			for _, t := range splitList(m[name]) {
				if _, _, err := c.p.Lookup(c.ctx, t, "postseal-check@invalid"); err != nil {
					c.add(Leak, "canonical", inMain(name), "let the postseal user read the table, or cover the rewritten addresses by rules of their own", "%s, and %v", f.what, err)
				}
			}
		}
	}
}

// checkFilters looks for FILTERs that are not ours: the last one wins, and one of
// header_checks beats the policy service's.
func (c *checker) checkFilters() {
	seen := make(map[string]bool)
	for _, name := range []string{"header_checks", "mime_header_checks", "nested_header_checks", "body_checks", "milter_header_checks", "smtpd_command_filter"} {
		lists := []string{c.main[name]}
		for _, s := range c.services {
			if v, ok := c.overrides[s.String()][name]; ok {
				lists = append(lists, v)
			}
		}
		for _, t := range splitList(strings.Join(lists, " ")) {
			if seen[t] || strings.HasSuffix(t, "/"+headerChecksFile) {
				continue
			}
			seen[t] = true
			for _, word := range []string{"FILTER", "REDIRECT", "BCC"} {
				line, ok := c.mentions(t, word)
				if !ok {
					continue
				}
				if word == "FILTER" {
					c.add(Leak, "other-filter", inMain(name), "take the FILTER out of "+t, "%s has FILTER (%s), which beats the policy service's", t, line)
				} else {
					c.add(Warn, "other-recipient", inMain(name), "cover that address by a rule", "%s has %s (%s): the policy service does not see that recipient", t, word, line)
				}
			}
		}
	}
	for _, s := range c.intake() {
		guard := restrictions(c.eff(s, "smtpd_end_of_data_restrictions"))
		last := len(guard) > 0 && c.isPolicy(guard[len(guard)-1])
		for _, name := range []string{"smtpd_client_restrictions", "smtpd_helo_restrictions", "smtpd_sender_restrictions", "smtpd_relay_restrictions", "smtpd_recipient_restrictions", "smtpd_data_restrictions", "smtpd_end_of_data_restrictions"} {
			for _, r := range restrictions(c.eff(s, name)) {
				if !strings.HasSuffix(r.name, "_access") || r.arg == "" {
					continue
				}
				line, ok := c.mentions(r.arg, "FILTER")
				if !ok {
					continue
				}
				sev := Leak
				if last {
					sev = Warn
				}
				c.add(sev, "access-filter", s.where(), "put check_policy_service "+c.Policy+" last in smtpd_end_of_data_restrictions, or take the FILTER out", "%s: %s %s has FILTER (%s); the last FILTER wins", name, r.name, r.arg, line)
			}
		}
	}
}

// mentions returns the first line of a table's source that has word as an action.
// What is not a readable text file has none.
func (c *checker) mentions(table, word string) (string, bool) {
	kind, name, _ := strings.Cut(bare(table), ":")
	has := func(l string) bool {
		return slices.ContainsFunc(strings.FieldsFunc(l, func(r rune) bool { return r == ' ' || r == '\t' || r == '{' || r == '=' }),
			func(w string) bool { return strings.EqualFold(w, word) })
	}
	switch kind {
	case "static", "inline":
		return name, has(name)
	}
	if !strings.HasPrefix(name, "/") {
		return "", false
	}
	fi, err := os.Stat(name)
	if err != nil || fi.Size() > 64<<20 {
		return "", false
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return "", false
	}
	for l := range strings.Lines(string(b)) {
		if l = strings.TrimSpace(l); !strings.HasPrefix(l, "#") && has(l) {
			return l, true
		}
	}
	return "", false
}

func (c *checker) checkTriggers() {
	if c.Triggers.Empty() {
		return
	}
	cleanup, _ := c.service("cleanup", "unix")
	list := splitList(c.eff(cleanup, "header_checks"))
	at := slices.IndexFunc(list, isHeaderChecks)
	switch {
	case at < 0:
		c.add(Leak, "triggers-missing", inMain("header_checks"), rerun, "there are triggers, and header_checks does not have them")
		return
	case at > 0:
		c.add(Leak, "triggers-order", inMain("header_checks"), rerun, "%s answers for a header field before Postseal's table", list[0])
	}
	_, file, _ := strings.Cut(list[at], ":")
	b, err := os.ReadFile(file)
	if err != nil {
		c.add(Leak, "triggers-unreadable", inMain("header_checks"), rerun, "%v", err)
		return
	}
	if len(lacking(string(b), c.triggerLines())) > 0 {
		c.add(Leak, "triggers-stale", filepath.Base(file), rerun, "the triggers there are not those of Postseal: some are not in force")
	}
	if v := c.eff(cleanup, "message_strip_characters"); !stripsNUL(v) {
		c.add(Leak, "triggers-nul", inMain("message_strip_characters"), rerun, "a NUL in a header field hides what stands behind it from header_checks: want message_strip_characters = \\000")
	}
}
