// Package portal is where the way of a sealed mail ends: the recipient opens the
// link of the notice, proves to be the recipient, and reads or downloads the
// message in a browser.
//
// Follow a request from [New]: guard (request.go) checks where it comes from and
// sets what every answer carries; pickup.go shows the landing page and takes codes
// and passphrases; message.go shows the message, which scan.go reads as mime.go
// takes it apart, and sanitize.go makes harmless. Vault, the escrow, decides
// everything: whether there is such a message, whether an answer is right, who
// tried too often.
//
// What never happens here: a GET or HEAD that changes anything; a message that is
// used up by being opened; a link, code, passphrase or word of a message in a log;
// anything loaded from elsewhere; a page that needs JavaScript.
package portal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/brand"
	"github.com/postseal/postseal/internal/httphost"
)

// Vault keeps the messages. [escrow.Vault] is one.
type Vault interface {
	// Pickup finds what a link leads to: escrow.ErrUnknown, or, with the right
	// secret only, the pickup, with escrow.ErrExpired or escrow.ErrRetracted where
	// it is over.
	Pickup(ctx context.Context, item, secret string) (*escrow.Pickup, error)
	// SendCode mails a code to the recipient. *escrow.LockedError after too many.
	SendCode(ctx context.Context, p *escrow.Pickup, c escrow.Client) error
	// Prove checks a code or passphrase and returns what the browser is to keep.
	// escrow.ErrWrong, or *escrow.LockedError after too many.
	Prove(ctx context.Context, p *escrow.Pickup, answer string, c escrow.Client) (escrow.Grant, error)
	// CheckToken reads a device's token for one pickup.
	CheckToken(ctx context.Context, p *escrow.Pickup, token string) (*escrow.Session, error)
	// CheckDevice reads a device's token for all messages to one recipient.
	CheckDevice(ctx context.Context, tag, token string) (*escrow.Device, error)
	// Admit opens a pickup to a device, by its link: escrow.ErrUnknown where it
	// wants more proof than the device gave.
	Admit(ctx context.Context, p *escrow.Pickup, d *escrow.Device) (*escrow.Session, error)
	// SignOut ends a device.
	SignOut(ctx context.Context, d *escrow.Device) error
	// Open streams the raw message (RFC 5322), byte for byte.
	Open(ctx context.Context, p *escrow.Pickup, s *escrow.Session) (io.ReadCloser, error)
}

// Config of [New]. Vault and BaseURL are needed.
type Config struct {
	Vault Vault
	Inbox Inbox // nil: there are no inboxes
	// Accounts of recipients; nil: there are none, and a message that wants one
	// can't be opened.
	Accounts Accounts
	// BaseURL is how recipients reach the portal: scheme, host, and the path that
	// it lies under, if any. Requests for another host are refused.
	BaseURL *url.URL
	Replies Replies // nil: messages can't be answered here
	Senders Senders // nil: senders have no pages
	// TrustedProxies may say in X-Forwarded-For and X-Forwarded-Host on whose
	// behalf they ask; nil: those on loopback. Who connects to a unix socket is
	// trusted always.
	TrustedProxies []netip.Prefix
	SupportText    string     // plain text at the foot of each page: whom to ask
	Brands         *brand.Set // of senders' domains; nil: none
	Log            *slog.Logger
	Registerer     prometheus.Registerer
	Now            func() time.Time
}

type portal struct {
	vault     Vault
	replies   Replies
	senders   Senders // or nil
	inbox     Inbox   // or nil
	accounts  Accounts
	base      string // path that the portal lies under, without trailing slash
	host      string // canonical, of the base URL
	origin    string // of the base URL
	secure    bool   // the browser speaks https
	proxies   []netip.Prefix
	log       *slog.Logger
	now       func() time.Time
	pages     *pages
	sanitizer *sanitizer
	// rendering bounds how many messages are taken apart at a time: each may take
	// some ten megabytes.
	rendering chan struct{}
	// What is sent to one recipient at a time, each kind for itself: a page or
	// download that the other end is slow to take needs memory meanwhile.
	reading, downloading, uploading *gate
	drafting                        *gate // of one: a text is compared, then kept
	requests                        *prometheus.CounterVec
}

