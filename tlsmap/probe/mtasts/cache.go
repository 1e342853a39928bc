package mtasts

import (
	"cmp"
	"container/list"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/probe"
)

// How long what was found counts. The record of a domain that is in use is looked
// up about as often as its TTL says; a new id leads to a fetch at once.
const (
	recheckLeast, recheckMost = time.Minute, time.Hour // of records and their absence, by TTL

	fetchEvery  = 24 * time.Hour      // a policy is fetched anew, whatever its id (section 5.1); at half of max_age, where that is less
	fetchRetry  = 5 * time.Minute     // after a fetch that failed, for the same id (section 3.3); doubled with each
	lookupRetry = time.Minute         // after DNS failed; doubled with each
	retryMost   = time.Hour           // of both
	urgeEvery   = time.Hour           // between fetches of one id because the MX hosts do not match
	idle        = 30 * 24 * time.Hour // a policy nobody asked for is left to expire

	flightTime    = fetchTime + 30*time.Second
	spreadAtStart = 10 * time.Minute
)

// Source finds records and policies; see [Fetcher].
type Source interface {
	Record(ctx context.Context, domain string) (id string, ttl time.Duration, err error)
	Policy(ctx context.Context, domain string) (p *Policy, text []byte, err error)
}

// Options bound a Cache. The zero value of each but Source has a default.
type Options struct {
	Source Source
	Store  Store // default: none, policies are lost at a restart

	MaxEntries    int // domains remembered, those without a policy too; default 200,000
	MaxBytes      int // of mx patterns in memory; default 64 MiB
	MaxKept       int // policies in the store, from where on those that demand nothing are not added; default 200,000
	MaxBackground int // refreshes at a time ahead of expiry; default 16

	// Fresh has Policy fetch a kept policy anew before it answers, once: for a person
	// who wants to know how things stand.
	Fresh bool

	Log        *slog.Logger          // default: none
	Registerer prometheus.Registerer // default: no metrics
	Now        func() time.Time      // default time.Now
}

// Cache knows the policies of domains. It implements [probe.STSSource].
type Cache struct {
	o       Options
	metrics *metrics
	warned  limiter
	full    limiter // of the store
	rows    rows

	base    context.Context // of every flight
	stop    context.CancelFunc
	flights sync.WaitGroup
	wake    chan struct{} // the plan has changed

	mu      sync.Mutex
	stopped bool
	entries map[string]*entry
	recent  *list.List // of *entry, the one last asked for in front
	plan    plan
	bytes   int  // of mx patterns
	spilled bool // the store may have policies that memory has not
}

var _ probe.STSSource = (*Cache)(nil)

// entry is one domain.
type entry struct {
	domain string
	kept   *kept // nil: no policy
	state  policy.STS
	err    string // why there is no policy, or why it could not be refreshed
	// failure is err of a fetch that failed, as a result type of RFC 8460.
	failure string

	looked  time.Time // when the record was last looked up; zero: never
	recheck time.Time // when it should be next
	used    time.Time

	failed   time.Time // the last fetch that failed
	failedID string
	fails    int // of anything, in a row

	urged   time.Time // when the policy was last fetched because somebody urged it
	urge    bool      // somebody does
	flight  *flight
	element *list.Element
	due     time.Time // of the plan
	index   int       // in the plan; -1: not there
}

// kept is a policy in force. It is immutable.
type kept struct {
	id               string
	policy           *Policy
	fetched, expires time.Time
	due              time.Time // to be fetched anew
}

func newKept(id string, p *Policy, fetched, expires time.Time) *kept {
	period := min(fetchEvery, max(expires.Sub(fetched)/2, fetchRetry))
	// Not all that were fetched together are due together.
	return &kept{id: id, policy: p, fetched: fetched, expires: expires, due: fetched.Add(period - rand.N(period/8))}
}

// flight is one lookup, shared by all who wait for it.
type flight struct {
	done chan struct{} // closed at the end
	r    *probe.STSResult
}

// NewCache makes a cache. It fails where the metrics are registered already. Call
// [Cache.Load] and [Cache.Run] to remember and refresh; it answers without.
func NewCache(o Options) (*Cache, error) {
	o.MaxEntries = cmp.Or(o.MaxEntries, 200_000)
	o.MaxBytes = cmp.Or(o.MaxBytes, 64<<20)
	o.MaxKept = cmp.Or(o.MaxKept, 200_000)
	o.MaxBackground = cmp.Or(o.MaxBackground, 16)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register the metrics of MTA-STS: %w", err)
	}
	c := &Cache{o: o, metrics: m, entries: make(map[string]*entry), recent: list.New(), wake: make(chan struct{}, 1)}
	c.base, c.stop = context.WithCancel(context.Background())
	return c, nil
}

