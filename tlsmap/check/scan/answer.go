package scan

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"

	"golang.org/x/crypto/cryptobyte"
)

// The types of records and of handshake messages (RFC 8446, sections 5.1 and 4;
// RFC 5246, section 7.4).
const (
	recordAlert     = 21
	recordHandshake = 22

	messageClientHello       = 1
	messageServerHello       = 2
	messageCertificate       = 11
	messageServerKeyExchange = 12
	messageServerHelloDone   = 14
)

// The bounds of an answer.
const (
	maxRecord  = 1<<14 + 2048
	maxAnswer  = 128 << 10
	maxRecords = 256
	maxCerts   = 16
)

// answer is what came back for a ClientHello: a ServerHello with what follows it in
// clear, or a fatal alert.
type answer struct {
	alert   string // of a host that refuses; all else is empty then
	version uint16
	suite   uint16
	retry   bool     // a HelloRetryRequest: it names suite and group, too
	group   uint16   // of the key exchange; 0 where none was named
	dhBits  int      // of the prime of a DHE key exchange, or of an export RSA key
	certs   [][]byte // DER, leaf first; TLS 1.3 encrypts them
}

var (
	errNotTLS = errors.New("the host answers with something that is not TLS")
	errLong   = errors.New("the host's answer is too long")
)

// retryRandom is the random of a HelloRetryRequest (RFC 8446, section 4.1.3).
var retryRandom = sha256.Sum256([]byte("HelloRetryRequest"))

// readAnswer reads records until it knows all that is said in clear. What breaks off
// behind a ServerHello is no error: it was an answer. io.EOF is that of a host that
// closed the connection instead of an answer.
func readAnswer(r io.Reader) (*answer, error) {
	var a *answer
	var pending []byte // of handshake messages
	total := 0
	for range maxRecords {
		var head [5]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return orAnswer(a, err)
		}
		n := int(head[3])<<8 | int(head[4])
		if head[1] != 3 || head[0] < 20 || head[0] > 23 || n > maxRecord {
			return orAnswer(a, errNotTLS)
		}
		if total += n; total > maxAnswer {
			return orAnswer(a, errLong)
		}
		body := make([]byte, n)
		if _, err := io.ReadFull(r, body); err != nil {
			return orAnswer(a, err)
		}
		switch head[0] {
		case recordAlert:
			if len(body) < 2 {
				return orAnswer(a, errNotTLS)
			}
			if body[0] == 1 && body[1] != 0 {
				continue // a warning, such as that the name is not known
			}
			if a != nil {
				return a, nil
			}
			return &answer{alert: alertName(body[1])}, nil
		case recordHandshake:
			pending = append(pending, body...)
		default:
			if a == nil {
				return nil, errNotTLS
			}
			return a, nil // change_cipher_spec, or encrypted: nothing in clear follows
		}
		for {
			s := cryptobyte.String(pending)
			var kind uint8
			var message cryptobyte.String
			if !s.ReadUint8(&kind) || !s.ReadUint24LengthPrefixed(&message) {
				break
			}
			pending = pending[len(pending)-len(s):]
			if a == nil {
				if kind != messageServerHello {
					return nil, errNotTLS
				}
				var err error
				if a, err = readServerHello(message); err != nil {
					return nil, err
				}
				if a.version == TLS13 {
					return a, nil
				}
				continue
			}
			if kind == messageServerHelloDone {
				return a, nil
			}
			a.add(kind, message)
		}
	}
	return orAnswer(a, errLong)
}

func orAnswer(a *answer, err error) (*answer, error) {
	if a != nil {
		return a, nil
	}
	return nil, err
}

var errServerHello = fmt.Errorf("%w: a ServerHello that can't be read", errNotTLS)

func readServerHello(s cryptobyte.String) (*answer, error) {
	a := new(answer)
	var random, session, extensions cryptobyte.String
	var compression uint8
	if !s.ReadUint16(&a.version) || !s.ReadBytes((*[]byte)(&random), 32) || !s.ReadUint8LengthPrefixed(&session) ||
		!s.ReadUint16(&a.suite) || !s.ReadUint8(&compression) {
		return nil, errServerHello
	}
	a.retry = string(random) == string(retryRandom[:])
	if s.Empty() {
		return a, nil
	}
	if !s.ReadUint16LengthPrefixed(&extensions) {
		return nil, errServerHello
	}
	for !extensions.Empty() {
		var id uint16
		var body cryptobyte.String
		if !extensions.ReadUint16(&id) || !extensions.ReadUint16LengthPrefixed(&body) {
			return nil, errServerHello
		}
		switch id {
		case extSupportedVersions:
			if !body.ReadUint16(&a.version) {
				return nil, errServerHello
			}
		case extKeyShare: // the group stands first in either form
			if !body.ReadUint16(&a.group) {
				return nil, errServerHello
			}
		}
	}
	return a, nil
}

// add takes in a message behind the ServerHello. One that can't be read adds nothing:
// what was chosen is known.
func (a *answer) add(kind uint8, s cryptobyte.String) {
	switch kind {
	case messageCertificate:
		var list cryptobyte.String
		if !s.ReadUint24LengthPrefixed(&list) {
			return
		}
		for !list.Empty() && len(a.certs) < maxCerts {
			var der cryptobyte.String
			if !list.ReadUint24LengthPrefixed(&der) {
				return
			}
			a.certs = append(a.certs, der)
		}
	case messageServerKeyExchange:
		name := SuiteName(a.suite)
		switch {
		case strings.HasPrefix(name, "TLS_ECDH"):
			var kind uint8
			var curve uint16
			if s.ReadUint8(&kind) && kind == 3 && s.ReadUint16(&curve) { // named_curve (RFC 8422, section 5.4)
				a.group = curve
			}
		case strings.HasPrefix(name, "TLS_DH"), strings.HasPrefix(name, "TLS_RSA_EXPORT"):
			var p cryptobyte.String // the prime; of an export suite the modulus (RFC 5246, section 7.4.3)
			if s.ReadUint16LengthPrefixed(&p) {
				a.dhBits = new(big.Int).SetBytes(p).BitLen()
			}
		}
	}
}

// alertName returns the name of an alert (RFC 8446, section 6).
func alertName(n uint8) string {
	if s, ok := map[uint8]string{
		0: "close_notify", 10: "unexpected_message", 20: "bad_record_mac", 21: "decryption_failed", 22: "record_overflow",
		40: "handshake_failure", 41: "no_certificate", 42: "bad_certificate", 43: "unsupported_certificate", 47: "illegal_parameter",
		48: "unknown_ca", 49: "access_denied", 50: "decode_error", 51: "decrypt_error", 70: "protocol_version",
		71: "insufficient_security", 80: "internal_error", 86: "inappropriate_fallback", 109: "missing_extension",
		110: "unsupported_extension", 112: "unrecognized_name", 116: "certificate_required",
	}[n]; ok {
		return s
	}
	return fmt.Sprintf("alert %d", n)
}
