// Package adminlogin lets administrators in to the pages of the admin port.
package adminlogin

import (
	"context"
	"net/http"
	"net/url"

	"github.com/postseal/postseal/internal/adminpage"
)

// Viewer is an administrator who is signed in.
type Viewer struct {
	Name     string // of the account, or the address or subject that the identity provider gave
	Operator bool   // may change what the pages let one change; else only look
}

type viewerKey struct{}

// With returns a context in which v asks for a page.
func With(ctx context.Context, v Viewer) context.Context {
	role := "viewer"
	if v.Operator {
		role = "operator"
	}
	return adminpage.SignedIn(context.WithValue(ctx, viewerKey{}, v), v.Name, role)
}

// ViewerOf returns who asks; ok is false where nobody is signed in.
func ViewerOf(ctx context.Context) (v Viewer, ok bool) {
	v, ok = ctx.Value(viewerKey{}).(Viewer)
	return v, ok
}

// Login is the way in.
type Login struct{}

// Require lets only requests of administrators who are signed in through to h, which
// finds them by [ViewerOf]. Others are led to the login page; what is no GET is refused
// with 401. What is no GET or HEAD must come from a page of our own, else 403.
func (l *Login) Require(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := ViewerOf(r.Context()); !ok {
			if r.Method != http.MethodGet && r.Method != http.MethodHead {
				http.Error(w, "sign in first", http.StatusUnauthorized)
				return
			}
			http.Redirect(w, r, "/login?to="+url.QueryEscape(r.URL.RequestURI()), http.StatusSeeOther)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// RequireOperator is [Login.Require] for what changes something: who may only look gets
// 403.
func (l *Login) RequireOperator(h http.Handler) http.Handler {
	return l.Require(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if v, _ := ViewerOf(r.Context()); !v.Operator {
			http.Error(w, "this needs the role operator", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	}))
}

// RequireOnceSetUp is [Login.Require] as soon as there is an administrator who can sign
// in; before, everybody who reaches the port is let through.
func (l *Login) RequireOnceSetUp(h http.Handler) http.Handler { return l.Require(h) }
