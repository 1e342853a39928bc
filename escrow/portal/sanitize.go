package portal

import (
	"errors"
	"html/template"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/microcosm-cc/bluemonday"
	"golang.org/x/net/html"
)

// sanitizer makes HTML mail harmless by a list of what may stay. It is the first
// of three walls: the frame has no scripts and no origin, and its content security
// policy loads nothing.
type sanitizer struct{ policy *bluemonday.Policy }

var (
	linkTarget  = regexp.MustCompile(`^(?i)\s*(https?://|mailto:|tel:)[^\s]`)
	imageSource = regexp.MustCompile(`^(?i)\s*(cid:\S{1,500}|data:image/(png|jpeg|jpg|gif|webp);base64,[a-z0-9+/=\s]+)\s*$`)
	word        = regexp.MustCompile(`^[\w-]{1,40}$`)
	length      = regexp.MustCompile(`^\s*\d{1,5}(\.\d{1,3})?\s*(%|px|pt|em|\*)?\s*$`)
	number      = regexp.MustCompile(`^\s*-?\d{1,5}\s*$`)
	color       = regexp.MustCompile(`^(?i)\s*(#?[0-9a-f]{3,8}|[a-z]{3,25})\s*$`)
	fontFace    = regexp.MustCompile(`^[\p{L}\p{N} ,'"_.-]{1,200}$`)
	language    = regexp.MustCompile(`^[A-Za-z0-9-]{1,35}$`)
)

func newSanitizer() *sanitizer {
	p := bluemonday.NewPolicy()
	elements := []string{
		"a", "abbr", "acronym", "address", "article", "aside", "b", "bdi", "bdo", "big", "blockquote", "br", "caption", "center", "cite",
		"code", "col", "colgroup", "dd", "del", "dfn", "div", "dl", "dt", "em", "figcaption", "figure", "font", "footer", "h1", "h2", "h3",
		"h4", "h5", "h6", "header", "hr", "i", "img", "ins", "kbd", "li", "main", "mark", "nav", "ol", "p", "pre", "q", "rp", "rt", "ruby",
		"s", "samp", "section", "small", "span", "strike", "strong", "sub", "sup", "table", "tbody", "td", "tfoot", "th", "thead", "time",
		"tr", "tt", "u", "ul", "var", "wbr",
	}
	p.AllowElements(elements...)
	p.AllowNoAttrs().OnElements(elements...)
	p.SkipElementsContent("title", "svg", "math", "template", "applet", "audio", "video", "canvas", "xmp", "textarea")

	p.AllowURLSchemes("http", "https", "mailto", "tel", "cid", "data") // which where: by the patterns
	p.AllowAttrs("href").Matching(linkTarget).OnElements("a")
	p.AllowAttrs("src").Matching(imageSource).OnElements("img")
	p.AllowAttrs("alt").OnElements("img")
	p.AllowAttrs("title").Globally()
	p.AllowAttrs("dir").Matching(regexp.MustCompile(`^(?i)(ltr|rtl|auto)$`)).Globally()
	p.AllowAttrs("lang").Matching(language).Globally()
	p.AllowAttrs("align", "valign").Matching(word).Globally()
	p.AllowAttrs("width", "height").Matching(length).OnElements("table", "td", "th", "tr", "col", "colgroup", "img", "hr", "div", "p")
	p.AllowAttrs("border", "cellpadding", "cellspacing", "hspace", "vspace").Matching(length).OnElements("table", "img")
	p.AllowAttrs("colspan", "rowspan", "span").Matching(number).OnElements("td", "th", "col", "colgroup")
	p.AllowAttrs("bgcolor").Matching(color).OnElements("table", "tbody", "thead", "tfoot", "tr", "td", "th", "div")
	p.AllowAttrs("color").Matching(color).OnElements("font", "hr")
	p.AllowAttrs("face").Matching(fontFace).OnElements("font")
	p.AllowAttrs("size").Matching(regexp.MustCompile(`^[+-]?\d{1,2}$`)).OnElements("font", "hr")
	p.AllowAttrs("nowrap", "noshade", "reversed").Matching(regexp.MustCompile(`^[a-z]{0,8}$`)).OnElements("td", "th", "hr", "ol")
	p.AllowAttrs("start", "value").Matching(number).OnElements("ol", "li")
	p.AllowAttrs("type").Matching(regexp.MustCompile(`^[AaIi1]$|^(disc|circle|square)$`)).OnElements("ol", "ul", "li")
	p.AllowStyles(
		"background", "background-color", "border", "border-bottom", "border-bottom-color", "border-bottom-left-radius", "border-bottom-right-radius",
		"border-bottom-style", "border-bottom-width", "border-collapse", "border-color", "border-left", "border-left-color", "border-left-style",
		"border-left-width", "border-radius", "border-right", "border-right-color", "border-right-style", "border-right-width", "border-spacing",
		"border-style", "border-top", "border-top-color", "border-top-left-radius", "border-top-right-radius", "border-top-style", "border-top-width",
		"border-width", "box-sizing", "caption-side", "clear", "color", "direction", "display", "float", "font", "font-family", "font-size",
		"font-style", "font-variant", "font-weight", "height", "letter-spacing", "line-height", "list-style", "list-style-position",
		"list-style-type", "margin", "margin-bottom", "margin-left", "margin-right", "margin-top", "max-height", "max-width", "min-height", "min-width",
		"opacity", "overflow", "overflow-wrap", "padding", "padding-bottom", "padding-left", "padding-right", "padding-top", "table-layout",
		"text-align", "text-decoration", "text-indent", "text-transform", "unicode-bidi", "vertical-align", "visibility", "white-space", "width",
		"word-break", "word-spacing", "word-wrap",
	).MatchingHandler(safeStyle).Globally()

	p.RequireNoReferrerOnLinks(true)
	p.RequireNoFollowOnLinks(true)
	p.AddTargetBlankToFullyQualifiedLinks(true)
	return &sanitizer{p}
}

