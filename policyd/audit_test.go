package policyd

import (
	"errors"
	"strings"
	"testing"

	"github.com/postseal/postseal/internal/audit"
)

// fakeAuditor keeps entries, or fails.
type fakeAuditor struct {
	list []audit.Entry
	err  error
}

func (f *fakeAuditor) Add(e audit.Entry) error {
	if f.err == nil {
		f.list = append(f.list, e)
	}
	return f.err
}

// TestDecisionsAreLogged holds that each answer about required mail is, and no other.
func TestDecisionsAreLogged(t *testing.T) {
	f := &fakeAuditor{}
	s, _ := newServer(t, standardWorld(), func(c *Config) { c.Audit = f })
	for _, c := range []struct {
		sender, login, recipient, requires, outcome string // requires "": not logged
	}{
		{"a@x.example", "", "b@plain.example", "", ""},
		{"a@clinic.example", "", "b@tls.example", "encryption", "FILTER"},
		{"a@x.example", "drsmith", "b@tls.example", "encryption", "FILTER"},
		{"a@vault.example", "", "b@bank.example", "conflict", "REJECT"},
		{"a@x.example", "", "b@bank.example", "tls", "DUNNO"},
		{"a@x.example", "", "b@vault.example", "escrow", "DUNNO"},
		{"A@Forced.example", "", "B@tls.example", "tls", "FILTER"},
	} {
		f.list = nil
		answer := newSession(t, s, c.sender, c.login).rcpt(c.recipient)
		if c.requires == "" {
			if len(f.list) != 0 {
				t.Errorf("%+v: %+v", c, f.list)
			}
			continue
		}
		if len(f.list) != 1 {
			t.Errorf("%+v: answered %s, logged %+v", c, answer, f.list)
			continue
		}
		e := f.list[0]
		if e.Kind != audit.Decision || e.Actor.Kind != audit.ActorPostfix || e.Details["requires"] != c.requires ||
			!strings.HasPrefix(e.Details["outcome"], c.outcome) || e.Details["outcome"] != answer || e.Details["rules"] == "" || e.Details["login"] != c.login {
			t.Errorf("%+v: answered %s, logged %+v", c, answer, e)
		}
		if !strings.HasSuffix(e.Sender, strings.ToLower(c.sender[2:])) || !strings.HasSuffix(e.Recipient, c.recipient[2:]) {
			t.Errorf("%+v: %+v", c, e)
		}
	}
}

// TestWhatCannotBeLoggedWaits holds that required mail waits at the client while the
// log can't be written, whatever the answer would have been, and other mail does not.
func TestWhatCannotBeLoggedWaits(t *testing.T) {
	f := &fakeAuditor{err: errors.New("locked")}
	s, _ := newServer(t, standardWorld(), func(c *Config) { c.Audit = f })
	for _, c := range []struct{ sender, recipient string }{
		{"a@clinic.example", "b@tls.example"}, {"a@vault.example", "b@bank.example"}, {"a@x.example", "b@bank.example"},
	} {
		if got := newSession(t, s, c.sender, "").rcpt(c.recipient); !strings.HasPrefix(got, "DEFER_IF_PERMIT 4.3.0") {
			t.Errorf("%+v: %s", c, got)
		}
	}
	if got := newSession(t, s, "a@x.example", "").rcpt("b@plain.example"); got != "DUNNO" {
		t.Errorf("plain mail: %s", got)
	}
}
