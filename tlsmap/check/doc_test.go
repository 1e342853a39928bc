package check

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"
)

// changing is what differs from run to run: dates, and digests of fresh keys.
var changing = regexp.MustCompile(`until \d{4}-\d\d-\d\d \(\d+ days\)|3 0 1 [0-9a-f]{16}|TLSv1.3 TLS_[A-Z0-9_]+`)

// The output in docs/check.md is what a check prints.
func TestDocumentedOutput(t *testing.T) {
	b, err := os.ReadFile("../../docs/check.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "```text\n")
	want, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("docs/check.md has no block of text")
	}
	var out bytes.Buffer
	if err := whole(t).WriteText(&out, Style{}); err != nil {
		t.Fatal(err)
	}
	norm := func(s string) string {
		s = changing.ReplaceAllString(s, "…")
		lines := strings.Split(s, "\n")
		for i, l := range lines { // which suite Go prefers depends on the machine
			if strings.Contains(l, "cipher suites, in the") {
				lines[i] = l[:strings.Index(l, ", in the")]
			}
		}
		return strings.Join(lines, "\n")
	}
	if norm(out.String()) != norm(want) {
		t.Errorf("docs/check.md shows\n%s\nand a check prints\n%s", want, &out)
	}
	for _, c := range Classes() {
		if !strings.Contains(string(b), "| `"+c+"` |") {
			t.Errorf("docs/check.md does not say what %s means", c)
		}
	}
}
