// Package tlsmap answers Postfix's table lookups: by which transport does mail for
// a recipient go, and what is demanded of the TLS on that way?
//
// The way of a mail through here: trivial-rewrite asks the map transport for each
// recipient, and again on each retry, so that a destination that gains or loses TLS
// is routed anew from the queue; where it finds nothing in transport for the
// recipient it asks sender-transport for the envelope sender, the safety net for mail
// that no smtpd saw. smtp(8) then asks for the next-hop: the opportunistic transports
// ask tls-policy, the mandatory ones secure-tls-policy, which never answers below
// encrypt.
//
// Answers come over Postfix's socketmap protocol ([Server.Run]) or as files
// ([Server.Write], [Keeper]). Trouble is TEMP or PERM, on which Postfix defers; NOTFOUND
// means that nothing is demanded, and is never said because something is wrong.
package tlsmap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/internal/accept"
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/probe"
)

// The maps.
const (
	MapTransport       = "transport"         // transport_maps, by recipient
	MapTLSPolicy       = "tls-policy"        // smtp_tls_policy_maps, by next-hop
	MapSecureTLSPolicy = "secure-tls-policy" // the same of securesmtp and forcedsmtp
	MapSenderTransport = "sender-transport"  // sender_dependent_default_transport_maps
)

// Maps returns the names of all maps, in the order of their files.
func Maps() []string {
	return []string{MapTransport, MapTLSPolicy, MapSecureTLSPolicy, MapSenderTransport}
}

// Status is how a lookup ended (socketmap_table(5)).
type Status string

// The statuses.
const (
	OK       Status = "OK"
	NotFound Status = "NOTFOUND"
	Temp     Status = "TEMP" // Postfix defers
	Perm     Status = "PERM" // Postfix defers, and says that its configuration is wrong
)

// Reply answers a lookup.
type Reply struct {
	Status Status
	Text   string // the value, or the reason
}

var notFound = Reply{Status: NotFound}

// Pins knows the recipients of which a sealed message may still be retried: until
// that is settled their mail goes to the splitter, even where the destination has
// TLS by now, lest a message be sealed and delivered. recipient is in lower case, quoted
// where RFC 5321 demands it. Has never blocks.
type Pins interface {
	Has(recipient string) bool
}

// Config is what a [Server] needs. Engine and Splitter are required.
type Config struct {
	Engine   *policy.Engine
	Splitter policy.Splitter

	// Fallback lists how Postfix may write the next-hop of our SMTP fallback, such
	// as [127.0.0.1]:8644. There, and only there, secure-tls-policy says none.
	Fallback []string
	// Floor is the least TLS version where no rule sets protocols, such as TLSv1.2;
	// "" for none.
	Floor string
	// Pins may be nil.
	Pins Pins
	// Bounce reports whether addr, an envelope recipient, is one to which notices
	// bounce. Such mail goes to the splitter, before any rule. nil: there are none.
	Bounce func(addr string) bool
	// Reply reports whether addr, an envelope sender, is that of a reply to a sealed
	// message: it must be encrypted wherever a forward by local(8) sends it on. nil:
	// there are none.
	Reply func(addr string) bool
	// AdminTLS looks key up in the administrator's own smtp_tls_policy_maps; "" where
	// it has no entry. Parent domains are asked for apart. nil: there is no table.
	AdminTLS func(ctx context.Context, key string) (string, error)
	// AdminLevel is main.cf's smtp_tls_security_level: where it is mandatory TLS, no answer
	// is below it. "" counts as may.
	AdminLevel string
	// OwnLevel is the strongest smtp_tls_security_level, of mandatory TLS and above
	// AdminLevel, that a client of tls-policy has of its own; "" where there is none. An
	// answer takes its place, and nobody says which client asks: what a destination
	// publishes is not answered where it is less.
	OwnLevel string
	// Published returns what a next-hop publishes of how its TLS is to be verified
	// (DANE, MTA-STS): at once where it knows, else within two seconds or so. nil: nobody
	// looks, and nothing is demanded.
	Published func(ctx context.Context, dest string) policy.Published
	// DANE reports whether TLSA records are looked up, here and by Postfix. nil: they are
	// not.
	DANE func() bool
	// STS, where set, has Postfix 3.10 or later told what its own TLS reports need, see
	// [Server.report]. It is asked with a domain, and never waits. nil: Postfix is told nothing.
	STS func(domain string) *probe.STSResult
	// Relay is the next-hop in the answers of sender-transport. Empty, which is the
	// usual, it leaves relayhost in force, else the MX of the recipient's domain.
	Relay string

	Log        *slog.Logger          // nil: none
	Registerer prometheus.Registerer // nil: none

	// Limits on connections; the default idle limit is 2 minutes (Postfix closes its
	// idle sockets after 10 seconds).
	Limits accept.Limits
	// DecisionTime is how long one answer may take, the lookups in Postfix's own
	// tables included (default 20 s; Postfix itself waits 100 s).
	DecisionTime time.Duration
}

