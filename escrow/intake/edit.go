package intake

import (
	"io"
	"slices"

	"github.com/postseal/postseal/policyd/policy"
)

// edit is a header field that is written anew, or left out.
type edit struct {
	from, old int64 // where it stood, in bytes
	text      string
}

// size returns how large the message is when it goes on.
func (m *message) size() int64 {
	n := m.spool.Size()
	for _, e := range m.edits {
		n += int64(len(e.text)) - e.old
	}
	return n
}

// open returns the message as it goes on: without the tags that were to be taken out,
// and else byte for byte.
func (m *message) open() (io.ReadCloser, error) { return m.openBehind("") }

// openBehind is open, with lines put before the message.
func (m *message) openBehind(lines string) (io.ReadCloser, error) {
	body, err := m.spool.Open()
	if err != nil {
		return nil, err
	}
	return &edited{ReadCloser: body, front: lines, edits: m.edits}, nil
}

// marked returns the lines that carry what the message's triggers require, where
// their tags are no longer in it to be found: a FILTER gets lost (postsuper -r).
func (s *session) marked(m *message, sender policy.Address) string {
	if len(m.edits) == 0 {
		return ""
	}
	var done []policy.Requirement
	lines := ""
	for _, r := range m.content {
		if !slices.Contains(done, r.Requirement) {
			done = append(done, r.Requirement)
			lines += MarkHeader + ": " + s.cfg.Vault.Mark(r.Requirement, sender.String()) + "\r\n"
		}
	}
	return lines
}

// edited reads a message with its edits. They are in the order of the message, and
// do not overlap.
type edited struct {
	io.ReadCloser
	front string // to be read before the message goes on
	at    int64  // of the message
	edits []edit // those to come
}

func (e *edited) Read(p []byte) (int, error) {
	for e.front == "" {
		if len(e.edits) == 0 {
			return e.ReadCloser.Read(p)
		}
		next := e.edits[0]
		if room := next.from - e.at; room > 0 {
			n, err := e.ReadCloser.Read(p[:min(int64(len(p)), room)])
			e.at += int64(n)
			return n, err
		}
		if _, err := io.CopyN(io.Discard, e.ReadCloser, next.old); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		e.at, e.front, e.edits = e.at+next.old, next.text, e.edits[1:]
	}
	n := copy(p, e.front)
	e.front = e.front[n:]
	return n, nil
}
