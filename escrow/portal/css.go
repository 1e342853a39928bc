package portal

import (
	"regexp"
	"strings"
)

// Limits on style sheets, in bytes.
const (
	maxSheets   = 128 << 10 // of one message, as they come
	maxSelector = 300
)

// cssProperties are those that a mail may set: none names anything outside of
// itself, and none takes an element out of its place.
var cssProperties = []string{
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
}

var cssAllowed = func() map[string]bool {
	m := map[string]bool{}
	for _, p := range cssProperties {
		m[p] = true
	}
	return m
}()

// sheet makes a style sheet harmless: of its rules it writes anew those whose
// selectors, properties and values it knows, each within scope, a class. What it
// writes has no "<", no backslash, no address and no at-rule but media queries.
func sheet(css, scope string) string {
	css = cssComment.ReplaceAllString(css, " ")
	css = strings.NewReplacer("<!--", " ", "-->", " ").Replace(css)
	var out strings.Builder
	cssRules(&out, css, scope, true)
	return out.String()
}

var cssComment = regexp.MustCompile(`(?s)/\*.*?(\*/|$)`)

func cssRules(out *strings.Builder, css, scope string, top bool) {
	for css != "" {
		var prelude, block string
		var isBlock bool
		prelude, block, css, isBlock = cssRule(css)
		prelude = strings.TrimSpace(prelude)
		switch {
		case !isBlock:
		case strings.HasPrefix(prelude, "@"):
			query, ok := mediaQuery(prelude)
			if !ok || !top {
				continue
			}
			var inner strings.Builder
			cssRules(&inner, block, scope, false)
			if inner.Len() > 0 {
				out.WriteString("@media " + query + "{\n" + inner.String() + "}\n")
			}
		default:
			selectors := selectors(prelude, scope)
			if selectors == "" {
				continue
			}
			if d := declarations(block); d != "" {
				out.WriteString(selectors + "{" + d + "}\n")
			}
		}
	}
}

// cssRule cuts off the first rule, or a statement that ends in a semicolon.
func cssRule(css string) (prelude, block, rest string, isBlock bool) {
	open := cssFind(css, "{;}")
	if open < 0 {
		return css, "", "", false
	}
	if css[open] == '}' || css[open] == ';' && strings.HasPrefix(strings.TrimSpace(css), "@") {
		return "", "", css[open+1:], false
	}
	if css[open] == ';' { // part of the selector, which is none then
		if open = cssFind(css, "{"); open < 0 {
			return css, "", "", false
		}
	}
	prelude, rest = css[:open], css[open+1:]
	depth := 1
	for i := 0; ; {
		j := cssFind(rest[i:], "{}")
		if j < 0 {
			return prelude, rest, "", true // the end of a sheet ends all
		}
		i += j + 1
		if rest[i-1] == '{' {
			depth++
		} else if depth--; depth == 0 {
			return prelude, rest[:i-1], rest[i:], true
		}
	}
}

// cssFind finds the first of some characters, outside of strings.
func cssFind(css, chars string) int {
	quote := byte(0)
	for i := 0; i < len(css); i++ {
		switch c := css[i]; {
		case c == '\\':
			i++
		case quote != 0:
			if c == quote || c == '\n' {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case strings.IndexByte(chars, c) >= 0:
			return i
		}
	}
	return -1
}

var mediaFeatures = regexp.MustCompile(`^(?i)(only\s+)?(all|screen)?(\s*(and\s*)?\(\s*(min|max)-(device-)?width\s*:\s*\d{1,5}(\.\d{1,3})?(px|em|rem)\s*\))*$`)

// mediaQuery allows queries about the width of the screen. Rules for dark screens
// go: the frame is white.
func mediaQuery(prelude string) (string, bool) {
	query, ok := cutPrefixFold(prelude, "@media")
	if !ok || len(query) > maxSelector {
		return "", false
	}
	var queries []string
	for q := range strings.SplitSeq(query, ",") {
		if q = strings.Join(strings.Fields(q), " "); q != "" && mediaFeatures.MatchString(q) {
			queries = append(queries, q)
		}
	}
	return strings.Join(queries, ", "), len(queries) > 0
}

// selector is what is taken for one; names are those of elements, classes and
// attributes.
var selector = func() *regexp.Regexp {
	const (
		name      = `[A-Za-z_][\w-]{0,80}`
		attribute = `\[[A-Za-z-]{1,40}([~|^$*]?=("[\w .:;#%,-]*"|'[\w .:;#%,-]*'|[\w-]+))?\]`
		pseudo    = `:(first-child|last-child|only-child|first-of-type|last-of-type|nth-child\([\dn+ -]{1,10}\)|nth-child\((odd|even)\)|link|visited|hover|active|focus)`
		compound  = `(\*|` + name + `)?([.#]` + name + `|` + attribute + `|` + pseudo + `)*`
	)
	return regexp.MustCompile(`^` + compound + `((\s*[>+~]\s*|\s+)` + compound + `)*$`)
}()

var (
	selectsBody = regexp.MustCompile(`^(?i)(html(\s*>\s*|\s+))?body($|[^\w-])`)
	selectsHTML = regexp.MustCompile(`^(?i)html($|\s+[^>+~\s])`)
)

// selectors allows those of a list that select by what is known, within scope.
func selectors(list, scope string) string {
	var out []string
	for s := range strings.SplitSeq(list, ",") {
		s = strings.TrimSpace(s)
		if s == "" || len(s) > maxSelector || strings.IndexByte(">+~", s[0]) >= 0 || !selector.MatchString(s) {
			continue
		}
		s = strings.Join(strings.Fields(s), " ")
		switch {
		case selectsBody.MatchString(s):
			i := strings.Index(strings.ToLower(s), "body")
			s = "." + scope + " .mail-body" + s[i+4:]
		case selectsHTML.MatchString(s):
			s = "." + scope + s[4:]
		case strings.HasPrefix(strings.ToLower(s), "html"):
			continue
		default:
			s = "." + scope + " " + s
		}
		out = append(out, s)
	}
	return strings.Join(out, ",")
}

var (
	important = regexp.MustCompile(`(?i)\s*!\s*important\s*$`)
	address   = regexp.MustCompile(`(?i)\burl\(\s*("[^"\\]*"|'[^'\\]*'|[^"'()\\]*)\s*\)`)
)

// declarations allows those of a rule, or of a style attribute, whose property and
// value are known.
func declarations(css string) string {
	var out []string
	for css != "" {
		var d string
		if i := cssFind(css, ";"); i >= 0 {
			d, css = css[:i], css[i+1:]
		} else {
			d, css = css, ""
		}
		property, value, _ := strings.Cut(d, ":")
		property = strings.ToLower(strings.TrimSpace(property))
		if !cssAllowed[property] {
			continue
		}
		value = strings.Join(strings.Fields(value), " ")
		plain := important.ReplaceAllString(value, "")
		isImportant := plain != value
		if property == "background" { // its colour stays where its picture goes
			plain = strings.Join(strings.Fields(address.ReplaceAllString(plain, " ")), " ")
		}
		if plain == "" || !safeStyle(plain) || !balanced(plain) || strings.Contains(plain, "!") {
			continue
		}
		if isImportant {
			plain += " !important"
		}
		out = append(out, property+": "+plain)
	}
	return strings.Join(out, "; ")
}

// balanced reports that a value ends what it begins, so that what follows stays
// apart from it.
func balanced(value string) bool {
	quote, depth := rune(0), 0
	for _, c := range value {
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '(':
			depth++
		case c == ')':
			if depth--; depth < 0 {
				return false
			}
		}
	}
	return quote == 0 && depth == 0
}
