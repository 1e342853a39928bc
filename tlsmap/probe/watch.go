package probe

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// alarmAfterDefault is how long TLS must have been there for its loss to be an alarm.
const alarmAfterDefault = 7 * 24 * time.Hour

// doubtFor is how long a failure that a resolver may be to blame for must last before
// it is an alarm.
const doubtFor = 15 * time.Minute

// Watch is one thing of a destination whose loss is an alarm, and what became of it. It
// is kept from look to look.
type Watch struct {
	What   string    `json:"what"`            // tls, dane, mta-sts
	Since  time.Time `json:"since,omitzero"`  // worked without a break since, as of Worked
	Worked time.Time `json:"worked,omitzero"` // last seen to work; zero: never
	Lost   time.Time `json:"lost,omitzero"`   // first found not to work after that
	Alarm  time.Time `json:"alarm,omitzero"`  // when that became an alarm; zero: it did not
	Last   time.Time `json:"last,omitzero"`   // the alarm before, of a loss that has ended
}

// The things watched, and what begins and ends an alarm about them.
const (
	watchTLS  = "tls"
	watchDANE = "dane"
	watchSTS  = "mta-sts"
)

// outcome is what a look says of a thing that is watched.
type outcome int

const (
	says0    outcome = iota // nothing
	saysYes                 // it works
	saysNo                  // it does not
	saysFail                // it can't be had, and nobody knows why
	saysGone                // the destination does not promise it any more
)

// after is the watch that follows from a look at now, with the event that this makes,
// nil for none. long is for how long it must have worked for its loss to be an alarm.
func (w Watch) after(o outcome, reason string, now time.Time, long time.Duration) (Watch, *Event) {
	var end *Event // of a loss
	if !w.Alarm.IsZero() || !w.Lost.IsZero() && w.What == watchTLS {
		end = &Event{Kind: Kind(w.What + "-back"), Alarm: !w.Alarm.IsZero(), Detail: Detail{Reason: reason, Since: w.Lost, Until: now}}
	}
	last := w.Last
	if !w.Alarm.IsZero() {
		last = w.Alarm
	}
	switch o {
	case saysYes:
		since := w.Since
		if since.IsZero() || !w.Lost.IsZero() {
			since = now
		}
		return Watch{What: w.What, Since: since, Worked: now, Last: last}, end
	case saysGone:
		return Watch{What: w.What, Last: last}, end
	case saysNo, saysFail:
		if w.Worked.IsZero() || !w.Alarm.IsZero() {
			return w, nil
		}
		first := w.Lost.IsZero()
		if first {
			w.Lost = now
		}
		// What is lost over and over was there for long, even if never in one go.
		alarm := w.Lost.Sub(w.Since) >= long || !w.Last.IsZero() && now.Sub(w.Last) < long
		if o == saysFail && now.Sub(w.Lost) < doubtFor {
			alarm = false
		}
		if alarm {
			w.Alarm = now
		}
		if alarm || first && o == saysNo {
			return w, &Event{Kind: Kind(w.What + "-lost"), Alarm: alarm, Detail: Detail{Reason: reason, Since: w.Since, Until: w.Worked}}
		}
	}
	return w, nil
}

// watching returns what is watched after a look that found r at now, and what happened.
// before and after are the histories of the state around it; TLS is watched by itself,
// whatever the destination publishes, and its times are kept only where they differ.
func watching(old []Watch, before, after history, r *Result, floor uint16, now time.Time, alarmAfter time.Duration) (all []Watch, events []Event) {
	for _, what := range [...]string{watchTLS, watchDANE, watchSTS} {
		w := Watch{What: what}
		for _, o := range old {
			if o.What == what {
				w = o
			}
		}
		var o outcome
		var reason string
		long := time.Duration(0) // what is published to be relied on is missed at once
		switch what {
		case watchTLS:
			if w.Worked.IsZero() {
				w.Since, w.Worked, w.Lost = before.since, before.worked, before.lost
			}
			o, reason = r.tlsOutcome(floor)
			long = alarmAfter
		case watchDANE:
			o, reason = r.daneOutcome()
		case watchSTS:
			o, reason = r.stsOutcome(floor)
		}
		w, e := w.after(o, clean(reason), now, long)
		if e != nil {
			e.Dest, e.At = r.Dest, now
			events = append(events, *e)
		}
		if what == watchTLS && w.Since.Equal(after.since) && w.Worked.Equal(after.worked) && w.Lost.Equal(after.lost) {
			w.Since, w.Worked, w.Lost = time.Time{}, time.Time{}, time.Time{}
		}
		if w != (Watch{What: what}) {
			all = append(all, w)
		}
	}
	return all, events
}

