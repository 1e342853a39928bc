package classes

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/dns"

	"github.com/postseal/postseal/internal/lab"
	"github.com/postseal/postseal/internal/lab/fakedns"
	"github.com/postseal/postseal/internal/lab/fakesmtp"
)

// kind is usage, selector and matching type of a TLSA record.
type kind = [3]uint8

var ee = kind{3, 1, 1} // DANE-EE(3) SPKI(1) SHA2-256(1): what RFC 7672 recommends

// tlsa publishes records for a host that match certificates; at says which one
// of the chain counts for usages 0 and 2, the last where it is negative.
func (w *World) tlsa(host string, cert *tls.Certificate, kinds ...kind) error {
	var values []string
	for _, k := range kinds {
		der := cert.Certificate[0]
		if k[0]%2 == 0 {
			der = cert.Certificate[len(cert.Certificate)-1]
			if len(cert.Certificate) == 1 {
				der = w.CA.Cert.Raw
			}
		}
		v, err := lab.TLSA(k[0], k[1], k[2], der)
		if err != nil {
			return err
		}
		values = append(values, v)
	}
	return w.Record("_25._tcp."+host, "TLSA", values...)
}

// matching starts a host and publishes TLSA records that match its certificate.
func (w *World) matching(b fakesmtp.Behaviour, o fakesmtp.CertOptions, kinds ...kind) error {
	if o.Names == nil {
		o.Names = []string{b.Name}
	}
	cert, err := w.CA.Issue(o)
	if err != nil {
		return err
	}
	b.Certificate = cert
	return errors.Join(w.serve(b, false), w.tlsa(b.Name, cert, kinds...))
}

// mismatching starts a host and publishes TLSA records of another certificate.
func (w *World) mismatching(name string, kinds ...kind) error {
	other, err := w.Cert(fakesmtp.CertOptions{Names: []string{name}})
	if err != nil {
		return err
	}
	return errors.Join(w.serve(fakesmtp.Behaviour{Name: name}, false), w.tlsa(name, other, kinds...))
}

// signed is a Build of one mail host in a signed zone, with TLSA records that match
// its certificate.
func signed(o fakesmtp.CertOptions, kinds ...kind) func(*World) error {
	return func(w *World) error {
		w.Sign()
		return errors.Join(w.matching(fakesmtp.Behaviour{Name: w.MX()}, o, kinds...), w.mx(w.MX()))
	}
}

// verifies is a class whose TLSA records its hosts match.
func verifies(name, what string, build func(*World) error) Class {
	c := good("dane-"+name, what, build)
	c.DANE, c.Policy, c.Secure, c.Finger = "full", "dane-only", "dane-only", Verified
	return c
}

// refutes is a class whose TLSA records none of its hosts matches.
func refutes(name, what string, build func(*World) error) Class {
	c := verifies(name, what, build)
	c.State, c.Mail, c.Encryption, c.TLS, c.Finger, c.Says = "broken", Waits, Sealed, Waits, Untrusted, "not verified"
	return c
}

// unusable is a class with TLSA records that no sender can use: TLS is mandatory
// then, and authenticates nobody (RFC 7672, section 2.2).
func unusable(name, what string, build func(*World) error) Class {
	c := good("dane-"+name, what, build)
	c.DANE, c.Policy, c.Secure = "unusable", "dane", "encrypt"
	return c
}

// insecure is a class whose TLSA records do not count.
func insecure(name, what string, build func(*World) error) Class {
	return good("dane-"+name, what, build)
}

// dane are classes with TLSA records (RFC 7672).
func dane() []Class {
	var all []Class
	for _, usage := range []uint8{3, 2} {
		for _, selector := range []uint8{0, 1} {
			for _, matching := range []uint8{0, 1, 2} {
				k := kind{usage, selector, matching}
				all = append(all, verifies(dashed(k), "TLSA "+spaced(k), signed(fakesmtp.CertOptions{SendRoot: usage == 2}, k)))
			}
		}
	}
	for _, usage := range []uint8{0, 1} {
		for _, selector := range []uint8{0, 1} {
			k := kind{usage, selector, 1}
			all = append(all, unusable(dashed(k), "TLSA "+spaced(k)+": PKIX usages are not for SMTP", signed(fakesmtp.CertOptions{SendRoot: usage == 0}, k)))
		}
	}
	all = append(all, daneCertificates()...)
	all = append(all, daneRecords()...)
	return append(all, daneHosts()...)
}

func dashed(k kind) string { return strings.ReplaceAll(spaced(k), " ", "-") }
func spaced(k kind) string { return fmt.Sprintf("%d %d %d", k[0], k[1], k[2]) }

