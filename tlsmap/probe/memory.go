package probe

import (
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

const shards = 64

// memory is a bounded table of destinations, in shards so that readers hardly ever
// wait. A lookup does not allocate.
type memory struct {
	seed  maphash.Seed
	most  int // entries of one shard
	shard [shards]table
}

// table is a hash table with linear probing: a map would keep the name of each
// destination twice.
type table struct {
	sync.RWMutex
	slots []*entry // a power of two, at most three quarters of them taken
	n     int
}

// entry is one destination.
type entry struct {
	dest  string
	known atomic.Pointer[known] // never nil
	facts atomic.Pointer[facts] // nil: never looked up
	until atomic.Uint32         // stamp up to which facts count
	asked atomic.Uint32         // minutes since 1970 when last asked for; the highest bit: it waits for a look

	due   stamp // of the schedule; guarded by it
	index int32 // in the schedule's heap; -1: not scheduled
}

const queuedBit = 1 << 31

// used is when it was last asked for, Unix seconds; touch writes at most once a
// minute, so that busy destinations do not bounce between processors.
func (e *entry) used() int64 { return int64(e.asked.Load()&^queuedBit) * 60 }

// touch notes that somebody asked.
func (e *entry) touch(now time.Time) {
	minutes := uint32(now.Unix() / 60)
	for {
		old := e.asked.Load()
		if minutes <= old&^queuedBit || e.asked.CompareAndSwap(old, minutes|old&queuedBit) {
			return
		}
	}
}

// setUsed sets when it was last asked for, also to earlier.
func (e *entry) setUsed(s stamp) {
	e.asked.Store(uint32(s/60) | e.asked.Load()&queuedBit)
}

// queue notes that it waits for a look, and reports false if it did already.
func (e *entry) queue() bool { return e.asked.Or(queuedBit)&queuedBit == 0 }

func (e *entry) unqueue() { e.asked.And(^uint32(queuedBit)) }

func (e *entry) queued() bool { return e.asked.Load()&queuedBit != 0 }

func newMemory(most int) *memory {
	return &memory{seed: maphash.MakeSeed(), most: max(1, most/shards)}
}

// hash returns the shard of dest and where its slot is searched from.
func (m *memory) hash(dest string) (t *table, h uint64) {
	h = maphash.String(m.seed, dest)
	return &m.shard[h%shards], h / shards
}

func (m *memory) get(dest string) *entry {
	t, h := m.hash(dest)
	t.RLock()
	defer t.RUnlock()
	if e, _ := t.find(dest, h); e != nil {
		return e
	}
	return nil
}

// find returns the entry of dest, or the slot where it would stand.
func (t *table) find(dest string, h uint64) (*entry, int) {
	if len(t.slots) == 0 {
		return nil, 0
	}
	mask := len(t.slots) - 1
	for i := int(h) & mask; ; i = (i + 1) & mask {
		if e := t.slots[i]; e == nil || e.dest == dest {
			return e, i
		}
	}
}

// add returns the entry of dest, made if need be, and the one that had to go for
// it: of a few picked at random the one not asked for longest, those first that were never
// looked at. What a look found is a history, which the grace period needs, while what a
// destination publishes, asked for by all mail, can be looked up again.
func (m *memory) add(dest string, now time.Time) (e, evicted *entry, made bool) {
	t, h := m.hash(dest)
	t.Lock()
	defer t.Unlock()
	if e, _ := t.find(dest, h); e != nil {
		return e, nil, false
	}
	if t.n >= m.most {
		n := 0
		for i, start := 0, rand.IntN(len(t.slots)); i < len(t.slots) && n < 16; i++ {
			old := t.slots[(start+i)&(len(t.slots)-1)]
			if old == nil {
				continue
			}
			if n++; evicted == nil || old.goesBefore(evicted) {
				evicted = old
			}
		}
		m.remove(t, evicted)
	}
	if t.n+1 > len(t.slots)*3/4 {
		m.grow(t)
	}
	e = &entry{dest: dest, index: -1}
	e.known.Store(&known{ev: never})
	e.setUsed(stampOf(now))
	_, i := t.find(dest, h)
	t.slots[i] = e
	t.n++
	return e, evicted, true
}

// goesBefore reports whether e is to be evicted rather than f.
func (e *entry) goesBefore(f *entry) bool {
	if fresh := e.known.Load().checked == 0; fresh != (f.known.Load().checked == 0) {
		return fresh
	}
	return e.used() < f.used()
}

// grow doubles a table.
func (m *memory) grow(t *table) {
	old := t.slots
	t.slots = make([]*entry, max(8, 2*len(old)))
	for _, e := range old {
		if e != nil {
			_, h := m.hash(e.dest)
			_, i := t.find(e.dest, h)
			t.slots[i] = e
		}
	}
}

// remove takes e out, and moves up what was probed past it.
func (m *memory) remove(t *table, e *entry) {
	_, h := m.hash(e.dest)
	_, hole := t.find(e.dest, h)
	mask := len(t.slots) - 1
	for i := (hole + 1) & mask; t.slots[i] != nil; i = (i + 1) & mask {
		_, h := m.hash(t.slots[i].dest)
		if home := int(h) & mask; (i-home)&mask >= (i-hole)&mask {
			t.slots[hole], hole = t.slots[i], i
		}
	}
	t.slots[hole] = nil
	t.n--
}

// each calls f with every entry, holding a shard for reading.
func (m *memory) each(f func(*entry)) {
	for i := range m.shard {
		t := &m.shard[i]
		t.RLock()
		for _, e := range t.slots {
			if e != nil {
				f(e)
			}
		}
		t.RUnlock()
	}
}

// sweep drops what nobody asked for since.
func (m *memory) sweep(since time.Time, dropped func(*entry)) {
	for i := range m.shard {
		t := &m.shard[i]
		t.Lock()
		var old []*entry
		for _, e := range t.slots {
			if e != nil && e.used() < since.Unix() {
				old = append(old, e)
			}
		}
		for _, e := range old {
			m.remove(t, e)
			dropped(e)
		}
		t.Unlock()
	}
}

func (m *memory) len() int {
	n := 0
	for i := range m.shard {
		t := &m.shard[i]
		t.RLock()
		n += t.n
		t.RUnlock()
	}
	return n
}
