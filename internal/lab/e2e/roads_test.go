package e2e

import (
	"testing"

	"github.com/postseal/postseal/internal/lab"
)

// table writes a table into Postfix's configuration directory and returns its
// texthash: name.
func table(t *testing.T, b *lab.Bed, name, text string) string {
	t.Helper()
	path, err := b.Postfix.WriteFile(name, text)
	if err != nil {
		t.Fatal(err)
	}
	return "texthash:" + path
}

func TestRelayhost(t *testing.T) {
	rules := []string{
		"sender add doc@own.example --require encryption",
		"domain add forced.example --require tls",
		"domain add enc.example --require encryption",
	}
	t.Run("with TLS takes required mail by TLS", func(t *testing.T) {
		s := newScene(t, lab.Options{
			Hosts:   map[string]lab.Kind{"relay.example": lab.GoodTLS, "forced.example": lab.NoTLS, "enc.example": lab.NoTLS},
			Postfix: lab.PostfixOptions{RelayHost: "[mx.relay.example]"},
			Rules:   rules,
		})
		for _, m := range [][2]string{{"doc@own.example", "b@plain.example"}, {"a@own.example", "b@forced.example"}, {"a@own.example", "b@enc.example"}} {
			if got := s.arrivesByTLS(s.send(m[0], m[1]), m[1]); got.Server != "mx.relay.example" {
				t.Errorf("mail for %s went to %s, want the relayhost", m[1], got.Server)
			}
		}
	})
	t.Run("without TLS gets none in plaintext", func(t *testing.T) {
		s := newScene(t, lab.Options{
			Hosts:   map[string]lab.Kind{"relay.example": lab.NoTLS, "forced.example": lab.GoodTLS, "enc.example": lab.GoodTLS},
			Postfix: lab.PostfixOptions{RelayHost: "[mx.relay.example]"},
			Rules:   rules,
		})
		s.sealed(s.send("doc@own.example", "b@tls.example"), "b@tls.example")
		s.sealed(s.send("a@own.example", "b@enc.example"), "b@enc.example")
		s.waits(s.send("a@own.example", "b@forced.example"), "b@forced.example", "TLS is required")
	})
}

func TestNexthopOfARule(t *testing.T) {
	s := newScene(t, lab.Options{
		Hosts: map[string]lab.Kind{"gate.example": lab.GoodTLS, "plaingate.example": lab.NoTLS, "partner.example": lab.NoTLS, "second.example": lab.GoodTLS},
		Rules: []string{
			"domain add partner.example --require encryption --nexthop [mx.gate.example]:25",
			"domain add second.example --require tls --nexthop [mx.plaingate.example]:25",
			"sender add doc@own.example --require encryption",
		},
	})
	for _, from := range []string{"a@own.example", "doc@own.example"} {
		m := s.send(from, "b@partner.example", "b@tls.example")
		if got := s.arrivesByTLS(m, "b@partner.example"); got.Server != "mx.gate.example" {
			t.Errorf("from %s: arrived at %s, want the rule's next-hop", from, got.Server)
		}
		s.once = nil // the next round has the same recipient
	}
	s.waits(s.send("a@own.example", "b@second.example"), "b@second.example", "TLS is required")
}

func TestAdministratorsTransport(t *testing.T) {
	s := newScene(t, lab.Options{
		Hosts: map[string]lab.Kind{"gate.example": lab.GoodTLS, "plaingate.example": lab.NoTLS, "good.example": lab.GoodTLS, "bad.example": lab.GoodTLS, "odd.example": lab.GoodTLS},
		Rules: []string{"sender add doc@own.example --require encryption"},
		Prepare: func(b *lab.Bed) error {
			return b.Postfix.AddMainCF("transport_maps", table(t, b, "transport",
				"good.example smtp:[mx.gate.example]\nbad.example smtp:[mx.plaingate.example]\nodd.example error:no such road\n"))
		},
	})
	if got := s.arrivesByTLS(s.send("doc@own.example", "b@good.example"), "b@good.example"); got.Server != "mx.gate.example" {
		t.Errorf("arrived at %s, want the administrator's gate", got.Server)
	}
	s.sealed(s.send("doc@own.example", "b@bad.example"), "b@bad.example")
	if got := s.arrives(s.plain("a@own.example", "c@bad.example"), "c@bad.example"); got.Server != "mx.plaingate.example" {
		t.Errorf("what needs no encryption went to %s, want the administrator's gate", got.Server)
	}
	m := s.secret(lab.Message{From: "doc@own.example", To: []string{"b@odd.example"}})
	if m.Accepted() {
		s.drained("b@odd.example")
	}
}

// TestForwards is that an alias of a local user does not take a message of a
// sender with a rule out in plaintext.
func TestForwards(t *testing.T) {
	s := newScene(t, lab.Options{
		Rules: []string{"sender add doc@own.example --require encryption"},
		Postfix: lab.PostfixOptions{
			LocalDomains: []string{"staff.example"},
			Aliases:      map[string]string{"away": "out@plain.example", "abroad": "out@tls.example"},
		},
	})
	s.sealedAs(s.send("doc@own.example", "away@staff.example"), "out@plain.example")
	s.arrivesByTLS(s.send("doc@own.example", "abroad@staff.example"), "out@tls.example")
}

func TestAlwaysBcc(t *testing.T) {
	s := newScene(t, lab.Options{
		Rules:   []string{"sender add doc@own.example --require encryption"},
		Postfix: lab.PostfixOptions{MainCF: map[string]string{"always_bcc": "archive@own.example"}},
	})
	m := s.send("doc@own.example", "b@tls.example", "b@plain.example", "c@own.example")
	s.arrivesByTLS(m, "b@tls.example")
	s.sealed(m, "b@plain.example")
	s.mailbox(m, "c@own.example")
	s.mailbox(m, "archive@own.example")
	s.drained("archive@own.example")
	s.mailbox(m, "archive@own.example")
}
