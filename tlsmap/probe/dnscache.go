package probe

import (
	"context"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// maxCached is how long an answer is kept at most, whatever its TTL.
const maxCached = time.Hour

// Many returns a resolver for looking at a great many destinations: it asks as r
// does, at most parallel questions at a time, and keeps up to most answers about
// mail hosts (A, AAAA, TLSA) by their TTL, since many domains share those. What fails is
// not kept.
func (r *Resolver) Many(parallel, most int) *Resolver {
	c := *r
	c.slots = make(chan struct{}, parallel)
	c.cache = &dnsCache{most: most, m: make(map[dnsKey]cachedAnswer)}
	return &c
}

type dnsKey struct {
	name  string
	qtype uint16
}

type cachedAnswer struct {
	a     *Answer // not to be changed
	until time.Time
}

// dnsCache is a bounded map of answers.
type dnsCache struct {
	most int
	mu   sync.Mutex
	m    map[dnsKey]cachedAnswer
}

// Lookup asks for the records of a name. A silent resolver costs at most about
// two seconds. Every error wraps [ErrDNS], or is that of ctx. The answer is not to
// be changed.
func (r *Resolver) Lookup(ctx context.Context, name string, qtype uint16) (*Answer, error) {
	key := dnsKey{name, qtype}
	if a := r.cache.get(key); a != nil {
		return a, nil
	}
	if r.slots != nil {
		select {
		case r.slots <- struct{}{}:
			defer func() { <-r.slots }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if a := r.cache.get(key); a != nil { // somebody else asked meanwhile
			return a, nil
		}
	}
	a, err := r.lookup(ctx, name, qtype)
	if err == nil {
		r.cache.put(key, a)
	}
	return a, err
}

func (c *dnsCache) get(k dnsKey) *Answer {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if got, ok := c.m[k]; ok && time.Now().Before(got.until) {
		return got.a
	}
	return nil
}

func (c *dnsCache) put(k dnsKey, a *Answer) {
	if c == nil || a.TTL <= 0 {
		return
	}
	switch k.qtype {
	case dns.TypeA, dns.TypeAAAA, dns.TypeTLSA:
	default:
		return // of one domain alone
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.m[k]; !ok && len(c.m) >= c.most {
		n := 0
		for old := range c.m { // in random order: any sixteenth will do
			delete(c.m, old)
			if n++; n > c.most/16 {
				break
			}
		}
	}
	c.m[k] = cachedAnswer{a, time.Now().Add(min(a.TTL, maxCached))}
}
