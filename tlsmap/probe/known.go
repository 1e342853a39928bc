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

// known is all that is remembered of a destination. It is immutable.
type known struct {
	history            // by the floor alone
	checked  time.Time // zero: never, as in a known that only notes a demand
	expires  time.Time
	next     time.Time // when to look again
	failures int
	ev       evidence
	demands  []demanded
	watch    []Watch
	result   []byte // JSON of the Result, deflated
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
		if !h.worked.IsZero() && h.lost.IsZero() {
			h.lost = now
		}
	}
	return h
}

// posture is the history as part of k, judged for a rule's demand.
func (h history) posture(k *known, demand policy.TLSParams, floor uint16) policy.Posture {
	return policy.Posture{
		State: h.state, Checked: k.checked, Worked: h.worked, Lost: h.lost, Since: h.since, Alarmed: alarmed(k.watch),
		Published: k.ev.published, RuleMet: k.ev.ruleMet(demand, floor),
	}
}

// fresh is the posture for a demand as it was at the last look. noted says that
// the demand's history is being kept. It does not allocate.
func (k *known) fresh(demand policy.TLSParams, floor uint16) (p policy.Posture, noted bool) {
	if plain(demand) {
		return k.posture(k, demand, floor), true
	}
	for i := range k.demands {
		if d := &k.demands[i]; sameDemand(d.demand, demand) {
			return d.posture(k, demand, floor), true
		}
	}
	return k.begin(demand, floor).posture(k, demand, floor), false
}

// begin is the history of a demand that was not asked for before.
func (k *known) begin(demand policy.TLSParams, floor uint16) history {
	if k.checked.IsZero() {
		return history{}
	}
	return history{}.after(k.ev.judge(demand, floor), k.checked)
}

// noting returns k with one more demand.
func (k *known) noting(demand policy.TLSParams, floor uint16) *known {
	n := *k
	keep := k.demands
	if len(keep) >= maxDemands {
		keep = keep[1:]
	}
	n.demands = append(append([]demanded(nil), keep...), demanded{demand, k.begin(demand, floor)})
	return &n
}

// learn returns what is known after a look that ended at now, and what has changed. It
// sets r.Demands and r.Kept.
func (k *known) learn(r *Result, now time.Time, floor uint16, alarmAfter time.Duration, p *packer) (*known, []Event) {
	var before *Result
	if k.result != nil {
		before, _ = k.full() // one that can't be read is none
	}
	carry(before, r, floor)
	events := changes(before, r, floor)
	n := &known{history: k.history.after(r.State, now), checked: now, ev: r.evidence(), failures: 1}
	if k.failures > 0 && kind(k.state) == kind(r.State) {
		n.failures = k.failures + 1
	}
	if r.State == policy.Works {
		n.failures = 0
	}
	for _, d := range k.demands {
		d.history = d.after(n.ev.judge(d.demand, floor), now)
		n.demands = append(n.demands, d)
	}
	ttl := time.Duration(r.TTL) * time.Second
	for _, d := range n.demands {
		if d.state != r.State {
			ttl = 0 // such as a certificate that has expired: look again sooner
		}
	}
	life, next := lifetime(r.State, n.failures, ttl)
	n.expires, n.next = now.Add(life), now.Add(next)
	var watched []Event
	n.watch, watched = watching(k.watch, k.history, n.history, r, floor, now, alarmAfter)
	if !alarmed(n.watch).IsZero() {
		n.next = now.Add(min(next, less(alarmMost))) // its end is to be told soon
	}
	for _, e := range watched {
		if e.Kind == TLSBack {
			events = slices.DeleteFunc(events, func(e Event) bool { return e.Kind == TLSAppeared })
		}
	}
	n.keep(r, p)
	return n, append(events, watched...)
}

// keep puts r, with what is known of the demands, into the result.
func (k *known) keep(r *Result, p *packer) {
	r.Demands = nil
	for _, d := range k.demands {
		r.Demands = append(r.Demands, DemandResult{
			Level: d.demand.Level.String(), Match: d.demand.Match, Protocols: d.demand.Protocols, Servername: d.demand.Servername,
			State: d.state, Worked: d.worked, Lost: d.lost, Since: d.since,
		})
	}
	if len(k.watch) > 0 {
		if r.Kept == nil {
			r.Kept = &Kept{}
		}
		r.Kept.Watch = k.watch
	}
	b, err := json.Marshal(r)
	if err != nil {
		b = []byte("{}") // can't be: nothing in it fails to marshal
	}
	k.result = p.deflate(b)
}

// load reads what was kept. A result that can't be read leaves no evidence, and
// the destination stale.
func load(r Record, now time.Time, p *packer) *known {
	r.Since = cmp.Or(r.Since, r.Worked) // of an older version
	k := &known{
		history: history{r.State, r.Worked, r.Lost, r.Since},
		checked: r.Checked, expires: r.Expires, failures: max(0, r.Failures),
	}
	var res Result
	err := json.Unmarshal(r.Result, &res)
	if err != nil || res.Dest != r.Dest || res.State != r.State || r.Checked.After(now) || r.Expires.Sub(r.Checked) > worksMost {
		k.expires = time.Time{} // damaged, or the clock was set back
		k.ev = evidence{settled: true, state: policy.Unknown}
		return k
	}
	k.ev, k.result = res.evidence(), p.deflate(r.Result)
	if res.Kept != nil {
		k.watch = res.Kept.Watch
	}
	for _, d := range res.Demands {
		level, err := policy.ParseLevel(d.Level)
		if err != nil || len(k.demands) == maxDemands {
			continue
		}
		k.demands = append(k.demands, demanded{
			demand:  policy.TLSParams{Level: level, Match: d.Match, Protocols: d.Protocols, Servername: d.Servername},
			history: history{d.State, d.Worked, d.Lost, cmp.Or(d.Since, d.Worked)},
		})
	}
	return k
}

func (k *known) record(dest string) (Record, error) {
	b, err := inflate(k.result)
	return Record{
		Dest: dest, State: k.state, Checked: k.checked, Worked: k.worked, Lost: k.lost, Since: k.since,
		Expires: k.expires, Result: b, Failures: k.failures,
	}, err
}

// full returns the result itself.
func (k *known) full() (*Result, error) {
	b, err := inflate(k.result)
	if err != nil {
		return nil, err
	}
	r := new(Result)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("read a kept result: %w", err)
	}
	return r, nil
}

// packer deflates results: there may be hundreds of thousands of them. Its
// writers are large and used again.
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
