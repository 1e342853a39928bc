package portal

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/postseal/postseal/escrow"
)

// visit is a request to a pickup that the vault knows: with the right secret of its
// link, or in the inbox of a device that is verified for its recipient.
type visit struct {
	*escrow.Pickup
	self   string         // path that the pages of the message lie under, escaped; by a link, of its landing page
	inbox  bool           // it came by the inbox: there is no landing page, nor cookies of the link
	device *escrow.Device // that is verified for the recipient; nil: none, or not asked for
	path   string         // of the link's cookies
	suffix string         // of their names
	token  string         // of the device by the link's own cookie, "" if it has none
}

// opened is a handler for who may open the message.
type opened func(http.ResponseWriter, *http.Request, *visit, *escrow.Session) error

// key tells the visits of one recipient of one message from all others.
func (v *visit) key() string {
	if v.inbox {
		return v.ItemID + "/" + v.Tag
	}
	return v.ItemID + v.suffix
}

// overError reports a message that is over, to who has the right secret.
type overError struct{ view overView }

func (e *overError) Error() string { return "the message is over" }

type overView struct {
	Sender    string
	Retracted bool
	Expires   time.Time
	Item      string
	Inbox     string // to go back to, "" where it was opened by its link
}

// pickup finds the pickup that a link leads to. A stranger's link ends here, as
// every unknown path does.
func (p *portal) pickup(h func(http.ResponseWriter, *http.Request, *visit) error) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		item, secret := r.PathValue("item"), r.PathValue("secret")
		got, err := p.vault.Pickup(r.Context(), item, secret)
		if got != nil {
			found(r.Context(), got.ItemID, got.Language)
			place(r.Context(), p.base+"/m/"+url.PathEscape(item)+"/"+url.PathEscape(secret), got.Sender)
		}
		if (errors.Is(err, escrow.ErrExpired) || errors.Is(err, escrow.ErrRetracted)) && got != nil {
			return &overError{overView{Sender: clean(got.Sender), Retracted: errors.Is(err, escrow.ErrRetracted), Expires: got.Expires, Item: got.ItemID}}
		}
		if err != nil {
			return err
		}
		if got == nil {
			return escrow.ErrUnknown
		}
		v := &visit{Pickup: got, path: p.base + "/m/" + url.PathEscape(item), suffix: suffix(secret)}
		v.self = v.path + "/" + url.PathEscape(secret)
		if c, err := r.Cookie(p.cookieName("device", v)); err == nil {
			v.token = c.Value
		}
		return h(w, r, v)
	}
}

// suffix keeps the cookies of two recipients of one message apart, who may share a
// browser. The secret has 256 bits: 32 bits of its hash tell nothing of it.
func suffix(secret string) string {
	hash := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(hash[:4])
}

func (p *portal) cookieName(kind string, v *visit) string {
	name := kind + "-" + v.suffix
	if p.secure {
		name = "__Secure-" + name
	}
	return name
}

