package escrow_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/descope/virtualwebauthn"
	"github.com/pquerna/otp/totp"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/sql"
)

const goodPassword = "seven grey herons"

// keyring is a browser with an authenticator in it.
type keyring struct {
	rp   virtualwebauthn.RelyingParty
	auth virtualwebauthn.Authenticator
	key  virtualwebauthn.Credential
}

func newKeyring() *keyring {
	// virtualwebauthn leaves out the leading zero bytes of a coordinate, which no real
	// authenticator does: such a key is made anew.
	key := virtualwebauthn.NewCredential(virtualwebauthn.KeyTypeEC2)
	for len(key.Key.AttestationData()) != 77 { // a COSE key with both coordinates of P-256 in full
		key = virtualwebauthn.NewCredential(virtualwebauthn.KeyTypeEC2)
	}
	return &keyring{
		rp:   virtualwebauthn.RelyingParty{ID: "portal.clinic.example", Origin: "https://portal.clinic.example"},
		auth: virtualwebauthn.NewAuthenticator(),
		key:  key,
	}
}

func (b *keyring) creates(t *testing.T, c escrow.Ceremony) string {
	t.Helper()
	o, err := virtualwebauthn.ParseAttestationOptions(string(c.Options))
	if err != nil {
		t.Fatal(err)
	}
	b.auth.Options.UserHandle = []byte(o.UserID)
	return virtualwebauthn.CreateAttestationResponse(b.rp, b.auth, b.key, *o)
}

func (b *keyring) asserts(t *testing.T, c escrow.Ceremony) string {
	t.Helper()
	o, err := virtualwebauthn.ParseAssertionOptions(string(c.Options))
	if err != nil {
		t.Fatal(err)
	}
	b.key.Counter++
	auth := b.auth
	auth.Options.UserHandle = nil
	return virtualwebauthn.CreateAssertionResponse(b.rp, auth, b.key, *o)
}

// accountItem seals a message that asks for an account.
func (b *bench) accountItem(to string) *escrow.Pickup {
	b.t.Helper()
	b.seal(message([]byte("for "+to+b.clock().String()), escrow.Recipient{Address: to, Verify: escrow.VerifyAccount}))
	b.pass(time.Second) // the next one has another body
	return b.pickup(b.link(to))
}

// again reads a pickup anew.
func (b *bench) again(p *escrow.Pickup) *escrow.Pickup {
	b.t.Helper()
	fresh, err := b.Reload(b.t.Context(), p)
	b.must(err)
	return fresh
}

func (b *bench) enrolled(p *escrow.Pickup) *escrow.Device {
	b.t.Helper()
	g, err := b.Enrol(b.t.Context(), p, escrow.Enrolment{Code: b.code(p), Password: goodPassword, Device: "Firefox"}, stranger)
	b.must(err, "enrol:")
	return b.device(p, g)
}

func (b *bench) signIn(p *escrow.Pickup, s escrow.SignIn) (*escrow.Device, error) {
	b.t.Helper()
	g, err := b.SignIn(b.t.Context(), p, s, stranger)
	if err != nil {
		return nil, err
	}
	return b.device(p, g), nil
}

