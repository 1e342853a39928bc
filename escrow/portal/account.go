package portal

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/account"
	"github.com/postseal/postseal/escrow/words"
)

// Accounts are those of recipients. [escrow.Vault] has them.
type Accounts interface {
	// BeginEnrol checks a code, and begins a passkey. The ceremony stands for the
	// code from then on: given in its place, it is begun anew.
	BeginEnrol(ctx context.Context, p *escrow.Pickup, code string, c escrow.Client) (escrow.Ceremony, error)
	// Enrol makes the account, with a code or a ceremony: escrow.ErrWrong,
	// *escrow.LockedError, *escrow.WeakPasswordError before a code is used,
	// escrow.ErrCeremony, or escrow.ErrEnrolled where another was faster.
	Enrol(ctx context.Context, p *escrow.Pickup, e escrow.Enrolment, c escrow.Client) (escrow.Grant, error)
	// BeginSignIn begins a sign-in by passkey.
	BeginSignIn(ctx context.Context, p *escrow.Pickup, c escrow.Client) (escrow.Ceremony, error)
	// SignIn checks a password or a passkey: escrow.ErrWrong, *escrow.LockedError
	// or escrow.ErrCeremony.
	SignIn(ctx context.Context, p *escrow.Pickup, s escrow.SignIn, c escrow.Client) (escrow.Grant, error)
	// Owner finds the recipient who has an account, without a message.
	Owner(ctx context.Context, tag string) (*escrow.Pickup, error)
	// AskReset asks the sender to let the recipient choose anew.
	AskReset(ctx context.Context, p *escrow.Pickup, c escrow.Client) error

	// What the holder of an account does with it.
	Account(ctx context.Context, d *escrow.Device) (escrow.Account, error)
	ChangePassword(ctx context.Context, d *escrow.Device, old, new string, c escrow.Client) error
	BeginAddPasskey(ctx context.Context, d *escrow.Device) (escrow.Ceremony, error)
	AddPasskey(ctx context.Context, d *escrow.Device, ceremony, response, name string) error
	RemovePasskey(ctx context.Context, d *escrow.Device, id string) error
	NewTOTP(ctx context.Context, d *escrow.Device) (escrow.TOTPSetup, error)
	ResumeTOTP(ctx context.Context, d *escrow.Device, ceremony string) (escrow.TOTPSetup, error)
	ConfirmTOTP(ctx context.Context, d *escrow.Device, ceremony, code string, c escrow.Client) error
	RemoveTOTP(ctx context.Context, d *escrow.Device, code string, c escrow.Client) error
	SignOutDevice(ctx context.Context, d *escrow.Device, id string) error
	SignOutAll(ctx context.Context, d *escrow.Device) error
}

// accountRoutes mounts what recipients with accounts see: at a link under m, and
// at their inbox.
func (p *portal) accountRoutes(handle func(pattern, route string, h handler), m string) {
	const inbox = "/inbox/{tag}"
	for route, h := range map[string]func(http.ResponseWriter, *http.Request, *visit) error{
		"POST /enrol":         p.enrol,
		"POST /enrol/passkey": p.beginEnrol,
	} {
		method, path, _ := strings.Cut(route, " ")
		handle(method+" "+p.base+m+path, m+path, p.pickup(h))
	}
	for route, h := range map[string]func(http.ResponseWriter, *http.Request, *visit) error{
		"POST /signin":         p.signIn,
		"POST /signin/passkey": p.beginSignIn,
		"GET /forgot":          p.forgot,
		"POST /forgot":         p.askReset,
	} {
		method, path, _ := strings.Cut(route, " ")
		handle(method+" "+p.base+m+path, m+path, p.pickup(h))
		handle(method+" "+p.base+inbox+path, inbox+path, p.owner(h))
	}
	handle("GET "+p.base+inbox+"/signin", inbox+"/signin", p.owner(p.signInAtInbox))
	for route, h := range map[string]func(http.ResponseWriter, *http.Request, *accountVisit) error{
		"GET /account":                 p.account,
		"POST /account/password":       p.changePassword,
		"POST /account/passkey":        p.beginPasskey,
		"POST /account/passkey/add":    p.addPasskey,
		"POST /account/passkey/remove": p.removePasskey,
		"POST /account/totp":           p.newTOTP,
		"POST /account/totp/confirm":   p.confirmTOTP,
		"POST /account/totp/remove":    p.removeTOTP,
		"POST /account/signout":        p.signOutDevice,
		"POST /account/signout/all":    p.signOutAll,
	} {
		method, path, _ := strings.Cut(route, " ")
		handle(method+" "+p.base+inbox+path, inbox+path, p.accountOf(h))
	}
}

