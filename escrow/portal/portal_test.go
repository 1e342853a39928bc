package portal

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
)

func wants(t *testing.T, a answer, status int, words ...string) {
	t.Helper()
	if a.StatusCode != status {
		t.Fatalf("%s, want %d: %.300s", a.Status, status, a.body)
	}
	for _, w := range words {
		if no, ok := strings.CutPrefix(w, "!"); ok {
			if strings.Contains(a.body, no) {
				t.Errorf("the page has %q", no)
			}
		} else if !strings.Contains(a.body, w) {
			t.Errorf("the page lacks %q", w)
		}
	}
}

func TestCodeFlow(t *testing.T) {
	s := newTestSite(t, newFakeVault(crlf(fullLetter)))
	wants(t, s.get(""), 200, testSender, "j•••@old.example", "25 December 2026", "in 30 days", "Send me a code", testItem, "555-0100", "!"+testHolder, `lang="en"`, "<main>", `autocomplete="one-time-code"`, `inputmode="numeric"`)
	a := s.post("/code")
	wants(t, a, 303)
	if to := a.Header.Get("Location"); !strings.HasSuffix(s.link, to) {
		t.Errorf("a code sent leads to %q", to)
	}
	for range 2 { // a reload sends nothing
		wants(t, s.get(""), 200, "A code was sent", "just now", "Send another code", "Open the message")
	}
	if s.vault.sent != 1 {
		t.Errorf("%d codes sent", s.vault.sent)
	}
	wants(t, s.post("/verify", "answer", "2718 <b>2818"), 422, "Error: ", "wrong or no longer valid", `value="2718 &lt;b&gt;2818"`, "aria-invalid", "autofocus")
	wants(t, s.post("/code"), 303)
	tries := s.vault.tries
	wants(t, s.post("/verify", "answer", "abc"), 422, "made of digits")
	wants(t, s.post("/verify", "answer", ""), 422, "made of digits")
	if s.vault.tries != tries {
		t.Error("an answer without digits cost a try")
	}
	a = s.post("/verify", "answer", " Your code is: 3141-5926\u00a0")
	wants(t, a, 303)
	if to := a.Header.Get("Location"); !strings.HasSuffix(to, "/message?verified") {
		t.Errorf("verified, to %q", to)
	}
	if s.vault.opened != 0 {
		t.Error("opened before it was shown")
	}
	wants(t, s.get("/message?verified"), 200, "Befund für Jane", "Dr. Ann Doé &lt;doc@clinic.example&gt;", "Praxis &lt;office@clinic.example&gt;", "die Werte sind gut. Grüße!",
		`<a href="https://clinic.example/termine" target="_blank" rel="noopener noreferrer nofollow">`, "Befund für Jane.pdf", "419 bytes", "evil.html", "message-6.eml", "!logo.png", "!<iframe", "Download original", "Tuesday, 24 November 2026, 14:05 (UTC&#43;01:00)")
	wants(t, s.get("/message?as=html"), 200, "<iframe", `sandbox="allow-popups allow-popups-to-escape-sandbox"`, "!die Werte")
	wants(t, s.get("/html"), 200, `src="data:image/png;base64,`+dot+`"`, "[spy]", "Grüße", "!fetch", "!127.0.0.1", "!<script", `<p style="color: #0a5">`)
	a = s.get("")
	wants(t, a, 303)
	if to := a.Header.Get("Location"); !strings.HasSuffix(to, "/message") {
		t.Errorf("a verified device is sent to %q", to)
	}
	wants(t, s.post("/leave"), 303)
	wants(t, s.get("/message"), 303)
	wants(t, s.get("?closed"), 200, "closed on this device")
}

