package escrow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postseal/postseal/escrow/seal"
)

// Events of a pickup, as the sender's page shows them.
const (
	EventNotice    = "notice"    // Postfix took the notice; detail: resent
	EventBounced   = "bounced"   // the notice came back
	EventCode      = "code"      // a code was mailed
	EventLocked    = "locked"    // too many wrong tries
	EventEnrolled  = "enrolled"  // detail: password, passkey
	EventReset     = "reset"     // the account was reset; detail: sender, administrator, mailbox
	EventVerified  = "verified"  // detail: code, passphrase, password, passkey, totp
	EventRead      = "read"      // first reading; detail: the verification
	EventDownload  = "download"  // of the original
	EventReply     = "reply"     // a reply was sent
	EventExtended  = "extended"  //
	EventRetracted = "retracted" //
	EventExpired   = "expired"   //
)

// Event is one line of what happened to a pickup.
type Event struct {
	At     time.Time `json:"at"`
	What   string    `json:"what"`
	Detail string    `json:"detail,omitempty"`
}

// SenderView is what the sender of a message sees of it, got with the right link.
type SenderView struct {
	ItemID     string
	Sender     string
	Mode       string
	Size       int64
	Created    time.Time
	Expires    time.Time // the latest of its recipients
	Recipients []SenderRecipient
}

// SenderRecipient is one recipient on the sender's page.
type SenderRecipient struct {
	ID        string // of the pickup
	Address   string
	State     string // as it is now: of a message whose time is over, expired
	Notice    string
	Verify    string
	ReadHow   string // the verification at the first reading
	ReadAt    time.Time
	Expires   time.Time
	ExtendTo  time.Time // where extending would move it to; zero: nowhere
	Locked    time.Time // zero: not locked
	Enrolled  bool      // has an account
	CanResend bool      // and so get a passphrase, for this message
	// NeedsPhrase says that a new link needs a passphrase, and that none is kept:
	// it has to be given anew.
	NeedsPhrase bool
	Events      []Event

	folded string
}

// Over reports whether nothing can be changed any more.
func (r *SenderRecipient) Over() bool { return r.State != StateHeld && r.State != StateRead }

// extendLeast is the share of a lifetime that extending must give to be offered.
const extendLeast = 100

// Limits on new links that senders have mailed to their recipients.
const (
	resendsPickup    = 3
	resendsRecipient = 10
)

// SenderView finds what a link from [Vault.SenderLink] leads to; ErrUnknown if it is
// no such link, or all is gone. It changes nothing.
func (v *Vault) SenderView(ctx context.Context, item, token string) (*SenderView, error) {
	tag, err := seal.DecodeTag(token)
	if err != nil || !seal.IsID(item) || len(tag) != senderTag || !v.keys.checkTag(tag, "sender/1", item) {
		return nil, ErrUnknown
	}
	now := v.now()
	list, err := v.store.Pickups(ctx, PickupFilter{ItemID: item, Now: now})
	if err != nil {
		return nil, fmt.Errorf("sender's page: %w", err)
	}
	if len(list) == 0 {
		return nil, ErrUnknown
	}
	events, err := v.store.Events(ctx, item)
	if err != nil {
		return nil, fmt.Errorf("sender's page: %w", err)
	}
	s := &list[0]
	view := &SenderView{ItemID: item, Sender: s.Sender, Mode: s.Mode, Size: s.Size, Created: s.Created}
	for i := range list {
		r, err := v.senderRecipient(ctx, &list[i], events[list[i].ID], now)
		if err != nil {
			return nil, fmt.Errorf("sender's page: %w", err)
		}
		if r.Expires.After(view.Expires) {
			view.Expires = r.Expires
		}
		view.Recipients = append(view.Recipients, r)
	}
	return view, nil
}

func (v *Vault) senderRecipient(ctx context.Context, s *StoredPickup, events []Event, now time.Time) (SenderRecipient, error) {
	r := SenderRecipient{
		ID: s.ID, Address: s.Recipient, State: stateOf(s, now), Notice: s.Notice, Verify: s.Verify,
		ReadHow: s.ReadHow, ReadAt: s.ReadAt, Expires: s.Expires, Events: events, folded: s.Folded,
	}
	if r.Over() {
		return r, nil
	}
	lifetime := cmp.Or(s.Lifetime, v.lifetime)
	to := now.Add(lifetime)
	if !s.Most.IsZero() && to.After(s.Most) {
		to = s.Most
	}
	if to.Sub(s.Expires) > lifetime/extendLeast {
		r.ExtendTo = to
	}
	account, err := v.store.AccountOf(ctx, s.Folded)
	if err != nil && !errors.Is(err, ErrUnknown) {
		return r, err
	}
	r.Enrolled = err == nil && account != nil
	p := &Pickup{id: s.ID, folded: s.Folded, Verify: s.Verify}
	limits := v.guessLimits(p, Client{})
	if s.Verify == VerifyAccount && r.Enrolled {
		limits = v.passwordLimits(p, Client{})
	}
	if r.Locked, err = v.store.Locked(ctx, keysOf(limits), now); err != nil {
		return r, err
	}
	r.CanResend = s.Mode == ModeRecoverable
	if r.CanResend && s.Verify == VerifyPassphrase {
		set, err := v.store.Recipients(ctx, []string{s.Folded})
		if err != nil {
			return r, err
		}
		r.NeedsPhrase = len(set) == 0 || set[0].Hashed == nil
	}
	return r, nil
}

