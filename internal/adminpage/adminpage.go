// Package adminpage is what the pages of the admin port have in common: the layout,
// the headers, and who may ask.
//
// A page is a template whose "content" stands in the layout:
//
//	var page = adminpage.New(`{{define "content"}}<p>{{.Name}}</p>{{end}}`)
//	mux.Handle("GET /thing", adminpage.Guard(listen, http.HandlerFunc(thing)))
//	… page.Render(w, r, http.StatusOK, "A thing", data)
//
// Pages only show: a GET changes nothing, there are no scripts, and nothing comes from
// elsewhere.
package adminpage

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
)

//go:embed layout.html
var layout string

//go:embed style.css
var style string

// policy lets the style of the layout and forms of our own in, and nothing else.
var policy = func() string {
	sum := sha256.Sum256([]byte(style))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
}()

// link is an entry of the navigation.
type link struct{ Path, Name string }

var nav = []link{{"/destinations", "Destinations"}, {"/check", "Check a domain"}, {"/metrics", "Metrics"}}

// Template is a page that stands in the layout.
type Template struct{ t *template.Template }

// funcs are what every page can call.
var funcs = template.FuncMap{
	"time": func(t time.Time) string {
		if t.IsZero() {
			return "–"
		}
		return t.UTC().Format("2006-01-02 15:04:05 UTC")
	},
	"day": func(t time.Time) string {
		if t.IsZero() {
			return "–"
		}
		return t.UTC().Format(time.DateOnly)
	},
	"style": func() template.CSS { return template.CSS(style) },
}

// New parses a page: text defines "content" and what that needs. Beside html/template's
// own functions a page has time and day, which write a time in UTC. It panics if text is
// no template, as a program's own texts always are.
func New(text string) *Template {
	t := template.Must(template.New("layout").Funcs(funcs).Parse(layout))
	return &Template{template.Must(t.Parse(text))}
}

// Render answers with the page: title stands in its head and as its heading, data is
// what "content" sees.
func (t *Template) Render(w http.ResponseWriter, r *http.Request, status int, title string, data any) {
	var b bytes.Buffer // whole, so that a failure still gets its status
	err := t.t.ExecuteTemplate(&b, "layout", map[string]any{
		"Title": title, "Data": data, "Nav": nav, "Path": r.URL.Path, "Signed": r.Context().Value(signedKey{}),
	})
	if err != nil {
		http.Error(w, "this page could not be made: "+err.Error(), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(b.Bytes())
}

type signedKey struct{}

type signed struct{ Name, Role string }

// SignedIn returns a context whose pages say who is signed in, with a button that signs
// out (POST /logout).
func SignedIn(ctx context.Context, name, role string) context.Context {
	return context.WithValue(ctx, signedKey{}, &signed{name, role})
}

// Guard lets only requests through that name this server by an IP address, as localhost,
// by the host of listen (HOST:PORT), or by one of names. A page of a stranger whose name was made to
// point here (DNS rebinding) sends its own name as the Host, and so can't read ours.
// Behind a unix socket (unix:PATH) there is a proxy, which has such a rule of its own.
func Guard(listen string, h http.Handler, names ...string) http.Handler {
	if strings.HasPrefix(listen, "unix:") {
		return h
	}
	own, _, _ := net.SplitHostPort(listen)
	names = append([]string{own}, names...)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !ours(r.Host, names) {
			http.Error(w, "ask by an IP address, localhost or the host of admin-listen or admin-url", http.StatusMisdirectedRequest)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func ours(host string, own []string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	name = strings.TrimSuffix(name, ".")
	return strings.EqualFold(name, "localhost") || slices.ContainsFunc(own, func(s string) bool { return s != "" && strings.EqualFold(name, s) })
}