// Policy implements [probe.STSSource]. What is known is returned at once; where it
// should be looked at again, that goes on beside.
func (c *Cache) Policy(ctx context.Context, domain string) *probe.STSResult {
	return c.ask(ctx, domain, false)
}

// Refresh implements [probe.STSSource]. The record is looked up at most once a
// minute, and one policy fetched at most once an hour.
func (c *Cache) Refresh(ctx context.Context, domain string) *probe.STSResult {
	return c.ask(ctx, domain, true)
}

// Kept returns the policy of a domain that is in force, without any lookup; where
// there is none, a result with [policy.STSUnknown].
func (c *Cache) Kept(domain string) *probe.STSResult {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[policy.CanonicalDomain(domain)]; e != nil {
		if e.inForce(c.o.Now()) {
			return e.result()
		}
	}
	return &probe.STSResult{State: policy.STSUnknown}
}

func (c *Cache) ask(ctx context.Context, domain string, urge bool) *probe.STSResult {
	domain = policy.CanonicalDomain(domain)
	c.mu.Lock()
	now := c.o.Now()
	e := c.entry(domain, now)
	e.used = now
	inForce := e.inForce(now)
	fresh := now.Before(e.recheck) && !e.looked.After(now) // after it: the clock was set back
	enough := inForce || fresh && e.kept == nil && e.state != policy.STSUnknown && e.flight == nil
	switch {
	case urge:
		// A fetch may help, or the record may have changed.
		if urgent := ago(now, e.urged) >= urgeEvery; urgent || ago(now, e.looked) >= recheckLeast {
			e.urge = e.urge || urgent
			enough = false
		}
	case c.o.Fresh && e.looked.IsZero():
		e.urge, enough = true, false
	case inForce && !fresh:
		c.fly(e)
	}
	if enough {
		r := e.result()
		c.mu.Unlock()
		return r
	}
	f := c.fly(e)
	c.mu.Unlock()
	if f == nil {
		return c.orUnknown(e, "stopped")
	}
	select {
	case <-f.done:
		return f.r
	case <-ctx.Done():
		return c.orUnknown(e, "still being looked up")
	}
}

// orUnknown is the answer for who can't wait.
func (c *Cache) orUnknown(e *entry, why string) *probe.STSResult {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.inForce(c.o.Now()) {
		return e.result()
	}
	return &probe.STSResult{State: policy.STSUnknown, Error: why}
}

// ago is how long at is past; what lies ahead, since the clock was set back, is
// long past, as is the zero time.
func ago(now, at time.Time) time.Duration {
	if at.IsZero() || at.After(now) {
		return 1<<63 - 1
	}
	return now.Sub(at)
}

// inForce reports whether the entry has a policy that has not expired.
func (e *entry) inForce(now time.Time) bool { return e.kept != nil && now.Before(e.kept.expires) }

// result says what is known; it does not look at the clock.
func (e *entry) result() *probe.STSResult {
	k := e.kept
	if k == nil {
		r := &probe.STSResult{State: e.state, Error: e.err}
		if e.state == policy.STSFailed {
			r.Failure = e.failure
		}
		return r
	}
	return &probe.STSResult{
		State: states[k.policy.Mode], ID: k.id, Mode: string(k.policy.Mode), MX: k.policy.MX,
		MaxAge: int64(k.policy.MaxAge / time.Second), Fetched: k.fetched.UTC(), Expires: k.expires.UTC(), Stale: e.err,
	}
}

var states = map[Mode]policy.STS{Enforce: policy.STSEnforce, Testing: policy.STSTesting, None: policy.STSNone}

// fly starts a lookup for an entry, unless one is going on; nil: we have stopped.
// c.mu is held.
func (c *Cache) fly(e *entry) *flight {
	if e.flight != nil {
		return e.flight
	}
	if c.stopped {
		return nil
	}
	f := &flight{done: make(chan struct{})}
	e.flight = f
	c.flights.Go(func() {
		ctx, cancel := context.WithTimeout(c.base, flightTime)
		defer cancel()
		c.refresh(ctx, e)
		c.mu.Lock()
		switch {
		case f.r != nil: // just fetched
		case c.base.Err() != nil && !e.inForce(c.o.Now()):
			f.r = &probe.STSResult{State: policy.STSUnknown, Error: "stopped"}
		default:
			f.r = e.result()
		}
		e.flight, e.urge = nil, false
		c.mu.Unlock()
		close(f.done)
	})
	return f
}

