package escrow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postseal/postseal/escrow/notify"
	"github.com/postseal/postseal/escrow/seal"
)

// tombstones is how long an ended pickup stays listed, and who has its link is
// told why it is over.
const tombstones = 90 * 24 * time.Hour

// expireInterval is how often Run looks for messages whose time is over. No
// pickup opens after its time, whether or not that was done.
const expireInterval = time.Minute

// uncleanInterval is how often Run tries to clear the journal of what was deleted while
// somebody, such as a backup, still reads an older state.
const uncleanInterval = 5 * time.Second

// List lists pickups, the newest first.
func (v *Vault) List(ctx context.Context, f Filter) ([]Listed, error) {
	now := v.now()
	q := PickupFilter{ItemID: f.ItemID, State: f.State, Limit: f.Limit, Now: now}
	switch f.State {
	case "", StateHeld, StateRead, StateExpired, StateRetracted:
	default:
		return nil, fmt.Errorf("unknown state %q: want held, read, expired or retracted", f.State)
	}
	for _, a := range []struct {
		from string
		to   *string
	}{{f.Recipient, &q.Recipient}, {f.Sender, &q.Sender}} {
		folded, err := fold(a.from)
		if err != nil {
			return nil, fmt.Errorf("address %q: %w", a.from, err)
		}
		*a.to = folded
	}
	stored, err := v.store.Pickups(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	list := make([]Listed, len(stored)) // an empty list is [] in JSON
	for i, s := range stored {
		list[i] = Listed{
			ID: s.ItemID, Sender: s.Sender, Recipient: s.Recipient, State: stateOf(&s, now), Created: s.Created,
			Expires: s.Expires, Size: s.Size, Verify: s.Verify, Mode: s.Mode, QueueID: s.QueueID, Notice: s.Notice,
		}
		if !s.ReadAt.IsZero() {
			list[i].ReadAt = &s.ReadAt
		}
		if !s.Hold.At.IsZero() {
			list[i].Hold = &s.Hold
		}
	}
	return list, nil
}

func stateOf(s *StoredPickup, now time.Time) string {
	if (s.State == StateHeld || s.State == StateRead) && !now.Before(s.Expires) {
		return StateExpired
	}
	return s.State
}

// Show lists the pickups of one item; ErrUnknown if there is none.
func (v *Vault) Show(ctx context.Context, id string) ([]Listed, error) {
	if !seal.IsID(id) {
		return nil, ErrUnknown
	}
	list, err := v.List(ctx, Filter{ItemID: id})
	if err == nil && len(list) == 0 {
		err = ErrUnknown
	}
	return list, err
}

// Retract takes a message back, from one recipient (any spelling) or from all
// (""). When it returns the keys are gone, and no link opens it. ErrUnknown if
// there is no such message that is not over.
func (v *Vault) Retract(ctx context.Context, id, recipient string) error {
	folded, err := fold(recipient)
	if err != nil {
		return fmt.Errorf("retract: %w", err)
	}
	if !seal.IsID(id) {
		return ErrUnknown
	}
	return v.retract(ctx, id, folded, byAdministrator)
}

// Who changes something, as events name them.
const (
	bySender        = "sender"
	byAdministrator = "administrator"
)

func (v *Vault) retract(ctx context.Context, id, folded, by string) error {
	n, err := v.store.Retract(ctx, id, folded, by, v.now())
	if err != nil {
		return fmt.Errorf("retract: %w", err)
	}
	if n == 0 {
		return ErrUnknown
	}
	if err := v.tellEnds(ctx); err != nil {
		v.log.Warn("the sender is told later that a message was retracted", "item", id, "error", err)
	}
	v.metrics.retracted.Add(float64(n))
	v.log.Info("message retracted", "item", id, "recipients", n)
	v.sweep(ctx)
	return nil
}

// Extend lets a message be read for lifetime from now on (zero: for as long as a new
// one), by one recipient (any spelling) or by all (""), but not beyond what the rules
// allowed when it was sealed. Who could read it longer still can. Links, devices and
// passphrases stay as they are. It returns the end that it has now; ErrUnknown if there is no such message that is not over.
func (v *Vault) Extend(ctx context.Context, id, recipient string, lifetime time.Duration) (time.Time, error) {
	folded, err := fold(recipient)
	if err != nil {
		return time.Time{}, fmt.Errorf("extend: %w", err)
	}
	if !seal.IsID(id) {
		return time.Time{}, ErrUnknown
	}
	return v.extend(ctx, id, folded, byAdministrator, lifetime)
}

func (v *Vault) extend(ctx context.Context, id, folded, by string, lifetime time.Duration) (time.Time, error) {
	now := v.now()
	n, expires, err := v.store.Extend(ctx, id, folded, max(lifetime, 0), v.lifetime, Event{At: now, What: EventExtended, Detail: by})
	if err != nil {
		return time.Time{}, fmt.Errorf("extend: %w", err)
	}
	if n == 0 {
		return time.Time{}, ErrUnknown
	}
	v.log.Info("message extended", "item", id, "recipients", n, "until", expires)
	return expires, nil
}

// Resend mails a recipient a new link. The old link is dead from then on, and so
// are its codes, and devices verified by its passphrase; the time of expiry stays. A
// passphrase is the one that is set now, and is needed too where it was set only
// after the message was sealed. ErrNotRecoverable where the message was sealed
// without a way back or is over, ErrUnknown where there is none; recipient may be ""
// where there is one only.
func (v *Vault) Resend(ctx context.Context, id, recipient string) error {
	s, err := v.one(ctx, id, recipient)
	if err != nil {
		return err
	}
	return v.resend(ctx, s, nil)
}

// resend mails a new link, which needs the passphrase once if there is one.
func (v *Vault) resend(ctx context.Context, s *StoredPickup, once *StoredRecipient) error {
	now := v.now()
	if st := stateOf(s, now); st != StateHeld && st != StateRead {
		return fmt.Errorf("%w: it is %s", ErrNotRecoverable, st)
	}
	key, err := v.recoverKey(ctx, s.ItemID)
	if errors.Is(err, ErrUnknown) {
		return fmt.Errorf("%w: its mode is %s", ErrNotRecoverable, s.Mode)
	} else if err != nil {
		return fmt.Errorf("resend: %w", err)
	}
	list, err := v.store.Recipients(ctx, []string{s.Folded})
	if err != nil {
		return fmt.Errorf("resend: %w", err)
	}
	verify, setting := s.Verify, (*StoredRecipient)(nil)
	if once != nil {
		verify, list = VerifyPassphrase, []StoredRecipient{*once}
	} else if len(list) > 0 {
		verify = stricter(verify, list[0].Verify) // never the other way: the rule may have demanded it
	}
	if verify == VerifyPassphrase {
		if len(list) == 0 || list[0].Hashed == nil {
			return &RecipientError{Recipients: []string{s.Recipient}, Err: ErrNoPassphrase}
		}
		setting = &list[0]
	}
	link, err := v.newLink(key, s.ID, setting, notify.Notice{
		To: s.Recipient, Sender: s.Sender, ItemID: s.ItemID, Verify: verify, Language: s.Language, Created: now, Expires: s.Expires, SentAnew: true,
	})
	if err != nil {
		return fmt.Errorf("resend: %w", err)
	}
	if err := v.store.Relink(ctx, s.ID, link, now); err != nil {
		return fmt.Errorf("resend: %w", err)
	}
	v.log.Info("new link queued", "item", s.ItemID)
	v.wake()
	return nil
}

// one finds one pickup of an item.
func (v *Vault) one(ctx context.Context, id, recipient string) (*StoredPickup, error) {
	folded, err := fold(recipient)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", recipient, err)
	}
	if !seal.IsID(id) {
		return nil, ErrUnknown
	}
	list, err := v.store.Pickups(ctx, PickupFilter{ItemID: id, Recipient: folded, Now: v.now()})
	switch {
	case err != nil:
		return nil, err
	case len(list) == 0:
		return nil, ErrUnknown
	case len(list) > 1:
		return nil, fmt.Errorf("message %s has %d recipients: say which", id, len(list))
	}
	return &list[0], nil
}

