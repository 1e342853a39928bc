package mtasts

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// purgeEvery is how often the store drops what has expired.
const purgeEvery = 6 * time.Hour

// Run refreshes policies ahead of their expiry until ctx is done, and then ends all
// lookups. It may be called once.
func (c *Cache) Run(ctx context.Context) error {
	slots := make(chan struct{}, c.o.MaxBackground)
	var busy sync.WaitGroup
	defer busy.Wait()
	defer c.close()
	purge := time.NewTicker(purgeEvery)
	defer purge.Stop()
	c.purge(ctx)
	for {
		e, wait := c.next()
		if e != nil {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			busy.Go(func() {
				defer func() { <-slots }()
				c.background(ctx, e)
			})
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-c.wake:
		case <-purge.C:
			c.purge(ctx)
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		timer.Stop()
	}
}

// next takes the entry out of the plan that is due, or says how long to wait at
// most.
func (c *Cache) next() (*entry, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.plan) == 0 {
		return nil, time.Hour
	}
	e, now := c.plan[0], c.o.Now()
	if wait := e.due.Sub(now); wait > 0 {
		return nil, min(wait, time.Minute) // the clock may be set
	}
	c.plan.remove(e)
	return e, 0
}

// background refreshes one policy, or drops it where its time is over or nobody
// wants it.
func (c *Cache) background(ctx context.Context, e *entry) {
	c.mu.Lock()
	now := c.o.Now()
	if !e.inForce(now) {
		// Who asks next has it looked up.
		c.expire(e, now)
		c.mu.Unlock()
		return
	}
	if now.Sub(e.used) >= idle {
		c.schedule(e, e.kept.expires)
		c.mu.Unlock()
		return
	}
	f := c.fly(e)
	c.mu.Unlock()
	if f == nil {
		return
	}
	select {
	case <-f.done:
	case <-ctx.Done():
	}
}

func (c *Cache) purge(ctx context.Context) {
	if c.o.Store == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	if err := c.o.Store.DeletePolicies(ctx, c.o.Now()); err != nil && ctx.Err() == nil {
		c.o.Log.Warn("expired MTA-STS policies not deleted", "error", err)
	}
}

func (c *Cache) close() {
	c.mu.Lock()
	c.stopped = true
	c.mu.Unlock()
	c.stop()
	c.flights.Wait()
}

// plan is a heap of entries by the time when they are due.
type plan []*entry

func (p plan) Len() int           { return len(p) }
func (p plan) Less(i, j int) bool { return p[i].due.Before(p[j].due) }
func (p plan) Swap(i, j int) {
	p[i], p[j] = p[j], p[i]
	p[i].index, p[j].index = i, j
}

// Push implements [heap.Interface].
func (p *plan) Push(x any) {
	e := x.(*entry)
	e.index = len(*p)
	*p = append(*p, e)
}

// Pop implements [heap.Interface].
func (p *plan) Pop() any {
	last := len(*p) - 1
	e := (*p)[last]
	(*p)[last] = nil
	*p = (*p)[:last]
	e.index = -1
	return e
}

func (p *plan) set(e *entry, due time.Time) {
	e.due = due
	if e.index >= 0 {
		heap.Fix(p, e.index)
	} else {
		heap.Push(p, e)
	}
}

func (p *plan) remove(e *entry) {
	if e.index >= 0 {
		heap.Remove(p, e.index)
	}
}

// limiter lets a few log lines a minute pass.
type limiter struct {
	mu    sync.Mutex
	since time.Time
	n     int
	left  int // not let pass since the last one that was
}

const warningsAMinute = 20

func (l *limiter) allow(now time.Time) (left int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ago(now, l.since) >= time.Minute {
		l.since, l.n = now, 0
	}
	if l.n++; l.n > warningsAMinute {
		l.left++
		return 0, false
	}
	left, l.left = l.left, 0
	return left, true
}

// The outcomes of lookups.
const (
	outcomeFetched   = "fetched"
	outcomeUnchanged = "unchanged" // the same id, or an id whose policy could not be fetched a moment ago
	outcomeNone      = "none"
	outcomeDNS       = "dns-failed"
	outcomeFailed    = "fetch-failed"
)

type metrics struct {
	policies *prometheus.GaugeVec
	lookups  *prometheus.CounterVec
}

// newMetrics registers the metrics with reg, where it is not nil.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		policies: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "postseal_mta_sts_policies",
			Help: "MTA-STS policies in memory, by mode.",
		}, []string{"mode"}),
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postseal_mta_sts_lookups_total",
			Help: "Lookups of MTA-STS policies, by outcome: fetched, unchanged (the same id as before), none, dns-failed, fetch-failed.",
		}, []string{"outcome"}),
	}
	for _, mode := range []Mode{Enforce, Testing, None} {
		m.policies.WithLabelValues(string(mode))
	}
	for _, o := range []string{outcomeFetched, outcomeUnchanged, outcomeNone, outcomeDNS, outcomeFailed} {
		m.lookups.WithLabelValues(o)
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.policies, m.lookups} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
