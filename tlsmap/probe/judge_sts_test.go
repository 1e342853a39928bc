package probe

import (
	"crypto/tls"
	"strings"
	"testing"

	"github.com/postseal/postseal/policyd/policy"
)

func TestJudgeSTS(t *testing.T) {
	const host = "mx.host.example"
	result := func(s policy.STS, patterns []string, verified bool, names ...string) *Result {
		r := &Result{Domain: "d.example", DANE: policy.DANEOff, STS: &STSResult{State: s, MX: patterns}, MX: []MXResult{{Host: host, Addresses: []AddressResult{{
			State: policy.Works, STARTTLS: true, TLS: true, Version: "TLSv1.3", Cert: &Certificate{Verified: verified, VerifyError: "expired", Names: names},
		}}}}}
		r.matchSTS()
		return r
	}
	exact, wild, other := []string{host}, []string{"*.host.example"}, []string{"*.other.example"}
	tests := []struct {
		name   string
		r      *Result
		rule   policy.TLSParams
		want   policy.State
		reason string
	}{
		{"enforce, exact", result(policy.STSEnforce, exact, true, host), policy.TLSParams{}, policy.Works, "TLSv1.3"},
		{"enforce, a wildcard", result(policy.STSEnforce, wild, true, "*.host.example"), policy.TLSParams{}, policy.Works, "TLSv1.3"},
		{"enforce, not verified", result(policy.STSEnforce, exact, false, host), policy.TLSParams{}, policy.Broken, "expired"},
		{"enforce, another name", result(policy.STSEnforce, exact, true, "x.example"), policy.TLSParams{}, policy.Broken, "another name"},
		{"enforce, another host with a name of the policy", result(policy.STSEnforce, other, true, "mx.other.example"), policy.TLSParams{}, policy.Broken, "does not name this host"},
		{"enforce, no pattern", result(policy.STSEnforce, nil, true, host), policy.TLSParams{}, policy.Unknown, "can't be had"},
		{"testing", result(policy.STSTesting, other, false), policy.TLSParams{}, policy.Works, "TLSv1.3"},
		{"none", result(policy.STSNone, nil, false), policy.TLSParams{}, policy.Works, "TLSv1.3"},
		{"failed", result(policy.STSFailed, nil, true, host), policy.TLSParams{}, policy.Unknown, "can't be had"},
		{"unknown", result(policy.STSUnknown, nil, true, host), policy.TLSParams{}, policy.Unknown, "not known"},
		{"enforce and a rule that agrees", result(policy.STSEnforce, wild, true, host), policy.TLSParams{Level: policy.LevelVerify}, policy.Works, ""},
		{"enforce and a rule for another", result(policy.STSEnforce, wild, true, host), policy.TLSParams{Level: policy.LevelSecure, Match: []string{"z.example"}}, policy.Unknown, ""},
		{"failed and a rule that names whom to trust", result(policy.STSFailed, nil, true, host), policy.TLSParams{Level: policy.LevelVerify}, policy.Works, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.r.State = tt.r.Judge(tt.rule, tls.VersionTLS12)
			if tt.r.State != tt.want {
				t.Errorf("got %s, want %s", tt.r.State, tt.want)
			}
			if got := tt.r.explain(); !strings.Contains(got, tt.reason) {
				t.Errorf("reason %q, want %q in it", got, tt.reason)
			}
		})
	}
}

// TestJudgeAllocates holds that the map answers cost no memory: the posture is judged
// for a rule at each of them until the rule is noted.
func TestJudgeAllocates(t *testing.T) {
	for _, p := range []policy.Published{
		{DANE: policy.DANEFull, STS: policy.STSOff},
		{DANE: policy.DANENone, STS: policy.STSNone},
		{DANE: policy.DANEOff, STS: policy.STSEnforce, STSMatch: []string{"mx.d.example"}},
	} {
		ev := evidence{published: p, facts: []fact{{host: "mx.d.example", state: policy.Works, version: tls.VersionTLS13, dane: daneMismatch}}}
		if n := testing.AllocsPerRun(100, func() { ev.judge("d.example", policy.TLSParams{}, tls.VersionTLS12) }); n > 0 {
			t.Errorf("%+v: %v allocations", p, n)
		}
	}
}
