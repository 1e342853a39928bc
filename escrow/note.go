package escrow

import (
	"context"
	"time"
)

// SenderStore keeps what the senders of sealed messages are shown and told.
type SenderStore interface {
	// Note appends an event to a pickup. One that repeats itself within
	// minutes is kept once, and of those that a recipient can repeat at will
	// only the newest hundred stay. A pickup that is gone gets none.
	Note(ctx context.Context, item, pickup string, e Event) error
	// Events returns the events of an item by pickup, the oldest first.
	Events(ctx context.Context, item string) (map[string][]Event, error)
}

// noteTimeout bounds what an event may cost who waits for the answer.
const noteTimeout = 5 * time.Second

// note appends an event to a pickup, for the sender's page: what is one of the
// Event constants, detail a word such as the verification, never a secret or
// anything of the message. It never fails its caller. What must not be noted
// unless a change happened, or the other way round, is noted in the transaction
// of that change instead.
func (v *Vault) note(ctx context.Context, item, pickup, what, detail string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
	defer cancel()
	if err := v.store.Note(ctx, item, pickup, Event{At: v.now(), What: what, Detail: detail}); err != nil {
		v.log.Warn("an event is missing on the sender's page", "item", item, "event", what, "error", err)
	}
}
