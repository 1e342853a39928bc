package mtasts

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"runtime/debug"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/postseal/postseal/policyd/policy"
)

// storeTime is how long the store may take.
const storeTime = 10 * time.Second

// refresh looks a domain up and learns what it finds. Only one runs at a time for
// an entry.
func (c *Cache) refresh(ctx context.Context, e *entry) {
	defer func() {
		if fault := recover(); fault != nil { // foreign input must not end the program
			c.o.Log.Error("MTA-STS lookup failed: please report this", "domain", e.domain, "fault", fault, "stack", string(debug.Stack()))
			c.failed(ctx, e, "", 0, errors.New("internal fault"))
		}
	}()
	c.restore(ctx, e)
	id, ttl, err := c.o.Source.Record(ctx, e.domain)
	switch {
	case errors.Is(err, ErrNoRecord):
		c.metrics.lookups.WithLabelValues(outcomeNone).Inc()
		c.absent(ctx, e, ttl, err)
		return
	case err != nil:
		c.metrics.lookups.WithLabelValues(outcomeDNS).Inc()
		c.failed(ctx, e, "", 0, err)
		return
	}
	if !c.wants(ctx, e, id, ttl) {
		c.metrics.lookups.WithLabelValues(outcomeUnchanged).Inc()
		return
	}
	p, text, err := c.o.Source.Policy(ctx, e.domain)
	if err != nil {
		c.metrics.lookups.WithLabelValues(outcomeFailed).Inc()
		c.failed(ctx, e, id, ttl, err)
		return
	}
	c.metrics.lookups.WithLabelValues(outcomeFetched).Inc()
	c.fetched(ctx, e, id, ttl, p, text)
}

// restore takes back from the store what memory had no room for.
func (c *Cache) restore(ctx context.Context, e *entry) {
	c.mu.Lock()
	need := e.kept == nil && c.spilled && c.o.Store != nil
	c.mu.Unlock()
	if !need {
		return
	}
	r, ok, err := c.o.Store.LoadPolicy(ctx, e.domain)
	if err != nil {
		c.o.Log.Warn("MTA-STS policy could not be read", "domain", e.domain, "error", err)
	}
	if !ok || err != nil {
		return
	}
	now := c.o.Now()
	k, err := r.kept(now)
	if err != nil || !now.Before(k.expires) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keep(e, k)
	c.shrink()
	e.err = r.Error
	c.schedule(e, k.due)
}

// wants reports whether the policy of an id is to be fetched now. Where it is not, the
// look is over.
func (c *Cache) wants(ctx context.Context, e *entry, id string, ttl time.Duration) bool {
	c.mu.Lock()
	now := c.o.Now()
	c.expire(e, now)
	c.looked(e, now, ttl)
	due := e.kept == nil || id != e.kept.id || !now.Before(e.kept.due) || e.kept.fetched.After(now)
	if e.urge {
		due = true
		e.urged = now
	}
	if due && id == e.failedID && ago(now, e.failed) < retry(fetchRetry, e.fails) {
		next := e.failed.Add(retry(fetchRetry, e.fails))
		if next.Before(e.recheck) {
			e.recheck = next
		}
		if e.kept == nil {
			e.state = policy.STSFailed
		}
		c.schedule(e, next)
		c.mu.Unlock()
		return false // it has failed a moment ago
	}
	if due {
		c.mu.Unlock()
		return true
	}
	cleared := e.err != ""
	e.err, e.fails, e.failedID = "", 0, ""
	c.schedule(e, e.kept.due)
	c.mu.Unlock()
	if cleared {
		c.note(ctx, e.domain, time.Time{}, "")
	}
	return false
}

// looked notes that the record was looked up. c.mu is held.
func (c *Cache) looked(e *entry, now time.Time, ttl time.Duration) {
	e.looked = now
	e.recheck = now.Add(min(max(ttl, recheckLeast), recheckMost))
}

// expire drops a policy whose time is over. c.mu is held.
func (c *Cache) expire(e *entry, now time.Time) {
	if e.kept == nil || e.inForce(now) {
		return
	}
	if e.kept.policy.Mode != None && e.kept.policy.MaxAge > 0 && e.err != "" {
		c.o.Log.Warn("MTA-STS policy expired", "domain", e.domain, "mode", e.kept.policy.Mode, "error", e.err)
	}
	c.keep(e, nil)
	e.state, e.recheck = policy.STSUnknown, time.Time{}
}

// absent learns that a domain has no record that counts. A policy that is kept stays
// in force (section 5.1).
func (c *Cache) absent(ctx context.Context, e *entry, ttl time.Duration, reason error) {
	c.mu.Lock()
	now := c.o.Now()
	c.expire(e, now)
	c.looked(e, now, ttl)
	e.fails = 0
	c.stale(ctx, e, now, policy.STSNone, reason, e.recheck) // unlocks
}

