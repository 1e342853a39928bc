package escrow

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/postseal/postseal/escrow/account"
	"github.com/postseal/postseal/escrow/seal"
)

// handleSize is the length of a WebAuthn user handle, in bytes: at most 64
// (WebAuthn, section 5.4.3). It tells nothing of the address.
const handleSize = 32

// accountOf returns the account of an address, nil if there is none.
func (v *Vault) accountOf(ctx context.Context, folded string) (*StoredAccount, error) {
	a, err := v.store.AccountOf(ctx, folded)
	if errors.Is(err, ErrUnknown) {
		return nil, nil
	}
	return a, err
}

// mayEnrol says why no account can be made by a code mailed for this pickup.
func (v *Vault) mayEnrol(p *Pickup) error {
	if p.owner || p.Verify == VerifyPassphrase {
		return ErrUnknown
	}
	return v.live(p)
}

// BeginEnrol begins the ceremony that makes a passkey for a new account. It checks
// the mailed code, which is used up: from then on the ceremony stands for it, also
// in the hands of who goes on with a password. In the place of a code it is begun
// anew; that makes it no longer, and of all of them one can be used. ErrWrong and
// *LockedError as in Prove; ErrCeremony where that ceremony is over; ErrEnrolled where
// there is an account that a code may not replace; ErrNoPasskeys.
func (v *Vault) BeginEnrol(ctx context.Context, p *Pickup, code string, c Client) (Ceremony, error) {
	if err := v.mayEnrol(p); err != nil {
		return Ceremony{}, err
	}
	if v.passkeys == nil {
		return Ceremony{}, ErrNoPasskeys
	}
	old, err := v.accountOf(ctx, p.folded)
	if err != nil {
		return Ceremony{}, fmt.Errorf("enrol: %w", err)
	}
	if old != nil && !v.accounts.MailboxReset {
		return Ceremony{}, ErrEnrolled
	}
	var begun ceremony
	if len(code) > maxCode {
		old, _, err := v.ceremony(ceremonyEnrol, p.folded, code)
		if err != nil {
			return Ceremony{}, err
		}
		begun = *old
	} else {
		err = v.try(ctx, p, VerifyCode, v.guessLimits(p, c), v.codeLimits(p, c), func() error {
			use, ok := v.codeUse(p, code)
			if !ok {
				return ErrWrong
			}
			return v.store.ChangeAccount(ctx, AccountChange{Address: p.folded, Now: v.now(), Code: use})
		})
		if err != nil {
			return Ceremony{}, err
		}
	}
	handle := make([]byte, handleSize)
	rand.Read(handle)
	options, session, err := v.passkeys.BeginCreate(account.Holder{Handle: handle, Address: p.Recipient})
	if err != nil {
		return Ceremony{}, fmt.Errorf("enrol: %w", err)
	}
	begun.Handle, begun.Session = handle, session
	id, err := v.newCeremony(ceremonyEnrol, p.folded, begun)
	return Ceremony{ID: id, Options: options}, err
}

// maxCode is more than a code has, and less than a ceremony, in bytes.
const maxCode = 64

// Enrol makes the recipient's account, and verifies the device. It is first come:
// whoever has the link and reads the mailbox can; the sender is told. The code, or
// the ceremony, is used up in the transaction that makes the account.
//
// A *[WeakPasswordError] comes before anything is charged or used up. ErrWrong and
// *LockedError as in Prove, ErrCeremony where the ceremony or the passkey does not
// count. Where there is an account, the code replaces its credentials and its
// devices if policy says so, and the sender is told; else the right password signs
// in (a button pressed twice), and anything else is ErrEnrolled.
func (v *Vault) Enrol(ctx context.Context, p *Pickup, e Enrolment, c Client) (Grant, error) {
	if err := v.mayEnrol(p); err != nil {
		return Grant{}, err
	}
	if e.Response == "" {
		if err := v.checkPassword(e.Password, p.folded); err != nil {
			return Grant{}, err
		}
	}
	if e.Device == "" {
		e.Device = c.Device
	}
	old, err := v.accountOf(ctx, p.folded)
	if err != nil {
		return Grant{}, fmt.Errorf("enrol: %w", err)
	}
	if old != nil && !v.accounts.MailboxReset {
		if e.Response != "" {
			return Grant{}, ErrEnrolled
		}
		g, err := v.SignIn(ctx, p, SignIn{Password: e.Password, Device: e.Device}, c)
		if errors.Is(err, ErrWrong) {
			err = ErrEnrolled
		}
		return g, err
	}
	change := AccountChange{Address: p.folded, Now: v.now(), Was: old, Absent: old == nil, Pickup: p.id}
	codes := v.codeLimits(p, c)
	var begun *ceremony
	if e.Ceremony != "" {
		codes = nil // they were forgotten when it began
		if begun, change.Ceremony, err = v.ceremony(ceremonyEnrol, p.folded, e.Ceremony); err != nil {
			return Grant{}, err
		}
	}
	var g Grant
	enrol := func() (err error) {
		g, err = v.enrol(ctx, p, e, begun, change)
		return err
	}
	if e.Response != "" {
		err = enrol() // nothing to guess, nothing to hash
	} else {
		err = v.try(ctx, p, VerifyCode, v.guessLimits(p, c), codes, enrol)
	}
	if errors.Is(err, ErrChanged) { // by somebody else, just now
		err = ErrEnrolled
	}
	if err != nil {
		return Grant{}, err
	}
	v.log.Info("recipient enrolled", "item", p.ItemID, "replaced", old != nil)
	v.wake()
	return g, nil
}

