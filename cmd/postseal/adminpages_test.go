package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/account"
	"github.com/postseal/postseal/internal/adminlogin"
	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/sql"
	"github.com/postseal/postseal/tlsmap/probe"
)

// adminBench is the admin port on a real database, with nobody who can sign in.
type adminBench struct {
	*testing.T
	db    *sql.DB
	keys  *escrow.Keys
	vault *escrow.Vault
	login *adminlogin.Login
	mux   *http.ServeMux
	asked []string // destinations that were looked at
}

func newAdminBench(t *testing.T, ready ...readiness) *adminBench {
	t.Helper()
	dir := t.TempDir()
	b := &adminBench{T: t, mux: http.NewServeMux()}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	b.db, err = sql.Open(t.Context(), "sqlite:"+filepath.Join(dir, "postseal.db"), sql.Options{})
	must(err)
	t.Cleanup(func() { b.db.Close() })
	must(escrow.NewKeyFile(filepath.Join(dir, "keys")))
	b.keys, err = escrow.LoadKeys(filepath.Join(dir, "keys"))
	must(err)
	b.vault, err = escrow.NewVault(escrow.Options{Store: b.db, Keys: b.keys, PortalURL: "http://localhost/", NoticeFrom: "notice@own.example"})
	must(err)
	b.login, err = adminlogin.New(adminlogin.Config{Store: b.db, Keys: b.keys.Admin(), Listen: "127.0.0.1:8646", Now: time.Now})
	must(err)
	rules, err := policy.NewSnapshot(1, nil, "")
	must(err)
	reg := prometheus.NewRegistry()
	look := func(_ context.Context, dest string) error { b.asked = append(b.asked, dest); return nil }
	held := newAdminPages(&config{}, b.db, b.vault, func() *policy.Snapshot { return rules }, b.login, reg, ready, slog.New(slog.DiscardHandler))
	allPages{loginPages{b.login}, held, &destinationPages{b.db, b.login, look}}.register(b.mux)
	return b
}

// adminBrowser is one that keeps its cookies.
type adminBrowser struct {
	b       *adminBench
	cookies map[string]string
}

