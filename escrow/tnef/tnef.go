// Package tnef reads winmail.dat: the Transport Neutral Encapsulation Format, in
// which Outlook and Exchange send mail to who has neither ([MS-OXTNEF]). It finds
// the files, the text and the messages within, as it reads: memory does not grow
// with the size of a file.
//
// It is lenient: checksums are not looked at, what is unknown is skipped, and a
// stream that is cut off gives what there is.
package tnef

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
)

// Limits on what is read. What lies beyond sets Message.Truncated.
const (
	MaxFiles = 200
	maxDepth = 4       // of messages within messages
	maxText  = 1 << 20 // bytes of text in each form, of all messages together
	maxName  = 4 << 10 // bytes of a name or a subject
	maxProps = 100_000 // of all lists together
)

// ErrFormat reports a stream that is not TNEF.
var ErrFormat = errors.New("tnef: not a TNEF stream")

// Message is what a stream tells, besides the content of the files.
type Message struct {
	Subject string
	From    string // the sender's name
	Text    string
	HTML    string // also what an RTF text encapsulates ([MS-OXRTFEX])
	Files   []File
	Within  []Message // messages attached to it; their files are in Files

	Truncated bool // there is more than the limits allow, or the end is missing
}

// File is a file in a stream, of the message or of one within.
type File struct {
	N         int    // counted from 1, in order of appearance
	Name      string // as declared: not fit for a file system; may be ""
	Type      string // media type, "" if not told
	ContentID string // without angle brackets
	Size      int64  // bytes
}

// Read reads a stream and calls content for each file, in order, with its number
// and its bytes; what it leaves unread is skipped. Names are told after the
// content: a File is complete when Read returns. content may be nil. The error is
// ErrFormat, or that of r, or of content.
func Read(r io.Reader, content func(n int, body io.Reader) error) (*Message, error) {
	s := &state{content: content, textLeft: maxText, htmlLeft: maxText, propsLeft: maxProps}
	m := &Message{}
	if err := s.stream(bufio.NewReader(r), m, 0); err != nil {
		return nil, err
	}
	m.Files, m.Truncated = s.files, s.truncated
	return m, nil
}

// signature starts each stream ([MS-OXTNEF], section 2.1.3.1).
const signature = 0x223E9F78

// Attributes, with their types ([MS-OXTNEF], section 2.1.3.1).
const (
	attSubject     = 0x00018004
	attBody        = 0x0002800C
	attMsgProps    = 0x00069003
	attRendData    = 0x00069002 // starts a file
	attTitle       = 0x00018010
	attData        = 0x0006800F
	attAttachment  = 0x00069005 // properties of the file
	attTransport   = 0x00069001
	attOEMCodepage = 0x00069007
)

// state is what the messages of a stream share.
type state struct {
	content            func(int, io.Reader) error
	files              []File
	textLeft, htmlLeft int64
	propsLeft          int
	truncated          bool
}

// cut reports the errors that mean that the stream ends early.
func cut(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// stream reads a stream into m.
func (s *state) stream(r io.Reader, m *Message, depth int) error {
	var head [6]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if cut(err) {
			err = ErrFormat
		}
		return err
	}
	if binary.LittleEndian.Uint32(head[:]) != signature {
		return ErrFormat
	}
	b := &bodies{codepage: 1252}
	cur := -1 // the file that attributes are about, by its index
	for {
		var h [9]byte
		if _, err := io.ReadFull(r, h[:]); err != nil {
			if !cut(err) {
				return err
			}
			s.truncated = s.truncated || errors.Is(err, io.ErrUnexpectedEOF)
			break
		}
		id, size := binary.LittleEndian.Uint32(h[1:]), int64(binary.LittleEndian.Uint32(h[5:]))
		if h[0] != 1 && h[0] != 2 {
			s.truncated = true // out of step: nothing to be made of the rest
			break
		}
		body := &io.LimitedReader{R: r, N: size}
		err := s.attribute(id, body, m, b, &cur, depth)
		if cut(err) {
			s.truncated, err = true, nil // the attribute ends early, or all does
		}
		if err == nil {
			_, err = io.Copy(io.Discard, body)
		}
		if err != nil {
			return err
		}
		var sum [2]byte
		if _, err := io.ReadFull(r, sum[:]); err != nil {
			if !cut(err) {
				return err
			}
			s.truncated = true
			break
		}
	}
	b.finish(s, m)
	return nil
}

func (s *state) attribute(id uint32, r *io.LimitedReader, m *Message, b *bodies, cur *int, depth int) error {
	switch id {
	case attOEMCodepage:
		var cp [4]byte
		if _, err := io.ReadFull(r, cp[:]); err != nil {
			return err
		}
		b.codepage = int(binary.LittleEndian.Uint32(cp[:]))
	case attSubject:
		t, err := s.limited(r, maxName)
		b.subject = orBytes(b.subject, t)
		return err
	case attBody:
		t, err := s.limited(r, s.textLeft)
		b.oemText = orBytes(b.oemText, t)
		return err
	case attMsgProps:
		return s.props(r, b.codepage, func(p *prop) error { return s.messageProp(p, m, b) })
	case attRendData:
		*cur = -1
	case attTitle, attTransport:
		t, err := s.limited(r, maxName)
		if i := s.file(cur); i >= 0 && s.files[i].Name == "" {
			s.files[i].Name = decode(t, b.codepage)
		}
		return err
	case attData:
		if i := s.file(cur); i >= 0 {
			return s.data(i, r)
		}
	case attAttachment:
		return s.attachment(r, b, cur, m, depth)
	}
	return nil
}

