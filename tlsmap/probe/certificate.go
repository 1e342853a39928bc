package probe

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"time"
)

// describe writes down the certificates of a handshake, leaf first, and
// verifies the chain against roots (nil: the system's). Names are left to
// Judge, since they depend on the demand.
func describe(certs []*x509.Certificate, roots *x509.CertPool, now time.Time) *Certificate {
	if len(certs) == 0 {
		return nil
	}
	leaf := certs[0]
	sum, key := sha256.Sum256(leaf.Raw), sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	c := &Certificate{
		Subject: clean(leaf.Subject.String()), Issuer: clean(leaf.Issuer.String()),
		NotBefore: leaf.NotBefore.UTC(), NotAfter: leaf.NotAfter.UTC(),
		Fingerprint: hex.EncodeToString(sum[:]), SPKI: hex.EncodeToString(key[:]),
		Names: []string{}, Chain: []ChainCert{},
	}
	c.Signature = leaf.SignatureAlgorithm.String()
	names := leaf.DNSNames
	if len(names) == 0 && leaf.Subject.CommonName != "" {
		names = []string{leaf.Subject.CommonName}
	}
	for _, n := range names {
		if len(c.Names) == maxNames {
			break
		}
		if len(n) <= 253 {
			c.Names = append(c.Names, clean(n))
		}
	}
	switch k := leaf.PublicKey.(type) {
	case *rsa.PublicKey:
		c.KeyType, c.KeyBits = "RSA", k.N.BitLen()
	case *ecdsa.PublicKey:
		c.KeyType, c.KeyBits = "ECDSA", k.Curve.Params().BitSize
	case ed25519.PublicKey:
		c.KeyType, c.KeyBits = "Ed25519", 256
	default:
		c.KeyType = leaf.PublicKeyAlgorithm.String()
	}
	intermediates := x509.NewCertPool()
	for _, cert := range certs[1:] {
		intermediates.AddCert(cert)
		if len(c.Chain) < maxChain {
			c.Chain = append(c.Chain, ChainCert{clean(cert.Subject.String()), clean(cert.Issuer.String()), cert.NotAfter.UTC()})
		}
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: now})
	if err != nil {
		c.VerifyError = clean(err.Error())
	}
	c.Verified = err == nil
	return c
}
