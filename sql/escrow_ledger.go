package sql

import (
	"context"
	dbsql "database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/postseal/postseal/escrow"
)

// Settled returns the outcome of those recipients that are settled, under their
// names as given.
func (db *DB) Settled(ctx context.Context, d escrow.Digest, sender string, recipients []string) (map[string]escrow.Outcome, error) {
	sender, err := foldAddress(sender)
	if err != nil {
		return nil, fmt.Errorf("sender: %w", err)
	}
	settled := make(map[string]escrow.Outcome)
	for _, r := range recipients {
		key, err := foldAddress(r)
		if err != nil {
			return nil, fmt.Errorf("recipient: %w", err)
		}
		var o escrow.Outcome
		err = db.r.QueryRowContext(ctx, `SELECT outcome FROM settlement WHERE digest = ? AND sender = ? AND recipient = ?`, d[:], sender, key).Scan(&o)
		switch {
		case err == nil:
			settled[r] = o
		case !errors.Is(err, dbsql.ErrNoRows):
			return nil, fmt.Errorf("read settlements: %w", db.explain(err))
		}
	}
	return settled, nil
}

// Settle records an outcome. The first one stays.
func (db *DB) Settle(ctx context.Context, d escrow.Digest, sender string, recipients []string, o escrow.Outcome) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		if err := settle(ctx, tx, d, sender, recipients, o, db.now(), false); err != nil {
			return err
		}
		return appendAudit(ctx, tx, db.now()) // what the caller knows of it
	})
}

// settle records an outcome; with fresh set, the error wraps ErrSettled where
// there is one already.
func settle(ctx context.Context, tx *dbsql.Tx, d escrow.Digest, sender string, recipients []string, o escrow.Outcome, now time.Time, fresh bool) error {
	sender, err := foldAddress(sender)
	if err != nil {
		return fmt.Errorf("sender: %w", err)
	}
	seen := make(map[string]bool)
	for _, r := range recipients {
		key, err := foldAddress(r)
		if err != nil {
			return fmt.Errorf("recipient: %w", err)
		}
		if seen[key] {
			continue
		}
		seen[key] = true
		n, err := affected(tx.ExecContext(ctx, `INSERT INTO settlement (digest, sender, recipient, outcome, created_at) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (digest, sender, recipient) DO NOTHING`, d[:], sender, key, string(o), micros(now)))
		if err != nil {
			return fmt.Errorf("settle: %w", err)
		}
		if n == 0 && fresh {
			return escrow.ErrSettled
		}
	}
	return nil
}

// Confirm records that the reply reached Postfix.
func (db *DB) Confirm(ctx context.Context, d escrow.Digest, sender string, recipients []string) error {
	sender, err := foldAddress(sender)
	if err != nil {
		return fmt.Errorf("sender: %w", err)
	}
	return db.write(ctx, func(tx *dbsql.Tx) error {
		for _, r := range recipients {
			key, err := foldAddress(r)
			if err != nil {
				return fmt.Errorf("recipient: %w", err)
			}
			_, err = tx.ExecContext(ctx, `UPDATE settlement SET confirmed_at = ? WHERE digest = ? AND sender = ? AND recipient = ? AND confirmed_at IS NULL`,
				micros(db.now()), d[:], sender, key)
			if err != nil {
				return fmt.Errorf("confirm: %w", err)
			}
		}
		return nil
	})
}

// Pinned calls each with every recipient that was settled as sealed and not
// confirmed.
func (db *DB) Pinned(ctx context.Context, each func(d escrow.Digest, sender, recipient string) error) error {
	rows, err := db.r.QueryContext(ctx, `SELECT digest, sender, recipient FROM settlement WHERE outcome = 'sealed' AND confirmed_at IS NULL`)
	if err != nil {
		return db.explain(err)
	}
	defer rows.Close()
	for rows.Next() {
		var (
			digest            []byte
			d                 escrow.Digest
			sender, recipient string
		)
		if err := rows.Scan(&digest, &sender, &recipient); err != nil {
			return db.explain(err)
		}
		copy(d[:], digest)
		if err := each(d, sender, recipient); err != nil {
			return err
		}
	}
	return db.explain(rows.Err())
}
