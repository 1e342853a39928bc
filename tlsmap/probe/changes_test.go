package probe

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

const testFloor = tls.VersionTLS12

var changesDay = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// seenAt is a look at x.example on a day of March that found these hosts. A host is
// "name" or "name=certificate/key", several certificates parted by commas.
func seenAt(day int, s policy.State, hosts ...string) *Result {
	r := &Result{Dest: "x.example", Domain: "x.example", State: s, Reason: s.String(), MX: []MXResult{}, Checked: changesDay.AddDate(0, 0, day)}
	for _, h := range hosts {
		name, certs, _ := strings.Cut(h, "=")
		mx := MXResult{Host: name, Addresses: []AddressResult{}}
		for c := range strings.SplitSeq(certs, ",") {
			a := AddressResult{Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(len(mx.Addresses))}), State: s}
			if c != "" {
				cert, key, _ := strings.Cut(c, "/")
				a.State, a.TLS, a.Version, a.Cert = policy.Works, true, "TLSv1.3", &Certificate{Fingerprint: cert, SPKI: key}
			}
			mx.Addresses = append(mx.Addresses, a)
		}
		r.MX = append(r.MX, mx)
	}
	return r
}

// follow carries what the looks found from one to the next and returns the events of
// all, as words.
func follow(looks ...*Result) (words []string) {
	var old *Result
	for _, r := range looks {
		carry(old, r, testFloor)
		for _, e := range changes(old, r, testFloor) {
			words = append(words, e.At.Format("02 ")+string(e.Kind)+": "+e.String())
		}
		b, _ := json.Marshal(r) // as it is kept
		old = new(Result)
		if err := json.Unmarshal(b, old); err != nil {
			panic(err)
		}
	}
	return words
}

func with(r *Result, f func(*Result)) *Result { f(r); return r }

