// Package brand reads what an organisation puts on the pages and notices of its
// messages: name, logo, colours, a few texts, and whom to ask for help.
//
// A folder holds one brand for each domain of senders, and one for all others:
//
//	DIR/default/brand.toml, logo.svg
//	DIR/clinic.example/brand.toml, logo.png
//
// [Load] reads all of it at once and refuses what would harm a reader: colours too
// faint to be read, a logo that is large or carries a program, a key that is
// misspelt and so would do nothing. docs/branding.md is for who writes the files.
package brand

import (
	"fmt"
	"html/template"
	"os"
	"path/filepath"
	"strings"

	"github.com/postseal/postseal/policyd/policy"
)

// Set holds the brands of a folder. A nil Set has none.
type Set struct {
	domains  map[string]*Brand
	fallback *Brand // of the directory default; nil: none
}

// Brand is what one organisation shows.
type Brand struct {
	Logo  template.URL     // data: URL, "" for none
	Style template.CSS     // custom properties that differ from those of [Palette], "" for none
	Mail  string           // whom to ask for help, "" for none
	Phone string           // as it is shown, "" for none
	texts map[string]Texts // by language; "" are those that no other has
}

// Texts are the words of a brand; those that it has not are "".
type Texts struct {
	Name    Text
	Intro   Text // on the first page of a message
	Footer  Text
	Support Text // whom to ask for help
}

// Text is one line of text.
type Text struct {
	Words    string
	Language string // that they are written in, BCP 47
}

// Load reads a folder. Its errors say which file, and which key of it, is wrong.
func Load(dir string) (*Set, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("brands: %w", err)
	}
	s := &Set{domains: map[string]*Brand{}}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		info, err := os.Stat(path) // follows links
		if err != nil {
			return nil, fmt.Errorf("brands: %w", err)
		}
		if !info.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if e.Name() != "default" && !isDomain(e.Name()) {
			return nil, fmt.Errorf("brands: %s: the name of the directory is neither default nor a domain in lower case", path)
		}
		b, err := load(path)
		if err != nil {
			return nil, fmt.Errorf("brands: %w", err)
		}
		if e.Name() == "default" {
			s.fallback = b
		} else {
			s.domains[e.Name()] = b
		}
	}
	if s.fallback == nil && len(s.domains) == 0 {
		return nil, fmt.Errorf("brands: %s has no brand: want DIR/default or DIR/<domain>, each with a brand.toml", dir)
	}
	return s, nil
}

// isDomain reports whether name is a domain as senders' domains are compared.
func isDomain(name string) bool {
	p, err := policy.CanonicalPattern(policy.ByRecipient, name)
	return err == nil && p == name && strings.Contains(p, ".") && !strings.HasPrefix(p, ".") && !strings.ContainsAny(p, "@*")
}

// For returns the brand of a sender: that of its domain, else of the nearest parent
// that has one, else the default. It is nil where there is none.
func (s *Set) For(sender string) *Brand {
	if s == nil {
		return nil
	}
	_, domain, ok := cutLast(sender, '@')
	for domain = policy.CanonicalDomain(domain); ok && domain != ""; {
		if b := s.domains[domain]; b != nil {
			return b
		}
		_, domain, ok = strings.Cut(domain, ".")
	}
	return s.fallback
}

func cutLast(s string, sep byte) (before, after string, ok bool) {
	if i := strings.LastIndexByte(s, sep); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

// Texts returns the words of a brand in a language, each in the brand's own where
// there is none in it.
func (b *Brand) Texts(language string) Texts {
	if t, ok := b.texts[language]; ok {
		return t
	}
	return b.texts[""]
}

// Notice returns what a notice says of a sender's brand: its name, and whom to ask
// for help; "" for what there is not.
func (s *Set) Notice(sender, language string) (name, support string) {
	b := s.For(sender)
	if b == nil {
		return "", ""
	}
	t := b.Texts(language)
	var parts []string
	for _, p := range []string{t.Support.Words, b.Mail, b.Phone} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return t.Name.Words, strings.Join(parts, " / ")
}
