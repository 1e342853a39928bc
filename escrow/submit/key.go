package submit

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// keyPrefix makes a key known for what it is, where one got into a place that it
// should not be in.
const keyPrefix = "psk_"

// ErrNoKey reports an API key that there is not, or whose time is over.
var ErrNoKey = errors.New("submit: no such API key")

// Key lets a system send by the API. The key itself is shown once, when it is made;
// only its hash is stored.
type Key struct {
	ID      string
	Hash    []byte // SHA-256 of the key
	Note    string
	Senders []string // whom it may send as: address, @domain, @.parent or *, canonical
	Created time.Time
	Used    time.Time // zero: never
	Until   time.Time // end, exclusive; zero: none
}

// NewKey makes a key that may send as senders. secret is what its holder gets: 256
// bits.
func NewKey(senders []string, note string, until, now time.Time) (k Key, secret string, err error) {
	if len(senders) == 0 {
		return Key{}, "", errors.New("name whom the key may send as, such as --sender lab@clinic.example or --sender @clinic.example")
	}
	for _, s := range senders {
		p, err := policy.CanonicalPattern(policy.BySender, s)
		if err != nil {
			return Key{}, "", err
		}
		k.Senders = append(k.Senders, p)
	}
	raw := make([]byte, 40)
	rand.Read(raw) // never fails
	secret = keyPrefix + base64.RawURLEncoding.EncodeToString(raw[:32])
	k.ID, k.Hash = fmt.Sprintf("%x", raw[32:]), HashKey(secret)
	k.Note, k.Created, k.Until = note, now, until
	return k, secret, nil
}

// Who returns whom the key may send as, as [NewKey] takes it.
func (k *Key) Who() []string {
	all := make([]string, len(k.Senders))
	for i, p := range k.Senders {
		all[i] = (&policy.Trigger{Sender: p}).Who()
	}
	return all
}

// HashKey returns what is stored of a key.
func HashKey(secret string) []byte {
	h := sha256.Sum256([]byte(secret))
	return h[:]
}

// MaySend reports whether the key may send as an address.
func (k *Key) MaySend(address string) bool {
	a, err := policy.ParseAddress(address)
	if err != nil || a.Domain == "" {
		return false
	}
	rules := make([]*policy.Rule, len(k.Senders))
	for i, p := range k.Senders {
		rules[i] = &policy.Rule{Scope: policy.BySender, Pattern: p}
	}
	s, err := policy.NewSnapshot(0, rules, policy.Delimiters(""))
	return err == nil && !s.Lookup(policy.BySender, a, time.Time{}).None()
}

// bearer reads an Authorization field (RFC 6750, section 2.1).
func bearer(field string) (secret string, ok bool) {
	scheme, secret, ok := strings.Cut(field, " ")
	secret = strings.TrimSpace(secret)
	return secret, ok && strings.EqualFold(scheme, "Bearer") && strings.HasPrefix(secret, keyPrefix) && len(secret) < 200
}
