package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Where what lives on the heap is little, the collector runs when a quarter of it has been
// added, not when it has doubled: what is added is mostly what is read of large messages,
// and a small heap is soon looked through. With a large one, of very many rules, that would
// cost more time than it saves memory.
const (
	smallHeap, largeHeap   = 32 << 20, 64 << 20 // bytes; in between it stays as it is
	smallGrowth, goGrowth  = 25, 100            // per cent of what lives
	collectorWatchInterval = time.Minute
)

// growth returns by how many per cent the heap may grow, from what lives there and
// by how much it may grow now.
func growth(live uint64, now int) int {
	switch {
	case live < smallHeap:
		return smallGrowth
	case live > largeHeap:
		return goGrowth
	}
	return now
}

// paceCollector keeps the collector at growth until ctx is done. Where GOGC is in the
// environment that counts.
func paceCollector(ctx context.Context) error {
	if _, ok := os.LookupEnv("GOGC"); ok {
		return nil
	}
	tick := time.NewTicker(collectorWatchInterval)
	defer tick.Stop()
	for now := goGrowth; ; {
		if next := growth(liveHeap(), now); next != now {
			debug.SetGCPercent(next)
			now = next
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// liveHeap is what the last collection left, in bytes.
func liveHeap() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	if s[0].Value.Kind() != metrics.KindUint64 {
		return largeHeap + 1
	}
	return s[0].Value.Uint64()
}
