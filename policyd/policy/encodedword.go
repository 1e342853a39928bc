package policy

import (
	"bytes"
	"encoding/base64"
	"regexp"
	"strings"

	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/htmlindex"
)

var encodedWord = regexp.MustCompile(`=\?([^?\s]*)\?([bBqQ])\?([^?]*)\?=`)

// decodeWords replaces the encoded words of a header field (RFC 2047) by what
// they mean. It is more forgiving than mail programs are, since a word that is
// not understood here may be one that the recipient sees: words may touch other
// text, hold spaces or lack padding, a character may be split between two
// words, and an unknown charset is read as Latin-1.
func decodeWords(s string) string { return decodeWordsBy(s, toUTF8) }

// asciiOfWords is decodeWords with the ASCII of each word alone, whatever its charset:
// what toUTF8 can't decode, or is told wrongly, still has the ASCII of a pattern in it
// (ISO-2022, UTF-16, UTF-7).
func asciiOfWords(s string) string { return decodeWordsBy(s, asciiOf) }

func asciiOf(charset string, b []byte) string {
	if charset == "utf-7" || charset == "unicode-1-1-utf-7" {
		b = fromUTF7(b)
	}
	return string(bytes.ReplaceAll(b, []byte{0}, nil))
}

var shifted = regexp.MustCompile(`\+([A-Za-z0-9+/]*)-?`)

// fromUTF7 decodes UTF-7 (RFC 2152) as far as it can; NULs between ASCII remain.
func fromUTF7(b []byte) []byte {
	return shifted.ReplaceAllFunc(b, func(m []byte) []byte {
		in := bytes.TrimSuffix(m[1:], []byte{'-'})
		if len(in) == 0 {
			return []byte{'+'}
		}
		out := make([]byte, base64.RawStdEncoding.DecodedLen(len(in)))
		n, _ := base64.RawStdEncoding.Decode(out, in)
		return out[:n]
	})
}

func decodeWordsBy(s string, toUTF8 func(charset string, b []byte) string) string {
	words := encodedWord.FindAllStringSubmatchIndex(s, -1)
	if words == nil {
		return s
	}
	var (
		b       strings.Builder
		charset string // of pending
		pending []byte // decoded, but not yet converted: its last character may go on
		end     int    // of the last word
	)
	flush := func() {
		b.WriteString(toUTF8(charset, pending))
		pending = nil
	}
	for _, w := range words {
		name, _, _ := strings.Cut(strings.ToLower(s[w[2]:w[3]]), "*") // a language may follow (RFC 2231, section 5)
		between := s[end:w[0]]
		adjacent := end > 0 && strings.Trim(between, " \t") == ""
		if !adjacent || name != charset {
			flush()
		}
		if !adjacent { // white space between two words is not meant
			b.WriteString(between)
		}
		charset, end = name, w[1]
		pending = append(pending, decodeWord(s[w[4]], s[w[6]:w[7]])...)
	}
	flush()
	b.WriteString(s[end:])
	return b.String()
}

func decodeWord(encoding byte, text string) []byte {
	if encoding == 'b' || encoding == 'B' {
		text = strings.Map(func(c rune) rune {
			if c == '=' || c == ' ' || c == '\t' {
				return -1
			}
			return c
		}, text)
		out := make([]byte, base64.RawStdEncoding.DecodedLen(len(text)))
		n, _ := base64.RawStdEncoding.Decode(out, []byte(text)) // as far as it goes
		return out[:n]
	}
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == '_' {
			c = ' '
		} else if c == '=' && i+2 < len(text) {
			hi, lo := unhex(text[i+1]), unhex(text[i+2])
			if hi >= 0 && lo >= 0 {
				c = byte(hi<<4 | lo)
				i += 2
			}
		}
		out = append(out, c)
	}
	return out
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

func toUTF8(charset string, b []byte) string {
	if len(b) == 0 {
		return ""
	}
	switch charset {
	case "utf-8", "utf8", "us-ascii":
		return string(b)
	}
	if e, err := htmlindex.Get(charset); err == nil {
		if s, err := e.NewDecoder().Bytes(b); err == nil {
			return string(s)
		}
	}
	s, _ := charmap.ISO8859_1.NewDecoder().Bytes(b)
	return string(s)
}