func TestPassphraseFlow(t *testing.T) {
	v := newFakeVault(crlf(plainLetter))
	v.pickup.Verify = escrow.VerifyPassphrase
	s := newTestSite(t, v)
	wants(t, s.get(""), 200, `type="password"`, `autocomplete="off"`, "agreed on with the sender", "!Send me a code")
	wants(t, s.post("/code"), 303)
	if v.sent != 0 {
		t.Error("a code was sent")
	}
	wants(t, s.post("/verify", "answer", "eight grey herons"), 422, "not the passphrase", "!herons")
	wants(t, s.post("/verify", "answer", ""), 422, "Enter the passphrase")
	wants(t, s.post("/verify", "answer", testPhrase), 303)
	wants(t, s.get("/message"), 200, "all values are as they should be", "!Formatted")
}

func TestGetAndHeadChangeNothing(t *testing.T) {
	s := newTestSite(t, newFakeVault(crlf(fullLetter)))
	paths := []string{"", "/code", "/verify", "/leave", "/message", "/html", "/part/1", "/raw"}
	for _, method := range []string{"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PROPFIND"} {
		for _, p := range paths {
			a := s.do(method, p, nil, nil)
			if len(a.Cookies()) > 0 {
				t.Errorf("%s %s sets a cookie", method, p)
			}
		}
	}
	for _, c := range s.vault.calls {
		if c != "Pickup" && c != "CheckToken" {
			t.Errorf("a stranger's GET or HEAD called %s", c)
		}
	}
	// Nor does HEAD open the message for who may.
	s.verified()
	for _, p := range paths {
		s.do("HEAD", p, nil, nil)
	}
	if s.vault.opened != 0 {
		t.Error("HEAD opened the message")
	}
	if a := s.do("HEAD", "/raw", nil, nil); a.StatusCode != 200 || a.ContentLength != int64(len(s.vault.raw)) {
		t.Errorf("HEAD of the original: %s, %d bytes", a.Status, a.ContentLength)
	}
}

// strangers are all the requests of who has no link that works.
func strangers(s *testSite) map[string]string {
	base := s.link[:strings.Index(s.link, "/m/")]
	return map[string]string{
		"no such path":          base + "/x",
		"the root":              base + "/",
		"a wrong secret":        base + "/m/" + testItem + "/" + strings.Repeat("A", 43),
		"another item":          base + "/m/" + strings.Repeat("a", 26) + "/" + testSecret,
		"half a link":           base + "/m/" + testItem,
		"a slash at the end":    s.link + "/",
		"a doubled slash":       base + "//m/" + testItem + "/" + testSecret,
		"dots":                  base + "/m/x/../" + testItem + "/" + testSecret,
		"an escaped slash":      base + "/m/" + testItem + "%2F" + testSecret,
		"a message, no link":    base + "/m/" + testItem + "/" + strings.Repeat("A", 43) + "/message",
		"a part, no link":       base + "/m/" + testItem + "/" + strings.Repeat("A", 43) + "/part/1",
		"control characters":    base + "/m/%00%0d%0a/" + testSecret,
		"what does not exist":   s.link + "/delete",
		"the code page by GET":  s.link + "/code",
		"an overlong path":      base + "/m/" + strings.Repeat("x", 4000) + "/y",
		"an admin path":         base + "/metrics",
		"a part that is no one": s.link + "/verify/1",
	}
}

