package brand

import (
	"bytes"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const plainSVG = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><rect width="10" height="10" fill="#0a5"/></svg>`

// folder writes files under a directory, by path.
func folder(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func pngOf(t testing.TB, w, h int) string {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewGray(image.Rect(0, 0, w, h))); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestLookup(t *testing.T) {
	s, err := Load(folder(t, map[string]string{
		"default/brand.toml":            `name = "Host"`,
		"clinic.example/brand.toml":     `name = "Clinic"`,
		"lab.clinic.example/brand.toml": `name = "Lab"`,
		"README":                        "not a brand",
		".git/config":                   "nor this",
	}))
	if err != nil {
		t.Fatal(err)
	}
	for sender, want := range map[string]string{
		"ann@clinic.example": "Clinic", "ann@CLINIC.example": "Clinic", "x@lab.clinic.example": "Lab", "x@a.lab.clinic.example": "Lab",
		"x@ward.clinic.example": "Clinic", "x@notclinic.example": "Host", `"a@b"@clinic.example`: "Clinic", "": "Host", "clinic.example": "Host", "x@": "Host", "x@example": "Host",
	} {
		if got := s.For(sender).Texts("en").Name.Words; got != want {
			t.Errorf("%s: %s, want %s", sender, got, want)
		}
	}
	if (*Set)(nil).For("ann@clinic.example") != nil {
		t.Error("a brand of no folder")
	}
	if name, support := (*Set)(nil).Notice("ann@clinic.example", "en"); name != "" || support != "" {
		t.Error("a notice of no folder")
	}
}

func TestBrand(t *testing.T) {
	b, err := parse(`
name = "Clinic  Example"
footer = """
Clinic Example,
1 Some Street"""
[support]
text = "Questions? Our reception helps."
mail = "help@clinic.example"
phone = "+49 30 5550100"
[colours.light]
main = "#00695C"
[texts.de]
name = "Klinik Beispiel"
support = "Fragen? Unser Empfang hilft."
`)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.Texts("ja"); got != (Texts{Name: Text{"Clinic Example", "en"}, Footer: Text{"Clinic Example, 1 Some Street", "en"}, Support: Text{"Questions? Our reception helps.", "en"}}) {
		t.Errorf("own texts: %+v", got)
	}
	if got := b.Texts("de"); got != (Texts{Name: Text{"Klinik Beispiel", "de"}, Footer: Text{"Clinic Example, 1 Some Street", "en"}, Support: Text{"Fragen? Unser Empfang hilft.", "de"}}) {
		t.Errorf("German texts: %+v", got)
	}
	if want := "@media (prefers-color-scheme:light){:root{--hover:#045349;--link:#00695c;--main:#00695c;--onmain:#ffffff}}"; string(b.Style) != want {
		t.Errorf("style %s, want %s", b.Style, want)
	}
	s := &Set{fallback: b}
	if name, support := s.Notice("x@y.example", "de"); name != "Klinik Beispiel" || support != "Fragen? Unser Empfang hilft. / help@clinic.example / +49 30 5550100" {
		t.Errorf("notice: %q, %q", name, support)
	}
}

// TestRefused holds that each error says the file and the key.
func TestRefused(t *testing.T) {
	const ok = "name = \"Clinic\"\n"
	tests := []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{"an empty folder", nil, []string{"no brand"}},
		{"no name", map[string]string{"default/brand.toml": ""}, []string{"default/brand.toml", "name"}},
		{"no file", map[string]string{"default/logo.svg": plainSVG}, []string{"default/brand.toml", "no such file"}},
		{"not TOML", map[string]string{"default/brand.toml": "name = Clinic"}, []string{"default/brand.toml", "line 1"}},
		{"unknown key", map[string]string{"default/brand.toml": ok + "colour = \"#fff\""}, []string{"default/brand.toml", "unknown key colour"}},
		{"unknown section key", map[string]string{"default/brand.toml": ok + "[support]\nemail = \"x@y.example\""}, []string{"unknown key support.email"}},
		{"upper case", map[string]string{"default/brand.toml": ok + "Footer = \"x\""}, []string{"unknown key Footer"}},
		{"wrong type", map[string]string{"default/brand.toml": ok + "footer = 3"}, []string{"default/brand.toml", "footer"}},
		{"unknown colour", map[string]string{"default/brand.toml": ok + "[colours.light]\naccent = \"#000000\""}, []string{"colours.light.accent", "on-main"}},
		{"not a colour", map[string]string{"default/brand.toml": ok + "[colours.dark]\nmain = \"red\""}, []string{"colours.dark.main", "#rrggbb"}},
		{"a short colour", map[string]string{"default/brand.toml": ok + "[colours.dark]\nmain = \"#fff\""}, []string{"colours.dark.main", "#rrggbb"}},
		{"a colour that breaks out", map[string]string{"default/brand.toml": ok + "[colours.dark]\nmain = \"#fff}*{\""}, []string{"colours.dark.main", "#rrggbb"}},
		{"too faint a link", map[string]string{"default/brand.toml": ok + "[colours.light]\nmain = \"#ffcc00\""}, []string{"default/brand.toml", "colours.light.main", "contrast of 1.", "at least 4.5"}},
		{"too faint in the dark", map[string]string{"default/brand.toml": ok + "[colours.dark]\nmain = \"#003366\""}, []string{"colours.dark.main", "contrast"}},
		{"text too faint on a card", map[string]string{"default/brand.toml": ok + "[colours.light]\ncard = \"#555555\""}, []string{"colours.light.card", "text", "contrast"}},
		{"text on the button", map[string]string{"default/brand.toml": ok + "[colours.light]\nmain = \"#0b5394\"\non-main = \"#555555\""}, []string{"colours.light.on-main", "contrast"}},
		{"unknown language", map[string]string{"default/brand.toml": ok + "[texts.tlh]\nname = \"x\""}, []string{"texts.tlh", "en, de"}},
		{"a long name", map[string]string{"default/brand.toml": "name = \"" + strings.Repeat("x", 61) + "\""}, []string{"name: 61 characters"}},
		{"a long text", map[string]string{"default/brand.toml": ok + "[texts.de]\nfooter = \"" + strings.Repeat("x", 601) + "\""}, []string{"texts.de.footer: 601"}},
		{"a control character", map[string]string{"default/brand.toml": ok + `intro = "a\u0007b"`}, []string{"intro", "control"}},
		{"no address", map[string]string{"default/brand.toml": ok + "[support]\nmail = \"Help <help@clinic.example>\""}, []string{"support.mail"}},
		{"an address with more", map[string]string{"default/brand.toml": ok + "[support]\nmail = \"help@clinic.example?cc=x@y.example\""}, []string{"support.mail"}},
		{"no number", map[string]string{"default/brand.toml": ok + "[support]\nphone = \"call us\""}, []string{"support.phone"}},
		{"not a domain", map[string]string{"Clinic/brand.toml": ok}, []string{"Clinic", "nor a domain"}},
		{"a domain in upper case", map[string]string{"Clinic.example/brand.toml": ok}, []string{"Clinic.example", "lower case"}},
		{"a pattern", map[string]string{"*.example/brand.toml": ok}, []string{"*.example"}},
		{"two logos", map[string]string{"default/brand.toml": ok, "default/logo.svg": plainSVG, "default/logo.png": pngOf(t, 4, 4)}, []string{"another logo"}},
		{"another kind of logo", map[string]string{"default/brand.toml": ok, "default/logo.jpg": "x"}, []string{"default/logo.jpg", "logo.svg or logo.png"}},
		{"a large logo", map[string]string{"default/brand.toml": ok, "default/logo.svg": plainSVG + strings.Repeat(" ", maxLogo)}, []string{"default/logo.svg", "at most 16384"}},
		{"not a PNG", map[string]string{"default/brand.toml": ok, "default/logo.png": plainSVG}, []string{"default/logo.png", "not a PNG"}},
		{"half a PNG", map[string]string{"default/brand.toml": ok, "default/logo.png": pngOf(t, 40, 40)[:60]}, []string{"default/logo.png", "not a PNG"}},
		{"a wide PNG", map[string]string{"default/brand.toml": ok, "default/logo.png": pngOf(t, 2000, 2)}, []string{"2000 x 2 pixels"}},
		{"a directory", map[string]string{"default/brand.toml": ok, "default/logo.svg/x": ""}, []string{"default/logo.svg", "not a file"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Load(folder(t, tt.files))
			if err == nil {
				t.Fatal("taken")
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
		})
	}
	if _, err := Load("/no/such/folder"); err == nil || !strings.Contains(err.Error(), "/no/such/folder") {
		t.Errorf("no folder: %v", err)
	}
	if _, err := Load(folder(t, map[string]string{"default/brand.toml": ok, "default/logo.png": pngOf(t, 40, 20)})); err != nil {
		t.Errorf("a good PNG: %v", err)
	}
}

func TestSVG(t *testing.T) {
	svg := func(inside string) string {
		return `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 1 1">` + inside + `</svg>`
	}
	good := []string{
		plainSVG,
		`<?xml version="1.0" encoding="UTF-8"?><!-- made by hand -->` + plainSVG + "\n",
		svg(`<defs><linearGradient id="a"><stop offset="0" stop-color="#fff"/></linearGradient></defs><path d="M0 0h1" fill="url(#a)" style="stroke:#000"/><use xlink:href="#a"/><use href="#a"/>`),
		svg(`<style>.a{fill:#123456}</style><title>Logo</title><text class="a" xml:space="preserve">x</text>`),
	}
	for _, s := range good {
		if err := checkSVG([]byte(s)); err != nil {
			t.Errorf("refused: %v: %s", err, s)
		}
	}
	bad := []string{
		"", "<svg", "<html></html>", "<svg/>", `<svg xmlns="http://www.w3.org/2000/svg"/>`, plainSVG + plainSVG, "text",
		svg(`<script>alert(1)</script>`), svg(`<foreignObject><p xmlns="http://www.w3.org/1999/xhtml">x</p></foreignObject>`),
		svg(`<image href="https://spy.example/x.png"/>`), svg(`<use href="https://spy.example/x.svg#a"/>`), svg(`<use xlink:href="//spy.example/x.svg#a"/>`),
		svg(`<use href="data:image/svg+xml,x#a"/>`), svg(`<a href="#x">x</a>`), svg(`<rect onload="alert(1)"/>`), svg(`<rect ONCLICK="alert(1)"/>`),
		svg(`<rect fill="url(https://spy.example/x)"/>`), svg(`<rect style="fill:url( 'https://spy.example/x')"/>`), svg(`<rect style="fill:u\72l(https://spy.example)"/>`),
		svg(`<style>@import "https://spy.example/x.css";</style>`), svg(`<style>a{background:ur/**/l(x)}</style>`), svg(`<style>a{background:image-set("x" 1x)}</style>`),
		svg(`<animate attributeName="href" to="x"/>`), svg(`<set attributeName="onload" to="x"/>`), svg(`<handler>x</handler>`), svg(`<iframe/>`),
		`<!DOCTYPE svg [<!ENTITY a "aaaa">]>` + svg(`<text>&a;</text>`), `<?xml-stylesheet href="https://spy.example/x.css"?>` + plainSVG,
		`<?xml version="1.0" encoding="UTF-16"?>` + plainSVG, svg(strings.Repeat("<g>", 100) + strings.Repeat("</g>", 100)),
		`<x:svg xmlns:x="http://www.w3.org/1999/xhtml" viewBox="0 0 1 1"/>`, svg(`<style>a{b:c}`+`<g/></style>@`) + "<",
	}
	for _, s := range bad {
		if err := checkSVG([]byte(s)); err == nil {
			t.Errorf("taken: %s", s)
		}
	}
}

