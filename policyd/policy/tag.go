package policy

import (
	"mime"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/text/encoding/htmlindex"
)

// Rewrite takes out of a header field what the triggers say that it sets off: the
// tag out of a subject, with its encoded words (RFC 2047) and folds as they should be;
// the whole field of kind header, for which it returns "". field is as in the message,
// with its name and line end. changed is false where nothing is to be done, or where a
// tag can't be taken out without touching more than itself, such as in a charset that
// is not known: then it stays.
func (s *Triggers) Rewrite(field string, sender Address, now time.Time) (rewritten string, changed bool) {
	name, value, ok := strings.Cut(field, ":")
	if !ok {
		return field, false
	}
	for _, f := range s.Match(strings.TrimRight(name, " \t"), value, sender, now) {
		if f.Rule == nil || !f.Remove {
			continue
		}
		if f.Kind == OnHeader {
			return "", true
		}
		for _, t := range s.byField[f.field()] {
			if t.Trigger != f.Trigger {
				continue
			}
			if v, ok := removeTag(value, t.re); ok {
				value, changed = v, true
			}
		}
	}
	if !changed {
		return field, false
	}
	return name + ":" + value, true
}

// part is a stretch of a header field's value.
type part struct {
	from, to int    // in the unfolded value
	text     string // what it means
	word     bool   // encoded words of one charset
	encoding byte   // of the first of them: B or Q
	faithful bool   // text is all that they say, and can be encoded again
}

// parts takes the unfolded value u apart as [decodeWords] reads it.
func parts(u string) []part {
	var all []part
	var charset string
	var pending []byte
	end := 0
	flush := func() {
		if n := len(all) - 1; n >= 0 && all[n].word && all[n].text == "" {
			all[n].text = toUTF8(charset, pending)
			all[n].faithful = faithful(charset, pending, all[n].text)
		}
		pending = nil
	}
	for _, w := range encodedWord.FindAllStringSubmatchIndex(u, -1) {
		name, _, _ := strings.Cut(strings.ToLower(u[w[2]:w[3]]), "*")
		between := u[end:w[0]]
		adjacent := end > 0 && strings.Trim(between, " \t") == ""
		if adjacent && name == charset {
			all[len(all)-1].to = w[1]
		} else {
			flush()
			if between != "" {
				p := part{from: end, to: w[0], text: between}
				if adjacent {
					p.text = "" // white space between two words is not meant
				}
				all = append(all, p)
			}
			all = append(all, part{from: w[0], to: w[1], word: true, encoding: u[w[4]]})
		}
		charset, end = name, w[1]
		pending = append(pending, decodeWord(u[w[4]], u[w[6]:w[7]])...)
	}
	flush()
	if end < len(u) {
		all = append(all, part{from: end, to: len(u), text: u[end:]})
	}
	return all
}

// faithful reports whether text is what b means, so that it may be written anew.
func faithful(charset string, b []byte, text string) bool {
	if !utf8.ValidString(text) || strings.ContainsRune(text, utf8.RuneError) || strings.ContainsAny(text, "\r\n\x00") {
		return false
	}
	switch charset {
	case "utf-8", "utf8":
		return true
	case "us-ascii":
		return !slices.ContainsFunc(b, func(c byte) bool { return c >= 0x80 })
	}
	_, err := htmlindex.Get(charset)
	return err == nil
}

// removeTag takes all that re matches out of the value of a header field, folds, line
// end and all, and the white space that would be left twice. ok is false where nothing
// matches, or it can't be done.
func removeTag(value string, re *regexp.Regexp) (_ string, ok bool) {
	body := strings.TrimRight(value, "\r\n")
	tail := value[len(body):]
	eol := "\r\n"
	if tail == "\n" {
		eol = tail
	}
	// The unfolded value, and where its bytes stand in the body.
	var unfolded []byte
	var at []int
	for i := 0; i < len(body); i++ {
		if body[i] != '\r' && body[i] != '\n' {
			unfolded, at = append(unfolded, body[i]), append(at, i)
		}
	}
	u := string(unfolded)
	all := parts(u)
	var text strings.Builder
	for _, p := range all {
		text.WriteString(p.text)
	}
	cut := cuts(text.String(), re)
	if cut == nil {
		return value, false
	}
	var want strings.Builder
	for i := range text.Len() {
		if !cut[i] {
			want.WriteByte(text.String()[i])
		}
	}
	for _, try := range []func() (string, bool){
		func() (string, bool) { return cutParts(body, at, all, cut, eol) },
		func() (string, bool) { return encodeAnew(want.String(), all, eol) },
	} {
		// What a reader makes of it must be the same, but for the tag.
		got, ok := try()
		if ok && sameText(got, want.String()) && wellFolded(got) {
			return got + tail, true
		}
	}
	return value, false
}

