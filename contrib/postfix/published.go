package postfix

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/postseal/postseal/policyd/policy"
)

// yielding are the levels of an entry that what a destination publishes goes beyond: by
// Postfix alone such an entry was the last word.
var yielding = []string{"none", "may", "encrypt"}

// YieldingTLS returns the entries of the administrator's own smtp_tls_policy_maps, key and
// level, that do not keep Postseal from verifying a domain by what it publishes. They
// may have been made for a partner whose TLS is broken. Tables that can't be listed (such as
// pcre, or one in a database) are left out, as are entries for a [host]: there is no
// override for it.
func (p *Instance) YieldingTLS(ctx context.Context) ([][2]string, error) {
	list, err := p.Param(ctx, "smtp_tls_policy_maps")
	if err != nil {
		return nil, err
	}
	var all [][2]string
	for _, table := range p.theirMaps(list) {
		entries, err := p.listTable(ctx, table)
		if err != nil {
			continue // has no list, or is checked elsewhere
		}
		for _, e := range entries {
			level, _, _ := strings.Cut(strings.NewReplacer("\t", " ", ",", " ").Replace(e[1]), " ")
			level = strings.ToLower(level)
			if !strings.ContainsAny(e[0], "[]:*") && slices.Contains(yielding, level) {
				all = append(all, [2]string{strings.ToLower(e[0]), level})
			}
		}
	}
	return all, nil
}

// overriding is the command that lets the mail of an entry's domain pass by what it publishes.
func overriding(entry [2]string) string {
	level := ""
	if entry[1] == "encrypt" {
		level = " --level encrypt"
	}
	return "postseal domain add " + entry[0] + " --require none" + level + " --override --until DATE --note REASON"
}

// few names some of the entries.
func few(entries [][2]string) string {
	const most = 5
	var names []string
	for _, e := range entries[:min(len(entries), most)] {
		names = append(names, e[0]+" "+e[1])
	}
	s := strings.Join(names, ", ")
	if n := len(entries) - most; n > 0 {
		s += fmt.Sprintf(" and %d more", n)
	}
	return s
}

const yields = "Postseal verifies such a domain nonetheless where it publishes DANE or MTA-STS (enforce), and mail waits where its TLS does not hold that"

// checkYielding finds entries of the administrator's own table that no override stands
// beside.
func (c *checker) checkYielding() {
	if !c.DANE && !c.STS {
		return
	}
	entries, err := c.p.YieldingTLS(c.ctx)
	if err != nil {
		c.err = err
		return
	}
	entries = slices.DeleteFunc(entries, func(e [2]string) bool { return c.overridden(e[0]) })
	if len(entries) > 0 {
		c.add(Warn, "own-entry", inMain("smtp_tls_policy_maps"), "if an entry is for a partner whose TLS is broken: "+overriding(entries[0]),
			"entries of your own: %s. %s", few(entries), yields)
	}
}

func (c *checker) overridden(pattern string) bool {
	if c.Rules == nil {
		return false
	}
	r := c.Rules.Get(policy.ByRecipient, pattern)
	return !r.None() && r.Override && r.Active(c.p.now())
}
