package check

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postseal/postseal/tlsmap/check/scan"
	"github.com/postseal/postseal/tlsmap/probe"
)

// NIST is the verdict by NIST SP 800-52r2, "Guidelines for the Selection,
// Configuration, and Use of Transport Layer Security (TLS) Implementations" (August
// 2019), as a server for government-only use.
type NIST struct {
	Meets bool `json:"meets"`
	// Partial reports that there was one handshake and no whole scan: what else the
	// host offers is not known, and Meets is of what was seen.
	Partial bool         `json:"partial"`
	Reasons []NISTReason `json:"reasons"` // why it does not
}

// NISTReason is one demand that is not met.
type NISTReason struct {
	Section string `json:"section"` // of SP 800-52r2
	About   string `json:"about"`   // MX host and address
	Text    string `json:"text"`
}

// nistSuites are the suites of section 3.3.1.1 (TLS 1.2 and older) and 3.3.1.2 (TLS
// 1.3). Key transport by RSA is not among them (appendix D), nor are ChaCha20,
// Camellia, ARIA, 3DES and what is weaker.
var nistSuites = func() map[string]bool {
	m := map[string]bool{
		"TLS_AES_128_GCM_SHA256": true, "TLS_AES_256_GCM_SHA384": true,
		"TLS_AES_128_CCM_SHA256": true, "TLS_AES_128_CCM_8_SHA256": true,
	}
	for _, kx := range []string{"ECDHE_ECDSA", "ECDHE_RSA", "DHE_RSA", "DHE_DSS", "DH_DSS", "DH_RSA", "ECDH_ECDSA", "ECDH_RSA"} {
		ec := strings.HasPrefix(kx, "EC")
		for _, c := range []string{"AES_128_GCM_SHA256", "AES_256_GCM_SHA384", "AES_128_CBC_SHA256", "AES_128_CBC_SHA", "AES_256_CBC_SHA"} {
			m["TLS_"+kx+"_WITH_"+c] = true
		}
		if ec {
			m["TLS_"+kx+"_WITH_AES_256_CBC_SHA384"] = true
		} else {
			m["TLS_"+kx+"_WITH_AES_256_CBC_SHA256"] = true
		}
		if kx == "ECDHE_ECDSA" || kx == "DHE_RSA" {
			for _, c := range []string{"AES_128_CCM", "AES_256_CCM", "AES_128_CCM_8", "AES_256_CCM_8"} {
				m["TLS_"+kx+"_WITH_"+c] = true
			}
		}
	}
	return m
}()

// nistTLS13 is since when TLS 1.3 is demanded (section 3.1).
var nistTLS13 = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// nistOf judges one address. It returns nil where there was no handshake to judge.
func nistOf(host string, a *Address, now time.Time) *NIST {
	if a.Version == "" && (a.Scan == nil || !a.Scan.Offered()) {
		return nil
	}
	n := &NIST{Reasons: []NISTReason{}, Partial: a.Scan == nil || !a.Scan.Complete}
	about := host + "[" + a.Addr.String() + "]"
	add := func(section, format string, args ...any) {
		r := NISTReason{section, about, fmt.Sprintf(format, args...)}
		if !slices.Contains(n.Reasons, r) {
			n.Reasons = append(n.Reasons, r)
		}
	}
	nistVersions(a, now, add)
	nistCiphers(a, add)
	if a.Cert != nil {
		nistCert(a.Cert, add)
		if !a.Cert.Verified {
			add("3.2.1", "the certificate is not of a trusted authority: %s", a.Cert.VerifyError)
		} else if !a.NameMatch {
			add("3.2.1", "the certificate is not for the host's name")
		}
	}
	for _, o := range a.Others {
		nistCert(o.Certificate, add)
	}
	n.Meets = len(n.Reasons) == 0
	return n
}