func TestAllStrangersSeeTheSame(t *testing.T) {
	first := ""
	for _, state := range []error{nil, escrow.ErrExpired, escrow.ErrRetracted} {
		s := newTestSite(t, newFakeVault(crlf(plainLetter)), func(c *Config) { c.BaseURL.Host = "portal.example" })
		s.vault.err = state
		for name, u := range strangers(s) {
			if state != nil && strings.HasPrefix(u, s.link) {
				continue // the right secret: no stranger
			}
			u = strings.Replace(u, "portal.example", strings.TrimPrefix(s.URL, "http://"), 1)
			a := s.do("GET", u, nil, http.Header{"Host": {"portal.example"}})
			a.Header.Del("Date")
			got := fmt.Sprint(a.StatusCode, a.Header, a.body)
			if a.StatusCode != 404 {
				t.Errorf("%s: %s", name, a.Status)
			}
			if first == "" {
				first = got
			}
			if got != first {
				t.Errorf("%s (%v) differs:\n%s\n%s", name, state, got, first)
			}
			for _, path := range []string{"/code", "/verify"} {
				if a := s.do("POST", u+path, url.Values{"answer": {"1"}}, http.Header{"Host": {"portal.example"}}); a.StatusCode != 404 || len(a.body) != len(first)-strings.Index(first, "<!doctype") {
					t.Errorf("%s, POST %s: %s", name, path, a.Status)
				}
			}
		}
	}
}

func TestOverIsToldToTheHolder(t *testing.T) {
	for _, tt := range []struct {
		err   error
		words []string
	}{
		{escrow.ErrExpired, []string{"has expired", testSender, testItem}},
		{escrow.ErrRetracted, []string{"taken this message back", testSender, testItem}},
	} {
		s := newTestSite(t, newFakeVault(crlf(plainLetter)))
		s.vault.err = tt.err
		for _, p := range []string{"", "/message", "/raw", "/part/1", "/html"} {
			wants(t, s.get(p), http.StatusGone, tt.words...)
		}
		wants(t, s.post("/code"), http.StatusGone, tt.words...)
		wants(t, s.post("/verify", "answer", testCode), http.StatusGone, tt.words...)
	}
}

func TestLocks(t *testing.T) {
	s := newTestSite(t, newFakeVault(crlf(plainLetter)))
	s.vault.lockCode = testNow.Add(25 * time.Minute)
	a := s.post("/code")
	wants(t, a, http.StatusTooManyRequests, "No further code was sent", "Codes that came before still work", "in 25 minutes", "Open the message", "!Send another code")
	if a.Header.Get("Retry-After") != "1501" {
		t.Errorf("Retry-After: %q", a.Header.Get("Retry-After"))
	}
	s.vault.lockCode = time.Time{}
	s.verified()
	s.vault.lockTry = testNow.Add(3 * time.Hour)
	wants(t, s.get("/message"), 200, "all values") // the lock is not for a verified device
	s.post("/leave")
	wants(t, s.get(""), 200, "Locked for a while", "25 November 2026, 12:30 UTC", "in 3 hours", "Nothing is lost", "!Open the message")
	a = s.post("/verify", "answer", testCode)
	wants(t, a, http.StatusTooManyRequests, "Locked for a while", "Nothing is lost")
	if a.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}

func TestTrouble(t *testing.T) {
	secret := errors.New("sql: disk I/O error at /var/lib/postseal.db")
	s := newTestSite(t, newFakeVault(crlf(plainLetter)))
	s.vault.err = secret
	wants(t, s.get(""), 503, "try again in a few minutes", "Nothing is lost", "!sql", "!postseal.db")
	s.vault.err = nil
	s.vault.trouble = secret
	wants(t, s.post("/code"), 503, "!postseal.db")
	wants(t, s.post("/verify", "answer", testCode), 503, "!postseal.db")
	s.vault.trouble = nil
	s.verified()
	s.vault.cutAfter = 100
	wants(t, s.get("/message"), 503, "!all values", "!damaged")
	wants(t, s.get("/html"), 503)
	s.vault.cutAfter, s.vault.trouble = 0, escrow.ErrUnknown // its key is gone, just now
	wants(t, s.get("/message"), 503)
}

// A download that breaks off must not look whole.
func TestBrokenDownloadsAreSeenToBreak(t *testing.T) {
	for _, path := range []string{"/raw", "/part/1"} {
		s := newTestSite(t, newFakeVault(crlf("Subject: x\n\n"+strings.Repeat("a line of text\n", 20000)))).verified()
		s.vault.cutAfter = 200_000
		r, err := s.client.Get(s.link + path)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, r.Body)
		r.Body.Close()
		if err == nil {
			t.Errorf("%s: %d bytes and no error", path, n)
		}
	}
}

