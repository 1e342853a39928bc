package portal

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/emersion/go-message"

	"github.com/postseal/postseal/escrow/tnef"
)

// Limits on what is taken out of parts that hold others.
const (
	maxWithin   = 4   // messages within messages
	maxAttached = 50  // of them shown
	maxFiles    = 400 // listed
	maxBlocks   = 500
)

// holdsMessage and holdsTNEF report parts that hold others: an attached message,
// and a winmail.dat, which some servers do not tell the type of.
func holdsMessage(l *leaf) bool {
	return l.mediaType == "message/rfc822" || l.mediaType == "message/global"
}

func holdsTNEF(l *leaf) bool {
	switch l.mediaType {
	case "application/ms-tnef", "application/vnd.ms-tnef", "application/x-tnef":
		return true
	}
	return strings.EqualFold(l.filename, "winmail.dat")
}

// attached is what tells of a message within.
type attached struct{ Subject, From, To, Date string }

// spot is where in a message something stands.
type spot struct {
	n       int  // the part, as walk counts
	in      *int // the last number given to what the part holds
	k       int  // the number of this, 0 for the part itself
	of      string
	message int // 0, or the number of the message within
	depth   int
}

// message shows an attached message, and lists its files.
func (s *scanner) message(body io.Reader, p spot) error {
	if p.depth >= maxWithin {
		s.c.truncated = true
		return nil
	}
	s.messages++
	in := spot{n: p.n, in: p.in, of: p.of, message: s.messages, depth: p.depth + 1}
	_, truncated, err := walkFrom(body, func(h message.Header) {
		s.attached(attached{Subject: headerText(h, "Subject"), From: headerText(h, "From"), To: headerText(h, "To"), Date: headerText(h, "Date")}, in.message)
	}, func(l *leaf, body io.Reader) error {
		*in.in++
		in := in
		in.k = *in.in
		return s.leaf(l, body, in)
	})
	s.c.truncated = s.c.truncated || truncated
	return err
}

// attached starts the blocks of a message within.
func (s *scanner) attached(a attached, message int) {
	if a == (attached{}) {
		return
	}
	if s.shown++; s.shown > maxAttached {
		s.c.truncated = true
		return
	}
	s.add(block{message: message, attached: &a})
}

// tnef shows what a winmail.dat holds.
func (s *scanner) tnef(body io.Reader, p spot) error {
	images := map[int]string{}
	m, err := tnef.Read(body, func(n int, body io.Reader) error {
		if url, _, err := s.image(body); err != nil {
			return err
		} else if url != "" {
			images[n] = url
		}
		return nil
	})
	switch {
	case errors.Is(err, tnef.ErrFormat):
		return nil
	case err != nil:
		return err
	}
	s.c.truncated = s.c.truncated || m.Truncated
	base := *p.in
	*p.in += len(m.Files)
	for _, f := range m.Files {
		name := f.Name
		if name == "" && f.Type == "" {
			name = fmt.Sprintf("attachment-%d.bin", f.N)
		}
		cid := ""
		if i, ok := images[f.N]; ok && f.ContentID != "" {
			cid = f.ContentID
			s.c.images[cid] = i
		}
		s.file(file{N: p.n, In: base + f.N, Name: filename(name, f.Type, f.N), Size: f.Size, Of: p.of, cid: cid, mediaType: f.Type})
	}
	// The text that comes beside a winmail.dat is the same without its form.
	var own *block
	for i := range s.c.blocks {
		if b := &s.c.blocks[i]; b.message == p.message && b.attached == nil {
			own = b
			break
		}
	}
	switch html, text := s.textOf(m); {
	case own == nil && (html != "" || text != ""):
		b := block{message: p.message}
		if text != "" {
			b.text = []string{text}
		}
		if html != "" {
			b.html = []string{html}
		}
		s.add(b)
	case own != nil && html != "" && len(own.html) == 0:
		own.html = []string{html}
	}
	s.tnefWithin(m.Within, p)
	return nil
}

// tnefWithin shows the messages attached in a winmail.dat.
func (s *scanner) tnefWithin(list []tnef.Message, p spot) {
	for _, m := range list {
		s.messages++
		s.attached(attached{Subject: shorten(clean(m.Subject), 2000), From: shorten(clean(m.From), 2000)}, s.messages)
		html, text := s.textOf(&m)
		if b := (block{message: s.messages}); html != "" || text != "" {
			if text != "" {
				b.text = []string{text}
			}
			if html != "" {
				b.html = []string{html}
			}
			s.add(b)
		}
		s.tnefWithin(m.Within, p)
	}
}

func (s *scanner) textOf(m *tnef.Message) (html, text string) {
	html, text = withoutNUL(m.HTML), strings.ReplaceAll(withoutNUL(m.Text), "\r\n", "\n")
	if int64(len(html)) > s.htmlLeft {
		html, s.c.cut = "", true
	}
	s.htmlLeft -= int64(len(html))
	if int64(len(text)) > s.textLeft {
		text, s.c.cut = "", true
	}
	s.textLeft -= int64(len(text))
	if strings.TrimSpace(html) == "" {
		html = ""
	}
	if strings.TrimSpace(text) == "" {
		text = ""
	}
	return html, text
}

// inside finds what a part holds by its number, as scan counts, and sends it.
// found reports whether there is such a one.
func inside(l *leaf, body io.Reader, want int, send func(io.Reader) error) (found bool, err error) {
	k := 0
	var open func(l *leaf, body io.Reader, depth int) error
	open = func(l *leaf, body io.Reader, depth int) error {
		switch {
		case holdsMessage(l) && depth < maxWithin:
			_, _, err := walk(body, func(l *leaf, body io.Reader) error {
				if k++; k == want {
					found = true
					if err := send(body); err != nil {
						return err
					}
				} else if err := open(l, body, depth+1); err != nil {
					return err
				}
				if found {
					return errEnough
				}
				return nil
			})
			return err
		case holdsTNEF(l):
			base := k
			m, err := tnef.Read(body, func(n int, body io.Reader) error {
				if base+n != want {
					return nil
				}
				found = true
				if err := send(body); err != nil {
					return err
				}
				return errEnough
			})
			if errors.Is(err, tnef.ErrFormat) || errors.Is(err, errEnough) {
				return nil
			}
			if err == nil {
				k += len(m.Files)
			}
			return err
		}
		return nil
	}
	err = open(l, body, 0)
	return found, err
}
