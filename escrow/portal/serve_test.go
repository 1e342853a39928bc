package portal

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/lab/logtext"
)

// The escrow is what the portal wants.
var _ Vault = (*escrow.Vault)(nil)

func TestCheckListen(t *testing.T) {
	for addr, plain := range map[string]bool{
		"127.0.0.1:8645": true, "127.9.9.9:1": true, "[::1]:8645": true, "localhost:8645": true, "unix:/run/postseal/portal": true, "[::ffff:127.0.0.1]:1": true,
		"0.0.0.0:8645": false, ":8645": false, "[::]:8645": false, "192.0.2.1:8645": false, "portal.example:443": false, "localhost.evil.example:1": false,
	} {
		if err := CheckListen(addr, false); (err == nil) != plain {
			t.Errorf("%s without a certificate: %v", addr, err)
		}
		if err := CheckListen(addr, true); err != nil {
			t.Errorf("%s with a certificate: %v", addr, err)
		}
	}
	for _, addr := range []string{"", "8645", "127.0.0.1", "unix:"} {
		if CheckListen(addr, true) == nil {
			t.Errorf("%q was taken", addr)
		}
	}
}

// running is a portal that Run serves.
type running struct {
	addr string
	log  *lockedBuffer
	stop func() error
}

type lockedBuffer = logtext.Log

func run(t *testing.T, vault Vault, base string, ln net.Listener, config *tls.Config) *running {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	r := &running{addr: ln.Addr().String(), log: &lockedBuffer{}}
	h, err := New(Config{Vault: vault, BaseURL: u, Log: slog.New(slog.NewTextHandler(r.log, nil)), Now: func() time.Time { return testNow }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, ln, h, config) }()
	stopped := false
	r.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(30 * time.Second):
			t.Error("does not stop")
			return nil
		}
	}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func listen(t *testing.T, network, addr string) net.Listener {
	t.Helper()
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func selfSigned(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
}

func TestRunOverTLS(t *testing.T) {
	ln := listen(t, "tcp", "0.0.0.0:0")
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	base := "https://localhost:" + port
	r := run(t, newFakeVault(""), base, ln, selfSigned(t))
	for _, h2 := range []bool{false, true} {
		c := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: h2, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
		a, err := c.Get(base + "/m/" + testItem + "/" + testSecret)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(a.Body)
		a.Body.Close()
		if a.StatusCode != 200 || (a.ProtoMajor == 2) != h2 || a.Header.Get("Strict-Transport-Security") == "" || !strings.Contains(string(b), testSender) {
			t.Errorf("%s %s", a.Proto, a.Status)
		}
		c.CloseIdleConnections()
	}
	if strings.Contains(r.log.String(), "without a readable request") {
		t.Error(r.log)
	}
}

func TestRunRefusesPlaintextBeyondLoopback(t *testing.T) {
	ln := listen(t, "tcp", "0.0.0.0:0")
	if err := Run(context.Background(), ln, http.NotFoundHandler(), nil); err == nil || !strings.Contains(err.Error(), "--portal-cert") {
		t.Errorf("%v", err)
	}
	if _, err := ln.Accept(); err == nil {
		t.Error("still listens")
	}
}

func TestRunOnAUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	run(t, newFakeVault(""), "http://portal.example", listen(t, "unix", path), nil)
	c := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) }}}
	a, err := c.Get("http://portal.example/m/" + testItem + "/" + testSecret)
	if err != nil {
		t.Fatal(err)
	}
	a.Body.Close()
	if a.StatusCode != 200 {
		t.Error(a.Status)
	}
	c.CloseIdleConnections()
}

func TestBadClientsAreNamedAndHarmNobody(t *testing.T) {
	ln := listen(t, "tcp", "127.0.0.1:0")
	base := "http://" + ln.Addr().String()
	r := run(t, newFakeVault(""), base, ln, nil)
	for name, in := range map[string]string{
		"garbage":     "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
		"SMTP":        "EHLO x.example\r\n\r\n",
		"big headers": "GET / HTTP/1.1\r\nX: " + strings.Repeat("y", 2*maxHeader) + "\r\n\r\n",
		"half open":   "GET / HT",
	} {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, in)
		if name == "half open" {
			c.(*net.TCPConn).CloseWrite()
		}
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.Copy(io.Discard, c); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%s: not closed: %v", name, err)
		}
		peer := c.LocalAddr().String()
		c.Close()
		for end := time.Now().Add(10 * time.Second); !strings.Contains(r.log.String(), "peer="+peer); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: no line names %s:\n%s", name, peer, r.log)
			}
		}
	}
	a, err := http.Get(base + "/m/" + testItem + "/" + testSecret)
	if err != nil || a.StatusCode != 200 {
		t.Fatalf("others suffer: %v", err)
	}
	a.Body.Close()
	http.DefaultClient.CloseIdleConnections()
}

// A download under way when the server stops ends well.
func TestShutdownLetsDownloadsEnd(t *testing.T) {
	vault := newFakeVault("Subject: x\r\n\r\n" + strings.Repeat("a line\r\n", 2<<20))
	ln := listen(t, "tcp", "127.0.0.1:0")
	base := "http://" + ln.Addr().String()
	r := run(t, vault, base, ln, nil)
	req, _ := http.NewRequest("GET", base+"/m/"+testItem+"/"+testSecret+"/raw", nil)
	hashName := (&portal{}).cookieName("device", &visit{suffix: suffix(testSecret)})
	req.AddCookie(&http.Cookie{Name: hashName, Value: "token"})
	a, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	if a.StatusCode != 200 {
		t.Fatal(a.Status)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- r.stop() }()
	time.Sleep(100 * time.Millisecond)
	n, err := io.Copy(io.Discard, a.Body)
	if err != nil || n != int64(len(vault.raw)) {
		t.Errorf("%d bytes of %d, %v", n, len(vault.raw), err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// TestOneClientCannotTakeAllConnections opens as many as one may have, and one more, which
// is closed; another client, and a proxy, get in; a place that is left is free again.
func TestOneClientCannotTakeAllConnections(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var logged lockedLog
	limited := &perClient{
		Listener: ln, most: 3, log: slog.New(slog.NewTextHandler(&logged, nil)),
		proxies: func(a netip.Addr) bool { return a == netip.MustParseAddr("127.0.0.9") },
	}
	defer limited.Close()
	accepted := make(chan net.Conn, 100)
	go func() {
		for {
			c, err := limited.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	dial := func(from string) net.Conn {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := d.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	taken := func(from string, want bool) net.Conn {
		t.Helper()
		c := dial(from)
		if want {
			return <-accepted
		}
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("one too many of %s is not closed: %v", from, err)
		}
		return nil
	}
	var mine []net.Conn
	for range 3 {
		mine = append(mine, taken("127.0.0.5", true))
	}
	taken("127.0.0.5", false)
	taken("127.0.0.5", false)
	taken("127.0.0.6", true)
	for range 10 {
		taken("127.0.0.9", true)
	}
	mine[0].Close()
	mine[0].Close() // twice counts once
	taken("127.0.0.5", true)
	taken("127.0.0.5", false)
	if n := strings.Count(logged.String(), "too many"); n != 1 {
		t.Errorf("logged %d times", n)
	}
	limited.mu.Lock()
	defer limited.mu.Unlock()
	if len(limited.open) != 2 {
		t.Errorf("%v", limited.open)
	}
}

// lockedLog is a log that is read while it is written.
type lockedLog = logtext.Log
