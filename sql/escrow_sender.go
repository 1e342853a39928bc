package sql

import (
	"cmp"
	"context"
	dbsql "database/sql"
	"fmt"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/audit"
)

// An event that repeats the last of its kind within eventRepeats is not kept
// again: a browser that loads a download in pieces is one. Of what a recipient
// can repeat at will, eventsKept stay.
const (
	eventRepeats = 10 * time.Minute
	eventsKept   = 100
)

// Note appends an event to a pickup.
func (db *DB) Note(ctx context.Context, item, pickup string, e escrow.Event) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		var repeats bool
		err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM escrow_event
			WHERE pickup_id = ? AND what = ? AND detail = ? AND at > ?)`, pickup, e.What, e.Detail, micros(e.At.Add(-eventRepeats))).Scan(&repeats)
		if err != nil || repeats {
			return err
		}
		if err := noteEvent(ctx, tx, pickup, e); err != nil {
			return err
		}
		return trimEvents(ctx, tx, pickup)
	})
}

// trimEvents forgets the oldest events of a pickup of the kinds that a recipient can
// repeat at will.
func trimEvents(ctx context.Context, tx *dbsql.Tx, pickup string) error {
	const kinds = `('code', 'verified', 'download', 'locked', 'reply')`
	_, err := tx.ExecContext(ctx, `DELETE FROM escrow_event WHERE pickup_id = ? AND what IN `+kinds+`
		AND id NOT IN (SELECT id FROM escrow_event WHERE pickup_id = ? AND what IN `+kinds+` ORDER BY id DESC LIMIT ?)`,
		pickup, pickup, eventsKept)
	return err
}

// noteEvent appends an event to a pickup, if there is such, in the transaction of
// what happened.
func noteEvent(ctx context.Context, tx *dbsql.Tx, pickup string, e escrow.Event) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO escrow_event (item_id, pickup_id, at, what, detail)
		SELECT item_id, id, ?, ?, ? FROM escrow_pickup WHERE id = ?`, micros(e.At), e.What, e.Detail, pickup)
	if err != nil {
		return fmt.Errorf("note an event: %w", err)
	}
	return nil
}

// Events returns the events of an item by pickup, the oldest first.
func (db *DB) Events(ctx context.Context, item string) (map[string][]escrow.Event, error) {
	rows, err := db.r.QueryContext(ctx, `SELECT pickup_id, at, what, detail FROM escrow_event WHERE item_id = ? ORDER BY id`, item)
	if err != nil {
		return nil, db.explain(err)
	}
	defer rows.Close()
	all := make(map[string][]escrow.Event)
	for rows.Next() {
		var pickup string
		var at dbsql.NullInt64
		var e escrow.Event
		if err := rows.Scan(&pickup, &at, &e.What, &e.Detail); err != nil {
			return nil, db.explain(err)
		}
		e.At = fromMicros(at)
		all[pickup] = append(all[pickup], e)
	}
	return all, db.explain(rows.Err())
}

// pickupsOf returns the pickups that meet cond, of at most limit items, in the
// order of items.
func (db *DB) pickupsOf(ctx context.Context, limit int, cond string, args ...any) ([]escrow.StoredPickup, error) {
	// cond stands twice: once for the items, once for what of them is meant.
	query := selectPickup + `WHERE ` + cond + ` AND p.item_id IN (
		SELECT DISTINCT p.item_id FROM escrow_pickup p JOIN escrow_item i ON i.id = p.item_id WHERE ` + cond + ` LIMIT ?)
		ORDER BY p.item_id, p.recipient_key`
	return list(ctx, db, scanPickup, query, append(append(append([]any{}, args...), args...), limit)...)
}

// Expiring returns pickups of whose coming end the sender is to be reminded.
func (db *DB) Expiring(ctx context.Context, now time.Time, before time.Duration, limit int) ([]escrow.StoredPickup, error) {
	return db.pickupsOf(ctx, limit, `p.wrap IS NOT NULL AND p.expires_at > ? AND p.expires_at <= ? AND p.state = 'held' AND p.reminded_at IS NULL
		AND i.sender <> '' AND p.expires_at - (p.expires_at - i.created_at) / 2 <= ?`, micros(now), micros(now.Add(before)), micros(now))
}

// Remind notes that the sender was reminded, and queues the mail.
func (db *DB) Remind(ctx context.Context, pickups []escrow.StoredPickup, now time.Time, mail *escrow.NewMail) error {
	return db.tell(ctx, pickups, mail, func(tx *dbsql.Tx, p *escrow.StoredPickup) (int64, error) {
		return affected(tx.ExecContext(ctx, `UPDATE escrow_pickup SET reminded_at = ?
			WHERE id = ? AND reminded_at IS NULL AND state = 'held' AND expires_at = ?`, micros(now), p.ID, micros(p.Expires)))
	})
}

