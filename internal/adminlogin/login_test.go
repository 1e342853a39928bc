package adminlogin_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postseal/postseal/internal/adminlogin"
	"github.com/postseal/postseal/internal/audit"
)

func TestAdminSignIn(t *testing.T) {
	b := newBench(t)
	b.add("jane", adminlogin.RoleViewer)
	tests := []struct {
		name             string
		who, pass, which string // the code: right, wrong, none, past
		in               bool
	}{
		{"all right", "jane", password, "right", true},
		{"a name in another case, with space", " Jane ", password, "right", true},
		{"a wrong password", "jane", password + "!", "right", false},
		{"no password", "jane", "", "right", false},
		{"a password that is too long", "jane", strings.Repeat("x", 600), "right", false},
		{"a wrong code", "jane", password, "wrong", false},
		{"no code", "jane", password, "none", false},
		{"a code of three minutes ago", "jane", password, "past", false},
		{"a name that nobody has", "joan", password, "right", false},
		{"no name", "", password, "right", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			past := b.code("jane")
			b.pass(3 * time.Minute)
			code := map[string]string{"right": b.code("jane"), "wrong": wrongCode(b.code("jane")), "past": past}[tt.which]
			w := b.browser()
			res := w.try(tt.who, tt.pass, code)
			body := text(res)
			if in := res.StatusCode == http.StatusSeeOther; in != tt.in || (w.as() == "jane") != tt.in {
				t.Errorf("%d, signed in as %q\n%s", res.StatusCode, w.as(), body)
			}
			if !tt.in && (res.StatusCode != http.StatusForbidden || !strings.Contains(body, "Name, password or code is wrong.") || len(w.cookies) > 0) {
				t.Errorf("%d %v\n%s", res.StatusCode, w.cookies, body)
			}
			if tt.pass != "" && strings.Contains(body, tt.pass) || tt.who != "" && strings.Contains(body, `value="`+tt.who) {
				t.Error("the page shows what was typed")
			}
		})
	}
}

func wrongCode(right string) string {
	return string('0'+(right[0]-'0'+1)%10) + right[1:]
}

// A name that nobody has costs as much as a wrong password, looks the same, and its text
// is kept nowhere: it may be a password.
func TestUnknownAdminsCostAndLookTheSame(t *testing.T) {
	b := newBench(t)
	b.add("jane", adminlogin.RoleViewer)
	cost := func(name string) (int64, string) {
		before := b.login.Hashed()
		res := b.browser().try(name, "some other password", "123456")
		return b.login.Hashed() - before, fmt.Sprint(res.StatusCode, res.Header, text(res))
	}
	known, page := cost("jane")
	for _, name := range []string{"joan", "a password typed here", "", strings.Repeat("x", 3000), "jane\x00", "' OR 1=1 --"} {
		if n, p := cost(name); n != known || known != 1 || p != page {
			t.Errorf("%.20q: %d hashes, want %d; same page: %t", name, n, known, p == page)
		}
	}
	var names []string
	for _, r := range b.audited(audit.AdminRefused) {
		names = append(names, r.Actor.Name)
		if fmt.Sprint(r.Details) != "map[how:password]" {
			t.Errorf("details %v", r.Details)
		}
	}
	if want := []string{"jane", "", "", "", "", "", ""}; !slices.Equal(names, want) {
		t.Errorf("audited names %q, want %q", names, want)
	}
}

