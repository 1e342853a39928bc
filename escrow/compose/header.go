package compose

import (
	"fmt"
	"mime"
	"net/mail"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

// foldAt is where lines are folded if they can be, in bytes (RFC 5322, section
// 2.1.1, asks for at most 78); maxWord the longest word that stands alone.
const (
	foldAt  = 76
	maxWord = 900
)

// header writes fields. Its first error stays.
type header struct {
	b   strings.Builder
	err error
}

// String returns the fields and the empty line after them.
func (h *header) String() string { return h.b.String() + "\r\n" }

func (h *header) fail(name, why string) {
	if h.err == nil {
		h.err = fmt.Errorf("%w: %s: %s", ErrField, name, why)
	}
}

// words writes a field of words that may be parted by folding.
func (h *header) words(name string, words []string) {
	col := len(name) + 1
	h.b.WriteString(name + ":")
	for i, w := range words {
		if len(w) > maxWord || strings.ContainsAny(w, "\r\n\x00") {
			h.fail(name, "a word can't be written")
			return
		}
		if i > 0 && col+1+len(w) > foldAt {
			h.b.WriteString("\r\n")
			col = 0
		}
		h.b.WriteString(" " + w)
		col += 1 + len(w)
	}
	h.b.WriteString("\r\n")
}

// raw writes a field whose value this package has made.
func (h *header) raw(name, value string) { h.words(name, strings.Fields(value)) }

// text writes an unstructured field.
func (h *header) text(name, value string) {
	if value = Line(value); value != "" {
		h.words(name, encoded(value, false))
	}
}

// extra writes a field of the caller's.
func (h *header) extra(f Field) {
	if !token(f.Name) || strings.HasPrefix(strings.ToLower(f.Name), "content-") || fixed[strings.ToLower(f.Name)] {
		h.fail("extra field", "its name is none, or is written by a field of its own")
		return
	}
	h.text(f.Name, f.Value)
}

// fixed are the fields that Message has places for.
var fixed = map[string]bool{
	"date": true, "from": true, "sender": true, "reply-to": true, "to": true, "cc": true, "bcc": true, "subject": true,
	"message-id": true, "in-reply-to": true, "references": true, "mime-version": true,
}

// addresses writes a list of mailboxes (RFC 5322, section 3.4).
func (h *header) addresses(name string, list ...Address) {
	var words []string
	for _, a := range list {
		if a.Address == "" {
			continue
		}
		if strings.ContainsFunc(a.Address, unicode.IsControl) || !utf8.ValidString(a.Address) {
			h.fail(name, "an address has a control character")
			return
		}
		// What can't be read back as the same address breaks out of its place.
		spec := "<" + a.Address + ">"
		if back, err := mail.ParseAddress(spec); err != nil || back.Name != "" || !sameAddress(back.Address, a.Address) {
			h.fail(name, "an address can't be written")
			return
		}
		if n := Line(a.Name); n != "" {
			words = append(words, encoded(n, true)...)
		}
		words = append(words, spec+",")
	}
	if len(words) == 0 {
		return
	}
	words[len(words)-1] = strings.TrimSuffix(words[len(words)-1], ",")
	h.words(name, words)
}

// sameAddress compares an address that was read with one in RFC 5321 form, whose
// local part may be quoted.
func sameAddress(read, written string) bool {
	i, j := strings.LastIndexByte(read, '@'), strings.LastIndexByte(written, '@')
	if i < 0 || j < 0 || read[i:] != written[j:] {
		return false
	}
	local := written[:j]
	if len(local) >= 2 && local[0] == '"' && local[len(local)-1] == '"' {
		local = unescape(local[1 : len(local)-1])
	}
	return read[:i] == local
}

func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// ids writes message ids (RFC 5322, section 3.6.4), given without brackets.
func (h *header) ids(name string, ids ...string) {
	var words []string
	for _, id := range ids {
		if !isID(id) {
			h.fail(name, "a message id is none")
			return
		}
		words = append(words, "<"+id+">")
	}
	if len(words) > 0 {
		h.words(name, words)
	}
}

func isID(s string) bool {
	if s == "" || len(s) > maxWord-2 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] > '~' || s[i] == '<' || s[i] == '>' {
			return false
		}
	}
	return true
}

// Line makes any text fit for a header field: control characters, and those that
// turn the direction of text around, become spaces; what is no UTF-8 becomes U+FFFD;
// spaces are one, and none at the ends.
func Line(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd"))
	return strings.Join(strings.Fields(s), " ")
}

