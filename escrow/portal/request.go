package portal

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/internal/httphost"
)

// handler answers a request, or returns why it can't; guard makes a page of that.
type handler func(w http.ResponseWriter, r *http.Request) error

// Errors that only the portal knows.
var (
	errOtherHost   = errors.New("a request for another host")
	errCrossOrigin = errors.New("a form sent from another site")
	errBadForm     = errors.New("a form that can't be read")
)

// writeTimeout is how long one write may wait for a slow phone, in place of a
// limit on the whole download.
const writeTimeout = 2 * time.Minute

// readTimeout is how long the body of a request may take to arrive, whether or not
// it is read: what a handler leaves of it, net/http reads before it sends the answer.
const readTimeout = 30 * time.Second

// maxForm is the size of a form, in bytes: a passphrase of 1 KiB, escaped.
const maxForm = 8 << 10

// guard is around every handler: it sets the headers that every answer carries,
// checks host and origin, makes pages of errors and panics, and logs the route,
// never the path. The item is logged once the vault has found it.
func (p *portal) guard(route string, h handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		start := p.now()
		markServed(r.Context())
		w := &response{ResponseWriter: rw, control: http.NewResponseController(rw)}
		w.extend()
		if r.Body != nil && r.Body != http.NoBody {
			w.control.SetReadDeadline(time.Now().Add(readTimeout))
		}
		req := &request{}
		ctx := context.WithValue(r.Context(), requestKey{}, req)
		r = r.WithContext(audit.With(ctx, p.actor(r)))
		defer func() {
			status := w.status
			if e := recover(); e != nil {
				if e == http.ErrAbortHandler {
					p.log.Warn("portal answer cut off", "route", route, "item", req.item)
					p.requests.WithLabelValues(route, "aborted").Inc()
					panic(e)
				}
				// The value may quote what was being handled: its type has to do.
				p.log.Error("portal panic", "route", route, "item", req.item, "type", fmt.Sprintf("%T", e), "stack", string(debug.Stack()))
				if w.status != 0 {
					p.requests.WithLabelValues(route, "aborted").Inc()
					panic(http.ErrAbortHandler)
				}
				p.fail(w, r, errors.New("panic"))
				status = w.status
			}
			if status == 0 {
				status = http.StatusOK
			}
			p.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
			if route == "other" {
				p.log.Debug("portal request", "route", route, "status", status)
				return
			}
			p.log.Info("portal request", "method", r.Method, "route", route, "status", status, "item", req.item, "duration", p.now().Sub(start))
		}()
		p.secureHeaders(w.Header())
		p.chooseLanguage(w, r, req)
		err := p.checkOrigin(r)
		if err == nil {
			err = h(w, r)
		}
		if err == nil {
			return
		}
		if w.status != 0 {
			// Half a message that looks whole would be worse than an error.
			if r.Context().Err() == nil {
				p.log.Warn("portal answer broken off", "route", route, "item", req.item, "error", err)
			}
			panic(http.ErrAbortHandler)
		}
		p.fail(w, r, err)
	})
}

type requestKey struct{}

// request collects what may be logged, and what the pages of its answer need.
type request struct {
	item     string
	language string // that a rule names, "" for the browser's
	chosen   string // language that the reader has chosen, "" for the rule's
	home     string // where a link back leads, "" if it is not known
	sender   string // of the message, "" for none
	policy   string // Content-Security-Policy of the page that answers
}

// found notes that the vault knows the item: what else stands in a path may be a
// secret that slipped.
func found(ctx context.Context, item, language string) {
	if r, ok := ctx.Value(requestKey{}).(*request); ok {
		r.item, r.language = item, language
	}
}

// fail answers with the page of an error.
func (p *portal) fail(w *response, r *http.Request, err error) {
	var over *overError
	switch {
	case errors.As(err, &over):
		p.pages.write(w, r, http.StatusGone, "over", over.view)
	case errors.Is(err, escrow.ErrUnknown):
		p.pages.write(w, r, http.StatusNotFound, "unknown", nil)
	case errors.Is(err, errOtherHost):
		p.log.Warn("portal asked under another name than its URL's; is the Host header passed on by the proxy?", "want", p.host)
		p.pages.write(w, r, http.StatusMisdirectedRequest, "unknown", nil)
	case errors.Is(err, errCrossOrigin):
		p.pages.write(w, r, http.StatusForbidden, "refused", nil)
	case errors.Is(err, errBadForm):
		p.pages.write(w, r, http.StatusBadRequest, "refused", nil)
	default:
		if r.Context().Err() == nil {
			p.log.Error("portal trouble", "error", err)
		}
		w.Header().Set("Retry-After", "60")
		p.pages.write(w, r, http.StatusServiceUnavailable, "trouble", nil)
	}
}

