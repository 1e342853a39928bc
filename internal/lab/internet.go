package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postseal/postseal/internal/lab/fakedns"
	"github.com/postseal/postseal/internal/lab/fakesmtp"
	"github.com/postseal/postseal/internal/lab/fakeweb"
)

// Internet is all that a mail server sees of the world: DNS and the destinations.
type Internet struct {
	CA *fakesmtp.CA
	// Log is the file to which every mail that arrives anywhere is appended, as
	// a line of JSON.
	Log string

	// DNS answers for all names; see [Internet.Record] for the common case.
	DNS *fakedns.Server

	log *os.File

	mu    sync.Mutex
	hosts map[string]*Host // by domain
	order []string
	past  []*fakesmtp.Server // replaced hosts: what they received still counts
	next  int

	web      *fakeweb.Server // of all policy hosts; nil: none yet
	webIP    string
	policies int // ids given
}

// Host is the mail server of one or more domains.
type Host struct {
	*fakesmtp.Server
	Domain string
	Name   string // of the MX host
	IP     string
}

// NewInternet starts DNS on [Resolver], with nothing in it; files go to dir.
func NewInternet(dir string) (*Internet, error) {
	ca, err := fakesmtp.NewCA(dir)
	if err != nil {
		return nil, err
	}
	n := &Internet{CA: ca, Log: filepath.Join(dir, "arrived.jsonl"), hosts: make(map[string]*Host)}
	if n.log, err = os.OpenFile(n.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
		return nil, err
	}
	if n.DNS, err = fakedns.Start(Resolver); err != nil {
		return nil, errors.Join(err, n.log.Close())
	}
	return n, nil
}

// Close ends all servers.
func (n *Internet) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, h := range n.hosts {
		if h.Server != nil {
			h.Server.Close()
		}
	}
	var web error
	if n.web != nil {
		web = n.web.Close()
	}
	return errors.Join(web, n.DNS.Close(), n.log.Close())
}

// NextIP returns an address that nothing uses yet.
func (n *Internet) NextIP() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.nextIP()
}

func (n *Internet) nextIP() string {
	n.next++
	return fmt.Sprintf("127.0.%d.%d", 100+n.next/200, 1+n.next%200)
}

// Kind names the usual sorts of destination.
type Kind string

// The kinds.
const (
	GoodTLS   Kind = "tls"    // TLS with a certificate that matches
	NoTLS     Kind = "plain"  // no STARTTLS
	BrokenTLS Kind = "broken" // STARTTLS is offered, every handshake fails
	Greylists Kind = "grey"   // good TLS, first tries get 451
	Dead      Kind = "dead"   // nothing listens
)

// GreyTime is for how long a greylisting host refuses.
const GreyTime = 1500 * time.Millisecond

// Behaviour returns how a host of this kind acts under a name.
func (n *Internet) Behaviour(k Kind, name string) (fakesmtp.Behaviour, error) {
	b := fakesmtp.Behaviour{Name: name}
	if k == NoTLS || k == Dead {
		return b, nil
	}
	cert, err := n.CA.Issue(fakesmtp.CertOptions{Names: []string{name}})
	if err != nil {
		return b, err
	}
	b.STARTTLS, b.Certificate = true, cert
	switch k {
	case BrokenTLS:
		b.Handshake = fakesmtp.HandshakeAlert
	case Greylists:
		b.Greylist = GreyTime
	}
	return b, nil
}

// Add gives domain one MX host, mx.DOMAIN, of a kind.
func (n *Internet) Add(domain string, k Kind) (*Host, error) {
	b, err := n.Behaviour(k, "mx."+domain)
	if err != nil {
		return nil, err
	}
	if k != Dead {
		return n.AddHost(domain, b)
	}
	h := &Host{Domain: domain, Name: "mx." + domain, IP: n.NextIP()}
	n.keep(h)
	return h, n.publish(h)
}

// AddHost gives domain one MX host that acts as b says and is called b.Name.
func (n *Internet) AddHost(domain string, b fakesmtp.Behaviour) (*Host, error) {
	h := &Host{Domain: domain, Name: b.Name, IP: n.NextIP()}
	srv, err := fakesmtp.Start(h.IP+":25", b)
	if err != nil {
		return nil, err
	}
	srv.LogTo(n.log)
	h.Server = srv
	n.keep(h)
	return h, n.publish(h)
}