// alarmed returns when a loss that has not ended became an alarm; zero: there is none.
func alarmed(all []Watch) time.Time {
	for _, w := range all {
		if !w.Alarm.IsZero() {
			return w.Alarm
		}
	}
	return time.Time{}
}

// bare returns the state of the destination as if it published nothing.
func (r *Result) bare(floor uint16) policy.State {
	return r.under(policy.Published{DANE: policy.DANEOff, STS: policy.STSOff}, floor)
}

func (r *Result) under(p policy.Published, floor uint16) policy.State {
	ev := r.evidence()
	ev.published = p
	return ev.judge(r.Domain, policy.TLSParams{}, floor)
}

func (r *Result) tlsOutcome(floor uint16) (outcome, string) {
	switch r.bare(floor) {
	case policy.Works:
		return saysYes, ""
	case policy.Absent, policy.Broken:
		return saysNo, r.Reason
	}
	return says0, ""
}

func (r *Result) daneOutcome() (outcome, string) {
	switch r.DANE {
	case policy.DANEFull, policy.DANEPartial:
		o, reason := says0, ""
		for i := range r.MX {
			mx := &r.MX[i]
			if mx.TLSA == nil || mx.TLSA.State != policy.DANEFull {
				continue
			}
			for j := range mx.Addresses {
				switch a := &mx.Addresses[j]; {
				case a.DANE == daneMatches:
					return saysYes, mx.Host
				case a.TLS && a.DANE != "" && o == says0:
					o, reason = saysNo, mx.Host+": "+a.DANE
				}
			}
		}
		return o, reason
	case policy.DANEFailed:
		for i := range r.MX {
			if t := r.MX[i].TLSA; t != nil && t.State == policy.DANEFailed {
				return saysFail, r.MX[i].Host + ": " + t.Error
			}
		}
		return saysFail, "the lookup of TLSA records fails"
	case policy.DANENone, policy.DANEUnusable:
		return saysGone, "there are no usable TLSA records any more"
	}
	return says0, ""
}

// daneMatches is the word of AddressResult.DANE for a chain that a TLSA record vouches for.
const daneMatches = "match"

func (r *Result) stsOutcome(floor uint16) (outcome, string) {
	if r.STS == nil {
		return says0, ""
	}
	switch r.STS.State {
	case policy.STSEnforce:
		p := policy.Published{DANE: policy.DANEOff, STS: policy.STSEnforce, STSMatch: stsMatch(r.STS.MX)}
		switch s := r.under(p, floor); {
		case s == policy.Works:
			return saysYes, ""
		case s == policy.Broken && r.bare(floor) == policy.Works:
			return saysNo, "none of the hosts has a trusted certificate with a name that the policy lists"
		}
	case policy.STSNone, policy.STSTesting:
		return saysGone, "the policy demands nothing any more"
	}
	return says0, ""
}

// Alarmed returns when a loss that has not ended became an alarm; zero: there is none.
func (r *Record) Alarmed() time.Time {
	if !bytes.Contains(r.Result, []byte(`"alarm"`)) { // hardly ever: spare the parsing
		return time.Time{}
	}
	var kept struct{ Kept Kept }
	if json.Unmarshal(r.Result, &kept) != nil {
		return time.Time{}
	}
	return alarmed(kept.Kept.Watch)
}
