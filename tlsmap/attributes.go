package tlsmap

import (
	"context"
	"strconv"
	"strings"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/probe"
)

// report adds to an answer what Postfix 3.10 and later need for their own TLS reports
// (RFC 8460; TLSRPT_README, "MTA-STS Support via smtp_tls_policy_maps"): which MTA-STS
// policy the answer carries out, or why there is none. DANE needs no word: Postfix
// reports TLSA records by itself. An older Postfix takes the whole policy for invalid, so
// it is done only where the administrator asked for it.
//
// A policy in mode testing demands nothing, and a failure to get one neither; so that
// they are reported all the same the answer is main.cf's own level then, unless the
// administrator's own table has something to say.
func (s *Server) report(ctx context.Context, key string, a *TLSAnswer) error {
	if s.cfg.STS == nil || !s.askable(key) || strings.ContainsAny(key, "[]:") {
		return nil
	}
	switch {
	case a.Demand.By == policy.FromSTS:
	case a.Demand.Level == policy.LevelDANE, a.Demand.Level == policy.LevelDANEOnly:
		return nil // Postfix speaks of the TLSA records
	case a.Input.Published.STS == policy.STSTesting, a.Input.Published.STS == policy.STSFailed:
	default:
		return nil
	}
	attributes := stsAttributes(a.Input.Domain, s.cfg.STS(a.Input.Domain))
	if attributes == "" {
		return nil
	}
	if a.Text == "" {
		if s.cfg.AdminLevel != "may" && s.cfg.AdminLevel != "encrypt" {
			return nil // none and unset: no TLS; dane and above: Postfix's own business
		}
		theirs, err := s.adminEntry(ctx, key)
		if err != nil {
			return err
		}
		if theirs != "" {
			return nil
		}
		a.Text = s.cfg.AdminLevel
	}
	a.Text += attributes
	return nil
}

// stsAttributes returns the attributes, each after a space; "" where there is nothing to
// report. What comes from the destination is written anew from what was understood of
// it, so that no byte of a policy can end a value: a name that is none ends the list.
func stsAttributes(domain string, r *probe.STSResult) string {
	if r == nil || !isName(domain) {
		return ""
	}
	var b strings.Builder
	b.WriteString(" policy_type=sts policy_domain=" + domain)
	switch r.State {
	case policy.STSEnforce, policy.STSTesting:
	case policy.STSFailed:
		failure := r.Failure
		switch failure {
		case "sts-policy-fetch-error", "sts-policy-invalid", "sts-webpki-invalid":
		default:
			return ""
		}
		b.WriteString(" policy_failure=" + failure)
		return b.String()
	default:
		return ""
	}
	b.WriteString(" policy_ttl=" + strconv.FormatInt(max(0, r.MaxAge), 10))
	b.WriteString(" { policy_string = version: STSv1 } { policy_string = mode: " + r.State.String() + " }")
	for _, mx := range r.MX {
		if !isName(strings.TrimPrefix(mx, "*.")) {
			return ""
		}
		b.WriteString(" { policy_string = mx: " + mx + " }")
	}
	b.WriteString(" { policy_string = max_age: " + strconv.FormatInt(max(0, r.MaxAge), 10) + " }")
	for _, mx := range r.MX {
		b.WriteString(" mx_host_pattern=" + mx)
	}
	return b.String()
}

// isName reports whether s is a host name as Postfix wants it in an attribute.
func isName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for l := range strings.SplitSeq(s, ".") {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
			return false
		}
		for i := range len(l) {
			if c := l[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}
