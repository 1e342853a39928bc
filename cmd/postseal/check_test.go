package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postseal/postseal/internal/lab/fakedns"
	"github.com/postseal/postseal/internal/lab/fakesmtp"
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/sql"
	"github.com/postseal/postseal/tlsmap"
	"github.com/postseal/postseal/tlsmap/check"
)

// laptop is a machine with neither Postfix nor database.
func laptop(t *testing.T) {
	t.Helper()
	t.Chdir(t.TempDir())
	d, err := fakedns.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	if err := d.Add("null.example. 300 IN MX 0 .", "inside.example. 300 IN MX 10 mx.inside.example.", "mx.inside.example. 300 IN A 127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	t.Setenv("POSTSEAL_DB", "sqlite:none/p.db")
	t.Setenv("POSTSEAL_POSTFIX_CONFIG_DIR", "none")
	t.Setenv("POSTSEAL_RESOLVER", d.Addr())
}

// run runs a command and returns what it printed.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out, errOut bytes.Buffer
	app := newApp(strings.NewReader(""), &out, &errOut)
	err := app.Run(moveFlags(app, append([]string{"postseal"}, args...)))
	return out.String(), err
}

func exitCode(err error) int {
	var e exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return e.code
	}
	return 1
}

// mailHost starts one with a certificate that nobody trusts, and returns its next-hop.
func mailHost(t *testing.T, b fakesmtp.Behaviour) string {
	t.Helper()
	ca, err := fakesmtp.NewCA("")
	if err != nil {
		t.Fatal(err)
	}
	if b.Certificate, err = ca.Issue(fakesmtp.CertOptions{Names: []string{"mx.a.example"}}); err != nil {
		t.Fatal(err)
	}
	s, err := fakesmtp.Start("127.0.0.1:0", b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	_, port, _ := net.SplitHostPort(s.Addr())
	return "[127.0.0.1]:" + port
}

// The checker works on any machine, and its exit codes are for scripts.
func TestCheckWithoutPostfixOrDatabase(t *testing.T) {
	laptop(t)
	good := mailHost(t, fakesmtp.Behaviour{STARTTLS: true})
	bare := mailHost(t, fakesmtp.Behaviour{})
	for _, tt := range []struct {
		args []string
		code int
		want string // in the output or the error
	}{
		{[]string{"check", good}, 0, ": tls ("},
		{[]string{"check", good, "--fail-below", "tls"}, 0, ": tls ("},
		{[]string{"check", good, "--fail-below", "verified"}, 2, ": tls ("},
		{[]string{"check", good, bare, "--quick", "--fail-below", "tls"}, 2, ": none ("},
		{[]string{"check", "null.example"}, 0, "nomail"},
		{[]string{"check", "null.example"}, 0, "no rules are known here"},
		{[]string{"check", "null.example", "--fail-below", "none"}, 2, "nomail"},
		{[]string{"check", "joe@null.example"}, 0, "null MX"},
		{[]string{"check", "null.example", "--fail-below", "splendid"}, 1, "want unknown, nomail"},
		{[]string{"check", "null.example", "--pause", "soon"}, 1, "--pause"},
		{[]string{"check", "null.example", "--timeout", "soon"}, 1, "--timeout"},
		{[]string{"check"}, 1, "at least one DOMAIN"},
		{[]string{"check", "192.0.2.1"}, 1, "write [192.0.2.1]"},
		{[]string{"check", "a..example"}, 1, "bad label"},
		{[]string{"check", "joe@"}, 1, "not a host name"},
		{[]string{"check", "a.example:0"}, 1, "port 0"},
		{[]string{"check", "joe@a.example:25"}, 1, "an address has no port"},
		{[]string{"check", "null.example", "--db", "sqlite:none/p.db"}, 1, "database"},
	} {
		out, err := run(t, tt.args...)
		text := out
		if err != nil {
			text += err.Error()
		}
		if got := exitCode(err); got != tt.code || !strings.Contains(text, tt.want) {
			t.Errorf("%q: exit %d, want %d with %q:\n%s", tt.args, got, tt.code, tt.want, text)
		}
		if strings.Contains(out, "\x1b") {
			t.Errorf("%q: colours in a pipe", tt.args)
		}
	}
	if _, err := os.Stat("none"); err == nil {
		t.Error("a check makes a database")
	}
}

func TestCheckJSON(t *testing.T) {
	laptop(t)
	good := mailHost(t, fakesmtp.Behaviour{STARTTLS: true})
	out, err := run(t, "check", "--json", good, "null.example")
	if err != nil {
		t.Fatal(err)
	}
	var all []check.Report
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		t.Fatal(err)
	}
	if len(all) != 2 || all[0].Class != check.ClassTLS || all[0].MX[0].Addresses[0].Scan == nil || all[1].Class != check.ClassNoMail || all[1].Decision.Channel != "plain" {
		t.Errorf("%s", out)
	}
}