// After ten wrong tries at a name the right password and code are of no use for a while,
// from whichever address; the lock doubles; it says nothing of whether there is the name.
func TestGuessingAnAdmin(t *testing.T) {
	for _, name := range []string{"jane", "joan"} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, behindProxy)
			b.add("jane", adminlogin.RoleViewer)
			other := b.proxied("192.0.2.200")
			other.signIn("jane")
			guess := func(n int) (last *http.Response) {
				for i := range n {
					last = b.proxied(fmt.Sprintf("192.0.2.%d", i+1)).try(name, "guessed password", "123456")
				}
				return last
			}
			if res := guess(adminlogin.TriesName); res.StatusCode != http.StatusForbidden {
				t.Fatalf("the tenth try: %d", res.StatusCode)
			}
			hashed := b.login.Hashed()
			locked := func(after string) string {
				t.Helper()
				res := b.proxied("198.51.100.1").try(name, password, "123456")
				if res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") == "" {
					t.Fatalf("%s: %d", after, res.StatusCode)
				}
				return text(res)
			}
			if page := locked("after ten tries"); !strings.Contains(page, "too many tries") {
				t.Error(page)
			}
			if b.login.Hashed() != hashed {
				t.Error("a locked try is computed")
			}
			if name == "jane" {
				if res := b.proxied("198.51.100.1").try(name, password, b.fresh("jane")); res.StatusCode != http.StatusTooManyRequests {
					t.Errorf("the right ones, while locked: %d", res.StatusCode)
				}
				if other.as() != "jane" {
					t.Error("who is signed in is locked out")
				}
			}
			b.pass(5 * time.Minute)
			guess(adminlogin.TriesName)
			b.pass(9 * time.Minute)
			locked("the second lock is longer")
			b.pass(time.Minute)
			if name == "jane" {
				b.proxied("198.51.100.1").signIn("jane")
				if res := guess(adminlogin.TriesName - 1); res.StatusCode != http.StatusForbidden {
					t.Errorf("tries before a right one still count: %d", res.StatusCode)
				}
			}
			var locks int
			for _, r := range b.audited(audit.AdminRefused) {
				if strings.Contains(r.Details["locked"], "name") {
					locks++
				}
			}
			if locks != 2 || !strings.Contains(b.logged(), "locked=name") {
				t.Errorf("%d locks are in the audit log", locks)
			}
		})
	}
}

func TestResetUnlocksAnAdmin(t *testing.T) {
	b := newBench(t, behindProxy)
	b.add("jane", adminlogin.RoleViewer)
	for i := range adminlogin.TriesName {
		b.proxied(fmt.Sprintf("192.0.2.%d", i+1)).try("jane", "guessed password", "123456")
	}
	if err := b.accounts().Reset(t.Context(), b.credentials("jane", adminlogin.RoleViewer, password)); err != nil {
		t.Fatal(err)
	}
	b.proxied("192.0.2.99").signIn("jane")
}

func TestGuessingAdminsFromOneAddress(t *testing.T) {
	tests := []struct {
		name     string
		from     func(i int) string
		other    string // is not locked
		isLocked string // is
	}{
		{"IPv4", func(int) string { return "192.0.2.7" }, "192.0.2.8", "192.0.2.7"},
		{"a network of IPv6", func(i int) string { return fmt.Sprintf("2001:db8::%x", i+1) }, "2001:db8:0:1::1", "2001:db8::ffff"},
		{"what it says before the proxy counts for nothing", func(i int) string { return fmt.Sprintf("203.0.113.%d, 192.0.2.7", i+1) }, "192.0.2.8", "10.9.8.7, 192.0.2.7"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, behindProxy)
			b.add("jane", adminlogin.RoleViewer)
			for i := range adminlogin.TriesClient {
				if res := b.proxied(tt.from(i)).try(fmt.Sprintf("name%d", i), "guessed password", "123456"); res.StatusCode != http.StatusForbidden {
					t.Fatalf("try %d: %d", i+1, res.StatusCode)
				}
			}
			if res := b.proxied(tt.isLocked).try("jane", password, b.fresh("jane")); res.StatusCode != http.StatusTooManyRequests {
				t.Errorf("the address goes on: %d", res.StatusCode)
			}
			b.proxied(tt.other).signIn("jane")
		})
	}
}

// Many machines that each try a few names are stopped by the count of all tries; over a
// restart too, and by parallel tries no more get through.
func TestGuessingAdminsDistributed(t *testing.T) {
	b := newBench(t, behindProxy)
	b.add("jane", adminlogin.RoleViewer)
	in := b.proxied("192.0.2.250")
	in.signIn("jane")
	hashed := b.login.Hashed()
	work := make(chan int)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range work {
				b.proxied(fmt.Sprintf("198.51.%d.%d", i/200, i%200)).try(fmt.Sprintf("name%d", i), "guessed password", "123456")
			}
		})
	}
	for i := range adminlogin.TriesTotal + 20 {
		if i == adminlogin.TriesTotal/2 {
			for len(work) > 0 {
				time.Sleep(time.Millisecond)
			}
		}
		work <- i
	}
	close(work)
	wg.Wait()
	if n := b.login.Hashed() - hashed; n != adminlogin.TriesTotal {
		t.Errorf("%d tries were computed, want %d", n, adminlogin.TriesTotal)
	}
	b.start()
	if res := b.proxied("203.0.113.5").try("jane", password, b.fresh("jane")); res.StatusCode != http.StatusTooManyRequests {
		t.Errorf("after a restart: %d", res.StatusCode)
	}
	if in.as() != "jane" {
		t.Error("who is signed in is locked out")
	}
	b.pass(time.Minute) // the lock of all is short
	b.proxied("203.0.113.5").signIn("jane")
}