// enrolled reports whether the pickup is opened by an account that there is.
func (v *visit) enrolled() bool { return v.Verify == escrow.VerifyAccount && v.Account.Enrolled }

// owner finds the recipient whose inbox is asked for.
func (p *portal) owner(h func(http.ResponseWriter, *http.Request, *visit) error) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		v, err := p.ownerVisit(r)
		if err != nil {
			return err
		}
		return h(w, r, v)
	}
}

// ownerVisit is a visit to the inbox of a recipient who has an account, by who is
// not signed in: it has no message.
func (p *portal) ownerVisit(r *http.Request) (*visit, error) {
	tag := r.PathValue("tag")
	got, err := p.accounts.Owner(r.Context(), tag)
	if err != nil {
		return nil, err
	}
	found(r.Context(), "", got.Language)
	self := p.inboxPath(tag)
	place(r.Context(), self+"/signin", "")
	return &visit{Pickup: got, self: self, inbox: true, path: self, suffix: tag}, nil
}

// signInAtInbox is the page of an inbox for who is not signed in.
func (p *portal) signInAtInbox(w http.ResponseWriter, r *http.Request, v *visit) error {
	if ok, err := p.through(w, r, v); ok || err != nil {
		return err
	}
	return p.signInPage(w, r, v)
}

// hasAccount reports whether the recipient of a tag can sign in.
func (p *portal) hasAccount(ctx context.Context, tag string) (bool, error) {
	if p.accounts == nil {
		return false, nil
	}
	_, err := p.accounts.Owner(ctx, tag)
	if errors.Is(err, escrow.ErrUnknown) {
		return false, nil
	}
	return err == nil, err
}

// through sends who need not sign in any more on to where that leads.
func (p *portal) through(w http.ResponseWriter, r *http.Request, v *visit) (bool, error) {
	if v.ItemID != "" {
		return p.admitted(w, r, v)
	}
	switch d, err := p.deviceOf(r, v.Tag); {
	case err == nil && d.How == escrow.VerifyAccount:
		return true, see(w, v.self)
	case err == nil || errors.Is(err, escrow.ErrUnknown):
		return false, nil
	default:
		return false, err
	}
}

// proven returns the ceremony that a right code began in this browser. The page may
// be left and loaded anew: the code is not asked for again while it lasts.
func (p *portal) proven(r *http.Request, v *visit) string {
	if c, err := r.Cookie(p.cookieName("proven", v)); err == nil {
		return c.Value
	}
	return ""
}

// provenLifetime is how long the browser remembers a ceremony; the vault decides
// how long it is good.
const provenLifetime = 15 * time.Minute

// ceremony is what a passkey is made or used with, and what it answered.
func (p *portal) ceremony(r *http.Request, v *visit) (id, response string) {
	id, response = r.PostForm.Get("ceremony"), r.PostForm.Get("response")
	if id == "" {
		id = p.proven(r, v)
	}
	return id, response
}