// With a database the rules of it count.
func TestCheckByRules(t *testing.T) {
	laptop(t)
	t.Setenv("POSTSEAL_DB", "sqlite:p.db")
	t.Setenv("POSTSEAL_KEY_FILE", "p.key")
	t.Setenv("POSTSEAL_OWN_DOMAIN", "own.example")
	if _, err := run(t, "domain", "add", "null.example", "--require", "encryption"); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, "domain", "add", "boss@null.example", "--require", "escrow"); err != nil {
		t.Fatal(err)
	}
	for asked, want := range map[string]string{"null.example": "securesmtp:", "boss@null.example": "sealed: the recipient gets a link", "x.example": "Postfix returns it"} {
		out, err := run(t, "check", "--quick", asked)
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("%s: no %q (%v):\n%s", asked, want, err, out)
		}
	}
}

// The page on the admin port looks at no host of the inside, whatever public name
// leads there.
func TestCheckPageStaysOutside(t *testing.T) {
	laptop(t)
	host, err := fakesmtp.Start("127.0.0.1:0", fakesmtp.Behaviour{})
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	dialled := ""
	dial := publicOnly(func(_ context.Context, _, address string) (net.Conn, error) {
		dialled = address
		return nil, errors.New("enough")
	})
	if _, err := dial(t.Context(), "tcp", host.Addr()); err == nil || dialled != "" || !strings.Contains(err.Error(), "no public address") {
		t.Errorf("%v, dialled %q", err, dialled)
	}
	if _, err := dial(t.Context(), "tcp", netip.MustParseAddrPort("192.0.2.1:25").String()); err == nil || dialled != "192.0.2.1:25" {
		t.Errorf("%v, dialled %q", err, dialled)
	}

	cfg, err := load(t, map[string]string{"POSTSEAL_RESOLVER": os.Getenv("POSTSEAL_RESOLVER")})
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "p.db"), sql.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	log := slog.New(slog.DiscardHandler)
	s := &surroundings{own: ownDomains(cfg), routes: noRoutes{}, helo: "us.example"}
	snapshot, err := policy.NewSnapshot(0, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	engine := newEngine(cfg, s, func() *policy.Snapshot { return snapshot }, remembered{})
	maps, err := tlsmap.New(mapConfig(cfg, s, engine, nil, log, nil))
	if err != nil {
		t.Fatal(err)
	}
	p, err := newCheckPage(cfg, s, engine, maps, db, openLogin(t, db), log)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	p.register(mux)
	srv := httptest.NewServer(mux)
	defer srv.Close()
	res, err := http.Post(srv.URL+"/check", "application/x-www-form-urlencoded", strings.NewReader("domain=inside.example"))
	if err != nil {
		t.Fatal(err)
	}
	report := res.Request.URL.String()
	var body bytes.Buffer
	for range 100 {
		res, err := http.Get(report)
		if err != nil {
			t.Fatal(err)
		}
		body.Reset()
		body.ReadFrom(res.Body)
		res.Body.Close()
		if res.Header.Get("Refresh") == "" {
			break
		}
	}
	if !strings.Contains(body.String(), "is no public address") || !strings.Contains(body.String(), "nothing is required") {
		t.Errorf("%s", &body)
	}
}
