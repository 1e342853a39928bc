// Package dane judges TLSA records: which of them a sender can use, and whether a
// certificate chain matches one (RFC 6698, RFC 7671, RFC 7672). It looks nothing up
// and keeps no clock.
//
// The way: [Record.Unusable] sorts out what SMTP can't use, [Match] holds a chain
// against the rest. Both say of each record why not, since a checker shows that. What
// OpenSSL, and so Postfix, makes of a record is followed where the RFCs leave it
// open; a test compares the two.
package dane

import (
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Certificate usages (RFC 6698, section 2.1.1; the names are of RFC 7218).
const (
	PKIXTA = 0
	PKIXEE = 1
	DANETA = 2 // the record names a trust anchor
	DANEEE = 3 // the record names the host's own certificate or key
)

// Selectors (RFC 6698, section 2.1.2).
const (
	Cert = 0 // the whole certificate
	SPKI = 1 // its public key
)

// Matching types (RFC 6698, section 2.1.3).
const (
	Full   = 0
	SHA256 = 1
	SHA512 = 2
)

// Record is the data of a TLSA record (RFC 6698, section 2.1).
type Record struct {
	Usage, Selector, Matching uint8
	Data                      []byte // certificate association data
}

// Parse reads a record in presentation form (RFC 6698, section 2.2), such as
// "3 1 1 8a9a…"; the hexadecimal may be parted by white space. Records that can't be
// used parse too.
func Parse(text string) (Record, error) {
	f := strings.Fields(text)
	if len(f) < 3 {
		return Record{}, errors.New("want usage, selector, matching type and data")
	}
	var n [3]uint8
	for i := range n {
		v, err := strconv.ParseUint(f[i], 10, 8)
		if err != nil {
			return Record{}, fmt.Errorf("%.20q: want a number up to 255", f[i])
		}
		n[i] = uint8(v)
	}
	data, err := hex.DecodeString(strings.Join(f[3:], ""))
	if err != nil {
		return Record{}, fmt.Errorf("association data: %w", err)
	}
	return Record{n[0], n[1], n[2], data}, nil
}

func (r Record) String() string {
	return fmt.Sprintf("%d %d %d %x", r.Usage, r.Selector, r.Matching, r.Data)
}

// Unusable says why a sender can't use the record, "" where it can: RFC 7672,
// section 3.1.3 for usages 0 and 1, RFC 6698, section 4.1 for the rest. Where no record
// can be used TLS is mandatory and nobody is authenticated (RFC 7672, section
// 2.2).
func (r Record) Unusable() string {
	switch r.Usage {
	case DANETA, DANEEE:
	case PKIXTA, PKIXEE:
		return fmt.Sprintf("usage %d is not for SMTP", r.Usage)
	default:
		return fmt.Sprintf("unknown usage %d", r.Usage)
	}
	if r.Selector > SPKI {
		return fmt.Sprintf("unknown selector %d", r.Selector)
	}
	switch r.Matching {
	case Full:
		return r.unusableFull()
	case SHA256:
		return wrongLength(len(r.Data), 32)
	case SHA512:
		return wrongLength(len(r.Data), 64)
	}
	return fmt.Sprintf("unknown matching type %d", r.Matching)
}

func wrongLength(got, want int) string {
	if got == want {
		return ""
	}
	return fmt.Sprintf("a digest of %d bytes, not %d", got, want)
}

func (r Record) unusableFull() string {
	if r.Selector == Cert {
		if _, err := x509.ParseCertificate(r.Data); err != nil {
			return "the data is no certificate"
		}
		return ""
	}
	// The key of a host is only compared; that of a trust anchor has to verify
	// signatures.
	if r.Usage == DANEEE {
		var spki struct {
			Algorithm struct {
				OID        asn1.ObjectIdentifier
				Parameters asn1.RawValue `asn1:"optional"`
			}
			Key asn1.BitString
		}
		if rest, err := asn1.Unmarshal(r.Data, &spki); err != nil || len(rest) > 0 {
			return "the data is no public key"
		}
		return ""
	}
	if _, err := x509.ParsePKIXPublicKey(r.Data); err != nil {
		return "the data is no public key of a known kind"
	}
	return ""
}
