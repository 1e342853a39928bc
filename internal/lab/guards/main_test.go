package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../../.."

func table(t *testing.T) []*guard {
	t.Helper()
	all, err := readTable("guards.txt")
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Every guard can be taken out of the sources as they are now, and is back
// afterwards.
func TestGuardsCanBeTakenOut(t *testing.T) {
	for _, g := range table(t) {
		tree := t.TempDir()
		before := make(map[string]string)
		for _, r := range g.removals {
			b, err := os.ReadFile(filepath.Join(root, r.file))
			if err != nil {
				t.Fatal(err)
			}
			before[r.file] = string(b)
			name := filepath.Join(tree, r.file)
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		restore, err := g.apply(tree)
		if err != nil {
			t.Error(err)
			continue
		}
		if err := restore(); err != nil {
			t.Fatal(err)
		}
		for name, text := range before {
			if b, err := os.ReadFile(filepath.Join(tree, name)); err != nil || string(b) != text {
				t.Errorf("guard %s: %s is not what it was (%v)", g.id, name, err)
			}
		}
	}
}

var testFunc = regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)

// testFuncs returns the tests of a package.
func testFuncs(t *testing.T, pkg string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, pkg, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests in %s (%v)", pkg, err)
	}
	names := make(map[string]bool)
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range testFunc.FindAllStringSubmatch(string(b), -1) {
			if m[1] != "TestMain" {
				names[m[1]] = true
			}
		}
	}
	return names
}

// Every end-to-end test has a guard, and every guard a test.
func TestEveryTestHasAGuard(t *testing.T) {
	want := testFuncs(t, e2e)
	for _, g := range table(t) {
		have := testFuncs(t, g.pkg)
		for alternative := range strings.SplitSeq(g.test, "|^") {
			name, _, _ := strings.Cut(strings.Trim(alternative, "^"), "$")
			if !have[name] {
				t.Errorf("guard %s: %s has no %s", g.id, g.pkg, name)
			}
			if g.pkg == e2e {
				delete(want, name)
			}
		}
	}
	for name := range want {
		t.Errorf("no guard for %s", name)
	}
}

// Every attack has a guard.
func TestEveryAttackHasAGuard(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(root, e2e, "attacks_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := strings.Cut(string(b), "func TestAttacks(")
	names := regexp.MustCompile(`(?m)^\t\tname:\s+"([^"]+)"`).FindAllStringSubmatch(text, -1)
	if len(names) < 20 {
		t.Fatalf("only %d attacks found", len(names))
	}
	for _, m := range names {
		pattern := "^TestAttacks$/^" + strings.ReplaceAll(regexp.QuoteMeta(m[1]), " ", "_") + "$"
		found := false
		for _, g := range table(t) {
			found = found || g.test == pattern
		}
		if !found {
			t.Errorf("no guard for the attack %q", m[1])
		}
	}
}

// docs/guards.md has the table's rows.
func TestDocs(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(root, "docs/guards.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]bool)
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "| ") {
			rows[strings.TrimSuffix(line, "\n")] = true
		}
	}
	for _, g := range table(t) {
		if !rows[g.row()] {
			t.Errorf("docs/guards.md lacks this row (go run ./internal/lab/guards -rows prints them all):\n%s", g.row())
		}
		delete(rows, g.row())
	}
	delete(rows, "| guard | what its removal does | test that then fails |")
	for row := range rows {
		t.Errorf("docs/guards.md has a row that the table lacks: %s", row)
	}
}
