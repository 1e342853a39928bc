package probe

import (
	"context"
	"sync"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// maxReused bounds the memory of recent sessions.
const maxReused = 10_000

// hosts keeps the sessions polite: a bound over all, a bound for each address,
// and for those who accept a result that is not quite new, one session for
// all domains that share a mail host.
//
// Who looks now, because a mail waits, has slots of their own and does not queue
// behind the background.
type hosts struct {
	background, urgent chan struct{} // over all addresses
	perHost            int

	mu     sync.Mutex
	gates  map[target]*gate
	recent map[target]recent
}

// gate is the slots of one address, kept while somebody holds or wants one.
type gate struct {
	slots chan struct{}
	users int
}

type recent struct {
	at time.Time
	r  AddressResult
}

func newHosts(all, perHost int) *hosts {
	return &hosts{
		background: make(chan struct{}, all), urgent: make(chan struct{}, all), perHost: perHost,
		gates: make(map[target]*gate), recent: make(map[target]recent),
	}
}

// do runs a session for t when a slot is free, or returns the result of one that
// began at most reuse ago. It reports false where ctx ended first.
func (h *hosts) do(ctx context.Context, t target, reuse time.Duration, session func() AddressResult) (AddressResult, bool) {
	address := target{addr: t.addr, port: t.port}
	h.mu.Lock()
	g := h.gates[address]
	if g == nil {
		g = &gate{slots: make(chan struct{}, h.perHost)}
		h.gates[address] = g
	}
	g.users++
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if g.users--; g.users == 0 {
			delete(h.gates, address)
		}
	}()

	// The address first: who waits for a busy host holds no slot of the others.
	if !acquire(ctx, g.slots) {
		return AddressResult{}, false
	}
	defer func() { <-g.slots }()
	if r, ok := h.remembered(t, reuse); ok {
		return r, true
	}
	slots := h.urgent
	if reuse >= backgroundReuse {
		slots = h.background
	}
	if !acquire(ctx, slots) {
		return AddressResult{}, false
	}
	defer func() { <-slots }()
	start := time.Now()
	r := session()
	if r.State != policy.Unknown {
		h.remember(t, recent{start, r})
	}
	return r, true
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
	if reuse <= 0 {
		return AddressResult{}, false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	found, ok := h.recent[t]
	return found.r, ok && time.Since(found.at) <= reuse
}

func (h *hosts) remember(t target, r recent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.recent[t]; !ok && len(h.recent) >= maxReused {
		n := 0
		for old := range h.recent { // in random order: any sixteenth will do
			delete(h.recent, old)
			if n++; n == maxReused/16 {
				break
			}
		}
	}
	h.recent[t] = r
}
