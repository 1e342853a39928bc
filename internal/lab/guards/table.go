package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// guard is one thing that holds the promise, and how to take it out.
type guard struct {
	id       string
	pkg      string    // of the test; the end-to-end tests if the table says nothing
	test     string    // pattern of go test -run
	does     string    // what the removal does
	why      string    // why the guard is there
	patience string    // how long the test waits for anything; "" is the runner's
	removals []removal // several, where guards stand behind one another
}

// removal replaces old, which stands in a file once, by text.
type removal struct{ file, old, text string }

const e2e = "./internal/lab/e2e"

// readTable reads the table of guards: blocks that start with "guard NAME", then
// "key: value" lines, then for each removal "file: PATH" and lines between <<<, ===
// and >>>. Lines that start with # are comments.
func readTable(name string) ([]*guard, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var (
		all  []*guard
		g    *guard
		seen = make(map[string]bool)
		in   *string // of the removal that is being read
	)
	for n, line := range strings.Split(string(b), "\n") {
		bad := func(what string) error { return fmt.Errorf("%s:%d: %s", name, n+1, what) }
		if in != nil && line != "===" && line != ">>>" {
			*in += line + "\n"
			continue
		}
		if line == "" || line[0] == '#' {
			continue
		}
		if id, ok := strings.CutPrefix(line, "guard "); ok {
			if seen[id] {
				return nil, bad("the name is taken")
			}
			seen[id] = true
			g = &guard{id: id, pkg: e2e}
			all = append(all, g)
			continue
		}
		if g == nil {
			return nil, bad("no guard yet")
		}
		last := func() *removal { return &g.removals[len(g.removals)-1] }
		switch line {
		case "<<<":
			if len(g.removals) == 0 || last().old != "" {
				return nil, bad("no file")
			}
			in = &last().old
			continue
		case "===":
			if in == nil || in != &last().old {
				return nil, bad("not in a removal")
			}
			in = &last().text
			continue
		case ">>>":
			if in == nil || in != &last().text {
				return nil, bad("not in a removal")
			}
			in = nil
			continue
		}
		key, value, _ := strings.Cut(line, ": ")
		switch key {
		case "package":
			g.pkg = value
		case "test":
			g.test = value
		case "does":
			g.does = value
		case "why":
			g.why = value
		case "patience":
			g.patience = value
		case "file":
			g.removals = append(g.removals, removal{file: value})
		default:
			return nil, bad("unknown key " + key)
		}
	}
	for _, g := range all {
		if g.test == "" || g.does == "" || g.why == "" || len(g.removals) == 0 {
			return nil, fmt.Errorf("%s: guard %s lacks its test, does, why or file", name, g.id)
		}
	}
	return all, nil
}

// apply takes the guard out of the tree at root, and returns what puts it back.
func (g *guard) apply(root string) (restore func() error, err error) {
	before := make(map[string]string)
	restore = func() error {
		for name, text := range before {
			if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
				return err
			}
		}
		return nil
	}
	defer func() {
		if err != nil {
			restore()
		}
	}()
	for _, r := range g.removals {
		name := filepath.Join(root, r.file)
		b, err := os.ReadFile(name)
		if err != nil {
			return restore, err
		}
		text := string(b)
		if n := strings.Count(text, r.old); n != 1 {
			return restore, fmt.Errorf("guard %s: %s has the text %d times, want once:\n%s", g.id, r.file, n, r.old)
		}
		if _, ok := before[name]; !ok {
			before[name] = text
		}
		if err := os.WriteFile(name, []byte(strings.Replace(text, r.old, r.text, 1)), 0o644); err != nil {
			return restore, err
		}
	}
	return restore, nil
}

// row is the guard's line in docs/guards.md.
func (g *guard) row() string {
	test := strings.NewReplacer("^", "", "$", "", "_", " ", `\`, "", ".*", "…").Replace(g.test)
	if g.pkg != e2e {
		test += ", in " + strings.TrimPrefix(g.pkg, "./")
	}
	return fmt.Sprintf("| %s | %s | %s |", g.id, g.does, test)
}