// failed learns that nobody knows: of a policy with that id, or where that is "", of
// the record.
func (c *Cache) failed(ctx context.Context, e *entry, id string, ttl time.Duration, reason error) {
	if c.base.Err() != nil {
		return // says nothing of the domain
	}
	c.mu.Lock()
	now := c.o.Now()
	c.expire(e, now)
	e.fails++
	e.failure = ""
	next := now.Add(retry(lookupRetry, e.fails))
	if id != "" {
		e.failure = failureType(reason)
		e.failed, e.failedID = now, id
		next = now.Add(retry(fetchRetry, e.fails))
	}
	c.looked(e, now, ttl)
	if id == "" || next.Before(e.recheck) {
		e.recheck = next // else the record may get a new id before that
	}
	c.stale(ctx, e, now, policy.STSFailed, reason, next) // unlocks
}

// failureType is the result type of RFC 8460, section 4.3.2.2, for a policy that could
// not be got.
func failureType(reason error) string {
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.Is(reason, ErrPolicy):
		return "sts-policy-invalid"
	case errors.As(reason, &untrusted):
		return "sts-webpki-invalid"
	}
	return "sts-policy-fetch-error"
}

// stale remembers why there is no policy, or why the one in force could not be
// refreshed, and tries that again at next. c.mu is held, and unlocked.
func (c *Cache) stale(ctx context.Context, e *entry, now time.Time, state policy.STS, reason error, next time.Time) {
	before := e.err
	e.err = bound(reason.Error())
	if e.kept == nil {
		e.state = state
		c.mu.Unlock()
		c.o.Log.Debug("no MTA-STS policy", "domain", e.domain, "state", state, "reason", reason)
		return
	}
	reportable := e.kept.policy.Mode != None
	expires := e.kept.expires
	c.schedule(e, next)
	c.mu.Unlock()
	if reportable && before == "" {
		if left, ok := c.warned.allow(now); ok {
			c.o.Log.Warn("MTA-STS policy could not be refreshed: the kept one counts until it expires",
				"domain", e.domain, "expires", expires.UTC(), "error", reason, "not_logged", left)
		}
	}
	if before != bound(reason.Error()) {
		c.note(ctx, e.domain, now, bound(reason.Error()))
	}
}

// fetched learns a policy.
func (c *Cache) fetched(ctx context.Context, e *entry, id string, ttl time.Duration, p *Policy, text []byte) {
	c.mu.Lock()
	now := c.o.Now()
	old := e.kept
	k := newKept(id, p, now, now.Add(p.MaxAge))
	c.keep(e, k)
	e.err, e.fails, e.failedID = "", 0, ""
	c.looked(e, now, ttl)
	c.schedule(e, k.due)
	if e.flight != nil {
		e.flight.r = e.result() // for those who wait, even where it expires at once
	}
	c.shrink()
	c.mu.Unlock()
	switch {
	case old == nil:
		c.o.Log.Info("MTA-STS policy found", "domain", e.domain, "mode", p.Mode, "mx", p.MX, "max_age", p.MaxAge, "id", id)
	case !same(old.policy, p):
		c.o.Log.Info("MTA-STS policy changed", "domain", e.domain, "from", old.policy.Mode, "to", p.Mode,
			"mx_before", old.policy.MX, "mx", p.MX, "max_age", p.MaxAge, "id", id)
	}
	if c.o.Store == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTime)
	defer cancel()
	if err := c.save(ctx, Record{Domain: e.domain, ID: id, Text: text, Fetched: k.fetched, Expires: k.expires}, p.Mode); err != nil {
		c.o.Log.Warn("MTA-STS policy not saved", "domain", e.domain, "error", err)
	}
}

func same(a, b *Policy) bool {
	return a.Mode == b.Mode && a.MaxAge == b.MaxAge && fmt.Sprint(a.MX) == fmt.Sprint(b.MX)
}

func (c *Cache) note(ctx context.Context, domain string, failed time.Time, reason string) {
	if c.o.Store == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTime)
	defer cancel()
	if err := c.o.Store.NotePolicy(ctx, domain, failed, reason); err != nil {
		c.o.Log.Warn("refresh of an MTA-STS policy not noted", "domain", domain, "error", err)
	}
}

// retry is how long to wait after so many failures in a row.
func retry(first time.Duration, fails int) time.Duration {
	for ; fails > 1 && first < retryMost; fails-- {
		first *= 2
	}
	return min(first, retryMost)
}

// bound keeps foreign text short and free of what could play tricks on a terminal.
func bound(s string) string {
	const most = 300
	out := make([]rune, 0, min(len(s), most))
	for _, r := range s {
		if len(out) == most {
			break
		}
		if r == utf8.RuneError || !unicode.IsPrint(r) { // C1 controls and what turns text round, too
			r = '?'
		}
		out = append(out, r)
	}
	return string(out)
}
