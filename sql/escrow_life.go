package sql

import (
	"context"
	dbsql "database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/audit"
)

// Hold puts an item on legal hold.
func (db *DB) Hold(ctx context.Context, item, note string, now time.Time) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		ended, held, err := lifeOf(ctx, tx, item)
		switch {
		case err != nil:
			return err
		case ended:
			return escrow.ErrOver
		case held:
			return escrow.ErrHeld
		}
		_, err = tx.ExecContext(ctx, `UPDATE escrow_item SET held_at = ?, held_by = ?, held_note = ? WHERE id = ?`, micros(now), audit.By(ctx).Name, note, item)
		if err != nil {
			return err
		}
		return auditItem(ctx, tx, now, item, audit.Held, audit.Details{"note": note})
	})
}

// Release ends a legal hold. What ended meanwhile ends for good.
func (db *DB) Release(ctx context.Context, item, note string, now time.Time) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		_, held, err := lifeOf(ctx, tx, item)
		if err != nil {
			return err
		}
		if !held {
			return escrow.ErrNotHeld
		}
		for _, q := range []string{
			`UPDATE escrow_item SET held_at = NULL, held_by = '', held_note = '' WHERE id = ?`,
			`UPDATE escrow_pickup SET held_wrap = NULL WHERE item_id = ?`,
			`UPDATE escrow_reply SET wrap = NULL WHERE state IN ('sent', 'failed') AND pickup_id IN (SELECT id FROM escrow_pickup WHERE item_id = ? AND wrap IS NULL)`,
			endItem,
		} {
			if _, err := tx.ExecContext(ctx, q, item); err != nil {
				return err
			}
		}
		return auditItem(ctx, tx, now, item, audit.Released, audit.Details{"note": note})
	})
}

// endItem ends an item of which no pickup is left, unless it is on hold.
const endItem = `UPDATE escrow_item SET recover = NULL, summary = NULL, ended = 1 WHERE id = ? AND held_at IS NULL
	AND NOT EXISTS (SELECT 1 FROM escrow_pickup p WHERE p.item_id = escrow_item.id AND p.wrap IS NOT NULL)`

// lifeOf returns whether an item has ended, and whether it is on hold.
func lifeOf(ctx context.Context, q querier, item string) (ended, held bool, err error) {
	err = q.QueryRowContext(ctx, `SELECT ended, held_at IS NOT NULL FROM escrow_item WHERE id = ?`, item).Scan(&ended, &held)
	if errors.Is(err, dbsql.ErrNoRows) {
		err = escrow.ErrUnknown
	}
	return ended, held, err
}

// auditItem appends an entry about an item.
func auditItem(ctx context.Context, tx *dbsql.Tx, now time.Time, item, kind string, d audit.Details) error {
	e := audit.Entry{Kind: kind, Item: item, Details: d}
	if err := tx.QueryRowContext(ctx, `SELECT sender_key FROM escrow_item WHERE id = ?`, item).Scan(&e.Sender); err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	return appendAudit(ctx, tx, now, e)
}

// purgeChunks deletes the ciphertext of items that have ended, in small transactions.
func (db *DB) purgeChunks(ctx context.Context, now time.Time) error {
	for {
		var item string
		err := db.r.QueryRowContext(ctx, `SELECT i.id FROM escrow_item i WHERE i.ended = 1
			AND EXISTS (SELECT 1 FROM escrow_chunk c WHERE c.item_id = i.id) LIMIT 1`).Scan(&item)
		if errors.Is(err, dbsql.ErrNoRows) {
			return nil
		} else if err != nil {
			return db.explain(err)
		}
		for more := true; more; {
			err := db.write(ctx, func(tx *dbsql.Tx) error {
				n, err := affected(tx.ExecContext(ctx, `DELETE FROM escrow_chunk WHERE rowid IN (
					SELECT rowid FROM escrow_chunk WHERE item_id = ? LIMIT ?)`, item, sweepChunks))
				if err != nil {
					return err
				}
				if more = n == sweepChunks; more {
					return nil
				}
				// Where another process was quicker it has logged it.
				if n == 0 {
					return nil
				}
				return auditItem(ctx, tx, now, item, audit.Purged, nil)
			})
			if err != nil {
				return err
			}
		}
	}
}

// ForgetItems deletes what is still known of items that have ended: of one, or of those that
// ended before a time.
func (db *DB) ForgetItems(ctx context.Context, item string, before, now time.Time) (n int, err error) {
	err = db.write(ctx, func(tx *dbsql.Tx) error {
		cond, args := `i.ended = 1`, []any{}
		if item != "" {
			ended, held, err := lifeOf(ctx, tx, item)
			switch {
			case err != nil:
				return err
			case held:
				return escrow.ErrHeld
			case !ended:
				return escrow.ErrNotOver
			}
			cond, args = cond+` AND i.id = ?`, append(args, item)
		}
		if !before.IsZero() {
			cond, args = cond+` AND NOT EXISTS (SELECT 1 FROM escrow_pickup p WHERE p.item_id = i.id AND p.ended_at >= ?)`, append(args, micros(before))
		}
		ids, err := column(ctx, tx, `SELECT i.id FROM escrow_item i WHERE `+cond+`
			AND NOT EXISTS (SELECT 1 FROM escrow_chunk c WHERE c.item_id = i.id)
			AND NOT EXISTS (SELECT 1 FROM escrow_pickup p WHERE p.item_id = i.id AND p.settled_at IS NULL)
			AND NOT EXISTS (SELECT 1 FROM escrow_reply r JOIN escrow_pickup p ON p.id = r.pickup_id WHERE p.item_id = i.id AND r.state = 'queued')`, args...)
		if err != nil {
			return err
		}
		for _, id := range ids {
			if err := auditItem(ctx, tx, now, id, audit.Purged, audit.Details{"records": strconv.FormatBool(true)}); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `DELETE FROM escrow_item WHERE id = ?`, id); err != nil {
				return err
			}
		}
		n = len(ids)
		return nil
	})
	return n, err
}
