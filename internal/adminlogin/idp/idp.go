// Package idp asks an identity provider who somebody is (OpenID Connect Core 1.0), by
// authorization code with PKCE (RFC 7636, S256).
//
// The provider is found by its issuer (OpenID Connect Discovery 1.0) when somebody wants
// to sign in, not before: one that is down stops nothing else. Nothing here logs, and no
// error holds a code, a token or the client's secret.
package idp

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/postseal/postseal/internal/adminlogin"
)

// How the provider is asked.
const (
	askTime  = 10 * time.Second // one request
	maxBody  = 1 << 20          // of an answer, in bytes
	findTime = 24 * time.Hour   // after that the provider's metadata are read anew
	failTime = 3 * time.Second  // after a failure nobody is asked for so long
)

// algorithms are those that an ID token may be signed by: with keys of the provider's,
// which nobody else has. Neither none nor HMAC is among them.
var algorithms = []string{
	oidc.RS256, oidc.RS384, oidc.RS512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.EdDSA,
}

// Options of [New].
type Options struct {
	Issuer   string // URL: https, or http on loopback
	ClientID string
	Secret   string // "": a public client, which has PKCE alone
	Redirect string // URL that the browser comes back to
	Now      func() time.Time
	// Transport is how requests go; nil: [http.DefaultTransport].
	Transport http.RoundTripper
}

// Provider is an [adminlogin.Provider].
type Provider struct {
	o      Options
	host   string
	client *http.Client

	mu       sync.Mutex
	found    *metadata // nil: not yet
	foundAt  time.Time
	failed   error // the last try, if it has failed
	failedAt time.Time
	finding  chan struct{} // closed when the try under way has ended; nil: none is
}

var _ adminlogin.Provider = (*Provider)(nil)

// metadata is what the provider says of itself.
type metadata struct {
	config   oauth2.Config
	verifier *oidc.IDTokenVerifier
}

// New makes a provider. It asks nobody.
func New(o Options) (*Provider, error) {
	if err := CheckURL(o.Issuer); err != nil {
		return nil, fmt.Errorf("issuer %w", err)
	}
	if o.ClientID == "" {
		return nil, errors.New("no client id")
	}
	u, err := url.Parse(o.Issuer)
	if err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Transport == nil {
		o.Transport = http.DefaultTransport
	}
	return &Provider{o: o, host: u.Host, client: &http.Client{
		Transport: bounded{o.Transport}, Timeout: askTime,
		// A redirect could carry code and secret to another place.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// CheckURL wants https, or http to this machine itself.
func CheckURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || u.RawQuery != "":
		return fmt.Errorf("%q: want https://HOST[:PORT][/PATH]", s)
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && loopback(u.Hostname()):
		return nil
	}
	return fmt.Errorf("%q: want https (http only to this machine itself)", s)
}

func loopback(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap().IsLoopback()
	}
	return host == "localhost"
}

// bounded cuts answers that are too long.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := CheckURL((&url.URL{Scheme: r.URL.Scheme, Host: r.URL.Host}).String()); err != nil {
		return nil, err // of an endpoint that the metadata name
	}
	resp, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxBody), resp.Body}
	}
	return resp, err
}

// Issuer returns the name of the provider.
func (p *Provider) Issuer() string { return p.o.Issuer }

// Host returns the host of the issuer.
func (p *Provider) Host() string { return p.host }

// find returns the provider's metadata, and asks for them where that was not done, or
// long ago. One asks for all who wait.
func (p *Provider) find(ctx context.Context) (*metadata, error) {
	for {
		p.mu.Lock()
		now := p.o.Now()
		switch {
		case p.found != nil && now.Sub(p.foundAt) < findTime:
			defer p.mu.Unlock()
			return p.found, nil
		case p.failed != nil && now.Sub(p.failedAt) < failTime:
			defer p.mu.Unlock()
			if p.found != nil { // it was found before: what was read then goes on
				return p.found, nil
			}
			return nil, p.failed
		case p.finding == nil:
			p.finding = make(chan struct{})
			go p.look()
		}
		done := p.finding
		p.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", adminlogin.ErrProviderDown, ctx.Err())
		}
	}
}

