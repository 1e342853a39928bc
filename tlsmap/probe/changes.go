package probe

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// The memory of certificates. A host behind a load balancer shows now one, now
// another of a few; one that makes a new one for each connection tells nothing by it.
const (
	seenMost   = 16                  // certificates of one host
	seenAll    = maxHosts * seenMost // of a destination: one may have other hosts at each look
	seenFor    = 60 * 24 * time.Hour // after which one that comes back counts as new
	seenChurn  = 7 * 24 * time.Hour  // as many as seenMost within it: new ones say nothing
	seenDigits = 32                  // of a hash: enough to tell certificates apart, and small
)

// Kept is what is carried from look to look: what this look could not tell, as an
// earlier one told it, and certificates seen before.
type Kept struct {
	State policy.State `json:"state,omitzero"`   // works, absent or broken, whatever is published
	MX    []string     `json:"mx,omitempty"`     // host names, sorted
	DANE  policy.DANE  `json:"dane,omitzero"`    // a settled one
	STS   string       `json:"mta_sts,omitzero"` // see stsWords
	Seen  []SeenCert   `json:"seen,omitempty"`
	Watch []Watch      `json:"watch,omitempty"`
}

// SeenCert is a certificate that a host showed before. Hashes are cut.
type SeenCert struct {
	Host        string    `json:"host"`
	Fingerprint string    `json:"sha256"`
	Key         string    `json:"spki_sha256"`
	Last        time.Time `json:"last"`
}

// changes returns what is different between a look at a destination and the one
// before. What a look could not find out is taken from before: DNS that fails, a host
// that does not answer or resolvers that are not trusted say nothing. Nor does the
// order of hosts, or their addresses, which rotate. The first look changes nothing. What
// is lost and comes back is in watching.
func changes(old, new *Result, floor uint16) []Event {
	if old == nil {
		return nil
	}
	var events []Event
	add := func(k Kind, d Detail) {
		events = append(events, Event{Dest: new.Dest, At: new.Checked, Kind: k, Detail: d})
	}
	if before, now := old.settledMX(), new.mxNames(); before != nil && now != nil && !slices.Equal(before, now) {
		d := Detail{Before: before, After: now}
		switch {
		case new.NullMX:
			d.Reason = "null MX: the domain takes no mail"
		case len(now) == 0:
			d.Reason = new.Reason
		}
		add(NewMX, d)
	}
	if before := old.settledState(floor); (before == policy.Absent || before == policy.Broken) && new.bare(floor) == policy.Works {
		add(TLSAppeared, Detail{})
	}
	if before, now := old.settledDANE(), new.DANE; settledDANE(before) && settledDANE(now) && before != now {
		add(DANEChanged, Detail{Before: []string{before.String()}, After: []string{now.String()}})
	}
	if before, now := old.settledSTS(), new.stsWords(); before != "" && now != "" && before != now {
		add(STSChanged, Detail{Before: []string{before}, After: []string{now}})
	}
	return append(events, newCerts(old, new)...)
}

// newCerts is the part of changes about certificates: one event for each host that
// showed new ones, and had shown others before.
func newCerts(old, new *Result) []Event {
	var events []Event
	seen := old.seen(new.Checked)
	for i := range new.MX {
		mx := &new.MX[i]
		var known []SeenCert
		for _, s := range seen {
			if s.Host == mx.Host {
				known = append(known, s)
			}
		}
		if len(known) == 0 {
			continue // the first time that its certificate is seen
		}
		churn := 0
		for _, s := range known {
			if new.Checked.Sub(s.Last) < seenChurn {
				churn++
			}
		}
		if churn >= seenMost {
			continue
		}
		e := Event{Dest: new.Dest, At: new.Checked, Kind: NewCert, Detail: Detail{Host: mx.Host}}
		for j := range mx.Addresses {
			c := mx.Addresses[j].Cert
			if c == nil || slices.ContainsFunc(known, func(s SeenCert) bool { return s.Fingerprint == cut(c.Fingerprint) }) ||
				slices.Contains(e.Detail.After, c.Fingerprint) {
				continue
			}
			e.Detail.After = append(e.Detail.After, c.Fingerprint)
			if !slices.ContainsFunc(known, func(s SeenCert) bool { return s.Key == cut(c.SPKI) || s.Key == "" }) {
				e.Kind = NewKey
			}
		}
		if len(e.Detail.After) == 0 {
			continue
		}
		for j := range old.MX {
			if old.MX[j].Host != mx.Host {
				continue
			}
			for _, a := range old.MX[j].Addresses {
				if a.Cert != nil && !slices.Contains(e.Detail.Before, a.Cert.Fingerprint) {
					e.Detail.Before = append(e.Detail.Before, a.Cert.Fingerprint)
				}
			}
		}
		if churn+len(e.Detail.After) >= seenMost {
			e.Detail.Reason = fmt.Sprintf("%d certificates in %d days: further ones are not noted for now", churn+len(e.Detail.After), seenChurn/(24*time.Hour))
		}
		events = append(events, e)
	}
	return events
}

