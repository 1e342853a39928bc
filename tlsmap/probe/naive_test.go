package probe

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// simple is what is remembered of a destination, written down without any thought of room.
type simple struct {
	history
	checked, stale time.Time
	published      *policy.Published
	until          time.Time // of what is published
}

// TestManagerIsAMap: whatever is looked at, asked for, evicted, fetched from the store again
// and left until it is stale, the Manager answers as two maps would: one of what is in
// memory, one of what is in the store.
func TestManagerIsAMap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(5, 6))
		m := newManager(t, new(sky), new(memStore), ManagerOptions{MaxEntries: 4 * shards})
		var found *Result // of the next look or lookup
		m.look = func(_ context.Context, dest string, _ time.Duration) *Result { return found }
		m.discover = func(_ context.Context, dest string) *Result { return found }
		inMemory, inStore := map[string]*simple{}, map[string]*simple{}
		evictions, recalls, losses := 0, 0, 0

		find := func(dest string) {
			host := fmt.Sprintf("mx%d.hoster.example", random.IntN(5))
			found = sharedResult(dest, host, func(r *Result) {
				r.State = []policy.State{policy.Works, policy.Works, policy.Absent, policy.Broken, policy.Unreachable, policy.Unknown}[random.IntN(6)]
				r.DANE = []policy.DANE{policy.DANENone, policy.DANEPartial, policy.DANEUnusable}[random.IntN(3)]
				r.STS.State = []policy.STS{policy.STSNone, policy.STSTesting, policy.STSEnforce}[random.IntN(3)]
				if r.STS.State != policy.STSNone {
					r.STS.MX = []string{"*.hoster.example"}
				}
				r.TTL, r.Checked = random.IntN(8000), time.Now().UTC()
			})
		}
		publish := func(s *simple) {
			p := found.published()
			s.published = &p
			s.until = time.Now().Add(min(max(time.Duration(found.TTL)*time.Second, factsLeast), factsMost))
		}
		asked := func(dest string) *simple {
			for d := range inMemory { // who had to go is the table's choice
				if m.mem.get(d) == nil {
					delete(inMemory, d)
					evictions++
				}
			}
			if inMemory[dest] == nil {
				inMemory[dest] = &simple{}
			}
			return inMemory[dest]
		}
		want := func(s *simple) policy.Posture {
			p := policy.Posture{State: s.state, Checked: s.checked, Worked: s.worked, Lost: s.lost, Since: s.since}
			if s.checked.IsZero() {
				p.State = policy.Unknown
			}
			if !time.Now().Before(s.stale) && (s.state == policy.Absent || s.state == policy.Broken) {
				p.State = policy.Unknown
			}
			if s.published != nil {
				p.Published = *s.published
			}
			return p
		}
		check := func(step int, what, dest string, got, want policy.Posture) {
			if len(got.Published.STSMatch) == 0 {
				got.Published.STSMatch = nil
			}
			got.Alarmed = time.Time{} // of which TestAlarms and others speak
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("step %d, %s of %s:\n%+v, want\n%+v", step, what, dest, got, want)
			}
		}

		for step := range 20_000 {
			time.Sleep(time.Duration(random.IntN(20)) * time.Second)
			dest := nameOf(random.IntN(600)) + ".example"
			switch random.IntN(4) {
			case 0:
				find(dest)
				got, _, err := m.Look(t.Context(), dest, policy.TLSParams{}, 0)
				if err != nil {
					t.Fatal(err)
				}
				s, now := asked(dest), time.Now().UTC()
				if s.checked.IsZero() && inStore[dest] != nil {
					s.history = inStore[dest].history
					recalls++
				}
				s.history, s.checked = s.after(found.State, now), now
				if !s.lost.IsZero() {
					losses++
				}
				publish(s)
				e := m.mem.get(dest)
				life := e.known.Load().expires.time().Sub(now) // how long it is, TestSchedule says
				if life < doubtFirst-doubtFirst/jitter || life > worksMost {
					t.Fatalf("step %d: %s counts for %s", step, dest, life)
				}
				s.stale = now.Add(life)
				kept := *s
				inStore[dest] = &kept
				check(step, "look", dest, got, policy.Posture{
					State: s.state, Checked: s.checked, Worked: s.worked, Lost: s.lost, Since: s.since, Published: *s.published,
				})
			case 1:
				find(dest)
				got := m.Published(t.Context(), dest)
				s := asked(dest)
				if s.published == nil || !time.Now().Before(s.until) {
					publish(s)
				}
				check(step, "what is published", dest, policy.Posture{Published: got}, policy.Posture{Published: *s.published})
			default:
				got := m.Posture(dest, policy.TLSParams{Level: policy.Level(random.IntN(int(policy.LevelDANEOnly)))})
				check(step, "posture", dest, got, want(asked(dest)))
			}
			if m.mem.len() != len(inMemory) {
				asked(dest)
				if m.mem.len() != len(inMemory) {
					t.Fatalf("step %d: %d in memory, want %d", step, m.mem.len(), len(inMemory))
				}
			}
		}
		if evictions < 1000 || recalls < 100 || losses < 100 {
			t.Errorf("only %d evictions, %d recalls, %d losses", evictions, recalls, losses)
		}
	})
}
