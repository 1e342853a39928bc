package adminlogin

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/audit"
)

// Errors of accounts and sessions.
var (
	// ErrUnknown reports that there is no such account, or session.
	ErrUnknown = errors.New("there is no such administrator")
	// ErrExists reports that there is such an account already.
	ErrExists = errors.New("there is such an administrator already")
	// ErrChanged reports that an account has changed meanwhile, or that a code was used
	// by somebody else first.
	ErrChanged = errors.New("the account has changed meanwhile")
)

// Role is what an administrator may do.
type Role string

// The roles.
const (
	RoleViewer   Role = "viewer"   // looks
	RoleOperator Role = "operator" // may change what the pages let one change
)

// ParseRole reads a role.
func ParseRole(s string) (Role, error) {
	switch r := Role(s); r {
	case RoleViewer, RoleOperator:
		return r, nil
	}
	return "", fmt.Errorf("%q is no role: want viewer or operator", s)
}

// Admin is the account of an administrator, as it is kept.
type Admin struct {
	Name     string // folded, see [ParseName]
	Role     Role
	Password []byte // Argon2id output and how, under the server's keys
	TOTP     []byte // secret, under the server's keys
	Step     int64  // of TOTP, the last one used
	Created  time.Time
	Changed  time.Time // password, TOTP or role; never twice the same
	Used     time.Time // the last sign-in; zero: none
}

// Session is a browser that is signed in, as it is kept.
type Session struct {
	ID    []byte // keyed hash of the token
	Name  string // as it is shown and logged
	Admin string // name of the account; "": by an identity provider
	Role  Role   // of the account, as it is now; "" by an identity provider
	// Who came by an identity provider.
	Identity Identity
	Created  time.Time
	Seen     time.Time
	Expires  time.Time
}

// Store is what the login needs of the database.
type Store interface {
	// HasAdmins reports whether there is any account.
	HasAdmins(ctx context.Context) (bool, error)
	// Admin finds an account: ErrUnknown.
	Admin(ctx context.Context, name string) (*Admin, error)
	// Admins lists the accounts, by name.
	Admins(ctx context.Context) ([]Admin, error)
	// AddAdmin keeps a new account: ErrExists.
	AddAdmin(ctx context.Context, a Admin) error
	// ResetAdmin puts password, TOTP, step and role in the place of those that there
	// were, and ends the sessions of the account: ErrUnknown.
	ResetAdmin(ctx context.Context, a Admin) error
	// RemoveAdmin deletes an account and its sessions.
	RemoveAdmin(ctx context.Context, name string) (removed bool, err error)

	// BeginSession keeps a session, ends the one of replaces, and forgets those that are
	// over. was is the account that it is of, as it was checked, and step the TOTP step
	// that its code has used: ErrChanged if it has changed since, or a code of that step
	// or a later one was used. was is nil for who came by an identity provider.
	BeginSession(ctx context.Context, s Session, was *Admin, step int64, replaces []byte) error
	// Session finds a session that is not over: ErrUnknown.
	Session(ctx context.Context, id []byte) (*Session, error)
	// SeenSession notes that a session was used.
	SeenSession(ctx context.Context, id []byte, now time.Time) error
	// EndSession ends a session.
	EndSession(ctx context.Context, id []byte) (ended bool, err error)

	// Charge, Refund, Forget and Locked count tries; see [escrow.Store].
	Charge(ctx context.Context, limits []escrow.Limit, now time.Time) (locked time.Time, locks []string, err error)
	Refund(ctx context.Context, l escrow.Limit, locked bool) error
	Forget(ctx context.Context, keys []string) error

	// Audit appends to the audit log.
	Audit(ctx context.Context, entries ...audit.Entry) error
}

var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// ParseName reads the name of an account. Names of who comes by an identity provider
// have an @ or a colon, so that the two can't be mixed up.
func ParseName(s string) (string, error) {
	name := strings.ToLower(strings.TrimSpace(s))
	if !validName.MatchString(name) {
		return "", fmt.Errorf("%q is no name for an administrator: want letters (a-z), digits, dots, - and _, at most 63", s)
	}
	return name, nil
}
