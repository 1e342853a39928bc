package tlsrpt

import (
	"fmt"
	"strings"
	"time"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/probe"
)

// applied returns the policy of a destination that counts for one of its MX hosts.
// DANE beats MTA-STS (RFC 8461, section 2).
func applied(r *probe.Result, mx *probe.MXResult) Policy {
	if t := mx.TLSA; t != nil && (t.State == policy.DANEFull || t.State == policy.DANEPartial || t.State == policy.DANEUnusable || t.State == policy.DANEFailed) {
		p := Policy{Type: TLSA, Domain: r.Domain, MXHost: []string{mx.Host}}
		for _, rec := range t.Records {
			p.Text = append(p.Text, fmt.Sprintf("%d %d %d %s", rec.Usage, rec.Selector, rec.Matching, strings.ToUpper(rec.Data)))
		}
		return p
	}
	if s := r.STS; s != nil && (s.State == policy.STSEnforce || s.State == policy.STSTesting) {
		p := Policy{Type: STS, Domain: r.Domain, MXHost: s.MX, Text: []string{"version: STSv1", "mode: " + s.Mode}}
		for _, mx := range s.MX {
			p.Text = append(p.Text, "mx: "+mx)
		}
		p.Text = append(p.Text, fmt.Sprintf("max_age: %d", s.MaxAge))
		return p
	}
	return Policy{Type: NoPolicy, Domain: r.Domain}
}

// outcome judges a session under a policy: nil is a success. It reports false for
// a session that says nothing of TLS, such as one that did not come about; the RFC
// wants none of those (section 4.3.4).
func outcome(r *probe.Result, s probe.Session, p Policy) (*Failure, bool) {
	a := s.Address
	var f Failure
	switch {
	case a.State == policy.Absent:
		f.Type = STARTTLSNotSupported
		if !strings.HasPrefix(a.Error, "no STARTTLS") {
			f.Reason = a.Error
		}
	case a.State == policy.Broken && !belowFloor(a):
		f.Type, f.Reason = ValidationFailure, a.Error
	case !a.TLS:
		return nil, false
	default:
		if f.Type, f.Reason = verified(r, s, p); f.Type == "" && a.State == policy.Broken {
			f.Type, f.Reason = ValidationFailure, a.Error
		}
		if f.Type == "" {
			return nil, true
		}
	}
	if a.Local.IsValid() {
		f.SendingIP = a.Local.String()
	}
	f.MX, f.HELO, f.IP = s.MX.Host, banner(a.Banner), a.Addr.String()
	f.Reason = printable(f.Reason)
	return &f, true
}

// belowFloor reports whether TLS came about, and was too old for us.
func belowFloor(a *probe.AddressResult) bool { return a.State == policy.Broken && a.TLS }

// verified judges what was shown in a handshake; "" is good.
func verified(r *probe.Result, s probe.Session, p Policy) (ResultType, string) {
	cert := s.Address.Cert
	switch p.Type {
	case TLSA:
		return matched(s)
	case STS:
		return trusted(r.Checked, s, cert)
	}
	return "", ""
}

// matched judges by TLSA records.
func matched(s probe.Session) (ResultType, string) {
	if s.MX.TLSA.State == policy.DANEUnusable {
		return TLSAInvalid, "no record can be used"
	}
	switch why := s.Address.DANE; {
	case why == "match":
		return "", ""
	case strings.Contains(why, "has expired"):
		return CertificateExpired, why
	case strings.Contains(why, "certificate is not for"):
		return CertificateHostMismatch, why
	default:
		return TLSAInvalid, why
	}
}

// trusted judges by an MTA-STS policy (RFC 8461, section 4.2).
func trusted(now time.Time, s probe.Session, cert *probe.Certificate) (ResultType, string) {
	switch {
	case s.MX.STSMatch != nil && !*s.MX.STSMatch:
		return ValidationFailure, "the MX host is none of the MTA-STS policy"
	case cert == nil:
		return CertificateNotTrusted, "no certificate"
	case now.After(cert.NotAfter):
		return CertificateExpired, "since " + cert.NotAfter.UTC().Format(time.RFC3339)
	case !cert.Verified:
		return CertificateNotTrusted, cert.VerifyError
	}
	for _, name := range cert.Names {
		if probe.MatchSTS(policy.CanonicalDomain(name), s.MX.Host) {
			return "", ""
		}
	}
	return CertificateHostMismatch, "the certificate is for " + strings.Join(cert.Names, ", ")
}

// banner returns the name by which a host greets, "" if it gives none.
func banner(greeting string) string {
	words := strings.Fields(greeting)
	if len(words) < 2 || len(words[1]) > 255 || !strings.Contains(words[1], ".") {
		return ""
	}
	for _, c := range words[1] {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '-' {
			return ""
		}
	}
	return words[1]
}
