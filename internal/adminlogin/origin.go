package adminlogin

import (
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/postseal/postseal/internal/httphost"
)

// overTLS reports whether the browser speaks TLS: with us, or with the proxy that
// admin-url names.
func (l *Login) overTLS(r *http.Request) bool {
	return r.TLS != nil || l.url != nil && l.url.Scheme == "https"
}

// private reports whether nobody can listen between us and the peer: it is on this
// machine, or speaks TLS.
func private(r *http.Request) bool {
	return r.TLS != nil || local(r)
}

// local reports whether the peer is on this machine. Who comes by a unix socket has no
// address.
func local(r *http.Request) bool {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	return err != nil || peer.Addr().Unmap().IsLoopback()
}

// sameHost reports whether a request is for admin-url. Without one every host is that
// adminpage.Guard lets through.
func (l *Login) sameHost(r *http.Request) bool {
	return l.url == nil || httphost.Canonical(r.Host, l.url.Scheme) == httphost.Canonical(l.url.Host, l.url.Scheme)
}

// sameOrigin reports whether what is no GET was sent by a page of ours, or by no browser.
// Cookies that are SameSite=Strict stay away from forms of other sites already; this
// holds for other ports of this host too, and for signing in.
func (l *Login) sameOrigin(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "same-origin", "none":
		return true
	case "":
	default:
		return false
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true // no browser: they send one with every POST
	}
	scheme := "http"
	if l.overTLS(r) {
		scheme = "https"
	}
	s, host, ok := strings.Cut(origin, "://")
	return ok && s == scheme && httphost.Canonical(host, s) == httphost.Canonical(r.Host, s)
}

// client returns the address of who asks: the peer, or, where a proxy on this machine
// ends TLS for admin-url, whom it names last in X-Forwarded-For. The zero Addr is
// unknown.
func (l *Login) client(r *http.Request) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if r.TLS != nil || l.url == nil || l.url.Scheme != "https" || !local(r) {
		if err != nil {
			return netip.Addr{}
		}
		return peer.Addr().Unmap().WithZone("")
	}
	chain := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(chain) - 1; i >= 0; i-- {
		a := httphost.Forwarded(chain[i]).WithZone("")
		if !a.IsLoopback() {
			return a
		}
	}
	return netip.Addr{}
}

// maxTo is the longest path that a sign-in leads back to, in bytes.
const maxTo = 2048

// pathOf returns where a sign-in leads to: the path and query of to, where that is a page
// of this server; else the first page. Nothing leads to another host: not //host,
// /\host, or what browsers take for that once they have dropped tabs and line ends.
func pathOf(to string) string {
	const home = "/"
	if len(to) > maxTo || !strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//") ||
		strings.ContainsAny(to, "\\") || strings.ContainsFunc(to, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return home
	}
	u, err := url.Parse(to)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || u.Opaque != "" {
		return home
	}
	u.Fragment, u.RawFragment = "", ""
	path := u.RequestURI()
	if !strings.HasPrefix(path, "/") || strings.Contains(u.EscapedPath(), "//") ||
		u.Path == "/login" || strings.HasPrefix(u.Path, "/login/") || u.Path == "/logout" {
		return home
	}
	return path
}
