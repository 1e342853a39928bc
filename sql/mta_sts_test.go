package sql

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postseal/postseal/tlsmap/probe/mtasts"
)

func TestMTASTSPolicies(t *testing.T) {
	db, ctx := openTest(t), t.Context()
	at := func(h int) time.Time { return time.Date(2026, 1, 1, h, 0, 0, 1000, time.UTC) }
	all := func() (got []mtasts.Record) {
		t.Helper()
		if err := db.LoadPolicies(ctx, func(r mtasts.Record) error { got = append(got, r); return nil }); err != nil {
			t.Fatal(err)
		}
		return got
	}
	a := mtasts.Record{Domain: "a.example", ID: "1", Text: []byte("version: STSv1\r\n"), Fetched: at(1), Expires: at(9)}
	b := mtasts.Record{Domain: "b.example", ID: "x", Text: []byte("b"), Fetched: at(2), Expires: at(3)}
	for _, r := range []mtasts.Record{a, b} {
		if err := db.SavePolicy(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff([]mtasts.Record{b, a}, all()); d != "" {
		t.Error(d)
	}
	if err := db.NotePolicy(ctx, "a.example", at(3), "no answer"); err != nil {
		t.Fatal(err)
	}
	if err := db.NotePolicy(ctx, "unknown.example", at(3), "no answer"); err != nil {
		t.Errorf("of a domain that is not there: %v", err)
	}
	a.Failed, a.Error = at(3), "no answer"
	got, ok, err := db.LoadPolicy(ctx, "a.example")
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if d := cmp.Diff(a, got); d != "" {
		t.Error(d)
	}
	if _, ok, err := db.LoadPolicy(ctx, "c.example"); ok || err != nil {
		t.Errorf("a domain without a policy: %v, %v", ok, err)
	}
	// A new policy replaces all of the old one.
	a = mtasts.Record{Domain: "a.example", ID: "2", Text: []byte("new"), Fetched: at(4), Expires: at(5)}
	if err := db.SavePolicy(ctx, a); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]mtasts.Record{a, b}, all()); d != "" {
		t.Error(d)
	}
	stop := errors.New("stop")
	if err := db.LoadPolicies(ctx, func(mtasts.Record) error { return stop }); err != stop {
		t.Errorf("error of the callback became %v", err)
	}
	if n, err := db.CountPolicies(ctx); n != 2 || err != nil {
		t.Errorf("%d policies, %v", n, err)
	}
	if err := db.DeletePolicies(ctx, at(4)); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]mtasts.Record{a}, all()); d != "" {
		t.Error(d)
	}
}
