package e2e

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/postseal/postseal/internal/lab"
	"github.com/postseal/postseal/internal/lab/fakedns"
	"github.com/postseal/postseal/internal/lab/fakesmtp"
)

// TestMTASTS is destinations with an MTA-STS policy: how Postfix verifies by it, with a
// rule and without, and that a policy stays in force whatever becomes of its record and
// its policy host, over a restart too.
func TestMTASTS(t *testing.T) {
	// Mail of which nothing is required is held to policies, too.
	s := newScene(t, lab.Options{
		Hosts: map[string]lab.Kind{
			"good.example": lab.GoodTLS, "below.example": lab.GoodTLS, "testing.example": lab.GoodTLS, "moved.example": lab.GoodTLS,
			"lost.example":  lab.GoodTLS,
			"strip.example": lab.NoTLS, "elsewhere.example": lab.GoodTLS,
		},
		Rules: []string{
			"sender add boss@own.example --require tls",
			"sender add doc@own.example --require encryption",
		},
		Prepare: func(b *lab.Bed) error {
			// Another host's certificate, by an authority that everybody trusts.
			cert, err := b.CA.Issue(fakesmtp.CertOptions{Names: []string{"mx.attacker.example"}})
			if err != nil {
				return err
			}
			if _, err := b.AddHost("wrong.example", fakesmtp.Behaviour{Name: "mx.wrong.example", STARTTLS: true, Certificate: cert}); err != nil {
				return err
			}
			return errors.Join(
				b.AddPolicy("good.example", lab.PolicyText("enforce", "mx.good.example")),
				b.AddPolicy("below.example", lab.PolicyText("enforce", "*.below.example")),
				b.AddPolicy("wrong.example", lab.PolicyText("enforce", "mx.wrong.example")),
				b.AddPolicy("elsewhere.example", lab.PolicyText("enforce", "mx.another.example")),
				b.AddPolicy("strip.example", lab.PolicyText("enforce", "mx.strip.example")),
				b.AddPolicy("testing.example", lab.PolicyText("testing", "mx.another.example")),
				b.AddPolicy("lost.example", lab.PolicyText("enforce", "mx.lost.example")),
				b.AddPolicy("moved.example", lab.PolicyText("enforce", "mx.moved.example")),
			)
		},
	})
	// answer is what the opportunistic map says once the policy is known.
	answer := func(domain, want string) {
		s.t.Helper()
		var out string
		if !s.Wait(patience, func() bool {
			var err error
			out, err = s.CLI("map", "query", "tls-policy", domain)
			return err == nil && strings.TrimSpace(out) == want
		}) {
			s.t.Errorf("tls-policy of %s is %q, want %q", domain, out, want)
		}
	}

	s.run("verified by the policy, with the host's name in the handshake", func(t *testing.T) {
		for domain, match := range map[string]string{"good.example": "mx.good.example", "below.example": ".below.example"} {
			for _, from := range []string{"a@own.example", "boss@own.example", "doc@own.example"} {
				to := strings.Split(from, "@")[0] + "@" + domain
				m := s.accepted(s.submit(lab.Message{From: from, To: []string{to}}))
				if got := s.arrivesByTLS(m, to); got.SNI != "mx."+domain {
					t.Errorf("%s: the name in the handshake is %q", to, got.SNI)
				}
			}
			answer(domain, "secure match="+match+" servername=hostname")
		}
		if log := s.Postfix.Log(); !strings.Contains(log, "Verified TLS connection established to mx.good.example") {
			t.Error("Postfix did not log a verified connection")
		}
	})
	s.run("waits where the certificate or the host is none of the policy's", func(t *testing.T) {
		// All are sent before any is waited for.
		waiting := map[string]mail{}
		for _, domain := range []string{"wrong.example", "elsewhere.example", "strip.example"} {
			for _, from := range []string{"a@own.example", "boss@own.example"} {
				to := strings.Split(from, "@")[0] + "@" + domain
				waiting[to] = s.secret(lab.Message{From: from, To: []string{to}})
			}
		}
		for to, m := range waiting {
			s.waits(s.accepted(m), to, "")
		}
	})
	s.run("testing demands nothing", func(t *testing.T) {
		s.arrives(s.plain("a@own.example", "b@testing.example"), "b@testing.example")
	})
	s.run("a new policy is seen when the hosts move", func(t *testing.T) {
		s.arrivesByTLS(s.plain("a@own.example", "b@moved.example"), "b@moved.example")
		good, err := s.Behaviour(lab.GoodTLS, "mx.new.example")
		s.check(err)
		_, err = s.AddHost("moved.example", good)
		s.check(err)
		s.check(s.AddPolicy("moved.example", lab.PolicyText("enforce", "mx.new.example")))
		m := s.send("a@own.example", "later@moved.example")
		// What a destination publishes counts for a minute at least.
		s.Wait(time.Minute+patience, func() bool { return s.count(m.mark, "later@moved.example") > 0 })
		s.arrivesByTLS(m, "later@moved.example")
		answer("moved.example", "secure match=mx.new.example servername=hostname")
	})
	s.run("kept over a restart, whatever is down", func(t *testing.T) {
		for _, to := range []string{"before@good.example", "before@lost.example"} { // their policies are kept from here on
			s.arrivesByTLS(s.plain("a@own.example", to), to)
		}
		s.check(s.WebDown())
		s.DNS.Fail("", dns.TypeTXT, fakedns.Servfail)
		s.check(s.Postseal.Stop())
		s.check(s.Postseal.Start())
		s.arrivesByTLS(s.send("a@own.example", "after@good.example"), "after@good.example")
		answer("good.example", "secure match=mx.good.example servername=hostname")
		// A host of a domain with a policy that offers no TLS any more gets nothing.
		h := s.host("lost.example")
		b := h.Behaviour()
		b.STARTTLS = false
		h.Set(b)
		s.waits(s.accepted(s.secret(lab.Message{From: "a@own.example", To: []string{"after@lost.example"}})), "after@lost.example", "")
	})
	out, err := s.CLI("explain", "--sender", "a@own.example", "--recipient", "b@good.example")
	if err != nil || !strings.Contains(out, "secure match=mx.good.example servername=hostname") {
		t.Errorf("explain: %v\n%s", err, out)
	}
}

// TestMTASTSWithoutAuthorities is a Postfix that knows no certificate authority, as it
// does not by itself: it could verify nobody, so mail goes as before, and check says why.
func TestMTASTSWithoutAuthorities(t *testing.T) {
	s := newScene(t, lab.Options{
		Hosts:   map[string]lab.Kind{"good.example": lab.GoodTLS},
		Rules:   []string{"sender add doc@own.example --require encryption"},
		Postfix: lab.PostfixOptions{MainCF: map[string]string{"smtp_tls_CAfile": "", "smtp_tls_CApath": ""}},
		Prepare: func(b *lab.Bed) error {
			return b.AddPolicy("good.example", lab.PolicyText("enforce", "mx.good.example"))
		},
	})
	for _, from := range []string{"a@own.example", "doc@own.example"} {
		to := strings.Split(from, "@")[0] + "@good.example"
		s.arrivesByTLS(s.send(from, to), to)
	}
	out, err := s.CLI("postfix", "check")
	if err != nil || !strings.Contains(out, "smtp_tls_CAfile") {
		t.Errorf("check says nothing of the authorities: %v\n%s", err, out)
	}
}
