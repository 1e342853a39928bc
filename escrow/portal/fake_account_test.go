package portal

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/account"
)

const (
	testPassword = "seven grey herons fly"
	testTOTP     = "271828"
	testResponse = `{"id":"a passkey's answer"}`
)

// fakeAccounts are the accounts of a fakeVault: of its one recipient.
type fakeAccounts struct {
	enrolled   bool
	password   string
	totp       bool
	mailbox    bool
	passkeys   []escrow.Passkey
	ceremonies map[string]bool // good ones
	begun      int
	asked      int
	lockAsk    time.Time
	last       escrow.Enrolment
	lastIn     escrow.SignIn
}

func (f *fakeAccounts) state() escrow.AccountState {
	return escrow.AccountState{Enrolled: f.enrolled, Password: f.password != "", Passkey: len(f.passkeys) > 0, TOTP: f.totp, MailboxReset: f.mailbox, CanPasskey: true}
}

func (f *fakeAccounts) begin() escrow.Ceremony {
	f.begun++
	id := fmt.Sprintf("ceremony-%d", f.begun)
	if f.ceremonies == nil {
		f.ceremonies = map[string]bool{}
	}
	f.ceremonies[id] = true
	return escrow.Ceremony{ID: id, Options: json.RawMessage(`{"publicKey":{"challenge":"AAAA"}}`)}
}

func (f *fakeAccounts) weak(password string) error {
	switch {
	case len(password) < account.MinPassword:
		return &escrow.WeakPasswordError{Reason: "short"}
	case len(password) > 128:
		return &escrow.WeakPasswordError{Reason: "long"}
	case strings.Contains(password, "jane"):
		return &escrow.WeakPasswordError{Reason: "personal"}
	case strings.HasPrefix(password, "password"):
		return &escrow.WeakPasswordError{Reason: "common"}
	}
	return nil
}

func (f *fakeVault) BeginEnrol(ctx context.Context, p *escrow.Pickup, code string, c escrow.Client) (escrow.Ceremony, error) {
	defer f.called("BeginEnrol")()
	if strings.HasPrefix(code, "ceremony-") {
		if !f.ceremonies[code] {
			return escrow.Ceremony{}, escrow.ErrCeremony
		}
		return f.begin(), nil
	}
	if err := f.try(c); err != nil {
		return escrow.Ceremony{}, err
	}
	if err := f.useCode(code); err != nil {
		return escrow.Ceremony{}, err
	}
	return f.begin(), nil
}

func (f *fakeVault) Enrol(ctx context.Context, p *escrow.Pickup, e escrow.Enrolment, c escrow.Client) (escrow.Grant, error) {
	defer f.called("Enrol")()
	f.last = e
	if e.Response == "" {
		if err := f.weak(e.Password); err != nil {
			return escrow.Grant{}, err
		}
	}
	if e.Ceremony != "" {
		if !f.ceremonies[e.Ceremony] {
			return escrow.Grant{}, escrow.ErrCeremony
		}
	} else if err := f.try(c); err != nil {
		return escrow.Grant{}, err
	} else if err := f.useCode(e.Code); err != nil {
		return escrow.Grant{}, err
	}
	if e.Response != "" && e.Response != testResponse {
		return escrow.Grant{}, escrow.ErrCeremony
	}
	f.enrolled, f.password = true, e.Password
	if e.Response != "" {
		f.passkeys = []escrow.Passkey{{ID: "key-1", Name: e.Device, Created: f.now()}}
	}
	return f.grant(escrow.VerifyAccount), nil
}

func (f *fakeVault) BeginSignIn(ctx context.Context, p *escrow.Pickup, c escrow.Client) (escrow.Ceremony, error) {
	defer f.called("BeginSignIn")()
	return f.begin(), nil
}

func (f *fakeVault) SignIn(ctx context.Context, p *escrow.Pickup, s escrow.SignIn, c escrow.Client) (escrow.Grant, error) {
	defer f.called("SignIn")()
	f.lastIn = s
	if err := f.try(c); err != nil {
		return escrow.Grant{}, err
	}
	if s.Response != "" {
		if !f.ceremonies[s.Ceremony] {
			return escrow.Grant{}, escrow.ErrCeremony
		}
		if s.Response != testResponse {
			return escrow.Grant{}, escrow.ErrWrong
		}
		return f.grant(escrow.VerifyAccount), nil
	}
	if s.Password != f.password || f.totp && s.TOTP != testTOTP {
		return escrow.Grant{}, escrow.ErrWrong
	}
	return f.grant(escrow.VerifyAccount), nil
}

