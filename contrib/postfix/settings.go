package postfix

import (
	"context"
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// AddsRecipients reports whether Postfix may add recipients after the policy service
// was asked about them: always_bcc, sender_bcc_maps, recipient_bcc_maps.
func (p *Instance) AddsRecipients(ctx context.Context) (bool, error) {
	names := []string{"always_bcc", "sender_bcc_maps", "recipient_bcc_maps"}
	m, err := p.Params(ctx, names...)
	if err != nil {
		return false, err
	}
	for _, v := range m {
		if v != "" {
			return true, nil
		}
	}
	services, err := p.Services(ctx)
	if err != nil {
		return false, err
	}
	for _, s := range services {
		for _, n := range names {
			if s.Options[n] != "" {
				return true, nil
			}
		}
	}
	return false, nil
}

// Origin returns the domain that Postfix appends to an address without one
// (myorigin). Where it is a file, that is read.
func (p *Instance) Origin(ctx context.Context) (string, error) {
	v, err := p.Param(ctx, "myorigin")
	if err != nil {
		return "", err
	}
	if strings.HasPrefix(v, "/") {
		words, err := readList(v)
		if err != nil {
			return "", fmt.Errorf("myorigin: %w", err)
		}
		if len(words) == 0 {
			return "", fmt.Errorf("myorigin: %s is empty", v)
		}
		v = words[0]
	}
	return policy.CanonicalDomain(v), nil
}

// Delimiters returns recipient_delimiter.
func (p *Instance) Delimiters(ctx context.Context) (policy.Delimiters, error) {
	v, err := p.Param(ctx, "recipient_delimiter")
	return policy.Delimiters(v), err
}

// MailOwnerUID returns the user id of mail_owner, as which Postfix's services connect.
func (p *Instance) MailOwnerUID(ctx context.Context) (int, error) {
	name, err := p.Param(ctx, "mail_owner")
	if err != nil {
		return 0, err
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, fmt.Errorf("mail_owner: %w", err)
	}
	return strconv.Atoi(u.Uid)
}

// QueueLifetime returns for how long Postfix retries: the longer of
// maximal_queue_lifetime and bounce_queue_lifetime.
func (p *Instance) QueueLifetime(ctx context.Context) (time.Duration, error) {
	names := []string{"maximal_queue_lifetime", "bounce_queue_lifetime"}
	m, err := p.Params(ctx, names...)
	if err != nil {
		return 0, err
	}
	var longest time.Duration
	for _, n := range names {
		d, err := parseTime(m[n], 24*time.Hour)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", n, err)
		}
		longest = max(longest, d)
	}
	return longest, nil
}

// parseTime reads a time of main.cf: a number and s, m, h, d or w.
func parseTime(s string, unit time.Duration) (time.Duration, error) {
	units := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}
	s = strings.ToLower(strings.TrimSpace(s))
	if s != "" {
		if u, ok := units[s[len(s)-1]]; ok {
			unit, s = u, s[:len(s)-1]
		}
	}
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is not a time such as 5d", s)
	}
	return time.Duration(n) * unit, nil
}

// AdminTLSPolicy returns the entry that the administrator's own smtp_tls_policy_maps
// have for a next-hop, searched as smtp(8) does: the next-hop, then for a domain its
// .parents; "" where there is none.
func (p *Instance) AdminTLSPolicy(ctx context.Context, nexthop string) (string, error) {
	m, err := p.Params(ctx, "smtp_tls_policy_maps")
	if err != nil {
		return "", err
	}
	tables := p.theirMaps(m["smtp_tls_policy_maps"])
	if len(tables) == 0 || nexthop == "" {
		return "", nil
	}
	keys := []string{nexthop}
	if !strings.ContainsAny(nexthop, "[:") {
		keys = domainKeys(nexthop, false)
	}
	answers := make([]map[string]string, len(tables))
	for i, t := range tables {
		k := keys
		if isPattern(t) {
			k = keys[:1]
		}
		if answers[i], err = p.lookup(ctx, t, k); err != nil {
			return "", err
		}
	}
	for _, k := range keys {
		for _, a := range answers {
			if v, ok := a[k]; ok {
				return v, nil
			}
		}
	}
	return "", nil
}

