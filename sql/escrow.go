package sql

import (
	"context"
	dbsql "database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/policyd/policy"
)

var _ escrow.Store = (*DB)(nil)

// foldAddress returns the form in which addresses are keys.
func foldAddress(address string) (string, error) {
	a, err := policy.ParseAddress(address)
	if err != nil {
		return "", err
	}
	return a.Folded().String(), nil
}

// Create makes items exist; see [escrow.Store].
func (db *DB) Create(ctx context.Context, items []escrow.NewItem, d escrow.Digest, sender string, recipients []string, q escrow.Quota) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		if err := settle(ctx, tx, d, sender, recipients, escrow.OutcomeSealed, db.now(), true); err != nil {
			return err
		}
		if err := keepQuota(ctx, tx, items, q); err != nil {
			return err
		}
		for i := range items {
			if err := createItem(ctx, tx, &items[i]); err != nil {
				return err
			}
		}
		return appendAudit(ctx, tx, db.now(), sealedEntries(items)...)
	})
}

func createItem(ctx context.Context, tx *dbsql.Tx, it *escrow.NewItem) error {
	senderKey, err := foldAddress(it.Sender)
	if err != nil {
		return fmt.Errorf("sender: %w", err)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO escrow_item (id, sender, sender_key, queue_id, mode, size, recover, created_at, expires_at,
			summary, message_id, receipt, envid, ret, sender_domain)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, it.ID, it.Sender, senderKey, it.QueueID, it.Mode, it.Size, it.Recover, micros(it.Created), micros(it.Expires),
		it.Summary, it.MessageID, it.Receipt, it.EnvID, it.Ret, domainOf(senderKey))
	if err != nil {
		return fmt.Errorf("store the message: %w", err)
	}
	for i := range it.Pickups {
		p := &it.Pickups[i]
		_, err := tx.ExecContext(ctx, `INSERT INTO escrow_pickup (id, item_id, recipient, recipient_key, verify, secret_hash, passphrase, wrap, expires_at,
				notify, orcpt, language, created_at, lifetime, most_at)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, p.ID, it.ID, p.Recipient, p.Folded, p.Link.Verify, p.Link.SecretHash, p.Link.Passphrase, p.Link.Wrap, micros(p.Expires),
			p.Notify, p.ORCPT, p.Language, micros(it.Created), duration(p.Lifetime), micros(p.Most))
		if err != nil {
			return fmt.Errorf("store a recipient: %w", err)
		}
		if err := queueMail(ctx, tx, &p.Link.Mail); err != nil {
			return err
		}
	}
	for i := range it.Mails {
		if err := queueMail(ctx, tx, &it.Mails[i]); err != nil {
			return err
		}
	}
	for _, r := range it.Recovery {
		if _, err := tx.ExecContext(ctx, `INSERT INTO escrow_recovery (item_id, key_id, wrap) VALUES (?, ?, ?)`, it.ID, r.Key, r.Wrap); err != nil {
			return fmt.Errorf("store a wrap for recovery: %w", err)
		}
	}
	put, err := tx.PrepareContext(ctx, `INSERT INTO escrow_chunk (item_id, n, data) VALUES (?, ?, ?)`)
	if err != nil {
		return fmt.Errorf("store the message: %w", err)
	}
	defer put.Close()
	n := 0
	return it.WriteOut(func(chunk []byte) error {
		if _, err := put.ExecContext(ctx, it.ID, n, chunk); err != nil {
			return fmt.Errorf("store the message: %w", err)
		}
		n++
		return nil
	})
}

// pickupColumns are what scanPickup reads.
const pickupColumns = `p.id, p.item_id, p.recipient, p.recipient_key, i.sender, i.queue_id, p.verify, i.mode, p.state, p.notice,
	i.size, i.created_at, p.expires_at, p.read_at, p.secret_hash, p.passphrase,
	p.notify, p.orcpt, i.envid, i.ret, i.message_id, i.receipt, p.read_how, p.language,
	i.held_at, i.held_by, i.held_note, p.lifetime, p.most_at`

const selectPickup = `SELECT ` + pickupColumns + ` FROM escrow_pickup p JOIN escrow_item i ON i.id = p.item_id `

func scanPickup(row row) (*escrow.StoredPickup, error) {
	var (
		p                            escrow.StoredPickup
		created, expires, read, held dbsql.NullInt64
		lifetime, most               dbsql.NullInt64
	)
	err := row.Scan(&p.ID, &p.ItemID, &p.Recipient, &p.Folded, &p.Sender, &p.QueueID, &p.Verify, &p.Mode, &p.State, &p.Notice,
		&p.Size, &created, &expires, &read, &p.SecretHash, &p.Passphrase,
		&p.Notify, &p.ORCPT, &p.EnvID, &p.Ret, &p.MessageID, &p.Receipt, &p.ReadHow, &p.Language,
		&held, &p.Hold.By, &p.Hold.Note, &lifetime, &most)
	if errors.Is(err, dbsql.ErrNoRows) {
		return nil, escrow.ErrUnknown
	} else if err != nil {
		return nil, fmt.Errorf("read a pickup: %w", err)
	}
	p.Hold.At, p.Lifetime, p.Most = fromMicros(held), fromDuration(lifetime), fromMicros(most)
	p.Created, p.Expires, p.ReadAt = fromMicros(created), fromMicros(expires), fromMicros(read)
	return &p, nil
}

// PickupBySecret finds a pickup by the hash of its link's secret.
func (db *DB) PickupBySecret(ctx context.Context, item string, secretHash []byte) (*escrow.StoredPickup, error) {
	p, err := scanPickup(db.r.QueryRowContext(ctx, selectPickup+`WHERE p.item_id = ? AND p.secret_hash = ?`, item, secretHash))
	return p, db.explain(err)
}

// PickupByID finds a pickup by its id.
func (db *DB) PickupByID(ctx context.Context, id string) (*escrow.StoredPickup, error) {
	p, err := scanPickup(db.r.QueryRowContext(ctx, selectPickup+`WHERE p.id = ?`, id))
	return p, db.explain(err)
}

// Pickups lists, the newest first.
func (db *DB) Pickups(ctx context.Context, f escrow.PickupFilter) ([]escrow.StoredPickup, error) {
	var where []string
	var args []any
	add := func(cond string, a ...any) {
		where = append(where, cond)
		args = append(args, a...)
	}
	if f.ItemID != "" {
		add(`p.item_id = ?`, f.ItemID)
	}
	if f.Recipient != "" {
		add(`p.recipient_key = ?`, f.Recipient)
	}
	if f.Sender != "" {
		add(`i.sender_key = ?`, f.Sender)
	}
	switch f.State {
	case "":
	case escrow.StateExpired:
		add(`(p.state = ? OR p.wrap IS NOT NULL AND p.expires_at <= ?)`, f.State, micros(f.Now))
	case escrow.StateHeld, escrow.StateRead:
		add(`p.state = ? AND p.expires_at > ?`, f.State, micros(f.Now))
	default:
		add(`p.state = ?`, f.State)
	}
	q := selectPickup
	if where != nil {
		q += `WHERE ` + strings.Join(where, ` AND `)
	}
	q += ` ORDER BY i.created_at DESC, p.item_id, p.recipient_key`
	if f.Limit > 0 {
		q += ` LIMIT ?`
		args = append(args, f.Limit)
	}
	return list(ctx, db, scanPickup, q, args...)
}

// Wrap returns a pickup's wrapped key.
func (db *DB) Wrap(ctx context.Context, pickup string) ([]byte, error) {
	return db.blob(ctx, `SELECT wrap FROM escrow_pickup WHERE id = ?`, pickup)
}

// RecoverWrap returns an item's own wrap.
func (db *DB) RecoverWrap(ctx context.Context, item string) ([]byte, error) {
	return db.blob(ctx, `SELECT recover FROM escrow_item WHERE id = ?`, item)
}

func (db *DB) blob(ctx context.Context, query, id string) ([]byte, error) {
	var b []byte
	err := db.r.QueryRowContext(ctx, query, id).Scan(&b)
	if errors.Is(err, dbsql.ErrNoRows) || err == nil && b == nil {
		return nil, escrow.ErrUnknown
	}
	return b, db.explain(err)
}

// Chunk returns the nth chunk of an item's ciphertext, in the memory of buf where it has
// room; nil after the last.
func (db *DB) Chunk(ctx context.Context, item string, n int, buf []byte) ([]byte, error) {
	return db.chunk(ctx, buf, `SELECT data FROM escrow_chunk WHERE item_id = ? AND n = ?`, item, n)
}

func (db *DB) chunk(ctx context.Context, buf []byte, query string, args ...any) ([]byte, error) {
	rows, err := db.r.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, db.explain(err)
	}
	defer rows.Close()
	if !rows.Next() {
		return nil, db.explain(rows.Err())
	}
	var b dbsql.RawBytes // the driver's, until Close
	if err := rows.Scan(&b); err != nil {
		return nil, db.explain(err)
	}
	buf = append(buf[:0], b...)
	return buf, db.explain(rows.Close())
}

// MarkRead turns a held pickup into a read one.
func (db *DB) MarkRead(ctx context.Context, pickup, how string, now time.Time, mails []escrow.NewMail) (first bool, err error) {
	// Most calls are not the first: they should not wait for the writer.
	var state string
	err = db.r.QueryRowContext(ctx, `SELECT state FROM escrow_pickup WHERE id = ?`, pickup).Scan(&state)
	if errors.Is(err, dbsql.ErrNoRows) {
		return false, escrow.ErrUnknown
	} else if err != nil {
		return false, db.explain(err)
	}
	if state == escrow.StateRead {
		return false, nil
	}
	err = db.write(ctx, func(tx *dbsql.Tx) error {
		n, err := affected(tx.ExecContext(ctx, `UPDATE escrow_pickup SET state = 'read', read_at = ?, read_how = ? WHERE id = ? AND state = 'held'`, micros(now), how, pickup))
		if first = n > 0; err != nil || !first {
			return err
		}
		for i := range mails {
			if err := queueMail(ctx, tx, &mails[i]); err != nil {
				return err
			}
		}
		if err := auditPickup(ctx, tx, now, pickup, audit.Read, audit.Details{"how": how}); err != nil {
			return err
		}
		return noteEvent(ctx, tx, pickup, escrow.Event{At: now, What: escrow.EventRead, Detail: how})
	})
	return first && err == nil, err
}

// Relink gives a pickup a new secret.
func (db *DB) Relink(ctx context.Context, pickup string, l escrow.Link, now time.Time) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		n, err := affected(tx.ExecContext(ctx, `UPDATE escrow_pickup SET verify = ?, secret_hash = ?, wrap = ?, passphrase = ?, notice = 'queued', settled_at = NULL
			WHERE id = ? AND state IN ('held', 'read') AND wrap IS NOT NULL AND expires_at > ?`,
			l.Verify, l.SecretHash, l.Wrap, l.Passphrase, pickup, micros(now)))
		if err != nil {
			return err
		}
		if n == 0 {
			return escrow.ErrUnknown
		}
		for _, q := range []string{`DELETE FROM escrow_code WHERE pickup_id = ?`, `DELETE FROM outbox WHERE pickup_id = ?`} {
			if _, err := tx.ExecContext(ctx, q, pickup); err != nil {
				return err
			}
		}
		if err := auditPickup(ctx, tx, now, pickup, audit.Relinked, audit.Details{"verify": l.Verify}); err != nil {
			return err
		}
		if err := auditPickup(ctx, tx, now, pickup, audit.NoticeQueued, nil); err != nil {
			return err
		}
		return queueMail(ctx, tx, &l.Mail)
	})
}

// Retract ends pickups of an item.
func (db *DB) Retract(ctx context.Context, item, recipient, by string, now time.Time) (n int, err error) {
	cond, args := `item_id = ?`, []any{item}
	if recipient != "" {
		cond, args = cond+` AND recipient_key = ?`, append(args, recipient)
	}
	return db.end(ctx, escrow.StateRetracted, by, now, cond, args...)
}

// ExpireDue ends pickups whose time is over.
func (db *DB) ExpireDue(ctx context.Context, now time.Time) (n int, err error) {
	var due bool
	err = db.r.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM escrow_pickup WHERE wrap IS NOT NULL AND expires_at <= ?)`, micros(now)).Scan(&due)
	if err != nil || !due {
		return 0, db.explain(err)
	}
	return db.end(ctx, escrow.StateExpired, "", now, `expires_at <= ?`, micros(now))
}

// end ends the pickups that meet cond and are not over. Of the end of what was
// read, or taken back by the sender, the sender is not told.
func (db *DB) end(ctx context.Context, state, by string, now time.Time, cond string, args ...any) (ended int, err error) {
	err = db.write(ctx, func(tx *dbsql.Tx) error {
		ids, err := column(ctx, tx, `SELECT id FROM escrow_pickup WHERE wrap IS NOT NULL AND `+cond, args...)
		if err != nil {
			return err
		}
		for _, id := range ids {
			_, err := tx.ExecContext(ctx, `UPDATE escrow_pickup SET state = ?, ended_at = ?, wrap = NULL,
				held_wrap = CASE WHEN EXISTS (SELECT 1 FROM escrow_item i WHERE i.id = item_id AND i.held_at IS NOT NULL) THEN wrap END,
				settled_at = CASE WHEN read_at IS NOT NULL OR ? = 'sender' THEN coalesce(settled_at, ?) ELSE settled_at END
				WHERE id = ?`, state, micros(now), by, micros(now), id)
			if err != nil {
				return err
			}
			if err := endReplies(ctx, tx, id); err != nil {
				return err
			}
			if err := noteEvent(ctx, tx, id, escrow.Event{At: now, What: state, Detail: by}); err != nil {
				return err
			}
			if err := auditPickup(ctx, tx, now, id, endKinds[state], audit.Details{"by": by}); err != nil {
				return err
			}
			for _, q := range []string{
				`DELETE FROM escrow_code WHERE pickup_id = ?`,
				`DELETE FROM outbox WHERE pickup_id = ?`,
			} {
				if _, err := tx.ExecContext(ctx, q, id); err != nil {
					return err
				}
			}
			var item string
			if err := tx.QueryRowContext(ctx, `SELECT item_id FROM escrow_pickup WHERE id = ?`, id).Scan(&item); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, endItem, item); err != nil {
				return err
			}
		}
		ended = len(ids)
		return nil
	})
	return ended, err
}

