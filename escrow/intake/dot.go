package intake

import (
	"bufio"
	"bytes"
	"io"
)

// dotReader reads the text behind DATA (RFC 5321, section 4.5.2) up to its end, CR LF
// dot CR LF, which it consumes. It takes away the dots that were added at the front of
// lines, and changes nothing else: a line ends with CR LF alone, bare CR and LF are
// characters.
type dotReader struct {
	r     *bufio.Reader
	state dotState
	err   error
}

type dotState uint8

const (
	atFront dotState = iota // of a line
	inLine
	afterCR
	afterDot   // a dot at the front, held back
	afterDotCR // a dot and a CR at the front, held back
)

func newDotReader(r *bufio.Reader) *dotReader { return &dotReader{r: r} }

func (d *dotReader) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if d.err != nil {
			break
		}
		if n > 0 && d.r.Buffered() == 0 {
			break // give what there is
		}
		if d.state == inLine {
			// Nothing but a CR means anything here: what there is before the next, at once.
			here, _ := d.r.Peek(min(d.r.Buffered(), len(p)-n))
			if i := bytes.IndexByte(here, '\r'); i >= 0 {
				here = here[:i]
			}
			if len(here) > 0 {
				n += copy(p[n:], here)
				if _, err := d.r.Discard(len(here)); err != nil {
					d.err = err
					break
				}
				continue
			}
		}
		c, err := d.r.ReadByte()
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			d.err = err
			break
		}
		switch d.state {
		case afterDot:
			if c == '\r' {
				d.state = afterDotCR
				continue
			}
			d.state = inLine // the dot was one that was added
		case afterDotCR:
			if c == '\n' {
				d.err = io.EOF
				continue
			}
			// No end after all: the dot was added, the CR counts.
			if err := d.r.UnreadByte(); err != nil {
				d.err = err
				break
			}
			c, d.state = '\r', afterCR
			p[n] = c
			n++
			continue
		case atFront:
			if c == '.' {
				d.state = afterDot
				continue
			}
		case afterCR:
			if c == '\n' {
				d.state = atFront
				p[n] = c
				n++
				continue
			}
		}
		if c == '\r' {
			d.state = afterCR
		} else {
			d.state = inLine
		}
		p[n] = c
		n++
	}
	if n > 0 || len(p) == 0 {
		return n, nil
	}
	return 0, d.err
}
