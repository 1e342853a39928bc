package intake

import (
	"errors"
	"io"
	"strconv"
	"strings"
)

// errTakenBack reports that the client gave up the message between two chunks.
var errTakenBack = errors.New("the client took the message back")

// chunk is what a BDAT command announces.
type chunk struct {
	size int64 // bytes
	last bool
}

// parseChunk reads the argument of BDAT (RFC 3030, section 2).
func parseChunk(arg string) (c chunk, ok bool) {
	size, last, two := strings.Cut(strings.TrimSpace(arg), " ")
	n, err := strconv.ParseUint(size, 10, 40)
	if err != nil || size[0] == '+' {
		return c, false
	}
	if c = (chunk{size: int64(n), last: two}); two && !strings.EqualFold(strings.TrimSpace(last), "LAST") {
		return c, false
	}
	return c, true
}

// chunkReader reads a text that comes by BDAT. Between the chunks it answers for
// them, and takes the commands that may stand there.
type chunkReader struct {
	w *wire
	chunk
	err error
}

func (c *chunkReader) Read(p []byte) (int, error) {
	for c.size == 0 && c.err == nil {
		if c.last {
			c.err = io.EOF
		} else if c.err = c.next(); c.err == io.EOF {
			c.err = io.ErrUnexpectedEOF // only the last chunk ends a message
		}
	}
	if c.err != nil || len(p) == 0 {
		return 0, c.err
	}
	n, err := c.w.br.Read(p[:min(int64(len(p)), c.size)])
	c.size -= int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	c.err = err
	return n, err
}

// next answers for a chunk and reads the command for the next.
func (c *chunkReader) next() error {
	if err := c.w.say("250 2.0.0 Continue"); err != nil {
		return err
	}
	for {
		line, err := c.w.line()
		if err != nil {
			return err
		}
		verb, arg, _ := strings.Cut(line, " ")
		switch strings.ToUpper(verb) {
		case "BDAT":
			next, ok := parseChunk(arg)
			if !ok {
				return c.w.garbage("bad chunk size")
			}
			c.chunk = next
			return nil
		case "RSET", "QUIT", "EHLO", "LHLO", "HELO":
			// go-smtp first answers for the message, which nobody wants to hear.
			c.w.next = line
			c.w.muted.Store(true)
			return errTakenBack
		case "NOOP":
			err = c.w.say("250 2.0.0 Ok")
		default:
			err = c.w.say("503 5.5.1 BDAT expected")
		}
		if err != nil {
			return err
		}
	}
}