func FuzzSVG(f *testing.F) {
	f.Add(plainSVG)
	f.Add(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"><style>a{fill:url(#b)}</style><use href="#a"/></svg>`)
	f.Add(`<svg xmlns="http://www.w3.org/2000/svg" onload="x"><script/></svg>`)
	harm := regexp.MustCompile(`(?i)<([a-z]+:)?(script|foreignobject|iframe|image|animate|handler)[\s/>]|\son[a-z]+\s*=|<!doctype|<!entity|url\(\s*["']?[a-z/]`)
	f.Fuzz(func(t *testing.T, s string) {
		if checkSVG([]byte(s)) != nil {
			return
		}
		s = regexp.MustCompile(`(?s)<!--.*?-->|<!\[CDATA\[.*?\]\]>|>[^<]*<`).ReplaceAllString(s, "><") // text is no markup
		s = regexp.MustCompile(`"[^"<]*"|'[^'<]*'`).ReplaceAllStringFunc(s, func(v string) string {
			if strings.Contains(strings.ToLower(v), "url(") {
				return v
			}
			return `""`
		})
		if m := harm.FindString(s); m != "" {
			t.Errorf("%q passes", m)
		}
	})
}

func FuzzBrand(f *testing.F) {
	f.Add("name = \"Clinic\"\n[colours.light]\nmain = \"#00695c\"\n[texts.ar]\nname = \"عيادة\"")
	f.Add("name = \"x\"\n[support]\nmail = \"a@b.example\"\nphone = \"112\"")
	f.Add("name = \"\\u202e\"\nlanguage = \"pt-br\"")
	style := regexp.MustCompile(`^(@media \(prefers-color-scheme:(light|dark)\)\{:root\{(--[a-z]+:#[0-9a-f]{6};?)+\}\})*$`)
	f.Fuzz(func(t *testing.T, text string) {
		b, err := parse(text)
		if err != nil {
			return
		}
		if !style.MatchString(string(b.Style)) {
			t.Errorf("style %q", b.Style)
		}
		for _, language := range []string{"en", "de", "ar", ""} {
			got := b.Texts(language)
			if got.Name.Words == "" || strings.ContainsAny(got.Name.Words+got.Intro.Words+got.Footer.Words+got.Support.Words, "\r\n\x00") {
				t.Errorf("texts %+v", got)
			}
		}
		if strings.ContainsAny(b.Mail+b.Phone, "\r\n\"<>&?") {
			t.Errorf("%q, %q", b.Mail, b.Phone)
		}
	})
}

// TestStockPalette holds the colours of the pages as they come to WCAG 2.2 AA.
func TestStockPalette(t *testing.T) {
	light, dark, err := Palettes(Stylesheet)
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]Palette{"light": light, "dark": dark} {
		for _, f := range p.Faint() {
			t.Errorf("%s: %s %s", name, f.Over, f.What)
		}
		for _, k := range colours {
			if _, ok := p[k]; !ok {
				t.Errorf("%s has no %s", name, k)
			}
		}
	}
	if c := Contrast(Colour{0, 0, 0}, Colour{255, 255, 255}); c < 20.99 || c > 21.01 {
		t.Errorf("black on white: %g", c)
	}
	if c := Contrast(Colour{0x76, 0x76, 0x76}, Colour{255, 255, 255}); c < 4.54 || c > 4.55 { // WebAIM's example
		t.Errorf("grey on white: %g", c)
	}
}

