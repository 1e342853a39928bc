package tlsmap

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postseal/postseal/internal/lab/logtext"
	"github.com/postseal/postseal/policyd/policy"
)

var splitter = policy.Splitter{
	Decide:     "inet:127.0.0.1:8649",
	Encryption: "inet:127.0.0.1:8643",
	Forced:     "inet:127.0.0.1:8648",
	Escrow:     "inet:127.0.0.1:8647",
}

const (
	toEncryption = "OK escrow:inet:127.0.0.1:8643"
	toEscrow     = "OK escrow:inet:127.0.0.1:8647"
	encrypt      = "OK encrypt protocols=>=TLSv1.2"
)

// world is what the engine is told: own domains, roads and postures by domain.
type world struct {
	own      []string
	ownErr   error
	routes   map[string]policy.Route
	routeErr error
	mu       sync.Mutex
	postures map[string]policy.Posture
	asked    []string // postures asked for
	panics   bool
	gate     chan struct{} // if set, Own waits for it
}

func (w *world) Own(ctx context.Context, domain string) (bool, error) {
	if w.panics {
		panic("own domains")
	}
	if w.gate != nil {
		<-w.gate
	}
	for _, d := range w.own {
		if d == domain {
			return true, w.ownErr
		}
	}
	return false, w.ownErr
}

func (w *world) Route(ctx context.Context, a policy.Address) (policy.Route, error) {
	return w.routes[a.Domain], w.routeErr
}

func (w *world) Posture(dest string, _ policy.TLSParams) policy.Posture {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, dest)
	return w.postures[dest]
}

func (w *world) set(dest string, p policy.Posture) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.postures[dest] = p
}

// rule reads "scope pattern requirement [name=value ...]".
func rule(t testing.TB, line string) *policy.Rule {
	t.Helper()
	f := strings.Fields(line)
	scope, err := policy.ParseScope(f[0])
	if err != nil {
		t.Fatal(err)
	}
	req, err := policy.ParseRequirement(f[2])
	if err != nil {
		t.Fatal(err)
	}
	pattern, err := policy.CanonicalPattern(scope, f[1])
	if err != nil {
		t.Fatal(err)
	}
	r := &policy.Rule{Scope: scope, Pattern: pattern, Requirement: req}
	for _, a := range f[3:] {
		name, value, _ := strings.Cut(a, "=")
		switch name {
		case "level":
			if r.TLS.Level, err = policy.ParseLevel(value); err != nil {
				t.Fatal(err)
			}
		case "match":
			r.TLS.Match = strings.Split(value, ":")
		case "protocols":
			r.TLS.Protocols = value
		case "ciphers":
			r.TLS.Ciphers = value
		case "servername":
			r.TLS.Servername = value
		case "nexthop":
			r.Nexthop = value
		case "override":
			r.Override, r.Note = true, "their TLS is broken"
		case "until":
			d, err := time.ParseDuration(value)
			if err != nil {
				t.Fatal(err)
			}
			r.Until = time.Now().Add(d)
		default:
			t.Fatalf("rule %q", line)
		}
	}
	return r
}

// rulebook holds rules that a test may change.
type rulebook struct {
	p atomic.Pointer[policy.Snapshot]
}

func (b *rulebook) set(t testing.TB, lines ...string) {
	t.Helper()
	var rules []*policy.Rule
	for _, l := range lines {
		rules = append(rules, rule(t, l))
	}
	s, err := policy.NewSnapshot(1, rules, "+")
	if err != nil {
		t.Fatal(err)
	}
	b.p.Store(s)
}

