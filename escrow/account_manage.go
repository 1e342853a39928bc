package escrow

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/postseal/postseal/escrow/account"
	"github.com/postseal/postseal/internal/audit"
)

// maxPasskeys is how many passkeys an account may have.
const maxPasskeys = 20

// own returns the account of a device that was verified by it; ErrUnknown for any
// other, or where the account is gone.
func (v *Vault) own(ctx context.Context, d *Device) (*StoredAccount, error) {
	if d == nil || d.How != VerifyAccount {
		return nil, ErrUnknown
	}
	return v.store.AccountOf(ctx, d.Address)
}

// Account returns what its owner sees of an account. ErrUnknown for a device that
// was not verified by it.
func (v *Vault) Account(ctx context.Context, d *Device) (Account, error) {
	a, err := v.own(ctx, d)
	if errors.Is(err, ErrUnknown) {
		return Account{}, ErrUnknown
	} else if err != nil {
		return Account{}, fmt.Errorf("account: %w", err)
	}
	out := Account{Address: a.Address, Password: a.Password != nil, TOTP: a.TOTP != nil, Created: a.Created, Changed: a.Changed}
	for _, k := range a.Passkeys {
		out.Passkeys = append(out.Passkeys, Passkey{ID: base64.RawURLEncoding.EncodeToString(k.ID), Name: k.Name, Created: k.Created, Used: k.Used})
	}
	devices, err := v.store.Devices(ctx, a.Address, v.now())
	if err != nil {
		return Account{}, fmt.Errorf("account: %w", err)
	}
	for _, s := range devices {
		out.Devices = append(out.Devices, DeviceInfo{
			ID: base64.RawURLEncoding.EncodeToString(s.ID), Name: s.Name, How: s.How,
			Created: s.Created, Seen: s.Seen, Expires: s.Expires, This: bytes.Equal(s.ID, d.id),
		})
	}
	return out, nil
}

// change makes a change to the account of a device, which decide fills in. Where
// the account has changed in between it is read, and decided upon, anew.
func (v *Vault) change(ctx context.Context, d *Device, decide func(*StoredAccount, *AccountChange) error) error {
	for range 3 {
		a, err := v.own(ctx, d)
		if err != nil {
			return err
		}
		c := AccountChange{Address: a.Address, Now: v.now(), Was: a, Holder: d.id}
		if err := decide(a, &c); err != nil {
			return err
		}
		if err := v.store.ChangeAccount(ctx, c); !errors.Is(err, ErrChanged) {
			return err
		}
	}
	return ErrCeremony
}

// ownerTry counts a try of who is signed in, against the device alone: strangers
// must not lock it, nor may it go on for ever in the hands of a thief. The owner is
// told of no lock.
func (v *Vault) ownerTry(ctx context.Context, d *Device, check func() error) error {
	limit := Limit{
		Key:   hex.EncodeToString(v.keys.tag(tagSize, "limit/1", "owner", "device", string(d.id))),
		Tries: triesPickup, Window: windowTries, First: firstLock, Most: longestLock, ForgetDoubles: forgetDoubles,
	}
	locked, _, err := v.store.Charge(ctx, []Limit{limit}, v.now())
	if err != nil {
		return err
	}
	if !locked.IsZero() {
		return &LockedError{Until: locked}
	}
	if err := check(); err != nil {
		if errors.Is(err, ErrWrong) {
			v.metrics.wrong.Inc()
			e := audit.Entry{Kind: audit.TryWrong, Recipient: d.Address, Details: audit.Details{"how": "account settings"}}
			if err := v.store.Audit(ctx, e); err != nil {
				return fmt.Errorf("verify: %w", err)
			}
		}
		return err
	}
	if err := v.store.Forget(context.WithoutCancel(ctx), []string{limit.Key}); err != nil {
		v.log.Warn("tries before a right one stay counted", "error", err)
	}
	return nil
}

// ChangePassword sets a password, and signs all other devices out. old is the one
// there was, of no matter where there was none. *WeakPasswordError, ErrWrong,
// *LockedError.
func (v *Vault) ChangePassword(ctx context.Context, d *Device, old, fresh string, c Client) error {
	if d == nil || d.How != VerifyAccount {
		return ErrUnknown
	}
	if err := v.checkPassword(fresh, d.Address); err != nil {
		return err
	}
	return v.ownerTry(ctx, d, func() error {
		kept, err := v.newPassword(ctx, d.Address, fresh)
		if err != nil {
			return err
		}
		return v.change(ctx, d, func(a *StoredAccount, change *AccountChange) error {
			if a.Password != nil {
				if ok, err := v.isPassword(ctx, a, old); err != nil {
					return err
				} else if !ok {
					return ErrWrong
				}
			}
			change.Password, change.SignOut, change.Keep = kept, true, d.id
			return nil
		})
	})
}

