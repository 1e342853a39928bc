package escrow

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postseal/postseal/escrow/seal"
)

// What can't be done with a message in the state that it is in.
var (
	ErrOver    = errors.New("escrow: the message is over, and its content deleted")
	ErrNotOver = errors.New("escrow: the message can still be read: retract it first")
	ErrHeld    = errors.New("escrow: the message is on hold")
	ErrNotHeld = errors.New("escrow: the message is not on hold")
)

// Hold is a legal hold of an item.
type Hold struct {
	At   time.Time `json:"at"` // zero: there is none
	By   string    `json:"by,omitempty"`
	Note string    `json:"note"`
}

// maxNote is how long the reason of a hold may be, in bytes.
const maxNote = 500

// Hold puts a message on legal hold: until it is released its ciphertext and its keys
// are kept, whatever ends. For its recipients and its sender nothing changes: it expires,
// it can be retracted, and who looks is told so. ErrUnknown, ErrOver or ErrHeld if that
// can't be.
func (v *Vault) Hold(ctx context.Context, id, note string) error {
	if err := checkNote(note); err != nil {
		return err
	}
	if !seal.IsID(id) {
		return ErrUnknown
	}
	// What is over by now is not to be brought back by a server that was late.
	if _, err := v.store.ExpireDue(ctx, v.now()); err != nil {
		return fmt.Errorf("hold: %w", err)
	}
	if err := v.store.Hold(ctx, id, note, v.now()); err != nil {
		return fmt.Errorf("hold: %w", err)
	}
	v.log.Info("message put on hold", "item", id)
	return nil
}

// Release ends a legal hold. What has ended meanwhile is purged at once. ErrUnknown or
// ErrNotHeld if there is none.
func (v *Vault) Release(ctx context.Context, id, note string) error {
	if err := checkNote(note); err != nil {
		return err
	}
	if !seal.IsID(id) {
		return ErrUnknown
	}
	if err := v.store.Release(ctx, id, note, v.now()); err != nil {
		return fmt.Errorf("release: %w", err)
	}
	v.log.Info("message released from hold", "item", id)
	v.sweep(ctx)
	return nil
}

func checkNote(note string) error {
	if strings.TrimSpace(note) == "" || len(note) > maxNote || !utf8.ValidString(note) || strings.ContainsAny(note, "\r\n\x00") {
		return fmt.Errorf("want a note that says why, in one line of at most %d bytes", maxNote)
	}
	return nil
}

// Purge deletes now what Run deletes within minutes: the ciphertext of all messages that
// have ended, and what the database's journal still holds of them. With an item, or a
// time before which they must have ended, it deletes too what lists would show of them
// for months; n is how many that were. clean is false where the journal could not be
// cleared within patience, since somebody reads an older state.
func (v *Vault) Purge(ctx context.Context, item string, before time.Time, patience time.Duration) (n int, clean bool, err error) {
	if item != "" && !seal.IsID(item) {
		return 0, false, ErrUnknown
	}
	if _, err := v.Expire(ctx); err != nil {
		return 0, false, err
	}
	if item != "" || !before.IsZero() {
		if n, err = v.store.ForgetItems(ctx, item, before, v.now()); err != nil {
			return 0, false, fmt.Errorf("purge: %w", err)
		}
	}
	v.log.Info("purged", "forgotten", n)
	for end := time.Now().Add(patience); ; {
		if v.checkpoint(ctx) {
			return n, true, nil
		}
		if ctx.Err() != nil || time.Now().After(end) {
			return n, false, ctx.Err()
		}
		time.Sleep(100 * time.Millisecond)
	}
}
