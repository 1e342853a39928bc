package sql

import (
	"context"
	dbsql "database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/probe"
)

var _ probe.Store = (*DB)(nil)

// LoadPostures calls each with everything that is known of destinations, sorted
// by destination, until that fails. What can't be read any more, such as a state
// of a version to come, is left out and logged: it is looked up anew.
func (db *DB) LoadPostures(ctx context.Context, each func(probe.Record) error) error {
	rows, err := db.r.QueryContext(ctx, `SELECT `+postureColumns+` FROM posture ORDER BY dest`)
	if err != nil {
		return fmt.Errorf("read postures: %w", db.explain(err))
	}
	defer rows.Close()
	for rows.Next() {
		r, err := scanPosture(rows)
		var odd oddState
		switch {
		case errors.As(err, &odd):
			db.log.Warn("posture left out", "dest", r.Dest, "error", err)
			continue
		case err != nil:
			return fmt.Errorf("read postures: %w", db.explain(err))
		}
		if err := each(*r); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read postures: %w", db.explain(err))
	}
	return nil
}

// LoadPosture returns what is known of one destination; false: nothing that can be read.
func (db *DB) LoadPosture(ctx context.Context, dest string) (probe.Record, bool, error) {
	r, err := scanPosture(db.r.QueryRowContext(ctx, `SELECT `+postureColumns+` FROM posture WHERE dest = ?`, dest))
	var odd oddState
	switch {
	case errors.Is(err, dbsql.ErrNoRows), errors.As(err, &odd):
		return probe.Record{}, false, nil
	case err != nil:
		return probe.Record{}, false, fmt.Errorf("read the posture of %s: %w", dest, db.explain(err))
	}
	return *r, true, nil
}

// postureColumns are what scanPosture reads. Records of an older version do not know
// since when TLS has worked.
const postureColumns = `dest, state, checked_at, worked_at, lost_at, COALESCE(since_at, worked_at), expires_at, failures, result`

// oddState is an error that leaves the rest of the record readable.
type oddState struct{ error }

func scanPosture(row row) (*probe.Record, error) {
	var (
		r                                     probe.Record
		state                                 string
		checked, worked, lost, since, expires dbsql.NullInt64
	)
	if err := row.Scan(&r.Dest, &state, &checked, &worked, &lost, &since, &expires, &r.Failures, &r.Result); err != nil {
		return nil, err
	}
	r.Checked, r.Worked, r.Lost = fromMicros(checked), fromMicros(worked), fromMicros(lost)
	r.Since, r.Expires = fromMicros(since), fromMicros(expires)
	var err error
	if r.State, err = policy.ParseState(state); err != nil {
		return &r, oddState{err}
	}
	return &r, nil
}

// SavePosture keeps r in the place of what was known of its destination, and adds its events
// to the history.
func (db *DB) SavePosture(ctx context.Context, r probe.Record) error {
	return db.SavePostures(ctx, []probe.Record{r})
}

// SavePostures is SavePosture for many, all or none.
func (db *DB) SavePostures(ctx context.Context, records []probe.Record) error {
	if len(records) == 0 {
		return nil
	}
	return db.write(ctx, func(tx *dbsql.Tx) error {
		save, err := tx.PrepareContext(ctx, `INSERT INTO posture (dest, state, checked_at, worked_at, lost_at, since_at, expires_at, failures, result)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (dest) DO UPDATE SET state = excluded.state, checked_at = excluded.checked_at,
			worked_at = excluded.worked_at, lost_at = excluded.lost_at, since_at = excluded.since_at, expires_at = excluded.expires_at,
			failures = excluded.failures, result = excluded.result`)
		if err != nil {
			return fmt.Errorf("write a posture: %w", err)
		}
		defer save.Close()
		for _, r := range records {
			result := r.Result
			if result == nil {
				result = []byte{}
			}
			_, err := save.ExecContext(ctx, r.Dest, r.State.String(), micros(r.Checked), micros(r.Worked),
				micros(r.Lost), micros(r.Since), micros(r.Expires), r.Failures, result)
			if err == nil {
				err = addEvents(ctx, tx, r.Events)
			}
			if err != nil {
				return fmt.Errorf("write the posture of %s: %w", r.Dest, err)
			}
		}
		return nil
	})
}

// DeletePostures forgets the destinations that were last looked at before that
// time, or never.
func (db *DB) DeletePostures(ctx context.Context, before time.Time) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM posture WHERE checked_at IS NULL OR checked_at < ?`, micros(before))
		if err != nil {
			return fmt.Errorf("delete postures: %w", err)
		}
		return nil
	})
}