// enrol makes an account: by a mailed code, or the ceremony that it began, and a
// password or a passkey.
func (p *portal) enrol(w http.ResponseWriter, r *http.Request, v *visit) error {
	if err := form(w, r); err != nil {
		return err
	}
	if v.Verify != escrow.VerifyAccount {
		return see(w, v.self)
	}
	if ok, err := p.admitted(w, r, v); ok || err != nil {
		return err
	}
	e := escrow.Enrolment{Password: r.PostForm.Get("password"), Device: deviceName(r)}
	e.Ceremony, e.Response = p.ceremony(r, v)
	if v.enrolled() && !v.Account.MailboxReset {
		// The button was pressed twice, or another was faster. The password says
		// which.
		return p.signInWith(w, r, v, escrow.SignIn{Password: e.Password, Device: e.Device}, "signin.taken")
	}
	view := p.landingView(r, v)
	view.Typed, view.Proven = r.PostForm.Get("answer"), e.Ceremony
	again := func(field, problem string) error {
		view.Field, view.Problem = field, problem
		return p.writeLanding(w, r, v, http.StatusUnprocessableEntity, view)
	}
	words := wordsOf(r)
	if e.Ceremony == "" {
		if e.Code = code(view.Typed); e.Code == "" {
			return again("answer", words.T("landing.no-code"))
		}
	}
	if e.Response != "" {
		e.Password = ""
	} else if e.Password == "" {
		return again("password", words.T("account.no-password"))
	}
	grant, err := p.accounts.Enrol(r.Context(), v.Pickup, e, p.client(r))
	var locked *escrow.LockedError
	var weak *escrow.WeakPasswordError
	switch {
	case errors.As(err, &locked):
		view.Locked = locked.Until
		p.retryAfter(w, locked.Until)
		return p.writeLanding(w, r, v, http.StatusTooManyRequests, view)
	case errors.As(err, &weak):
		return again("password", weakWords(words, weak))
	case errors.Is(err, escrow.ErrEnrolled):
		return p.taken(w, r, v)
	case errors.Is(err, escrow.ErrCeremony) || errors.Is(err, escrow.ErrWrong) && e.Ceremony != "":
		view.Proven = ""
		p.setCookie(w, v, "proven", "", time.Time{})
		return again("answer", words.T("landing.ceremony-over"))
	case errors.Is(err, escrow.ErrWrong):
		return again("answer", words.T("landing.wrong-code"))
	case err != nil:
		return err
	}
	return p.enter(w, v, grant)
}

// taken answers who was not the first to enrol: another tab, or somebody else.
func (p *portal) taken(w http.ResponseWriter, r *http.Request, v *visit) error {
	fresh, err := p.vault.Pickup(r.Context(), v.ItemID, r.PathValue("secret"))
	if err != nil {
		return err
	}
	v.Pickup = fresh
	view := p.signInView(r, v)
	view.Problem = wordsOf(r).T("signin.taken")
	return p.pages.write(w, r, http.StatusConflict, "signin", view)
}

// weakWords says why a password is not taken, and what would be.
func weakWords(w *words.Words, weak *escrow.WeakPasswordError) string {
	switch weak.Reason {
	case "short":
		return w.T("account.weak-short", account.MinPassword)
	case "long":
		return w.T("account.weak-long")
	case "personal":
		return w.T("account.weak-personal")
	default:
		return w.T("account.weak-common")
	}
}

// beginEnrol checks a code for who wants a passkey.
func (p *portal) beginEnrol(w http.ResponseWriter, r *http.Request, v *visit) error {
	if err := form(w, r); err != nil {
		return err
	}
	if s, err := p.session(r, v); s != nil || v.Verify != escrow.VerifyAccount || v.enrolled() && !v.Account.MailboxReset {
		return answerJSON(w, r, http.StatusOK, passkeyAnswer{Go: v.self})
	} else if !errors.Is(err, escrow.ErrUnknown) {
		return err
	}
	words := wordsOf(r)
	proof := r.PostForm.Get("ceremony")
	if proof == "" && r.PostForm.Get("answer") == "" {
		proof = p.proven(r, v)
	}
	again := proof != ""
	if !again {
		if proof = code(r.PostForm.Get("answer")); proof == "" {
			return answerJSON(w, r, http.StatusUnprocessableEntity, passkeyAnswer{Field: "answer", Problem: words.T("landing.no-code")})
		}
	}
	ceremony, err := p.accounts.BeginEnrol(r.Context(), v.Pickup, proof, p.client(r))
	if again && (errors.Is(err, escrow.ErrCeremony) || errors.Is(err, escrow.ErrWrong)) {
		p.setCookie(w, v, "proven", "", time.Time{})
		return answerJSON(w, r, http.StatusUnprocessableEntity, passkeyAnswer{Field: "answer", Problem: words.T("landing.ceremony-over")})
	}
	if errors.Is(err, escrow.ErrEnrolled) {
		return answerJSON(w, r, http.StatusOK, passkeyAnswer{Go: v.self})
	}
	if err == nil {
		p.setCookie(w, v, "proven", ceremony.ID, p.now().Add(provenLifetime))
	}
	return p.answerCeremony(w, r, ceremony, err, "landing.wrong-code")
}