func TestEnrolmentByPassword(t *testing.T) {
	b := newBench(t)
	p := b.accountItem(recipient)
	if p.Verify != escrow.VerifyAccount || p.Account.Enrolled || !p.Account.CanPasskey {
		t.Errorf("pickup %+v", p)
	}
	code := b.code(p)
	if _, err := b.Prove(t.Context(), p, code, stranger); !errors.Is(err, escrow.ErrWrong) {
		t.Errorf("a code alone opens it: %v", err)
	}
	g, err := b.Enrol(t.Context(), p, escrow.Enrolment{Code: code[:4] + " " + code[4:], Password: goodPassword, Device: "Firefox"}, stranger)
	b.must(err)
	if !g.Device || !g.Expires.Equal(b.clock().Add(30*24*time.Hour)) {
		t.Errorf("grant %+v", g)
	}
	d := b.device(p, g)
	if _, err := b.admitted(p, d); err != nil || d.How != escrow.VerifyAccount {
		t.Errorf("%+v, %v", d, err)
	}
	p = b.again(p)
	if a := p.Account; !a.Enrolled || !a.Password || a.Passkey || a.TOTP {
		t.Errorf("account %+v", a)
	}
	if e := b.events(p); !strings.Contains(e, "enrolled password") {
		t.Errorf("events %s", e)
	}
	// The next message, in another spelling of the address, on the same device and on
	// another one.
	next := b.accountItem("PAT@old.example")
	if _, err := b.admitted(next, d); err != nil {
		t.Errorf("the next message: %v", err)
	}
	other, err := b.signIn(next, escrow.SignIn{Password: goodPassword})
	b.must(err)
	if _, err := b.admitted(p, other); err != nil {
		t.Errorf("on another device: %v", err)
	}
	for _, wrong := range []string{"", "seven grey heron", strings.ToUpper(goodPassword), strings.Repeat("x", 1000)} {
		if _, err := b.signIn(next, escrow.SignIn{Password: wrong}); !errors.Is(err, escrow.ErrWrong) {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}

func TestEnrolmentThatIsRefused(t *testing.T) {
	b := newBench(t)
	p := b.accountItem(recipient)
	code := b.code(p)
	weak := func(password string) (reason string) {
		_, err := b.Enrol(t.Context(), p, escrow.Enrolment{Code: code, Password: password}, stranger)
		var w *escrow.WeakPasswordError
		if !errors.As(err, &w) || !errors.Is(err, escrow.ErrWeakPassword) {
			t.Fatalf("%q: %v", password, err)
		}
		return w.Reason
	}
	for password, want := range map[string]string{
		"short": "short", strings.Repeat("q8fh", 200): "long", "password1234": "common", "pat@old.example": "personal", "portal.clinic.example": "personal",
	} {
		for range 4 { // none of them is a try
			if got := weak(password); got != want {
				t.Errorf("%q: %s, want %s", password, got, want)
			}
		}
	}
	if _, err := b.Enrol(t.Context(), p, escrow.Enrolment{Code: "00000000", Password: goodPassword}, stranger); !errors.Is(err, escrow.ErrWrong) {
		t.Errorf("a wrong code: %v", err)
	}
	if b.again(p).Account.Enrolled {
		t.Fatal("enrolled")
	}
	// The code is not used up by any of that, and a newer one leaves it valid.
	b.code(p)
	if _, err := b.Enrol(t.Context(), p, escrow.Enrolment{Code: code, Password: goodPassword}, stranger); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

func TestEnrolmentIsFirstCome(t *testing.T) {
	b := newBench(t)
	p := b.accountItem(recipient)
	code := b.code(p)
	first, err := b.Enrol(t.Context(), p, escrow.Enrolment{Code: code, Password: goodPassword}, stranger)
	b.must(err)
	again, err := b.Enrol(t.Context(), p, escrow.Enrolment{Code: code, Password: goodPassword}, stranger)
	b.must(err, "the button pressed twice:")
	b.device(p, first)
	b.device(p, again)
	code = b.code(p)
	if _, err := b.Enrol(t.Context(), p, escrow.Enrolment{Code: code, Password: "another good one"}, stranger); !errors.Is(err, escrow.ErrEnrolled) {
		t.Errorf("enrolled over it: %v", err)
	}
	if _, err := b.BeginEnrol(t.Context(), p, code, stranger); !errors.Is(err, escrow.ErrEnrolled) {
		t.Errorf("began to: %v", err)
	}
	if _, err := b.signIn(p, escrow.SignIn{Password: goodPassword}); err != nil {
		t.Errorf("the first password: %v", err)
	}
}

// TestParallelEnrolments holds that of two who enrol at the same time one does.
func TestParallelEnrolments(t *testing.T) {
	b := newBench(t)
	p, q := b.accountItem(recipient), b.accountItem(recipient)
	var wg sync.WaitGroup
	errs := make([]error, 4)
	passwords := make([]string, len(errs))
	for i := range errs {
		at := p
		if i%2 == 1 {
			at = q
		}
		code := b.code(at)
		passwords[i] = fmt.Sprintf("grey herons %d flew", i)
		wg.Go(func() {
			_, errs[i] = b.Enrol(t.Context(), at, escrow.Enrolment{Code: code, Password: passwords[i]}, stranger)
		})
	}
	wg.Wait()
	won := -1
	for i, err := range errs {
		switch {
		case err == nil && won < 0:
			won = i
		case err == nil:
			t.Errorf("%d and %d enrolled", won, i)
		case !errors.Is(err, escrow.ErrEnrolled):
			t.Errorf("%d: %v", i, err)
		}
	}
	if won < 0 {
		t.Fatal("nobody enrolled")
	}
	if _, err := b.signIn(p, escrow.SignIn{Password: passwords[won]}); err != nil {
		t.Errorf("the one who did: %v", err)
	}
}

func TestEnrolmentByPasskey(t *testing.T) {
	b, br := newBench(t), newKeyring()
	p := b.accountItem(recipient)
	if _, err := b.BeginEnrol(t.Context(), p, "00000000", stranger); !errors.Is(err, escrow.ErrWrong) {
		t.Errorf("a wrong code: %v", err)
	}
	c, err := b.BeginEnrol(t.Context(), p, b.code(p), stranger)
	b.must(err)
	e := escrow.Enrolment{Ceremony: c.ID, Response: br.creates(t, c), Device: "Safari"}
	evil := *br
	evil.rp.Origin = "https://evil.example"
	for name, bad := range map[string]escrow.Enrolment{
		"another origin":           {Ceremony: c.ID, Response: evil.creates(t, c)},
		"no ceremony":              {Response: e.Response},
		"another ceremony":         {Ceremony: c.ID[1:], Response: e.Response},
		"no JSON":                  {Ceremony: c.ID, Response: "{"},
		"a code with the response": {Code: b.code(p), Response: e.Response},
	} {
		if _, err := b.Enrol(t.Context(), p, bad, stranger); !errors.Is(err, escrow.ErrCeremony) {
			t.Errorf("%s: %v", name, err)
		}
	}
	g, err := b.Enrol(t.Context(), p, e, stranger)
	b.must(err)
	if _, err := b.admitted(p, b.device(p, g)); err != nil {
		t.Error(err)
	}
	p = b.again(p)
	if a := p.Account; !a.Enrolled || a.Password || !a.Passkey {
		t.Errorf("account %+v", a)
	}
	if _, err := b.signIn(p, escrow.SignIn{Password: goodPassword}); !errors.Is(err, escrow.ErrWrong) {
		t.Errorf("a password where there is none: %v", err)
	}
	if _, err := b.Enrol(t.Context(), p, e, stranger); !errors.Is(err, escrow.ErrEnrolled) {
		t.Errorf("once more: %v", err)
	}
	b.must2(b.ResetAccount(t.Context(), recipient, escrow.ResetAdministrator))
	if _, err := b.Enrol(t.Context(), p, e, stranger); !errors.Is(err, escrow.ErrCeremony) {
		t.Errorf("a ceremony used twice: %v", err)
	}
}

func TestACeremonyThatBeganServesAPasswordToo(t *testing.T) {
	b := newBench(t)
	p := b.accountItem(recipient)
	c, err := b.BeginEnrol(t.Context(), p, b.code(p), stranger)
	b.must(err)
	other := b.accountItem("mo@old.example")
	if _, err := b.Enrol(t.Context(), other, escrow.Enrolment{Ceremony: c.ID, Password: goodPassword}, stranger); !errors.Is(err, escrow.ErrCeremony) {
		t.Errorf("of another recipient: %v", err)
	}
	b.pass(10 * time.Minute)
	if _, err := b.Enrol(t.Context(), p, escrow.Enrolment{Ceremony: c.ID, Password: goodPassword}, stranger); !errors.Is(err, escrow.ErrCeremony) {
		t.Errorf("after ten minutes: %v", err)
	}
	c, err = b.BeginEnrol(t.Context(), p, b.code(p), stranger)
	b.must(err)
	if len(c.ID) > 2500 {
		t.Errorf("a ceremony of %d bytes fits no cookie", len(c.ID))
	}
	b.pass(6 * time.Minute)
	anew, err := b.BeginEnrol(t.Context(), p, c.ID, stranger)
	b.must(err, "begun anew:")
	_, err = b.Enrol(t.Context(), p, escrow.Enrolment{Ceremony: c.ID, Password: goodPassword}, stranger)
	b.must(err)
	b.must2(b.ResetAccount(t.Context(), recipient, escrow.ResetSender))
	if _, err = b.Enrol(t.Context(), p, escrow.Enrolment{Ceremony: anew.ID, Password: goodPassword}, stranger); !errors.Is(err, escrow.ErrCeremony) {
		t.Errorf("one that was used under another form: %v", err)
	}
	b.pass(4 * time.Minute)
	if _, err := b.BeginEnrol(t.Context(), p, anew.ID, stranger); !errors.Is(err, escrow.ErrCeremony) {
		t.Errorf("begun anew after its time: %v", err)
	}
}

func TestSignInByPasskey(t *testing.T) {
	b, br := newBench(t), newKeyring()
	p := b.accountItem(recipient)
	if _, err := b.BeginSignIn(t.Context(), p, stranger); !errors.Is(err, escrow.ErrNoPasskeys) {
		t.Errorf("without an account: %v", err)
	}
	c, err := b.BeginEnrol(t.Context(), p, b.code(p), stranger)
	b.must(err)
	_, err = b.Enrol(t.Context(), p, escrow.Enrolment{Ceremony: c.ID, Response: br.creates(t, c)}, stranger)
	b.must(err)

	// No lock of a stranger's making keeps a passkey out.
	for range 6 {
		b.signIn(p, escrow.SignIn{Password: "guessed"})
	}
	c, err = b.BeginSignIn(t.Context(), p, stranger)
	b.must(err)
	response := br.asserts(t, c)
	d, err := b.signIn(p, escrow.SignIn{Ceremony: c.ID, Response: response})
	b.must(err)
	if _, err := b.admitted(p, d); err != nil {
		t.Error(err)
	}
	if e := b.events(p); !strings.Contains(e, "verified passkey") {
		t.Errorf("events %s", e)
	}
	refused := func(name string, s escrow.SignIn) {
		t.Helper()
		if _, err := b.signIn(p, s); !errors.Is(err, escrow.ErrCeremony) {
			t.Errorf("%s: %v", name, err)
		}
	}
	refused("replayed", escrow.SignIn{Ceremony: c.ID, Response: response})
	c, err = b.BeginSignIn(t.Context(), p, stranger)
	b.must(err)
	refused("the response of before", escrow.SignIn{Ceremony: c.ID, Response: response})

	// Another recipient's passkey, and ceremony.
	other, obr := b.accountItem("mo@old.example"), newKeyring()
	oc, err := b.BeginEnrol(t.Context(), other, b.code(other), stranger)
	b.must(err)
	_, err = b.Enrol(t.Context(), other, escrow.Enrolment{Ceremony: oc.ID, Response: obr.creates(t, oc)}, stranger)
	b.must(err)
	refused("another's passkey", escrow.SignIn{Ceremony: c.ID, Response: obr.asserts(t, c)})
	oc, err = b.BeginSignIn(t.Context(), other, stranger)
	b.must(err)
	refused("another's ceremony", escrow.SignIn{Ceremony: oc.ID, Response: obr.asserts(t, oc)})

	// A counter that went back.
	br.key.Counter = 0
	c, err = b.BeginSignIn(t.Context(), p, stranger)
	b.must(err)
	refused("a copy", escrow.SignIn{Ceremony: c.ID, Response: br.asserts(t, c)})
	br.key.Counter = 100
	c, err = b.BeginSignIn(t.Context(), p, stranger)
	b.must(err)
	late := br.asserts(t, c)
	b.pass(10 * time.Minute)
	refused("after ten minutes", escrow.SignIn{Ceremony: c.ID, Response: late})

	// In parallel, one counts.
	c, err = b.BeginSignIn(t.Context(), p, stranger)
	b.must(err)
	response = br.asserts(t, c)
	if n := b.parallel(4, func() error {
		_, err := b.SignIn(t.Context(), p, escrow.SignIn{Ceremony: c.ID, Response: response}, stranger)
		return err
	}); n != 1 {
		t.Errorf("%d of 4 parallel sign-ins by one response", n)
	}
}

// parallel returns how many of n calls at the same time succeed.
func (b *bench) parallel(n int, f func() error) (ok int) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	for range n {
		wg.Go(func() {
			err := f()
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				ok++
			}
		})
	}
	wg.Wait()
	return ok
}

func TestWrongPasswordsLockAndTellTheSender(t *testing.T) {
	b := newBench(t)
	p := b.accountItem(recipient)
	d := b.enrolled(p)
	b.mails()
	for i := range 5 {
		if _, err := b.signIn(p, escrow.SignIn{Password: "wrong password"}); !errors.Is(err, escrow.ErrWrong) {
			t.Fatalf("try %d: %v", i, err)
		}
	}
	var locked *escrow.LockedError
	if _, err := b.signIn(p, escrow.SignIn{Password: goodPassword}); !errors.As(err, &locked) {
		t.Errorf("the right one, locked: %v", err)
	}
	if got := b.again(p).Locked; !got.After(b.clock()) {
		t.Errorf("the pickup is locked until %v", got)
	}
	told := 0
	for _, m := range b.mails() {
		if m.Kind == "lock" && m.To == sender {
			told++
		}
	}
	if told != 1 {
		t.Errorf("the sender was told %d times", told)
	}
	if _, err := b.admitted(p, d); err != nil {
		t.Errorf("the lock hits a device that is verified: %v", err)
	}
	// A right code on another message must not forget the tries at the account.
	b.seal(message([]byte("by code"), escrow.Recipient{Address: recipient, Verify: escrow.VerifyCode}))
	q := b.pickup(b.link(recipient))
	b.prove(q, b.code(q))
	if _, err := b.signIn(p, escrow.SignIn{Password: goodPassword}); !errors.As(err, &locked) {
		t.Errorf("a code unlocked the password: %v", err)
	}
	b.pass(5 * time.Minute)
	if _, err := b.signIn(p, escrow.SignIn{Password: goodPassword}); err != nil {
		t.Errorf("after the lock: %v", err)
	}
}

func TestParallelPasswordsAreCounted(t *testing.T) {
	b := newBench(t)
	p := b.accountItem(recipient)
	b.enrolled(p)
	var wrong, locked int
	var mu sync.Mutex
	b.parallel(12, func() error {
		_, err := b.SignIn(t.Context(), p, escrow.SignIn{Password: "wrong password"}, stranger)
		mu.Lock()
		defer mu.Unlock()
		var l *escrow.LockedError
		if errors.Is(err, escrow.ErrWrong) {
			wrong++
		} else if errors.As(err, &l) {
			locked++
		}
		return err
	})
	if wrong != 5 || locked != 7 {
		t.Errorf("%d were checked, %d locked", wrong, locked)
	}
}

func TestACodeDeviceDoesNotOpenWhatWantsAnAccount(t *testing.T) {
	b := newBench(t)
	b.seal(message([]byte("by code"), escrow.Recipient{Address: recipient, Verify: escrow.VerifyCode}))
	byCode := b.pickup(b.link(recipient))
	d := b.device(byCode, b.prove(byCode, b.code(byCode)))
	p := b.accountItem(recipient)
	if _, err := b.admitted(p, d); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("a code opened it: %v", err)
	}
	if _, s, err := b.InboxOpen(t.Context(), d, p.ItemID); s != nil || !errors.Is(err, escrow.ErrNeedsLink) {
		t.Errorf("a code opened it in the inbox: %v", err)
	}
	secret := b.letter("Subject: the finding", "x", escrow.Recipient{Address: recipient, Verify: escrow.VerifyAccount})
	items, _ := b.inbox(d, escrow.InboxQuery{})
	for _, it := range items {
		if it.Openable != (it.ItemID == byCode.ItemID) || it.Subject != "" || it.From != "" {
			t.Errorf("the inbox shows %+v", it)
		}
	}
	if items[0].ItemID != secret || len(items) != 3 {
		t.Errorf("the inbox lists %d", len(items))
	}
	if _, err := b.Account(t.Context(), d); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("account: %v", err)
	}
	if err := b.ChangePassword(t.Context(), d, "", goodPassword, stranger); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("change: %v", err)
	}
	if _, err := b.BeginAddPasskey(t.Context(), d); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("add a passkey: %v", err)
	}
	own := b.enrolled(p)
	if _, err := b.admitted(byCode, own); err != nil {
		t.Errorf("an account does not open what wants a code: %v", err)
	}
}

