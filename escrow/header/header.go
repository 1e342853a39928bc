// Package header reads the header of a message that a stranger wrote: what it
// can, in bounded memory and time, and never an error for what is malformed.
package header

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"mime"
	"net/mail"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/emersion/go-message/charset"
	"golang.org/x/text/encoding/charmap"
)

// Limits, in bytes.
const (
	Max      = 256 << 10 // of a header; what lies beyond is not read
	maxField = 16 << 10  // of a field that is decoded
)

// Header holds fields in their order, unfolded and not decoded.
type Header struct{ fields []field }

type field struct{ name, value string }

// Read reads to the first empty line, the end of r, or [Max]. Lines that are no
// field are passed over. The error is one of r: the fields that came before it
// are returned with it.
func Read(r io.Reader) (Header, error) {
	var h Header
	br := bufio.NewReaderSize(io.LimitReader(r, Max), 8<<10)
	var open []byte // the field that lines may continue
	end := func() {
		if name, value, ok := bytes.Cut(open, []byte(":")); ok {
			h.fields = append(h.fields, field{string(bytes.TrimRight(name, " \t")), strings.TrimSpace(string(value))})
		}
		open = nil
	}
	defer func() { end() }()
	for front := true; ; {
		line, err := br.ReadSlice('\n')
		more := errors.Is(err, bufio.ErrBufferFull)
		if front {
			content := bytes.TrimRight(line, "\r\n")
			switch {
			case len(content) == 0 && !more:
				end()
				if err == nil || errors.Is(err, io.EOF) {
					return h, nil
				}
				return h, err
			case len(content) == 0: // thousands of carriage returns
				end()
			case content[0] != ' ' && content[0] != '\t':
				end()
				if isField(content) {
					open = append(open, content...)
				}
			case open != nil: // goes on, its white space kept (RFC 5322, section 2.2.3)
				open = append(open, content...)
			}
		} else if open != nil {
			open = append(open, bytes.TrimRight(line, "\r\n")...)
		}
		switch front = !more; {
		case more || err == nil:
		case errors.Is(err, io.EOF):
			end()
			return h, nil
		default:
			end()
			return h, err
		}
	}
}

// isField reports whether a line starts a field (RFC 5322, section 2.2).
func isField(line []byte) bool {
	name, _, ok := bytes.Cut(line, []byte(":"))
	name = bytes.TrimRight(name, " \t")
	return ok && len(name) > 0 && bytes.IndexFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f }) < 0
}

// Get returns the value of the first field of a name, "" if there is none.
func (h Header) Get(name string) string {
	for _, f := range h.fields {
		if strings.EqualFold(f.name, name) {
			return f.value
		}
	}
	return ""
}

// Values returns the values of all fields of a name.
func (h Header) Values(name string) []string {
	var all []string
	for _, f := range h.fields {
		if strings.EqualFold(f.name, name) {
			all = append(all, f.value)
		}
	}
	return all
}

// Text returns a field decoded for one line of a page, at most most characters:
// encoded words (RFC 2047) in any known charset, or raw bytes in UTF-8 or
// windows-1252, without control characters and those that turn the direction of
// writing.
func (h Header) Text(name string, most int) string {
	text := Clean(Decode(h.Get(name)))
	if n := 0; len(text) > most {
		for i := range text {
			if n == most {
				return strings.TrimSpace(text[:i]) + "…"
			}
			n++
		}
	}
	return text
}

// Date returns when the message was written, zero where that can't be read.
func (h Header) Date() time.Time {
	s := h.Get("Date")
	if len(s) > 200 {
		return time.Time{}
	}
	t, err := mail.ParseDate(s)
	if err != nil || t.Year() < 1900 || t.Year() > 9999 {
		return time.Time{}
	}
	return t
}

// MessageID returns the message's identifier without its angle brackets, "" where
// there is none that may be repeated in another header: at most 900 bytes of
// printable ASCII.
func (h Header) MessageID() string {
	id := h.Get("Message-ID")
	from := strings.IndexByte(id, '<')
	if from >= 0 {
		id = id[from+1:]
		to := strings.IndexByte(id, '>')
		if to < 0 {
			return ""
		}
		id = id[:to]
	}
	if len(id) > 900 || strings.ContainsAny(id, "<>") || strings.IndexFunc(id, func(r rune) bool { return r <= ' ' || r >= 0x7f }) >= 0 {
		return ""
	}
	return id
}

// Decode decodes the encoded words of a field, at most 16 KiB of it. Words of
// unknown charsets stay as they are.
func Decode(s string) string {
	if len(s) > maxField {
		s = s[:maxField]
		for i := 1; i < utf8.UTFMax && !utf8.ValidString(s) && i < len(s); i++ {
			if utf8.RuneStart(s[len(s)-i]) {
				s = s[:len(s)-i]
				break
			}
		}
	}
	if !utf8.ValidString(s) {
		if out, err := charmap.Windows1252.NewDecoder().String(s); err == nil {
			s = out
		}
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

// Clean makes a text that a stranger wrote fit for one line.
func Clean(s string) string {
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
