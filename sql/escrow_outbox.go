package sql

import (
	"context"
	dbsql "database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/audit"
)

func queueMail(ctx context.Context, tx *dbsql.Tx, m *escrow.NewMail) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO outbox (id, kind, pickup_id, sealed, created_at, due_at, until_at) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		m.ID, m.Kind, dbsql.NullString{String: m.Pickup, Valid: m.Pickup != ""}, m.Sealed, micros(m.Created), micros(m.Created), micros(m.Until))
	if err != nil {
		return fmt.Errorf("queue a mail: %w", err)
	}
	return nil
}

// DueMails returns mails whose time to send has come, the oldest first.
func (db *DB) DueMails(ctx context.Context, now time.Time, limit int) (mails []escrow.StoredMail, next time.Time, err error) {
	rows, err := db.r.QueryContext(ctx, `SELECT id, kind, coalesce(pickup_id, ''), sealed, attempts, created_at, until_at FROM outbox
		WHERE due_at <= ? AND (until_at IS NULL OR until_at > ?) ORDER BY due_at, id LIMIT ?`, micros(now), micros(now), limit)
	if err != nil {
		return nil, time.Time{}, db.explain(err)
	}
	defer rows.Close()
	for rows.Next() {
		var m escrow.StoredMail
		var created, until dbsql.NullInt64
		if err := rows.Scan(&m.ID, &m.Kind, &m.Pickup, &m.Sealed, &m.Attempts, &created, &until); err != nil {
			return nil, time.Time{}, db.explain(err)
		}
		m.Created, m.Until = fromMicros(created), fromMicros(until)
		mails = append(mails, m)
	}
	if err := rows.Err(); err != nil {
		return nil, time.Time{}, db.explain(err)
	}
	var due dbsql.NullInt64
	if err := db.r.QueryRowContext(ctx, `SELECT min(due_at) FROM outbox WHERE due_at > ?`, micros(now)).Scan(&due); err != nil {
		return nil, time.Time{}, db.explain(err)
	}
	return mails, fromMicros(due), nil
}

// MailSent deletes a mail and marks its notice as sent.
func (db *DB) MailSent(ctx context.Context, id string, now time.Time) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		var pickup string
		err := tx.QueryRowContext(ctx, `SELECT pickup_id FROM outbox WHERE id = ? AND kind = 'notice' AND pickup_id IS NOT NULL`, id).Scan(&pickup)
		switch {
		case errors.Is(err, dbsql.ErrNoRows): // another kind, or gone with its pickup
		case err != nil:
			return fmt.Errorf("mark a notice: %w", err)
		default:
			if err := noticeSent(ctx, tx, pickup, now); err != nil {
				return fmt.Errorf("mark a notice: %w", err)
			}
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM outbox WHERE id = ?`, id); err != nil {
			return fmt.Errorf("delete a sent mail: %w", err)
		}
		return nil
	})
}

func noticeSent(ctx context.Context, tx *dbsql.Tx, pickup string, now time.Time) error {
	n, err := affected(tx.ExecContext(ctx, `UPDATE escrow_pickup SET notice = 'sent' WHERE notice = 'queued' AND id = ?`, pickup))
	if err != nil || n == 0 {
		return err
	}
	e := escrow.Event{At: now, What: escrow.EventNotice}
	var before bool
	err = tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM escrow_event WHERE pickup_id = ? AND what = ?)`, pickup, e.What).Scan(&before)
	if before {
		e.Detail = "resent"
	}
	if err != nil {
		return err
	}
	if err := auditPickup(ctx, tx, now, pickup, audit.NoticeSent, nil); err != nil {
		return err
	}
	return noteEvent(ctx, tx, pickup, e)
}

// MailFailed puts a mail off.
func (db *DB) MailFailed(ctx context.Context, id string, due time.Time) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE outbox SET attempts = attempts + 1, due_at = ? WHERE id = ?`, micros(due), id)
		return err
	})
}

// OldestMail returns when the oldest mail was queued, zero if there is none.
func (db *DB) OldestMail(ctx context.Context) (time.Time, error) {
	var at dbsql.NullInt64
	err := db.r.QueryRowContext(ctx, `SELECT min(created_at) FROM outbox WHERE until_at IS NULL OR until_at > ?`, micros(db.now())).Scan(&at)
	return fromMicros(at), db.explain(err)
}

// NoticeBounced marks a notice as bounced and queues a mail, the first time.
func (db *DB) NoticeBounced(ctx context.Context, pickup string, mail *escrow.NewMail) (first bool, err error) {
	err = db.write(ctx, func(tx *dbsql.Tx) error {
		n, err := affected(tx.ExecContext(ctx, `UPDATE escrow_pickup SET notice = 'bounced' WHERE id = ? AND notice <> 'bounced'`, pickup))
		if first = n > 0; err != nil || !first {
			return err
		}
		now := db.now()
		if err := auditPickup(ctx, tx, now, pickup, audit.NoticeBounced, nil); err != nil {
			return err
		}
		if err := noteEvent(ctx, tx, pickup, escrow.Event{At: now, What: escrow.EventBounced}); err != nil || mail == nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE escrow_pickup SET settled_at = ? WHERE id = ?`, micros(now), pickup); err != nil {
			return err
		}
		return queueMail(ctx, tx, mail)
	})
	return first && err == nil, err
}

// NoticeAnswered queues the answer to a reply, the first time.
func (db *DB) NoticeAnswered(ctx context.Context, pickup string, mail escrow.NewMail) (first bool, err error) {
	err = db.write(ctx, func(tx *dbsql.Tx) error {
		n, err := affected(tx.ExecContext(ctx, `UPDATE escrow_pickup SET answered = 1 WHERE id = ? AND answered = 0`, pickup))
		if first = n > 0; err != nil || !first {
			return err
		}
		return queueMail(ctx, tx, &mail)
	})
	return first && err == nil, err
}