func (v *Vault) enrol(ctx context.Context, p *Pickup, e Enrolment, begun *ceremony, change AccountChange) (g Grant, err error) {
	now, old := change.Now, change.Was
	made := &StoredAccount{Address: p.folded, Tag: p.Tag, Created: now, Changed: now}
	change.Create = made
	if begun != nil {
		made.Handle = begun.Handle
	} else {
		made.Handle = make([]byte, handleSize)
		rand.Read(made.Handle)
	}
	how := "password"
	if e.Response != "" {
		if how = "passkey"; begun == nil || v.passkeys == nil {
			return g, ErrCeremony
		}
		id, credential, err := v.passkeys.Create(account.Holder{Handle: made.Handle, Address: p.Recipient}, begun.Session, []byte(e.Response))
		if err != nil {
			return g, v.refused(err)
		}
		if change.AddPasskey, err = v.newPasskey(p.folded, id, credential, e.Device); err != nil {
			return g, err
		}
	} else {
		if begun == nil {
			var ok bool
			if change.Code, ok = v.codeUse(p, e.Code); !ok {
				return g, ErrWrong
			}
		}
		if made.Password, err = v.newPassword(ctx, p.folded, e.Password); err != nil {
			return g, err
		}
	}
	if old != nil {
		change.Events = append(change.Events, Event{At: now, What: EventReset, Detail: ResetMailbox})
	}
	change.Events = append(change.Events, Event{At: now, What: EventEnrolled, Detail: how})
	if change.Mails, err = v.enrolledMails(ctx, p, how, old != nil); err != nil {
		return g, err
	}
	change.Device, g = v.newDevice(p.folded, VerifyAccount, e.Device, now)
	return g, v.store.ChangeAccount(ctx, change)
}

// checkPassword says why a password may not be set.
func (v *Vault) checkPassword(password, folded string) error {
	if w := account.CheckPassword(password, folded, v.host); w != "" {
		return &WeakPasswordError{Reason: string(w)}
	}
	return nil
}

// newPassword hashes a password to be kept: how, and what came of it.
func (v *Vault) newPassword(ctx context.Context, folded, password string) ([]byte, error) {
	hashing := seal.NewHashing()
	hashed, err := v.hash(ctx, []byte(password), hashing)
	if err != nil {
		return nil, fmt.Errorf("keep a password: %w", err)
	}
	return v.keys.seal(append(hashing, hashed...), "password/1", folded)
}

// isPassword reports whether a password is that of an account. It takes as long
// where there is no account, or none with a password.
func (v *Vault) isPassword(ctx context.Context, a *StoredAccount, password string) (bool, error) {
	kept := v.noPassword
	if a != nil && a.Password != nil {
		var err error
		if kept, err = v.keys.open(a.Password, "password/1", a.Address); err != nil {
			return false, fmt.Errorf("password: %w", err)
		}
	}
	n := len(kept) - seal.HashedSize
	if n <= 0 {
		return false, errors.New("password: kept in an unknown form")
	}
	if len(password) > account.MaxPassword {
		password = "" // none is as long; hashed all the same
	}
	hashed, err := v.hash(ctx, []byte(password), kept[:n])
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(hashed, kept[n:]) == 1 && a != nil && a.Password != nil, nil
}

// newPasskey encrypts a passkey to be kept.
func (v *Vault) newPasskey(folded string, id, credential []byte, name string) (*StoredPasskey, error) {
	box, err := v.keys.seal(credential, "passkey/1", folded, string(id))
	if err != nil {
		return nil, fmt.Errorf("keep a passkey: %w", err)
	}
	return &StoredPasskey{ID: id, Credential: box, Name: cleanName(name, maxDeviceName), Created: v.now()}, nil
}

// holder decrypts the passkeys of an account.
func (v *Vault) holder(a *StoredAccount) (account.Holder, error) {
	h := account.Holder{Handle: a.Handle, Address: a.Address}
	for _, k := range a.Passkeys {
		c, err := v.keys.open(k.Credential, "passkey/1", a.Address, string(k.ID))
		if err != nil {
			return h, fmt.Errorf("passkey: %w", err)
		}
		h.Credentials = append(h.Credentials, c)
	}
	return h, nil
}

// refused turns what package account says of a passkey's response into an error of
// the vault.
func (v *Vault) refused(err error) error {
	if errors.Is(err, account.ErrClone) {
		v.log.Warn("a passkey's counter went back: it may exist twice, and does not count")
		return ErrCeremony
	}
	if errors.Is(err, account.ErrResponse) {
		v.log.Info("the response of a passkey does not count", "reason", err)
		return ErrCeremony
	}
	return err
}
