package escrow

import (
	"context"
	"fmt"
)

// Mails to the sender about the account of a recipient, beside MailEnrolled. No
// setting turns them off.
const (
	mailReset  = "reset"  // a mailed code has replaced its credentials
	mailForgot = "forgot" // the recipient can't get in, and asks for a reset
)

// enrolledMails are what the sender is told of an enrolment. replaced: it took the
// place of an account that there was.
func (v *Vault) enrolledMails(ctx context.Context, p *Pickup, how string, replaced bool) ([]NewMail, error) {
	s, err := v.store.PickupByID(ctx, p.id)
	if err != nil {
		return nil, fmt.Errorf("tell the sender of an enrolment: %w", err)
	}
	what := MailEnrolled
	switch {
	case replaced && v.canTell(s):
		what = mailReset
	case replaced || !v.wantsMail(ctx, s, what):
		return nil, nil
	}
	t := v.told(ctx, what, []StoredPickup{*s})
	t.How = how
	m, err := v.queued(t)
	return []NewMail{m}, err
}

// forgotMail asks the sender for a reset; ErrUnknown where there is nobody to ask.
func (v *Vault) forgotMail(ctx context.Context, p *Pickup) (NewMail, error) {
	s, err := v.store.PickupByID(ctx, p.id)
	if err != nil {
		return NewMail{}, err
	}
	if !v.canTell(s) {
		return NewMail{}, ErrUnknown
	}
	return v.queued(v.told(ctx, mailForgot, []StoredPickup{*s}))
}
