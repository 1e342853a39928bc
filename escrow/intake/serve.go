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

	"github.com/postseal/postseal/policyd/policy"
)

// limits of one listener.
type limits struct {
	connections int           // at a time
	idle        time.Duration // silence of a client
	message     time.Duration // for one message to come in
	linger      time.Duration // for a client to close after QUIT
	write       time.Duration // for a reply
	drain       time.Duration // for messages in hand at shutdown
}

// defaultLimits allow more connections than Postfix's default_process_limit.
var defaultLimits = limits{
	connections: 200,
	idle:        5 * time.Minute,
	message:     30 * time.Minute,
	linger:      10 * time.Second,
	write:       time.Minute,
	drain:       20 * time.Second,
}

const (
	// maxRecipients of one message: far more than Postfix sends
	// (lmtp_destination_recipient_limit, 50).
	maxRecipients = 1000
	// workTime is how long a message may be worked on. Postfix waits 10 minutes for
	// the reply (lmtp_data_done_timeout).
	workTime = 9 * time.Minute
)

// server is what splitter and fallback have in common.
type server struct {
	cfg     Config
	name    string             // of the listener, in logs and metrics
	floor   policy.Requirement // of what comes here
	waiting waiting
	lmtp    bool
	log     *slog.Logger
	metrics *metrics
	limits  limits
	session func(*session) smtp.Session
}

func newServer(cfg Config, name string, floor policy.Requirement, lmtp bool) *server {
	cfg = cfg.withDefaults()
	return &server{cfg: cfg, name: name, floor: floor, lmtp: lmtp, log: cfg.Log.With("listener", name), metrics: newMetrics(cfg.Registerer), limits: defaultLimits}
}

// run serves ln, which it closes, until ctx is done. Messages in hand are then
// still finished, for a while.
func (s *server) run(ctx context.Context, ln net.Listener) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	g := &gate{Listener: ln, log: s.log, metrics: s.metrics, limits: s.limits, lmtp: s.lmtp, wires: make(map[*wire]struct{})}

	srv := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		return s.session(&session{server: s, ctx: work, wire: c.Conn().(*wire)}), nil
	}))
	srv.LMTP = s.lmtp
	srv.Domain = s.cfg.Hostname
	srv.MaxRecipients = maxRecipients
	srv.MaxMessageBytes = s.cfg.MaxMessageSize
	srv.MaxLineLength = 0 // see wire
	srv.WriteTimeout = s.limits.write
	srv.EnableSMTPUTF8 = true
	srv.EnableDSN = true
	srv.ErrorLog = errorLog{s.log}

	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	err := srv.Serve(g)
	ln.Close()
	g.shut()
	wait, done := context.WithTimeout(work, s.limits.drain)
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
	limits     limits
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
		g.log.Warn("connection refused: too many", "peer", peerName(c), "limit", g.limits.connections)
		c.SetWriteDeadline(time.Now().Add(time.Second))
		io.WriteString(c, "421 4.3.2 Too many connections\r\n")
		c.Close()
	}
}

func (g *gate) enter(c net.Conn) *wire {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.wires) >= g.limits.connections {
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
