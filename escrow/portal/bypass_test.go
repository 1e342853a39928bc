package portal

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

// bypass is one way around sanitisers, of testdata/bypasses.
type bypass struct {
	at      string // file and line
	group   string
	charset string
	html    string // its bytes, in charset
}

var hexByte = regexp.MustCompile(`«([0-9A-F]{2})»`)

// bypasses reads the corpus. What is to run in its samples is alert(1), what is not to
// be asked for anything is SPY.
func bypasses(t testing.TB) []bypass {
	t.Helper()
	files, err := filepath.Glob("testdata/bypasses/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	pictures := strings.NewReplacer("␀", "\x00", "␉", "\t", "␊", "\n", "␌", "\f", "␍", "\r", "␛", "\x1b")
	var list []bypass
	seen := map[string]bool{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		group := strings.TrimSuffix(filepath.Base(f), ".txt")
		if !strings.HasPrefix(string(b), "# ") {
			t.Errorf("%s does not say where it comes from", f)
		}
		charset := "utf-8"
		for i, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
			if name, ok := strings.CutPrefix(line, "%charset "); ok {
				charset = name
				continue
			}
			if strings.HasPrefix(line, "#") || line == "" {
				continue
			}
			text := hexByte.ReplaceAllStringFunc(pictures.Replace(line), func(m string) string {
				var c byte
				fmt.Sscanf(m, "«%02X»", &c)
				return string([]byte{c})
			})
			if !seen[charset+text] {
				seen[charset+text] = true
				list = append(list, bypass{at: fmt.Sprintf("%s.txt:%d", group, i+1), group: group, charset: charset, html: text})
			}
		}
	}
	if len(list) < 500 {
		t.Fatalf("%d ways around sanitisers", len(list))
	}
	return list
}

// mail makes a mail of samples, each a part of its own.
func bypassMail(list []bypass) string {
	var m strings.Builder
	m.WriteString("Subject: bypasses\r\nContent-Type: multipart/mixed; boundary=xyz\r\n\r\n")
	for _, b := range list {
		fmt.Fprintf(&m, "--xyz\r\nContent-Type: text/html; charset=%q\r\nContent-Transfer-Encoding: base64\r\n\r\n%s\r\n", b.charset, base64.StdEncoding.EncodeToString([]byte(b.html)))
	}
	m.WriteString("--xyz--\r\n")
	return m.String()
}

// What is left of a mail by the allow-list, told anew: a change of the sanitiser that
// lets more through is to be noticed here.
var (
	mayBe = strings.Fields(`a abbr acronym address article aside b bdi bdo big blockquote br caption center cite code col colgroup dd del dfn div
		dl dt em figcaption figure font footer h1 h2 h3 h4 h5 h6 header hr i img ins kbd li main mark nav ol p pre q rp rt ruby s samp section
		small span strike strong sub sup table tbody td tfoot th thead time tr tt u ul var wbr`)
	mayHave = func() map[string]*regexp.Regexp {
		m := map[string]*regexp.Regexp{}
		for names, value := range map[string]string{
			"alt title":                `(?s).*`,
			"class":                    `[\w\s-]{1,300}`,
			"id":                       `[A-Za-z_][\w-]*`,
			"dir":                      `(?i)ltr|rtl|auto`,
			"lang":                     `[A-Za-z0-9-]+`,
			"align valign":             `[\w-]+`,
			"width height":             `[\s\d.]+(%|px|pt|em|\*)?\s*`,
			"border hspace vspace":     `[\s\d.]+(%|px|pt|em|\*)?\s*`,
			"cellpadding cellspacing":  `[\s\d.]+(%|px|pt|em|\*)?\s*`,
			"colspan rowspan span":     `\s*-?\d+\s*`,
			"start value":              `\s*-?\d+\s*`,
			"bgcolor color":            `\s*#?[0-9A-Za-z]+\s*`,
			"face":                     `[\p{L}\p{N} ,'"_.-]+`,
			"size":                     `[+-]?\d{1,2}`,
			"nowrap noshade reversed":  `[a-z]{0,8}`,
			"type":                     `[AaIi1]|disc|circle|square`,
			"a href":                   `(?is)\s*(https?://[^\s/?#\\]|(mailto|tel):[^\s]).*`,
			"a target":                 `_blank`,
			"a rel":                    `nofollow noreferrer( noopener)?`,
			"img src":                  `data:image/(png|jpeg|jpg|gif|webp);base64,[A-Za-z0-9+/=\s]+`,
			"style":                    `[a-z-]+: [^;:@\\<>{}]*(; [a-z-]+: [^;:@\\<>{}]*)*`,
			"cite datetime open ended": `\x00`, // never
		} {
			element := ""
			list := strings.Fields(names)
			if len(list) == 2 && (list[0] == "a" || list[0] == "img") {
				element, list = list[0]+" ", list[1:]
			}
			for _, name := range list {
				m[element+name] = regexp.MustCompile(`^(` + value + `)$`)
			}
		}
		return m
	}()
	// moves and reaches are what no style may do: leave its place, and name anything.
	moves   = regexp.MustCompile(`(?i)(^|[{; ])([a-z-]*(position|inset|z-index|transform|translate|animation|transition|behaviou?r|binding|cursor|filter|mask|image|zoom)[a-z-]*|content|all|--[^:]*):`)
	reaches = regexp.MustCompile(`(?i)(url|src|image|image-set|expression|var|attr|env|element|paint|cross-fade)\s*\(|//|[@\\<>]|/\*`)
)

