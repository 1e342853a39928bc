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
	"strconv"
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

var nav = []link{
	{"/", "Overview"}, {"/items", "Messages"}, {"/recipients", "Recipients"}, {"/rules", "Rules"}, {"/destinations", "Destinations"},
	{"/check", "Check"}, {"/outbox", "Outbox"}, {"/audit", "Audit"}, {"/metrics", "Metrics"},
}

// here says what a page at path is to an entry of the navigation: "page" is the entry's own,
// "true" one below it.
func here(entry, path string) string {
	switch {
	case entry == path:
		return "page"
	case entry != "/" && strings.HasPrefix(path, entry+"/"):
		return "true"
	}
	return ""
}

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
	"when":   func(t time.Time) template.HTML { return timeElement(t, "2006-01-02 15:04") },
	"moment": func(t time.Time) template.HTML { return timeElement(t, time.DateTime) },
	"size":   size,
	"here":   here,
	"style":  func() template.CSS { return template.CSS(style) },
}

// timeElement writes a time in UTC, for a list that says so in its head.
func timeElement(t time.Time, layout string) template.HTML {
	if t.IsZero() {
		return "–"
	}
	t = t.UTC()
	return template.HTML(`<time datetime="` + t.Format(time.RFC3339) + `">` + t.Format(layout) + `</time>`)
}

// size writes a number of bytes.
func size(n int64) string {
	const unit = 1000
	switch {
	case n < unit:
		return strconv.FormatInt(n, 10) + " bytes"
	case n < unit*unit:
		return strconv.FormatFloat(float64(n)/unit, 'f', 1, 64) + " kB"
	case n < unit*unit*unit:
		return strconv.FormatFloat(float64(n)/(unit*unit), 'f', 1, 64) + " MB"
	}
	return strconv.FormatFloat(float64(n)/(unit*unit*unit), 'f', 1, 64) + " GB"
}

// New parses a page: text defines "content" and what that needs. Beside html/template's
// own functions a page has time, day, when and moment, which write a time in UTC, and size,
// which writes a number of bytes. It panics if text is
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

// saidCookie keeps for a moment what was done, so that the page after it says so. It is no part of the
// address: a link from elsewhere must not have a page say that something was done.
const saidCookie = "postseal_said"

// Say has the page at path (escaped) say by [Said] that word was done, once, to who does it now.
func Say(w http.ResponseWriter, path, word string) {
	http.SetCookie(w, &http.Cookie{Name: saidCookie, Value: word, Path: path, MaxAge: 60, HttpOnly: true, SameSite: http.SameSiteStrictMode})
}

// Said returns what [Say] was given, and forgets it; "" for nothing.
func Said(w http.ResponseWriter, r *http.Request) string {
	c, err := r.Cookie(saidCookie)
	if err != nil || c.Value == "" {
		return ""
	}
	http.SetCookie(w, &http.Cookie{Name: saidCookie, Path: r.URL.EscapedPath(), MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	return c.Value
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