func TestAdminLimitsOutliveARestart(t *testing.T) {
	b := newBench(t, behindProxy)
	b.add("jane", adminlogin.RoleViewer)
	for i := range adminlogin.TriesName {
		b.start()
		if res := b.proxied(fmt.Sprintf("192.0.2.%d", i+1)).try("jane", "guessed password", "123456"); res.StatusCode != http.StatusForbidden {
			t.Fatalf("try %d: %d", i+1, res.StatusCode)
		}
	}
	b.start()
	if res := b.proxied("192.0.2.99").try("jane", password, b.fresh("jane")); res.StatusCode != http.StatusTooManyRequests {
		t.Errorf("after a restart: %d", res.StatusCode)
	}
}

// Who hangs up before the answer has used up a try.
func TestHangingUpSavesNoTryAtAnAdmin(t *testing.T) {
	b := newBench(t)
	b.add("jane", adminlogin.RoleViewer)
	for range adminlogin.TriesName {
		ctx, cancel := context.WithCancel(t.Context())
		stop := time.AfterFunc(20*time.Millisecond, cancel) // while it is hashed
		b.browser().doContext(ctx, http.MethodPost, "/login", url.Values{"name": {"jane"}, "password": {"guessed password"}, "code": {"123456"}})
		stop.Stop()
		cancel()
	}
	if res := b.browser().try("jane", password, b.fresh("jane")); res.StatusCode != http.StatusTooManyRequests {
		t.Errorf("%d", res.StatusCode)
	}
}

// A code counts once: not for who has seen it typed, and not for two who send it at the
// same moment. An older one is not taken after a newer one.
func TestATOTPCodeOfAnAdminCountsOnce(t *testing.T) {
	b := newBench(t)
	b.add("jane", adminlogin.RoleViewer)
	older := b.fresh("jane")
	code := b.fresh("jane")
	var in, out int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			res := b.browser().try("jane", password, code)
			mu.Lock()
			defer mu.Unlock()
			if res.StatusCode == http.StatusSeeOther {
				in++
			} else if res.StatusCode == http.StatusForbidden {
				out++
			}
		})
	}
	wg.Wait()
	if in != 1 || out != 3 {
		t.Errorf("%d got in, %d were refused: want 1 and 3", in, out)
	}
	for what, c := range map[string]string{"the same": code, "an older one": older} {
		if res := b.browser().try("jane", password, c); res.StatusCode != http.StatusForbidden {
			t.Errorf("%s once more: %d", what, res.StatusCode)
		}
	}
	b.start()
	if res := b.browser().try("jane", password, code); res.StatusCode != http.StatusForbidden {
		t.Errorf("the same after a restart: %d", res.StatusCode)
	}
}

func TestAdminSessionsEnd(t *testing.T) {
	tests := []struct {
		name string
		end  func(*bench, *browser)
	}{
		{"after half an hour without a request", func(b *bench, _ *browser) { b.pass(30 * time.Minute) }},
		{"after twelve hours, however busy", func(b *bench, w *browser) {
			for range 11*3 + 2 {
				b.pass(20 * time.Minute)
				if w.as() == "" {
					b.Fatal("it has ended too early")
				}
			}
			b.pass(20 * time.Minute)
		}},
		{"by the button", func(b *bench, w *browser) {
			cookies := w.cookies
			if res := w.post("/logout", nil); res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/login?out=1" {
				b.Errorf("%d %s", res.StatusCode, res.Header.Get("Location"))
			}
			if len(w.cookies) > 0 {
				b.Error("the cookie stays")
			}
			w.cookies = cookies // who has stolen it still has it
		}},
		{"by a reset", func(b *bench, _ *browser) {
			if err := b.accounts().Reset(b.Context(), b.credentials("jane", adminlogin.RoleOperator, password)); err != nil {
				b.Fatal(err)
			}
		}},
		{"by a removal", func(b *bench, _ *browser) {
			if removed, err := b.db.RemoveAdmin(b.Context(), "jane"); err != nil || !removed {
				b.Fatal(removed, err)
			}
		}},
		{"by a removal, also where the account is made anew", func(b *bench, _ *browser) {
			if removed, err := b.db.RemoveAdmin(b.Context(), "jane"); err != nil || !removed {
				b.Fatal(removed, err)
			}
			b.add("jane", adminlogin.RoleOperator)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			b.add("jane", adminlogin.RoleOperator)
			b.add("olga", adminlogin.RoleViewer)
			w, kept := b.browser(), b.browser()
			w.signIn("jane")
			if w.as() != "jane" {
				t.Fatal("not signed in")
			}
			tt.end(b, w)
			if strings.HasPrefix(tt.name, "by") {
				kept.signIn("olga")
			}
			if who := w.as(); who != "" {
				t.Errorf("still signed in as %s", who)
			}
			if res := w.post("/change", nil); res.StatusCode != http.StatusUnauthorized || len(b.changed()) > 0 {
				t.Errorf("a change: %d, %q", res.StatusCode, b.changed())
			}
		})
	}
}

