package tlsmap

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os/exec"
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
			s, _ := newServer(t, standardWorld(), func(c *Config) { c.Registerer = prometheus.NewRegistry() })
			dial, _, _ := start(t, s, network)
			c := dial()
			in := bufio.NewReader(c)
			queries := []struct{ query, want string }{
				{"transport x@plain.example", "NOTFOUND"},
				{"transport x@bank.example", "OK forcedsmtp:"},
				{"secure-tls-policy plain.example", encrypt},
				{"transport ", "NOTFOUND"},
				{"transport joe smith@bank.example", "OK forcedsmtp:"}, // the key may have spaces
				{"nomap x", "PERM no such map: want one of transport, tls-policy, secure-tls-policy, sender-transport"},
				{"transport", "PERM want: map key"},
				{"", "PERM want: map key"},
				{"sender-transport " + strings.Repeat("x", maxQuery-len("sender-transport ")), "PERM key is not an address"},
				{"transport x@bank.example", "OK forcedsmtp:"},
			}
			all := ""
			for _, q := range queries {
				all += netstring(q.query)
				io.WriteString(c, netstring(q.query))
				if got, err := readReply(in); err != nil || got != q.want {
					t.Fatalf("%.60q: %q, %v; want %q", q.query, got, err, q.want)
				}
			}
			// All at once, and byte by byte.
			go io.WriteString(c, strings.Repeat(all, 20))
			for i := range 20 * len(queries) {
				if got, err := readReply(in); err != nil || got != queries[i%len(queries)].want {
					t.Fatalf("pipelined: %q, %v", got, err)
				}
			}
			for _, b := range []byte(netstring("transport x@bank.example")) {
				c.Write([]byte{b})
			}
			if got, err := readReply(in); err != nil || got != "OK forcedsmtp:" {
				t.Fatalf("byte by byte: %q, %v", got, err)
			}
		})
	}
}

