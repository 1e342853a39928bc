package tlsrpt

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/probe"
)

// The bounds of what is counted. Beyond them the kinds of a domain and day are
// summed up by policy type and result type alone, which are a few dozen.
const (
	maxKinds   = 100    // of a domain and day
	maxPending = 50_000 // kinds in memory
)

// Counter counts sessions. Its fields are set before its first use.
type Counter struct {
	Store      Store
	Now        func() time.Time      // nil: time.Now
	Log        *slog.Logger          // nil: none
	Registerer prometheus.Registerer // nil: no metrics
	// Allow reports whether a report may speak of an address; nil: [Public]. Who publishes a
	// domain gets its reports, and may have it lead into our own network.
	Allow func(netip.Addr) bool

	once     sync.Once
	sessions *prometheus.CounterVec

	mu      sync.Mutex
	pending map[kind]int64
	flush   sync.Mutex // one at a time
}

// kind is a Count without its number.
type kind struct{ day, domain, policy, outcome string }

func (c *Counter) init() {
	c.once.Do(func() {
		c.pending = make(map[kind]int64)
		if c.Now == nil {
			c.Now = time.Now
		}
		if c.Log == nil {
			c.Log = slog.New(slog.DiscardHandler)
		}
		c.sessions = prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postseal_tlsrpt_sessions_total", Help: "Sessions counted for TLS reports, by result: success, or a result type of RFC 8460.",
		}, []string{"result"})
		c.sessions.WithLabelValues("success") // there before the first one
		if c.Registerer != nil {
			c.Registerer.MustRegister(c.sessions)
		}
	})
}

// Looked counts the sessions of a look; for [probe.Options].
func (c *Counter) Looked(r *probe.Result, had []probe.Session) {
	if r.Domain == "" || r.Dest != r.Domain {
		return // [HOST] or with a port: no policy domain
	}
	for i := range r.MX {
		// Where the address cannot be looked up either, DNS is down and not DANE.
		if mx := &r.MX[i]; mx.TLSA != nil && mx.TLSA.State == policy.DANEFailed && !mx.DNSFailed {
			c.Add(applied(r, mx), &Failure{Type: DNSSECInvalid, MX: mx.Host, Reason: c.reason(mx.TLSA.Error)})
		}
	}
	for _, s := range had {
		if s.MX.TLSA != nil && s.MX.TLSA.State == policy.DANEFailed {
			continue // counted above; mail does not go there
		}
		if !c.allows(s.Address.Addr) {
			continue
		}
		p := applied(r, s.MX)
		if f, ok := outcome(r, s, p); ok {
			c.Add(p, f)
		}
	}
}

// STSFailed counts a failure to get the MTA-STS policy of a domain that says it
// has one: sts-policy-fetch-error, sts-policy-invalid or sts-webpki-invalid.
func (c *Counter) STSFailed(domain string, t ResultType, why string) {
	c.Add(Policy{Type: STS, Domain: domain}, &Failure{Type: t, Reason: c.reason(why)})
}

func (c *Counter) allows(a netip.Addr) bool {
	if c.Allow != nil {
		return c.Allow(a)
	}
	return Public(a)
}

// reason returns why as a report may say it: nothing where it names an address of our
// own network, since what became of a connection there is nobody's business.
func (c *Counter) reason(why string) string {
	words := strings.FieldsFunc(why, func(r rune) bool {
		return r != '.' && r != ':' && (r < '0' || r > '9') && (r < 'a' || r > 'f') && (r < 'A' || r > 'F')
	})
	for _, w := range words {
		w = strings.TrimRight(w, ":.")
		a, err := netip.ParseAddr(w)
		if err != nil {
			ap, err := netip.ParseAddrPort(w)
			if err != nil {
				continue
			}
			a = ap.Addr()
		}
		if !c.allows(a) {
			return ""
		}
	}
	return printable(why)
}