func TestResetKillsDevicesAtOnce(t *testing.T) {
	b := newBench(t)
	p := b.accountItem(recipient)
	d := b.enrolled(p)
	reset, err := b.ResetAccount(t.Context(), "PAT@OLD.EXAMPLE", escrow.ResetSender)
	b.must(err)
	if !reset {
		t.Error("nothing was reset")
	}
	if _, err := b.Account(t.Context(), d); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("account: %v", err)
	}
	list, err := b.db.Devices(t.Context(), recipient, b.clock())
	if err != nil || len(list) != 0 {
		t.Errorf("%d devices, %v", len(list), err)
	}
	if p = b.again(p); p.Account.Enrolled {
		t.Error("still enrolled")
	}
	if e := b.events(p); !strings.Contains(e, "reset sender") {
		t.Errorf("events %s", e)
	}
	if reset, err = b.ResetAccount(t.Context(), recipient, escrow.ResetSender); err != nil || reset {
		t.Errorf("once more: %v, %v", reset, err)
	}
	b.enrolled(p) // anew
}

func TestTheMailboxReplacesCredentialsWherePolicySaysSo(t *testing.T) {
	b := newBench(t)
	p := b.accountItem(recipient)
	d := b.enrolled(p)
	b.Vault = b.vault(b.keys, func(o *escrow.Options) { o.Accounts.MailboxReset = true })
	if p = b.again(p); !p.Account.MailboxReset {
		t.Error("the page is not told")
	}
	_, err := b.Enrol(t.Context(), p, escrow.Enrolment{Code: "00000000", Password: "another good one"}, stranger)
	if !errors.Is(err, escrow.ErrWrong) {
		t.Errorf("a wrong code: %v", err)
	}
	if _, err := b.Account(t.Context(), d); err != nil {
		t.Errorf("after a wrong code: %v", err)
	}
	_, err = b.Enrol(t.Context(), p, escrow.Enrolment{Code: b.code(p), Password: "another good one"}, stranger)
	b.must(err)
	if _, err := b.signIn(p, escrow.SignIn{Password: goodPassword}); !errors.Is(err, escrow.ErrWrong) {
		t.Errorf("the old password: %v", err)
	}
	if _, err := b.signIn(p, escrow.SignIn{Password: "another good one"}); err != nil {
		t.Errorf("the new password: %v", err)
	}
	if e := b.events(p); !strings.Contains(e, "reset mailbox") {
		t.Errorf("events %s", e)
	}
	list, err := b.db.Devices(t.Context(), recipient, b.clock())
	b.must(err)
	if len(list) != 2 {
		t.Errorf("%d devices: those from before are to be gone", len(list))
	}
}

