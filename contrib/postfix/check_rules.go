package postfix

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/postseal/postseal/policyd/policy"
)

func (c *checker) rules(scope policy.Scope) []policy.Found {
	if c.Rules == nil {
		return nil
	}
	var rs []policy.Found
	for r := range c.Rules.All {
		if r.Scope == scope && r.Requirement != policy.None {
			rs = append(rs, r)
		}
	}
	return rs
}

// ruleDomain returns the domain that a pattern names, "" for *.
func ruleDomain(r policy.Found) string {
	p := r.Pattern
	if i := strings.LastIndexByte(p, '@'); i >= 0 {
		p = p[i+1:]
	}
	if p == "*" || p == "<>" {
		return ""
	}
	return strings.TrimPrefix(p, ".")
}

// checkRoads compares the administrator's roads with the rules.
func (c *checker) checkRoads() {
	routes := NewRoutes(c.p)
	for _, r := range c.rules(policy.ByRecipient) {
		d := ruleDomain(r)
		if d == "" || r.Requirement == policy.EscrowOnly {
			continue
		}
		local := "postseal-check"
		if i := strings.LastIndexByte(r.Pattern, '@'); i > 0 {
			local = r.Pattern[:i]
		}
		if strings.HasPrefix(r.Pattern, ".") {
			d = "postseal-check." + d
		}
		route, err := routes.Route(c.ctx, policy.Address{Local: local, Domain: d})
		switch {
		case err != nil:
			c.add(Lose, "road-unreadable", inMain("transport_maps"), "let the postseal user read the table", "%s: %v; required mail waits", r, err)
			return
		case r.Nexthop != "":
		case route.Blocked != "":
			c.add(Lose, "road-blocked", inMain("transport_maps"), "give the rule a --nexthop, or make the entry smtp:", "%s: %s; required mail waits", r, route.Blocked)
		case route.Nexthop != "" && route.Nexthop != strings.Join(splitList(c.main["relayhost"]), ","):
			c.add(Warn, "road-overlap", inMain("transport_maps"), "say so in the rule: --nexthop "+route.Nexthop, "%s overlaps the administrator's own road to %s: required mail takes it too, by mandatory TLS, and the guarantee ends at that host", r, route.Nexthop)
		}
	}
	channel, _, _ := strings.Cut(c.main["default_transport"], ":")
	if s, ok := c.service(channel, "unix"); !ok || s.Command != "smtp" {
		c.add(Lose, "default-transport", inMain("default_transport"), "give rules a --nexthop", "default_transport=%s is not SMTP: TLS can't be demanded there, and required mail waits", c.main["default_transport"])
	}
	if len(c.rules(policy.BySender)) == 0 {
		return
	}
	// Forwards by local(8) pass neither smtpd nor pickup; the safety net does not
	// change what transport_maps or relay_domains have routed.
	for _, t := range c.p.theirMaps(c.main["transport_maps"]) {
		plain, err := c.plainEntries(t)
		switch {
		case err != nil:
			c.add(Warn, "forward-unlisted", inMain("transport_maps"), "be sure that its entries go by "+policy.SecureTransport+":", "the entries of %s can't be listed (%v): a local forward of a sender with a rule may leave by them in plaintext", t, err)
		case len(plain) > 0:
			shown := plain[:min(len(plain), 5)]
			c.add(Leak, "forward-entry", inMain("transport_maps"), "make them "+policy.SecureTransport+":[host]", "%s: a forward by local(8) (aliases, .forward) of a sender with a rule leaves in plaintext by %s", t, strings.Join(shown, "; "))
		}
	}
	if v := c.main["relay_domains"]; v != "" {
		channel, hop, _ := strings.Cut(c.main["relay_transport"], ":")
		if s, ok := c.service(channel, "unix"); ok && (s.Command != "smtp" || !encrypts(c.eff(s, "smtp_tls_security_level"))) {
			c.add(Leak, "forward-relay", inMain("relay_transport"), "set relay_transport = "+policy.SecureTransport+":"+hop+", or relay_domains empty", "relay_domains=%s: a forward by local(8) of a sender with a rule leaves to them by %s, without mandatory TLS", v, c.main["relay_transport"])
		}
	}
}

// plainEntries returns the entries of a transport table that leave this host without
// mandatory TLS.
func (c *checker) plainEntries(table string) ([]string, error) {
	out, err := c.p.listTable(c.ctx, table)
	if err != nil {
		return nil, err
	}
	var plain []string
	for _, e := range out {
		channel, _, _ := strings.Cut(e[1], ":")
		if channel == "" {
			channel, _, _ = strings.Cut(c.main["default_transport"], ":")
			if strings.TrimSpace(e[1]) == ":" {
				continue // as if there were no entry
			}
		}
		s, ok := c.service(channel, "unix")
		if ok && s.Command == "smtp" && !encrypts(c.eff(s, "smtp_tls_security_level")) || ok && s.Command == "pipe" || ok && s.Command == "lmtp" && strings.Contains(e[1], "inet:") && channel != policy.EscrowTransport {
			plain = append(plain, e[0]+" "+e[1])
		}
	}
	return plain, nil
}

