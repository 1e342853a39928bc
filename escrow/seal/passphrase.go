package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/text/unicode/norm"
)

// The cost of hashing a passphrase: above the floor that OWASP names (19 MiB, 2
// passes).
const (
	argonPasses = 2
	argonMemory = 46 << 10 // KiB
	argonLanes  = 1
	saltSize    = 16
	// HashedSize is the length of a hashed passphrase in bytes.
	HashedSize = 32
)

// What a stored cost may be at most, so that a damaged one does not eat the
// machine.
const (
	maxPasses = 16
	maxMemory = 1 << 20 // KiB
)

// The length that a passphrase may have.
const (
	MinPassphrase = 8    // characters
	MaxPassphrase = 1024 // bytes
)

// NewHashing returns how to hash a new passphrase: version, cost and a fresh
// salt. It is no secret.
func NewHashing() []byte {
	b := []byte{version, argonPasses, argonLanes}
	b = binary.BigEndian.AppendUint32(b, argonMemory)
	salt := make([]byte, saltSize)
	rand.Read(salt)
	return append(b, salt...)
}

// HashPassphrase returns the Argon2id of a passphrase, hashed as NewHashing
// said. It takes 46 MiB of memory: callers bound how many run at a time.
func HashPassphrase(passphrase, hashing []byte) ([]byte, error) {
	if len(hashing) != 7+saltSize || hashing[0] != version {
		return nil, errors.New("seal: unknown way to hash a passphrase")
	}
	passes, lanes, memory := hashing[1], hashing[2], binary.BigEndian.Uint32(hashing[3:])
	if passes == 0 || passes > maxPasses || lanes == 0 || memory == 0 || memory > maxMemory {
		return nil, errors.New("seal: unreasonable cost to hash a passphrase")
	}
	return argon2.IDKey(normalize(passphrase), hashing[7:], uint32(passes), memory, lanes, HashedSize), nil
}

// normalize makes spellings equal that look equal: composed or not, and white
// space around, which pasting and line ends bring along.
func normalize(passphrase []byte) []byte { return norm.NFC.Bytes(bytes.TrimSpace(passphrase)) }

// CheckPassphrase says whether a passphrase may be set.
func CheckPassphrase(passphrase []byte) error {
	p := normalize(passphrase)
	switch {
	case !utf8.Valid(p):
		return errors.New("the passphrase is not valid UTF-8")
	case utf8.RuneCount(p) < MinPassphrase:
		return fmt.Errorf("the passphrase is too short: want at least %d characters", MinPassphrase)
	case len(passphrase) > MaxPassphrase:
		return fmt.Errorf("the passphrase is too long: at most %d bytes", MaxPassphrase)
	case bytes.ContainsAny(p, "\r\n\x00"):
		return errors.New("the passphrase must be one line")
	}
	return nil
}
