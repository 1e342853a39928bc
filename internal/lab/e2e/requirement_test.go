package e2e

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/internal/lab"
	"github.com/postseal/postseal/internal/lab/fakesmtp"
)

func TestForcedTLS(t *testing.T) {
	s := newScene(t, lab.Options{
		Hosts: map[string]lab.Kind{"bank.example": lab.GoodTLS, "wrong.example": lab.GoodTLS},
		Rules: []string{
			"domain add tls.example --require tls",
			"domain add plain.example --require tls",
			"domain add broken.example --require tls",
			"domain add bank.example --require tls --level secure --match .bank.example",
			"domain add wrong.example --require tls --level secure --match .other.example",
		},
	})
	s.run("arrives over TLS where there is TLS", func(t *testing.T) {
		m := s.send("a@own.example", "b@tls.example")
		if got := s.arrivesByTLS(m, "b@tls.example"); hops(got) != 1 {
			t.Errorf("taken by Postfix %d times, want once", hops(got))
		}
	})
	s.run("waits where there is none", func(t *testing.T) {
		s.waits(s.send("a@own.example", "b@plain.example"), "b@plain.example", "TLS is required")
	})
	s.run("waits where TLS is broken", func(t *testing.T) {
		s.waits(s.send("a@own.example", "b@broken.example"), "b@broken.example", "TLS")
	})
	s.run("checks the certificate where the rule says so", func(t *testing.T) {
		s.arrivesByTLS(s.send("a@own.example", "b@bank.example"), "b@bank.example")
		s.waits(s.send("a@own.example", "b@wrong.example"), "b@wrong.example", "certificate")
	})
}

func TestForcedTLSWithoutTLSCanBeRefused(t *testing.T) {
	for setting, code := range map[string]string{"reject": "5", "defer": "4"} {
		t.Run(setting, func(t *testing.T) {
			s := newScene(t, lab.Options{
				Rules: []string{"domain add plain.example --require tls"},
				Serve: []string{"--forced-unreachable", setting},
			})
			// The first tries may come before the destination is known.
			if !s.Wait(patience, func() bool {
				m := s.secret(lab.Message{From: "a@own.example", To: []string{"b@plain.example"}})
				return strings.HasPrefix(m.Rcpt["b@plain.example"], code)
			}) {
				t.Errorf("mail to a destination without TLS was never answered %s", code)
			}
		})
	}
}

func TestEncryption(t *testing.T) {
	s := newScene(t, lab.Options{Rules: []string{
		"domain add tls.example --require encryption",
		"domain add plain.example --require encryption",
		"domain add broken.example --require encryption",
		"domain add grey.example --require encryption",
		"domain add dead.example --require encryption",
		"domain add always@tls.example --require escrow",
	}})
	s.run("goes over TLS without a detour", func(t *testing.T) {
		if got := s.arrivesByTLS(s.send("a@own.example", "b@tls.example"), "b@tls.example"); hops(got) != 1 {
			t.Errorf("taken by Postfix %d times, want once", hops(got))
		}
		s.notSealed("b@tls.example")
	})
	s.run("is sealed without TLS, and read as it was sent", func(t *testing.T) {
		s.sealedAs(s.send("a@own.example", "b@plain.example"), "b@plain.example")
	})
	s.run("is sealed where TLS is broken", func(t *testing.T) {
		s.sealedAs(s.send("a@own.example", "b@broken.example"), "b@broken.example")
	})
	s.run("greylisting is not mistaken for missing TLS", func(t *testing.T) {
		s.arrivesByTLS(s.send("a@own.example", "b@grey.example"), "b@grey.example")
		s.notSealed("b@grey.example")
	})
	s.run("a dead host is waited for", func(t *testing.T) {
		s.waits(s.send("a@own.example", "b@dead.example"), "b@dead.example", "")
	})
	s.run("always the escrow where the rule says so", func(t *testing.T) {
		// The notice goes over TLS, as opportunistic TLS does.
		s.sealedAs(s.send("a@own.example", "always@tls.example"), "always@tls.example")
	})
}

// TestBytes sends what breaks naive code, and wants it back from the escrow byte
// for byte. Postfix itself turns a bare LF into CRLF when it takes the mail.
func TestBytes(t *testing.T) {
	s := newScene(t, lab.Options{
		Rules:   []string{"domain add plain.example --require encryption"},
		Postfix: set("cleanup_replace_stray_cr_lf", "no"), // 3.7.10 and later: else a bare CR becomes a space
	})
	head := "From: a@own.example\r\nTo: b@plain.example\r\nSubject: bytes\r\nMessage-ID: <bytes@own.example>\r\nDate: Mon, 2 Nov 2026 10:00:00 +0000\r\n\r\n"
	tests := []struct {
		name, body, want string
		bdat             bool
	}{
		{name: "a line of 5000 bytes", body: strings.Repeat("x", 5000) + "\r\n"},
		{name: "dots at the start of lines", body: ".\r\n..\r\n.x\r\n"},
		{name: "NUL", body: "a\x00b\r\n"},
		{name: "a bare CR", body: "a\rb\r\n"},
		{name: "a bare LF", body: "a\nb\r\n", want: "a\r\nb\r\n"},
		{name: "8 bits", body: "gr\xfc\xdfe \xff\xfe\r\n"},
		{name: "no final newline", body: "the end", bdat: true, want: "the end\r\n"},
		{name: "no body at all", body: ""},
	}
	for i, tt := range tests {
		s.run(tt.name, func(t *testing.T) {
			to := "b" + string(rune('0'+i)) + "@plain.example"
			want := tt.want
			if want == "" {
				want = tt.body
			}
			m := s.submit(lab.Message{From: "a@own.example", To: []string{to}, Data: []byte(head + tt.body), BDAT: tt.bdat, FromParams: "BODY=8BITMIME"})
			s.accepted(m)
			link, err := s.WaitNotice(to, patience)
			s.check(err)
			got, err := s.Pickup(to, link, "")
			s.check(err)
			if !bytes.HasSuffix(got, []byte(head+want)) {
				t.Errorf("downloaded %q\nwant the end to be %q", got, head+want)
			}
		})
	}
}

