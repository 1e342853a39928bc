package portal

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

var update = flag.Bool("update", false, "write what the sanitiser gives now as what it should give; read the difference")

// hostile returns the corpus: HTML mails that try to run, load or overlay
// something.
func hostile(t testing.TB) map[string]string {
	t.Helper()
	files, err := filepath.Glob("testdata/hostile/*.html")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	corpus := map[string]string{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		corpus[strings.TrimSuffix(filepath.Base(f), ".html")] = string(b)
	}
	return corpus
}

// show sanitises HTML as the frame shows it, without the frame's own head.
func show(t testing.TB, s *sanitizer, in string) string {
	t.Helper()
	doc, err := s.document(&content{blocks: []block{{html: []string{in}}}, images: map[string]string{"logo": "data:image/png;base64," + dot}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, ok := strings.CutPrefix(doc, frameHead)
	if !ok || !strings.HasSuffix(body, "</article>\n</body></html>\n") {
		t.Fatalf("a frame of another form: %q", doc)
	}
	return strings.TrimPrefix(strings.TrimSuffix(body, "</article>\n</body></html>\n"), "<article>")
}

func TestHostileHTML(t *testing.T) {
	s := newSanitizer()
	for name, in := range hostile(t) {
		t.Run(name, func(t *testing.T) {
			got := show(t, s, in)
			file := filepath.Join("testdata/hostile", name+".want")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("%q\n got %q\nwant %q", in, got, want)
			}
			harmless(t, got)
		})
	}
}

var (
	harmlessSheet = regexp.MustCompile(`(?i)url\s*\(|expression|image|@import|@font|@charset|@n|var\s*\(|attr\s*\(|\\|[;{]\s*(position|content|behavior|-moz-binding)\s*:|<`)
	harmlessStyle = regexp.MustCompile(`(?i)(url|expression|image|image-set|src|var|attr)\s*\(|@|\\|position\s*:|content\s*:`)
)

// harmless parses what the frame gets as a browser does, and looks for anything
// that runs, loads, or leaves its place.
func harmless(t testing.TB, out string) {
	t.Helper()
	doc, err := html.Parse(strings.NewReader("<!doctype html><html><head></head><body><div>" + out + "</div></body></html>"))
	if err != nil {
		return // nested too deep, for one: no browser is asked to show that
	}
	for n := range doc.Descendants() {
		if n.Type == html.CommentNode {
			t.Errorf("a comment: %q", n.Data)
		}
		if n.Type != html.ElementNode {
			continue
		}
		if n.Namespace != "" {
			t.Errorf("foreign element %s:%s", n.Namespace, n.Data)
		}
		if n.Data == "style" {
			if css := n.FirstChild; css != nil && harmlessSheet.MatchString(css.Data) {
				t.Errorf("style sheet %q", css.Data)
			}
		}
		switch n.Data {
		case "script", "link", "meta", "base", "iframe", "frame", "frameset", "object", "embed", "applet", "form", "input", "button", "select",
			"textarea", "svg", "math", "template", "video", "audio", "source", "track", "picture", "portal", "marquee", "noscript", "title", "dialog", "slot":
			t.Errorf("element %s", n.Data)
		}
		for _, a := range n.Attr {
			v := strings.ToLower(strings.TrimSpace(a.Val))
			switch {
			case strings.HasPrefix(a.Key, "on"), a.Key == "name", a.Key == "srcset", a.Key == "background", a.Key == "ping", a.Key == "action", a.Key == "formaction", a.Key == "srcdoc":
				t.Errorf("attribute %s of %s", a.Key, n.Data)
			case a.Key == "href":
				if !strings.HasPrefix(v, "https://") && !strings.HasPrefix(v, "http://") && !strings.HasPrefix(v, "mailto:") && !strings.HasPrefix(v, "tel:") {
					t.Errorf("link to %q", a.Val)
				}
			case a.Key == "src":
				if !strings.HasPrefix(v, "data:image/") || strings.HasPrefix(v, "data:image/svg") {
					t.Errorf("source %q", a.Val)
				}
			case a.Key == "target" && v != "_blank":
				t.Errorf("target %q", a.Val)
			case a.Key == "style" && harmlessStyle.MatchString(v):
				t.Errorf("style %q", a.Val)
			}
		}
	}
}

// Real mail stays readable.
func TestMailStaysReadable(t *testing.T) {
	s := newSanitizer()
	for in, want := range map[string]string{
		`<p class="MsoNormal"><span style="font-size:11.0pt;font-family:&quot;Calibri&quot;,sans-serif;color:#1F497D">Hi<o:p></o:p></span></p>`:           `<p class="MsoNormal"><span style="font-size: 11.0pt; font-family: &#34;Calibri&#34;,sans-serif; color: #1F497D">Hi</span></p>`,
		`<table width="600" cellpadding="0" bgcolor="#ffffff" align="center"><tr><td style="padding:10px 20px;background-color:#f00">x</td></tr></table>`: `<table width="600" cellpadding="0" bgcolor="#ffffff" align="center" class="mail-wide"><tr><td style="padding: 10px 20px; background-color: #f00">x</td></tr></table>`,
		`<div dir="rtl" lang="ar">مرحبا</div>`:                                       `<div dir="rtl" lang="ar">مرحبا</div>`,
		`<a href="mailto:a@b.example?subject=x">m</a> <a href="tel:+49301234">t</a>`: `<a href="mailto:a@b.example?subject=x" rel="nofollow noreferrer">m</a> <a href="tel:+49301234" rel="nofollow noreferrer">t</a>`,
		`<a href="https://x.example/?a=1&amp;b=2">l</a>`:                             `<a href="https://x.example/?a=1&amp;b=2" rel="nofollow noreferrer noopener" target="_blank">l</a>`,
		`<ol start="3" type="a"><li value="5">x</li></ol><blockquote>q</blockquote>`: `<ol start="3" type="a"><li value="5">x</li></ol><blockquote>q</blockquote>`,
		`<font color="red" face="Arial, sans-serif" size="+1">x</font>`:              `<font color="red" face="Arial, sans-serif" size="+1">x</font>`,
		`<span style="display:none;max-height:0;color:rgba(1,2,3,.5)">pre</span>`:    `<span style="display: none; max-height: 0; color: rgba(1,2,3,.5)">pre</span>`,
		`<img src="cid:logo" width="20" alt="L">`:                                    `<img src="data:image/png;base64,` + dot + `" width="20" alt="L">`,
		`<img src="cid:missing" alt="a &lt;b&gt;"> &lt;script&gt;`:                   `[a &lt;b&gt;] &lt;script&gt;`,
	} {
		if got := show(t, s, in); got != want {
			t.Errorf("%s\n got %s\nwant %s", in, got, want)
		}
	}
}

func TestAnImageThatIsNamedOften(t *testing.T) {
	big := "data:image/png;base64," + strings.Repeat("A", maxImages)
	doc, err := newSanitizer().document(&content{blocks: []block{{html: []string{strings.Repeat(`<img src="cid:x">`, 1000)}}}, images: map[string]string{"x": big}}, nil)
	if err != nil || len(doc) > 5*maxImages || !strings.Contains(doc, big) {
		t.Errorf("%d bytes, %v", len(doc), err)
	}
}

func FuzzSanitize(f *testing.F) {
	for _, in := range hostile(f) {
		f.Add(in)
	}
	for _, b := range bypasses(f) {
		f.Add(b.html)
	}
	s := newSanitizer()
	f.Fuzz(func(t *testing.T, in string) {
		if len(in) > 20_000 {
			return
		}
		out := show(t, s, in)
		harmless(t, out)
		allowed(t, "fuzz", out)
		settled(t, s, "fuzz", in)
	})
}