// BeginAddPasskey begins the ceremony that makes one more passkey. It changes
// nothing.
func (v *Vault) BeginAddPasskey(ctx context.Context, d *Device) (Ceremony, error) {
	a, err := v.own(ctx, d)
	if err != nil {
		return Ceremony{}, err
	}
	if v.passkeys == nil || len(a.Passkeys) >= maxPasskeys {
		return Ceremony{}, ErrNoPasskeys
	}
	h, err := v.holder(a)
	if err != nil {
		return Ceremony{}, fmt.Errorf("add a passkey: %w", err)
	}
	options, session, err := v.passkeys.BeginCreate(h)
	if err != nil {
		return Ceremony{}, fmt.Errorf("add a passkey: %w", err)
	}
	id, err := v.newCeremony(ceremonyPasskey, a.Address, ceremony{Session: session})
	return Ceremony{ID: id, Options: options}, err
}

// AddPasskey ends that ceremony; ErrCeremony where it does not count.
func (v *Vault) AddPasskey(ctx context.Context, d *Device, id, response, name string) error {
	if v.passkeys == nil {
		return ErrNoPasskeys
	}
	return v.change(ctx, d, func(a *StoredAccount, change *AccountChange) error {
		begun, use, err := v.ceremony(ceremonyPasskey, a.Address, id)
		if err != nil {
			return err
		}
		if len(a.Passkeys) >= maxPasskeys {
			return ErrNoPasskeys
		}
		h, err := v.holder(a)
		if err != nil {
			return err
		}
		key, credential, err := v.passkeys.Create(h, begun.Session, []byte(response))
		if err != nil {
			return v.refused(err)
		}
		change.Ceremony = use
		change.AddPasskey, err = v.newPasskey(a.Address, key, credential, name)
		return err
	})
}

// RemovePasskey removes a passkey; ErrUnknown if there is none of that id,
// ErrLastMeans if it is the only way into the account.
func (v *Vault) RemovePasskey(ctx context.Context, d *Device, id string) error {
	raw, err := base64.RawURLEncoding.DecodeString(id)
	if err != nil || len(raw) == 0 {
		return ErrUnknown
	}
	return v.change(ctx, d, func(a *StoredAccount, change *AccountChange) error {
		for _, k := range a.Passkeys {
			if bytes.Equal(k.ID, raw) {
				change.DropKey = raw
				return nil
			}
		}
		return ErrUnknown
	})
}

// NewTOTP begins to set up a second factor beside the password; one that there is
// stays until ConfirmTOTP. It changes nothing. ErrLastMeans where the account has no
// password for it to go with.
func (v *Vault) NewTOTP(ctx context.Context, d *Device) (TOTPSetup, error) {
	a, err := v.own(ctx, d)
	if err != nil {
		return TOTPSetup{}, err
	}
	if a.Password == nil {
		return TOTPSetup{}, ErrLastMeans
	}
	k, err := account.NewTOTP(v.host, a.Address)
	if err != nil {
		return TOTPSetup{}, err
	}
	id, err := v.newCeremony(ceremonyTOTP, a.Address, ceremony{Secret: k.Secret})
	return TOTPSetup{Ceremony: id, Secret: k.Secret, URL: k.URL, QR: k.QR}, err
}

// ResumeTOTP returns a setup that has begun, for a page that is shown once more;
// ErrCeremony where it is over.
func (v *Vault) ResumeTOTP(ctx context.Context, d *Device, id string) (TOTPSetup, error) {
	a, err := v.own(ctx, d)
	if err != nil {
		return TOTPSetup{}, err
	}
	begun, _, err := v.ceremony(ceremonyTOTP, a.Address, id)
	if err != nil {
		return TOTPSetup{}, err
	}
	k, err := account.TOTPOf(v.host, a.Address, begun.Secret)
	return TOTPSetup{Ceremony: id, Secret: k.Secret, URL: k.URL, QR: k.QR}, err
}