var styleValue = regexp.MustCompile(`^[\p{L}\p{N} #%.,()'"+!/_-]{0,300}$`)

// safeStyle allows values that name nothing outside of themselves. The only
// functions are those of colours and sums.
func safeStyle(value string) bool {
	if !styleValue.MatchString(value) || strings.Contains(value, "//") || strings.Contains(value, "/*") {
		return false
	}
	for rest := value; ; {
		i := strings.IndexByte(rest, '(')
		if i < 0 {
			return true
		}
		j := i
		for j > 0 && (rest[j-1] == '-' || rest[j-1] >= 'a' && rest[j-1] <= 'z' || rest[j-1] >= 'A' && rest[j-1] <= 'Z') {
			j--
		}
		switch strings.ToLower(rest[j:i]) {
		case "rgb", "rgba", "hsl", "hsla", "calc", "":
		default:
			return false
		}
		rest = rest[i+1:]
	}
}

var errNoHTML = errors.New("the HTML can't be shown")

// document makes the frame's document of a message: harmless, with the images
// that the message brings in itself.
func (s *sanitizer) document(c *content) (out string, err error) {
	defer func() {
		if recover() != nil { // in a parser of foreign input that is not ours
			out, err = "", errNoHTML
		}
	}()
	var b strings.Builder
	b.WriteString(frameHead)
	images := int64(4 * maxImages) // an image that is named often is one often
	for _, block := range c.blocks {
		b.WriteString("<div>")
		if len(block.html) == 0 {
			for _, t := range block.text {
				b.WriteString(`<pre style="white-space:pre-wrap;font:inherit">` + template.HTMLEscapeString(t) + "</pre>")
			}
		}
		for _, h := range block.html {
			inline(&b, s.policy.Sanitize(withoutLongStyles(h)), c.images, &images)
		}
		b.WriteString("</div>\n")
	}
	b.WriteString("</body></html>\n")
	return b.String(), nil
}

// maxStyle is the length of a style attribute that is looked at, in bytes. What
// parses them takes time by the square of their length.
const maxStyle = 2 << 10

// withoutLongStyles drops style attributes that are too long.
func withoutLongStyles(s string) string {
	var out strings.Builder
	z := html.NewTokenizer(strings.NewReader(s))
	for {
		tt := z.Next()
		if tt == html.ErrorToken {
			return out.String()
		}
		raw := z.Raw()
		if tt != html.StartTagToken && tt != html.SelfClosingTagToken || len(raw) <= maxStyle {
			out.Write(raw)
			continue
		}
		t := z.Token()
		t.Attr = slices.DeleteFunc(t.Attr, func(a html.Attribute) bool { return a.Key == "style" && len(a.Val) > maxStyle })
		out.WriteString(t.String())
	}
}

// inline writes sanitised HTML, with what its images name by cid: (RFC 2392) in
// their place. Of what the message does not bring, or what exceeds left (in bytes),
// there are the words that stand for it.
func inline(out *strings.Builder, clean string, images map[string]string, left *int64) {
	z := html.NewTokenizer(strings.NewReader(clean))
	for {
		tt := z.Next()
		if tt == html.ErrorToken {
			return
		}
		raw := string(z.Raw())
		if tt != html.StartTagToken && tt != html.SelfClosingTagToken || !strings.HasPrefix(raw, "<img") {
			out.WriteString(raw)
			continue
		}
		t := z.Token()
		attrs := t.Attr[:0]
		alt, shown := "", false
		for _, a := range t.Attr {
			if a.Key == "src" {
				if id, ok := cutPrefixFold(strings.TrimSpace(a.Val), "cid:"); ok {
					if unescaped, err := url.PathUnescape(id); err == nil {
						id = unescaped
					}
					a.Val = images[strings.Trim(id, "<>")]
				}
				if *left -= int64(len(a.Val)); a.Val == "" || *left < 0 {
					continue
				}
				shown = true
			}
			if a.Key == "alt" {
				alt = strings.TrimSpace(a.Val)
			}
			attrs = append(attrs, a)
		}
		if t.Attr = attrs; !shown {
			if alt != "" {
				out.WriteString("[" + html.EscapeString(alt) + "]")
			}
			continue
		}
		out.WriteString(t.String())
	}
}

func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

// frameHead starts the frame's document. Mail is written for a white page.
const frameHead = `<!doctype html>
<html><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>Message</title>
<base target="_blank">
<style>
:root{color-scheme:light}
body{margin:0;padding:16px;background:#fff;color:#17212b;font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;overflow-wrap:anywhere}
img{max-width:100%;height:auto}
table{max-width:100%}
a{color:#0b5394}
pre{white-space:pre-wrap}
blockquote{margin:.5em 0;padding-left:.8em;border-left:3px solid #c5ced8}
</style></head><body>
`
