package intake

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"regexp"
	"strings"
)

const (
	// maxField is how much of one header field is read, in bytes: as much as
	// Postfix's header_size_limit.
	maxField = 100 << 10
	// maxHops is Postfix's hopcount_limit.
	maxHops = 50
)

// header is what matters here of a message's header.
type header struct {
	subject func(value string) // called for each Subject field
	mark    func(value string) // called for each MarkHeader field
	hops    int                // Received fields
	queueID string             // of the top one
}

var queueID = regexp.MustCompile(`(?is)\sby\s.*?\sid\s+([0-9A-Za-z]{5,30})\b`)

// read reads to the end of the header, the first empty line. What is no header
// field is passed over, even where Postfix would say that the header has ended:
// mail programs differ, and a subject too many does no harm.
func (h *header) read(r io.Reader) error {
	var field []byte
	end := func() {
		h.add(field)
		field = field[:0]
	}
	br := bufio.NewReaderSize(r, 8<<10)
	for front := true; ; {
		part, err := br.ReadSlice('\n')
		more := errors.Is(err, bufio.ErrBufferFull)
		if front {
			if len(bytes.TrimRight(part, "\r\n")) == 0 && !more {
				end()
				if err == io.EOF {
					err = nil
				}
				return err
			}
			if part[0] != ' ' && part[0] != '\t' {
				end()
			}
		}
		if room := maxField - len(field); room > 0 {
			field = append(field, part[:min(room, len(part))]...)
		}
		switch front = !more; {
		case more || err == nil:
		case err == io.EOF:
			end()
			return nil
		default:
			return err
		}
	}
}

func (h *header) add(field []byte) {
	name, value, ok := bytes.Cut(field, []byte(":"))
	if !ok {
		return
	}
	switch name = bytes.TrimRight(name, " \t"); {
	case bytes.EqualFold(name, []byte("Subject")):
		h.subject(string(value))
	case bytes.EqualFold(name, []byte(MarkHeader)):
		h.mark(strings.Join(strings.Fields(string(value)), " "))
	case bytes.EqualFold(name, []byte("Received")):
		if h.hops++; h.hops == 1 {
			if m := queueID.FindSubmatch(value); m != nil {
				h.queueID = string(m[1])
			}
		}
	}
}
