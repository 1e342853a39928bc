package probe

import (
	"crypto/tls"
	"testing"

	"github.com/postseal/postseal/internal/lab/fakesmtp"
	"github.com/postseal/postseal/policyd/policy"
)

func TestJudge(t *testing.T) {
	const host, domain = "mx.host.example", "d.example"
	address := func(version string, verified bool, names ...string) AddressResult {
		return AddressResult{State: policy.Works, STARTTLS: true, TLS: true, Version: version, Cert: &Certificate{Verified: verified, Names: names}}
	}
	one := func(a ...AddressResult) *Result {
		return &Result{Domain: domain, MX: []MXResult{{Host: host, Addresses: a}}, DANE: policy.DANEOff, STS: &STSResult{State: policy.STSOff}}
	}
	secure := func(match ...string) policy.TLSParams {
		return policy.TLSParams{Level: policy.LevelSecure, Match: match}
	}
	verify := policy.TLSParams{Level: policy.LevelVerify}
	encrypt := policy.TLSParams{Level: policy.LevelEncrypt}
	protocols := func(p string) policy.TLSParams {
		return policy.TLSParams{Level: policy.LevelEncrypt, Protocols: p}
	}
	good := address("TLSv1.3", true, host)
	tests := []struct {
		name   string
		r      *Result
		demand policy.TLSParams
		want   policy.State
	}{
		{"encrypt takes any certificate", one(address("TLSv1.2", false)), encrypt, policy.Works},
		{"below the floor", one(address("TLSv1.1", true, host)), encrypt, policy.Broken},
		{"the rule's protocols replace the floor", one(address("TLSv1.1", true, host)), protocols(">=TLSv1"), policy.Works},
		{"the rule's protocols are above the floor", one(address("TLSv1.2", true, host)), protocols(">=TLSv1.3"), policy.Broken},
		{"a newer version speaks the older one", one(good), protocols("TLSv1.2"), policy.Works},
		{"an excluded version", one(address("TLSv1.2", true, host)), protocols("!TLSv1:!TLSv1.1:!TLSv1.2"), policy.Broken},
		{"a list", one(address("TLSv1.2", true, host)), protocols("TLSv1.2:TLSv1.3"), policy.Works},
		{"at most", one(good), protocols("<=TLSv1.2"), policy.Works},
		{"nothing is left", one(good), protocols(">=TLSv1.3:<=TLSv1.2"), policy.Broken},

		{"verify matches the host", one(good), verify, policy.Works},
		{"verify does not match the domain", one(address("TLSv1.3", true, domain)), verify, policy.Broken},
		{"no trusted chain", one(address("TLSv1.3", false, host)), verify, policy.Broken},
		{"no certificate", one(AddressResult{State: policy.Works, TLS: true, Version: "TLSv1.3"}), verify, policy.Broken},
		{"no names", one(address("TLSv1.3", true)), verify, policy.Broken},
		{"case", one(address("TLSv1.3", true, "MX.Host.Example")), verify, policy.Works},
		{"a wildcard", one(address("TLSv1.3", true, "*.host.example")), verify, policy.Works},
		{"a wildcard is one label", one(address("TLSv1.3", true, "*.example")), verify, policy.Broken},
		{"a wildcard does not match its parent", one(address("TLSv1.3", true, "*.mx.host.example")), verify, policy.Broken},
		{"a wildcard in the middle", one(address("TLSv1.3", true, "mx.*.example")), verify, policy.Broken},
		{"another name of several", one(address("TLSv1.3", true, "a.example", host)), verify, policy.Works},

		{"secure matches the domain", one(address("TLSv1.3", true, domain)), secure(), policy.Works},
		{"secure matches below the domain", one(address("TLSv1.3", true, "mx.d.example")), secure(), policy.Works},
		{"secure matches far below the domain", one(address("TLSv1.3", true, "a.b.d.example")), secure(), policy.Works},
		{"secure does not match the host", one(good), secure(), policy.Broken},
		{"not a subdomain", one(address("TLSv1.3", true, "evild.example")), secure(), policy.Broken},
		{"match a subdomain", one(good), secure(".host.example"), policy.Works},
		{"match a subdomain with a wildcard", one(address("TLSv1.3", true, "*.host.example")), secure(".host.example"), policy.Works},
		{"match a subdomain, not itself", one(address("TLSv1.3", true, "host.example")), secure(".host.example"), policy.Broken},
		{"match a name", one(good), secure("other.example", host), policy.Works},
		{"match hostname", one(good), secure("hostname"), policy.Works},
		{"match nexthop", one(address("TLSv1.3", true, domain)), secure("nexthop"), policy.Works},
		{"match nexthop, not below", one(address("TLSv1.3", true, "mx.d.example")), secure("nexthop"), policy.Broken},
		{"match dot-nexthop", one(address("TLSv1.3", true, "mx.d.example")), secure("dot-nexthop"), policy.Works},
		{"match dot-nexthop, not itself", one(address("TLSv1.3", true, domain)), secure("dot-nexthop"), policy.Broken},

		{"one address will do", one(address("TLSv1.3", false, host), good), verify, policy.Works},
		{"no address will do", one(address("TLSv1.3", false, host), AddressResult{State: policy.Absent}), verify, policy.Broken},
		{"no TLS at all", one(AddressResult{State: policy.Absent}), verify, policy.Absent},
		{"a host not looked at", &Result{Domain: domain, Unprobed: 1, MX: one(address("TLSv1.3", false, host)).MX, DANE: policy.DANEOff, STS: &STSResult{State: policy.STSOff}}, verify, policy.Unknown},
		{"an address not looked at", one(address("TLSv1.3", false, host), AddressResult{State: policy.Unknown}), verify, policy.Unknown},
		{"no mail", &Result{State: policy.NoMail}, verify, policy.NoMail},
		{"DNS failed", &Result{State: policy.Unknown}, verify, policy.Unknown},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.r.Judge(tt.demand, tls.VersionTLS12); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// TestJudgeReal lets real certificates be judged.
func TestJudgeReal(t *testing.T) {
	w := newWorld(t, "d.example. 60 IN MX 10 mx.d.example.", "mx.d.example. 60 IN A 192.0.2.1")
	s := w.host("192.0.2.1", fakesmtp.Behaviour{})
	p := w.prober()
	tests := []struct {
		name string
		o    fakesmtp.CertOptions
		want policy.State
	}{
		{"matches", fakesmtp.CertOptions{Names: []string{"mx.d.example"}}, policy.Works},
		{"another name", fakesmtp.CertOptions{Names: []string{"mx.e.example"}}, policy.Broken},
		{"expired", fakesmtp.CertOptions{Names: []string{"mx.d.example"}, Expired: true}, policy.Broken},
		{"self-signed", fakesmtp.CertOptions{Names: []string{"mx.d.example"}, SelfSigned: true}, policy.Broken},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s.Set(fakesmtp.Behaviour{STARTTLS: true, Certificate: w.cert(tt.o)})
			r := p.Probe(t.Context(), "d.example")
			for _, l := range []policy.Level{policy.LevelVerify, policy.LevelSecure} {
				if got := r.Judge(policy.TLSParams{Level: l}, tls.VersionTLS12); got != tt.want {
					t.Errorf("%s: got %s, want %s (%+v)", l, got, tt.want, r.MX[0].Addresses[0].Cert)
				}
			}
			if r.State != policy.Works {
				t.Errorf("by the floor: %s, %s", r.State, r.Reason)
			}
		})
	}
}
