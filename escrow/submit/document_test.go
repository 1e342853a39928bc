package submit

import (
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// properties returns the names of the properties of a schema of docs/api.yaml, which is
// written with two spaces a level, one key a line.
func properties(t *testing.T, document, schema string) (names []string) {
	t.Helper()
	_, rest, ok := strings.Cut(document, "\n    "+schema+":\n")
	if !ok {
		t.Fatalf("there is no schema %s", schema)
	}
	rest = "\n" + rest
	if end := regexp.MustCompile(`\n {0,4}\S`).FindStringIndex(rest); end != nil {
		rest = rest[:end[0]]
	}
	_, rest, ok = strings.Cut(rest, "\n      properties:\n")
	if !ok {
		t.Fatalf("schema %s has no properties", schema)
	}
	for _, m := range regexp.MustCompile(`(?m)^ {8}(\w+):$`).FindAllStringSubmatch(rest, -1) {
		names = append(names, m[1])
	}
	return names
}

// fields returns the names of a struct's fields in JSON.
func fields(t reflect.Type) (names []string) {
	for i := range t.NumField() {
		if !t.Field(i).IsExported() {
			continue
		}
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

func document(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/api.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestDocumentNamesTheFields(t *testing.T) {
	text := document(t)
	file, _ := reflect.TypeFor[body]().FieldByName("Files")
	for schema, kind := range map[string]reflect.Type{
		"Message": reflect.TypeFor[body](), "File": file.Type.Elem(), "Answer": reflect.TypeFor[answer](), "Result": reflect.TypeFor[Result](),
	} {
		got, want := properties(t, text, schema), fields(kind)
		if slices.Sort(got); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
			t.Errorf("schema %s has %q, the program %q", schema, got, want)
		}
	}
	if want := "enum: [" + strings.Join([]string{Sealed, Handed, Deferred, Refused}, ", ") + "]"; !strings.Contains(text, want) {
		t.Errorf("it lacks %s", want)
	}
}

// Each status that the API answers with stands in the document.
func TestDocumentNamesTheStatuses(t *testing.T) {
	text := document(t)
	for _, status := range []string{"202", "400", "401", "403", "413", "422", "429", "503", "507"} {
		if !strings.Contains(text, "\n        \""+status+"\":\n") {
			t.Errorf("it lacks status %s", status)
		}
	}
	source, err := os.ReadFile("api.go")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, m := range regexp.MustCompile(`http\.(Status\w+)`).FindAllStringSubmatch(string(source), -1) {
		used[m[1]] = true
	}
	want := []string{"StatusAccepted", "StatusBadRequest", "StatusForbidden", "StatusInsufficientStorage", "StatusNotFound", "StatusRequestEntityTooLarge", "StatusServiceUnavailable", "StatusText", "StatusTooManyRequests", "StatusUnauthorized", "StatusUnprocessableEntity"}
	if got := slices.Sorted(maps.Keys(used)); !slices.Equal(got, want) {
		t.Errorf("the program answers with %q; bring the document and this test up to it", got)
	}
}

// The document is YAML of the plain kind: indented by twos, no tab, each line a key, an
// item or within a block of text, each reference leading somewhere.
func TestDocumentIsWellFormed(t *testing.T) {
	text := document(t)
	line := regexp.MustCompile(`^( *)(- )?("?[\w$/.+-]+"?):( ("[^"]*"|\[[^\]]*\]|\||[^"'\[\]{}|>&*!%@` + "`" + `][^#]*))?$`)
	block := -1
	for i, l := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		indent := len(l) - len(strings.TrimLeft(l, " "))
		if block >= 0 && (indent > block || l == "") {
			continue
		}
		block = -1
		m := line.FindStringSubmatch(l)
		if m == nil || indent%2 != 0 {
			t.Errorf("line %d is not plain: %s", i+1, l)
			continue
		}
		if value := m[5]; value == "|" {
			block = indent
		} else if !strings.HasPrefix(value, `"`) && !strings.HasPrefix(value, "[") && strings.Contains(value, ": ") {
			t.Errorf("line %d: a colon in a value without quotes: %s", i+1, l)
		}
	}
	for _, m := range regexp.MustCompile(`#/components/(\w+)/(\w+)`).FindAllStringSubmatch(text, -1) {
		if !strings.Contains(text, "\n    "+m[2]+":\n") {
			t.Errorf("%s leads nowhere", m[0])
		}
	}
}
