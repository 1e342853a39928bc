package dane

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"
)

// maxChain bounds the certificates of a chain that are looked at: Postfix's
// smtp_tls_scert_verifydepth is 9.
const maxChain = 10

// maxAnchors bounds the records for which a chain is verified: signatures cost time,
// and strangers write both records and chains. One or two are usual.
const maxAnchors = 16

// Verdict is how a chain stands to a set of records.
type Verdict struct {
	Match   bool
	Reason  string    // "match", or the reason of the record that came nearest
	Records []Outcome // of each record, in their order
}

// Outcome is how a chain stands to one record.
type Outcome struct {
	Match bool
	Why   string // the certificate that matched, or why there is none
}

// NoUsable is the reason where no record can be used.
const NoUsable = "no TLSA record can be used"

// Match holds a chain as a host sent it, leaf first, against records.
//
// A DANE-EE(3) record matches the leaf alone, whatever its names and dates (RFC 7672,
// section 3.1.1). A DANE-TA(2) record names a trust anchor: one of the other
// certificates sent or, of matching type Full, the certificate or key in the record.
// From there to the leaf all must be in order at now, and the leaf must be for one
// of names (section 3.1.2): the TLSA base domain and, for a host found by MX, the
// next-hop domain before and after CNAMEs (section 3.2.2).
//
// Of the digests of one usage and selector only the strongest counts (RFC 7671,
// section 9).
func Match(records []Record, chain []*x509.Certificate, names []string, now time.Time) Verdict {
	v := Verdict{Records: make([]Outcome, len(records))}
	m := matcher{chain: chain[:min(len(chain), maxChain)], names: names, now: now}
	var strongest [4][2]uint8
	usable := false
	for i, r := range records {
		if why := r.Unusable(); why != "" {
			v.Records[i].Why = "unusable: " + why
			continue
		}
		usable = true
		if s := &strongest[r.Usage][r.Selector]; r.Matching > *s {
			*s = r.Matching
		}
	}
	rank := 0
	for i, r := range records {
		o := &v.Records[i]
		if o.Why != "" {
			continue
		}
		if r.Matching != Full && r.Matching < strongest[r.Usage][r.Selector] {
			o.Why = "passed by: there is a record with a stronger digest"
			continue
		}
		var near int
		*o, near = m.try(r)
		switch {
		case o.Match:
			v.Match, v.Reason = true, "match"
		case near > rank && !v.Match:
			rank, v.Reason = near, o.Why
		}
	}
	if !usable {
		v.Reason = NoUsable
	}
	return v
}

type matcher struct {
	chain   []*x509.Certificate
	names   []string
	now     time.Time
	anchors int // verified for
}

// try holds the chain against one record. near says how near it came, for the
// choice of a reason.
func (m *matcher) try(r Record) (o Outcome, near int) {
	if len(m.chain) == 0 {
		return Outcome{Why: "the host sent no certificate"}, 1
	}
	if r.Usage == DANEEE {
		if r.is(m.chain[0]) {
			return Outcome{Match: true, Why: "the host's own " + r.what()}, 0
		}
		return Outcome{Why: "the host's " + r.what() + " is another one"}, 2
	}
	return m.anchor(r)
}

// anchor looks for the trust anchor of a DANE-TA record, and verifies from there.
func (m *matcher) anchor(r Record) (Outcome, int) {
	leaf := m.chain[0]
	roots := x509.NewCertPool()
	found := ""
	for depth, c := range m.chain {
		// Never the leaf: it is no authority over itself.
		if depth > 0 && !bytes.Equal(c.Raw, leaf.Raw) && r.is(c) && isAuthority(c) {
			roots.AddCert(c)
			if found == "" {
				found = fmt.Sprintf("a trust anchor at depth %d", depth)
			}
		}
	}
	if r.Matching == Full {
		m.published(r, roots)
		if found == "" {
			found = "the trust anchor in the record"
		}
	}
	if found == "" {
		return Outcome{Why: "the trust anchor's " + r.what() + " is not in the chain"}, 2
	}
	if m.anchors++; m.anchors > maxAnchors {
		return Outcome{Why: "passed by: too many trust anchors"}, 1
	}
	between := x509.NewCertPool()
	for _, c := range m.chain[1:] {
		between.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: m.now}); err != nil {
		return Outcome{Why: found + ", but: " + reason(err)}, 3
	}
	if !matchesName(leaf, m.names) {
		return Outcome{Why: found + ", but the certificate is not for " + strings.Join(m.names, " or ")}, 4
	}
	return Outcome{Match: true, Why: found}, 0
}

