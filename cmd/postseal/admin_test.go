package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/policyd/policy"
)

func TestAdminPort(t *testing.T) {
	reg := prometheus.NewRegistry()
	countDecisions(reg)(policy.Escrow)
	broken := error(nil)
	h := adminHandler(reg, http.NotFoundHandler(), nil, []readiness{
		{"database", func(context.Context) error { return broken }},
		{"outbox", func(context.Context) error { return nil }},
	})
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	if code, body := get("/readyz"); code != 200 || body != "database: ok\noutbox: ok\n" {
		t.Errorf("/readyz: %d %q", code, body)
	}
	if _, body := get("/metrics"); !strings.Contains(body, `postseal_decisions_total{channel="escrow"} 1`) {
		t.Errorf("/metrics lacks the verdict:\n%s", body)
	}
	broken = errors.New("disk full")
	if code, body := get("/readyz"); code != 503 || !strings.Contains(body, "database: disk full") {
		t.Errorf("/readyz: %d %q", code, body)
	}
	if code, _ := get("/healthz"); code != 200 {
		t.Errorf("/healthz: %d", code)
	}
	if code, _ := get("/other"); code != 404 {
		t.Errorf("/other: %d", code)
	}
}
