package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/postseal/postseal/policyd/policy"
)

// ManagerOptions bound a Manager. The zero value of each has a default.
type ManagerOptions struct {
	Floor      uint16        // least TLS version; default: the prober's
	MaxEntries int           // destinations remembered; default 200,000
	Queue      int           // looks waiting; default 10,000
	Workers    int           // looks at a time in the background; default 32
	MaxLook    time.Duration // for one look, waiting for busy hosts included; default 2 min
	FactsWait  time.Duration // that Published waits for lookups; default 2 s

	// AlarmAfter is how long TLS must have been there for its loss to be an alarm;
	// default 7 days, negative: however short.
	AlarmAfter time.Duration

	// OnChange, where set, is called after the state of a destination changed, or what it
	// publishes. It must not block.
	OnChange func()
	// OnAlarm, where set, is called after an alarm was saved. It must not block.
	OnAlarm func()

	Log *slog.Logger     // default: the prober's
	Now func() time.Time // default: the prober's
}

// Manager knows the posture of destinations. It implements [policy.Postures].
type Manager struct {
	o           ManagerOptions
	look        func(ctx context.Context, dest string, reuse time.Duration) *Result
	discover    func(ctx context.Context, dest string) *Result // the first half of look
	dane        func() bool
	store       Store
	metrics     *metrics
	mem         *memory
	plan        *schedule
	queue       chan *entry
	pack        packer
	discovering singleflight.Group

	daneOff, stsOff bool // by the settings

	loading atomic.Bool   // the store is being read: what memory does not know may be there
	loaded  chan struct{} // closed when it was

	base context.Context // of every look
	stop context.CancelFunc

	mu      sync.Mutex
	running bool
	stopped bool
	flights sync.WaitGroup
	flying  map[*entry]*flight
	unsaved map[string]*unsaved // by destination; while running
	results results             // where there is no store
	saveNow chan struct{}
}

var _ policy.Postures = (*Manager)(nil)

// flight is one look, shared by all who want its result.
type flight struct {
	reuse time.Duration // age that its evidence may have
	done  chan struct{} // closed at the end
	r     *Result
	err   error
}

// ErrStopped reports that the Manager has been shut down.
var ErrStopped = errors.New("probe: stopped")

// NewManager makes a manager that looks through p and keeps what it learns in
// store, which may be nil. Call [Manager.Load] and [Manager.Run] to remember and
// refresh; Look works without.
func NewManager(p *Prober, store Store, o ManagerOptions) *Manager {
	o.Floor = cmp.Or(o.Floor, p.o.TLSFloor)
	o.MaxEntries = cmp.Or(o.MaxEntries, 200_000)
	o.Queue = cmp.Or(o.Queue, 10_000)
	o.Workers = cmp.Or(o.Workers, 32)
	o.MaxLook = cmp.Or(o.MaxLook, 2*time.Minute)
	o.FactsWait = cmp.Or(o.FactsWait, 2*time.Second)
	o.AlarmAfter = cmp.Or(o.AlarmAfter, alarmAfterDefault)
	if o.Log == nil {
		o.Log = p.o.Log
	}
	if o.Now == nil {
		o.Now = p.o.Now
	}
	m := &Manager{
		o: o, look: p.probe, discover: p.Discover, dane: p.DANE, store: store, metrics: p.metrics,
		mem: newMemory(o.MaxEntries), queue: make(chan *entry, o.Queue),
		flying: make(map[*entry]*flight), unsaved: make(map[string]*unsaved), saveNow: make(chan struct{}, 1),
		loaded: make(chan struct{}),
	}
	m.plan = newSchedule(m.mem)
	lost := m.lost
	p.metrics.lostNow.Store(&lost)
	m.daneOff, m.stsOff = p.Distrusted() != "", p.o.STS == nil
	m.base, m.stop = context.WithCancel(context.Background())
	return m
}

// DANE reports whether TLSA records count: the resolvers are trusted.
func (m *Manager) DANE() bool { return m.dane() }

// Posture returns what is known of a destination (a domain or next-hop) for a
// demand, at once. Unknown and stale destinations are looked at in the background,
// if [Manager.Run] runs.
//
// A stale Absent or Broken is not believed any more and comes back as Unknown:
// then the mail tries TLS, and the fallback looks anew.
func (m *Manager) Posture(dest string, demand policy.TLSParams) policy.Posture {
	dest = Key(dest)
	now := m.o.Now()
	e := m.asked(dest, now)
	k := e.known.Load()
	p, noted := k.fresh(dest, demand, m.o.Floor)
	if !noted {
		m.note(e, demand)
	}
	if k.stale(now) {
		m.enqueue(e)
		if p.State == policy.Absent || p.State == policy.Broken {
			p.State = policy.Unknown
		}
	}
	if f := e.told(); f != nil && e.until.Load() != 0 {
		p.Published = f.published // as fresh as Postfix's answers
	}
	return p
}

