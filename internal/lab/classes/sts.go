package classes

import (
	"errors"
	"strings"

	"github.com/miekg/dns"

	"github.com/postseal/postseal/internal/lab"
	"github.com/postseal/postseal/internal/lab/fakedns"
	"github.com/postseal/postseal/internal/lab/fakesmtp"
	"github.com/postseal/postseal/internal/lab/fakeweb"
)

// policy gives the domain a policy of mode enforce, or what mode says, with mx
// patterns in which D stands for the domain.
func (w *World) policy(mode string, mx ...string) error {
	return w.AddPolicy(w.Domain, lab.PolicyText(mode, w.named(mx)...))
}

func (w *World) named(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = strings.ReplaceAll(n, "D", w.Domain)
	}
	return out
}

// enforced is a class whose hosts meet its policy of mode enforce. match is what
// Postfix has to match, with D for the domain.
func enforced(name, what, match string, build func(*World) error) Class {
	c := good("sts-"+name, what, build)
	policy := "secure match=" + strings.ReplaceAll(match, "D", c.Domain()) + " servername=hostname"
	c.STS, c.Policy, c.Secure, c.Finger = "enforce", policy, policy, Verified
	return c
}

// violated is a class whose hosts do not meet its policy of mode enforce.
func violated(name, what, match string, build func(*World) error) Class {
	c := enforced(name, what, match, build)
	c.State, c.Mail, c.Encryption, c.TLS, c.Finger, c.Says = "broken", Waits, Sealed, Waits, Untrusted, "not verified"
	return c
}

// harmless is a class whose policy demands nothing.
func harmless(name, what, state string, build func(*World) error) Class {
	c := good("sts-"+name, what, build)
	c.STS = state
	return c
}

// failing is a class that may have a policy which cannot be had: for mail of which
// nothing is required it has none, and required mail does not trust that.
func failing(name, what string, build func(*World) error) Class {
	c := good("sts-"+name, what, build)
	c.Secure = Nothing
	c.State, c.STS, c.Encryption, c.TLS, c.Finger, c.Says = "unknown", "failed", Sealed, Waits, "", "client TLS configuration problem"
	return c
}

// site is a Build of a good mail host, and a policy host that acts as s says with
// the policy that matches.
func site(f func(w *World, s *fakeweb.Site) error) func(*World) error {
	return func(w *World) error {
		s := fakeweb.Site{Text: lab.PolicyText("enforce", w.MX())}
		if err := f(w, &s); err != nil {
			return err
		}
		return errors.Join(w.host(fakesmtp.Behaviour{}), w.AddSite(w.Domain, s))
	}
}

