// Package scan asks a mail host which TLS versions and cipher suites it takes.
//
// It writes ClientHellos and reads what comes back by itself: it has to see what
// crypto/tls cannot do, such as DHE, 3DES and export suites. No handshake is
// finished, so there are no keys, and no secret is ever sent.
//
// A host chooses one suite of those that it is offered. So [Scan] offers all, takes
// out what was chosen, and asks again until the host refuses. Each question is a
// connection; their number is bounded, one goes after the other, and what there was no
// connection left for is said to be incomplete.
package scan

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Starter opens a connection to the host that is ready for a ClientHello: for SMTP
// after the reply to STARTTLS.
type Starter func(ctx context.Context) (net.Conn, error)

// Options say how to scan.
type Options struct {
	ServerName  string        // SNI; "" for none
	Connections int           // at most; default 40
	Pause       time.Duration // between connections
	Timeout     time.Duration // for each answer; default 10 s
}

// Result is what a host takes.
type Result struct {
	Versions []Version `json:"versions"` // newest first, refused ones too
	// Groups are those of TLS 1.3's key exchange, in the order in which the host
	// chose them.
	Groups      []string `json:"groups"`
	PostQuantum bool     `json:"post_quantum"` // one of Groups resists a quantum computer
	Connections int      `json:"connections"`  // made
	// Complete reports that all was asked: versions, suites and groups.
	Complete bool   `json:"complete"`
	Error    string `json:"error,omitempty"` // why it is not

	// Chains are the certificate chains that were shown, one for each leaf, in the
	// order of their first appearance. TLS 1.3 hides them.
	Chains [][]*x509.Certificate `json:"-"`
}

// Version is one version of TLS.
type Version struct {
	Version string  `json:"version"` // as Postfix names it: SSLv3, TLSv1, TLSv1.1, TLSv1.2, TLSv1.3
	Offered bool    `json:"offered"`
	Suites  []Suite `json:"suites"` // in the order in which the host chose them
	// Order says whose preference that is: "server", "client", or "" where it was
	// not asked.
	Order string `json:"order,omitempty"`
	// Complete reports that the host refused all other suites.
	Complete bool   `json:"complete"`
	Refusal  string `json:"refusal,omitempty"` // of a version that is not offered

	number uint16
	left   []uint16 // not asked yet
}

// Has reports whether a version, by Postfix's name, is offered.
func (r *Result) Has(version string) bool {
	return slices.ContainsFunc(r.Versions, func(v Version) bool { return v.Version == version && v.Offered })
}

// Offered reports whether any version is.
func (r *Result) Offered() bool {
	return slices.ContainsFunc(r.Versions, func(v Version) bool { return v.Offered })
}

// errBudget reports that all connections are used up.
var errBudget = errors.New("not asked to the end: no connections left")

var errTimeout = errors.New("no answer in time")

type scanner struct {
	Options
	ctx   context.Context
	start Starter
	r     *Result
	share bool // the host takes a hello of TLS 1.3 only with a key share
	seen  map[string]bool
}

// Scan asks a host. It never returns nil, and ends with ctx.
//
// The order of the questions is that of their worth, for where the connections run
// out: the versions, the suites of TLS 1.3 and 1.2, whose order they are in, the
// groups, then of each older version what is insecure in it, and the rest.
func Scan(ctx context.Context, start Starter, o Options) (r *Result) {
	o.Connections = cmp.Or(o.Connections, 40)
	o.Timeout = cmp.Or(o.Timeout, 10*time.Second)
	r = &Result{Versions: []Version{}, Groups: []string{}}
	defer func() {
		if fault := recover(); fault != nil { // foreign input must not end the program
			r.Complete, r.Error = false, "internal fault: please report this"
		}
	}()
	s := &scanner{Options: o, ctx: ctx, start: start, r: r, seen: map[string]bool{}}
	if err := s.all(); err != nil {
		r.Error = err.Error()
	} else {
		r.Complete = true
	}
	return r
}

func (s *scanner) all() error {
	for _, v := range []uint16{TLS13, TLS12, TLS11, TLS10, SSL30} {
		if err := s.version(v); err != nil {
			return err
		}
	}
	at := func(v uint16) *Version {
		i := slices.IndexFunc(s.r.Versions, func(o Version) bool { return o.number == v })
		return &s.r.Versions[i]
	}
	for _, v := range []uint16{TLS13, TLS12} {
		if err := s.suites(at(v), at(v).left); err != nil {
			return err
		}
		at(v).Complete = true
		if err := s.order(at(v)); err != nil {
			return err
		}
	}
	if err := s.groups(at(TLS13)); err != nil {
		return err
	}
	old := []uint16{TLS10, TLS11, SSL30}
	for _, v := range old {
		bad := slices.DeleteFunc(slices.Clone(at(v).left), func(id uint16) bool {
			strength, _ := judge(SuiteName(id), 0)
			return strength != Insecure
		})
		if err := s.suites(at(v), bad); err != nil {
			return err
		}
		at(v).left = slices.DeleteFunc(at(v).left, func(id uint16) bool { return slices.Contains(bad, id) })
	}
	for _, v := range old {
		if err := s.suites(at(v), at(v).left); err != nil {
			return err
		}
		at(v).Complete = true
	}
	return nil
}

