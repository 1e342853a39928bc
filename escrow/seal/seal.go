// Package seal is the format of sealed messages: what is encrypted under what.
// It does no I/O and knows no database.
//
// A message has a key of its own ([Key], a Tink streaming keyset). For each
// recipient that key is wrapped ([Wrap]) under AES-256-GCM with a key derived
// from the secret of the recipient's link and, where one is set, the hashed
// passphrase; that is encrypted once more under the server's keyset. So neither
// a stolen database, nor the server's keys, nor a sniffed link opens it alone. A
// recoverable message has one more wrap under the server's keyset alone
// ([WrapRecover]).
//
// Every format starts with a version byte. testdata holds vectors of each
// released version: they must open for ever.
package seal

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/tink-crypto/tink-go/v2/aead/subtle"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/streamingaead"
	"github.com/tink-crypto/tink-go/v2/streamingaead/aesgcmhkdf"
	"github.com/tink-crypto/tink-go/v2/tink"
)

const version = 1

// ErrOpen reports that a wrap does not open: a wrong secret or passphrase,
// another server's keys, or damage. Which, nobody can tell.
var ErrOpen = errors.New("seal: does not open")

// AD returns the associated data for a purpose: unambiguous, whatever bytes the
// parts hold.
func AD(purpose string, parts ...string) []byte {
	b := []byte("postseal/" + purpose)
	for _, p := range parts {
		b = append(b, 0)
		b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
		b = append(b, p...)
	}
	return b
}

// Key encrypts one message.
type Key struct{ handle *keyset.Handle }

// segmentSize is the length of a segment of ciphertext under a new key, in bytes. Whoever
// reads or writes holds two or three of them in memory. Keys from before have segments of
// 1 MiB: the length is part of the key.
const segmentSize = 64 << 10

// newKeyParameters are those of AES256_GCM_HKDF_1MB, but for the length of a segment.
var newKeyParameters = func() *aesgcmhkdf.Parameters {
	p, err := aesgcmhkdf.NewParameters(aesgcmhkdf.ParametersOpts{
		KeySizeInBytes: 32, DerivedKeySizeInBytes: 32, HKDFHashType: aesgcmhkdf.SHA256, SegmentSizeInBytes: segmentSize,
	})
	if err != nil {
		panic(err)
	}
	return p
}()

// NewKey makes a key: AES-256-GCM, under a key that HKDF-SHA256 derives for each stream.
func NewKey() (*Key, error) {
	m := keyset.NewManager()
	id, err := m.AddNewKeyFromParameters(newKeyParameters)
	if err == nil {
		err = m.SetPrimary(id)
	}
	if err != nil {
		return nil, fmt.Errorf("seal: new key: %w", err)
	}
	h, err := m.Handle()
	if err != nil {
		return nil, fmt.Errorf("seal: new key: %w", err)
	}
	return &Key{h}, nil
}

// Encrypt returns a writer that encrypts a part of an item onto w. Closing it
// ends the ciphertext and leaves w open. It holds one segment, as plain and as ciphertext.
func (k *Key) Encrypt(w io.Writer, item, part string) (io.WriteCloser, error) {
	s, err := streamingaead.New(k.handle)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return s.NewEncryptingWriter(w, AD("message/1", item, part))
}

// Decrypt returns a reader of the plaintext of what Encrypt wrote. What it
// returns is authentic, and it ends with io.EOF only at the true end.
func (k *Key) Decrypt(r io.Reader, item, part string) (io.Reader, error) {
	s, err := streamingaead.New(k.handle)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return s.NewDecryptingReader(r, AD("message/1", item, part))
}

// Opener is what opens a wrap beside the server's keys.
type Opener struct {
	Item, Pickup string // whose wrap it is
	Secret       []byte // of the link
	Hashed       []byte // the hashed passphrase, nil where none is set
}

// key derives the key of the inner layer.
func (o Opener) key() (tink.AEAD, error) {
	if len(o.Secret) != SecretSize {
		return nil, ErrOpen
	}
	material := append(append([]byte{}, o.Secret...), o.Hashed...)
	info := "link"
	if o.Hashed != nil {
		info = "link and passphrase"
	}
	k, err := hkdf.Key(sha256.New, material, []byte(o.Item), string(AD("wrap-key/1", info, o.Pickup)), 32)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return subtle.NewAESGCM(k)
}

