package escrow

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/postseal/postseal/escrow/account"
	"github.com/postseal/postseal/escrow/seal"
)

// Errors of accounts.
var (
	// ErrWeakPassword reports a password that is not taken; [*WeakPasswordError]
	// says why.
	ErrWeakPassword = errors.New("escrow: the password is too weak")
	// ErrCeremony reports a passkey or TOTP ceremony that is unknown, over, or was
	// not completed as it should: begin anew.
	ErrCeremony = errors.New("escrow: begin the sign-in anew")
	// ErrEnrolled reports that there is an account already: sign in to it, or have it
	// reset.
	ErrEnrolled = errors.New("escrow: there is an account already")
	// ErrNoPasskeys reports that browsers make no passkeys for this portal, or that
	// the account has none, or as many as it may.
	ErrNoPasskeys = errors.New("escrow: no passkey can be used here")
	// ErrLastMeans reports that the account's only way in would be removed.
	ErrLastMeans = errors.New("escrow: it is the only way into the account")
)

// AccountOptions say how recipients are verified. The zero value is good.
type AccountOptions struct {
	// Verify is what counts where neither rule nor setting says: VerifyCode or
	// VerifyAccount; "": VerifyCode.
	Verify string
	// DeviceLifetime is how long a device stays verified by an account; zero:
	// [DefaultDeviceLifetime].
	DeviceLifetime time.Duration
	// MailboxReset lets a mailed code replace the credentials of an account.
	MailboxReset bool
}

func (o AccountOptions) filled() (AccountOptions, error) {
	switch o.Verify {
	case "":
		o.Verify = VerifyCode
	case VerifyCode, VerifyAccount:
	default:
		return o, fmt.Errorf("verification %q where no rule says: want code or account", o.Verify)
	}
	if o.DeviceLifetime <= 0 {
		o.DeviceLifetime = DefaultDeviceLifetime
	}
	return o, nil
}

// setAccounts makes ready what accounts need of the portal's URL.
func (v *Vault) setAccounts(portal *url.URL) (err error) {
	v.host = portal.Hostname()
	if v.passkeys, err = account.NewPasskeys(portal, v.host); err != nil {
		return fmt.Errorf("portal URL: %w", err)
	}
	// Of no password: nobody hits 256 random bits.
	hashed := make([]byte, seal.HashedSize)
	rand.Read(hashed)
	v.noPassword = append(seal.NewHashing(), hashed...)
	return nil
}

// WeakPasswordError says why a password is not taken. It wraps [ErrWeakPassword].
type WeakPasswordError struct{ Reason string } // short, long, common, personal

func (e *WeakPasswordError) Error() string { return ErrWeakPassword.Error() + ": " + e.Reason }
func (e *WeakPasswordError) Unwrap() error { return ErrWeakPassword }

// AccountState is what the holder of a link learns of the recipient's account.
type AccountState struct {
	Enrolled     bool // there is an account
	Password     bool // it has a password
	Passkey      bool // it has a passkey
	TOTP         bool // its password needs a TOTP code too
	MailboxReset bool // policy lets a mailed code replace lost credentials
	CanPasskey   bool // browsers make passkeys for this portal: it has a host name, and https
}

// Device is a browser in which a recipient is verified, for all messages to that
// address: got from [Vault.CheckDevice].
type Device struct {
	Address string // folded
	Tag     string // as in [Vault.RecipientTag]
	How     string // VerifyCode or VerifyAccount
	Created time.Time
	Expires time.Time
	id      []byte // SHA-256 of the token
}

// Grant is what a right answer gives: the value of a cookie.
type Grant struct {
	Token   string
	Expires time.Time
	Device  bool // of the recipient, for all messages; else of the one pickup
}

// Enrolment is what a recipient enrols with at the first pickup: a mailed code, or
// the ceremony that a right code began, and a password or a passkey: a passkey where
// there is a response.
type Enrolment struct {
	Code     string
	Password string
	Ceremony string // from BeginEnrol
	Response string // JSON of the new passkey, "" for a password
	Device   string // what the browser is called in the recipient's list
}

// SignIn is what an enrolled recipient signs in with: password and, where it is
// set up, a TOTP code; or a passkey.
type SignIn struct {
	Password string
	TOTP     string
	Ceremony string // from BeginSignIn
	Response string // JSON of the passkey's assertion
	Device   string
}

// Ceremony is a WebAuthn ceremony that has begun. It is used once, within minutes.
type Ceremony struct {
	ID      string
	Options []byte // JSON for navigator.credentials.create or get
}

// TOTPSetup is a second factor (RFC 6238) that is being set up.
type TOTPSetup struct {
	Ceremony string
	Secret   string // base32, for typing
	URL      string // otpauth:
	QR       []byte // PNG
}

// Account is what a recipient sees of the own account.
type Account struct {
	Address  string
	Password bool
	TOTP     bool
	Passkeys []Passkey
	Devices  []DeviceInfo
	Created  time.Time
	Changed  time.Time
}

// Passkey is one of an account.
type Passkey struct {
	ID      string // for RemovePasskey
	Name    string
	Created time.Time
	Used    time.Time // zero: never
}

// DeviceInfo is a browser in an account's list.
type DeviceInfo struct {
	ID      string // for SignOutDevice
	Name    string
	How     string
	Created time.Time
	Seen    time.Time
	Expires time.Time
	This    bool // the one that asks
}

// accountState says what the holder of a link learns of an account, nil for none.
func (v *Vault) accountState(a *StoredAccount) AccountState {
	s := AccountState{MailboxReset: v.accounts.MailboxReset, CanPasskey: v.passkeys != nil}
	if a != nil {
		s.Enrolled, s.Password, s.Passkey, s.TOTP = true, a.Password != nil, len(a.Passkeys) > 0, a.TOTP != nil
	}
	return s
}
