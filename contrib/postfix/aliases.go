package postfix

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/postseal/postseal/policyd/policy"
)

// Bounds of [Instance.Aliases]: Postfix's virtual_alias_expansion_limit and
// virtual_alias_recursion_limit.
const (
	maxAliases    = 1000
	maxAliasDepth = 1000
)

// Aliases returns whom cleanup(8) makes of a recipient, by canonical(5) and virtual(5)
// tables: the recipient alone where they say nothing. It is for mail that does not
// come through cleanup before it is given to the splitter.
func (p *Instance) Aliases(ctx context.Context, a policy.Address) ([]policy.Address, error) {
	a, err := p.Canonical(ctx, a, false)
	if err != nil {
		return nil, err
	}
	m, err := p.Params(ctx, "virtual_alias_maps", "recipient_delimiter", "propagate_unmatched_extensions")
	if err != nil {
		return nil, err
	}
	tables, d := splitList(m["virtual_alias_maps"]), policy.Delimiters(m["recipient_delimiter"])
	if len(tables) == 0 {
		return []policy.Address{a}, nil
	}
	extend := slices.Contains(splitList(m["propagate_unmatched_extensions"]), "virtual")
	var all []policy.Address
	seen := map[policy.Address]bool{a.Folded(): true}
	for todo := []policy.Address{a}; len(todo) > 0; todo = todo[1:] {
		if len(seen) > maxAliasDepth || len(all) >= maxAliases {
			return nil, fmt.Errorf("virtual_alias_maps: more than %d addresses for one recipient", maxAliases)
		}
		v, extension, found, err := p.find(ctx, todo[0], tables, d)
		if err != nil {
			return nil, fmt.Errorf("virtual_alias_maps: %w", err)
		}
		if !found {
			all = append(all, todo[0])
			continue
		}
		if !extend {
			extension = ""
		}
		for _, text := range splitList(v) {
			next, err := p.result(ctx, todo[0], text, extension)
			if err != nil {
				return nil, fmt.Errorf("virtual_alias_maps: %w", err)
			}
			switch f := next.Folded(); {
			case f == todo[0].Folded(): // it stays itself, and is not looked up anew
				all = append(all, next)
			case !seen[f]:
				seen[f] = true
				todo = append(todo, next)
			}
		}
	}
	if len(all) == 0 {
		return nil, errors.New("virtual_alias_maps: they go in a circle")
	}
	return all, nil
}