// daneCertificates are certificates held against TLSA records.
func daneCertificates() []Class {
	elsewhere := []string{"mx.elsewhere.example"}
	ta := kind{2, 0, 1}
	return []Class{
		verifies("ee-expired", "usage 3, expired: the record alone counts", signed(fakesmtp.CertOptions{Expired: true}, ee)),
		verifies("ee-wrong-name", "usage 3, for another name: the record alone counts", signed(fakesmtp.CertOptions{Names: elsewhere}, ee)),
		verifies("ee-self-signed", "usage 3, self-signed", signed(fakesmtp.CertOptions{SelfSigned: true}, ee)),
		verifies("ee-rsa", "usage 3, an RSA key", signed(fakesmtp.CertOptions{RSA: true}, ee)),
		verifies("ta-intermediate", "usage 2, an intermediate authority", func(w *World) error {
			w.Sign()
			sub, err := w.CA.Sub("Fake Intermediate of " + w.Domain)
			if err != nil {
				return err
			}
			cert, err := w.certOf(sub, fakesmtp.CertOptions{})
			if err != nil {
				return err
			}
			return errors.Join(w.host(fakesmtp.Behaviour{Certificate: cert}), w.tlsa(w.MX(), cert, kind{2, 1, 1}))
		}),
		verifies("ta-domain-name", "usage 2, the certificate is for the domain instead of the host", func(w *World) error {
			return signed(fakesmtp.CertOptions{Names: []string{w.Domain}, SendRoot: true}, ta)(w)
		}),
		verifies("ta-full-unsent", "usage 2 with the whole certificate (2 0 0), which the host does not send", signed(fakesmtp.CertOptions{}, kind{2, 0, 0})),
		refutes("ta-unsent", "usage 2 with a digest, and the host does not send that certificate", signed(fakesmtp.CertOptions{}, ta)),
		refutes("ta-expired", "usage 2, expired", signed(fakesmtp.CertOptions{Expired: true, SendRoot: true}, ta)),
		refutes("ta-wrong-name", "usage 2, for another name", signed(fakesmtp.CertOptions{Names: elsewhere, SendRoot: true}, ta)),
		refutes("mismatch", "the record is of another key", func(w *World) error {
			w.Sign()
			return errors.Join(w.mismatching(w.MX(), ee), w.mx(w.MX()))
		}),
		refutes("other-certificate", "the record is of the RSA certificate, and there is one by ECDSA too", func(w *World) error {
			w.Sign()
			first, err := w.Cert(fakesmtp.CertOptions{})
			if err != nil {
				return err
			}
			second, err := w.Cert(fakesmtp.CertOptions{RSA: true})
			if err != nil {
				return err
			}
			return errors.Join(w.host(fakesmtp.Behaviour{Certificate: first, Second: second}), w.tlsa(w.MX(), second, ee))
		}),
	}
}

