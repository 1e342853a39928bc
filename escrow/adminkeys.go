package escrow

import (
	"encoding/hex"
)

// AdminKeys encrypt what is kept of administrators, under the server's keys. Each box
// is bound to the name that it is of.
type AdminKeys struct{ keys *Keys }

// Admin returns the keys for administrators.
func (k *Keys) Admin() AdminKeys { return AdminKeys{k} }

// SealPassword encrypts the Argon2id output of a password, and how it was made.
func (a AdminKeys) SealPassword(hashed []byte, name string) ([]byte, error) {
	return a.keys.seal(hashed, "admin-password/1", name)
}

// OpenPassword decrypts it.
func (a AdminKeys) OpenPassword(box []byte, name string) ([]byte, error) {
	return a.keys.open(box, "admin-password/1", name)
}

// SealTOTP encrypts a TOTP secret.
func (a AdminKeys) SealTOTP(secret []byte, name string) ([]byte, error) {
	return a.keys.seal(secret, "admin-totp/1", name)
}

// OpenTOTP decrypts it.
func (a AdminKeys) OpenTOTP(box []byte, name string) ([]byte, error) {
	return a.keys.open(box, "admin-totp/1", name)
}

// SealSignIn encrypts what the browser keeps of a sign-in under way at the identity
// provider.
func (a AdminKeys) SealSignIn(state []byte) ([]byte, error) {
	return a.keys.seal(state, "admin-oidc/1")
}

// OpenSignIn decrypts it.
func (a AdminKeys) OpenSignIn(box []byte) ([]byte, error) {
	return a.keys.open(box, "admin-oidc/1")
}

// SessionID returns what the database has of a session's token: a keyed hash. Who can
// write to the database, and has not the keys, can't make a session.
func (a AdminKeys) SessionID(token []byte) []byte {
	return a.keys.tag(32, "admin-session/1", string(token))
}

// LimitKey returns the key of a counter of tries. It tells nothing of value.
func (a AdminKeys) LimitKey(kind, value string) string {
	return hex.EncodeToString(a.keys.tag(tagSize, "admin-limit/1", kind, value))
}
