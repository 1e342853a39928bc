package portal

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"strings"

	"github.com/emersion/go-message"
	"github.com/emersion/go-message/textproto"
)

// Limits on what is taken apart. What lies beyond is in the download of the
// original, which has no limits.
const (
	maxParts       = 200
	maxDepth       = 20
	maxHeaderBlock = 256 << 10 // bytes, of each part
	maxBoundary    = 256       // bytes; RFC 2046 has 70
	maxField       = 16 << 10  // bytes, of a field with parameters
	maxLost        = 64 << 10  // bytes, of a text that stands where a header should
)

// leaf is a part that has content of its own.
type leaf struct {
	n           int // counted from 1, in order of appearance
	mediaType   string
	params      map[string]string
	disposition string // "attachment", "inline" or ""
	filename    string // as declared
	contentID   string // without angle brackets
	encoding    string
	alternative int // the multipart/alternative around it, 0 for none
}

// errEnough ends a walk early, without an error.
var errEnough = errors.New("enough")

// walk takes a message apart as it reads, in constant memory, and calls visit for
// each leaf with its decoded body, in order. A malformed message is read as well
// as may be: a part without its end ends where the one around it goes on, lines
// that are no header are skipped, a broken encoding gives what can be decoded.
// The header is that of the message. truncated reports that there is more than
// the limits allow. Errors are those of r and of visit.
//
// multipart is read here, not by go-message: its reader ends a message at the
// first malformed header of a part.
func walk(r io.Reader, visit func(l *leaf, body io.Reader) error) (header message.Header, truncated bool, err error) {
	return walkFrom(r, func(message.Header) {}, visit)
}

// walkFrom walks, and tells the header of the message first.
func walkFrom(r io.Reader, start func(message.Header), visit func(l *leaf, body io.Reader) error) (header message.Header, truncated bool, err error) {
	w := &walker{in: bufio.NewReaderSize(r, 64<<10), visit: visit}
	header, _ = w.header()
	if w.err == nil {
		start(header)
	}
	if w.err == nil {
		w.entity(header, "text/plain", 0, 0)
	}
	if errors.Is(w.err, errEnough) {
		w.err = nil
	}
	if w.err != nil {
		return header, w.truncated, fmt.Errorf("read message: %w", w.err)
	}
	return header, w.truncated, nil
}

type walker struct {
	in           *bufio.Reader
	visit        func(*leaf, io.Reader) error
	boundaries   []string // of the multiparts around, outermost first
	leaves       int
	alternatives int
	truncated    bool
	midLine      bool   // the line before was longer than the buffer and goes on
	lost         []byte // lines where a header should be, if there is no header
	eof          bool
	err          error // of reading or visiting: ends everything
}

// noBoundary says that a body goes on, or ended with the message.
const noBoundary = -1

// line returns the next line, with its end, or a piece of an overlong one, and
// which boundary it is, if it is one: of the innermost multipart that it fits.
func (w *walker) line() (line []byte, level int, last bool) {
	if w.err != nil || w.eof {
		return nil, noBoundary, false
	}
	line, err := w.in.ReadSlice('\n')
	start := !w.midLine
	w.midLine = errors.Is(err, bufio.ErrBufferFull)
	switch {
	case w.midLine:
	case errors.Is(err, io.EOF):
		w.eof = true
	case err != nil:
		w.err = err
		return nil, noBoundary, false
	}
	if start && len(line) > 2 && line[0] == '-' && line[1] == '-' && len(w.boundaries) > 0 {
		s := bytes.TrimRight(line[2:], " \t\r\n")
		for i := len(w.boundaries) - 1; i >= 0; i-- {
			if rest, ok := bytes.CutPrefix(s, []byte(w.boundaries[i])); ok && (len(rest) == 0 || string(rest) == "--") {
				return nil, i, len(rest) != 0
			}
		}
	}
	return line, noBoundary, false
}

