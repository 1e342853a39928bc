package portal

import (
	"bytes"
	"errors"
	"fmt"
	"html/template"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/microcosm-cc/bluemonday"
	"golang.org/x/net/html"

	"github.com/postseal/postseal/escrow/words"
)

// sanitizer makes HTML mail harmless by a list of what may stay. It is the first
// of three walls: the frame has no scripts and no origin, and its content security
// policy loads nothing.
type sanitizer struct{ policy *bluemonday.Policy }

var (
	// With a host: written anew, "https://?x" is "https:?x", which leads to our own page.
	linkTarget  = regexp.MustCompile(`^(?i)\s*(https?://[^\s/?#\\]|(mailto|tel):[^\s])`)
	imageSource = regexp.MustCompile(`^(?i)\s*(cid:[^\s#?]\S{0,499}|data:image/(png|jpeg|jpg|gif|webp);base64,[a-z0-9+/=\s]+)\s*$`)
	word        = regexp.MustCompile(`^[\w-]{1,40}$`)
	length      = regexp.MustCompile(`^\s*\d{1,5}(\.\d{1,3})?\s*(%|px|pt|em|\*)?\s*$`)
	number      = regexp.MustCompile(`^\s*-?\d{1,5}\s*$`)
	color       = regexp.MustCompile(`^(?i)\s*(#?[0-9a-f]{3,8}|[a-z]{3,25})\s*$`)
	fontFace    = regexp.MustCompile(`^(?: |[\p{L}\p{N} ,'"_.-]{1,200})$`) // with one branch alone regexp makes 4 MB of it
	classNames  = regexp.MustCompile(`^[\w\s-]{1,300}$`)
	idName      = regexp.MustCompile(`^[A-Za-z_][\w-]{0,80}$`)
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
	// For the style sheets. Nothing else knows these names: the frame has no scripts,
	// and nothing of its own that has one.
	p.AllowAttrs("class").Matching(classNames).Globally()
	p.AllowAttrs("id").Matching(idName).Globally()
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
	p.AllowStyles(cssProperties...).MatchingHandler(safeStyle).Globally()

	p.RequireNoReferrerOnLinks(true)
	p.RequireNoFollowOnLinks(true)
	p.AddTargetBlankToFullyQualifiedLinks(true)
	return &sanitizer{p}
}

var styleValue = regexp.MustCompile(`^[\p{L}\p{N} #%.,()'"+!/_-]*$`)

const maxStyleValue = 300 // characters; as a bound within the pattern it takes 6 MB

