package portal

import (
	"bufio"
	"bytes"
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
		return &base64Reader{r: r}
	case "quoted-printable":
		return &qpReader{r: bufio.NewReader(r)}
	}
	return r
}

// base64Reader decodes base64, over whatever stands between its characters, and
// over padding within (bodies that were pasted together).
type base64Reader struct {
	r    io.Reader
	bits uint32 // of the characters of a quad
	n    int    // how many there are
	in   [4096]byte
	buf  [3 * 1025]byte
	out  []byte
	err  error
}

func (b *base64Reader) Read(p []byte) (int, error) {
	for len(b.out) == 0 && b.err == nil {
		b.fill()
	}
	if len(b.out) == 0 {
		return 0, b.err
	}
	n := copy(p, b.out)
	b.out = b.out[n:]
	return n, nil
}

// sextets holds the value of each character of base64, 64 for the padding, 65 for
// all else.
var sextets = func() (t [256]byte) {
	for i := range t {
		t[i] = 65
	}
	for i, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=") {
		t[c] = byte(i)
	}
	return t
}()

func (b *base64Reader) fill() {
	out := b.buf[:0]
	n, err := b.r.Read(b.in[:])
	for _, c := range b.in[:n] {
		v := sextets[c]
		if v > 64 {
			continue
		}
		if v == 64 {
			out = b.flush(out)
			continue
		}
		b.bits = b.bits<<6 | uint32(v)
		if b.n++; b.n == 4 {
			out = append(out, byte(b.bits>>16), byte(b.bits>>8), byte(b.bits))
			b.n = 0
		}
	}
	if b.err = err; err != nil {
		out = b.flush(out)
	}
	b.out = out
}

// flush decodes what there is of a quad.
func (b *base64Reader) flush(out []byte) []byte {
	switch b.n {
	case 2:
		out = append(out, byte(b.bits>>4))
	case 3:
		out = append(out, byte(b.bits>>10), byte(b.bits>>2))
	}
	b.n = 0
	return out
}

// qpReader decodes quoted-printable (RFC 2045, section 6.7); an = that starts
// nothing stands for itself.
type qpReader struct {
	r     *bufio.Reader
	carry []byte // of an escape that the buffer's end cut in two
	buf   []byte
	out   []byte
	err   error
}

func (q *qpReader) Read(p []byte) (int, error) {
	for len(q.out) == 0 && q.err == nil {
		line, err := q.r.ReadSlice('\n')
		if len(q.carry) > 0 {
			line = append(q.carry, line...)
			q.carry = nil
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			err = nil
			if i := bytes.LastIndexByte(line, '='); i >= len(line)-2 && i >= 0 {
				q.carry, line = bytes.Clone(line[i:]), line[:i]
			}
		}
		q.buf = unquote(q.buf[:0], line)
		q.out, q.err = q.buf, err
	}
	if len(q.out) == 0 {
		return 0, q.err
	}
	n := copy(p, q.out)
	q.out = q.out[n:]
	return n, nil
}

// unquote appends what a line of quoted-printable stands for.
func unquote(out, line []byte) []byte {
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
		if e, name, _ := xcharset.DetermineEncoding(text[:min(len(text), 1024)], ""); name != "utf-8" {
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