// recipient finds a recipient of the view; ErrUnknown if it is none.
func (w *SenderView) recipient(pickup string) (*SenderRecipient, error) {
	for i := range w.Recipients {
		if w.Recipients[i].ID == pickup {
			return &w.Recipients[i], nil
		}
	}
	return nil, ErrUnknown
}

// SenderExtend is Extend for the lifetime of a new message; pickup is "" for all
// recipients.
func (v *Vault) SenderExtend(ctx context.Context, w *SenderView, pickup string) (time.Time, error) {
	folded, err := w.folded(pickup)
	if err != nil {
		return time.Time{}, err
	}
	return v.extend(ctx, w.ItemID, folded, bySender, 0)
}

// SenderRetract is Retract by the sender, who is not told of it by mail; pickup is
// "" for all recipients.
func (v *Vault) SenderRetract(ctx context.Context, w *SenderView, pickup string) error {
	folded, err := w.folded(pickup)
	if err != nil {
		return err
	}
	return v.retract(ctx, w.ItemID, folded, bySender)
}

func (w *SenderView) folded(pickup string) (string, error) {
	if pickup == "" {
		return "", nil
	}
	r, err := w.recipient(pickup)
	if err != nil {
		return "", err
	}
	return r.folded, nil
}

// SenderResend is Resend by the sender. *LockedError after too many: each is a mail
// to the recipient.
func (v *Vault) SenderResend(ctx context.Context, w *SenderView, pickup string) error {
	s, err := v.chargeResend(ctx, w, pickup)
	if err != nil {
		return err
	}
	return v.resend(ctx, s, nil)
}

// SenderPassphrase mails the recipient a new link that needs a passphrase, for this
// message alone; the old link is dead. *PassphraseError if it can't be taken,
// *LockedError as in SenderResend.
func (v *Vault) SenderPassphrase(ctx context.Context, w *SenderView, pickup, phrase string) error {
	if err := seal.CheckPassphrase([]byte(phrase)); err != nil {
		return &PassphraseError{err}
	}
	s, err := v.chargeResend(ctx, w, pickup)
	if err != nil {
		return err
	}
	once := StoredRecipient{Address: s.Folded, Verify: VerifyPassphrase, Passphrase: seal.NewHashing()}
	hashed, err := v.hash(ctx, []byte(phrase), once.Passphrase)
	if err != nil {
		return fmt.Errorf("set a passphrase: %w", err)
	}
	if once.Hashed, err = v.keys.seal(hashed, "passphrase/1", s.Folded); err != nil {
		return fmt.Errorf("set a passphrase: %w", err)
	}
	return v.resend(ctx, s, &once)
}

// PassphraseError says why a passphrase can't be set.
type PassphraseError struct{ Err error }

func (e *PassphraseError) Error() string { return e.Err.Error() }
func (e *PassphraseError) Unwrap() error { return e.Err }

// chargeResend counts a mail to the recipient that the sender asks for.
func (v *Vault) chargeResend(ctx context.Context, w *SenderView, pickup string) (*StoredPickup, error) {
	r, err := w.recipient(pickup)
	if err != nil {
		return nil, err
	}
	s, err := v.store.PickupByID(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	now := v.now()
	switch {
	case stateOf(s, now) != StateHeld && stateOf(s, now) != StateRead:
		return nil, ErrUnknown
	case s.Mode != ModeRecoverable:
		return nil, ErrNotRecoverable
	}
	limits := v.limits(&Pickup{id: s.ID, folded: s.Folded}, Client{}, "resend", windowCodes, resendsPickup, resendsRecipient, 0)
	locked, _, err := v.store.Charge(ctx, limits, now)
	if err != nil {
		return nil, fmt.Errorf("resend: %w", err)
	}
	if !locked.IsZero() {
		return nil, &LockedError{Until: locked}
	}
	return s, nil
}

// SenderReset deletes the account of a recipient, who can make it anew with a mailed
// code. ErrUnknown if there is none, or the message is over.
func (v *Vault) SenderReset(ctx context.Context, w *SenderView, pickup string) error {
	r, err := w.recipient(pickup)
	if err != nil {
		return err
	}
	if r.Over() { // whose link is power over nothing any more
		return ErrUnknown
	}
	reset, err := v.resetAccount(ctx, v.log.With("item", w.ItemID), r.folded, bySender)
	if err == nil && !reset {
		err = ErrUnknown
	}
	return err
}

// MinPassphrase is how many characters a passphrase needs.
const MinPassphrase = seal.MinPassphrase
