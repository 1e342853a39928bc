package classes

import (
	"github.com/postseal/postseal/internal/lab/fakesmtp"
)

// certificates are classes of certificates without DANE or MTA-STS: what counts
// then is what a rule demands.
func certificates() []Class {
	leveled := func(c Class, level string) Class {
		c.Name, c.Level, c.Mail = c.Name+"-"+level, level, None
		c.What += ", and the rule says " + level
		c.Policy, c.Secure = level, level
		return c
	}
	fails := func(name, what string, o fakesmtp.CertOptions) []Class {
		c := good(name, what, shows(o))
		v := leveled(c, "verify")
		v.Encryption, v.TLS, v.Finger, v.Says = Sealed, Waits, Untrusted, "not verified"
		if o.Expired || o.SelfSigned {
			c.Finger = Untrusted
		}
		return []Class{c, v}
	}
	chain := func(o fakesmtp.CertOptions) func(*World) error {
		return func(w *World) error {
			sub, err := w.CA.Sub("Fake Intermediate")
			if err != nil {
				return err
			}
			cert, err := w.certOf(sub, o)
			if err != nil {
				return err
			}
			return w.host(fakesmtp.Behaviour{Certificate: cert})
		}
	}
	verified := func(c Class) Class { c.Finger = Verified; return c }
	all := []Class{
		good("rsa", "an RSA certificate", shows(fakesmtp.CertOptions{RSA: true})),
		good("rsa-and-ecdsa", "an RSA and an ECDSA certificate", func(w *World) error {
			first, err := w.Cert(fakesmtp.CertOptions{})
			if err != nil {
				return err
			}
			second, err := w.Cert(fakesmtp.CertOptions{RSA: true})
			if err != nil {
				return err
			}
			return w.host(fakesmtp.Behaviour{Certificate: first, Second: second})
		}),
	}
	matches := good("good", "a certificate that matches", acts(fakesmtp.Behaviour{}))
	all = append(all,
		verified(leveled(matches, "verify")),
		verified(leveled(good("chain", "an intermediate authority", chain(fakesmtp.CertOptions{})), "verify")))
	no := leveled(good("no-chain", "the intermediate certificate is not sent", chain(fakesmtp.CertOptions{NoChain: true})), "verify")
	no.Encryption, no.TLS, no.Finger, no.Says = Sealed, Waits, Untrusted, "not verified"
	all = append(all, no)
	for _, f := range [][]Class{
		fails("expired", "the certificate has expired", fakesmtp.CertOptions{Expired: true}),
		fails("wrong-name", "the certificate is for another name", fakesmtp.CertOptions{Names: []string{"mx.elsewhere.example"}}),
		fails("self-signed", "the certificate is self-signed", fakesmtp.CertOptions{SelfSigned: true}),
	} {
		all = append(all, f...)
	}
	return all
}
