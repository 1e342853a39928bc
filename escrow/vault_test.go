package escrow_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/notify"
	"github.com/postseal/postseal/internal/lab/logtext"
	"github.com/postseal/postseal/sql"
)

const (
	sender    = "doc@clinic.example"
	recipient = "pat@old.example"
)

var stranger = escrow.Client{Addr: netip.MustParseAddr("192.0.2.7")}

// bench is a vault on a database of its own, with a clock that stands still.
type bench struct {
	*escrow.Vault
	t    *testing.T
	dir  string
	keys string
	db   *sql.DB
	now  *atomic.Int64 // Unix microseconds
	logs *lockedBuffer
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), now: new(atomic.Int64), logs: new(lockedBuffer)}
	b.keys = filepath.Join(b.dir, "keys")
	b.now.Store(time.Date(2026, 12, 1, 9, 0, 0, 0, time.UTC).UnixMicro())
	if err := escrow.NewKeyFile(b.keys); err != nil {
		t.Fatal(err)
	}
	b.start()
	t.Cleanup(func() { b.db.Close() })
	return b
}

func (b *bench) clock() time.Time     { return time.UnixMicro(b.now.Load()).UTC() }
func (b *bench) pass(d time.Duration) { b.now.Add(d.Microseconds()) }
func (b *bench) path() string         { return filepath.Join(b.dir, "escrow.db") }
func (b *bench) must(err error, what ...any) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(append(what, err)...)
	}
}

// start opens database and vault, as after a restart.
func (b *bench) start() {
	b.t.Helper()
	if b.db != nil {
		b.db.Close()
	}
	var err error
	b.db, err = sql.Open(b.t.Context(), "sqlite:"+b.path(), sql.Options{Now: b.clock})
	b.must(err)
	b.Vault = b.vault(b.keys)
}

func (b *bench) vault(keyFile string, change ...func(*escrow.Options)) *escrow.Vault {
	b.t.Helper()
	keys, err := escrow.LoadKeys(keyFile)
	b.must(err)
	o := escrow.Options{
		Store: b.db, Keys: keys, PortalURL: "https://portal.clinic.example/x/", NoticeFrom: "Clinic <notice@clinic.example>",
		Now: b.clock, Log: slog.New(slog.NewTextHandler(b.logs, nil)),
	}
	for _, f := range change {
		f(&o)
	}
	v, err := escrow.NewVault(o)
	b.must(err)
	return v
}

// lockedBuffer is a log that is read while a server still writes it.
type lockedBuffer = logtext.Log

func message(body []byte, recipients ...escrow.Recipient) escrow.Message {
	if recipients == nil {
		recipients = []escrow.Recipient{{Address: recipient}}
	}
	return escrow.Message{
		Sender: sender, Recipients: recipients, QueueID: "4Q1", Digest: sha256.Sum256(body), Size: int64(len(body)),
		Body: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil },
	}
}

func (b *bench) seal(m escrow.Message) []string {
	b.t.Helper()
	ids, err := b.Seal(b.t.Context(), m)
	b.must(err, "seal:")
	return ids
}

// mails returns what is due in the outbox, and takes it out.
func (b *bench) mails() []notify.Entry {
	b.t.Helper()
	list, _, err := b.Due(b.t.Context(), 1000)
	b.must(err)
	for _, e := range list {
		b.must(b.Sent(b.t.Context(), e.ID))
	}
	return list
}

var linkLine = regexp.MustCompile(`(?m)^https://portal\.clinic\.example/x/m/([a-z2-7]{26})/([A-Za-z0-9_-]{43})\r$`)

// link takes a notice out of the outbox and reads its link.
func (b *bench) link(to string) (item, secret string) {
	b.t.Helper()
	for _, e := range b.mails() {
		if e.To == to && e.Kind == "notice" {
			m := linkLine.FindSubmatch(e.Text)
			if m == nil {
				b.t.Fatalf("no link in\n%s", e.Text)
			}
			return string(m[1]), string(m[2])
		}
	}
	b.t.Fatalf("no notice to %s", to)
	return "", ""
}

