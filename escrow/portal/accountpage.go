package portal

import (
	"encoding/base64"
	"errors"
	"html/template"
	"net/http"

	"github.com/postseal/postseal/escrow"
)

// accountVisit is a request of a recipient who is signed in to the own account.
type accountVisit struct {
	device *escrow.Device
	inbox  string // path of the inbox
	self   string // path of the account's page
}

// accountOf finds the account of a device that signed in to it. Any other goes to
// the inbox, where one signs in.
func (p *portal) accountOf(h func(http.ResponseWriter, *http.Request, *accountVisit) error) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		tag := r.PathValue("tag")
		inbox := p.inboxPath(tag)
		d, err := p.deviceOf(r, tag)
		switch {
		case errors.Is(err, escrow.ErrUnknown) || err == nil && d.How != escrow.VerifyAccount:
			if _, err := p.accounts.Owner(r.Context(), tag); err != nil {
				return err
			}
			return see(w, inbox)
		case err != nil:
			return err
		}
		place(r.Context(), inbox+"/account", "")
		if err := form(w, r); err != nil {
			return err
		}
		return h(w, r, &accountVisit{device: d, inbox: inbox, self: inbox + "/account"})
	}
}

// accountView is the page of an account.
type accountView struct {
	escrow.Account
	Self      string
	Inbox     string
	Recipient string // masked, as on the pages before, so that a password manager knows it
	Done      string // what was done, a key of the words; "" for nothing
	Field     string // that the problem is with
	Problem   string
	At        string // of which passkey, its ID
	Browser   string // what this one is called
	CanAdd    bool   // a passkey: browsers make them for this portal
	Setup     *totpView
}

// totpView is a second factor that is being set up.
type totpView struct {
	Ceremony string
	Secret   string
	URL      template.URL // otpauth: for a program on the same device
	QR       template.URL // data:
}

// done are the words that may stand in the query of the page.
var done = map[string]string{
	"password": "account.done-password", "passkey": "account.done-passkey", "passkey-removed": "account.done-passkey-removed",
	"totp": "account.done-totp", "totp-removed": "account.done-totp-removed", "signed-out": "account.done-signed-out",
}

func (p *portal) accountView(r *http.Request, v *accountVisit) (accountView, error) {
	a, err := p.accounts.Account(r.Context(), v.device)
	if err != nil {
		return accountView{}, err
	}
	owner, err := p.accounts.Owner(r.Context(), v.device.Tag)
	if err != nil {
		return accountView{}, err
	}
	return accountView{CanAdd: owner.Account.CanPasskey, Account: a, Self: v.self, Inbox: v.inbox, Recipient: masked(a.Address), Browser: deviceName(r)}, nil
}

func (p *portal) account(w http.ResponseWriter, r *http.Request, v *accountVisit) error {
	view, err := p.accountView(r, v)
	if err != nil {
		return err
	}
	for what, words := range done {
		if r.URL.Query().Has(what) {
			view.Done = words
		}
	}
	return p.pages.write(w, r, http.StatusOK, "account", view)
}

// accountProblem shows the page again with a problem at a field.
func (p *portal) accountProblem(w http.ResponseWriter, r *http.Request, v *accountVisit, field, problem string, change ...func(*accountView)) error {
	view, err := p.accountView(r, v)
	if err != nil {
		return err
	}
	view.Field, view.Problem = field, problem
	for _, f := range change {
		f(&view)
	}
	return p.pages.write(w, r, http.StatusUnprocessableEntity, "account", view)
}

func (p *portal) changePassword(w http.ResponseWriter, r *http.Request, v *accountVisit) error {
	words := wordsOf(r)
	old, new := r.PostForm.Get("old"), r.PostForm.Get("password")
	if new == "" {
		return p.accountProblem(w, r, v, "password", words.T("account.no-password"))
	}
	err := p.accounts.ChangePassword(r.Context(), v.device, old, new, p.client(r))
	var locked *escrow.LockedError
	var weak *escrow.WeakPasswordError
	switch {
	case errors.As(err, &locked):
		p.retryAfter(w, locked.Until)
		return p.accountProblem(w, r, v, "old", p.lockedWords(r, locked))
	case errors.As(err, &weak):
		return p.accountProblem(w, r, v, "password", weakWords(words, weak))
	case errors.Is(err, escrow.ErrWrong):
		return p.accountProblem(w, r, v, "old", words.T("account.wrong-old"))
	case err != nil:
		return err
	}
	return see(w, v.self+"?password")
}

func (p *portal) beginPasskey(w http.ResponseWriter, r *http.Request, v *accountVisit) error {
	ceremony, err := p.accounts.BeginAddPasskey(r.Context(), v.device)
	return p.answerCeremony(w, r, ceremony, err, "account.ceremony-over")
}

// maxName is the length of a passkey's name, in runes.
const maxName = 60