// encoded returns the words of a line as they stand in a header: plain, quoted (in
// a phrase), or as encoded words (RFC 2047).
func encoded(s string, phrase bool) []string {
	words := strings.Fields(s)
	if ascii(s) && !strings.Contains(s, "=?") {
		short := true
		for _, w := range words {
			short = short && len(w) < maxWord/2
		}
		if short && !phrase {
			return words
		}
		if short && len(s) <= 200 {
			if atoms(s) {
				return words
			}
			return []string{`"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`}
		}
	}
	// B wherever Q would be longer; both give words of at most 75 characters,
	// parted by spaces.
	q, b := mime.QEncoding.Encode("utf-8", s), mime.BEncoding.Encode("utf-8", s)
	switch {
	case ascii(s):
		return strings.Fields(forceQ(s))
	case len(b) < len(q):
		return strings.Fields(b)
	}
	return strings.Fields(q)
}

// forceQ encodes what mime.QEncoding leaves alone, since it is ASCII.
func forceQ(s string) string {
	const hexDigits = "0123456789ABCDEF"
	var words []string
	var w strings.Builder
	for i := 0; i < len(s); i++ {
		if c := s[i]; 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' {
			w.WriteByte(c)
		} else {
			w.WriteString("=" + string(hexDigits[c>>4]) + string(hexDigits[c&15]))
		}
		if w.Len() > 55 || i == len(s)-1 {
			words = append(words, "=?utf-8?q?"+w.String()+"?=")
			w.Reset()
		}
	}
	return strings.Join(words, " ")
}

// atoms reports whether a phrase needs no quotes (RFC 5322, section 3.2.3).
func atoms(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; !('a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || strings.IndexByte(" !#$%&'*+-/=?^_`{|}~", c) >= 0) {
			return false
		}
	}
	return true
}

func ascii(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// token reports whether s is a token (RFC 2045, section 5.1).
func token(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] > '~' || strings.IndexByte(`()<>@,;:\"/[]?=`, s[i]) >= 0 {
			return false
		}
	}
	return s != "" && len(s) <= 127
}

// MediaType returns the type and subtype of a media type, in lower case:
// application/octet-stream for what is none, and for the composite types, which may
// not be encoded (RFC 2045, section 6.4).
func MediaType(s string) string {
	s, _, _ = strings.Cut(strings.ToLower(s), ";")
	s = strings.TrimSpace(s)
	kind, sub, ok := strings.Cut(s, "/")
	if !ok || !token(kind) || !token(sub) || len(s) > 100 || kind == "multipart" || kind == "message" {
		return "application/octet-stream"
	}
	return s
}

// maxFileName is the longest file name, in bytes: what file systems take.
const maxFileName = 200

// FileName makes a name that a browser sent fit for a message: the last element of
// a path of any system, in one line, not hidden, not empty.
func FileName(s string) string {
	s = Line(strings.ReplaceAll(s, `\`, "/"))
	s = strings.Trim(path.Base(s), "./ ")
	if len(s) > maxFileName {
		ext := path.Ext(s)
		if len(ext) > 20 {
			ext = ""
		}
		s = strings.ToValidUTF8(s[:maxFileName-len(ext)], "") + ext
	}
	if s == "" {
		return "file"
	}
	return s
}

// params writes a field with one parameter of any text (RFC 2231): plain where it
// is ASCII; else in both forms, the new one and, for programs that do not know it,
// an approximation.
func (h *header) params(field, value, name, text string) {
	words := []string{value + ";"}
	quoted := func(s string) string {
		return name + `="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
	}
	if ascii(text) && len(text) <= 60 {
		h.words(field, append(words, quoted(text)))
		return
	}
	approx := strings.Map(func(r rune) rune {
		if r >= utf8.RuneSelf {
			return '_'
		}
		return r
	}, text)
	if len(approx) > 60 {
		ext := path.Ext(approx)
		if len(ext) > 20 {
			ext = ""
		}
		approx = approx[:60-len(ext)] + ext
	}
	words = append(words, quoted(approx)+";")
	enc := percent(text)
	if len(enc) <= 55 {
		h.words(field, append(words, name+"*=utf-8''"+enc))
		return
	}
	for i := 0; len(enc) > 0; i++ { // continuations (section 3)
		n := min(len(enc), 48)
		for n < len(enc) && n > 2 && (enc[n-1] == '%' || enc[n-2] == '%') {
			n--
		}
		prefix := ""
		if i == 0 {
			prefix = "utf-8''"
		}
		end := ";"
		if n == len(enc) {
			end = ""
		}
		words = append(words, fmt.Sprintf("%s*%d*=%s%s%s", name, i, prefix, enc[:n], end))
		enc = enc[n:]
	}
	h.words(field, words)
}

// percent encodes all but attribute characters (RFC 2231, section 7).
func percent(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c := s[i]; 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