// A request a minute keeps a session alive.
func TestAnAdminAtWorkStaysSignedIn(t *testing.T) {
	b := newBench(t)
	b.add("jane", adminlogin.RoleViewer)
	w := b.browser()
	w.signIn("jane")
	for range 10 {
		b.pass(29 * time.Minute)
		if w.as() != "jane" {
			t.Fatal("signed out")
		}
	}
}

// Two browsers of one administrator are apart; a second sign-in in the same browser takes
// the place of the first.
func TestTwoTabsOfAnAdmin(t *testing.T) {
	b := newBench(t)
	b.add("jane", adminlogin.RoleViewer)
	first, second := b.browser(), b.browser()
	first.signIn("jane")
	second.signIn("jane")
	second.post("/logout", nil)
	if first.as() != "jane" || second.as() != "" {
		t.Errorf("first %q, second %q", first.as(), second.as())
	}
	old := first.browser()
	old.cookies["postseal-admin"] = first.cookies["postseal-admin"]
	if res := first.get("/login?to=/items"); res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/items" {
		t.Errorf("the login page for who is signed in: %d", res.StatusCode)
	}
	first.signIn("jane") // from a tab that still shows the form
	if first.as() != "jane" || old.as() != "" {
		t.Errorf("after the second sign-in: %q, and by the first cookie %q", first.as(), old.as())
	}
}

// A cookie that somebody has planted before is not what the session gets.
func TestAdminSessionFixation(t *testing.T) {
	b := newBench(t)
	b.add("jane", adminlogin.RoleViewer)
	b.add("evil", adminlogin.RoleViewer)
	thief, victim := b.browser(), b.browser()
	thief.signIn("evil")
	planted := thief.cookies["postseal-admin"]
	unknown := &http.Cookie{Name: "postseal-admin", Value: base64.RawURLEncoding.EncodeToString(make([]byte, 32))}
	for _, c := range []*http.Cookie{planted, unknown} {
		victim.cookies["postseal-admin"] = c
		victim.signIn("jane")
		if victim.cookies["postseal-admin"].Value == c.Value {
			t.Error("the planted cookie goes on")
		}
		thief.cookies["postseal-admin"] = c
		if who := thief.as(); who == "jane" {
			t.Error("the planted cookie is signed in")
		}
	}
}

// Nothing that another site sends, or another port of this host, is done.
func TestAdminCSRF(t *testing.T) {
	b := newBench(t)
	b.add("olga", adminlogin.RoleOperator)
	w := b.browser()
	w.signIn("olga")
	from := map[string][]string{
		"another site":                     {"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"},
		"a sibling":                        {"Sec-Fetch-Site", "same-site"},
		"another port":                     {"Sec-Fetch-Site", "", "Origin", "http://127.0.0.1:9000"},
		"another site, by an old browser":  {"Sec-Fetch-Site", "", "Origin", "https://evil.example"},
		"a frame without origin":           {"Sec-Fetch-Site", "", "Origin", "null"},
		"https in the place of http":       {"Sec-Fetch-Site", "", "Origin", "https://127.0.0.1:8646"},
		"a host that begins like this one": {"Sec-Fetch-Site", "", "Origin", "http://127.0.0.1:8646.evil.example"},
	}
	for name, header := range from {
		t.Run(name, func(t *testing.T) {
			if res := w.post("/change", nil, header...); res.StatusCode != http.StatusForbidden {
				t.Errorf("a change: %d", res.StatusCode)
			}
			if res := w.post("/logout", nil, header...); res.StatusCode != http.StatusForbidden || w.as() != "olga" {
				t.Errorf("signing out: %d", res.StatusCode)
			}
			if res := b.browser().try("olga", password, b.fresh("olga"), header...); res.StatusCode != http.StatusForbidden || len(res.Cookies()) > 0 {
				t.Errorf("signing in: %d", res.StatusCode)
			}
		})
	}
	for _, path := range []string{"/logout", "/login"} {
		if res := w.get(path + "?name=olga"); res.StatusCode == http.StatusOK && path == "/logout" || w.as() != "olga" {
			t.Errorf("GET %s: %d", path, res.StatusCode)
		}
	}
	if did := b.changed(); len(did) > 0 {
		t.Errorf("done: %q", did)
	}
	for name, header := range map[string][]string{"our own page": nil, "no browser": {"Sec-Fetch-Site", "", "Origin", ""}, "an old browser": {"Sec-Fetch-Site", ""}} {
		if res := w.post("/change", nil, header...); res.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", name, res.StatusCode)
		}
	}
	if did := b.changed(); len(did) != 3 || did[0] != "change by adminpage olga" {
		t.Errorf("done: %q", did)
	}
}

