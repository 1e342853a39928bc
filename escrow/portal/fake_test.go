package portal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/escrow"
)

const (
	testItem   = "aaaabbbbccccddddeeeeffff22"
	testSecret = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
	testCode   = "31415926"
	testPhrase = "seven grey herons"
	testSender = "doc@clinic.example"
	testHolder = "jane.roe@old.example"
	testTag    = "janeroejaneroejaner2"
)

var testNow = time.Date(2026, 11, 25, 9, 30, 0, 0, time.UTC)

// fakeVault is a vault of one pickup, in memory.
type fakeVault struct {
	mu       sync.Mutex
	pickup   escrow.Pickup
	raw      []byte
	err      error // of Pickup, with the right secret
	trouble  error // of every call but Pickup
	cutAfter int   // bytes after which reading fails, 0 for never
	codes    []string
	sent     int
	tries    int
	opened   int
	calls    []string
	clients  []netip.Addr
	lockTry  time.Time
	lockCode time.Time
	now      func() time.Time
	devices  map[string]*escrow.Device // by token
	fakeAccounts
}

func newFakeVault(raw string) *fakeVault {
	return &fakeVault{
		raw: []byte(raw),
		pickup: escrow.Pickup{
			ItemID: testItem, Recipient: testHolder, Sender: testSender, Verify: escrow.VerifyCode, Mode: escrow.ModeRecoverable,
			Tag: testTag, State: escrow.StateHeld, Created: testNow.Add(-2 * time.Hour), Expires: testNow.Add(30 * 24 * time.Hour), Size: int64(len(raw)),
		},
		now:     func() time.Time { return testNow },
		devices: map[string]*escrow.Device{},
	}
}

func (f *fakeVault) called(name string) func() {
	f.mu.Lock()
	f.calls = append(f.calls, name)
	return f.mu.Unlock
}

func (f *fakeVault) Pickup(ctx context.Context, item, secret string) (*escrow.Pickup, error) {
	defer f.called("Pickup")()
	if item != testItem || secret != testSecret {
		return nil, escrow.ErrUnknown
	}
	p := f.pickup
	if f.err != nil && !errors.Is(f.err, escrow.ErrExpired) && !errors.Is(f.err, escrow.ErrRetracted) {
		return nil, f.err
	}
	p.Locked = f.lockTry
	if p.Verify == escrow.VerifyAccount {
		p.Account = f.state()
	}
	return &p, f.err
}

func (f *fakeVault) SendCode(ctx context.Context, p *escrow.Pickup, c escrow.Client) error {
	defer f.called("SendCode")()
	f.clients = append(f.clients, c.Addr)
	if f.trouble != nil {
		return f.trouble
	}
	if f.lockCode.After(f.now()) {
		return &escrow.LockedError{Until: f.lockCode}
	}
	f.sent++
	f.codes = append(f.codes, testCode)
	return nil
}

// grant verifies a new device.
func (f *fakeVault) grant(how string) escrow.Grant {
	token := fmt.Sprintf("device-%d", len(f.devices))
	lives := map[string]time.Duration{escrow.VerifyCode: 12 * time.Hour, escrow.VerifyAccount: 30 * 24 * time.Hour}[how]
	f.devices[token] = &escrow.Device{Address: testHolder, Tag: testTag, How: how, Created: f.now(), Expires: f.now().Add(lives)}
	return escrow.Grant{Token: token, Expires: f.now().Add(lives), Device: true}
}

// try is what every try passes through.
func (f *fakeVault) try(c escrow.Client) error {
	f.clients = append(f.clients, c.Addr)
	if f.trouble != nil {
		return f.trouble
	}
	if f.lockTry.After(f.now()) {
		return &escrow.LockedError{Until: f.lockTry}
	}
	f.tries++
	return nil
}

func (f *fakeVault) useCode(answer string) error {
	if !slices.Contains(f.codes, answer) {
		return escrow.ErrWrong
	}
	return nil
}

func (f *fakeVault) Prove(ctx context.Context, p *escrow.Pickup, answer string, c escrow.Client) (escrow.Grant, error) {
	defer f.called("Prove")()
	if err := f.try(c); err != nil {
		return escrow.Grant{}, err
	}
	if p.Verify == escrow.VerifyPassphrase && answer == testPhrase {
		return escrow.Grant{Token: "token", Expires: f.now().Add(12 * time.Hour)}, nil
	}
	if p.Verify == escrow.VerifyCode && f.useCode(answer) == nil {
		return f.grant(escrow.VerifyCode), nil
	}
	return escrow.Grant{}, escrow.ErrWrong
}

