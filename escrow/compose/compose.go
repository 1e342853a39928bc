// Package compose writes mail messages (RFC 5322, MIME by RFC 2045 to 2049) as a
// stream, in constant memory, from a header in words, texts and files.
//
// Whatever a field is given, it can't end the field or begin another: control
// characters become spaces, and what is not plain ASCII is encoded. The lines that
// come out are 7-bit, CRLF, and within RFC 5322's limits; UTF-8 stands only in an
// address that has it (RFC 6532). The same [Message] gives the same bytes each time.
package compose

import (
	"bufio"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Message is what is to be written. Fields that are empty are left out.
type Message struct {
	Date       time.Time
	From       Address
	Sender     Address // only where it is not From (RFC 5322, section 3.6.2)
	ReplyTo    []Address
	To, Cc     []Address
	Subject    string
	MessageID  string   // without brackets
	InReplyTo  []string // likewise
	References []string
	Extra      []Field // beside these

	Text string // the body, or its plain form where there is HTML; any line ends
	HTML string
	// Inline are files that HTML refers to by cid:, Attachments all others.
	Inline, Attachments []File

	// Boundary is what the boundaries between parts are made from: [NewBoundary].
	// It is needed for more than one part.
	Boundary string
}

// Address is a mailbox.
type Address struct {
	Name    string
	Address string // RFC 5321 form, quoted where it must be; "": no mailbox
}

// Field is one more header field. Value is unstructured text.
type Field struct{ Name, Value string }

// File is a part of a message.
type File struct {
	Name      string
	MediaType string // type/subtype; "": application/octet-stream
	ContentID string // of an inline file, without brackets
	Open      func() (io.ReadCloser, error)
}

// NewBoundary returns a random seed for boundaries.
func NewBoundary() string {
	b := make([]byte, 16)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// ErrField reports a field that can't be written: an address or a message id that
// is none, a bad name of an extra field.
var ErrField = errors.New("compose: bad header field")

// WriteTo writes the message. What was written before an error is of no use.
func (m *Message) WriteTo(w io.Writer) (int64, error) {
	out := &writer{w: bufio.NewWriterSize(w, 16<<10)}
	if err := m.write(out); err != nil {
		return out.n, err
	}
	if out.err == nil {
		out.err = out.w.Flush()
	}
	return out.n, out.err
}

// Header returns the header alone, up to and with the empty line, of the whole
// message; for checks before anything is sent.
func (m *Message) Header() ([]byte, error) {
	var h header
	m.header(&h)
	return []byte(h.String()), h.err
}

// UTF8 reports whether the header holds UTF-8, so that SMTPUTF8 (RFC 6531) is
// needed to transport it.
func (m *Message) UTF8() bool {
	h, _ := m.Header()
	return !ascii(string(h))
}

// writer counts, and keeps the first error.
type writer struct {
	w   *bufio.Writer
	n   int64
	err error
}

func (w *writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	var n int
	n, w.err = w.w.Write(p)
	w.n += int64(n)
	return n, w.err
}

func (w *writer) str(s string) { io.WriteString(w, s) }

func (m *Message) header(h *header) {
	if !m.Date.IsZero() {
		h.raw("Date", m.Date.Format("Mon, 02 Jan 2006 15:04:05 -0700"))
	}
	h.addresses("From", m.From)
	h.addresses("Sender", m.Sender)
	h.addresses("Reply-To", m.ReplyTo...)
	h.addresses("To", m.To...)
	h.addresses("Cc", m.Cc...)
	h.text("Subject", m.Subject)
	if m.MessageID != "" {
		h.ids("Message-ID", m.MessageID)
	}
	h.ids("In-Reply-To", m.InReplyTo...)
	h.ids("References", m.References...)
	for _, f := range m.Extra {
		h.extra(f)
	}
	h.raw("MIME-Version", "1.0")
}

// write writes the nesting that mail programs expect (RFC 2046, section 5.1):
// mixed(related(alternative(text, HTML), inline files), attachments), as far as
// there is something in it.
func (m *Message) write(w *writer) error {
	var h header
	m.header(&h)
	if h.err != nil {
		return h.err
	}
	nested := m.HTML != "" && m.Text != "" || len(m.Inline)+len(m.Attachments) > 0
	if nested && !token(m.Boundary) {
		return errors.New("compose: a boundary is needed")
	}
	w.str(strings.TrimSuffix(h.String(), "\r\n")) // the body's own fields follow
	return m.mixed(w)
}

func (m *Message) mixed(w *writer) error {
	if len(m.Attachments) == 0 {
		return m.related(w)
	}
	b := m.open(w, "mixed", 1, "")
	w.str("--" + b + "\r\n")
	if err := m.related(w); err != nil {
		return err
	}
	for i := range m.Attachments {
		w.str("\r\n--" + b + "\r\n")
		if err := file(w, &m.Attachments[i], "attachment"); err != nil {
			return err
		}
	}
	w.str("\r\n--" + b + "--\r\n")
	return w.err
}

func (m *Message) related(w *writer) error {
	if len(m.Inline) == 0 {
		return m.alternative(w)
	}
	kind := "text/html"
	if m.Text != "" {
		kind = "multipart/alternative"
	}
	b := m.open(w, "related", 2, `; type="`+kind+`"`)
	w.str("--" + b + "\r\n")
	if err := m.alternative(w); err != nil {
		return err
	}
	for i := range m.Inline {
		w.str("\r\n--" + b + "\r\n")
		if err := file(w, &m.Inline[i], "inline"); err != nil {
			return err
		}
	}
	w.str("\r\n--" + b + "--\r\n")
	return w.err
}

func (m *Message) alternative(w *writer) error {
	switch {
	case m.HTML == "":
		return text(w, "plain", m.Text)
	case m.Text == "":
		return text(w, "html", m.HTML)
	}
	b := m.open(w, "alternative", 3, "")
	w.str("--" + b + "\r\n")
	if err := text(w, "plain", m.Text); err != nil {
		return err
	}
	w.str("\r\n--" + b + "\r\n")
	if err := text(w, "html", m.HTML); err != nil {
		return err
	}
	w.str("\r\n--" + b + "--\r\n")
	return w.err
}

// open begins a multipart. Its boundary holds "=_", which neither base64 nor
// quoted-printable can hold, and no text that is written as it is.
func (m *Message) open(w *writer, subtype string, depth int, params string) string {
	b := fmt.Sprintf("=_%d_%s", depth, m.Boundary)
	w.str("Content-Type: multipart/" + subtype + params + ";\r\n boundary=\"" + b + "\"\r\n\r\n")
	return b
}

// file writes a part in base64. Open's error, or one while reading, is returned.
func file(w *writer, f *File, disposition string) error {
	var h header
	name, kind := FileName(f.Name), MediaType(f.MediaType)
	h.raw("Content-Type", kind)
	h.raw("Content-Transfer-Encoding", "base64")
	h.params("Content-Disposition", disposition, "filename", name)
	if f.ContentID != "" {
		h.ids("Content-ID", f.ContentID)
	}
	if h.err != nil {
		return h.err
	}
	w.str(h.String())
	r, err := f.Open()
	if err != nil {
		return fmt.Errorf("compose: open a file: %w", err)
	}
	defer r.Close()
	lines := &lineWriter{w: w}
	enc := base64.NewEncoder(base64.StdEncoding, lines)
	if _, err := io.Copy(enc, r); err != nil {
		return fmt.Errorf("compose: read a file: %w", err)
	}
	enc.Close()
	if lines.n > 0 {
		w.str("\r\n")
	}
	return w.err
}

// lineWriter ends lines after 76 characters (RFC 2045, section 6.8).
type lineWriter struct {
	w *writer
	n int
}

func (l *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if l.n == maxLine {
			l.w.str("\r\n")
			l.n = 0
		}
		k := min(maxLine-l.n, len(p))
		l.w.Write(p[:k])
		l.n += k
		p = p[k:]
	}
	return n, l.w.err
}
