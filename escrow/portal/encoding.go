package portal

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"mime"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/emersion/go-message/charset"
	xcharset "golang.org/x/net/html/charset"
	"golang.org/x/text/encoding/charmap"
)

// decode undoes a Content-Transfer-Encoding (RFC 2045, section 6). An unknown one
// is taken for none. What is broken gives what can be decoded.
func decode(encoding string, r io.Reader) io.Reader {
	switch encoding {
	case "base64":
		return &base64Reader{r: bufio.NewReader(r)}
	case "quoted-printable":
		return &qpReader{r: bufio.NewReader(r)}
	}
	return r
}

// base64Reader decodes base64, over whatever stands between its characters, and
// over padding within (bodies that were pasted together).
type base64Reader struct {
	r    *bufio.Reader
	quad [4]byte
	n    int // characters of quad
	out  []byte
	buf  [3 * 1024]byte
	err  error
}

func (b *base64Reader) Read(p []byte) (int, error) {
	if len(b.out) == 0 && b.err == nil {
		b.fill()
	}
	if len(b.out) == 0 {
		return 0, b.err
	}
	n := copy(p, b.out)
	b.out = b.out[n:]
	return n, nil
}

func (b *base64Reader) fill() {
	b.out = b.buf[:0]
	for len(b.out)+3 <= len(b.buf) {
		c, err := b.r.ReadByte()
		if err != nil {
			b.flush()
			b.err = err
			return
		}
		switch {
		case c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '+', c == '/':
			b.quad[b.n] = c
			if b.n++; b.n == 4 {
				b.flush()
			}
		case c == '=':
			b.flush()
		}
	}
}

// flush decodes what there is of a quad.
func (b *base64Reader) flush() {
	if b.n >= 2 {
		var out [3]byte
		n, _ := base64.RawStdEncoding.Decode(out[:], b.quad[:b.n])
		b.out = append(b.out, out[:n]...)
	}
	b.n = 0
}

// qpReader decodes quoted-printable (RFC 2045, section 6.7); an = that starts
// nothing stands for itself.
type qpReader struct {
	r     *bufio.Reader
	carry []byte // of an escape that the buffer's end cut in two
	out   []byte
	err   error
}

func (q *qpReader) Read(p []byte) (int, error) {
	for len(q.out) == 0 && q.err == nil {
		line, err := q.r.ReadSlice('\n')
		line = append(q.carry, line...)
		q.carry = nil
		if errors.Is(err, bufio.ErrBufferFull) {
			err = nil
			if i := bytes.LastIndexByte(line, '='); i >= len(line)-2 && i >= 0 {
				q.carry, line = bytes.Clone(line[i:]), line[:i]
			}
		}
		q.out, q.err = unquote(line), err
	}
	if len(q.out) == 0 {
		return 0, q.err
	}
	n := copy(p, q.out)
	q.out = q.out[n:]
	return n, nil
}

func unquote(line []byte) []byte {
	out := make([]byte, 0, len(line))
	content := bytes.TrimRight(line, "\r\n")
	end := line[len(content):]
	if len(end) > 0 {
		content = bytes.TrimRight(content, " \t") // added on the way
	}
	for i := 0; i < len(content); i++ {
		c := content[i]
		if c != '=' {
			out = append(out, c)
			continue
		}
		if i+1 == len(content) {
			return out // a soft line break
		}
		if i+2 < len(content) {
			if hi, lo := unhex(content[i+1]), unhex(content[i+2]); hi >= 0 && lo >= 0 {
				out = append(out, byte(hi<<4|lo))
				i += 2
				continue
			}
		}
		out = append(out, '=')
	}
	return append(out, end...)
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

// toUTF8 converts a text of a declared charset. Where that is missing, unknown or
// wrong, UTF-8 is believed if it is, then what an HTML text declares within
// itself, then windows-1252.
func toUTF8(text []byte, declared, mediaType string) string {
	declared = strings.ToLower(strings.Trim(strings.TrimSpace(declared), `"'`))
	if bytes.HasPrefix(text, []byte("\xef\xbb\xbf")) {
		declared, text = "utf-8", text[3:]
	}
	switch declared {
	case "", "utf-8", "utf8", "us-ascii", "ascii", "unknown-8bit", "x-unknown", "default":
	default:
		if r, err := charset.Reader(declared, bytes.NewReader(text)); err == nil {
			if out, err := io.ReadAll(r); err == nil {
				return strings.ToValidUTF8(string(out), "\uFFFD")
			}
		}
	}
	// The end may have been cut off within a character.
	if valid := trimPartial(text); utf8.Valid(valid) {
		return string(valid)
	}
	if declared == "utf-8" || declared == "utf8" {
		return strings.ToValidUTF8(string(text), "\uFFFD")
	}
	if mediaType == "text/html" {
		if e, _, certain := xcharset.DetermineEncoding(text[:min(len(text), 1024)], ""); certain {
			if out, err := e.NewDecoder().Bytes(text); err == nil {
				return strings.ToValidUTF8(string(out), "\uFFFD")
			}
		}
	}
	out, err := charmap.Windows1252.NewDecoder().Bytes(text)
	if err != nil {
		return strings.ToValidUTF8(string(text), "\uFFFD")
	}
	return string(out)
}

// trimPartial cuts off an incomplete UTF-8 sequence at the end.
func trimPartial(b []byte) []byte {
	for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			if !utf8.FullRune(b[len(b)-i:]) {
				return b[:len(b)-i]
			}
			break
		}
	}
	return b
}

// decodeWords decodes the encoded words (RFC 2047) of a header value; words of
// unknown charsets stay as they are.
func decodeWords(s string) string {
	if !utf8.ValidString(s) {
		s = toUTF8([]byte(s), "", "")
	}
	if !strings.Contains(s, "=?") {
		return s
	}
	d := mime.WordDecoder{CharsetReader: charset.Reader}
	if out, err := d.DecodeHeader(s); err == nil {
		return out
	}
	return s
}

// clean makes a text that a stranger wrote fit for one line of a page: no control
// characters, and none that turn the direction of writing (to make gpj.exe of
// exe.jpg).
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\t', r == '\n', r == '\r':
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r), r == '\u2028', r == '\u2029', r == '\ufeff', r == '\u200b':
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	return strings.TrimSpace(s)
}