// safeStyle allows values that name nothing outside of themselves. The only
// functions are those of colours and sums.
func safeStyle(value string) bool {
	if utf8.RuneCountInString(value) > maxStyleValue || !styleValue.MatchString(value) || strings.Contains(value, "//") || strings.Contains(value, "/*") {
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
// that the message brings in itself. w may be nil.
func (s *sanitizer) document(c *content, w *words.Words) (out string, err error) {
	defer func() {
		if recover() != nil { // in a parser of foreign input that is not ours
			out, err = "", errNoHTML
		}
	}()
	var b strings.Builder
	b.WriteString(frameHead)
	images := int64(4 * maxImages) // an image that is named often is one often
	sheets := maxSheets
	for i, block := range c.blocks {
		switch {
		case block.attached != nil:
			b.WriteString("<hr>\n")
			if w != nil {
				b.WriteString("<p><b>" + html.EscapeString(w.T("message.attached")) + "</b></p>\n")
			}
			b.WriteString("<p>")
			for _, l := range block.attached.lines(w) {
				if l[0] != "" {
					b.WriteString(html.EscapeString(l[0]) + ": ")
				}
				b.WriteString("<bdi>" + html.EscapeString(l[1]) + "</bdi><br>\n")
			}
			b.WriteString("</p>\n")
			continue
		case block.image != "":
			url := c.images[block.image]
			if images -= int64(len(url)); images >= 0 && !c.names(block.image) {
				b.WriteString(`<p><img src="` + url + `" alt=""></p>` + "\n")
			}
			continue
		}
		b.WriteString("<article>")
		if len(block.html) == 0 {
			for _, t := range block.text {
				b.WriteString(`<pre dir="auto" style="white-space:pre-wrap;font:inherit">` + template.HTMLEscapeString(t) + "</pre>")
			}
		}
		for j, h := range block.html {
			s.fragment(&b, h, fmt.Sprintf("mail-%d-%d", i, j), c.images, &images, &sheets)
		}
		b.WriteString("</article>\n")
	}
	b.WriteString("</body></html>\n")
	return b.String(), nil
}

// fragment writes one HTML text, within a class of its own if it brings style
// sheets: they are for it alone. left and sheets are what may still come, in bytes.
func (s *sanitizer) fragment(b *strings.Builder, h, scope string, images map[string]string, left *int64, sheets *int) {
	p := prepare(h)
	var css strings.Builder
	for _, c := range p.sheets {
		if *sheets -= len(c); *sheets >= 0 {
			css.WriteString(sheet(c, scope))
		}
	}
	if css.Len() == 0 && p.body == nil {
		inline(b, s.policy.Sanitize(p.html), images, left)
		return
	}
	body := html.Token{Type: html.StartTagToken, Data: "div", Attr: mergeBody(p.body)}
	open := strings.TrimSuffix(s.policy.Sanitize(body.String()+"</div>"), "</div>")
	b.WriteString(`<section class="` + scope + `">`)
	if css.Len() > 0 {
		b.WriteString("<style>\n" + css.String() + "</style>\n")
	}
	b.WriteString(open)
	inline(b, s.policy.Sanitize(p.html), images, left)
	b.WriteString("</div></section>")
}

// maxStyle is the length of a style attribute that is looked at, in bytes. What
// parses them takes time by the square of their length.
const maxStyle = 2 << 10

// prepared is an HTML text with its style sheets, and what its body says of
// itself, taken out.
type prepared struct {
	html   string
	sheets []string
	body   []html.Attribute // nil if it says nothing
}

// prepare takes an HTML text apart, before it is made harmless. It keeps of style
// attributes what may stay.
func prepare(s string) prepared {
	var out strings.Builder
	var p prepared
	z := html.NewTokenizer(strings.NewReader(s))
	inStyle := false
	for {
		tt := z.Next()
		if tt == html.ErrorToken {
			break
		}
		raw := z.Raw()
		if inStyle && tt == html.TextToken {
			p.sheets = append(p.sheets, string(raw))
			continue
		}
		inStyle = false
		if tt != html.StartTagToken && tt != html.SelfClosingTagToken {
			out.Write(raw)
			continue
		}
		raw = bytes.Clone(raw) // reading the token changes it
		t := z.Token()
		switch t.Data {
		case "style":
			inStyle = tt == html.StartTagToken
			continue
		case "html", "body":
			p.body = append(p.body, bodyAttributes(t)...)
			continue
		}
		styled := slices.ContainsFunc(t.Attr, func(a html.Attribute) bool { return a.Key == "style" })
		if styled {
			t.Attr = cleanStyles(t.Attr)
		}
		if isWide := wide(t); isWide {
			t.Attr = addClass(t.Attr, "mail-wide")
		} else if !styled {
			out.Write(raw)
			continue
		}
		out.WriteString(t.String())
	}
	p.html = out.String()
	return p
}

var (
	pixels      = regexp.MustCompile(`^\s*(\d{3,5})\s*(px)?\s*$`)
	stylePixels = regexp.MustCompile(`(?:^|; )(?:min-)?width: (\d{3,5})(?:\.\d+)?px`)
)

// wide reports what is too wide for a telephone, by what it says itself: there it
// gets the width that there is.
func wide(t html.Token) bool {
	switch t.Data {
	case "table", "td", "th", "div":
	default:
		return false
	}
	for _, a := range t.Attr {
		var m []string
		switch a.Key {
		case "width":
			m = pixels.FindStringSubmatch(a.Val)
		case "style":
			m = stylePixels.FindStringSubmatch(a.Val)
		}
		if m != nil {
			if n, err := strconv.Atoi(m[1]); err == nil && n > 300 {
				return true
			}
		}
	}
	return false
}

// addClass adds a class; one that may not stay goes.
func addClass(attrs []html.Attribute, name string) []html.Attribute {
	for i := range attrs {
		if attrs[i].Key == "class" {
			classes := attrs[i].Val
			switch {
			case !classNames.MatchString(classes) || len(classes) >= 280:
				attrs[i].Val = name
			case !slices.Contains(strings.Fields(classes), name):
				attrs[i].Val = classes + " " + name
			}
			return attrs
		}
	}
	return append(attrs, html.Attribute{Key: "class", Val: name})
}

// cleanStyles makes style attributes harmless, and drops those that are too long.
func cleanStyles(attrs []html.Attribute) []html.Attribute {
	out := attrs[:0]
	for _, a := range attrs {
		if a.Key == "style" {
			if len(a.Val) > maxStyle {
				continue
			}
			if a.Val = declarations(cssComment.ReplaceAllString(a.Val, " ")); a.Val == "" {
				continue
			}
		}
		out = append(out, a)
	}
	return out
}

// bodyAttributes are those of html and body that also say something of a div.
func bodyAttributes(t html.Token) []html.Attribute {
	var out []html.Attribute
	for _, a := range cleanStyles(t.Attr) {
		switch a.Key {
		case "dir", "lang", "style", "class", "id":
			out = append(out, a)
		case "bgcolor":
			if color.MatchString(a.Val) {
				// Before the style, which overrides it.
				out = append([]html.Attribute{{Key: "style", Val: "background-color: " + strings.TrimSpace(a.Val)}}, out...)
			}
		case "text":
			if color.MatchString(a.Val) {
				out = append(out, html.Attribute{Key: "style", Val: "color: " + strings.TrimSpace(a.Val)})
			}
		}
	}
	return out
}

// mergeBody makes one set of the attributes of html and body: styles and classes
// add up, of the others the last counts.
func mergeBody(attrs []html.Attribute) []html.Attribute {
	out := []html.Attribute{{Key: "class", Val: "mail-body"}}
	for _, a := range attrs {
		i := slices.IndexFunc(out, func(o html.Attribute) bool { return o.Key == a.Key })
		switch {
		case i < 0:
			out = append(out, a)
		case a.Key == "class" && classNames.MatchString(a.Val):
			out[i].Val += " " + a.Val
		case a.Key == "style":
			out[i].Val += "; " + a.Val
		case a.Key != "class":
			out[i].Val = a.Val
		}
	}
	return out
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
table{max-width:100%!important}
td,th{overflow-wrap:break-word}
a{color:#0b5394}
pre{white-space:pre-wrap}
@media (max-width:640px){.mail-wide{width:100%!important;min-width:0!important}td.mail-wide,th.mail-wide{width:auto!important}td,th{box-sizing:border-box}}
blockquote{margin:.5em 0;padding-left:.8em;border-left:3px solid #c5ced8}
</style></head><body>
`
