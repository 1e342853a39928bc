package portal

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postseal/postseal/escrow"
)

// pipes is a listener of connections in memory.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes"} }

// A stranger that announces a body and sends none does not keep its connection:
// there are only so many.
func TestABodyThatNeverComesEndsTheConnection(t *testing.T) {
	for _, path := range []string{"/nope", "/m/" + testItem + "/" + testItem + "/code", "/m/" + testItem + "/" + testSecret + "/code", "/m/" + testItem + "/" + testSecret + "/verify", "/m/" + testItem + "/" + testSecret + "/leave",
		"/m/" + testItem + "/" + testSecret + "/reply", "/m/" + testItem + "/" + testItem + "/reply"} {
		for _, method := range []string{"GET", "POST"} {
			synctest.Test(t, func(t *testing.T) {
				base, _ := url.Parse("http://portal.example")
				h, err := New(Config{Vault: newFakeVault(crlf(plainLetter)), Replies: newFakeReplies(), BaseURL: base})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				ln, done := make(pipes), make(chan error)
				go func() { done <- Run(ctx, ln, h, nil) }()
				ours, theirs := net.Pipe()
				ln <- theirs
				go io.WriteString(ours, method+" "+path+" HTTP/1.1\r\nHost: portal.example\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\nanswer=")
				start := time.Now()
				ours.SetReadDeadline(start.Add(24 * time.Hour))
				if _, err := io.Copy(io.Discard, ours); err != nil || time.Since(start) > time.Hour {
					t.Errorf("%s %s: closed after %v, %v", method, path, time.Since(start), err)
				}
				ours.Close()
				cancel()
				close(ln)
				<-done
			})
		}
	}
}

// slowVault opens messages only when told.
type slowVault struct {
	*fakeVault
	open   chan struct{}
	opened atomic.Int64
}

func (s *slowVault) Open(ctx context.Context, p *escrow.Pickup, session *escrow.Session) (io.ReadCloser, error) {
	s.opened.Add(1)
	<-s.open
	return s.fakeVault.Open(ctx, p, session)
}

// Each download that is slow to go needs memory: of one message there are but a
// few at a time, and the pages of the message don't wait for them.
func TestDownloadsOfOneMessageAtATime(t *testing.T) {
	for path, places := range map[string]int{"/raw": gatePlaces, "/part/1": gatePlaces, "/message": parallelRendering, "/html": parallelRendering} {
		synctest.Test(t, func(t *testing.T) {
			base, _ := url.Parse("http://portal.example")
			vault := &slowVault{fakeVault: newFakeVault(crlf(plainLetter)), open: make(chan struct{})}
			h, err := New(Config{Vault: vault, BaseURL: base})
			if err != nil {
				t.Fatal(err)
			}
			answers := make(chan int, gatePlaces+2)
			ask := func(path string) {
				r := httptest.NewRequest("GET", "http://portal.example/m/"+testItem+"/"+testSecret+path, nil)
				r.AddCookie(&http.Cookie{Name: (&portal{}).cookieName("device", &visit{suffix: suffix(testSecret)}), Value: "token"})
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				answers <- w.Code
			}
			for range gatePlaces + 1 {
				go ask(path)
			}
			synctest.Wait()
			if n := vault.opened.Load(); n != int64(places) {
				t.Errorf("%s: %d opened at a time, want %d", path, n, places)
			}
			other := "/raw"
			if places == gatePlaces {
				other = "/message"
			}
			go ask(other)
			synctest.Wait()
			if n := vault.opened.Load(); n != int64(places)+1 {
				t.Errorf("%s waits for %s", other, path)
			}
			time.Sleep(gateWait + time.Second)
			if got := <-answers; got != http.StatusServiceUnavailable {
				t.Errorf("%s: who waited long got %d", path, got)
			}
			close(vault.open)
			for range gatePlaces + 1 {
				if got := <-answers; got != http.StatusOK {
					t.Errorf("%s: %d", path, got)
				}
			}
		})
	}
}

func TestAGateForgetsWhoLeft(t *testing.T) {
	g := newGate()
	for range 3 * gatePlaces {
		leave, err := g.enter(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		leave()
	}
	ctx, cancel := context.WithCancel(t.Context())
	var leaves []func()
	for range gatePlaces {
		leave, err := g.enter(ctx, "a")
		if err != nil {
			t.Fatal(err)
		}
		leaves = append(leaves, leave)
	}
	cancel()
	if _, err := g.enter(ctx, "a"); err == nil {
		t.Error("one too many")
	}
	if _, err := g.enter(t.Context(), "b"); err != nil {
		t.Error(err)
	}
	for _, leave := range leaves {
		leave()
	}
	if len(g.keys) != 1 {
		t.Errorf("%d keys left, want that of b", len(g.keys))
	}
}

// What others parse in time that grows by the square is cut before.
func TestLongStylesAndFieldsAreCut(t *testing.T) {
	s := newSanitizer()
	long := strings.Repeat("color:red;", maxStyle/10+1)
	for in, want := range map[string]string{
		`<p title="a&lt;b" style="` + long + `">x</p>`:                          `<p title="a&lt;b">x</p>`,
		`<p style="color:red">x</p><p style="` + long + `" style="color:red">y`: `<p style="color: red">x</p><p>y`,
		`<p title="` + strings.Repeat("y", maxStyle) + `" style="color:red">x`:  `<p title="` + strings.Repeat("y", maxStyle) + `" style="color: red">x`,
	} {
		if got := show(t, s, in); got != want && got != want+"</p>" {
			t.Errorf("%.60q\n got %.200q\nwant %.200q", in, got, want)
		}
	}
	for _, between := range []string{";", " ;", "a=b;"} {
		field := "text/plain;" + strings.Repeat(between, maxField/len(between)) + "charset=utf-8"
		if kind, params := contentType(field, ""); kind != "text/plain" || params["charset"] != "" {
			t.Errorf("%q read to the end: %q %.100q", between, kind, params)
		}
	}
}

// In another tab the form is still open: it costs a verified device nothing, and
// locks are not for it.
func TestTwoTabs(t *testing.T) {
	for _, verify := range []string{escrow.VerifyCode, escrow.VerifyPassphrase} {
		vault := newFakeVault(crlf(plainLetter))
		vault.pickup.Verify = verify
		s := newTestSite(t, vault).verified()
		vault.lockTry, vault.lockCode = testNow.Add(time.Hour), testNow.Add(time.Hour)
		sent, tries := vault.sent, vault.tries
		for _, a := range []answer{s.post("/code"), s.post("/verify", "answer", "27182818"), s.post("/verify", "answer", testCode)} {
			if to := a.Header.Get("Location"); a.StatusCode != 303 || !strings.HasSuffix(to, testSecret+"/message") && !strings.HasSuffix(to, testSecret) {
				t.Errorf("%s: %s to %q", verify, a.Status, to)
			}
		}
		if vault.sent != sent || vault.tries != tries {
			t.Errorf("%s: %d codes more, %d tries", verify, vault.sent-sent, vault.tries-tries)
		}
		wants(t, s.get("/message"), 200, "all values")
	}
}
