// Package fakedns is the DNS of the test bed's internet: one server that
// answers for every name there is, as a recursive resolver would, and fails
// where it is told to.
//
// It can be the only resolver of a real Postfix. Names that nobody added do
// not exist, so a search list does no harm. Everything can be changed while it
// runs.
package fakedns

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Fault is a way in which a query goes wrong.
type Fault uint8

// The faults.
const (
	NoFault       Fault = iota // takes a fault away again
	Servfail                   // SERVFAIL
	Refused                    // REFUSED, as a lame server does
	Referral                   // no answer but a referral, as a lame server does that does not recurse
	Silent                     // no reply
	TruncateUDP                // over UDP an empty reply with TC; TCP works
	Delay                      // a right reply, late (see Server.SetDelay)
	FormErrOnEDNS              // FORMERR to queries with EDNS, as very old servers do
	Garbage                    // bytes that are no DNS message
	Bogus                      // SERVFAIL, as from a validating resolver for what fails validation; with CD a reply without AD
)

// maxChain bounds the CNAMEs of one answer; a loop ends in SERVFAIL, as it does
// at a real resolver.
const maxChain = 16

// Query counts are kept by this.
type query struct {
	name  string
	qtype uint16
	tcp   bool
}

type key struct {
	name  string // "" for every name
	qtype uint16 // 0 for every type
}

// Server is a running server.
type Server struct {
	udp, tcp *dns.Server
	addr     string
	done     sync.WaitGroup

	mu      sync.Mutex
	records map[string]map[uint16][]dns.RR
	below   map[string]int // how many names with records lie below a name
	faults  map[key]Fault
	counts  map[query]int
	delay   time.Duration
	signed  map[string]bool // by name, for it and all below; "." for every name
	closing chan struct{}
}

// Start listens on addr (host:port, the port may be 0), UDP and TCP, and serves
// until Close.
func Start(addr string) (*Server, error) {
	s := &Server{
		records: make(map[string]map[uint16][]dns.RR),
		below:   make(map[string]int),
		faults:  make(map[key]Fault),
		counts:  make(map[query]int),
		signed:  make(map[string]bool),
		delay:   300 * time.Millisecond,
		closing: make(chan struct{}),
	}
	pc, ln, err := listen(addr)
	if err != nil {
		return nil, fmt.Errorf("fake dns server: %w", err)
	}
	s.addr = ln.Addr().String()
	s.udp = &dns.Server{PacketConn: pc, Handler: s, UDPSize: 4096}
	s.tcp = &dns.Server{Listener: ln, Handler: s}
	for _, srv := range []*dns.Server{s.udp, s.tcp} {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		s.done.Go(func() { srv.ActivateAndServe() })
		<-started // a Shutdown before this is an error
	}
	return s, nil
}

// listen opens one port twice. A free UDP port may be taken for TCP, so port 0 is
// tried several times.
func listen(addr string) (net.PacketConn, net.Listener, error) {
	for try := 0; ; try++ {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, nil, err
		}
		pc, err := net.ListenPacket("udp", ln.Addr().String())
		if err == nil {
			return pc, ln, nil
		}
		ln.Close()
		if !strings.HasSuffix(addr, ":0") || try == 10 {
			return nil, nil, err
		}
	}
}

// Addr returns the address (host:port) that the server listens on.
func (s *Server) Addr() string { return s.addr }

// Close ends the server.
func (s *Server) Close() error {
	close(s.closing)
	err := s.udp.Shutdown()
	if e := s.tcp.Shutdown(); err == nil {
		err = e
	}
	s.done.Wait()
	return err
}

func canonical(name string) string { return strings.ToLower(dns.Fqdn(name)) }

