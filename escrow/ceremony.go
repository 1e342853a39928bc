package escrow

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/postseal/postseal/escrow/account"
)

// Kinds of ceremonies. None counts as one of another kind.
const (
	ceremonyEnrol   = "enrol"   // after a right code: makes an account
	ceremonySignIn  = "sign-in" // by passkey
	ceremonyPasskey = "passkey" // one more
	ceremonyTOTP    = "totp"
)

// ceremonyLifetime is how long a ceremony may take: a code has to be fetched from
// nowhere any more, but a security key may.
const ceremonyLifetime = account.CeremonyLifetime

// ceremonyID is the length of what a ceremony is known by, in bytes.
const ceremonyID = 16

// maxCeremony is more than any token of one has, in bytes.
const maxCeremony = 16 << 10

// ceremony is one that has begun. The browser has it meanwhile, encrypted under the
// server's keys for its kind and address; so beginning one writes nothing, and may
// be done by a GET. The store remembers those that were used.
type ceremony struct {
	ID      []byte          `json:"i"` // random; that of the one it renews
	Expires int64           `json:"e"` // Unix seconds; that of the one it renews
	Handle  []byte          `json:"h,omitempty"`
	Session json.RawMessage `json:"s,omitempty"` // WebAuthn's
	Secret  string          `json:"t,omitempty"` // of TOTP
}

func (v *Vault) newCeremony(kind, address string, c ceremony) (id string, err error) {
	if c.ID == nil {
		c.ID = make([]byte, ceremonyID)
		rand.Read(c.ID)
		c.Expires = v.now().Add(ceremonyLifetime).Unix()
	}
	plain, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("begin a ceremony: %w", err)
	}
	box, err := v.keys.seal(plain, "ceremony/1", kind, address)
	if err != nil {
		return "", fmt.Errorf("begin a ceremony: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(box), nil
}

// ceremony reads what newCeremony made; ErrCeremony if it is of another kind or
// address, or over. Whether it was used the store finds when it uses it.
func (v *Vault) ceremony(kind, address, id string) (*ceremony, *CeremonyUse, error) {
	if len(id) > maxCeremony {
		return nil, nil, ErrCeremony
	}
	box, err := base64.RawURLEncoding.Strict().DecodeString(id)
	if err != nil {
		return nil, nil, ErrCeremony
	}
	plain, err := v.keys.open(box, "ceremony/1", kind, address)
	if err != nil {
		return nil, nil, ErrCeremony
	}
	var c ceremony
	if err := json.Unmarshal(plain, &c); err != nil {
		return nil, nil, fmt.Errorf("ceremony: %w", err) // of our own making
	}
	expires := time.Unix(c.Expires, 0)
	if !v.now().Before(expires) {
		return nil, nil, ErrCeremony
	}
	hash := sha256.Sum256(c.ID)
	return &c, &CeremonyUse{ID: hash[:], Expires: expires}, nil
}
