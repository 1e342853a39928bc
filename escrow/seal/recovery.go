package seal

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"

	aeadsubtle "github.com/tink-crypto/tink-go/v2/aead/subtle"
	"github.com/tink-crypto/tink-go/v2/keyset"
)

// A recovery key is a pair whose private half is kept away from the server: on
// paper, in a safe. A message's key that is wrapped for it ([WrapRecovery]) opens
// with the private half and the database alone, so that neither a lost link nor a
// lost key file loses a message.
//
// The wrap is HPKE (RFC 9180) in base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256,
// AES-256-GCM, of a fresh key of 256 bits, under which the message's keyset is
// written with AES-256-GCM. Item and recovery key are in the info and in the
// associated data, so that no wrap serves for another item.

// recoverySize is the length of either half in bytes (RFC 7748).
const recoverySize = 32

// recoveryEncap is what HPKE adds before the message's keyset: the encapsulated
// key, the fresh key, its tag.
const recoveryEncap = recoverySize + 32 + 16

// RecoveryPublic is the public half of a recovery key.
type RecoveryPublic struct{ key hpke.PublicKey }

// RecoveryPrivate is the private half of a recovery key.
type RecoveryPrivate struct{ key hpke.PrivateKey }

func recoveryKEM() hpke.KEM { return hpke.DHKEM(ecdh.X25519()) }

// NewRecovery makes a recovery key.
func NewRecovery() (*RecoveryPrivate, error) {
	k, err := recoveryKEM().GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("seal: new recovery key: %w", err)
	}
	return &RecoveryPrivate{k}, nil
}

// Public returns the public half.
func (p *RecoveryPrivate) Public() *RecoveryPublic { return &RecoveryPublic{p.key.PublicKey()} }

// Bytes returns the public half as it is stored: a version byte, 32 bytes.
func (p *RecoveryPublic) Bytes() []byte { return append([]byte{version}, p.key.Bytes()...) }

// ParseRecoveryPublic reads what Bytes returned.
func ParseRecoveryPublic(b []byte) (*RecoveryPublic, error) {
	raw, err := body(b)
	if err != nil {
		return nil, err
	}
	k, err := recoveryKEM().NewPublicKey(raw)
	if err != nil {
		return nil, fmt.Errorf("seal: recovery key: %w", err)
	}
	return &RecoveryPublic{k}, nil
}

// ID names a recovery key in listings: the first 80 bits of the SHA-256 of its public
// half, 16 characters.
func (p *RecoveryPublic) ID() string {
	h := sha256.Sum256(AD("recovery-id/1", string(p.Bytes())))
	return EncodeTag(h[:10])
}

// The private half as text: this prefix, then version, key and checksum in base32,
// in groups, so that it can be printed, read out and typed in.
const (
	recoveryPrefix = "POSTSEAL-RECOVERY"
	recoveryGroup  = 4
	recoverySum    = 2 // bytes: the whole then has no padding
)

func recoveryChecksum(b []byte) []byte {
	h := sha256.Sum256(AD("recovery-text/1", string(b)))
	return h[:recoverySum]
}

// Text writes the private half for a person to keep: 17 characters, and 56 in
// groups of four. Whoever has it and the database reads what was sealed for it.
func (p *RecoveryPrivate) Text() (string, error) {
	raw, err := p.key.Bytes()
	if err != nil {
		return "", fmt.Errorf("seal: recovery key: %w", err)
	}
	b := append([]byte{version}, raw...)
	text := strings.ToUpper(EncodeTag(append(b, recoveryChecksum(b)...)))
	groups := []string{recoveryPrefix}
	for len(text) > 0 {
		n := min(recoveryGroup, len(text))
		groups, text = append(groups, text[:n]), text[n:]
	}
	return strings.Join(groups, "-"), nil
}

// ErrRecoveryText reports that a text is no private half of a recovery key. What is
// wrong is said; what was typed is not.
var ErrRecoveryText = errors.New("this is not the private half of a recovery key")