// file returns the index of the file that attributes are about, a new one if
// there is none; -1 if there are too many.
func (s *state) file(cur *int) int {
	if *cur < 0 {
		if len(s.files) >= MaxFiles {
			s.truncated = true
			return -1
		}
		s.files = append(s.files, File{N: len(s.files) + 1})
		*cur = len(s.files) - 1
	}
	return *cur
}

// data hands the content of a file over, once.
func (s *state) data(i int, r *io.LimitedReader) error {
	if s.files[i].Size > 0 {
		return nil
	}
	size := r.N
	if s.content != nil {
		if err := s.content(s.files[i].N, r); err != nil {
			return err
		}
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	s.files[i].Size = size - r.N
	if r.N > 0 {
		s.truncated = true
	}
	return nil
}

// Properties ([MS-OXPROPS]).
const (
	propSubject       = 0x0037
	propSenderName    = 0x0C1A
	propRepresenting  = 0x0042
	propBody          = 0x1000
	propRTF           = 0x1009 // compressed
	propHTML          = 0x1013
	propDisplayName   = 0x3001
	propData          = 0x3701
	propFilename      = 0x3704
	propLongFilename  = 0x3707
	propMIMETag       = 0x370E
	propContentID     = 0x3712
	propInternetCPID  = 0x3FDE
	propMessageCPID   = 0x3FFD
	typeObject        = 0x000D
	maxCompressedText = maxText
)

func (s *state) messageProp(p *prop, m *Message, b *bodies) error {
	switch p.id {
	case propSubject:
		t, err := p.text(s, maxName)
		m.Subject = or(m.Subject, t)
		return err
	case propSenderName, propRepresenting:
		t, err := p.text(s, maxName)
		m.From = or(m.From, t)
		return err
	case propBody:
		t, err := p.text(s, s.textLeft)
		if b.text == "" {
			b.text = t
			s.textLeft -= int64(len(t))
		}
		return err
	case propHTML:
		t, err := s.limited(p.r, s.htmlLeft)
		if p.kind == 0x1F {
			t = []byte(utf16LE(t))
			b.utf8HTML = true
		}
		b.html = orBytes(b.html, t)
		return err
	case propRTF:
		t, err := s.limited(p.r, maxCompressedText)
		b.rtf = orBytes(b.rtf, t)
		return err
	case propInternetCPID:
		b.internet = p.number
	case propMessageCPID:
		b.message = p.number
	}
	return nil
}

// attachment reads the properties of a file, which may also be a message.
func (s *state) attachment(r io.Reader, b *bodies, cur *int, m *Message, depth int) error {
	var long, short, display, mimeTag, cid string
	err := s.props(r, b.codepage, func(p *prop) (err error) {
		switch p.id {
		case propLongFilename:
			long, err = p.text(s, maxName)
		case propFilename:
			short, err = p.text(s, maxName)
		case propDisplayName:
			display, err = p.text(s, maxName)
		case propMIMETag:
			mimeTag, err = p.text(s, maxName)
		case propContentID:
			cid, err = p.text(s, maxName)
		case propData:
			if p.kind == typeObject {
				// An interface's identifier, then what it holds: a message is a
				// stream of its own (section 2.1.3.4).
				var iid [16]byte
				if _, err := io.ReadFull(p.r, iid[:]); err != nil {
					return err
				}
				if iid == iMessage {
					if depth+1 >= maxDepth {
						s.truncated = true
						return nil
					}
					var within Message
					err := s.stream(p.r, &within, depth+1)
					if errors.Is(err, ErrFormat) {
						return nil
					}
					m.Within = append(m.Within, within)
					return err
				}
			}
			if i := s.file(cur); i >= 0 {
				return s.data(i, p.r)
			}
		}
		return err
	})
	if *cur >= 0 {
		f := &s.files[*cur]
		if n := or(long, or(f.Name, or(short, display))); n != "" {
			f.Name = n
		}
		f.Type = or(f.Type, strings.ToLower(mimeTag))
		f.ContentID = or(f.ContentID, strings.Trim(strings.TrimSpace(cid), "<>"))
	}
	return err
}

// iMessage is IID_IMessage, {00020307-0000-0000-C000-000000000046}.
var iMessage = [16]byte{0x07, 0x03, 0x02, 0, 0, 0, 0, 0, 0xC0, 0, 0, 0, 0, 0, 0, 0x46}

// prop is a property of a list.
type prop struct {
	id, kind int
	number   int               // of a 32-bit integer
	r        *io.LimitedReader // of a string, binary or object: its (first) value
	codepage int
}

// text reads a string, without what ends it.
func (p *prop) text(s *state, most int64) (string, error) {
	b, err := s.limited(p.r, most)
	if p.kind == 0x1F {
		return strings.TrimRight(utf16LE(b), "\x00"), err
	}
	return decode(b, p.codepage), err
}

// props reads a list of properties (section 2.1.3.4), and calls visit for each.
func (s *state) props(r io.Reader, codepage int, visit func(*prop) error) error {
	count, err := number(r)
	if err != nil {
		return err
	}
	for range count {
		if s.propsLeft--; s.propsLeft < 0 {
			s.truncated = true
			return nil
		}
		tag, err := number(r)
		if err != nil {
			return err
		}
		p := &prop{id: int(tag >> 16), kind: int(tag & 0x0fff), codepage: codepage, r: &io.LimitedReader{R: r}}
		if p.id >= 0x8000 {
			if err := skipName(r); err != nil {
				return err
			}
			p.id = -1 // its number says nothing
		}
		values := uint32(1)
		many := tag&0x1000 != 0
		size, variable := sizeOf(p.kind)
		if variable || many {
			if values, err = number(r); err != nil {
				return err
			}
		}
		if !variable && size == 0 && p.kind != 1 { // PtypNull has no value
			s.truncated = true
			return nil // an unknown type: the next property can't be found
		}
		for i := range values {
			n := int64(size)
			if variable {
				l, err := number(r)
				if err != nil {
					return err
				}
				n = int64(l)
			} else if n == 0 {
				break
			}
			p.r.N = n
			if p.kind == 3 && !many {
				v, err := number(p.r)
				if err != nil {
					return err
				}
				p.number = int(min(v, math.MaxInt32))
			}
			if i == 0 && p.id >= 0 && (variable || p.kind == 3) {
				if err := visit(p); err != nil {
					return err
				}
			}
			p.r.N += -n & 3 // padded to four bytes
			if _, err := io.Copy(io.Discard, p.r); err != nil {
				return err
			}
			if p.r.N > 0 {
				return io.ErrUnexpectedEOF
			}
		}
	}
	return nil
}

// sizeOf returns the bytes of a value of a type, or that it tells its own size.
func sizeOf(kind int) (size int, variable bool) {
	switch kind {
	case 2, 11: // 16 bits, and a truth value; padded
		return 2, false
	case 3, 4, 10:
		return 4, false
	case 5, 6, 7, 0x14, 0x40:
		return 8, false
	case 0x48:
		return 16, false
	case 0x0D, 0x1E, 0x1F, 0x102:
		return 0, true
	}
	return 0, false
}

// skipName skips the name of a named property.
func skipName(r io.Reader) error {
	if _, err := io.CopyN(io.Discard, r, 16); err != nil {
		return err
	}
	kind, err := number(r)
	if err != nil {
		return err
	}
	n, err := number(r)
	if err != nil || kind == 0 {
		return err
	}
	_, err = io.CopyN(io.Discard, r, int64(n)+int64(-n&3))
	return err
}

func number(r io.Reader) (uint32, error) {
	var b [4]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, fmt.Errorf("read property: %w", err)
	}
	return binary.LittleEndian.Uint32(b[:]), nil
}