func TestTheOwnersAccount(t *testing.T) {
	b, br := newBench(t), newKeyring()
	p := b.accountItem(recipient)
	d := b.enrolled(p)
	_, err := b.signIn(p, escrow.SignIn{Password: goodPassword, Device: "Chrome"})
	b.must(err)
	a, err := b.Account(t.Context(), d)
	b.must(err)
	if a.Address != recipient || !a.Password || a.TOTP || len(a.Passkeys) != 0 || len(a.Devices) != 2 {
		t.Errorf("account %+v", a)
	}
	for _, x := range a.Devices {
		if x.This != (x.Name == "Firefox") || x.How != escrow.VerifyAccount {
			t.Errorf("device %+v", x)
		}
		if !x.This {
			b.must(b.SignOutDevice(t.Context(), d, x.ID))
			if err := b.SignOutDevice(t.Context(), d, x.ID); !errors.Is(err, escrow.ErrUnknown) {
				t.Errorf("signed out twice: %v", err)
			}
		}
	}
	if list, err := b.db.Devices(t.Context(), recipient, b.clock()); err != nil || len(list) != 1 {
		t.Errorf("%d devices left, %v", len(list), err)
	}

	// The password.
	_, err = b.signIn(p, escrow.SignIn{Password: goodPassword})
	b.must(err)
	if err := b.ChangePassword(t.Context(), d, "wrong", "a fine new password", stranger); !errors.Is(err, escrow.ErrWrong) {
		t.Errorf("without the old one: %v", err)
	}
	if err := b.ChangePassword(t.Context(), d, goodPassword, "short", stranger); !errors.Is(err, escrow.ErrWeakPassword) {
		t.Errorf("a weak one: %v", err)
	}
	b.must(b.ChangePassword(t.Context(), d, goodPassword, "a fine new password", stranger))
	if list, err := b.db.Devices(t.Context(), recipient, b.clock()); err != nil || len(list) != 1 {
		t.Errorf("%d devices after a new password, %v", len(list), err)
	}
	if _, err := b.Account(t.Context(), d); err != nil {
		t.Errorf("the device that changed it: %v", err)
	}

	// Passkeys.
	c, err := b.BeginAddPasskey(t.Context(), d)
	b.must(err)
	response := br.creates(t, c)
	b.must(b.AddPasskey(t.Context(), d, c.ID, response, "  Key on\tthe ring "))
	if err := b.AddPasskey(t.Context(), d, c.ID, response, "again"); !errors.Is(err, escrow.ErrCeremony) {
		t.Errorf("a ceremony used twice: %v", err)
	}
	a, err = b.Account(t.Context(), d)
	b.must(err)
	if len(a.Passkeys) != 1 || a.Passkeys[0].Name != "Key on the ring" || !a.Passkeys[0].Used.IsZero() {
		t.Fatalf("passkeys %+v", a.Passkeys)
	}
	c, err = b.BeginSignIn(t.Context(), p, stranger)
	b.must(err)
	_, err = b.signIn(p, escrow.SignIn{Ceremony: c.ID, Response: br.asserts(t, c)})
	b.must(err)
	if a, err = b.Account(t.Context(), d); err != nil || a.Passkeys[0].Used.IsZero() {
		t.Errorf("%+v, %v", a.Passkeys, err)
	}
	if err := b.RemovePasskey(t.Context(), d, "AAAA"); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("no such passkey: %v", err)
	}
	b.must(b.RemovePasskey(t.Context(), d, a.Passkeys[0].ID))
	b.must(b.SignOutAll(t.Context(), d))
	if list, err := b.db.Devices(t.Context(), recipient, b.clock()); err != nil || len(list) != 0 {
		t.Errorf("%d devices after all, %v", len(list), err)
	}
}