func (p *portal) addPasskey(w http.ResponseWriter, r *http.Request, v *accountVisit) error {
	name := []rune(clean(r.PostForm.Get("name")))
	if len(name) > maxName {
		name = name[:maxName]
	}
	if len(name) == 0 {
		name = []rune(deviceName(r))
	}
	if r.PostForm.Get("response") == "" {
		return see(w, v.self) // sent without the script: there is nothing to add
	}
	err := p.accounts.AddPasskey(r.Context(), v.device, r.PostForm.Get("ceremony"), r.PostForm.Get("response"), string(name))
	switch {
	case errors.Is(err, escrow.ErrCeremony) || errors.Is(err, escrow.ErrWrong):
		return p.accountProblem(w, r, v, "passkey", wordsOf(r).T("account.ceremony-over"))
	case errors.Is(err, escrow.ErrNoPasskeys):
		return p.accountProblem(w, r, v, "passkey", wordsOf(r).T("account.passkey-none"))
	case err != nil:
		return err
	}
	return see(w, v.self+"?passkey")
}

func (p *portal) removePasskey(w http.ResponseWriter, r *http.Request, v *accountVisit) error {
	id := r.PostForm.Get("id")
	err := p.accounts.RemovePasskey(r.Context(), v.device, id)
	switch {
	case errors.Is(err, escrow.ErrLastMeans):
		return p.accountProblem(w, r, v, "remove", wordsOf(r).T("account.last-means"), func(a *accountView) { a.At = id })
	case errors.Is(err, escrow.ErrUnknown): // removed in another tab
	case err != nil:
		return err
	}
	return see(w, v.self+"?passkey-removed")
}

// newTOTP shows a new second factor. It counts once a code of it was entered; a
// page that is loaded again brings another.
func (p *portal) newTOTP(w http.ResponseWriter, r *http.Request, v *accountVisit) error {
	setup, err := p.accounts.NewTOTP(r.Context(), v.device)
	if errors.Is(err, escrow.ErrLastMeans) {
		return see(w, v.self) // there is no password any more, for it to go with
	}
	if err != nil {
		return err
	}
	view, err := p.accountView(r, v)
	if err != nil {
		return err
	}
	view.Setup = totpViewOf(setup)
	return p.pages.write(w, r, http.StatusOK, "account", view)
}

func totpViewOf(s escrow.TOTPSetup) *totpView {
	return &totpView{
		Ceremony: s.Ceremony, Secret: s.Secret, URL: template.URL(s.URL),
		QR: template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(s.QR)),
	}
}

func (p *portal) confirmTOTP(w http.ResponseWriter, r *http.Request, v *accountVisit) error {
	words := wordsOf(r)
	ceremony := r.PostForm.Get("ceremony")
	again := func(problem string) error {
		setup, err := p.accounts.ResumeTOTP(r.Context(), v.device, ceremony)
		if errors.Is(err, escrow.ErrCeremony) {
			return p.accountProblem(w, r, v, "totp", words.T("account.totp-over"))
		}
		if err != nil {
			return err
		}
		return p.accountProblem(w, r, v, "totp", problem, func(a *accountView) { a.Setup = totpViewOf(setup) })
	}
	typed := code(r.PostForm.Get("totp"))
	if typed == "" {
		return again(words.T("signin.no-totp"))
	}
	err := p.accounts.ConfirmTOTP(r.Context(), v.device, ceremony, typed, p.client(r))
	var locked *escrow.LockedError
	switch {
	case errors.As(err, &locked):
		p.retryAfter(w, locked.Until)
		return again(p.lockedWords(r, locked))
	case errors.Is(err, escrow.ErrWrong):
		return again(words.T("account.wrong-totp"))
	case errors.Is(err, escrow.ErrCeremony):
		return p.accountProblem(w, r, v, "totp", words.T("account.totp-over"))
	case errors.Is(err, escrow.ErrLastMeans):
		return see(w, v.self)
	case err != nil:
		return err
	}
	return see(w, v.self+"?totp")
}

func (p *portal) removeTOTP(w http.ResponseWriter, r *http.Request, v *accountVisit) error {
	words := wordsOf(r)
	typed := code(r.PostForm.Get("totp"))
	if typed == "" {
		return p.accountProblem(w, r, v, "totp", words.T("signin.no-totp"))
	}
	err := p.accounts.RemoveTOTP(r.Context(), v.device, typed, p.client(r))
	var locked *escrow.LockedError
	switch {
	case errors.As(err, &locked):
		p.retryAfter(w, locked.Until)
		return p.accountProblem(w, r, v, "totp", p.lockedWords(r, locked))
	case errors.Is(err, escrow.ErrWrong):
		return p.accountProblem(w, r, v, "totp", words.T("account.wrong-totp"))
	case err != nil:
		return err
	}
	return see(w, v.self+"?totp-removed")
}

func (p *portal) signOutDevice(w http.ResponseWriter, r *http.Request, v *accountVisit) error {
	err := p.accounts.SignOutDevice(r.Context(), v.device, r.PostForm.Get("id"))
	if err != nil && !errors.Is(err, escrow.ErrUnknown) {
		return err
	}
	return see(w, v.self+"?signed-out")
}

func (p *portal) signOutAll(w http.ResponseWriter, r *http.Request, v *accountVisit) error {
	if err := p.accounts.SignOutAll(r.Context(), v.device); err != nil {
		return err
	}
	p.setDevice(w, v.device.Tag, closedDevice, p.now().Add(closedLifetime))
	return see(w, v.inbox+"?closed")
}
