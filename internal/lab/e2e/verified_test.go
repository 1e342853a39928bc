package e2e

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/internal/lab"
	"github.com/postseal/postseal/internal/lab/fakesmtp"
	"github.com/postseal/postseal/internal/lab/fakeweb"
)

// strangeTLSA publishes TLSA records of a certificate that the host of domain does not
// have, in a signed zone.
func strangeTLSA(b *lab.Bed, domain string) error {
	cert, err := b.CA.Issue(fakesmtp.CertOptions{Names: []string{"mx." + domain}})
	if err != nil {
		return err
	}
	b.DNS.SetAuthentic(true, domain)
	return b.PublishTLSA("mx."+domain, cert, 0, [3]uint8{3, 1, 1})
}

// TestOverride is that an override lets mail of which nothing is required pass by broken
// DANE and MTA-STS of a partner, is logged each time, and changes nothing for mail that
// must be encrypted.
func TestOverride(t *testing.T) {
	s := newScene(t, lab.Options{
		Hosts: map[string]lab.Kind{"dane.example": lab.GoodTLS, "sts.example": lab.GoodTLS},
		Rules: []string{"sender add boss@own.example --require tls", "sender add doc@own.example --require encryption"},
		Prepare: func(b *lab.Bed) error {
			return errors.Join(strangeTLSA(b, "dane.example"), b.AddPolicy("sts.example", lab.PolicyText("enforce", "mx.elsewhere.example")))
		},
	})
	partners := []string{"dane.example", "sts.example"}
	before := map[string]mail{}
	for _, p := range partners {
		before[p] = s.plain("a@own.example", "b@"+p)
	}
	for _, p := range partners {
		s.waits(before[p], "b@"+p, "not verified")
	}
	until := time.Now().AddDate(0, 0, 30).Format(time.DateOnly)
	for _, p := range partners {
		s.rule("domain add " + p + " --require none --override --note their-TLS --until " + until)
	}
	for _, p := range partners {
		s.arrives(before[p], "b@"+p)
		if log := s.Postseal.Log(); !strings.Contains(log, "override used") || !strings.Contains(log, "dest="+p) {
			t.Errorf("the override for %s is not logged", p)
		}
	}
	if m, err := s.Postseal.Metrics(); err != nil || !strings.Contains(m, "postseal_override_uses_total ") || strings.Contains(m, "postseal_override_uses_total 0\n") {
		t.Errorf("the uses are not counted (%v)", err)
	}
	for _, p := range partners {
		s.waits(s.send("boss@own.example", "c@"+p), "c@"+p, "not verified")
	}
	for _, p := range partners { // verified TLS can't be had: the escrow
		s.sealedAs(s.send("doc@own.example", "d@"+p), "d@"+p)
	}
	out, err := s.CLI("explain", "--sender", "boss@own.example", "--recipient", "c@dane.example")
	if err != nil || !strings.Contains(out, "dane-only") || !strings.Contains(out, "override has no effect") {
		t.Errorf("explain: %v\n%s", err, out)
	}
	out, err = s.CLI("explain", "--sender", "a@own.example", "--recipient", "c@dane.example")
	if err != nil || !strings.Contains(out, "tls policy:  may") || !strings.Contains(out, "(override)") {
		t.Errorf("explain: %v\n%s", err, out)
	}
}

// TestPolicyThatCannotBeHad is what Postfix does where the TLS policy map answers "try
// again later" (TEMP): mail for TLS alone waits; mail that may go to the escrow is handed to
// the fallback in the same attempt, waits there for the grace period, and is sealed then;
// other mail goes as if there were no policy (RFC 8461). Nothing ever leaves unverified
// that must be.
func TestPolicyThatCannotBeHad(t *testing.T) {
	s := newScene(t, lab.Options{
		Hosts: map[string]lab.Kind{"gone.example": lab.GoodTLS},
		Rules: []string{"sender add boss@own.example --require tls", "sender add doc@own.example --require encryption"},
		Env:   []string{"POSTSEAL_GRACE=20s"},
		Prepare: func(b *lab.Bed) error {
			return b.AddSite("gone.example", fakeweb.Site{Status: http.StatusNotFound})
		},
	})
	s.arrivesByTLS(s.plain("a@own.example", "a@gone.example"), "a@gone.example")
	forced := s.send("boss@own.example", "b@gone.example")
	either := s.send("doc@own.example", "c@gone.example")
	s.waits(forced, "b@gone.example", "client TLS configuration problem")
	s.waits(either, "c@gone.example", "The message waits for verified TLS: gone.example may have an MTA-STS policy")
	s.sealedAs(either, "c@gone.example")
	// The policy is there again, and looked for anew: what waited goes, and is verified.
	s.check(s.AddPolicy("gone.example", lab.PolicyText("enforce", "mx.gone.example")))
	s.check(s.Postseal.Stop())
	s.check(s.Postseal.Start())
	s.check(s.Postfix.Reload()) // trivial-rewrite(8) remembers for 30 seconds that the map was down
	s.arrivesByTLS(forced, "b@gone.example")
	if got := strings.Count(s.Postseal.Log(), "override used"); got != 0 {
		t.Errorf("%d overrides logged where there are none", got)
	}
}

// TestTLSRequiredNo is that a header of the sender's (RFC 8689, section 5) weakens no
// rule: the message goes by TLS, waits, or is sealed, as ever.
func TestTLSRequiredNo(t *testing.T) {
	s := newScene(t, lab.Options{
		Hosts: map[string]lab.Kind{"dane.example": lab.GoodTLS},
		Rules: []string{
			"domain add tls.example --require encryption", "domain add plain.example --require encryption",
			"domain add broken.example --require tls", "domain add dane.example --require tls",
		},
		Prepare: func(b *lab.Bed) error { return strangeTLSA(b, "dane.example") },
	})
	send := func(to string) mail {
		mark, data := s.text("a private subject")
		s.must = append(s.must, mark)
		data = append([]byte("TLS-Required: No\r\n"), data...)
		m := s.accepted(s.submit(lab.Message{From: "a@own.example", To: []string{to}, Data: data}))
		m.mark = mark
		return m
	}
	waits := []string{"b@broken.example", "b@dane.example"}
	waiting := map[string]mail{}
	for _, to := range waits {
		waiting[to] = send(to)
	}
	s.arrivesByTLS(send("b@tls.example"), "b@tls.example")
	s.sealedAs(send("b@plain.example"), "b@plain.example")
	for _, to := range waits {
		s.waits(waiting[to], to, "")
	}
}