// sts are classes with an MTA-STS policy (RFC 8461).
func sts() []Class {
	simple := func(f func(*fakeweb.Site)) func(*World) error {
		return site(func(_ *World, s *fakeweb.Site) error { f(s); return nil })
	}
	shown := func(o fakesmtp.CertOptions, mx ...string) func(*World) error {
		return func(w *World) error { return errors.Join(shows(o)(w), w.policy("enforce", mx...)) }
	}
	web := func(o fakesmtp.CertOptions) func(*World) error {
		return site(func(w *World, s *fakeweb.Site) (err error) {
			if o.Names == nil {
				o.Names = []string{"mta-sts." + w.Domain}
			}
			s.Certificate, err = w.CA.Issue(o)
			return err
		})
	}
	record := func(values ...string) func(*World) error {
		return func(w *World) error {
			return errors.Join(shows(fakesmtp.CertOptions{SelfSigned: true})(w), w.policy("enforce", w.MX()), w.Record("_mta-sts."+w.Domain, "TXT", values...))
		}
	}
	stripped := violated("no-starttls", "mode enforce, and no STARTTLS: stripped, or a fault", "mx.D", func(w *World) error {
		return errors.Join(w.plain(w.MX()), w.mx(w.MX()), w.policy("enforce", w.MX()))
	})
	stripped.State, stripped.Finger, stripped.Says = "absent", Fails, "TLS is required"
	untrusted := func(c Class) Class { c.Finger = Untrusted; return c }
	elsewhere := []string{"mx.elsewhere.example"}
	deep := enforced("deep-wildcard", "mode enforce, the host is two labels below the pattern, whose wildcard is for one (RFC 8461, section 4.1)", ".D", func(w *World) error {
		host := "a.mx." + w.Domain
		return errors.Join(w.serve(fakesmtp.Behaviour{Name: host}, false), w.mx(host), w.policy("enforce", "*.D"))
	})
	deep.State, deep.Unforeseen = "broken", "Postfix's `.D` takes names of any depth; the certificate is below D all the same"
	wins := verifies("beats-sts", "TLSA records that match, and an MTA-STS policy that does not: DANE goes first", func(w *World) error {
		return errors.Join(signed(fakesmtp.CertOptions{}, ee)(w), w.policy("enforce", "other.D"))
	})
	wins.STS = "enforce"
	return []Class{
		enforced("enforce", "mode enforce", "mx.D", shown(fakesmtp.CertOptions{}, "mx.D")),
		enforced("wildcard", "mode enforce, a pattern with a wildcard", ".D", shown(fakesmtp.CertOptions{}, "*.D")),
		enforced("several", "mode enforce, several patterns", "mail.D:mx.D:.hosts.D", shown(fakesmtp.CertOptions{}, "mail.D", "mx.D", "*.hosts.D")),
		atFirst(enforced("second-host", "mode enforce, two MX hosts, the policy names the second", "b.D", func(w *World) error {
			a, b := "a."+w.Domain, "b."+w.Domain
			return errors.Join(w.serve(fakesmtp.Behaviour{Name: a}, false), w.serve(fakesmtp.Behaviour{Name: b}, false), w.mx(a, b), w.policy("enforce", "b.D"))
		})),
		deep,
		enforced("expires-at-once", "mode enforce, max_age 0: expired as soon as it is there, and fetched anew at each look", "mx.D", func(w *World) error {
			return errors.Join(w.host(fakesmtp.Behaviour{}), w.AddPolicy(w.Domain, strings.Replace(lab.PolicyText("enforce", w.MX()), "86400", "0", 1)))
		}),
		violated("no-match", "mode enforce, no MX host matches", "other.D", shown(fakesmtp.CertOptions{}, "other.D")),
		violated("self-signed", "mode enforce, self-signed", "mx.D", shown(fakesmtp.CertOptions{SelfSigned: true}, "mx.D")),
		violated("expired", "mode enforce, the certificate has expired", "mx.D", shown(fakesmtp.CertOptions{Expired: true}, "mx.D")),
		violated("wrong-name", "mode enforce, the certificate is for another name", "mx.D", shown(fakesmtp.CertOptions{Names: elsewhere}, "mx.D")),
		stripped,
		harmless("testing", "mode testing, no MX host matches", "testing", func(w *World) error {
			return errors.Join(w.host(fakesmtp.Behaviour{}), w.policy("testing", "other.D"))
		}),
		harmless("none", "mode none", "", func(w *World) error {
			return errors.Join(w.host(fakesmtp.Behaviour{}), w.policy("none"))
		}),
		untrusted(harmless("two-records", "two records: as if there were none (RFC 8461, section 3.1)", "", record(`"v=STSv1; id=1;"`, `"v=STSv1; id=2;"`))),
		untrusted(harmless("bad-record", "a record without an id: as if there were none", "", record(`"v=STSv1;"`))),
		wins,
		failing("no-policy", "the record is there, the policy is not (404)", simple(func(s *fakeweb.Site) { s.Status = 404 })),
		failing("redirect", "the policy host redirects", simple(func(s *fakeweb.Site) { s.Redirect = "https://mta-sts.sts-enforce.example" + fakeweb.PolicyPath })),
		failing("wrong-type", "the policy is text/html", simple(func(s *fakeweb.Site) { s.ContentType = "text/html" })),
		failing("oversize", "the policy has more than 64 KiB", simple(func(s *fakeweb.Site) { s.Oversize = 70 << 10 })),
		failing("web-expired", "the policy host's certificate has expired", web(fakesmtp.CertOptions{Expired: true})),
		failing("web-wrong-name", "the policy host's certificate is for another name", web(fakesmtp.CertOptions{Names: elsewhere})),
		failing("web-self-signed", "the policy host's certificate is self-signed", web(fakesmtp.CertOptions{SelfSigned: true})),
		failing("web-alert", "the policy host refuses the handshake", simple(func(s *fakeweb.Site) { s.Alert = true })),
		failing("bad-policy", "the policy cannot be read", simple(func(s *fakeweb.Site) { s.Text = "version: STSv1\r\nmode: perhaps\r\n" })),
		failing("no-mx", "mode enforce without mx", simple(func(s *fakeweb.Site) { s.Text = lab.PolicyText("enforce") })),
		failing("servfail", "SERVFAIL for the record", func(w *World) error {
			w.DNS.Fail("_mta-sts."+w.Domain, dns.TypeTXT, fakedns.Servfail)
			return errors.Join(w.host(fakesmtp.Behaviour{}), w.policy("enforce", "mx.D"))
		}),
	}
}
