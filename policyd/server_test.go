package policyd

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/internal/accept"
)

func TestProtocol(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			s, _ := newServer(t, standardWorld(), nil)
			dial, _ := start(t, s, network)
			c := dial()
			in := bufio.NewReader(c)
			for i, tt := range []struct{ request, want string }{
				{rcptText("a@plain.example", "b@plain.example", "1"), "DUNNO"},
				{rcptText("a@clinic.example", "b@tls.example", "2"), "FILTER securesmtp:"},
				{requestText("protocol_state=DATA", "sender=a@clinic.example", "recipient=", "instance=2", "queue_id=Q"), "FILTER securesmtp:"},
				{requestText("protocol_state=END-OF-MESSAGE", "sender=a@clinic.example", "instance=2", "queue_id=Q"), "FILTER securesmtp:"},
				{rcptText("a@clinic.example", "b@notls.example", "3"), toEncryption}, // the next transaction
				{requestText("protocol_state=RCPT", "protocol_name=", "sender=", "recipient=b@plain.example", "unknown=a=b=c"), "DUNNO"},
				{rcptText("a@plain.example", "b@plain.example", "4"), "DUNNO"},
			} {
				if _, err := io.WriteString(c, tt.request); err != nil {
					t.Fatal(err)
				}
				if got, err := readAnswerFrom(in); err != nil || got != tt.want {
					t.Fatalf("request %d: %q, %v; want %q", i, got, err, tt.want)
				}
			}
			// In pieces, and two at once.
			text := rcptText("a@clinic.example", "b@vault.example", "5")
			for _, piece := range []string{text[:10], text[10:60], text[60 : len(text)-1], text[len(text)-1:] + text} {
				io.WriteString(c, piece)
				time.Sleep(5 * time.Millisecond)
			}
			for range 2 {
				if got, err := readAnswerFrom(in); err != nil || got != toEncryption {
					t.Fatalf("in pieces: %q, %v", got, err)
				}
			}
		})
	}
}

func TestBadClients(t *testing.T) {
	tests := []struct{ name, input, says string }{
		{"garbage", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n", "without name=value"},
		{"another protocol", "GET / HTTP/1.1\n\n", "without name=value"},
		{"another request", "request=junk\nprotocol_state=RCPT\n\n", "not an smtpd_access_policy"},
		{"no request", "protocol_state=RCPT\n\n", "not an smtpd_access_policy"},
		{"no state", "request=smtpd_access_policy\nsender=a\n\n", "no protocol_state"},
		{"an empty request", "\n\n", "without name=value"}, {"an empty line first", "\nrequest=smtpd_access_policy\n", "empty request"},
		{"an empty name", requestText("=x", "protocol_state=RCPT"), "without name=value"},
		{"an attribute twice", requestText("protocol_state=RCPT", "sender=a@clinic.example", "sender=b@plain.example"), "twice"},
		{"NUL", requestText("protocol_state=RCPT", "sender=a\x00@plain.example"), "NUL"},
		{"a long line", "x=" + strings.Repeat("y", maxLine), "line longer"},
		{"a long line inside", requestText("protocol_state=RCPT", "x="+strings.Repeat("y", maxLine)), "line longer"},
		{"a long request", strings.Repeat("x="+strings.Repeat("y", 1000)+"\n", 70), "request longer"},
		{"many attributes", requestText(append([]string{"protocol_state=RCPT"}, strings.Split(strings.Repeat("a=b ", 300), " ")[:300]...)...), "attributes"},
		{"half a request", "request=smtpd_access_policy\nsender=a", "inside a request"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var log logged
			s, _ := newServer(t, standardWorld(), func(c *Config) { c.Log = log.logger() })
			dial, _ := start(t, s, "tcp")
			other := dial()
			c := dial()
			io.WriteString(c, tt.input)
			c.(*net.TCPConn).CloseWrite()
			if err := closedUnanswered(c); err != nil {
				t.Error(err)
			}
			log.waitFor(t, tt.says)
			log.waitFor(t, "peer="+c.LocalAddr().String())
			io.WriteString(other, rcptText("a@plain.example", "b@plain.example", "1"))
			if got, err := readAnswer(other); err != nil || got != "DUNNO" {
				t.Errorf("another client: %q, %v", got, err)
			}
		})
	}
}

