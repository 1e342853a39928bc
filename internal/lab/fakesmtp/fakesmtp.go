// Package fakesmtp is a small SMTP server that plays a destination on the test
// bed's internet, with every fault that a real one can have.
//
// It takes any mail for anyone, remembers the exact bytes and whether they came
// over TLS, and misbehaves as its [Behaviour] says, which can change while it
// runs. It is no mail server: nothing is ever delivered, and its SMTP is as
// strict or as broken as a test wants it to be.
package fakesmtp

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// Handshake is what a server does with a TLS handshake.
type Handshake uint8

// The handshakes.
const (
	HandshakeOK      Handshake = iota
	HandshakeClose             // closes the connection after "220 ready"
	HandshakeGarbage           // answers the ClientHello with text
	HandshakeAlert             // answers the ClientHello with a fatal alert
	HandshakeSilent            // reads and never answers
)

// Behaviour is how a server acts. The zero Behaviour takes all mail in
// plaintext, with the usual keywords and no STARTTLS.
//
// A reply is a whole SMTP reply without its final CRLF, such as
// "451 4.7.1 try later".
type Behaviour struct {
	Name string // in the greeting and the EHLO reply; "" is mx.invalid

	STARTTLS    bool             // offered in the EHLO reply
	Certificate *tls.Certificate // must be set where a handshake is to succeed
	Second      *tls.Certificate // offered beside Certificate, with another sort of key; nil for none
	MinTLS      uint16           // such as tls.VersionTLS12; 0 for Go's default
	MaxTLS      uint16           // 0 for Go's default
	Suites      []uint16         // cipher suites of TLS 1.2 and older; nil for Go's default
	ClientCert  bool             // a client without a certificate is turned away in the handshake
	RefuseSNI   bool             // a client that names a host gets the alert unrecognized_name
	Handshake   Handshake
	StartReply  string // to STARTTLS instead of 220: no handshake follows, such as "454 4.7.0 TLS not available"
	Inject      string // bytes sent in clear right behind the reply to STARTTLS
	RequireTLS  bool   // MAIL gets 530 without TLS

	Banner      string        // greeting instead of 220; the connection is closed after 421 and 5xx
	BannerDelay time.Duration // before the greeting
	Silent      bool          // accepts connections and never says a word
	RefuseEHLO  bool          // EHLO gets 502; HELO works
	Early       bool          // sends the reply to the first EHLO together with the greeting, and none to the EHLO itself

	// Keywords of the EHLO reply without STARTTLS; nil is [DefaultKeywords].
	Keywords []string

	// Greylist refuses a recipient with 451 from the first try of its
	// (client, sender, recipient) on, for this long.
	Greylist time.Duration
	// Recipients maps an address in lower case, or "*", to the reply that RCPT gets.
	Recipients map[string]string
	MailReply  string        // to MAIL
	DataReply  string        // to the end of the data
	DropAtData bool          // takes the data, then closes the connection instead of replying
	ReplyDelay time.Duration // before the reply to the end of the data
}

// DefaultKeywords are offered where a Behaviour names none.
var DefaultKeywords = []string{"PIPELINING", "SIZE 0", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES", "CHUNKING"}

// Recipient is one RCPT that was accepted.
type Recipient struct {
	Address string   `json:"address"` // between the angle brackets, as sent
	Params  []string `json:"params,omitempty"`
}

// Mail is one message whose data was transferred, accepted or not.
type Mail struct {
	Server     string      `json:"server"` // the name of the Behaviour
	Addr       string      `json:"addr"`   // where the server listens
	Client     string      `json:"client"`
	Helo       string      `json:"helo"`
	From       string      `json:"from"` // between the angle brackets, as sent
	FromParams []string    `json:"from_params,omitempty"`
	To         []Recipient `json:"to"`
	Data       []byte      `json:"data"` // as sent, without dot-stuffing and the final dot
	TLS        bool        `json:"tls"`
	TLSVersion string      `json:"tls_version,omitempty"`
	SNI        string      `json:"sni,omitempty"`
	Accepted   bool        `json:"accepted"` // answered with 250
	Time       time.Time   `json:"time"`
	Commands   []string    `json:"commands"` // of the session so far
}

// HasTo reports whether address is among the recipients, without regard to case.
func (m Mail) HasTo(address string) bool {
	return slices.ContainsFunc(m.To, func(r Recipient) bool { return strings.EqualFold(r.Address, address) })
}

// Session is one connection.
type Session struct {
	Client   string
	TLS      bool // a handshake succeeded
	Commands []string
	Ended    bool
}

// Server is a running server.
type Server struct {
	ln net.Listener
	wg sync.WaitGroup

	mu       sync.Mutex
	b        Behaviour
	closed   bool
	conns    map[net.Conn]struct{}
	mails    []Mail
	sessions []*Session
	changed  chan struct{} // closed and replaced when a mail arrives
	grey     map[string]time.Time
	log      io.Writer
}

// Start listens on addr (host:port) and serves until Close.
func Start(addr string, b Behaviour) (*Server, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("fake smtp server: %w", err)
	}
	s := &Server{
		ln: ln, b: b,
		conns:   make(map[net.Conn]struct{}),
		changed: make(chan struct{}),
		grey:    make(map[string]time.Time),
	}
	s.wg.Go(s.accept)
	return s, nil
}

