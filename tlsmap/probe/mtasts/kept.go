package mtasts

import (
	"context"
	"sync"
	"time"
)

// recount is how often the rows of the store are counted where it seems to be full.
const recount = time.Minute

// rows counts the policies in the store, roughly: it never knows less than there are but
// for those of another server.
type rows struct {
	mu      sync.Mutex
	n       int
	counted time.Time // zero: never
}

// room reports whether the store may grow by one more. It counts anew where it would not.
func (c *Cache) room(ctx context.Context, now time.Time) bool {
	c.rows.mu.Lock()
	defer c.rows.mu.Unlock()
	if c.rows.counted.IsZero() || c.rows.n >= c.o.MaxKept && ago(now, c.rows.counted) >= recount {
		n, err := c.o.Store.CountPolicies(ctx)
		if err != nil {
			c.o.Log.Warn("MTA-STS policies not counted", "error", err)
			return true // saving will say so too
		}
		c.rows.n, c.rows.counted = n, now
	}
	return c.rows.n < c.o.MaxKept
}

// save keeps a policy in the store. Where that is full, one that demands nothing (testing,
// none) is not added: after a restart it is fetched anew, and nothing is verified less. One that
// is to be enforced always is, since without it who blocks the fetch after a restart would
// have its mail go unverified; and what the store has already is always replaced.
func (c *Cache) save(ctx context.Context, r Record, mode Mode) error {
	now := c.o.Now()
	if !c.room(ctx, now) {
		_, have, err := c.o.Store.LoadPolicy(ctx, r.Domain)
		if err != nil {
			return err
		}
		if !have {
			if left, ok := c.full.allow(now); ok {
				c.o.Log.Warn("the database has very many MTA-STS policies: new ones that demand nothing are not kept", "most", c.o.MaxKept,
					"domain", r.Domain, "mode", mode, "kept", mode == Enforce, "not_logged", left)
			}
			if mode != Enforce {
				return nil
			}
		}
	}
	if err := c.o.Store.SavePolicy(ctx, r); err != nil {
		return err
	}
	c.rows.mu.Lock()
	c.rows.n++ // or replaced: the next count knows
	c.rows.mu.Unlock()
	return nil
}
