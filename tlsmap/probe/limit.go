package probe

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// How long the session with a host counts for all domains that share the host,
// where the caller is content with that ([Prober.ProbeShared]): by the TTL of the
// host's addresses, in these bounds. What could not be reached is tried again sooner.
const (
	sharedLeast, sharedMost = 10 * time.Minute, 6 * time.Hour
	sharedUnreachable       = 5 * time.Minute
)

// byTTL is the reuse that accepts sessions as long as the TTL of the host's
// addresses lets them count.
const byTTL time.Duration = -1

// hosts keeps the sessions polite: a bound over all, a bound for each address,
// and for those who accept a result that is not quite new, one session for
// all domains that share a mail host.
//
// Who looks now, because a mail waits, has slots of their own and does not queue
// behind the background.
type hosts struct {
	background, urgent chan struct{} // over all addresses
	perHost            int
	most               int // sessions remembered

	mu     sync.Mutex
	gates  map[target]*gate // by address and port
	lines  map[target]*gate // one slot each: who shares sessions with one host
	recent map[target]*recent
}

// gate is the slots of one address, kept while somebody holds or wants one.
type gate struct {
	slots chan struct{}
	users int
}

type recent struct {
	at, until time.Time // begun; and what TTL makes of it
	uses      int
	r         AddressResult
}

func newHosts(all, perHost, most int) *hosts {
	return &hosts{
		background: make(chan struct{}, all), urgent: make(chan struct{}, all), perHost: perHost, most: most,
		gates: make(map[target]*gate), lines: make(map[target]*gate), recent: make(map[target]*recent),
	}
}

// enter waits for a slot of the gate of t, which leave gives back. It reports false
// where ctx ended first.
func (h *hosts) enter(ctx context.Context, gates map[target]*gate, t target, slots int) (leave func(), ok bool) {
	h.mu.Lock()
	g := gates[t]
	if g == nil {
		g = &gate{slots: make(chan struct{}, slots)}
		gates[t] = g
	}
	g.users++
	h.mu.Unlock()
	gone := func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if g.users--; g.users == 0 {
			delete(gates, t)
		}
	}
	if !acquire(ctx, g.slots) {
		gone()
		return nil, false
	}
	return func() { <-g.slots; gone() }, true
}

// do runs a session for t when a slot is free, or returns the result of one that
// began at most reuse ago, or with [byTTL], that still counts. ttl is that of
// the address. It reports false where ctx ended first.
func (h *hosts) do(ctx context.Context, t target, reuse, ttl time.Duration, session func() AddressResult) (AddressResult, bool) {
	if reuse != 0 {
		// Those who share stand in line: the first has the session, the others its result.
		leave, ok := h.enter(ctx, h.lines, t, 1)
		if !ok {
			return AddressResult{}, false
		}
		defer leave()
		if r, ok := h.remembered(t, reuse); ok {
			return r, true
		}
	}
	// The address first: who waits for a busy host holds no slot of the others.
	leave, ok := h.enter(ctx, h.gates, target{addr: t.addr, port: t.port}, h.perHost)
	if !ok {
		return AddressResult{}, false
	}
	defer leave()
	if r, ok := h.remembered(t, reuse); ok {
		return r, true
	}
	slots := h.urgent
	if reuse >= backgroundReuse || reuse == byTTL {
		slots = h.background
	}
	if !acquire(ctx, slots) {
		return AddressResult{}, false
	}
	defer func() { <-slots }()
	start := time.Now()
	r := session()
	if r.State == policy.Unknown {
		return r, true
	}
	life := min(max(ttl, sharedLeast), sharedMost)
	if r.State == policy.Unreachable {
		life = sharedUnreachable
	}
	h.remember(t, &recent{at: start, until: start.Add(life), r: r})
	if r.State == policy.Unreachable && strings.HasPrefix(r.Error, "connect: ") {
		h.remember(noConnection(t), &recent{at: start, until: start.Add(life), r: r})
	}
	return r, true
}

// noConnection is under what it is kept that an address takes no connection,
// whatever the name of the host.
func noConnection(t target) target {
	t.host = " "
	return t
}

func acquire(ctx context.Context, slots chan struct{}) bool {
	if ctx.Err() != nil {
		return false
	}
	select {
	case slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (h *hosts) remembered(t target, reuse time.Duration) (AddressResult, bool) {
	if reuse == 0 {
		return AddressResult{}, false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range [...]target{t, noConnection(t)} {
		found := h.recent[t]
		if found == nil {
			continue
		}
		now := time.Now()
		if reuse == byTTL && now.Before(found.until) || reuse > 0 && now.Sub(found.at) <= reuse {
			found.uses++
			return found.r, true
		}
	}
	return AddressResult{}, false
}

// remember keeps r. Where there is no room a sixteenth of the others goes: first what
// does not count any more or served nobody yet. The hosts that many domains share
// so outlive any number of those that are of one domain alone.
func (h *hosts) remember(t target, r *recent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.recent[t] == nil && len(h.recent) >= h.most {
		todo := max(1, h.most/16)
		for pass := 0; pass < 2 && todo > 0; pass++ {
			for old, o := range h.recent { // in random order
				if pass > 0 || o.uses == 0 || !r.at.Before(o.until) {
					delete(h.recent, old)
					if todo--; todo == 0 {
						break
					}
				}
				o.uses /= 2
			}
		}
	}
	h.recent[t] = r
}
