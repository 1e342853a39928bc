package compose

import (
	"encoding/base64"
	"strings"
)

// maxLine is the length of encoded lines (RFC 2045, section 6.7).
const maxLine = 76

// longLine is the longest line of a text that is not encoded, in bytes. RFC 5322,
// section 2.1.1, allows 998.
const longLine = 200

// text writes a text part: as it is, where it is ASCII in lines of some size; in
// quoted-printable, or in base64 where that is shorter.
func text(w *writer, subtype, s string) error {
	s = crlf(strings.ToValidUTF8(s, "\ufffd"))
	charset, encoding, body := "us-ascii", "7bit", s
	if !plain(s) {
		charset, encoding = "utf-8", "quoted-printable"
		if body = quotedPrintable(s); len(body) > len(s)*3/2 && !ascii(s) {
			encoding, body = "base64", wrapped(base64.StdEncoding.EncodeToString([]byte(s)))
		}
		if ascii(s) {
			charset = "us-ascii"
		}
	}
	w.str("Content-Type: text/" + subtype + "; charset=" + charset + "\r\nContent-Transfer-Encoding: " + encoding + "\r\n\r\n" + body)
	return w.err
}

// crlf ends every line by CRLF (RFC 2046, section 4.1.1), the last one too.
func crlf(s string) string {
	s = strings.NewReplacer("\r\n", "\r\n", "\r", "\r\n", "\n", "\r\n").Replace(s)
	if s != "" && !strings.HasSuffix(s, "\r\n") {
		s += "\r\n"
	}
	return s
}

// plain reports whether a text survives every mail system as it is: what some of
// them change ("From " at the front of a line, spaces at the end, a lone dot) is
// better encoded.
func plain(s string) bool {
	for line := range strings.SplitSeq(s, "\r\n") {
		if len(line) > longLine || strings.HasPrefix(line, "From ") || strings.HasPrefix(line, ".") || strings.Contains(line, "=_") ||
			strings.HasSuffix(line, " ") || strings.HasSuffix(line, "\t") {
			return false
		}
		for i := 0; i < len(line); i++ {
			if c := line[i]; c < ' ' && c != '\t' || c > '~' {
				return false
			}
		}
	}
	return true
}

// quotedPrintable encodes a text with CRLF line ends (RFC 2045, section 6.7), so
// that no gateway finds anything to change.
func quotedPrintable(s string) string {
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	b.Grow(len(s) * 5 / 4)
	col := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '\r' && i+1 < len(s) && s[i+1] == '\n' {
			b.WriteString("\r\n")
			i++
			col = 0
			continue
		}
		last := i+1 == len(s) || strings.HasPrefix(s[i+1:], "\r\n")
		encode := c < ' ' && c != '\t' || c > '~' || c == '=' || (c == ' ' || c == '\t') && last ||
			col == 0 && (c == '.' || c == 'F' && strings.HasPrefix(s[i:], "From "))
		width := 1
		if encode {
			width = 3
		}
		if room := maxLine - col - width; room < 0 || room == 0 && !last {
			b.WriteString("=\r\n")
			col = 0
			// A dot or From that has come to the front needs it too.
			if !encode && (c == '.' || c == 'F' && strings.HasPrefix(s[i:], "From ")) {
				encode, width = true, 3
			}
		}
		if encode {
			b.WriteByte('=')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
		} else {
			b.WriteByte(c)
		}
		col += width
	}
	return b.String()
}

// wrapped cuts base64 into lines.
func wrapped(s string) string {
	var b strings.Builder
	for len(s) > maxLine {
		b.WriteString(s[:maxLine] + "\r\n")
		s = s[maxLine:]
	}
	return b.String() + s + "\r\n"
}
