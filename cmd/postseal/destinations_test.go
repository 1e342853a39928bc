package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/sql"
	"github.com/postseal/postseal/tlsmap/probe"
)

// lostDestination is one that had TLS for a month and lost it, with an alarm.
func lostDestination(dest string, at time.Time) probe.Record {
	r := probe.Result{
		Dest: dest, Domain: dest, State: policy.Absent, Reason: "mx[192.0.2.1]: <b>no STARTTLS</b>", Checked: at,
		MX: []probe.MXResult{{Host: "mx." + dest, Preference: 10, Addresses: []probe.AddressResult{{Addr: netip.MustParseAddr("192.0.2.1"), State: policy.Absent}}}},
	}
	r.Kept = &probe.Kept{Watch: []probe.Watch{{What: "tls", Alarm: at}}}
	b, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	since := at.AddDate(0, -1, 0)
	return probe.Record{
		Dest: dest, State: policy.Absent, Checked: at, Since: since, Worked: at.Add(-time.Hour), Lost: at, Expires: at.Add(time.Hour), Result: b,
		Events: []probe.Event{{Dest: dest, At: at, Kind: probe.TLSLost, Alarm: true, Detail: probe.Detail{Reason: r.Reason, Since: since, Until: at.Add(-time.Hour)}}},
	}
}

func openPages(t *testing.T) (*sql.DB, func(path string) (int, string)) {
	t.Helper()
	db, err := sql.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "postseal.db"), sql.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	mux := http.NewServeMux()
	(&destinationPages{db, openLogin(t, db), nil}).register(mux)
	return db, func(path string) (int, string) {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Host = "127.0.0.1:8646"
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
}

func TestDestinationPages(t *testing.T) {
	db, get := openPages(t)
	if code, body := get("/destinations"); code != 200 || !strings.Contains(body, "There is none.") {
		t.Errorf("%d %s", code, body)
	}
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	records := []probe.Record{lostDestination("lost.example", at), {Dest: "[192.0.2.9]:25", State: policy.Works, Checked: at, Worked: at, Since: at}}
	for i := range 150 {
		records = append(records, probe.Record{Dest: fmt.Sprintf("d%03d.example", i), State: policy.Works, Checked: at, Worked: at, Since: at})
	}
	if err := db.SavePostures(t.Context(), records); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		path        string
		code        int
		want, wants []string // in the page, and not in it
	}{
		{"/destinations", 200, []string{`<section class="alarm"`, "has lost its TLS, seen from 2026-02-01", "&lt;b&gt;no STARTTLS", `href="/destinations/%5B192.0.2.9%5D:25"`, "d098.example", `href="/destinations?after=d098.example"`}, []string{"d099.example", "<b>no", "<script"}},
		{"/destinations?after=d098.example", 200, []string{"d149.example", "lost.example"}, []string{"d098.example", "Next page</a>", `class="alarm"`}},
		{"/destinations?q=LOST", 200, []string{"lost.example", "2026-03-01 12:00</time>"}, []string{"d000.example"}},
		{"/destinations?q=%25", 200, []string{"There is none like that."}, []string{"d000.example"}},
		{"/destinations?q=%22%3E%3Cscript%3E", 200, []string{"&#34;&gt;&lt;script&gt;"}, []string{`"><script>`}},
		{"/destinations?alarm=1", 200, []string{"lost.example"}, []string{"d000.example"}},
		{"/destinations?state=absent&alarm=", 200, []string{"lost.example"}, []string{"d000.example"}},
		{"/destinations?state=odd", 400, []string{"no such state"}, nil},
		{"/destinations/lost.example", 200, []string{"possible strip", "TLS from 2026-02-01 12:00Z to 2026-03-01 11:00Z, lost", "10 mx.lost.example", "192.0.2.1", "Alarm: the destination has lost its TLS"}, []string{"<b>no"}},
		{"/destinations/LOST.example.", 200, []string{"possible strip"}, nil},
		{"/destinations/%5B192.0.2.9%5D:25", 200, []string{"<h1>[192.0.2.9]:25</h1>", "Nothing has changed"}, nil},
		{"/destinations/nobody.example", 404, []string{"Nothing is known"}, nil},
		{"/destinations/lost.example?before=x", 200, []string{"possible strip"}, nil},
		{"/destinations/lost.example?before=-5", 200, []string{"possible strip"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.path, func(t *testing.T) {
			code, body := get(tt.path)
			if code != tt.code {
				t.Errorf("status %d", code)
			}
			for _, w := range tt.want {
				if !strings.Contains(body, w) {
					t.Errorf("no %q in\n%s", w, body)
				}
			}
			for _, w := range tt.wants {
				if strings.Contains(body, w) {
					t.Errorf("%q in\n%s", w, body)
				}
			}
		})
	}
}

func TestHistoryHasPages(t *testing.T) {
	db, get := openPages(t)
	r := probe.Record{Dest: "x.example", State: policy.Works}
	for i := range 2*pageEvents + 1 {
		r.Events = append(r.Events, probe.Event{Dest: r.Dest, At: time.Unix(0, 0), Kind: probe.NewMX, Detail: probe.Detail{After: []string{fmt.Sprintf("mx%d", i)}}})
	}
	if err := db.SavePosture(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	path, seen := "/destinations/x.example", 0
	for n := range 3 {
		_, body := get(path)
		seen += strings.Count(body, "other MX hosts")
		_, next, more := strings.Cut(body, `aria-label="Pages of the history"><a href="`)
		if more != (n < 2) {
			t.Fatalf("page %d: %s", n, body)
		}
		path, _, _ = strings.Cut(next, `"`)
	}
	if seen != 2*pageEvents+1 {
		t.Errorf("%d events", seen)
	}
}

func TestDestinationPagesAreForThisServerAlone(t *testing.T) {
	mux := http.NewServeMux()
	(&destinationPages{nil, openLogin(t, nil), nil}).register(mux)
	for _, path := range []string{"/destinations", "/destinations/x.example"} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Host = "evil.example"
		if mux.ServeHTTP(w, r); w.Code != http.StatusMisdirectedRequest {
			t.Errorf("%s: %d", path, w.Code)
		}
		w = httptest.NewRecorder()
		r = httptest.NewRequest(http.MethodPost, path, nil)
		r.Host = "localhost"
		if mux.ServeHTTP(w, r); w.Code != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: %d", path, w.Code)
		}
	}
}
