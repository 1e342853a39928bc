package probe

import (
	"container/heap"
	"sync"
	"time"
)

// schedule orders the entries by when they are to be looked at again.
type schedule struct {
	mu   sync.Mutex
	h    dueHeap
	wake chan struct{} // gets a value when the first entry changed
}

func newSchedule() *schedule { return &schedule{wake: make(chan struct{}, 1)} }

// set puts e at a time, or elsewhere if it is there already.
func (s *schedule) set(e *entry, at stamp) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.due = at
	if e.index >= 0 {
		heap.Fix(&s.h, int(e.index))
	} else {
		heap.Push(&s.h, e)
	}
	if s.h[0] == e {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

func (s *schedule) remove(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.index >= 0 {
		heap.Remove(&s.h, int(e.index))
	}
}

// pop takes the first entry out if it is due; else it says when it will be, zero
// where there is none.
func (s *schedule) pop(now time.Time) (e *entry, next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.h) == 0 {
		return nil, time.Time{}
	}
	if due := s.h[0].due.time(); due.After(now) {
		return nil, due
	}
	return heap.Pop(&s.h).(*entry), time.Time{}
}

type dueHeap []*entry

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due < h[j].due }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = int32(i), int32(j)
}

func (h *dueHeap) Push(x any) {
	e := x.(*entry)
	e.index = int32(len(*h))
	*h = append(*h, e)
}

func (h *dueHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	e.index = -1
	return e
}
