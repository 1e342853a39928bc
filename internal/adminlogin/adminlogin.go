// Package adminlogin lets administrators in to the pages of the admin port: by a name, a
// password and a TOTP code (RFC 6238), always both, or by an identity provider (OpenID
// Connect).
//
// Follow a request from here: [Login.Require] stands before every page that wants
// somebody signed in. It looks at the host, at how the request came, and at the cookie,
// and leads to /login; signin.go and oidc.go begin a session there, session.go keeps it.
// Package sql keeps accounts and sessions, package escrow the counters of tries and the
// keys; idp talks to the identity provider. Accounts are made by [Accounts], from the
// command line alone: nothing here makes one.
package adminlogin

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/adminpage"
	"github.com/postseal/postseal/internal/audit"
)

// Viewer is an administrator who is signed in.
type Viewer struct {
	Name     string // of the account, or the address or subject that the identity provider gave
	Operator bool   // may change what the pages let one change; else only look
}

type viewerKey struct{}

// With returns a context in which v asks for a page.
func With(ctx context.Context, v Viewer) context.Context {
	role := RoleViewer
	if v.Operator {
		role = RoleOperator
	}
	return adminpage.SignedIn(context.WithValue(ctx, viewerKey{}, v), v.Name, string(role))
}

// ViewerOf returns who asks; ok is false where nobody is signed in.
func ViewerOf(ctx context.Context) (v Viewer, ok bool) {
	v, ok = ctx.Value(viewerKey{}).(Viewer)
	return v, ok
}

// Config is what a [Login] is made of.
type Config struct {
	Store  Store
	Keys   escrow.AdminKeys
	Listen string   // HOST:PORT or unix:PATH of the admin port
	URL    *url.URL // how browsers reach it; nil: by an IP address, localhost or the host of Listen
	// Provider is the identity provider, nil for none, and Named who may come by it.
	Provider   Provider
	Named      []Named
	Log        *slog.Logger
	Registerer prometheus.Registerer // nil: none
	Now        func() time.Time      // nil: time.Now
}

// Login is the way in.
type Login struct {
	store    Store
	keys     escrow.AdminKeys
	listen   string
	url      *url.URL
	provider Provider
	named    []Named
	log      *slog.Logger
	now      func() time.Time

	dummy   dummy
	hashing chan struct{} // each takes 46 MiB
	hashed  atomic.Int64  // passwords, for tests: no try is cheaper than another
	asking  chan struct{} // requests to the identity provider under way
	tries   *prometheus.CounterVec
}

// New makes a login.
func New(c Config) (*Login, error) {
	l := &Login{
		store: c.Store, keys: c.Keys, listen: c.Listen, url: c.URL, provider: c.Provider, named: c.Named, log: c.Log, now: c.Now,
		hashing: make(chan struct{}, 2), asking: make(chan struct{}, 8),
		tries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postseal_admin_sign_ins_total", Help: "Tries to sign in to the admin pages, by outcome: right, wrong, locked.",
		}, []string{"outcome"}),
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if l.now == nil {
		l.now = time.Now
	}
	if c.Registerer != nil {
		c.Registerer.MustRegister(l.tries)
	}
	for _, outcome := range []string{"right", "wrong", "locked"} {
		l.tries.WithLabelValues(outcome)
	}
	var err error
	l.dummy, err = newDummy()
	return l, err
}

// Register adds the pages of the login.
func (l *Login) Register(mux *http.ServeMux) {
	mux.Handle("GET /login", l.guard(l.loginPage))
	mux.Handle("POST /login", l.guard(l.signInByPassword))
	mux.Handle("POST /logout", l.guard(l.signOut))
	if l.provider != nil {
		mux.Handle("GET /login/oidc", l.guard(l.beginOIDC))
		mux.Handle("GET /login/oidc/callback", l.guard(l.endOIDC))
	}
}

// guard lets only requests through that name this server, come where nobody can listen,
// and, where they may change something, from a page of ours.
func (l *Login) guard(h http.HandlerFunc) http.Handler {
	return l.known(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		switch {
		case !l.sameHost(r):
			l.notice(w, r, http.StatusMisdirectedRequest, "Elsewhere", "These pages are at "+l.url.String()+" (the setting admin-url).")
		case !private(r):
			l.notice(w, r, http.StatusForbidden, "Not encrypted", "Nobody signs in over a connection that others can listen to. Put a proxy with TLS on this machine in front of the admin port, or use ssh -L.")
		case r.Method != http.MethodGet && r.Method != http.MethodHead && !l.sameOrigin(r):
			l.notice(w, r, http.StatusForbidden, "Refused", "This was sent by another site. Nothing was done.")
		default:
			a := audit.Actor{Kind: audit.ActorAdminPage}
			if c := l.client(r); c.IsValid() {
				a.Client = c.String()
			}
			h(w, r.WithContext(audit.With(r.Context(), a)))
		}
	}))
}

// known lets only requests through that name this server.
func (l *Login) known(h http.Handler) http.Handler {
	var names []string
	if l.url != nil {
		names = []string{l.url.Hostname()}
	}
	return adminpage.Guard(l.listen, h, names...)
}

// Require lets only requests of administrators who are signed in through to h, which
// finds them by [ViewerOf], and who are the actor of what h has logged. Others are led to
// the login page, and back; what is no GET or HEAD is refused with 401, and with 403
// where it does not come from a page of ours.
func (l *Login) Require(h http.Handler) http.Handler {
	return l.guard(func(w http.ResponseWriter, r *http.Request) {
		v, err := l.viewer(r)
		switch {
		case err == nil:
			a := audit.By(r.Context())
			a.Name = v.Name
			h.ServeHTTP(w, r.WithContext(audit.With(With(r.Context(), v), a)))
		case !errors.Is(err, ErrUnknown):
			l.trouble(w, r, err)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			l.notice(w, r, http.StatusUnauthorized, "Signed out", "Nothing was done: sign in first.")
		case r.Header.Get("Sec-Fetch-Site") == "cross-site":
			// Somebody has followed a link from elsewhere: the cookie, which is
			// SameSite=Strict, comes only when a page of ours asks.
			l.onward(w, r, pathOf(r.URL.RequestURI()))
		default:
			http.Redirect(w, r, "/login?to="+url.QueryEscape(pathOf(r.URL.RequestURI())), http.StatusSeeOther)
		}
	})
}

// RequireOperator is [Login.Require] for what changes something: who may only look gets
// 403.
func (l *Login) RequireOperator(h http.Handler) http.Handler {
	return l.Require(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if v, _ := ViewerOf(r.Context()); !v.Operator {
			l.notice(w, r, http.StatusForbidden, "Not allowed", "Your account may look, and change nothing: that needs the role operator.")
			return
		}
		h.ServeHTTP(w, r)
	}))
}

// RequireOnceSetUp is [Login.Require] as soon as somebody can sign in at all; before,
// everybody who reaches the port is let through.
func (l *Login) RequireOnceSetUp(h http.Handler) http.Handler {
	required := l.Require(h)
	return l.known(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch ready, err := l.setUp(r.Context()); {
		case err != nil:
			l.trouble(w, r, err)
		case ready:
			required.ServeHTTP(w, r)
		default:
			h.ServeHTTP(w, r)
		}
	}))
}

// setUp reports whether somebody can sign in.
func (l *Login) setUp(ctx context.Context) (bool, error) {
	if l.provider != nil {
		return true, nil
	}
	return l.store.HasAdmins(ctx)
}
