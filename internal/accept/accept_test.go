package accept

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postseal/postseal/internal/lab/logtext"
)

const most = 40_000

// line answers a line with itself and its length, and closes upon "bad".
func line(in, out []byte) (int, []byte, error) {
	i := bytes.IndexByte(in, '\n')
	switch {
	case i < 0:
		return 0, nil, nil
	case string(in[:i]) == "bad":
		return 0, nil, errors.New("a bad line")
	}
	return i + 1, fmt.Appendf(out, "%d %s\n", i, in[:i]), nil
}

// roads are the ways that a connection can be read by.
var roads = []string{"tcp", "unix", "net"}

// plainListener hides what its connections are, so that package net reads them.
type plainListener struct{ net.Listener }

func (l plainListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return struct{ net.Conn }{c}, nil
}

// log keeps what is said.
type log struct{ logtext.Log }

func (l *log) waitFor(t *testing.T, text string) {
	t.Helper()
	for range 2000 {
		if strings.Contains(l.String(), text) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("the log does not say %q", text)
}

// server runs Loop, and returns how to dial it and how to end it.
func server(t *testing.T, road string, l Limits, answer Answer) (dial func() net.Conn, said *log, stop func() error) {
	t.Helper()
	network, addr := "tcp", "127.0.0.1:0"
	if road == "unix" {
		network, addr = "unix", filepath.Join(t.TempDir(), "s")
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	addr = ln.Addr().String()
	if road == "net" {
		ln = plainListener{ln}
	}
	said = new(log)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Loop(ctx, ln, l.WithDefaults(time.Minute), slog.New(slog.NewTextHandler(said, nil)), func(c *Conn) error { return c.Serve(most, answer) })
	}()
	stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { stop() })
	return func() net.Conn {
		c, err := net.Dial(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(time.Minute)) // of a test that hangs
		t.Cleanup(func() { c.Close() })
		return c
	}, said, stop
}

// each runs a test on each road.
func each(t *testing.T, f func(t *testing.T, road string)) {
	for _, road := range roads {
		t.Run(road, func(t *testing.T) { t.Parallel(); f(t, road) })
	}
}

// However a stream of requests is cut into pieces, each request gets its answer: also where
// a piece fills the buffer exactly.
func TestAnswersHoweverTheyCome(t *testing.T) {
	lengths := []int{0, 1, 10, usualBuffer - 2, usualBuffer - 1, usualBuffer, usualBuffer + 1, 2*usualBuffer - 1, 2 * usualBuffer, keptBuffer - 1, keptBuffer, most - 2, most - 1}
	each(t, func(t *testing.T, road string) {
		dial, _, _ := server(t, road, Limits{}, line)
		for seed := range uint64(30) {
			random := rand.New(rand.NewPCG(seed, 7))
			var stream, want bytes.Buffer
			for range 20 {
				n := lengths[random.IntN(len(lengths))]
				text := strings.Repeat("x", n)
				fmt.Fprintf(&stream, "%s\n", text)
				fmt.Fprintf(&want, "%d %s\n", n, text)
			}
			c := dial()
			go func() {
				for stream.Len() > 0 {
					n := 1 + random.IntN(3*usualBuffer)
					if random.IntN(2) == 0 {
						n = usualBuffer
					}
					c.Write(stream.Next(n))
					if random.IntN(4) == 0 {
						time.Sleep(time.Millisecond)
					}
				}
				if cw, ok := c.(interface{ CloseWrite() error }); ok {
					cw.CloseWrite()
				}
			}()
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, want.Bytes()) {
				t.Fatalf("seed %d: %d bytes of %d, %v", seed, len(got), want.Len(), err)
			}
		}
	})
}