func (f *fakeVault) CheckDevice(ctx context.Context, tag, token string) (*escrow.Device, error) {
	defer f.called("CheckDevice")()
	if d := f.devices[token]; d != nil && tag == d.Tag {
		return d, nil
	}
	return nil, escrow.ErrUnknown
}

func (f *fakeVault) Admit(ctx context.Context, p *escrow.Pickup, d *escrow.Device) (*escrow.Session, error) {
	defer f.called("Admit")()
	if p.Verify == escrow.VerifyPassphrase || p.Verify == escrow.VerifyAccount && d.How != escrow.VerifyAccount {
		return nil, escrow.ErrUnknown
	}
	return &escrow.Session{Expires: d.Expires, How: d.How}, nil
}

func (f *fakeVault) SignOut(ctx context.Context, d *escrow.Device) error {
	defer f.called("SignOut")()
	for token, other := range f.devices {
		if d == other {
			delete(f.devices, token)
		}
	}
	return nil
}

func (f *fakeVault) CheckToken(ctx context.Context, p *escrow.Pickup, token string) (*escrow.Session, error) {
	defer f.called("CheckToken")()
	if token != "token" {
		return nil, escrow.ErrUnknown
	}
	return &escrow.Session{Expires: f.now().Add(12 * time.Hour)}, nil
}

func (f *fakeVault) Open(ctx context.Context, p *escrow.Pickup, s *escrow.Session) (io.ReadCloser, error) {
	defer f.called("Open")()
	if f.trouble != nil {
		return nil, f.trouble
	}
	f.opened++
	var r io.Reader = bytes.NewReader(f.raw)
	if f.cutAfter > 0 {
		r = io.MultiReader(bytes.NewReader(f.raw[:f.cutAfter]), errReader{})
	}
	return io.NopCloser(r), nil
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("chunk 7 is damaged") }

// site is a portal on loopback, and a browser without cookies from others.
type testSite struct {
	*httptest.Server
	t      testing.TB
	vault  *fakeVault
	log    *lockedBuffer
	client *http.Client
	link   string // path and all
}

func newTestSite(t testing.TB, vault *fakeVault, change ...func(*Config)) *testSite {
	t.Helper()
	s := &testSite{t: t, vault: vault, log: &lockedBuffer{}}
	var h http.Handler
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(w, r) }))
	t.Cleanup(s.Close)
	base, err := url.Parse(strings.Replace(s.URL, "127.0.0.1", "localhost", 1))
	if err != nil {
		t.Fatal(err)
	}
	c := Config{
		Vault: vault, Accounts: vault, BaseURL: base, SupportText: "Questions? Telephone 555-0100.", Registerer: prometheus.NewRegistry(),
		Log: slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Now: vault.now,
	}
	for _, f := range change {
		f(&c)
	}
	if h, err = New(c); err != nil {
		t.Fatal(err)
	}
	jar, _ := cookiejar.New(nil)
	s.client = &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	s.link = strings.TrimSuffix(c.BaseURL.String(), "/") + "/m/" + testItem + "/" + testSecret
	return s
}

// answer is what came back.
type answer struct {
	*http.Response
	body string
}

func (s *testSite) do(method, path string, fields url.Values, header http.Header) answer {
	s.t.Helper()
	target := path
	if !strings.HasPrefix(path, "http") {
		target = s.link + path
	}
	var body io.Reader
	if fields != nil {
		body = strings.NewReader(fields.Encode())
	}
	r, err := http.NewRequest(method, target, body)
	if err != nil {
		s.t.Fatal(err)
	}
	if fields != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for k, v := range header {
		r.Header[k] = v
		if k == "Host" {
			r.Host = v[0]
		}
	}
	resp, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{resp, string(b)}
}

func (s *testSite) get(path string) answer { s.t.Helper(); return s.do("GET", path, nil, nil) }
func (s *testSite) post(path string, fields ...string) answer {
	s.t.Helper()
	v := url.Values{}
	for i := 0; i+1 < len(fields); i += 2 {
		v.Set(fields[i], fields[i+1])
	}
	return s.do("POST", path, v, nil)
}

// verified gives the browser a session.
func (s *testSite) verified() *testSite {
	s.t.Helper()
	s.post("/code")
	right := testCode
	if s.vault.pickup.Verify == escrow.VerifyPassphrase {
		right = testPhrase
	}
	if a := s.post("/verify", "answer", right); a.StatusCode != http.StatusSeeOther {
		s.t.Fatalf("verify: %s", a.Status)
	}
	return s
}