func (b *bench) pickup(item, secret string) *escrow.Pickup {
	b.t.Helper()
	p, err := b.Pickup(b.t.Context(), item, secret)
	b.must(err, "pickup:")
	return p
}

var codeLine = regexp.MustCompile(`(?m)^([0-9]{8})\r$`)

func (b *bench) code(p *escrow.Pickup) string {
	b.t.Helper()
	b.must(b.SendCode(b.t.Context(), p, stranger), "send code:")
	for _, e := range b.mails() {
		if e.Kind == "code" {
			if m := codeLine.FindSubmatch(e.Text); m != nil {
				return string(m[1])
			}
			b.t.Fatalf("no code in\n%s", e.Text)
		}
	}
	b.t.Fatal("no mail with a code")
	return ""
}

func (b *bench) open(p *escrow.Pickup, answer string) []byte {
	b.t.Helper()
	token, err := b.Verify(b.t.Context(), p, answer, stranger)
	b.must(err, "verify:")
	return b.read(p, token)
}

func (b *bench) read(p *escrow.Pickup, token string) []byte {
	b.t.Helper()
	s, err := b.CheckToken(b.t.Context(), p, token)
	b.must(err, "token:")
	r, err := b.Open(b.t.Context(), p, s)
	b.must(err, "open:")
	defer r.Close()
	got, err := io.ReadAll(r)
	b.must(err, "read:")
	return got
}

func TestWhatIsSealedComesBackByteForByte(t *testing.T) {
	const mib = 1 << 20
	sizes := []int{0, 1, 2, 1000, 20*mib + 7}
	for _, at := range []int{mib / 16, mib / 4, mib / 2, mib} {
		for d := -60; d <= 60; d += 10 { // around segments and chunks, with their headers and tags
			sizes = append(sizes, at+d)
		}
	}
	random := make([]byte, 20*mib+7)
	rand.NewChaCha8([32]byte{1}).Read(random)
	b := newBench(t)
	for i, n := range sizes {
		m := message(random[:n])
		m.Digest = escrow.Digest{byte(i), byte(i >> 8), 1}
		b.seal(m)
		p := b.pickup(b.link(recipient))
		if got := b.open(p, b.code(p)); !bytes.Equal(got, random[:n]) {
			t.Errorf("%d bytes came back as %d others", n, len(got))
		}
	}
}

func TestAWrongSizeSealsNothing(t *testing.T) {
	b := newBench(t)
	for _, d := range []int64{-1, 1} {
		m := message([]byte("four"))
		m.Size += d
		if _, err := b.Seal(t.Context(), m); err == nil {
			t.Errorf("size off by %d was sealed", d)
		}
	}
	m := message([]byte("four"))
	m.Body = func() (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(strings.NewReader("fo"), broken{})), nil
	}
	if _, err := b.Seal(t.Context(), m); !errors.Is(err, errBroken) {
		t.Errorf("a body that breaks: %v", err)
	}
	b.nothing()
}

var errBroken = errors.New("broken")

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errBroken }

func (b *bench) nothing() {
	b.t.Helper()
	list, err := b.List(b.t.Context(), escrow.Filter{})
	b.must(err)
	if mails := b.mails(); len(list) != 0 || len(mails) != 0 {
		b.t.Errorf("there are %d pickups and %d mails", len(list), len(mails))
	}
}

func TestARetryIsNotSealedTwice(t *testing.T) {
	b := newBench(t)
	m := message([]byte("hello"), escrow.Recipient{Address: "A@old.example"}, escrow.Recipient{Address: "b@old.example"})
	b.seal(m)
	b.mails()
	again := message([]byte("hello"), escrow.Recipient{Address: "c@old.example"}, escrow.Recipient{Address: "a@OLD.example."})
	_, err := b.Seal(t.Context(), again)
	var which *escrow.RecipientError
	if !errors.Is(err, escrow.ErrSettled) || !errors.As(err, &which) || len(which.Recipients) != 1 || which.Recipients[0] != "a@OLD.example." {
		t.Fatalf("error %v", err)
	}
	list, _ := b.List(t.Context(), escrow.Filter{})
	if len(list) != 2 || len(b.mails()) != 0 {
		t.Errorf("something was written: %v", list)
	}
	if got, _ := b.db.Settled(t.Context(), m.Digest, sender, []string{"c@old.example"}); len(got) != 0 {
		t.Error("the other recipient was settled")
	}
	// Another sender is another message.
	again.Sender = "other@clinic.example"
	b.seal(again)
}