// Canonical returns an envelope address as cleanup(8) rewrites it before the queue, by
// canonical(5) maps and masquerading: the address that a rule must be looked up by,
// too. Postfix's policy request has the address before.
func (p *Instance) Canonical(ctx context.Context, a policy.Address, sender bool) (policy.Address, error) {
	m, err := p.Params(ctx, "canonical_maps", "canonical_classes", "sender_canonical_maps", "sender_canonical_classes",
		"recipient_canonical_maps", "masquerade_domains", "masquerade_classes", "masquerade_exceptions", "recipient_delimiter",
		"propagate_unmatched_extensions", "mydestination", "inet_interfaces", "proxy_interfaces")
	if err != nil {
		return a, err
	}
	if a.IsNull() {
		return a, nil
	}
	if a.Domain == "" {
		if a.Domain, err = p.Origin(ctx); err != nil {
			return a, err
		}
	}
	class := "envelope_recipient"
	var tables [][]string
	if sender {
		class = "envelope_sender"
		if slices.Contains(splitList(m["sender_canonical_classes"]), class) {
			tables = append(tables, splitList(m["sender_canonical_maps"]))
		}
	} else {
		tables = append(tables, splitList(m["recipient_canonical_maps"]))
	}
	if slices.Contains(splitList(m["canonical_classes"]), class) {
		tables = append(tables, splitList(m["canonical_maps"]))
	}
	extend := slices.Contains(splitList(m["propagate_unmatched_extensions"]), "canonical")
	for _, t := range tables {
		if a, err = p.rewrite(ctx, a, t, policy.Delimiters(m["recipient_delimiter"]), extend); err != nil {
			return a, err
		}
	}
	if slices.Contains(splitList(m["masquerade_classes"]), class) {
		a = masquerade(a, splitList(m["masquerade_domains"]), splitList(m["masquerade_exceptions"]))
	}
	return a, nil
}

// rewrite looks an address up until it stays as it is (ADDRESS_REWRITING_README).
func (p *Instance) rewrite(ctx context.Context, a policy.Address, tables []string, d policy.Delimiters, extend bool) (policy.Address, error) {
	if len(tables) == 0 {
		return a, nil
	}
	for range 20 {
		next, found, err := p.rewriteOnce(ctx, a, tables, d, extend)
		if err != nil || !found || next.Folded() == a.Folded() {
			return a, err
		}
		a = next
	}
	return a, nil
}

func (p *Instance) rewriteOnce(ctx context.Context, a policy.Address, tables []string, d policy.Delimiters, extend bool) (policy.Address, bool, error) {
	v, extension, found, err := p.find(ctx, a, tables, d)
	if err != nil || !found {
		return a, false, err
	}
	if !extend {
		extension = ""
	}
	next, err := p.result(ctx, a, v, extension)
	if err != nil {
		return a, false, fmt.Errorf("canonical address: %w", err)
	}
	return next, true, nil
}

// result reads what a table makes of an address.
func (p *Instance) result(ctx context.Context, a policy.Address, v, extension string) (policy.Address, error) {
	if strings.HasPrefix(v, "@") {
		return policy.Address{Local: a.Local, Domain: policy.CanonicalDomain(v[1:])}, nil
	}
	next, err := policy.ParseAddress(v)
	if err != nil {
		return a, err
	}
	if next.Domain == "" {
		if next.Domain, err = p.Origin(ctx); err != nil {
			return a, err
		}
	}
	next.Local += extension
	return next, nil
}

