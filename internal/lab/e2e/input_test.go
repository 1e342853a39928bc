package e2e

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/internal/lab"
)

// TestBadClients is that garbage, oversize and half-open clients are closed, named
// in the log, and harm nobody else.
func TestBadClients(t *testing.T) {
	s := newScene(t, lab.Options{Rules: attackRules})
	ports := map[string]string{
		"8641": "policy", "8642": "maps", "8643": "lmtp", "8647": "lmtp escrow", "8648": "lmtp tls", "8649": "lmtp decide", "8644": "fallback",
	}
	garbage := bytes.Repeat([]byte("\x00\xff\x16\x03garbage"), 200<<10)
	var idle []net.Conn
	defer func() {
		for _, c := range idle {
			c.Close()
		}
	}()
	for port, name := range ports {
		s.run(name, func(t *testing.T) {
			for range 20 { // connected, silent for the rest of the test
				c, err := net.Dial("tcp", "127.0.0.1:"+port)
				if err != nil {
					t.Fatal(err)
				}
				idle = append(idle, c)
			}
			c, err := net.Dial("tcp", "127.0.0.1:"+port)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			peer := c.LocalAddr().String()
			go func() {
				for range 20 {
					if _, err := c.Write(garbage); err != nil {
						return
					}
				}
			}()
			if _, err := io.Copy(io.Discard, c); err != nil && strings.Contains(err.Error(), "timeout") {
				t.Error("the connection was not closed")
			}
			if !lab.Poll(5*time.Second, func() bool { return strings.Contains(s.Postseal.Log(), peer) }) {
				t.Errorf("the log does not name the peer %s", peer)
			}
		})
	}
	m := s.send("doc@own.example", "b@tls.example", "b@plain.example")
	s.arrivesByTLS(m, "b@tls.example")
	s.sealedAs(m, "b@plain.example")
	if !s.Postseal.Ready() {
		t.Error("not ready any more")
	}
}
