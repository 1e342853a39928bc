package adminlogin_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/account"
	"github.com/postseal/postseal/internal/adminlogin"
	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/sql"
)

const password = "seven green bicycles"

// bench is an admin port with a login, on a real database, and a clock of its own.
type bench struct {
	*testing.T
	dir     string
	db      *sql.DB
	keys    *escrow.Keys
	login   *adminlogin.Login
	handler http.Handler
	config  adminlogin.Config
	secrets map[string]string // TOTP, by name

	mu  sync.Mutex
	at  time.Time
	log bytes.Buffer
	did []string // what pages that change something were let do, and by whom
}

func newBench(t *testing.T, change ...func(*adminlogin.Config)) *bench {
	t.Helper()
	b := &bench{T: t, dir: t.TempDir(), at: time.Now(), secrets: make(map[string]string)}
	key := filepath.Join(b.dir, "key")
	if err := escrow.NewKeyFile(key); err != nil {
		t.Fatal(err)
	}
	var err error
	if b.keys, err = escrow.LoadKeys(key); err != nil {
		t.Fatal(err)
	}
	b.config = adminlogin.Config{Keys: b.keys.Admin(), Listen: "127.0.0.1:8646", Now: b.now, Log: slog.New(slog.NewTextHandler(lockedWriter{b}, nil))}
	for _, f := range change {
		f(&b.config)
	}
	b.start()
	t.Cleanup(func() { b.db.Close() })
	return b
}

type lockedWriter struct{ b *bench }

func (w lockedWriter) Write(p []byte) (int, error) {
	w.b.mu.Lock()
	defer w.b.mu.Unlock()
	return w.b.log.Write(p)
}

// start opens the database and makes the login, as at a start of the server.
func (b *bench) start() {
	b.Helper()
	var err error
	if b.db != nil {
		b.db.Close()
	}
	if b.db, err = sql.Open(b.Context(), "sqlite:"+filepath.Join(b.dir, "db"), sql.Options{Now: b.now}); err != nil {
		b.Fatal(err)
	}
	b.config.Store = b.db
	if b.login, err = adminlogin.New(b.config); err != nil {
		b.Fatal(err)
	}
	mux := http.NewServeMux()
	b.login.Register(mux)
	page := func(text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			v, _ := adminlogin.ViewerOf(r.Context())
			if r.Method == http.MethodPost {
				b.mu.Lock()
				a := audit.By(r.Context())
				b.did = append(b.did, text+" by "+a.Kind+" "+a.Name)
				b.mu.Unlock()
			}
			io.WriteString(w, text+" for "+v.Name)
		})
	}
	mux.Handle("/{$}", b.login.Require(page("home")))
	mux.Handle("/items", b.login.Require(page("items")))
	mux.Handle("/change", b.login.RequireOperator(page("change")))
	mux.Handle("/destinations", b.login.RequireOnceSetUp(page("destinations")))
	b.mu.Lock()
	b.handler = mux
	b.mu.Unlock()
}

func (b *bench) now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.at
}

func (b *bench) pass(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at = b.at.Add(d)
}

func (b *bench) logged() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.String()
}

func (b *bench) changed() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.did...)
}

func (b *bench) accounts() *adminlogin.Accounts {
	return &adminlogin.Accounts{Store: b.db, Keys: b.keys.Admin(), Now: b.now}
}

// credentials makes a TOTP secret for name.
func (b *bench) credentials(name string, role adminlogin.Role, password string) adminlogin.Credentials {
	b.Helper()
	k, err := account.NewTOTP("Postseal", name)
	if err != nil {
		b.Fatal(err)
	}
	b.secrets[name] = k.Secret
	return adminlogin.Credentials{Name: name, Role: role, Password: password, Secret: k.Secret}
}

func (b *bench) add(name string, role adminlogin.Role) {
	b.Helper()
	if err := b.accounts().Add(b.Context(), b.credentials(name, role, password)); err != nil {
		b.Fatal(err)
	}
}

// code returns the code that the app of name shows now.
func (b *bench) code(name string) string {
	b.Helper()
	code, err := totp.GenerateCode(b.secrets[name], b.now())
	if err != nil {
		b.Fatal(err)
	}
	return code
}

