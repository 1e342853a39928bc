package intake

import (
	"strings"
	"testing"

	"github.com/postseal/postseal/policyd/policy"
)

// A message that goes in a circle ends: it has a Received field more each time.
func TestACircleIsCut(t *testing.T) {
	const field = "Received: from a by b (Postfix) id 4LOOP1; Tue, 24 Nov 2026 01:00:00 +0000\r\n"
	b := newBed(t, true)
	b.splitter(policy.None)
	below := strings.Count(plainText, "Received:")
	wantCodes(t, b.deliver(strings.Repeat(field, maxHops-below)+plainText, "plain@x.example"), "250 2.0.0")
	wantCodes(t, b.deliver(strings.Repeat(field, maxHops-below+1)+plainText, "plain@x.example", "sealed@x.example"), "554 5.4.6", "554 5.4.6")
	if p, s := len(b.plain.messages()), len(b.vault.sealed); p != 1 || s != 0 {
		t.Errorf("re-injected %d times, sealed %d times, want once and never", p, s)
	}
}