func TestTheOnlyWayInStays(t *testing.T) {
	b, br := newBench(t), newKeyring()
	p := b.accountItem(recipient)
	c, err := b.BeginEnrol(t.Context(), p, b.code(p), stranger)
	b.must(err)
	g, err := b.Enrol(t.Context(), p, escrow.Enrolment{Ceremony: c.ID, Response: br.creates(t, c)}, stranger)
	b.must(err)
	d := b.device(p, g)
	a, err := b.Account(t.Context(), d)
	b.must(err)
	if err := b.RemovePasskey(t.Context(), d, a.Passkeys[0].ID); !errors.Is(err, escrow.ErrLastMeans) {
		t.Errorf("removed: %v", err)
	}
	if _, err := b.NewTOTP(t.Context(), d); !errors.Is(err, escrow.ErrLastMeans) {
		t.Errorf("a second factor without a first: %v", err)
	}
	b.must(b.ChangePassword(t.Context(), d, "", goodPassword, stranger)) // the first one
	b.must(b.RemovePasskey(t.Context(), d, a.Passkeys[0].ID))
}

func (b *bench) totp(secret string) string {
	b.t.Helper()
	code, err := totp.GenerateCode(secret, b.clock())
	b.must(err)
	return code
}

func TestTOTP(t *testing.T) {
	b := newBench(t)
	p := b.accountItem(recipient)
	d := b.enrolled(p)
	s, err := b.NewTOTP(t.Context(), d)
	b.must(err)
	again, err := b.ResumeTOTP(t.Context(), d, s.Ceremony)
	b.must(err)
	if again.URL != s.URL || string(again.QR) != string(s.QR) || s.Secret == "" {
		t.Error("the setup shown once more is another one")
	}
	if err := b.ConfirmTOTP(t.Context(), d, s.Ceremony, "000000", stranger); !errors.Is(err, escrow.ErrWrong) {
		t.Errorf("a wrong code: %v", err)
	}
	if b.again(p).Account.TOTP {
		t.Error("set up by a wrong code")
	}
	code := b.totp(s.Secret)
	b.must(b.ConfirmTOTP(t.Context(), d, s.Ceremony, code, stranger))
	if !b.again(p).Account.TOTP {
		t.Error("not set up")
	}
	if _, err := b.signIn(p, escrow.SignIn{Password: goodPassword}); !errors.Is(err, escrow.ErrWrong) {
		t.Errorf("without a code: %v", err)
	}
	if _, err := b.signIn(p, escrow.SignIn{Password: goodPassword, TOTP: code}); !errors.Is(err, escrow.ErrWrong) {
		t.Errorf("the code that set it up: %v", err)
	}
	b.pass(30 * time.Second)
	code = b.totp(s.Secret)
	if _, err := b.signIn(p, escrow.SignIn{Password: "wrong password", TOTP: code}); !errors.Is(err, escrow.ErrWrong) {
		t.Errorf("a code with a wrong password: %v", err)
	}
	// Of parallel ones with one code, one counts.
	n := b.parallel(3, func() error {
		_, err := b.SignIn(t.Context(), p, escrow.SignIn{Password: goodPassword, TOTP: code}, escrow.Client{})
		return err
	})
	if n != 1 {
		t.Errorf("%d of 3 parallel sign-ins by one code", n)
	}
	if e := b.events(p); !strings.Contains(e, "verified totp") {
		t.Errorf("events %s", e)
	}
	b.pass(30 * time.Second)
	if err := b.RemoveTOTP(t.Context(), d, code, stranger); !errors.Is(err, escrow.ErrWrong) {
		t.Errorf("removed by a used code: %v", err)
	}
	b.must(b.RemoveTOTP(t.Context(), d, b.totp(s.Secret), stranger))
	if _, err := b.signIn(p, escrow.SignIn{Password: goodPassword}); err != nil {
		t.Errorf("without TOTP: %v", err)
	}
}

