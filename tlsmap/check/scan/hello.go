package scan

import (
	"crypto/rand"
	"net/netip"

	"golang.org/x/crypto/cryptobyte"
)

// The versions by their numbers on the wire.
const (
	SSL30 uint16 = 0x0300
	TLS10 uint16 = 0x0301
	TLS11 uint16 = 0x0302
	TLS12 uint16 = 0x0303
	TLS13 uint16 = 0x0304
)

// VersionName returns Postfix's name of a version.
func VersionName(v uint16) string {
	switch v {
	case SSL30:
		return "SSLv3"
	case TLS10:
		return "TLSv1"
	case TLS11:
		return "TLSv1.1"
	case TLS12:
		return "TLSv1.2"
	case TLS13:
		return "TLSv1.3"
	}
	return "an unknown version"
}

// hello is a ClientHello to be.
type hello struct {
	version uint16
	suites  []uint16
	groups  []group
	sni     string // "" for none
	// share sends a key share for X25519 along, for hosts that do not take a hello of
	// TLS 1.3 without one, though it is allowed (RFC 8446, section 4.2.8). Without
	// one the host names the group that it wants, by a HelloRetryRequest.
	share bool
}

// signatures are the signature algorithms that we say to take: all. It is the host's
// certificates that we want to see.
var signatures = []uint16{
	0x0403, 0x0503, 0x0603, 0x0807, 0x0808, // ECDSA, EdDSA
	0x0804, 0x0805, 0x0806, 0x0809, 0x080a, 0x080b, // RSA-PSS
	0x0401, 0x0501, 0x0601, // RSA PKCS #1
	0x0303, 0x0301, 0x0203, 0x0201, // SHA-224 and SHA-1
	0x0402, 0x0302, 0x0202, // DSA
}

// The extensions (the registry of ExtensionType).
const (
	extServerName        = 0
	extGroups            = 10
	extPointFormats      = 11
	extSignatures        = 13
	extPadding           = 21
	extExtendedMaster    = 23
	extSupportedVersions = 43
	extKeyShare          = 51
	extRenegotiation     = 0xff01
)

// marshal writes the whole record (RFC 8446, section 4.1.2; RFC 5246, section
// 7.4.1.2; RFC 6101, section 5.6.1.2).
func (h *hello) marshal() []byte {
	body := h.body(0)
	if n := 4 + len(body); n > 255 && n < 512 {
		body = h.body(512 - n) // hosts that hang on such lengths (RFC 7685, section 1)
	}
	record := min(h.version, TLS10) // the version of the first record, for old hosts
	var b cryptobyte.Builder
	b.AddUint8(recordHandshake)
	b.AddUint16(record)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint8(messageClientHello)
		b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(body) })
	})
	return b.BytesOrPanic()
}

// body is the ClientHello with so many bytes of padding, 4 of which are the
// extension's head.
func (h *hello) body(padding int) []byte {
	var random [64]byte
	rand.Read(random[:]) // never fails
	var b cryptobyte.Builder
	b.AddUint16(min(h.version, TLS12))
	b.AddBytes(random[:32])
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) {
		if h.version == TLS13 {
			b.AddBytes(random[32:]) // middlebox compatibility (RFC 8446, appendix D.4)
		}
	})
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { addAll(b, h.suites) })
	b.AddBytes([]byte{1, 0}) // no compression
	if h.version > SSL30 {
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { h.extensions(b, padding) })
	}
	return b.BytesOrPanic()
}

func (h *hello) extensions(b *cryptobyte.Builder, padding int) {
	if _, err := netip.ParseAddr(h.sni); h.sni != "" && err != nil {
		extension(b, extServerName, func(b *cryptobyte.Builder) {
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
				b.AddUint8(0) // host_name
				b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(h.sni)) })
			})
		})
	}
	extension(b, extGroups, func(b *cryptobyte.Builder) {
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			for _, g := range h.groups {
				b.AddUint16(g.id)
			}
		})
	})
	if h.version < TLS13 {
		extension(b, extPointFormats, func(b *cryptobyte.Builder) { b.AddBytes([]byte{1, 0}) })
		extension(b, extRenegotiation, func(b *cryptobyte.Builder) { b.AddUint8(0) })
		extension(b, extExtendedMaster, func(*cryptobyte.Builder) {})
	}
	if h.version >= TLS12 {
		extension(b, extSignatures, func(b *cryptobyte.Builder) {
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { addAll(b, signatures) })
		})
	}
	if h.version == TLS13 {
		extension(b, extSupportedVersions, func(b *cryptobyte.Builder) {
			b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddUint16(TLS13) })
		})
		extension(b, extKeyShare, func(b *cryptobyte.Builder) {
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
				if h.share {
					var point [32]byte
					rand.Read(point[:]) // any 32 bytes are a public key (RFC 7748, section 5)
					b.AddUint16(groupX25519)
					b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(point[:]) })
				}
			})
		})
	}
	if padding > 0 {
		extension(b, extPadding, func(b *cryptobyte.Builder) { b.AddBytes(make([]byte, max(0, padding-4))) })
	}
}

const groupX25519 = 0x001d

func extension(b *cryptobyte.Builder, id uint16, body func(*cryptobyte.Builder)) {
	b.AddUint16(id)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { body(b) })
}

func addAll(b *cryptobyte.Builder, ids []uint16) {
	for _, id := range ids {
		b.AddUint16(id)
	}
}