func TestBadClients(t *testing.T) {
	tests := []struct{ name, input, says string }{
		{"garbage", "\x16\x03\x01\x02\x00", "not a netstring"},
		{"another protocol", "GET / HTTP/1.1\r\n\r\n", "not a netstring"},
		{"no length", ":x,", "not a netstring"},
		{"a leading zero", "01:x,", "not a netstring"},
		{"a sign", "-1:x,", "not a netstring"},
		{"a long number", "000000000000000000000000", "not a netstring"},
		{"too long", "10001:x", "query longer"},
		{"much too long", "99999", "query longer"},
		{"no comma", "3:abcd", "without its comma"},
		{"half a request", "30:transport x@", "inside a request"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var log logged
			s, _ := newServer(t, standardWorld(), func(c *Config) { c.Log = log.logger() })
			dial, _, _ := start(t, s, "tcp")
			other, c := dial(), dial()
			io.WriteString(c, tt.input)
			c.(*net.TCPConn).CloseWrite()
			if err := closedUnanswered(c); err != nil {
				t.Error(err)
			}
			log.waitFor(t, tt.says)
			log.waitFor(t, "peer="+c.LocalAddr().String())
			io.WriteString(other, netstring("transport x@bank.example"))
			if got, err := readReply(bufio.NewReader(other)); err != nil || got != "OK forcedsmtp:" {
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
	dial, _, _ := start(t, s, "tcp")
	idle, half := dial(), dial()
	io.WriteString(half, "20:transport")
	for _, c := range []net.Conn{idle, half} {
		if err := closedUnanswered(c); err != nil {
			t.Error(err)
		}
	}
	log.waitFor(t, "idle for too long")
	log.waitFor(t, "did not come in time")

	s, _ = newServer(t, standardWorld(), func(c *Config) {
		c.Log = log.logger()
		c.Limits = accept.Limits{Write: 50 * time.Millisecond}
	})
	dial, _, _ = start(t, s, "tcp")
	deaf := dial()
	text := []byte(strings.Repeat(netstring("transport boss@vault.example"), 1000))
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
		c.Limits = accept.Limits{Connections: 2}
	})
	dial, _, _ := start(t, s, "tcp")
	one, two := dial(), dial()
	for _, c := range []net.Conn{one, two} {
		io.WriteString(c, netstring("transport x@plain.example"))
		if _, err := readReply(bufio.NewReader(c)); err != nil {
			t.Fatal(err)
		}
	}
	three := dial()
	if err := closedUnanswered(three); err != nil {
		t.Error(err)
	}
	log.waitFor(t, "too many connections")
	log.waitFor(t, three.LocalAddr().String())
}

func TestMemoryStaysBounded(t *testing.T) {
	s, _ := newServer(t, standardWorld(), nil)
	dial, _, _ := start(t, s, "tcp")
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for range 100 {
		c := dial()
		io.WriteString(c, "10000:"+strings.Repeat("x", 9990))
	}
	time.Sleep(100 * time.Millisecond)
	if after := heap(); after > before+100*40<<10 {
		t.Errorf("%d kB more", (after-before)/1024)
	}
}

func TestShutdownAnswersWhatItHasRead(t *testing.T) {
	w := standardWorld()
	w.gate = make(chan struct{})
	s, _ := newServer(t, w, nil)
	dial, _, stop := start(t, s, "tcp")
	idle, busy := dial(), dial()
	io.WriteString(busy, strings.Repeat(netstring("transport x@bank.example"), 2))
	w.gate <- struct{}{} // the first is decided, the second is under way
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
	in := bufio.NewReader(busy)
	for range 2 {
		if got, err := readReply(in); err != nil || got != "OK forcedsmtp:" {
			t.Errorf("%q, %v", got, err)
		}
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
	dial, _, _ := start(t, s, "tcp")
	c := dial()
	io.WriteString(c, netstring("transport x@bank.example"))
	if err := closedUnanswered(c); err != nil {
		t.Error(err)
	}
	log.waitFor(t, "panic while serving")
}

func TestManyConnectionsAtOnce(t *testing.T) {
	s, book := newServer(t, standardWorld(), nil)
	dial, _, _ := start(t, s, "tcp")
	var wg sync.WaitGroup
	for range 8 {
		c := dial()
		wg.Go(func() {
			in := bufio.NewReader(c)
			for range 200 {
				io.WriteString(c, netstring("transport x@bank.example"))
				if got, err := readReply(in); err != nil || got != "OK forcedsmtp:" {
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

// Postfix's own client.
func TestPostmapQueries(t *testing.T) {
	postmap := needPostmap(t)
	w := standardWorld()
	s, _ := newServer(t, w, nil)
	for _, network := range []string{"tcp", "unix"} {
		_, addr, _ := start(t, s, network)
		server := "unix:" + addr
		if network == "tcp" {
			server = "inet:" + addr
		}
		query := func(mapName, key string) (string, error) {
			out, err := exec.Command(postmap, "-q", key, "socketmap:"+server+":"+mapName).CombinedOutput()
			return strings.TrimSpace(string(out)), err
		}
		for _, tt := range []struct{ mapName, key, want string }{
			{MapTransport, "x@bank.example", "forcedsmtp:"},
			{MapTransport, "x@notls.example", "escrow:inet:127.0.0.1:8643"},
			{MapTransport, "x@plain.example", ""},
			{MapTLSPolicy, "bank.example", "secure match=.bank.example protocols=>=TLSv1.2 ciphers=high"},
			{MapSecureTLSPolicy, "plain.example", "encrypt protocols=>=TLSv1.2"},
			{MapSecureTLSPolicy, "[127.0.0.1]:8644", "none"},
			{MapSenderTransport, "doc@practice.example", "securesmtp:"},
		} {
			got, err := query(tt.mapName, tt.key)
			if got != tt.want || (err != nil) != (tt.want == "") {
				t.Errorf("%s %s %s: %q, %v; want %q", network, tt.mapName, tt.key, got, err, tt.want)
			}
		}
		for _, tt := range []struct{ mapName, key, want string }{
			{MapTransport, "x@uucp.example", "temporary error"},
			{"nomap", "x", "permanent error"},
		} {
			if got, err := query(tt.mapName, tt.key); err == nil || !strings.Contains(got, tt.want) {
				t.Errorf("%s %s %s: %q, %v; want %q", network, tt.mapName, tt.key, got, err, tt.want)
			}
		}
	}
}

func needPostmap(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("postmap")
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/postmap")
	}
	if errors.Is(err, exec.ErrNotFound) || err != nil {
		t.Skip("no postmap here: Postfix is not installed")
	}
	return path
}

func FuzzNetstring(f *testing.F) {
	for _, s := range []string{"", "0:,", "3:abc,", "25:transport x@bank.example,5:", "10000:", "10001:", "00:", "9:transport,", "1:,,", "2:ab"} {
		f.Add([]byte(s))
	}
	s, _ := newServer(f, standardWorld(), nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		n, payload, err := parseNetstring(b)
		switch {
		case err != nil && n != 0, n > len(b), len(payload) > maxQuery:
			t.Fatalf("%d, %d bytes, %v", n, len(payload), err)
		case err == nil && n > 0:
			if string(b[:n]) != netstring(string(payload)) {
				t.Fatalf("%q read as %q", b[:n], payload)
			}
			name, key, _ := strings.Cut(string(payload), " ")
			r, qerr := s.Query(t.Context(), name, key)
			if !printable(r.Text) || (qerr != nil) != (r.Status == Temp || r.Status == Perm) {
				t.Fatalf("%+v, %v", r, qerr)
			}
			for _, m := range Maps() {
				r, _ := s.Query(t.Context(), m, key)
				if m == MapSecureTLSPolicy && r.Status == NotFound {
					t.Fatalf("%q is not found in %s", key, m)
				}
				if reply := appendReply(nil, r); len(reply) > 100_000 {
					t.Fatalf("reply of %d bytes", len(reply))
				}
			}
		}
	})
}

func FuzzAdminPolicy(f *testing.F) {
	for _, s := range []string{"encrypt", "secure match=a:b protocols=>=TLSv1.2", "may protocols=!SSLv2:!SSLv3", "fingerprint match=a|b", "dane-only", "x", "encrypt match", ", ,"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, theirs string) {
		got, err := merge("encrypt protocols=>=TLSv1.2", theirs, false)
		if err != nil {
			return
		}
		p, err := parsePolicy(got)
		if err != nil || p.level < adminLevel("encrypt") {
			t.Fatalf("merged with %q: %q, %v", theirs, got, err)
		}
		if minVersion(p.get("protocols")) < version("TLSv1.2") {
			t.Fatalf("merged with %q: %q is below the floor", theirs, got)
		}
		if names := p.get("match"); names != "" && p.level < adminLevel("fingerprint") && !strings.Contains(theirs, "match=") {
			t.Fatalf("merged with %q: %q", theirs, got)
		}
	})
}

func TestUsualLookupDoesNotAllocate(t *testing.T) {
	s, _ := newServer(t, standardWorld(), func(c *Config) {
		c.Pins, c.Bounce = pins{"pinned@plain.example"}, func(a string) bool { return strings.HasPrefix(a, "postseal-bounce+") }
	})
	for _, tt := range []struct {
		mapName, key string
		most         float64
	}{
		{MapTransport, "x@plain.example", 0},
		{MapTLSPolicy, "plain.example", 0},
		{MapSecureTLSPolicy, "plain.example", 0},
		{MapSenderTransport, "x@plain.example", 0},
		{MapTransport, "x@clinic.example", 8}, // decided: a deadline for the lookups it may need
	} {
		var out []byte
		if n := testing.AllocsPerRun(100, func() {
			r, err := s.Query(t.Context(), tt.mapName, tt.key)
			if err != nil {
				t.Fatal(err)
			}
			out = appendReply(out[:0], r)
		}); n > tt.most {
			t.Errorf("%s %s: %v allocations", tt.mapName, tt.key, n)
		}
	}
}

// BenchmarkSocketmap compares the server with a bare echo of the same protocol (bufio,
// one goroutine for each connection), in one run: only the ratio counts.
func BenchmarkSocketmap(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				in, out := bufio.NewReader(c), bufio.NewWriter(c)
				for {
					if _, err := in.ReadSlice(','); err != nil {
						return
					}
					out.WriteString("9:NOTFOUND ,")
					out.Flush()
				}
			}()
		}
	}()
	s, _ := newServer(b, standardWorld(), func(c *Config) { c.Registerer = prometheus.NewRegistry() })
	dial, _, _ := start(b, s, "tcp")
	run := func(name, query string, dial func() net.Conn) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(8) // 16 connections on 2 processors
			b.RunParallel(func(pb *testing.PB) {
				c := dial()
				defer c.Close()
				request, reply := []byte(netstring(query)), make([]byte, 256)
				for pb.Next() {
					if _, err := c.Write(request); err != nil {
						b.Error(err)
						return
					}
					if _, err := c.Read(reply); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
	for range 3 {
		run("echo", "transport x@plain.example", func() net.Conn {
			c, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			return c
		})
		run("notfound", "transport x@plain.example", dial)
		run("decided", "transport x@clinic.example", dial)
		run("policy", "secure-tls-policy plain.example", dial)
	}
}
