package audit

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func logLine(t *testing.T, asJSON bool, c Checkpoint) string {
	t.Helper()
	var b bytes.Buffer
	var h slog.Handler = slog.NewTextHandler(&b, nil)
	if asJSON {
		h = slog.NewJSONHandler(&b, nil)
	}
	slog.New(h).Info("checkpoint of the audit log", c.Attrs()...)
	return b.String()
}

// store is a database that may be locked.
type store struct {
	mu    sync.Mutex
	err   error
	puts  int
	kept  []Entry
	delay time.Duration
}

func (s *store) put(ctx context.Context, list ...Entry) error {
	time.Sleep(s.delay)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	s.puts++
	s.kept = append(s.kept, list...)
	return nil
}

// seen returns what was kept, by how many writes.
func (s *store) seen() ([]Entry, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.kept), s.puts
}

func (s *store) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func TestWriterGroupsAndKeepsTheOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{}
		w := NewWriter(s.put, nil, nil)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		for i := range 2500 {
			if err := w.Add(Entry{Kind: Decision, Item: strconv.Itoa(i)}); err != nil {
				t.Fatal(err)
			}
		}
		begin := time.Now()
		time.Sleep(writeDelay)
		synctest.Wait()
		kept, puts := s.seen()
		if len(kept) != 2500 || puts != 3 || time.Since(begin) > time.Second {
			t.Errorf("%d kept by %d writes after %s", len(kept), puts, time.Since(begin))
		}
		for i, e := range kept {
			if e.Item != strconv.Itoa(i) || e.At.IsZero() {
				t.Fatalf("entry %d is %+v", i, e)
			}
		}
		if err := w.Add(Entry{Kind: Decision}); err != nil {
			t.Fatal(err)
		}
		stop() // at the end nothing waits
		err := <-done
		if kept, _ := s.seen(); err != nil || len(kept) != 2501 {
			t.Errorf("%v, %d kept", err, len(kept))
		}
	})
}

// TestWriterFailsWhereNothingIsWritten holds that no decision is carried out for long
// of which nobody will find a word, and that none is lost by a database that is back.
func TestWriterFailsWhereNothingIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, reg := &store{err: errors.New("locked")}, prometheus.NewRegistry()
		w := NewWriter(s.put, nil, reg)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		defer func() { stop(); <-done }()
		begin, taken := time.Now(), 0
		for {
			err := w.Add(Entry{Kind: Decision})
			if errors.Is(err, ErrBehind) {
				break
			}
			taken++
			time.Sleep(100 * time.Millisecond)
			if time.Since(begin) > time.Minute {
				t.Fatal("decisions are taken for a minute that nobody writes")
			}
		}
		if d := time.Since(begin); d < behindTime || d > behindTime+time.Second {
			t.Errorf("refused after %s", d)
		}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "postseal_audit_refused_total" && f.GetMetric()[0].GetCounter().GetValue() != 1 {
				t.Errorf("%s", f)
			}
		}
		s.fail(nil)
		time.Sleep(2 * writeAgain)
		synctest.Wait()
		if kept, _ := s.seen(); len(kept) != taken {
			t.Errorf("%d of %d are kept", len(kept), taken)
		}
		if err := w.Add(Entry{Kind: Decision}); err != nil {
			t.Errorf("after the trouble: %v", err)
		}
	})
}

func TestWriterTakesNoMoreThanItHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWriter(nil, nil, nil) // nobody writes
		for range behindMost {
			if err := w.Add(Entry{}); err != nil {
				t.Fatal(err)
			}
		}
		begin := time.Now()
		if err := w.Add(Entry{}); !errors.Is(err, ErrBehind) || time.Since(begin) != roomTime {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
	})
}

// TestWriterSlowsDecisionsDown holds that none is put off while the disk takes entries,
// be they more than it takes at a time.
func TestWriterSlowsDecisionsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{delay: 200 * time.Millisecond}
		w := NewWriter(s.put, nil, nil)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		const each, clients = 1000, 30
		var all sync.WaitGroup
		for range clients {
			all.Go(func() {
				for range each {
					if err := w.Add(Entry{Kind: Decision}); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		stop()
		<-done
		if kept, _ := s.seen(); len(kept) != each*clients {
			t.Errorf("%d of %d are kept", len(kept), each*clients)
		}
	})
}
