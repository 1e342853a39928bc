package audit

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// How a [Writer] writes.
const (
	// writeDelay is how long an entry waits for others to be written with it.
	writeDelay = 100 * time.Millisecond
	// behindTime and behindMost are how long the oldest entry may wait, and how many
	// there may be, before no more are taken.
	behindTime = 10 * time.Second
	behindMost = 10_000
	roomTime   = 5 * time.Second // how long is waited for room
	writeBatch = 1000
	writeTime  = 30 * time.Second // one try
	writeAgain = time.Second      // after one that has failed
)

// ErrBehind reports that entries can't be written for now: what they would tell of must
// not be done.
var ErrBehind = errors.New("the audit log can't be written for now")

// Writer writes entries of what is decided without a change in the database: many at a
// time, so that a decision does not wait for the disk. What was added is on the disk
// within a second, where the disk takes it; when the process is killed, entries of that
// last moment can be missing. Where the database takes nothing for longer than that, Add
// fails, and what was to be decided waits.
type Writer struct {
	put func(ctx context.Context, entries ...Entry) error
	log *slog.Logger

	mu      sync.Mutex
	waiting []Entry
	room    chan struct{} // closed when entries were written; nil: nobody waits for that
	wake    chan struct{}
	refused prometheus.Counter
	failed  prometheus.Counter
}

// NewWriter returns a writer that writes with put, all entries or none. It does nothing
// until Run. reg may be nil.
func NewWriter(put func(ctx context.Context, entries ...Entry) error, log *slog.Logger, reg prometheus.Registerer) *Writer {
	w := &Writer{put: put, log: log, wake: make(chan struct{}, 1)}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	w.refused = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "postseal_audit_refused_total", Help: "Decisions that were put off since the audit log could not be written.",
	})
	w.failed = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "postseal_audit_failures_total", Help: "Writes of decisions to the audit log that failed, and were tried again.",
	})
	waiting := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "postseal_audit_waiting", Help: "Decisions that are not in the audit log yet.",
	}, func() float64 {
		w.mu.Lock()
		defer w.mu.Unlock()
		return float64(len(w.waiting))
	})
	if reg != nil {
		reg.MustRegister(w.refused, w.failed, waiting)
	}
	return w
}

// Add takes an entry, which it gives the time of now. It does not wait for the disk, but
// where decisions come faster than the disk takes them, it waits up to five seconds for
// room: they slow down then and are not put off. On an error ([ErrBehind]) it has not
// taken it.
func (w *Writer) Add(e Entry) error {
	e.At = time.Now()
	for until := e.At.Add(roomTime); ; {
		room, err := w.add(e)
		if err != nil {
			w.refused.Inc()
			return err
		}
		if room == nil {
			return nil
		}
		select {
		case <-room:
		case <-time.After(time.Until(until)):
			w.refused.Inc()
			return ErrBehind
		}
	}
}

// add takes an entry; or returns what to wait for, where there is no room.
func (w *Writer) add(e Entry) (room <-chan struct{}, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case len(w.waiting) > 0 && time.Since(w.waiting[0].At) > behindTime:
		return nil, ErrBehind
	case len(w.waiting) >= behindMost:
		if w.room == nil {
			w.room = make(chan struct{})
		}
		return w.room, nil
	}
	w.waiting = append(w.waiting, e)
	if len(w.waiting) == 1 {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
	return nil, nil
}

// Run writes until ctx is done, and then what still waits. It returns nil.
func (w *Writer) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			w.flush(context.WithoutCancel(ctx))
			return nil
		case <-w.wake:
		}
		wait(ctx, writeDelay)
		for w.flush(context.WithoutCancel(ctx)) != nil && ctx.Err() == nil {
			wait(ctx, writeAgain)
		}
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// flush writes all that waits. What can't be written waits on.
func (w *Writer) flush(ctx context.Context) error {
	for {
		w.mu.Lock()
		batch := w.waiting[:min(len(w.waiting), writeBatch):min(len(w.waiting), writeBatch)]
		w.mu.Unlock()
		if len(batch) == 0 {
			return nil
		}
		one, cancel := context.WithTimeout(ctx, writeTime)
		err := w.put(one, batch...)
		cancel()
		if err != nil {
			w.failed.Inc()
			w.log.Error("decisions can't be written to the audit log; after some seconds of that mail that must be encrypted waits", "entries", len(batch), "error", err)
			return err
		}
		w.mu.Lock()
		if w.waiting = w.waiting[len(batch):]; len(w.waiting) == 0 {
			w.waiting = nil
		}
		if w.room != nil {
			close(w.room)
			w.room = nil
		}
		w.mu.Unlock()
	}
}