// asked returns the entry of a destination that somebody asks for, made if need be. While
// the store is being read it fetches what that has of the destination.
func (m *Manager) asked(dest string, now time.Time) *entry {
	e := m.mem.get(dest)
	if e == nil {
		e = m.add(dest, now)
	} else {
		e.touch(now)
	}
	if m.loading.Load() {
		m.recall(e)
	}
	return e
}

func (m *Manager) add(dest string, now time.Time) *entry {
	e, evicted, made := m.mem.add(dest, now)
	if made && evicted == nil {
		m.metrics.known.Inc()
	}
	return e
}

// note has the history of a demand kept from now on.
func (m *Manager) note(e *entry, demand policy.TLSParams) {
	for {
		k := e.known.Load()
		if _, noted := k.fresh(e.dest(), demand, m.o.Floor); noted || e.known.CompareAndSwap(k, k.noting(e.dest(), demand, m.o.Floor)) {
			return
		}
	}
}

// enqueue asks the workers for a look, unless one is waiting already. Where too
// many wait it does nothing: the next question asks again.
func (m *Manager) enqueue(e *entry) bool {
	if e.queued() || !e.queue() {
		return true
	}
	select {
	case m.queue <- e:
		return true
	default:
		e.unqueue()
		m.metrics.dropped.Inc()
		return false
	}
}

// Look returns the posture of a destination for a demand as a look found it
// that is at most maxAge old; with 0 one that ends after the call. Callers share
// one look. The error is that of ctx or [ErrStopped]; that nothing could be found
// out is a posture, Unknown. After an error the posture is not to be used.
//
// The Result, which must not be changed, is judged by the floor alone; the
// posture, by the demand.
func (m *Manager) Look(ctx context.Context, dest string, demand policy.TLSParams, maxAge time.Duration) (policy.Posture, *Result, error) {
	dest = Key(dest)
	now := m.o.Now()
	e := m.asked(dest, now)
	if !plain(demand) {
		m.note(e, demand)
	}
	if maxAge > 0 {
		if k := e.known.Load(); k.checked != 0 && now.Sub(k.checked.time()) <= maxAge && !k.checked.time().After(now) {
			if r := m.result(ctx, dest, k); r != nil {
				p, _ := k.fresh(dest, demand, m.o.Floor)
				return p, r, nil
			}
		}
	}
	f, err := m.fly(ctx, e, maxAge)
	if err != nil {
		return policy.Posture{}, nil, fmt.Errorf("look at %s: %w", dest, err)
	}
	p, _ := e.known.Load().fresh(dest, demand, m.o.Floor)
	return p, f.r, nil
}