// Add counts a session, of now; nil is a success. It only touches memory.
func (c *Counter) Add(p Policy, f *Failure) {
	c.init()
	result := "success"
	k := kind{day: DayOf(c.Now()), domain: p.Domain, policy: encode(p)}
	if f != nil {
		k.outcome, result = encode(f), string(f.Type)
	}
	c.sessions.WithLabelValues(result).Inc()
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.pending[k]; !ok && len(c.pending) >= maxPending {
		k = k.coarse(p, f)
		if _, ok := c.pending[k]; !ok && len(c.pending) >= 2*maxPending {
			return // the store takes nothing, or the world is on fire
		}
	}
	c.pending[k]++
}

// coarse is the kind without what can be of many values.
func (k kind) coarse(p Policy, f *Failure) kind {
	k.policy = encode(Policy{Type: p.Type, Domain: p.Domain})
	if f != nil {
		k.outcome = encode(Failure{Type: f.Type})
	}
	return k
}

// Flush writes what is counted to the store. What it does not take stays in
// memory.
func (c *Counter) Flush(ctx context.Context) error {
	c.init()
	c.flush.Lock()
	defer c.flush.Unlock()
	c.mu.Lock()
	taken := c.pending
	c.pending = make(map[kind]int64)
	c.mu.Unlock()
	if len(taken) == 0 {
		return nil
	}
	counts, err := c.bounded(ctx, taken)
	if err == nil {
		err = c.Store.AddTLSCounts(ctx, counts)
	}
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		for k, n := range taken {
			c.pending[k] += n
		}
	}
	return err
}

// bounded makes counts of kinds, so that no domain gets too many in the store.
func (c *Counter) bounded(ctx context.Context, taken map[kind]int64) ([]Count, error) {
	type place struct{ day, domain string }
	stored := make(map[place]map[kind]bool)
	sums := make(map[kind]int64)
	for k, n := range taken {
		at := place{k.day, k.domain}
		has, ok := stored[at]
		if !ok {
			list, err := c.Store.TLSCounts(ctx, k.day, k.domain)
			if err != nil {
				return nil, err
			}
			has = make(map[kind]bool)
			for _, e := range list {
				has[kind{e.Day, e.Domain, e.Policy, e.Outcome}] = true
			}
			stored[at] = has
		}
		if !has[k] && len(has) >= maxKinds {
			k = k.coarsened()
		}
		has[k] = true
		sums[k] += n
	}
	counts := make([]Count, 0, len(sums))
	for k, n := range sums {
		counts = append(counts, Count{Day: k.day, Domain: k.domain, Policy: k.policy, Outcome: k.outcome, Sessions: n})
	}
	return counts, nil
}

// coarsened is coarse of a kind whose parts are not at hand.
func (k kind) coarsened() kind {
	var d Document
	if err := d.fill([]Count{{Domain: k.domain, Policy: k.policy, Outcome: k.outcome, Sessions: 1}}); err != nil {
		return k
	}
	var f *Failure
	if details := d.Policies[0].Details; len(details) > 0 {
		f = &details[0].Failure
	}
	return k.coarse(d.Policies[0].Policy, f)
}

// Run flushes every few seconds until ctx is done and then once more. It returns
// nil.
func (c *Counter) Run(ctx context.Context) error {
	c.init()
	const every = 10 * time.Second
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), every)
			defer cancel()
			if err := c.Flush(last); err != nil {
				c.Log.Error("counts for TLS reports are lost", "error", err)
			}
			return nil
		case <-tick.C:
			if err := c.Flush(ctx); err != nil && ctx.Err() == nil {
				c.Log.Warn("counts for TLS reports not saved, trying again", "error", err)
			}
		}
	}
}

// ParseDay reads a day as the command line takes it: a date, "today" or
// "yesterday", UTC.
func ParseDay(s string, now time.Time) (string, error) {
	switch strings.ToLower(s) {
	case "today":
		return DayOf(now), nil
	case "yesterday":
		return DayOf(now.Add(-24 * time.Hour)), nil
	}
	start, _, err := bounds(s)
	return DayOf(start), err
}