// Add adds records, each a line of a master file such as "a.example. 60 IN MX
// 10 mx.a.example.". A name without a final dot is taken as if it had one. All
// are added or none.
func (s *Server) Add(rrs ...string) error {
	parsed := make([]dns.RR, len(rrs))
	for i, line := range rrs {
		rr, err := dns.NewRR(line)
		if err != nil {
			return fmt.Errorf("record %q: %w", line, err)
		}
		if rr == nil {
			return fmt.Errorf("record %q: empty", line)
		}
		parsed[i] = rr
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rr := range parsed {
		h := rr.Header()
		h.Name = canonical(h.Name)
		s.exists(h.Name)
		s.records[h.Name][h.Rrtype] = append(s.records[h.Name][h.Rrtype], rr)
	}
	return nil
}

// Set puts records in the place of those of one name and type, such as
// ("a.example", "MX", "10 mx.a.example."), with a TTL of one second. Without
// values there are none of that type any more, but the name still exists.
func (s *Server) Set(name, typ string, values ...string) error {
	t, ok := dns.StringToType[typ]
	if !ok {
		return fmt.Errorf("unknown record type %q", typ)
	}
	name = canonical(name)
	var rrs []dns.RR
	for _, v := range values {
		rr, err := dns.NewRR(fmt.Sprintf("%s 1 IN %s %s", name, typ, v))
		if err != nil {
			return fmt.Errorf("record %s %s %s: %w", name, typ, v, err)
		}
		rrs = append(rrs, rr)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exists(name)
	s.records[name][t] = rrs
	return nil
}

// Remove takes away all records of name, which then does not exist, unless
// there are names below it.
func (s *Server) Remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name = canonical(name)
	if s.records[name] != nil {
		delete(s.records, name)
		s.countBelow(name, -1)
	}
}

// exists makes a place for the records of a name.
func (s *Server) exists(name string) {
	if s.records[name] == nil {
		s.records[name] = make(map[uint16][]dns.RR)
		s.countBelow(name, 1)
	}
}

// countBelow keeps below, so that a name that does not exist costs no search: there may be
// a hundred thousand.
func (s *Server) countBelow(name string, n int) {
	for at := name; ; {
		_, rest, ok := strings.Cut(at, ".")
		if !ok || at == "." {
			return
		}
		if at = rest; at == "" {
			at = "."
		}
		s.below[at] += n
	}
}

// Fail makes queries for name and qtype fail; "" is every name and 0 every
// type. The most specific fault counts. CNAME targets in an answer are subject
// to their own faults. NoFault takes the fault of exactly that name and type away.
func (s *Server) Fail(name string, qtype uint16, f Fault) {
	k := key{"", qtype}
	if name != "" {
		k.name = canonical(name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f == NoFault {
		delete(s.faults, k)
	} else {
		s.faults[k] = f
	}
}

// SetDelay sets how long a reply takes under [Delay]; 300 ms at first.
func (s *Server) SetDelay(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delay = d
}

// SetAuthentic sets whether replies about names carry the AD bit, as those of a
// validating resolver about signed zones do. It counts for each name and all below
// it, unless a longer name says otherwise; without names, for every name, and
// what was set before is forgotten. A reply that follows CNAMEs has the bit where
// every name on the way is authentic.
func (s *Server) SetAuthentic(ad bool, names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(names) == 0 {
		clear(s.signed)
		names = []string{"."}
	}
	for _, n := range names {
		s.signed[canonical(n)] = ad
	}
}

// authentic reports whether name lies in a signed zone.
func (s *Server) authentic(name string) bool {
	for at := name; at != ""; {
		if ad, ok := s.signed[at]; ok {
			return ad
		}
		_, at, _ = strings.Cut(at, ".")
	}
	return s.signed["."]
}

// Queries counts the queries so far for a name ("" for all) and a type (0 for
// all), whether they were answered or not.
func (s *Server) Queries(name string, qtype uint16) int {
	return s.count(name, qtype, func(query) bool { return true })
}

// TCPQueries is Queries for those over TCP.
func (s *Server) TCPQueries(name string, qtype uint16) int {
	return s.count(name, qtype, func(q query) bool { return q.tcp })
}

func (s *Server) count(name string, qtype uint16, also func(query) bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for q, c := range s.counts {
		if (name == "" || q.name == canonical(name)) && (qtype == 0 || q.qtype == qtype) && also(q) {
			n += c
		}
	}
	return n
}

func (s *Server) fault(name string, qtype uint16) Fault {
	for _, k := range [...]key{{name, qtype}, {name, 0}, {"", qtype}, {"", 0}} {
		if f, ok := s.faults[k]; ok {
			return f
		}
	}
	return NoFault
}