func TestSignInWithoutAMessage(t *testing.T) {
	b := newBench(t)
	p := b.accountItem(recipient)
	if _, err := b.Owner(t.Context(), p.Tag); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("not enrolled: %v", err)
	}
	b.enrolled(p)
	o, err := b.Owner(t.Context(), p.Tag)
	b.must(err)
	if o.Recipient != recipient || !o.Account.Password || o.ItemID != "" {
		t.Errorf("owner %+v", o)
	}
	d, err := b.signIn(o, escrow.SignIn{Password: goodPassword})
	b.must(err)
	if _, err := b.admitted(p, d); err != nil {
		t.Error(err)
	}
	for range 5 {
		if _, err := b.signIn(o, escrow.SignIn{Password: "wrong password"}); !errors.Is(err, escrow.ErrWrong) {
			t.Fatal(err)
		}
	}
	var locked *escrow.LockedError
	if _, err := b.signIn(o, escrow.SignIn{Password: goodPassword}); !errors.As(err, &locked) {
		t.Errorf("after five wrong ones: %v", err)
	}
	if _, err := b.Admit(t.Context(), o, d); err == nil {
		t.Error("admitted to no message")
	}
	if err := b.SendCode(t.Context(), o, stranger); err == nil {
		t.Error("a code for no message")
	}
	if _, err := b.Enrol(t.Context(), o, escrow.Enrolment{Code: "12345678", Password: goodPassword}, stranger); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("enrolled without a message: %v", err)
	}
}