// Server answers table lookups.
type Server struct {
	cfg     Config
	log     *slog.Logger
	metrics metrics

	// Answers that most lookups get, made once.
	secure, forced   string // transport with the MX of the domain
	encrypt          string // the least of secure-tls-policy
	daneOnly         string // dane-only, likewise with the floor
	splitEncryption  string
	splitEscrow      string
	fallback         []string
	defaultProtocols string // value of protocols= by Floor
}

// New checks cfg. It fails on a missing part and on metrics that are registered
// already.
func New(cfg Config) (*Server, error) {
	if cfg.Engine == nil {
		return nil, errors.New("tlsmap: no engine")
	}
	for _, hop := range []string{cfg.Splitter.Encryption, cfg.Splitter.Forced, cfg.Splitter.Escrow} {
		if hop == "" || !printable(hop) {
			return nil, fmt.Errorf("tlsmap: next-hop %q of the splitter", hop)
		}
	}
	if !printable(cfg.Relay) || strings.ContainsAny(cfg.Relay, " ") {
		return nil, fmt.Errorf("tlsmap: relay %q", cfg.Relay)
	}
	s := &Server{
		cfg:             cfg,
		secure:          policy.SecureTransport + ":",
		forced:          policy.ForcedTransport + ":",
		splitEncryption: cfg.Splitter.Transport(policy.Encryption),
		splitEscrow:     cfg.Splitter.Transport(policy.EscrowOnly),
	}
	if cfg.Floor != "" {
		s.defaultProtocols = ">=" + cfg.Floor
		if minVersion(s.defaultProtocols) == 0 {
			return nil, fmt.Errorf("tls floor %q: want TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3", cfg.Floor)
		}
	}
	s.encrypt = s.withFloor(policy.TLSParams{}).PostfixPolicy(policy.LevelEncrypt)
	s.daneOnly = s.withFloor(policy.TLSParams{}).PostfixPolicy(policy.LevelDANEOnly)
	for _, f := range cfg.Fallback {
		s.fallback = append(s.fallback, strings.ToLower(f))
	}
	s.cfg.Limits = cfg.Limits.WithDefaults(2 * time.Minute)
	if cfg.DecisionTime == 0 {
		s.cfg.DecisionTime = 20 * time.Second
	}
	if s.log = cfg.Log; s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.metrics = newMetrics()
	if err := s.metrics.register(cfg.Registerer); err != nil {
		return nil, fmt.Errorf("tlsmap: register metrics: %w", err)
	}
	return s, nil
}

// Run answers lookups on ln, a TCP or unix listener, which it closes, until ctx is
// done; lookups already read are still answered. It returns nil after such a
// shutdown, else the error that ended ln.
func (s *Server) Run(ctx context.Context, ln net.Listener) error {
	return accept.Loop(ctx, ln, s.cfg.Limits, s.log, s.serve)
}

// Query answers one lookup. The reply is what a client gets; the error is the cause of
// a TEMP or PERM, for the log and the administrator.
func (s *Server) Query(ctx context.Context, mapName, key string) (Reply, error) {
	var (
		text string
		err  error
	)
	for i := 0; i < len(key); i++ {
		if key[i] < ' ' || key[i] == 0x7f {
			return Reply{Perm, "key has a control character"}, errors.New("key has a control character")
		}
	}
	switch mapName {
	case MapTransport:
		text, err = s.transport(ctx, key)
	case MapTLSPolicy:
		text, err = s.tlsPolicy(ctx, key)
	case MapSecureTLSPolicy:
		text, err = s.secureTLSPolicy(ctx, key)
	case MapSenderTransport:
		text, err = s.senderTransport(key)
	default:
		err := fmt.Errorf("no such map: want one of %s", strings.Join(Maps(), ", "))
		return Reply{Perm, err.Error()}, err
	}
	switch {
	case err != nil:
		return trouble(err), err
	case text == "":
		return notFound, nil
	case !printable(text):
		err = errors.New("the answer would not be one line of printable text")
		return trouble(err), err
	}
	return Reply{OK, text}, nil
}

// trouble is the reply where there is no answer.
func trouble(err error) Reply {
	var (
		blocked *blockedError
		wait    *waitError
	)
	switch {
	case errors.As(err, &blocked):
		return Reply{Temp, sanitise(blocked.Error())}
	case errors.As(err, &wait):
		return Reply{Temp, sanitise(wait.Error())}
	case errors.Is(err, errBadKey):
		return Reply{Perm, "key is not an address"}
	}
	return Reply{Temp, "cannot tell for now, see the log of postseal"}
}

// errBadKey reports a key that is no address.
var errBadKey = errors.New("bad key")

// blockedError reports that required mail can't take the administrator's road.
type blockedError struct{ why string }

func (e *blockedError) Error() string { return "mail must be encrypted, and cannot be: " + e.why }

