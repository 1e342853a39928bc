package classes

import (
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the tables into docs/destinations.md")

// The tables stand between these lines.
const (
	docs  = "../../../docs/destinations.md"
	begin = "<!-- go test ./internal/lab/classes -update writes what follows -->\n"
	end   = "<!-- end -->\n"
)

func TestDocs(t *testing.T) {
	text, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	old, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s: the marks of the tables are gone", docs)
	}
	want := "\n" + Table()
	if *update {
		if err := os.WriteFile(docs, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if old != want {
		t.Errorf("%s is not what the classes say: go test ./internal/lab/classes -update", docs)
	}
}

// TestTable: every class is complete, and none is there twice.
func TestTable(t *testing.T) {
	seen := make(map[string]bool)
	for _, c := range All() {
		switch {
		case seen[c.Name]:
			t.Errorf("%s: twice", c.Name)
		case c.What == "" || c.Build == nil || c.State == "" || c.Encryption == "" || c.TLS == "":
			t.Errorf("%s: something is missing", c.Name)
		case (c.Mail == None) != (c.Level != ""):
			t.Errorf("%s: mail of which nothing is required: %q, and the level is %q", c.Name, c.Mail, c.Level)
		case c.Encryption == InClear || c.TLS == InClear:
			t.Errorf("%s: required mail in plaintext", c.Name)
		case c.TLS == Waits && c.Says == "":
			t.Errorf("%s: it waits, and nothing is said of why", c.Name)
		}
		seen[c.Name] = true
	}
	if len(seen) < 40 {
		t.Errorf("%d classes", len(seen))
	}
}
