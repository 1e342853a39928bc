package adminlogin_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/internal/adminlogin"
	"github.com/postseal/postseal/internal/adminlogin/idp"
	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/internal/lab/fakeidp"
)

const clientSecret = "between the provider and us"

// oidcBench is an admin port at https://admin.example, with an identity provider.
func oidcBench(t *testing.T, named ...string) (*bench, *fakeidp.Provider) {
	t.Helper()
	p := fakeidp.New("postseal", clientSecret)
	t.Cleanup(p.Close)
	p.SignedIn(fakeidp.User{Subject: "4711", Email: "jane@own.example", Verified: true})
	if named == nil {
		named = []string{"jane@own.example", "sub:0815=operator"}
	}
	var b *bench
	b = newBench(t, behindProxy, func(c *adminlogin.Config) {
		for _, s := range named {
			n, err := adminlogin.ParseNamed(s)
			if err != nil {
				t.Fatal(err)
			}
			c.Named = append(c.Named, n)
		}
		var err error
		c.Provider, err = idp.New(idp.Options{
			Issuer: p.URL, ClientID: "postseal", Secret: clientSecret, Redirect: "https://admin.example/login/oidc/callback",
			Now: func() time.Time { return b.now() },
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	return b, p
}

var unfollowed = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// begin begins a sign-in and goes to the provider. It returns the path that the provider
// sends the browser back to.
func (w *browser) begin() (back string) {
	w.Helper()
	w.lax = true
	res := w.get("/login/oidc?to=/items")
	if res.StatusCode != http.StatusSeeOther {
		w.Fatalf("begin: %d %s", res.StatusCode, text(res))
	}
	there, err := unfollowed.Get(res.Header.Get("Location"))
	if err != nil {
		w.Fatal(err)
	}
	there.Body.Close()
	path, ok := strings.CutPrefix(there.Header.Get("Location"), "https://admin.example")
	if !ok {
		w.Fatalf("the provider: %d %q", there.StatusCode, there.Header.Get("Location"))
	}
	return path
}

// end comes back, as from another site.
func (w *browser) end(path string) *http.Response {
	w.Helper()
	return w.get(path, "Sec-Fetch-Site", "cross-site")
}

func TestAdminSignInByOIDC(t *testing.T) {
	tests := []struct {
		name  string
		user  fakeidp.User
		named []string
		as    string // "": refused
		role  string
	}{
		{"a verified address", fakeidp.User{Subject: "4711", Email: "jane@own.example", Verified: true}, nil, "jane@own.example", "viewer"},
		{"in another case", fakeidp.User{Subject: "4711", Email: "Jane@Own.Example", Verified: "true"}, nil, "jane@own.example", "viewer"},
		{"an operator by subject", fakeidp.User{Subject: "0815", Email: "olga@own.example", Verified: true}, nil, "olga@own.example", "operator"},
		{"a subject without an address", fakeidp.User{Subject: "0815"}, nil, "sub:0815", "operator"},
		{"named twice", fakeidp.User{Subject: "0815", Email: "jane@own.example", Verified: true}, nil, "jane@own.example", "operator"},
		{"an operator by address", fakeidp.User{Subject: "1", Email: "a@b.example", Verified: true}, []string{"a@b.example=operator"}, "a@b.example", "operator"},
		{"an address that is not verified", fakeidp.User{Subject: "4711", Email: "jane@own.example", Verified: false}, nil, "", ""},
		{"nothing said of that", fakeidp.User{Subject: "4711", Email: "jane@own.example"}, nil, "", ""},
		{"verified is a number", fakeidp.User{Subject: "4711", Email: "jane@own.example", Verified: 1}, nil, "", ""},
		{"somebody else", fakeidp.User{Subject: "4712", Email: "joan@own.example", Verified: true}, nil, "", ""},
		{"a letter that only looks the same", fakeidp.User{Subject: "4711", Email: "jane@own.example", Verified: true}, []string{"\u212Aane@own.example", "j\u0430ne@own.example"}, "", ""},
		{"a letter that folds to a k", fakeidp.User{Subject: "1", Email: "\u212Aim@own.example", Verified: true}, []string{"kim@own.example"}, "", ""},
		{"an address as a subject", fakeidp.User{Subject: "jane@own.example"}, nil, "", ""},
		{"no subject", fakeidp.User{Email: "jane@own.example", Verified: true}, nil, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, p := oidcBench(t, tt.named...)
			p.SignedIn(tt.user)
			w := b.proxied("192.0.2.1")
			res := w.end(w.begin())
			if tt.as == "" {
				if res.StatusCode != http.StatusForbidden || w.as() != "" || len(w.cookies) > 0 {
					t.Errorf("%d, signed in as %q, %v", res.StatusCode, w.as(), w.cookies)
				}
				if log := b.audited("admin-"); len(log) != 1 || log[0].Kind != audit.AdminRefused || log[0].Details["how"] != "oidc" {
					t.Errorf("audited %+v", log)
				}
				return
			}
			if res.StatusCode != http.StatusOK || res.Header.Get("Refresh") != "0; url=/items" {
				t.Fatalf("%d %q %s", res.StatusCode, res.Header.Get("Refresh"), text(res))
			}
			if w.as() != tt.as {
				t.Errorf("signed in as %q", w.as())
			}
			if res := w.post("/change", nil); (res.StatusCode == http.StatusOK) != (tt.role == "operator") {
				t.Errorf("a change: %d", res.StatusCode)
			}
			log := b.audited("admin-")
			if len(log) != 1 || log[0].Actor != (audit.Actor{Kind: audit.ActorAdminPage, Name: tt.as, Client: "192.0.2.1"}) || log[0].Details["role"] != tt.role {
				t.Errorf("audited %+v", log)
			}
		})
	}
}

// What a provider says that is not as it should be lets nobody in.
func TestAnswersOfTheProviderThatDoNotCount(t *testing.T) {
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	claim := func(name string, value any) fakeidp.Faults {
		return fakeidp.Faults{Claims: func(c map[string]any) {
			if c[name] = value; value == nil {
				delete(c, name)
			}
		}}
	}
	back := func(name, value string) fakeidp.Faults {
		return fakeidp.Faults{Redirect: func(v url.Values) {
			if v.Set(name, value); value == "" {
				v.Del(name)
			}
		}}
	}
	tests := []struct {
		name   string
		faults fakeidp.Faults
		status int
		log    string // why
	}{
		{"a wrong nonce", claim("nonce", "another"), 403, "nonce"},
		{"no nonce", claim("nonce", nil), 403, "nonce"},
		{"an empty nonce", claim("nonce", ""), 403, "nonce"},
		{"a wrong audience", claim("aud", "somebody-else"), 403, "audience"},
		{"no audience", claim("aud", nil), 403, "audience"},
		{"several audiences and no party", claim("aud", []string{"postseal", "other"}), 403, "azp"},
		{"another party", claim("azp", "other"), 403, "azp"},
		{"expired", claim("exp", time.Now().Add(-time.Minute).Unix()), 403, "expired"},
		{"no end", claim("exp", nil), 403, "expired"},
		{"not yet", claim("nbf", time.Now().Add(time.Hour).Unix()), 403, "not before"},
		{"another issuer in the token", claim("iss", "https://evil.example"), 403, "different provider"},
		{"no issuer in the token", claim("iss", nil), 403, "different provider"},
		{"alg none", fakeidp.Faults{Header: func(h map[string]any) { h["alg"] = "none" }}, 403, "signature algorithm"},
		{"HMAC by the client's secret", fakeidp.Faults{Header: func(h map[string]any) { h["alg"] = "HS256" }}, 403, "signature algorithm"},
		{"signed by another key", fakeidp.Faults{Key: other}, 403, "signature"},
		{"signed by another key that is unknown", fakeidp.Faults{Key: other, Header: func(h map[string]any) { h["kid"] = "new" }}, 403, "signature"},
		{"no ID token", fakeidp.Faults{Token: func(a map[string]any) { delete(a, "id_token") }}, 403, "no ID token"},
		{"an ID token that is none", fakeidp.Faults{Token: func(a map[string]any) { a["id_token"] = "x.y.z" }}, 403, "malformed"},
		{"a wrong state", back("state", "another"), 403, ""},
		{"no state", back("state", ""), 403, ""},
		{"another issuer in the answer", back("iss", "https://evil.example"), 403, "another issuer"},
		{"a code that was made up", back("code", "made-up"), 403, "invalid_grant"},
		{"no code", back("code", ""), 403, ""},
		{"an error", back("error", "access_denied"), 403, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, p := oidcBench(t)
			p.Set(tt.faults)
			w := b.proxied("192.0.2.1")
			res := w.end(w.begin())
			page := text(res)
			if res.StatusCode != tt.status || len(w.cookies) > 0 || w.as() != "" {
				t.Errorf("%d, signed in as %q", res.StatusCode, w.as())
			}
			if !strings.Contains(b.logged(), tt.log) {
				t.Errorf("not logged: %s\n%s", tt.log, b.logged())
			}
			for _, secret := range append(p.Tokens(), clientSecret) {
				if strings.Contains(page+b.logged(), secret) {
					t.Error("a token or the secret is shown or logged")
				}
			}
			p.Set(fakeidp.Faults{})
			if w.end(w.begin()); w.as() == "" {
				t.Error("the next one, which is all right, is refused")
			}
		})
	}
}

// An answer counts in the browser that has asked for it, once, and for a while.
func TestAnOIDCAnswerIsOfThisBrowser(t *testing.T) {
	b, _ := oidcBench(t)
	refused := func(what string, w *browser, path string) {
		t.Helper()
		if res := w.end(path); res.StatusCode != http.StatusForbidden || w.as() != "" {
			t.Errorf("%s: %d, signed in as %q", what, res.StatusCode, w.as())
		}
	}
	// An attacker's answer, in the browser of somebody else, who has begun nothing, or
	// another sign-in.
	attacker, victim := b.proxied("192.0.2.66"), b.proxied("192.0.2.1")
	path := attacker.begin()
	refused("in another browser", victim, path)
	victim.begin()
	refused("in another browser that has begun one too", victim, path)

	// Used twice.
	w := b.proxied("192.0.2.1")
	path = w.begin()
	begun := w.cookies["__Host-postseal-admin-oidc"]
	if w.end(path); w.as() == "" {
		t.Fatal("refused")
	}
	again := b.proxied("192.0.2.1")
	refused("once more, without the cookie", again, path)
	again.lax = true
	again.cookies[begun.Name] = begun
	refused("once more, with it", again, path)

	// Two tabs: the later one counts.
	two := b.proxied("192.0.2.1")
	first := two.begin()
	second := two.begin()
	if res := two.end(first); res.StatusCode != http.StatusForbidden {
		t.Errorf("the first of two tabs: %d", res.StatusCode)
	}
	_ = second

	// Too late.
	late := b.proxied("192.0.2.1")
	path = late.begin()
	b.pass(10 * time.Minute)
	refused("too late", late, path)

	// A cookie that was tampered with.
	bad := b.proxied("192.0.2.1")
	path = bad.begin()
	c := bad.cookies["__Host-postseal-admin-oidc"]
	c.Value = c.Value[:len(c.Value)-4] + "AAAA"
	refused("with another cookie", bad, path)

	// Nobody is sent to the provider by a link from elsewhere.
	if res := b.proxied("192.0.2.1").get("/login/oidc", "Sec-Fetch-Site", "cross-site"); res.StatusCode != http.StatusOK || len(res.Cookies()) > 0 {
		t.Errorf("begun by another site: %d", res.StatusCode)
	}
}

func TestTheOIDCCookie(t *testing.T) {
	b, p := oidcBench(t)
	w := b.proxied("192.0.2.1")
	res := w.get("/login/oidc?to=//evil.example")
	set := res.Header.Get("Set-Cookie")
	value := res.Cookies()[0].Value
	if got, want := strings.Replace(set, value, "VALUE", 1), "__Host-postseal-admin-oidc=VALUE; Path=/; Max-Age=600; HttpOnly; Secure; SameSite=Lax"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	u := mustURL(res.Header.Get("Location"))
	q := u.Query()
	if !strings.HasPrefix(u.String(), p.URL+"/authorize?") || q.Get("code_challenge_method") != "S256" || len(q.Get("code_challenge")) != 43 ||
		len(q.Get("state")) != 43 || len(q.Get("nonce")) != 43 || q.Get("state") == q.Get("nonce") || q.Get("scope") != "openid email" ||
		q.Get("redirect_uri") != "https://admin.example/login/oidc/callback" || q.Get("response_type") != "code" {
		t.Errorf("sent to %s", u)
	}
	if strings.Contains(set, q.Get("state")) || strings.Contains(u.String(), value) {
		t.Error("the cookie shows the state, or the URL the cookie")
	}
	there, err := unfollowed.Get(u.String())
	if err != nil {
		t.Fatal(err)
	}
	there.Body.Close()
	w.lax = true
	if res := w.end(strings.TrimPrefix(there.Header.Get("Location"), "https://admin.example")); res.Header.Get("Refresh") != "0; url=/" {
		t.Errorf("leads to %q", res.Header.Get("Refresh"))
	}
}

// A provider that is down, that cannot be found or that is not who it should be stops
// neither the start nor the other way in, and is asked again.
func TestAProviderThatIsDown(t *testing.T) {
	for name, f := range map[string]fakeidp.Faults{
		"down":                       {Down: true},
		"another issuer":             {Issuer: "https://evil.example"},
		"endpoints without TLS":      {Metadata: func(m map[string]any) { m["token_endpoint"] = "http://idp.example/token" }},
		"keys without TLS":           {Metadata: func(m map[string]any) { m["jwks_uri"] = "http://idp.example/keys" }},
		"no endpoints":               {Metadata: func(m map[string]any) { delete(m, "authorization_endpoint") }},
		"a script as its page":       {Metadata: func(m map[string]any) { m["authorization_endpoint"] = "javascript:alert(1)" }},
		"more metadata than we read": {Metadata: func(m map[string]any) { m["x"] = strings.Repeat("x", 2<<20) }},
	} {
		t.Run(name, func(t *testing.T) {
			b, p := oidcBench(t)
			b.add("olga", adminlogin.RoleOperator)
			p.Set(f)
			w := b.proxied("192.0.2.1")
			res := w.get("/login/oidc?to=/items")
			if page := text(res); res.StatusCode != http.StatusBadGateway || !strings.Contains(page, "can&#39;t be reached now") || !strings.Contains(page, `name="password"`) {
				t.Errorf("%d %s", res.StatusCode, page)
			}
			asked := p.Asked()
			w.get("/login/oidc")
			if p.Asked() != asked {
				t.Error("asked again at once")
			}
			w.signIn("olga")
			p.Set(fakeidp.Faults{})
			b.pass(3 * time.Second)
			w = b.proxied("192.0.2.1")
			if w.end(w.begin()); w.as() != "jane@own.example" {
				t.Error("when it is back, it is not asked")
			}
		})
	}
}

func TestAProviderThatGoesDownMeanwhile(t *testing.T) {
	b, p := oidcBench(t)
	w := b.proxied("192.0.2.1")
	path := w.begin()
	p.Set(fakeidp.Faults{Down: true})
	if res := w.end(path); res.StatusCode != http.StatusBadGateway || w.as() != "" {
		t.Errorf("%d", res.StatusCode)
	}
}

// Who is not named any more is signed out at the next start; so is everybody of another
// provider.
func TestWhoIsNotNamedAnyMore(t *testing.T) {
	b, _ := oidcBench(t)
	w := b.proxied("192.0.2.1")
	w.end(w.begin())
	named, provider := b.config.Named, b.config.Provider
	for what, change := range map[string]func(){
		"not named":        func() { b.config.Named = named[1:] },
		"no provider":      func() { b.config.Provider = nil },
		"another provider": func() { b.config.Provider = otherProvider(t) },
	} {
		b.config.Named, b.config.Provider = named, provider
		change()
		b.start()
		if who := w.as(); who != "" {
			t.Errorf("%s: still signed in as %s", what, who)
		}
	}
	b.config.Provider = provider
	b.config.Named = []adminlogin.Named{{Email: "jane@own.example", Operator: true}}
	b.start()
	if res := w.post("/change", nil); res.StatusCode != http.StatusOK {
		t.Errorf("made an operator: %d", res.StatusCode)
	}
}

func otherProvider(t *testing.T) adminlogin.Provider {
	p, err := idp.New(idp.Options{Issuer: "https://other.example", ClientID: "x"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A provider cannot be flooded through us, nor the audit log: answers are limited by
// address.
func TestOIDCAnswersAreLimited(t *testing.T) {
	b, p := oidcBench(t)
	for range adminlogin.TriesClient {
		w := b.proxied("192.0.2.1")
		path := w.begin()
		q := mustURL(path).Query()
		q.Set("code", "made-up")
		w.end("/login/oidc/callback?" + q.Encode())
	}
	w := b.proxied("192.0.2.1")
	path, asked := w.begin(), p.Asked()
	if res := w.end(path); res.StatusCode != http.StatusTooManyRequests || p.Asked() != asked {
		t.Errorf("%d", res.StatusCode)
	}
	w = b.proxied("192.0.2.2")
	if w.end(w.begin()); w.as() == "" {
		t.Error("another address is locked too")
	}
}

// Tokens, codes and the client's secret are in no log and no database.
func TestNoSecretOfTheProviderIsKept(t *testing.T) {
	b, p := oidcBench(t)
	w := b.proxied("192.0.2.1")
	path := w.begin()
	begun := w.cookies["__Host-postseal-admin-oidc"].Value
	w.end(path)
	if w.as() == "" {
		t.Fatal("refused")
	}
	q := mustURL(path).Query()
	secrets := append(p.Tokens(), clientSecret, q.Get("code"), q.Get("state"), begun, w.cookies["__Host-postseal-admin"].Value)
	b.db.Close()
	files, err := filepath.Glob(filepath.Join(b.dir, "db*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	kept := b.logged()
	for _, f := range files {
		content, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		kept += string(content)
	}
	for i, s := range secrets {
		if strings.Contains(kept, s) {
			t.Errorf("secret %d is kept", i)
		}
	}
}

func TestParseNamed(t *testing.T) {
	tests := map[string]adminlogin.Named{
		"Jane@Own.example":                       {Email: "jane@own.example"},
		"jane@own.example=operator":              {Email: "jane@own.example", Operator: true},
		"jane@own.example=viewer":                {Email: "jane@own.example"},
		"sub:4711":                               {Subject: "4711"},
		"sub:4711=operator":                      {Subject: "4711", Operator: true},
		"sub:a=b==":                              {Subject: "a=b=="},
		"sub:a@b":                                {Subject: "a@b"},
		"":                                       {},
		"jane":                                   {},
		"@own.example":                           {},
		"jane@":                                  {},
		"sub:":                                   {},
		"sub:=operator":                          {},
		"jane@own.example=boss":                  {},
		"a@b@c":                                  {},
		"Jane <jane@own.example>":                {},
		"jane@own.example,b@c.example=operator ": {},
	}
	for s, want := range tests {
		got, err := adminlogin.ParseNamed(s)
		if got != want || (err == nil) != (want != adminlogin.Named{}) {
			t.Errorf("%q: %+v, %v", s, got, err)
		}
	}
}

func TestIssuers(t *testing.T) {
	for s, ok := range map[string]bool{
		"https://idp.example": true, "https://idp.example/realms/x": true, "http://127.0.0.1:8080": true, "http://localhost": true, "http://[::1]:1": true,
		"http://idp.example": false, "ftp://idp.example": false, "idp.example": false, "https://": false, "https://u:p@idp.example": false,
		"https://idp.example?x": false, "http://127.0.0.1.evil.example": false, "http://localhost.evil.example": false,
	} {
		if _, err := idp.New(idp.Options{Issuer: s, ClientID: "x"}); (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
	}
}