// TestDocumentedExample loads what docs/branding.md shows.
func TestDocumentedExample(t *testing.T) {
	doc, err := os.ReadFile("../../docs/branding.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(doc), "```toml\n")
	text, _, _ = strings.Cut(text, "```")
	if !found {
		t.Fatal("no example")
	}
	s, err := Load(folder(t, map[string]string{"default/brand.toml": text, "default/logo.svg": plainSVG}))
	if err != nil {
		t.Fatal(err)
	}
	b := s.For("ann@clinic.example")
	if b.Texts("de").Name.Words != "Klinik Beispiel" || b.Texts("ja").Name.Words != "Clinic Example" || b.Logo == "" || b.Style == "" || b.Phone == "" {
		t.Errorf("brand %+v", b)
	}
	// The error that it quotes is the one that comes.
	_, err = Load(folder(t, map[string]string{"default/brand.toml": "name = \"x\"\n[colours.light]\nmain = \"#ffcc00\""}))
	if err == nil {
		t.Fatal("a faint colour is taken")
	}
	if _, message, _ := strings.Cut(err.Error(), "brand.toml: "); !strings.Contains(string(doc), "\n"+message+"\n") {
		t.Errorf("docs/branding.md does not have %q", message)
	}
	// Every colour and key is in its tables.
	for _, c := range colours {
		if c == "onmain" {
			c = "on-main"
		}
		if !strings.Contains(string(doc), "`"+c+"`") {
			t.Errorf("docs/branding.md does not have the colour %s", c)
		}
	}
}