var standardRules = []string{
	"recipient bank.example tls level=secure match=.bank.example ciphers=high",
	"recipient info@bank.example encryption",
	"recipient clinic.example encryption",
	"recipient noreply@clinic.example none",
	"recipient joe@old.example escrow",
	"recipient vault.example escrow",
	"recipient notls.example encryption",
	"recipient forcednotls.example tls",
	"recipient .corp.example encryption protocols=>=TLSv1.3",
	"recipient free.corp.example none",
	"recipient hop.example encryption nexthop=[10.0.0.5]:25 level=verify match=hop.example",
	"recipient hop2.example tls nexthop=[10.0.0.5]",
	"recipient relayed.example encryption",
	"recipient uucp.example encryption",
	"recipient alt.example none protocols=>=TLSv1.1 level=may",
	"recipient own.example encryption",
	"recipient xn--bcher-kva.example encryption",
	"recipient [192.0.2.7] encryption",
	"sender doc@practice.example encryption",
	"sender @practice.example none",
	"sender @forced.example tls",
	"sender @sealed.example escrow",
	"sender boss@vault.example tls",
	"sender <> none",
}

func standardWorld() *world {
	now := time.Now()
	return &world{
		own: []string{"own.example", "own.corp.example"},
		routes: map[string]policy.Route{
			"relayed.example": {Nexthop: "[relay.example]:587"},
			"uucp.example":    {Blocked: "transport uucp\nis not SMTP"},
		},
		postures: map[string]policy.Posture{
			"notls.example":       {State: policy.Absent, Checked: now},
			"forcednotls.example": {State: policy.Absent, Checked: now},
			"clinic.example":      {State: policy.Works, Checked: now},
		},
	}
}

func newServer(t testing.TB, w *world, change func(*Config), rules ...string) (*Server, *rulebook) {
	t.Helper()
	if rules == nil {
		rules = standardRules
	}
	book := &rulebook{}
	book.set(t, rules...)
	cfg := Config{
		Engine: &policy.Engine{
			Rules: book.p.Load, Own: w, Routes: w, Postures: w,
			Grace: 30 * time.Minute, Now: time.Now,
		},
		Splitter: splitter,
		Fallback: []string{"[127.0.0.1]:8644", "[localhost]:8644"},
		Floor:    "TLSv1.2",
	}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s, book
}

func ask(t testing.TB, s *Server, mapName, key string) string {
	t.Helper()
	r, _ := s.Query(t.Context(), mapName, key)
	return strings.TrimSpace(string(r.Status) + " " + r.Text)
}

// logged collects log lines.
type logged struct{ logtext.Log }

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *logged) waitFor(t testing.TB, text string) {
	t.Helper()
	for range 500 {
		if strings.Contains(l.String(), text) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("the log has no %q:\n%s", text, l)
}

// start runs s on a listener of network and returns a way to dial it, its address, and
// a way to stop it, which returns what Run did.
func start(t testing.TB, s *Server, network string) (dial func() net.Conn, addr string, stop func() error) {
	t.Helper()
	listen := "127.0.0.1:0"
	if network == "unix" {
		listen = filepath.Join(t.TempDir(), "map")
	}
	ln, err := net.Listen(network, listen)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, ln) }()
	stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { stop() })
	addr = ln.Addr().String()
	return func() net.Conn {
		c, err := net.Dial(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(20 * time.Second))
		t.Cleanup(func() { c.Close() })
		return c
	}, addr, stop
}

func netstring(s string) string { return fmt.Sprintf("%d:%s,", len(s), s) }

func readReply(r *bufio.Reader) (string, error) {
	length, err := r.ReadString(':')
	if err != nil {
		return "", err
	}
	n, err := strconv.Atoi(strings.TrimSuffix(length, ":"))
	if err != nil {
		return "", err
	}
	b := make([]byte, n+1)
	if _, err := io.ReadFull(r, b); err != nil {
		return "", err
	}
	if b[n] != ',' {
		return "", fmt.Errorf("no comma after %q", b[:n])
	}
	return strings.TrimSpace(string(b[:n])), nil
}

// closedUnanswered reports an error unless the server closes c without a byte.
func closedUnanswered(c net.Conn) error {
	b, err := io.ReadAll(c)
	if err != nil && !strings.Contains(err.Error(), "reset") {
		return fmt.Errorf("not closed: %w", err)
	}
	if len(b) > 0 {
		return fmt.Errorf("answered %q", b)
	}
	return nil
}
