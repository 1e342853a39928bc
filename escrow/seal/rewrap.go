package seal

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// Rewrap encrypts the outer layer of a wrap anew, under the server's keys of now.
// What only the link opens stays as it is.
func Rewrap(server tink.AEAD, wrap []byte, item, pickup string) ([]byte, error) {
	old, err := body(wrap)
	if err != nil {
		return nil, err
	}
	ad := Opener{Item: item, Pickup: pickup}.ad()
	inner, err := server.Decrypt(old, ad)
	if err != nil {
		return nil, ErrOpen
	}
	outer, err := server.Encrypt(inner, ad)
	if err != nil {
		return nil, fmt.Errorf("seal: rewrap: %w", err)
	}
	return append([]byte{version}, outer...), nil
}

// RewrapRecover encrypts anew what WrapRecover made.
func RewrapRecover(server tink.AEAD, wrap []byte, item string) ([]byte, error) {
	k, err := UnwrapRecover(server, wrap, item)
	if err != nil {
		return nil, err
	}
	return WrapRecover(server, k, item)
}

// tinkPrefix is the first byte of a ciphertext of Tink's own form; the id of its key
// follows, in four bytes.
const tinkPrefix = 1

// KeyID returns which of the server's keys a box or the outer layer of a wrap is
// encrypted under; ok is false where that can't be told.
func KeyID(box []byte) (id uint32, ok bool) {
	c, err := body(box)
	if err != nil {
		return 0, false
	}
	return ciphertextKey(c)
}

// RecoverKeyID is KeyID for what WrapRecover made.
func RecoverKeyID(wrap []byte) (id uint32, ok bool) {
	b, err := body(wrap)
	if err != nil {
		return 0, false
	}
	e, err := keyset.NewBinaryReader(bytes.NewReader(b)).ReadEncrypted()
	if err != nil {
		return 0, false
	}
	return ciphertextKey(e.GetEncryptedKeyset())
}

func ciphertextKey(c []byte) (uint32, bool) {
	if len(c) < 5 || c[0] != tinkPrefix {
		return 0, false
	}
	return binary.BigEndian.Uint32(c[1:]), true
}
