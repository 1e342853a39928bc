package sql

import (
	"context"
	dbsql "database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/postseal/postseal/escrow/submit"
	"github.com/postseal/postseal/internal/audit"
)

var _ submit.Store = (*DB)(nil)

// AddAPIKey keeps a key.
func (db *DB) AddAPIKey(ctx context.Context, k submit.Key) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO api_key (id, hash, note, senders, created_at, until_at) VALUES (?, ?, ?, ?, ?, ?)`,
			k.ID, k.Hash, k.Note, strings.Join(k.Senders, ","), micros(k.Created), micros(k.Until))
		if err != nil {
			return fmt.Errorf("keep an API key: %w", err)
		}
		details := audit.Details{"key": k.ID, "senders": strings.Join(k.Senders, ", "), "note": k.Note}
		if !k.Until.IsZero() {
			details["until"] = auditTime(k.Until)
		}
		return appendAudit(ctx, tx, db.now(), audit.Entry{Kind: audit.APIKeyAdded, Details: details})
	})
}

const keyColumns = `id, hash, note, senders, created_at, used_at, until_at`

func scanKey(row row) (submit.Key, error) {
	var (
		k                    submit.Key
		senders              string
		created, used, until dbsql.NullInt64
	)
	err := row.Scan(&k.ID, &k.Hash, &k.Note, &senders, &created, &used, &until)
	k.Senders = strings.Split(senders, ",")
	k.Created, k.Used, k.Until = fromMicros(created), fromMicros(used), fromMicros(until)
	return k, err
}

// APIKeys lists the keys, the oldest first.
func (db *DB) APIKeys(ctx context.Context) (all []submit.Key, err error) {
	rows, err := db.r.QueryContext(ctx, `SELECT `+keyColumns+` FROM api_key ORDER BY created_at, id`)
	if err != nil {
		return nil, db.explain(err)
	}
	defer rows.Close()
	for rows.Next() {
		k, err := scanKey(rows)
		if err != nil {
			return nil, db.explain(err)
		}
		all = append(all, k)
	}
	return all, db.explain(rows.Err())
}

// RemoveAPIKey deletes a key, which counts no more from then on.
func (db *DB) RemoveAPIKey(ctx context.Context, id string) (removed bool, err error) {
	err = db.write(ctx, func(tx *dbsql.Tx) error {
		n, err := affected(tx.ExecContext(ctx, `DELETE FROM api_key WHERE id = ?`, id))
		if removed = n > 0; err != nil || !removed {
			return err
		}
		return appendAudit(ctx, tx, db.now(), audit.Entry{Kind: audit.APIKeyRemoved, Details: audit.Details{"key": id}})
	})
	return removed && err == nil, err
}

// keyUsed is how exactly the last use of a key is kept: not every request writes.
const keyUsed = time.Minute

// APIKey finds a key that is in force, and notes that it was used.
func (db *DB) APIKey(ctx context.Context, hash []byte, now time.Time) (*submit.Key, error) {
	k, err := scanKey(db.r.QueryRowContext(ctx, `SELECT `+keyColumns+` FROM api_key WHERE hash = ?`, hash))
	if errors.Is(err, dbsql.ErrNoRows) {
		return nil, submit.ErrNoKey
	} else if err != nil {
		return nil, db.explain(err)
	}
	if !k.Until.IsZero() && !now.Before(k.Until) {
		return nil, submit.ErrNoKey
	}
	if now.Sub(k.Used) > keyUsed {
		err = db.write(ctx, func(tx *dbsql.Tx) error {
			_, err := tx.ExecContext(ctx, `UPDATE api_key SET used_at = ? WHERE id = ?`, micros(now), k.ID)
			return err
		})
	}
	return &k, err
}

// BeginRequest notes a request, or returns the one of the same name that came first.
func (db *DB) BeginRequest(ctx context.Context, r submit.Answered, keep time.Duration) (first submit.Answered, err error) {
	err = db.write(ctx, func(tx *dbsql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM api_request WHERE created_at < ?`, micros(r.Created.Add(-keep))); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO api_request (key_id, idempotency, digest, created_at) VALUES (?, ?, ?, ?)
			ON CONFLICT (key_id, idempotency) DO NOTHING`, r.Key, r.Idempotency, r.Digest, micros(r.Created))
		if err != nil {
			return err
		}
		first = submit.Answered{Key: r.Key, Idempotency: r.Idempotency}
		var created dbsql.NullInt64
		err = tx.QueryRowContext(ctx, `SELECT digest, answer, created_at FROM api_request WHERE key_id = ? AND idempotency = ?`,
			r.Key, r.Idempotency).Scan(&first.Digest, &first.Answer, &created)
		first.Created = fromMicros(created)
		return err
	})
	if err != nil {
		return submit.Answered{}, fmt.Errorf("note a request: %w", err)
	}
	return first, nil
}

// EndRequest keeps the answer to a request.
func (db *DB) EndRequest(ctx context.Context, r submit.Answered) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE api_request SET answer = ? WHERE key_id = ? AND idempotency = ?`, r.Answer, r.Key, r.Idempotency)
		return err
	})
}
