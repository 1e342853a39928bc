package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The docs name only tests that exist: functions of test files that go test runs.
func TestSecurityNamesRealTests(t *testing.T) {
	have := map[string]bool{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Type.Params.NumFields() == 1 && f.Type.Results.NumFields() == 0 {
				have[f.Name.Name] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	docs, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(docs) < 10 {
		t.Fatalf("%d documents, %v", len(docs), err)
	}
	for _, path := range docs {
		doc, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		named := regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w*)`").FindAllSubmatch(doc, -1)
		for _, m := range named {
			if !have[string(m[1])] {
				t.Errorf("%s names %s, which does not exist", filepath.Base(path), m[1])
			}
		}
		if filepath.Base(path) == "security.md" && len(named) < 100 {
			t.Errorf("%d tests are named", len(named))
		}
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
