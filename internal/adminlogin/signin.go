package adminlogin

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/adminpage"
	"github.com/postseal/postseal/internal/audit"
)

//go:embed login.html
var loginHTML string

var (
	loginTemplate  = adminpage.New(loginHTML)
	noticeTemplate = adminpage.New(`{{define "content"}}<p>{{.}}</p>{{end}}`)
	onwardTemplate = adminpage.New(`{{define "content"}}<p><a href="{{.}}">Go on</a></p>{{end}}`)
)

// maxForm is the size of the form, in bytes: the longest password, escaped.
const maxForm = 8 << 10

// errWrong is all that who can't get in learns: of a name that nobody has, of a wrong
// password, of a wrong code, and of one that was used.
var errWrong = errors.New("name, password or code is wrong")

// loginForm is what the login page shows.
type loginForm struct {
	To      string // where it leads
	Problem string
	Out     bool   // just signed out
	Local   bool   // somebody has an account
	OIDC    string // the identity provider, "" for none
}

func (l *Login) loginPage(w http.ResponseWriter, r *http.Request) {
	to := pathOf(r.URL.Query().Get("to"))
	switch _, err := l.viewer(r); {
	case err == nil:
		http.Redirect(w, r, to, http.StatusSeeOther)
		return
	case !errors.Is(err, ErrUnknown):
		l.trouble(w, r, err)
		return
	}
	l.renderLogin(w, r, http.StatusOK, loginForm{To: to, Out: r.URL.Query().Get("out") != ""})
}

func (l *Login) renderLogin(w http.ResponseWriter, r *http.Request, status int, f loginForm) {
	var err error
	if f.Local, err = l.store.HasAdmins(r.Context()); err != nil {
		l.trouble(w, r, err)
		return
	}
	if l.provider != nil {
		f.OIDC = l.provider.Host()
	}
	loginTemplate.Render(w, r, status, "Sign in", f)
}

// signInByPassword begins a session for who has name, password and code.
func (l *Login) signInByPassword(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		l.notice(w, r, http.StatusBadRequest, "Refused", "The form can't be read.") // the error may quote it
		return
	}
	form := loginForm{To: pathOf(r.PostForm.Get("to"))}
	g := guess{password: r.PostForm.Get("password"), code: r.PostForm.Get("code")}
	token, err := l.try(r.Context(), r.PostForm.Get("name"), g, l.client(r), l.sessionID(r))
	var locked *lockedError
	switch {
	case err == nil:
		l.setCookie(w, r, cookieSession, token)
		http.Redirect(w, r, form.To, http.StatusSeeOther)
	case errors.As(err, &locked):
		l.renderLocked(w, r, form, locked)
	case errors.Is(err, errWrong):
		form.Problem = "Name, password or code is wrong. A code counts once: wait for the next one if you have just used it."
		l.renderLogin(w, r, http.StatusForbidden, form)
	default:
		l.trouble(w, r, err)
	}
}

func (l *Login) renderLocked(w http.ResponseWriter, r *http.Request, form loginForm, locked *lockedError) {
	wait := locked.until.Sub(l.now()).Round(time.Second) + time.Second
	w.Header().Set("Retry-After", fmt.Sprint(int(wait/time.Second)))
	form.Problem = fmt.Sprintf("There were too many tries. Nobody is let in this way until %s UTC.", locked.until.UTC().Format("15:04:05"))
	l.renderLogin(w, r, http.StatusTooManyRequests, form)
}

type lockedError struct{ until time.Time }

func (e *lockedError) Error() string {
	return "locked after too many tries until " + e.until.Format(time.RFC3339)
}

// charge counts a try, before anything is computed: *lockedError where there were too
// many. The count is on the disk when it returns, and stays if the browser hangs up.
func (l *Login) charge(ctx context.Context, limits []escrow.Limit) (locks []string, err error) {
	until, locks, err := l.store.Charge(ctx, limits, l.now())
	if err == nil && !until.IsZero() {
		l.tries.WithLabelValues("locked").Inc()
		err = &lockedError{until}
	}
	return locks, err
}

// try returns the token of a new session for who is right; errWrong or *lockedError.
func (l *Login) try(ctx context.Context, typed string, g guess, client netip.Addr, replaces []byte) (token string, err error) {
	name := strings.ToLower(strings.TrimSpace(typed))
	limits := l.passwordLimits(name, client)
	locks, err := l.charge(ctx, limits)
	if err != nil {
		return "", err
	}
	a, err := l.store.Admin(ctx, name)
	if err != nil && !errors.Is(err, ErrUnknown) {
		return "", err
	}
	step, ok, err := l.check(ctx, a, g)
	if err != nil {
		return "", err
	}
	if ok {
		now := l.now()
		s := Session{Name: name, Admin: name, Role: a.Role, Created: now, Seen: now, Expires: now.Add(sessionLimit)}
		token, s.ID = l.newToken()
		err := l.store.BeginSession(ctx, s, a, step, replaces)
		if err != nil && !errors.Is(err, ErrChanged) {
			return "", err
		}
		ok = err == nil
	}
	if !ok {
		who := "" // what nobody is called may be a password, typed into the wrong field
		if a != nil {
			who = name
		}
		if err := l.refused(ctx, who, audit.Details{"how": "password"}, limits, locks); err != nil {
			return "", err
		}
		return "", errWrong
	}
	l.tries.WithLabelValues("right").Inc()
	l.forgive(ctx, limits, locks, true)
	return token, nil
}

// refused logs a try that was wrong, and the locks that it made, even if the browser has
// hung up. name is "" where nobody knows whose try it was.
func (l *Login) refused(ctx context.Context, name string, d audit.Details, limits []escrow.Limit, locks []string) error {
	l.tries.WithLabelValues("wrong").Inc()
	var locked []string
	for _, w := range limits {
		if slices.Contains(locks, w.Key) {
			locked = append(locked, l.kindOf(w))
		}
	}
	a := audit.By(ctx)
	a.Name = name
	if len(locked) > 0 {
		d["locked"] = strings.Join(locked, ", ")
		l.log.Warn("the sign-in of administrators is locked after wrong tries", "locked", d["locked"], "client", a.Client)
	}
	return l.store.Audit(context.WithoutCancel(ctx), audit.Entry{Kind: audit.AdminRefused, Actor: a, Details: d})
}

// kindOf says what a limit is of.
func (l *Login) kindOf(w escrow.Limit) string {
	switch w.Tries {
	case triesName:
		return "name"
	case triesClient:
		return "client"
	}
	return "all"
}

// notice answers with a page of one sentence.
func (l *Login) notice(w http.ResponseWriter, r *http.Request, status int, title, text string) {
	noticeTemplate.Render(w, r, status, title, text)
}

// onward leads to a page of ours by a request of our own, in which the cookie comes along.
func (l *Login) onward(w http.ResponseWriter, r *http.Request, to string) {
	w.Header().Set("Refresh", "0; url="+to)
	onwardTemplate.Render(w, r, http.StatusOK, "One moment", to)
}

// trouble answers where something is broken on our side. Its reason is for the log.
func (l *Login) trouble(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() == nil {
		l.log.Error("the login of the admin pages has trouble", "error", err)
	}
	w.Header().Set("Retry-After", "30")
	l.notice(w, r, http.StatusServiceUnavailable, "Trouble", "This can't be done now; the log of postseal serve says why.")
}