// transport answers for a recipient: "" where nothing is required.
func (s *Server) transport(ctx context.Context, key string) (string, error) {
	// Postfix asks with the whole address; for "*" once at start; never for a bare
	// domain. ("@domain" is an address, with an empty local part.)
	if strings.IndexByte(key, '@') < 0 {
		return "", nil
	}
	a, err := policy.ParseAddress(key)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errBadKey, err)
	}
	if s.cfg.Bounce != nil && s.cfg.Bounce(quoted(key, a)) {
		return s.splitEncryption, nil
	}
	pinned := s.cfg.Pins != nil && s.cfg.Pins.Has(foldedKey(key, a))
	question := policy.Question{Recipient: a, SenderUnknown: true}
	var d policy.Answer
	if !pinned && s.cfg.Engine.Plain(&question, &d) {
		return "", nil
	}
	patient := within(ctx, s.cfg.DecisionTime)
	defer patient.end()
	ctx = patient
	if pinned {
		// A domain that is of this server by now: the splitter would give the message
		// back, and it would come here again.
		own, err := s.cfg.Engine.Own.Own(ctx, a.Domain)
		switch {
		case err != nil:
			return "", fmt.Errorf("own domains: %w", err)
		case own:
			return "", nil
		}
		return s.splitEncryption, nil
	}
	if err := s.cfg.Engine.Complete(ctx, &question, &d); err != nil {
		return "", err
	}
	return s.road(&d)
}

// road writes a decision as a value of transport(5).
func (s *Server) road(d *policy.Answer) (string, error) {
	switch {
	case d.Reason == policy.Conflict:
		return "error:5.7.1 " + sanitise(policy.ConflictText(d.Input)), nil
	case d.Channel == policy.Plain:
		return "", nil
	case d.Channel == policy.TLS && d.Blocked != "":
		return "", &blockedError{d.Blocked}
	case d.Channel == policy.TLS && d.Nexthop == "" && d.Allowed.Has(policy.Escrow):
		return s.secure, nil
	case d.Channel == policy.TLS && d.Nexthop == "":
		return s.forced, nil
	}
	if t := d.Transport(d.Nexthop, s.cfg.Splitter); t != "" {
		return t, nil
	}
	return "", fmt.Errorf("no transport for channel %s", d.Channel)
}

// senderTransport answers for an envelope sender: "" where it requires nothing.
func (s *Server) senderTransport(key string) (string, error) {
	// Postfix asks for the quoted form of an address first, and for the null sender with
	// "<>" in quotes and without. A key that starts with @ is the unquoted form of one
	// that has been asked for, or a domain.
	if key == "*" || strings.HasPrefix(key, "@") {
		return "", nil
	}
	if key == `"<>"` {
		key = ""
	}
	a, err := policy.ParseAddress(key)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errBadKey, err)
	}
	allowed := s.cfg.Engine.Sender(a, "")
	if s.cfg.Reply != nil && s.cfg.Reply(quoted(key, a)) {
		allowed &= policy.Encryption.Channels()
	}
	r, ok := allowed.Requirement()
	switch {
	case !ok:
		return "", errors.New("no requirement allows what the sender's rule does")
	case r == policy.None:
		return "", nil
	case r == policy.EscrowOnly:
		return s.splitEscrow, nil
	case r == policy.ForcedTLS:
		return s.forced + s.cfg.Relay, nil
	}
	return s.secure + s.cfg.Relay, nil
}

// quoted returns a as SMTP writes it; without a copy where key is that already.
func quoted(key string, a policy.Address) string {
	if isPlain(key) {
		return key
	}
	return a.String()
}

// foldedKey is quoted in lower case.
func foldedKey(key string, a policy.Address) string {
	if isPlain(key) && strings.IndexFunc(key, func(r rune) bool { return r >= 'A' && r <= 'Z' }) < 0 {
		return key
	}
	return a.Folded().String()
}

// isPlain reports whether key is its own quoted form for sure: atoms, single dots and
// one @, with a domain in lower case and without a trailing dot.
func isPlain(key string) bool {
	at, prev := false, byte('.')
	for i := 0; i < len(key); i++ {
		c := key[i]
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_', c == '+', c == '=':
		case c >= 'A' && c <= 'Z' && !at:
		case c == '.' && prev != '.' && prev != '@':
		case c == '@' && !at && prev != '.':
			at = true
		default:
			return false
		}
		prev = c
	}
	return at && prev != '.' && prev != '@'
}

// isFallback reports whether key is our SMTP fallback.
func (s *Server) isFallback(key string) bool {
	return slices.ContainsFunc(s.fallback, func(f string) bool { return strings.EqualFold(f, key) })
}

// sanitise leaves printable ASCII, 400 bytes at most: rules and names from other
// tables go into one line of text.
func sanitise(text string) string {
	const maxText = 400
	b := make([]byte, 0, min(len(text), maxText))
	for _, r := range text {
		if len(b) == maxText {
			break
		}
		if r < ' ' || r > '~' {
			r = '?'
		}
		b = append(b, byte(r))
	}
	return string(b)
}

// printable reports whether s is printable ASCII.
func printable(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
