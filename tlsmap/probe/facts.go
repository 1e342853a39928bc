package probe

import (
	"context"
	"runtime/debug"
	"slices"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// How long what a destination publishes counts, by the TTL of its records in
// these bounds. Postfix looks TLSA records up by itself, at each delivery; all
// that has to hold is that there are some.
const (
	factsLeast, factsMost = time.Minute, time.Hour
	factsDoubt            = 10 * time.Second // where something failed: asked again soon
)

// facts is what a destination publishes, as of the last lookup. It is immutable, and
// may be shared by many. Up to when it counts is in the entry.
type facts struct {
	published policy.Published
	sts       *STSResult // where there is a policy, or may be one

	dest string // of an entry that has no room for its name
	none bool   // nobody has looked: dest is all there is
}

// told returns the facts; nil: nobody has looked.
func (e *entry) told() *facts {
	if f := e.facts.Load(); f != nil && !f.none {
		return f
	}
	return nil
}

// tell sets the facts.
func (e *entry) tell(f *facts) {
	if e.size == longName {
		named := *f
		named.dest = e.dest()
		f = &named
	}
	e.facts.Store(f)
}

// Published returns what a destination publishes of how its TLS is to be
// verified: from memory, or else after lookups, for which it waits until ctx is done or
// [ManagerOptions.FactsWait] is over.
// What failed meanwhile leaves what was known before, as long as that promised more.
// What is not known by then is [policy.DANEUnknown] or [policy.STSUnknown].
func (m *Manager) Published(ctx context.Context, dest string) policy.Published {
	dest = Key(dest)
	now := m.o.Now()
	e := m.asked(dest, now)
	until := stamp(e.until.Load()) // before the facts: never longer than theirs
	f := e.told()
	if f != nil && now.Before(until.time()) && until.time().Sub(now) <= factsMost {
		return f.published // and the clock was not set back
	}
	got := m.discovering.DoChan(dest, func() (any, error) {
		defer func() { // foreign input must not end the program: nothing is known then
			if fault := recover(); fault != nil {
				m.o.Log.Error("lookup of what a destination publishes failed: please report this", "dest", dest, "fault", fault, "stack", string(debug.Stack()))
			}
		}()
		ctx, cancel := context.WithTimeout(m.base, m.o.MaxLook)
		defer cancel()
		r := m.discover(ctx, dest)
		m.keepFacts(e, r)
		return nil, nil
	})
	ctx, cancel := context.WithTimeout(ctx, m.o.FactsWait)
	defer cancel()
	select {
	case <-got:
	case <-ctx.Done():
	}
	if f = e.told(); f == nil {
		return policy.Published{}
	}
	return f.published
}

// STS returns what the last lookup found of the MTA-STS policy of a destination, nil
// where there is none or nobody has looked. It never waits.
func (m *Manager) STS(dest string) *STSResult {
	dest = Key(dest)
	e := m.mem.get(dest)
	if m.loading.Load() {
		e = m.asked(dest, m.o.Now())
	}
	if e == nil {
		return nil
	}
	if f := e.told(); f != nil {
		return f.sts
	}
	return nil
}

func noteworthy(r *STSResult) *STSResult {
	if r != nil && (r.State == policy.STSEnforce || r.State == policy.STSTesting || r.State == policy.STSFailed) {
		return r
	}
	return nil
}

// keepFacts remembers what r says of what the destination publishes.
func (m *Manager) keepFacts(e *entry, r *Result) {
	p := r.published()
	old := e.told()
	life := min(max(time.Duration(r.TTL)*time.Second, factsLeast), factsMost)
	if p.DANE == policy.DANEUnknown || p.DANE == policy.DANEFailed || p.STS == policy.STSUnknown || p.STS == policy.STSFailed {
		life = factsDoubt
	}
	if r.STS != nil && !r.STS.Expires.IsZero() {
		life = min(life, max(r.STS.Expires.Sub(m.o.Now()), factsDoubt))
	}
	if old != nil && p.DANE == policy.DANEUnknown {
		p.DANE = old.published.DANE // DNS failed: never to less than before
	}
	if old != nil && p.STS == policy.STSUnknown {
		// A look that began before the policy was there may end after it.
		p.STS, p.STSMatch = old.published.STS, old.published.STSMatch
	}
	e.keepFacts(newFacts(p, noteworthy(r.STS)), m.o.Now().Add(life))
	m.review(e, p)
}

// keepFacts sets the facts before their time, so that the time of new ones is never
// taken for that of old ones.
func (e *entry) keepFacts(f *facts, until time.Time) {
	e.tell(f)
	e.until.Store(uint32(stampOf(until)))
}

// restoreFacts remembers what the last look before a restart found of what a destination
// publishes: that it had TLSA records for as long as nobody could look again, and all of
// it until it is stale, unless something was not known, or was known under other settings.
// MTA-STS policies are kept by their source.
func (m *Manager) restoreFacts(e *entry, r *Result) {
	if r == nil {
		return
	}
	if r.DANE == policy.DANEFull || r.DANE == policy.DANEPartial || r.DANE == policy.DANEUnusable {
		e.tell(newFacts(policy.Published{DANE: r.DANE}, nil))
	}
	if r.STS == nil || r.DANE == policy.DANEUnknown || r.DANE == policy.DANEFailed || r.STS.State == policy.STSUnknown || r.STS.State == policy.STSFailed {
		return
	}
	if (r.DANE == policy.DANEOff) != m.daneOff || (r.STS.State == policy.STSOff) != m.stsOff {
		return
	}
	life := min(max(time.Duration(r.TTL)*time.Second, factsLeast), factsMost)
	e.keepFacts(newFacts(r.published(), noteworthy(r.STS)), r.Checked.Add(life))
}

// review has a destination looked at anew that publishes something else than it did at
// the last look: the posture was judged by that.
func (m *Manager) review(e *entry, p policy.Published) {
	doubtful := p.DANE == policy.DANEUnknown || p.DANE == policy.DANEFailed || p.STS == policy.STSUnknown || p.STS == policy.STSFailed
	for {
		k := e.known.Load()
		if k.checked == 0 || doubtful || samePublished(k.ev.published, p) || !m.o.Now().Before(k.next.time()) {
			return
		}
		soon := *k
		soon.next = stampOf(m.o.Now())
		if e.known.CompareAndSwap(k, &soon) {
			m.enqueue(e)
			return
		}
	}
}

func samePublished(a, b policy.Published) bool {
	return a.DANE == b.DANE && a.STS == b.STS && slices.Equal(a.STSMatch, b.STSMatch)
}
