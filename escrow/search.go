package escrow

import (
	"strings"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// Limits of a search.
const (
	MaxSearch      = 200 // characters
	maxSearchWords = 10
)

// Search is what somebody looks for: words that all must be there, in any order.
type Search struct{ words []string }

// NewSearch reads a query: its first [MaxSearch] characters, and ten words.
func NewSearch(query string) Search {
	if r := []rune(query); len(r) > MaxSearch {
		query = string(r[:MaxSearch])
	}
	words := strings.Fields(searchForm(query))
	return Search{words[:min(len(words), maxSearchWords)]}
}

// Empty reports whether nothing is looked for.
func (s Search) Empty() bool { return len(s.words) == 0 }

// Match reports whether each word is in one of the texts at least, whatever its
// case and its form in Unicode (full width, composed).
func (s Search) Match(texts ...string) bool {
	folded := make([]string, len(texts))
	for i, t := range texts {
		folded[i] = searchForm(t)
	}
	for _, w := range s.words {
		found := false
		for _, t := range folded {
			found = found || strings.Contains(t, w)
		}
		if !found {
			return false
		}
	}
	return true
}

func searchForm(s string) string {
	return norm.NFKC.String(cases.Fold().String(norm.NFKC.String(s)))
}
