package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/postseal/postseal/internal/lab"
	"github.com/postseal/postseal/internal/lab/fakedns"
)

// wrongTLSA is a record that no certificate matches.
const wrongTLSA = "3 1 1 0000000000000000000000000000000000000000000000000000000000000000"

// daneHosts gives domain MX hosts mx1.DOMAIN, mx2.DOMAIN, … of kinds, in a signed zone.
func daneHosts(b *lab.Bed, domain string, kinds ...lab.Kind) error {
	b.DNS.SetAuthentic(true, domain)
	var mx []string
	for i, k := range kinds {
		name := fmt.Sprintf("mx%d.%s", i+1, domain)
		mx = append(mx, fmt.Sprintf("%d %s.", 10*(i+1), name))
		if k == lab.Dead {
			if err := b.Record(name, "A", b.NextIP()); err != nil {
				return err
			}
			continue
		}
		behaviour, err := b.Behaviour(k, name)
		if err != nil {
			return err
		}
		if _, err := b.Internet.Serve(behaviour, false); err != nil {
			return err
		}
	}
	return b.Record(domain, "MX", mx...)
}

// TestDANE is destinations with TLSA records, and how Postfix itself treats them at the
// levels that it is answered.
func TestDANE(t *testing.T) {
	s := newScene(t, lab.Options{
		Postfix: lab.PostfixOptions{MainCF: map[string]string{"smtp_tls_loglevel": "1"}},
		Rules: []string{
			"domain add full.example --require tls",
			"domain add mismatch.example --require tls",
			"domain add bogus.example --require tls",
			"domain add partial.example --require tls",
			"domain add down.example --require tls",
			"domain add second.example --require tls",
			"domain add unusable.example --require tls",
			"domain add sealed.example --require encryption",
			"domain add held.example --require encryption",
		},
		Prepare: func(b *lab.Bed) error {
			match := func(host string) error {
				return b.PublishTLSA(host, b.Host(host).Behaviour().Certificate, 0, [3]uint8{3, 1, 1})
			}
			for _, f := range []func() error{
				func() error { return daneHosts(b, "full.example", lab.GoodTLS) },
				func() error { return match("mx1.full.example") },
				func() error { return daneHosts(b, "mismatch.example", lab.GoodTLS) },
				func() error { return b.Record("_25._tcp.mx1.mismatch.example", "TLSA", wrongTLSA) },
				func() error { return daneHosts(b, "bogus.example", lab.GoodTLS) },
				func() error { return match("mx1.bogus.example") },
				func() error { return daneHosts(b, "partial.example", lab.NoTLS, lab.GoodTLS) },
				func() error { return match("mx2.partial.example") },
				func() error { return daneHosts(b, "second.example", lab.GoodTLS, lab.GoodTLS) },
				func() error { return b.Record("_25._tcp.mx1.second.example", "TLSA", wrongTLSA) },
				func() error { return daneHosts(b, "sealed.example", lab.GoodTLS) },
				func() error { return b.Record("_25._tcp.mx1.sealed.example", "TLSA", wrongTLSA) },
				func() error { return daneHosts(b, "may-mismatch.example", lab.GoodTLS) },
				func() error { return b.Record("_25._tcp.mx1.may-mismatch.example", "TLSA", wrongTLSA) },
				func() error { return daneHosts(b, "may-bogus.example", lab.GoodTLS) },
				func() error { return daneHosts(b, "may-partial.example", lab.NoTLS, lab.GoodTLS) },
				func() error { return match("mx2.may-partial.example") },
				func() error { return daneHosts(b, "may-second.example", lab.GoodTLS, lab.NoTLS) },
				func() error { return b.Record("_25._tcp.mx1.may-second.example", "TLSA", wrongTLSA) },
				func() error { return daneHosts(b, "may-unusable.example", lab.NoTLS) },
				func() error { return b.Record("_25._tcp.mx1.may-unusable.example", "TLSA", "1"+wrongTLSA[1:]) },
				func() error { return daneHosts(b, "down.example", lab.Dead, lab.NoTLS) },
				func() error { return b.Record("_25._tcp.mx1.down.example", "TLSA", wrongTLSA) },
				func() error { return daneHosts(b, "held.example", lab.Dead, lab.NoTLS) },
				func() error { return b.Record("_25._tcp.mx1.held.example", "TLSA", wrongTLSA) },
				func() error { return daneHosts(b, "unusable.example", lab.GoodTLS) },
				func() error { return b.Record("_25._tcp.mx1.unusable.example", "TLSA", "1"+wrongTLSA[1:]) },
			} {
				if err := f(); err != nil {
					return err
				}
			}
			b.DNS.Fail("_25._tcp.mx1.bogus.example", dns.TypeTLSA, fakedns.Bogus)
			b.DNS.Fail("_25._tcp.mx1.may-bogus.example", dns.TypeTLSA, fakedns.Bogus)
			return nil
		},
	})
	s.run("a match arrives, verified", func(t *testing.T) {
		s.arrivesByTLS(s.send("a@own.example", "b@full.example"), "b@full.example")
		if log := s.Postfix.Log(); !strings.Contains(log, "Verified TLS connection established to mx1.full.example") {
			t.Error("Postfix did not verify the certificate")
		}
	})
	s.run("a mismatch waits", func(t *testing.T) {
		s.waits(s.send("a@own.example", "b@mismatch.example"), "b@mismatch.example", "certificate")
	})
	s.run("bogus records wait", func(t *testing.T) {
		s.waits(s.send("a@own.example", "b@bogus.example"), "b@bogus.example", "TLSA lookup error")
	})
	s.run("hosts without records are passed by", func(t *testing.T) {
		s.arrivesByTLS(s.send("a@own.example", "b@partial.example"), "b@partial.example")
	})
	s.run("with the host of the records down it waits", func(t *testing.T) {
		s.waits(s.send("a@own.example", "b@down.example"), "b@down.example", "")
	})
	s.run("nor does the host without records get what the other failed to prove", func(t *testing.T) {
		s.waits(s.send("a@own.example", "b@second.example"), "b@second.example", "")
	})
	s.run("a mismatch is sealed where a rule allows the escrow", func(t *testing.T) {
		s.sealed(s.send("a@own.example", "b@sealed.example"), "b@sealed.example")
	})
	s.run("with the host of the records down nothing is sealed", func(t *testing.T) {
		s.waits(s.send("a@own.example", "b@held.example"), "b@held.example", "")
	})
	s.run("records that can't be used demand TLS", func(t *testing.T) {
		s.arrivesByTLS(s.send("a@own.example", "b@unusable.example"), "b@unusable.example")
	})
	// Mail of which nothing is required: what Postfix makes of dane and dane-only.
	s.run("without a rule, a mismatch waits", func(t *testing.T) {
		s.waits(s.plain("a@own.example", "b@may-mismatch.example"), "b@may-mismatch.example", "certificate")
	})
	s.run("without a rule, bogus records wait", func(t *testing.T) {
		s.waits(s.plain("a@own.example", "b@may-bogus.example"), "b@may-bogus.example", "TLSA lookup error")
	})
	s.run("without a rule, a host without records takes mail as it did before", func(t *testing.T) {
		if got := s.arrives(s.plain("a@own.example", "b@may-partial.example"), "b@may-partial.example"); got.TLS {
			t.Error("the first host has no TLS")
		}
		if got := s.arrives(s.plain("a@own.example", "b@may-second.example"), "b@may-second.example"); got.TLS {
			t.Error("the second host has no TLS")
		}
	})
	s.run("without a rule, records that can't be used demand TLS", func(t *testing.T) {
		s.waits(s.plain("a@own.example", "b@may-unusable.example"), "b@may-unusable.example", "TLS is required")
	})
}