// Addr returns the address that the server listens on.
func (s *Server) Addr() string { return s.ln.Addr().String() }

// Set changes the behaviour for every later command, running sessions included.
func (s *Server) Set(b Behaviour) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b = b
}

// Update changes the behaviour by f.
func (s *Server) Update(f func(*Behaviour)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.b)
}

// Behaviour returns the present behaviour.
func (s *Server) Behaviour() Behaviour {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b
}

// LogTo makes the server append every further mail to w, as a line of JSON in
// one Write. A failing w is ignored.
func (s *Server) LogTo(w io.Writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = w
}

// Received returns all messages whose data arrived, in order, those refused after
// the data among them (see Mail.Accepted): their text was seen all the same.
func (s *Server) Received() []Mail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.mails)
}

// Sessions returns what every connection said, in order.
func (s *Server) Sessions() []Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Session, len(s.sessions))
	for i, p := range s.sessions {
		out[i] = *p
		out[i].Commands = slices.Clone(p.Commands)
	}
	return out
}

// Reset forgets received mail, sessions and greylisting.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mails, s.sessions = nil, nil
	clear(s.grey)
}

// WaitFor returns the first message, received already or within timeout, for
// which match holds.
func (s *Server) WaitFor(match func(Mail) bool, timeout time.Duration) (Mail, bool) {
	t := time.NewTimer(timeout)
	defer t.Stop()
	for {
		s.mu.Lock()
		mails, changed := slices.Clone(s.mails), s.changed
		s.mu.Unlock()
		if i := slices.IndexFunc(mails, match); i >= 0 {
			return mails[i], true
		}
		select {
		case <-changed:
		case <-t.C:
			return Mail{}, false
		}
	}
}

// Close stops listening and cuts all connections.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	err := s.ln.Close()
	s.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (s *Server) accept() {
	for {
		conn, err := s.ln.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			conn.Close()
			return
		}
		s.conns[conn] = struct{}{}
		rec := &Session{Client: conn.RemoteAddr().String()}
		s.sessions = append(s.sessions, rec)
		s.mu.Unlock()
		s.wg.Go(func() {
			newSession(s, conn, rec).serve()
			conn.Close()
			s.mu.Lock()
			rec.Ended = true
			delete(s.conns, conn)
			s.mu.Unlock()
		})
	}
}

// record stores a mail and wakes the waiters. It is called before the reply, so
// that a client that has its 250 finds the mail there.
func (s *Server) record(m Mail) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mails = append(s.mails, m)
	if s.log != nil {
		if line, err := json.Marshal(m); err == nil {
			s.log.Write(append(line, '\n'))
		}
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// greylisted reports whether this try comes too early.
func (s *Server) greylisted(client, from, to string, d time.Duration) bool {
	if d <= 0 {
		return false
	}
	key := client + "\x00" + strings.ToLower(from) + "\x00" + strings.ToLower(to)
	s.mu.Lock()
	defer s.mu.Unlock()
	first, seen := s.grey[key]
	if !seen {
		s.grey[key] = time.Now()
		return true
	}
	return time.Since(first) < d
}
