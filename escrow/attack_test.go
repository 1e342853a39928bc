package escrow_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/mail"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/seal"
)

// Many machines that guess at one recipient, at all the recipient's messages and at the
// account, each from its own network and all at once, get no more tries than one: ten
// in a day.
func TestGuessingFromManyAddresses(t *testing.T) {
	b := newBench(t)
	b.enrolled(b.accountItem(recipient))
	var byCode []*escrow.Pickup
	for i := range 6 {
		b.seal(message(fmt.Appendf(nil, "message %d", i), escrow.Recipient{Address: recipient, Verify: escrow.VerifyCode}))
		byCode = append(byCode, b.pickup(b.link(recipient)))
	}
	byPassword := []*escrow.Pickup{b.accountItem(recipient), b.accountItem(recipient), escrow.OwnerOf(b.Vault, recipient)}
	address := func(i int) escrow.Client {
		return escrow.Client{Addr: netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i >> 8), byte(i)})}
	}
	var n atomic.Int64
	guess := func(parallel int, try func(i int, c escrow.Client) error) (checked int64) {
		t.Helper()
		var count atomic.Int64
		var wg sync.WaitGroup
		for i := range parallel {
			wg.Go(func() {
				err := try(i, address(int(n.Add(1))))
				if errors.Is(err, escrow.ErrWrong) {
					count.Add(1)
				} else if !isLocked(err) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		return count.Load()
	}
	code := func(i int, c escrow.Client) error {
		_, err := b.Prove(t.Context(), byCode[i%len(byCode)], fmt.Sprintf("7777%04d", i), c)
		return err
	}
	password := func(i int, c escrow.Client) error {
		_, err := b.SignIn(t.Context(), byPassword[i%len(byPassword)], escrow.SignIn{Password: fmt.Sprint("a guess ", i)}, c)
		return err
	}
	if got := guess(60, code); got != 10 {
		t.Errorf("%d codes were checked, want 10", got)
	}
	if got := guess(40, password); got != 10 {
		t.Errorf("%d passwords were checked, want 10", got)
	}
	total := int64(10)
	const days = 27 // the messages live for 30
	for range days * 4 {
		b.pass(6 * time.Hour)
		total += guess(8, code)
	}
	if total > 10*(days+1) {
		t.Errorf("%d codes were checked within %d days", total, days)
	}
	t.Logf("%d codes checked within %d days, of 100,000,000", total, days)
	// Nobody is kept out for good.
	b.pass(25 * time.Hour)
	if got := b.open(byCode[0], b.code(byCode[0])); string(got) != "message 0" {
		t.Errorf("the recipient reads %q", got)
	}
}

var (
	inForm    = regexp.MustCompile(`(?s)<form[^>]*action="([^"]+)".*?</form>`)
	inputName = regexp.MustCompile(`<(?:input|button|textarea|select)[^>]*\bname="([^"]+)"(?:[^>]*\bvalue="([^"]*)")?`)
)

// A mail scanner that fills every field and presses every button, where an account or a
// passphrase is asked for, reads nothing, makes no account, asks for no new one, and
// does not use the message up.
func TestAScannerAtAccountsAndPassphrases(t *testing.T) {
	b := newBench(t)
	b.must(b.SetRecipient(t.Context(), "phrase@old.example", escrow.VerifyPassphrase, []byte(goodPassword+"!")))
	b.enrolled(b.accountItem("enrolled@old.example"))
	b.mails()
	links := map[string]string{}
	srv := b.site(prometheus.NewRegistry())
	for to, verify := range map[string]string{"new@old.example": escrow.VerifyAccount, "enrolled@old.example": escrow.VerifyAccount, "phrase@old.example": ""} {
		b.pass(time.Second)
		b.seal(message([]byte("Subject: x\r\n\r\nthe values of "+to+"\r\n"), escrow.Recipient{Address: to, Verify: verify}))
		item, secret := b.link(to)
		links[to] = srv.URL + "/x/m/" + item + "/" + secret
	}
	pressed := map[string]int{}
	for to, link := range links {
		for range 2 {
			scanner := browser()
			todo, seen := []string{link, link + "/forgot", link + "/message"}, map[string]bool{}
			for len(todo) > 0 && len(seen) < 60 {
				at := todo[0]
				todo = todo[1:]
				if seen[at] {
					continue
				}
				seen[at] = true
				_, page := fetch(t, scanner, at, nil)
				for _, answer := range []string{"12345678", "a password of a scanner"} {
					for _, form := range inForm.FindAllStringSubmatch(page, -1) {
						fields := url.Values{"answer": {answer}, "password": {"a password of a scanner"}}
						for _, f := range inputName.FindAllStringSubmatch(form[0], -1) {
							if f[2] != "" {
								fields.Set(f[1], f[2])
							} else if !fields.Has(f[1]) {
								fields.Set(f[1], answer)
							}
						}
						pressed[path.Base(form[1])]++
						r, got := fetch(t, scanner, srv.URL+form[1], fields)
						if strings.Contains(got, "the values of") {
							t.Fatalf("at %s a scanner reads the message", form[1][:6])
						}
						todo = append(todo, r.Request.URL.String())
					}
				}
				for _, m := range formOrLink.FindAllStringSubmatch(page, -1) {
					if m[1] == "href" && strings.HasPrefix(m[2], "/") {
						todo = append(todo, srv.URL+m[2])
					}
				}
				if strings.Contains(page, "the values of") {
					t.Fatal("a scanner reads the message")
				}
			}
			b.pass(10 * time.Minute)
		}
		a, err := b.Recipient(t.Context(), to)
		if enrolled := err == nil && a.Account != nil; enrolled != (to == "enrolled@old.example") {
			t.Errorf("%s has an account: %v, %v", to, enrolled, err)
		}
	}
	for _, button := range []string{"code", "verify", "enrol", "signin", "forgot"} {
		if pressed[button] == 0 {
			t.Errorf("it pressed %v, and not %s", pressed, button)
		}
	}
	list, err := b.List(t.Context(), escrow.Filter{State: escrow.StateHeld})
	b.must(err)
	if len(list) != 4 {
		t.Errorf("%d messages are held, want 4", len(list))
	}
	b.pass(25 * time.Hour)
	p, err := b.Pickup(t.Context(), strings.Split(links["phrase@old.example"], "/")[5], strings.Split(links["phrase@old.example"], "/")[6])
	b.must(err)
	if got := b.open(p, goodPassword+"!"); !strings.Contains(string(got), "the values of phrase@") {
		t.Errorf("the recipient reads %q", got)
	}
}

// A cookie that somebody planted in the recipient's browser does not become the
// recipient's: after verification its value opens nothing, and what opens is new.
// Nor does a planted cookie of somebody's own make the recipient read as somebody else.
func TestSessionFixation(t *testing.T) {
	b := newBench(t)
	b.seal(message([]byte("Subject: x\r\n\r\nfor mallory\r\n"), escrow.Recipient{Address: "mallory@old.example"}))
	theirs := b.pickup(b.link("mallory@old.example"))
	mallory := b.prove(theirs, b.code(theirs)).Token
	b.seal(message([]byte("Subject: x\r\n\r\nfor the recipient alone\r\n")))
	item, secret := b.link(recipient)
	p := b.pickup(item, secret)
	srv := b.site(prometheus.NewRegistry())
	at := srv.URL + "/x/m/" + item + "/" + secret
	verify := func(c *http.Client) []*http.Cookie {
		t.Helper()
		c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		r, _ := fetch(t, c, at+"/verify", url.Values{"answer": {b.code(p)}})
		if r.StatusCode != http.StatusSeeOther || len(r.Cookies()) == 0 {
			t.Fatalf("verify: %s", r.Status)
		}
		return r.Cookies()
	}
	own := verify(browser())
	for name, value := range map[string]string{"a value of the attacker's": strings.Repeat("A", 43), "the attacker's own session": mallory, "one that is over": own[0].Value} {
		if name == "one that is over" {
			d, err := b.CheckDevice(t.Context(), p.Tag, value)
			b.must(err)
			b.must(b.SignOut(t.Context(), d))
		}
		planted := browser()
		for _, c := range own {
			u, _ := url.Parse(srv.URL + c.Path)
			planted.Jar.SetCookies(u, []*http.Cookie{{Name: c.Name, Value: value, Path: c.Path}})
		}
		planted.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		if r, body := fetch(t, planted, at+"/message", nil); r.StatusCode != http.StatusSeeOther || strings.Contains(body, "for ") {
			t.Errorf("%s, before verification: %s", name, r.Status)
		}
		kept := *planted
		for _, c := range verify(&kept) {
			if c.Value == value {
				t.Errorf("%s is the recipient's now", name)
			}
		}
		if _, body := fetch(t, &kept, at+"/message", nil); !strings.Contains(body, "for the recipient alone") {
			t.Errorf("%s keeps the recipient out", name)
		}
		attacker := browser()
		for _, c := range own {
			u, _ := url.Parse(srv.URL + c.Path)
			attacker.Jar.SetCookies(u, []*http.Cookie{{Name: c.Name, Value: value, Path: c.Path}})
		}
		attacker.CheckRedirect = kept.CheckRedirect
		for _, path := range []string{"/message", "/html", "/raw", "/part/1"} {
			if r, body := fetch(t, attacker, at+path, nil); r.StatusCode == http.StatusOK || strings.Contains(body, "for the recipient") {
				t.Errorf("%s opens %s: %s", name, path, r.Status)
			}
		}
	}
}

// counted notes what is asked of the store.
type counted struct {
	escrow.Store
	calls []string
}

func (c *counted) called(name string) { c.calls = append(c.calls, name) }

func (c *counted) PickupBySecret(ctx context.Context, item string, hash []byte) (*escrow.StoredPickup, error) {
	c.called("PickupBySecret")
	return c.Store.PickupBySecret(ctx, item, hash)
}

func (c *counted) PickupByID(ctx context.Context, id string) (*escrow.StoredPickup, error) {
	c.called("PickupByID")
	return c.Store.PickupByID(ctx, id)
}

func (c *counted) Pickups(ctx context.Context, f escrow.PickupFilter) ([]escrow.StoredPickup, error) {
	c.called("Pickups")
	return c.Store.Pickups(ctx, f)
}

func (c *counted) AccountOf(ctx context.Context, address string) (*escrow.StoredAccount, error) {
	c.called("AccountOf")
	return c.Store.AccountOf(ctx, address)
}

func (c *counted) AccountByTag(ctx context.Context, tag string) (*escrow.StoredAccount, error) {
	c.called("AccountByTag")
	return c.Store.AccountByTag(ctx, tag)
}

func (c *counted) Device(ctx context.Context, id []byte, now time.Time) (*escrow.StoredDevice, error) {
	c.called("Device")
	return c.Store.Device(ctx, id, now)
}

func (c *counted) Locked(ctx context.Context, keys []string, now time.Time) (time.Time, error) {
	c.called("Locked")
	return c.Store.Locked(ctx, keys, now)
}

func (c *counted) Charge(ctx context.Context, limits []escrow.Limit, now time.Time) (time.Time, []string, error) {
	c.called(fmt.Sprint("Charge ", len(limits)))
	return c.Store.Charge(ctx, limits, now)
}

func (c *counted) Wrap(ctx context.Context, pickup string) ([]byte, error) {
	c.called("Wrap")
	return c.Store.Wrap(ctx, pickup)
}

func (c *counted) ChangeAccount(ctx context.Context, change escrow.AccountChange) error {
	c.called("ChangeAccount")
	return c.Store.ChangeAccount(ctx, change)
}

// How long an answer takes tells a stranger nothing: for what there is and what there is
// not the same is asked of the database, and the same is hashed. (What is counted is the
// work, since time itself is a matter of chance.)
func TestStrangersCostTheSame(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	item := func(to string) (string, string) {
		b.pass(time.Second)
		b.seal(message([]byte(to+b.clock().String()), escrow.Recipient{Address: to, Verify: escrow.VerifyCode}))
		return b.link(to)
	}
	held, secret := item(recipient)
	expired, _ := item("late@old.example")
	retracted, retractedSecret := item("gone@old.example")
	b.must(b.Retract(ctx, retracted, ""))
	b.enrolled(b.accountItem("password@old.example"))
	without := b.accountItem("without@old.example")
	with := b.accountItem("password@old.example")
	asked, never := b.pickup(held, secret), func() *escrow.Pickup { i, s := item("never@old.example"); return b.pickup(i, s) }()
	b.code(asked)
	b.must(b.SetRecipient(ctx, "phrase@old.example", escrow.VerifyPassphrase, []byte("seven grey herons")))
	b.pass(time.Second)
	b.seal(message([]byte("by passphrase"), escrow.Recipient{Address: "phrase@old.example"}))
	phrase := b.pickup(b.link("phrase@old.example"))
	tag := with.Tag

	store := &counted{Store: b.db}
	v := b.vault(b.keys, func(o *escrow.Options) { o.Store = store })
	hashes := escrow.CountHashes(v)
	cost := func(what func()) string {
		store.calls = nil
		before := hashes()
		what()
		return fmt.Sprintf("%s; %d hashed", strings.Join(store.calls, ", "), hashes()-before)
	}
	same := func(name, want string, cases map[string]func()) {
		t.Helper()
		for each, what := range cases {
			if got := cost(what); got != want {
				t.Errorf("%s, %s costs %q, want %q", name, each, got, want)
			}
		}
	}
	wrong := strings.Repeat("A", 43)
	link := func(item, secret string) func() {
		return func() {
			if p, err := v.Pickup(ctx, item, secret); err != escrow.ErrUnknown || p != nil {
				t.Errorf("%v, %v", p, err)
			}
		}
	}
	same("a link", "PickupBySecret; 0 hashed", map[string]func(){
		"no such item": link(strings.Repeat("a", 26), wrong), "the right secret of no such item": link(strings.Repeat("a", 26), secret), "a held one": link(held, wrong),
		"an expired one": link(expired, wrong), "a retracted one": link(retracted, wrong), "another's secret": link(held, retractedSecret),
	})
	senders := func(item string) func() {
		return func() {
			if _, err := v.SenderView(ctx, item, wrong[:22]); !errors.Is(err, escrow.ErrUnknown) {
				t.Error(err)
			}
		}
	}
	same("a sender's link", "; 0 hashed", map[string]func(){"no such item": senders(strings.Repeat("a", 26)), "a held one": senders(held), "a retracted one": senders(retracted)})
	device := func(tag string) func() {
		return func() {
			if _, err := v.CheckDevice(ctx, tag, wrong); !errors.Is(err, escrow.ErrUnknown) {
				t.Error(err)
			}
		}
	}
	same("an inbox", "Device; 0 hashed", map[string]func(){"of nobody": device("nobody"), "of a recipient": device(tag)})
	signIn := func(p *escrow.Pickup, s escrow.SignIn) func() {
		return func() {
			if _, err := v.SignIn(ctx, p, s, stranger); !errors.Is(err, escrow.ErrWrong) {
				t.Error(err)
			}
		}
	}
	same("signing in", "Charge 3, AccountOf; 1 hashed", map[string]func(){
		"without an account": signIn(without, escrow.SignIn{Password: "wrong"}), "with one": signIn(with, escrow.SignIn{Password: "wrong"}),
		"a long password": signIn(with, escrow.SignIn{Password: strings.Repeat("x", 100_000)}), "in the inbox of nobody": signIn(escrow.OwnerOf(v, "nobody@old.example"), escrow.SignIn{Password: "wrong"}),
		"in an inbox": signIn(escrow.OwnerOf(v, "password@old.example"), escrow.SignIn{Password: "wrong"}),
	})
	prove := func(p *escrow.Pickup, answer string) func() {
		return func() {
			if _, err := v.Prove(ctx, p, answer, escrow.Client{}); !errors.Is(err, escrow.ErrWrong) {
				t.Error(err)
			}
		}
	}
	same("a code", "Charge 2, ChangeAccount; 0 hashed", map[string]func(){"where one was sent": prove(asked, "00000000"), "where none was": prove(never, "00000000")})
	same("a passphrase", "Charge 2, Wrap; 1 hashed", map[string]func(){"near": prove(phrase, "seven grey heron"), "far": prove(phrase, "x")})
}

// Who has the database and the key file reads recoverable messages: that is what the
// word means. Sealed ones, whose notices are gone, and such as want a passphrase by
// their link, stay closed.
func TestAStolenDatabaseWithItsKeyFile(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	const phrase = "seven grey herons"
	b.must(b.SetRecipient(ctx, "phrase@old.example", escrow.VerifyPassphrase, []byte(phrase)))
	ids := map[string]string{}
	links := map[string][2]string{}
	for to, mode := range map[string]string{"open@old.example": escrow.ModeRecoverable, "sealed@old.example": escrow.ModeSealed, "phrase@old.example": escrow.ModeSealed} {
		ids[to] = b.seal(message([]byte("the text for "+to), escrow.Recipient{Address: to, Mode: mode}))[0]
		item, secret := b.link(to) // Postfix has taken the notice
		links[to] = [2]string{item, secret}
	}
	thief := b.vault(b.keys)
	if mails, _, err := thief.Due(ctx, 10); err != nil || len(mails) != 0 {
		t.Errorf("links are left in the outbox: %d, %v", len(mails), err)
	}
	// The recoverable one, by a new link and a code that the thief reads in the outbox.
	b.must(thief.Resend(ctx, ids["open@old.example"], ""))
	p := b.pickup(b.link("open@old.example"))
	g, err := thief.Prove(ctx, p, b.code(p), stranger)
	b.must(err)
	s, err := sessionOf(ctx, thief, p, g.Token)
	b.must(err)
	r, err := thief.Open(ctx, p, s)
	b.must(err)
	if text, err := io.ReadAll(r); err != nil || string(text) != "the text for open@old.example" {
		t.Errorf("%q, %v: the table in docs/security.md says that it can be read", text, err)
	}
	for _, to := range []string{"sealed@old.example", "phrase@old.example"} {
		if err := thief.Resend(ctx, ids[to], ""); !errors.Is(err, escrow.ErrNotRecoverable) {
			t.Errorf("a new link to what is sealed: %v", err)
		}
		if _, err := b.db.RecoverWrap(ctx, ids[to]); !errors.Is(err, escrow.ErrUnknown) {
			t.Errorf("there is a wrap to recover what is sealed: %v", err)
		}
	}
	// Writing into the database is of no use either: a hash of a secret that the thief
	// has, in the place of that of one that the thief has not, finds the message and does
	// not open it.
	b.exec(`UPDATE escrow_pickup SET secret_hash = x'00' WHERE item_id = ?`, p.ItemID)
	b.exec(`UPDATE escrow_pickup SET secret_hash = ? WHERE item_id = ?`, seal.HashSecret(secretBytes(t, links["open@old.example"][1])), ids["sealed@old.example"])
	p, err = thief.Pickup(ctx, ids["sealed@old.example"], links["open@old.example"][1])
	b.must(err)
	g, err = thief.Prove(ctx, p, b.code(p), stranger)
	b.must(err)
	s, err = sessionOf(ctx, thief, p, g.Token)
	b.must(err)
	if r, err := thief.Open(ctx, p, s); err == nil {
		if text, err := io.ReadAll(r); err == nil {
			t.Errorf("what is sealed opened by another link: %q", text)
		}
	}
	// With its link, but without the passphrase.
	p, err = thief.Pickup(ctx, links["phrase@old.example"][0], links["phrase@old.example"][1])
	b.must(err)
	if _, err := thief.Prove(ctx, p, "a guess at it", stranger); !errors.Is(err, escrow.ErrWrong) {
		t.Errorf("without the passphrase: %v", err)
	}
	if _, err := thief.Open(ctx, p, escrow.SessionOf(p, b.clock().Add(time.Hour))); err == nil {
		t.Error("opened without the passphrase")
	}
	if got := b.open(p, phrase); string(got) != "the text for phrase@old.example" {
		t.Errorf("with it: %q", got)
	}
}

func secretBytes(t *testing.T, link string) []byte {
	t.Helper()
	secret, ok := seal.DecodeSecret(link)
	if !ok {
		t.Fatal("no secret")
	}
	return secret
}

// A code opens once, for its message's link and for fifteen minutes; the same again
// opens nothing, wherever it is tried.
func TestReplayedCodes(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	b.seal(message([]byte("one")))
	p := b.pickup(b.link(recipient))
	b.seal(message([]byte("two")))
	q := b.pickup(b.link(recipient))
	wrong := func(name string, p *escrow.Pickup, code string) {
		t.Helper()
		if _, err := b.Prove(ctx, p, code, escrow.Client{}); !errors.Is(err, escrow.ErrWrong) && !isLocked(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	code := b.code(p)
	wrong("at another message of the same recipient", q, code)
	b.prove(p, code)
	b.pass(61 * time.Second) // a button that is pressed twice
	wrong("used", p, code)
	b.pass(25 * time.Hour)
	code = b.code(p)
	b.pass(15*time.Minute + time.Second)
	wrong("old", p, code)
	b.pass(25 * time.Hour)
	code = b.code(p)
	fresh := b.pickup(p.ItemID, secretOf(t, b, p)) // a new link
	wrong("of the link before", fresh, code)
	b.pass(25 * time.Hour)
	code = b.code(fresh)
	b.must(b.Retract(ctx, p.ItemID, ""))
	if _, err := b.Prove(ctx, fresh, code, stranger); err == nil {
		t.Error("of a message that was taken back")
	}
	if _, err := b.Enrol(ctx, b.accountItem(recipient), escrow.Enrolment{Code: code, Password: goodPassword}, stranger); !errors.Is(err, escrow.ErrWrong) {
		t.Errorf("for an account: %v", err)
	}
}

// Whatever stands in the message that is answered, in the answer and in the names of
// its files, a reply has the header that it should, and goes to whom it should.
func TestRepliesInjectNothing(t *testing.T) {
	b, _, _ := answering(t, nil)
	ctx := t.Context()
	const hostile = "From: =?utf-8?q?Dr=2E=0D=0ABcc=3A_spy=40evil=2Eexample=0D=0A?= <doc@clinic.example>\r\n" +
		"To: pat@old.example, \"a\\\r\n b\" <nurse@clinic.example>, =?utf-8?b?WA0KQmNjOiBzcHlAZXZpbC5leGFtcGxl?= <nurse@clinic.example>\r\n" +
		"Cc: \"x\\\"\\r\\nBcc: spy@evil.example\" <spy@evil.example>, \"spy@evil.example\\r\\n\"@clinic.example\r\n" +
		"Reply-To: =?utf-8?q?=0D=0A=0D=0A<script>?= <doc@clinic.example>\r\n" +
		"Subject: =?utf-8?q?Values=0D=0ABcc=3A_spy=40evil=2Eexample=0D=0A=0D=0A<script>?= =?utf-8?b?DQpYLUV2aWw6IDE=?=\r\n" +
		"Message-ID: <m1@clinic.example>\r\nReferences: <a@b\r\n c@d> <x\x00y@z> <=?utf-8?q?=0D=0AX-Evil:_1?=@z> <m0@clinic.example>\r\n\r\nThe text.\r\n"
	b.seal(message([]byte(hostile)))
	p := b.pickup(b.link(recipient))
	s := escrow.SessionOf(p, b.clock().Add(time.Hour))
	const text = "Dear doctor,\r\n.\r\nMAIL FROM:<spy@evil.example>\r\nBcc: spy@evil.example\r\n\r\n--\r\n--=_x\r\nContent-Type: text/html\r\n\r\n<script>\n\nFrom spy\x00\n..\n"
	_, err := b.SaveDraft(ctx, p, s, text, true)
	b.must(err)
	for i, name := range []string{"a.pdf\r\nContent-Type: text/html\r\n\r\n<script>", `x"; filename="evil.exe`, "../../etc/passwd", "=?utf-8?q?a=0D=0AX-Evil:_1?=", "\u202egpj.exe", strings.Repeat("long\r\n", 100), "b\x00c\nX-Evil: 1"} {
		_, err := b.AddFile(ctx, p, s, name, "text/html\r\nX-Evil: 1; name=\"\r\n\"", strings.NewReader(fmt.Sprint("file ", i)))
		b.must(err)
	}
	r, err := b.SendReply(ctx, p, s)
	b.must(err)
	sp := newSplitter(t, nil)
	b.deliver(sp, func() bool { return b.stateOf(r.ID) == escrow.ReplySent })
	for _, got := range sp.got {
		if !slices.Contains([]string{"doc@clinic.example", "nurse@clinic.example"}, got.to) || !b.IsReply(got.from) {
			t.Errorf("from %s to %s", got.from, got.to)
		}
	}
	if len(sp.got) == 0 {
		t.Fatal("nothing was sent")
	}
	data := sp.got[0].data
	may := []string{"From", "Sender", "To", "Cc", "Subject", "Date", "Message-Id", "In-Reply-To", "References", "Mime-Version", "Content-Type", "Content-Transfer-Encoding", "Content-Disposition", "Reply-To", "Content-Language"}
	m, err := mail.ReadMessage(bytes.NewReader(data))
	b.must(err)
	for name, values := range m.Header {
		if !slices.Contains(may, name) || len(values) != 1 || strings.ContainsAny(values[0], "\r\n\x00") {
			t.Errorf("field %s: %q", name, values)
		}
	}
	var dec mime.WordDecoder
	if subject, err := dec.DecodeHeader(m.Header.Get("Subject")); err != nil || strings.ContainsAny(subject, "\r\n\x00") || !strings.HasPrefix(subject, "Re: Values") {
		t.Errorf("subject %q, %v", subject, err)
	}
	for _, field := range []string{"From", "To", "Cc"} {
		if m.Header.Get(field) == "" {
			continue
		}
		list, err := m.Header.AddressList(field)
		b.must(err, field)
		for _, a := range list {
			if strings.ContainsAny(a.Name, "\r\n\x00") || !slices.Contains([]string{"doc@clinic.example", "nurse@clinic.example", recipient}, a.Address) {
				t.Errorf("%s: %q %q", field, a.Name, a.Address)
			}
		}
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	b.must(err)
	if kind != "multipart/mixed" {
		t.Fatalf("type %s", kind)
	}
	parts := 0
	for mr := multipart.NewReader(m.Body, params["boundary"]); ; parts++ {
		part, err := mr.NextPart()
		if err == io.EOF {
			break
		}
		b.must(err)
		body, err := io.ReadAll(part)
		b.must(err)
		for name, values := range part.Header {
			if !slices.Contains(may, name) || len(values) != 1 || strings.ContainsAny(values[0], "\r\n\x00") {
				t.Errorf("part %d: field %s: %q", parts, name, values)
			}
		}
		kind, _, err := mime.ParseMediaType(part.Header.Get("Content-Type"))
		if err != nil || kind == "text/html" {
			t.Errorf("part %d: type %q, %v", parts, part.Header.Get("Content-Type"), err)
		}
		if parts == 0 && (kind != "text/plain" || !strings.Contains(string(body), "Dear doctor,") || !strings.Contains(string(body), "Bcc: spy@evil.example")) {
			t.Errorf("the text: %s, %q", kind, body)
		}
		if name := part.FileName(); parts > 0 && (name == "" || strings.ContainsAny(name, "/\\\r\n\x00\u202e") || strings.HasPrefix(name, ".")) {
			t.Errorf("part %d is named %q", parts, name)
		}
	}
	if parts != 8 {
		t.Errorf("%d parts", parts)
	}
}
