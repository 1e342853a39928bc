package intake

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

const (
	// maxConnections is how many clients one listener serves at a time: more than
	// Postfix's default_process_limit.
	maxConnections = 200
	// maxRecipients of one message: far more than Postfix sends
	// (lmtp_destination_recipient_limit, 50).
	maxRecipients = 1000
	// writeTime is how long a reply may take to be written.
	writeTime = time.Minute
	// workTime is how long a message may be worked on. Postfix waits 10 minutes for
	// the reply (lmtp_data_done_timeout).
	workTime = 9 * time.Minute
	// drainTime is how long messages in hand have at shutdown.
	drainTime = 20 * time.Second
)

// server is what splitter and fallback have in common.
type server struct {
	cfg     Config
	name    string // of the listener, in logs and metrics
	lmtp    bool
	log     *slog.Logger
	metrics *metrics
	session func(*session) smtp.Session
}

func newServer(cfg Config, name string, lmtp bool) *server {
	cfg = cfg.withDefaults()
	return &server{cfg: cfg, name: name, lmtp: lmtp, log: cfg.Log.With("listener", name), metrics: newMetrics(cfg.Registerer)}
}

// run serves ln, which it closes, until ctx is done. Messages in hand are then
// still finished, for a while.
func (s *server) run(ctx context.Context, ln net.Listener) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	g := &gate{Listener: ln, log: s.log, metrics: s.metrics, lmtp: s.lmtp, wires: make(map[*wire]struct{})}

	srv := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		return s.session(&session{server: s, ctx: work, wire: c.Conn().(*wire)}), nil
	}))
	srv.LMTP = s.lmtp
	srv.Domain = s.cfg.Hostname
	srv.MaxRecipients = maxRecipients
	srv.MaxMessageBytes = s.cfg.MaxMessageSize
	srv.MaxLineLength = 0 // see wire
	srv.WriteTimeout = writeTime
	srv.EnableSMTPUTF8 = true
	srv.EnableDSN = true
	srv.ErrorLog = errorLog{s.log}

	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	err := srv.Serve(g)
	ln.Close()
	g.shut()
	wait, done := context.WithTimeout(work, drainTime)
	defer done()
	if srv.Shutdown(wait) != nil && wait.Err() != nil {
		s.log.Warn("messages in hand are given up, Postfix will come again")
		cancel()
		g.kill()
	}
	if g.empty(5 * time.Second) { // nothing is added to the background any more
		g.background.Wait()
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("%s: accept on %s: %w", s.name, ln.Addr(), err)
}

// errorLog passes on what go-smtp has to say.
type errorLog struct{ log *slog.Logger }

func (e errorLog) Printf(format string, v ...any) {
	e.log.Warn("protocol server", "message", fmt.Sprintf(format, v...))
}

func (e errorLog) Println(v ...any) {
	e.log.Warn("protocol server", "message", strings.TrimSpace(fmt.Sprintln(v...)))
}

// gate is a listener that gives each connection its wire, and has a limit of
// them.
type gate struct {
	net.Listener
	log        *slog.Logger
	metrics    *metrics
	lmtp       bool
	background sync.WaitGroup // what goes on behind closed connections

	mu      sync.Mutex
	wires   map[*wire]struct{}
	closing bool
}

func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if w := g.enter(c); w != nil {
			return w, nil
		}
		g.log.Warn("connection refused: too many", "peer", peerName(c), "limit", maxConnections)
		c.SetWriteDeadline(time.Now().Add(time.Second))
		io.WriteString(c, "421 4.3.2 Too many connections\r\n")
		c.Close()
	}
}

func (g *gate) enter(c net.Conn) *wire {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.wires) >= maxConnections {
		return nil
	}
	w := newWire(c, g)
	w.closing = g.closing
	g.wires[w] = struct{}{}
	return w
}

func (g *gate) leave(w *wire) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.wires, w)
}

// shut ends the connections that are between messages, and the others when they
// come to be.
func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closing = true
	for w := range g.wires {
		w.shut()
	}
}

// empty waits until all connections are closed, at most limit.
func (g *gate) empty(limit time.Duration) bool {
	for end := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		g.mu.Lock()
		n := len(g.wires)
		g.mu.Unlock()
		if n == 0 || time.Now().After(end) {
			return n == 0
		}
	}
}

// kill ends all connections.
func (g *gate) kill() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for w := range g.wires {
		w.Conn.Close()
	}
}
