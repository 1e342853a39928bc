package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/internal/lab"
	"github.com/postseal/postseal/internal/lab/fakesmtp"
)

// probed waits until postseal has looked at a host and said goodbye.
func (s *scene) probed(domain string) {
	s.t.Helper()
	h := s.host(domain)
	if !s.Wait(patience, func() bool {
		return slices.ContainsFunc(h.Sessions(), func(c fakesmtp.Session) bool {
			return c.Ended && len(c.Commands) > 1 && !slices.ContainsFunc(c.Commands, func(l string) bool { return strings.HasPrefix(l, "MAIL") })
		})
	}) {
		s.t.Fatalf("nobody has looked at %s", domain)
	}
	time.Sleep(300 * time.Millisecond) // until it is noted
}

func (s *scene) strip(domain string) {
	s.host(domain).Update(func(b *fakesmtp.Behaviour) { b.STARTTLS = false })
}
func (s *scene) restore(domain string) {
	s.host(domain).Update(func(b *fakesmtp.Behaviour) { b.STARTTLS = true })
}

func TestTLSThatVanishes(t *testing.T) {
	rules := []string{"domain add tls.example --require encryption", "sender add doc@own.example --require encryption"}
	for _, to := range []struct{ by, from string }{{"recipient", "a@own.example"}, {"sender", "doc@own.example"}} {
		t.Run("is waited for, then sealed, by "+to.by, func(t *testing.T) {
			s := newScene(t, lab.Options{Rules: rules, Env: []string{"POSTSEAL_GRACE=6s"}})
			s.arrivesByTLS(s.send(to.from, "first@tls.example"), "first@tls.example")
			s.probed("tls.example")
			s.strip("tls.example")
			m := s.send(to.from, "b@tls.example")
			s.waits(m, "b@tls.example", "had TLS until")
			s.sealedAs(m, "b@tls.example")
		})
		t.Run("is used when it comes back, by "+to.by, func(t *testing.T) {
			s := newScene(t, lab.Options{Rules: rules, Env: []string{"POSTSEAL_GRACE=1h"}})
			s.arrivesByTLS(s.send(to.from, "first@tls.example"), "first@tls.example")
			s.probed("tls.example")
			s.strip("tls.example")
			m := s.send(to.from, "b@tls.example")
			// The fallback has looked itself: for 10 seconds the look before counts.
			s.waits(m, "b@tls.example", "had TLS until")
			s.restore("tls.example")
			s.arrivesByTLS(m, "b@tls.example")
			s.notSealed("b@tls.example")
		})
	}
}

// TestGainedTLS is that a destination which gains TLS gets its later mail by it.
func TestGainedTLS(t *testing.T) {
	s := newScene(t, lab.Options{
		Hosts: map[string]lab.Kind{"late.example": lab.GoodTLS},
		Rules: []string{"domain add late.example --require tls"},
	})
	s.strip("late.example")
	m := s.send("a@own.example", "b@late.example")
	s.waits(m, "b@late.example", "TLS is required")
	s.restore("late.example")
	s.arrivesByTLS(m, "b@late.example")
}

// TestDownPostseal is that without Postseal nothing is taken and nothing leaves.
func TestDownPostseal(t *testing.T) {
	s := newScene(t, lab.Options{
		Hosts: map[string]lab.Kind{"late.example": lab.GoodTLS, "forced.example": lab.GoodTLS},
		Rules: []string{"sender add doc@own.example --require encryption", "domain add forced.example --require tls"},
	})
	s.check(s.Down("late.example"))
	s.check(s.Down("forced.example"))
	one := s.send("doc@own.example", "b@late.example")
	two := s.send("a@own.example", "b@forced.example")
	s.waits(one, "b@late.example", "")
	s.waits(two, "b@forced.example", "")

	s.Postseal.Kill()
	s.check(s.Up("late.example"))
	s.check(s.Up("forced.example"))
	s.strip("late.example")
	s.strip("forced.example")
	m := s.secret(lab.Message{From: "doc@own.example", To: []string{"c@plain.example"}})
	// 4.3.5 is the answer for the policy service; 4.3.0 would be for the maps, which
	// are the second guard.
	if r := m.Rcpt["c@plain.example"]; !strings.HasPrefix(r, "451 4.3.5") {
		t.Errorf("RCPT without Postseal was answered %q, want 451 4.3.5", r)
	}
	s.check(s.Postfix.Sendmail("doc@own.example", []string{"d@plain.example"}, one.data))
	s.check(s.Postfix.Flush())
	offset := len(s.Postfix.Log())
	for _, to := range []string{"b@forced.example", "d@plain.example"} {
		if !s.Postfix.WaitLog(offset, "to=<"+to+">", patience) {
			t.Errorf("no try for %s without Postseal", to)
		}
	}
	for _, m := range s.Received() {
		if !m.TLS && (m.HasTo("b@late.example") || m.HasTo("b@forced.example") || m.HasTo("d@plain.example")) {
			t.Errorf("%s got mail in plaintext without Postseal", m.Server)
		}
	}

	s.restore("forced.example")
	s.check(s.Postseal.Start())
	s.arrivesByTLS(two, "b@forced.example")
	s.sealed(one, "b@late.example")
}
