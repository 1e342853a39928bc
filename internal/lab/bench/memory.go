package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/probe"
)

// heap is what lives on it, in bytes.
func heap() uint64 {
	for range 3 { // interned values go one collection after their users
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// store keeps records as a database would: not in this process's memory, but made
// anew for each reader.
type store struct {
	probe.Store // of what is not called
	n           int
}

func (s store) LoadPostures(_ context.Context, each func(probe.Record) error) error {
	for i := range s.n {
		if err := each(record(i)); err != nil {
			return err
		}
	}
	return nil
}

// memory measures what a posture and a rule take, and how long making room for new
// ones can hold up an answer.
func memory(s *settings) {
	heading("Memory, and stalls")
	resolver, err := probe.NewResolver([]string{"127.0.0.1:9"})
	if err != nil {
		panic(err)
	}
	prober, err := probe.NewProber(probe.Options{Resolver: resolver})
	if err != nil {
		panic(err)
	}
	before := heap()
	m := probe.NewManager(prober, store{n: s.domains}, probe.ManagerOptions{MaxEntries: 2 * s.domains})
	if err := m.Load(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	after := heap()
	fmt.Printf("  a posture: %.0f bytes (%d of them, nine of ten at %d shared hosts); postfix-tlspol 1.13, as measured elsewhere: 1.0 kB\n",
		float64(after-before)/float64(s.domains), s.domains, hosters)
	runtime.KeepAlive(m)
	m = nil
	before = heap()
	rules := make([]*policy.Rule, s.rules)
	for i := range rules {
		rules[i] = &policy.Rule{ID: int64(i), Scope: policy.ByRecipient, Pattern: domain(i), Requirement: policy.Encryption, Created: time.Now()}
	}
	snapshot, err := policy.NewSnapshot(1, rules, "+")
	if err != nil {
		panic(err)
	}
	rules = nil
	fmt.Printf("  a rule: %.0f bytes (%d of them)\n", float64(heap()-before)/float64(s.rules), s.rules)
	runtime.KeepAlive(snapshot)

	if !s.wants("stall") {
		return
	}
	m = probe.NewManager(prober, nil, probe.ManagerOptions{MaxEntries: s.domains})
	var worst time.Duration
	n := 3 * s.domains
	for i := range n {
		start := time.Now()
		m.Posture(domain(i), policy.TLSParams{})
		worst = max(worst, time.Since(start))
	}
	fmt.Printf("  worst stall of %d questions for new domains with room for %d, with %d rules in memory: %v; postfix-tlspol 1.13, as measured elsewhere: 2.1 s\n", n, s.domains, s.rules, worst.Round(time.Microsecond))
	runtime.KeepAlive(snapshot)
}
