package brand

import (
	"errors"
	"fmt"
	"net/mail"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/BurntSushi/toml"

	"github.com/postseal/postseal/escrow/words"
)

// Limits, in characters, that keep a page and a header small.
const (
	maxName    = 60
	maxIntro   = 400
	maxFooter  = 600
	maxSupport = 300
	maxFile    = 64 << 10 // bytes of a brand.toml
)

// file is a brand.toml.
type file struct {
	Language string // of the texts that are not under texts; default en
	Name     string
	Intro    string
	Footer   string
	Support  struct {
		Text  string
		Mail  string
		Phone string
	}
	Colours struct {
		Light map[string]string
		Dark  map[string]string
	}
	Texts map[string]struct {
		Name, Intro, Footer, Support string
	}
}

// load reads the directory of one brand.
func load(dir string) (*Brand, error) {
	path := filepath.Join(dir, "brand.toml")
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s: %d bytes, want at most %d", path, info.Size(), maxFile)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	b, err := parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !strings.HasPrefix(strings.ToLower(e.Name()), "logo") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if b.Logo != "" {
			return nil, fmt.Errorf("%s: there is another logo beside it", path)
		}
		if b.Logo, err = readLogo(path); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return b, nil
}

// parse reads a brand.toml.
func parse(text string) (*Brand, error) {
	var f file
	meta, err := toml.Decode(text, &f)
	if err != nil {
		return nil, err
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("unknown key %s", unknown[0])
	}
	// The decoder takes keys whatever their case; a second spelling would hide the first.
	for _, k := range meta.Keys() {
		if s := k.String(); s != strings.ToLower(s) {
			return nil, fmt.Errorf("unknown key %s: keys are in lower case", s)
		}
	}
	if f.Language == "" {
		f.Language = "en"
	}
	if !languageTag.MatchString(f.Language) {
		return nil, fmt.Errorf("language: %q is not a language such as en or pt-br", f.Language)
	}
	own, err := texts(f.Language, map[string]string{"name": f.Name, "intro": f.Intro, "footer": f.Footer, "support.text": f.Support.Text}, Texts{})
	if err != nil {
		return nil, err
	}
	if own.Name.Words == "" {
		return nil, errors.New("name: there is none")
	}
	b := &Brand{texts: map[string]Texts{"": own}}
	for tag, t := range f.Texts {
		if err := words.Check(tag); err != nil {
			return nil, fmt.Errorf("texts.%s: %w", tag, err)
		}
		got, err := texts(tag, map[string]string{"name": t.Name, "intro": t.Intro, "footer": t.Footer, "support": t.Support}, own)
		if err != nil {
			return nil, fmt.Errorf("texts.%s.%w", tag, err)
		}
		b.texts[tag] = got
	}
	if b.Mail = f.Support.Mail; b.Mail != "" {
		a, err := mail.ParseAddress(b.Mail)
		if err != nil || a.Address != b.Mail || !mailAddress.MatchString(b.Mail) {
			return nil, fmt.Errorf("support.mail: %q is not an address such as help@clinic.example", b.Mail)
		}
	}
	if b.Phone = f.Support.Phone; b.Phone != "" && !telephone.MatchString(b.Phone) {
		return nil, fmt.Errorf("support.phone: %q is not a telephone number such as +49 30 5550100", b.Phone)
	}
	light, dark, err := Palettes(Stylesheet)
	if err != nil {
		return nil, err
	}
	changedLight, err := palette(light, f.Colours.Light, "colours.light")
	if err != nil {
		return nil, err
	}
	changedDark, err := palette(dark, f.Colours.Dark, "colours.dark")
	if err != nil {
		return nil, err
	}
	b.Style = css(changedLight, changedDark)
	return b, nil
}

var (
	languageTag = regexp.MustCompile(`^[a-z]{2,3}(-[a-z0-9]{2,8})*$`)
	mailAddress = regexp.MustCompile(`^[A-Za-z0-9._+-]+@[A-Za-z0-9.-]+$`)
	telephone   = regexp.MustCompile(`^\+?[0-9][0-9 ()/.-]{2,30}$`)
)

// texts checks texts by their keys, and brings each onto one line. Those that are
// "" are taken from other.
func texts(language string, values map[string]string, other Texts) (Texts, error) {
	t := other
	for _, f := range []struct {
		key  string
		text *Text
		most int
	}{{"name", &t.Name, maxName}, {"intro", &t.Intro, maxIntro}, {"footer", &t.Footer, maxFooter}, {"support", &t.Support, maxSupport}} {
		value, ok := values[f.key]
		if !ok {
			f.key += ".text"
			value = values[f.key]
		}
		value = strings.Join(strings.Fields(value), " ")
		if n := utf8.RuneCountInString(value); n > f.most {
			return t, fmt.Errorf("%s: %d characters, want at most %d", f.key, n, f.most)
		}
		// Marks of direction are needed by who writes Arabic or Hebrew.
		if i := strings.IndexFunc(value, func(r rune) bool { return unicode.Is(unicode.Cc, r) || r == utf8.RuneError }); i >= 0 {
			return t, fmt.Errorf("%s: a control character after %q", f.key, value[:i])
		}
		if value != "" {
			*f.text = Text{value, language}
		}
	}
	return t, nil
}

// palette checks the colours of one scheme and returns those that differ from the
// pages' own.
func palette(stock Palette, set map[string]string, section string) (changed Palette, err error) {
	own := Palette{}
	for key, value := range set {
		name := strings.ReplaceAll(key, "-", "")
		if !slices.Contains(colours, name) || name != "onmain" && name != key || key == "onmain" {
			return nil, fmt.Errorf("unknown key %s.%s: want one of main, on-main, %s", section, key, strings.Join(colours[2:], ", "))
		}
		if len(value) != len("#rrggbb") {
			return nil, fmt.Errorf("%s.%s: %q is not a colour: want #rrggbb", section, key, value)
		}
		if own[name], err = ParseColour(strings.ToLower(value)); err != nil {
			return nil, fmt.Errorf("%s.%s: %w", section, key, err)
		}
	}
	if len(own) == 0 {
		return nil, nil
	}
	all, changed := stock.with(own)
	if faint := all.Faint(); len(faint) > 0 {
		f := faint[0]
		key := f.Over
		if _, told := own[key]; !told {
			if _, told := own[f.Under]; told {
				key = f.Under
			} else if _, told := own["main"]; told {
				key = "main"
			}
		}
		if key == "onmain" {
			key = "on-main"
		}
		return nil, fmt.Errorf("%s.%s: %s %s", section, key, f.Over, f.What)
	}
	return changed, nil
}
