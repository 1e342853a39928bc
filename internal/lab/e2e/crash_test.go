package e2e

import (
	"testing"

	"github.com/postseal/postseal/internal/lab"
)

// crashPoints are where the program is killed: before and after each commit,
// each reply, each re-injection and each notice. twice says that the message may
// be taken a second time: Postfix had answered 250, and we had not
// noted it yet.
var crashPoints = []struct {
	name  string
	twice bool
}{
	{name: "before-reply"},
	{name: "before-seal"},
	{name: "seal-before-commit"},
	{name: "seal-after-commit"},
	{name: "after-seal"},
	{name: "before-reinject"},
	{name: "after-reinject", twice: true},
	{name: "before-settle", twice: true},
	{name: "after-settle"},
	{name: "after-reply"},
	{name: "before-send", twice: true}, // notices go out while re-injection is in hand
	{name: "after-send", twice: true},
	{name: "after-sent", twice: true},
}

// TestKilled kills the program at each point, starts it again, and finds nothing
// lost, nothing sealed twice and nothing in plaintext.
func TestKilled(t *testing.T) {
	s := newScene(t, lab.Options{Rules: []string{"sender add doc@own.example --require encryption"}})
	for i, p := range crashPoints {
		s.run(p.name, func(t *testing.T) {
			u := "u" + string(rune('a'+i)) + "@"
			s.Postseal.Kill()
			s.check(s.Postseal.Start("POSTSEAL_CRASH_AT=" + p.name))
			m := s.send("doc@own.example", u+"tls.example", u+"plain.example", u+"own.example")
			if !s.Postseal.WaitExit(patience) {
				t.Fatal("the program never came to this point")
			}
			s.check(s.Postseal.Start())
			// trivial-rewrite(8) remembers for 30 seconds that the map was down.
			s.check(s.Postfix.Reload())
			if p.twice {
				if !s.Wait(patience, func() bool { return s.count(m.mark, u+"tls.example") > 0 }) {
					t.Error("nothing arrived at tls.example")
				}
			} else {
				s.arrivesByTLS(m, u+"tls.example")
			}
			if p.twice {
				if !s.Wait(patience, func() bool { return len(s.Postfix.Mailbox(u+"own.example")) > 0 }) {
					t.Error("nothing in the own mailbox")
				}
			} else {
				s.mailbox(m, u+"own.example")
			}
			s.sealedAs(m, u+"plain.example")
			for _, d := range []string{"tls.example", "plain.example", "own.example"} {
				s.drained(u + d)
			}
			items, err := s.Escrowed(u + "plain.example")
			s.check(err)
			if len(items) != 1 {
				t.Errorf("sealed %d times, want once", len(items))
			}
			// Killed before it is noted that Postfix has the notice, it is sent again. It goes
			// out as soon as the message is sealed, so any kill may hit that.
			mails, _ := s.Notices(u + "plain.example")
			if len(mails) == 0 || len(mails) > 2 {
				t.Errorf("%d notices, want one, or two", len(mails))
			}
		})
	}
}
