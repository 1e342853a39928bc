package escrow_test

import (
	"context"
	"errors"
	"io"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
)

// Verify and CheckToken are what the portal makes of Prove, CheckDevice and Admit:
// one cookie for all messages of a recipient by code, or one for a message by
// passphrase.
func (b *bench) Verify(ctx context.Context, p *escrow.Pickup, answer string, c escrow.Client) (string, error) {
	g, err := b.Prove(ctx, p, answer, c)
	return g.Token, err
}

func (b *bench) CheckToken(ctx context.Context, p *escrow.Pickup, token string) (*escrow.Session, error) {
	return sessionOf(ctx, b.Vault, p, token)
}

func sessionOf(ctx context.Context, v *escrow.Vault, p *escrow.Pickup, token string) (*escrow.Session, error) {
	if p.Verify == escrow.VerifyPassphrase {
		return v.CheckToken(ctx, p, token)
	}
	d, err := v.CheckDevice(ctx, p.Tag, token)
	if err != nil {
		return nil, err
	}
	return v.Admit(ctx, p, d)
}

// prove gives a right answer and returns what the cookie is of.
func (b *bench) prove(p *escrow.Pickup, answer string) escrow.Grant {
	b.t.Helper()
	g, err := b.Prove(b.t.Context(), p, answer, stranger)
	b.must(err, "prove:")
	return g
}

func (b *bench) device(p *escrow.Pickup, g escrow.Grant) *escrow.Device {
	b.t.Helper()
	d, err := b.CheckDevice(b.t.Context(), p.Tag, g.Token)
	b.must(err, "device:")
	return d
}

// admitted reads a message on a verified device.
func (b *bench) admitted(p *escrow.Pickup, d *escrow.Device) ([]byte, error) {
	b.t.Helper()
	s, err := b.Admit(b.t.Context(), p, d)
	if err != nil {
		return nil, err
	}
	r, err := b.Open(b.t.Context(), p, s)
	b.must(err, "open:")
	defer r.Close()
	return io.ReadAll(r)
}

func TestACodeVerifiesTheDeviceForOtherMessagesToo(t *testing.T) {
	b := newBench(t)
	b.seal(message([]byte("one")))
	first := b.pickup(b.link(recipient))
	b.seal(message([]byte("two"), escrow.Recipient{Address: "Pat@OLD.example"})) // another spelling
	second := b.pickup(b.link("Pat@OLD.example"))
	b.seal(message([]byte("three"), escrow.Recipient{Address: "mo@old.example"}))
	other := b.pickup(b.link("mo@old.example"))

	g := b.prove(first, b.code(first))
	if !g.Device || !g.Expires.Equal(b.clock().Add(12*time.Hour)) {
		t.Errorf("grant %+v", g)
	}
	d := b.device(first, g)
	if d.How != escrow.VerifyCode || d.Address != recipient || d.Tag != first.Tag {
		t.Errorf("device %+v", d)
	}
	for _, p := range []*escrow.Pickup{first, second} {
		if got, err := b.admitted(p, d); err != nil || len(got) != 3 {
			t.Errorf("%s: %q, %v", p.Recipient, got, err)
		}
	}
	if _, err := b.admitted(other, d); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("another's message: %v", err)
	}
	if other.Tag == first.Tag || second.Tag != first.Tag {
		t.Errorf("tags %s, %s; other %s", first.Tag, second.Tag, other.Tag)
	}
	if _, err := b.CheckDevice(t.Context(), other.Tag, g.Token); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("a cookie under another's name: %v", err)
	}
	b.pass(12 * time.Hour)
	if _, err := b.CheckDevice(t.Context(), first.Tag, g.Token); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("after 12 hours: %v", err)
	}
	if _, err := b.Admit(t.Context(), first, d); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("admitted after 12 hours: %v", err)
	}
}

func TestWhatIsNoToken(t *testing.T) {
	b := newBench(t)
	b.seal(message([]byte("one")))
	p := b.pickup(b.link(recipient))
	g := b.prove(p, b.code(p))
	for _, token := range []string{"", "x", g.Token[1:], g.Token + "A", strings.Repeat("A", 43), strings.Repeat("*", 43), strings.ToUpper(g.Token)} {
		if _, err := b.CheckDevice(t.Context(), p.Tag, token); !errors.Is(err, escrow.ErrUnknown) {
			t.Errorf("%q: %v", token, err)
		}
	}
	for _, tag := range []string{"", "x", p.Tag[1:], strings.ToUpper(p.Tag), p.Recipient} {
		if _, err := b.CheckDevice(t.Context(), tag, g.Token); !errors.Is(err, escrow.ErrUnknown) {
			t.Errorf("tag %q: %v", tag, err)
		}
	}
	if !regexp.MustCompile(`^[a-z2-7]{20}$`).MatchString(p.Tag) {
		t.Errorf("tag %q", p.Tag)
	}
}

