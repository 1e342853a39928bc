package audit

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Kinds of checkpoints.
const (
	Daily = "daily"
	Asked = "asked" // by postseal audit checkpoint
	Cut   = "cut"   // the entries up to this one were pruned
)

// Checkpoint says, signed, that the log had so many entries at a time, and their hash.
type Checkpoint struct {
	Kind      string
	At        time.Time // to the microsecond
	Seq       int64     // of the newest entry; for a cut, of the last one pruned. 0: none yet
	Hash      Hash
	Signature []byte // Ed25519
}

// signed returns what is signed: "postseal-audit-checkpoint/1" and a line feed, kind as
// a 32-bit length and its bytes, the time in Unix microseconds and the number in 64
// bits, big endian, and the hash.
func (c *Checkpoint) signed() []byte {
	b := appendText([]byte("postseal-audit-checkpoint/1\n"), c.Kind)
	b = binary.BigEndian.AppendUint64(b, uint64(c.At.UnixMicro()))
	b = binary.BigEndian.AppendUint64(b, uint64(c.Seq))
	return append(b, c.Hash[:]...)
}

// Sign signs c.
func (c *Checkpoint) Sign(key ed25519.PrivateKey) {
	c.At = time.UnixMicro(c.At.UnixMicro()).UTC()
	c.Signature = ed25519.Sign(key, c.signed())
}

// Valid reports whether c was signed by the key.
func (c *Checkpoint) Valid(key ed25519.PublicKey) bool {
	return len(key) == ed25519.PublicKeySize && ed25519.Verify(key, c.signed(), c.Signature)
}

// ParseKey reads a public key as [FormatKey] writes it.
func ParseKey(s string) (ed25519.PublicKey, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(b) != ed25519.PublicKeySize {
		return nil, errors.New("want a public key as postseal audit key prints it: 32 bytes in base64")
	}
	return b, nil
}

// FormatKey writes a public key in base64.
func FormatKey(k ed25519.PublicKey) string { return base64.StdEncoding.EncodeToString(k) }

// jsonCheckpoint is a checkpoint as a line of JSON.
type jsonCheckpoint struct {
	Kind      string `json:"checkpoint"`
	At        string `json:"at"`
	Seq       int64  `json:"seq"`
	Hash      string `json:"hash"`
	Signature []byte `json:"signature"`
}

// MarshalJSON writes a checkpoint as one line.
func (c Checkpoint) MarshalJSON() ([]byte, error) {
	return json.Marshal(jsonCheckpoint{c.Kind, c.At.UTC().Format(timeFormat), c.Seq, hex.EncodeToString(c.Hash[:]), c.Signature})
}

// UnmarshalJSON reads what MarshalJSON has written.
func (c *Checkpoint) UnmarshalJSON(b []byte) error {
	var j jsonCheckpoint
	if err := json.Unmarshal(b, &j); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	if j.Kind == "" || j.Seq < 0 {
		return errors.New("checkpoint: is none")
	}
	at, err := time.Parse(timeFormat, j.At)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	*c = Checkpoint{Kind: j.Kind, At: at, Seq: j.Seq, Signature: j.Signature}
	return parseHash(&c.Hash, j.Hash)
}

func parseHash(h *Hash, s string) error {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != HashSize {
		return fmt.Errorf("hash %.20q: want %d bytes in hexadecimal", s, HashSize)
	}
	copy(h[:], b)
	return nil
}
