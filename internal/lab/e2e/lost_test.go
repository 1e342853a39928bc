package e2e

import (
	"testing"
	"time"

	"github.com/postseal/postseal/internal/lab"
	"github.com/postseal/postseal/internal/lab/fakesmtp"
)

// TestLostReply is that a message whose sealing Postfix did not learn of is not
// delivered as well, where there is a road with TLS by the time of the retry.
func TestLostReply(t *testing.T) {
	s := newScene(t, lab.Options{
		Hosts: map[string]lab.Kind{"gate.example": lab.GoodTLS},
		Rules: []string{"domain add plain.example --require encryption"},
	})
	s.Postseal.Kill()
	s.check(s.Postseal.Start("POSTSEAL_CRASH_AT=after-seal"))
	m := s.send("a@own.example", "b@plain.example")
	if !s.Postseal.WaitExit(patience) {
		t.Fatal("the message did not come to the escrow")
	}
	s.rule("domain set plain.example --nexthop [mx.gate.example]:25")
	s.check(s.Postseal.Start())
	s.check(s.Postfix.Reload()) // trivial-rewrite(8) remembers for 30 seconds that the map was down
	s.drained("b@plain.example")
	s.sealed(m, "b@plain.example") // and not delivered too
	// The next message takes the new road.
	s.arrivesByTLS(s.send("a@own.example", "c@plain.example"), "c@plain.example")
}

// TestSlowDestination is that a destination of which nothing is known yet, since it
// takes its time, gets its mail over TLS and at once: nothing is sealed, and nothing
// takes the way by the splitter.
func TestSlowDestination(t *testing.T) {
	s := newScene(t, lab.Options{
		Hosts: map[string]lab.Kind{"slow.example": lab.GoodTLS},
		Rules: []string{"domain add slow.example --require encryption"},
	})
	s.host("slow.example").Update(func(b *fakesmtp.Behaviour) { b.BannerDelay = time.Second })
	if got := s.arrivesByTLS(s.send("a@own.example", "b@slow.example"), "b@slow.example"); hops(got) != 1 {
		t.Errorf("taken by Postfix %d times, want once", hops(got))
	}
	s.notSealed("b@slow.example")
}