// passkeyAnswer is what the passkey script gets.
type passkeyAnswer struct {
	Ceremony string          `json:"ceremony,omitempty"`
	Options  json.RawMessage `json:"options,omitempty"`
	Problem  string          `json:"problem,omitempty"` // in the reader's language
	Field    string          `json:"field,omitempty"`   // that it is with
	Go       string          `json:"go,omitempty"`      // a page to load in place of this one
}

// answerCeremony gives the script a ceremony, or tells why there is none.
func (p *portal) answerCeremony(w http.ResponseWriter, r *http.Request, c escrow.Ceremony, err error, wrong string) error {
	var locked *escrow.LockedError
	switch {
	case errors.As(err, &locked):
		p.retryAfter(w, locked.Until)
		return answerJSON(w, r, http.StatusTooManyRequests, passkeyAnswer{Problem: p.lockedWords(r, locked)})
	case errors.Is(err, escrow.ErrWrong):
		return answerJSON(w, r, http.StatusUnprocessableEntity, passkeyAnswer{Field: "answer", Problem: wordsOf(r).T(wrong)})
	case errors.Is(err, escrow.ErrNoPasskeys): // the page is from before something changed
		return answerJSON(w, r, http.StatusUnprocessableEntity, passkeyAnswer{Problem: wordsOf(r).T("account.passkey-none")})
	case err != nil:
		return err
	}
	return answerJSON(w, r, http.StatusOK, passkeyAnswer{Ceremony: c.ID, Options: c.Options})
}

func (p *portal) lockedWords(r *http.Request, l *escrow.LockedError) string {
	w := wordsOf(r)
	return w.T("landing.locked-in", w.Date(l.Until), w.In(l.Until, p.now()))
}

func answerJSON(w http.ResponseWriter, r *http.Request, status int, a passkeyAnswer) error {
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, err = w.Write(b)
	return err
}

// signInView is the page where a recipient who has an account signs in.
type signInView struct {
	facts
	Account   escrow.AccountState
	Ceremony  string // of a passkey, "" where there is none
	Options   string // of it, JSON
	Field     string // that the problem is with: "password", "totp", "passkey"
	Problem   string
	Locked    time.Time
	NoCookies bool
	Left      bool
}

// signInView has a ceremony ready, so that the browser may offer a passkey without
// another request. Its beginning changes nothing.
func (p *portal) signInView(r *http.Request, v *visit) signInView {
	view := signInView{facts: factsOf(v), Account: v.Account}
	if v.Account.Passkey && v.Account.CanPasskey {
		if c, err := p.accounts.BeginSignIn(r.Context(), v.Pickup, p.client(r)); err == nil {
			view.Ceremony, view.Options = c.ID, string(c.Options)
		}
	}
	if v.Locked.After(p.now()) {
		view.Locked = v.Locked
	}
	return view
}

func (p *portal) signInPage(w http.ResponseWriter, r *http.Request, v *visit) error {
	view := p.signInView(r, v)
	query := r.URL.Query()
	view.NoCookies, view.Left = query.Has("cookies"), query.Has("closed")
	return p.pages.write(w, r, http.StatusOK, "signin", view)
}

// signIn takes a password, with a code of the second factor where one is set up, or
// a passkey.
func (p *portal) signIn(w http.ResponseWriter, r *http.Request, v *visit) error {
	if err := form(w, r); err != nil {
		return err
	}
	if ok, err := p.through(w, r, v); ok || err != nil {
		return err
	}
	if !v.enrolled() {
		return see(w, v.self) // the account was reset meanwhile
	}
	s := escrow.SignIn{
		Password: r.PostForm.Get("password"), TOTP: code(r.PostForm.Get("totp")),
		Ceremony: r.PostForm.Get("ceremony"), Response: r.PostForm.Get("response"), Device: deviceName(r),
	}
	return p.signInWith(w, r, v, s, "")
}