// allowed parses what is left of a mail in both modes that there are, and looks for
// anything that is not on the list.
func allowed(t testing.TB, at, out string) {
	t.Helper()
	for _, scripting := range []bool{true, false} {
		parse := func(s string) *html.Node {
			doc, err := html.ParseWithOptions(strings.NewReader("<!doctype html><html><head></head><body>"+s+"</body></html>"), html.ParseOptionEnableScripting(scripting))
			if err != nil {
				return nil // nested too deep for the parser
			}
			return doc
		}
		doc := parse(out)
		if doc == nil {
			continue
		}
		for n := range doc.Descendants() {
			switch n.Type {
			case html.CommentNode:
				t.Errorf("%s: a comment: %q", at, n.Data)
				continue
			case html.ElementNode:
			default:
				continue
			}
			switch {
			case n.Namespace != "":
				t.Errorf("%s: a foreign element %s:%s", at, n.Namespace, n.Data)
			case n.Data == "html" || n.Data == "head" || n.Data == "body":
				if len(n.Attr) > 0 {
					t.Errorf("%s: %s has %v", at, n.Data, n.Attr)
				}
				continue
			case n.Data == "style":
				if css := n.FirstChild; css == nil || reaches.MatchString(css.Data) || moves.MatchString(selectorsOut(css.Data)) || len(n.Attr) > 0 {
					t.Errorf("%s: a style sheet %q", at, out)
				}
				continue
			case !slices.Contains(mayBe, n.Data):
				t.Errorf("%s: element %s in %q", at, n.Data, out)
			}
			for _, a := range n.Attr {
				value := mayHave[n.Data+" "+a.Key]
				if value == nil {
					value = mayHave[a.Key]
				}
				if a.Namespace != "" || value == nil || !value.MatchString(a.Val) {
					t.Errorf("%s: %s has %s=%q", at, n.Data, a.Key, a.Val)
				}
				if a.Key == "style" && (reaches.MatchString(a.Val) || moves.MatchString(a.Val)) {
					t.Errorf("%s: style %q", at, a.Val)
				}
			}
		}
		// What is written out and read again is the same, so that nothing changes its
		// meaning on the way (mXSS). Twice: some elements are put in order by the first.
		var once, twice strings.Builder
		html.Render(&once, doc)
		if again, err := html.ParseWithOptions(strings.NewReader(once.String()), html.ParseOptionEnableScripting(scripting)); err == nil {
			for n := range again.Descendants() {
				if n.Type == html.ElementNode && n.Data != "style" && n.Data != "html" && n.Data != "head" && n.Data != "body" && (n.Namespace != "" || !slices.Contains(mayBe, n.Data)) {
					t.Errorf("%s: written anew there is a %s", at, n.Data)
				}
			}
			html.Render(&twice, again)
			if third, err := html.ParseWithOptions(strings.NewReader(twice.String()), html.ParseOptionEnableScripting(scripting)); err == nil {
				var b strings.Builder
				html.Render(&b, third)
				if b.String() != twice.String() {
					t.Errorf("%s: changes its form at each reading:\n%q\n%q", at, twice.String(), b.String())
				}
			}
		}
	}
}