// daneRecords are TLSA records of all sorts.
func daneRecords() []Class {
	raw := func(w *World, records ...string) error {
		w.Sign()
		return errors.Join(w.host(fakesmtp.Behaviour{}), w.Record("_25._tcp."+w.MX(), "TLSA", records...))
	}
	digest := strings.Repeat("ab", 32)
	mixed := func(match bool) func(*World) error {
		return func(w *World) error {
			if err := signed(fakesmtp.CertOptions{}, kind{1, 1, 1}, ee)(w); err != nil || match {
				return err
			}
			return w.Record("_25._tcp."+w.MX(), "TLSA", "1 1 1 "+digest, "3 1 1 "+digest)
		}
	}
	stripped := verifies("no-starttls", "TLSA records, and no STARTTLS: stripped, or a fault", func(w *World) error {
		w.Sign()
		return errors.Join(w.plain(w.MX()), w.mx(w.MX()), w.Record("_25._tcp."+w.MX(), "TLSA", "3 1 1 "+digest))
	})
	stripped.State, stripped.Mail, stripped.Encryption, stripped.TLS, stripped.Finger, stripped.Says = "absent", Waits, Sealed, Waits, Fails, "TLS is required"
	barren := unusable("unusable-no-starttls", "unusable records alone, and no STARTTLS", func(w *World) error {
		w.Sign()
		return errors.Join(w.plain(w.MX()), w.mx(w.MX()), w.Record("_25._tcp."+w.MX(), "TLSA", "1 1 1 "+digest))
	})
	barren.State, barren.Mail, barren.Encryption, barren.TLS, barren.Finger, barren.Says = "absent", Waits, Sealed, Waits, Fails, "TLS is required"
	bogus := waits("dane-bogus", "the TLSA answer fails validation (SERVFAIL)", "unknown", "TLSA", func(w *World) error {
		w.DNS.Fail("_25._tcp."+w.MX(), dns.TypeTLSA, fakedns.Bogus)
		return signed(fakesmtp.CertOptions{}, ee)(w)
	})
	bogus.DANE, bogus.Policy, bogus.Secure = "failed", "dane", "dane-only"
	silent := bogus
	silent.Name, silent.What = "dane-silent", "no reply for the TLSA records"
	silent.Build = func(w *World) error {
		w.DNS.Fail("_25._tcp."+w.MX(), dns.TypeTLSA, fakedns.Silent)
		return signed(fakesmtp.CertOptions{}, ee)(w)
	}
	// DANE and a rule: both must hold.
	leveled := func(c Class) Class {
		c.Name, c.What, c.Level, c.Mail, c.Policy = c.Name+"-verify", c.What+", and the rule says verify", "verify", None, "dane-only"
		return c
	}
	distrusted := leveled(refutes("self-signed", "usage 3, self-signed", signed(fakesmtp.CertOptions{SelfSigned: true}, ee)))
	distrusted.State, distrusted.Policy, distrusted.Secure, distrusted.Finger, distrusted.Says = "works", Nothing, Nothing, "", "client TLS configuration problem"
	return []Class{
		verifies("rollover", "two records, one of the next key", func(w *World) error {
			if err := signed(fakesmtp.CertOptions{}, ee)(w); err != nil {
				return err
			}
			return w.DNS.Add("_25._tcp." + w.MX() + ". 1 IN TLSA 3 1 1 " + digest)
		}),
		verifies("mixed", "an unusable record beside one that matches", mixed(true)),
		refutes("mixed-mismatch", "an unusable record beside one that does not match", mixed(false)),
		unusable("short-digest", "a digest of the wrong length", func(w *World) error { return raw(w, "3 1 1 abcd") }),
		unusable("odd-selector", "an unknown selector", func(w *World) error { return raw(w, "3 9 1 "+digest) }),
		unusable("odd-matching", "an unknown matching type", func(w *World) error { return raw(w, "3 1 9 "+digest) }),
		unusable("odd-usage", "an unknown usage", func(w *World) error { return raw(w, "9 1 1 "+digest) }),
		unusable("no-certificate", "the whole certificate, and it is none", func(w *World) error { return raw(w, "3 0 0 "+digest) }),
		verifies("truncated", "the TLSA answer does not fit UDP: TCP", func(w *World) error {
			w.DNS.Fail("_25._tcp."+w.MX(), dns.TypeTLSA, fakedns.TruncateUDP)
			return signed(fakesmtp.CertOptions{}, ee)(w)
		}),
		stripped, barren, bogus, silent,
		leveled(verifies("trusted", "the record matches, and so does the certificate", signed(fakesmtp.CertOptions{}, ee))),
		distrusted,
		insecure("none", "a signed zone without TLSA records", func(w *World) error {
			w.Sign()
			return w.host(fakesmtp.Behaviour{})
		}),
	}
}

