package portal

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/postseal/postseal/escrow/brand"
	"github.com/postseal/postseal/escrow/words"
)

// testBrands are brands that take as much room as they may.
func testBrands(t testing.TB) *brand.Set {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("default/brand.toml", `name = "Mail host"`)
	write("clinic.example/brand.toml", `name = "Clinic <Example>"
intro = "`+strings.Repeat("Welcome to us. ", 26)+`"
footer = "`+strings.Repeat("Clinic Example & Sons, ", 26)+`"
[support]
text = "Questions? Our reception helps."
mail = "help@clinic.example"
phone = "+49 30 555-0100"
[colours.light]
main = "#00695c"
[colours.dark]
main = "#80cbc4"
page = "#101816"
[texts.ar]
name = "عيادة"
`)
	svg := `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 10"><title>` + strings.Repeat("x", 16200) + `</title><path d="M0 0h40v10H0z" fill="#00695c"/></svg>`
	write("clinic.example/logo.svg", svg)
	s, err := brand.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestBrand(t *testing.T) {
	v := newFakeVault(crlf(fullLetter))
	s := newTestSite(t, v, func(c *Config) { c.Brands = testBrands(t) })
	a := s.get("")
	wants(t, a, 200, `alt="Clinic &lt;Example&gt;"`, `src="data:image/svg&#43;xml;base64,`, `lang="en" dir="auto">Welcome to us.`, `href="mailto:help@clinic.example"`, `href="tel:&#43;49305550100"`,
		"Our reception helps", "Clinic Example &amp; Sons", "--main:#00695c", "--page:#101816", "!555-0100. ", "!Questions? Telephone")
	// Each style and script of the page is in its policy, and nothing else is.
	csp := a.Header.Get("Content-Security-Policy")
	styles := regexp.MustCompile(`(?s)<style>(.*?)</style>`).FindAllStringSubmatch(a.body, -1)
	if len(styles) != 2 {
		t.Fatalf("%d styles", len(styles))
	}
	for _, m := range styles {
		if !strings.Contains(csp, source(m[1])) {
			t.Errorf("a style is not in the policy %s", csp)
		}
	}
	if strings.Count(csp, "sha256-") != 2 {
		t.Errorf("policy %s", csp)
	}
	wants(t, s.get("?lang=ar"), 200, `alt="عيادة"`, `lang="en" dir="auto">Welcome`)
	s.get("?lang=en")
	s.verified()
	for _, path := range []string{"/message", "/message?as=html"} {
		a := s.get(path)
		wants(t, a, 200, "--main:#00695c", "!Welcome to us")
		if n := strings.Count(a.Header.Get("Content-Security-Policy"), "sha256-"); n < 2 {
			t.Errorf("%s: %d hashes in the policy", path, n)
		}
	}
	// A stranger learns nothing of who sent what.
	wants(t, s.get(s.link[:len(s.link)-3]+"xyz"), 404, "Mail host", "!Clinic")
	v.pickup.Sender = "someone@else.example"
	wants(t, s.get("/message"), 200, "Mail host", "!Clinic &lt;", "Questions? Telephone")
}

// TestPageSize holds that a page needs less than 50 kB, whatever the brand and the
// language.
func TestPageSize(t *testing.T) {
	s := newTestSite(t, newFakeVault(crlf(fullLetter)), func(c *Config) { c.Brands = testBrands(t) })
	for _, l := range words.Languages() {
		for _, path := range []string{"", "/verify"} {
			a := s.get(path + "?lang=" + l.Tag)
			if path != "" {
				a = s.post(path, "answer", "12345678")
			}
			if len(a.body) >= 50_000 {
				t.Errorf("%s, %s: %d bytes", l.Tag, path, len(a.body))
			}
			if len(a.body) < base64.StdEncoding.EncodedLen(16000) {
				t.Errorf("%s, %s: the logo is not on it", l.Tag, path)
			}
		}
	}
}

// TestStyle holds the style sheet to what readers of Arabic and people with other
// needs rely on.
func TestStyle(t *testing.T) {
	b, err := files.ReadFile("templates/style.css")
	if err != nil {
		t.Fatal(err)
	}
	css := string(b)
	if m := regexp.MustCompile(`(margin|padding|border)-(left|right)|[;{](left|right):|text-align:(left|right)|float:`).FindString(css); m != "" {
		t.Errorf("%q does not turn around with the text", m)
	}
	// An inline size of two unlike values is physical: margin:0 1px 0 2px.
	for _, m := range regexp.MustCompile(`(margin|padding):([^\s;}]+) ([^\s;}]+) ([^\s;}]+) ([^\s;}]+)[;}]`).FindAllStringSubmatch(css, -1) {
		if m[3] != m[5] {
			t.Errorf("%q does not turn around with the text", m[0])
		}
	}
	for _, want := range []string{"prefers-reduced-motion", "forced-colors", "prefers-color-scheme:dark", ":focus-visible"} {
		if !strings.Contains(css, want) {
			t.Errorf("nothing for %s", want)
		}
	}
	// Colours come from the palette, whose contrast is tested there. A plate of white
	// is for pictures that were made for paper.
	light, _, err := brand.Palettes(brand.Stylesheet)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`var\(--([a-z]+)\)`).FindAllStringSubmatch(css, -1) {
		if _, ok := light[m[1]]; !ok {
			t.Errorf("no colour is called %s", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`#[0-9a-fA-F]{3,8}\b`).FindAllString(css, -1) {
		if m != "#fff" {
			t.Errorf("the colour %s is not of the palette", m)
		}
	}
	// What stands on what is listed for the test of contrasts.
	rules := regexp.MustCompile(`([^{}]+)\{([^{}]*)\}`).FindAllStringSubmatch(css, -1)
	allowed := []string{"onmain on main", "text on card", "text on page", "link on transparent", "text on good"}
	for _, r := range rules {
		over := regexp.MustCompile(`(?:^|;)color:var\(--([a-z]+)\)`).FindStringSubmatch(r[2])
		under := regexp.MustCompile(`(?:^|;)background:(?:var\(--)?([a-z]+)\)?`).FindStringSubmatch(r[2])
		if over != nil && under != nil && !slices.Contains(allowed, over[1]+" on "+under[1]) {
			t.Errorf("%s: %s on %s: add it to the pairs of package brand and here", r[1], over[1], under[1])
		}
	}
}
