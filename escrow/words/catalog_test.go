package words

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/template/parse"

	"github.com/BurntSushi/toml"
)

// forms are the plural forms of each language (CLDR, cardinals of whole numbers
// without "many" of millions, which x/text does not know for French and Spanish).
var forms = map[string][]string{
	"en": {"one", "other"}, "de": {"one", "other"}, "fr": {"one", "other"}, "es": {"one", "other"},
	"ar": {"zero", "one", "two", "few", "many", "other"}, "ja": {"other"},
}

// entry is a text of a catalogue by its plural forms; one without has other alone.
type entry struct {
	plural bool
	text   map[string]string
}

// catalogue reads what a language has, by key.
func catalogue(t *testing.T, tag string) map[string]entry {
	t.Helper()
	all := map[string]entry{}
	list, err := fs.Glob(files, "catalog/"+tag+"/*.toml")
	if err != nil || len(list) == 0 {
		t.Fatalf("%s has no catalogue (%v)", tag, err)
	}
	for _, name := range list {
		var texts map[string]any
		if _, err := toml.DecodeFS(files, name, &texts); err != nil {
			t.Fatal(err)
		}
		for key, text := range texts {
			e := entry{text: map[string]string{}}
			switch text := text.(type) {
			case string:
				e.text["other"] = text
			case map[string]any:
				e.plural = true
				for form, s := range text {
					e.text[form] = s.(string)
				}
			}
			all[strings.TrimSuffix(path.Base(name), ".toml")+"."+key] = e
		}
	}
	return all
}

var (
	verbPattern = regexp.MustCompile(`%(\[\d+\])?[-+# 0]*[\d.]*[a-zA-Z%]`)
	named       = regexp.MustCompile(`\{[a-z]+\}`)
)

// verbs returns the arguments that a text takes, by number, and the names in
// braces.
func verbs(text string) (list []string) {
	n := 0
	for _, m := range verbPattern.FindAllStringSubmatch(text, -1) {
		if m[0] == "%%" {
			continue
		}
		n++
		if m[1] != "" {
			n, _ = strconv.Atoi(strings.Trim(m[1], "[]"))
		}
		list = append(list, fmt.Sprintf("%d%c", n, m[0][len(m[0])-1]))
	}
	slices.Sort(list)
	return slices.Compact(append(list, named.FindAllString(text, -1)...))
}

// TestCatalogueComplete says what is missing, by language and area.
func TestCatalogueComplete(t *testing.T) {
	english := catalogue(t, "en")
	for _, l := range Languages() {
		have := catalogue(t, l.Tag)
		missing := map[string][]string{}
		for key := range english {
			if _, ok := have[key]; !ok {
				area, name, _ := strings.Cut(key, ".")
				missing[area] = append(missing[area], name)
			}
		}
		for area, names := range missing {
			slices.Sort(names)
			t.Errorf("%s/%s.toml lacks %s", l.Tag, area, strings.Join(names, ", "))
		}
		for key, e := range have {
			en, ok := english[key]
			if !ok {
				t.Errorf("%s: %s is not in English", l.Tag, key)
				continue
			}
			if e.plural != en.plural {
				t.Errorf("%s: %s goes by number in one of the languages and not in the other", l.Tag, key)
				continue
			}
			if e.plural {
				for _, form := range forms[l.Tag] {
					if e.text[form] == "" {
						t.Errorf("%s: %s lacks the plural form %s", l.Tag, key, form)
					}
				}
			}
			want := verbs(en.text["other"])
			for form, text := range e.text {
				if strings.TrimSpace(text) == "" {
					t.Errorf("%s: %s is empty", l.Tag, key)
				}
				if strings.ContainsAny(text, "<>\x00") {
					t.Errorf("%s: %s has markup", l.Tag, key)
				}
				got := verbs(text)
				if e.plural && form != "other" { // "two minutes" may do without the number
					if slices.ContainsFunc(got, func(v string) bool { return !slices.Contains(want, v) }) {
						t.Errorf("%s: %s (%s) has the arguments %v, English has %v", l.Tag, key, form, got, want)
					}
					continue
				}
				slices.Sort(want)
				slices.Sort(got)
				if !slices.Equal(got, want) {
					t.Errorf("%s: %s has the arguments %v, English has %v", l.Tag, key, got, want)
				}
			}
			if l.Tag != "en" && l.Tag != "ja" && len(strings.Fields(en.text["other"])) > 5 && e.text["other"] == en.text["other"] {
				t.Errorf("%s: %s is not translated", l.Tag, key)
			}
		}
	}
}