// Unsettled returns pickups of whose end the sender is to be told.
func (db *DB) Unsettled(ctx context.Context, limit int) ([]escrow.StoredPickup, error) {
	return db.pickupsOf(ctx, limit, `p.wrap IS NULL AND p.settled_at IS NULL`)
}

// SettleEnd notes that the sender was told of the end, and queues the mail.
func (db *DB) SettleEnd(ctx context.Context, pickups []escrow.StoredPickup, now time.Time, mail *escrow.NewMail) error {
	return db.tell(ctx, pickups, mail, func(tx *dbsql.Tx, p *escrow.StoredPickup) (int64, error) {
		return affected(tx.ExecContext(ctx, `UPDATE escrow_pickup SET settled_at = ? WHERE id = ? AND settled_at IS NULL AND wrap IS NULL`, micros(now), p.ID))
	})
}

// tell marks all pickups and queues the mail, or does nothing where mark finds
// that one has changed.
func (db *DB) tell(ctx context.Context, pickups []escrow.StoredPickup, mail *escrow.NewMail, mark func(*dbsql.Tx, *escrow.StoredPickup) (int64, error)) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		for i := range pickups {
			n, err := mark(tx, &pickups[i])
			if err != nil {
				return err
			}
			if n == 0 {
				return fmt.Errorf("tell the sender: %w", escrow.ErrSettled)
			}
		}
		if mail == nil {
			return nil
		}
		return queueMail(ctx, tx, mail)
	})
}

// Extend moves the end of pickups that are held or read.
func (db *DB) Extend(ctx context.Context, item, recipient string, lifetime, usual time.Duration, e escrow.Event) (n int, until time.Time, err error) {
	err = db.write(ctx, func(tx *dbsql.Tx) error {
		cond, args := `WHERE p.item_id = ? AND p.wrap IS NOT NULL AND p.state IN ('held', 'read') AND p.expires_at > ?`, []any{item, micros(e.At)}
		if recipient != "" {
			cond, args = cond+` AND p.recipient_key = ?`, append(args, recipient)
		}
		pickups, err := listIn(ctx, tx, scanPickup, selectPickup+cond, args...)
		if err != nil {
			return err
		}
		n, until = len(pickups), time.Time{}
		for i := range pickups {
			end, err := extend(ctx, tx, &pickups[i], cmp.Or(lifetime, pickups[i].Lifetime, usual), e)
			if err != nil {
				return err
			}
			if end.After(until) {
				until = end
			}
		}
		_, err = tx.ExecContext(ctx, `UPDATE escrow_item SET expires_at = (SELECT max(expires_at) FROM escrow_pickup p WHERE p.item_id = escrow_item.id)
			WHERE id = ? AND EXISTS (SELECT 1 FROM escrow_pickup p WHERE p.item_id = escrow_item.id)`, item)
		return err
	})
	if err != nil {
		return 0, time.Time{}, err
	}
	return n, until, nil
}

// extend moves the end of a pickup, and returns where it is then.
func extend(ctx context.Context, tx *dbsql.Tx, p *escrow.StoredPickup, lifetime time.Duration, e escrow.Event) (time.Time, error) {
	end := e.At.Add(lifetime)
	if !p.Most.IsZero() && end.After(p.Most) {
		end = p.Most
	}
	if !end.After(p.Expires) {
		return p.Expires, nil
	}
	if _, err := tx.ExecContext(ctx, `UPDATE escrow_pickup SET expires_at = ?, reminded_at = NULL WHERE id = ?`, micros(end), p.ID); err != nil {
		return end, err
	}
	// A notice that waits to be sent is good for the new time.
	if _, err := tx.ExecContext(ctx, `UPDATE outbox SET until_at = ? WHERE pickup_id = ? AND kind = 'notice'`, micros(end), p.ID); err != nil {
		return end, err
	}
	if err := noteEvent(ctx, tx, p.ID, e); err != nil {
		return end, err
	}
	return end, auditPickup(ctx, tx, e.At, p.ID, audit.Extended, audit.Details{"by": e.Detail, "until": auditTime(end)})
}

// NextEnd returns when the next pickup ends.
func (db *DB) NextEnd(ctx context.Context) (time.Time, error) {
	var at dbsql.NullInt64
	err := db.r.QueryRowContext(ctx, `SELECT min(expires_at) FROM escrow_pickup WHERE wrap IS NOT NULL`).Scan(&at)
	return fromMicros(at), db.explain(err)
}
