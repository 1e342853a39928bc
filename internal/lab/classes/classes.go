// Package classes is the table of the ways in which a destination can take mail,
// or fail to: each [Class] builds one on the test bed's internet, and says how
// mail for it ends.
//
// The table is the source of docs/destinations.md (see [Table]), and
// internal/lab/e2e holds it against a real Postfix: for each class what
// postseal check foretells, what becomes of mail, and what posttls-finger(1) and
// openssl(1) say.
package classes

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"

	"github.com/postseal/postseal/internal/lab"
	"github.com/postseal/postseal/internal/lab/fakesmtp"
)

// End is what becomes of a message.
type End string

// The ends. A message that waits is tried again until Postfix gives up on it.
const (
	ByTLS   End = "over TLS"
	InClear End = "in plaintext"
	Sealed  End = "sealed"
	Waits   End = "waits"
	Bounces End = "bounces"
	None    End = "" // no such mail is sent: a rule for the whole domain requires TLS
)

// Finger is what posttls-finger says of the TLS connection, at the level that is
// answered for required mail.
type Finger string

// The results of posttls-finger. Fails includes that there is no connection.
const (
	Verified  Finger = "verified"
	Trusted   Finger = "trusted"
	Untrusted Finger = "untrusted"
	Fails     Finger = "fails"
)

// Nothing is the Secure of a class whose required mail gets "try again later".
const Nothing = "try again later"

// Class is one way to take mail.
type Class struct {
	Name string // its domain is Name.example
	What string
	// Level is what the rules demand of the TLS beyond encryption: verify or secure,
	// with the names to match behind it. Then they are for the whole domain, and no
	// mail to it is opportunistic.
	Level string
	Build func(*World) error

	State string // by the TLS floor and what the destination publishes, as check says
	DANE  string // of the TLSA records; "" is none
	STS   string // of the MTA-STS policy; "" is none
	// Policy is what smtp_tls_policy_maps answers for mail of which nothing is
	// required, "" where it has no answer; Secure what it answers for required mail.
	Policy, Secure string

	Mail       End // nothing is required
	Encryption End // requirement encryption
	TLS        End // requirement tls
	Finger     Finger
	// Unforeseen says why another end is foretold than mail comes to; "" where it is
	// the same.
	Unforeseen string
	// Says is part of what Postfix gives as the reason where mail of requirement tls
	// does not arrive.
	Says string
}

// Domain is the domain of the class.
func (c *Class) Domain() string { return c.Name + ".example" }

// World is where a class is built.
type World struct {
	*lab.Internet
	Domain string
}

// MX is the name of the usual mail host.
func (w *World) MX() string { return "mx." + w.Domain }

// Sign lets the answers about the domain and all below it be authentic (DNSSEC).
func (w *World) Sign(also ...string) {
	w.DNS.SetAuthentic(true, append([]string{w.Domain}, also...)...)
}

// Cert makes a certificate of the internet's authority; without names it is for
// the usual mail host.
func (w *World) Cert(o fakesmtp.CertOptions) (*tls.Certificate, error) {
	return w.certOf(w.CA, o)
}

func (w *World) certOf(ca *fakesmtp.CA, o fakesmtp.CertOptions) (*tls.Certificate, error) {
	if o.Names == nil {
		o.Names = []string{w.MX()}
	}
	return ca.Issue(o)
}

// host starts the usual mail host as b says, with TLS and a certificate that matches
// where b says nothing of a certificate, and publishes it as the only MX host.
func (w *World) host(b fakesmtp.Behaviour) error {
	if b.Name == "" {
		b.Name = w.MX()
	}
	if err := w.serve(b, false); err != nil {
		return err
	}
	return w.Record(w.Domain, "MX", "10 "+b.Name+".")
}

// serve starts a mail host with TLS, without an MX record.
func (w *World) serve(b fakesmtp.Behaviour, v6 bool) error {
	if b.Certificate == nil {
		var err error
		if b.Certificate, err = w.Cert(fakesmtp.CertOptions{Names: []string{b.Name}}); err != nil {
			return err
		}
	}
	b.STARTTLS = true
	_, err := w.Serve(b, v6)
	return err
}

// plain starts a mail host without TLS, without an MX record.
func (w *World) plain(name string) error {
	_, err := w.Serve(fakesmtp.Behaviour{Name: name}, false)
	return err
}

// dead publishes the address of a host where nothing listens.
func (w *World) dead(name string) error { return w.Record(name, "A", w.NextIP()) }

// mx publishes MX hosts in order of preference.
func (w *World) mx(hosts ...string) error {
	var values []string
	for i, h := range hosts {
		values = append(values, fmt.Sprintf("%d %s.", 10*(i+1), h))
	}
	return w.Record(w.Domain, "MX", values...)
}

// acts is a Build of one mail host with TLS.
func acts(b fakesmtp.Behaviour) func(*World) error {
	return func(w *World) error { return w.host(b) }
}

// shows is a Build of one mail host with such a certificate.
func shows(o fakesmtp.CertOptions) func(*World) error {
	return func(w *World) error {
		cert, err := w.Cert(o)
		if err != nil {
			return err
		}
		return w.host(fakesmtp.Behaviour{Certificate: cert})
	}
}

// All returns the classes, in the order of the documentation.
func All() []Class {
	var all []Class
	for _, p := range parts {
		all = append(all, p.classes()...)
	}
	return all
}

// Build builds every class on an internet.
func Build(n *lab.Internet, all []Class) error {
	var errs []error
	for i := range all {
		if err := all[i].Build(&World{n, all[i].Domain()}); err != nil {
			errs = append(errs, fmt.Errorf("class %s: %w", all[i].Name, err))
		}
	}
	return errors.Join(errs...)
}

// Rules returns the rules of the classes, as CSV for postseal domain import: enc@ requires
// encryption, and tls@ TLS.
func Rules(all []Class) string {
	var b strings.Builder
	b.WriteString("pattern,requirement,level,match,weaken,note\n")
	for i := range all {
		c := &all[i]
		level, match, _ := strings.Cut(c.Level, " ")
		if c.Level != "" {
			fmt.Fprintf(&b, "%s,encryption,%s,%s,,\n", c.Domain(), level, match)
		} else {
			fmt.Fprintf(&b, "enc@%s,encryption,,,,\n", c.Domain())
		}
		fmt.Fprintf(&b, "tls@%s,tls,,,,\n", c.Domain())
	}
	return b.String()
}
