package intake

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/policyd/policy"
)

func (f *fakeAuditor) entries() []audit.Entry {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]audit.Entry{}, f.list...)
}

// TestWhatWaitsIsLoggedOnceADay has Postfix try again and again: that a message waits is
// logged once, and again for another reason, another message, and the next day.
func TestWhatWaitsIsLoggedOnceADay(t *testing.T) {
	b := newBed(t, true)
	f := &fakeAuditor{}
	var now atomic.Int64
	now.Store(time.Now().Unix())
	b.cfg.Audit, b.cfg.Now = f, func() time.Time { return time.Unix(now.Load(), 0) }
	_, p := b.fallback()
	c := b.dial()
	c.cmd("EHLO test", "250")
	logged := 0
	try := func(what, size, rcpt, code string, more int) {
		t.Helper()
		if id, ok := strings.CutPrefix(size, "id "); ok { // as the splitter hears it
			c.cmd("XFORWARD IDENT="+id, "250")
			size = "1000"
		}
		c.cmd("MAIL FROM:<s@s.example> SIZE="+size, "250")
		c.cmd("RCPT TO:<"+rcpt+">", code)
		c.cmd("RSET", "250")
		logged += more
		if n := len(f.entries()); n != logged {
			t.Errorf("%s: %d entries, want %d", what, n, logged)
			logged = n
		}
	}
	try("the first time", "1000", "fallback@unreach.example", "451 4.4.1", 1)
	for range 5 {
		now.Add(3600)
		try("again", "1000", "fallback@unreach.example", "451 4.4.1", 0)
	}
	try("another recipient", "1000", "plain@unreach.example", "451 4.4.1", 1)
	try("another message", "2000", "fallback@unreach.example", "451 4.4.1", 1)
	try("by its id", "id 4AAA", "fallback@unreach.example", "451 4.4.1", 1)
	try("again", "id 4AAA", "fallback@unreach.example", "451 4.4.1", 0)
	try("another id", "id 4BBB", "fallback@unreach.example", "451 4.4.1", 1)
	p.mu.Lock()
	p.state["unreach.example"] = policy.Posture{State: policy.Works}
	p.mu.Unlock()
	try("another reason", "1000", "fallback@unreach.example", "451 4.4.1", 1)
	try("again", "1000", "fallback@unreach.example", "451 4.4.1", 0)
	now.Add(24 * 3600)
	try("a day later", "1000", "fallback@unreach.example", "451 4.4.1", 1)
	now.Add(-12 * 3600)
	try("the clock was set back", "1000", "fallback@unreach.example", "451 4.4.1", 1)
	for range 2 {
		try("refused for good", "1000", "conflict@absent.example", "550", 1)
	}
	f.mu.Lock()
	f.err = errors.New("locked")
	f.mu.Unlock()
	try("can't be logged", "3000", "fallback@unknown.example", "451", 0)
	f.mu.Lock()
	f.err = nil
	f.mu.Unlock()
	try("and is so later", "3000", "fallback@unknown.example", "451", 1)
}

// TestRefusalsWithoutAVerdictAreLogged holds that mail that comes by a way for required mail
// is not refused unlogged: one that goes in a circle, that is too large, that is cut off.
func TestRefusalsWithoutAVerdictAreLogged(t *testing.T) {
	large := plainText + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 20000)
	circle := strings.Repeat("Received: from a by b; Tue, 24 Nov 2026 01:00:00 +0000\r\n", maxHops+1) + plainText
	for _, tt := range []struct {
		name, text string
		rcpt, code string
		floor      policy.Requirement
		why        string // "": not logged
	}{
		{"circle", circle, "secure@x.example", "554 5.4.6", policy.Encryption, "circle"},
		{"circle by the way that decides", circle, "secure@x.example", "554 5.4.6", policy.None, "circle"},
		{"large", large, "secure@x.example", "552 5.3.4", policy.EscrowOnly, "larger"},
		{"no verdict", plainText, "error@x.example", "451 4.3.0", policy.Encryption, "No decision"},
		{"no verdict by the way that decides", plainText, "error@x.example", "451 4.3.0", policy.None, ""},
		{"bounce", plainText, "postseal-bounce+1@own.example", "250", policy.Encryption, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBed(t, true)
			f := &fakeAuditor{}
			b.cfg.Audit = f
			b.splitter(tt.floor)
			wantCodes(t, b.deliver(tt.text, tt.rcpt), tt.code)
			b.stop()
			list := f.entries()
			if tt.why == "" {
				if len(list) != 0 {
					t.Errorf("%+v", list)
				}
				return
			}
			if len(list) != 1 || list[0].Recipient != tt.rcpt || !strings.Contains(list[0].Details["why"], tt.why) {
				t.Errorf("%+v", list)
			}
		})
	}
}

// TestWhatCouldNotBeRecordedIsLogged: Postfix has a message back, and the ledger can't be
// written. That it went is in the log all the same, as soon as that can be.
func TestWhatCouldNotBeRecordedIsLogged(t *testing.T) {
	b := newBed(t, true)
	f := &fakeAuditor{}
	b.cfg.Audit = f
	b.vault.settle = errors.New("locked")
	b.splitter(policy.None)
	wantCodes(t, b.deliver(plainText, "secure@x.example", "plain@x.example"), "250", "250")
	b.stop()
	var got []string
	for _, e := range f.entries() {
		got = append(got, e.Kind+" "+e.Recipient)
	}
	if strings.Join(got, ", ") != "decision secure@x.example, reinjected secure@x.example" {
		t.Errorf("%q", got)
	}
}