func TestChanges(t *testing.T) {
	const works, absent, broken, unknown, away = policy.Works, policy.Absent, policy.Broken, policy.Unknown, policy.Unreachable
	sts := func(s policy.STS, mx ...string) func(*Result) {
		return func(r *Result) { r.STS = &STSResult{State: s, MX: mx} }
	}
	dane := func(d policy.DANE) func(*Result) { return func(r *Result) { r.DANE = d } }
	tests := []struct {
		name  string
		looks []*Result
		want  []string
	}{
		{"the first look says nothing", []*Result{seenAt(0, works, "a=c/k")}, nil},
		{"nothing changed", []*Result{seenAt(0, works, "a=c/k"), seenAt(1, works, "a=c/k")}, nil},
		{"other hosts", []*Result{seenAt(0, works, "a=c/k", "b=c/k"), seenAt(1, works, "b=c/k", "d=e/f")},
			[]string{"02 mx: other MX hosts: a b → b d"}},
		{"the order of hosts says nothing", []*Result{seenAt(0, works, "a=c/k", "b=c/k"), seenAt(1, works, "b=c/k", "a=c/k")}, nil},
		{"DNS that fails says nothing, and does not hide a change", []*Result{
			seenAt(0, works, "a=c/k"), seenAt(1, unknown), seenAt(2, unknown), seenAt(3, works, "b=d/l")},
			[]string{"04 mx: other MX hosts: a → b"}},
		{"DNS that fails for a while", []*Result{seenAt(0, works, "a=c/k"), seenAt(1, unknown), seenAt(2, works, "a=c/k")}, nil},
		{"null MX", []*Result{seenAt(0, works, "a=c/k"), with(seenAt(1, policy.NoMail), func(r *Result) { r.NullMX = true })},
			[]string{"02 mx: other MX hosts: a → none (null MX: the domain takes no mail)"}},
		{"TLS appears", []*Result{seenAt(0, absent, "a"), seenAt(1, works, "a=c/k")}, []string{"02 tls-appeared: has TLS now"}},
		{"TLS appears while nobody can look", []*Result{seenAt(0, broken, "a"), seenAt(1, away, "a"), seenAt(2, unknown), seenAt(3, works, "a=c/k")},
			[]string{"04 tls-appeared: has TLS now"}},
		{"a host that comes up again has not got TLS anew", []*Result{seenAt(0, works, "a=c/k"), seenAt(1, away, "a"), seenAt(2, works, "a=c/k")}, nil},
		{"a loss is the business of what is watched", []*Result{seenAt(0, works, "a=c/k"), seenAt(1, absent, "a")}, nil},
		{"a new certificate for the same key", []*Result{seenAt(0, works, "a=c/k"), seenAt(1, works, "a=d/k")},
			[]string{"02 certificate: a: new certificate, same key: c → d"}},
		{"a new key", []*Result{seenAt(0, works, "a=c/k"), seenAt(1, works, "a=d/l")},
			[]string{"02 key: a: new certificate and key: c → d"}},
		{"results of an older version do not know keys", []*Result{seenAt(0, works, "a=c"), seenAt(1, works, "a=d/l")},
			[]string{"02 certificate: a: new certificate, same key: c → d"}},
		{"certificates of a load balancer take turns", []*Result{
			seenAt(0, works, "a=c/k"), seenAt(1, works, "a=d/l"), seenAt(2, works, "a=c/k"), seenAt(3, works, "a=d/l"), seenAt(4, works, "a=c/k,d/l")},
			[]string{"02 key: a: new certificate and key: c → d"}},
		{"a certificate that comes back after a year is new", []*Result{
			seenAt(0, works, "a=c/k"), seenAt(1, works, "a=d/k"), seenAt(360, works, "a=d/k"), seenAt(361, works, "a=c/k")},
			[]string{"02 certificate: a: new certificate, same key: c → d", "25 certificate: a: new certificate, same key: d → c"}},
		{"the first certificate of a host that was down", []*Result{seenAt(0, works, "a=c/k", "b"), seenAt(1, works, "a=c/k", "b=d/l")}, nil},
		{"of a host that is down meanwhile", []*Result{seenAt(0, works, "a=c/k"), seenAt(1, away, "a"), seenAt(2, works, "a=d/l")},
			[]string{"03 key: a: new certificate and key: none → d"}},
		{"DANE appears and goes", []*Result{
			with(seenAt(0, works, "a=c/k"), dane(policy.DANENone)), with(seenAt(1, works, "a=c/k"), dane(policy.DANEFull)), with(seenAt(2, works, "a=c/k"), dane(policy.DANENone))},
			[]string{"02 dane: DANE: none → full", "03 dane: DANE: full → none"}},
		{"DANE that fails, or is off, says nothing, and does not hide a change", []*Result{
			with(seenAt(0, works, "a=c/k"), dane(policy.DANEFull)), with(seenAt(1, works, "a=c/k"), dane(policy.DANEFailed)),
			with(seenAt(2, works, "a=c/k"), dane(policy.DANEOff)), with(seenAt(3, works, "a=c/k"), dane(policy.DANEPartial))},
			[]string{"04 dane: DANE: full → partial"}},
		{"MTA-STS", []*Result{
			with(seenAt(0, works, "a=c/k"), sts(policy.STSNone)), with(seenAt(1, works, "a=c/k"), sts(policy.STSTesting, "b", "a")),
			with(seenAt(2, works, "a=c/k"), sts(policy.STSFailed)), with(seenAt(3, works, "a=c/k"), sts(policy.STSTesting, "a", "b")),
			with(seenAt(4, works, "a=c/k"), sts(policy.STSEnforce, "a", "b")), with(seenAt(5, works, "a=c/k"), sts(policy.STSUnknown)), with(seenAt(6, works, "a=c/k"), sts(policy.STSNone))},
			[]string{"02 mta-sts: MTA-STS: none → testing: a b", "05 mta-sts: MTA-STS: testing: a b → enforce: a b", "07 mta-sts: MTA-STS: enforce: a b → none"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := follow(tt.looks...); !slices.Equal(got, tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

// Nor does a destination that names other hosts at each look fill the memory.
func TestChurningHostsAreForgotten(t *testing.T) {
	var last *Result
	for i := range 1000 {
		r := seenAt(0, policy.Works, fmt.Sprintf("a%d=c%d/k", i, i), fmt.Sprintf("b%d=c%d/k", i, i))
		r.Checked = changesDay.Add(time.Duration(i) * time.Hour)
		carry(last, r, testFloor)
		last = r
	}
	if n := len(last.Kept.Seen); n < seenMost || n > seenAll {
		t.Errorf("%d certificates kept", n)
	}
}

// A host that makes a new certificate for each connection fills no history.
func TestChurningCertificatesFallSilent(t *testing.T) {
	var looks []*Result
	for i := range 200 {
		r := seenAt(0, policy.Works, fmt.Sprintf("a=cert%d/key%d", i, i), "b=c/k")
		r.Checked = changesDay.Add(time.Duration(i) * time.Hour)
		looks = append(looks, r)
	}
	events := follow(looks...)
	if len(events) < 10 || len(events) > 2*seenMost {
		t.Errorf("%d events of 200 looks", len(events))
	}
	if !slices.ContainsFunc(events, func(s string) bool { return strings.Contains(s, "further ones are not noted for now") }) {
		t.Errorf("nothing says that it falls silent: %q", events)
	}
	// The memory of it stays small, and the steady host is still watched.
	last := looks[len(looks)-1]
	if n := len(last.Kept.Seen); n > seenMost {
		t.Errorf("%d certificates kept", n)
	}
	r := seenAt(0, policy.Works, "a=other/other", "b=new/new")
	r.Checked = last.Checked.Add(time.Hour)
	carry(last, r, testFloor)
	if got := changes(last, r, testFloor); len(got) != 1 || got[0].Detail.Host != "b" {
		t.Errorf("events %v", got)
	}
}

// Whatever order DNS gives hosts and addresses in, nothing has changed by it.
func TestShufflingSaysNothing(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var hosts []string
		for i := range 1 + rnd.IntN(5) {
			h := fmt.Sprintf("mx%d", i)
			for j := range 1 + rnd.IntN(3) {
				h += map[bool]string{true: "=", false: ","}[j == 0] + fmt.Sprintf("c%d%d/k%d", i, j, rnd.IntN(3))
			}
			hosts = append(hosts, h)
		}
		old := seenAt(0, policy.Works, hosts...)
		carry(nil, old, testFloor)
		rnd.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
		r := seenAt(1, policy.Works, hosts...)
		for i := range r.MX {
			a := r.MX[i].Addresses
			rnd.Shuffle(len(a), func(i, j int) { a[i], a[j] = a[j], a[i] })
		}
		if got := changes(old, r, testFloor); len(got) > 0 {
			t.Fatalf("seed %d: %v", seed, got)
		}
	}
}

// What failed to be found out never is an event, whatever was there before.
func TestFailuresSayNothing(t *testing.T) {
	for seed := range uint64(500) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		looks := []*Result{with(seenAt(0, policy.Works, "a=c/k", "b=d/l"), func(r *Result) {
			r.DANE, r.STS = policy.DANEFull, &STSResult{State: policy.STSEnforce, MX: []string{"a"}}
		})}
		for day := 1; day < 6; day++ {
			var hosts []string
			if rnd.IntN(2) == 0 {
				hosts = []string{"a", "b"}
			}
			looks = append(looks, with(seenAt(day, []policy.State{policy.Unknown, policy.Unreachable}[min(rnd.IntN(2), len(hosts))], hosts...), func(r *Result) {
				r.DANE = []policy.DANE{policy.DANEUnknown, policy.DANEOff, policy.DANEFailed}[rnd.IntN(3)]
				r.STS = []*STSResult{nil, {State: policy.STSUnknown}, {State: policy.STSFailed}, {State: policy.STSOff}}[rnd.IntN(4)]
			}))
		}
		last := *looks[0]
		last.Checked = changesDay.AddDate(0, 0, 9)
		if got := follow(append(looks, &last)...); len(got) > 0 {
			t.Fatalf("seed %d: %q", seed, got)
		}
	}
}
