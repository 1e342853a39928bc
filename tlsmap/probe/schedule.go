package probe

import (
	"sync"
	"time"
)

// schedule says which entries are to be looked at again. It is no list of them, which
// would take as much room as their names: an entry is marked as planned, what is known of
// it says for when, and a shard, of which the earliest time is known, is gone through
// when that has come.
type schedule struct {
	mem  *memory
	wake chan struct{} // gets a value when the first time became an earlier one

	mu  sync.Mutex
	due [shards]stamp // not after the first of each shard; zero: nothing is planned there
}

func newSchedule(m *memory) *schedule { return &schedule{mem: m, wake: make(chan struct{}, 1)} }

func (e *entry) planned() bool { return e.asked.Load()&plannedBit != 0 }

// set plans e for a time that is not before known.next.
func (s *schedule) set(e *entry, at stamp) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.asked.Or(plannedBit)
	i, first := s.mem.shardOf(e), s.first()
	if s.due[i] == 0 || at < s.due[i] {
		s.due[i] = at
	}
	if first == 0 || at < first {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// first is the earliest time of all; zero where nothing is planned.
func (s *schedule) first() (first stamp) {
	for _, due := range s.due {
		if due != 0 && (first == 0 || due < first) {
			first = due
		}
	}
	return first
}

// restOf is how long a shard is left alone after it was gone through, which takes a
// thousandth of that or so.
func restOf(entries int) time.Duration { return time.Duration(entries) * time.Millisecond }

// pop takes out what is due. It also says when more will be, zero where nothing is
// planned.
func (s *schedule) pop(now time.Time) (ready []*entry, next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.due {
		if s.due[i] == 0 || s.due[i].time().After(now) {
			continue
		}
		n, first := 0, stamp(0)
		s.mem.shard[i].each(func(e *entry) {
			n++
			if !e.planned() {
				return
			}
			at := e.known.Load().next
			if at.time().After(now) {
				if first == 0 || at < first {
					first = at
				}
				return
			}
			e.asked.And(^uint32(plannedBit))
			ready = append(ready, e)
		})
		if s.due[i] = first; first != 0 {
			s.due[i] = max(first, stampOf(now.Add(restOf(n))))
		}
	}
	return ready, s.first().time()
}