// checkDomains compares the own domains that the server decides by with Postfix's.
func (c *checker) checkDomains() {
	postfixs := NewOwnDomains(c.p)
	if _, err := postfixs.Own(c.ctx, "postseal-check.invalid"); err != nil {
		c.add(Lose, "own-unreadable", inMain("mydestination, virtual_mailbox_domains, virtual_alias_domains"), "let the postseal user read the table, or list the domains by --own-domain", "the own domains can't be read: %v; required mail waits", err)
		return
	}
	own := c.Own
	if own == nil {
		own = postfixs
	}
	for _, list := range []string{"mydestination", "virtual_mailbox_domains", "virtual_alias_domains", "relay_domains"} {
		for _, w := range splitList(c.main[list]) {
			if strings.ContainsAny(w, ":/!") || strings.HasPrefix(w, ".") {
				continue
			}
			is, err := own.Own(c.ctx, w)
			if err != nil {
				c.add(Lose, "own-unreadable", inMain(list), "let the postseal user read the table, or list the domains by --own-domain", "the own domains can't be read: %v; required mail waits", err)
				return
			}
			class, err := postfixs.class(c.ctx, w)
			if err != nil {
				c.err = err
				return
			}
			switch {
			case list != "relay_domains" && !is:
				c.add(Loop, "own-missing", inMain(list), "list it: --own-domain "+w, "%s is delivered here and is not an own domain to Postseal: a rule that covers it sends its mail in a circle or back", w)
			case list == "relay_domains" && is && class == "relay_domains":
				c.add(Leak, "own-relay", inMain(list), "take it out of --own-domain", "%s is relayed to another host and is an own domain to Postseal: required mail goes there in plaintext", w)
			}
		}
	}
}

func (c *checker) checkNotice() {
	if c.NoticeFrom == "" {
		return
	}
	a, err := policy.ParseAddress(c.NoticeFrom)
	if err != nil || a.Domain == "" {
		c.add(Lose, "notice-address", "--notice-from", "give user@domain", "%q is not an address", c.NoticeFrom)
		return
	}
	class, err := NewOwnDomains(c.p).class(c.ctx, a.Domain)
	if err != nil {
		return // said by checkDomains
	}
	bounce := policy.Address{Local: "postseal-bounce+check.check", Domain: a.Domain}
	table := map[string]string{"mydestination": "local_recipient_maps", "virtual_mailbox_domains": "virtual_mailbox_maps", "relay_domains": "relay_recipient_maps"}[class]
	switch {
	case class == "virtual_alias_domains":
		c.add(Lose, "notice-domain", "--notice-from", "take an address in another domain", "%s is in virtual_alias_domains, whose mail is never routed: a bounced notice is lost", a.Domain)
	case class == "":
		c.add(Lose, "notice-domain", "--notice-from", "list "+a.Domain+" in relay_domains, or take an address in an own domain", "%s is none whose mail this Postfix takes: a bounced notice does not come back", a.Domain)
	case c.main[table] != "":
		accepted, err := c.accepts(table, bounce)
		if err != nil {
			c.add(Lose, "notice-table", inMain(table), "let the table be read", "%v", err)
		} else if !accepted {
			c.add(Lose, "notice-refused", inMain(table), rerun, "%s is not listed: a bounced notice is refused, and the sender learns nothing", bounce)
		}
	}
	if c.MailHosts == nil || class == "" {
		return
	}
	hosts, err := c.MailHosts(c.ctx, a.Domain)
	if err != nil {
		c.add(Warn, "notice-mx", "--notice-from", "", "the MX of %s can't be looked up: %v", a.Domain, err)
		return
	}
	for _, h := range hosts {
		if mine, err := ownLiteral("["+h.String()+"]", c.main["inet_interfaces"], c.main["proxy_interfaces"]); err == nil && mine {
			return
		}
	}
	c.add(Warn, "notice-mx", "--notice-from", "take an address in a domain whose MX is this host, or make the MX pass postseal-bounce+…@"+a.Domain+" on to here; behind NAT set proxy_interfaces", "the MX of %s is not this Postfix: a bounced notice may not come back", a.Domain)
}

// accepts reports whether a recipient is in a table of recipients.
func (c *checker) accepts(list string, a policy.Address) (bool, error) {
	base, _ := policy.Delimiters(c.main["recipient_delimiter"]).Split(a.Local)
	full := addressKeys(a)
	keys := slices.Concat(full, addressKeys(policy.Address{Local: base, Domain: a.Domain}), []string{a.Local, base, "@" + a.Domain})
	for _, t := range splitList(c.main[list]) {
		k := keys
		if isPattern(t) {
			k = full
		}
		m, err := c.p.lookup(c.ctx, t, k)
		if err != nil {
			return false, err
		}
		if len(m) > 0 {
			return true, nil
		}
	}
	return false, nil
}