func TestViewersChangeNothing(t *testing.T) {
	b := newBench(t)
	b.add("jane", adminlogin.RoleViewer)
	w := b.browser()
	w.signIn("jane")
	if res := w.post("/change", nil); res.StatusCode != http.StatusForbidden || len(b.changed()) > 0 {
		t.Errorf("%d %q", res.StatusCode, b.changed())
	}
	if res := w.get("/change"); res.StatusCode != http.StatusForbidden {
		t.Errorf("GET: %d", res.StatusCode)
	}
}

func TestSignInLeadsToPagesOfThisServerAlone(t *testing.T) {
	tests := map[string]string{
		"/items":                          "/items",
		"/items?q=a%26b&state=x":          "/items?q=a%26b&state=x",
		"/items/a%2Fb":                    "/items/a%2Fb",
		"/items#x":                        "/items",
		"":                                "/",
		"items":                           "/",
		"//evil.example/":                 "/",
		"///evil.example/":                "/",
		"/\\evil.example/":                "/",
		"\\\\evil.example/":               "/",
		"/\t/evil.example/":               "/",
		"/\n/evil.example/":               "/",
		"\t//evil.example/":               "/",
		" //evil.example":                 "/",
		"https://evil.example/":           "/",
		"https:/evil.example/":            "/",
		"javascript:alert(1)":             "/",
		"data:text/html,x":                "/",
		"/login":                          "/",
		"/login/oidc?to=/items":           "/",
		"/logout":                         "/",
		"/é":                              "/",
		"/%zz":                            "/",
		"/" + strings.Repeat("x", 3000):   "/",
		"/items\r\nSet-Cookie: a=b":       "/",
		"http://127.0.0.1:8646/items":     "/",
		"/@evil.example":                  "/@evil.example",
		"/?to=//evil.example":             "/?to=//evil.example",
		"/.//evil.example":                "/",
		"/items;url=https://evil.example": "/",
		"/items;url=x":                    "/items;url=x",
	}
	b := newBench(t)
	b.add("jane", adminlogin.RoleViewer)
	in := b.browser()
	in.signIn("jane")
	for to, want := range tests {
		if got := adminlogin.PathOf(to); got != want {
			t.Errorf("%q leads to %q, want %q", to, got, want)
		}
		if res := in.get("/login?to=" + url.QueryEscape(to)); res.Header.Get("Location") != want {
			t.Errorf("%q: Location %q, want %q", to, res.Header.Get("Location"), want)
		}
	}
	w := b.browser()
	res := w.post("/login", url.Values{"name": {"jane"}, "password": {password}, "code": {b.fresh("jane")}, "to": {"//evil.example/"}})
	if res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/" {
		t.Errorf("%d %q", res.StatusCode, res.Header.Get("Location"))
	}
	if res := b.browser().get("/items?q=x&y=//z"); res.Header.Get("Location") != "/login?to=%2Fitems%3Fq%3Dx%26y%3D%2F%2Fz" {
		t.Errorf("Location %q", res.Header.Get("Location"))
	}
}

