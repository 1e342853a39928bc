package policyd

import (
	"bytes"
	"errors"
	"fmt"
)

// Limits on a request. Postfix's own has some 40 attributes and 1 to 2 kB.
const (
	maxLine       = 8 << 10  // bytes of one attribute, name and newline included
	maxRequest    = 64 << 10 // bytes of a request
	maxAttributes = 250
)

// whole returns the first request of in, up to and with its empty line; nil where it has
// not all come.
func whole(in []byte) ([]byte, error) {
	if i := bytes.Index(in, []byte("\n\n")); i >= 0 {
		return in[:i+2], nil
	}
	switch {
	case in[0] == '\n':
		return nil, errors.New("empty request")
	case len(in)-1-bytes.LastIndexByte(in, '\n') >= maxLine:
		return nil, fmt.Errorf("line longer than %d bytes", maxLine)
	}
	return nil, nil
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
