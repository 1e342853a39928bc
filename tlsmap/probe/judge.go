package probe

import (
	"crypto/tls"
	"slices"
	"strings"
	"unique"

	"github.com/postseal/postseal/policyd/policy"
)

// Judge returns the state of the destination for mail that must be encrypted, under a
// rule's demand. floor is the least TLS version (tls.VersionTLS12) where the demand
// names no protocols.
//
// What the destination publishes is demanded too ([policy.ProofTLS]): with DANE the
// certificate matches the host's TLSA records, and hosts that have none are passed
// by, as Postfix does at dane-only; with an enforced MTA-STS policy the host is one
// that it names and its certificate is trusted. At the levels verify and secure TLS works only
// where a certificate has a trusted chain and a name that matches, by the rules
// of Postfix's smtp_tls_policy_maps. Where nobody can say what is demanded the state
// is Unknown. A cipher grade is not judged. A host that spoke a newer version
// than the demand allows is taken to speak the older one too.
func (r *Result) Judge(demand policy.TLSParams, floor uint16) policy.State {
	ev := r.evidence()
	return ev.judge(r.Domain, demand, floor)
}

// RuleMet reports whether every host whose certificate matches its TLSA records meets
// a rule's demand too, and there is one; see [policy.TLSInput].
func (r *Result) RuleMet(demand policy.TLSParams, floor uint16) bool {
	ev := r.evidence()
	return ev.ruleMet(r.Domain, demand, floor)
}

// evidence is what of a Result counts for Judge, small enough to be kept for
// hundreds of thousands of destinations. It is the same for all that share their mail
// hosts, see [shared], and so does not name the destination.
type evidence struct {
	settled   bool         // state is all there is to say
	state     policy.State // where settled
	doubt     bool         // something was not looked at, or DNS failed
	outcome   policy.State // of the Result
	published policy.Published
	vouched   bool // a host's certificate matches its TLSA records
	facts     []fact
}

// fact is one or more addresses that behave alike.
type fact struct {
	host     string
	state    policy.State // Works where TLS came about, whatever the version
	version  uint16
	verified bool
	dane     daneState
	stranger bool                  // the domain's MTA-STS policy does not name the host
	names    string                // parted by newlines
	many     unique.Handle[string] // keeps names that are many in memory once
}

// daneState is how a host stands to its TLSA records.
type daneState uint8

const (
	daneNone     daneState = iota // it has none that a sender can use: dane-only passes it by
	daneFailed                    // they can't be had
	daneMatch                     // its certificate matches
	daneMismatch                  // it does not, or there was no TLS
)

func (r *Result) evidence() evidence {
	ev := evidence{outcome: r.State, doubt: r.Unprobed > 0, published: r.published()}
	if len(r.MX) == 0 {
		ev.settled, ev.state = true, r.State
		return ev
	}
	for i := range r.MX {
		mx := &r.MX[i]
		ev.doubt = ev.doubt || mx.DNSFailed
		for j := range mx.Addresses {
			a := &mx.Addresses[j]
			f := fact{host: mx.Host, state: a.State, dane: daneStateOf(mx, a), stranger: mx.STSMatch != nil && !*mx.STSMatch}
			if a.TLS {
				f.state, f.version = policy.Works, versionNumber(a.Version)
				if a.Cert != nil {
					f.verified = a.Cert.Verified
					f.names = strings.Join(a.Cert.Names, "\n")
					if f.names == f.host {
						f.names = f.host // in memory once
					} else if len(f.names) > manyNames {
						f.many = unique.Make(f.names)
						f.names = f.many.Value()
					}
				}
			}
			ev.vouched = ev.vouched || f.vouches()
			if !slices.Contains(ev.facts, f) {
				ev.facts = append(ev.facts, f)
			}
		}
	}
	return ev
}

func daneStateOf(mx *MXResult, a *AddressResult) daneState {
	switch {
	case mx.TLSA == nil:
		return daneNone
	case mx.TLSA.State == policy.DANEFailed:
		return daneFailed
	case mx.TLSA.State != policy.DANEFull:
		return daneNone
	case a.DANE == daneMatches:
		return daneMatch
	}
	return daneMismatch
}

// manyNames is from how many bytes on the names of a certificate are worth to be searched
// for others that are the same: a hoster's mail hosts have one certificate and a name of
// each customer's.
const manyNames = 64

// vouches reports whether the host's certificate matches its TLSA records.
func (f *fact) vouches() bool { return f.dane == daneMatch && f.state == policy.Works }

// judge is the verdict over all hosts. Postfix tries them in order until one
// serves, so one that works is enough. Where none does, a host that could not be
// looked at may be the one that would, so nobody knows. nexthop is the domain or host
// without brackets and port. It does not allocate, unless
// what a rule names and an MTA-STS policy have to be intersected.
func (ev *evidence) judge(nexthop string, demand policy.TLSParams, floor uint16) policy.State {
	if ev.settled {
		return ev.state
	}
	proof := policy.ProofTLS(nexthop, demand, ev.published)
	if proof.Wait != "" {
		return policy.Unknown
	}
	enforced := ev.published.STS == policy.STSEnforce && !proof.DANE
	broken, absent, passed, doubt := false, false, false, ev.doubt
	for i := range ev.facts {
		f := &ev.facts[i]
		if proof.DANE && f.dane <= daneFailed {
			passed = passed || f.dane == daneNone && f.state == policy.Works
			doubt = doubt || f.dane == daneFailed
			continue
		}
		switch f.state {
		case policy.Works:
			if (!proof.DANE || f.dane == daneMatch) && !(enforced && f.stranger) && f.meets(proof.TLSParams, floor, nexthop) {
				return policy.Works
			}
			broken = true
		case policy.Broken:
			broken = true
		case policy.Absent:
			absent = true
		case policy.Unreachable:
		default:
			doubt = true
		}
	}
	switch {
	case doubt:
		return policy.Unknown
	case broken:
		return policy.Broken
	case absent:
		return policy.Absent
	case passed && ev.published.DANE == policy.DANENone:
		return policy.Broken // a rule demands TLSA records, and there are none
	}
	return policy.Unreachable
}

