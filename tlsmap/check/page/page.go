// Package page is the TLS checker on the admin port: type a domain, see the report.
//
// The way of a check: GET /check shows the form and changes nothing; POST /check,
// from that form alone, starts the check and leads to the address of its report, which
// asks for itself anew until the check has ended. Reports are kept for a while, in
// memory.
//
// The page looks only at what anybody could: public names, and of these only hosts with
// public addresses. Else whoever reaches the page could have us talk to the inside of
// our network.
package page

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/postseal/postseal/internal/adminpage"
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/check"
	"github.com/postseal/postseal/tlsmap/probe"
	"github.com/postseal/postseal/tlsmap/tlsrpt"
)

// Options say what the page does.
type Options struct {
	// Check checks a domain, until ctx is done. It never returns nil.
	Check    func(ctx context.Context, domain string) *check.Report
	Listen   string        // admin-listen, see [adminpage.Guard]
	Names    []string      // hosts beside it, likewise
	Timeout  time.Duration // of a check; default 45 s
	Parallel int           // checks at a time; default 2
	PerHour  int           // checks that are started; default 60
	Keep     time.Duration // how long a report can be seen; default 15 min
	Now      func() time.Time
}

// maxKept bounds the reports in memory.
const maxKept = 100

// Page serves /check. It is an [http.Handler] for that path and all below it.
type Page struct {
	o       Options
	handler http.Handler

	mu      sync.Mutex
	reports map[string]*entry // by id
	running int
	started []time.Time // in the last hour
}

// entry is a check, done or not.
type entry struct {
	domain string
	begun  time.Time
	report *check.Report // nil while it runs
}

//go:embed page.html
var pageHTML string

var page = adminpage.New(pageHTML)