// find looks an address up as canonical(5) and virtual(5) do: whole, without its
// extension, by its local part where that is of this host, by its domain. extension is
// what the key that was found lacks of the address.
func (p *Instance) find(ctx context.Context, a policy.Address, tables []string, d policy.Delimiters) (v, extension string, found bool, err error) {
	origin, err := p.Origin(ctx)
	if err != nil {
		return "", "", false, err
	}
	local := a.Domain == origin
	if !local {
		class, err := NewOwnDomains(p).class(ctx, a.Domain)
		if err != nil {
			return "", "", false, err
		}
		local = class == "mydestination"
	}
	full := addressKeys(a)
	base, extended := d.Split(a.Local)
	type key struct {
		text    string
		matched bool // the extension is part of the key
	}
	var keys []key
	for _, k := range full {
		keys = append(keys, key{k, true})
	}
	if extended {
		for _, k := range addressKeys(policy.Address{Local: base, Domain: a.Domain}) {
			keys = append(keys, key{k, false})
		}
	}
	if local {
		keys = append(keys, key{strings.ToLower(a.Local), true})
		if extended {
			keys = append(keys, key{strings.ToLower(base), false})
		}
	}
	for _, s := range spellings(a.Domain) {
		keys = append(keys, key{"@" + s, true})
	}
	var all []string
	for _, k := range keys {
		all = append(all, k.text)
	}
	answers := make([]map[string]string, len(tables))
	for i, t := range tables {
		ask := all
		if isPattern(t) {
			ask = full
		}
		if answers[i], err = p.lookup(ctx, t, ask); err != nil {
			return "", "", false, err
		}
	}
	for _, k := range keys {
		for _, m := range answers {
			if v, ok := m[k.text]; ok {
				if extended && !k.matched {
					extension = strings.TrimPrefix(a.Local, base)
				}
				return v, extension, true, nil
			}
		}
	}
	return "", "", false, nil
}

// Aliased reports whether virtual_alias_maps replaces a recipient of another domain
// than our own (virtual(5)): cleanup(8) does that to every recipient.
func (p *Instance) Aliased(ctx context.Context, a policy.Address) (bool, error) {
	m, err := p.Params(ctx, "virtual_alias_maps", "recipient_delimiter")
	if err != nil {
		return false, err
	}
	full := addressKeys(a)
	keys := full
	if base, ok := policy.Delimiters(m["recipient_delimiter"]).Split(a.Local); ok {
		keys = append(slices.Clone(full), addressKeys(policy.Address{Local: base, Domain: a.Domain})...)
	}
	for _, d := range spellings(a.Domain) {
		keys = append(slices.Clone(keys), "@"+d)
	}
	for _, t := range splitList(m["virtual_alias_maps"]) {
		ask := keys
		if isPattern(t) {
			ask = full
		}
		found, err := p.lookup(ctx, t, ask)
		if err != nil {
			return false, fmt.Errorf("virtual_alias_maps: %w", err)
		}
		if len(found) > 0 {
			return true, nil
		}
	}
	return false, nil
}

// masquerade takes host names off a domain (masquerade_domains).
func masquerade(a policy.Address, domains, exceptions []string) policy.Address {
	for _, e := range exceptions {
		if strings.EqualFold(e, a.Local) {
			return a
		}
	}
	for _, d := range domains {
		d, not := strings.CutPrefix(d, "!")
		d = policy.CanonicalDomain(d)
		if a.Domain == d || strings.HasSuffix(a.Domain, "."+d) {
			if !not {
				a.Domain = d
			}
			return a
		}
	}
	return a
}

// Reload makes a running Postfix read its configuration anew.
func (p *Instance) Reload(ctx context.Context) error {
	_, errs, code, err := p.run(ctx, "", "postfix", p.Postfix, "reload")
	if err == nil && code != 0 {
		err = fmt.Errorf("postfix reload: %s", complaint(errs))
	}
	p.Forget()
	return err
}
