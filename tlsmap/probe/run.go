package probe

import (
	"context"
	"sync"
	"time"
)

// Run looks at what is queued or due, and saves what is learned, until ctx is
// done. Looks that go on then are broken off and what was learned is saved. It
// returns nil, or what [Manager.LoadLater] failed with. It can be called once; afterwards
// Look returns [ErrStopped].
func (m *Manager) Run(ctx context.Context) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var failed error
	var loader sync.WaitGroup
	if m.loading.Load() {
		loader.Go(func() {
			err := m.Load(ctx)
			switch {
			case err == nil:
				m.loading.Store(false)
				close(m.loaded)
			case ctx.Err() == nil:
				failed = err
				fail(err)
			}
		})
	}
	m.mu.Lock()
	m.running = true
	m.mu.Unlock()
	defer context.AfterFunc(ctx, m.stop)()

	var workers, saver sync.WaitGroup
	for range m.o.Workers {
		workers.Go(func() { m.work(ctx) })
	}
	saving, end := context.WithCancel(context.WithoutCancel(ctx))
	saver.Go(func() { m.save(saving) })
	m.refresh(ctx)
	workers.Wait()
	m.mu.Lock()
	m.stopped = true
	m.mu.Unlock()
	m.stop()
	m.flights.Wait()
	end()
	saver.Wait()
	loader.Wait()
	return failed
}

func (m *Manager) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-m.queue:
			e.unqueue()
			if k, now := e.known.Load(), m.o.Now(); now.Before(k.next.time()) && !k.stale(now) {
				continue // somebody looked meanwhile
			}
			// The error is that of ctx: learn has seen to all else.
			m.fly(ctx, e, backgroundReuse)
		}
	}
}

// refresh queues what is due, and sweeps.
func (m *Manager) refresh(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-sweep.C:
			m.sweep(ctx)
			continue
		case <-timer.C:
		case <-m.plan.wake:
		}
		now := m.o.Now()
		wait := time.Hour
		ready, next := m.plan.pop(now)
		if !next.IsZero() {
			wait = min(wait, next.Sub(now))
		}
		for _, e := range ready {
			if now.Unix()-e.used() > int64(refreshUsed/time.Second) {
				continue // looked at when somebody asks again
			}
			if !m.enqueue(e) {
				m.plan.set(e, stampOf(now.Add(less(doubtFirst))))
			}
		}
		timer.Reset(wait)
	}
}

func (m *Manager) sweep(ctx context.Context) {
	since := m.o.Now().Add(-forgetAfter)
	m.mem.sweep(since)
	m.metrics.known.Set(float64(m.mem.len()))
	if m.store == nil {
		return
	}
	if err := m.store.DeletePostures(ctx, since); err != nil && ctx.Err() == nil {
		m.o.Log.Warn("old postures not deleted", "error", err)
	}
	if err := m.store.DeleteEvents(ctx, m.o.Now().Add(-EventsFor), EventsMost); err != nil && ctx.Err() == nil {
		m.o.Log.Warn("old history of destinations not deleted", "error", err)
	}
}

// The saver writes at most so many records in one transaction, and not more
// often than this.
const (
	saveMost  = 500
	saveEvery = 250 * time.Millisecond
	saveRetry = 10 * time.Second
	saveLimit = 10 * time.Second // for one transaction
)

// save writes what was learned, many records at a time, until ctx is done and
// then once more.
func (m *Manager) save(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			m.flush()
			return
		case <-m.saveNow:
		}
		wait := saveEvery
		if !m.flush() {
			wait = saveRetry
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}
