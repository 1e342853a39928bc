package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/sql"
)

// TestHeldPagesNeedALogin asks for each page, and presses each button, as somebody who is not signed
// in: on a server that nobody has an account for, too.
func TestHeldPagesNeedALogin(t *testing.T) {
	dir := t.TempDir()
	db, err := sql.Open(t.Context(), "sqlite:"+filepath.Join(dir, "postseal.db"), sql.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := escrow.NewKeyFile(filepath.Join(dir, "keys")); err != nil {
		t.Fatal(err)
	}
	keys, err := escrow.LoadKeys(filepath.Join(dir, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	vault, err := escrow.NewVault(escrow.Options{Store: db, Keys: keys, PortalURL: "http://localhost/", NoticeFrom: "notice@own.example"})
	if err != nil {
		t.Fatal(err)
	}
	rules, err := policy.NewSnapshot(1, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	cfg := &config{}
	reg := prometheus.NewRegistry()
	trouble := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postseal_intake_alarms_total", Help: "x"}, []string{"a"})
	reg.MustRegister(trouble)
	trouble.WithLabelValues("b").Add(2)
	trouble.WithLabelValues("c").Inc()
	if got := gathered(reg, "postseal_intake_alarms_total"); got != 3 {
		t.Errorf("gathered %v", got)
	}
	ready := []readiness{{"database", func(context.Context) error { return errors.New("is asked without a login") }}}
	mux := http.NewServeMux()
	newAdminPages(cfg, db, vault, func() *policy.Snapshot { return rules }, openLogin(t, db), reg, ready, slog.New(slog.DiscardHandler)).register(mux)
	const id = "aaaaaaaaaaaaaaaaaaaaaaaaaa"
	for _, path := range []string{
		"/", "/items", "/items/" + id, "/recipients", "/recipients/pat@old.example", "/rules", "/outbox", "/audit",
		"/items/" + id + "/retract", "/items/" + id + "/hold", "/items/" + id + "/release", "/items/" + id + "/extend", "/recipients/pat@old.example/unlock",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			r := httptest.NewRequest(method, path, nil)
			r.Host = "127.0.0.1:8646"
			r.RemoteAddr = "127.0.0.1:40000"
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, r)
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