func FuzzSignInLeadsToPagesOfThisServerAlone(f *testing.F) {
	for _, s := range []string{"/items?x=y", "//evil.example", "/\\evil", "/%2f/evil", "https://evil.example", "/a/../..//evil", "/;//x"} {
		f.Add(s)
	}
	base := mustURL("https://admin.example/login")
	f.Fuzz(func(t *testing.T, to string) {
		got := adminlogin.PathOf(to)
		u, err := base.Parse(got)
		if err != nil || u.Host != "admin.example" || u.Scheme != "https" || !strings.HasPrefix(got, "/") || strings.HasPrefix(got, "//") || strings.ContainsAny(got, "\\\r\n\t") {
			t.Errorf("%q leads to %q: %v %v", to, got, u, err)
		}
		if again := adminlogin.PathOf(got); again != got {
			t.Errorf("%q, then %q", got, again)
		}
	})
}

func behindProxy(c *adminlogin.Config) { c.URL = mustURL("https://admin.example") }

func TestAdminHostTricks(t *testing.T) {
	b := newBench(t, behindProxy)
	b.add("jane", adminlogin.RoleViewer)
	w := b.proxied("192.0.2.1")
	w.signIn("jane")
	for _, host := range []string{"evil.example", "127.0.0.1:8646", "localhost:8646", "admin.example.evil.example", "admin.example:8443", ""} {
		other := b.proxied("192.0.2.1")
		other.host = host
		other.cookies = w.cookies
		for _, path := range []string{"/items", "/login", "/destinations"} {
			res := other.get(path, "X-Forwarded-Host", "admin.example")
			if res.StatusCode != http.StatusMisdirectedRequest {
				t.Errorf("%q %s: %d", host, path, res.StatusCode)
			}
		}
		if res := other.try("jane", password, b.fresh("jane")); res.StatusCode != http.StatusMisdirectedRequest || len(res.Cookies()) > 0 {
			t.Errorf("%q: signing in: %d", host, res.StatusCode)
		}
	}
	for _, host := range []string{"admin.example", "ADMIN.example.", "admin.example:443"} {
		w.host = host
		if w.as() != "jane" {
			t.Errorf("%q: not signed in", host)
		}
	}
	w.host = "admin.example"
	if res := w.get("/items", "X-Forwarded-Host", "evil.example"); res.StatusCode != http.StatusOK {
		t.Errorf("X-Forwarded-Host counts: %d", res.StatusCode)
	}

	plain := newBench(t)
	plain.add("jane", adminlogin.RoleViewer)
	rebound := plain.browser()
	rebound.host = "evil.example:8646"
	if res := rebound.try("jane", password, plain.fresh("jane")); res.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("without admin-url: %d", res.StatusCode)
	}
}

// The cookie is for this host, for no script, and for no request of another site.
func TestAdminCookies(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		change     []func(*adminlogin.Config)
		browser    func(*bench) *browser
	}{
		{"http on loopback", "postseal-admin=VALUE; Path=/; HttpOnly; SameSite=Strict", nil, (*bench).browser},
		{"https", "__Host-postseal-admin=VALUE; Path=/; HttpOnly; Secure; SameSite=Strict", []func(*adminlogin.Config){behindProxy}, func(b *bench) *browser { return b.proxied("192.0.2.1") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, tt.change...)
			b.add("jane", adminlogin.RoleViewer)
			w := tt.browser(b)
			res := w.try("jane", password, b.fresh("jane"))
			c := res.Cookies()
			if len(c) != 1 {
				t.Fatalf("%d cookies", len(c))
			}
			if token, err := base64.RawURLEncoding.DecodeString(c[0].Value); err != nil || len(token) != 32 {
				t.Errorf("a token of %d bytes: %v", len(token), err)
			}
			if got := strings.Replace(res.Header.Get("Set-Cookie"), c[0].Value, "VALUE", 1); got != tt.want {
				t.Errorf("%s\nwant %s", got, tt.want)
			}
			for _, path := range []string{"/items", "/login", "/change"} {
				res := b.browser().get(path)
				if path == "/login" && tt.change == nil {
					if csp := res.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "frame-ancestors 'none'") || !strings.Contains(csp, "default-src 'none'") {
						t.Errorf("Content-Security-Policy %q", csp)
					}
				}
				if cc := res.Header.Get("Cache-Control"); cc != "no-store" {
					t.Errorf("%s: Cache-Control %q", path, cc)
				}
			}
		})
	}
}

