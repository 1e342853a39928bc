package check

import (
	"testing"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/probe"
)

func TestForetell(t *testing.T) {
	address := func(s policy.State, tls bool, dane string) probe.AddressResult {
		return probe.AddressResult{State: s, TLS: tls, STARTTLS: tls, DANE: dane}
	}
	host := func(d policy.DANE, a ...probe.AddressResult) probe.MXResult {
		return probe.MXResult{Host: "mx", TLSA: &probe.TLSAResult{State: d}, Addresses: a}
	}
	result := func(s policy.State, hosts ...probe.MXResult) *probe.Result {
		return &probe.Result{State: s, MX: hosts}
	}
	works, absent := address(policy.Works, true, ""), address(policy.Absent, false, "")
	broken, dead := address(policy.Broken, false, ""), address(policy.Unreachable, false, "")
	busy := address(policy.Unreachable, false, "")
	busy.STARTTLS = true
	old := address(policy.Broken, true, "")
	match, other := address(policy.Works, true, "match"), address(policy.Works, true, "no record matches")
	const none, dane = policy.LevelUnset, policy.LevelDANE
	tests := []struct {
		name  string
		r     *probe.Result
		level policy.Level
		want  Outcome
	}{
		{"TLS", result(policy.Works, host(policy.DANENone, works)), none, OverTLS},
		{"an old TLS will do", result(policy.Broken, host(policy.DANENone, old)), none, OverTLS},
		{"no STARTTLS", result(policy.Absent, host(policy.DANENone, absent)), none, InPlaintext},
		{"STARTTLS is answered 454", result(policy.Unreachable, host(policy.DANENone, busy)), none, InPlaintext},
		{"broken, and nobody else", result(policy.Broken, host(policy.DANENone, broken, dead)), none, InPlaintext},
		{"broken, and then TLS", result(policy.Works, host(policy.DANENone, broken), host(policy.DANENone, works)), none, OverTLS},
		{"plaintext before TLS", result(policy.Works, host(policy.DANENone, absent), host(policy.DANENone, works)), none, InPlaintext},
		{"nobody answers", result(policy.Unreachable, host(policy.DANENone, dead)), none, Waits},
		{"no mail", result(policy.NoMail), none, Bounces},
		{"no host has an address", result(policy.Unreachable, host(policy.DANENone)), none, Bounces},
		{"DNS failed for the host", result(policy.Unknown, probe.MXResult{DNSFailed: true}), none, Waits},
		{"a match", result(policy.Works, host(policy.DANEFull, match)), dane, OverTLS},
		{"a mismatch", result(policy.Broken, host(policy.DANEFull, other)), dane, Waits},
		{"a mismatch, then a host without records", result(policy.Broken, host(policy.DANEFull, other), host(policy.DANENone, absent)), dane, InPlaintext},
		{"unusable records", result(policy.Works, host(policy.DANEUnusable, works)), dane, OverTLS},
		{"unusable records, no STARTTLS", result(policy.Absent, host(policy.DANEUnusable, absent)), dane, Waits},
		{"bogus records", result(policy.Unknown, host(policy.DANEFailed, works)), dane, Waits},
		{"mandatory, and it works", result(policy.Works, host(policy.DANEFull, match)), policy.LevelDANEOnly, OverTLS},
		{"mandatory, and it does not", result(policy.Absent, host(policy.DANENone, absent)), policy.LevelSecure, Waits},
	}
	for _, tt := range tests {
		demand := policy.TLSDemand{TLSParams: policy.TLSParams{Level: tt.level}}
		if got := ForetellOpportunistic(tt.r, demand, tt.r.State); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}

	one := result(policy.Works, host(policy.DANENone, works))
	for state, want := range map[policy.State][2]Outcome{ // sealable or not
		policy.Works: {OverTLS, OverTLS}, policy.Absent: {Sealed, Waits}, policy.Broken: {Sealed, Waits},
		policy.Unreachable: {Waits, Waits}, policy.Unknown: {Waits, Waits}, policy.NoMail: {Bounces, Bounces},
	} {
		if got := [2]Outcome{ForetellRequired(one, state, true), ForetellRequired(one, state, false)}; got != want {
			t.Errorf("required, %s: %v, want %v", state, got, want)
		}
	}
	gone := result(policy.Unreachable, host(policy.DANENone))
	if got := [2]Outcome{ForetellRequired(gone, policy.Unreachable, true), ForetellRequired(gone, policy.Unreachable, false)}; got != [2]Outcome{Waits, Bounces} {
		t.Errorf("required, no address: %v", got)
	}
}
