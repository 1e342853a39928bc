package portal

import (
	"regexp"
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// unflow joins the lines of a format=flowed text (RFC 3676), so that a narrow
// screen breaks them where it must.
func unflow(text string, delSp bool) string {
	var out strings.Builder
	open, depth := false, 0 // a line that goes on, and how deep it is quoted
	for line := range strings.SplitSeq(text, "\n") {
		quotes := len(line) - len(strings.TrimLeft(line, ">"))
		content := strings.TrimPrefix(line[quotes:], " ") // space-stuffing
		signature := content == "-- "
		if open && (quotes != depth || signature) {
			out.WriteByte('\n')
			open = false
		}
		if !open && quotes > 0 {
			out.WriteString(strings.Repeat(">", quotes) + " ")
		}
		open, depth = strings.HasSuffix(content, " ") && !signature, quotes
		if open && delSp {
			content = content[:len(content)-1]
		}
		out.WriteString(content)
		if !open {
			out.WriteByte('\n')
		}
	}
	return out.String()
}

// htmlToText gives the words of an HTML text, for who does not want the rest.
func htmlToText(s string) string {
	z := html.NewTokenizer(strings.NewReader(s))
	var out strings.Builder
	skip, pre := 0, 0
	newlines := 2 // at the end of out; 2: do not start with empty lines
	space := false
	breakLine := func(n int) {
		for newlines < n {
			out.WriteByte('\n')
			newlines++
		}
		space = false
	}
	write := func(t string) {
		if space && newlines == 0 {
			out.WriteByte(' ')
		}
		space = false
		out.WriteString(t)
		newlines = 0
	}
	for {
		tt := z.Next()
		switch tt {
		case html.ErrorToken:
			return strings.TrimRight(out.String(), "\n")
		case html.TextToken:
			if skip > 0 {
				continue
			}
			text := string(z.Text())
			text = html.UnescapeString(text)
			if pre > 0 {
				if text != "" {
					write(text)
				}
				continue
			}
			for i, word := range strings.FieldsFunc(text, isSpace) {
				space = space || i > 0 || isSpace(rune(text[0]))
				write(word)
			}
			if text != "" && isSpace(rune(text[len(text)-1])) {
				space = true
			}
		case html.StartTagToken, html.SelfClosingTagToken, html.EndTagToken:
			name, hasAttr := z.TagName()
			a := atom.Lookup(name)
			start := tt != html.EndTagToken
			switch a {
			case atom.Script, atom.Style, atom.Title, atom.Head:
				if a == atom.Head {
					continue // its texts are in title, style and script
				}
				if tt == html.StartTagToken {
					skip++
				} else if tt == html.EndTagToken && skip > 0 {
					skip--
				}
			case atom.Br:
				if skip == 0 {
					out.WriteByte('\n')
					newlines++
					space = false
				}
			case atom.P, atom.H1, atom.H2, atom.H3, atom.H4, atom.H5, atom.H6, atom.Table, atom.Ul, atom.Ol, atom.Blockquote, atom.Pre:
				breakLine(2)
				if a == atom.Pre {
					if start {
						pre++
					} else if pre > 0 {
						pre--
					}
				}
			case atom.Div, atom.Tr, atom.Li, atom.Section, atom.Article, atom.Header, atom.Footer, atom.Address, atom.Dt, atom.Dd, atom.Hr, atom.Center:
				breakLine(1)
				if a == atom.Li && start {
					write("• ")
				}
			case atom.Td, atom.Th:
				space = true
			case atom.Img:
				for hasAttr {
					var k, v []byte
					k, v, hasAttr = z.TagAttr()
					if alt := strings.TrimSpace(string(v)); string(k) == "alt" && alt != "" && skip == 0 {
						write("[" + alt + "]")
					}
				}
			}
		}
	}
}

func isSpace(r rune) bool { return r == ' ' || r == '\t' || r == '\n' || r == '\r' || r == '\f' }

// segment is a piece of plain text; with URL, one to follow.
type segment struct{ Text, URL string }

var webAddress = regexp.MustCompile(`(?i)\bhttps?://[^\s<>"'` + "`" + `{}|\\^]+`)

// segments finds the web addresses in a text.
func segments(text string) []segment {
	var out []segment
	last := 0
	for _, m := range webAddress.FindAllStringIndex(text, -1) {
		from, to := m[0], m[1]
		for to > from && strings.IndexByte(".,;:!?*_~", text[to-1]) >= 0 {
			to--
		}
		if text[to-1] == ')' && strings.Count(text[from:to], "(") < strings.Count(text[from:to], ")") {
			to--
		}
		if text[to-1] == ']' && !strings.Contains(text[from:to], "[") {
			to--
		}
		if from > last {
			out = append(out, segment{Text: text[last:from]})
		}
		out = append(out, segment{Text: text[from:to], URL: text[from:to]})
		last = to
	}
	if last < len(text) {
		out = append(out, segment{Text: text[last:]})
	}
	return out
}
