package escrow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/postseal/postseal/escrow/seal"
)

// Pickup finds a recipient's right to a message. Without the right secret the
// answer is ErrUnknown, whatever there is. With it, a message that is over is
// ErrExpired or ErrRetracted, and the pickup is returned too, for the wording. It
// changes nothing.
func (v *Vault) Pickup(ctx context.Context, item, secret string) (*Pickup, error) {
	raw, ok := seal.DecodeSecret(secret)
	if !ok || !seal.IsID(item) {
		return nil, ErrUnknown
	}
	hash := seal.HashSecret(raw)
	s, err := v.store.PickupBySecret(ctx, item, hash)
	if err != nil {
		if errors.Is(err, ErrUnknown) {
			return nil, ErrUnknown
		}
		return nil, fmt.Errorf("pickup: %w", err)
	}
	now := v.now()
	p := &Pickup{
		ItemID: s.ItemID, Recipient: s.Recipient, Sender: s.Sender, Verify: s.Verify, Mode: s.Mode,
		State: s.State, Created: s.Created, Expires: s.Expires, ReadAt: s.ReadAt, Size: s.Size,
		Language: s.Language, Tag: v.RecipientTag(s.Folded), Receipt: s.Receipt && v.canTell(s),
		id: s.ID, folded: s.Folded, secret: raw, secretHash: hash, passphrase: s.Passphrase,
	}
	switch {
	case s.State == StateRetracted:
		return p, ErrRetracted
	case s.State == StateExpired || !now.Before(s.Expires):
		p.State = StateExpired
		return p, ErrExpired
	}
	account, err := v.store.AccountOf(ctx, p.folded)
	if err != nil && !errors.Is(err, ErrUnknown) {
		return nil, fmt.Errorf("pickup: %w", err)
	}
	p.Account = v.accountState(account)
	limits := v.guessLimits(p, Client{})
	if p.Verify == VerifyAccount && p.Account.Enrolled {
		limits = v.passwordLimits(p, Client{})
	}
	if p.Locked, err = v.store.Locked(ctx, keysOf(limits), now); err != nil {
		return nil, fmt.Errorf("pickup: %w", err)
	}
	return p, nil
}

// Open returns the raw message, byte for byte as it was sealed, read and
// decrypted as the caller reads, and marks it read; it is not opened unless the audit
// log has it. An error of the reader other
// than io.EOF means that what was read is authentic and not all.
func (v *Vault) Open(ctx context.Context, p *Pickup, s *Session) (io.ReadCloser, error) {
	r, err := v.Peek(ctx, p, s)
	if err != nil {
		return nil, err
	}
	first, err := v.markRead(ctx, p, s.How, v.now())
	if err == nil {
		err = v.auditOpened(ctx, p, s, first)
	}
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	return r, nil
}

// unwrap returns the key of a message. The error is seal.ErrOpen where the
// passphrase is wrong, ErrUnknown where the wrap is gone.
func (v *Vault) unwrap(ctx context.Context, p *Pickup, hashed []byte) (*seal.Key, error) {
	wrap, err := v.store.Wrap(ctx, p.id)
	if err != nil {
		return nil, err
	}
	return seal.Unwrap(v.keys.aead, wrap, seal.Opener{Item: p.ItemID, Pickup: p.id, Secret: p.secret, Hashed: hashed})
}

// chunks returns a reader of an item's ciphertext.
func (v *Vault) chunks(ctx context.Context, item string) *chunkReader {
	return &chunkReader{chunk: func(n int, buf []byte) ([]byte, error) { return v.store.Chunk(ctx, item, n, buf) }}
}

// chunkReader reads ciphertext, a chunk at a time.
type chunkReader struct {
	chunk func(n int, buf []byte) ([]byte, error) // nil after the last
	next  int
	buf   []byte // of the chunk, for the next one: a message makes little garbage
	rest  []byte
	err   error
}

func (c *chunkReader) Read(p []byte) (int, error) {
	if len(c.rest) == 0 && c.err == nil {
		c.rest, c.err = c.chunk(c.next, c.buf[:0])
		c.buf = c.rest
		c.next++
		if c.err == nil && len(c.rest) == 0 {
			c.err = io.EOF
		}
	}
	if len(c.rest) == 0 {
		return 0, c.err
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// messageReader checks that the message has the length that it had.
type messageReader struct {
	io.Reader
	left int64
}

func (m *messageReader) Read(p []byte) (int, error) {
	n, err := m.Reader.Read(p)
	m.left -= int64(n)
	if errors.Is(err, io.EOF) && m.left != 0 {
		err = fmt.Errorf("message: %w", io.ErrUnexpectedEOF)
	}
	return n, err
}

func (m *messageReader) Close() error { return nil }

// sessionLifetime is how long a device stays verified.
const sessionLifetime = 12 * time.Hour