// published adds the trust anchor that a record of matching type Full holds. A bare
// key gets a certificate made up for each issuer that it could be.
func (m *matcher) published(r Record, roots *x509.CertPool) {
	if r.Selector == Cert {
		if c, err := x509.ParseCertificate(r.Data); err == nil && !bytes.Equal(c.Raw, m.chain[0].Raw) && isAuthority(c) {
			roots.AddCert(c)
		}
		return
	}
	key, err := x509.ParsePKIXPublicKey(r.Data)
	if err != nil {
		return
	}
	algorithm := x509.UnknownPublicKeyAlgorithm
	switch key.(type) {
	case *rsa.PublicKey:
		algorithm = x509.RSA
	case *ecdsa.PublicKey:
		algorithm = x509.ECDSA
	case ed25519.PublicKey:
		algorithm = x509.Ed25519
	}
	for _, c := range m.chain {
		roots.AddCert(&x509.Certificate{
			Raw:        append([]byte("a bare key as the issuer "), c.RawIssuer...),
			RawSubject: c.RawIssuer, Subject: c.Issuer,
			RawSubjectPublicKeyInfo: r.Data, PublicKey: key, PublicKeyAlgorithm: algorithm,
			Version: 3, BasicConstraintsValid: true, IsCA: true, MaxPathLen: -1,
			NotBefore: time.Unix(0, 0), NotAfter: m.now.AddDate(1, 0, 0),
		})
	}
}

// isAuthority reports whether a certificate may sign others; those before version 3
// do not say.
func isAuthority(c *x509.Certificate) bool {
	return c.Version < 3 || c.BasicConstraintsValid && c.IsCA
}

// is reports whether the record is that of a certificate.
func (r Record) is(c *x509.Certificate) bool {
	return bytes.Equal(r.Data, r.associate(c))
}

// associate makes the association data of a certificate (RFC 6698, section 2.1.4).
func (r Record) associate(c *x509.Certificate) []byte {
	data := c.Raw
	if r.Selector == SPKI {
		data = c.RawSubjectPublicKeyInfo
	}
	switch r.Matching {
	case SHA256:
		sum := sha256.Sum256(data)
		return sum[:]
	case SHA512:
		sum := sha512.Sum512(data)
		return sum[:]
	}
	return data
}

func (r Record) what() string {
	if r.Selector == SPKI {
		return "key"
	}
	return "certificate"
}

// Of makes the record of a certificate.
func Of(c *x509.Certificate, usage, selector, matching uint8) Record {
	r := Record{Usage: usage, Selector: selector, Matching: matching}
	r.Data = r.associate(c)
	return r
}

// matchesName reports whether a certificate is for one of names, as OpenSSL sees it:
// the common name counts only where there are no DNS names, and a wildcard stands
// for exactly one label with at least two behind.
func matchesName(c *x509.Certificate, names []string) bool {
	have := c.DNSNames
	if len(have) == 0 && c.Subject.CommonName != "" {
		have = []string{c.Subject.CommonName}
	}
	for _, h := range have {
		for _, n := range names {
			if matchName(h, n) {
				return true
			}
		}
	}
	return false
}

func matchName(pattern, name string) bool {
	if pattern == "" || name == "" {
		return false
	}
	if strings.EqualFold(pattern, name) {
		return true
	}
	parent, ok := strings.CutPrefix(pattern, "*.")
	if !ok || strings.Count(parent, ".") < 1 {
		return false
	}
	first, rest, ok := strings.Cut(name, ".")
	return ok && first != "" && strings.EqualFold(parent, rest)
}

// reason shortens what x509 says.
func reason(err error) string {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return "a certificate has expired or is not yet valid"
	}
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return "it did not sign the host's certificate"
	}
	return strings.TrimPrefix(err.Error(), "x509: ")
}
