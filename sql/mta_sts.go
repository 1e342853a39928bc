package sql

import (
	"context"
	dbsql "database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/postseal/postseal/tlsmap/probe/mtasts"
)

var _ mtasts.Store = (*DB)(nil)

const policyColumns = `domain, id, policy, fetched_at, expires_at, failed_at, error`

func scanPolicy(r row) (*mtasts.Record, error) {
	var (
		p                        mtasts.Record
		fetched, expires, failed dbsql.NullInt64
	)
	if err := r.Scan(&p.Domain, &p.ID, &p.Text, &fetched, &expires, &failed, &p.Error); err != nil {
		return nil, err
	}
	p.Fetched, p.Expires, p.Failed = fromMicros(fetched), fromMicros(expires), fromMicros(failed)
	return &p, nil
}

// LoadPolicies calls each with every MTA-STS policy, those that were fetched last
// first, until that fails.
func (db *DB) LoadPolicies(ctx context.Context, each func(mtasts.Record) error) error {
	rows, err := db.r.QueryContext(ctx, `SELECT `+policyColumns+` FROM mta_sts ORDER BY fetched_at DESC, domain`)
	if err != nil {
		return fmt.Errorf("read MTA-STS policies: %w", db.explain(err))
	}
	defer rows.Close()
	for rows.Next() {
		p, err := scanPolicy(rows)
		if err != nil {
			return fmt.Errorf("read MTA-STS policies: %w", db.explain(err))
		}
		if err := each(*p); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read MTA-STS policies: %w", db.explain(err))
	}
	return nil
}

// LoadPolicy returns the MTA-STS policy of a domain.
func (db *DB) LoadPolicy(ctx context.Context, domain string) (r mtasts.Record, ok bool, err error) {
	p, err := scanPolicy(db.r.QueryRowContext(ctx, `SELECT `+policyColumns+` FROM mta_sts WHERE domain = ?`, domain))
	switch {
	case errors.Is(err, dbsql.ErrNoRows):
		return r, false, nil
	case err != nil:
		return r, false, fmt.Errorf("read the MTA-STS policy of %s: %w", domain, db.explain(err))
	}
	return *p, true, nil
}

// SavePolicy keeps r in the place of the policy of its domain.
func (db *DB) SavePolicy(ctx context.Context, r mtasts.Record) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO mta_sts (`+policyColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (domain) DO UPDATE SET id = excluded.id, policy = excluded.policy, fetched_at = excluded.fetched_at,
			expires_at = excluded.expires_at, failed_at = excluded.failed_at, error = excluded.error`,
			r.Domain, r.ID, r.Text, micros(r.Fetched), micros(r.Expires), micros(r.Failed), r.Error)
		if err != nil {
			return fmt.Errorf("write the MTA-STS policy of %s: %w", r.Domain, err)
		}
		return nil
	})
}

// CountPolicies returns of how many domains there is an MTA-STS policy.
func (db *DB) CountPolicies(ctx context.Context) (n int, err error) {
	if err := db.r.QueryRowContext(ctx, `SELECT COUNT(*) FROM mta_sts`).Scan(&n); err != nil {
		return 0, fmt.Errorf("count MTA-STS policies: %w", db.explain(err))
	}
	return n, nil
}

// NotePolicy notes since when refreshes of a domain's policy fail, and why.
func (db *DB) NotePolicy(ctx context.Context, domain string, failed time.Time, reason string) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE mta_sts SET failed_at = ?, error = ? WHERE domain = ?`, micros(failed), reason, domain)
		if err != nil {
			return fmt.Errorf("note the refresh of the MTA-STS policy of %s: %w", domain, err)
		}
		return nil
	})
}

// DeletePolicies forgets the policies that expired before that time.
func (db *DB) DeletePolicies(ctx context.Context, before time.Time) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM mta_sts WHERE expires_at < ?`, micros(before)); err != nil {
			return fmt.Errorf("delete expired MTA-STS policies: %w", err)
		}
		return nil
	})
}
