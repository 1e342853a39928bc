package sql

import (
	"context"
	dbsql "database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/audit"
)

// AddCode keeps the tag of a code and queues its mail.
func (db *DB) AddCode(ctx context.Context, pickup string, tag []byte, expires time.Time, keep int, mail escrow.NewMail) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		n, err := affected(tx.ExecContext(ctx, `INSERT INTO escrow_code (pickup_id, tag, expires_at)
			SELECT id, ?, ? FROM escrow_pickup WHERE id = ? AND wrap IS NOT NULL
			ON CONFLICT (pickup_id, tag) DO UPDATE SET expires_at = excluded.expires_at, used_at = NULL`, tag, micros(expires), pickup))
		if err != nil {
			return fmt.Errorf("keep a code: %w", err)
		}
		if n == 0 {
			return escrow.ErrUnknown
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM escrow_code WHERE pickup_id = ? AND tag NOT IN (
			SELECT tag FROM escrow_code WHERE pickup_id = ? ORDER BY expires_at DESC, rowid DESC LIMIT ?)`, pickup, pickup, keep)
		if err != nil {
			return fmt.Errorf("keep a code: %w", err)
		}
		if err := auditPickup(ctx, tx, mail.Created, pickup, audit.CodeQueued, nil); err != nil {
			return err
		}
		return queueMail(ctx, tx, &mail)
	})
}

// useCode reports whether tag is that of a valid code, and marks it used. A clock that is
// set back makes none valid again.
func useCode(ctx context.Context, tx *dbsql.Tx, pickup string, tag []byte, now time.Time, grace time.Duration) (ok bool, err error) {
	n, err := affected(tx.ExecContext(ctx, `UPDATE escrow_code SET used_at = coalesce(used_at, ?)
		WHERE pickup_id = ? AND tag = ? AND expires_at > ? AND coalesce(used_at, ?) BETWEEN ? AND ?`,
		micros(now), pickup, tag, micros(now), micros(now), micros(now.Add(-grace)), micros(now)))
	if err != nil {
		return false, fmt.Errorf("use a code: %w", err)
	}
	return n > 0, nil
}

// limitRow is a counter as it is stored.
type limitRow struct {
	tries, locks       int
	since, until, last time.Time
}

func readLimit(ctx context.Context, q querier, key string) (limitRow, error) {
	var (
		l                  limitRow
		since, until, last dbsql.NullInt64
	)
	err := q.QueryRowContext(ctx, `SELECT tries, locks, since_at, locked_until, last_at FROM escrow_limit WHERE key = ?`, key).Scan(&l.tries, &l.locks, &since, &until, &last)
	if errors.Is(err, dbsql.ErrNoRows) {
		return l, nil
	} else if err != nil {
		return l, fmt.Errorf("read a limit: %w", err)
	}
	l.since, l.until, l.last = fromMicros(since), fromMicros(until), fromMicros(last)
	return l, nil
}

// Charge counts one try against every limit, or none.
func (db *DB) Charge(ctx context.Context, limits []escrow.Limit, now time.Time) (locked time.Time, locks []string, err error) {
	// A locked client is turned away by a reader: it can't keep the writer busy.
	if locked, err = db.Locked(ctx, keysOf(limits), now); err != nil || !locked.IsZero() {
		return locked, nil, err
	}
	err = db.write(ctx, func(tx *dbsql.Tx) error {
		rows := make([]limitRow, len(limits))
		for i, l := range limits {
			var err error
			if rows[i], err = readLimit(ctx, tx, l.Key); err != nil {
				return err
			}
			if rows[i].until.After(now) && rows[i].until.After(locked) {
				locked = rows[i].until
			}
		}
		if !locked.IsZero() {
			return nil
		}
		for i, l := range limits {
			r := rows[i]
			if now.Sub(r.last) >= l.ForgetDoubles {
				r.locks = 0
			}
			if r.tries == 0 || now.Sub(r.since) >= l.Window {
				r.tries, r.since = 0, now
			}
			r.tries++
			var from, until time.Time
			if r.tries >= l.Tries {
				from, until = now, now.Add(lockFor(l, r.locks))
				r.tries, r.locks = 0, r.locks+1
				locks = append(locks, l.Key)
			}
			_, err := tx.ExecContext(ctx, `INSERT INTO escrow_limit (key, tries, locks, since_at, locked_at, locked_until, told, last_at) VALUES (?, ?, ?, ?, ?, ?, 0, ?)
				ON CONFLICT (key) DO UPDATE SET tries = excluded.tries, locks = excluded.locks, since_at = excluded.since_at, locked_at = excluded.locked_at,
				locked_until = excluded.locked_until, told = 0, last_at = excluded.last_at`,
				l.Key, r.tries, r.locks, micros(r.since), micros(from), micros(until), micros(now))
			if err != nil {
				return fmt.Errorf("count a try: %w", err)
			}
		}
		return nil
	})
	return locked, locks, err
}

// lockFor returns how long a limit is locked that was locked before so often.
func lockFor(l escrow.Limit, before int) time.Duration {
	d := l.First
	for range before {
		if d *= 2; d >= l.Most {
			return l.Most
		}
	}
	return d
}

func keysOf(limits []escrow.Limit) []string {
	keys := make([]string, len(limits))
	for i, l := range limits {
		keys[i] = l.Key
	}
	return keys
}

// Refund takes back one try, and the lock that it made.
func (db *DB) Refund(ctx context.Context, l escrow.Limit, locked bool) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		query, args := `UPDATE escrow_limit SET tries = tries - 1 WHERE key = ? AND tries > 0`, []any{l.Key}
		if locked {
			query = `UPDATE escrow_limit SET tries = ?, locks = locks - 1, locked_at = NULL, locked_until = NULL WHERE key = ? AND locks > 0`
			args = []any{l.Tries - 1, l.Key}
		}
		_, err := tx.ExecContext(ctx, query, args...)
		return err
	})
}

// Forget deletes counters and their locks.
func (db *DB) Forget(ctx context.Context, keys []string) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		for _, k := range keys {
			if _, err := tx.ExecContext(ctx, `DELETE FROM escrow_limit WHERE key = ?`, k); err != nil {
				return err
			}
		}
		return nil
	})
}

// Unlock deletes counters and their locks for an administrator.
func (db *DB) Unlock(ctx context.Context, keys []string, e audit.Entry) (n int, err error) {
	err = db.write(ctx, func(tx *dbsql.Tx) error {
		n = 0
		for _, k := range keys {
			gone, err := affected(tx.ExecContext(ctx, `DELETE FROM escrow_limit WHERE key = ?`, k))
			if err != nil {
				return err
			}
			n += int(gone)
		}
		if n == 0 {
			return nil
		}
		return appendAudit(ctx, tx, db.now(), e)
	})
	return n, err
}

// Locked returns until when the keys are locked.
func (db *DB) Locked(ctx context.Context, keys []string, now time.Time) (until time.Time, err error) {
	for _, k := range keys {
		l, err := readLimit(ctx, db.r, k)
		if err != nil {
			return time.Time{}, db.explain(err)
		}
		if l.until.After(now) && l.until.After(until) {
			until = l.until
		}
	}
	return until, nil
}

// TellLock queues a mail about locks of which nobody was told.
func (db *DB) TellLock(ctx context.Context, keys []string, before, now time.Time, mail escrow.NewMail) (told bool, err error) {
	err = db.write(ctx, func(tx *dbsql.Tx) error {
		var n int64
		for _, k := range keys {
			m, err := affected(tx.ExecContext(ctx, `UPDATE escrow_limit SET told = 1 WHERE key = ? AND told = 0 AND locked_until > ? AND locked_at <= ?`,
				k, micros(now), micros(before)))
			if err != nil {
				return err
			}
			n += m
		}
		if told = n > 0; !told {
			return nil
		}
		return queueMail(ctx, tx, &mail)
	})
	return told && err == nil, err
}

// SetRecipient keeps a setting in the place of the one there was.
func (db *DB) SetRecipient(ctx context.Context, r escrow.StoredRecipient) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO escrow_recipient (address, verify, passphrase, hashed, changed_at) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (address) DO UPDATE SET verify = excluded.verify, passphrase = excluded.passphrase, hashed = excluded.hashed, changed_at = excluded.changed_at`,
			r.Address, r.Verify, r.Passphrase, r.Hashed, micros(r.Changed))
		if err != nil {
			return err
		}
		return appendAudit(ctx, tx, db.now(), audit.Entry{Kind: audit.RecipientSet, Recipient: r.Address, Details: audit.Details{"verify": r.Verify}})
	})
}

