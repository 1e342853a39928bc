package sql

import (
	"context"
	dbsql "database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// Policy is what decides on mail, of one moment.
type Policy struct {
	Rules    *policy.Snapshot  // without the triggers; its version grows with every change of either
	Triggers []*policy.Trigger // sorted by kind, header, pattern and sender
}

// Policy returns all rules and triggers. For the other arguments see [DB.Snapshot].
func (db *DB) Policy(ctx context.Context, d policy.Delimiters, have *policy.Snapshot) (Policy, error) {
	tx, err := db.r.BeginTx(ctx, nil)
	if err != nil {
		return Policy{}, db.explain(err)
	}
	defer tx.Rollback()
	var p Policy
	if p.Rules, err = db.snapshot(ctx, tx, d, have, true); err == nil {
		p.Triggers, err = loadTriggers(ctx, tx)
	}
	return p, db.explain(err)
}

// Triggers returns all triggers, sorted by kind, header, pattern and sender.
func (db *DB) Triggers(ctx context.Context) ([]*policy.Trigger, error) {
	list, err := loadTriggers(ctx, db.r)
	return list, db.explain(err)
}

const selectTrigger = `SELECT id, kind, header, pattern, sender, requirement, remove, note, until_at, created_at FROM content_rule `

func loadTriggers(ctx context.Context, q querier) ([]*policy.Trigger, error) {
	rows, err := q.QueryContext(ctx, selectTrigger+`ORDER BY kind, header, pattern, sender`)
	if err != nil {
		return nil, fmt.Errorf("read the triggers: %w", err)
	}
	defer rows.Close()
	var list []*policy.Trigger
	for rows.Next() {
		t, err := scanTrigger(rows)
		if err != nil {
			return nil, fmt.Errorf("read the triggers: %w", err)
		}
		list = append(list, t)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the triggers: %w", err)
	}
	return list, nil
}

// scanTrigger fails on any word it does not know, as scanRule does.
func scanTrigger(rows *dbsql.Rows) (*policy.Trigger, error) {
	var (
		t                 policy.Trigger
		kind, requirement string
		remove            int64
		until, created    dbsql.NullInt64
	)
	err := rows.Scan(&t.ID, &kind, &t.Header, &t.Pattern, &t.Sender, &requirement, &remove, &t.Note, &until, &created)
	if err != nil {
		return nil, err
	}
	var errs [2]error
	t.Kind, errs[0] = policy.ParseTriggerKind(kind)
	t.Requirement, errs[1] = policy.ParseRequirement(requirement)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("trigger %d (%s): %w", t.ID, t.Pattern, err)
	}
	t.Remove = remove != 0
	t.Until, t.Created = fromMicros(until), fromMicros(created)
	return &t, nil
}

// ImportTriggers adds triggers, all or none. Their IDs are not looked at; Created is
// now where it is zero. One that there is already (the same content and sender) is
// ErrExists, or where replace is set replaced, Created aside.
func (db *DB) ImportTriggers(ctx context.Context, triggers []*policy.Trigger, replace bool) error {
	for _, t := range triggers {
		if err := t.Validate(); err != nil {
			return fmt.Errorf("%s: %w", t, err)
		}
	}
	if len(triggers) == 0 {
		return nil
	}
	return db.write(ctx, func(tx *dbsql.Tx) error {
		for _, t := range triggers {
			if err := putTrigger(ctx, tx, t, replace, db.now()); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, `UPDATE meta SET value = value + 1 WHERE name = 'rules_version'`)
		return err
	})
}

func putTrigger(ctx context.Context, tx *dbsql.Tx, t *policy.Trigger, replace bool, now time.Time) error {
	created := t.Created
	if created.IsZero() {
		created = now
	}
	remove := 0
	if t.Remove {
		remove = 1
	}
	before, err := triggerLike(ctx, tx, t)
	if err != nil {
		return err
	}
	insert := `INSERT INTO content_rule (kind, header, pattern, sender, requirement, remove, note, until_at, created_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (kind, header, pattern, sender) DO `
	if replace {
		insert += `UPDATE SET requirement = excluded.requirement, remove = excluded.remove, note = excluded.note, until_at = excluded.until_at`
	} else {
		insert += `NOTHING`
	}
	done, err := tx.ExecContext(ctx, insert, t.Kind.String(), t.Header, t.Pattern, t.Sender, t.Requirement.String(), remove, t.Note,
		micros(t.Until), micros(created))
	if err != nil {
		return fmt.Errorf("write %s: %w", t, err)
	}
	if n, err := done.RowsAffected(); err != nil {
		return err
	} else if n == 0 {
		return fmt.Errorf("%s for %s: %w: remove it first, or import with --replace", t.What(), t.Who(), ErrExists)
	}
	return auditTrigger(ctx, tx, now, before, t)
}

// RemoveTrigger removes a trigger by its ID. removed is false if there is none.
func (db *DB) RemoveTrigger(ctx context.Context, id int64) (removed bool, err error) {
	err = db.write(ctx, func(tx *dbsql.Tx) error {
		before, err := triggerWhere(ctx, tx, `id = ?`, id)
		if err != nil {
			return err
		}
		done, err := tx.ExecContext(ctx, `DELETE FROM content_rule WHERE id = ?`, id)
		if err != nil {
			return fmt.Errorf("remove trigger %d: %w", id, err)
		}
		n, err := done.RowsAffected()
		if removed = n > 0; err != nil || !removed {
			return err
		}
		if err := auditTrigger(ctx, tx, db.now(), before, nil); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE meta SET value = value + 1 WHERE name = 'rules_version'`)
		return err
	})
	return removed && err == nil, err
}