// ConfirmTOTP sets the second factor up: from now on the password needs its codes.
// code is the first of them, which counts as used. ErrWrong leaves the ceremony as
// it is, to try once more; *LockedError, ErrCeremony.
func (v *Vault) ConfirmTOTP(ctx context.Context, d *Device, id, code string, c Client) error {
	if d == nil || d.How != VerifyAccount {
		return ErrUnknown
	}
	return v.ownerTry(ctx, d, func() error {
		return v.change(ctx, d, func(a *StoredAccount, change *AccountChange) error {
			begun, use, err := v.ceremony(ceremonyTOTP, a.Address, id)
			if err != nil {
				return err
			}
			if a.Password == nil {
				return ErrLastMeans
			}
			step, ok := account.MatchTOTP(begun.Secret, code, v.now())
			if !ok {
				return ErrWrong
			}
			change.Ceremony, change.Step = use, step
			change.TOTP, err = v.keys.seal([]byte(begun.Secret), "totp/1", a.Address)
			return err
		})
	})
}

// RemoveTOTP removes the second factor, on one of its codes. ErrWrong,
// *LockedError; ErrUnknown where none is set up.
func (v *Vault) RemoveTOTP(ctx context.Context, d *Device, code string, c Client) error {
	if d == nil || d.How != VerifyAccount {
		return ErrUnknown
	}
	return v.ownerTry(ctx, d, func() error {
		return v.change(ctx, d, func(a *StoredAccount, change *AccountChange) (err error) {
			if a.TOTP == nil {
				return ErrUnknown
			}
			change.Step, err = v.totpStep(a, code)
			change.DropTOTP = true
			return err
		})
	})
}

// Who resets an account.
const (
	ResetSender        = "sender"
	ResetAdministrator = "administrator"
	ResetMailbox       = "mailbox" // a mailed code, where policy lets it
)

// ResetAccount deletes the account of a recipient, in any spelling, with its
// passkeys, and signs all devices out at once: the next pickup enrols anew. It is
// noted, by whom, at each message that is not over. reset is false where there was no
// account; devices that were verified by code are signed out all the same.
func (v *Vault) ResetAccount(ctx context.Context, address, by string) (reset bool, err error) {
	folded, err := fold(address)
	if err != nil || folded == "" {
		return false, fmt.Errorf("address %q can't be understood: want local@domain", address)
	}
	return v.resetAccount(ctx, v.log, folded, by)
}

func (v *Vault) resetAccount(ctx context.Context, log *slog.Logger, folded, by string) (reset bool, err error) {
	reset, err = v.store.DeleteAccount(ctx, folded, Event{At: v.now(), What: EventReset, Detail: by})
	if err != nil {
		return false, fmt.Errorf("reset an account: %w", err)
	}
	if reset {
		log.Info("account reset", "by", by)
		v.checkpoint(ctx)
	}
	return reset, nil
}

// Limits on asking the sender for a reset: a mail each.
const (
	asksPickup    = 1
	asksRecipient = 3
	asksClient    = 10
	askAgain      = time.Hour // and twice as long each time
)

// AskReset mails the sender that the recipient can't get in, and where to reset the
// account. *LockedError if that was asked for not long ago; ErrUnknown where there is
// no account, or nobody to ask.
func (v *Vault) AskReset(ctx context.Context, p *Pickup, c Client) error {
	if err := v.live(p); err != nil {
		return err
	}
	if p.owner || p.Sender == "" || !p.Account.Enrolled {
		return ErrUnknown
	}
	now := v.now()
	limits := v.limits(p, c, "reset", windowTries, asksPickup, asksRecipient, asksClient)
	limits[0].First = askAgain
	locked, _, err := v.store.Charge(ctx, limits, now)
	if err != nil {
		return fmt.Errorf("ask for a reset: %w", err)
	}
	if !locked.IsZero() {
		return &LockedError{Until: locked}
	}
	mail, err := v.forgotMail(ctx, p)
	if err != nil {
		return fmt.Errorf("ask for a reset: %w", err)
	}
	err = v.store.ChangeAccount(ctx, AccountChange{
		Address: p.folded, Now: now, Mails: []NewMail{mail},
	})
	if err != nil {
		return fmt.Errorf("ask for a reset: %w", err)
	}
	v.log.Info("the sender is asked to reset an account", "item", p.ItemID)
	v.wake()
	return nil
}
