package escrow

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/prf"

	"github.com/postseal/postseal/escrow/seal"
)

// Keys are the server's keys, which are kept outside the database: without them
// no sealed message opens. They may be used, and [Keys.Reload]ed, at the same time.
type Keys struct {
	path string
	read atomic.Pointer[[sha256.Size]byte] // of the file as it was read last
	aead *serverAEAD                       // AES256_GCM; changes when the keys are rotated
	prf  *prf.Set                          // HMAC_SHA256_PRF: tags and hashes; stays for ever
}

// keyFile is the form of the key file. This file is the one place where keys
// are handled in clear.
type keyFile struct {
	Version int             `json:"postseal_keys"`
	AEAD    json.RawMessage `json:"aead"`
	PRF     json.RawMessage `json:"prf"`
}

const keyFileVersion = 1

// maxKeyFile bounds what is read of a key file, in bytes.
const maxKeyFile = 1 << 20

// NewKeyFile makes new keys and writes them to path, mode 0600, which must not
// exist. The file is on the disk when it returns. Where root calls it, the file
// belongs to the owner of its directory.
func NewKeyFile(path string) (err error) {
	data, err := newKeys()
	if err != nil {
		return fmt.Errorf("new keys: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("key file %s exists already: it is never overwritten, since sealed messages need it; name another file, or move it away", path)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("key file %s: its directory does not exist: create it first", path)
	case err != nil:
		return fmt.Errorf("key file: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(path) // of this call's making
			err = fmt.Errorf("key file %s: %w", path, err)
		}
	}()
	dir := filepath.Dir(path)
	if err := fill(f, dir, data); err != nil {
		return err
	}
	return syncDir(dir)
}

// fill writes data to a new file of keys and closes it. Where root calls it, the file
// belongs to whom like, a file or directory, belongs to.
func fill(f *os.File, like string, data []byte) error {
	if err := f.Chmod(0o600); err != nil { // whatever the umask
		return err
	}
	if err := own(f, like); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Close()
}

// own gives f to whom like belongs to, where root calls it.
func own(f *os.File, like string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	fi, err := os.Stat(like)
	if err != nil {
		return err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return f.Chown(int(st.Uid), int(st.Gid))
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func newKeys() ([]byte, error) {
	a, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, err
	}
	p, err := keyset.NewHandle(prf.HMACSHA256PRFKeyTemplate())
	if err != nil {
		return nil, err
	}
	return keySets{a, p}.marshal()
}

// keySets is the content of a key file.
type keySets struct{ aead, prf *keyset.Handle }

func (s keySets) marshal() ([]byte, error) {
	file := keyFile{Version: keyFileVersion}
	for _, k := range []struct {
		h  *keyset.Handle
		to *json.RawMessage
	}{{s.aead, &file.AEAD}, {s.prf, &file.PRF}} {
		var b bytes.Buffer
		if err := insecurecleartextkeyset.Write(k.h, keyset.NewJSONWriter(&b)); err != nil {
			return nil, err
		}
		*k.to = b.Bytes()
	}
	data, err := json.MarshalIndent(file, "", "  ")
	return append(data, '\n'), err
}

// LoadKeys reads a key file. A file that others than its owner can read is an
// error, except in systemd's directory of credentials ($CREDENTIALS_DIRECTORY),
// where the access list shows as rights of the group.
func LoadKeys(path string) (*Keys, error) {
	data, err := readKeyFile(path)
	if err != nil {
		return nil, err
	}
	_, k, err := parseKeys(data)
	if err != nil {
		return nil, fmt.Errorf("key file %s: %w", path, err)
	}
	sum := sha256.Sum256(data)
	k.path = path
	k.read.Store(&sum)
	return k, nil
}

// readKeyFile returns the content of a key file.
func readKeyFile(path string) (data []byte, err error) {
	f, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("key file %s does not exist: make one with postseal key new", path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("key file %s can't be read: it must belong to the user that postseal runs as: %w", path, err)
	case err != nil:
		return nil, fmt.Errorf("key file: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("key file %s is not a regular file", path)
	}
	forbidden := fs.FileMode(0o077)
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" && strings.HasPrefix(filepath.Clean(path), filepath.Clean(dir)+"/") {
		forbidden = 0o037
	}
	if m := fi.Mode().Perm(); m&forbidden != 0 {
		return nil, fmt.Errorf("key file %s has mode %04o, so others than its owner can use it: chmod 600 it; if it was read by others, make a new one", path, m)
	}
	if fi.Size() > maxKeyFile {
		return nil, fmt.Errorf("key file %s is not a key file: it is too large", path)
	}
	// Of the file that was looked at: a rotation may put another in its place.
	if data, err = io.ReadAll(io.LimitReader(f, maxKeyFile)); err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	return data, nil
}

var errDamagedKeys = errors.New("is damaged; restore a copy")

// parseKeys reads the content of a key file. Its errors quote none of it.
func parseKeys(data []byte) (sets keySets, k *Keys, err error) {
	var file keyFile
	if err := json.Unmarshal(data, &file); err != nil || file.Version == 0 {
		return sets, nil, errors.New("is not a key file of postseal, or is damaged; restore a copy")
	}
	if file.Version > keyFileVersion {
		return sets, nil, fmt.Errorf("has format %d, this postseal knows %d: install the newer postseal", file.Version, keyFileVersion)
	}
	if sets.aead, err = insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(file.AEAD))); err != nil {
		return sets, nil, errDamagedKeys
	}
	if sets.prf, err = insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(file.PRF))); err != nil {
		return sets, nil, errDamagedKeys
	}
	a, err := newAEADSet(sets.aead)
	if err != nil {
		return sets, nil, errDamagedKeys
	}
	k = &Keys{aead: new(serverAEAD)}
	k.aead.now.Store(a)
	if k.prf, err = prf.NewPRFSet(sets.prf); err != nil {
		return sets, nil, errDamagedKeys
	}
	return sets, k, nil
}

