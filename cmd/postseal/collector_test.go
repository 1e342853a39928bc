package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"
)

func TestGrowth(t *testing.T) {
	for _, tt := range []struct {
		live      uint64
		now, want int
	}{
		{0, 100, 25},
		{10 << 20, 100, 25},
		{10 << 20, 25, 25},
		{48 << 20, 25, 25},
		{48 << 20, 100, 100},
		{400 << 20, 25, 100},
		{400 << 20, 100, 100},
	} {
		if got := growth(tt.live, tt.now); got != tt.want {
			t.Errorf("%d MiB live, at %d: %d, want %d", tt.live>>20, tt.now, got, tt.want)
		}
	}
}

// The collector is told that the heap is small, and again when it has become large.
func TestPaceCollector(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(goGrowth))
	percent := func() int {
		p := debug.SetGCPercent(goGrowth)
		debug.SetGCPercent(p)
		return p
	}
	pace := func(t *testing.T, while func()) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- paceCollector(ctx) }()
		synctest.Wait()
		while()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Setenv("GOGC", "100")
	runtime.GC()
	synctest.Test(t, func(t *testing.T) {
		pace(t, func() {
			if p := percent(); p != goGrowth {
				t.Errorf("%d, against GOGC", p)
			}
		})
	})
	os.Unsetenv("GOGC") // as it was before, when the test is over
	synctest.Test(t, func(t *testing.T) {
		pace(t, func() {
			if p := percent(); p != smallGrowth {
				t.Errorf("a heap of %d bytes: %d", liveHeap(), p)
			}
			rules := make([]byte, largeHeap)
			runtime.GC()
			time.Sleep(collectorWatchInterval)
			synctest.Wait()
			if p := percent(); p != goGrowth {
				t.Errorf("a heap of %d bytes: %d", liveHeap(), p)
			}
			runtime.KeepAlive(rules)
		})
	})
}
