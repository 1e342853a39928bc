package portal

import (
	"strings"
	"testing"

	"github.com/postseal/postseal/escrow/words"
)

// The bounds of values are those that the patterns had when they held them.
func TestBoundsOfValues(t *testing.T) {
	for n, want := range map[int]bool{0: true, 300: true, 301: false} {
		for _, letter := range []string{"a", "é", "字"} {
			if got := safeStyle(strings.Repeat(letter, n)); got != want {
				t.Errorf("a style of %d times %s: %v, want %v", n, letter, got, want)
			}
		}
	}
	if safeStyle("a\xff") {
		t.Error("a style that is not UTF-8")
	}
	for n, want := range map[int]bool{0: false, 1: true, 200: true, 201: false} {
		for _, letter := range []string{" ", "é", "字"} {
			if got := fontFace.MatchString(strings.Repeat(letter, n)); got != want {
				t.Errorf("a font of %d times %q: %v, want %v", n, letter, got, want)
			}
		}
	}
	for _, bad := range []string{";", " ;", "a<", "\n", "a\n", "("} {
		if fontFace.MatchString(bad) {
			t.Errorf("the font %q", bad)
		}
	}
}

// Every page can be made in every language, though none is before it is asked for.
func TestTemplatesOfAllLanguages(t *testing.T) {
	p, err := newPages("host.example", "", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if made := len(p.templates); made != len(pageNames) {
		t.Errorf("%d pages were made at the start, want those of one language: %d", made, len(pageNames))
	}
	for _, l := range words.Languages() {
		for _, name := range pageNames {
			first, err := p.template(l.Tag, name)
			if err != nil {
				t.Errorf("%s, %s: %v", l.Tag, name, err)
			}
			if again, _ := p.template(l.Tag, name); again != first {
				t.Errorf("%s, %s is made twice", l.Tag, name)
			}
		}
	}
}