func TestAskingTheSenderForAReset(t *testing.T) {
	b := newBench(t)
	p := b.accountItem(recipient)
	if err := b.AskReset(t.Context(), p, stranger); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("of no account: %v", err)
	}
	b.enrolled(p)
	p = b.again(p)
	b.mails()
	b.must(b.AskReset(t.Context(), p, stranger))
	list := b.mails()
	if len(list) != 1 || list[0].To != sender || !strings.Contains(string(list[0].Text), recipient) {
		t.Fatalf("mails %v", list)
	}
	var locked *escrow.LockedError
	if err := b.AskReset(t.Context(), p, stranger); !errors.As(err, &locked) || !locked.Until.Equal(b.clock().Add(time.Hour)) {
		t.Errorf("once more: %v", err)
	}
	if !b.again(p).Account.Enrolled {
		t.Error("asking reset it")
	}
}

func TestWhatIsSetForARecipientAndTheRule(t *testing.T) {
	const code, account, phrase = escrow.VerifyCode, escrow.VerifyAccount, escrow.VerifyPassphrase
	tests := []struct{ def, rule, set, want string }{
		{"", "", "", code},
		{account, "", "", account},
		{code, "", "", code},
		{account, code, "", code}, // the default counts where no rule says
		{account, "", code, code},
		{code, account, "", account},
		{code, code, account, account},
		{code, account, code, account},
		{code, account, phrase, phrase},
		{account, code, phrase, phrase},
		{account, phrase, phrase, phrase},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt), func(t *testing.T) {
			b := newBench(t)
			b.Vault = b.vault(b.keys, func(o *escrow.Options) { o.Accounts.Verify = tt.def })
			if tt.set != "" {
				var p []byte
				if tt.set == phrase {
					p = []byte("seven grey herons")
				}
				b.must(b.SetRecipient(t.Context(), recipient, tt.set, p))
			}
			b.seal(message([]byte("x"), escrow.Recipient{Address: recipient, Verify: tt.rule}))
			if p := b.pickup(b.link(recipient)); p.Verify != tt.want {
				t.Errorf("%s, want %s", p.Verify, tt.want)
			}
		})
	}
	b := newBench(t)
	b.must(b.SetRecipient(t.Context(), recipient, account, nil))
	_, err := b.Seal(t.Context(), message([]byte("x"), escrow.Recipient{Address: recipient, Verify: phrase}))
	if !errors.Is(err, escrow.ErrNoPassphrase) {
		t.Errorf("a passphrase is demanded and none set: %v", err)
	}
	keys, err := escrow.LoadKeys(b.keys)
	b.must(err)
	_, err = escrow.NewVault(escrow.Options{
		Store: b.db, Keys: keys, PortalURL: "https://p.example", NoticeFrom: "a@b.example", Accounts: escrow.AccountOptions{Verify: phrase},
	})
	if err == nil {
		t.Error("a passphrase as the default was taken")
	}
}

func (b *bench) must2(_ bool, err error) { b.t.Helper(); b.must(err) }