// Over a connection that others can listen to nobody signs in, and no page is shown.
func TestNoAdminSignsInOverPlaintext(t *testing.T) {
	b := newBench(t, func(c *adminlogin.Config) { c.Listen = "0.0.0.0:8646" })
	w := b.browser()
	w.host, w.from = "192.0.2.10:8646", "192.0.2.77:4000"
	if res := w.get("/destinations"); res.StatusCode != http.StatusOK {
		t.Errorf("before there is an account: %d", res.StatusCode)
	}
	b.add("jane", adminlogin.RoleViewer)
	at := b.browser()
	at.signIn("jane")
	w.cookies = at.cookies
	for _, path := range []string{"/items", "/login", "/destinations", "/"} {
		if res := w.get(path); res.StatusCode != http.StatusForbidden || !strings.Contains(text(res), "ssh -L") {
			t.Errorf("%s: %d", path, res.StatusCode)
		}
	}
	w.cookies = map[string]*http.Cookie{}
	hashed := b.login.Hashed()
	if res := w.try("jane", password, b.fresh("jane")); res.StatusCode != http.StatusForbidden || b.login.Hashed() != hashed || len(res.Cookies()) > 0 {
		t.Errorf("signing in: %d", res.StatusCode)
	}
	over := b.browser()
	over.host, over.from, over.scheme, over.tls = "192.0.2.10:8646", "192.0.2.77:4000", "https", true
	over.signIn("jane")
	if over.cookies["__Host-postseal-admin"] == nil || over.as() != "jane" {
		t.Errorf("over TLS: %v", over.cookies)
	}
	w.from = "@" // a unix socket
	if res := w.get("/login"); res.StatusCode != http.StatusOK {
		t.Errorf("by a unix socket: %d", res.StatusCode)
	}
}

// Before anybody can sign in, pages that need no login stay as they were; the others say
// how to make an account.
func TestBeforeThereIsAnAdmin(t *testing.T) {
	b := newBench(t)
	w := b.browser()
	if res := w.get("/destinations"); res.StatusCode != http.StatusOK || text(res) != "destinations for " {
		t.Errorf("%d", res.StatusCode)
	}
	if res := w.get("/items"); res.StatusCode != http.StatusSeeOther {
		t.Errorf("/items: %d", res.StatusCode)
	}
	if page := text(w.get("/login")); !strings.Contains(page, "postseal admin add NAME") || strings.Contains(page, "<form") {
		t.Error(page)
	}
	if res := w.try("jane", password, "123456"); res.StatusCode != http.StatusForbidden {
		t.Errorf("a try: %d", res.StatusCode)
	}
	b.add("jane", adminlogin.RoleViewer)
	if res := w.get("/destinations"); res.StatusCode != http.StatusSeeOther {
		t.Errorf("with an account: %d", res.StatusCode)
	}
	w.signIn("jane")
	if res := w.get("/destinations"); text(res) != "destinations for jane" {
		t.Error("signed in, and not shown")
	}
}

// Who follows a link from elsewhere, without the cookie, is led to the same page by a
// request of our own, once.
func TestALinkFromElsewhereFindsWhoIsSignedIn(t *testing.T) {
	b := newBench(t)
	b.add("jane", adminlogin.RoleViewer)
	w := b.browser()
	res := w.get("/items?q=x", "Sec-Fetch-Site", "cross-site")
	if res.StatusCode != http.StatusOK || res.Header.Get("Refresh") != "0; url=/items?q=x" || !strings.Contains(text(res), `<a href="/items?q=x">`) {
		t.Errorf("%d %q", res.StatusCode, res.Header.Get("Refresh"))
	}
	if res := w.get("/items?q=x"); res.StatusCode != http.StatusSeeOther {
		t.Errorf("then %d", res.StatusCode)
	}
}

// Of a database nobody gets a session who has not the keys: its column is no hash that
// they could compute.
func TestWhoWritesToTheDatabaseMakesNoAdminSession(t *testing.T) {
	b := newBench(t)
	b.add("jane", adminlogin.RoleViewer)
	token := bytes.Repeat([]byte{7}, 32)
	sum := sha256.Sum256(token)
	for _, id := range [][]byte{sum[:], token} {
		s := adminlogin.Session{ID: id, Name: "jane", Admin: "jane", Created: b.now(), Seen: b.now(), Expires: b.now().Add(time.Hour)}
		err := b.db.BeginSession(t.Context(), s, &adminlogin.Admin{Name: "jane", Changed: changedOf(b, "jane")}, 1<<40, nil)
		if err != nil && !errors.Is(err, adminlogin.ErrChanged) {
			t.Fatal(err)
		}
		w := b.browser()
		w.cookies["postseal-admin"] = &http.Cookie{Name: "postseal-admin", Value: base64.RawURLEncoding.EncodeToString(token)}
		if who := w.as(); who != "" {
			t.Errorf("signed in as %s", who)
		}
	}
}

