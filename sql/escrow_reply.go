package sql

import (
	"context"
	dbsql "database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/postseal/postseal/escrow"
)

const selectReply = `SELECT id, pickup_id, state, version, wrap, sealed, size, attempts, created_at, changed_at, due_at, sent_at FROM escrow_reply `

func scanReply(row row) (*escrow.StoredReply, error) {
	var (
		r                          escrow.StoredReply
		created, changed, due, off dbsql.NullInt64
	)
	err := row.Scan(&r.ID, &r.Pickup, &r.State, &r.Version, &r.Wrap, &r.Sealed, &r.Size, &r.Attempts, &created, &changed, &due, &off)
	if errors.Is(err, dbsql.ErrNoRows) {
		return nil, escrow.ErrUnknown
	} else if err != nil {
		return nil, fmt.Errorf("read a reply: %w", err)
	}
	r.Created, r.Changed, r.Due, r.QueuedAt = fromMicros(created), fromMicros(changed), fromMicros(due), fromMicros(off)
	return &r, nil
}

// ReplyDraft returns the draft of a pickup.
func (db *DB) ReplyDraft(ctx context.Context, pickup string) (*escrow.StoredReply, error) {
	r, err := scanReply(db.r.QueryRowContext(ctx, selectReply+`WHERE pickup_id = ? AND state = 'draft'`, pickup))
	return r, db.explain(err)
}

// ReplyByID returns a reply.
func (db *DB) ReplyByID(ctx context.Context, id string) (*escrow.StoredReply, error) {
	r, err := scanReply(db.r.QueryRowContext(ctx, selectReply+`WHERE id = ?`, id))
	return r, db.explain(err)
}

// SentReplies returns a pickup's replies that are no drafts.
func (db *DB) SentReplies(ctx context.Context, pickup string) ([]escrow.StoredReply, error) {
	return db.replies(ctx, selectReply+`WHERE pickup_id = ? AND state <> 'draft' ORDER BY sent_at, created_at, id`, pickup)
}

func (db *DB) replies(ctx context.Context, query string, args ...any) ([]escrow.StoredReply, error) {
	return list(ctx, db, scanReply, query, args...)
}

// CreateReply adds a draft.
func (db *DB) CreateReply(ctx context.Context, r escrow.StoredReply) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		n, err := affected(tx.ExecContext(ctx, `INSERT INTO escrow_reply (id, pickup_id, state, wrap, sealed, created_at, changed_at)
			VALUES (?, ?, 'draft', ?, ?, ?, ?) ON CONFLICT DO NOTHING`, r.ID, r.Pickup, r.Wrap, r.Sealed, micros(r.Created), micros(r.Created)))
		if err != nil {
			return fmt.Errorf("store a draft: %w", err)
		}
		if n == 0 {
			return escrow.ErrChanged
		}
		return nil
	})
}

// ChangeReply changes a reply that is still as it was read.
func (db *DB) ChangeReply(ctx context.Context, c escrow.ReplyChange) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		if err := auditReply(ctx, tx, &c); err != nil {
			return err
		}
		n, err := affected(tx.ExecContext(ctx, `UPDATE escrow_reply SET version = version + 1, state = ?, sealed = ?, size = ?, attempts = ?, changed_at = ?, due_at = ?, sent_at = ?
			WHERE id = ? AND version = ?`, c.State, c.Sealed, c.Size, c.Attempts, micros(c.Changed), micros(c.Due), micros(c.QueuedAt), c.ID, c.Version))
		if err != nil {
			return fmt.Errorf("store a reply: %w", err)
		}
		if n == 0 {
			return escrow.ErrChanged
		}
		if c.State == escrow.ReplySent || c.State == escrow.ReplyFailed {
			// It was on its way when the message ended, and nobody can read it
			// any more.
			_, err := tx.ExecContext(ctx, `UPDATE escrow_reply SET wrap = NULL WHERE id = ?
				AND EXISTS (SELECT 1 FROM escrow_pickup p WHERE p.id = pickup_id AND p.wrap IS NULL AND p.held_wrap IS NULL)`, c.ID)
			if err != nil {
				return fmt.Errorf("store a reply: %w", err)
			}
		}
		if c.DropAll {
			_, err = tx.ExecContext(ctx, `DELETE FROM escrow_reply_chunk WHERE reply_id = ?`, c.ID)
		} else if c.Drop != 0 {
			_, err = tx.ExecContext(ctx, `DELETE FROM escrow_reply_chunk WHERE reply_id = ? AND file = ?`, c.ID, c.Drop)
		}
		if err != nil {
			return fmt.Errorf("delete a file of a reply: %w", err)
		}
		if c.Add != 0 {
			if err := keepReplyQuota(ctx, tx, &c); err != nil {
				return err
			}
			if err := addFile(ctx, tx, &c); err != nil {
				return err
			}
		}
		if c.Mail != nil {
			return queueMail(ctx, tx, c.Mail)
		}
		return nil
	})
}

