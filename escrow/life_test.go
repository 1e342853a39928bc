package escrow_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/policyd/policy"
)

func TestAHoldKeepsContentAndKeysAndNobodysAccess(t *testing.T) {
	for end, over := range map[string]error{escrow.StateRetracted: escrow.ErrRetracted, escrow.StateExpired: escrow.ErrExpired} {
		t.Run(end, func(t *testing.T) {
			b := newBench(t)
			ctx := t.Context()
			ids := b.seal(message(bytes.Repeat([]byte("evidence "), 2000)))
			traces := b.traces(ids[0])
			item, secret := b.link(recipient)
			p := b.pickup(item, secret)
			token, err := b.Verify(ctx, p, b.code(p), stranger)
			b.must(err)
			if err := b.Hold(ctx, ids[0], " "); err == nil {
				t.Error("a hold without a reason")
			}
			b.must(b.Hold(ctx, ids[0], "case 12/26"))
			if err := b.Hold(ctx, ids[0], "again"); !errors.Is(err, escrow.ErrHeld) {
				t.Error(err)
			}
			b.read(p, token) // nothing changes for the recipient
			list, err := b.Show(ctx, ids[0])
			b.must(err)
			if list[0].Hold == nil || list[0].Hold.Note != "case 12/26" || list[0].State != escrow.StateRead {
				t.Errorf("listed: %+v", list[0])
			}

			if end == escrow.StateRetracted {
				b.must(b.Retract(ctx, ids[0], ""))
			} else {
				b.pass(escrow.DefaultLifetime)
			}
			_, err = b.Expire(ctx)
			b.must(err)
			if p, err := b.Pickup(ctx, item, secret); p.State != end || !errors.Is(err, over) {
				t.Errorf("the recipient sees %v, %v", p.State, err)
			}
			if s, err := b.CheckToken(ctx, p, token); err == nil {
				if _, err := b.Open(ctx, p, s); err == nil {
					t.Error("the recipient reads a held message after its end")
				}
			}
			if err := b.Resend(ctx, ids[0], ""); !errors.Is(err, escrow.ErrNotRecoverable) {
				t.Errorf("a new link to what has ended: %v", err)
			}
			if _, err := b.Extend(ctx, ids[0], "", time.Hour); !errors.Is(err, escrow.ErrUnknown) {
				t.Errorf("extended: %v", err)
			}
			if _, _, err := b.Purge(ctx, ids[0], time.Time{}, 0); !errors.Is(err, escrow.ErrHeld) {
				t.Errorf("purged: %v", err)
			}
			b.pass(200 * 24 * time.Hour) // longer than what has ended stays listed
			_, err = b.Expire(ctx)
			b.must(err)
			for what, trace := range traces {
				if what[:4] != "mail" && len(b.found(map[string][]byte{what: trace})) == 0 {
					t.Errorf("%s of a held message is gone", what)
				}
			}
			if list, err := b.Show(ctx, ids[0]); err != nil || list[0].Hold == nil || list[0].State != end {
				t.Errorf("after months: %v, %v", list, err)
			}

			b.must(b.Release(ctx, ids[0], "case closed"))
			if left := b.found(traces); len(left) > 0 {
				t.Errorf("after the release: %v", left)
			}
			if err := b.Release(ctx, ids[0], "twice"); !errors.Is(err, escrow.ErrNotHeld) && !errors.Is(err, escrow.ErrUnknown) {
				t.Error(err)
			}
		})
	}
}

func TestAHoldThatIsReleasedBeforeTheEndChangesNothing(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	ids := b.seal(message([]byte("x")))
	item, secret := b.link(recipient)
	b.must(b.Hold(ctx, ids[0], "n"))
	b.must(b.Release(ctx, ids[0], "n"))
	p := b.pickup(item, secret)
	if got := b.open(p, b.code(p)); string(got) != "x" {
		t.Errorf("%q", got)
	}
	traces := b.traces(ids[0])
	b.must(b.Retract(ctx, ids[0], ""))
	if left := b.found(traces); len(left) > 0 {
		t.Errorf("still held: %v", left)
	}
	if err := b.Hold(ctx, ids[0], "too late"); !errors.Is(err, escrow.ErrOver) {
		t.Error(err)
	}
}

func TestPurgeForgets(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	first := b.seal(message([]byte("1")))[0]
	b.mails()
	if _, _, err := b.Purge(ctx, first, time.Time{}, 0); !errors.Is(err, escrow.ErrNotOver) {
		t.Fatalf("a message that can be read was purged: %v", err)
	}
	b.must(b.Retract(ctx, first, ""))
	b.pass(48 * time.Hour)
	second, third := b.seal(message([]byte("2")))[0], b.seal(message([]byte("3")))[0]
	b.must(b.Retract(ctx, second, ""))
	if n, clean, err := b.Purge(ctx, "", b.clock().Add(-time.Hour), 0); n != 1 || !clean || err != nil {
		t.Errorf("purged %d, clean %v, %v", n, clean, err)
	}
	if _, err := b.Show(ctx, first); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("still known: %v", err)
	}
	if n, _, err := b.Purge(ctx, second, time.Time{}, 0); n != 1 || err != nil {
		t.Error(n, err)
	}
	if n, _, err := b.Purge(ctx, "", time.Time{}, 0); n != 0 || err != nil {
		t.Error(n, err)
	}
	if list, err := b.List(ctx, escrow.Filter{}); err != nil || len(list) != 1 || list[0].ID != third {
		t.Errorf("left: %v, %v", list, err)
	}
}

// checkpoint clears the journal.
func (b *bench) checkpoint() {
	b.t.Helper()
	if done, err := b.db.Checkpoint(b.t.Context()); err != nil || !done {
		b.t.Fatalf("journal cleared: %v, %v", done, err)
	}
}

func TestRulesBoundHowLongAMessageLives(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	const day = 24 * time.Hour
	ids := b.seal(message([]byte("x"),
		escrow.Recipient{Address: "a@old.example", Life: policy.Lifetimes{Usual: 7 * day, Max: 10 * day}},
		escrow.Recipient{Address: "b@old.example"},
	))
	start := b.clock()
	ends := func() (a, c time.Duration) {
		t.Helper()
		list, err := b.Show(ctx, ids[0])
		b.must(err)
		return list[0].Expires.Sub(start), list[1].Expires.Sub(start)
	}
	if x, y := ends(); x != 7*day || y != escrow.DefaultLifetime {
		t.Errorf("ends after %v, %v", x, y)
	}
	b.pass(2 * day)
	until, err := b.Extend(ctx, ids[0], "", 0)
	b.must(err)
	if x, y := ends(); x != 9*day || y != escrow.DefaultLifetime+2*day || !until.Equal(start.Add(y)) {
		t.Errorf("extended to %v, %v, said to be %v", x, y, until.Sub(start))
	}
	b.pass(6 * day)
	for _, by := range []time.Duration{0, 300 * day} {
		until, err = b.Extend(ctx, ids[0], "a@old.example", by)
		b.must(err)
		if x, _ := ends(); x != 10*day || !until.Equal(start.Add(x)) {
			t.Errorf("extended to %v, said to be %v", x, until.Sub(start))
		}
	}
	b.pass(2 * day)
	if n, err := b.Expire(ctx); n != 1 || err != nil {
		t.Errorf("expired: %d, %v", n, err)
	}
	if list, _ := b.Show(ctx, ids[0]); list[0].State != escrow.StateExpired || list[1].State != escrow.StateHeld {
		t.Errorf("%v", list)
	}
}