// header reads a header block, leniently: a line that is none is skipped. If a
// boundary ends it, level says which.
func (w *walker) header() (h message.Header, end boundary) {
	end.level = noBoundary
	var block bytes.Buffer
	w.lost = w.lost[:0]
	keep := false // lines that continue the one before
	for {
		overlong := w.midLine
		line, level, last := w.line()
		if level != noBoundary {
			end = boundary{level, last}
			break
		}
		if overlong && line != nil {
			continue // the rest of a line of more than 64 KiB
		}
		trimmed := bytes.TrimRight(line, "\r\n")
		if len(trimmed) == 0 {
			if len(w.lost) > 0 {
				w.lost = append(w.lost, line...)
			}
			break // the empty line, or the end of the message
		}
		switch {
		case trimmed[0] == ' ' || trimmed[0] == '\t':
		default:
			keep = isField(trimmed)
		}
		if !keep && block.Len() == 0 && len(w.lost) <= maxLost {
			w.lost = append(append(w.lost, trimmed...), line[len(trimmed):]...)
		}
		if keep && block.Len()+len(trimmed)+2 <= maxHeaderBlock {
			block.Write(bytes.ReplaceAll(trimmed, []byte{'\r'}, nil))
			block.WriteString("\r\n")
		} else if keep {
			w.truncated = true
			keep = false
		}
	}
	if block.Len() > 0 || bytes.HasPrefix(w.lost, []byte("From ")) {
		w.lost = w.lost[:0]
	}
	block.WriteString("\r\n")
	th, _ := textproto.ReadHeader(bufio.NewReader(&block)) // what it could read
	return message.Header{Header: th}, end
}

// isField reports whether a line starts a header field (RFC 5322, section 2.2).
func isField(line []byte) bool {
	name, _, ok := bytes.Cut(line, []byte{':'})
	name = bytes.TrimRight(name, " \t")
	if !ok || len(name) == 0 {
		return false
	}
	for _, c := range name {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return true
}

// boundary is a boundary line: of which multipart around, and whether the last.
type boundary struct {
	level int
	last  bool
}

// entity reads what follows a header, up to the boundary of a multipart around,
// and returns that.
func (w *walker) entity(h message.Header, defaultType string, depth, alternative int) boundary {
	mediaType, params := contentType(h.Get("Content-Type"), defaultType)
	b := strings.TrimRight(params["boundary"], " \t\r\n")
	if !strings.HasPrefix(mediaType, "multipart/") || b == "" || len(b) > maxBoundary || depth >= maxDepth {
		if strings.HasPrefix(mediaType, "multipart/") {
			if depth >= maxDepth {
				w.truncated = true
				mediaType = "application/octet-stream"
			} else {
				mediaType = "text/plain" // a multipart without boundary: its source
			}
		}
		return w.leaf(h, mediaType, params, alternative)
	}
	partType := "text/plain"
	switch mediaType {
	case "multipart/alternative":
		w.alternatives++
		alternative = w.alternatives
	case "multipart/digest":
		partType = "message/rfc822" // RFC 2046, section 5.1.5
	}
	level := len(w.boundaries)
	w.boundaries = append(w.boundaries, b)
	end := w.skip() // the preamble
	for end.level == level && !end.last {
		var ph message.Header
		if ph, end = w.header(); end.level != noBoundary {
			if end.level == level && ph.Len() == 0 && len(w.lost) == 0 {
				continue // an empty part
			}
			w.visitEmpty(ph, partType, alternative)
			continue
		}
		end = w.entity(ph, partType, depth+1, alternative)
	}
	w.boundaries = w.boundaries[:level]
	if end.level == level {
		end = w.skip() // the epilogue
	}
	return end
}

// skip reads on to the next boundary.
func (w *walker) skip() boundary {
	for {
		line, level, last := w.line()
		if level != noBoundary || line == nil || w.eof {
			return boundary{level, last}
		}
	}
}

func (w *walker) visitEmpty(h message.Header, defaultType string, alternative int) {
	mediaType, params := contentType(h.Get("Content-Type"), defaultType)
	if !strings.HasPrefix(mediaType, "multipart/") {
		// Without the end of line that belongs to the boundary.
		w.visitLeaf(h, mediaType, params, alternative, bytes.NewReader(bytes.TrimSuffix(bytes.TrimSuffix(w.takeLost(), []byte{'\n'}), []byte{'\r'})))
	}
}

// takeLost returns the lines where a header should have been.
func (w *walker) takeLost() []byte {
	lost := bytes.Clone(w.lost)
	w.lost = w.lost[:0]
	return lost
}

func (w *walker) leaf(h message.Header, mediaType string, params map[string]string, alternative int) boundary {
	body := &bodyReader{w: w, end: boundary{level: noBoundary}, rest: w.takeLost()}
	w.visitLeaf(h, mediaType, params, alternative, body)
	if w.err == nil {
		if _, err := io.Copy(io.Discard, body); err != nil {
			w.err = err
		}
	}
	return body.end
}

func (w *walker) visitLeaf(h message.Header, mediaType string, params map[string]string, alternative int, body io.Reader) {
	if w.err != nil {
		return
	}
	if w.leaves >= maxParts {
		w.truncated = true
		w.err = errEnough
		return
	}
	w.leaves++
	l := &leaf{n: w.leaves, mediaType: mediaType, params: params, alternative: alternative}
	disposition, dp := contentType(h.Get("Content-Disposition"), "")
	l.disposition = disposition
	if l.filename = decodeWords(dp["filename"]); l.filename == "" {
		l.filename = decodeWords(params["name"])
	}
	l.contentID = strings.Trim(strings.TrimSpace(h.Get("Content-Id")), "<>")
	l.encoding = strings.ToLower(strings.TrimSpace(h.Get("Content-Transfer-Encoding")))
	if mediaType == "message/rfc822" && l.encoding != "base64" && l.encoding != "quoted-printable" {
		l.encoding = "8bit"
	}
	if err := w.visit(l, decode(l.encoding, body)); err != nil && w.err == nil {
		w.err = err
	}
}

// bodyReader reads the body of a leaf, without the end of line that belongs to
// the boundary after it (RFC 2046, section 5.1.1).
type bodyReader struct {
	w    *walker
	rest []byte
	eol  []byte // held back until it is known whether a boundary follows
	buf  []byte
	done bool
	end  boundary
}

func (b *bodyReader) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if len(b.rest) == 0 && !b.next() {
			break
		}
		c := copy(p[n:], b.rest)
		b.rest = b.rest[c:]
		n += c
	}
	switch {
	case n > 0 || len(p) == 0:
		return n, nil
	case b.w.err != nil:
		return 0, b.w.err
	}
	return 0, io.EOF
}

