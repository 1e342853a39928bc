// Package fakeidp is an identity provider (OpenID Connect) for tests, which lets everybody
// in without a question and misbehaves as its [Faults] say, which can change while it
// runs.
package fakeidp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"time"
)

// Faults are what the provider does wrong. The zero value does all right.
type Faults struct {
	Down     bool                          // every request gets 503
	Issuer   string                        // what the metadata call the issuer
	Claims   func(claims map[string]any)   // changes the claims of an ID token
	Header   func(header map[string]any)   // changes the header of an ID token, which is signed as it then says
	Key      *ecdsa.PrivateKey             // signs ID tokens, in the place of the one that is published
	Redirect func(back url.Values)         // changes what the browser brings back
	Token    func(answer map[string]any)   // changes the answer with the tokens
	Metadata func(document map[string]any) // changes the metadata
}

// User is who signs in.
type User struct {
	Subject, Email string
	Verified       any // email_verified; nil: left out
}

// Provider is a running identity provider.
type Provider struct {
	*httptest.Server
	ClientID, Secret string

	key *ecdsa.PrivateKey

	mu     sync.Mutex
	faults Faults
	user   User
	codes  map[string]begun
	tokens []string // ID tokens that were given out
	asked  int      // requests
}

// begun is what a code was given for.
type begun struct {
	client, redirect, nonce, challenge string
	user                               User
}

// New starts a provider on loopback.
func New(clientID, secret string) *Provider {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	p := &Provider{ClientID: clientID, Secret: secret, key: key, codes: make(map[string]begun)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", p.metadata)
	mux.HandleFunc("GET /keys", p.keys)
	mux.HandleFunc("GET /authorize", p.authorize)
	mux.HandleFunc("POST /token", p.token)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.asked++
		down := p.faults.Down
		p.mu.Unlock()
		if down {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	return p
}

// Set says what goes wrong from now on.
func (p *Provider) Set(f Faults) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = f
}

// SignedIn says who signs in from now on.
func (p *Provider) SignedIn(u User) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.user = u
}

// Tokens returns the ID tokens that were given out.
func (p *Provider) Tokens() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.tokens...)
}

// Asked returns how many requests came.
func (p *Provider) Asked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

func (p *Provider) metadata(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	f := p.faults
	p.mu.Unlock()
	doc := map[string]any{
		"issuer": p.URL, "authorization_endpoint": p.URL + "/authorize", "token_endpoint": p.URL + "/token", "jwks_uri": p.URL + "/keys",
		"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
		"id_token_signing_alg_values_supported": []string{"ES256", "HS256", "none"},
	}
	if f.Issuer != "" {
		doc["issuer"] = f.Issuer
	}
	if f.Metadata != nil {
		f.Metadata(doc)
	}
	answer(w, http.StatusOK, doc)
}

func (p *Provider) keys(w http.ResponseWriter, _ *http.Request) {
	point, err := p.key.PublicKey.Bytes() // 4, x, y
	if err != nil {
		panic(err)
	}
	answer(w, http.StatusOK, map[string]any{"keys": []any{map[string]any{
		"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "k", "x": b64(point[1:33]), "y": b64(point[33:]),
	}}})
}

func (p *Provider) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Get("response_type") != "code" || q.Get("code_challenge_method") != "S256" || q.Get("client_id") != p.ClientID {
		http.Error(w, "not asked as it should be", http.StatusBadRequest)
		return
	}
	p.mu.Lock()
	f := p.faults
	code := rand.Text()
	p.codes[code] = begun{q.Get("client_id"), q.Get("redirect_uri"), q.Get("nonce"), q.Get("code_challenge"), p.user}
	p.mu.Unlock()
	back := url.Values{"code": {code}, "state": {q.Get("state")}, "iss": {p.URL}}
	if f.Redirect != nil {
		f.Redirect(back)
	}
	http.Redirect(w, r, q.Get("redirect_uri")+"?"+back.Encode(), http.StatusFound)
}

func (p *Provider) token(w http.ResponseWriter, r *http.Request) {
	client, secret, _ := r.BasicAuth()
	client, _ = url.QueryUnescape(client) // RFC 6749, section 2.3.1
	secret, _ = url.QueryUnescape(secret)
	sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
	p.mu.Lock()
	defer p.mu.Unlock()
	b, ok := p.codes[r.PostFormValue("code")]
	delete(p.codes, r.PostFormValue("code")) // a code counts once
	if !ok || client != b.client || secret != p.Secret || r.PostFormValue("redirect_uri") != b.redirect || b64(sum[:]) != b.challenge {
		answer(w, http.StatusBadRequest, map[string]any{"error": "invalid_grant"})
		return
	}
	now := time.Now()
	claims := map[string]any{
		"iss": p.URL, "aud": p.ClientID, "sub": b.user.Subject, "email": b.user.Email, "nonce": b.nonce,
		"iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	}
	if b.user.Verified != nil {
		claims["email_verified"] = b.user.Verified
	}
	header := map[string]any{"alg": "ES256", "kid": "k", "typ": "JWT"}
	if p.faults.Claims != nil {
		p.faults.Claims(claims)
	}
	if p.faults.Header != nil {
		p.faults.Header(header)
	}
	jwt := p.sign(header, claims)
	p.tokens = append(p.tokens, jwt)
	out := map[string]any{"access_token": rand.Text(), "token_type": "Bearer", "expires_in": 300, "id_token": jwt}
	if p.faults.Token != nil {
		p.faults.Token(out)
	}
	answer(w, http.StatusOK, out)
}

// sign makes a token, signed by what its header says: ES256, HS256 with the client's
// secret, or none.
func (p *Provider) sign(header, claims map[string]any) string {
	text := b64(encode(header)) + "." + b64(encode(claims))
	switch header["alg"] {
	case "none":
		return text + "."
	case "HS256":
		m := hmac.New(sha256.New, []byte(p.Secret))
		m.Write([]byte(text))
		return text + "." + b64(m.Sum(nil))
	}
	key := p.key
	if p.faults.Key != nil {
		key = p.faults.Key
	}
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		panic(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return text + "." + b64(sig)
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(encode(v))
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