func addFile(ctx context.Context, tx *dbsql.Tx, c *escrow.ReplyChange) error {
	put, err := tx.PrepareContext(ctx, `INSERT INTO escrow_reply_chunk (reply_id, file, n, data) VALUES (?, ?, ?, ?)`)
	if err != nil {
		return fmt.Errorf("store a file of a reply: %w", err)
	}
	defer put.Close()
	n := 0
	return c.WriteOut(func(chunk []byte) error {
		if _, err := put.ExecContext(ctx, c.ID, c.Add, n, chunk); err != nil {
			return fmt.Errorf("store a file of a reply: %w", err)
		}
		n++
		return nil
	})
}

// DeleteReply deletes a reply that is still as it was read.
func (db *DB) DeleteReply(ctx context.Context, id string, version int64) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		n, err := affected(tx.ExecContext(ctx, `DELETE FROM escrow_reply WHERE id = ? AND version = ?`, id, version))
		if err == nil && n == 0 {
			err = escrow.ErrChanged
		}
		return err
	})
}

// ReplyChunk returns the nth chunk of a file's ciphertext, as [DB.Chunk] does.
func (db *DB) ReplyChunk(ctx context.Context, reply string, file, n int, buf []byte) ([]byte, error) {
	return db.chunk(ctx, buf, `SELECT data FROM escrow_reply_chunk WHERE reply_id = ? AND file = ? AND n = ?`, reply, file, n)
}

// DueReplies returns queued replies whose time has come, the oldest first.
func (db *DB) DueReplies(ctx context.Context, now time.Time, limit int) (list []escrow.StoredReply, next time.Time, err error) {
	list, err = db.replies(ctx, selectReply+`WHERE state = 'queued' AND due_at <= ? ORDER BY due_at, id LIMIT ?`, micros(now), limit)
	if err != nil {
		return nil, time.Time{}, err
	}
	var due dbsql.NullInt64
	if err := db.r.QueryRowContext(ctx, `SELECT min(due_at) FROM escrow_reply WHERE state = 'queued' AND due_at > ?`, micros(now)).Scan(&due); err != nil {
		return nil, time.Time{}, db.explain(err)
	}
	return list, fromMicros(due), nil
}

// OldestReply returns when the oldest queued reply was sent off.
func (db *DB) OldestReply(ctx context.Context) (time.Time, error) {
	var at dbsql.NullInt64
	err := db.r.QueryRowContext(ctx, `SELECT min(sent_at) FROM escrow_reply WHERE state = 'queued'`).Scan(&at)
	return fromMicros(at), db.explain(err)
}

// endReplies takes away the keys of a pickup's replies that have been sent, when
// the pickup ends, unless it is on hold. One that is on its way keeps its own until it has arrived, and a
// draft for a day more, see sweepReplies.
func endReplies(ctx context.Context, tx *dbsql.Tx, pickup string) error {
	_, err := tx.ExecContext(ctx, `UPDATE escrow_reply SET wrap = NULL WHERE pickup_id = ? AND state IN ('sent', 'failed')
		AND NOT EXISTS (SELECT 1 FROM escrow_pickup p WHERE p.id = pickup_id AND p.held_wrap IS NOT NULL)`, pickup)
	return err
}

// draftsKept is how long a draft outlives its message: whoever writes while the
// message ends must not lose what was written.
const draftsKept = 24 * time.Hour

// sweepReplies deletes drafts of pickups that ended.
func sweepReplies(ctx context.Context, tx *dbsql.Tx, now time.Time) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM escrow_reply WHERE state = 'draft' AND pickup_id IN (
		SELECT id FROM escrow_pickup WHERE wrap IS NULL AND ended_at < ?)`, micros(now.Add(-draftsKept)))
	return err
}
