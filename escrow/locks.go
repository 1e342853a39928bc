package escrow

import (
	"context"
	"fmt"
	"time"

	"github.com/postseal/postseal/internal/audit"
)

// locksSeen is how many of the newest messages of a recipient are asked for locks of their own.
const locksSeen = 100

// lockKeys are the counters that may keep a recipient out: over all messages, of the inbox, and
// of the newest messages. Those of clients' addresses are not among them: they are nobody's.
func (v *Vault) lockKeys(ctx context.Context, folded string) ([]string, error) {
	pickups, err := v.store.InboxPickups(ctx, folded, 0, locksSeen)
	if err != nil {
		return nil, err
	}
	inbox := &Pickup{owner: true, folded: folded, Tag: v.RecipientTag(folded)}
	var keys []string
	add := func(p *Pickup) {
		code, phrase := *p, *p
		code.Verify, phrase.Verify = VerifyCode, VerifyPassphrase
		for _, limits := range [][]Limit{v.guessLimits(&code, Client{}), v.guessLimits(&phrase, Client{}), v.passwordLimits(p, Client{})} {
			keys = append(keys, keysOf(limits)...)
		}
	}
	add(inbox)
	for i := range pickups {
		add(&Pickup{id: pickups[i].ID, folded: folded})
	}
	return keys, nil
}

// LockedUntil returns until when too many wrong tries, at one of the newest messages or over all of
// them, keep a recipient out; zero where none do. Who asked for too many codes is not
// locked by that.
func (v *Vault) LockedUntil(ctx context.Context, address string) (time.Time, error) {
	folded, err := fold(address)
	if err != nil {
		return time.Time{}, fmt.Errorf("address %q: %w", address, err)
	}
	keys, err := v.lockKeys(ctx, folded)
	if err != nil {
		return time.Time{}, fmt.Errorf("locks: %w", err)
	}
	return v.store.Locked(ctx, keys, v.now())
}

// Unlock forgets the wrong tries of a recipient, at the newest messages and over all of them, and the
// locks that they made. ErrUnknown if there are none. Who guesses can go on then, up to the
// next lock; what was asked of codes, and what clients have tried, stays counted.
func (v *Vault) Unlock(ctx context.Context, address string) error {
	folded, err := fold(address)
	if err != nil {
		return fmt.Errorf("address %q: %w", address, err)
	}
	keys, err := v.lockKeys(ctx, folded)
	if err != nil {
		return fmt.Errorf("unlock: %w", err)
	}
	n, err := v.store.Unlock(ctx, keys, audit.Entry{Kind: audit.Unlocked, Recipient: folded})
	if err != nil {
		return fmt.Errorf("unlock: %w", err)
	}
	if n == 0 {
		return ErrUnknown
	}
	v.log.Info("wrong tries forgotten", "counters", n)
	return nil
}
