package tlsmap

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"

	"github.com/postseal/postseal/internal/accept"
)

// Limits of Postfix's socketmap client.
const (
	maxQuery = 10_000 // bytes of a query, without its netstring framing
	maxReply = 99_000 // Postfix takes up to 100,000
)

// serve answers the lookups of one connection, pipelined or not, in their order.
func (s *Server) serve(c *accept.Conn) error {
	s.metrics.connections.Inc()
	defer s.metrics.connections.Dec()
	var (
		in        = make([]byte, 2<<10)
		from, end int // in[from:end] is unanswered
		out       []byte
		last      lastQuery
	)
	for {
		n, query, err := parseNetstring(in[from:end])
		if err != nil {
			s.metrics.closed.Inc()
			return fmt.Errorf("bad request: %w", err)
		}
		if n > 0 {
			from += n
			if out, err = s.respond(c, out, query, &last); err != nil {
				return err
			}
			if len(out) < maxReply {
				continue
			}
		}
		if len(out) > 0 {
			if _, err := c.Write(out); err != nil {
				return fmt.Errorf("write answer: %w", err)
			}
			if out = out[:0]; cap(out) > 16<<10 {
				out = nil
			}
			if n > 0 {
				continue
			}
		}
		copy(in, in[from:end])
		from, end = 0, end-from
		switch {
		case end == len(in):
			in = append(in, make([]byte, 10<<10)...) // once: a query is shorter
		case end == 0 && len(in) > 2<<10:
			in = make([]byte, 2<<10)
		}
		got, err := c.Read(in[end:], end > 0)
		end += got
		if got > 0 || err == nil {
			continue // an error comes again
		}
		switch {
		case c.Context().Err() != nil, end == 0 && errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
			return nil
		case errors.Is(err, io.EOF):
			err = errors.New("connection ended inside a request")
		case errors.Is(err, os.ErrDeadlineExceeded) && end == 0:
			err = errors.New("idle for too long")
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = errors.New("the rest of a request did not come in time")
		default:
			err = fmt.Errorf("read request: %w", err)
		}
		s.metrics.closed.Inc()
		return err
	}
}

// parseNetstring cuts one netstring off the front of b: n bytes with its framing. n is 0
// where b holds only a part of one.
func parseNetstring(b []byte) (n int, payload []byte, err error) {
	const digits = 5 // of maxQuery
	length := 0
	for i, c := range b {
		switch {
		case c >= '0' && c <= '9' && i < digits && !(i == 1 && b[0] == '0'):
			if length = 10*length + int(c-'0'); length > maxQuery {
				return 0, nil, fmt.Errorf("query longer than %d bytes", maxQuery)
			}
		case c == ':' && i > 0:
			end := i + 1 + length
			if len(b) <= end {
				return 0, nil, nil
			}
			if b[end] != ',' {
				return 0, nil, errors.New("netstring without its comma")
			}
			return end + 1, b[i+1 : end], nil
		default:
			return 0, nil, errors.New("not a netstring")
		}
	}
	return 0, nil, nil
}

// lastQuery keeps the strings of a connection's last query: most connections ask the
// same thing of the same map again.
type lastQuery struct{ name, key string }

func keep(s *string, b []byte) string {
	if *s != string(b) {
		*s = string(b)
	}
	return *s
}

// respond appends the reply to one query to out.
func (s *Server) respond(c *accept.Conn, out, query []byte, last *lastQuery) ([]byte, error) {
	name, key, ok := bytes.Cut(query, []byte{' '})
	if !ok {
		s.metrics.count("", Perm)
		return appendReply(out, Reply{Perm, "want: map key"}), nil
	}
	mapName := keep(&last.name, name)
	reply, err := s.Query(c.Context(), mapName, keep(&last.key, key))
	s.metrics.count(mapName, reply.Status)
	if err != nil {
		s.log.Warn("lookup refused", "map", sanitise(mapName), "key", sanitise(last.key), "status", string(reply.Status), "error", err)
	}
	return appendReply(out, reply), nil
}

// appendReply appends r as a netstring.
func appendReply(out []byte, r Reply) []byte {
	text := r.Text
	if len(text) > maxReply {
		r = Reply{Temp, "the answer is too long"}
		text = r.Text
	}
	out = strconv.AppendInt(out, int64(len(r.Status)+1+len(text)), 10)
	out = append(out, ':')
	out = append(out, r.Status...)
	out = append(out, ' ')
	out = append(out, text...)
	return append(out, ',')
}
