package policyd

import (
	"container/list"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// transaction is what is remembered of one SMTP transaction.
type transaction struct {
	sender, login string // a transaction of others under the same instance is a new one
	queueID       string // the first seen; "" until then

	bySender policy.Channels // what sender and login required, at first
	require  policy.Channels // what the FILTER stands for: what was required so far
	filter   string          // transport:next-hop answered last; "" if none yet
	allowed  uint8           // bit n: some recipient's rules allow policy.Channels(n)
}

// conflicts reports whether some recipient so far could not be delivered if the
// whole message were restricted to set.
func (t *transaction) conflicts(set policy.Channels) bool {
	for n := policy.Channels(0); n < 8; n++ {
		if t.allowed&(1<<n) != 0 && n&set == 0 {
			return true
		}
	}
	return false
}

// memory holds transactions by their instance, so many at most, each for so long
// after its last request; the one that was not asked for the longest goes first.
// What it lost it does not know: the caller then takes the safe road.
type memory struct {
	max   int
	age   time.Duration
	count atomic.Int64 // of byKey, for a look without the lock

	mu    sync.Mutex
	byKey map[string]*list.Element // of remembered
	order *list.List               // the longest unasked in front
}

type remembered struct {
	key  string
	last time.Time
	tx   transaction
}

func newMemory(max int, age time.Duration) *memory {
	return &memory{max: max, age: age, byKey: make(map[string]*list.Element), order: list.New()}
}

func (m *memory) len() float64 { return float64(m.count.Load()) }

// get returns what is remembered of the transaction that q belongs to. What is left
// of an earlier one under the same instance (another sender or login, another queue
// file) is not it.
func (m *memory) get(q *request, now time.Time) (transaction, bool) {
	if m.count.Load() == 0 || q.instance == "" {
		return transaction{}, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire(now)
	e, ok := m.byKey[q.instance]
	if !ok {
		return transaction{}, false
	}
	r := e.Value.(*remembered)
	if r.tx.sender != q.sender || r.tx.login != q.login || r.tx.queueID != "" && r.tx.queueID != q.queueID {
		m.remove(e)
		return transaction{}, false
	}
	r.last = now
	m.order.MoveToBack(e)
	if r.tx.queueID == "" {
		r.tx.queueID = q.queueID
	}
	return r.tx, true
}

// put remembers t as the transaction of q.
func (m *memory) put(q *request, t transaction, now time.Time) {
	if q.instance == "" {
		return
	}
	t.sender, t.login, t.queueID = q.sender, q.login, q.queueID
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire(now)
	if e, ok := m.byKey[q.instance]; ok {
		r := e.Value.(*remembered)
		r.tx, r.last = t, now
		m.order.MoveToBack(e)
		return
	}
	for len(m.byKey) >= m.max {
		m.remove(m.order.Front())
	}
	m.byKey[q.instance] = m.order.PushBack(&remembered{q.instance, now, t})
	m.count.Store(int64(len(m.byKey)))
}

func (m *memory) expire(now time.Time) {
	for e := m.order.Front(); e != nil && now.Sub(e.Value.(*remembered).last) > m.age; e = m.order.Front() {
		m.remove(e)
	}
}

func (m *memory) remove(e *list.Element) {
	m.order.Remove(e)
	delete(m.byKey, e.Value.(*remembered).key)
	m.count.Store(int64(len(m.byKey)))
}