// setCookie keeps value in the browser until ends, for this item alone. The
// secret is no part of the cookie's path. Lax, not Strict: a link in a mail
// program must find a verified device.
func (p *portal) setCookie(w http.ResponseWriter, v *visit, kind, value string, ends time.Time) {
	c := &http.Cookie{
		Name: p.cookieName(kind, v), Value: value, Path: v.path,
		Secure: p.secure, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
	if c.MaxAge = int(ends.Sub(p.now()) / time.Second); c.MaxAge <= 0 {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// see sends the browser to a page by GET, so that reloading that page, or coming
// back to it, sends nothing again.
func see(w http.ResponseWriter, to string) error {
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusSeeOther)
	return nil
}

// landingView is the page before verification.
type landingView struct {
	facts
	Passphrase bool      // else a code
	Sent       time.Time // when a code was sent from this browser, zero if it was not
	CanPasskey bool      // browsers make passkeys for this portal
	Proven     string    // the ceremony that a right code began, "" for none
	Typed      string    // what was typed before
	Problem    string    // with what was typed
	Field      string    // that the problem is with: "answer", "password", "passkey"
	Locked     time.Time // until when no try is accepted
	NoCodes    time.Time // until when no further code is sent
	NoCookies  bool
	Left       bool
}

// facts are what the page before verification tells of the message.
type facts struct {
	Self      string
	Item      string // "" at the inbox, which is of no one message
	Sender    string
	Recipient string // masked
	Created   time.Time
	Expires   time.Time
	Receipt   bool // the sender is told of the first reading
}

func factsOf(v *visit) facts {
	return facts{Self: v.self, Item: v.ItemID, Sender: clean(v.Sender), Recipient: masked(v.Recipient), Created: v.Created, Expires: v.Expires,
		Receipt: v.Receipt && v.State == escrow.StateHeld}
}

// First reports whether nothing was done yet: then the page tells first what it is
// about, and afterwards what to do.
func (l landingView) First() bool {
	return l.Sent.IsZero() && l.Proven == "" && l.Problem == "" && l.Locked.IsZero() && l.NoCodes.IsZero() || l.Left || l.NoCookies
}

func (p *portal) landingView(r *http.Request, v *visit) landingView {
	now := p.now()
	view := landingView{facts: factsOf(v), Passphrase: v.Verify == escrow.VerifyPassphrase}
	if c, err := r.Cookie(p.cookieName("sent", v)); err == nil {
		if at, err := strconv.ParseInt(c.Value, 10, 64); err == nil {
			if d := now.Sub(time.Unix(at, 0)); d > -time.Minute && d < sentLifetime {
				view.Sent = time.Unix(at, 0)
			}
		}
	}
	if v.Verify == escrow.VerifyAccount {
		view.CanPasskey, view.Proven = v.Account.CanPasskey, p.proven(r, v)
	}
	if v.Locked.After(now) {
		view.Locked = v.Locked
	}
	return view
}

// sentLifetime is how long the browser remembers that a code was sent: as long as
// it is of use.
const sentLifetime = 30 * time.Minute

// landing is where the link leads. It changes nothing. A device that is verified
// goes on to the message.
func (p *portal) landing(w http.ResponseWriter, r *http.Request, v *visit) error {
	if ok, err := p.admitted(w, r, v); ok || err != nil {
		return err
	}
	if v.enrolled() {
		return p.signInPage(w, r, v)
	}
	view := p.landingView(r, v)
	query := r.URL.Query()
	view.NoCookies, view.Left = query.Has("cookies"), query.Has("closed")
	return p.writeLanding(w, r, v, http.StatusOK, view)
}

// writeLanding writes the page where a code, with an account to be made or
// without, or a passphrase is entered.
func (p *portal) writeLanding(w http.ResponseWriter, r *http.Request, v *visit, status int, view landingView) error {
	switch {
	case v.enrolled():
		return p.pages.write(w, r, status, "forgot", p.forgotView(r, v, view))
	case v.Verify == escrow.VerifyAccount:
		return p.pages.write(w, r, status, "enrol", view)
	}
	return p.pages.write(w, r, status, "landing", view)
}

// session returns the session of a device that may open the message, and
// escrow.ErrUnknown for any other. No form costs such a device anything, nor is it
// ever locked: the message may have been left open in another tab.
func (p *portal) session(r *http.Request, v *visit) (*escrow.Session, error) {
	if v.token != "" {
		s, err := p.vault.CheckToken(r.Context(), v.Pickup, v.token)
		if !errors.Is(err, escrow.ErrUnknown) {
			return s, err
		}
	}
	if v.Verify == escrow.VerifyPassphrase {
		return nil, escrow.ErrUnknown
	}
	d, err := p.deviceOf(r, v.Tag)
	if err != nil {
		return nil, err
	}
	v.device = d
	return p.vault.Admit(r.Context(), v.Pickup, d)
}

// admitted sends a device that may open the message on to it.
func (p *portal) admitted(w http.ResponseWriter, r *http.Request, v *visit) (bool, error) {
	switch _, err := p.session(r, v); {
	case err == nil:
		return true, see(w, v.self+"/message")
	case errors.Is(err, escrow.ErrUnknown):
		return false, nil
	default:
		return false, err
	}
}

// sendCode mails a code. Who presses the button often, or for others, reaches the
// vault's limit, and no more.
func (p *portal) sendCode(w http.ResponseWriter, r *http.Request, v *visit) error {
	if ok, err := p.admitted(w, r, v); ok || err != nil {
		return err
	}
	if v.Verify == escrow.VerifyPassphrase || v.enrolled() && !v.Account.MailboxReset {
		return see(w, v.self) // a page from before something changed
	}
	err := p.vault.SendCode(r.Context(), v.Pickup, p.client(r))
	var locked *escrow.LockedError
	if errors.As(err, &locked) {
		view := p.landingView(r, v)
		if view.NoCodes = locked.Until; !view.NoCodes.After(p.now()) {
			view.NoCodes = p.now().Add(time.Minute)
		}
		p.retryAfter(w, locked.Until)
		return p.writeLanding(w, r, v, http.StatusTooManyRequests, view)
	}
	if err != nil {
		return err
	}
	now := p.now()
	p.setCookie(w, v, "sent", strconv.FormatInt(now.Unix(), 10), now.Add(sentLifetime))
	if v.Verify == escrow.VerifyAccount {
		p.setCookie(w, v, "proven", "", time.Time{}) // who asks for a code is asked for it
	}
	if v.enrolled() {
		return see(w, v.self+"/forgot")
	}
	return see(w, v.self)
}

func (p *portal) retryAfter(w http.ResponseWriter, until time.Time) {
	if d := until.Sub(p.now()); d > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(d/time.Second)+1))
	}
}