// entry returns the entry of a domain, made if need be. c.mu is held.
func (c *Cache) entry(domain string, now time.Time) *entry {
	if e := c.entries[domain]; e != nil {
		c.recent.MoveToFront(e.element)
		return e
	}
	e := &entry{domain: domain, used: now, index: -1}
	e.element = c.recent.PushFront(e)
	c.entries[domain] = e
	c.shrink()
	return e
}

// shrink keeps to the bounds. Of those not asked for longest it takes what has no
// policy first; a policy that must go stays in the store. c.mu is held.
func (c *Cache) shrink() {
	for c.recent.Len() > c.o.MaxEntries || c.bytes > c.o.MaxBytes {
		var victim *entry
		n := 0
		for at := c.recent.Back(); at != nil && at != c.recent.Front() && n < 64; at = at.Prev() {
			e := at.Value.(*entry)
			if e.flight != nil {
				continue
			}
			if victim == nil {
				victim = e
			}
			if e.kept == nil && c.bytes <= c.o.MaxBytes {
				victim = e
				break
			}
			n++
		}
		if victim == nil {
			return
		}
		if victim.kept != nil {
			c.spilled = true
			c.keep(victim, nil)
		}
		c.recent.Remove(victim.element)
		delete(c.entries, victim.domain)
	}
}

// keep puts k in the place of what an entry has. c.mu is held.
func (c *Cache) keep(e *entry, k *kept) {
	if old := e.kept; old != nil {
		c.bytes -= size(old)
		c.metrics.policies.WithLabelValues(string(old.policy.Mode)).Dec()
	}
	if e.kept = k; k == nil {
		c.plan.remove(e)
		return
	}
	c.bytes += size(k)
	c.metrics.policies.WithLabelValues(string(k.policy.Mode)).Inc()
}

func size(k *kept) int {
	n := 0
	for _, mx := range k.policy.MX {
		n += len(mx) + 16
	}
	return n
}

// schedule has the entry refreshed at a time, or dropped at its expiry, whichever
// comes first. c.mu is held.
func (c *Cache) schedule(e *entry, at time.Time) {
	if e.kept == nil {
		return
	}
	if at.After(e.kept.expires) {
		at = e.kept.expires
	}
	c.plan.set(e, at)
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Load remembers what the store has. What is due is refreshed within minutes,
// spread out.
func (c *Cache) Load(ctx context.Context) error {
	if c.o.Store == nil {
		return nil
	}
	now := c.o.Now()
	err := c.o.Store.LoadPolicies(ctx, func(r Record) error {
		k, err := r.kept(now)
		if err != nil {
			c.o.Log.Warn("MTA-STS policy left out", "domain", r.Domain, "error", err)
			return nil
		}
		if !now.Before(k.expires) || r.Domain != policy.CanonicalDomain(r.Domain) {
			return nil
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.entries) >= c.o.MaxEntries || c.bytes+size(k) > c.o.MaxBytes {
			c.spilled = true
			return nil
		}
		e := c.entry(r.Domain, now)
		if e.kept != nil || e.flight != nil {
			return nil // known better already
		}
		c.keep(e, k)
		e.err = r.Error
		at := k.due
		if soon := now.Add(rand.N(spreadAtStart)); at.Before(soon) {
			at = soon
		}
		c.schedule(e, at)
		return nil
	})
	if err != nil {
		return fmt.Errorf("load MTA-STS policies: %w", err)
	}
	return nil
}

// kept reads a record. One from the future, by a clock that has been set back since,
// counts from now, and so does not outlive its max_age.
func (r Record) kept(now time.Time) (*kept, error) {
	p, err := ParsePolicy(r.Text)
	if err != nil {
		return nil, err
	}
	fetched, expires := r.Fetched, r.Expires
	if fetched.After(now) {
		fetched = now
	}
	if most := fetched.Add(p.MaxAge); expires.After(most) {
		expires = most
	}
	return newKept(r.ID, p, fetched, expires), nil
}