// fresh waits for the next code, and returns it.
func (b *bench) fresh(name string) string {
	b.pass(30 * time.Second)
	return b.code(name)
}

// kinds returns the entries of the audit log of the kinds that begin with prefix.
func (b *bench) audited(prefix string) (list []audit.Record) {
	b.Helper()
	all, err := b.db.AuditEntries(b.Context(), audit.Filter{Oldest: true})
	if err != nil {
		b.Fatal(err)
	}
	for _, r := range all {
		if strings.HasPrefix(r.Kind, prefix) {
			list = append(list, r)
		}
	}
	return list
}

// browser is one that keeps cookies, and says of itself what Chromium does.
type browser struct {
	*bench
	host    string
	scheme  string
	from    string // its address
	cookies map[string]*http.Cookie
	header  http.Header // sent with each request
	tls     bool        // speaks TLS with the admin port itself
	lax     bool        // keeps SameSite=Strict cookies back from requests that other sites make
}

func (b *bench) browser() *browser {
	return &browser{bench: b, host: "127.0.0.1:8646", scheme: "http", from: "127.0.0.1:5000", cookies: make(map[string]*http.Cookie), header: make(http.Header)}
}

// from returns a browser at another address: through a proxy, for tests with an
// admin-url.
func (b *bench) proxied(client string) *browser {
	w := b.browser()
	w.host, w.scheme = b.config.URL.Host, b.config.URL.Scheme
	if client != "" {
		w.header.Set("X-Forwarded-For", client)
	}
	return w
}

func (w *browser) do(method, path string, form url.Values, header ...string) *http.Response {
	w.Helper()
	return w.doContext(context.Background(), method, path, form, header...)
}

func (w *browser) doContext(ctx context.Context, method, path string, form url.Values, header ...string) *http.Response {
	w.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	r := httptest.NewRequestWithContext(ctx, method, path, body)
	r.Host, r.RemoteAddr = w.host, w.from
	if w.tls {
		r.TLS = new(tls.ConnectionState)
	}
	r.Header = maps.Clone(w.header)
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if method != http.MethodGet && method != http.MethodHead {
		r.Header.Set("Origin", w.scheme+"://"+w.host)
	}
	for i := 0; i < len(header); i += 2 {
		if r.Header.Del(header[i]); header[i+1] != "" {
			r.Header.Set(header[i], header[i+1])
		}
	}
	for _, c := range w.cookies {
		if w.lax && r.Header.Get("Sec-Fetch-Site") == "cross-site" && c.SameSite != http.SameSiteLaxMode {
			continue
		}
		r.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value})
	}
	rec := httptest.NewRecorder()
	w.mu.Lock()
	h := w.handler
	w.mu.Unlock()
	h.ServeHTTP(rec, r)
	res := rec.Result()
	for _, c := range res.Cookies() {
		if c.MaxAge < 0 {
			delete(w.cookies, c.Name)
		} else {
			w.cookies[c.Name] = c
		}
	}
	return res
}

func (w *browser) get(path string, header ...string) *http.Response {
	w.Helper()
	return w.do(http.MethodGet, path, nil, header...)
}

func (w *browser) post(path string, form url.Values, header ...string) *http.Response {
	w.Helper()
	if form == nil {
		form = url.Values{}
	}
	return w.do(http.MethodPost, path, form, header...)
}

// try posts the login form.
func (w *browser) try(name, password, code string, header ...string) *http.Response {
	w.Helper()
	return w.post("/login", url.Values{"name": {name}, "password": {password}, "code": {code}, "to": {"/items"}}, header...)
}

// signIn signs in, which has to succeed.
func (w *browser) signIn(name string) {
	w.Helper()
	res := w.try(name, password, w.fresh(name))
	if res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/items" {
		w.Fatalf("sign in of %s: %d %s", name, res.StatusCode, text(res))
	}
}

// as returns who the browser is signed in as, "" for nobody.
func (w *browser) as() string {
	w.Helper()
	res := w.get("/items")
	if res.StatusCode != http.StatusOK {
		return ""
	}
	return strings.TrimPrefix(text(res), "items for ")
}

func text(res *http.Response) string {
	b, err := io.ReadAll(res.Body)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func mustURL(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}