func TestPanics(t *testing.T) {
	s := newTestSite(t, newFakeVault(""))
	s.vault.now = nil // SendCode falls over it
	wants(t, s.post("/code"), 503, "Nothing is lost", "!nil pointer", "!goroutine")
	if !strings.Contains(s.log.String(), "portal panic") {
		t.Error("not logged")
	}
	// What panics may quote what was handled.
	const quoted = "the biopsy was benign"
	s.vault.now = func() time.Time { panic(fmt.Errorf("while at %q", quoted)) }
	wants(t, s.post("/code"), 503, "Nothing is lost", "!"+quoted)
	if log := s.log.String(); strings.Contains(log, quoted) || strings.Count(log, "portal panic") != 2 {
		t.Errorf("logged:\n%s", log)
	}
}

func TestHeaders(t *testing.T) {
	hasNonce := regexp.MustCompile(`style-src 'sha256-[A-Za-z0-9+/=]{44}'`)
	s := newTestSite(t, newFakeVault(crlf(fullLetter)), func(c *Config) { u := *c.BaseURL; u.Scheme = "https"; c.BaseURL = &u })
	s.client.Jar = nil
	s.link = strings.Replace(s.link, "https:", "http:", 1)
	cookie := http.Header{"Cookie": {"__Secure-device-" + suffix(testSecret) + "=token"}} // as after a passphrase
	for _, path := range []string{"", "/message", "/html", "/raw", "/part/4", "/nowhere", "?closed"} {
		a := s.do("GET", path, nil, cookie)
		h := a.Header
		for k, want := range map[string]string{
			"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff", "X-DNS-Prefetch-Control": "off", "Strict-Transport-Security": "max-age=31536000",
			"Cross-Origin-Resource-Policy": "same-origin", "X-Robots-Tag": "noindex, nofollow, noarchive",
		} {
			if h.Get(k) != want {
				t.Errorf("%s: %s: %q", path, k, h.Get(k))
			}
		}
		if !strings.Contains(h.Get("Permissions-Policy"), "camera=()") {
			t.Errorf("%s: Permissions-Policy: %q", path, h.Get("Permissions-Policy"))
		}
		csp := h.Get("Content-Security-Policy")
		if sandboxed := strings.Contains(csp, "sandbox"); sandboxed != (h.Get(openerPolicy) == "") || !sandboxed && h.Get(openerPolicy) != "same-origin" {
			t.Errorf("%s: %s: %q", path, openerPolicy, h.Get(openerPolicy))
		}
		if !strings.HasPrefix(csp, "default-src 'none'") || strings.Contains(csp, "script-src") || strings.Contains(csp, "http") {
			t.Errorf("%s: policy %q", path, csp)
		}
		switch path {
		case "/html":
			if a.StatusCode != 200 {
				t.Fatal(a.Status)
			}
			if h.Get("X-Frame-Options") != "SAMEORIGIN" || !strings.Contains(csp, "sandbox allow-popups") || strings.Contains(csp, "allow-scripts") || strings.Contains(csp, "allow-same-origin") || !strings.Contains(csp, "img-src data:;") {
				t.Errorf("frame: %q, %q", h.Get("X-Frame-Options"), csp)
			}
		case "/raw", "/part/4":
			if h.Get("X-Frame-Options") != "DENY" || !strings.Contains(csp, "sandbox") || !strings.HasPrefix(h.Get("Content-Disposition"), "attachment; filename=") {
				t.Errorf("%s: %q, %q", path, csp, h.Get("Content-Disposition"))
			}
		default:
			if h.Get("X-Frame-Options") != "DENY" || !strings.Contains(csp, "frame-ancestors 'none'") || !strings.Contains(csp, "form-action 'self'") || !hasNonce.MatchString(csp) {
				t.Errorf("%s: %q, %q", path, h.Get("X-Frame-Options"), csp)
			}
		}
		if path != "/raw" && path != "/part/4" && len(a.body) > 50_000 {
			t.Errorf("%s: %d bytes", path, len(a.body))
		}
	}
	s.vault.codes = []string{testCode}
	for _, path := range []string{"/code", "/verify"} {
		a := s.post(path, "answer", testCode)
		if len(a.Cookies()) == 0 {
			t.Fatalf("%s: no cookie", path)
		}
		for _, c := range a.Cookies() {
			if !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != map[bool]string{true: "/", false: "/m/" + testItem}[c.Name == "__Secure-device-"+testTag] || c.Domain != "" || !strings.HasPrefix(c.Name, "__Secure-") || c.MaxAge == 0 {
				t.Errorf("%s: cookie %s", path, c.Raw)
			}
			if strings.Contains(c.Raw, testSecret) {
				t.Error("the secret is in a cookie")
			}
			if strings.HasPrefix(c.Name, "__Secure-device") && c.MaxAge != 12*3600 {
				t.Errorf("the session lives %d seconds", c.MaxAge)
			}
		}
	}
	if s := newTestSite(t, newFakeVault("")); s.get("").Header.Get("Strict-Transport-Security") != "" {
		t.Error("HSTS without TLS")
	}
}