// Expire ends the pickups whose time is over, tells senders of what was not read
// and of what soon ends, and deletes what nothing needs any more. n is how many it
// ended.
func (v *Vault) Expire(ctx context.Context) (n int, err error) {
	if n, err = v.store.ExpireDue(ctx, v.now()); err != nil {
		return 0, fmt.Errorf("expire: %w", err)
	}
	if n > 0 {
		v.metrics.expired.Add(float64(n))
		v.log.Info("messages expired", "recipients", n)
	}
	if err := v.tellEnds(ctx); err != nil {
		return n, fmt.Errorf("expire: %w", err)
	}
	if err := v.store.Sweep(ctx, v.now(), tombstones); err != nil {
		return n, fmt.Errorf("expire: %w", err)
	}
	if n > 0 {
		v.checkpoint(ctx)
	}
	return n, nil
}

func (v *Vault) sweep(ctx context.Context) {
	if err := v.store.Sweep(ctx, v.now(), tombstones); err != nil {
		v.log.Warn("chunks of ended messages are deleted later", "error", err)
	}
	v.checkpoint(ctx)
}

// checkpoint clears the database's journal of what was deleted. Where that has to wait
// Run tries again.
func (v *Vault) checkpoint(ctx context.Context) (done bool) {
	v.unclean.Store(true)
	done, err := v.store.Checkpoint(ctx)
	if done {
		v.unclean.Store(false)
	} else {
		v.log.Debug("journal is cleared later", "error", err)
	}
	return done
}

