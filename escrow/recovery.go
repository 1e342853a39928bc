package escrow

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/postseal/postseal/escrow/seal"
)

// RecoveryKey is the public half of a recovery key, as it is stored.
type RecoveryKey struct {
	ID      string
	Public  []byte
	Tag     []byte // keyed hash by the server that made it
	Note    string
	Created time.Time
	Retired time.Time // zero: new messages get a wrap for it
	Items   int       // messages that it opens now
}

// RecoveryWrap is the key of a message, wrapped for a recovery key.
type RecoveryWrap struct {
	Key  string // ID of the recovery key
	Wrap []byte
}

// RecoveryStore keeps the public halves of recovery keys.
type RecoveryStore interface {
	// RecoveryKeys lists them, the oldest first.
	RecoveryKeys(ctx context.Context) ([]RecoveryKey, error)
}

// recoveryTag is the length of a recovery key's keyed hash, in bytes.
const recoveryTag = 32

// NewRecoveryKey makes a recovery key. The private half is in text alone.
func (k *Keys) NewRecoveryKey(note string, now time.Time) (r RecoveryKey, text string, err error) {
	private, err := seal.NewRecovery()
	if err != nil {
		return r, "", err
	}
	if text, err = private.Text(); err != nil {
		return r, "", err
	}
	// What can't be read again is never given out.
	again, err := seal.ParseRecoveryText(text)
	if err != nil || again.Public().ID() != private.Public().ID() {
		return r, "", errors.New("new recovery key: it does not come back as it was written")
	}
	public := private.Public()
	r = RecoveryKey{ID: public.ID(), Public: public.Bytes(), Note: note, Created: now}
	r.Tag = k.tag(recoveryTag, "recovery-key/1", r.ID, string(r.Public))
	return r, text, nil
}

// recoveryKeys returns the recovery keys for which new messages are wrapped. One that
// the server has not made is refused, and logged: who can write to the database alone
// must not be able to have messages sealed for a key of their own.
func (v *Vault) recoveryKeys(ctx context.Context) ([]*seal.RecoveryPublic, error) {
	all, err := v.store.RecoveryKeys(ctx)
	if err != nil {
		return nil, fmt.Errorf("recovery keys: %w", err)
	}
	var list []*seal.RecoveryPublic
	for _, r := range all {
		if !r.Retired.IsZero() {
			continue
		}
		p, err := seal.ParseRecoveryPublic(r.Public)
		want := v.keys.tag(recoveryTag, "recovery-key/1", r.ID, string(r.Public))
		if err != nil || p.ID() != r.ID || subtle.ConstantTimeCompare(r.Tag, want) != 1 {
			v.log.Error("a recovery key in the database was not made by this server: nothing is sealed for it; find out who has put it there", "key", r.ID)
			continue
		}
		list = append(list, p)
	}
	return list, nil
}

// wrapRecovery wraps the key of a new item for each recovery key.
func wrapRecovery(keys []*seal.RecoveryPublic, k *seal.Key, item string) ([]RecoveryWrap, error) {
	var list []RecoveryWrap
	for _, p := range keys {
		w, err := seal.WrapRecovery(p, k, item)
		if err != nil {
			return nil, err
		}
		list = append(list, RecoveryWrap{p.ID(), w})
	}
	return list, nil
}

// RecoverySource is a database from which a message is recovered.
type RecoverySource interface {
	// RecoveryWraps returns an item's wraps, and the length of its message in bytes;
	// ErrUnknown if there is no such item. An item that is over has no wraps.
	RecoveryWraps(ctx context.Context, item string) (wraps []RecoveryWrap, size int64, err error)
	Chunk(ctx context.Context, item string, n int, buf []byte) ([]byte, error)
}

// Errors of OpenRecovery.
var (
	ErrNoRecovery       = errors.New("the message has no wrap for any recovery key: it is over, or none was there when it was sealed")
	ErrOtherRecoveryKey = errors.New("the message is not sealed for this recovery key")
)

// OpenRecovery returns a reader of a message, byte for byte as it was sealed. It needs
// the private half and the database alone. What was read before an error other than
// io.EOF is authentic, and not all.
func OpenRecovery(ctx context.Context, from RecoverySource, private *seal.RecoveryPrivate, item string) (io.Reader, error) {
	if !seal.IsID(item) {
		return nil, ErrUnknown
	}
	wraps, size, err := from.RecoveryWraps(ctx, item)
	if err != nil {
		return nil, err
	}
	if len(wraps) == 0 {
		return nil, ErrNoRecovery
	}
	id := private.Public().ID()
	var keys []string
	for _, r := range wraps {
		if keys = append(keys, r.Key); r.Key != id {
			continue
		}
		key, err := seal.UnwrapRecovery(private, r.Wrap, item)
		if err != nil {
			return nil, fmt.Errorf("the wrap for recovery key %s is damaged: %w", id, err)
		}
		plain, err := key.Decrypt(&chunkReader{chunk: func(n int, buf []byte) ([]byte, error) { return from.Chunk(ctx, item, n, buf) }}, item, partRaw)
		if err != nil {
			return nil, err
		}
		return &messageReader{Reader: plain, left: size}, nil
	}
	return nil, fmt.Errorf("%w (%s), but for %s", ErrOtherRecoveryKey, id, strings.Join(keys, ", "))
}