// fly waits for a look whose evidence is not older than reuse: the one going
// on, if it will do, or a new one. The look itself does not end with ctx, since
// others may wait for it too.
func (m *Manager) fly(ctx context.Context, e *entry, reuse time.Duration) (*flight, error) {
	for {
		f, joined := m.start(e, reuse)
		if f == nil {
			return nil, ErrStopped
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if !joined || f.reuse <= reuse {
			return f, f.err
		}
	}
}

// start returns the look that is going on (joined), or a new one; nil where Run is
// over.
func (m *Manager) start(e *entry, reuse time.Duration) (f *flight, joined bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.flying[e]; f != nil {
		return f, true
	}
	if m.stopped {
		return nil, false
	}
	f = &flight{reuse: reuse, done: make(chan struct{})}
	m.flying[e] = f
	m.flights.Go(func() { m.run(e, f) })
	return f, false
}

// run carries a look out.
func (m *Manager) run(e *entry, f *flight) {
	ctx, cancel := context.WithTimeout(m.base, m.o.MaxLook)
	defer cancel()
	r := m.safeLook(ctx, e.dest(), f.reuse)
	if m.base.Err() != nil && r.State == policy.Unknown {
		f.err = ErrStopped // says nothing of the destination
	} else {
		f.r = r
		m.learn(e, r)
	}
	m.mu.Lock()
	delete(m.flying, e)
	m.mu.Unlock()
	close(f.done)
}

// safeLook keeps a fault in the parsing of foreign input from ending the mail
// server's helper: nothing is known then.
func (m *Manager) safeLook(ctx context.Context, dest string, reuse time.Duration) (r *Result) {
	defer func() {
		if fault := recover(); fault != nil {
			m.o.Log.Error("look at a destination failed: please report this", "dest", dest, "fault", fault, "stack", string(debug.Stack()))
			r = &Result{Dest: dest, State: policy.Unknown, Reason: "internal fault", MX: []MXResult{}, Checked: m.o.Now().UTC()}
		}
	}()
	return m.look(ctx, dest, reuse)
}

// learn remembers, schedules and saves what a look found.
func (m *Manager) learn(e *entry, r *Result) {
	var k, old *known
	var events []Event
	before, ok := m.recall(e)
	switch {
	case !ok:
		m.keepFacts(e, r)
		m.unlearned(e)
		return
	case before == nil:
		before = m.result(context.WithoutCancel(m.base), e.dest(), e.known.Load())
	}
	for { // a demand may be noted meanwhile
		old = e.known.Load()
		k, events = old.learn(before, r, m.o.Now(), m.o.Floor, m.o.AlarmAfter)
		if e.known.CompareAndSwap(old, k) {
			break
		}
	}
	if old.state() != k.state() {
		m.o.Log.Info("posture changed", "dest", e.dest(), "from", old.state(), "to", k.state(), "reason", r.Reason)
	}
	if m.o.OnChange != nil && (old.state() != k.state() || old.checked != 0 && !samePublished(old.ev.published, k.ev.published)) {
		m.o.OnChange()
	}
	for i := range events {
		m.tell(&events[i])
	}
	m.keepFacts(e, r)
	m.plan.set(e, k.next)
	m.keep(e.dest(), k, r, events)
}

// tell logs and counts an event.
func (m *Manager) tell(e *Event) {
	if !e.Alarm {
		m.o.Log.Info("destination changed", "dest", e.Dest, "event", e.Kind, "what", e.String())
		return
	}
	m.metrics.alarms.WithLabelValues(string(e.Kind)).Inc()
	m.o.Log.Warn("alarm: a destination "+e.Kind.Headline(), "dest", e.Dest, "event", e.Kind, "what", e.String())
}

// alarmed wakes who tells of alarms, if one of events is.
func (m *Manager) alarmed(events []Event) {
	if m.o.OnAlarm != nil && slices.ContainsFunc(events, func(e Event) bool { return e.Alarm }) {
		m.o.OnAlarm()
	}
}

// bounded keeps what can't be saved for long from filling the memory: the newest count.
func bounded(events []Event) []Event {
	const most = 100
	return events[max(0, len(events)-most):]
}

// lost returns how many destinations in memory have lost their TLS, with an alarm.
func (m *Manager) lost() (n int) {
	m.mem.each(func(e *entry) {
		k := e.known.Load()
		if k.rare == nil {
			return
		}
		for _, w := range k.rare.watch {
			if w.What == watchTLS && !w.Alarm.IsZero() {
				n++
			}
		}
	})
	return n
}

// LoadLater has [Manager.Run] call Load, beside everything else. Until that is done a
// question for what is not in memory yet reads its record, so that all is answered as if
// everything were there.
func (m *Manager) LoadLater() {
	if m.store != nil {
		m.loading.Store(true)
	}
}

// Load remembers what the store has. What got stale meanwhile is looked at
// again within minutes, spread out, if it was in use lately, and else when
// somebody asks.
func (m *Manager) Load(ctx context.Context) error {
	if m.store == nil {
		return nil
	}
	n, full := 0, false
	err := m.store.LoadPostures(ctx, func(r Record) error {
		if n%shards == 0 {
			full = m.mem.len() >= m.o.MaxEntries
		}
		if n++; full || r.Dest != Key(r.Dest) {
			return nil
		}
		e := m.add(r.Dest, m.o.Now())
		if _, ok := m.restore(e, r); ok {
			e.setUsed(stampOf(r.Checked))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("load postures: %w", err)
	}
	return nil
}

// restore remembers what was kept of a destination, unless a look is remembered already:
// then it returns false.
func (m *Manager) restore(e *entry, rec Record) (*Result, bool) {
	now := m.o.Now()
	k, r := load(rec, now)
	next := rec.Expires.Add(-rec.Expires.Sub(rec.Checked) / refreshAhead)
	if kind(k.state()) != 0 || k.expires == 0 {
		next = k.expires.time()
	}
	if soon := now.Add(rand.N(spreadAtStart)); next.Before(soon) {
		next = soon
	}
	k.next = stampOf(next)
	for {
		old := e.known.Load()
		if old.checked != 0 {
			return nil, false
		}
		n := k
		for _, d := range old.unusual().demands {
			if _, noted := n.fresh(e.dest(), d.demand, m.o.Floor); !noted {
				n = n.noting(e.dest(), d.demand, m.o.Floor)
			}
		}
		if e.known.CompareAndSwap(old, n) {
			break
		}
	}
	if e.told() == nil {
		m.restoreFacts(e, r)
	}
	m.plan.set(e, k.next)
	return r, true
}
