package notify

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// memory is an outbox in memory.
type memory struct {
	mu   sync.Mutex
	mail map[string]*stored
	ail  error // of every call, while set
}

type stored struct {
	Entry
	due time.Time
}

func newMemory(n int) *memory {
	m := &memory{mail: make(map[string]*stored)}
	for i := range n {
		id := fmt.Sprintf("m%03d", i)
		m.mail[id] = &stored{Entry: Entry{ID: id, Kind: "notice", Created: time.Now(), Mail: Mail{
			From: "postseal-bounce+x@own.example", To: "pat@old.example", Text: []byte("Message-ID: <" + id + ">\r\n\r\n.dot\r\n"),
		}}}
	}
	return m
}

func (m *memory) lock() (func(), error) { m.mu.Lock(); return m.mu.Unlock, m.ail }

func (m *memory) Due(_ context.Context, limit int) (list []Entry, next time.Time, err error) {
	unlock, err := m.lock()
	defer unlock()
	if err != nil {
		return nil, next, err
	}
	for _, s := range m.mail {
		if !s.due.After(time.Now()) {
			if len(list) < limit {
				list = append(list, s.Entry)
			}
		} else if next.IsZero() || s.due.Before(next) {
			next = s.due
		}
	}
	return list, next, nil
}

func (m *memory) Sent(_ context.Context, id string) error {
	unlock, err := m.lock()
	defer unlock()
	if err == nil {
		delete(m.mail, id)
	}
	return err
}

func (m *memory) Failed(_ context.Context, id string, due time.Time) error {
	unlock, err := m.lock()
	defer unlock()
	if err == nil {
		m.mail[id].Attempts++
		m.mail[id].due = due
	}
	return err
}

func (m *memory) OldestMail(context.Context) (at time.Time, err error) {
	unlock, err := m.lock()
	defer unlock()
	for _, s := range m.mail {
		if at.IsZero() || s.Created.Before(at) {
			at = s.Created
		}
	}
	return at, err
}

func (m *memory) left() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.mail)
}

func (m *memory) hasten() { // all is due
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.mail {
		s.due = time.Time{}
	}
}

func (m *memory) setAil(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ail = err
}

// faulty is an SMTP server on loopback that misbehaves at one command.
type faulty struct {
	addr  string
	mu    sync.Mutex
	at    string // command that is answered by reply; "": none
	reply string // "hang", "close" or a reply
	got   []string
	conns atomic.Int64
	most  atomic.Int64
}

func newFaulty(t *testing.T) *faulty {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &faulty{addr: ln.Addr().String()}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go f.serve(c)
		}
	}()
	return f
}

func (f *faulty) fault(at, reply string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at, f.reply = at, reply
}

func (f *faulty) serve(c net.Conn) {
	defer c.Close()
	n := f.conns.Add(1)
	defer f.conns.Add(-1)
	for m := f.most.Load(); n > m && !f.most.CompareAndSwap(m, n); m = f.most.Load() {
	}
	r := bufio.NewReader(c)
	answer := func(cmd, usual string) bool {
		f.mu.Lock()
		reply := usual
		if f.at == cmd {
			reply = f.reply
		}
		f.mu.Unlock()
		switch reply {
		case "hang":
			io.Copy(io.Discard, r)
			return false
		case "close":
			return false
		}
		fmt.Fprintf(c, "%s\r\n", reply)
		return strings.HasPrefix(reply, "2") || strings.HasPrefix(reply, "3")
	}
	if !answer("CONNECT", "220 here") {
		return
	}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		cmd, _, _ := strings.Cut(strings.ToUpper(strings.TrimSpace(line)), " ")
		usual := "250 ok"
		switch cmd {
		case "EHLO":
			usual = "250-here\r\n250-DSN\r\n250 SMTPUTF8"
		case "DATA":
			usual = "354 go"
		case "QUIT":
			usual = "221 bye"
		}
		f.mu.Lock()
		if cmd == "MAIL" || cmd == "RCPT" {
			f.got = append(f.got, strings.TrimSpace(line))
		}
		f.mu.Unlock()
		if !answer(cmd, usual) {
			if cmd == "QUIT" {
				return
			}
			continue
		}
		if cmd == "QUIT" {
			return
		}
		if cmd == "DATA" {
			var b bytes.Buffer
			for {
				l, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if l == ".\r\n" {
					break
				}
				b.WriteString(strings.TrimPrefix(l, "."))
			}
			if answer("DOT", "250 taken") {
				f.mu.Lock()
				f.got = append(f.got, b.String())
				f.mu.Unlock()
			}
		}
	}
}

func (f *faulty) texts() (list []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, g := range f.got {
		if strings.HasPrefix(g, "Message-ID") {
			list = append(list, g)
		}
	}
	return list
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.String()
}

