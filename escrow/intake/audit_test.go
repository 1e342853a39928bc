package intake

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/policyd/policy"
)

// fakeAuditor keeps entries, or fails.
type fakeAuditor struct {
	mu   sync.Mutex
	list []audit.Entry
	err  error
}

func (f *fakeAuditor) Add(e audit.Entry) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.list = append(f.list, e)
	}
	return f.err
}

// TestWhatWasNotDoneIsLogged holds that refusals and what waits are logged, with the
// reason; and that nothing is of which the transaction of the deed has the entry.
func TestWhatWasNotDoneIsLogged(t *testing.T) {
	b := newBed(t, true)
	f := &fakeAuditor{}
	b.cfg.Audit = f
	b.splitter(policy.None)
	got := b.deliver(plainText, "plain@x.example", "secure@x.example", "sealed@x.example", "conflict@x.example", "blocked@x.example", "error@x.example")
	wantCodes(t, got, "250 2.0.0", "250 2.0.0", "250 2.0.0", "554 5.7.1", "451 4.7.1", "451 4.3.0")
	b.stop()
	if len(f.list) != 2 {
		t.Fatalf("%+v", f.list)
	}
	for i, want := range []struct{ recipient, outcome, requires, why string }{
		{"conflict@x.example", "conflict", "conflict", "exclude"},
		{"blocked@x.example", "deferred", "encryption", "the road is not SMTP"},
	} {
		e := f.list[i]
		if e.Kind != audit.Decision || e.Recipient != want.recipient || e.Details["outcome"] != want.outcome || e.Details["requires"] != want.requires ||
			!strings.Contains(e.Details["why"], want.why) || e.Details["queue_id"] != "4XYZ123" || !strings.HasPrefix(e.Actor.Name, "splitter") {
			t.Errorf("%+v, want %+v", e, want)
		}
	}
}

// TestNoRefusalForGoodThatIsNotLogged holds that mail waits rather than bounce unlogged.
func TestNoRefusalForGoodThatIsNotLogged(t *testing.T) {
	b := newBed(t, true)
	b.cfg.Audit = &fakeAuditor{err: errors.New("locked")}
	b.splitter(policy.None)
	got := b.deliver(plainText, "plain@x.example", "sealed@x.example", "conflict@x.example", "blocked@x.example")
	wantCodes(t, got, "250 2.0.0", "250 2.0.0", "451 4.3.0", "451 4.7.1")
}
