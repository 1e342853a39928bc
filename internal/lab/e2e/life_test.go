package e2e

import (
	"strings"
	"testing"

	"github.com/postseal/postseal/internal/lab"
)

// TestLife fills a quota: what would be sealed beyond waits in Postfix's queue, also while
// what takes the room is on hold, and is sealed when there is room again.
func TestLife(t *testing.T) {
	s := newScene(t, lab.Options{
		Rules: []string{"sender add doc@own.example --require encryption"},
		Serve: []string{"--quota-domain", "30K"},
	})
	send := func(to string) mail {
		mark, data := s.text("a private subject")
		s.must = append(s.must, mark)
		data = append(data, strings.Repeat("A line that fills the quota up.\r\n", 600)...)
		m := s.accepted(s.submit(lab.Message{From: "doc@own.example", To: []string{to}, Data: data}))
		m.mark = mark
		return m
	}
	const first, second = "first@plain.example", "second@plain.example"
	s.sealed(send(first), first)
	held, err := s.Escrowed(first)
	s.check(err)
	waiting := send(second)
	s.waits(waiting, second, "Quota exceeded: the escrow of own.example is full")

	s.escrow("hold", held[0].ID, "--note", "case")
	s.escrow("retract", held[0].ID)
	before := s.deferrals(second)
	if !s.Wait(patience, func() bool { return s.deferrals(second) >= before+2 }) {
		t.Error("what is on hold takes no room, or the message was not tried again")
	}
	s.notSealed(second)

	s.escrow("release", held[0].ID, "--note", "closed")
	s.sealedAs(waiting, second)
}

func (s *scene) escrow(args ...string) {
	s.t.Helper()
	_, err := s.CLI(append([]string{"escrow"}, args...)...)
	s.check(err)
}

// deferrals counts how often mail for a recipient was deferred.
func (s *scene) deferrals(to string) (n int) {
	for line := range strings.Lines(s.Postfix.Log()) {
		if strings.Contains(line, "to=<"+to+">") && strings.Contains(line, "status=deferred") {
			n++
		}
	}
	return n
}
