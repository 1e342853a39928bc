package probe

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"weak"

	"github.com/postseal/postseal/policyd/policy"
)

// evidences are those that several destinations may have in common, by what they say.
// They go when the last one that has them goes.
var evidences struct {
	sync.Mutex
	m map[string]weak.Pointer[evidence]
}

// shared returns ev, or the same evidence of another destination: most domains have
// their mail hosts in common with thousands of others. What can't be shared, since the
// hosts are below the destination itself, is not tried to be.
func shared(dest string, ev *evidence) *evidence {
	for i := range ev.facts {
		if host := ev.facts[i].host; host == "" || host == nexthopOf(dest) || strings.HasSuffix(host, "."+dest) {
			return ev
		}
	}
	key := ev.key()
	evidences.Lock()
	defer evidences.Unlock()
	if have := evidences.m[key].Value(); have != nil {
		return have
	}
	if evidences.m == nil {
		evidences.m = make(map[string]weak.Pointer[evidence])
	}
	evidences.m[key] = weak.Make(ev)
	runtime.AddCleanup(ev, forgetEvidence, key)
	return ev
}

func forgetEvidence(key string) {
	evidences.Lock()
	defer evidences.Unlock()
	if evidences.m[key].Value() == nil {
		delete(evidences.m, key)
	}
}

// key says all that ev says.
func (ev *evidence) key() string {
	var b strings.Builder
	p := &ev.published
	fmt.Fprint(&b, ev.settled, ev.state, ev.outcome, ev.doubt, uint8(p.DANE), uint8(p.STS), strings.Join(p.STSMatch, " "))
	for i := range ev.facts {
		f := &ev.facts[i]
		fmt.Fprintf(&b, "\x00%s %d %d %t %d %t %s", f.host, f.state, f.version, f.verified, f.dane, f.stranger, f.names)
	}
	return b.String()
}

// nexthopOf returns a destination without brackets and port.
func nexthopOf(dest string) string {
	if !strings.ContainsAny(dest, "[:") {
		return dest
	}
	d, err := parseDestination(dest)
	switch {
	case err != nil:
		return ""
	case d.addr.IsValid():
		return d.addr.String()
	}
	return d.name
}

// The facts of destinations without an MTA-STS policy, of which there are few.
var plainFacts = func() (all [policy.DANEFailed + 1][policy.STSFailed + 1]facts) {
	for d := range all {
		for s := range all[d] {
			all[d][s].published = policy.Published{DANE: policy.DANE(d), STS: policy.STS(s)}
		}
	}
	return all
}()

// newFacts returns facts, shared where they say nothing of a policy.
func newFacts(p policy.Published, sts *STSResult) *facts {
	if sts == nil && len(p.STSMatch) == 0 && int(p.DANE) < len(plainFacts) && int(p.STS) < len(plainFacts[0]) {
		return &plainFacts[p.DANE][p.STS]
	}
	return &facts{published: p, sts: sts}
}