// verify takes a code or a passphrase.
func (p *portal) verify(w http.ResponseWriter, r *http.Request, v *visit) error {
	if err := form(w, r); err != nil {
		return err
	}
	if v.Verify == escrow.VerifyAccount {
		return see(w, v.self) // no form of ours leads here
	}
	if ok, err := p.admitted(w, r, v); ok || err != nil {
		return err
	}
	view := p.landingView(r, v)
	words := wordsOf(r)
	answer := r.PostForm.Get("answer")
	again := func(status int, problem string) error {
		view.Problem, view.Field = words.T(problem), "answer"
		return p.pages.write(w, r, status, "landing", view)
	}
	if !view.Passphrase {
		view.Typed = answer
		if answer = code(answer); answer == "" {
			return again(http.StatusUnprocessableEntity, "landing.no-code")
		}
	} else if answer == "" {
		return again(http.StatusUnprocessableEntity, "landing.no-passphrase")
	}
	grant, err := p.vault.Prove(r.Context(), v.Pickup, answer, p.client(r))
	var locked *escrow.LockedError
	switch {
	case errors.As(err, &locked):
		view.Locked = locked.Until
		p.retryAfter(w, locked.Until)
		return p.pages.write(w, r, http.StatusTooManyRequests, "landing", view)
	case errors.Is(err, escrow.ErrWrong) && view.Passphrase:
		return again(http.StatusUnprocessableEntity, "landing.wrong-passphrase")
	case errors.Is(err, escrow.ErrWrong):
		return again(http.StatusUnprocessableEntity, "landing.wrong-code")
	case err != nil:
		return err
	}
	return p.enter(w, v, grant)
}

// enter keeps in the browser that it is verified, and leads on to what it may see
// now. The query tells that page that the cookie should be there.
func (p *portal) enter(w http.ResponseWriter, v *visit, g escrow.Grant) error {
	if g.Device {
		p.setDevice(w, v.Tag, g.Token, g.Expires)
	} else {
		p.setCookie(w, v, "device", g.Token, g.Expires)
	}
	if v.ItemID == "" {
		return see(w, v.self+"?verified")
	}
	p.setCookie(w, v, "sent", "", time.Time{})
	p.setCookie(w, v, "proven", "", time.Time{})
	return see(w, v.self+"/message?verified")
}

// leave makes this browser forget that it is verified, for computers that others
// use too: for this message, and for all others to the same recipient.
func (p *portal) leave(w http.ResponseWriter, r *http.Request, v *visit) error {
	switch d, err := p.deviceOf(r, v.Tag); {
	case err == nil:
		if err := p.vault.SignOut(r.Context(), d); err != nil {
			return err
		}
		p.setDevice(w, v.Tag, closedDevice, p.now().Add(closedLifetime))
	case !errors.Is(err, escrow.ErrUnknown):
		return err
	}
	p.setCookie(w, v, "device", "", time.Time{})
	p.setCookie(w, v, "sent", "", time.Time{})
	p.setCookie(w, v, "proven", "", time.Time{})
	return see(w, v.self+"?closed")
}

// verified calls h with the session of a verified device, once there is a place at
// the gate; any other goes to the landing page.
func (p *portal) verified(at *gate, h opened) func(http.ResponseWriter, *http.Request, *visit) error {
	return func(w http.ResponseWriter, r *http.Request, v *visit) error {
		session, err := p.session(r, v)
		switch {
		case err == nil:
			leave, err := at.enter(r.Context(), v.key())
			if err != nil {
				return err
			}
			defer leave()
			return h(w, r, v, session)
		case !errors.Is(err, escrow.ErrUnknown):
			return err
		case r.URL.Query().Has("verified"):
			return see(w, v.self+"?cookies") // the cookie of a moment ago did not come back
		}
		return see(w, v.self)
	}
}

// code finds the code in what was typed or pasted: the digits, in any script (an
// input method may write them so), of a text that has spaces or dashes among
// them, or of the first run long enough to be a code where it has words.
func code(s string) string {
	var runs []string
	var run strings.Builder
	end := func() {
		if run.Len() > 0 {
			runs = append(runs, run.String())
			run.Reset()
		}
	}
	for _, c := range s {
		switch d, ok := digit(c); {
		case ok:
			run.WriteByte(d)
		case unicode.IsSpace(c), unicode.Is(unicode.Pd, c), unicode.Is(unicode.Cf, c), c == '.', c == '_':
		default:
			end()
		}
	}
	end()
	for _, r := range runs {
		if len(r) >= 6 {
			return r
		}
	}
	return strings.Join(runs, "")
}

// digit returns the value of a decimal digit of any script. The ten digits of a
// script follow each other (Unicode, section 4.6), from a multiple of ten off the
// start of their range.
func digit(c rune) (byte, bool) {
	if c >= '0' && c <= '9' {
		return byte(c), true
	}
	if !unicode.Is(unicode.Nd, c) {
		return 0, false
	}
	zero := c
	for unicode.Is(unicode.Nd, zero-1) {
		zero--
	}
	return byte('0' + (c-zero)%10), true
}

func (p *portal) favicon(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "image/svg+xml")
	w.Header().Set("Cache-Control", "public, max-age=86400")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox")
	w.Write(p.pages.icon)
	return nil
}

func (p *portal) robots(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Write([]byte("User-agent: *\nDisallow: /\n"))
	return nil
}