func TestTwoSealsAtATimeMakeOne(t *testing.T) {
	b := newBench(t)
	var sealed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			switch _, err := b.Seal(context.Background(), message([]byte("once"))); {
			case err == nil:
				sealed.Add(1)
			case !errors.Is(err, escrow.ErrSettled):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if list, _ := b.List(t.Context(), escrow.Filter{}); sealed.Load() != 1 || len(list) != 1 || len(b.mails()) != 1 {
		t.Errorf("sealed %d times, %d pickups", sealed.Load(), len(list))
	}
}

func TestModesBecomeItems(t *testing.T) {
	b := newBench(t)
	ids := b.seal(message([]byte("x"), escrow.Recipient{Address: "a@old.example", Mode: escrow.ModeSealed},
		escrow.Recipient{Address: "b@old.example"}, escrow.Recipient{Address: "c@old.example"}, escrow.Recipient{Address: "C@old.example"}))
	list, err := b.List(t.Context(), escrow.Filter{})
	b.must(err)
	if len(ids) != 2 || len(list) != 3 {
		t.Fatalf("%d items, %d pickups", len(ids), len(list))
	}
	for _, l := range list {
		if (l.Mode == escrow.ModeSealed) != (l.Recipient == "a@old.example") {
			t.Errorf("%s has mode %s", l.Recipient, l.Mode)
		}
		err := b.Resend(t.Context(), l.ID, l.Recipient)
		if (l.Mode == escrow.ModeSealed) != errors.Is(err, escrow.ErrNotRecoverable) {
			t.Errorf("resend in mode %s: %v", l.Mode, err)
		}
	}
}

func TestAStrangerLearnsNothing(t *testing.T) {
	b := newBench(t)
	b.seal(message([]byte("x")))
	item, secret := b.link(recipient)
	other := b.seal(message([]byte("y")))[0]
	unknown := func(name, item, secret string) {
		t.Helper()
		if p, err := b.Pickup(t.Context(), item, secret); err != escrow.ErrUnknown || p != nil {
			t.Errorf("%s: %v, %v", name, p, err)
		}
	}
	wrong := strings.Repeat("A", 43)
	strange := func() {
		t.Helper()
		unknown("no such item", strings.Repeat("a", 26), secret)
		unknown("another item", other, secret)
		unknown("wrong secret", item, wrong)
		unknown("short secret", item, secret[:42])
		unknown("other spelling", item, secret[:42]+"=")
		unknown("upper case", strings.ToUpper(item), secret)
		unknown("empty", "", "")
	}
	strange()
	b.must(b.Retract(t.Context(), item, ""))
	if p, err := b.Pickup(t.Context(), item, secret); err != escrow.ErrRetracted || p == nil || p.Sender != sender {
		t.Errorf("the recipient is told %v", err)
	}
	strange()
	b.seal(message([]byte("z"), escrow.Recipient{Address: "late@old.example"}))
	item, secret = b.link("late@old.example")
	p := b.pickup(item, secret)
	b.pass(escrow.DefaultLifetime)
	for range 2 { // before Expire ran and after
		if p, err := b.Pickup(t.Context(), item, secret); err != escrow.ErrExpired || p == nil || p.State != escrow.StateExpired {
			t.Errorf("the recipient is told %v", err)
		}
		strange()
		if _, err := b.Verify(t.Context(), p, "12345678", stranger); !errors.Is(err, escrow.ErrExpired) {
			t.Errorf("verify after the end: %v", err)
		}
		if _, err := b.Expire(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCodes(t *testing.T) {
	b := newBench(t)
	b.seal(message([]byte("x")))
	p := b.pickup(b.link(recipient))
	first := b.code(p)
	second := b.code(p)
	wrong := "00000000"
	if wrong == first || wrong == second {
		wrong = "00000001"
	}
	for _, answer := range []string{wrong, "", "1234567", "123456789", "abcdefgh", "１２３４５６７８"} {
		if _, err := b.Verify(t.Context(), p, answer, escrow.Client{}); !errors.Is(err, escrow.ErrWrong) && !isLocked(err) {
			t.Errorf("%q: %v", answer, err)
		}
	}
	b.pass(10 * time.Minute)
	token, err := b.Verify(t.Context(), p, " "+first[:4]+" "+first[4:]+"\r\n", stranger)
	b.must(err, "the first code, after a second one was sent:")
	if got := b.read(p, token); string(got) != "x" {
		t.Errorf("got %q", got)
	}
	if _, err := b.Verify(t.Context(), p, first, stranger); err != nil {
		t.Errorf("the button pressed twice: %v", err)
	}
	b.pass(2 * time.Minute)
	if _, err := b.Verify(t.Context(), p, first, stranger); !errors.Is(err, escrow.ErrWrong) {
		t.Errorf("a used code: %v", err)
	}
	b.pass(4 * time.Minute)
	if _, err := b.Verify(t.Context(), p, second, stranger); !errors.Is(err, escrow.ErrWrong) {
		t.Errorf("an old code: %v", err)
	}
	if l, _ := b.List(t.Context(), escrow.Filter{State: escrow.StateRead}); len(l) != 1 || l[0].ReadAt == nil {
		t.Errorf("not listed as read: %v", l)
	}
}

func isLocked(err error) bool {
	var l *escrow.LockedError
	return errors.As(err, &l)
}

func TestAskingForCodesIsLimited(t *testing.T) {
	b := newBench(t)
	b.seal(message([]byte("x")))
	p := b.pickup(b.link(recipient))
	sent := 0
	for range 20 {
		if err := b.SendCode(t.Context(), p, stranger); err == nil {
			sent++
		} else if !isLocked(err) {
			t.Fatal(err)
		}
	}
	if sent != 5 || len(b.mails()) != 5 {
		t.Errorf("%d codes were sent", sent)
	}
	b.pass(6 * time.Minute)
	b.code(p)
}

func TestPassphrase(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	to := escrow.Recipient{Address: recipient, Verify: escrow.VerifyPassphrase}
	_, err := b.Seal(ctx, message([]byte("x"), to))
	var which *escrow.RecipientError
	if !errors.Is(err, escrow.ErrNoPassphrase) || !errors.As(err, &which) {
		t.Fatalf("without one: %v", err)
	}
	b.nothing()
	if err := b.SetRecipient(ctx, recipient, escrow.VerifyPassphrase, []byte("short")); err == nil {
		t.Error("a short one was taken")
	}
	b.must(b.SetRecipient(ctx, "Pat@OLD.example", escrow.VerifyPassphrase, []byte("Stra\u00dfe nach L\u00fcbeck\n")))
	b.seal(message([]byte("x"), escrow.Recipient{Address: recipient})) // the setting is stricter than the rule
	item, secret := b.link(recipient)
	p := b.pickup(item, secret)
	if p.Verify != escrow.VerifyPassphrase {
		t.Fatalf("verify is %s", p.Verify)
	}
	if err := b.SendCode(ctx, p, stranger); err == nil {
		t.Error("a code was sent where a passphrase is needed")
	}
	if _, err := b.Verify(ctx, p, "Strasse nach Luebeck", stranger); !errors.Is(err, escrow.ErrWrong) {
		t.Errorf("wrong one: %v", err)
	}
	if got := b.open(p, "Stra\u00dfe nach Lu\u0308beck "); string(got) != "x" { // decomposed
		t.Errorf("got %q", got)
	}
	// A message sealed before keeps its passphrase; a new link takes the new one.
	b.must(b.SetRecipient(ctx, recipient, escrow.VerifyPassphrase, []byte("another one")))
	b.open(p, "Stra\u00dfe nach L\u00fcbeck")
	b.must(b.Resend(ctx, item, ""))
	if _, err := b.Pickup(ctx, item, secret); err != escrow.ErrUnknown {
		t.Errorf("the old link: %v", err)
	}
	p = b.pickup(b.link(recipient))
	if got := b.open(p, "another one"); string(got) != "x" {
		t.Errorf("got %q", got)
	}
	deleted, err := b.ResetRecipient(ctx, recipient)
	if err != nil || !deleted {
		t.Error(deleted, err)
	}
	if _, err := b.Recipient(ctx, recipient); !errors.Is(err, escrow.ErrUnknown) {
		t.Error(err)
	}
}

func TestGuessesAreLimited(t *testing.T) {
	b := newBench(t)
	b.seal(message([]byte("x")))
	p := b.pickup(b.link(recipient))
	verified, err := b.Verify(t.Context(), p, b.code(p), stranger)
	b.must(err)
	var wrong, locked atomic.Int64
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			c := escrow.Client{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}
			switch _, err := b.Verify(context.Background(), p, fmt.Sprintf("9999%04d", i), c); {
			case errors.Is(err, escrow.ErrWrong):
				wrong.Add(1)
			case isLocked(err):
				locked.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if wrong.Load() != 5 || locked.Load() != 95 {
		t.Fatalf("%d guesses were checked, %d locked out", wrong.Load(), locked.Load())
	}
	told := 0
	for _, e := range b.mails() {
		if e.Kind == "lock" && e.To == sender && e.From == "" {
			told++
		}
	}
	if told != 1 {
		t.Errorf("the sender was told %d times", told)
	}
	b.pass(2 * time.Minute)
	b.Verify(t.Context(), p, "00000000", stranger)
	if n := len(b.mails()); n != 0 {
		t.Errorf("the sender was told again, %d times", n)
	}
	// The right code is locked out too, over a restart; a verified device is not.
	code := b.code(p)
	b.start()
	if _, err := b.Verify(t.Context(), p, code, stranger); !isLocked(err) {
		t.Errorf("right code while locked: %v", err)
	}
	if string(b.read(p, verified)) != "x" {
		t.Error("the verified device is locked out")
	}
	if p := b.pickup(p.ItemID, secretOf(t, b, p)); p.Locked.IsZero() {
		t.Error("the pickup does not say that it is locked")
	}
	b.pass(5 * time.Minute)
	for range 5 {
		b.Verify(t.Context(), p, "00000000", escrow.Client{})
	}
	if m := b.mails(); len(m) != 1 || m[0].Kind != "lock" {
		t.Errorf("the sender was not told of the second lock: %v", m)
	}
	b.pass(9 * time.Minute)
	if _, err := b.Verify(t.Context(), p, "00000000", escrow.Client{}); !isLocked(err) {
		t.Errorf("the second lock is not longer: %v", err)
	}
	b.pass(3 * time.Hour)
	if string(b.open(p, b.code(p))) != "x" {
		t.Error("guesses destroyed something")
	}
}

func TestLocksDoubleToADay(t *testing.T) {
	b := newBench(t)
	b.seal(message([]byte("x")))
	p := b.pickup(b.link(recipient))
	var last time.Duration
	for range 12 {
		for {
			_, err := b.Verify(t.Context(), p, "00000000", escrow.Client{})
			var l *escrow.LockedError
			if errors.As(err, &l) {
				d := l.Until.Sub(b.clock())
				if d < last || d > 24*time.Hour {
					t.Fatalf("a lock of %v after one of %v", d, last)
				}
				last = d
				b.pass(d)
				break
			}
		}
	}
	if last != 24*time.Hour {
		t.Errorf("the last lock took %v", last)
	}
}

// Another client's address can't lock out everybody, but is locked itself.
func TestAClientIsLimitedOverAllMessages(t *testing.T) {
	b := newBench(t)
	v6 := func(i int) escrow.Client {
		a := netip.MustParseAddr("2001:db8:1:2::").As16()
		a[15] = byte(i)
		return escrow.Client{Addr: netip.AddrFrom16(a)}
	}
	checked := 0
	for i := range 12 {
		to := fmt.Sprintf("r%d@old.example", i)
		m := message([]byte{byte(i)}, escrow.Recipient{Address: to})
		b.seal(m)
		p := b.pickup(b.link(to))
		for range 3 {
			if _, err := b.Verify(t.Context(), p, "00000000", v6(i)); errors.Is(err, escrow.ErrWrong) {
				checked++
			}
		}
		if i == 11 {
			b.open(p, b.code(p)) // from elsewhere
		}
	}
	if checked != 20 {
		t.Errorf("%d tries of one network were checked", checked)
	}
}

func TestTokensAreBound(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	const phrase = "seven grey herons"
	b.must(b.SetRecipient(ctx, recipient, escrow.VerifyPassphrase, []byte(phrase)))
	b.seal(message([]byte("x")))
	p := b.pickup(b.link(recipient))
	b.seal(message([]byte("y")))
	q := b.pickup(b.link(recipient))
	token, err := b.Verify(ctx, p, phrase, stranger)
	b.must(err)
	if _, err := b.CheckToken(ctx, q, token); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("another message: %v", err)
	}
	s, err := b.CheckToken(ctx, p, token)
	b.must(err)
	if _, err := b.Open(ctx, q, s); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("open another message: %v", err)
	}
	for _, bad := range []string{"", "x", token[1:], token + "AAAA", strings.Repeat("A", 5000)} {
		if _, err := b.CheckToken(ctx, p, bad); !errors.Is(err, escrow.ErrUnknown) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	b.pass(12 * time.Hour)
	if _, err := b.CheckToken(ctx, p, token); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("after its time: %v", err)
	}
	if _, err := b.Open(ctx, p, s); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("open after its time: %v", err)
	}
	b.pass(escrow.DefaultLifetime - 13*time.Hour)
	token, err = b.Verify(ctx, p, phrase, stranger)
	b.must(err)
	s, err = b.CheckToken(ctx, p, token)
	b.must(err)
	if s.Expires.After(p.Expires) {
		t.Error("a session outlives its message")
	}
}

func TestRetractDeletesKeysAndChunks(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	b.recoveryKey("safe")
	body := bytes.Repeat([]byte("0123456789abcdef"), 200_000)
	ids := b.seal(message(body, escrow.Recipient{Address: "a@old.example"}, escrow.Recipient{Address: "b@old.example"}))
	item, secret := b.link("b@old.example")
	if err := b.Retract(ctx, ids[0], "nobody@old.example"); !errors.Is(err, escrow.ErrUnknown) {
		t.Error(err)
	}
	b.must(b.Retract(ctx, ids[0], "A@old.example"))
	p := b.pickup(item, secret)
	token, err := b.Verify(ctx, p, b.code(p), stranger)
	b.must(err)
	if !bytes.Equal(b.read(p, token), body) {
		t.Error("the other recipient lost the message")
	}
	s, _ := b.CheckToken(ctx, p, token)
	r, err := b.Open(ctx, p, s)
	b.must(err)
	io.ReadFull(r, make([]byte, 100))
	b.must(b.Retract(ctx, ids[0], ""))
	if _, err := io.ReadAll(r); err == nil {
		t.Error("a message that was retracted while it was read looks whole")
	}
	if _, err := b.Open(ctx, p, s); err == nil {
		t.Error("a retracted message was opened with an old session")
	}
	b.nothingToOpen(item)
	if err := b.Resend(ctx, ids[0], "b@old.example"); !errors.Is(err, escrow.ErrNotRecoverable) {
		t.Error(err)
	}
}

// nothingToOpen fails where ciphertext or keys of an item are left.
func (b *bench) nothingToOpen(item string) {
	b.t.Helper()
	for what, query := range map[string]string{
		"its own key":       `SELECT count(*) FROM escrow_item WHERE id = ? AND recover IS NOT NULL`,
		"its summary":       `SELECT count(*) FROM escrow_item WHERE id = ? AND summary IS NOT NULL`,
		"a recipient's key": `SELECT count(*) FROM escrow_pickup WHERE item_id = ? AND coalesce(wrap, held_wrap) IS NOT NULL`,
		"a recovery key's":  `SELECT count(*) FROM escrow_recovery WHERE item_id = ?`,
		"ciphertext":        `SELECT count(*) FROM escrow_chunk WHERE item_id = ?`,
		"a code":            `SELECT count(*) FROM escrow_code WHERE pickup_id IN (SELECT id FROM escrow_pickup WHERE item_id = ?)`,
		"a notice":          `SELECT count(*) FROM outbox WHERE pickup_id IN (SELECT id FROM escrow_pickup WHERE item_id = ?)`,
	} {
		if b.count(query, item) != 0 {
			b.t.Errorf("%s is left", what)
		}
	}
}

func TestExpiry(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	b.recoveryKey("safe")
	id := b.seal(message([]byte("x")))[0]
	if n, err := b.Expire(ctx); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	b.pass(escrow.DefaultLifetime)
	if l, _ := b.List(ctx, escrow.Filter{State: escrow.StateExpired}); len(l) != 1 {
		t.Errorf("listed: %v", l)
	}
	if n, err := b.Expire(ctx); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	b.nothingToOpen(id)
	if mails := b.mails(); len(mails) != 1 || mails[0].Kind != "expired" {
		t.Errorf("the notice of an expired message is still sent, or the sender not told: %v", mails)
	}
	b.pass(91 * 24 * time.Hour)
	b.Expire(ctx)
	if l, _ := b.List(ctx, escrow.Filter{}); len(l) != 0 {
		t.Errorf("kept for ever: %v", l)
	}
}

// secretOf sends a new link and returns its secret; the pickup stays the same.
func secretOf(t *testing.T, b *bench, p *escrow.Pickup) string {
	t.Helper()
	b.must(b.Resend(t.Context(), p.ItemID, p.Recipient))
	_, secret := b.link(p.Recipient)
	*p = *b.pickup(p.ItemID, secret)
	return secret
}

func TestANewLinkReplacesTheOldOne(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	id := b.seal(message([]byte("x")))[0]
	b.must(b.Resend(ctx, id, "")) // while the first notice is still queued
	mails := b.mails()
	if len(mails) != 1 || !bytes.Contains(mails[0].Text, []byte("no longer works")) {
		t.Fatalf("%d notices are sent", len(mails))
	}
	m := linkLine.FindSubmatch(mails[0].Text)
	item, secret := string(m[1]), string(m[2])
	p := b.pickup(item, secret)
	code := b.code(p)
	token, err := b.Verify(ctx, p, code, stranger)
	b.must(err)
	b.must(b.Resend(ctx, id, recipient))
	if _, err := b.Pickup(ctx, item, secret); err != escrow.ErrUnknown {
		t.Errorf("the old link: %v", err)
	}
	p = b.pickup(b.link(recipient))
	if _, err := b.CheckToken(ctx, p, token); err != nil { // it is the recipient's, and has the new link
		t.Errorf("the device: %v", err)
	}
	if _, err := b.Verify(ctx, p, code, stranger); !errors.Is(err, escrow.ErrWrong) {
		t.Errorf("the old code: %v", err)
	}
	if got := b.open(p, b.code(p)); string(got) != "x" {
		t.Errorf("got %q", got)
	}
}

func TestPins(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	pins, err := escrow.NewPins(ctx, b.db)
	b.must(err)
	m := message([]byte("x"))
	b.must(pins.Settle(ctx, m.Digest, sender, []string{recipient}, escrow.OutcomeSealed))
	b.must(pins.Settle(ctx, m.Digest, sender, []string{"r@old.example"}, escrow.OutcomeReinjected))
	again, err := escrow.NewPins(ctx, b.db)
	b.must(err)
	for _, p := range []*escrow.Pins{pins, again} {
		if !p.Has("PAT@Old.example") || p.Has("r@old.example") || p.Has("") {
			t.Error("wrong pins")
		}
	}
	b.must(pins.Settle(ctx, escrow.Digest{2}, sender, []string{recipient}, escrow.OutcomeSealed))
	b.must(pins.Confirm(ctx, m.Digest, sender, []string{recipient}))
	if !pins.Has(recipient) {
		t.Error("another message's pin is gone")
	}
	b.must(pins.Confirm(ctx, escrow.Digest{2}, sender, []string{recipient}))
	if pins.Has(recipient) {
		t.Error("still pinned")
	}
}

// A thief has the database, and keys of another server.
func TestAStolenDatabaseOpensNothing(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	b.must(b.SetRecipient(ctx, recipient, escrow.VerifyPassphrase, []byte("horse battery staple")))
	ids := b.seal(message([]byte("x"), escrow.Recipient{Address: recipient}, escrow.Recipient{Address: "code@old.example"}))
	var links [][2]string
	mails, _, err := b.Due(ctx, 10)
	b.must(err)
	for _, e := range mails {
		m := linkLine.FindSubmatch(e.Text)
		links = append(links, [2]string{string(m[1]), string(m[2])})
	}
	other := filepath.Join(b.dir, "other-keys")
	b.must(escrow.NewKeyFile(other))
	thief := b.vault(other)
	if mails, _, err := thief.Due(ctx, 10); err != nil || len(mails) != 0 {
		t.Errorf("the outbox opened: %d mails, %v", len(mails), err)
	}
	if err := thief.Resend(ctx, ids[0], "code@old.example"); err == nil {
		t.Error("the wrap to recover opened")
	}
	for _, l := range links { // even with the links
		p, err := thief.Pickup(ctx, l[0], l[1])
		b.must(err)
		if p.Verify == escrow.VerifyPassphrase {
			if _, err := thief.Prove(ctx, p, "horse battery staple", stranger); err == nil {
				t.Error("the wrap opened by link and passphrase")
			}
			continue
		}
		if g, err := thief.Prove(ctx, p, b.code(p), stranger); err == nil {
			s, _ := sessionOf(ctx, thief, p, g.Token)
			if _, err := thief.Open(ctx, p, s); err == nil {
				t.Error("the wrap opened by the link")
			}
		}
	}
}

func TestNoSecretIsInTheDatabaseOrTheLog(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	const passphrase = "correct horse battery"
	text := []byte("Subject: a very private subject\r\n\r\nthe diagnosis is secret\r\n")
	b.must(b.SetRecipient(ctx, "pp@old.example", escrow.VerifyPassphrase, []byte(passphrase)))
	b.seal(message(text, escrow.Recipient{Address: recipient}, escrow.Recipient{Address: "pp@old.example"}))
	secrets := []string{passphrase, "very private subject", "the diagnosis is secret"}
	files := func(when string) {
		t.Helper()
		names, _ := filepath.Glob(b.path() + "*")
		for _, name := range names {
			data, err := os.ReadFile(name)
			b.must(err)
			for _, s := range append(secrets, b.logs.String()[:0]) {
				if s != "" && bytes.Contains(data, []byte(s)) {
					t.Errorf("%s: %s holds %q", when, filepath.Base(name), s)
				}
			}
		}
		if len(names) < 2 {
			t.Errorf("%s: no journal to look at", when)
		}
	}
	mails, _, err := b.Due(ctx, 10)
	b.must(err)
	for _, e := range mails {
		secret := string(linkLine.FindSubmatch(e.Text)[2])
		raw, err := base64.RawURLEncoding.DecodeString(secret)
		b.must(err)
		secrets = append(secrets, secret, string(raw))
	}
	files("queued")
	p := b.pickup(b.link(recipient))
	b.must(b.SendCode(ctx, p, stranger))
	mails, _, _ = b.Due(ctx, 10)
	code := string(codeLine.FindSubmatch(mails[0].Text)[1])
	secrets = append(secrets, code)
	files("code queued")
	b.mails()
	b.open(p, code)
	b.Verify(ctx, p, passphrase, stranger)
	files("read")
	b.must(b.Retract(ctx, p.ItemID, ""))
	files("retracted")
	for _, s := range secrets {
		if strings.Contains(b.logs.String(), s) {
			t.Errorf("the log holds %q", s)
		}
	}
}