// ask sends a form (nil: none) to a path, as a page of origin does.
func (w *adminBrowser) ask(path, origin string, form url.Values) *httptest.ResponseRecorder {
	w.b.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	if form != nil {
		r = httptest.NewRequest(http.MethodPost, path, strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", origin)
	}
	r.Host, r.RemoteAddr = "127.0.0.1:8646", "127.0.0.1:40000"
	for name, value := range w.cookies {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	rec := httptest.NewRecorder()
	w.b.mux.ServeHTTP(rec, r)
	for _, c := range rec.Result().Cookies() {
		w.cookies[c.Name] = c.Value
	}
	return rec
}

const ownOrigin = "http://127.0.0.1:8646"

// signIn makes an account, and a browser that is signed in to it.
func (b *adminBench) signIn(name string, role adminlogin.Role) *adminBrowser {
	b.Helper()
	key, err := account.NewTOTP("Postseal", name)
	if err != nil {
		b.Fatal(err)
	}
	const password = "seven green bicycles"
	accounts := &adminlogin.Accounts{Store: b.db, Keys: b.keys.Admin(), Now: time.Now}
	if err := accounts.Add(b.Context(), adminlogin.Credentials{Name: name, Role: role, Password: password, Secret: key.Secret}); err != nil {
		b.Fatal(err)
	}
	code, err := totp.GenerateCode(key.Secret, time.Now())
	if err != nil {
		b.Fatal(err)
	}
	w := &adminBrowser{b, make(map[string]string)}
	rec := w.ask("/login", ownOrigin, url.Values{"name": {name}, "password": {password}, "code": {code}})
	if got := w.ask("/items", "", nil); !strings.Contains(got.Body.String(), "Signed in as <strong>"+name) {
		b.Fatalf("%s is not signed in: %d %s", name, rec.Code, rec.Body)
	}
	return w
}

// TestViewersLookAndOperatorsAct goes the whole way: through the login, with real accounts, to real
// messages.
func TestViewersLookAndOperatorsAct(t *testing.T) {
	b := newAdminBench(t)
	raw := []byte("Subject: SECRET-SUBJECT\r\n\r\nSECRET-TEXT\r\n")
	ids, err := b.vault.Seal(t.Context(), escrow.Message{
		Sender: "doc@own.example", QueueID: "4Q1", Size: int64(len(raw)), Recipients: []escrow.Recipient{{Address: "pat@old.example"}},
		Body: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.db.SavePosture(t.Context(), probe.Record{Dest: "old.example", State: policy.Absent, Checked: time.Now()}); err != nil {
		t.Fatal(err)
	}
	viewer, operator := b.signIn("jane", adminlogin.RoleViewer), b.signIn("olga", adminlogin.RoleOperator)
	item := "/items/" + ids[0]
	for _, path := range []string{"/", "/items", item, "/recipients", "/recipients/pat@old.example", "/rules", "/outbox", "/audit", "/destinations", "/destinations/old.example"} {
		for who, w := range map[string]*adminBrowser{"viewer": viewer, "operator": operator} {
			rec := w.ask(path, "", nil)
			page := rec.Body.String()
			if rec.Code != http.StatusOK || strings.Contains(page, "SECRET") || !strings.Contains(page, "("+who+")") {
				t.Errorf("%s for a %s: %d", path, who, rec.Code)
			}
			for _, action := range []string{"/retract", "/hold", "/extend", "/look"} {
				if who == "viewer" && strings.Contains(page, action+`"`) {
					t.Errorf("%s: a viewer is offered %s", path, action)
				}
			}
		}
	}
	for _, do := range []struct {
		path string
		form url.Values
	}{
		{item + "/hold", url.Values{"note": {"case 12"}}}, {item + "/extend", url.Values{"recipient": {"*"}, "days": {"60"}}}, {item + "/release", url.Values{"note": {"closed"}}},
		{item + "/retract", url.Values{"recipient": {"*"}}}, {"/destinations/old.example/look", url.Values{}},
	} {
		if rec := viewer.ask(do.path, ownOrigin, do.form); rec.Code != http.StatusForbidden {
			t.Errorf("%s by a viewer: %d", do.path, rec.Code)
		}
		if rec := operator.ask(do.path, "https://evil.example", do.form); rec.Code != http.StatusForbidden {
			t.Errorf("%s by another site: %d", do.path, rec.Code)
		}
		if rec := operator.ask(do.path, "", nil); rec.Code != http.StatusOK {
			t.Errorf("%s asks with %d: %s", do.path, rec.Code, rec.Body)
		}
		rec := operator.ask(do.path, ownOrigin, do.form)
		if rec.Code != http.StatusSeeOther {
			t.Errorf("%s by an operator: %d %s", do.path, rec.Code, rec.Body)
		} else if to := operator.ask(rec.Header().Get("Location"), "", nil); !strings.Contains(to.Body.String(), `role="status"`) {
			t.Errorf("%s: %s does not say that it was done", do.path, rec.Header().Get("Location"))
		}
	}
	if len(b.asked) != 1 || b.asked[0] != "old.example" {
		t.Errorf("looked at %q", b.asked)
	}
	if rec := operator.ask("/destinations/unknown.example/look", ownOrigin, url.Values{}); rec.Code != http.StatusNotFound || len(b.asked) != 1 {
		t.Errorf("what nobody has asked for: %d, %q", rec.Code, b.asked)
	}
	log, err := b.db.AuditEntries(t.Context(), audit.Filter{Actor: "olga", Oldest: true})
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, r := range log {
		kinds = append(kinds, r.Kind)
	}
	if got := strings.Join(kinds, " "); got != "admin-signed-in held extended released retracted purged looked-at" {
		t.Errorf("logged of the operator: %s", got)
	}
	if list, err := b.vault.Show(t.Context(), ids[0]); err != nil || list[0].State != escrow.StateRetracted {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestCountersAreGathered(t *testing.T) {
	reg := prometheus.NewRegistry()
	trouble := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postseal_intake_alarms_total", Help: "x"}, []string{"a"})
	reg.MustRegister(trouble)
	trouble.WithLabelValues("b").Add(2)
	trouble.WithLabelValues("c").Inc()
	if got := gathered(reg, "postseal_intake_alarms_total"); got != 3 {
		t.Errorf("gathered %v", got)
	}
}

// TestHeldPagesNeedALogin asks for each page, and presses each button, as somebody who is not signed
// in: on a server that nobody has an account for, too.
func TestHeldPagesNeedALogin(t *testing.T) {
	b := newAdminBench(t, readiness{"database", func(context.Context) error { return errors.New("is asked without a login") }})
	const id = "aaaaaaaaaaaaaaaaaaaaaaaaaa"
	for _, path := range []string{
		"/", "/items", "/items/" + id, "/recipients", "/recipients/pat@old.example", "/rules", "/outbox", "/audit",
		"/items/" + id + "/retract", "/items/" + id + "/hold", "/items/" + id + "/release", "/items/" + id + "/extend", "/recipients/pat@old.example/unlock", "/destinations/old.example/look",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			r := httptest.NewRequest(method, path, nil)
			r.Host = "127.0.0.1:8646"
			r.RemoteAddr = "127.0.0.1:40000"
			w := httptest.NewRecorder()
			b.mux.ServeHTTP(w, r)
			switch {
			case method == http.MethodGet && (w.Code != http.StatusSeeOther || !strings.HasPrefix(w.Header().Get("Location"), "/login")):
				t.Errorf("GET %s: %d %s", path, w.Code, w.Header().Get("Location"))
			case method == http.MethodPost && w.Code != http.StatusMethodNotAllowed && w.Code != http.StatusForbidden && w.Code != http.StatusUnauthorized:
				t.Errorf("POST %s: %d", path, w.Code)
			}
			if strings.Contains(w.Body.String(), "is asked without a login") {
				t.Errorf("%s %s does something before it is known who asks", method, path)
			}
		}
	}
}