func TestAPassphraseIsAskedForAtEachMessage(t *testing.T) {
	b := newBench(t)
	b.seal(message([]byte("one")))
	first := b.pickup(b.link(recipient))
	d := b.device(first, b.prove(first, b.code(first)))
	b.must(b.SetRecipient(t.Context(), recipient, escrow.VerifyPassphrase, []byte("seven grey herons")))
	b.seal(message([]byte("two")))
	p := b.pickup(b.link(recipient))
	if _, err := b.Admit(t.Context(), p, d); !errors.Is(err, escrow.ErrUnknown) {
		t.Fatalf("a code opens what wants a passphrase: %v", err)
	}
	g := b.prove(p, "seven grey herons")
	if g.Device {
		t.Error("a passphrase made a device of the recipient")
	}
	s, err := b.CheckToken(t.Context(), p, g.Token)
	b.must(err)
	if s.How != escrow.VerifyPassphrase || !s.Expires.Equal(g.Expires) {
		t.Errorf("session %+v, grant %+v", s, g)
	}
	if got := b.read(p, g.Token); string(got) != "two" {
		t.Errorf("read %q", got)
	}
}

func TestSigningADeviceOut(t *testing.T) {
	b := newBench(t)
	b.seal(message([]byte("one")))
	p := b.pickup(b.link(recipient))
	code := b.code(p)
	one, two := b.prove(p, code), b.prove(p, code) // a button pressed twice
	b.must(b.SignOut(t.Context(), b.device(p, one)))
	if _, err := b.CheckDevice(t.Context(), p.Tag, one.Token); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("signed out: %v", err)
	}
	d := b.device(p, two)
	if err := b.SignOutAll(t.Context(), d); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("who has only a code signed all out: %v", err)
	}
}

func TestALockNeverHitsADeviceAlreadyVerified(t *testing.T) {
	b := newBench(t)
	b.seal(message([]byte("one")))
	p := b.pickup(b.link(recipient))
	d := b.device(p, b.prove(p, b.code(p)))
	var locked *escrow.LockedError
	for range 6 {
		_, err := b.Prove(t.Context(), p, "00000000", stranger)
		if errors.As(err, &locked) {
			break
		}
	}
	if locked == nil {
		t.Fatal("not locked")
	}
	if got, err := b.admitted(p, d); err != nil || string(got) != "one" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestACodeCountsOnceForParallelTries holds that codes are used, and devices made,
// in one transaction: within the grace a code may make more devices than one,
// after it none.
func TestACodeCountsOnceForParallelTries(t *testing.T) {
	b := newBench(t)
	b.seal(message([]byte("one")))
	p := b.pickup(b.link(recipient))
	code := b.code(p)
	b.prove(p, code)
	b.pass(2 * time.Minute)
	var wg sync.WaitGroup
	results := make(chan error, 4)
	for range 4 {
		wg.Go(func() {
			_, err := b.Prove(t.Context(), p, code, stranger)
			results <- err
		})
	}
	wg.Wait()
	close(results)
	for err := range results {
		if !errors.Is(err, escrow.ErrWrong) {
			t.Errorf("a used code, after its grace: %v", err)
		}
	}
}

func TestDevicesAreSweptAndBounded(t *testing.T) {
	b := newBench(t)
	b.seal(message([]byte("one")))
	p := b.pickup(b.link(recipient))
	var last escrow.Grant
	for i := range 12 {
		code := b.code(p)
		for range 5 {
			b.pass(time.Second)
			last = b.prove(p, code)
		}
		if i == 0 {
			b.pass(time.Second)
		}
	}
	list, err := b.db.Devices(t.Context(), recipient, b.clock())
	b.must(err)
	if len(list) != 50 {
		t.Errorf("%d devices", len(list))
	}
	b.device(p, last) // the newest is there
	b.pass(13 * time.Hour)
	_, err = b.Expire(t.Context())
	b.must(err)
	if list, err = b.db.Devices(t.Context(), recipient, time.Time{}); err != nil || len(list) != 0 {
		t.Errorf("%d devices left, %v", len(list), err)
	}
}

func TestNamesOfDevicesAreMadeFitForAList(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "  Firefox \t on\r\nAndroid ": "Firefox on Android", "a\x00b\u202ec": "a b c", "\xff\xfe": "",
		strings.Repeat("ä", 100): strings.Repeat("ä", 60),
	} {
		if got := escrow.CleanName(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
