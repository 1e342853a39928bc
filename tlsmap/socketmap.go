package tlsmap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/postseal/postseal/internal/accept"
)

// Limits of Postfix's socketmap client.
const (
	maxQuery = 10_000 // bytes of a query, without its netstring framing
	maxReply = 99_000 // Postfix takes up to 100,000

	maxNetstring = len("10000:,") + maxQuery
)

// serve answers the lookups of one connection, pipelined or not, in their order.
func (s *Server) serve(c *accept.Conn) error {
	s.metrics.connections.Inc()
	defer s.metrics.connections.Dec()
	var last lastQuery
	err := c.Serve(maxNetstring, func(in, out []byte) (int, []byte, error) {
		n, query, err := parseNetstring(in)
		if err != nil {
			return 0, nil, fmt.Errorf("bad request: %w", err)
		}
		if n == 0 {
			return 0, nil, nil
		}
		return n, s.respond(c.Context(), out, query, &last), nil
	})
	if err != nil {
		s.metrics.closed.Inc()
	}
	return err
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
func (s *Server) respond(ctx context.Context, out, query []byte, last *lastQuery) []byte {
	name, key, ok := bytes.Cut(query, []byte{' '})
	if !ok {
		s.metrics.count("", Perm)
		return appendReply(out, Reply{Perm, "want: map key"})
	}
	mapName := keep(&last.name, name)
	reply, err := s.Query(ctx, mapName, keep(&last.key, key))
	s.metrics.count(mapName, reply.Status)
	if err != nil {
		s.log.Warn("lookup refused", "map", sanitise(mapName), "key", sanitise(last.key), "status", string(reply.Status), "error", err)
	}
	return appendReply(out, reply)
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
