// Command bench measures Postseal as it runs: the program itself, with its default
// logging and metrics, a million rules and a hundred thousand postures in its
// database, asked over loopback. docs/bench.md says how to read what it prints.
//
// Rates on a machine that others use too drift by a third within an hour, so only
// ratios count: every warm rate is measured in turns with a bare echo server
// of the same protocol (bufio, one goroutine for each connection), which is as fast as
// a Go program can answer.
//
//	bench [-postseal BINARY] [-rules N] [-domains N] [-time D] [-rounds N] [-only REGEXP]
//
// The way of a run: [prepare] fills a database, [startPostseal] runs the program on it and
// [startEcho] the baseline (this program again, as a child, so that the processor time of
// a server is known); warm.go, cold.go, bulk.go, memory.go, sealing.go and
// large.go are the measurements. It
// never fails because something is slow.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"time"

	"github.com/postseal/postseal/internal/lab/fakedns"
)

// settings are the flags.
type settings struct {
	binary         string
	rules, domains int
	rounds         int
	each           time.Duration
	only           *regexp.Regexp
	bulk           int
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "echo" {
		echo(os.Args[2:])
		return
	}
	var s settings
	var only string
	flag.StringVar(&s.binary, "postseal", "bin/postseal", "the program")
	flag.IntVar(&s.rules, "rules", 1_000_000, "rules in the database")
	flag.IntVar(&s.domains, "domains", 100_000, "domains whose posture is known")
	flag.IntVar(&s.bulk, "bulk", 10_000, "domains of postseal check --file")
	flag.IntVar(&s.rounds, "rounds", 7, "rounds of each warm rate")
	flag.DurationVar(&s.each, "time", 400*time.Millisecond, "of one measurement in a round")
	flag.StringVar(&only, "only", ".", "measure what matches: start, map, policy, cold, silent, memory, stall, check, seal, large")
	flag.Parse()
	s.only = regexp.MustCompile(only)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, &s); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (s *settings) wants(what ...string) bool {
	for _, w := range what {
		if s.only.MatchString(w) {
			return true
		}
	}
	return false
}

func run(ctx context.Context, s *settings) error {
	fmt.Printf("%s, %d processors for client and server together, %d rules, %d domains\n", runtime.Version(), runtime.NumCPU(), s.rules, s.domains)
	if s.wants("memory", "stall") {
		memory(s)
	}
	if s.wants("check") {
		if err := bulkRate(ctx, s); err != nil {
			return fmt.Errorf("check: %w", err)
		}
	}
	if !s.wants("start", "map", "policy", "cold", "silent", "seal", "large") {
		return nil
	}
	dir, err := os.MkdirTemp("", "postseal-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if s.wants("seal") {
		if err := sealing(ctx, s, dir); err != nil {
			return fmt.Errorf("seal: %w", err)
		}
	}
	if s.wants("large") {
		if err := large(ctx, s, dir); err != nil {
			return fmt.Errorf("large: %w", err)
		}
	}
	if !s.wants("start", "map", "policy", "cold", "silent") {
		return nil
	}
	names, err := fakedns.Start("127.0.0.1:0")
	if err != nil {
		return err
	}
	defer names.Close()
	if err := prepare(ctx, s, dir, names); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	if s.wants("start") {
		heading("Restart")
		if err := start(ctx, s, dir, names.Addr(), "without the pack of the rules"); err != nil {
			return err
		}
	}
	if err := packRules(ctx, dir); err != nil {
		return fmt.Errorf("pack the rules: %w", err)
	}
	if s.wants("start") {
		if err := start(ctx, s, dir, names.Addr(), "with it, as after any run of a minute"); err != nil {
			return err
		}
		if err := change(ctx, s, dir, names.Addr()); err != nil {
			return err
		}
	}
	if !s.wants("map", "policy", "cold", "silent") {
		return nil
	}
	p, err := startPostseal(ctx, s, dir, names.Addr())
	if err != nil {
		return err
	}
	defer p.stop()
	if s.wants("map") {
		if err := warmMaps(s, p); err != nil {
			return fmt.Errorf("maps: %w", err)
		}
	}
	if s.wants("policy") {
		if err := warmPolicy(s, p); err != nil {
			return fmt.Errorf("policy: %w", err)
		}
	}
	if s.wants("cold") {
		if err := cold(s, p); err != nil {
			return fmt.Errorf("cold: %w", err)
		}
	}
	if s.wants("silent") {
		p.stop()
		if err := silent(ctx, s, dir); err != nil {
			return fmt.Errorf("silent resolver: %w", err)
		}
	}
	return nil
}

func heading(text string) { fmt.Printf("\n%s\n", text) }