// version asks whether a version is offered, by all suites of it.
func (s *scanner) version(v uint16) error {
	one := Version{Version: VersionName(v), Suites: []Suite{}, number: v, left: offered(v)}
	a, err := s.ask(v, one.left, all(v))
	if err == nil && v == TLS13 && a.alert != "" {
		s.share = true
		if a, err = s.ask(v, one.left, all(v)); err == nil && a.alert != "" {
			s.share = false
		}
	}
	if errors.Is(err, errTimeout) && s.r.Offered() {
		a, err = &answer{alert: errTimeout.Error()}, nil // hangs on what it does not know
	}
	if err != nil {
		return err
	}
	switch {
	case a.alert != "":
		one.Refusal = a.alert
	case a.version != v:
		one.Refusal = "the host chose " + VersionName(a.version)
	default:
		one.Offered = true
		one.take(a)
	}
	if !one.Offered {
		one.left, one.Complete = nil, true
	}
	s.r.Versions = append(s.r.Versions, one)
	return nil
}

// take notes a suite that was chosen, and that it need not be asked again.
func (v *Version) take(a *answer) {
	name := ""
	switch {
	case a.dhBits > 0 && strings.HasPrefix(SuiteName(a.suite), "TLS_RSA"):
		name = fmt.Sprintf("RSA %d", a.dhBits)
	case a.dhBits > 0:
		name = fmt.Sprintf("DHE %d", a.dhBits)
	case a.group != 0 && v.number < TLS13:
		name = groupName(a.group)
	}
	v.Suites = append(v.Suites, NewSuite(a.suite, name, a.dhBits))
	v.left = slices.DeleteFunc(slices.Clone(v.left), func(id uint16) bool { return id == a.suite })
}

// suites asks for a list of suites until the host takes none of them.
func (s *scanner) suites(v *Version, list []uint16) error {
	if !v.Offered {
		return nil
	}
	list = slices.Clone(list)
	for len(list) > 0 {
		a, err := s.ask(v.number, list, all(v.number))
		if err != nil {
			return err
		}
		if a.alert != "" || a.version != v.number || !slices.Contains(list, a.suite) {
			return nil
		}
		v.take(a)
		list = slices.DeleteFunc(list, func(id uint16) bool { return id == a.suite })
	}
	return nil
}

// order asks for the first two suites the other way round.
func (s *scanner) order(v *Version) error {
	if len(v.Suites) < 2 {
		return nil
	}
	first, second := v.Suites[0].Number, v.Suites[1].Number
	a, err := s.ask(v.number, []uint16{second, first}, all(v.number))
	if err != nil {
		return err
	}
	switch a.suite {
	case first:
		v.Order = "server"
	case second:
		v.Order = "client"
	}
	return nil
}

// groups asks for the groups of TLS 1.3.
func (s *scanner) groups(v *Version) error {
	if !v.Offered || s.share {
		return nil
	}
	list := slices.Clone(groups)
	for len(list) > 0 {
		a, err := s.ask(TLS13, offered(TLS13), list)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(list, func(g group) bool { return g.id == a.group })
		if a.alert != "" || i < 0 {
			return nil
		}
		s.r.Groups = append(s.r.Groups, list[i].name)
		s.r.PostQuantum = s.r.PostQuantum || PostQuantum(list[i].name)
		list = slices.Delete(list, i, i+1)
	}
	return nil
}

// all returns the groups to offer by a version.
func all(v uint16) []group {
	if v == TLS13 {
		return groups
	}
	return append(slices.Clone(groups), older...)
}

// ask makes one connection, and sends one hello. A host that closes the connection
// instead of an answer has refused: some do so where others send an alert.
func (s *scanner) ask(v uint16, suites []uint16, g []group) (*answer, error) {
	if s.r.Connections >= s.Connections {
		return nil, errBudget
	}
	if s.r.Connections > 0 && s.Pause > 0 {
		select {
		case <-time.After(s.Pause):
		case <-s.ctx.Done():
		}
	}
	if s.ctx.Err() != nil {
		return nil, errors.New("not asked to the end: no time left")
	}
	s.r.Connections++
	conn, err := s.start(s.ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(s.ctx, func() { conn.Close() })()
	conn.SetDeadline(time.Now().Add(s.Timeout))
	h := hello{version: v, suites: suites, groups: g, sni: s.ServerName, share: s.share}
	if _, err := conn.Write(h.marshal()); err != nil && !closed(err) {
		return nil, reason(err)
	}
	a, err := readAnswer(conn)
	if s.ctx.Err() != nil {
		return nil, errors.New("not asked to the end: no time left")
	}
	if closed(err) {
		return &answer{alert: "connection closed"}, nil
	}
	if err != nil {
		return nil, reason(err)
	}
	s.keep(a.certs)
	return a, nil
}

// closed reports that the host closed the connection.
func closed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func reason(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errTimeout
	}
	return err
}

// keep keeps a chain that was not seen yet.
func (s *scanner) keep(ders [][]byte) {
	if len(ders) == 0 || s.seen[string(ders[0])] || len(s.r.Chains) >= maxCerts {
		return
	}
	s.seen[string(ders[0])] = true
	var chain []*x509.Certificate
	for _, der := range ders {
		c, err := x509.ParseCertificate(bytes.Clone(der))
		if err != nil {
			break
		}
		chain = append(chain, c)
	}
	if len(chain) > 0 {
		s.r.Chains = append(s.r.Chains, chain)
	}
}
