package portal

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"mime"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/emersion/go-message/charset"
	xcharset "golang.org/x/net/html/charset"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/htmlindex"

	"github.com/postseal/postseal/escrow/header"
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

// Read fills p, so that a download is not written in small pieces.
func (b *base64Reader) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if len(b.out) == 0 {
			if b.err != nil {
				break
			}
			b.fill()
			continue
		}
		c := copy(p[n:], b.out)
		b.out = b.out[c:]
		n += c
	}
	if n == 0 && len(p) > 0 {
		return 0, b.err
	}
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

// charsets that mail calls by names that are not theirs, or that mean more than
// they say: who writes gb2312 sends gbk.
var charsets = map[string]string{
	"gb2312": "gb18030", "gbk": "gb18030", "x-gbk": "gb18030", "cp936": "gb18030", "hz-gb-2312": "hz-gb-2312",
	"ks_c_5601-1987": "euc-kr", "ks_c_5601": "euc-kr", "ksc5601": "euc-kr", "cp949": "euc-kr", "ms949": "euc-kr", "uhc": "euc-kr",
	"cp932": "shift_jis", "ms932": "shift_jis", "windows-31j": "shift_jis", "x-sjis": "shift_jis", "sjis": "shift_jis", "x-ms-cp932": "shift_jis",
	"x-euc-jp": "euc-jp", "iso-2022-jp-2": "iso-2022-jp", "cp50220": "iso-2022-jp", "iso-2022-jp-ms": "iso-2022-jp",
	"cp950": "big5", "big5-hkscs": "big5", "x-x-big5": "big5",
	"iso-8859-1": "windows-1252", "latin1": "windows-1252", "iso8859-1": "windows-1252", "cp1252": "windows-1252",
	"cp1250": "windows-1250", "cp1251": "windows-1251", "cp1253": "windows-1253", "cp1254": "windows-1254", "cp1255": "windows-1255",
	"cp1256": "windows-1256", "cp1257": "windows-1257", "cp1258": "windows-1258", "iso-8859-9": "windows-1254", "iso-8859-11": "windows-874",
	"iso-8859-6-i": "iso-8859-6", "iso-8859-6-e": "iso-8859-6", "iso-8859-8-e": "iso-8859-8", "visual": "iso-8859-8",
}

// decoder returns a reader that converts from a charset.
func decoder(name string, r io.Reader) (io.Reader, error) {
	name = strings.ToLower(name)
	if known, ok := charsets[name]; ok {
		name = known
	}
	if e, err := htmlindex.Get(name); err == nil && name != "utf-16" {
		if n, _ := htmlindex.Name(e); n != "replacement" {
			return e.NewDecoder().Reader(r), nil
		}
	}
	return charset.Reader(name, r)
}

// escapes starts Japanese text in ISO-2022-JP, which is seven bits and so passes
// for ASCII.
var escapes = regexp.MustCompile("\x1b(\\$[@B]|\\(J)")

// toUTF8 converts a text of a declared charset. Where that is missing, unknown or
// wrong, UTF-8 is believed if it is, then what an HTML text declares within
// itself, then windows-1252.
func toUTF8(text []byte, declared, mediaType string) string {
	declared = strings.ToLower(strings.Trim(strings.TrimSpace(declared), `"'`))
	if bytes.HasPrefix(text, []byte("\xef\xbb\xbf")) {
		declared, text = "utf-8", text[3:]
	}
	unsaid := false
	switch declared {
	case "", "us-ascii", "ascii", "unknown-8bit", "x-unknown", "default":
		unsaid = true
		if escapes.Match(text) {
			declared, unsaid = "iso-2022-jp", false
		}
	}
	if !unsaid && declared != "utf-8" && declared != "utf8" {
		if r, err := decoder(declared, bytes.NewReader(text)); err == nil {
			if out, err := io.ReadAll(r); err == nil {
				return strings.ToValidUTF8(string(out), "\uFFFD")
			}
		}
	}
	// The end may have been cut off within a character.
	if valid := trimPartial(text); utf8.Valid(valid) {
		return string(valid)
	}
	if (declared == "utf-8" || declared == "utf8") && hasUTF8(text) {
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

// hasUTF8 reports whether there is one character of several bytes: of what is
// damaged UTF-8, and not another charset.
func hasUTF8(text []byte) bool {
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		if r >= utf8.RuneSelf && n > 1 {
			return true
		}
		text = text[n:]
	}
	return false
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
	d := mime.WordDecoder{CharsetReader: decoder}
	if out, err := d.DecodeHeader(s); err == nil {
		return out
	}
	return s
}

// clean makes a text that a stranger wrote fit for one line of a page: no control
// characters, and none that turn the direction of writing (to make gpj.exe of
// exe.jpg).
func clean(s string) string { return header.Clean(s) }