// queryMost is how many addresses one query asks for.
const queryMost = 500

// Recipients returns the settings of these addresses, or of all.
func (db *DB) Recipients(ctx context.Context, addresses []string) (list []escrow.StoredRecipient, err error) {
	if addresses == nil {
		return db.recipients(ctx, ``)
	}
	for part := range slices.Chunk(addresses, queryMost) {
		args := make([]any, len(part))
		for i, a := range part {
			args[i] = a
		}
		some, err := db.recipients(ctx, `WHERE address IN (?`+strings.Repeat(`, ?`, len(part)-1)+`)`, args...)
		if err != nil {
			return nil, err
		}
		list = append(list, some...)
	}
	return list, nil
}

func (db *DB) recipients(ctx context.Context, where string, args ...any) ([]escrow.StoredRecipient, error) {
	rows, err := db.r.QueryContext(ctx, `SELECT address, verify, passphrase, hashed, changed_at FROM escrow_recipient `+where+` ORDER BY address`, args...)
	if err != nil {
		return nil, db.explain(err)
	}
	defer rows.Close()
	var list []escrow.StoredRecipient
	for rows.Next() {
		var r escrow.StoredRecipient
		var changed dbsql.NullInt64
		if err := rows.Scan(&r.Address, &r.Verify, &r.Passphrase, &r.Hashed, &changed); err != nil {
			return nil, db.explain(err)
		}
		r.Changed = fromMicros(changed)
		list = append(list, r)
	}
	return list, db.explain(rows.Err())
}

// ResetRecipient deletes a setting.
func (db *DB) ResetRecipient(ctx context.Context, address string) (deleted bool, err error) {
	err = db.write(ctx, func(tx *dbsql.Tx) error {
		n, err := affected(tx.ExecContext(ctx, `DELETE FROM escrow_recipient WHERE address = ?`, address))
		if deleted = n > 0; err != nil || !deleted {
			return err
		}
		return appendAudit(ctx, tx, db.now(), audit.Entry{Kind: audit.RecipientReset, Recipient: address})
	})
	return deleted && err == nil, err
}
