// Package fakeweb is the web of the test bed's internet: one HTTPS server that
// serves the MTA-STS policies of many domains (RFC 8461, section 3.3), and
// misbehaves for each as its [Site] says, which can change while it runs.
//
// A site is told from the others by the name in the ClientHello (SNI). A name that
// nobody set gets a TLS alert.
package fakeweb

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/postseal/postseal/internal/lab/fakesmtp"
)

// PolicyPath is where a policy is served.
const PolicyPath = "/.well-known/mta-sts.txt"

// Site is how one host acts. The zero Site serves an empty text.
type Site struct {
	Text        string // the body
	Status      int    // 0 is 200
	ContentType string // "" is text/plain; "-" sends none
	Redirect    string // URL that 302, or Status, sends the client to
	Oversize    int    // bytes that are sent instead of Text: many lines of an unknown key, then Text

	// Certificate is shown instead of a good one for the host: expired,
	// self-signed, of another name.
	Certificate *tls.Certificate
	MaxTLS      uint16 // such as tls.VersionTLS11; 0 for the newest

	Alert bool          // answers the ClientHello with a fatal alert
	Hang  bool          // takes the request and never answers
	Delay time.Duration // before the answer
	Slow  time.Duration // between the bytes of the body
}

// Server is a running server.
type Server struct {
	ca  *fakesmtp.CA
	srv *http.Server
	ln  net.Listener

	closing chan struct{}
	once    sync.Once

	mu       sync.Mutex
	sites    map[string]Site
	certs    map[string]*tls.Certificate
	requests map[string]int
	posts    map[string][]Post
}

// Post is what was posted to a host.
type Post struct {
	URL         string // path and query
	ContentType string
	Body        []byte
}

// Start listens on addr (host:port, the port may be 0), and serves until Close.
// Certificates are issued by ca.
func Start(addr string, ca *fakesmtp.CA) (*Server, error) {
	s := &Server{
		ca: ca, closing: make(chan struct{}), sites: make(map[string]Site),
		certs: make(map[string]*tls.Certificate), requests: make(map[string]int),
		posts: make(map[string][]Post),
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("fake web: %w", err)
	}
	s.ln = ln
	s.srv = &http.Server{
		Handler:           s,
		ReadHeaderTimeout: time.Minute,
		ErrorLog:          log.New(io.Discard, "", 0), // handshakes are meant to fail
		BaseContext:       func(net.Listener) context.Context { return context.Background() },
	}
	go s.srv.Serve(tls.NewListener(ln, &tls.Config{GetConfigForClient: s.config, MinVersion: tls.VersionTLS10}))
	return s, nil
}

// Addr returns the address (host:port) that the server listens on.
func (s *Server) Addr() string { return s.ln.Addr().String() }

// Close ends the server and all its connections.
func (s *Server) Close() error {
	s.once.Do(func() { close(s.closing) })
	if err := s.srv.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Set says how a host acts from now on.
func (s *Server) Set(host string, site Site) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sites[strings.ToLower(host)] = site
}

// Remove takes a host away.
func (s *Server) Remove(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sites, strings.ToLower(host))
}

// Requests counts the requests for a host, those that were not answered too; ""
// is all hosts.
func (s *Server) Requests(host string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if host != "" {
		return s.requests[strings.ToLower(host)]
	}
	n := 0
	for _, c := range s.requests {
		n += c
	}
	return n
}

// Posts returns what was posted to a host and taken: every path takes posts, and
// answers as the site says, 201 by default.
func (s *Server) Posts(host string) []Post {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.posts[strings.ToLower(host)])
}

// takePost answers a POST.
func (s *Server) takePost(w http.ResponseWriter, r *http.Request, name string, status int) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 10<<20))
	if err != nil {
		return
	}
	if status == 0 {
		status = http.StatusCreated
	}
	if status < 300 {
		s.mu.Lock()
		s.posts[name] = append(s.posts[name], Post{r.URL.RequestURI(), r.Header.Get("Content-Type"), body})
		s.mu.Unlock()
	}
	w.WriteHeader(status)
}

func (s *Server) config(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	name := strings.ToLower(hello.ServerName)
	s.mu.Lock()
	defer s.mu.Unlock()
	site, ok := s.sites[name]
	if !ok || site.Alert {
		return nil, fmt.Errorf("no site %q", name)
	}
	cert := site.Certificate
	if cert == nil {
		if cert = s.certs[name]; cert == nil {
			var err error
			if cert, err = s.ca.Issue(fakesmtp.CertOptions{Names: []string{name}}); err != nil {
				return nil, err
			}
			s.certs[name] = cert
		}
	}
	return &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS10, MaxVersion: site.MaxTLS}, nil
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.ToLower(r.TLS.ServerName)
	s.mu.Lock()
	site := s.sites[name]
	s.requests[name]++
	s.mu.Unlock()

	if site.Hang {
		s.pause(r, 24*time.Hour)
		return
	}
	if !s.pause(r, site.Delay) {
		return
	}
	if host, _, err := net.SplitHostPort(r.Host); r.Host != name && (err != nil || host != name) {
		http.Error(w, "another host than in the handshake", http.StatusMisdirectedRequest)
		return
	}
	if r.Method == http.MethodPost {
		s.takePost(w, r, name, site.Status)
		return
	}
	if r.URL.Path != PolicyPath || r.Method != http.MethodGet {
		http.NotFound(w, r)
		return
	}
	head := w.Header()
	switch site.ContentType {
	case "":
		head.Set("Content-Type", "text/plain")
	case "-":
		head["Content-Type"] = nil
	default:
		head.Set("Content-Type", site.ContentType)
	}
	status := site.Status
	if site.Redirect != "" {
		head.Set("Location", site.Redirect)
		if status == 0 {
			status = http.StatusFound
		}
	}
	if status == 0 {
		status = http.StatusOK
	}
	body := strings.Repeat("x-filler: "+strings.Repeat("x", 53)+"\n", (site.Oversize+63)/64) + site.Text
	if site.Slow == 0 {
		head.Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(status)
	if site.Slow == 0 {
		io.WriteString(w, body) // a client that went away is its own affair
		return
	}
	flush := http.NewResponseController(w)
	for i := range body {
		if _, err := io.WriteString(w, body[i:i+1]); err != nil || flush.Flush() != nil || !s.pause(r, site.Slow) {
			return
		}
	}
}

// pause waits, and reports false where the client or the server went away first.
func (s *Server) pause(r *http.Request, d time.Duration) bool {
	if d == 0 {
		return true
	}
	select {
	case <-time.After(d):
		return true
	case <-r.Context().Done():
	case <-s.closing:
	}
	return false
}