// ruleMet is RuleMet. It does not allocate.
func (ev *evidence) ruleMet(nexthop string, demand policy.TLSParams, floor uint16) bool {
	if !ev.vouched { // which most are not
		return false
	}
	met := false
	for i := range ev.facts {
		f := &ev.facts[i]
		if !f.vouches() {
			continue
		}
		if met = f.meets(demand, floor, nexthop); !met {
			return false
		}
	}
	return met
}

func (f *fact) meets(demand policy.TLSParams, floor uint16, nexthop string) bool {
	if demand.Protocols != "" {
		if !speaks(demand.Protocols, f.version) {
			return false
		}
	} else if f.version < floor {
		return false
	}
	if demand.Level < policy.LevelVerify {
		return true
	}
	if !f.verified {
		return false
	}
	if f.names != "" {
		for name := range strings.SplitSeq(f.names, "\n") {
			if matches(name, demand, f.host, nexthop) {
				return true
			}
		}
	}
	return false
}

// matches reports whether a name of a certificate is one that the demand
// accepts, as match_servername of Postfix's tls_client.c does. Postfix's
// defaults are smtp_tls_verify_cert_match = hostname and
// smtp_tls_secure_cert_match = nexthop, dot-nexthop.
func matches(name string, demand policy.TLSParams, host, nexthop string) bool {
	if len(demand.Match) == 0 {
		if demand.Level == policy.LevelVerify {
			return matchPattern(name, host, false)
		}
		return matchPattern(name, nexthop, false) || matchPattern(name, nexthop, true)
	}
	for _, m := range demand.Match {
		sub := false
		switch {
		case strings.EqualFold(m, "hostname"):
			m = host
		case strings.EqualFold(m, "nexthop"):
			m = nexthop
		case strings.EqualFold(m, "dot-nexthop"):
			m, sub = nexthop, true
		default:
			m, sub = strings.CutPrefix(m, ".")
		}
		if matchPattern(name, m, sub) {
			return true
		}
	}
	return false
}

// matchPattern compares one name of a certificate with a domain; sub asks for a
// name below it, of any depth. A wildcard stands for exactly one label.
func matchPattern(name, domain string, sub bool) bool {
	if name == "" || domain == "" {
		return false
	}
	if sub {
		i := len(name) - len(domain)
		return i > 1 && name[i-1] == '.' && strings.EqualFold(name[i:], domain)
	}
	if strings.EqualFold(name, domain) {
		return true
	}
	if !strings.HasPrefix(name, "*.") || len(name) < 3 {
		return false
	}
	dot := strings.IndexByte(domain, '.')
	return dot > 0 && strings.EqualFold(name[1:], domain[dot:])
}

// plain reports whether a demand asks for nothing beyond the floor.
func plain(d policy.TLSParams) bool { return d.Level < policy.LevelDANEOnly && d.Protocols == "" }

func sameDemand(a, b policy.TLSParams) bool {
	return a.Level == b.Level && a.Protocols == b.Protocols && a.Servername == b.Servername && slices.Equal(a.Match, b.Match)
}

// The versions by Postfix's names, oldest first.
var versions = [...]struct {
	name   string
	number uint16
}{
	{"TLSv1", tls.VersionTLS10},
	{"TLSv1.1", tls.VersionTLS11},
	{"TLSv1.2", tls.VersionTLS12},
	{"TLSv1.3", tls.VersionTLS13},
}

func versionName(n uint16) string {
	for _, v := range versions {
		if v.number == n {
			return v.name
		}
	}
	return tls.VersionName(n)
}

// versionNumber returns 0 for what it does not know, such as SSLv3.
func versionNumber(name string) uint16 {
	for _, v := range versions {
		if strings.EqualFold(v.name, name) {
			return v.number
		}
	}
	return 0
}

// speaks reports whether a host that spoke a version can meet a list of
// protocols as Postfix writes it: >=TLSv1.2, <=TLSv1.2, TLSv1.3, !TLSv1, parted by
// colons, commas or white space.
func speaks(protocols string, spoke uint16) bool {
	for _, v := range versions {
		if v.number <= spoke && allowed(protocols, v.number) {
			return true
		}
	}
	return false
}

func allowed(protocols string, v uint16) bool {
	named, listed := false, false
	for len(protocols) > 0 {
		var p string
		if i := strings.IndexAny(protocols, ":, \t"); i >= 0 {
			p, protocols = protocols[:i], protocols[i+1:]
		} else {
			p, protocols = protocols, ""
		}
		switch {
		case p == "":
		case strings.HasPrefix(p, ">="):
			if v < versionNumber(p[2:]) {
				return false
			}
		case strings.HasPrefix(p, "<="):
			if v > versionNumber(p[2:]) {
				return false
			}
		case p[0] == '!':
			if v == versionNumber(p[1:]) {
				return false
			}
		default:
			listed = true
			named = named || v == versionNumber(p)
		}
	}
	return !listed || named
}