// TestEachRecipientWhereItShould is one message to five recipients, of which
// each goes its own way.
func TestEachRecipientWhereItShould(t *testing.T) {
	s := newScene(t, lab.Options{
		Rules: []string{
			"sender add doc@own.example --require encryption",
			"sender add --login drsmith --require encryption",
		},
		Env: []string{"POSTSEAL_SECURE_SUBJECT=[secure]"},
	})
	tests := []struct{ name, from, login, subject string }{
		{"by envelope sender", "doc@own.example", "", "plain words"},
		{"by login", "smith@own.example", "drsmith", "plain words"},
		{"by subject", "nurse@own.example", "", "results [secure] for you"},
		{"by subject in encoded words", "nurse@own.example", "", "=?utf-8?B?W3NlY3VyZV0gZ3LDvMOfZQ==?="}, // [secure] grüße
	}
	for i, tt := range tests {
		s.run(tt.name, func(t *testing.T) {
			u := "u" + string(rune('0'+i)) + "@"
			mark, data := s.text(tt.subject)
			s.must = append(s.must, mark)
			m := s.accepted(s.submit(lab.Message{From: tt.from, Login: tt.login, Data: data, To: []string{
				u + "tls.example", u + "plain.example", u + "broken.example", u + "own.example", u + "grey.example"}}))
			m.mark = mark
			s.arrivesByTLS(m, u+"tls.example")
			s.sealedAs(m, u+"plain.example")
			s.sealedAs(m, u+"broken.example")
			s.mailbox(m, u+"own.example")
			s.arrivesByTLS(m, u+"grey.example")
			for _, d := range []string{"tls.example", "grey.example", "own.example"} {
				s.notSealed(u + d)
			}
			for _, d := range []string{"tls.example", "plain.example", "broken.example", "own.example", "grey.example"} {
				s.drained(u + d)
			}
		})
	}
}

// TestNothingRequired is that all other mail goes as before.
func TestNothingRequired(t *testing.T) {
	s := newScene(t, lab.Options{Rules: []string{"sender add doc@own.example --require encryption"}})
	m := s.plain("nurse@own.example", "b@tls.example", "b@plain.example", "b@broken.example", "c@own.example")
	if got := s.arrives(m, "b@plain.example"); got.TLS || hops(got) != 1 {
		t.Errorf("to plain.example: TLS %v, taken %d times, want plaintext and once", got.TLS, hops(got))
	}
	s.arrivesByTLS(m, "b@tls.example")
	if got := s.arrives(m, "b@broken.example"); got.TLS {
		t.Error("broken.example has no TLS")
	}
	s.mailbox(m, "c@own.example")
}

// TestRulesReachARunningServer is that a change counts within a second.
func TestRulesReachARunningServer(t *testing.T) {
	s := newScene(t, lab.Options{})
	s.arrives(s.plain("a@own.example", "b@plain.example"), "b@plain.example")
	start := time.Now()
	s.rule("domain add plain.example --require encryption")
	t.Logf("the server has the rule after %v", time.Since(start))
	m := s.send("a@own.example", "c@plain.example")
	s.sealed(m, "c@plain.example")
	s.rule("domain remove plain.example")
	if got := s.arrives(s.plain("a@own.example", "d@plain.example"), "d@plain.example"); got.TLS {
		t.Error("plain.example has no TLS")
	}
}

// TestConflict is that two rules which leave nothing are refused, named.
func TestConflict(t *testing.T) {
	s := newScene(t, lab.Options{Rules: []string{
		"sender add doc@own.example --require escrow",
		"domain add tls.example --require tls",
	}})
	m := s.secret(lab.Message{From: "doc@own.example", To: []string{"b@tls.example"}})
	r := m.Rcpt["b@tls.example"]
	if !strings.HasPrefix(r, "5") || !strings.Contains(r, "5.7") || !strings.Contains(r, "tls.example") || !strings.Contains(r, "doc@own.example") {
		t.Errorf("RCPT was answered %q, want 5.7.x that names both rules", r)
	}
}

// TestMoreHosts is that Postfix and the probe agree where MX hosts differ.
func TestMoreHosts(t *testing.T) {
	s := newScene(t, lab.Options{Rules: []string{"domain add mixed.example --require encryption", "domain add order.example --require encryption"}})
	bad, err := s.Behaviour(lab.NoTLS, "bad.example")
	s.check(err)
	good, err := s.Behaviour(lab.GoodTLS, "good.example")
	s.check(err)
	for _, b := range []fakesmtp.Behaviour{bad, good} {
		_, err := s.AddHost(b.Name, b)
		s.check(err)
	}
	s.check(s.Record("mixed.example", "MX", "10 bad.example.", "20 good.example."))
	s.check(s.Record("order.example", "MX", "10 good.example.", "20 bad.example."))
	for _, d := range []string{"mixed.example", "order.example"} {
		s.arrivesByTLS(s.send("a@own.example", "b@"+d), "b@"+d)
		s.notSealed("b@" + d)
	}
}
