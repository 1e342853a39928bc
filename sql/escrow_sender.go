package sql

import (
	"context"
	dbsql "database/sql"
	"fmt"
	"time"

	"github.com/postseal/postseal/escrow"
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
		_, err = tx.ExecContext(ctx, `DELETE FROM escrow_event WHERE pickup_id = ? AND what IN ('code', 'verified', 'download', 'locked')
			AND id NOT IN (SELECT id FROM escrow_event WHERE pickup_id = ? AND what IN ('code', 'verified', 'download', 'locked') ORDER BY id DESC LIMIT ?)`,
			pickup, pickup, eventsKept)
		return err
	})
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
