package sql

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postseal/postseal/tlsmap/tlsrpt"
)

func TestTLSCounts(t *testing.T) {
	db, ctx := openTest(t), t.Context()
	c := func(day, domain, outcome string, n int64) tlsrpt.Count {
		return tlsrpt.Count{Day: day, Domain: domain, Policy: "{}", Outcome: outcome, Sessions: n}
	}
	for range 2 {
		if err := db.AddTLSCounts(ctx, []tlsrpt.Count{c("2026-11-26", "a.example", "", 3), c("2026-11-26", "a.example", "{x}", 2), c("2026-11-27", "b.example", "", 1)}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := db.TLSCounts(ctx, "2026-11-26", "a.example")
	if d := cmp.Diff([]tlsrpt.Count{c("2026-11-26", "a.example", "", 6), c("2026-11-26", "a.example", "{x}", 4)}, got); d != "" || err != nil {
		t.Error(d, err)
	}
	a, b := tlsrpt.Counted{Day: "2026-11-26", Domain: "a.example", Sessions: 10, Failures: 4}, tlsrpt.Counted{Day: "2026-11-27", Domain: "b.example", Sessions: 2}
	for before, want := range map[string][]tlsrpt.Counted{"": {a, b}, "2026-11-28": {a, b}, "2026-11-27": {a}, "2026-11-26": nil} {
		got, err := db.TLSCounted(ctx, before)
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("before %q: %s%v", before, d, err)
		}
	}
	if err := db.DropTLSCounts(ctx, "2026-11-26", []string{"a.example", "b.example"}); err != nil {
		t.Fatal(err)
	}
	if got, err := db.TLSCounted(ctx, ""); err != nil || cmp.Diff([]tlsrpt.Counted{b}, got) != "" {
		t.Errorf("got %+v, %v", got, err)
	}
	if err := db.PurgeTLS(ctx, "2026-11-28", time.Time{}); err != nil {
		t.Fatal(err)
	}
	if got, err := db.TLSCounted(ctx, ""); err != nil || len(got) != 0 {
		t.Errorf("after the purge %+v, %v", got, err)
	}
}

func TestTLSReports(t *testing.T) {
	db, ctx := openTest(t), t.Context()
	at := time.Date(2026, 11, 28, 1, 0, 0, 0, time.UTC)
	report := func(uri string) tlsrpt.Report {
		return tlsrpt.Report{ID: "1@us.example", Day: "2026-11-27", Domain: "a.example", URI: uri, JSON: []byte("gz"), Next: at, Created: at}
	}
	count := tlsrpt.Count{Day: "2026-11-27", Domain: "a.example", Policy: "{}", Sessions: 1}
	if err := db.AddTLSCounts(ctx, []tlsrpt.Count{count}); err != nil {
		t.Fatal(err)
	}
	refused := errors.New("no")
	err := db.MakeTLSReports(ctx, count.Day, count.Domain, func([]tlsrpt.Count) ([]tlsrpt.Report, error) { return nil, refused })
	if got, _ := db.TLSCounted(ctx, ""); !errors.Is(err, refused) || len(got) != 1 {
		t.Errorf("a report that cannot be made: %v, counted %v", err, got)
	}
	calls := 0
	for range 2 { // the second finds nothing to do
		err = db.MakeTLSReports(ctx, count.Day, count.Domain, func(got []tlsrpt.Count) ([]tlsrpt.Report, error) {
			calls++
			if d := cmp.Diff([]tlsrpt.Count{count}, got); d != "" {
				t.Error(d)
			}
			return []tlsrpt.Report{report("mailto:a"), report("https:b")}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := db.TLSCounted(ctx, ""); calls != 1 || len(got) != 0 {
		t.Errorf("%d calls, left %v", calls, got)
	}
	if due, err := db.DueTLSReports(ctx, at.Add(-time.Second), 10); err != nil || len(due) != 0 {
		t.Errorf("too early: %v, %v", due, err)
	}
	due, err := db.DueTLSReports(ctx, at, 10)
	if d := cmp.Diff([]tlsrpt.Report{report("https:b"), report("mailto:a")}, due); d != "" || err != nil {
		t.Fatal(d, err)
	}
	first, err := db.ClaimTLSReport(ctx, due[0], at.Add(time.Hour))
	second, err2 := db.ClaimTLSReport(ctx, due[0], at.Add(time.Hour))
	if !first || second || err != nil || err2 != nil {
		t.Errorf("claimed %v and %v, %v %v", first, second, err, err2)
	}
	sent, deferred := due[0], due[1]
	sent.Tries, sent.Next = 1, time.Time{}
	deferred.Tries, deferred.Next, deferred.Error = 1, at.Add(time.Minute), "450"
	if err := errors.Join(db.SaveTLSReport(ctx, sent), db.SaveTLSReport(ctx, deferred)); err != nil {
		t.Fatal(err)
	}
	if due, _ := db.DueTLSReports(ctx, at.Add(time.Hour), 10); len(due) != 1 || due[0].Error != "450" {
		t.Errorf("due %+v", due)
	}
	if got, err := db.TLSReports(ctx, "a.example"); err != nil || cmp.Diff([]tlsrpt.Report{sent, deferred}, got) != "" {
		t.Errorf("of the domain %+v, %v", got, err)
	}
	if got, err := db.TLSReports(ctx, ""); err != nil || len(got) != 2 || len(got[0].JSON) != 0 {
		t.Errorf("all %+v, %v", got, err)
	}
	if err := db.PurgeTLS(ctx, "", at.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if got, _ := db.TLSReports(ctx, ""); len(got) != 0 {
		t.Errorf("after the purge %+v", got)
	}
}