func TestOrigins(t *testing.T) {
	for _, tt := range []struct {
		name   string
		header http.Header
		want   int
	}{
		{"no browser", http.Header{}, 303},
		{"our own form", http.Header{"Sec-Fetch-Site": {"same-origin"}, "Origin": {"null"}}, 303},
		{"an old phone, under no-referrer", http.Header{"Origin": {"null"}}, 303},
		{"our own origin", http.Header{"Origin": {"HOST"}}, 303},
		{"another site", http.Header{"Sec-Fetch-Site": {"cross-site"}, "Origin": {"https://evil.example"}}, 403},
		{"a neighbour", http.Header{"Sec-Fetch-Site": {"same-site"}}, 403},
		{"another site, an old browser", http.Header{"Origin": {"https://evil.example"}}, 403},
		{"our host, another scheme", http.Header{"Origin": {"ftp://localhost"}}, 403},
		{"another host", http.Header{"Host": {"evil.example"}}, 421},
		{"another port", http.Header{"Host": {"localhost:1"}}, 421},
		{"another host, by a proxy", http.Header{"X-Forwarded-Host": {"evil.example"}}, 421},
		{"our host, by a proxy that changes Host", http.Header{"Host": {"127.0.0.1:8645"}, "X-Forwarded-Host": {"HOST"}}, 303},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newTestSite(t, newFakeVault(""))
			for k, v := range tt.header {
				if v[0] == "HOST" {
					origin := s.link[:strings.Index(s.link, "/m/")]
					if k == "X-Forwarded-Host" {
						origin = strings.ToUpper(strings.TrimPrefix(origin, "http://"))
					}
					tt.header[k] = []string{origin}
				}
			}
			a := s.do("POST", "/code", url.Values{}, tt.header)
			if a.StatusCode != tt.want || s.vault.sent != map[bool]int{true: 1}[tt.want == 303] {
				t.Errorf("%s, want %d; %d sent", a.Status, tt.want, s.vault.sent)
			}
		})
	}
}

