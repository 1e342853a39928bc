package portal

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
)

// accountSite is a portal whose message wants an account.
func accountSite(t testing.TB, change ...func(*fakeVault)) *testSite {
	t.Helper()
	v := newFakeVault(crlf(plainLetter))
	v.pickup.Verify = escrow.VerifyAccount
	for _, f := range change {
		f(v)
	}
	return newTestSite(t, v)
}

func enrolledBy(means ...string) func(*fakeVault) {
	return func(v *fakeVault) {
		v.enrolled = true
		for _, m := range means {
			switch m {
			case "password":
				v.password = testPassword
			case "passkey":
				v.passkeys = []escrow.Passkey{{ID: "key-1", Name: "phone", Created: testNow}}
			case "totp":
				v.totp = true
			case "mailbox":
				v.mailbox = true
			}
		}
	}
}

// inboxPath is the address of a page of the recipient's inbox.
func (s *testSite) inbox(path string) string {
	return s.link[:strings.Index(s.link, "/m/")] + "/inbox/" + testTag + path
}

// leadsTo checks where an answer sends the browser.
func leadsTo(t *testing.T, a answer, to string) {
	t.Helper()
	wants(t, a, http.StatusSeeOther)
	if got := a.Header.Get("Location"); !strings.HasSuffix(got, to) {
		t.Errorf("it leads to %q, want %q", got, to)
	}
}

func (a answer) json(t *testing.T) (p passkeyAnswer) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), &p); err != nil || a.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%s, %v: %.200s", a.Status, err, a.body)
	}
	return p
}

// cookie returns what the browser keeps under a name, for the message's pages.
func (s *testSite) cookie(name string) string {
	u, _ := url.Parse(s.link)
	for _, c := range s.client.Jar.Cookies(u) {
		if c.Name == name {
			return c.Value
		}
	}
	return ""
}