// secureHeaders sets what every answer carries; the frame of an HTML message
// loosens what it must.
func (p *portal) secureHeaders(h http.Header) {
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", p.pages.policy("", nil))
	h.Set(openerPolicy, "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "accelerometer=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), magnetometer=(), microphone=(), payment=(), usb=(), browsing-topics=()")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-DNS-Prefetch-Control", "off") // the names of links would tell that the message is read
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Robots-Tag", "noindex, nofollow, noarchive")
	if p.secure {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
}

// checkOrigin refuses requests for another host (DNS rebinding) and forms sent
// from another site.
//
// This is http.CrossOriginProtection but for one thing: under no-referrer, a
// browser that sends no Sec-Fetch-Site (iOS before 16.4) gives the origin of our
// own forms as "null", and must still be let in. A form needs the secret of the
// link in its address, so this check is the second line.
func (p *portal) checkOrigin(r *http.Request) error {
	host := r.Host
	if p.fromProxy(r) {
		if h := r.Header.Get("X-Forwarded-Host"); h != "" {
			host, _, _ = strings.Cut(h, ",")
		}
	}
	scheme := "http"
	if p.secure {
		scheme = "https"
	}
	if httphost.Canonical(strings.TrimSpace(host), scheme) != p.host {
		return errOtherHost
	}
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return nil
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "same-origin", "none":
		return nil
	case "":
	default:
		return errCrossOrigin
	}
	switch origin := r.Header.Get("Origin"); origin {
	case "", "null":
		return nil
	default:
		s, h, ok := strings.Cut(origin, "://")
		if !ok || s+"://"+httphost.Canonical(h, s) != p.origin {
			return errCrossOrigin
		}
		return nil
	}
}

// fromProxy reports whether the peer may say on whose behalf it asks.
func (p *portal) fromProxy(r *http.Request) bool {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	return err != nil || p.trusted(peer.Addr()) // no address: a unix socket
}

func (p *portal) trusted(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, prefix := range p.proxies {
		if prefix.Contains(a) {
			return true
		}
	}
	return false
}

// client returns who asks: the peer, or whom the last trusted proxy names. Behind
// a proxy that names nobody the address is unknown: limits by address would lock
// out everybody.
func (p *portal) client(r *http.Request) escrow.Client {
	return escrow.Client{Addr: p.clientAddr(r), Device: deviceName(r)}
}

// actor is who asks, for the audit log.
func (p *portal) actor(r *http.Request) audit.Actor {
	a := audit.Actor{Kind: audit.ActorPortal}
	if addr := p.clientAddr(r); addr.IsValid() {
		a.Client = addr.String()
	}
	return a
}

func (p *portal) clientAddr(r *http.Request) netip.Addr {
	if !p.fromProxy(r) {
		peer, _ := netip.ParseAddrPort(r.RemoteAddr)
		return peer.Addr().Unmap()
	}
	chain := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(chain) - 1; i >= 0; i-- {
		a := httphost.Forwarded(chain[i])
		if !a.IsValid() {
			break
		}
		if !p.trusted(a) {
			return a
		}
	}
	return netip.Addr{}
}

// form reads the fields of a small form.
func form(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		return errBadForm // its text may quote the form
	}
	// Else the reader that waits for the next request would end this one's context.
	http.NewResponseController(w).SetReadDeadline(time.Time{})
	return nil
}

// cleanPaths keeps the mux from answering a path with double slashes or dots by a
// redirect of its own, which tells a portal from a stranger's page.
func cleanPaths(mux http.Handler, unknown http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := r.URL.Path; r.Method == http.MethodConnect || p == "" || p[0] != '/' || path.Clean(p) != p && path.Clean(p)+"/" != p {
			unknown.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// response notes the status and gives each write a time of its own.
type response struct {
	http.ResponseWriter
	control  *http.ResponseController
	status   int
	extended time.Time
}

func (w *response) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.extend()
	return w.ResponseWriter.Write(b)
}

// extend moves the deadline of writing on, once a second at most.
func (w *response) extend() {
	if now := time.Now(); now.Sub(w.extended) > time.Second {
		w.extended = now
		w.control.SetWriteDeadline(now.Add(writeTimeout))
	}
}

// Unwrap is for http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }
