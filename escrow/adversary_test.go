package escrow_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/postseal/postseal/escrow"
)

// A request that began while the device was signed in, and comes to its end after the
// account was reset and made anew by its owner, changes nothing of the new one.
func TestAResetReachesRequestsUnderWay(t *testing.T) {
	b := newBench(t)
	p := b.accountItem(recipient)
	thief := b.enrolled(p)
	s, err := b.Admit(t.Context(), p, thief)
	b.must(err)
	b.must2(b.ResetAccount(t.Context(), recipient, escrow.ResetSender))
	owner := b.enrolled(b.again(p))
	if err := b.ChangePassword(t.Context(), thief, goodPassword, "the thief's own password", stranger); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("the password was changed: %v", err)
	}
	if _, err := b.SaveDraft(t.Context(), p, s, "pay to me", false); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("a draft was written: %v", err)
	}
	if _, err := b.SendReply(t.Context(), p, s); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("a reply was sent: %v", err)
	}
	s, err = b.Admit(t.Context(), p, owner)
	b.must(err)
	_, err = b.SaveDraft(t.Context(), p, s, "thank you", false)
	b.must(err)
	_, err = b.signIn(p, escrow.SignIn{Password: goodPassword})
	b.must(err)
}

// Who reads the mailbox, and guesses at a passphrase, gets no more tries by entering a
// right code in between.
func TestARightCodeForgetsNoPassphraseTries(t *testing.T) {
	b := newBench(t)
	b.seal(message([]byte("by code")))
	byCode := b.pickup(b.link(recipient))
	b.must(b.SetRecipient(t.Context(), recipient, escrow.VerifyPassphrase, []byte("seven grey herons")))
	tries := 0
	for n := range 8 {
		b.seal(message(fmt.Appendf(nil, "by passphrase %d", n)))
		p := b.pickup(b.link(recipient))
		for range 4 {
			_, err := b.Prove(t.Context(), p, "a guess at it", stranger)
			var locked *escrow.LockedError
			if errors.As(err, &locked) {
				continue
			}
			if !errors.Is(err, escrow.ErrWrong) {
				t.Fatal(err)
			}
			tries++
		}
		b.prove(byCode, b.code(byCode))
	}
	if tries > 10 {
		t.Errorf("%d guesses within a day", tries)
	}
}

// The link of a message that is over resets no account.
func TestTheSendersLinkEndsWithTheMessage(t *testing.T) {
	b := newBench(t)
	p := b.accountItem(recipient)
	b.enrolled(p)
	link := b.SenderLink(p.ItemID)
	token := link[strings.LastIndexByte(link, '/')+1:]
	v, err := b.SenderView(t.Context(), p.ItemID, token)
	b.must(err)
	b.must(b.SenderRetract(t.Context(), v, ""))
	v, err = b.SenderView(t.Context(), p.ItemID, token)
	b.must(err)
	if err := b.SenderReset(t.Context(), v, v.Recipients[0].ID); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("reset: %v", err)
	}
	a, err := b.Recipient(t.Context(), recipient)
	if err != nil || a.Account == nil {
		t.Errorf("the account is gone: %+v, %v", a, err)
	}
}

// A recipient can't fill the disk with replies, nor the sender's page with events.
func TestWhatARecipientRepeatsIsBounded(t *testing.T) {
	b := newBench(t)
	p := b.accountItem(recipient)
	d := b.enrolled(p)
	s, err := b.Admit(t.Context(), p, d)
	b.must(err)
	var locked *escrow.LockedError
	sent := 0
	for ; sent < 60; sent++ {
		_, err := b.SaveDraft(t.Context(), p, s, fmt.Sprint("letter ", sent), false)
		b.must(err)
		if _, err = b.SendReply(t.Context(), p, s); errors.As(err, &locked) {
			break
		}
		b.must(err)
	}
	if sent > 50 || sent < 20 {
		t.Errorf("%d replies within a day", sent)
	}
	if draft, err := b.Draft(t.Context(), p, s); err != nil || draft.Text == "" {
		t.Errorf("what was written is lost: %+v, %v", draft, err)
	}
	for range 120 {
		b.must(b.db.ChangeAccount(t.Context(), escrow.AccountChange{
			Address: recipient, Now: b.clock(), Pickup: p.PickupID(), Events: []escrow.Event{{At: b.clock(), What: escrow.EventVerified, Detail: "password"}},
		}))
	}
	if n := b.count(`SELECT count(*) FROM escrow_event`); n > 110 {
		t.Errorf("%d events", n)
	}
}
