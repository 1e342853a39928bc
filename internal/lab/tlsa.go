package lab

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
)

// TLSA writes the data of a TLSA record (RFC 6698, section 2.1) that matches a
// certificate in DER. An unknown selector is taken for the whole certificate, an
// unknown matching type for none; so a record that no sender can use can be
// written as well.
func TLSA(usage, selector, matching uint8, der []byte) (string, error) {
	data := der
	if selector == 1 {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return "", err
		}
		data = cert.RawSubjectPublicKeyInfo
	}
	switch matching {
	case 1:
		sum := sha256.Sum256(data)
		data = sum[:]
	case 2:
		sum := sha512.Sum512(data)
		data = sum[:]
	}
	return fmt.Sprintf("%d %d %d %s", usage, selector, matching, hex.EncodeToString(data)), nil
}

// PublishTLSA publishes a record for port 25 of a host that matches the
// certificate that its server sends at place (0: its own).
// The zone must be made authentic by itself (fakedns.Server.SetAuthentic).
func (n *Internet) PublishTLSA(host string, cert *tls.Certificate, place int, kinds ...[3]uint8) error {
	var values []string
	for _, k := range kinds {
		v, err := TLSA(k[0], k[1], k[2], cert.Certificate[place])
		if err != nil {
			return err
		}
		values = append(values, v)
	}
	return n.Record("_25._tcp."+host, "TLSA", values...)
}
