package escrow

import (
	"context"
	"errors"
	"time"
)

// ErrChanged reports that an account is not as it was when a change to it was
// decided upon: read it anew. It stays within the vault and its store.
var ErrChanged = errors.New("escrow: the account has changed meanwhile")

// AccountStore keeps recipients' devices and accounts. Addresses are folded.
type AccountStore interface {
	// Device finds a device that is not over; ErrUnknown if there is none. One of
	// VerifyAccount is of an account that there is.
	Device(ctx context.Context, id []byte, now time.Time) (*StoredDevice, error)
	// Devices lists those of an address that are not over, the newest first.
	Devices(ctx context.Context, address string, now time.Time) ([]StoredDevice, error)
	// SeenDevice notes that a device was used.
	SeenDevice(ctx context.Context, id []byte, now time.Time) error
	// DropDevice forgets one device of an address.
	DropDevice(ctx context.Context, address string, id []byte) (dropped bool, err error)
	// DropDevices forgets all devices of an address.
	DropDevices(ctx context.Context, address string) error

	// AccountOf finds an account with its passkeys; ErrUnknown if there is none.
	AccountOf(ctx context.Context, address string) (*StoredAccount, error)
	// AccountByTag does the same by the account's tag.
	AccountByTag(ctx context.Context, tag string) (*StoredAccount, error)
	// Accounts lists all, sorted by address, without their passkeys.
	Accounts(ctx context.Context) ([]StoredAccount, error)
	// ChangeAccount makes a change, or, on an error, nothing of it. The error
	// wraps ErrWrong where the code or the TOTP step does not count (any more),
	// ErrCeremony where the ceremony was used before or the passkey is not as it
	// was, ErrChanged where the account is not.
	ChangeAccount(ctx context.Context, c AccountChange) error
	// DeleteAccount deletes an account, its passkeys, and all devices of the
	// address. Of the pickups of that address that are not over each gets the
	// event.
	DeleteAccount(ctx context.Context, address string, e Event) (deleted bool, err error)
}

// AccountChange is one change to the account and devices of an address, with
// what it uses up. All that is zero is left as it is.
type AccountChange struct {
	Address string
	Now     time.Time

	// What must hold. Was is the account as it was read; Absent: there is none.
	Was    *StoredAccount
	Absent bool
	Holder []byte // id of a device that must not be signed out; nil: nobody's matter

	// What is used up.
	Code     *CodeUse
	Ceremony *CeremonyUse
	Step     int64 // of TOTP; it must be later than the last one used

	// What comes of it, in this order.
	Create     *StoredAccount // in the place of the one there was, its passkeys and devices
	Password   []byte
	TOTP       []byte
	DropTOTP   bool
	AddPasskey *StoredPasskey
	UsePasskey *PasskeyUse
	DropKey    []byte // id of a passkey
	SignOut    bool   // of all devices but Keep
	Keep       []byte
	Device     *StoredDevice
	Pickup     string // that gets the events
	Events     []Event
	Mails      []NewMail
}

// CodeUse is the use of a one-time code. A used one stays valid for Grace, for a
// button pressed twice.
type CodeUse struct {
	Pickup string
	Tag    []byte
	Grace  time.Duration
}

// CeremonyUse is the use of a ceremony, which is remembered until it would be
// over anyway.
type CeremonyUse struct {
	ID      []byte
	Expires time.Time
}

// PasskeyUse keeps what a sign-in changed of a passkey: its counter.
type PasskeyUse struct {
	ID       []byte
	Was, Now []byte // the credential, encrypted
}

// StoredAccount is an account. What is secret of it is encrypted.
type StoredAccount struct {
	Address  string
	Tag      string
	Handle   []byte // WebAuthn user handle
	Password []byte // nil: none
	TOTP     []byte // nil: none
	Step     int64  // of TOTP, the last one used
	Created  time.Time
	Changed  time.Time
	Passkeys []StoredPasskey
}

// StoredPasskey is a passkey of an account.
type StoredPasskey struct {
	ID         []byte
	Credential []byte // encrypted
	Name       string
	Created    time.Time
	Used       time.Time
}

// StoredDevice is a browser in which a recipient is verified.
type StoredDevice struct {
	ID      []byte // SHA-256 of its token
	Address string
	How     string
	Name    string
	Created time.Time
	Seen    time.Time
	Expires time.Time
}
