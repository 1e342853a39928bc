package classes

import (
	"errors"
	"time"

	"github.com/miekg/dns"

	"github.com/postseal/postseal/internal/lab/fakedns"
	"github.com/postseal/postseal/internal/lab/fakesmtp"
)

// good is a class whose TLS works for all.
func good(name, what string, build func(*World) error) Class {
	return Class{Name: name, What: what, Build: build, State: "works", Mail: ByTLS, Encryption: ByTLS, TLS: ByTLS, Finger: Trusted}
}

// waits is a class that nobody reaches.
func waits(name, what, state, says string, build func(*World) error) Class {
	return Class{Name: name, What: what, Build: build, State: state, Mail: Waits, Encryption: Waits, TLS: Waits, Finger: Fails, Says: says}
}

// atFirst leaves posttls-finger out, which stops at the first host.
func atFirst(c Class) Class { c.Finger = ""; return c }

// without is a class that answers, but not over TLS.
func without(name, what, state, says string, build func(*World) error) Class {
	return Class{Name: name, What: what, Build: build, State: state, Mail: InClear, Encryption: Sealed, TLS: Waits, Finger: Fails, Says: says}
}

// connections are classes of what happens before STARTTLS.
func connections() []Class {
	early := good("early-ehlo", "the reply to EHLO comes with the greeting, before EHLO", acts(fakesmtp.Behaviour{Early: true}))
	early.State = "broken"
	early.Unforeseen = "Postfix does not mind; Postseal's probe does not trust a host that speaks before it is spoken to"
	return []Class{
		good("good", "STARTTLS, TLS 1.3, a certificate that matches", acts(fakesmtp.Behaviour{})),
		without("no-starttls", "no STARTTLS", "absent", "TLS is required, but was not offered", func(w *World) error {
			return errors.Join(w.plain(w.MX()), w.mx(w.MX()))
		}),
		without("helo-only", "EHLO is refused, HELO works", "absent", "TLS is required, but", acts(fakesmtp.Behaviour{RefuseEHLO: true})),
		waits("dead-host", "nothing listens on port 25", "unreachable", "Connection refused", func(w *World) error {
			return errors.Join(w.dead(w.MX()), w.mx(w.MX()))
		}),
		waits("silent", "connections are taken, nothing is said", "unreachable", "timed out", acts(fakesmtp.Behaviour{Silent: true})),
		good("slow-banner", "the greeting comes after a second", acts(fakesmtp.Behaviour{BannerDelay: time.Second})),
		good("long-banner", "a greeting of several lines", acts(fakesmtp.Behaviour{Banner: "220-welcome\r\n220-to this\r\n220 mail host"})),
		waits("banner-421", "the greeting is 421", "unreachable", "421", acts(fakesmtp.Behaviour{Banner: "421 4.3.2 shutting down"})),
		waits("banner-450", "the greeting is 450", "unreachable", "450", acts(fakesmtp.Behaviour{Banner: "450 4.3.2 try again later"})),
		waits("banner-554", "the greeting is 554: Postfix takes it for a host that serves others (smtp_skip_5xx_greeting)", "unreachable", "554",
			acts(fakesmtp.Behaviour{Banner: "554 5.3.2 no service here"})),
		early,
		good("needs-tls", "MAIL without TLS is refused (530)", acts(fakesmtp.Behaviour{RequireTLS: true})),
		good("greylisting", "the first try gets 451", acts(fakesmtp.Behaviour{Greylist: 1500 * time.Millisecond})),
		{
			Name: "refused-recipient", What: "TLS works, the recipient is refused (550)", State: "works", Finger: Trusted, Unforeseen: "a look names no recipient",
			Mail: Bounces, Encryption: Bounces, TLS: Bounces, Says: "550",
			// The notice to the sender is to own.example, so nothing else comes here.
			Build: acts(fakesmtp.Behaviour{Recipients: map[string]string{"*": "550 5.1.1 no such user"}}),
		},
		{
			Name: "refused-address", What: "TLS works, the address is refused (501 5.1.3)", State: "works", Finger: Trusted, Unforeseen: "a look names no recipient",
			Mail: Bounces, Encryption: Bounces, TLS: Bounces, Says: "501",
			Build: acts(fakesmtp.Behaviour{Recipients: map[string]string{"*": "501 5.1.3 bad address"}}),
		},
		good("ipv6-only", "IPv6 alone", func(w *World) error {
			return errors.Join(w.serve(fakesmtp.Behaviour{Name: w.MX()}, true), w.mx(w.MX()))
		}),
		good("ipv6-dead", "IPv6 is dead, IPv4 works", func(w *World) error {
			return errors.Join(w.host(fakesmtp.Behaviour{}), w.Record(w.MX(), "AAAA", "fd00:25:ffff::1"))
		}),
	}
}

