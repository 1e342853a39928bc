package postfix

import (
	"context"
	"fmt"
	"strings"

	"github.com/postseal/postseal/policyd/policy"
)

// ListOwnDomains returns the own domains by name, for those who must write them
// down beforehand. It fails on a table that can't be listed and on an exclusion
// (!pattern): a list that lacks a domain would be worse than none.
func (p *Instance) ListOwnDomains(ctx context.Context) ([]string, error) {
	m, err := p.Params(ctx, "mydestination", "virtual_mailbox_domains", "virtual_alias_domains")
	if err != nil {
		return nil, err
	}
	var own []string
	for _, list := range []string{"mydestination", "virtual_mailbox_domains", "virtual_alias_domains"} {
		if own, err = p.listDomains(ctx, own, splitList(m[list]), 0); err != nil {
			return nil, fmt.Errorf("%s: %w", list, err)
		}
	}
	return own, nil
}

func (p *Instance) listDomains(ctx context.Context, own, words []string, depth int) ([]string, error) {
	for _, w := range words {
		switch {
		case strings.HasPrefix(w, "!"):
			return nil, fmt.Errorf("%s can't be written as a list", w)
		case strings.HasPrefix(w, "/"):
			if depth > 8 {
				return nil, fmt.Errorf("%s: files name each other in a circle", w)
			}
			inner, err := readList(w)
			if err != nil {
				return nil, err
			}
			if own, err = p.listDomains(ctx, own, inner, depth+1); err != nil {
				return nil, err
			}
		case strings.Contains(w, ":") && !strings.HasPrefix(w, "["):
			entries, err := p.listTable(ctx, w)
			if err != nil {
				return nil, err
			}
			for _, e := range entries {
				if !strings.Contains(e[0], "@") { // virtual_alias_maps holds addresses too
					own = append(own, policy.CanonicalDomain(e[0]))
				}
			}
		default:
			own = append(own, policy.CanonicalDomain(w))
		}
	}
	return own, nil
}

// AdminTLSKeys returns the keys of the administrator's own smtp_tls_policy_maps,
// for those who must write down what is stronger there. It fails on a table that
// can't be listed.
func (p *Instance) AdminTLSKeys(ctx context.Context) ([]string, error) {
	list, err := p.Param(ctx, "smtp_tls_policy_maps")
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, table := range splitList(list) {
		if strings.HasPrefix(table, "socketmap:") || p.isOurFile(table) {
			continue // ours, or another server's
		}
		entries, err := p.listTable(ctx, table)
		if err != nil {
			return nil, fmt.Errorf("smtp_tls_policy_maps: %s: %w", table, err)
		}
		for _, e := range entries {
			keys = append(keys, e[0])
		}
	}
	return keys, nil
}