// cuts marks the bytes of text that go: what re matches, and white space after it
// where white space or nothing is before, or before it where nothing is after.
func cuts(text string, re *regexp.Regexp) []bool {
	trimmed := strings.TrimSpace(text)
	start := strings.Index(text, trimmed)
	end := start + len(trimmed)
	found := re.FindAllStringIndex(trimmed, -1)
	cut := make([]bool, len(text))
	any := false
	white := func(i int) bool { return text[i] == ' ' || text[i] == '\t' }
	for _, m := range found {
		from, to := start+m[0], start+m[1]
		if from == to {
			continue
		}
		any = true
		before := from
		for before > start && cut[before-1] {
			before--
		}
		if before == start || white(before-1) {
			for to < end && white(to) {
				to++
			}
			for to == end && from > 0 && white(from-1) {
				from--
			}
		}
		for i := from; i < to; i++ {
			cut[i] = true
		}
	}
	if !any {
		return nil
	}
	for i := range cut {
		if !cut[i] && !white(i) {
			return cut
		}
	}
	for i := range cut { // nothing but white space is left
		cut[i] = true
	}
	return cut
}

// cutParts puts the value together of what is left of its parts: plain text and the
// encoded words that nothing was cut out of stay byte for byte.
func cutParts(body string, at []int, all []part, cut []bool, eol string) (string, bool) {
	type piece struct {
		from, to int    // of the unfolded value, kept as it is
		words    string // or written anew
	}
	var pieces []piece
	keep := func(from, to int) {
		if n := len(pieces) - 1; n >= 0 && pieces[n].words == "" && pieces[n].to == from {
			pieces[n].to = to
			return
		}
		pieces = append(pieces, piece{from: from, to: to})
	}
	gone := false // the encoded words before
	for off, i := 0, 0; i < len(all); i++ {
		p := all[i]
		mine := cut[off : off+len(p.text)]
		off += len(p.text)
		switch {
		case !slices.Contains(mine, true):
			if gap := !p.word && p.text == ""; !gap || !gone {
				keep(p.from, p.to)
			}
			gone = false
		case !p.word:
			for j := range mine {
				if !mine[j] {
					keep(p.from+j, p.from+j+1)
				}
			}
			gone = false
		default:
			var rest strings.Builder
			for j := range mine {
				if !mine[j] {
					rest.WriteByte(p.text[j])
				}
			}
			if gone = rest.Len() == 0; gone {
				continue
			}
			if !p.faithful {
				return "", false
			}
			pieces = append(pieces, piece{p.from, p.to, encodeWords(rest.String(), p.encoding, eol)})
		}
	}
	var b strings.Builder
	for i, p := range pieces {
		if p.words != "" {
			b.WriteString(p.words)
			continue
		}
		start := at[p.from]
		if p.from == 0 {
			start = 0
		} else if i > 0 && pieces[i-1].words != "" && pieces[i-1].to == p.from {
			start = at[p.from-1] + 1 // with the fold before it
		}
		b.WriteString(body[start : at[p.to-1]+1])
	}
	return b.String(), true
}

// encodeAnew writes the whole value as encoded words.
func encodeAnew(text string, all []part, eol string) (string, bool) {
	encoding := byte('Q')
	for _, p := range all {
		if p.word {
			if encoding = p.encoding; !p.faithful {
				return "", false
			}
		}
	}
	text = strings.TrimSpace(text)
	if !utf8.ValidString(text) {
		return "", false
	}
	return " " + encodeWords(text, encoding, eol), true
}

// encodeWords writes text as it is where that is printable ASCII, else as encoded
// words of at most 75 characters in UTF-8, one a line (RFC 2047, section 2).
func encodeWords(text string, encoding byte, eol string) string {
	encoder := mime.QEncoding
	if encoding == 'b' || encoding == 'B' {
		encoder = mime.BEncoding
	}
	return strings.ReplaceAll(encoder.Encode("utf-8", text), "?= =?", "?="+eol+" =?")
}

func sameText(value, text string) bool {
	return strings.Join(strings.Fields(decodeWords(strings.TrimSpace(unfold(value)))), " ") == strings.Join(strings.Fields(text), " ")
}

// wellFolded reports whether each line but the first goes on from the one before
// (RFC 5322, section 2.2.3), and none is empty: that would end the header.
func wellFolded(value string) bool {
	for i, l := range strings.Split(value, "\n") {
		if i > 0 && (l == "" || l[0] != ' ' && l[0] != '\t' || strings.TrimSpace(l) == "") {
			return false
		}
	}
	return true
}