// A connection that is asked one thing after the other, with pauses of every length, is never
// left waiting, nor closed while it is less than idle.
func TestNoRequestIsOverlooked(t *testing.T) {
	each(t, func(t *testing.T, road string) {
		dial, _, _ := server(t, road, Limits{look: 3 * time.Millisecond}, line)
		var wg sync.WaitGroup
		for i := range 16 {
			c := dial()
			wg.Go(func() {
				random := rand.New(rand.NewPCG(uint64(i), 1))
				in := bufio.NewReader(c)
				for k := range 1000 {
					text := fmt.Sprint(i, " ", k)
					io.WriteString(c, text+"\n")
					got, err := in.ReadString('\n')
					if want := fmt.Sprintf("%d %s\n", len(text), text); got != want || err != nil {
						t.Errorf("%q, %v", got, err)
						return
					}
					if random.IntN(50) == 0 {
						time.Sleep(time.Duration(random.IntN(9)) * time.Millisecond)
					}
				}
			})
		}
		wg.Wait()
	})
}

func TestEndsOfConnections(t *testing.T) {
	half := func(c net.Conn) { c.(interface{ CloseWrite() error }).CloseWrite() }
	short := Limits{Idle: 50 * time.Millisecond, Request: 50 * time.Millisecond, Write: 50 * time.Millisecond, look: 50 * time.Millisecond}
	tests := []struct {
		name   string
		limits Limits
		do     func(c net.Conn)
		says   string // in the log; "": nothing
	}{
		{"leaves at once", Limits{}, half, ""},
		{"leaves after an answer", Limits{}, func(c net.Conn) {
			io.WriteString(c, "a\n")
			bufio.NewReader(c).ReadString('\n')
			half(c)
		}, ""},
		{"leaves with its request", Limits{}, func(c net.Conn) { io.WriteString(c, "a\n"); half(c) }, ""},
		{"leaves inside a request", Limits{}, func(c net.Conn) { io.WriteString(c, "a\nb"); half(c) }, "ended inside a request"},
		{"is idle from the start", short, func(net.Conn) {}, "idle for too long"},
		{"becomes idle", short, func(c net.Conn) { io.WriteString(c, "a\n") }, "idle for too long"},
		{"stops inside a request", short, func(c net.Conn) { io.WriteString(c, "a\nb") }, "did not come in time"},
		{"a bad request", Limits{}, func(c net.Conn) { io.WriteString(c, "a\nbad\n") }, "a bad line"},
		{"a request without end", Limits{}, func(c net.Conn) { io.WriteString(c, strings.Repeat("x", most)) }, "longer than 40000 bytes"},
		{"takes no answers", Limits{Write: 50 * time.Millisecond}, func(c net.Conn) {
			text := strings.Repeat(strings.Repeat("x", 1000)+"\n", 100)
			for {
				if _, err := io.WriteString(c, text); err != nil {
					return
				}
			}
		}, "write answer"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			each(t, func(t *testing.T, road string) {
				dial, said, stop := server(t, road, tt.limits, line)
				c := dial()
				tt.do(c)
				if _, err := io.Copy(io.Discard, c); errors.Is(err, context.DeadlineExceeded) {
					t.Error("not closed")
				}
				if tt.says != "" {
					said.waitFor(t, tt.says)
				}
				if err := stop(); err != nil {
					t.Error(err)
				}
				if tt.says == "" && said.String() != "" {
					t.Error(said.String())
				}
			})
		})
	}
}

// What was read is answered when the server shuts down, and nobody else is waited for.
func TestShutdown(t *testing.T) {
	each(t, func(t *testing.T, road string) {
		gate := make(chan struct{})
		dial, said, stop := server(t, road, Limits{}, func(in, out []byte) (int, []byte, error) {
			n, out, err := line(in, out)
			if n > 0 {
				<-gate
			}
			return n, out, err
		})
		c, half := dial(), dial()
		dial() // says nothing
		io.WriteString(half, "a")
		io.WriteString(c, "a\nb\n")
		gate <- struct{}{}
		ended := make(chan error)
		go func() { ended <- stop() }()
		select {
		case <-ended:
			t.Fatal("ended with an answer outstanding")
		case <-time.After(20 * time.Millisecond):
		}
		close(gate)
		if got, err := io.ReadAll(c); string(got) != "1 a\n1 b\n" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		if err := <-ended; err != nil || said.String() != "" {
			t.Error(err, said.String())
		}
	})
}
