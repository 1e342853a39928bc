package postfix

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/net/idna"

	"github.com/postseal/postseal/policyd/policy"
)

// Routes knows by which road a Postfix would send mail without Postseal: by the
// administrator's transport_maps, relay_transport, default_transport and relayhost, as
// trivial-rewrite resolves them (transport(5)). What depends on the sender
// (sender_dependent_relayhost_maps, the administrator's
// sender_dependent_default_transport_maps) is not followed. It implements policy.Router.
type Routes struct{ p *Instance }

// NewRoutes returns the roads of p.
func NewRoutes(p *Instance) *Routes { return &Routes{p} }

// Route returns the road to a recipient of another domain than our own. A table that
// cannot be read is an error.
func (r *Routes) Route(ctx context.Context, a policy.Address) (policy.Route, error) {
	channel, nexthop, err := r.resolve(ctx, a)
	if err != nil {
		return policy.Route{}, err
	}
	return r.judge(ctx, a, channel, nexthop)
}

// judge says whether mandatory TLS can take the road.
func (r *Routes) judge(ctx context.Context, a policy.Address, channel, nexthop string) (policy.Route, error) {
	services, err := r.p.Services(ctx)
	if err != nil {
		return policy.Route{}, err
	}
	i := slices.IndexFunc(services, func(s Service) bool { return s.Name == channel && s.Type == "unix" })
	switch {
	case i < 0:
		return policy.Route{Blocked: fmt.Sprintf("the route of %s goes to transport %s, which is not in master.cf", a.Domain, channel)}, nil
	case services[i].Command != "smtp":
		return policy.Route{Blocked: fmt.Sprintf("the route of %s goes to transport %s (%s), which is not SMTP: TLS can't be demanded there", a.Domain, channel, services[i].Command)}, nil
	}
	if policy.CanonicalDomain(nexthop) == a.Domain {
		return policy.Route{}, nil
	}
	return policy.Route{Nexthop: strings.Join(splitList(nexthop), ",")}, nil
}

// resolve returns transport and next-hop as trivial-rewrite's resolver would.
func (r *Routes) resolve(ctx context.Context, a policy.Address) (channel, nexthop string, err error) {
	m, err := r.p.Params(ctx, "transport_maps", "relayhost", "default_transport", "relay_transport",
		"relay_domains", "parent_domain_matches_subdomains", "recipient_delimiter")
	if err != nil {
		return "", "", err
	}
	parents := splitList(m["parent_domain_matches_subdomains"])
	relayed, err := r.p.match(ctx, m["relay_domains"], a.Domain, true, slices.Contains(parents, "relay_domains"))
	if err != nil {
		return "", "", fmt.Errorf("relay_domains: %w", err)
	}
	channel = m["default_transport"]
	if relayed {
		channel = m["relay_transport"]
	}
	nexthop = a.Domain
	if m["relayhost"] != "" {
		nexthop = m["relayhost"]
	}
	channel, hop, _ := strings.Cut(channel, ":")
	if hop != "" {
		nexthop = hop
	}
	value, found, err := r.entry(ctx, a, r.p.theirMaps(m["transport_maps"]), m["recipient_delimiter"], slices.Contains(parents, "transport_maps"))
	if err != nil || !found {
		return channel, nexthop, err
	}
	// transport(5), "RESULT FORMAT".
	t, hop, _ := strings.Cut(strings.TrimSpace(value), ":")
	if t != "" {
		channel, nexthop = t, a.Domain
	}
	if hop != "" {
		nexthop = hop
	}
	return channel, nexthop, nil
}

// entry returns the first entry for a recipient: for each key all tables, from the
// whole address to *.
func (r *Routes) entry(ctx context.Context, a policy.Address, tables []string, delimiters string, bareParents bool) (string, bool, error) {
	if len(tables) == 0 || a.IsNull() {
		return "", false, nil
	}
	full := addressKeys(a)
	var partial []string
	if base, ok := policy.Delimiters(delimiters).Split(a.Local); ok {
		partial = append(partial, addressKeys(policy.Address{Local: base, Domain: a.Domain})...)
	}
	partial = append(partial, domainKeys(a.Domain, bareParents)...)
	whole := append(slices.Clone(full), "*")
	all := append(append(slices.Clone(full), partial...), "*")
	answers := make([]map[string]string, len(tables))
	for i, t := range tables {
		keys := all
		if isPattern(t) {
			keys = whole
		}
		m, err := r.p.lookup(ctx, t, keys)
		if err != nil {
			return "", false, err
		}
		answers[i] = m
	}
	for _, k := range all {
		for _, m := range answers {
			if v, ok := m[k]; ok {
				return v, true, nil
			}
		}
	}
	return "", false, nil
}

// theirMaps returns a list of tables without Postseal's own, be they asked for over a
// socket or written as files: what we once answered is no wish of the administrator's.
func (p *Instance) theirMaps(list string) []string {
	return slices.DeleteFunc(splitList(list), func(m string) bool {
		return strings.HasPrefix(m, "socketmap:") && isOurMap(m) || p.isOurFile(m)
	})
}

// isOurFile reports whether a table is one of the map files below MapDir.
func (p *Instance) isOurFile(table string) bool {
	_, path, ok := strings.Cut(bare(table), ":")
	return ok && p.MapDir != "" && filepath.Dir(path) == filepath.Clean(p.MapDir) && isOurMap(":"+filepath.Base(path))
}

// addressKeys returns the forms in which a table may have an address: quoted and
// not, its domain as A-labels and as U-labels, folded.
func addressKeys(a policy.Address) []string {
	a = a.Folded()
	var keys []string
	for _, d := range spellings(a.Domain) {
		for _, local := range []string{policy.Address{Local: a.Local}.String(), a.Local} {
			k := local
			if d != "" {
				k += "@" + d
			}
			if k != "" && !slices.Contains(keys, k) && !strings.ContainsAny(k, "\n\r") {
				keys = append(keys, k)
			}
		}
	}
	return keys
}

func spellings(domain string) []string {
	if u, err := idna.ToUnicode(domain); err == nil && u != domain {
		return []string{domain, u}
	}
	return []string{domain}
}

// domainKeys returns the domain and its parents, nearest first. bare parents have
// no dot in front.
func domainKeys(domain string, bare bool) []string {
	var keys []string
	for _, d := range spellings(domain) {
		if d == "" {
			continue
		}
		keys = append(keys, d)
		for rest := d; !strings.HasPrefix(d, "["); {
			_, after, ok := strings.Cut(rest, ".")
			if !ok || after == "" {
				break
			}
			rest = after
			if bare {
				keys = append(keys, rest)
			} else {
				keys = append(keys, "."+rest)
			}
		}
	}
	return keys
}
