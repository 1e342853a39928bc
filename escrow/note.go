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

	// Expiring returns held pickups whose end is less than before away, and more
	// than half of their time over, of which nobody was reminded: of at most
	// limit items, all of each, in the order of items.
	Expiring(ctx context.Context, now time.Time, before time.Duration, limit int) ([]StoredPickup, error)
	// Remind notes that the sender was reminded of these pickups, and queues the
	// mail (nil: none). If one of them has changed since, nothing is done and the
	// error wraps ErrSettled.
	Remind(ctx context.Context, pickups []StoredPickup, now time.Time, mail *NewMail) error
	// Unsettled returns pickups that are over, unread, and of whose end the sender
	// was not told, as Expiring does.
	Unsettled(ctx context.Context, limit int) ([]StoredPickup, error)
	// SettleEnd notes that the sender was told of the end of these pickups, and
	// queues the mail (nil: none), as Remind does.
	SettleEnd(ctx context.Context, pickups []StoredPickup, now time.Time, mail *NewMail) error

	// Extend moves the end of an item's pickups that are held or read, of one
	// recipient (folded) or of all (""), to lifetime after the event; zero: to the lifetime
	// that their rules say, or usual. None is moved beyond what its rules allow, and those
	// that last longer stay. n is how many there are, moved or not, and until is the end
	// of the last of them.
	Extend(ctx context.Context, item, recipient string, lifetime, usual time.Duration, e Event) (n int, until time.Time, err error)
	// NextEnd returns when the next pickup ends, zero if none is held or read.
	NextEnd(ctx context.Context) (time.Time, error)
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
