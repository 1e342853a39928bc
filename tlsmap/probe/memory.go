package probe

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

const shards = 64

// memory is a bounded map of destinations, in shards so that readers hardly ever
// wait. A lookup does not allocate.
type memory struct {
	seed  maphash.Seed
	most  int // entries of one shard
	shard [shards]struct {
		sync.RWMutex
		m map[string]*entry
	}
}

// entry is one destination.
type entry struct {
	dest   string
	known  atomic.Pointer[known] // never nil
	facts  atomic.Pointer[facts] // nil: never looked up
	used   atomic.Int64          // when last asked for, Unix seconds
	queued atomic.Bool

	mu     sync.Mutex
	flight *flight // the look going on; nil: none

	due   time.Time // of the schedule; guarded by it
	index int       // in the schedule's heap; -1: not scheduled
}

// touch notes that somebody asked. It writes at most once a minute, so that
// busy destinations do not bounce between processors.
func (e *entry) touch(now time.Time) {
	if s := now.Unix(); s-e.used.Load() >= 60 {
		e.used.Store(s)
	}
}

func newMemory(most int) *memory {
	m := &memory{seed: maphash.MakeSeed(), most: max(1, most/shards)}
	for i := range m.shard {
		m.shard[i].m = make(map[string]*entry)
	}
	return m
}

func (m *memory) get(dest string) *entry {
	s := &m.shard[maphash.String(m.seed, dest)%shards]
	s.RLock()
	defer s.RUnlock()
	return s.m[dest]
}

// add returns the entry of dest, made if need be, and the one that had to go for
// it: of a few picked at random the one not asked for longest.
func (m *memory) add(dest string, now time.Time) (e, evicted *entry, made bool) {
	s := &m.shard[maphash.String(m.seed, dest)%shards]
	s.Lock()
	defer s.Unlock()
	if e := s.m[dest]; e != nil {
		return e, nil, false
	}
	if len(s.m) >= m.most {
		n := 0
		for _, old := range s.m {
			if evicted == nil || old.used.Load() < evicted.used.Load() {
				evicted = old
			}
			if n++; n == 16 {
				break
			}
		}
		delete(s.m, evicted.dest)
	}
	e = &entry{dest: dest, index: -1}
	e.known.Store(&known{})
	e.used.Store(now.Unix())
	s.m[dest] = e
	return e, evicted, true
}

// sweep drops what nobody asked for since.
func (m *memory) sweep(since time.Time, dropped func(*entry)) {
	for i := range m.shard {
		s := &m.shard[i]
		s.Lock()
		for dest, e := range s.m {
			if e.used.Load() < since.Unix() {
				delete(s.m, dest)
				dropped(e)
			}
		}
		s.Unlock()
	}
}

func (m *memory) len() int {
	n := 0
	for i := range m.shard {
		s := &m.shard[i]
		s.RLock()
		n += len(s.m)
		s.RUnlock()
	}
	return n
}