// ParseRecoveryText reads what Text wrote, in any case, with any spaces and hyphens,
// and with 0, 1 and 8 typed for O, I and B, which the alphabet lacks.
func ParseRecoveryText(text string) (*RecoveryPrivate, error) {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		case r == '0':
			return 'o'
		case r == '1':
			return 'i'
		case r == '8':
			return 'b'
		case r == ' ' || r == '\t' || r == '-' || r == '\r' || r == '\n' || r == '\u00a0' || r == '\u2011':
			return -1
		}
		return r
	}, text)
	clean, ok := strings.CutPrefix(clean, strings.ToLower(strings.ReplaceAll(recoveryPrefix, "-", "")))
	if !ok {
		return nil, fmt.Errorf("%w: it does not begin with %s", ErrRecoveryText, recoveryPrefix)
	}
	want := idEncoding.EncodedLen(1 + recoverySize + recoverySum)
	if len(clean) != want {
		return nil, fmt.Errorf("%w: %d characters follow the first word, there must be %d", ErrRecoveryText, len(clean), want)
	}
	b, err := DecodeTag(clean)
	if err != nil {
		return nil, fmt.Errorf("%w: a character is none of A to Z and 2 to 7", ErrRecoveryText)
	}
	k, sum := b[:1+recoverySize], b[1+recoverySize:]
	if subtle.ConstantTimeCompare(sum, recoveryChecksum(k)) != 1 {
		return nil, fmt.Errorf("%w: a character is mistyped, the checksum does not match", ErrRecoveryText)
	}
	raw, err := body(k)
	if err != nil {
		return nil, err
	}
	key, err := recoveryKEM().NewPrivateKey(raw)
	if err != nil {
		return nil, ErrRecoveryText // by its checksum it was one: never printed by us
	}
	return &RecoveryPrivate{key}, nil
}

// WrapRecovery encrypts k for a recovery key.
func WrapRecovery(to *RecoveryPublic, k *Key, item string) ([]byte, error) {
	fresh := make([]byte, 32)
	rand.Read(fresh)
	ad := AD("recovery/1", item, to.ID())
	encapsulated, err := hpke.Seal(to.key, hpke.HKDFSHA256(), hpke.AES256GCM(), ad, fresh)
	if err != nil {
		return nil, fmt.Errorf("seal: wrap for the recovery key: %w", err)
	}
	inner, err := aeadsubtle.NewAESGCM(fresh)
	if err != nil {
		return nil, fmt.Errorf("seal: wrap for the recovery key: %w", err)
	}
	var b bytes.Buffer
	if err := k.handle.WriteWithAssociatedData(keyset.NewBinaryWriter(&b), inner, ad); err != nil {
		return nil, fmt.Errorf("seal: wrap for the recovery key: %w", err)
	}
	return append(append([]byte{version}, encapsulated...), b.Bytes()...), nil
}

// UnwrapRecovery opens what WrapRecovery made. The error is ErrOpen where it does not
// open.
func UnwrapRecovery(p *RecoveryPrivate, wrap []byte, item string) (*Key, error) {
	sealed, err := body(wrap)
	if err != nil {
		return nil, err
	}
	if len(sealed) < recoveryEncap {
		return nil, ErrOpen
	}
	ad := AD("recovery/1", item, p.Public().ID())
	fresh, err := hpke.Open(p.key, hpke.HKDFSHA256(), hpke.AES256GCM(), ad, sealed[:recoveryEncap])
	if err != nil {
		return nil, ErrOpen
	}
	inner, err := aeadsubtle.NewAESGCM(fresh)
	if err != nil {
		return nil, ErrOpen
	}
	h, err := keyset.ReadWithAssociatedData(keyset.NewBinaryReader(bytes.NewReader(sealed[recoveryEncap:])), inner, ad)
	if err != nil {
		return nil, ErrOpen
	}
	return &Key{h}, nil
}