// carry fills in new.Kept, but for what is watched, from the look before.
func carry(old, new *Result, floor uint16) {
	k := &Kept{}
	if old != nil {
		if !settledState(new.bare(floor)) {
			k.State = old.settledState(floor)
		}
		if new.mxNames() == nil {
			k.MX = old.settledMX()
		}
		if !settledDANE(new.DANE) {
			k.DANE = old.settledDANE()
		}
		if new.stsWords() == "" {
			k.STS = old.settledSTS()
		}
		shown := new.shown(time.Time{})
		for _, s := range old.seen(new.Checked) {
			if !slices.ContainsFunc(shown, s.same) {
				k.Seen = append(k.Seen, s)
			}
		}
	}
	if k.State != 0 || k.MX != nil || k.DANE != 0 || k.STS != "" || k.Seen != nil {
		new.Kept = k
	} else {
		new.Kept = nil
	}
}

// seen returns the certificates shown at the look r and before, the newest of each host.
func (r *Result) seen(now time.Time) []SeenCert {
	all := r.shown(r.Checked)
	if r.Kept != nil {
		all = append(all, r.Kept.Seen...)
	}
	of := make(map[string]int)
	all = slices.DeleteFunc(all, func(s SeenCert) bool {
		of[s.Host]++
		return of[s.Host] > seenMost || now.Sub(s.Last) > seenFor
	})
	return all[:min(len(all), seenAll)]
}

// shown returns the certificates of one look, as seen at that time.
func (r *Result) shown(at time.Time) []SeenCert {
	var all []SeenCert
	for i := range r.MX {
		for j := range r.MX[i].Addresses {
			c := r.MX[i].Addresses[j].Cert
			if c == nil {
				continue
			}
			s := SeenCert{r.MX[i].Host, cut(c.Fingerprint), cut(c.SPKI), at}
			if !slices.ContainsFunc(all, s.same) {
				all = append(all, s)
			}
		}
	}
	return all
}

func (s SeenCert) same(t SeenCert) bool { return s.Host == t.Host && s.Fingerprint == t.Fingerprint }

func cut(hash string) string { return hash[:min(len(hash), seenDigits)] }

// settledState tells what a destination says of its TLS from what nobody could find out.
func settledState(s policy.State) bool {
	return s == policy.Works || s == policy.Absent || s == policy.Broken
}

// settledState is of TLS as such, whatever is published.
func (r *Result) settledState(floor uint16) policy.State {
	if s := r.bare(floor); settledState(s) || r.Kept == nil {
		return s
	}
	return r.Kept.State
}

func settledDANE(d policy.DANE) bool {
	return d == policy.DANENone || d == policy.DANEPartial || d == policy.DANEFull || d == policy.DANEUnusable
}

func (r *Result) settledDANE() policy.DANE {
	if settledDANE(r.DANE) || r.Kept == nil {
		return r.DANE
	}
	return r.Kept.DANE
}

// mxNames returns the names of the MX hosts, sorted, nil where DNS did not say.
func (r *Result) mxNames() []string {
	if len(r.MX) == 0 && r.State != policy.NoMail {
		return nil
	}
	names := []string{}
	for i := range r.MX {
		names = append(names, r.MX[i].Host)
	}
	slices.Sort(names)
	return names
}

func (r *Result) settledMX() []string {
	if now := r.mxNames(); now != nil || r.Kept == nil {
		return now
	}
	return r.Kept.MX
}

// stsWords says in words what policy there is, and "" where that is not known.
func (r *Result) stsWords() string {
	if r.STS == nil {
		return ""
	}
	switch r.STS.State {
	case policy.STSNone:
		return "none"
	case policy.STSTesting, policy.STSEnforce:
		mx := slices.Clone(r.STS.MX)
		slices.Sort(mx)
		return clean(r.STS.State.String() + ": " + strings.Join(mx, " "))
	}
	return ""
}

func (r *Result) settledSTS() string {
	if now := r.stsWords(); now != "" || r.Kept == nil {
		return now
	}
	return r.Kept.STS
}