func changedOf(b *bench, name string) time.Time {
	a, err := b.db.Admin(b.Context(), name)
	if err != nil {
		b.Fatal(err)
	}
	return a.Changed
}

// What lies in the database of one administrator is of no use as another's.
func TestBoxesOfAdminsAreBound(t *testing.T) {
	b := newBench(t)
	b.add("jane", adminlogin.RoleViewer)
	b.add("olga", adminlogin.RoleOperator)
	jane, err := b.db.Admin(t.Context(), "jane")
	if err != nil {
		t.Fatal(err)
	}
	moved := *jane
	moved.Name = "olga"
	if err := b.db.ResetAdmin(t.Context(), moved); err != nil {
		t.Fatal(err)
	}
	if res := b.browser().try("olga", password, b.fresh("jane")); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("%d", res.StatusCode)
	}
}

// Password, TOTP secret, codes and tokens are in no log and no database, in no form.
func TestNoSecretOfAnAdminIsKept(t *testing.T) {
	b := newBench(t)
	b.add("jane", adminlogin.RoleViewer)
	secrets := map[string]string{"password": password, "TOTP secret": b.secrets["jane"], "guess": "a wrong guess at it", "name": "typed password here"}
	w := b.browser()
	w.try("jane", secrets["guess"], "314159")
	w.try(secrets["name"], "jane", "314159")
	w.signIn("jane")
	secrets["token"] = w.cookies["postseal-admin"].Value
	w.as()
	w.post("/logout", nil)
	w.signIn("jane")
	secrets["second token"] = w.cookies["postseal-admin"].Value
	b.db.Close()
	texts := map[string]string{"log": b.logged()}
	files, err := filepath.Glob(filepath.Join(b.dir, "db*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		content, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		texts[filepath.Base(f)] = string(content)
	}
	for name, s := range secrets {
		forms := []string{s, hex.EncodeToString([]byte(s)), base64.StdEncoding.EncodeToString([]byte(s))}
		if raw, err := base64.RawURLEncoding.DecodeString(s); err == nil && strings.Contains(name, "token") {
			forms = append(forms, string(raw), hex.EncodeToString(raw))
			sum := sha256.Sum256(raw)
			forms = append(forms, string(sum[:]))
		}
		for where, content := range texts {
			for _, f := range forms {
				if strings.Contains(content, f) {
					t.Errorf("the %s is in the %s", name, where)
				}
			}
		}
	}
	var kinds []string
	b.start()
	for _, r := range b.audited("admin-") {
		kinds = append(kinds, r.Kind+" "+r.Actor.Name+" "+r.Details["how"])
	}
	want := []string{"admin-added  ", "admin-refused jane password", "admin-refused  password", "admin-signed-in jane password", "admin-signed-out jane ", "admin-signed-in jane password"}
	if !slices.Equal(kinds, want) {
		t.Errorf("audited %q\nwant %q", kinds, want)
	}
}

// The client's address is in the audit log.
func TestWhereAnAdminCameFrom(t *testing.T) {
	b := newBench(t, behindProxy)
	b.add("jane", adminlogin.RoleOperator)
	w := b.proxied("192.0.2.1")
	w.signIn("jane")
	for _, r := range b.audited(audit.AdminSignedIn) {
		if r.Actor != (audit.Actor{Kind: audit.ActorAdminPage, Name: "jane", Client: "192.0.2.1"}) || r.Details["role"] != "operator" {
			t.Errorf("%+v", r)
		}
	}
}

func TestParseName(t *testing.T) {
	for s, want := range map[string]string{
		"jane": "jane", " Jane ": "jane", "ops.2": "ops.2", "a_b-c": "a_b-c", "7": "7",
		"": "", ".x": "", "a b": "", "jane@own.example": "", "sub:1": "", "é": "", strings.Repeat("x", 64): "", "a\nb": "",
	} {
		got, err := adminlogin.ParseName(s)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", s, got, err)
		}
	}
}

func TestCheckAdminPassword(t *testing.T) {
	for p, ok := range map[string]bool{
		password: true, "short": false, "password123": false, "postseal12": false, "maria.montez1": false, strings.Repeat("x", 30): false, strings.Repeat("word ", 200): false,
	} {
		if err := adminlogin.CheckPassword(p, "maria.montez"); (err == nil) != ok {
			t.Errorf("%.20q: %v", p, err)
		}
	}
}
