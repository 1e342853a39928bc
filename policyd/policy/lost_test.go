package policy

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// Whatever is remembered of a loss, and whether there is an alarm, decides nothing but
// whether the grace period runs: no mail that is required is in plaintext for it, and
// none is sealed that would not be sealed without.
func TestALossWeakensNothing(t *testing.T) {
	tried := 0
	eachInput(func(in Input) {
		before := Decide(in)
		now := in.Now
		for _, p := range []Posture{
			{Since: now.AddDate(-1, 0, 0), Worked: now.AddDate(0, 0, -1)},
			{Since: now.AddDate(-1, 0, 0), Worked: now.AddDate(0, 0, -1), Alarmed: now.Add(-time.Hour)},
		} {
			tried++
			lost := in
			lost.Posture.Since, lost.Posture.Worked, lost.Posture.Alarmed = p.Since, p.Worked, p.Alarmed
			if after := Decide(lost); after.Channel != before.Channel || after.Reason != before.Reason || after.TLS.Level != before.TLS.Level {
				t.Fatalf("%+v: %v, and with the loss %v", in, before, after)
			}
			// Of one that began just now, mail waits, or is as before.
			lost.Posture.Lost = now
			after := Decide(lost)
			if before.Channel != Plain && after.Channel == Plain || before.Channel != Escrow && after.Channel == Escrow {
				t.Fatalf("%+v: %v, and with the loss %v", in, before, after)
			}
		}
	})
	if tried == 0 {
		t.Error("nothing was tried")
	}
}

func TestExplainTellsOfALoss(t *testing.T) {
	at := func(d int) time.Time { return time.Date(2026, 3, d, 12, 0, 0, 0, time.UTC) }
	in := Input{
		Recipient: (&Rule{Scope: ByRecipient, Pattern: "x.example", Requirement: Encryption}).Found(), Now: at(9), Grace: time.Hour,
		Posture: Posture{State: Absent, Checked: at(9), Since: at(1), Worked: at(7), Lost: at(8)},
	}
	last := func() string { why := Explain(in, Decide(in)); return why[len(why)-1] }
	const had = "the destination had TLS from 2026-03-01T12:00:00Z to 2026-03-07T12:00:00Z, and was found without since 2026-03-08T12:00:00Z: it may have been removed, or stripped on the way"
	if got := last(); got != had {
		t.Errorf("%q", got)
	}
	in.Posture.Alarmed = at(8)
	if got := last(); got != had+"; an alarm was raised on 2026-03-08T12:00:00Z (it weakens nothing)" {
		t.Errorf("%q", got)
	}
	in.Posture.Lost, in.Posture.Alarmed = time.Time{}, time.Time{}
	if why := Explain(in, Decide(in)); slices.ContainsFunc(why, func(s string) bool { return strings.Contains(s, "had TLS") }) {
		t.Errorf("%q", why)
	}
	in.Posture.Lost, in.Own = at(8), true
	if got := last(); strings.Contains(got, "had TLS") {
		t.Errorf("of an own domain: %q", got)
	}
}