// sweepChunks is how many chunks, of 1 MiB at most, one transaction of Sweep deletes:
// other writers wait meanwhile.
const sweepChunks = 16

// settlementsKept is how long it is remembered what was done with a message:
// longer than Postfix retries (maximal_queue_lifetime is 5 days by default).
const settlementsKept = 35 * 24 * time.Hour

// limitsKept is how long a counter without tries is kept: longer than any lock
// and any memory of locks.
const limitsKept = 8 * 24 * time.Hour

// Sweep deletes what nothing needs any more.
func (db *DB) Sweep(ctx context.Context, now time.Time, keep time.Duration) error {
	if err := db.purgeChunks(ctx, now); err != nil {
		return err
	}
	return db.write(ctx, func(tx *dbsql.Tx) error {
		if err := sweepReplies(ctx, tx, now); err != nil {
			return err
		}
		for _, d := range []struct {
			query  string
			before time.Time
		}{
			{`DELETE FROM escrow_code WHERE expires_at < ?`, now},
			{`DELETE FROM outbox WHERE until_at < ?`, now},
			{`DELETE FROM escrow_device WHERE expires_at <= ?`, now},
			{`DELETE FROM escrow_ceremony WHERE expires_at <= ?`, now},
			{`DELETE FROM escrow_limit WHERE last_at < ?`, now.Add(-limitsKept)},
			{`DELETE FROM settlement WHERE created_at < ?`, now.Add(-settlementsKept)},
			{`DELETE FROM escrow_pickup WHERE wrap IS NULL AND ended_at < ?
				AND NOT EXISTS (SELECT 1 FROM escrow_item i WHERE i.id = item_id AND i.held_at IS NOT NULL)
				AND NOT EXISTS (SELECT 1 FROM escrow_reply r WHERE r.pickup_id = escrow_pickup.id AND r.state = 'queued')`, now.Add(-keep)},
		} {
			if _, err := tx.ExecContext(ctx, d.query, micros(d.before)); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM escrow_item WHERE ended = 1 AND NOT EXISTS (SELECT 1 FROM escrow_pickup p WHERE p.item_id = escrow_item.id)`)
		return err
	})
}

// affected returns how many rows a statement changed.
func affected(res dbsql.Result, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// column returns the only column of a query.
func column(ctx context.Context, q querier, query string, args ...any) ([]string, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, rows.Err()
}