// uses collects the keys that the program names: what must exist, and what may be
// built from a part.
type uses struct {
	called map[string]string // key: where
	any    map[string]bool   // other strings that may be keys
	parts  []string          // "sender.event-": what follows is computed
}

func (u *uses) literal(s string) {
	u.any[s] = true
	if i := strings.IndexByte(s, '%'); i > 0 {
		s = s[:i]
	}
	if strings.Contains(s, ".") && strings.ContainsAny(s[len(s)-1:], ".-") {
		u.parts = append(u.parts, s)
	}
}

// TestKeys holds that each key that is asked for exists, and each that exists is
// asked for.
func TestKeys(t *testing.T) {
	u := &uses{called: map[string]string{}, any: map[string]bool{}}
	for _, root := range []string{"../../escrow", "../../cmd"} {
		err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && d.Name() == "testdata":
				return fs.SkipDir
			case strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go"):
				u.goFile(t, name)
			case strings.HasSuffix(name, ".html") && strings.Contains(name, "templates"):
				u.templateFile(t, name)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	english := catalogue(t, "en")
	if len(u.called) < 10 {
		t.Fatalf("only %d keys are asked for", len(u.called))
	}
	for key, where := range u.called {
		if _, ok := english[key]; !ok {
			t.Errorf("%s asks for %s, which is not in English", where, key)
		}
	}
	for key := range english {
		if !u.any[key] && !slices.ContainsFunc(u.parts, func(p string) bool { return strings.HasPrefix(key, p) }) {
			t.Errorf("nothing asks for %s", key)
		}
	}
}

func (u *uses) goFile(t *testing.T, name string) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, name, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	text := func(e ast.Expr) (string, bool) {
		lit, ok := e.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return "", false
		}
		s, err := strconv.Unquote(lit.Value)
		return s, err == nil && s != ""
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BasicLit:
			if s, ok := text(n); ok {
				u.literal(s)
			}
		case *ast.CallExpr:
			f, ok := n.Fun.(*ast.SelectorExpr)
			if !ok || len(n.Args) == 0 || f.Sel.Name != "T" && f.Sel.Name != "HTML" {
				return true
			}
			if s, ok := text(n.Args[0]); ok && keyPattern.MatchString(s) {
				u.called[s] = set.Position(n.Pos()).String()
			}
		}
		return true
	})
}

var keyPattern = regexp.MustCompile(`^[a-z]+\.[a-z0-9.-]*[a-z0-9]$`)

func (u *uses) templateFile(t *testing.T, name string) {
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	tree := parse.New(name)
	tree.Mode = parse.SkipFuncCheck
	trees := map[string]*parse.Tree{}
	if _, err := tree.Parse(string(b), "", "", trees); err != nil {
		t.Fatal(err)
	}
	for _, tr := range trees {
		u.node(name, tr.Root)
	}
	u.node(name, tree.Root)
}

func (u *uses) node(name string, n parse.Node) {
	list := func(l *parse.ListNode) {
		if l != nil {
			u.node(name, l)
		}
	}
	pipe := func(p *parse.PipeNode) {
		if p != nil {
			u.node(name, p)
		}
	}
	switch n := n.(type) {
	case *parse.ListNode:
		if n == nil {
			return
		}
		for _, c := range n.Nodes {
			u.node(name, c)
		}
	case *parse.ActionNode:
		pipe(n.Pipe)
	case *parse.TemplateNode:
		pipe(n.Pipe)
	case *parse.IfNode:
		pipe(n.Pipe)
		list(n.List)
		list(n.ElseList)
	case *parse.WithNode:
		pipe(n.Pipe)
		list(n.List)
		list(n.ElseList)
	case *parse.RangeNode:
		pipe(n.Pipe)
		list(n.List)
		list(n.ElseList)
	case *parse.PipeNode:
		for _, c := range n.Cmds {
			u.node(name, c)
		}
	case *parse.StringNode:
		if n.Text != "" {
			u.literal(n.Text)
		}
	case *parse.CommandNode:
		for _, a := range n.Args {
			u.node(name, a)
		}
		if f, ok := n.Args[0].(*parse.IdentifierNode); ok && (f.Ident == "t" || f.Ident == "th") && len(n.Args) > 1 {
			if s, ok := n.Args[1].(*parse.StringNode); ok {
				u.called[s.Text] = name
			}
		}
	}
}
