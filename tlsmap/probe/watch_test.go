package probe

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

func TestWatch(t *testing.T) {
	const long = 7 * 24 * time.Hour
	hour := time.Hour
	type step struct {
		at time.Duration
		o  outcome
	}
	tests := []struct {
		name  string
		what  string
		steps []step
		want  string // kinds of the events, those that are alarms in capitals
	}{
		{"never there", watchTLS, []step{{0, saysNo}, {hour, saysNo}}, ""},
		{"there for long", watchTLS, []step{{0, saysYes}, {long, saysNo}, {long + hour, saysNo}}, "TLS-LOST"},
		{"and back", watchTLS, []step{{0, saysYes}, {long, saysNo}, {long + hour, saysYes}, {long + 2*hour, saysYes}}, "TLS-LOST TLS-BACK"},
		{"there for a short time", watchTLS, []step{{0, saysYes}, {long - 1, saysNo}, {3 * long, saysNo}, {3*long + hour, saysYes}}, "tls-lost tls-back"},
		{"not being able to look is neither", watchTLS, []step{{0, saysYes}, {hour, says0}, {long, says0}, {2 * long, saysYes}}, ""},
		{"it does not end a loss either", watchTLS, []step{{0, saysYes}, {long, saysNo}, {long + hour, says0}, {long + 2*hour, saysNo}}, "TLS-LOST"},
		{"lost again soon after", watchTLS, []step{{0, saysYes}, {long, saysNo}, {long + hour, saysYes}, {long + 2*hour, saysNo}}, "TLS-LOST TLS-BACK TLS-LOST"},
		{"lost again much later, having been there for a short time", watchTLS,
			[]step{{0, saysYes}, {long, saysNo}, {4 * long, saysYes}, {4*long + hour, saysNo}}, "TLS-LOST TLS-BACK tls-lost"},
		{"TLSA records that match no more", watchDANE, []step{{0, saysYes}, {hour, saysNo}, {2 * hour, saysNo}, {3 * hour, saysYes}}, "DANE-LOST DANE-BACK"},
		{"TLSA records that never matched", watchDANE, []step{{0, saysNo}, {hour, saysFail}}, ""},
		{"a lookup that fails for a moment", watchDANE, []step{{0, saysYes}, {hour, saysFail}, {hour + time.Minute, saysYes}}, ""},
		{"a lookup that goes on to fail", watchDANE, []step{{0, saysYes}, {hour, saysFail}, {hour + doubtFor, saysFail}, {3 * hour, saysFail}, {4 * hour, saysYes}}, "DANE-LOST DANE-BACK"},
		{"records that were taken back", watchDANE, []step{{0, saysYes}, {hour, saysGone}, {2 * hour, saysFail}, {9 * hour, saysFail}}, ""},
		{"records that were taken back after an alarm", watchDANE, []step{{0, saysYes}, {hour, saysNo}, {2 * hour, saysGone}}, "DANE-LOST DANE-BACK"},
		{"a policy that no host meets", watchSTS, []step{{0, saysYes}, {hour, saysNo}, {2 * hour, saysYes}}, "MTA-STS-LOST MTA-STS-BACK"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			long := long
			if tt.what != watchTLS {
				long = 0
			}
			var got []string
			w := Watch{What: tt.what}
			for _, s := range tt.steps {
				var e *Event
				if w, e = w.after(s.o, "", changesDay.Add(s.at), long); e != nil {
					word := string(e.Kind)
					if e.Alarm {
						word = strings.ToUpper(word)
					}
					got = append(got, word)
				}
			}
			if got := strings.Join(got, " "); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

func TestOutcomes(t *testing.T) {
	tlsa := func(r *Result, state policy.DANE, dane string) *Result {
		r.DANE = state
		for i := range r.MX {
			r.MX[i].TLSA = &TLSAResult{State: state}
			for j := range r.MX[i].Addresses {
				r.MX[i].Addresses[j].DANE = dane
			}
		}
		return r
	}
	sts := func(r *Result, state policy.STS, verified bool, names ...string) *Result {
		r.STS = &STSResult{State: state, MX: []string{"a.example", "*.b.example"}}
		for i := range r.MX {
			for j := range r.MX[i].Addresses {
				if c := r.MX[i].Addresses[j].Cert; c != nil {
					c.Verified, c.Names = verified, names
				}
			}
		}
		return r
	}
	good := func() *Result { return seenAt(0, policy.Works, "a=c/k") }
	down := func() *Result { return seenAt(0, policy.Unreachable, "a") }
	daneTests := []struct {
		name string
		r    *Result
		want outcome
	}{
		{"match", tlsa(good(), policy.DANEFull, "match"), saysYes},
		{"mismatch", tlsa(good(), policy.DANEFull, "no record matches"), saysNo},
		{"host down", tlsa(down(), policy.DANEFull, ""), says0},
		{"bogus", tlsa(good(), policy.DANEFailed, ""), saysFail},
		{"none", tlsa(good(), policy.DANENone, ""), saysGone},
		{"off", tlsa(good(), policy.DANEOff, ""), says0},
		{"not looked at", tlsa(good(), policy.DANEUnknown, ""), says0},
	}
	for _, tt := range daneTests {
		if got, _ := tt.r.daneOutcome(); got != tt.want {
			t.Errorf("DANE, %s: %d, want %d", tt.name, got, tt.want)
		}
	}
	stsTests := []struct {
		name string
		r    *Result
		want outcome
	}{
		{"a trusted name", sts(good(), policy.STSEnforce, true, "a.example"), saysYes},
		{"a name below a pattern", sts(good(), policy.STSEnforce, true, "x.b.example"), saysYes},
		{"another name", sts(good(), policy.STSEnforce, true, "c.example"), saysNo},
		{"not trusted", sts(good(), policy.STSEnforce, false, "a.example"), saysNo},
		{"host down", sts(down(), policy.STSEnforce, true, "a.example"), says0},
		{"no TLS at all is another alarm", sts(seenAt(0, policy.Absent, "a"), policy.STSEnforce, true), says0},
		{"testing", sts(good(), policy.STSTesting, false, "c.example"), saysGone},
		{"none", sts(good(), policy.STSNone, false), saysGone},
		{"can't be fetched", sts(good(), policy.STSFailed, false), says0},
	}
	for _, tt := range stsTests {
		if got, _ := tt.r.stsOutcome(testFloor); got != tt.want {
			t.Errorf("MTA-STS, %s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

// A destination's life, through the manager: what is kept, logged as an alarm, and what
// of it outlives a restart.
func TestAlarmOfAManager(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, store := &sky{}, &memStore{}
		alarms := 0
		options := ManagerOptions{AlarmAfter: 7 * 24 * time.Hour, OnAlarm: func() { alarms++ }}
		m := newManager(t, s, store, options)
		look := func(st policy.State) policy.Posture {
			t.Helper()
			s.set("x.example", st)
			time.Sleep(time.Hour)
			p, _, err := m.Look(t.Context(), "x.example", policy.TLSParams{}, 0)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		start := time.Now().Add(time.Hour)
		look(policy.Works)
		time.Sleep(10 * 24 * time.Hour)
		if p := look(policy.Works); !p.Since.Equal(start) || !p.Alarmed.IsZero() {
			t.Errorf("posture %+v, want since %v", p, start)
		}
		lost := time.Now().Add(time.Hour)
		p := look(policy.Absent)
		if !p.Since.Equal(start) || !p.Lost.Equal(lost) || !p.Alarmed.Equal(lost) || alarms != 1 || m.lost() != 1 {
			t.Errorf("posture %+v, %d alarms, %d lost", p, alarms, m.lost())
		}
		look(policy.Unreachable)

		m = newManager(t, s, store, options) // a restart
		if err := m.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		if p := look(policy.Broken); !p.Alarmed.Equal(lost) || alarms != 1 || m.lost() != 1 {
			t.Errorf("after a restart: posture %+v, %d alarms, %d lost", p, alarms, m.lost())
		}
		back := time.Now().Add(time.Hour)
		if p := look(policy.Works); !p.Since.Equal(back) || !p.Alarmed.IsZero() || alarms != 2 || m.lost() != 0 {
			t.Errorf("back: posture %+v, %d alarms, %d lost", p, alarms, m.lost())
		}
		var kinds []string
		for _, e := range store.events {
			if e.Dest != "x.example" {
				t.Errorf("event of %q", e.Dest)
			}
			kinds = append(kinds, string(e.Kind))
			if e.Kind == TLSLost && (!e.Detail.Since.Equal(start) || !e.Detail.Until.Before(lost)) {
				t.Errorf("lost: %+v", e.Detail)
			}
			if e.Kind == TLSBack && !e.Detail.Since.Equal(lost) {
				t.Errorf("back: %+v", e.Detail)
			}
		}
		if !slices.Equal(kinds, []string{"tls-lost", "tls-back"}) {
			t.Errorf("events %v", kinds)
		}
	})
}

// What can't be saved is saved later, once, and the alarm is told of only then.
func TestEventsWaitForTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, store := &sky{}, &memStore{}
		alarms := 0
		m := newManager(t, s, store, ManagerOptions{AlarmAfter: -1, OnAlarm: func() { alarms++ }})
		stop := running(t, m)
		look := func(st policy.State) {
			t.Helper()
			s.set("x.example", st)
			if _, _, err := m.Look(t.Context(), "x.example", policy.TLSParams{}, 0); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		look(policy.Works)
		store.mu.Lock()
		store.err = errFailed
		store.mu.Unlock()
		look(policy.Absent)
		look(policy.Works)
		if alarms != 0 {
			t.Errorf("%d alarms told of that are not kept", alarms)
		}
		store.mu.Lock()
		store.err = nil
		store.mu.Unlock()
		time.Sleep(time.Minute)
		stop()
		var kinds []Kind
		for _, e := range store.events {
			kinds = append(kinds, e.Kind)
		}
		if !slices.Equal(kinds, []Kind{TLSLost, TLSBack}) || alarms == 0 {
			t.Errorf("events %v, %d alarms", kinds, alarms)
		}
	})
}

var errFailed = errors.New("disk full")

// What a destination publishes makes its state, and still a certificate that its TLSA
// records don't match is not TLS that was lost.
func TestOneLossIsOneAlarm(t *testing.T) {
	r := seenAt(0, policy.Works, "a=c/k")
	r.DANE, r.MX[0].TLSA, r.MX[0].Addresses[0].DANE = policy.DANEFull, &TLSAResult{State: policy.DANEFull}, daneMatches
	k, _ := (&known{ev: never}).learn(nil, r, r.Checked, testFloor, -1)
	bad := seenAt(1, policy.Broken, "a=c/k")
	bad.MX[0].Addresses[0].State = policy.Works
	bad.DANE, bad.MX[0].TLSA, bad.MX[0].Addresses[0].DANE = policy.DANEFull, r.MX[0].TLSA, "no record matches"
	k, events := k.learn(r, bad, bad.Checked, testFloor, -1)
	if len(events) != 1 || events[0].Kind != DANELost || !events[0].Alarm {
		t.Errorf("mismatch: %v", events)
	}
	if p, _ := k.fresh("d.example", policy.TLSParams{}, testFloor); !p.Alarmed.Equal(bad.Checked) || !p.Lost.Equal(bad.Checked) {
		t.Errorf("posture %+v", p)
	}
	gone := seenAt(2, policy.Absent, "a")
	gone.DANE, gone.MX[0].TLSA = policy.DANEFull, r.MX[0].TLSA
	k, events = k.learn(bad, gone, gone.Checked, testFloor, -1)
	if len(events) != 1 || events[0].Kind != TLSLost || !events[0].Detail.Until.Equal(bad.Checked) {
		t.Errorf("stripped: %v", events)
	}
	again := *r
	again.Checked = gone.Checked.Add(time.Hour)
	if _, events = k.learn(gone, &again, again.Checked, testFloor, -1); len(events) != 2 || events[0].Kind != TLSBack || events[1].Kind != DANEBack {
		t.Errorf("back: %v", events)
	}
}

// What is stale after a restart is looked at when somebody asks, not only when its turn
// comes.
func TestStaleAfterARestartIsLookedAtWhenAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, store := &sky{}, &memStore{}
		s.set("x.example", policy.Absent)
		m := newManager(t, s, store, ManagerOptions{})
		if _, _, err := m.Look(t.Context(), "x.example", policy.TLSParams{}, 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(24 * time.Hour)
		s.set("x.example", policy.Works)
		m = newManager(t, s, store, ManagerOptions{})
		if err := m.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		stop := running(t, m)
		defer stop()
		m.Posture("x.example", policy.TLSParams{})
		synctest.Wait()
		if p := m.Posture("x.example", policy.TLSParams{}); p.State != policy.Works {
			t.Errorf("%v after %d looks", p.State, s.count("x.example"))
		}
	})
}