// Serve starts a server that acts as b says and is called b.Name, with an address
// record for that name and no MX record; v6 gives it an IPv6 address. It is found
// as the Host of its own name.
func (n *Internet) Serve(b fakesmtp.Behaviour, v6 bool) (*Host, error) {
	h := &Host{Domain: b.Name, Name: b.Name, IP: n.NextIP()}
	typ := "A"
	if v6 {
		typ = "AAAA"
		var err error
		if h.IP, err = n.nextIP6(); err != nil {
			return nil, err
		}
	}
	srv, err := fakesmtp.Start(net.JoinHostPort(h.IP, "25"), b)
	if err != nil {
		return nil, err
	}
	srv.LogTo(n.log)
	h.Server = srv
	n.keep(h)
	return h, n.Record(h.Name, typ, h.IP)
}

// nextIP6 gives loopback one more address. Of IPv6 it has but one by itself.
func (n *Internet) nextIP6() (string, error) {
	n.mu.Lock()
	n.next++
	ip := fmt.Sprintf("fd00:25::%x", n.next)
	n.mu.Unlock()
	if out, err := exec.Command("ip", "-6", "address", "add", ip+"/128", "dev", "lo", "nodad").CombinedOutput(); err != nil {
		return "", fmt.Errorf("ip address add %s: %w: %s", ip, err, out)
	}
	return ip, nil
}

func (n *Internet) keep(h *Host) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if old := n.hosts[h.Domain]; old != nil && old.Server != nil {
		old.Server.Close()
		n.past = append(n.past, old.Server)
	}
	n.hosts[h.Domain] = h
	n.order = append(n.order, h.Domain)
}

func (n *Internet) publish(h *Host) error {
	return errors.Join(
		n.Record(h.Name, "A", h.IP),
		n.Record(h.Domain, "MX", "10 "+h.Name+"."),
	)
}

// Record sets the records of one name and type, such as ("a.example", "MX",
// "10 mx.a.example."); without values there are none.
func (n *Internet) Record(name, typ string, values ...string) error {
	return n.DNS.Set(name, typ, values...)
}

// Host returns the host of a domain, nil if there is none.
func (n *Internet) Host(domain string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hosts[domain]
}

// Hosts returns all hosts in the order in which they were added.
func (n *Internet) Hosts() []*Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []*Host
	for _, d := range n.order {
		if h := n.hosts[d]; h != nil && !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	return out
}

// Down stops the host of a domain from listening; Up starts it again, on another
// address, with the behaviour that it had.
func (n *Internet) Down(domain string) error {
	h := n.Host(domain)
	if h == nil || h.Server == nil {
		return fmt.Errorf("no running host for %s", domain)
	}
	return h.Server.Close()
}

// Up: see Down.
func (n *Internet) Up(domain string) error {
	h := n.Host(domain)
	if h == nil || h.Server == nil {
		return fmt.Errorf("no stopped host for %s", domain)
	}
	_, err := n.AddHost(domain, h.Behaviour())
	return err
}

// Received returns every mail that arrived anywhere, in order of time.
func (n *Internet) Received() []fakesmtp.Mail {
	n.mu.Lock()
	past := slices.Clone(n.past)
	n.mu.Unlock()
	var all []fakesmtp.Mail
	for _, s := range past {
		all = append(all, s.Received()...)
	}
	for _, h := range n.Hosts() {
		if h.Server != nil {
			all = append(all, h.Server.Received()...)
		}
	}
	slices.SortStableFunc(all, func(a, b fakesmtp.Mail) int { return a.Time.Compare(b.Time) })
	return all
}

// ArrivedWith returns every mail that contains text in its data.
func (n *Internet) ArrivedWith(text string) []fakesmtp.Mail {
	return slices.DeleteFunc(n.Received(), func(m fakesmtp.Mail) bool {
		return !strings.Contains(string(m.Data), text)
	})
}

// Certificate writes dir/NAME.pem and dir/NAME.key for a host name.
func (n *Internet) Certificate(dir, name, host string) error {
	cert, err := n.CA.Issue(fakesmtp.CertOptions{Names: []string{host}})
	if err != nil {
		return err
	}
	return fakesmtp.WriteFiles(cert, filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key"))
}
