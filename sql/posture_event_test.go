package sql

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/alarm"
	"github.com/postseal/postseal/tlsmap/probe"
)

func history(t *testing.T, db *DB, dest string) (words []string) {
	t.Helper()
	events, err := db.History(t.Context(), dest, 0, 2000)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		words = append(words, string(e.Kind))
	}
	return words
}

func TestHistory(t *testing.T) {
	db, ctx := openTest(t), t.Context()
	at := func(h int) time.Time { return time.Date(2026, 1, 1, h, 0, 0, 1000, time.UTC) }
	detail := probe.Detail{Host: "mx", Before: []string{"a"}, After: []string{"b", "c"}, Reason: "because", Since: at(1), Until: at(2)}
	save := func(dest string, events ...probe.Event) {
		t.Helper()
		for i := range events {
			events[i].Dest = dest
		}
		if err := db.SavePosture(ctx, probe.Record{Dest: dest, State: policy.Works, Checked: at(1), Worked: at(1), Events: events}); err != nil {
			t.Fatal(err)
		}
	}
	save("a.example", probe.Event{At: at(1), Kind: probe.NewKey, Detail: detail}, probe.Event{At: at(2), Kind: probe.NewMX})
	save("b.example", probe.Event{At: at(2), Kind: probe.TLSLost, Alarm: true})
	save("a.example", probe.Event{At: at(3), Kind: probe.TLSLost, Alarm: true})
	events, err := db.History(ctx, "a.example", 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	want := []probe.Event{
		{ID: 4, Dest: "a.example", At: at(3), Kind: probe.TLSLost, Alarm: true},
		{ID: 2, Dest: "a.example", At: at(2), Kind: probe.NewMX},
		{ID: 1, Dest: "a.example", At: at(1), Kind: probe.NewKey, Detail: detail},
	}
	if d := cmp.Diff(want, events); d != "" {
		t.Error(d)
	}
	if page, err := db.History(ctx, "a.example", 4, 1); err != nil || len(page) != 1 || page[0].ID != 2 {
		t.Errorf("second page: %v, %v", page, err)
	}

	// What can't be saved whole is not saved at all.
	mustExec(t, db.w, `CREATE TRIGGER full BEFORE INSERT ON posture_event WHEN NEW.kind = 'mx' BEGIN SELECT RAISE(ABORT, 'no'); END`)
	err = db.SavePosture(ctx, probe.Record{Dest: "c.example", State: policy.Works, Events: []probe.Event{{Dest: "c.example", At: at(1), Kind: probe.NewMX}}})
	if all := postures(t, db); err == nil || len(all) != 2 {
		t.Errorf("posture without its events: %v, %v", all, err)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	db, ctx := openTest(t), t.Context()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for dest, n := range map[string]int{"busy.example": 30, "calm.example": 3} {
		r := probe.Record{Dest: dest, State: policy.Works}
		for i := range n {
			r.Events = append(r.Events, probe.Event{Dest: dest, At: start.AddDate(0, 0, i), Kind: probe.Kind(fmt.Sprint(i))})
		}
		if err := db.SavePosture(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.DeleteEvents(ctx, start.AddDate(0, 0, 1), 10); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"29", "28", "27", "26", "25", "24", "23", "22", "21", "20"}, history(t, db, "busy.example")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"2", "1"}, history(t, db, "calm.example")); d != "" {
		t.Error(d)
	}
}

func TestAlarmsAreToldByEachWay(t *testing.T) {
	db, ctx := openTest(t), t.Context()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r := probe.Record{Dest: "a.example", State: policy.Absent}
	for i := range 3 {
		r.Events = append(r.Events, probe.Event{Dest: "a.example", At: now, Kind: probe.TLSLost, Alarm: i != 1})
	}
	if err := db.SavePosture(ctx, r); err != nil {
		t.Fatal(err)
	}
	untold := func(way alarm.Way) (ids []int64) {
		t.Helper()
		events, err := db.UntoldAlarms(ctx, way, 10)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			ids = append(ids, e.ID)
		}
		return ids
	}
	told := func() (n int) {
		t.Helper()
		if err := db.r.QueryRow(`SELECT count(*) FROM posture_event WHERE told_at IS NOT NULL`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	both := []alarm.Way{alarm.Mail, alarm.Webhook}
	if err := db.AlarmsTaken(ctx, alarm.Mail, []int64{1, 3}, now); err != nil {
		t.Fatal(err)
	}
	if err := db.AlarmsTaken(ctx, alarm.Webhook, []int64{3}, now); err != nil {
		t.Fatal(err)
	}
	if m, w := untold(alarm.Mail), untold(alarm.Webhook); len(m) != 0 || !cmp.Equal(w, []int64{1}) {
		t.Errorf("untold by mail %v, by webhook %v", m, w)
	}
	if err := db.SettleAlarms(ctx, both, now); err != nil || told() != 1 {
		t.Errorf("%d told, %v", told(), err)
	}
	// The webhook is switched off: nobody is left to be told.
	if err := db.SettleAlarms(ctx, both[:1], now); err != nil || told() != 2 {
		t.Errorf("%d told, %v", told(), err)
	}
	if w := untold(alarm.Webhook); len(w) != 0 {
		t.Errorf("untold by webhook %v", w)
	}
}

func TestOpenAlarms(t *testing.T) {
	db, ctx := openTest(t), t.Context()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	save := func(dest string, s policy.State, alarms ...probe.Kind) {
		t.Helper()
		r := probe.Record{Dest: dest, State: s, Checked: now}
		for i, k := range alarms {
			r.Events = append(r.Events, probe.Event{Dest: dest, At: now.Add(time.Duration(i) * time.Hour), Kind: k, Alarm: true})
		}
		if err := db.SavePosture(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	save("back.example", policy.Works, probe.TLSLost, probe.TLSBack)
	save("lost.example", policy.Absent, probe.TLSLost)
	save("again.example", policy.Absent, probe.TLSLost, probe.TLSBack, probe.TLSLost, probe.DANELost)
	save("dane.example", policy.Works, probe.DANELost, probe.TLSLost, probe.TLSBack)
	save("calm.example", policy.Works)
	open, err := db.OpenAlarms(ctx, 10)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range open {
		got = append(got, e.Dest+" "+string(e.Kind))
	}
	want := []string{"dane.example dane-lost", "again.example dane-lost", "again.example tls-lost", "lost.example tls-lost"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if n, err := db.LostSince(ctx, now.Add(time.Hour)); n != 1 || err != nil {
		t.Errorf("%d lost lately, %v", n, err)
	}
	if n, err := db.LostSince(ctx, now); n != 2 || err != nil {
		t.Errorf("%d lost, %v", n, err)
	}

	list := func(q DestinationQuery) (names []string) {
		t.Helper()
		all, err := db.Destinations(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range all {
			names = append(names, fmt.Sprint(d.Dest, d.Alarms))
		}
		return names
	}
	for _, tt := range []struct {
		q    DestinationQuery
		want []string
	}{
		{DestinationQuery{}, []string{"again.example[tls-lost dane-lost]", "back.example[]", "calm.example[]", "dane.example[dane-lost]", "lost.example[tls-lost]"}},
		{DestinationQuery{Alarmed: true}, []string{"again.example[tls-lost dane-lost]", "dane.example[dane-lost]", "lost.example[tls-lost]"}},
		{DestinationQuery{After: "back.example", Limit: 2}, []string{"calm.example[]", "dane.example[dane-lost]"}},
		{DestinationQuery{Contains: "a"}, []string{"again.example[tls-lost dane-lost]", "back.example[]", "calm.example[]", "dane.example[dane-lost]", "lost.example[tls-lost]"}},
		{DestinationQuery{Contains: "%"}, nil},
		{DestinationQuery{Exactly: "lost.example"}, []string{"lost.example[tls-lost]"}},
		{DestinationQuery{State: policy.Absent, HasState: true}, []string{"again.example[tls-lost dane-lost]", "lost.example[tls-lost]"}},
	} {
		if d := cmp.Diff(tt.want, list(tt.q)); d != "" {
			t.Errorf("%+v: %s", tt.q, d)
		}
	}
	all, err := db.Destinations(ctx, DestinationQuery{Contains: "back"})
	if err != nil || len(all) != 1 || !all[0].Changed.Equal(now.Add(time.Hour)) {
		t.Errorf("back.example: %+v, %v", all, err)
	}
	// A destination that was forgotten has no alarm any more.
	mustExec(t, db.w, `DELETE FROM posture WHERE dest = 'dane.example'`)
	if open, err := db.OpenAlarms(ctx, 10); err != nil || len(open) != 3 {
		t.Errorf("%d open, %v", len(open), err)
	}
}

func TestPostureOfOneDestination(t *testing.T) {
	db, ctx := openTest(t), t.Context()
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if r, err := db.Posture(ctx, "a.example"); r != nil || err != nil {
		t.Errorf("%v, %v", r, err)
	}
	want := &probe.Record{Dest: "a.example", State: policy.Works, Checked: at, Worked: at, Since: at.Add(-time.Hour), Result: []byte("{}")}
	if err := db.SavePosture(ctx, *want); err != nil {
		t.Fatal(err)
	}
	if r, err := db.Posture(ctx, "a.example"); err != nil || !cmp.Equal(want, r) {
		t.Errorf("%s, %v", cmp.Diff(want, r), err)
	}
	// A record of an older version has worked since it last did.
	mustExec(t, db.w, `UPDATE posture SET since_at = NULL`)
	if r, err := db.Posture(ctx, "a.example"); err != nil || !r.Since.Equal(at) {
		t.Errorf("%+v, %v", r, err)
	}
}
