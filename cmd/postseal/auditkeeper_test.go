package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/internal/lab/logtext"
)

// fakeAudit keeps checkpoints in memory.
type fakeAudit struct {
	mu     sync.Mutex
	list   []audit.Checkpoint
	pruned []time.Time
	err    error
}

func (f *fakeAudit) Audit(context.Context, ...audit.Entry) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}
func (f *fakeAudit) AuditCheckpoints(context.Context) ([]audit.Checkpoint, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.list), f.err
}

func (f *fakeAudit) AuditCheckpoint(_ context.Context, kind string, key ed25519.PrivateKey) (audit.Checkpoint, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := audit.Checkpoint{Kind: kind, At: time.Now(), Seq: int64(len(f.list) + 1)}
	c.Sign(key)
	f.list = append(f.list, c)
	return c, f.err
}

func (f *fakeAudit) PruneAudit(_ context.Context, before time.Time, _ ed25519.PrivateKey) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pruned = append(f.pruned, before)
	return 0, f.err
}

// seen returns how many checkpoints there are, and what was pruned.
func (f *fakeAudit) seen() (n int, pruned []time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.list), slices.Clone(f.pruned)
}

func (f *fakeAudit) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// loggedText is a log that is read while it is written.
type loggedText = logtext.Log

// TestACheckpointADay lets five days pass, one of them with a database that is locked
// for an hour, and one with a file that can't be written.
func TestACheckpointADay(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var log loggedText
		f := &fakeAudit{}
		key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
		file := filepath.Join(dir, "sub", "checkpoints.jsonl")
		k := &auditKeeper{
			store: f, key: key, keep: 2192 * 24 * time.Hour, file: file, log: slog.New(slog.NewTextHandler(&log, nil)),
			last: prometheus.NewGauge(prometheus.GaugeOpts{Name: "x"}),
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		begin := time.Now()
		go func() { done <- k.run(ctx) }()
		in := func() []audit.Checkpoint {
			t.Helper()
			b, err := os.Open(file)
			if err != nil {
				return nil
			}
			defer b.Close()
			list, err := audit.ReadCheckpoints(b)
			if err != nil {
				t.Fatal(err)
			}
			return list
		}
		pass := func(d time.Duration) { time.Sleep(d); synctest.Wait() }
		pass(time.Second)
		if n, _ := f.seen(); n != 1 || len(in()) != 0 || !strings.Contains(log.String(), "audit-checkpoint-file") {
			t.Fatalf("at the start: %d, in the file %d\n%s", n, len(in()), log.String())
		}
		if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		pass(2 * auditRetry)
		if n, _ := f.seen(); n != 1 || len(in()) != 1 {
			t.Fatalf("the file is there: %d, in the file %d", n, len(in()))
		}
		pass(untilTomorrow(time.Now()) + time.Second)
		if n, _ := f.seen(); n != 2 || len(in()) != 2 {
			t.Fatalf("a day later: %d, in the file %d", n, len(in()))
		}
		f.fail(errors.New("locked"))
		pass(24*time.Hour + 59*time.Minute)
		f.fail(nil)
		pass(2 * auditRetry)
		if n := len(in()); n != 3 {
			t.Fatalf("after a lock: in the file %d", n)
		}
		pass(48 * time.Hour)
		got := in()
		_, pruned := f.seen()
		if len(got) != 5 || len(pruned) < 5 {
			t.Errorf("after %s: %d in the file, pruned %d times", time.Since(begin), len(got), len(pruned))
		}
		for i, c := range got {
			if !c.Valid(key.Public().(ed25519.PublicKey)) || c.Kind != audit.Daily || i > 0 && c.At.Sub(got[i-1].At) > 26*time.Hour {
				t.Errorf("%d: %+v", i, c)
			}
		}
		if before := pruned[len(pruned)-1]; time.Since(before) < 2192*24*time.Hour {
			t.Errorf("pruned before %s", before)
		}
		logged, err := audit.ReadCheckpoints(strings.NewReader(log.String()))
		if err != nil || len(logged) != 5 {
			t.Errorf("%d in the log, %v", len(logged), err)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestAWrongClockDoesNotEndCheckpoints: one that was ahead for a while has left a checkpoint
// of the future, and one that is far ahead must not have the log pruned at once.
func TestAWrongClockDoesNotEndCheckpoints(t *testing.T) {
	file := filepath.Join(t.TempDir(), "checkpoints.jsonl")
	synctest.Test(t, func(t *testing.T) {
		const keep = 2192 * 24 * time.Hour
		key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
		now := time.Now()
		future := audit.Checkpoint{Kind: audit.Daily, At: now.AddDate(1, 0, 0), Seq: 1}
		future.Sign(key)
		f := &fakeAudit{list: []audit.Checkpoint{future}}
		var log loggedText
		k := &auditKeeper{
			store: f, key: key, keep: keep, file: file, log: slog.New(slog.NewTextHandler(&log, nil)),
			last: prometheus.NewGauge(prometheus.GaugeOpts{Name: "x"}),
		}
		in := func() []audit.Checkpoint {
			t.Helper()
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			list, err := audit.ReadCheckpoints(bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			return list
		}
		round := func(what string, n int) {
			t.Helper()
			for range 2 { // the second has nothing to do
				if err := k.round(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if got, _ := f.seen(); got != n || len(in()) != n || !in()[n-1].At.Equal(time.Now()) {
				t.Errorf("%s: %d checkpoints, in the file %d", what, got, len(in()))
			}
		}
		round("after one of the future", 2)
		time.Sleep(24 * time.Hour)
		round("the next day", 3)
		if _, pruned := f.seen(); !pruned[len(pruned)-1].Equal(time.Now().Add(-keep)) {
			t.Errorf("pruned before %v", pruned)
		}
		last := time.Now()
		time.Sleep(10 * 365 * 24 * time.Hour) // or so says the clock
		round("far ahead", 4)
		if _, pruned := f.seen(); !pruned[len(pruned)-1].Equal(last.Add(-keep)) {
			t.Errorf("a clock that is far ahead prunes all before %s", pruned[len(pruned)-1])
		}
		if !strings.Contains(log.String(), "the clock is far ahead") {
			t.Error("nothing is logged of it")
		}
		time.Sleep(24 * time.Hour)
		round("and is so for a day", 5)
		if _, pruned := f.seen(); !pruned[len(pruned)-1].Equal(time.Now().Add(-keep)) {
			t.Errorf("pruned before %s", pruned[len(pruned)-1])
		}
	})
}