// names are classes of DNS.
func names() []Class {
	fault := func(typ uint16, ofHost bool, f fakedns.Fault) func(*World) error {
		return func(w *World) error {
			name := w.Domain
			if ofHost {
				name = w.MX()
			}
			w.DNS.Fail(name, typ, f)
			return w.host(fakesmtp.Behaviour{})
		}
	}
	undecided := func(name, what, state, says string, build func(*World) error) Class {
		c := waits(name, what, state, says, build)
		c.DANE, c.Policy, c.Secure = "unknown", "dane", Nothing
		return c
	}
	// lost is a class that Postfix gives up on at once. Not we: the fallback waits.
	lost := func(name, what, says string, build func(*World) error) Class {
		c := undecided(name, what, "unknown", says, build)
		c.Mail, c.TLS, c.Unforeseen = Bounces, Bounces, "Postfix believes such a resolver; Postseal does not"
		return c
	}
	noEDNS := lost("dns-no-edns", "a resolver that knows no EDNS (FORMERR): with DNSSEC Postfix gives up at once", "Non-recoverable error", fault(dns.TypeMX, false, fakedns.FormErrOnEDNS))
	noEDNS.State, noEDNS.DANE, noEDNS.Policy, noEDNS.Secure, noEDNS.Unforeseen = "works", "", "", "", "Postseal asks again without EDNS"
	nomail := func(name, what, says string, build func(*World) error) Class {
		return Class{Name: name, What: what, Build: build, State: "nomail", Mail: Bounces, Encryption: Bounces, TLS: Bounces, Finger: Fails, Says: says}
	}
	return []Class{
		good("one-of-three", "three MX hosts, the first two dead", func(w *World) error {
			a, b, c := "a."+w.Domain, "b."+w.Domain, "c."+w.Domain
			return errors.Join(w.dead(a), w.dead(b), w.serve(fakesmtp.Behaviour{Name: c}, false), w.mx(a, b, c))
		}),
		{
			Name: "second-has-tls", What: "two MX hosts, the first without STARTTLS", State: "works",
			Mail: InClear, Encryption: ByTLS, TLS: ByTLS,
			Build: func(w *World) error {
				a, b := "a."+w.Domain, "b."+w.Domain
				return errors.Join(w.plain(a), w.serve(fakesmtp.Behaviour{Name: b}, false), w.mx(a, b))
			},
		},
		atFirst(good("second-good", "two MX hosts, the first breaks the handshake", func(w *World) error {
			a, b := "a."+w.Domain, "b."+w.Domain
			return errors.Join(w.serve(fakesmtp.Behaviour{Name: a, Handshake: fakesmtp.HandshakeAlert}, false), w.serve(fakesmtp.Behaviour{Name: b}, false), w.mx(a, b))
		})),
		good("implicit-mx", "no MX record, an address", func(w *World) error { return w.serve(fakesmtp.Behaviour{Name: w.Domain}, false) }),
		nomail("null-mx", "null MX (RFC 7505)", "does not accept mail", func(w *World) error { return w.Record(w.Domain, "MX", "0 .") }),
		nomail("no-such-domain", "the domain does not exist", "not found", func(*World) error { return nil }),
		good("cname-domain", "the domain is a CNAME", func(w *World) error {
			real := "real-" + w.Domain
			mx := "mx." + real
			return errors.Join(w.serve(fakesmtp.Behaviour{Name: mx}, false), w.Record(real, "MX", "10 "+mx+"."), w.Record(w.Domain, "CNAME", real+"."))
		}),
		good("mx-to-cname", "the MX host is a CNAME", func(w *World) error {
			real := "real." + w.Domain
			return errors.Join(w.serve(fakesmtp.Behaviour{Name: real}, false), w.Record(w.MX(), "CNAME", real+"."), w.mx(w.MX()))
		}),
		{
			// For Postfix that is final. Not for us: what DNS says of a host is not what
			// the domain says of itself.
			Name: "mx-to-nowhere", What: "the MX host does not exist", State: "unreachable", Finger: Fails,
			Mail: Bounces, Encryption: Waits, TLS: Bounces, Says: "not found",
			Build: func(w *World) error { return w.mx("gone." + w.Domain) },
		},
		undecided("servfail", "SERVFAIL for the MX record", "unknown", "try again", fault(dns.TypeMX, false, fakedns.Servfail)),
		waits("servfail-address", "SERVFAIL for the MX host's address", "unknown", "try again", fault(0, true, fakedns.Servfail)),
		undecided("lame", "REFUSED for the MX record, as of a lame server", "unknown", "try again", fault(dns.TypeMX, false, fakedns.Refused)),
		undecided("dns-silent", "no reply for the MX record", "unknown", "try again", fault(dns.TypeMX, false, fakedns.Silent)),
		good("truncated", "the reply does not fit UDP: TCP", fault(dns.TypeMX, false, fakedns.TruncateUDP)),
		good("dns-slow", "the reply comes late", fault(dns.TypeMX, false, fakedns.Delay)),
		lost("dns-referral", "a referral instead of the MX record: Postfix takes it for 'no such record'", "no data record", fault(dns.TypeMX, false, fakedns.Referral)),
		noEDNS,
	}
}