func start(t *testing.T, m *memory, addr string) (*Sender, *lockedBuffer) {
	logs := new(lockedBuffer)
	s := &Sender{Outbox: m, Relay: addr, timeout: 300 * time.Millisecond, Log: slog.New(slog.NewTextHandler(logs, nil)), Registerer: prometheus.NewRegistry()}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return s, logs
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestEveryMailIsSentOnceAndFewAtATime(t *testing.T) {
	m, f := newMemory(200), newFaulty(t)
	s, _ := start(t, m, f.addr)
	s.Wake()
	eventually(t, "empty outbox", func() bool { return m.left() == 0 })
	seen := make(map[string]bool)
	for _, text := range f.texts() {
		if seen[text] || !strings.HasSuffix(text, "\r\n\r\n.dot\r\n") {
			t.Errorf("twice or changed: %q", text)
		}
		seen[text] = true
	}
	if len(seen) != 200 || f.most.Load() > 2*parallel { // the last one's QUIT may overlap
		t.Errorf("%d mails, %d connections at a time", len(seen), f.most.Load())
	}
	if f.got[0] != "MAIL FROM:<postseal-bounce+x@own.example> RET=HDRS" && !strings.HasPrefix(f.got[0], "MAIL") {
		t.Errorf("envelope %q", f.got[:2])
	}
}

func TestTroubleNeverLosesAMail(t *testing.T) {
	for _, tt := range []struct {
		at, reply string
		alarm     bool
	}{
		{"CONNECT", "421 busy", false}, {"CONNECT", "554 go away", true}, {"CONNECT", "close", false}, {"CONNECT", "hang", false},
		{"EHLO", "close", false}, {"EHLO", "hang", false},
		{"MAIL", "451 later", false}, {"MAIL", "550 no", true}, {"RCPT", "450 later", false}, {"RCPT", "550 no such user", true},
		{"DATA", "451 later", false}, {"DATA", "close", false}, {"DOT", "452 full", false}, {"DOT", "554 no", true}, {"DOT", "close", false}, {"DOT", "hang", false},
		{"RCPT", "garbage", false}, {"RCPT", "250-" + strings.Repeat("x", 100_000), false},
	} {
		t.Run(tt.at+" "+tt.reply[:min(20, len(tt.reply))], func(t *testing.T) {
			t.Parallel()
			m, f := newMemory(1), newFaulty(t)
			f.fault(tt.at, tt.reply)
			s, logs := start(t, m, f.addr)
			eventually(t, "a try", func() bool {
				m.mu.Lock()
				defer m.mu.Unlock()
				return m.mail["m000"].Attempts > 0
			})
			if len(f.texts()) != 0 {
				t.Error("it was taken")
			}
			if alarm := strings.Contains(logs.String(), "level=ERROR"); alarm != tt.alarm {
				t.Errorf("alarm %v: %s", alarm, logs.String())
			}
			if age, err := s.Oldest(t.Context()); age <= 0 || err != nil {
				t.Errorf("age %v, %v", age, err)
			}
			f.fault("", "")
			m.hasten()
			s.Wake()
			eventually(t, "sent after all", func() bool { return m.left() == 0 })
		})
	}
}

func TestALateQuitIsNoTrouble(t *testing.T) {
	m, f := newMemory(1), newFaulty(t)
	f.fault("QUIT", "hang")
	start(t, m, f.addr)
	eventually(t, "sent", func() bool { return m.left() == 0 })
	time.Sleep(50 * time.Millisecond)
	if n := len(f.texts()); n != 1 {
		t.Errorf("sent %d times", n)
	}
}

func TestAnOutboxThatAilsIsTriedAgain(t *testing.T) {
	m, f := newMemory(3), newFaulty(t)
	m.setAil(errors.New("disk full"))
	s, logs := start(t, m, f.addr)
	eventually(t, "an error", func() bool { return strings.Contains(logs.String(), "disk full") })
	m.setAil(nil)
	s.Wake()
	eventually(t, "sent", func() bool { return m.left() == 0 })
}

func TestAddressesCantBreakOut(t *testing.T) {
	for _, to := range []string{"a> NOTIFY=NEVER X=\"@b", "a\r\nDATA", `<a@b`} {
		m, f := newMemory(1), newFaulty(t)
		m.mail["m000"].To = to
		start(t, m, f.addr)
		eventually(t, "a try", func() bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.mail["m000"].Attempts > 0
		})
		f.mu.Lock()
		for _, g := range f.got {
			if strings.HasPrefix(g, "RCPT") {
				t.Errorf("%q became %q", to, g)
			}
		}
		f.mu.Unlock()
	}
	m, f := newMemory(1), newFaulty(t)
	m.mail["m000"].To, m.mail["m000"].From = `"a>b"@m`+"\u00fc"+`ller.example`, ""
	start(t, m, f.addr)
	eventually(t, "sent", func() bool { return m.left() == 0 })
	if want := []string{"MAIL FROM:<> SMTPUTF8 RET=HDRS", `RCPT TO:<"a>b"@m` + "\u00fc" + `ller.example> NOTIFY=NEVER`}; f.got[0] != want[0] || f.got[1] != want[1] {
		t.Errorf("envelope %q", f.got[:2])
	}
}

func TestBackoff(t *testing.T) {
	for n := range 100 {
		d := Backoff(n)
		most := lastRetry
		if n < 16 {
			most = min(firstRetry<<n, lastRetry)
		}
		if d > most || d < most*3/4 {
			t.Errorf("after %d failures %v", n, d)
		}
	}
}

func TestParseFrom(t *testing.T) {
	for _, bad := range []string{"", "x", "@x", "a@", "<>", "a@b, c@d", "m\u00fcller@b.example"} {
		if _, _, err := ParseFrom(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	name, from, err := ParseFrom(`"Clinic, Inc." <Notice@Clinic.example>`)
	if err != nil || name != "Clinic, Inc." || from.String() != "Notice@clinic.example" {
		t.Error(name, from, err)
	}
}