func TestClientAddress(t *testing.T) {
	prefixes := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/24")}
	for _, tt := range []struct {
		name, peer string
		chain      []string
		want       string
	}{
		{"a direct client", "192.0.2.1:5", nil, "192.0.2.1"},
		{"a direct client that lies", "192.0.2.1:5", []string{"198.51.100.7"}, "192.0.2.1"},
		{"by a proxy", "127.0.0.1:5", []string{"198.51.100.7"}, "198.51.100.7"},
		{"by two proxies", "127.0.0.1:5", []string{"198.51.100.7, 10.0.0.9"}, "198.51.100.7"},
		{"a client that lies to the proxy", "127.0.0.1:5", []string{"6.6.6.6, 198.51.100.7"}, "198.51.100.7"},
		{"lies in a field of its own", "127.0.0.1:5", []string{"6.6.6.6", "198.51.100.7"}, "198.51.100.7"},
		{"with a port", "127.0.0.1:5", []string{"198.51.100.7:44"}, "198.51.100.7"},
		{"IPv6", "127.0.0.1:5", []string{"[2001:db8::1]:44"}, "2001:db8::1"},
		{"IPv4 in IPv6", "[::ffff:192.0.2.1]:5", nil, "192.0.2.1"},
		{"nobody named", "127.0.0.1:5", nil, "invalid IP"},
		{"garbage", "127.0.0.1:5", []string{"6.6.6.6, unknown"}, "invalid IP"},
		{"a unix socket", "@", []string{"198.51.100.7"}, "198.51.100.7"},
		{"a unix socket, nobody named", "", nil, "invalid IP"},
	} {
		p := &portal{proxies: prefixes}
		r := &http.Request{RemoteAddr: tt.peer, Header: http.Header{}}
		if tt.chain != nil {
			r.Header["X-Forwarded-For"] = tt.chain
		}
		if got := p.client(r).Addr.String(); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestForms(t *testing.T) {
	s := newTestSite(t, newFakeVault(""))
	wants(t, s.post("/verify", "answer", strings.Repeat("1", maxForm)), 400, "Nothing was changed")
	wants(t, s.do("POST", "/verify", nil, http.Header{"Content-Type": {"multipart/form-data"}}), 422)
	a, err := s.client.Post(s.link+"/verify", "application/x-www-form-urlencoded", strings.NewReader("answer=%zz"))
	if err != nil {
		t.Fatal(err)
	}
	a.Body.Close()
	if a.StatusCode != 400 || s.vault.tries != 0 {
		t.Errorf("%s, %d tries", a.Status, s.vault.tries)
	}
}

func TestNoSecretIsLogged(t *testing.T) {
	s := newTestSite(t, newFakeVault(crlf(fullLetter)))
	s.get("")
	s.post("/verify", "answer", "99887766")
	s.verified()
	for _, p := range []string{"/message", "/html", "/raw", "/part/4", "/part/77", "/nope", "?x=" + testSecret} {
		s.get(p)
	}
	s.do("GET", s.link[:strings.Index(s.link, "/m/")]+"/m/"+testSecret+"/"+testItem, nil, nil)
	s.do("GET", "", nil, http.Header{"Host": {testSecret}})
	s.do("POST", "/code", url.Values{}, http.Header{"Origin": {"http://" + testSecret}})
	s.vault.err = errors.New("trouble")
	s.get("")
	log := s.log.String()
	for _, secret := range []string{testSecret, testSecret[:12], "99887766", testCode, "Befund", "Jane", "Werte", "token"} {
		if strings.Contains(log, secret) {
			t.Errorf("the log has %q", secret)
		}
	}
	for _, want := range []string{`route=/m/{item}/{secret}/message status=200 item=` + testItem, "route=/m/{item}/{secret}/verify status=422", `status=404 item=""`} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
}

func TestDownloads(t *testing.T) {
	s := newTestSite(t, newFakeVault(crlf(fullLetter))).verified()
	a := s.get("/raw")
	wants(t, a, 200)
	if a.body != crlf(fullLetter) || a.ContentLength != int64(len(a.body)) {
		t.Error("the original is not what was sealed")
	}
	if h := a.Header; h.Get("Content-Type") != "application/octet-stream" || h.Get("Content-Disposition") != `attachment; filename="message.eml"` {
		t.Errorf("the original: %v", h)
	}
	for _, tt := range []struct {
		path, mediaType, disposition, body string
	}{
		{"/part/3", "image/png", `attachment; filename="logo.png"`, "\x89PNG"},
		{"/part/4", "application/pdf", `attachment; filename="Befund f_r Jane.pdf"; filename*=UTF-8''Befund%20f%C3%BCr%20Jane.pdf`, "%PDF-1.4 not really"},
		{"/part/5", "application/octet-stream", `attachment; filename="evil.html"`, "<script>"},
		{"/part/6", "application/octet-stream", `attachment; filename="message-6.eml"`, "From: a@b.example\r\nSubject: inner\r\n\r\ninner text"},
	} {
		a := s.get(tt.path)
		if a.StatusCode != 200 || a.Header.Get("Content-Type") != tt.mediaType || a.Header.Get("Content-Disposition") != tt.disposition || !strings.HasPrefix(a.body, tt.body) {
			t.Errorf("%s: %s %q %q %.40q", tt.path, a.Status, a.Header.Get("Content-Type"), a.Header.Get("Content-Disposition"), a.body)
		}
	}
	for _, p := range []string{"/part/7", "/part/0", "/part/-1", "/part/x", "/part/999999999999999999999"} {
		wants(t, s.get(p), 404, "There is no message here")
	}
}

func TestOtherFiles(t *testing.T) {
	s := newTestSite(t, newFakeVault(""))
	base := s.link[:strings.Index(s.link, "/m/")]
	if a := s.get(base + "/robots.txt"); a.StatusCode != 200 || a.body != "User-agent: *\nDisallow: /\n" {
		t.Errorf("robots.txt: %s %q", a.Status, a.body)
	}
	if a := s.get(base + "/favicon.ico"); a.StatusCode != 200 || a.Header.Get("Content-Type") != "image/svg+xml" {
		t.Errorf("icon: %s", a.Status)
	}
}

func TestUnderAPath(t *testing.T) {
	s := newTestSite(t, newFakeVault(crlf(plainLetter)), func(c *Config) { c.BaseURL = c.BaseURL.JoinPath("secure/mail/") })
	wants(t, s.get(""), 200, `action="/secure/mail/m/`)
	s.verified()
	wants(t, s.get("/message"), 200, `href="/secure/mail/m/`, "all values")
	wants(t, s.get(strings.Replace(s.link, "/secure/mail", "", 1)), 404)
}

func TestNewRefuses(t *testing.T) {
	ok, _ := url.Parse("https://portal.example")
	for _, c := range []Config{{}, {Vault: newFakeVault("")}, {BaseURL: ok}} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
	for _, s := range []string{"portal.example", "ftp://portal.example", "https://", "https://x/?a", "https://x/#a"} {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := New(Config{Vault: newFakeVault(""), BaseURL: u}); err == nil {
			t.Errorf("%s was taken", s)
		}
	}
}

func TestCode(t *testing.T) {
	for in, want := range map[string]string{
		"31415926": "31415926", " 3141 5926\n": "31415926", "3141-5926": "31415926", "3141–5926": "31415926", "3 1 4 1 5 9 2 6": "31415926",
		"Your code: 31415926, valid 15 minutes": "31415926", "３１４１５９２６": "31415926", "٣١٤١٥٩٢٦": "31415926", "\u200e31415926\u200e": "31415926",
		"314": "314", "": "", "abc": "", "12a34": "1234", "𝟑𝟏𝟒𝟏𝟓𝟗𝟐𝟔": "31415926",
	} {
		if got := code(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestMasked(t *testing.T) {
	for in, want := range map[string]string{
		"jane@old.example": "j•••@old.example", "é@x.example": "é•••@x.example", `"a b"@x.example`: "a•••@x.example", "@x": "•••", "": "•••", `"@"@x.example`: "@•••@x.example",
	} {
		if got := masked(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
