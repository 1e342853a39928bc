package adminlogin

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/audit"
)

// oidcLimit is how long somebody may take at the identity provider.
const oidcLimit = 10 * time.Minute

// underWay is a sign-in under way. The browser has it, encrypted: what comes back counts
// only in the browser in which it was begun.
type underWay struct {
	State, Nonce, Verifier string
	To                     string
	Until                  time.Time
}

func (l *Login) issuer() string { return l.provider.Issuer() }

// beginOIDC sends the browser to the identity provider.
func (l *Login) beginOIDC(w http.ResponseWriter, r *http.Request) {
	form := loginForm{To: pathOf(r.URL.Query().Get("to"))}
	if r.Header.Get("Sec-Fetch-Site") == "cross-site" { // nobody is signed in by a link from elsewhere
		l.renderLogin(w, r, http.StatusOK, form)
		return
	}
	u := underWay{State: random(), Nonce: random(), Verifier: random(), To: form.To, Until: l.now().Add(oidcLimit)}
	if !l.ask(w, r, form) {
		return
	}
	defer func() { <-l.asking }()
	to, err := l.provider.AuthURL(r.Context(), u.State, u.Nonce, u.Verifier)
	if err != nil {
		l.providerTrouble(w, r, form, err)
		return
	}
	plain, err := json.Marshal(u)
	if err != nil {
		l.trouble(w, r, err)
		return
	}
	box, err := l.keys.SealSignIn(plain)
	if err != nil {
		l.trouble(w, r, err)
		return
	}
	l.setCookie(w, r, cookieOIDC, base64.RawURLEncoding.EncodeToString(box))
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// ask takes one of the few places for those who wait for the identity provider.
func (l *Login) ask(w http.ResponseWriter, r *http.Request, form loginForm) bool {
	select {
	case l.asking <- struct{}{}:
		return true
	default:
		form.Problem = "Too many wait for the identity provider. Try again in a moment."
		l.renderLogin(w, r, http.StatusServiceUnavailable, form)
		return false
	}
}

func random() string {
	b := make([]byte, 32)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

// begun returns the sign-in that this browser has begun, if the answer is to it.
func (l *Login) begun(r *http.Request, state string) (u underWay, ok bool) {
	c, err := r.Cookie(l.cookie(r, cookieOIDC))
	if err != nil {
		return u, false
	}
	box, err := base64.RawURLEncoding.Strict().DecodeString(c.Value)
	if err != nil {
		return u, false
	}
	plain, err := l.keys.OpenSignIn(box)
	if err != nil || json.Unmarshal(plain, &u) != nil {
		return u, false
	}
	return u, l.now().Before(u.Until) && subtle.ConstantTimeCompare([]byte(u.State), []byte(state)) == 1
}

// endOIDC takes the answer that the browser brings from the identity provider.
func (l *Login) endOIDC(w http.ResponseWriter, r *http.Request) {
	answer := r.URL.Query()
	u, ok := l.begun(r, answer.Get("state"))
	l.setCookie(w, r, cookieOIDC, "") // it is used once
	form := loginForm{To: pathOf(u.To)}
	if !ok {
		form.To = pathOf("")
		form.Problem = "This sign-in was not begun in this browser, was begun anew since, or took too long. Begin again."
		l.renderLogin(w, r, http.StatusForbidden, form)
		return
	}
	limits := l.oidcLimits(l.client(r))
	locks, err := l.charge(r.Context(), limits)
	var locked *lockedError
	switch {
	case errors.As(err, &locked):
		l.renderLocked(w, r, form, locked)
		return
	case err != nil:
		l.trouble(w, r, err)
		return
	}
	if answer.Get("error") != "" || answer.Get("code") == "" {
		l.refuseOIDC(w, r, form, "", "refused by the identity provider", "The identity provider did not let you in.", limits, locks)
		return
	}
	if !l.ask(w, r, form) {
		return
	}
	who, err := l.provider.Exchange(r.Context(), answer.Get("code"), answer.Get("iss"), u.Nonce, u.Verifier)
	<-l.asking
	switch {
	case errors.Is(err, ErrProviderSays):
		l.log.Warn("an answer of the identity provider does not count", "error", err)
		l.refuseOIDC(w, r, form, "", "the answer does not count", "The answer of the identity provider does not count; the log of postseal serve says why.", limits, locks)
		return
	case err != nil:
		l.providerTrouble(w, r, form, err)
		return
	}
	role, ok := roleOf(l.named, who)
	if !ok {
		l.refuseOIDC(w, r, form, who.name(), "not named in oidc-admins", who.name()+" may not sign in here: the setting oidc-admins does not name you.", limits, locks)
		return
	}
	now := l.now()
	s := Session{Name: who.name(), Role: role, Identity: who, Created: now, Seen: now, Expires: now.Add(sessionLimit)}
	var token string
	token, s.ID = l.newToken()
	if err := l.store.BeginSession(r.Context(), s, nil, 0, l.sessionID(r)); err != nil {
		l.trouble(w, r, err)
		return
	}
	l.tries.WithLabelValues("right").Inc()
	l.forgive(r.Context(), limits, locks, false)
	l.setCookie(w, r, cookieSession, token)
	// Not by a redirect: the browser came from another site, and would leave the
	// cookie behind.
	l.onward(w, r, form.To)
}

func (l *Login) refuseOIDC(w http.ResponseWriter, r *http.Request, form loginForm, name, why, text string, limits []escrow.Limit, locks []string) {
	if err := l.refused(r.Context(), name, audit.Details{"how": "oidc", "why": why}, limits, locks); err != nil {
		l.trouble(w, r, err)
		return
	}
	form.Problem = text
	l.renderLogin(w, r, http.StatusForbidden, form)
}

func (l *Login) providerTrouble(w http.ResponseWriter, r *http.Request, form loginForm, err error) {
	if r.Context().Err() == nil {
		l.log.Warn("the identity provider can't be asked", "error", err)
	}
	form.Problem = "The identity provider can't be reached now. Try again in a moment."
	l.renderLogin(w, r, http.StatusBadGateway, form)
}
