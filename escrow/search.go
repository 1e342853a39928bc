package escrow

import (
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// Limits of a search.
const (
	MaxSearch      = 200 // characters
	maxSearchWords = 10
)

// searchPad is of what length in bytes the words of a search are a multiple.
const searchPad = 64

// SearchToken returns the words that somebody looks for in an inbox in a form that may stand
// in the address of a page, where a web server in front would log them: encrypted under the
// server's keys, for this recipient.
func (v *Vault) SearchToken(d *Device, query string) (string, error) {
	if r := []rune(query); len(r) > MaxSearch {
		query = string(r[:MaxSearch])
	}
	pad := (searchPad - len(query)%searchPad) % searchPad
	box, err := v.keys.seal([]byte(query+strings.Repeat(" ", pad)), "search/1", d.Address)
	if err != nil {
		return "", fmt.Errorf("search: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(box), nil
}

// maxSearchToken is more than any token has, in bytes.
const maxSearchToken = 2048

// SearchOf returns the words of a token; "" where it is none for this recipient, or its key
// is gone.
func (v *Vault) SearchOf(d *Device, token string) string {
	if len(token) > maxSearchToken {
		return ""
	}
	box, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil {
		return ""
	}
	plain, err := v.keys.open(box, "search/1", d.Address)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(plain))
}

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