var blocksOf = regexp.MustCompile(`\{[^{}]*\}`)

// selectorsOut leaves of a style sheet what its rules declare: a selector may name a
// class as it likes.
func selectorsOut(css string) string { return strings.Join(blocksOf.FindAllString(css, -1), "\n") }

// settled checks that what was sanitised is not changed by doing so again.
func settled(t testing.TB, s *sanitizer, at, in string) {
	t.Helper()
	clean := func(in string) string { return s.policy.Sanitize(prepare(in).html) }
	once := clean(in)
	if twice := clean(once); twice != once {
		t.Errorf("%s: sanitised twice:\n %q\n-> %q\n-> %q", at, in, once, twice)
	}
	for _, css := range prepare(in).sheets {
		out := strings.ReplaceAll(sheet(css, "scope"), ".scope ", "")
		if strings.Contains(out, ".scope") || strings.Contains(out, ".mail-body") {
			continue // rules for what is around
		}
		if again := strings.ReplaceAll(sheet(out, "scope"), ".scope ", ""); again != out {
			t.Errorf("%s: a style sheet sanitised twice:\n %q\n-> %q\n-> %q", at, css, out, again)
		}
	}
}

// Of what is known to get around sanitisers nothing is left that is not on the list,
// however the rest is read: each sample as a mail of its own, in its charset, and all
// of a group in one.
func TestBypassCorpus(t *testing.T) {
	s := newSanitizer()
	groups := map[string][]bypass{}
	frame := func(at string, list ...bypass) {
		c, err := scan(strings.NewReader(bypassMail(list)))
		if err != nil {
			t.Fatal(at, err)
		}
		doc, err := s.document(c, nil)
		if err != nil {
			t.Fatal(at, err)
		}
		body, ok := strings.CutPrefix(doc, frameHead)
		if !ok {
			t.Fatal(at, doc)
		}
		harmless(t, body)
		allowed(t, at, strings.TrimSuffix(body, "</body></html>\n"))
		for _, b := range c.blocks {
			for _, h := range b.html {
				settled(t, s, at, h)
			}
		}
	}
	for _, b := range bypasses(t) {
		frame(b.at, b)
		if b.charset == "utf-8" {
			settled(t, s, b.at, b.html) // as it is, before NULs go
			allowed(t, b.at, show(t, s, b.html))
		}
		groups[b.group] = append(groups[b.group], b)
	}
	for name, list := range groups {
		frame(name, list...)
	}
	t.Logf("%d samples in %d groups", len(bypasses(t)), len(groups))
}

// The check itself notices.
func TestBypassCheckNotices(t *testing.T) {
	for _, bad := range []string{
		`<script>x</script>`, `<p onclick=x>`, `<p style="position: fixed">`, `<p style="background: url(x)">`, `<a href="javascript:x">y</a>`, `<svg></svg>`,
		`<img src="http://x.example/">`, `<a href="https://x.example/" target="_top">`, `<!-- x -->`, `<style>p{background:url(x)}</style>`, `<style>p{position:fixed}</style>`,
		`<noscript></noscript>`, `<form>`, `<p data-x=y>`, `<body onload=x>`, `<p style="color:red}x">`, `<img src="data:image/svg+xml;base64,AAAA">`,
	} {
		var r recorder
		allowed(&r, "x", bad)
		if r.n == 0 {
			t.Errorf("not noticed: %s", bad)
		}
	}
}

// recorder counts what a check reports.
type recorder struct {
	testing.TB
	n int
}

func (r *recorder) Helper()               {}
func (r *recorder) Errorf(string, ...any) { r.n++ }