func (f *fakeVault) Owner(ctx context.Context, tag string) (*escrow.Pickup, error) {
	defer f.called("Owner")()
	if tag != testTag || !f.enrolled {
		return nil, escrow.ErrUnknown
	}
	return &escrow.Pickup{Recipient: testHolder, Tag: testTag, Verify: escrow.VerifyAccount, Account: f.state(), Locked: f.lockTry}, nil
}

func (f *fakeVault) AskReset(ctx context.Context, p *escrow.Pickup, c escrow.Client) error {
	defer f.called("AskReset")()
	if f.lockAsk.After(f.now()) {
		return &escrow.LockedError{Until: f.lockAsk}
	}
	f.asked++
	return nil
}

func (f *fakeVault) Account(ctx context.Context, d *escrow.Device) (escrow.Account, error) {
	defer f.called("Account")()
	a := escrow.Account{Address: testHolder, Password: f.password != "", TOTP: f.totp, Passkeys: f.passkeys, Created: testNow, Changed: testNow}
	for token, other := range f.devices {
		a.Devices = append(a.Devices, escrow.DeviceInfo{ID: token, Name: "Firefox, Linux", How: other.How, Created: other.Created, Seen: other.Created, Expires: other.Expires, This: d == other})
	}
	return a, nil
}

func (f *fakeVault) ChangePassword(ctx context.Context, d *escrow.Device, old, new string, c escrow.Client) error {
	defer f.called("ChangePassword")()
	if err := f.weak(new); err != nil {
		return err
	}
	if err := f.try(c); err != nil {
		return err
	}
	if old != f.password {
		return escrow.ErrWrong
	}
	f.password = new
	return nil
}

func (f *fakeVault) BeginAddPasskey(ctx context.Context, d *escrow.Device) (escrow.Ceremony, error) {
	defer f.called("BeginAddPasskey")()
	return f.begin(), nil
}

func (f *fakeVault) AddPasskey(ctx context.Context, d *escrow.Device, ceremony, response, name string) error {
	defer f.called("AddPasskey")()
	if !f.ceremonies[ceremony] || response != testResponse {
		return escrow.ErrCeremony
	}
	f.passkeys = append(f.passkeys, escrow.Passkey{ID: fmt.Sprintf("key-%d", len(f.passkeys)+1), Name: name, Created: f.now(), Used: f.now()})
	return nil
}

func (f *fakeVault) RemovePasskey(ctx context.Context, d *escrow.Device, id string) error {
	defer f.called("RemovePasskey")()
	for i, k := range f.passkeys {
		if k.ID != id {
			continue
		}
		if len(f.passkeys) == 1 && f.password == "" {
			return escrow.ErrLastMeans
		}
		f.passkeys = append(f.passkeys[:i:i], f.passkeys[i+1:]...)
		return nil
	}
	return escrow.ErrUnknown
}

func (f *fakeVault) setup(ceremony string) escrow.TOTPSetup {
	return escrow.TOTPSetup{Ceremony: ceremony, Secret: "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ", URL: "otpauth://totp/Postseal:jane?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ", QR: []byte("\x89PNG")}
}

func (f *fakeVault) NewTOTP(ctx context.Context, d *escrow.Device) (escrow.TOTPSetup, error) {
	defer f.called("NewTOTP")()
	return f.setup(f.begin().ID), nil
}

func (f *fakeVault) ResumeTOTP(ctx context.Context, d *escrow.Device, ceremony string) (escrow.TOTPSetup, error) {
	defer f.called("ResumeTOTP")()
	if !f.ceremonies[ceremony] {
		return escrow.TOTPSetup{}, escrow.ErrCeremony
	}
	return f.setup(ceremony), nil
}

func (f *fakeVault) ConfirmTOTP(ctx context.Context, d *escrow.Device, ceremony, code string, c escrow.Client) error {
	defer f.called("ConfirmTOTP")()
	if !f.ceremonies[ceremony] {
		return escrow.ErrCeremony
	}
	if err := f.try(c); err != nil {
		return err
	}
	if code != testTOTP {
		return escrow.ErrWrong
	}
	f.totp = true
	return nil
}

func (f *fakeVault) RemoveTOTP(ctx context.Context, d *escrow.Device, code string, c escrow.Client) error {
	defer f.called("RemoveTOTP")()
	if err := f.try(c); err != nil {
		return err
	}
	if code != testTOTP {
		return escrow.ErrWrong
	}
	f.totp = false
	return nil
}

func (f *fakeVault) SignOutDevice(ctx context.Context, d *escrow.Device, id string) error {
	defer f.called("SignOutDevice")()
	if f.devices[id] == nil {
		return escrow.ErrUnknown
	}
	delete(f.devices, id)
	return nil
}

func (f *fakeVault) SignOutAll(ctx context.Context, d *escrow.Device) error {
	defer f.called("SignOutAll")()
	clear(f.devices)
	return nil
}
