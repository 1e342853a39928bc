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

// RequireTLSHeader is how Postfix (3.11 and later, requiretls_esmtp_header) hands over that
// a message was sent with REQUIRETLS (RFC 8689): to content filters, and back to itself
// when they return the message. Its value is "yes". It stays in the message, so that
// Postfix goes on to demand of the destination what REQUIRETLS says.
const RequireTLSHeader = "Require-TLS-ESMTP"

// field is one header field as it stands in a message.
type field struct {
	name  string
	value string // with its folds and line end
	text  string // all of it
	from  int64  // where it begins, in bytes
	// whole says that it is certainly a field of the header, and text all of it: only
	// such a one is changed.
	whole bool
}

// header is what matters here of a message's header.
type header struct {
	concerns func(name string) bool // whether field is to be called
	field    func(f field)
	mark     func(value string) // called for each MarkHeader field
	hops     int                // Received fields
	require  bool               // RequireTLSHeader says yes
	queueID  string             // of the top one

	odd bool // a line before was neither field nor part of one: others see the header end there
}

var queueID = regexp.MustCompile(`(?is)\sby\s.*?\sid\s+([0-9A-Za-z]{5,30})\b`)

// read reads to the end of the header, the first empty line. What is no header
// field is passed over, even where Postfix would say that the header has ended:
// mail programs differ, and a subject too many does no harm.
func (h *header) read(r io.Reader) error {
	var text []byte
	var at, from int64
	cut := false
	end := func() {
		h.add(text, from, cut)
		text, from, cut = text[:0], at, false
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
		if room := maxField - len(text); room < len(part) {
			text, cut = append(text, part[:room]...), true
		} else {
			text = append(text, part...)
		}
		at += int64(len(part))
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

func (h *header) add(text []byte, from int64, cut bool) {
	if len(text) == 0 {
		return
	}
	name, value, ok := bytes.Cut(text, []byte(":"))
	name = bytes.TrimRight(name, " \t")
	if !ok || !isFieldName(name) {
		h.odd = true
	}
	if !ok {
		return
	}
	switch {
	case bytes.EqualFold(name, []byte(MarkHeader)):
		h.mark(strings.Join(strings.Fields(string(value)), " "))
	case bytes.EqualFold(name, []byte(RequireTLSHeader)):
		h.require = h.require || bytes.EqualFold(bytes.TrimSpace(value), []byte("yes"))
	case bytes.EqualFold(name, []byte("Received")):
		if h.hops++; h.hops == 1 {
			if m := queueID.FindSubmatch(value); m != nil {
				h.queueID = string(m[1])
			}
		}
	}
	if h.concerns(string(name)) {
		h.field(field{name: string(name), value: string(value), text: string(text), from: from, whole: !cut && !h.odd})
	}
}

// isFieldName reports whether name is one by RFC 5322, section 3.6.8.
func isFieldName(name []byte) bool {
	for _, c := range name {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return len(name) > 0
}