func (c *checker) checkCopies() {
	for _, name := range []string{"always_bcc", "sender_bcc_maps", "recipient_bcc_maps"} {
		if v := c.main[name]; v != "" {
			c.add(Warn, "bcc", inMain(name), "", "%s=%s adds recipients after the policy service: required mail takes the way by the splitter, one hop more", name, v)
		}
	}
}

// checkRules finds rules that promise less than they seem to.
func (c *checker) checkRules() {
	forced := false
	for _, scope := range []policy.Scope{policy.ByRecipient, policy.BySender, policy.ByLogin} {
		for _, r := range c.rules(scope) {
			forced = forced || r.Requirement == policy.ForcedTLS
		}
	}
	if d, err := parseTime(c.main["delay_warning_time"], 1); forced && (err == nil && d == 0) {
		c.add(Warn, "delay-warning", inMain("delay_warning_time"), "set delay_warning_time = 1h", "forced TLS waits in the queue, and delay_warning_time=0 tells the sender nothing before the message bounces")
	}
	if len(c.rules(policy.ByLogin)) > 0 || !c.Triggers.Empty() {
		if c.main["mydestination"] != "" && (c.main["alias_maps"] != "" || c.main["forward_path"] != "") {
			c.add(Warn, "forwards", inMain("alias_maps, forward_path"), "cover those senders by address, or forward by virtual_alias_maps", "local(8) sends a forward as a new message: requirements by login or content do not follow it")
		}
	}
	postfixs := NewOwnDomains(c.p)
	for _, r := range c.rules(policy.BySender) {
		d := ruleDomain(r)
		if d == "" || strings.HasPrefix(r.Pattern, ".") {
			continue
		}
		if own, err := postfixs.Own(c.ctx, d); err == nil && !own {
			c.add(Warn, "foreign-sender", "rules", "", "%s: mail for %s is delivered elsewhere, and so are bounces to it, headers included", r, d)
		}
	}
	for _, r := range c.rules(policy.ByRecipient) {
		d := ruleDomain(r)
		if d == "" || strings.HasPrefix(r.Pattern, ".") {
			continue
		}
		if own, err := postfixs.Own(c.ctx, d); err == nil && own {
			c.add(Warn, "own-recipient", "rules", "", "%s: %s is an own domain, whose mail does not leave: the rule counts only where virtual_alias_maps lead out; aliases(5) and .forward do not carry it", r, d)
		}
	}
	if len(c.rules(policy.BySender)) > 0 {
		c.checkLists()
	}
}

// checkLists finds lists of local(8) that have an owner: their mail leaves as a new
// message of the owner's (aliases(5)), so the rule of who wrote it does not follow, and
// neither does the safety net, unless the owner has a rule, too.
func (c *checker) checkLists() {
	origin, err := c.p.Origin(c.ctx)
	if err != nil {
		return // found elsewhere
	}
	for _, t := range splitList(c.main["alias_maps"]) {
		entries, err := c.p.listTable(c.ctx, t)
		if err != nil {
			c.add(Warn, "lists-unlisted", inMain("alias_maps"), "cover the addresses owner-NAME@"+origin+" by a sender rule", "the entries of %s can't be listed (%v): mail of a sender with a rule to a list with an owner (owner-NAME) leaves in plaintext", t, err)
			continue
		}
		names := make(map[string]bool)
		for _, e := range entries {
			names[strings.ToLower(strings.TrimRight(strings.Trim(e[0], "\""), ":\x00"))] = true
		}
		for _, owner := range slices.Sorted(maps.Keys(names)) {
			list, ok := strings.CutPrefix(owner, "owner-")
			if !ok || !names[list] {
				continue
			}
			r := c.Rules.Lookup(policy.BySender, policy.Address{Local: owner, Domain: origin}, c.p.now())
			if r.None() || !r.Requirement.Channels().Required() {
				c.add(Leak, "list-owner", inMain("alias_maps"), "add a sender rule for "+owner+"@"+origin, "mail to the list %s leaves as mail of %s@%s, whom no rule covers: what is required of the sender who wrote it does not follow", list, owner, origin)
			}
		}
	}
}

// ResolveMailHosts returns a CheckOptions.MailHosts that asks r.
func ResolveMailHosts(r *net.Resolver) func(context.Context, string) ([]netip.Addr, error) {
	return func(ctx context.Context, domain string) ([]netip.Addr, error) {
		mxs, err := r.LookupMX(ctx, domain)
		var hosts []string
		for _, mx := range mxs {
			hosts = append(hosts, mx.Host)
		}
		if len(hosts) == 0 {
			var dns *net.DNSError
			if err != nil && !(errors.As(err, &dns) && dns.IsNotFound) {
				return nil, err
			}
			hosts = []string{domain}
		}
		var all []netip.Addr
		for _, h := range hosts {
			as, err := r.LookupNetIP(ctx, "ip", h)
			if err != nil {
				return nil, err
			}
			for _, a := range as {
				all = append(all, a.Unmap())
			}
		}
		return all, nil
	}
}
