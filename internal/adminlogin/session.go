package adminlogin

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"time"
)

// How long a session lasts.
const (
	idleLimit    = 30 * time.Minute // without a request
	sessionLimit = 12 * time.Hour   // at most
	seenExactly  = time.Minute      // not every request writes
)

const tokenSize = 32

// cookie returns the name of the cookie of a session, or of a sign-in under way. __Host-
// binds it to this host and TLS.
func (l *Login) cookie(r *http.Request, what string) string {
	name := "postseal-" + what
	if l.overTLS(r) {
		name = "__Host-" + name
	}
	return name
}

const (
	cookieSession = "admin"
	cookieOIDC    = "admin-oidc"
)

func (l *Login) setCookie(w http.ResponseWriter, r *http.Request, what, value string) {
	c := &http.Cookie{
		Name: l.cookie(r, what), Value: value, Path: "/", Secure: l.overTLS(r), HttpOnly: true, SameSite: http.SameSiteStrictMode,
	}
	if what == cookieOIDC { // the browser comes back from another site
		c.SameSite, c.MaxAge = http.SameSiteLaxMode, int(oidcLimit/time.Second)
	}
	if value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// sessionID returns what the database calls the session of a browser; nil where it has
// none.
func (l *Login) sessionID(r *http.Request) []byte {
	c, err := r.Cookie(l.cookie(r, cookieSession))
	if err != nil {
		return nil
	}
	token, err := base64.RawURLEncoding.Strict().DecodeString(c.Value)
	if err != nil || len(token) != tokenSize {
		return nil
	}
	return l.keys.SessionID(token)
}

// newToken returns a new token and what the database calls its session.
func (l *Login) newToken() (token string, id []byte) {
	b := make([]byte, tokenSize)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b), l.keys.SessionID(b)
}

// viewer returns who asks: ErrUnknown where nobody is signed in, or no longer, or may not
// come any more.
func (l *Login) viewer(r *http.Request) (Viewer, error) {
	id := l.sessionID(r)
	if id == nil {
		return Viewer{}, ErrUnknown
	}
	s, err := l.store.Session(r.Context(), id)
	if err != nil {
		return Viewer{}, err
	}
	now := l.now()
	if !now.Before(s.Expires) || now.Sub(s.Seen) >= idleLimit {
		return Viewer{}, ErrUnknown
	}
	role := s.Role
	if s.Admin == "" { // the settings may have changed since
		var ok bool
		if role, ok = roleOf(l.named, s.Identity); !ok || l.provider == nil || s.Identity.Issuer != l.issuer() {
			return Viewer{}, ErrUnknown
		}
	}
	if now.Sub(s.Seen) >= seenExactly {
		if err := l.store.SeenSession(r.Context(), id, now); err != nil {
			return Viewer{}, fmt.Errorf("session: %w", err)
		}
	}
	return Viewer{Name: s.Name, Operator: role == RoleOperator}, nil
}

// signOut ends the session of the browser.
func (l *Login) signOut(w http.ResponseWriter, r *http.Request) {
	if id := l.sessionID(r); id != nil {
		if _, err := l.store.EndSession(r.Context(), id); err != nil {
			l.trouble(w, r, err)
			return
		}
	}
	l.setCookie(w, r, cookieSession, "")
	http.Redirect(w, r, "/login?out=1", http.StatusSeeOther)
}
