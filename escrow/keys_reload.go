package escrow

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/postseal/postseal/escrow/seal"
)

// KeyInfo tells of one key that encrypts, and nothing that is secret.
type KeyInfo struct {
	ID      string `json:"id"` // eight hex digits
	Primary bool   `json:"primary"`
}

func keyName(id uint32) string { return fmt.Sprintf("%08x", id) }

// aeadSet is the server's keyset for encryption as it was read at one time.
type aeadSet struct {
	tink.AEAD
	handle *keyset.Handle
	keys   []KeyInfo // in the order of the file, the oldest first
	ids    map[uint32]bool
}

func newAEADSet(h *keyset.Handle) (*aeadSet, error) {
	a, err := aead.New(h)
	if err != nil {
		return nil, err
	}
	s := &aeadSet{AEAD: a, handle: h, ids: make(map[uint32]bool)}
	for i := range h.Len() {
		e, err := h.Entry(i)
		if err != nil {
			return nil, err
		}
		if e.KeyStatus() == keyset.Enabled {
			s.keys = append(s.keys, KeyInfo{keyName(e.KeyID()), e.IsPrimary()})
			s.ids[e.KeyID()] = true
		}
	}
	return s, nil
}

func (s *aeadSet) primary() string {
	for _, k := range s.keys {
		if k.Primary {
			return k.ID
		}
	}
	return ""
}

// formerKeys is how long what was read from the database before keys were dropped can
// still be opened: for requests that are between the two.
const formerKeys = time.Minute

// serverAEAD encrypts under the keyset of now, which may change at any time.
type serverAEAD struct {
	now    atomic.Pointer[aeadSet]
	former atomic.Pointer[formerSet]
}

type formerSet struct {
	set   *aeadSet
	until time.Time
}

// Encrypt encrypts under the primary key.
func (s *serverAEAD) Encrypt(plain, ad []byte) ([]byte, error) {
	return s.now.Load().Encrypt(plain, ad)
}

// Decrypt decrypts under any of the keys.
func (s *serverAEAD) Decrypt(c, ad []byte) ([]byte, error) {
	plain, err := s.now.Load().Decrypt(c, ad)
	if err == nil {
		return plain, nil
	}
	if f := s.former.Load(); f != nil && time.Now().Before(f.until) {
		return f.set.Decrypt(c, ad)
	}
	return nil, err
}

// List returns the keys that encrypt, the oldest first.
func (k *Keys) List() []KeyInfo { return slices.Clone(k.aead.now.Load().keys) }

// Primary returns the ID of the key that encrypts from now on.
func (k *Keys) Primary() string { return k.aead.now.Load().primary() }

// Prefer has a key that is there encrypt from now on, whatever the file says: of a rotation
// that has come so far, where the process has a copy of the file from its start. changed is
// false where it does so already, or is not there.
func (k *Keys) Prefer(id string) (changed bool, err error) {
	was := k.aead.now.Load()
	if was.primary() == id {
		return false, nil
	}
	for n := range was.ids {
		if keyName(n) != id {
			continue
		}
		m := keyset.NewManagerFromHandle(was.handle)
		if err := m.SetPrimary(n); err != nil {
			return false, fmt.Errorf("prefer key %s: %w", id, err)
		}
		h, err := m.Handle()
		if err != nil {
			return false, fmt.Errorf("prefer key %s: %w", id, err)
		}
		now, err := newAEADSet(h)
		if err != nil {
			return false, fmt.Errorf("prefer key %s: %w", id, err)
		}
		k.aead.now.Store(now)
		return true, nil
	}
	return false, nil
}

// ErrKeyRetired reports that a box was to be stored under a key that a rotation has
// retired: nothing was stored. Who reads the key file anew can try again.
var ErrKeyRetired = errors.New("the key it was encrypted under was rotated away meanwhile; try again")

// Reload reads the key file, if it changed, anew, whole or not at all: on an error the keys stay as
// they are. A file of another server, whose tags and hashes are not ours, is an error.
// changed reports whether the keys are others now.
func (k *Keys) Reload() (changed bool, err error) {
	data, err := readKeyFile(k.path)
	if err != nil {
		return false, err
	}
	sum := sha256.Sum256(data)
	if *k.read.Load() == sum {
		return false, nil
	}
	_, fresh, err := parseKeys(data)
	if err != nil {
		return false, fmt.Errorf("key file %s: %w", k.path, err)
	}
	if !bytes.Equal(fresh.fingerprint(), k.fingerprint()) {
		return false, fmt.Errorf("key file %s is of another server: addresses in links and bounces would change", k.path)
	}
	was, now := k.aead.now.Load(), fresh.aead.now.Load()
	k.read.Store(&sum)
	if slices.Equal(was.keys, now.keys) {
		return false, nil
	}
	k.aead.former.Store(&formerSet{was, time.Now().Add(formerKeys)}) // first: what opened opens
	k.aead.now.Store(now)
	return true, nil
}