// Run calls Expire now and then until ctx is done, and returns nil.
func (v *Vault) Run(ctx context.Context) error {
	tick := time.NewTimer(0)
	defer tick.Stop()
	v.unclean.Store(true) // who knows what ran before
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if _, err := v.Expire(ctx); err != nil && ctx.Err() == nil {
			v.log.Error("expiry failed, trying again", "error", err)
		}
		if err := v.watchQuotas(ctx); err != nil && ctx.Err() == nil {
			v.log.Error("quotas can't be looked at, trying again", "error", err)
		}
		wait := expireInterval
		if next, err := v.store.NextEnd(ctx); err == nil && !next.IsZero() {
			wait = max(min(wait, next.Sub(v.now())), time.Second)
		}
		if v.unclean.Load() && !v.checkpoint(ctx) {
			wait = min(wait, uncleanInterval)
		}
		tick.Reset(wait)
	}
}

// SetRecipient sets how a recipient verifies: VerifyCode, VerifyAccount, or
// VerifyPassphrase with the passphrase. It counts for messages sealed from now on.
func (v *Vault) SetRecipient(ctx context.Context, address, verify string, passphrase []byte) error {
	folded, err := fold(address)
	if err != nil || folded == "" {
		return fmt.Errorf("address %q can't be understood: want local@domain", address)
	}
	r := StoredRecipient{Address: folded, Verify: verify, Changed: v.now()}
	switch verify {
	case VerifyCode, VerifyAccount:
		if len(passphrase) > 0 {
			return errors.New("a passphrase goes with verification by passphrase")
		}
	case VerifyPassphrase:
		if err := seal.CheckPassphrase(passphrase); err != nil {
			return err
		}
		r.Passphrase = seal.NewHashing()
		hashed, err := v.hash(ctx, passphrase, r.Passphrase)
		if err != nil {
			return fmt.Errorf("set a passphrase: %w", err)
		}
		if r.Hashed, err = v.keys.seal(hashed, "passphrase/1", folded); err != nil {
			return fmt.Errorf("set a passphrase: %w", err)
		}
	default:
		return fmt.Errorf("unknown verification %q: want code, account or passphrase", verify)
	}
	if err := v.store.SetRecipient(ctx, r); err != nil {
		return fmt.Errorf("set a recipient: %w", err)
	}
	return nil
}

// Recipient returns what is known of an address: what is set, the account.
// ErrUnknown if there is neither.
func (v *Vault) Recipient(ctx context.Context, address string) (RecipientSetting, error) {
	folded, err := fold(address)
	if err != nil {
		return RecipientSetting{}, fmt.Errorf("address %q: %w", address, err)
	}
	set, err := v.store.Recipients(ctx, []string{folded})
	if err != nil {
		return RecipientSetting{}, fmt.Errorf("recipients: %w", err)
	}
	list, err := v.recipients(ctx, set, []StoredAccount{{Address: folded}})
	if err != nil {
		return RecipientSetting{}, err
	}
	if len(list) == 0 {
		return RecipientSetting{}, ErrUnknown
	}
	return list[0], nil
}

// Recipients returns all of whom something is known, sorted by address.
func (v *Vault) Recipients(ctx context.Context) ([]RecipientSetting, error) {
	set, err := v.store.Recipients(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("recipients: %w", err)
	}
	accounts, err := v.store.Accounts(ctx)
	if err != nil {
		return nil, fmt.Errorf("recipients: %w", err)
	}
	return v.recipients(ctx, set, accounts)
}

func (v *Vault) recipients(ctx context.Context, set []StoredRecipient, accounts []StoredAccount) ([]RecipientSetting, error) {
	list := make([]RecipientSetting, 0, len(set))
	at := make(map[string]int)
	for _, s := range set {
		at[s.Address] = len(list)
		list = append(list, RecipientSetting{Address: s.Address, Verify: s.Verify, HasPassphrase: s.Hashed != nil, Changed: s.Changed})
	}
	for _, s := range accounts {
		a, err := v.accountOf(ctx, s.Address)
		if err != nil {
			return nil, fmt.Errorf("recipients: %w", err)
		}
		if a == nil {
			continue // gone meanwhile
		}
		devices, err := v.store.Devices(ctx, a.Address, v.now())
		if err != nil {
			return nil, fmt.Errorf("recipients: %w", err)
		}
		i, ok := at[a.Address]
		if !ok {
			i = len(list)
			list = append(list, RecipientSetting{Address: a.Address, Changed: a.Changed})
		}
		list[i].Account = &RecipientAccount{
			Password: a.Password != nil, Passkeys: len(a.Passkeys), TOTP: a.TOTP != nil, Devices: len(devices), Created: a.Created,
		}
	}
	slices.SortFunc(list, func(a, b RecipientSetting) int { return strings.Compare(a.Address, b.Address) })
	return list, nil
}

// ResetRecipient deletes what is set for an address, not its account. Messages that are sealed
// already keep the passphrase that they were sealed with.
func (v *Vault) ResetRecipient(ctx context.Context, address string) (deleted bool, err error) {
	folded, err := fold(address)
	if err != nil {
		return false, fmt.Errorf("address %q: %w", address, err)
	}
	return v.store.ResetRecipient(ctx, folded)
}
