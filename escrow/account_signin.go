package escrow

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/postseal/postseal/escrow/account"
)

// Owner finds an enrolled recipient by the name in a path, for signing in where no
// message is at hand: a pickup without an item, of which only the recipient, the tag
// and the account are of use. ErrUnknown if there is none.
func (v *Vault) Owner(ctx context.Context, tag string) (*Pickup, error) {
	a, err := v.store.AccountByTag(ctx, tag)
	if errors.Is(err, ErrUnknown) {
		return nil, ErrUnknown
	} else if err != nil {
		return nil, fmt.Errorf("owner: %w", err)
	}
	p := &Pickup{Recipient: a.Address, Verify: VerifyAccount, Tag: a.Tag, Account: v.accountState(a), folded: a.Address, owner: true}
	if p.Locked, err = v.store.Locked(ctx, keysOf(v.passwordLimits(p, Client{})), v.now()); err != nil {
		return nil, fmt.Errorf("owner: %w", err)
	}
	return p, nil
}

// BeginSignIn begins a sign-in by passkey. It changes nothing, so a page may have
// it ready. ErrNoPasskeys where there is none to use.
func (v *Vault) BeginSignIn(ctx context.Context, p *Pickup, c Client) (Ceremony, error) {
	if err := v.live(p); err != nil {
		return Ceremony{}, err
	}
	a, err := v.accountOf(ctx, p.folded)
	if err != nil {
		return Ceremony{}, fmt.Errorf("sign in: %w", err)
	}
	if v.passkeys == nil || a == nil || len(a.Passkeys) == 0 {
		return Ceremony{}, ErrNoPasskeys
	}
	h, err := v.holder(a)
	if err != nil {
		return Ceremony{}, fmt.Errorf("sign in: %w", err)
	}
	options, session, err := v.passkeys.BeginAssert(h)
	if err != nil {
		return Ceremony{}, fmt.Errorf("sign in: %w", err)
	}
	id, err := v.newCeremony(ceremonySignIn, a.Address, ceremony{Session: session})
	return Ceremony{ID: id, Options: options}, err
}

// SignIn verifies a device for all messages to the recipient. A password, with the
// TOTP code where one is set up, is a try: counted, and the count committed, before
// anything is hashed. ErrWrong for whatever is wrong of it, also where there is no
// account; *LockedError after too many; the sender is told once of each lock.
//
// A passkey can't be guessed, so it is no try, and no lock keeps it out: ErrCeremony
// where it does not count, or the ceremony was used before. It needs no TOTP code.
func (v *Vault) SignIn(ctx context.Context, p *Pickup, s SignIn, c Client) (Grant, error) {
	if err := v.live(p); err != nil {
		return Grant{}, err
	}
	if s.Device == "" {
		s.Device = c.Device
	}
	if s.Response != "" {
		g, err := v.signInByPasskey(ctx, p, s)
		if errors.Is(err, ErrCeremony) {
			if unlogged := v.auditPasskey(ctx, p, c); unlogged != nil {
				err = fmt.Errorf("sign in: %w", unlogged)
			}
		}
		return g, err
	}
	var g Grant
	err := v.try(ctx, p, "password", v.passwordLimits(p, c), nil, func() error {
		a, err := v.accountOf(ctx, p.folded)
		if err != nil {
			return err
		}
		ok, err := v.isPassword(ctx, a, s.Password)
		if err != nil {
			return err
		}
		if !ok {
			return ErrWrong
		}
		change := AccountChange{Address: a.Address, Now: v.now(), Was: a, Pickup: p.id}
		how := "password"
		if a.TOTP != nil {
			if change.Step, err = v.totpStep(a, s.TOTP); err != nil {
				return err
			}
			how = "totp"
		}
		change.Events = []Event{{At: v.now(), What: EventVerified, Detail: how}}
		change.Device, g = v.newDevice(a.Address, VerifyAccount, s.Device, v.now())
		err = v.store.ChangeAccount(ctx, change)
		if errors.Is(err, ErrChanged) {
			err = ErrWrong // the password is another by now
		}
		return err
	})
	if err != nil {
		return Grant{}, err
	}
	return g, nil
}

// totpStep returns the step that a code is of; ErrWrong where it is of none, or of
// one that is used up. The store uses it.
func (v *Vault) totpStep(a *StoredAccount, code string) (int64, error) {
	secret, err := v.keys.open(a.TOTP, "totp/1", a.Address)
	if err != nil {
		return 0, fmt.Errorf("TOTP: %w", err)
	}
	step, ok := account.MatchTOTP(string(secret), code, v.now())
	if !ok || step <= a.Step {
		return 0, ErrWrong
	}
	return step, nil
}

func (v *Vault) signInByPasskey(ctx context.Context, p *Pickup, s SignIn) (Grant, error) {
	begun, use, err := v.ceremony(ceremonySignIn, p.folded, s.Ceremony)
	if err != nil {
		return Grant{}, err
	}
	a, err := v.accountOf(ctx, p.folded)
	if err != nil {
		return Grant{}, fmt.Errorf("sign in: %w", err)
	}
	if a == nil || v.passkeys == nil {
		return Grant{}, ErrCeremony
	}
	h, err := v.holder(a)
	if err != nil {
		return Grant{}, fmt.Errorf("sign in: %w", err)
	}
	id, credential, err := v.passkeys.Assert(h, begun.Session, []byte(s.Response))
	if err != nil {
		return Grant{}, v.refused(err)
	}
	now := v.now()
	change := AccountChange{
		Address: a.Address, Now: now, Was: a, Ceremony: use, Pickup: p.id,
		Events: []Event{{At: now, What: EventVerified, Detail: "passkey"}},
	}
	for _, k := range a.Passkeys {
		if bytes.Equal(k.ID, id) {
			fresh, err := v.newPasskey(a.Address, id, credential, "")
			if err != nil {
				return Grant{}, err
			}
			change.UsePasskey = &PasskeyUse{ID: id, Was: k.Credential, Now: fresh.Credential}
		}
	}
	if change.UsePasskey == nil {
		return Grant{}, ErrCeremony
	}
	var g Grant
	change.Device, g = v.newDevice(a.Address, VerifyAccount, s.Device, now)
	switch err := v.store.ChangeAccount(ctx, change); {
	case errors.Is(err, ErrChanged):
		return Grant{}, ErrCeremony
	case err != nil:
		return Grant{}, fmt.Errorf("sign in: %w", err)
	}
	return g, nil
}
