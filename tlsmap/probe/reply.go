package probe

import (
	"bufio"
	"errors"
	"fmt"
	"strings"
)

// The bounds of an SMTP reply. RFC 5321, section 4.5.3.1.5 allows 512 bytes a
// line; servers exceed that.
const (
	maxReplyLine  = 2048
	maxReplyLines = 100
)

var errReply = errors.New("not an SMTP reply")

// reply is one SMTP reply (RFC 5321, section 4.2).
type reply struct {
	code  int
	lines []string // texts without code
}

// class is the first digit of the code.
func (r reply) class() int { return r.code / 100 }

func (r reply) String() string {
	text := ""
	if len(r.lines) > 0 {
		text = r.lines[len(r.lines)-1]
	}
	return clean(fmt.Sprintf("%d %s", r.code, text))
}

// readReply reads one reply, of several lines or one. Like Postfix it takes
// a bare LF for the end of a line, and the code of the last line for that of the
// reply.
func readReply(r *bufio.Reader) (reply, error) {
	var out reply
	for range maxReplyLines {
		line, err := readLine(r)
		if err != nil {
			return reply{}, err
		}
		if len(line) < 3 {
			return reply{}, errReply
		}
		code := 0
		for i := range 3 {
			c := line[i]
			if c < '0' || c > '9' {
				return reply{}, errReply
			}
			code = code*10 + int(c-'0')
		}
		if code < 200 || code > 599 || len(line) > 3 && line[3] != ' ' && line[3] != '-' {
			return reply{}, errReply
		}
		more := len(line) > 3 && line[3] == '-'
		text := ""
		if len(line) > 4 {
			text = line[4:]
		}
		out.code = code
		out.lines = append(out.lines, text)
		if !more {
			return out, nil
		}
	}
	return reply{}, fmt.Errorf("%w: more than %d lines", errReply, maxReplyLines)
}

// readLine reads up to LF. Its reader's buffer bounds the line.
func readLine(r *bufio.Reader) (string, error) {
	b, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return "", fmt.Errorf("%w: a line of more than %d bytes", errReply, maxReplyLine)
	}
	if err != nil {
		return "", err
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

// keyword reports whether the reply to EHLO offers an extension, in any case.
func (r reply) keyword(name string) bool {
	for _, l := range r.lines[min(1, len(r.lines)):] {
		if word, _, _ := strings.Cut(strings.TrimSpace(l), " "); strings.EqualFold(word, name) {
			return true
		}
	}
	return false
}

// keywords returns the lines of the reply to EHLO after the first, bounded.
func (r reply) keywords() []string {
	var out []string
	for _, l := range r.lines[min(1, len(r.lines)):] {
		if len(out) == maxKeywords {
			break
		}
		out = append(out, clean(strings.TrimSpace(l)))
	}
	return out
}
