// Package words holds what recipients and senders read, in their languages: the
// pages of the pickup and the mails about it.
//
// A text has a key, such as "landing.send-code", and stands in
// catalog/LANGUAGE/AREA.toml, AREA being the key up to its first dot:
//
//	send-code = "Send me a code"
//	for = "For %s"
//	[messages]            # by number, the first argument: CLDR's plural forms
//	one = "%d message"
//	other = "%d messages"
//
// Arguments are those of fmt, by order or index (%[2]s). Every language has every
// key of English, with the same arguments; a test holds that.
package words

import (
	"embed"
	"fmt"
	"html/template"
	"path"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"golang.org/x/text/feature/plural"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
	"golang.org/x/text/message/catalog"
)

//go:embed catalog
var files embed.FS

// Language is one that there are words in.
type Language struct {
	Tag  string // BCP 47, in lower case
	Name string // in itself
	Dir  string // ltr or rtl
}

// languages that are complete; the first is the default.
var languages = []Language{
	{"en", "English", "ltr"},
	{"de", "Deutsch", "ltr"},
	{"fr", "Français", "ltr"},
	{"es", "Español", "ltr"},
	{"ar", "العربية", "rtl"},
	{"ja", "日本語", "ltr"},
}

// Words are the texts of one language. They are safe for use by several
// goroutines.
type Words struct {
	Language
	printer *message.Printer
	keys    map[string]bool
}

var (
	all     = map[string]*Words{}
	matcher language.Matcher
)

func init() {
	builder := catalog.NewBuilder()
	var tags []language.Tag
	for _, l := range languages {
		tag := language.MustParse(l.Tag)
		keys, err := load(builder, tag, l.Tag)
		if err != nil {
			panic("words: " + err.Error()) // embedded: the tests load the same
		}
		tags = append(tags, tag)
		all[l.Tag] = &Words{l, nil, keys}
	}
	for i, l := range languages {
		all[l.Tag].printer = message.NewPrinter(tags[i], message.Catalog(builder))
	}
	matcher = language.NewMatcher(tags)
}

// load reads the catalogue of one language.
func load(b *catalog.Builder, tag language.Tag, dir string) (keys map[string]bool, err error) {
	keys = map[string]bool{}
	entries, err := files.ReadDir(path.Join("catalog", dir))
	if err != nil {
		return keys, nil // not translated yet: English stands in
	}
	for _, e := range entries {
		area := strings.TrimSuffix(e.Name(), ".toml")
		var texts map[string]any
		if _, err := toml.DecodeFS(files, path.Join("catalog", dir, e.Name()), &texts); err != nil {
			return nil, fmt.Errorf("%s/%s: %w", dir, e.Name(), err)
		}
		for name, text := range texts {
			key := area + "." + name
			switch text := text.(type) {
			case string:
				err = b.SetString(tag, key, strings.TrimSpace(text))
			case map[string]any:
				var cases []any
				for form, t := range text {
					if form != "other" {
						cases = append(cases, form, t)
					}
				}
				cases = append(cases, "other", text["other"]) // the last case has to be the one for all
				err = b.Set(tag, key, plural.Selectf(1, "", cases...))
			default:
				err = fmt.Errorf("want a string or plural forms")
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", dir, key, err)
			}
			keys[key] = true
		}
	}
	return keys, nil
}

// Languages lists the languages, the default first.
func Languages() []Language { return slices.Clone(languages) }

// For returns the words of a language by its tag; English where there are none in
// it.
func For(tag string) *Words {
	if w := all[strings.ToLower(tag)]; w != nil {
		return w
	}
	if base, _, ok := strings.Cut(strings.ToLower(tag), "-"); ok && all[base] != nil {
		return all[base]
	}
	return all[languages[0].Tag]
}

// Match returns the words that suit a browser best, by its Accept-Language (RFC
// 9110, section 12.5.4).
func Match(accept string) *Words {
	if len(accept) > 500 {
		accept = ""
	}
	wanted, _, err := language.ParseAcceptLanguage(accept)
	if err != nil {
		return all[languages[0].Tag]
	}
	_, i, _ := matcher.Match(wanted...)
	return all[languages[i].Tag]
}

// Check reports whether tag names a language that there are words in.
func Check(tag string) error {
	if all[strings.ToLower(tag)] != nil {
		return nil
	}
	var tags []string
	for _, l := range languages {
		tags = append(tags, l.Tag)
	}
	return fmt.Errorf("language %q: want one of %s", tag, strings.Join(tags, ", "))
}

// T returns a text, with its arguments. A key that there is not comes back as
// itself.
func (w *Words) T(key string, args ...any) string {
	if !w.keys[key] {
		if en := all[languages[0].Tag]; w != en && en.keys[key] {
			return en.T(key, args...)
		}
		return key
	}
	return w.printer.Sprintf(key, args...)
}

// HTML returns a text escaped for HTML; arguments of type template.HTML stand as
// they are: {{th "over.ask" (strong .Sender)}}.
func (w *Words) HTML(key string, args ...any) template.HTML {
	// The arguments go in after escaping, in the places of marks that no text has.
	marks := make([]any, len(args))
	var replace []string
	for i, a := range args {
		switch a := a.(type) {
		case template.HTML:
			mark := fmt.Sprintf("\x00%d\x00", i)
			marks[i] = mark
			replace = append(replace, template.HTMLEscapeString(mark), string(a))
		default:
			marks[i] = a
		}
	}
	text := template.HTMLEscapeString(w.T(key, marks...))
	return template.HTML(strings.NewReplacer(replace...).Replace(text))
}

// Has reports whether the language itself has a key.
func (w *Words) Has(key string) bool { return w.keys[key] }