const boxVersion = 1

// minTag is the least length of a tag, in bytes: 80 bits.
const minTag = 10

// seal encrypts under the server's keyset, for one purpose and place.
func (k *Keys) seal(plain []byte, purpose string, parts ...string) ([]byte, error) {
	c, err := k.aead.Encrypt(plain, seal.AD(purpose, parts...))
	if err != nil {
		return nil, fmt.Errorf("encrypt under the server's keys: %w", err)
	}
	return append([]byte{boxVersion}, c...), nil
}

// open decrypts what seal encrypted.
func (k *Keys) open(box []byte, purpose string, parts ...string) ([]byte, error) {
	if len(box) == 0 || box[0] != boxVersion {
		return nil, errors.New("not encrypted in a known form")
	}
	plain, err := k.aead.Decrypt(box[1:], seal.AD(purpose, parts...))
	if err != nil {
		return nil, errors.New("not encrypted under the keys of this server")
	}
	return plain, nil
}

// tag returns a keyed hash of size bytes, at most 32.
func (k *Keys) tag(size int, purpose string, parts ...string) []byte {
	b, err := k.prf.ComputePrimaryPRF(seal.AD(purpose, parts...), uint32(size))
	if err != nil {
		panic("escrow: the PRF gives no " + purpose) // HMAC of fixed length can't fail
	}
	return b
}

// checkTag reports whether tag is a keyed hash by one of the keys.
func (k *Keys) checkTag(tag []byte, purpose string, parts ...string) bool {
	if len(tag) < minTag {
		return false
	}
	in := seal.AD(purpose, parts...)
	ok := 0
	for _, p := range k.prf.PRFs {
		if b, err := p.ComputePRF(in, uint32(len(tag))); err == nil {
			ok |= subtle.ConstantTimeCompare(b, tag)
		}
	}
	return ok == 1
}
