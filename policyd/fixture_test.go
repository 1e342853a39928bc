package policyd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
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
	toEncryption = "FILTER escrow:inet:127.0.0.1:8643"
	toForced     = "FILTER escrow:inet:127.0.0.1:8648"
	toEscrow     = "FILTER escrow:inet:127.0.0.1:8647"
)

// world is what the engine is told: own domains, roads and postures by domain.
type world struct {
	own      []string
	ownErr   error
	routes   map[string]policy.Route
	routeErr error
	postures map[string]policy.Posture
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

func (w *world) Posture(dest string, _ policy.TLSParams) policy.Posture { return w.postures[dest] }

// rule reads "scope pattern requirement [nexthop]".
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
	if len(f) > 3 {
		r.Nexthop = f[3]
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
	"sender @clinic.example encryption",
	"sender @forced.example tls",
	"sender @vault.example escrow",
	"login drsmith encryption",
	"login forced tls",
	"login vault escrow",
	"recipient bank.example tls",
	"recipient vault.example escrow",
	"recipient secret@mixed.example escrow",
	"recipient hop.example encryption [10.0.0.5]:25",
	"recipient alias@own.example encryption",
	"recipient aliastls@own.example tls",
	"recipient aliasescrow@own.example escrow",
	"recipient .corp.example encryption",
}

func standardWorld() *world {
	now := time.Now()
	return &world{
		own: []string{"own.example", "own.corp.example", "clinic.example"},
		routes: map[string]policy.Route{
			"relayed.example": {Nexthop: "[relay.example]:587"},
			"uucp.example":    {Blocked: "transport uucp is not SMTP"},
		},
		postures: map[string]policy.Posture{
			"tls.example":    {State: policy.Works, Checked: now},
			"notls.example":  {State: policy.Absent, Checked: now},
			"lost.example":   {State: policy.Absent, Checked: now, Worked: now, Lost: now},
			"broken.example": {State: policy.Broken, Checked: now},
			"bank.example":   {State: policy.Absent, Checked: now},
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
		Origin:   "clinic.example",
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

// session plays smtpd: it asks one question after the other.
type session struct {
	t        testing.TB
	server   *Server
	sender   string
	login    string
	instance string
	queueID  string
	context  string
}

func (s *session) ask(state, recipient string) string {
	s.t.Helper()
	q := request{state: state, sender: s.sender, recipient: recipient, login: s.login, instance: s.instance, queueID: s.queueID, context: s.context}
	a, err := s.server.answer(s.t.Context(), &q)
	if err != nil {
		return "ERROR " + err.Error()
	}
	return strings.TrimSpace(a.verb + " " + a.text)
}

// rcpt asks for a recipient, which is accepted afterwards unless it was refused.
func (s *session) rcpt(recipient string) string {
	s.t.Helper()
	got := s.ask("RCPT", recipient)
	if s.queueID == "" && (strings.HasPrefix(got, "FILTER") || got == "DUNNO") {
		s.queueID = "4Vq"
	}
	return got
}

var instances atomic.Int64

func newSession(t testing.TB, s *Server, sender, login string) *session {
	return &session{t: t, server: s, sender: sender, login: login, instance: fmt.Sprintf("1a2b.%x.0", instances.Add(1))}
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

// start runs s on a listener of network and returns a way to dial it and one to stop
// it, which returns what Run did.
func start(t testing.TB, s *Server, network string) (dial func() net.Conn, stop func() error) {
	t.Helper()
	addr := "127.0.0.1:0"
	if network == "unix" {
		addr = filepath.Join(t.TempDir(), "policy")
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, ln) }()
	stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { stop() })
	return func() net.Conn {
		c, err := net.Dial(network, ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(20 * time.Second))
		t.Cleanup(func() { c.Close() })
		return c
	}, stop
}

func requestText(attrs ...string) string {
	return strings.Join(append([]string{"request=smtpd_access_policy"}, attrs...), "\n") + "\n\n"
}

func rcptText(sender, recipient, instance string) string {
	return requestText("protocol_state=RCPT", "protocol_name=ESMTP", "client_address=192.0.2.1", "sender="+sender,
		"recipient="+recipient, "recipient_count=0", "queue_id=", "instance="+instance, "size=0", "sasl_username=", "policy_context=")
}

func readAnswer(c net.Conn) (string, error) { return readAnswerFrom(bufio.NewReader(c)) }

func readAnswerFrom(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	empty, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	if empty != "\n" {
		return "", errors.New("no empty line after the action")
	}
	return strings.TrimPrefix(strings.TrimSuffix(line, "\n"), "action="), nil
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
