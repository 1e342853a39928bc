package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/postseal/postseal/sql"
)

// starts is how often a start is measured, and a change: the machine may be busy.
const starts = 3

// start measures how long the program takes from its start to ready.
func start(ctx context.Context, s *settings, dir, resolver, how string) error {
	var ready, cpu []time.Duration
	var resident int64
	for range starts {
		p, err := startPostseal(ctx, s, dir, resolver)
		if err != nil {
			return err
		}
		ready, cpu, resident = append(ready, p.ready), append(cpu, p.started), p.resident()
		p.stop()
	}
	fmt.Printf("  ready after %.2f s, %.2f s of CPU, with %d rules and %d postures, %d MB resident: %s\n",
		slices.Min(ready).Seconds(), slices.Min(cpu).Seconds(), s.rules, s.domains, resident>>20, how)
	return nil
}

// packRules packs the rules as serve does in its first minute.
func packRules(ctx context.Context, dir string) error {
	db, err := sql.Open(ctx, "sqlite:"+filepath.Join(dir, "postseal.db"), sql.Options{})
	if err != nil {
		return err
	}
	defer db.Close()
	s, err := db.Snapshot(ctx, "+", nil)
	if err != nil {
		return err
	}
	rows, _, err := db.VerifyRules(ctx, "+", s)
	if err != nil {
		return err
	}
	return db.PackRules(ctx, rows)
}

// change measures how long it takes from a call of the command line that adds a rule
// until the running server answers by it.
func change(ctx context.Context, s *settings, dir, resolver string) error {
	p, err := startPostseal(ctx, s, dir, resolver)
	if err != nil {
		return err
	}
	defer p.stop()
	time.Sleep(5 * time.Second) // the postures are read
	var took, written, cpu []time.Duration
	for i := range starts {
		began := time.Now()
		domain := fmt.Sprintf("changed-%d.example", i)
		add := exec.CommandContext(ctx, s.binary, "domain", "add", domain, "--require", "escrow")
		add.Env = append(os.Environ(), "POSTSEAL_DB=sqlite:"+filepath.Join(dir, "postseal.db"))
		if out, err := add.CombinedOutput(); err != nil {
			return fmt.Errorf("postseal domain add: %w: %s", err, out)
		}
		written = append(written, time.Since(began))
		used := add.ProcessState.SysUsage().(*syscall.Rusage)
		cpu = append(cpu, time.Duration(used.Utime.Nano()+used.Stime.Nano()))
		for {
			reply, _, err := one(p.maps, "transport joe@"+domain)
			if err != nil {
				return err
			}
			if reply != "NOTFOUND " {
				break
			}
			if time.Since(began) > time.Minute {
				return fmt.Errorf("the rule for %s is not seen", domain)
			}
			time.Sleep(time.Millisecond)
		}
		took = append(took, time.Since(began))
	}
	fmt.Printf("  a rule that is added is in force after %.2f s: %.2f s and %.2f s of CPU for postseal domain add, then the server reads it\n",
		slices.Min(took).Seconds(), slices.Min(written).Seconds(), slices.Min(cpu).Seconds())
	return nil
}