// events lists what the sender's page shows of a pickup.
func (b *bench) events(p *escrow.Pickup) string {
	b.t.Helper()
	all, err := b.db.Events(b.t.Context(), p.ItemID)
	b.must(err)
	var s []string
	for _, list := range all {
		for _, e := range list {
			s = append(s, e.What+" "+e.Detail)
		}
	}
	return strings.Join(s, "; ")
}

// TestNoSecretIsInTheLog greps what the vault logs while it is used.
func TestNoPasswordIsInTheLogOrTheDatabase(t *testing.T) {
	b, br := newBench(t), newKeyring()
	p := b.accountItem(recipient)
	d := b.enrolled(p)
	s, err := b.NewTOTP(t.Context(), d)
	b.must(err)
	b.must(b.ConfirmTOTP(t.Context(), d, s.Ceremony, b.totp(s.Secret), stranger))
	b.signIn(p, escrow.SignIn{Password: "wrong password"})
	c, err := b.BeginAddPasskey(t.Context(), d)
	b.must(err)
	br.rp.Origin = "https://evil.example"
	b.AddPasskey(t.Context(), d, c.ID, br.creates(t, c), "x")
	secrets := regexp.MustCompile(regexp.QuoteMeta(goodPassword) + `|wrong password|` + s.Secret + `|` + regexp.QuoteMeta(c.ID[:40]))
	if m := secrets.FindString(b.logs.String()); m != "" {
		t.Errorf("%q in the log", m)
	}
	a, err := b.db.AccountOf(context.WithoutCancel(t.Context()), recipient)
	b.must(err)
	if secrets.Match(a.Password) || secrets.Match(a.TOTP) || a.TOTP == nil {
		t.Error("a secret in the database")
	}
}

func TestTheSenderIsToldOfAccounts(t *testing.T) {
	b := newBench(t)
	own := func(o *escrow.Options) {
		o.OwnDomain = func(_ context.Context, domain string) (bool, error) { return domain == "clinic.example", nil }
	}
	b.Vault = b.vault(b.keys, own)
	kinds := func() (list []string) {
		for _, m := range b.mails() {
			if m.To == sender {
				list = append(list, m.Kind)
			}
		}
		return list
	}
	p := b.accountItem(recipient)
	b.enrolled(p)
	if got := kinds(); len(got) != 1 || got[0] != "enrolled" {
		t.Errorf("on enrolment: %v", got)
	}
	if _, err := b.signIn(p, escrow.SignIn{Password: goodPassword}); err != nil {
		t.Error(err)
	}
	if got := kinds(); got != nil {
		t.Errorf("on signing in: %v", got)
	}
	b.Vault = b.vault(b.keys, own, func(o *escrow.Options) { o.SenderMail = []string{}; o.Accounts.MailboxReset = true })
	code := b.code(p)
	_, err := b.Enrol(t.Context(), p, escrow.Enrolment{Code: code, Password: "another good one"}, stranger)
	b.must(err)
	if got := kinds(); len(got) != 1 || got[0] != "reset" {
		t.Errorf("on a reset by the mailbox, which no setting keeps quiet: %v", got)
	}
}

// FuzzCeremony feeds tokens and responses as a stranger's browser sends them.
func FuzzCeremony(f *testing.F) {
	for _, seed := range [][2]string{{"", "{}"}, {"AAAA", "{}"}, {strings.Repeat("A", 300), `{"id":"x"}`}, {strings.Repeat("A", 20000), "["}, {"\x00*", "null"}} {
		f.Add(seed[0], seed[1])
	}
	keys := filepath.Join(f.TempDir(), "keys")
	if err := escrow.NewKeyFile(keys); err != nil {
		f.Fatal(err)
	}
	k, err := escrow.LoadKeys(keys)
	if err != nil {
		f.Fatal(err)
	}
	db, err := sql.Open(context.Background(), "sqlite:"+filepath.Join(f.TempDir(), "escrow.db"), sql.Options{})
	if err != nil {
		f.Fatal(err)
	}
	defer db.Close()
	v, err := escrow.NewVault(escrow.Options{Store: db, Keys: k, PortalURL: "https://portal.clinic.example", NoticeFrom: "notice@clinic.example"})
	if err != nil {
		f.Fatal(err)
	}
	owner := escrow.OwnerOf(v, recipient)
	f.Fuzz(func(t *testing.T, id, response string) {
		if response == "" {
			return // a password then
		}
		if _, err := v.SignIn(context.Background(), owner, escrow.SignIn{Ceremony: id, Response: response}, stranger); !errors.Is(err, escrow.ErrCeremony) {
			t.Errorf("sign in: %v", err)
		}
		d := &escrow.Device{Address: recipient, How: escrow.VerifyAccount}
		if err := v.AddPasskey(context.Background(), d, id, response, "x"); !errors.Is(err, escrow.ErrUnknown) {
			t.Errorf("add a passkey: %v", err)
		}
		if _, err := v.CheckDevice(context.Background(), id, response); !errors.Is(err, escrow.ErrUnknown) {
			t.Errorf("device: %v", err)
		}
	})
}