// limited reads a text, up to a limit.
func (s *state) limited(r *io.LimitedReader, most int64) ([]byte, error) {
	if r.N > most {
		s.truncated = true
	}
	b, err := io.ReadAll(io.LimitReader(r, most))
	return b, err
}

// bodies is the text of a message in the forms that it comes in, undecoded.
type bodies struct {
	codepage, internet, message int
	subject, oemText            []byte
	text                        string
	html, rtf                   []byte
	utf8HTML                    bool
}

// finish decodes what there is.
func (b *bodies) finish(s *state, m *Message) {
	m.Subject = or(m.Subject, decode(b.subject, b.codepage))
	m.Text = or(b.text, decode(b.oemText, b.codepage))
	if cp := b.internet; b.utf8HTML {
		m.HTML = string(b.html)
	} else {
		if cp == 0 {
			cp = b.codepage
		}
		m.HTML = decode(bytes.TrimRight(b.html, "\x00"), cp)
	}
	s.htmlLeft = max(0, s.htmlLeft-int64(len(m.HTML)))
	if len(b.rtf) == 0 || m.HTML != "" {
		return
	}
	rtf, whole := decompress(b.rtf, maxRTF)
	text, html := fromRTF(rtf, b.codepage)
	s.truncated = s.truncated || !whole
	if int64(len(html)) <= s.htmlLeft {
		m.HTML = html
		s.htmlLeft -= int64(len(html))
	} else {
		s.truncated = true
	}
	if m.Text == "" {
		if int64(len(text)) > s.textLeft {
			text, s.truncated = text[:s.textLeft], true
		}
		m.Text = strings.ToValidUTF8(text, "")
		s.textLeft -= int64(len(m.Text))
	}
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func orBytes(a, b []byte) []byte {
	if len(a) > 0 {
		return a
	}
	return b
}
