package probe

import (
	"context"
	"encoding/json"
	"sync"
)

// unsaved is a record that the store does not have yet.
type unsaved struct {
	record Record // without its result
	result []byte // deflated
	saving bool   // a transaction with it and its events is under way
}

// keep saves what was learned of a destination: at once, or where Run runs, soon.
func (m *Manager) keep(dest string, k *known, r *Result, events []Event) {
	b, err := json.Marshal(r)
	if err != nil {
		b = []byte("{}") // can't be: nothing in it fails to marshal
	}
	if m.store == nil {
		m.results.put(dest, m.pack.deflate(b))
		return
	}
	rec := k.record(dest)
	rec.Events = events
	m.mu.Lock()
	running := m.running
	if running {
		if old := m.unsaved[dest]; old != nil && !old.saving {
			rec.Events = bounded(append(old.record.Events, events...))
		}
		m.unsaved[dest] = &unsaved{record: rec, result: m.pack.deflate(b)}
	}
	m.mu.Unlock()
	if running {
		select {
		case m.saveNow <- struct{}{}:
		default:
		}
		return
	}
	rec.Result = b
	ctx, cancel := context.WithTimeout(context.WithoutCancel(m.base), saveLimit)
	defer cancel()
	if err := m.store.SavePosture(ctx, rec); err != nil {
		m.o.Log.Warn("posture not saved", "dest", dest, "error", err)
		return
	}
	m.alarmed(events)
}

// result returns the Result from which k was learned, nil where it is not to be had. It
// is not in memory but for a moment: there may be hundreds of thousands.
func (m *Manager) result(ctx context.Context, dest string, k *known) *Result {
	if k.checked == 0 {
		return nil
	}
	var b []byte
	m.mu.Lock()
	waiting := m.unsaved[dest]
	m.mu.Unlock()
	switch {
	case waiting != nil && stampOf(waiting.record.Checked) != k.checked:
		return nil
	case waiting != nil:
		b, _ = inflate(waiting.result)
	case m.store == nil:
		b, _ = inflate(m.results.get(dest))
	default:
		ctx, cancel := context.WithTimeout(ctx, saveLimit)
		defer cancel()
		rec, ok, err := m.store.LoadPosture(ctx, dest)
		if err != nil {
			m.o.Log.Warn("posture not read", "dest", dest, "error", err)
		}
		if !ok || err != nil || stampOf(rec.Checked) != k.checked { // another server may share the store
			return nil
		}
		b = rec.Result
	}
	r := new(Result)
	if json.Unmarshal(b, r) != nil || r.Dest != dest {
		return nil
	}
	return r
}

// flush saves all that is unsaved. What fails stays unsaved.
func (m *Manager) flush() bool {
	if m.store == nil {
		return true
	}
	for {
		batch, records := m.batch()
		if len(batch) == 0 {
			return true
		}
		ctx, cancel := context.WithTimeout(context.Background(), saveLimit)
		err := m.store.SavePostures(ctx, records)
		cancel()
		m.saved(batch, err == nil)
		if err != nil {
			m.o.Log.Warn("postures not saved", "count", len(records), "error", err)
			select {
			case m.saveNow <- struct{}{}:
			default:
			}
			return false
		}
		for _, r := range records {
			m.alarmed(r.Events)
		}
	}
}

// batch takes some of what is unsaved, which stays to be read until it is saved.
func (m *Manager) batch() (batch []*unsaved, records []Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for dest, u := range m.unsaved {
		rec := u.record
		var err error
		if rec.Result, err = inflate(u.result); err != nil {
			m.o.Log.Warn("posture not saved", "dest", dest, "error", err)
			delete(m.unsaved, dest)
			continue
		}
		u.saving = true
		batch, records = append(batch, u), append(records, rec)
		if len(batch) == saveMost {
			break
		}
	}
	return batch, records
}

// saved ends a batch. Where it failed its events go to what was learned meanwhile.
func (m *Manager) saved(batch []*unsaved, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, u := range batch {
		dest := u.record.Dest
		newer := m.unsaved[dest]
		switch {
		case ok && newer == u:
			delete(m.unsaved, dest)
		case ok:
		case newer == u:
			u.saving = false
		default:
			newer.record.Events = bounded(append(u.record.Events, newer.record.Events...))
		}
	}
}

// maxResults bounds the results that are kept where there is no store.
const maxResults = 1000

// results are the last results, deflated, of some destinations.
type results struct {
	mu sync.Mutex
	m  map[string][]byte
}

func (c *results) get(dest string) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m[dest]
}

func (c *results) put(dest string, b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = make(map[string][]byte)
	}
	if _, ok := c.m[dest]; !ok && len(c.m) >= maxResults {
		for old := range c.m { // in random order: any will do
			delete(c.m, old)
			break
		}
	}
	c.m[dest] = b
}