func (p *Provider) look() {
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	m, err := p.read(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed, p.failedAt = err, p.o.Now(); err == nil {
		p.found, p.foundAt = m, p.failedAt
	}
	close(p.finding)
	p.finding = nil
}

func (p *Provider) read(ctx context.Context) (*metadata, error) {
	found, err := oidc.NewProvider(oidc.ClientContext(ctx, p.client), p.o.Issuer)
	var other *oidc.IssuerMismatchError
	switch {
	case errors.As(err, &other):
		return nil, fmt.Errorf("%w: it calls itself %q, and oidc-issuer is %q: they have to be the same, to the last slash", adminlogin.ErrProviderDown, other.Discovered, other.Provided)
	case err != nil:
		return nil, fmt.Errorf("%w: %s", adminlogin.ErrProviderDown, plain(err))
	}
	var says struct {
		Auth    string   `json:"authorization_endpoint"`
		Token   string   `json:"token_endpoint"`
		Keys    string   `json:"jwks_uri"`
		Methods []string `json:"token_endpoint_auth_methods_supported"`
	}
	if err := found.Claims(&says); err != nil {
		return nil, fmt.Errorf("%w: its metadata can't be read", adminlogin.ErrProviderDown)
	}
	for _, endpoint := range []string{says.Auth, says.Token, says.Keys} {
		if u, err := url.Parse(endpoint); err != nil || CheckURL((&url.URL{Scheme: u.Scheme, Host: u.Host}).String()) != nil {
			return nil, fmt.Errorf("%w: its metadata name %q, which is no https", adminlogin.ErrProviderDown, endpoint)
		}
	}
	endpoint := found.Endpoint()
	// By default client_secret_basic (OpenID Connect Discovery 1.0, section 3).
	endpoint.AuthStyle = oauth2.AuthStyleInHeader
	if p.o.Secret == "" || len(says.Methods) > 0 && !slices.Contains(says.Methods, "client_secret_basic") && slices.Contains(says.Methods, "client_secret_post") {
		endpoint.AuthStyle = oauth2.AuthStyleInParams
	}
	return &metadata{
		config: oauth2.Config{
			ClientID: p.o.ClientID, ClientSecret: p.o.Secret, Endpoint: endpoint, RedirectURL: p.o.Redirect,
			Scopes: []string{oidc.ScopeOpenID, "email"},
		},
		verifier: found.Verifier(&oidc.Config{ClientID: p.o.ClientID, SupportedSigningAlgs: algorithms, Now: p.o.Now}),
	}, nil
}

// AuthURL returns where the browser is sent.
func (p *Provider) AuthURL(ctx context.Context, state, nonce, verifier string) (string, error) {
	m, err := p.find(ctx)
	if err != nil {
		return "", err
	}
	return m.config.AuthCodeURL(state, oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier)), nil
}

// Exchange gives a code for an identity.
func (p *Provider) Exchange(ctx context.Context, code, issuer, nonce, verifier string) (adminlogin.Identity, error) {
	says := func(why string) (adminlogin.Identity, error) {
		return adminlogin.Identity{}, fmt.Errorf("%w: %s", adminlogin.ErrProviderSays, why)
	}
	if issuer != "" && issuer != p.o.Issuer { // RFC 9207
		return says("it comes from another issuer")
	}
	m, err := p.find(ctx)
	if err != nil {
		return adminlogin.Identity{}, err
	}
	ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, p.client), askTime)
	defer cancel()
	token, err := m.config.Exchange(ctx, code, oauth2.VerifierOption(verifier))
	var refused *oauth2.RetrieveError
	switch {
	case errors.As(err, &refused) && refused.Response.StatusCode < 500: // its text has the whole answer
		return says(fmt.Sprintf("the code was not taken: status %d, error %q", refused.Response.StatusCode, refused.ErrorCode))
	case errors.As(err, &refused):
		return adminlogin.Identity{}, fmt.Errorf("%w: status %d", adminlogin.ErrProviderDown, refused.Response.StatusCode)
	case err != nil:
		return adminlogin.Identity{}, fmt.Errorf("%w: %s", adminlogin.ErrProviderDown, plain(err))
	}
	raw, ok := token.Extra("id_token").(string)
	if !ok || raw == "" {
		return says("there is no ID token")
	}
	id, err := m.verifier.Verify(ctx, raw)
	if err != nil {
		return says(err.Error())
	}
	var claims struct {
		Email    string `json:"email"`
		Verified any    `json:"email_verified"`
		Party    string `json:"azp"`
	}
	switch err := id.Claims(&claims); {
	case err != nil:
		return says("its claims can't be read")
	case nonce == "" || subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(nonce)) != 1:
		return says("the nonce is another")
	case len(id.Audience) > 1 && claims.Party == "" || claims.Party != "" && claims.Party != p.o.ClientID: // section 3.1.3.7
		return says("it is for another party (azp)")
	case id.Subject == "":
		return says("it has no subject")
	}
	who := adminlogin.Identity{Issuer: p.o.Issuer, Subject: id.Subject}
	if claims.Verified == true || claims.Verified == "true" { // a text by some
		who.Email = claims.Email
	}
	return who, nil
}

// plain returns what has gone wrong with a request, without its URL and the answer.
func plain(err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		if u.Timeout() {
			return "it does not answer in time"
		}
		err = u.Err
	}
	var op *net.OpError
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return "its name is not found: " + dns.Err
	case errors.As(err, &op):
		return op.Err.Error()
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return "it does not answer in time"
	}
	return first(err.Error())
}

// first returns the first words of a text: an error page may follow.
func first(s string) string {
	const most = 120
	if len(s) > most {
		s = s[:most] + "…"
	}
	return s
}