func (o Opener) ad() []byte { return AD("wrap/1", o.Item, o.Pickup) }

// Wrap encrypts k for who has what o holds, and the server's keys.
func Wrap(server tink.AEAD, k *Key, o Opener) ([]byte, error) {
	inner, err := o.key()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := k.handle.WriteWithAssociatedData(keyset.NewBinaryWriter(&b), inner, o.ad()); err != nil {
		return nil, fmt.Errorf("seal: wrap: %w", err)
	}
	outer, err := server.Encrypt(b.Bytes(), o.ad())
	if err != nil {
		return nil, fmt.Errorf("seal: wrap: %w", err)
	}
	return append([]byte{version}, outer...), nil
}

// Unwrap opens a wrap. The error is ErrOpen where it does not open.
func Unwrap(server tink.AEAD, wrap []byte, o Opener) (*Key, error) {
	body, err := body(wrap)
	if err != nil {
		return nil, err
	}
	key, err := o.key()
	if err != nil {
		return nil, err
	}
	inner, err := server.Decrypt(body, o.ad())
	if err != nil {
		return nil, ErrOpen
	}
	h, err := keyset.ReadWithAssociatedData(keyset.NewBinaryReader(bytes.NewReader(inner)), key, o.ad())
	if err != nil {
		return nil, ErrOpen
	}
	return &Key{h}, nil
}

// WrapRecover encrypts k under the server's keys alone.
func WrapRecover(server tink.AEAD, k *Key, item string) ([]byte, error) {
	var b bytes.Buffer
	if err := k.handle.WriteWithAssociatedData(keyset.NewBinaryWriter(&b), server, AD("recover/1", item)); err != nil {
		return nil, fmt.Errorf("seal: wrap to recover: %w", err)
	}
	return append([]byte{version}, b.Bytes()...), nil
}

// UnwrapRecover opens what WrapRecover made.
func UnwrapRecover(server tink.AEAD, wrap []byte, item string) (*Key, error) {
	body, err := body(wrap)
	if err != nil {
		return nil, err
	}
	h, err := keyset.ReadWithAssociatedData(keyset.NewBinaryReader(bytes.NewReader(body)), server, AD("recover/1", item))
	if err != nil {
		return nil, ErrOpen
	}
	return &Key{h}, nil
}

func body(wrap []byte) ([]byte, error) {
	if len(wrap) == 0 {
		return nil, ErrOpen
	}
	if wrap[0] != version {
		return nil, fmt.Errorf("seal: format %d is not known: it is of a newer postseal", wrap[0])
	}
	return wrap[1:], nil
}

// SecretSize is the length of a link's secret in bytes.
const SecretSize = 32

// NewSecret returns a secret for a link.
func NewSecret() []byte {
	b := make([]byte, SecretSize)
	rand.Read(b)
	return b
}

// EncodeSecret writes a secret as it stands in a link: 43 characters.
func EncodeSecret(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// DecodeSecret reads what EncodeSecret wrote; ok is false for anything else.
func DecodeSecret(s string) (secret []byte, ok bool) {
	if len(s) != base64.RawURLEncoding.EncodedLen(SecretSize) {
		return nil, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return b, err == nil && len(b) == SecretSize
}

// HashSecret returns what is stored of a secret.
func HashSecret(secret []byte) []byte {
	h := sha256.Sum256(secret)
	return h[:]
}

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewID returns a random identifier of 128 bits: 26 characters of lower-case
// base32.
func NewID() string {
	b := make([]byte, 16)
	rand.Read(b)
	return idEncoding.EncodeToString(b)
}

// IsID reports whether s has the form of an identifier.
func IsID(s string) bool {
	b, err := DecodeTag(s)
	return err == nil && len(b) == 16
}

// EncodeTag writes an authentication tag in the alphabet of identifiers, which
// survives mail systems that change case.
func EncodeTag(b []byte) string { return idEncoding.EncodeToString(b) }

// DecodeTag reads what EncodeTag wrote, in no other spelling.
func DecodeTag(s string) ([]byte, error) {
	b, err := idEncoding.DecodeString(s)
	if err == nil && idEncoding.EncodeToString(b) != s {
		err = errors.New("seal: not the usual spelling")
	}
	return b, err
}
