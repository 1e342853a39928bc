package adminpage

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestPageStandsInTheLayout(t *testing.T) {
	page := New(`{{define "content"}}<p>{{.}}</p>{{end}}`)
	w := httptest.NewRecorder()
	page.Render(w, httptest.NewRequest(http.MethodGet, "/destinations?q=x", nil), http.StatusNotFound, "A <title>", `<script>alert(1)</script>`)
	body := w.Body.String()
	if w.Code != http.StatusNotFound {
		t.Errorf("status %d", w.Code)
	}
	for _, want := range []string{
		"<h1>A &lt;title&gt;</h1>", "<p>&lt;script&gt;", "<style>\n:root", `<a href="/destinations" aria-current="page">`, `<a href="/check">`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
	csp := w.Header().Get("Content-Security-Policy")
	_, rest, _ := strings.Cut(body, "<style>")
	css, _, _ := strings.Cut(rest, "</style>")
	sum := sha256.Sum256([]byte(css))
	if !strings.HasPrefix(csp, "default-src 'none'; style-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'") || strings.Contains(csp, "unsafe") {
		t.Errorf("Content-Security-Policy: %s", csp)
	}
}

func TestBrokenPageIsAnErrorAndNotHalfAPage(t *testing.T) {
	w := httptest.NewRecorder()
	New(`{{define "content"}}before{{.No.Such}}{{end}}`).Render(w, httptest.NewRequest(http.MethodGet, "/", nil), http.StatusOK, "x", 1)
	if w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "<html") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestGuardAgainstRebinding(t *testing.T) {
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	tests := []struct {
		listen, host string
		want         int
	}{
		{"127.0.0.1:8646", "127.0.0.1:8646", 204},
		{"127.0.0.1:8646", "127.0.0.1", 204},
		{"127.0.0.1:8646", "localhost:8646", 204},
		{"127.0.0.1:8646", "LocalHost.:9000", 204},
		{"[::1]:8646", "[::1]:8646", 204},
		{"[::1]:8646", "[::1]", 204},
		{"0.0.0.0:8646", "192.0.2.7:8646", 204},
		{"mx.own.example:8646", "MX.own.example:8646", 204},
		{"mx.own.example:8646", "own.example:8646", 421},
		{"127.0.0.1:8646", "evil.example:8646", 421},
		{"127.0.0.1:8646", "127.0.0.1.evil.example:8646", 421},
		{"127.0.0.1:8646", "localhost.evil.example", 421},
		{"127.0.0.1:8646", "", 421},
		{":8646", "", 421},
		{"unix:/run/admin", "anything", 204},
		{"127.0.0.1:8646", "Admin.own.example", 204}, // named beside
		{"127.0.0.1:8646", "admin.own.example.:443", 204},
		{"127.0.0.1:8646", "admin.own.example.evil.example", 421},
	}
	for _, tt := range tests {
		t.Run(tt.listen+" asked as "+tt.host, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/destinations", nil)
			r.Host = tt.host
			w := httptest.NewRecorder()
			Guard(tt.listen, ok, "admin.own.example").ServeHTTP(w, r)
			if w.Code != tt.want {
				t.Errorf("status %d, want %d", w.Code, tt.want)
			}
		})
	}
}
