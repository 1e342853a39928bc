package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"

	"github.com/miekg/dns"

	"github.com/postseal/postseal/contrib/postfix"
	"github.com/postseal/postseal/tlsmap/probe"
)

// checkResolvers finds resolvers whose word on DNSSEC is not to be believed: ours, for
// which DANE is off, and Postfix's own, which it believes all the same.
func checkResolvers(ctx context.Context, cfg *config, p *postfix.Instance, prober *probe.Prober) ([]postfix.Finding, error) {
	if cfg.str("dane") == "off" {
		return nil, nil
	}
	const local = "run a validating resolver on 127.0.0.1 (such as unbound) and name it alone in "
	var found []postfix.Finding
	add := func(id, where, fix, format string, args ...any) {
		found = append(found, postfix.Finding{Severity: postfix.Warn, ID: id, Where: where, What: fmt.Sprintf(format, args...), Fix: fix})
	}
	if server := prober.Distrusted(); server != "" {
		where := "/etc/resolv.conf"
		if len(cfg.strs("resolver")) > 0 {
			where = "resolver"
		}
		add("dane-resolver", where, local+where+"; or set trusted-resolver where the road to it is safe",
			"DANE is off: the resolver %s is neither on loopback nor trusted, and anybody on the road to it can forge what it says of DNSSEC", host(server))
	}
	files, err := p.ResolverFiles(ctx)
	if err != nil {
		return nil, err
	}
	servers := prober.Resolvers()
	trusts := probe.TrustResolvers(cfg.strs("trusted-resolver"))
	for _, file := range files {
		c, err := dns.ClientConfigFromFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the C library asks 127.0.0.1
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, s := range slices.Compact(c.Servers) {
			if trusts(net.JoinHostPort(s, c.Port)) {
				servers = append(servers, s)
			} else {
				add("dane-postfix-resolver", file, local+file+"; or set trusted-resolver where the road to it is safe",
					"Postfix asks the resolver %s, which is neither on loopback nor trusted: who is on the road to it can forge the TLSA records that Postfix verifies by", s)
			}
		}
	}
	seen := make(map[string]bool)
	for _, s := range servers {
		if seen[host(s)] {
			continue
		}
		seen[host(s)] = true
		r, err := probe.NewResolver([]string{s})
		if err != nil {
			return nil, err
		}
		if a, err := r.Lookup(ctx, ".", dns.TypeNS); err != nil {
			add("dane-silent", "resolver "+host(s), "", "the resolver does not answer: %v", err)
		} else if !a.Authentic {
			add("dane-validation", "resolver "+host(s), "switch DNSSEC validation on there, or ask one that validates",
				"the resolver does not vouch for the root zone: no TLSA record counts, and destinations with DANE are treated as those without")
		}
	}
	return found, nil
}

func host(server string) string {
	if h, _, err := net.SplitHostPort(server); err == nil {
		return h
	}
	return server
}
