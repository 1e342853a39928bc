package adminlogin

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/account"
	"github.com/postseal/postseal/escrow/seal"
)

// Accounts makes and changes accounts, for the command line.
type Accounts struct {
	Store Store
	Keys  escrow.AdminKeys
	Now   func() time.Time
}

// Credentials are what an administrator signs in with.
type Credentials struct {
	Name     string // as [ParseName] returns it
	Role     Role
	Password string
	Secret   string // of TOTP, base32
	Step     int64  // of the code that has proved that the app has the secret
}

// CheckPassword says why a password is not taken: its error is for who has typed it.
func CheckPassword(password, name string) error {
	switch account.CheckPassword(password, name, "postseal") {
	case "":
		return nil
	case account.TooShort:
		return fmt.Errorf("the password is too short: want at least %d characters", account.MinPassword)
	case account.TooLong:
		return fmt.Errorf("the password is too long: at most %d bytes", account.MaxPassword)
	case account.Personal:
		return errors.New("the password is made of the name, or of what this program is called: take another")
	}
	return errors.New("the password is one of those that guessers try first: take another")
}

// Add makes an account: ErrExists.
func (a *Accounts) Add(ctx context.Context, c Credentials) error {
	kept, err := a.keep(c)
	if err != nil {
		return err
	}
	return a.Store.AddAdmin(ctx, *kept)
}

// Reset gives an account another password and TOTP secret, forgets tries at it, and ends
// its sessions: ErrUnknown.
func (a *Accounts) Reset(ctx context.Context, c Credentials) error {
	kept, err := a.keep(c)
	if err != nil {
		return err
	}
	if err := a.Store.ResetAdmin(ctx, *kept); err != nil {
		return err
	}
	return a.Store.Forget(ctx, []string{a.Keys.LimitKey(limitName, c.Name)})
}

func (a *Accounts) keep(c Credentials) (*Admin, error) {
	if err := CheckPassword(c.Password, c.Name); err != nil {
		return nil, err
	}
	how := seal.NewHashing()
	hashed, err := seal.HashPassphrase([]byte(c.Password), how)
	if err != nil {
		return nil, err
	}
	now := a.Now()
	kept := &Admin{Name: c.Name, Role: c.Role, Step: c.Step, Created: now, Changed: now}
	if kept.Password, err = a.Keys.SealPassword(append(how, hashed...), c.Name); err != nil {
		return nil, err
	}
	kept.TOTP, err = a.Keys.SealTOTP([]byte(c.Secret), c.Name)
	return kept, err
}

// guess is a password and a code that somebody has typed.
type guess struct{ password, code string }

// dummy is kept of nobody: checking it takes as long as checking an account.
type dummy struct {
	password []byte // as Admin.Password, decrypted
	secret   string
}

func newDummy() (dummy, error) {
	hashed := make([]byte, seal.HashedSize)
	rand.Read(hashed) // of no password: nobody hits 256 random bits
	k, err := account.NewTOTP("Postseal", "nobody")
	return dummy{append(seal.NewHashing(), hashed...), k.Secret}, err
}

// check returns the TOTP step of the code, where both are right: password, and a code
// that was not used. With a == nil it does the same work, and ok is false.
func (l *Login) check(ctx context.Context, a *Admin, g guess) (step int64, ok bool, err error) {
	kept, secret := l.dummy.password, l.dummy.secret
	if a != nil {
		if kept, err = l.keys.OpenPassword(a.Password, a.Name); err != nil {
			return 0, false, fmt.Errorf("password of %s: %w", a.Name, err)
		}
		s, err := l.keys.OpenTOTP(a.TOTP, a.Name)
		if err != nil {
			return 0, false, fmt.Errorf("TOTP of %s: %w", a.Name, err)
		}
		secret = string(s)
	}
	n := len(kept) - seal.HashedSize
	if n <= 0 {
		return 0, false, errors.New("password: kept in an unknown form")
	}
	if len(g.password) > account.MaxPassword {
		g.password = "" // none is as long; hashed all the same
	}
	select {
	case l.hashing <- struct{}{}:
	case <-ctx.Done():
		return 0, false, ctx.Err()
	}
	hashed, err := seal.HashPassphrase([]byte(g.password), kept[:n])
	<-l.hashing
	if err != nil {
		return 0, false, err
	}
	l.hashed.Add(1)
	right := subtle.ConstantTimeCompare(hashed, kept[n:]) == 1
	step, fits := account.MatchTOTP(secret, g.code, l.now())
	return step, right && fits && a != nil && step > a.Step, nil
}