// TestDANEOff is a Postfix that can't verify by TLSA records in all its SMTP clients:
// told to, it would let the mail wait for good, so it is not told to, and postfix check
// says so.
func TestDANEOff(t *testing.T) {
	s := newScene(t, lab.Options{
		Postfix: lab.PostfixOptions{MasterCF: "other unix - - n - - smtp\n  -o smtp_dns_support_level=enabled\n"},
		Rules:   []string{"domain add mismatch.example --require tls"},
		Prepare: func(b *lab.Bed) error {
			if err := daneHosts(b, "mismatch.example", lab.GoodTLS); err != nil {
				return err
			}
			return b.Record("_25._tcp.mx1.mismatch.example", "TLSA", wrongTLSA)
		},
	})
	s.arrivesByTLS(s.send("a@own.example", "b@mismatch.example"), "b@mismatch.example")
	if out, _ := s.CLI("postfix", "check"); !strings.Contains(out, "DANE is off") || !strings.Contains(out, "other/unix") {
		t.Errorf("postfix check does not say that DANE is off:\n%s", out)
	}
	if out, _ := s.CLI("postfix", "check"); !strings.Contains(out, "does not vouch") {
		t.Errorf("postfix check does not say that the bed's resolver does not validate the root zone:\n%s", out)
	}
	s.DNS.SetAuthentic(true)
	if out, _ := s.CLI("postfix", "check"); strings.Contains(out, "does not vouch") {
		t.Errorf("postfix check is not content with a resolver that validates:\n%s", out)
	}
	const far, distrusted = "192.0.2.53", "the resolver 192.0.2.53 is neither on loopback nor trusted"
	if out, err := s.CLI("postfix", "check", "--resolver", far+":53"); !strings.Contains(out, distrusted) {
		t.Errorf("postfix check trusts a resolver far away: %v\n%s", err, out)
	}
	if out, _ := s.CLI("postfix", "check", "--resolver", far+":53", "--trusted-resolver", far); strings.Contains(out, distrusted) {
		t.Errorf("postfix check does not trust a resolver that it was told to:\n%s", out)
	}
	if log := s.Postseal.Log(); !strings.Contains(log, "DANE is off") {
		t.Error("serve does not say that DANE is off")
	}
}

// TestDANEAndAClientsOwnLevel is the administrator's own transport with mandatory TLS,
// which asks the map of all mail. An answer takes the place of its level: dane would let
// the host without TLSA records have the mail in plaintext.
func TestDANEAndAClientsOwnLevel(t *testing.T) {
	s := newScene(t, lab.Options{
		Postfix: lab.PostfixOptions{
			MasterCF: "tlsonly unix - - n - - smtp\n  -o smtp_tls_security_level=encrypt\n",
			MainCF:   map[string]string{"transport_maps": "inline:{second.example=tlsonly:}"},
		},
		Prepare: func(b *lab.Bed) error {
			if err := daneHosts(b, "second.example", lab.GoodTLS, lab.NoTLS); err != nil {
				return err
			}
			return b.Record("_25._tcp.mx1.second.example", "TLSA", wrongTLSA)
		},
	})
	s.arrivesByTLS(s.send("a@own.example", "b@second.example"), "b@second.example")
	if out, _ := s.CLI("postfix", "check"); !strings.Contains(out, "tlsonly/unix") {
		t.Errorf("postfix check does not name the client:\n%s", out)
	}
}