// fingerprint is the same for key files of one server, whatever was rotated.
func (k *Keys) fingerprint() []byte { return k.tag(16, "fingerprint/1") }

// KeyHolder is a process that has the server's keys in memory and keeps them while it
// runs.
type KeyHolder struct {
	ID      string // random, of the process
	Host    string
	PID     int
	Keys    []string // IDs
	Primary string
	Seen    time.Time // when it said so
}

func (h *KeyHolder) has(id string) bool { return slices.Contains(h.Keys, id) }

// KeyHolders keeps who has which keys.
type KeyHolders interface {
	// HoldKeys keeps a holder in the place of the one with this ID, and drops those
	// not seen for a day.
	HoldKeys(ctx context.Context, h KeyHolder) error
	// LeaveKeys drops a holder.
	LeaveKeys(ctx context.Context, id string) error
	// PrimaryKey returns the key that is to encrypt, of a rotation that has come so far;
	// else "".
	PrimaryKey(ctx context.Context) (string, error)
}

// A process that has not said for holderLost which keys it has is over.
const (
	holderInterval = 10 * time.Second
	holderLost     = 3 * holderInterval
	keyPoll        = 500 * time.Millisecond
)

// KeyWatch follows the key file of a process that serves, so that keys are rotated
// without a restart: it reads the file anew when it changes, and tells in the database
// which keys the process has. A rotation waits for that.
type KeyWatch struct {
	Keys   *Keys
	Store  KeyHolders
	Holder KeyHolder // ID, Host and PID
	Log    *slog.Logger
	Failed func(error) // told of a file that can't be used, and by nil that it can again; nil: nobody
	// Changed is told, after the database was, that the keys are others now; nil: nobody.
	Changed func(ctx context.Context)
}

// Run runs until ctx is done. A file that can't be used is logged, once for each
// reason; the keys stay. A database that can't be written is tried again.
func (w *KeyWatch) Run(ctx context.Context) error {
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if err := w.Store.LeaveKeys(ctx, w.Holder.ID); err != nil {
			w.Log.Warn("it stays in the list of who has the keys, for a while", "error", err)
		}
	}()
	tick := time.NewTicker(keyPoll)
	defer tick.Stop()
	var told time.Time // when the database last was
	var failure string
	for {
		changed, err := w.Keys.Reload()
		switch {
		case err != nil && err.Error() != failure:
			failure = err.Error()
			w.Log.Error("the key file can't be used as it is now; the keys of before stay in force", "error", err)
			w.failed(err)
		case err == nil && failure != "":
			failure = ""
			w.Log.Info("the key file can be used again")
			w.failed(nil)
		}
		// A copy of the file from the start of the process (a systemd credential) has the new
		// key, and not that it encrypts. A database that can't be read says so elsewhere.
		if id, err := w.Store.PrimaryKey(ctx); err == nil && id != "" {
			preferred, err := w.Keys.Prefer(id)
			if err != nil {
				w.Log.Error("the key of the rotation can't be used", "error", err)
			}
			changed = changed || preferred
		}
		if changed {
			w.Log.Info("key file read anew", "keys", keyNames(w.Keys.List()), "primary", w.Keys.Primary())
		}
		if changed || time.Since(told) >= holderInterval {
			h := w.Holder
			h.Keys, h.Primary, h.Seen = keyNames(w.Keys.List()), w.Keys.Primary(), time.Now()
			if err := w.Store.HoldKeys(ctx, h); err == nil {
				told = h.Seen
			} else if ctx.Err() == nil {
				told = time.Time{}
				w.Log.Warn("could not tell the database which keys are in use, trying again", "error", err)
			}
		}
		if changed && w.Changed != nil {
			w.Changed(ctx)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (w *KeyWatch) failed(err error) {
	if w.Failed != nil {
		w.Failed(err)
	}
}

func keyNames(list []KeyInfo) []string {
	names := make([]string, len(list))
	for i, k := range list {
		names[i] = k.ID
	}
	return names
}

// NewKeyHolder names this process.
func NewKeyHolder(host string, pid int) KeyHolder {
	return KeyHolder{ID: seal.NewID(), Host: strings.ToLower(host), PID: pid}
}