func TestEnrolByPassword(t *testing.T) {
	s := accountSite(t)
	wants(t, s.get(""), 200, "A protected message for you", "Send me a code", "choose a password", "!No account is needed", "!autofocus")
	leadsTo(t, s.post("/code"), s.link[strings.Index(s.link, "/m/"):])
	wants(t, s.get(""), 200, "A code was sent", `autocomplete="one-time-code"`, `autocomplete="new-password"`, "At least 10 characters", "Open the message", "Send another code", `data-passkey="create"`)
	for _, tt := range []struct {
		name     string
		fields   []string
		words    []string
		tries    int
		enrolled bool
	}{
		{"nothing", nil, []string{"made of digits", `id="problem"`}, 0, false},
		{"no password", []string{"answer", testCode}, []string{"Choose a password.", `id="password-problem"`, `value="` + testCode + `"`}, 0, false},
		{"a short password", []string{"answer", testCode, "password", "heron"}, []string{"too short", "at least 10", `value="` + testCode + `"`, "!heron"}, 0, false},
		{"a common one", []string{"answer", testCode, "password", "password123456"}, []string{"everybody who guesses", "!password123456"}, 0, false},
		{"a personal one", []string{"answer", testCode, "password", "janejanejane"}, []string{"too much like your address", "!janejanejane"}, 0, false},
		{"a long one", []string{"answer", testCode, "password", strings.Repeat("x", 200)}, []string{"too long"}, 0, false},
		{"a wrong code", []string{"answer", "1234 5678", "password", testPassword}, []string{"wrong or no longer valid", `value="1234 5678"`, "aria-invalid", "autofocus", "Error: ", "!" + testPassword}, 1, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := s.vault.tries
			wants(t, s.post("/enrol", tt.fields...), 422, tt.words...)
			if s.vault.tries-before != tt.tries || s.vault.enrolled {
				t.Errorf("%d tries, enrolled: %v", s.vault.tries-before, s.vault.enrolled)
			}
		})
	}
	a := s.do("POST", "/enrol", url.Values{"answer": {"Code: 3141-5926"}, "password": {testPassword}}, http.Header{"User-Agent": {"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}})
	leadsTo(t, a, "/message?verified")
	if s.vault.last.Device != "Firefox, Linux" || s.vault.last.Password != testPassword {
		t.Errorf("enrolled with %+v", s.vault.last)
	}
	wants(t, s.get("/message"), 200, "all values")
	// The link, and each form of a page that another tab still has, lead on.
	leadsTo(t, s.get(""), "/message")
	for _, p := range []string{"/code", "/enrol", "/signin", "/forgot"} {
		leadsTo(t, s.post(p), "/message")
	}
	if a := s.post("/enrol/passkey").json(t); !strings.HasSuffix(s.link, a.Go) || a.Go == "" {
		t.Errorf("the script is sent to %q", a.Go)
	}
	leadsTo(t, s.get("/forgot"), "/message")
	// A lock is not for this device.
	s.vault.lockTry = testNow.Add(time.Hour)
	wants(t, s.get("/message"), 200, "all values")
	leadsTo(t, s.post("/leave"), "?closed")
	if len(s.vault.devices) != 0 || s.cookie("device-"+testTag) != closedDevice {
		t.Error("still signed in")
	}
}

// A button pressed twice must not show an error, nor may a second person take over.
func TestEnrolTwice(t *testing.T) {
	s := accountSite(t, enrolledBy("password"))
	leadsTo(t, s.post("/enrol", "answer", testCode, "password", testPassword), "/message?verified")
	s.post("/leave")
	wants(t, s.post("/enrol", "answer", testCode, "password", "another password"), 422, "chosen for these messages already", "Forgot it")
	wants(t, s.post("/enrol", "answer", testCode, "ceremony", "ceremony-1", "response", testResponse), 422, "chosen for these messages already")
	if s.vault.password != testPassword {
		t.Error("the password was replaced")
	}
	leadsTo(t, s.post("/code"), testSecret)
	if s.vault.sent != 0 {
		t.Error("a code was sent that nothing asks for")
	}
}

func TestEnrolByPasskey(t *testing.T) {
	s := accountSite(t)
	s.post("/code")
	if p := s.post("/enrol/passkey", "answer", " ").json(t); p.Field != "answer" || !strings.Contains(p.Problem, "made of digits") {
		t.Errorf("no code: %+v", p)
	}
	a := s.post("/enrol/passkey", "answer", "11112222")
	if p := a.json(t); a.StatusCode != 422 || p.Field != "answer" || !strings.Contains(p.Problem, "wrong or no longer valid") {
		t.Errorf("a wrong code: %s %+v", a.Status, p)
	}
	a = s.post("/enrol/passkey", "answer", testCode)
	p := a.json(t)
	if a.StatusCode != 200 || p.Ceremony == "" || !strings.Contains(string(p.Options), "challenge") {
		t.Fatalf("%s %+v", a.Status, p)
	}
	// Left and come back to: the code is used, and not asked for again.
	wants(t, s.get(""), 200, "data-proven>", `value="`+p.Ceremony+`"`, "Choose a password", "required disabled")
	again := s.post("/enrol/passkey", "answer", "").json(t)
	if again.Ceremony == "" || again.Ceremony == p.Ceremony {
		t.Errorf("begun again: %+v", again)
	}
	wants(t, s.post("/enrol", "ceremony", again.Ceremony, "response", "{}"), 422, "Too much time has passed", `id="problem"`, "!required disabled")
	wants(t, s.get(""), 200, "data-proven hidden")
	leadsTo(t, s.post("/enrol", "ceremony", again.Ceremony, "response", testResponse, "password", "typed before"), "/message?verified")
	if s.vault.password != "" || len(s.vault.passkeys) != 1 {
		t.Error("a password was taken too")
	}
	wants(t, s.get("/message"), 200, "all values")
}

// A passkey that is cancelled leaves the right code good for a password.
func TestPasskeyCancelledThenPassword(t *testing.T) {
	s := accountSite(t)
	s.post("/code")
	c := s.post("/enrol/passkey", "answer", testCode).json(t).Ceremony
	wants(t, s.post("/enrol", "ceremony", c, "password", "short"), 422, "too short", "data-proven>", `value="`+c+`"`)
	tries := s.vault.tries
	leadsTo(t, s.post("/enrol", "ceremony", "", "password", testPassword), "/message?verified") // by the cookie
	if s.vault.tries != tries {
		t.Error("it cost a try")
	}
	if s.cookie("proven-"+suffix(testSecret)) != "" {
		t.Error("the ceremony is kept")
	}
}

func TestEnrolCeremonyOver(t *testing.T) {
	s := accountSite(t)
	s.post("/code")
	s.post("/enrol/passkey", "answer", testCode)
	clear(s.vault.ceremonies)
	if p := s.post("/enrol/passkey").json(t); p.Field != "answer" || !strings.Contains(p.Problem, "Too much time") {
		t.Errorf("%+v", p)
	}
	wants(t, s.post("/enrol", "ceremony", "ceremony-1", "password", testPassword), 422, "Too much time has passed", "Send another code")
	// Who asks for another code means to enter it.
	s.post("/code")
	wants(t, s.get(""), 200, "data-proven hidden")
	leadsTo(t, s.post("/enrol", "answer", testCode, "password", testPassword), "/message?verified")
}

func TestSignIn(t *testing.T) {
	type step struct {
		fields []string
		status int
		words  []string
	}
	for _, tt := range []struct {
		name  string
		means []string
		page  []string
		steps []step
	}{
		{
			"password", []string{"password"}, []string{`autocomplete="current-password webauthn"`, "Forgot it", "!Use your passkey", "!authenticator app", "!Send me a code", "j•••@old.example"},
			[]step{
				{nil, 422, []string{"Enter your password"}},
				{[]string{"password", "seven grey cranes"}, 422, []string{"not the password that you chose", "!cranes", `id="password-problem"`}},
				{[]string{"password", testPassword}, 303, nil},
			},
		},
		{
			"password and app", []string{"password", "totp"}, []string{"authenticator app", `autocomplete="one-time-code"`},
			[]step{
				{[]string{"password", testPassword}, 422, []string{"six digits", `id="totp-problem"`}},
				{[]string{"password", testPassword, "totp", "111111"}, 422, []string{"The password is wrong, or the code"}},
				{[]string{"password", testPassword, "totp", "271 828"}, 303, nil},
			},
		},
		{
			"passkey", []string{"passkey"}, []string{"Use your passkey", "needs JavaScript", "!current-password"},
			[]step{
				{[]string{"ceremony", "ceremony-1", "response", "{}"}, 422, []string{"passkey does not belong"}},
				{[]string{"ceremony", "ceremony-9", "response", testResponse}, 422, []string{"begin again"}},
				{[]string{"ceremony", "ceremony-1", "response", testResponse}, 303, nil},
			},
		},
		{
			"both", []string{"password", "passkey", "totp"}, []string{"Use your passkey", `name="ceremony" value="ceremony-`, `data-options="{&#34;publicKey`, "current-password"},
			[]step{{[]string{"ceremony", "ceremony-1", "response", testResponse, "password", "half of it"}, 303, nil}},
		},
	} {
		for _, at := range []string{"link", "inbox"} {
			t.Run(tt.name+" at the "+at, func(t *testing.T) {
				s := accountSite(t, enrolledBy(tt.means...))
				path, to, page := "", "/message?verified", "Open your protected message"
				if at == "inbox" {
					path, to, page = s.inbox(""), "/inbox/"+testTag+"?verified", "Open your protected messages"
				}
				if at == "link" {
					wants(t, s.get(path), 200, append(tt.page, page, `action="`)...)
				}
				if p := s.post(path + "/signin/passkey").json(t); p.Ceremony == "" {
					t.Errorf("%+v", p)
				}
				for _, st := range tt.steps {
					a := s.post(path+"/signin", st.fields...)
					wants(t, a, st.status, st.words...)
					if st.status == 303 {
						leadsTo(t, a, to)
					}
				}
				if at == "link" {
					wants(t, s.get("/message"), 200, "all values")
				}
				leadsTo(t, s.post(path+"/signin"), strings.TrimSuffix(to, "?verified")) // a second tab
			})
		}
	}
}

func TestSignInLocked(t *testing.T) {
	s := accountSite(t, enrolledBy("password", "passkey"))
	s.vault.lockTry = testNow.Add(20 * time.Minute)
	wants(t, s.get(""), 200, "Locked for a while", "25 November 2026, 09:50 UTC", "in 20 minutes", "Nothing is lost", "!current-password", "!Forgot it", "Your passkey is not affected")
	a := s.post("/signin", "password", testPassword)
	wants(t, a, http.StatusTooManyRequests, "Locked for a while", testSender)
	if a.Header.Get("Retry-After") != "1201" {
		t.Errorf("Retry-After: %q", a.Header.Get("Retry-After"))
	}
	wants(t, s.post(s.inbox("/signin"), "password", testPassword), http.StatusTooManyRequests, "Locked for a while", "!stays here until")
	s = accountSite(t)
	s.post("/code")
	s.vault.lockTry = testNow.Add(20 * time.Minute)
	wants(t, s.post("/enrol", "answer", testCode, "password", testPassword), http.StatusTooManyRequests, "Locked for a while")
	b := s.post("/enrol/passkey", "answer", testCode)
	if p := b.json(t); b.StatusCode != http.StatusTooManyRequests || !strings.Contains(p.Problem, "in 20 minutes") {
		t.Errorf("%s %+v", b.Status, p)
	}
}

func TestCookiesOff(t *testing.T) {
	s := accountSite(t, enrolledBy("password"))
	s.client.Jar = nil
	leadsTo(t, s.post("/signin", "password", testPassword), "/message?verified")
	leadsTo(t, s.get("/message?verified"), "?cookies")
	wants(t, s.get("?cookies"), 200, "did not keep the cookie", "Open your protected message")
}

func TestForgot(t *testing.T) {
	s := accountSite(t, enrolledBy("password"))
	wants(t, s.get("/forgot"), 200, "Ask <bdi>"+testSender, "Telephone", "!Send me a code")
	leadsTo(t, s.post("/forgot"), "/forgot?asked")
	wants(t, s.get("/forgot?asked"), 200, "We have asked", "open the link of the message again", "!<button type=\"submit\" class=\"main\"")
	if s.vault.asked != 1 {
		t.Errorf("asked %d times", s.vault.asked)
	}
	s.vault.lockAsk = testNow.Add(time.Hour)
	wants(t, s.post("/forgot"), http.StatusTooManyRequests, "asked already", "25 November 2026, 10:30 UTC", "Telephone")
	s.vault.pickup.Sender = ""
	wants(t, s.get("/forgot"), 200, "automatic mail system", "!<form")
	leadsTo(t, s.post("/forgot"), "/forgot")
	wants(t, s.get(s.inbox("/forgot")), 200, "Open the link in one of the mails", "!<form")
	// The sender has allowed it: the next visit enrols.
	s.vault.enrolled, s.vault.password = false, ""
	leadsTo(t, s.get("/forgot"), testSecret)
	wants(t, s.get(""), 200, "Send me a code")
	leadsTo(t, s.post("/signin", "password", testPassword), testSecret)
	wants(t, s.get(s.inbox("/forgot")), 404)
}

func TestForgotByMailbox(t *testing.T) {
	s := accountSite(t, enrolledBy("password", "mailbox"))
	wants(t, s.get("/forgot"), 200, "Send me a code", "the sender is told")
	leadsTo(t, s.post("/code"), "/forgot")
	wants(t, s.get("/forgot"), 200, "A code was sent", "new-password")
	wants(t, s.post("/enrol", "answer", "11112222", "password", "a new one of mine"), 422, "wrong or no longer valid", "You can’t sign in?")
	leadsTo(t, s.post("/enrol", "answer", testCode, "password", "a new one of mine"), "/message?verified")
	if s.vault.password != "a new one of mine" {
		t.Error("the password is the old one")
	}
}

func TestAccountPage(t *testing.T) {
	s := accountSite(t, enrolledBy("password", "passkey"))
	leadsTo(t, s.get(s.inbox("/account")), "/inbox/"+testTag)
	s.post("/signin", "password", testPassword)
	other := s.vault.grant(escrow.VerifyAccount)
	wants(t, s.get(s.inbox("/account")), 200, testHolder, "phone", "Change the password", "Set up an app", "(this one)", "Sign out everywhere", `action="/inbox/`+testTag+`/account/password"`)

	for _, tt := range []struct {
		path   string
		fields []string
		status int
		words  []string // or where it leads
	}{
		{"/password", []string{"old", testPassword}, 422, []string{"Choose a password.", "Error:"}},
		{"/password", []string{"old", testPassword, "password", "short"}, 422, []string{"too short", `id="password-problem"`}},
		{"/password", []string{"old", "wrong", "password", "three small wrens"}, 422, []string{"not your password", `id="old-problem"`, "!wrens"}},
		{"/password", []string{"old", testPassword, "password", "three small wrens"}, 303, []string{"?password"}},
		{"/passkey/add", []string{"name", "x"}, 303, []string{"/account"}},
		{"/passkey/add", []string{"ceremony", "none", "response", testResponse}, 422, []string{"took too long"}},
		{"/passkey/remove", []string{"id", "nonsense"}, 303, []string{"?passkey-removed"}},
		{"/totp/confirm", []string{"ceremony", "none", "totp", testTOTP}, 422, []string{"Set the app up again"}},
		{"/totp/remove", nil, 422, []string{"six digits"}},
		{"/signout", []string{"id", "nonsense"}, 303, []string{"?signed-out"}},
	} {
		a := s.post(s.inbox("/account"+tt.path), tt.fields...)
		if tt.status == 303 {
			leadsTo(t, a, tt.words[0])
			continue
		}
		wants(t, a, tt.status, tt.words...)
	}
	wants(t, s.get(s.inbox("/account?password")), 200, "Your password is changed")

	c := s.post(s.inbox("/account/passkey")).json(t).Ceremony
	leadsTo(t, s.post(s.inbox("/account/passkey/add"), "ceremony", c, "response", testResponse, "name", "  my\x00 <b>laptop "+strings.Repeat("x", 100)), "?passkey")
	wants(t, s.get(s.inbox("/account?passkey")), 200, "The passkey is added", "&lt;b&gt;laptop")
	if n := len([]rune(s.vault.passkeys[1].Name)); n > maxName {
		t.Errorf("a name of %d letters", n)
	}
	leadsTo(t, s.post(s.inbox("/account/passkey/remove"), "id", "key-1"), "?passkey-removed")
	s.vault.password = ""
	wants(t, s.post(s.inbox("/account/passkey/remove"), "id", "key-2"), 422, "only way to sign in", "It goes with a password", "With a password you can also")
	leadsTo(t, s.post(s.inbox("/account/password"), "password", "three small wrens"), "?password")

	a := s.post(s.inbox("/account/totp"))
	wants(t, a, 200, `src="data:image/png;base64,iVBORw==`[:26], "GEZDGNBVGY3TQOJQ", `href="otpauth://totp/`, "Ask for it from now on")
	c = a.body[strings.Index(a.body, "ceremony-"):]
	c = c[:strings.IndexByte(c, '"')]
	wants(t, s.post(s.inbox("/account/totp/confirm"), "ceremony", c, "totp", "111111"), 422, "Wait for the next one", "GEZDGNBVGY3TQOJQ", "data:image/png", `value="`+c+`"`)
	wants(t, s.post(s.inbox("/account/totp/confirm"), "ceremony", c, "totp", ""), 422, "six digits", "data:image/png")
	leadsTo(t, s.post(s.inbox("/account/totp/confirm"), "ceremony", c, "totp", testTOTP), "?totp")
	wants(t, s.get(s.inbox("/account")), 200, "Ask for it no longer", "!Set up an app")
	wants(t, s.post(s.inbox("/account/totp/remove"), "totp", "111111"), 422, "Wait for the next one")
	leadsTo(t, s.post(s.inbox("/account/totp/remove"), "totp", testTOTP), "?totp-removed")

	s.vault.lockTry = testNow.Add(time.Hour)
	wants(t, s.post(s.inbox("/account/password"), "old", "x", "password", "three small wrens"), 422, "nothing is accepted until", "in 60 minutes")
	leadsTo(t, s.post(s.inbox("/account/signout"), "id", other.Token), "?signed-out")
	if s.vault.devices[other.Token] != nil {
		t.Error("still signed in there")
	}
	leadsTo(t, s.post(s.inbox("/account/signout/all")), "/inbox/"+testTag+"?closed")
	leadsTo(t, s.post(s.inbox("/account/password"), "old", "x", "password", "three small wrens"), "/inbox/"+testTag)
}

// A device that a code verified does not touch the account.
func TestAccountPageWantsTheAccount(t *testing.T) {
	s := accountSite(t, enrolledBy("password"))
	g := s.vault.grant(escrow.VerifyCode)
	u, _ := url.Parse(s.link)
	s.client.Jar.SetCookies(u, []*http.Cookie{{Name: "device-" + testTag, Value: g.Token, Path: "/"}})
	for _, path := range []string{"/password", "/passkey", "/passkey/add", "/passkey/remove", "/totp", "/totp/confirm", "/totp/remove", "/signout", "/signout/all"} {
		leadsTo(t, s.post(s.inbox("/account"+path)), "/inbox/"+testTag)
	}
	leadsTo(t, s.get(s.inbox("/account")), "/inbox/"+testTag)
	wants(t, s.get(""), 200, "Open your protected message") // nor does it open this
	leadsTo(t, s.get("/message"), testSecret)
}

func TestAccountsAndStrangers(t *testing.T) {
	s := accountSite(t)
	base := s.link[:strings.Index(s.link, "/m/")]
	first := s.get(base + "/nowhere").body
	for _, path := range []string{"/inbox/" + testTag + "/forgot", "/inbox/nobody/account", "/inbox/" + testTag + "/account"} {
		if a := s.get(base + path); a.StatusCode != 404 || a.body != first {
			t.Errorf("%s: %s", path, a.Status)
		}
	}
	for _, path := range []string{"/signin", "/signin/passkey", "/forgot", "/account/password", "/account/passkey"} {
		if a := s.post(base + "/inbox/" + testTag + path); a.StatusCode != 404 {
			t.Errorf("%s: %s", path, a.Status)
		}
	}
	// Forms and the script's requests are for our own pages.
	for _, path := range []string{"/enrol", "/enrol/passkey", "/signin", "/signin/passkey", "/forgot"} {
		wants(t, s.do("POST", path, url.Values{}, http.Header{"Origin": {"https://evil.example"}}), 403)
	}
	for _, method := range []string{"GET", "HEAD", "PUT"} {
		for _, path := range []string{"/enrol", "/enrol/passkey", "/signin", "/signin/passkey", "/forgot", ""} {
			if a := s.do(method, path, nil, nil); len(a.Cookies()) > 0 {
				t.Errorf("%s %s sets a cookie", method, path)
			}
		}
	}
	for _, c := range s.vault.calls {
		if c != "Pickup" && c != "CheckDevice" && c != "Owner" {
			t.Errorf("a stranger called %s", c)
		}
	}
}

func TestNoAccountSecretIsLogged(t *testing.T) {
	s := accountSite(t)
	s.post("/code")
	s.post("/enrol", "answer", "99887766", "password", testPassword)
	s.post("/enrol/passkey", "answer", testCode)
	s.post("/enrol", "password", testPassword)
	s.get("/message")
	s.post(s.inbox("/account/password"), "old", testPassword, "password", "three small wrens")
	s.post(s.inbox("/signin"), "password", testPassword)
	s.post("/leave")
	s.post("/signin", "password", testPassword, "totp", testTOTP)
	log := s.log.String()
	for _, secret := range []string{testSecret, testCode, "99887766", testPassword, "herons", "wrens", "ceremony-", "device-", testTOTP, testTag, "jane"} {
		if strings.Contains(log, secret) {
			t.Errorf("the log has %q", secret)
		}
	}
	if !strings.Contains(log, "route=/inbox/{tag}/account/password status=303") {
		t.Errorf("the log lacks the route:\n%s", log)
	}
}

// The script's policy is on the pages that have it, and on no other.
func TestPasskeyScript(t *testing.T) {
	s := accountSite(t)
	csp := s.get("").Header.Get("Content-Security-Policy")
	for _, want := range []string{"script-src 'sha256-", "connect-src 'self'", "default-src 'none'"} {
		if !strings.Contains(csp, want) {
			t.Errorf("policy %q lacks %q", csp, want)
		}
	}
	if strings.Contains(csp, "unsafe") {
		t.Errorf("policy %q", csp)
	}
	enrolledBy("password")(s.vault)
	for _, p := range []string{"", "/forgot"} {
		if a := s.get(p); !strings.Contains(a.Header.Get("Content-Security-Policy"), "script-src") || len(a.body) > 50_000 {
			t.Errorf("%s: %q, %d bytes", p, a.Header.Get("Content-Security-Policy"), len(a.body))
		}
	}
	s.post("/signin", "password", testPassword)
	if csp := s.get("/message").Header.Get("Content-Security-Policy"); strings.Contains(csp, "script-src") && strings.Contains(s.get("/message").body, "PublicKeyCredential") {
		t.Errorf("the message's policy: %q", csp)
	}
}

func TestDeviceName(t *testing.T) {
	for agent, want := range map[string]string{
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36 Edg/140.0.0.0":       "Edge, Windows",
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Mobile Safari/604.1":    "Safari, iPhone",
		"Mozilla/5.0 (Linux; Android 15; K) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/28.0 Chrome/130.0.0.0 Mobile Safari/537.36": "Samsung Internet, Android",
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36":               "Chrome, Mac",
		"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0":                                                              "Firefox, Linux",
		"curl/8": "", "": "", "<script>Windows": "Windows",
	} {
		if got := deviceName(&http.Request{Header: http.Header{"User-Agent": {agent}}}); got != want {
			t.Errorf("%s: %q, want %q", agent, got, want)
		}
	}
}
