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
	"maps"
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
	figures [10]string // the digits
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
		all[l.Tag] = &Words{Language: l, keys: keys}
	}
	for i, l := range languages {
		w := all[l.Tag]
		w.printer = message.NewPrinter(tags[i], message.Catalog(builder))
		for n := range w.figures {
			w.figures[n] = w.Number(n)
		}
	}
	matcher = language.NewMatcher(tags)
}

// escaped marks the key of a text that is escaped for HTML.
const escaped = "html "

// isOther finds the plural form that has to stand last: the one for all else.
func isOther(form string) bool { return form == "other" }

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
				text = strings.TrimSpace(text)
				if err = b.SetString(tag, key, text); err == nil {
					err = b.SetString(tag, escaped+key, template.HTMLEscapeString(text))
				}
			case map[string]any:
				var cases, html []any
				for _, form := range append(slices.DeleteFunc(slices.Sorted(maps.Keys(text)), isOther), "other") {
					t, ok := text[form].(string)
					if !ok {
						return nil, fmt.Errorf("%s: %s: no text for the form %q", dir, key, form)
					}
					cases, html = append(cases, form, t), append(html, form, template.HTMLEscapeString(t))
				}
				// Set refuses forms that the language does not have.
				if err = b.Set(tag, key, plural.Selectf(1, "", cases...)); err == nil {
					err = b.Set(tag, escaped+key, plural.Selectf(1, "", html...))
				}
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
// 9110, section 12.5.4). What of it can't be understood is passed over.
func Match(accept string) *Words {
	const most = 500 // bytes, of which browsers send fewer
	if len(accept) > most {
		accept = accept[:strings.LastIndexByte(accept[:most], ',')+1]
	}
	wanted, _, err := language.ParseAcceptLanguage(accept)
	if err != nil {
		// One bad element spoils all: take those that are good, by their order.
		wanted = nil
		for element := range strings.SplitSeq(accept, ",") {
			if tags, _, err := language.ParseAcceptLanguage(element); err == nil {
				wanted = append(wanted, tags...)
			}
		}
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
// they are: {{th "over.ask" (strong .Sender)}}. Other text among them is kept from
// turning the direction of what is around it.
func (w *Words) HTML(key string, args ...any) template.HTML {
	if !w.keys[key] {
		if en := all[languages[0].Tag]; w != en && en.keys[key] {
			return en.HTML(key, args...)
		}
		return template.HTML(template.HTMLEscapeString(key))
	}
	safe := make([]any, len(args))
	for i, a := range args {
		switch a := a.(type) {
		case template.HTML:
			safe[i] = string(a)
		case int, int64: // for plurals, and the digits of the language
			safe[i] = a
		default:
			safe[i] = string(Isolate(fmt.Sprint(a)))
		}
	}
	return template.HTML(w.printer.Sprintf(escaped+key, safe...))
}

// Isolate escapes a text that may run in another direction than the language of
// the page: an address, a name, the number of a message.
func Isolate(s string) template.HTML {
	return "<bdi>" + template.HTML(template.HTMLEscapeString(s)) + "</bdi>"
}

// Has reports whether the language itself has a key.
func (w *Words) Has(key string) bool { return w.keys[key] }