// nistVersions is section 3.1.
func nistVersions(a *Address, now time.Time, add func(section, format string, args ...any)) {
	has := func(v string) bool { return a.Version == v || a.Scan != nil && a.Scan.Has(v) }
	for _, v := range []string{"SSLv3", "TLSv1"} {
		if has(v) {
			add("3.1", "%s is offered, and shall not be", v)
		}
	}
	if has("TLSv1.1") {
		add("3.1", "TLSv1.1 is offered, and should not be")
	}
	if a.Scan == nil {
		return // what one handshake does not show may still be there
	}
	known := func(v string) bool {
		return slices.ContainsFunc(a.Scan.Versions, func(o scan.Version) bool { return o.Version == v })
	}
	if known("TLSv1.2") && !has("TLSv1.2") {
		add("3.1", "TLSv1.2 is not offered, and shall be")
	}
	if !now.Before(nistTLS13) && known("TLSv1.3") && !has("TLSv1.3") {
		add("3.1", "TLSv1.3 is not offered, and shall be since 2024-01-01")
	}
}

// nistCiphers is section 3.3.1, and 3.4.2 for what the key exchange uses.
func nistCiphers(a *Address, add func(section, format string, args ...any)) {
	section := func(name string) string {
		if strings.Contains(name, "_WITH_") {
			return "3.3.1.1"
		}
		return "3.3.1.2"
	}
	if a.Scan == nil {
		if a.Cipher != "" && !nistSuites[a.Cipher] {
			add(section(a.Cipher), "%s is not an allowed cipher suite", a.Cipher)
		}
		return
	}
	for _, v := range a.Scan.Versions {
		for _, s := range v.Suites {
			if !nistSuites[s.Name] {
				add(section(s.Name), "%s is not an allowed cipher suite", s.Name)
			}
			if s.DHBits > 0 && s.DHBits < 2048 && !strings.Contains(s.Name, "EXPORT") {
				add("3.4.2", "key exchange with a prime of %d bits: 2048 at least", s.DHBits)
			}
		}
	}
}

// nistCert is section 3.2.1: 112 bits of security in key and signature.
func nistCert(c *probe.Certificate, add func(section, format string, args ...any)) {
	switch c.KeyType {
	case "RSA", "DSA":
		if c.KeyBits < 2048 {
			add("3.2.1", "a certificate with an %s key of %d bits: 2048 at least", c.KeyType, c.KeyBits)
		}
	case "ECDSA":
		if c.KeyBits < 256 {
			add("3.2.1", "a certificate with an ECDSA key of %d bits: 256 at least", c.KeyBits)
		}
	default:
		add("3.2.1", "a certificate with an %s key: RSA, ECDSA, DSA or DH", c.KeyType)
	}
	if s := strings.ToUpper(c.Signature); strings.Contains(s, "SHA1") || strings.Contains(s, "MD5") || strings.Contains(s, "MD2") {
		add("3.2.1", "a certificate signed by %s: SHA-256 or better", c.Signature)
	}
}

// nistOverall joins the verdicts: a destination meets the guideline where all its
// hosts that answer do. nil: there was nothing to judge.
func nistOverall(r *Report) *NIST {
	var sum *NIST
	for i := range r.MX {
		for j := range r.MX[i].Addresses {
			a := &r.MX[i].Addresses[j]
			one := a.NIST
			if one == nil {
				if a.Class == ClassNone || a.Class == ClassBroken { // it answers, and there is no TLS
					one = &NIST{Reasons: []NISTReason{{"3.1", at(&r.MX[i], a), "TLSv1.2 is not offered, and shall be"}}}
				} else {
					continue
				}
			}
			if sum == nil {
				sum = &NIST{Meets: true, Reasons: []NISTReason{}}
			}
			sum.Meets = sum.Meets && one.Meets
			sum.Partial = sum.Partial || one.Partial
			sum.Reasons = append(sum.Reasons, one.Reasons...)
		}
	}
	return sum
}
