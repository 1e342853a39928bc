package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// docs/security.md names only tests that exist.
func TestSecurityNamesRealTests(t *testing.T) {
	doc, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	err = filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range declared.FindAllSubmatch(b, -1) {
			have[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`(Test\\w+)`").FindAllSubmatch(doc, -1)
	for _, m := range named {
		if !have[string(m[1])] {
			t.Errorf("%s does not exist", m[1])
		}
	}
	if len(named) < 30 {
		t.Errorf("%d tests are named", len(named))
	}
}

// Each line of the threat model names a test, or says that it is not held.
func TestThreatModelIsShown(t *testing.T) {
	doc, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	_, model, _ := strings.Cut(string(doc), "\n## Threat model\n")
	model, _, _ = strings.Cut(model, "\n## ")
	test := regexp.MustCompile("`Test\\w+`")
	lines := 0
	for line := range strings.Lines(model) {
		cells := strings.Split(strings.Trim(line, "| \n"), " | ")
		if !strings.HasPrefix(line, "| **") {
			continue
		}
		lines++
		if len(cells) != 2 {
			t.Errorf("not two cells: %s", line)
			continue
		}
		shown := test.MatchString(cells[1])
		switch {
		case strings.HasPrefix(cells[0], "**can't**"):
			if !shown || strings.Contains(cells[1], "not held") {
				t.Errorf("no test shows it: %s", line)
			}
		case strings.HasPrefix(cells[0], "**can**"):
			if !shown && !strings.HasPrefix(cells[1], "not held") {
				t.Errorf("neither shown nor said not to be held: %s", line)
			}
		default:
			t.Errorf("neither can nor can't: %s", line)
		}
	}
	if lines < 50 {
		t.Errorf("%d lines", lines)
	}
}