// daneHosts are several hosts, and DNS on the way to them.
func daneHosts() []Class {
	two := func(w *World) (a, b string) { return "a." + w.Domain, "b." + w.Domain }
	elsewhere := func(w *World) string { return "mx.host-" + w.Domain }
	partial := func(name, what string, build func(*World) error) Class {
		c := verifies(name, what, build)
		c.DANE, c.Policy = "partial", "dane"
		c.Finger = "" // it stops at the first host, and takes secure for a host without records
		return c
	}
	clear := partial("partial-clear", "two MX hosts: the first without STARTTLS and records, the second matches its record", func(w *World) error {
		a, b := two(w)
		w.Sign()
		return errors.Join(w.plain(a), w.matching(fakesmtp.Behaviour{Name: b}, fakesmtp.CertOptions{}, ee), w.mx(a, b))
	})
	clear.Mail = InClear
	mismatch := partial("partial-mismatch", "two MX hosts: the first does not match its record, the second has none", func(w *World) error {
		a, b := two(w)
		w.Sign()
		return errors.Join(w.mismatching(a, ee), w.serve(fakesmtp.Behaviour{Name: b}, false), w.mx(a, b))
	})
	mismatch.State, mismatch.Encryption, mismatch.TLS, mismatch.Says = "broken", Sealed, Waits, "no TLSA records found"
	bogus := verifies("bogus-and-good", "two MX hosts: the TLSA answer of the first fails validation, the second matches its record", func(w *World) error {
		a, b := two(w)
		w.Sign()
		w.DNS.Fail("_25._tcp."+a, dns.TypeTLSA, fakedns.Bogus)
		return errors.Join(w.matching(fakesmtp.Behaviour{Name: a}, fakesmtp.CertOptions{}, ee), w.matching(fakesmtp.Behaviour{Name: b}, fakesmtp.CertOptions{}, ee), w.mx(a, b))
	})
	bogus.DANE, bogus.Policy, bogus.Finger = "partial", "dane", ""
	cname := func(at func(w *World, real string) string, signReal bool) func(*World) error {
		return func(w *World) error {
			real := "mx.real-" + w.Domain
			w.Sign()
			w.DNS.SetAuthentic(signReal, real)
			cert, err := w.Cert(fakesmtp.CertOptions{Names: []string{real}})
			if err != nil {
				return err
			}
			return errors.Join(w.serve(fakesmtp.Behaviour{Name: real, Certificate: cert}, false), w.Record(w.MX(), "CNAME", real+"."), w.mx(w.MX()), w.tlsa(at(w, real), cert, ee))
		}
	}
	atReal := func(_ *World, real string) string { return real }
	atAlias := func(w *World, _ string) string { return w.MX() }
	return []Class{
		verifies("two-one-dead", "two MX hosts with records, the first dead", func(w *World) error {
			a, b := two(w)
			w.Sign()
			return errors.Join(w.dead(a), w.Record("_25._tcp."+a, "TLSA", "3 1 1 "+strings.Repeat("ab", 32)), w.matching(fakesmtp.Behaviour{Name: b}, fakesmtp.CertOptions{}, ee), w.mx(a, b))
		}),
		atFirst(verifies("second-matches", "two MX hosts with records, the second matches", func(w *World) error {
			a, b := two(w)
			w.Sign()
			return errors.Join(w.mismatching(a, ee), w.matching(fakesmtp.Behaviour{Name: b}, fakesmtp.CertOptions{}, ee), w.mx(a, b))
		})),
		partial("partial", "two MX hosts: the first matches its record, the second has none", func(w *World) error {
			a, b := two(w)
			w.Sign()
			return errors.Join(w.matching(fakesmtp.Behaviour{Name: a}, fakesmtp.CertOptions{}, ee), w.serve(fakesmtp.Behaviour{Name: b}, false), w.mx(a, b))
		}),
		partial("partial-second", "two MX hosts: the first without records, the second matches its record", func(w *World) error {
			a, b := two(w)
			w.Sign()
			return errors.Join(w.serve(fakesmtp.Behaviour{Name: a}, false), w.matching(fakesmtp.Behaviour{Name: b}, fakesmtp.CertOptions{}, ee), w.mx(a, b))
		}),
		clear, mismatch, bogus,
		verifies("implicit-mx", "no MX record: TLSA at the domain itself", func(w *World) error {
			w.Sign()
			return w.matching(fakesmtp.Behaviour{Name: w.Domain}, fakesmtp.CertOptions{}, ee)
		}),
		verifies("cname", "the MX host is a CNAME, TLSA at its target", cname(atReal, true)),
		verifies("cname-alias", "the MX host is a CNAME, TLSA at the alias", cname(atAlias, true)),
		verifies("cname-unsigned", "the MX host is a CNAME into an unsigned zone, TLSA at the alias", cname(atAlias, false)),
		insecure("insecure-mx", "the MX record is not signed, the host and its TLSA records are", func(w *World) error {
			h := elsewhere(w)
			w.DNS.SetAuthentic(true, h)
			return errors.Join(w.matching(fakesmtp.Behaviour{Name: h}, fakesmtp.CertOptions{}, ee), w.mx(h))
		}),
		insecure("insecure-address", "the MX record is signed, the host is not: its TLSA records do not count, though none match", func(w *World) error {
			h := elsewhere(w)
			w.Sign()
			return errors.Join(w.mismatching(h, ee), w.mx(h))
		}),
		insecure("insecure-bogus", "the MX record is signed, the host is not, and its TLSA answer is SERVFAIL: nobody needs it", func(w *World) error {
			h := elsewhere(w)
			w.Sign()
			w.DNS.Fail("_25._tcp."+h, dns.TypeTLSA, fakedns.Servfail)
			return errors.Join(w.serve(fakesmtp.Behaviour{Name: h}, false), w.mx(h))
		}),
		insecure("insecure-tlsa", "the TLSA answer alone is not signed", func(w *World) error {
			w.Sign()
			w.DNS.SetAuthentic(false, "_25._tcp."+w.MX())
			return errors.Join(w.mismatching(w.MX(), ee), w.mx(w.MX()))
		}),
	}
}