func TestSlowClients(t *testing.T) {
	var log logged
	s, _ := newServer(t, standardWorld(), func(c *Config) {
		c.Log = log.logger()
		c.Limits = accept.Limits{Idle: 50 * time.Millisecond, Request: 50 * time.Millisecond}
	})
	dial, _ := start(t, s, "tcp")
	idle, half := dial(), dial()
	io.WriteString(half, "request=smtpd_")
	for _, c := range []net.Conn{idle, half} {
		if err := closedUnanswered(c); err != nil {
			t.Error(err)
		}
	}
	log.waitFor(t, "idle for too long")
	log.waitFor(t, "did not come in time")

	// A client that does not read its answers does not hold its connection.
	s, _ = newServer(t, standardWorld(), func(c *Config) {
		c.Log = log.logger()
		c.Limits = accept.Limits{Write: 50 * time.Millisecond}
	})
	dial, _ = start(t, s, "tcp")
	deaf := dial()
	text := []byte(strings.Repeat(rcptText("a@forced.example", "b@vault.example", "1"), 100))
	for {
		if _, err := deaf.Write(text); err != nil {
			break
		}
	}
	log.waitFor(t, "write answer")
}

func TestConnectionLimit(t *testing.T) {
	var log logged
	s, _ := newServer(t, standardWorld(), func(c *Config) {
		c.Log = log.logger()
		c.Limits.Connections = 2
	})
	dial, _ := start(t, s, "tcp")
	ask := func(c net.Conn) error {
		io.WriteString(c, rcptText("a@plain.example", "b@plain.example", "1"))
		_, err := readAnswer(c)
		return err
	}
	first, second := dial(), dial()
	if err := ask(first); err != nil {
		t.Fatal(err)
	}
	if err := ask(second); err != nil {
		t.Fatal(err)
	}
	third := dial()
	if err := closedUnanswered(third); err != nil {
		t.Error(err)
	}
	log.waitFor(t, "too many connections")
	log.waitFor(t, third.LocalAddr().String())
	first.Close()
	for range 100 {
		if ask(dial()) == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("a closed connection does not make room")
}

func TestMemoryStaysBounded(t *testing.T) {
	s, _ := newServer(t, standardWorld(), func(c *Config) { c.Transactions = 100 })
	dial, _ := start(t, s, "tcp")
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	junk := bytes.Repeat([]byte("x="+strings.Repeat("y", 1000)+"\n"), 60) // a request that never ends
	for range 100 {
		c := dial()
		c.Write(junk)
	}
	for i := range 2000 {
		newSession(t, s, "a@clinic.example", "").rcpt(fmt.Sprintf("b%d@tls.example", i))
	}
	time.Sleep(100 * time.Millisecond)
	if after := heap(); after > before+100*(maxRequest+32<<10) {
		t.Errorf("%d kB more", (after-before)/1024)
	}
	if n := s.memory.len(); n > 100 {
		t.Errorf("%v transactions", n)
	}
}

func TestForgettingByAge(t *testing.T) {
	now := time.Now()
	m := newMemory(10, time.Minute)
	q := &request{instance: "1", sender: "a"}
	m.put(q, transaction{filter: "x:"}, now)
	if _, ok := m.get(q, now.Add(50*time.Second)); !ok {
		t.Error("forgotten too early")
	}
	if _, ok := m.get(q, now.Add(100*time.Second)); !ok {
		t.Error("its age counts from the last request")
	}
	if _, ok := m.get(q, now.Add(161*time.Second)); ok || m.len() != 0 || m.order.Len() != 0 {
		t.Error("not forgotten")
	}
}

func TestShutdownAnswersWhatItHasRead(t *testing.T) {
	w := standardWorld()
	w.gate = make(chan struct{})
	s, _ := newServer(t, w, nil)
	dial, stop := start(t, s, "tcp")
	idle, busy := dial(), dial()
	text := rcptText("a@clinic.example", "b@tls.example", "1")
	io.WriteString(busy, text+text) // the second is read with the first
	w.gate <- struct{}{}            // the first is answered, the second waits
	in := bufio.NewReader(busy)
	if got, err := readAnswerFrom(in); err != nil || got != "FILTER securesmtp:" {
		t.Fatal(got, err)
	}
	ended := make(chan error)
	go func() { ended <- stop() }()
	if err := closedUnanswered(idle); err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		t.Fatal("ended with an answer outstanding", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(w.gate)
	if got, err := readAnswerFrom(in); err != nil || got != "FILTER securesmtp:" {
		t.Errorf("%q, %v", got, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestPanicClosesTheConnection(t *testing.T) {
	w := standardWorld()
	w.panics = true
	var log logged
	s, _ := newServer(t, w, func(c *Config) { c.Log = log.logger() })
	dial, _ := start(t, s, "tcp")
	c := dial()
	io.WriteString(c, rcptText("a@clinic.example", "b@tls.example", "1"))
	if err := closedUnanswered(c); err != nil {
		t.Error(err)
	}
	log.waitFor(t, "panic while serving")
	w.panics = false
	c = dial()
	io.WriteString(c, rcptText("a@clinic.example", "b@tls.example", "1"))
	if got, err := readAnswer(c); err != nil || got != "FILTER securesmtp:" {
		t.Errorf("afterwards: %q, %v", got, err)
	}
}

func TestTroubleClosesTheConnection(t *testing.T) {
	w := standardWorld()
	w.ownErr = fmt.Errorf("table is down")
	s, _ := newServer(t, w, nil)
	dial, _ := start(t, s, "unix")
	c := dial()
	io.WriteString(c, rcptText("a@clinic.example", "b@tls.example", "1"))
	if err := closedUnanswered(c); err != nil {
		t.Error(err)
	}
}

func TestListenerEnds(t *testing.T) {
	s, _ := newServer(t, standardWorld(), nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- s.Run(t.Context(), ln) }()
	ln.Close()
	if err := <-ended; err == nil {
		t.Error("no error though the listener ended by itself")
	}
}

func TestBadConfig(t *testing.T) {
	good, _ := newServer(t, standardWorld(), nil)
	for name, change := range map[string]func(*Config){
		"no engine":         func(c *Config) { c.Engine = nil },
		"no splitter":       func(c *Config) { c.Splitter.Escrow = "" },
		"splitter injected": func(c *Config) { c.Splitter.Forced = "x\naction=OK" },
		"unreachable":       func(c *Config) { c.ForcedUnreachable = "bounce" },
		"metrics twice": func(c *Config) {
			r := prometheus.NewRegistry()
			c.Registerer = r
			if _, err := New(*c); err != nil {
				t.Fatal(err)
			}
		},
	} {
		cfg := good.cfg
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestManyConnectionsAtOnce(t *testing.T) {
	s, book := newServer(t, standardWorld(), nil)
	dial, _ := start(t, s, "tcp")
	var wg sync.WaitGroup
	for n := range 8 {
		c := dial()
		wg.Go(func() {
			in := bufio.NewReader(c)
			for i := range 100 {
				io.WriteString(c, rcptText("a@clinic.example", "b@tls.example", fmt.Sprintf("%d.%d", n, i)))
				if got, err := readAnswerFrom(in); err != nil || got != "FILTER securesmtp:" {
					t.Errorf("%q, %v", got, err)
					return
				}
			}
		})
	}
	for range 50 {
		book.set(t, standardRules...)
	}
	wg.Wait()
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte(rcptText("a@clinic.example", "b@tls.example", "1")))
	f.Add([]byte(requestText("protocol_state=DATA", "sender=", "queue_id=Q", "instance=1")))
	f.Add([]byte(requestText("protocol_state=RCPT", "sender=a%b!c", "recipient=\"x y\"@[192.0.2.1]", "policy_context=postseal-secure")))
	f.Add([]byte("request=smtpd_access_policy\n\n"))
	f.Add([]byte("=\n\n"))
	f.Add([]byte("\n\n"))
	s, _ := newServer(f, standardWorld(), nil)
	f.Fuzz(func(t *testing.T, raw []byte) {
		if i := bytes.Index(raw, []byte("\n\n")); i >= 0 {
			raw = raw[:i+2]
		} else {
			raw = append(raw, "\n\n"...)
		}
		var q request
		if q.parse(raw) != nil {
			return
		}
		a, err := s.answer(t.Context(), &q)
		if err != nil {
			return
		}
		out := string(a.append(nil))
		if !printable(a.verb+a.text) || strings.Count(out, "\n") != 2 || !strings.HasSuffix(out, "\n\n") || !strings.HasPrefix(out, "action=") {
			t.Errorf("answer %q", out)
		}
	})
}

// The usual request must cost next to nothing beyond its way through the socket.
func TestUsualRequestDoesNotAllocate(t *testing.T) {
	s, _ := newServer(t, standardWorld(), nil)
	raw := []byte(rcptText("a@plain.example", "b@plain.example", "1"))
	var q request
	var out []byte
	if n := testing.AllocsPerRun(100, func() {
		if err := q.parse(raw); err != nil {
			t.Fatal(err)
		}
		a, err := s.answer(t.Context(), &q)
		if err != nil {
			t.Fatal(err)
		}
		out = a.append(out[:0])
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
