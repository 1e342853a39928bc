package probe

import (
	"bytes"
	"cmp"
	"compress/flate"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// maxDemands bounds the demands whose history is kept for a destination. More
// than one or two come only from changed rules.
const maxDemands = 8

// known is all that is remembered of a destination. It is immutable, and small, as
// there may be hundreds of thousands: what most destinations share or do not have lies
// elsewhere, and the Result itself in the store.
type known struct {
	ev      *evidence // of the last look, shared by all that look the same; never nil
	rare    *rare     // nil: as known.unusual says
	checked stamp     // zero: never, as in a known that only notes a demand
	expires stamp
	next    stamp // when to look again
	since   stamp // see history
}

// rare is what is remembered of few destinations.
type rare struct {
	worked, lost stamp
	failures     int
	demands      []demanded
	watch        []Watch
}

// stamp is a time in seconds since 1970, in half the room of a time.Time's third; zero is
// the zero time.
type stamp uint32

func stampOf(t time.Time) stamp {
	if t.IsZero() {
		return 0
	}
	return stamp(max(1, t.Unix()))
}

func (s stamp) time() time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(int64(s), 0).UTC()
}

// never is what is known of a destination that nobody has looked at.
var never = &evidence{settled: true}

// state is the last one, by the floor alone.
func (k *known) state() policy.State { return k.ev.outcome }

// stale reports whether it does not count any more: its time is over, or the clock was
// set back behind it.
func (k *known) stale(now time.Time) bool {
	return !now.Before(k.expires.time()) || k.checked.time().After(now)
}

// history is that by the floor alone.
func (k *known) history() history {
	u := k.unusual()
	return history{k.state(), u.worked.time(), u.lost.time(), k.since.time()}
}

// unusual returns what is rare, or what there is instead: TLS that works was seen to
// at the last look, and nothing was lost or asked for.
func (k *known) unusual() rare {
	switch {
	case k.rare != nil:
		return *k.rare
	case k.state() == policy.Works:
		return rare{worked: k.checked}
	}
	return rare{}
}

// with sets what is rare.
func (k *known) with(u rare) {
	k.rare = nil
	if usual := k.unusual(); len(u.demands) > 0 || len(u.watch) > 0 || u.failures != 0 || u.worked != usual.worked || u.lost != usual.lost {
		k.rare = &u
	}
}

// history is a state and when TLS worked and was lost, see Record.
type history struct {
	state               policy.State
	worked, lost, since time.Time
}

type demanded struct {
	demand policy.TLSParams
	history
}

// after is the history that follows from finding state s at now. Only a look
// that finds TLS ends a loss, and only one that finds none or a broken one
// begins it.
func (h history) after(s policy.State, now time.Time) history {
	h.state = s
	switch s {
	case policy.Works:
		if h.since.IsZero() || !h.lost.IsZero() {
			h.since = now
		}
		h.worked, h.lost = now, time.Time{}
	case policy.Absent, policy.Broken:
		if !h.worked.IsZero() && (h.lost.IsZero() || h.lost.After(now)) { // after it: the clock was set back
			h.lost = now
		}
	}
	return h
}

// posture is the history as part of k, judged for a rule's demand.
func (h history) posture(k *known, dest string, demand policy.TLSParams, floor uint16) policy.Posture {
	return policy.Posture{
		State: h.state, Checked: k.checked.time(), Worked: h.worked, Lost: h.lost, Since: h.since, Alarmed: k.alarmed(),
		Published: k.ev.published, RuleMet: k.ev.ruleMet(nexthopOf(dest), demand, floor),
	}
}

// alarmed is when a loss that has not ended became an alarm; zero: there is none.
func (k *known) alarmed() time.Time {
	if k.rare == nil {
		return time.Time{}
	}
	return alarmed(k.rare.watch)
}

// fresh is the posture of dest for a demand as it was at the last look. noted says that
// the demand's history is being kept. It does not allocate.
func (k *known) fresh(dest string, demand policy.TLSParams, floor uint16) (p policy.Posture, noted bool) {
	if plain(demand) { // as nearly all are; written out, since all mail that must be encrypted comes by here
		p.State, p.Checked, p.Since = k.state(), k.checked.time(), k.since.time()
		if k.rare != nil {
			p.Worked, p.Lost, p.Alarmed = k.rare.worked.time(), k.rare.lost.time(), k.alarmed()
		} else if p.State == policy.Works {
			p.Worked = p.Checked
		}
		p.Published, p.RuleMet = k.ev.published, k.ev.vouched && k.ev.ruleMet(nexthopOf(dest), demand, floor)
		return p, true
	}
	if k.rare != nil {
		for i := range k.rare.demands {
			if d := &k.rare.demands[i]; sameDemand(d.demand, demand) {
				return d.posture(k, dest, demand, floor), true
			}
		}
	}
	return k.begin(dest, demand, floor).posture(k, dest, demand, floor), false
}

// begin is the history of a demand that was not asked for before.
func (k *known) begin(dest string, demand policy.TLSParams, floor uint16) history {
	if k.checked == 0 {
		return history{}
	}
	return history{}.after(k.ev.judge(nexthopOf(dest), demand, floor), k.checked.time())
}

// noting returns k with one more demand.
func (k *known) noting(dest string, demand policy.TLSParams, floor uint16) *known {
	n, u := *k, k.unusual()
	if len(u.demands) >= maxDemands {
		u.demands = u.demands[1:]
	}
	u.demands = append(slices.Clip(u.demands), demanded{demand, k.begin(dest, demand, floor)})
	n.with(u)
	return &n
}

