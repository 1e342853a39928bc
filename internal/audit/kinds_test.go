package audit

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// constants returns the constants of kinds.go, name and value.
func constants(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "kinds.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	ast.Inspect(file, func(n ast.Node) bool {
		if d, ok := n.(*ast.GenDecl); ok && d.Tok == token.CONST {
			for _, s := range d.Specs {
				v := s.(*ast.ValueSpec)
				value, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				all[v.Names[0].Name] = value
			}
		}
		return true
	})
	return all
}

// TestKindsAreDocumentedAndWritten holds that each kind of entry is in the list of them,
// that docs/audit.md tells of each and of no other, and that somebody writes it.
func TestKindsAreDocumentedAndWritten(t *testing.T) {
	all := constants(t)
	doc, err := os.ReadFile("../../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(doc), "| kind | what happened |")
	table, _, _ = strings.Cut(table, "\n\n")
	rows := make(map[string]bool)
	for line := range strings.Lines(table) {
		if name, ok := strings.CutPrefix(line, "| `"); ok {
			name, _, _ = strings.Cut(name, "`")
			rows[name] = true
		}
	}
	if !ok || len(all) != len(Kinds) {
		t.Errorf("%d kinds, %d in the list", len(all), len(Kinds))
	}
	written := writers(t)
	for name, kind := range all {
		if !slices.Contains(Kinds, kind) {
			t.Errorf("%s is not in Kinds", name)
		}
		if !rows[kind] {
			t.Errorf("%s is not in docs/audit.md", kind)
		}
		if !written[name] {
			t.Errorf("nobody writes %s", name)
		}
		delete(rows, kind)
	}
	for kind := range rows {
		t.Errorf("docs/audit.md tells of %s, which there is not", kind)
	}
}

// writers returns which names of this package are used by the code elsewhere.
func writers(t *testing.T) map[string]bool {
	t.Helper()
	used := make(map[string]bool)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(b), "audit.") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, b, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == "audit" {
					used[s.Sel.Name] = true
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return used
}
