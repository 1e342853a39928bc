package fakesmtp

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// CA is a certificate authority for the test bed's internet.
type CA struct {
	Cert *x509.Certificate
	// File is the root in PEM, for smtp_tls_CAfile and SSL_CERT_FILE; "" where
	// NewCA was given no directory.
	File string
	key  crypto.Signer
	// chain is what a server sends above its own certificate: the authority's
	// certificate, and those above it, without the root.
	chain [][]byte
}

// NewCA makes a root and, where dir is not "", writes it to dir/ca.pem.
func NewCA(dir string) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := template(CertOptions{Names: []string{"Fake Internet CA"}})
	tmpl.DNSNames = nil
	tmpl.IsCA, tmpl.BasicConstraintsValid = true, true
	tmpl.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	tmpl.ExtKeyUsage = nil
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make ca: %w", err)
	}
	ca := &CA{key: key}
	if ca.Cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	if dir != "" {
		ca.File = filepath.Join(dir, "ca.pem")
		if err := os.WriteFile(ca.File, ca.PEM(), 0o644); err != nil {
			return nil, fmt.Errorf("write ca: %w", err)
		}
	}
	return ca, nil
}

// Sub makes an authority that ca has certified. Servers send its certificate
// with their own.
func (ca *CA) Sub(name string) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := template(CertOptions{Names: []string{name}})
	tmpl.DNSNames = nil
	tmpl.IsCA, tmpl.BasicConstraintsValid = true, true
	tmpl.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	tmpl.ExtKeyUsage = nil
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.Cert, key.Public(), ca.key)
	if err != nil {
		return nil, fmt.Errorf("make ca: %w", err)
	}
	sub := &CA{key: key, chain: append([][]byte{der}, ca.chain...)}
	sub.Cert, err = x509.ParseCertificate(der)
	return sub, err
}

// PEM returns the root certificate.
func (ca *CA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Cert.Raw})
}

// Pool returns a pool with the root alone.
func (ca *CA) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(ca.Cert)
	return p
}

// CertOptions say what a certificate is like. A wrong name is simply another
// name in Names.
type CertOptions struct {
	Names      []string // DNS names; the first is the common name too
	IPs        []net.IP
	RSA        bool // a 2048-bit RSA key instead of ECDSA P-256
	Expired    bool // ended yesterday
	SelfSigned bool
	NoChain    bool      // of an intermediate authority: its certificate is not sent
	SendRoot   bool      // the authority's own certificate is sent too, a root's as well
	NotAfter   time.Time // end; zero: in a year
}

// Issue makes a certificate with its key.
func (ca *CA) Issue(o CertOptions) (*tls.Certificate, error) {
	var key crypto.Signer
	var err error
	if o.RSA {
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return nil, err
	}
	tmpl := template(o)
	parent, signer := ca.Cert, ca.key
	if o.SelfSigned {
		parent, signer = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	sent := [][]byte{der}
	switch {
	case o.SelfSigned || o.NoChain:
	case o.SendRoot && len(ca.chain) == 0:
		sent = append(sent, ca.Cert.Raw)
	default:
		sent = append(sent, ca.chain...)
	}
	return &tls.Certificate{Certificate: sent, PrivateKey: key}, nil
}

// WriteFiles writes a certificate and its key as PEM files.
func WriteFiles(c *tls.Certificate, certFile, keyFile string) error {
	var certs []byte
	for _, der := range c.Certificate {
		certs = append(certs, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return err
	}
	if err := os.WriteFile(certFile, certs, 0o644); err != nil {
		return err
	}
	return os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

func template(o CertOptions) *x509.Certificate {
	now := time.Now()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		serial = big.NewInt(now.UnixNano())
	}
	t := &x509.Certificate{
		SerialNumber: serial,
		NotBefore:    now.Add(-48 * time.Hour), NotAfter: now.AddDate(1, 0, 0),
		DNSNames: o.Names, IPAddresses: o.IPs,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if len(o.Names) > 0 {
		t.Subject = pkix.Name{CommonName: o.Names[0]}
	}
	if !o.NotAfter.IsZero() {
		t.NotAfter = o.NotAfter
	}
	if o.Expired {
		t.NotAfter = now.Add(-24 * time.Hour)
	}
	return t
}
