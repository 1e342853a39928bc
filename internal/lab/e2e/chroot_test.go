package e2e

import (
	"testing"

	"github.com/postseal/postseal/internal/lab"
)

// TestChrooted is Debian's own layout, where smtpd, smtp, cleanup and trivial-rewrite
// run in a chroot: what setup writes works there too.
func TestChrooted(t *testing.T) {
	s := newScene(t, lab.Options{
		Postfix: lab.PostfixOptions{Chroot: true},
		Rules:   []string{"sender add doc@own.example --require encryption", "domain add bank.example --require tls"},
		Env:     []string{"POSTSEAL_SECURE_SUBJECT=[secure]"},
		Hosts:   map[string]lab.Kind{"bank.example": lab.GoodTLS},
	})
	m := s.send("doc@own.example", "a@tls.example", "b@plain.example", "c@broken.example", "d@own.example", "e@grey.example")
	s.arrivesByTLS(m, "a@tls.example")
	s.sealedAs(m, "b@plain.example")
	s.sealed(m, "c@broken.example")
	s.mailbox(m, "d@own.example")
	s.arrivesByTLS(m, "e@grey.example")
	s.arrivesByTLS(s.send("other@own.example", "f@bank.example"), "f@bank.example")

	mark, data := s.text("one [secure] message")
	s.must = append(s.must, mark)
	tagged := s.accepted(s.submit(lab.Message{From: "other@own.example", To: []string{"g@plain.example"}, Data: data}))
	tagged.mark = mark
	s.sealed(tagged, "g@plain.example")
}
