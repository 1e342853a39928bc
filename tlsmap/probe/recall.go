package probe

import (
	"context"
)

// recall fetches what the store has of a destination of which memory knows no look: one
// that was evicted, or for which there was no room at the start. Without it the next look
// would be taken for the first one: no grace period, no alarm, and the history in the store
// overwritten. It returns the result of the look it recalls, and false where the store
// could not be read.
//
// It reads, and so is not for the way of a question, only for that of a look; but for the
// seconds after a start, while memory is being filled.
func (m *Manager) recall(e *entry) (*Result, bool) {
	if m.store == nil || e.known.Load().checked != 0 {
		return nil, true
	}
	rec, ok := m.waiting(e.dest())
	if !ok {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(m.base), saveLimit)
		defer cancel()
		var err error
		if rec, ok, err = m.store.LoadPosture(ctx, e.dest()); err != nil {
			m.o.Log.Warn("posture not read: the look at the destination does not count", "dest", e.dest(), "error", err)
			return nil, false
		}
	}
	if !ok {
		return nil, true
	}
	r, ok := m.restore(e, rec)
	if !ok { // loaded meanwhile
		return m.result(context.WithoutCancel(m.base), e.dest(), e.known.Load()), true
	}
	return r, true
}

// waiting returns the record of a destination that is still to be saved.
func (m *Manager) waiting(dest string) (Record, bool) {
	m.mu.Lock()
	u := m.unsaved[dest]
	m.mu.Unlock()
	if u == nil {
		return Record{}, false
	}
	rec := u.record
	b, err := inflate(u.result)
	rec.Result, rec.Events = b, nil
	return rec, err == nil
}

// unlearned remembers that a look does not count, since nobody knows what was before: the
// destination stays unknown, so that its mail tries TLS, and is looked at anew soon.
func (m *Manager) unlearned(e *entry) {
	next := stampOf(m.o.Now().Add(less(doubtFirst)))
	for {
		old := e.known.Load()
		if old.checked != 0 {
			return
		}
		k := *old
		k.expires, k.next = next, next
		if e.known.CompareAndSwap(old, &k) {
			break
		}
	}
	m.plan.set(e, next)
}