// next makes the next line the rest, and reports whether there is one.
func (b *bodyReader) next() bool {
	for len(b.rest) == 0 {
		if b.done || b.w.err != nil {
			return false
		}
		line, level, last := b.w.line()
		if b.w.err != nil {
			return false
		}
		if level != noBoundary {
			b.end, b.done = boundary{level, last}, true
			return false
		}
		content := bytes.TrimSuffix(line, []byte{'\n'})
		if len(content) < len(line) {
			content = bytes.TrimSuffix(content, []byte{'\r'})
		}
		b.buf = append(append(b.buf[:0], b.eol...), content...)
		b.eol = append(b.eol[:0], line[len(content):]...)
		if b.w.eof {
			b.buf = append(b.buf, b.eol...)
			b.done = true
		}
		b.rest = b.buf
	}
	return true
}

// contentType reads a Content-Type or Content-Disposition, leniently.
func contentType(field, otherwise string) (value string, params map[string]string) {
	if strings.TrimSpace(field) == "" {
		return otherwise, map[string]string{}
	}
	field = field[:min(len(field), maxField)]
	value, params, err := mime.ParseMediaType(field)
	if err != nil && params == nil {
		value, params = looseParams(field)
	}
	if value == "" {
		value = otherwise
	}
	if params == nil {
		params = map[string]string{}
	}
	return value, params
}

// looseParams reads parameters that mime.ParseMediaType gives up on: unquoted
// names with spaces, doubled ones, stray semicolons.
func looseParams(field string) (value string, params map[string]string) {
	params = map[string]string{}
	value, rest, _ := strings.Cut(field, ";")
	value = strings.ToLower(strings.TrimSpace(value))
	if i := strings.IndexAny(value, " \t\r\n,"); i >= 0 {
		value = value[:i]
	}
	for rest != "" {
		var param string
		if eq := strings.IndexByte(rest, '='); eq >= 0 && strings.HasPrefix(strings.TrimLeft(rest[eq+1:], " \t"), `"`) && !strings.Contains(rest[:eq], ";") {
			from := eq + 1 + strings.IndexByte(rest[eq+1:], '"') + 1
			if to := strings.IndexByte(rest[from:], '"'); to >= 0 {
				param, rest = rest[:from+to+1], rest[from+to+1:]
				_, rest, _ = strings.Cut(rest, ";")
			} else {
				param, rest = rest, ""
			}
		} else {
			param, rest, _ = strings.Cut(rest, ";")
		}
		k, v, ok := strings.Cut(param, "=")
		k = strings.ToLower(strings.TrimSpace(k))
		if _, seen := params[k]; ok && k != "" && !seen {
			params[k] = strings.Trim(strings.TrimSpace(v), `"`)
		}
	}
	return value, params
}
