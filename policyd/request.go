package policyd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/postseal/postseal/internal/accept"
)

// Limits on a request. Postfix's own has some 40 attributes and 1 to 2 kB.
const (
	maxLine       = 8 << 10  // bytes of one attribute, name and newline included
	maxRequest    = 64 << 10 // bytes of a request
	maxAttributes = 250
	keepBuffer    = 8 << 10 // bytes of buffer that an idle connection keeps
)

// errEnd reports that the peer closed the connection between two requests.
var errEnd = errors.New("end of connection")

// reader cuts a connection into requests.
type reader struct {
	conn *accept.Conn
	buf  []byte // grows to maxRequest
	end  int    // buf[:end] has been read
}

// next returns the next request, up to and with its empty line. It is valid until
// done. The error is errEnd where the peer left between two requests.
func (r *reader) next() ([]byte, error) {
	seen := 0 // bytes of the buffer known to hold no end of request
	for {
		if i := bytes.Index(r.buf[seen:r.end], []byte("\n\n")); i >= 0 {
			return r.buf[:seen+i+2], nil
		}
		if r.end > 0 && r.buf[0] == '\n' {
			return nil, errors.New("empty request")
		}
		if r.end-1-bytes.LastIndexByte(r.buf[:r.end], '\n') >= maxLine {
			return nil, fmt.Errorf("line longer than %d bytes", maxLine)
		}
		if r.end >= maxRequest {
			return nil, fmt.Errorf("request longer than %d bytes", maxRequest)
		}
		seen = max(0, r.end-1)
		r.room()
		n, err := r.conn.Read(r.buf[r.end:], r.end > 0)
		r.end += n
		if n > 0 {
			continue // an error comes again
		}
		switch {
		case r.end == 0 && errors.Is(err, io.EOF):
			return nil, errEnd
		case errors.Is(err, io.EOF):
			return nil, errors.New("connection ended inside a request")
		case r.end == 0 && isTimeout(err):
			return nil, errors.New("idle for too long")
		case isTimeout(err):
			return nil, errors.New("the rest of a request did not come in time")
		case err != nil:
			return nil, fmt.Errorf("read request: %w", err)
		}
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &ne) && ne.Timeout()
}

func (r *reader) room() {
	switch {
	case r.buf == nil:
		r.buf = make([]byte, 4<<10)
	case r.end == len(r.buf):
		r.buf = append(r.buf, make([]byte, min(len(r.buf), maxRequest-len(r.buf)))...)
	}
}

// done drops a request of n bytes, keeps what was read beyond it, and gives a large
// buffer back.
func (r *reader) done(n int) {
	rest := r.buf[n:r.end]
	if len(r.buf) > keepBuffer && len(rest) <= keepBuffer {
		r.buf = append(make([]byte, 0, keepBuffer), rest...)[:keepBuffer]
	} else {
		copy(r.buf, rest)
	}
	r.end = len(rest)
}

// request holds the attributes that an answer depends on. The strings survive the
// next request; those that stay the same on a connection are not made anew.
type request struct {
	state     string // protocol_state
	sender    string
	recipient string
	login     string // sasl_username
	instance  string
	queueID   string
	context   string // policy_context
	client    string // client_address, for the audit log
}

// parse reads a request, its empty line included. It refuses what Postfix never
// sends: a line without "=", NUL, an attribute twice that an answer depends on, another
// kind of request, and a request without protocol_state.
func (q *request) parse(raw []byte) error {
	const (
		request = 1 << iota
		state
		sender
		recipient
		login
		instance
		queueID
		context
		client
	)
	seen, count := 0, 0
	for len(raw) > 1 {
		line := raw
		if i := bytes.IndexByte(raw, '\n'); i >= 0 {
			line, raw = raw[:i], raw[i+1:]
		} else {
			raw = nil
		}
		if count++; count > maxAttributes {
			return fmt.Errorf("more than %d attributes", maxAttributes)
		}
		if len(line) >= maxLine {
			return fmt.Errorf("line longer than %d bytes", maxLine)
		}
		eq := bytes.IndexByte(line, '=')
		if eq <= 0 {
			return errors.New("line without name=value")
		}
		var (
			bit   int
			field *string
		)
		switch string(line[:eq]) {
		case "request":
			if string(line[eq+1:]) != "smtpd_access_policy" {
				return errors.New("not an smtpd_access_policy request")
			}
			bit = request
		case "protocol_state":
			bit, field = state, &q.state
		case "sender":
			bit, field = sender, &q.sender
		case "recipient":
			bit, field = recipient, &q.recipient
		case "sasl_username":
			bit, field = login, &q.login
		case "instance":
			bit, field = instance, &q.instance
		case "queue_id":
			bit, field = queueID, &q.queueID
		case "policy_context":
			bit, field = context, &q.context
		case "client_address":
			bit, field = client, &q.client
		default:
			continue
		}
		if seen&bit != 0 {
			return errors.New("an attribute twice")
		}
		seen |= bit
		if value := line[eq+1:]; field != nil && *field != string(value) {
			if bytes.IndexByte(value, 0) >= 0 {
				return errors.New("NUL in an attribute")
			}
			*field = string(value)
		}
	}
	switch {
	case seen&request == 0:
		return errors.New("not an smtpd_access_policy request")
	case seen&state == 0 || q.state == "":
		return errors.New("no protocol_state")
	}
	for _, f := range [...]struct {
		bit   int
		field *string
	}{{sender, &q.sender}, {recipient, &q.recipient}, {login, &q.login}, {instance, &q.instance}, {queueID, &q.queueID}, {context, &q.context}, {client, &q.client}} {
		if seen&f.bit == 0 {
			*f.field = ""
		}
	}
	return nil
}

// action is an answer: the verb of access(5) and its text.
type action struct {
	verb string // DUNNO, FILTER, REJECT, DEFER_IF_PERMIT, PREPEND
	text string
}

func (a action) append(b []byte) []byte {
	b = append(b, "action="...)
	b = append(b, a.verb...)
	if a.text != "" {
		b = append(b, ' ')
		b = append(b, a.text...)
	}
	return append(b, '\n', '\n')
}

var dunno = action{verb: "DUNNO"}

func filter(transport string) action { return action{"FILTER", transport} }

// reject and deferral make a refusal of an enhanced status code (RFC 3463) and
// text, of which only printable ASCII is left: it may quote rules and addresses.
func reject(code, text string) action { return action{"REJECT", code + " " + sanitise(text)} }
func deferral(code, text string) action {
	return action{"DEFER_IF_PERMIT", code + " " + sanitise(text)}
}

// maxText is about what fits in a reply line (RFC 5321, section 4.5.3.1.5: 512 bytes).
const maxText = 400

func sanitise(text string) string {
	b := make([]byte, 0, min(len(text), maxText))
	for _, r := range text {
		if len(b) == maxText {
			break
		}
		if r < ' ' || r > '~' {
			r = '?'
		}
		b = append(b, byte(r))
	}
	return string(b)
}

// printable reports whether s is printable ASCII.
func printable(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