// signInWith signs in. problem is told where s has nothing to sign in with, "" for
// that a password is missing.
func (p *portal) signInWith(w http.ResponseWriter, r *http.Request, v *visit, s escrow.SignIn, problem string) error {
	view := p.signInView(r, v)
	words := wordsOf(r)
	again := func(field, problem string) error {
		view.Field, view.Problem = field, words.T(problem)
		return p.pages.write(w, r, http.StatusUnprocessableEntity, "signin", view)
	}
	field, wrong := "password", "signin.wrong-password"
	switch {
	case problem != "" && (s.Password == "" || !v.Account.Password):
		return again("", problem)
	case problem != "":
		wrong = problem
	case s.Response != "":
		field, wrong, s.Password, s.TOTP = "passkey", "signin.wrong-passkey", "", ""
	case s.Password == "":
		return again("password", "signin.no-password")
	case v.Account.TOTP && s.TOTP == "":
		return again("totp", "signin.no-totp")
	case v.Account.TOTP:
		wrong = "signin.wrong-both"
	}
	grant, err := p.accounts.SignIn(r.Context(), v.Pickup, s, p.client(r))
	var locked *escrow.LockedError
	switch {
	case errors.As(err, &locked):
		view.Locked = locked.Until
		p.retryAfter(w, locked.Until)
		return p.pages.write(w, r, http.StatusTooManyRequests, "signin", view)
	case errors.Is(err, escrow.ErrWrong):
		return again(field, wrong)
	case errors.Is(err, escrow.ErrCeremony):
		return again("passkey", "signin.ceremony-over")
	case err != nil:
		return err
	}
	return p.enter(w, v, grant)
}

func (p *portal) beginSignIn(w http.ResponseWriter, r *http.Request, v *visit) error {
	if err := form(w, r); err != nil {
		return err
	}
	if !v.enrolled() {
		return answerJSON(w, r, http.StatusOK, passkeyAnswer{Go: v.self})
	}
	ceremony, err := p.accounts.BeginSignIn(r.Context(), v.Pickup, p.client(r))
	return p.answerCeremony(w, r, ceremony, err, "signin.wrong-passkey")
}

// forgotView is the page for who can't sign in.
type forgotView struct {
	landingView
	Mailbox bool      // a mailed code is enough
	Asked   bool      // the sender was asked
	TooMany time.Time // until when the sender is not asked again
	Support string
}

func (p *portal) forgotView(r *http.Request, v *visit, l landingView) forgotView {
	return forgotView{landingView: l, Mailbox: v.Account.MailboxReset && v.ItemID != "", Support: p.pages.support}
}

func (p *portal) forgot(w http.ResponseWriter, r *http.Request, v *visit) error {
	if ok, err := p.through(w, r, v); ok || err != nil {
		return err
	}
	if !v.enrolled() {
		return see(w, v.self)
	}
	view := p.forgotView(r, v, p.landingView(r, v))
	view.Asked = r.URL.Query().Has("asked")
	return p.pages.write(w, r, http.StatusOK, "forgot", view)
}

// askReset asks the sender, by mail.
func (p *portal) askReset(w http.ResponseWriter, r *http.Request, v *visit) error {
	if ok, err := p.through(w, r, v); ok || err != nil {
		return err
	}
	if !v.enrolled() {
		return see(w, v.self)
	}
	if v.ItemID == "" || v.Sender == "" || v.Account.MailboxReset {
		return see(w, v.self+"/forgot")
	}
	err := p.accounts.AskReset(r.Context(), v.Pickup, p.client(r))
	var locked *escrow.LockedError
	if errors.As(err, &locked) {
		view := p.forgotView(r, v, p.landingView(r, v))
		view.TooMany = locked.Until
		p.retryAfter(w, locked.Until)
		return p.pages.write(w, r, http.StatusTooManyRequests, "forgot", view)
	}
	if err != nil {
		return err
	}
	return see(w, v.self+"/forgot?asked")
}

// deviceName is what a browser is called in its owner's list of devices. Products
// have the same name in each language.
func deviceName(r *http.Request) string {
	agent := r.UserAgent()
	first := func(names ...string) string {
		for i := 0; i+1 < len(names); i += 2 {
			if strings.Contains(agent, names[i]) {
				return names[i+1]
			}
		}
		return ""
	}
	// The order matters: most say that they are several others too.
	browser := first("Edg", "Edge", "OPR/", "Opera", "SamsungBrowser/", "Samsung Internet", "Firefox/", "Firefox", "FxiOS/", "Firefox", "CriOS/", "Chrome", "Chrome/", "Chrome", "Safari/", "Safari")
	system := first("iPhone", "iPhone", "iPad", "iPad", "Android", "Android", "Windows", "Windows", "Macintosh", "Mac", "CrOS", "ChromeOS", "Linux", "Linux")
	return strings.Trim(browser+", "+system, ", ")
}