// parallelRendering is how many messages are taken apart at a time.
const parallelRendering = 4

// New returns the portal's handler.
func New(c Config) (http.Handler, error) {
	if c.Vault == nil || c.BaseURL == nil {
		return nil, errors.New("portal: needs a vault and a base URL")
	}
	b := c.BaseURL
	if b.Scheme != "https" && b.Scheme != "http" || b.Host == "" || b.RawQuery != "" || b.Fragment != "" {
		return nil, fmt.Errorf("portal URL %q: want https://HOST[:PORT][/PATH]", b.Redacted())
	}
	p := &portal{
		vault:     c.Vault,
		replies:   c.Replies,
		senders:   c.Senders,
		inbox:     c.Inbox,
		accounts:  c.Accounts,
		base:      strings.TrimRight("/"+strings.TrimLeft(b.Path, "/"), "/"),
		host:      httphost.Canonical(b.Host, b.Scheme),
		secure:    b.Scheme == "https",
		proxies:   c.TrustedProxies,
		log:       c.Log,
		now:       c.Now,
		rendering: make(chan struct{}, parallelRendering),
		sanitizer: newSanitizer(),
		reading:   newGate(), downloading: newGate(), uploading: newGate(), drafting: newGate(),
	}
	p.drafting.each = 1
	p.origin = b.Scheme + "://" + p.host
	if p.proxies == nil {
		p.proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if p.now == nil {
		p.now = time.Now
	}
	var err error
	if p.pages, err = newPages(b.Host, c.SupportText, c.Brands, p.now); err != nil {
		return nil, err
	}
	p.requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "postseal_portal_requests_total", Help: "Requests to the pickup portal, by route and status.",
	}, []string{"route", "status"})
	if c.Registerer != nil {
		if err := c.Registerer.Register(p.requests); err != nil {
			return nil, fmt.Errorf("portal metrics: %w", err)
		}
	}
	return &site{p.routes(), p.log, p.trusted}, nil
}

// site is the handler that New returns; Run finds its log there.
type site struct {
	http.Handler
	log     *slog.Logger
	proxies func(netip.Addr) bool
}

// routes lists all there is. Each other path and method gets the page of a
// stranger.
func (p *portal) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern, route string, h handler) {
		mux.Handle(pattern, p.guard(route, h))
	}
	const m = "/m/{item}/{secret}"
	handle("GET "+p.base+m, m, p.pickup(p.landing))
	handle("POST "+p.base+m+"/code", m+"/code", p.pickup(p.sendCode))
	handle("POST "+p.base+m+"/verify", m+"/verify", p.pickup(p.verify))
	handle("POST "+p.base+m+"/leave", m+"/leave", p.pickup(p.leave))
	if p.accounts != nil {
		p.accountRoutes(handle, m)
	}
	p.messageRoutes(handle, m, func(at *gate, h opened) handler { return p.pickup(p.verified(at, h)) })
	if p.inbox != nil {
		p.inboxRoutes(handle)
	}
	if p.senders != nil {
		p.senderRoutes(handle)
	}
	handle("GET "+p.base+"/favicon.ico", "/favicon.ico", p.favicon)
	handle("GET /robots.txt", "/robots.txt", p.robots)
	handle("/", "other", func(http.ResponseWriter, *http.Request) error { return escrow.ErrUnknown })
	return cleanPaths(mux, p.guard("other", func(http.ResponseWriter, *http.Request) error { return escrow.ErrUnknown }))
}

// messageRoutes mounts the pages of a message under prefix: by its link, or in an
// inbox. wrap finds the message, and calls the handler for who may open it.
func (p *portal) messageRoutes(handle func(pattern, route string, h handler), prefix string, wrap func(at *gate, h opened) handler) {
	mount := func(method, path string, at *gate, h opened) {
		handle(method+" "+p.base+prefix+path, prefix+path, wrap(at, h))
	}
	mount("GET", "/message", p.reading, p.message)
	mount("GET", "/html", p.reading, p.html)
	mount("GET", "/part/{n}", p.downloading, p.part)
	mount("GET", "/raw", p.downloading, p.raw)
	p.replyRoutes(handle, prefix, wrap)
}
