// Guards takes the guards of the promise out, one at a time, and runs the test
// that must notice. guards.txt is the table.
//
// Each guard is taken out in a copy of the tree, in a directory of its own that is
// gone at the end; the program is built there, and the tests get it by POSTSEAL_BIN.
// Before, the test is run on the untouched copy: there it must pass, or its failing
// would say nothing.
//
//	guards [-run REGEXP] [-patience 30s] [-limit 3m] [-v] [-rows]
//
// It prints one line a guard, and exits 1 if one is not held.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	held, err := run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "guards:", err)
	}
	if err != nil || !held {
		os.Exit(1)
	}
}

func run(ctx context.Context) (held bool, err error) {
	var (
		only     = flag.String("run", "", "guards whose name matches this `regexp`")
		patience = flag.String("patience", "30s", "how long a test waits for anything")
		limit    = flag.Duration("limit", 3*time.Minute, "for one test")
		verbose  = flag.Bool("v", false, "print the output of the tests")
		rows     = flag.Bool("rows", false, "print the rows of docs/guards.md, and run nothing")
	)
	flag.Parse()
	root, err := moduleRoot()
	if err != nil {
		return false, err
	}
	all, err := readTable(filepath.Join(root, "internal/lab/guards/guards.txt"))
	if err != nil {
		return false, err
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		return false, err
	}
	if *rows {
		for _, g := range all {
			fmt.Println(g.row())
		}
		return true, nil
	}
	tmp, err := os.MkdirTemp("", "postseal-guards-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(tmp)
	b := bench{tree: filepath.Join(tmp, "tree"), bin: filepath.Join(tmp, "postseal"), untouched: filepath.Join(tmp, "untouched"),
		tests: filepath.Join(tmp, "e2e.test"), patience: *patience, limit: *limit, verbose: *verbose, passed: make(map[string]string)}
	if err := copyTree(root, b.tree); err != nil {
		return false, err
	}
	if err := b.build(ctx, b.untouched); err != nil {
		return false, err
	}
	// The end-to-end tests have no code of the program in them.
	if out, err := b.command(ctx, "go", "test", "-c", "-o", b.tests, e2e); err != nil {
		return false, fmt.Errorf("build the tests: %w\n%s", err, out)
	}
	counts := make(map[string]int)
	for _, g := range all {
		if !match.MatchString(g.id) {
			continue
		}
		start := time.Now()
		verdict, why := b.try(ctx, g)
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		counts[verdict]++
		fmt.Printf("%-8s  %-32s %3.0fs  %s: %s\n", verdict, g.id, time.Since(start).Seconds(), g.test, why)
	}
	fmt.Printf("%d held, %d NOT HELD, %d could not be tried\n", counts["held"], counts["NOT HELD"], counts["ERROR"])
	return counts["NOT HELD"]+counts["ERROR"] == 0, nil
}

// bench is a copy of the tree, with the programs built of it.
type bench struct {
	tree, bin, untouched, tests string
	patience                    string
	limit                       time.Duration
	verbose                     bool
	passed                      map[string]string // tests that were run untouched: what went wrong, "" for nothing
}

// try says whether the test of a guard fails without it.
func (b *bench) try(ctx context.Context, g *guard) (verdict, why string) {
	key := g.pkg + " " + g.test + " " + g.patience
	wrong, known := b.passed[key]
	if !known {
		out, failed := b.test(ctx, g, b.untouched)
		switch {
		case failed:
			wrong = "the test fails with the guard in place, too: " + firstFailure(out)
		case !strings.Contains(out, "--- PASS"):
			wrong = "no such test"
		}
		b.passed[key] = wrong
	}
	if wrong != "" {
		return "ERROR", wrong
	}
	restore, err := g.apply(b.tree)
	if err != nil {
		return "ERROR", err.Error()
	}
	defer restore()
	if err := b.build(ctx, b.bin); err != nil {
		return "ERROR", err.Error()
	}
	out, failed := b.test(ctx, g, b.bin)
	if b.verbose {
		fmt.Println(out)
	}
	switch first := firstFailure(out); {
	case !failed:
		return "NOT HELD", g.does
	case strings.HasPrefix(first, "bed:"), first == "":
		return "ERROR", "the test failed for another reason: " + first
	default:
		return "held", first
	}
}

func (b *bench) build(ctx context.Context, bin string) error {
	if out, err := b.command(ctx, "go", "build", "-tags", "crashpoints", "-o", bin, "./cmd/postseal"); err != nil {
		return fmt.Errorf("build: %w\n%s", err, out)
	}
	return nil
}

// test runs the test of a guard with a binary of postseal.
func (b *bench) test(ctx context.Context, g *guard, bin string) (out string, failed bool) {
	ctx, cancel := context.WithTimeout(ctx, b.limit+10*time.Second)
	defer cancel()
	patience := b.patience
	if g.patience != "" {
		patience = g.patience
	}
	args := []string{b.tests, "-test.v", "-test.failfast", "-test.run", g.test, "-test.timeout", b.limit.String()}
	if g.pkg != e2e {
		args = []string{"go", "test", "-count=1", "-v", "-run", g.test, "-timeout", b.limit.String(), g.pkg}
	}
	text, err := b.command(ctx, "env", append([]string{"CI=true", "POSTSEAL_BIN=" + bin, "POSTSEAL_LAB_PATIENCE=" + patience}, args...)...)
	return text, err != nil
}

// command runs a command in the tree.
func (b *bench) command(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = b.tree
	if slices.Contains(args, "-test.v") { // a test binary runs where its sources are
		cmd.Dir = filepath.Join(b.tree, e2e)
	}
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

var failure = regexp.MustCompile(`(?m)^\s+(\w+_test|\w+)\.go:\d+: (.*)$`)

// firstFailure returns the first thing that a test said, and a leak before all else;
// "" where it was cut off.
func firstFailure(out string) string {
	if strings.Contains(out, "panic: test timed out") {
		return "" // says nothing
	}
	first := ""
	for _, m := range failure.FindAllStringSubmatch(out, -1) {
		switch s := m[2]; {
		case strings.HasPrefix(s, "LEAK"):
			return s
		case first == "" && !strings.Contains(s, "===="):
			first = s[:min(len(s), 160)]
		}
	}
	return first
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("not in the source tree")
		}
		dir = filepath.Dir(dir)
	}
}

// copyTree copies the sources. What starts with a dot, and what make builds, stays.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch {
		case rel != "." && strings.HasPrefix(d.Name(), "."), rel == "bin", rel == "run":
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o644)
	})
}