// New makes the page.
func New(o Options) *Page {
	if o.Timeout == 0 {
		o.Timeout = 45 * time.Second
	}
	if o.Parallel == 0 {
		o.Parallel = 2
	}
	if o.PerHour == 0 {
		o.PerHour = 60
	}
	if o.Keep == 0 {
		o.Keep = 15 * time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	p := &Page{o: o, reports: make(map[string]*entry)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /check", p.form)
	mux.HandleFunc("POST /check", p.start)
	mux.HandleFunc("GET /check/{id}", p.show)
	// A check is a change, if a small one: only our own form may ask for it.
	p.handler = adminpage.Guard(o.Listen, http.NewCrossOriginProtection().Handler(mux), o.Names...)
	return p
}

func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.handler.ServeHTTP(w, r) }

// view is what the template sees.
type view struct {
	Domain  string
	Error   string
	Running bool
	Report  *check.Report
	Text    string // of the report, as the command line prints it
}

func (p *Page) form(w http.ResponseWriter, r *http.Request) {
	page.Render(w, r, http.StatusOK, "Check a domain", view{})
}

func (p *Page) start(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	typed := strings.TrimSpace(r.PostFormValue("domain"))
	fail := func(status int, text string) {
		page.Render(w, r, status, "Check a domain", view{Domain: typed, Error: text})
	}
	domain, err := PublicDomain(typed)
	if err != nil {
		fail(http.StatusBadRequest, err.Error())
		return
	}
	id, err := p.begin(domain)
	var busy busyError
	if errors.As(err, &busy) {
		w.Header().Set("Retry-After", "30")
		fail(http.StatusTooManyRequests, err.Error())
		return
	}
	http.Redirect(w, r, "/check/"+id, http.StatusSeeOther)
}

type busyError string

func (e busyError) Error() string { return string(e) }

// begin starts a check, or finds one of the same domain that is going on.
func (p *Page) begin(domain string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.o.Now()
	p.forget(now)
	for id, e := range p.reports {
		if e.domain == domain && e.report == nil {
			return id, nil
		}
	}
	if p.running >= p.o.Parallel {
		return "", busyError(fmt.Sprintf("%d checks are running already: try again in half a minute", p.running))
	}
	if len(p.started) >= p.o.PerHour {
		return "", busyError(fmt.Sprintf("there were %d checks in the last hour: try again later, or use postseal check", len(p.started)))
	}
	id := rand.Text()
	e := &entry{domain: domain, begun: now}
	p.reports[id] = e
	p.running++
	p.started = append(p.started, now)
	go func() {
		// Not the request's context: its client has gone on to the report.
		ctx, cancel := context.WithTimeout(context.Background(), p.o.Timeout)
		defer cancel()
		report := p.o.Check(ctx, domain)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.running--
		e.report = report
	}()
	return id, nil
}

// forget drops what is old, and the oldest where there is too much.
func (p *Page) forget(now time.Time) {
	for len(p.started) > 0 && now.Sub(p.started[0]) >= time.Hour {
		p.started = p.started[1:]
	}
	oldest := ""
	for id, e := range p.reports {
		if e.report == nil {
			continue
		}
		if now.Sub(e.begun) > p.o.Keep {
			delete(p.reports, id)
		} else if oldest == "" || e.begun.Before(p.reports[oldest].begun) {
			oldest = id
		}
	}
	if len(p.reports) >= maxKept && oldest != "" {
		delete(p.reports, oldest)
	}
}

func (p *Page) show(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.forget(p.o.Now())
	e := p.reports[r.PathValue("id")]
	var v view
	if e != nil {
		v = view{Domain: e.domain, Report: e.report, Running: e.report == nil}
	}
	p.mu.Unlock()
	switch {
	case e == nil:
		page.Render(w, r, http.StatusNotFound, "Check a domain", view{Error: "This report is no longer kept: check again."})
	case v.Running:
		w.Header().Set("Refresh", "2")
		page.Render(w, r, http.StatusOK, "Checking "+v.Domain, v)
	default:
		var b strings.Builder
		v.Report.WriteText(&b, check.Style{}) // a Builder takes all
		v.Text = b.String()
		page.Render(w, r, http.StatusOK, v.Domain, v)
	}
}

// PublicDomain returns the canonical form of what was typed, or says why the page
// does not look at it: no address, no port, no brackets, no name of the inside.
func PublicDomain(typed string) (string, error) {
	if i := strings.LastIndexByte(typed, '@'); i >= 0 {
		typed = typed[i+1:]
	}
	if typed == "" {
		return "", errors.New("want a domain, such as example.org")
	}
	if _, err := netip.ParseAddr(typed); err == nil || strings.ContainsAny(typed, "[]:/") {
		return "", errors.New("want a domain, without brackets and port: of addresses postseal check on the command line tells more")
	}
	domain := policy.CanonicalDomain(typed)
	if err := probe.CheckDestination(domain); err != nil {
		return "", errors.New("want a domain, such as example.org")
	}
	if last := domain[strings.LastIndexByte(domain, '.')+1:]; last == domain || inside[last] || strings.HasSuffix(domain, ".home.arpa") || isNumber(last) {
		return "", errors.New("want a public domain: this page does not look at names of a local network")
	}
	return domain, nil
}

// inside are top-level domains that are never public (RFC 6761, RFC 6762, RFC 7686, RFC
// 9476, and what ICANN set apart for private use).
var inside = map[string]bool{"localhost": true, "local": true, "internal": true, "localdomain": true, "lan": true, "intranet": true, "corp": true, "home": true, "onion": true, "alt": true, "invalid": true}

func isNumber(label string) bool { return strings.Trim(label, "0123456789") == "" }

// PublicAddress reports whether an address is one that the page's checks may connect
// to: not of our own host or network.
func PublicAddress(a netip.Addr) bool {
	return tlsrpt.Public(a) && !nat64.Contains(a)
}

// nat64 may lead to any IPv4 address (RFC 6052, RFC 8215).
var nat64 = netip.MustParsePrefix("64:ff9b::/32")