// learn returns what is known after a look that ended at now, and what has changed since
// before, the last one's result, nil where there is none. It sets r.Demands and r.Kept.
func (k *known) learn(before, r *Result, now time.Time, floor uint16, alarmAfter time.Duration) (*known, []Event) {
	now = now.Truncate(time.Second) // of which stamps consist
	carry(before, r, floor)
	events := changes(before, r, floor)
	old, was := k.history(), k.unusual()
	h := old.after(r.State, now)
	ev := r.evidence()
	n := &known{ev: shared(r.Dest, &ev), checked: stampOf(now), since: stampOf(h.since)}
	u := rare{worked: stampOf(h.worked), lost: stampOf(h.lost), failures: 1}
	if was.failures > 0 && kind(k.state()) == kind(r.State) {
		u.failures = was.failures + 1
	}
	if r.State == policy.Works {
		u.failures = 0
	}
	ttl := time.Duration(r.TTL) * time.Second
	for _, d := range was.demands {
		d.history = d.after(ev.judge(r.Domain, d.demand, floor), now)
		u.demands = append(u.demands, d)
		if d.state != r.State {
			ttl = 0 // such as a certificate that has expired: look again sooner
		}
	}
	life, next := lifetime(r.State, u.failures, ttl)
	n.expires, n.next = stampOf(now.Add(life)), stampOf(now.Add(next))
	var watched []Event
	u.watch, watched = watching(was.watch, old, h, r, floor, now, alarmAfter)
	if !alarmed(u.watch).IsZero() {
		n.next = stampOf(now.Add(min(next, less(alarmMost)))) // its end is to be told soon
	}
	for _, e := range watched {
		if e.Kind == TLSBack {
			events = slices.DeleteFunc(events, func(e Event) bool { return e.Kind == TLSAppeared })
		}
	}
	n.with(u)
	n.keep(r)
	return n, append(events, watched...)
}

// keep puts what is known of the demands, and is watched, into the result.
func (k *known) keep(r *Result) {
	r.Demands = nil
	u := k.unusual()
	for _, d := range u.demands {
		r.Demands = append(r.Demands, DemandResult{
			Level: d.demand.Level.String(), Match: d.demand.Match, Protocols: d.demand.Protocols, Servername: d.demand.Servername,
			State: d.state, Worked: d.worked, Lost: d.lost, Since: d.since,
		})
	}
	if len(u.watch) > 0 {
		if r.Kept == nil {
			r.Kept = &Kept{}
		}
		r.Kept.Watch = u.watch
	}
}

// load reads what was kept, with the result. One that can't be read is nil, leaves no
// evidence, and the destination stale.
func load(r Record, now time.Time) (*known, *Result) {
	r.Since = cmp.Or(r.Since, r.Worked) // of an older version
	k := &known{checked: stampOf(r.Checked), expires: stampOf(r.Expires), since: stampOf(r.Since)}
	u := rare{worked: stampOf(r.Worked), lost: stampOf(r.Lost), failures: max(0, r.Failures)}
	res := new(Result)
	err := json.Unmarshal(r.Result, res)
	if err != nil || res.Dest != r.Dest || res.State != r.State || r.Checked.After(now) || r.Expires.Sub(r.Checked) > worksMost {
		k.expires = 0 // damaged, or the clock was set back
		k.ev = shared(r.Dest, &evidence{settled: true, state: policy.Unknown, outcome: r.State})
		k.with(u)
		return k, nil
	}
	ev := res.evidence()
	k.ev = shared(r.Dest, &ev)
	if res.Kept != nil {
		u.watch = res.Kept.Watch
	}
	for _, d := range res.Demands {
		level, err := policy.ParseLevel(d.Level)
		if err != nil || len(u.demands) == maxDemands {
			continue
		}
		u.demands = append(u.demands, demanded{
			demand:  policy.TLSParams{Level: level, Match: d.Match, Protocols: d.Protocols, Servername: d.Servername},
			history: history{d.State, d.Worked, d.Lost, cmp.Or(d.Since, d.Worked)},
		})
	}
	k.with(u)
	return k, res
}

// record is what the store keeps, but for the result.
func (k *known) record(dest string) Record {
	h, u := k.history(), k.unusual()
	return Record{
		Dest: dest, State: h.state, Checked: k.checked.time(), Worked: h.worked, Lost: h.lost, Since: h.since,
		Expires: k.expires.time(), Failures: u.failures,
	}
}

// packer deflates results that wait to be saved. Its writers are large and used
// again.
type packer struct{ writers sync.Pool }

func (p *packer) deflate(b []byte) []byte {
	var out bytes.Buffer
	w, _ := p.writers.Get().(*flate.Writer)
	if w == nil {
		w, _ = flate.NewWriter(&out, flate.BestSpeed) // fails only for an unknown level
	} else {
		w.Reset(&out)
	}
	w.Write(b)
	w.Close()
	p.writers.Put(w)
	return bytes.Clone(out.Bytes())
}

func inflate(b []byte) ([]byte, error) {
	out, err := io.ReadAll(flate.NewReader(bytes.NewReader(b)))
	if err != nil {
		return nil, fmt.Errorf("read a kept result: %w", err)
	}
	return out, nil
}
