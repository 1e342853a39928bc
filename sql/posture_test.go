package sql

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/probe"
)

func postures(t *testing.T, db *DB) (all []probe.Record) {
	t.Helper()
	if err := db.LoadPostures(t.Context(), func(r probe.Record) error { all = append(all, r); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestPostures(t *testing.T) {
	db, ctx := openTest(t), t.Context()
	at := func(h int) time.Time { return time.Date(2026, 1, 1, h, 0, 0, 1000, time.UTC) }
	a := probe.Record{Dest: "a.example", State: policy.Works, Checked: at(1), Worked: at(1), Since: at(1), Expires: at(9), Result: []byte(`{"mx":["a"]}`)}
	b := probe.Record{Dest: "[192.0.2.1]:25", State: policy.Broken, Checked: at(2), Lost: at(2), Failures: 3, Result: []byte(`{}`)}
	c := probe.Record{Dest: "c.example", State: policy.Unknown, Result: []byte{}}
	if err := db.SavePostures(ctx, []probe.Record{a, c, b}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]probe.Record{b, a, c}, postures(t, db)); d != "" {
		t.Error(d)
	}
	a = probe.Record{Dest: "a.example", State: policy.Absent, Checked: at(3), Worked: at(1), Since: at(1), Lost: at(3), Failures: 1, Result: []byte{}}
	if err := db.SavePosture(ctx, a); err != nil {
		t.Fatal(err)
	}
	if err := db.SavePosture(ctx, probe.Record{Dest: "c.example", State: policy.NoMail, Checked: at(4)}); err != nil {
		t.Fatal(err)
	}
	c.State, c.Checked = policy.NoMail, at(4)
	if d := cmp.Diff([]probe.Record{b, a, c}, postures(t, db)); d != "" {
		t.Error(d)
	}
	if r, ok, err := db.LoadPosture(ctx, "a.example"); err != nil || !ok || cmp.Diff(a, r) != "" {
		t.Errorf("one: %+v, %t, %v", r, ok, err)
	}
	if r, ok, err := db.LoadPosture(ctx, "none.example"); err != nil || ok {
		t.Errorf("none: %+v, %t, %v", r, ok, err)
	}
	stop := errors.New("stop")
	if err := db.LoadPostures(ctx, func(probe.Record) error { return stop }); err != stop {
		t.Errorf("error of the callback became %v", err)
	}
	if err := db.DeletePostures(ctx, at(3)); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]probe.Record{a, c}, postures(t, db)); d != "" {
		t.Error(d)
	}
}

func TestUnreadablePostureIsLookedUpAnew(t *testing.T) {
	db := openTest(t)
	var log bytes.Buffer
	db.log = slog.New(slog.NewTextHandler(&log, nil))
	for _, d := range []string{"a.example", "b.example"} {
		if err := db.SavePosture(t.Context(), probe.Record{Dest: d, State: policy.Works}); err != nil {
			t.Fatal(err)
		}
	}
	mustExec(t, db.w, `UPDATE posture SET state = 'future' WHERE dest = 'a.example'`)
	if got := postures(t, db); len(got) != 1 || got[0].Dest != "b.example" {
		t.Errorf("postures %v", got)
	}
	if !strings.Contains(log.String(), "a.example") {
		t.Errorf("log: %s", log.String())
	}
}
