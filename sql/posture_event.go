package sql

import (
	"context"
	dbsql "database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/alarm"
	"github.com/postseal/postseal/tlsmap/probe"
)

var _ alarm.Store = (*DB)(nil)

const eventColumns = `id, dest, at, kind, detail, alarm, told_at`

func scanEvent(row row) (*probe.Event, error) {
	var (
		e        probe.Event
		detail   []byte
		at, told dbsql.NullInt64
	)
	if err := row.Scan(&e.ID, &e.Dest, &at, &e.Kind, &detail, &e.Alarm, &told); err != nil {
		return nil, err
	}
	e.At, e.Told = fromMicros(at), fromMicros(told)
	_ = json.Unmarshal(detail, &e.Detail) // of a version to come: the kind still says something
	return &e, nil
}

func addEvents(ctx context.Context, tx *dbsql.Tx, events []probe.Event) error {
	for _, e := range events {
		detail, err := json.Marshal(e.Detail)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO posture_event (dest, at, kind, detail, alarm) VALUES (?, ?, ?, ?, ?)`,
			e.Dest, micros(e.At), e.Kind, string(detail), e.Alarm)
		if err != nil {
			return err
		}
	}
	return nil
}

// History returns the history of a destination, the newest first: at most limit events,
// those before the one with the id before, with 0 from the newest on.
func (db *DB) History(ctx context.Context, dest string, before int64, limit int) ([]probe.Event, error) {
	return list(ctx, db, scanEvent, `SELECT `+eventColumns+` FROM posture_event
		WHERE dest = ? AND (? = 0 OR id < ?) ORDER BY id DESC LIMIT ?`, dest, before, before, limit)
}

// DeleteEvents forgets the events before that time, and of each destination all but
// the newest most.
func (db *DB) DeleteEvents(ctx context.Context, before time.Time, most int) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM posture_event WHERE at < ?`, micros(before)); err != nil {
			return fmt.Errorf("delete old events: %w", err)
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM posture_event WHERE id IN (
			SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY dest ORDER BY id DESC) AS n FROM posture_event
				WHERE dest IN (SELECT dest FROM posture_event GROUP BY dest HAVING count(*) > ?))
			WHERE n > ?)`, most, most)
		if err != nil {
			return fmt.Errorf("delete events of busy destinations: %w", err)
		}
		return nil
	})
}

// taken names the columns of when a way took an alarm.
var taken = map[alarm.Way]string{alarm.Mail: "mailed_at", alarm.Webhook: "posted_at"}

// UntoldAlarms returns alarms that a way has not taken yet, the oldest first.
func (db *DB) UntoldAlarms(ctx context.Context, way alarm.Way, limit int) ([]probe.Event, error) {
	return list(ctx, db, scanEvent, `SELECT `+eventColumns+` FROM posture_event
		WHERE alarm = 1 AND told_at IS NULL AND `+taken[way]+` IS NULL ORDER BY id LIMIT ?`, limit)
}

// AlarmsTaken notes that a way has taken alarms.
func (db *DB) AlarmsTaken(ctx context.Context, way alarm.Way, ids []int64, at time.Time) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		for _, id := range ids {
			if _, err := tx.ExecContext(ctx, `UPDATE posture_event SET `+taken[way]+` = ? WHERE id = ?`, micros(at), id); err != nil {
				return fmt.Errorf("note that an alarm was told: %w", err)
			}
		}
		return nil
	})
}

// SettleAlarms closes the alarms that all of these ways have taken.
func (db *DB) SettleAlarms(ctx context.Context, ways []alarm.Way, at time.Time) error {
	query := `UPDATE posture_event SET told_at = ? WHERE alarm = 1 AND told_at IS NULL`
	for _, w := range ways {
		query += ` AND ` + taken[w] + ` IS NOT NULL`
	}
	return db.write(ctx, func(tx *dbsql.Tx) error {
		if _, err := tx.ExecContext(ctx, query, micros(at)); err != nil {
			return fmt.Errorf("note that alarms were told: %w", err)
		}
		return nil
	})
}

// open is the condition of an alarm e that has not ended, of a destination that is
// still known. Its kinds stand in the index of 0009, too.
const open = `e.alarm = 1 AND e.kind IN ('tls-lost', 'dane-lost', 'mta-sts-lost') AND NOT EXISTS (
	SELECT 1 FROM posture_event b WHERE b.dest = e.dest AND b.id > e.id AND b.alarm = 1 AND b.kind = replace(e.kind, '-lost', '-back'))
	AND EXISTS (SELECT 1 FROM posture p WHERE p.dest = e.dest)`

// OpenAlarms returns the alarms that have not ended, the newest first.
func (db *DB) OpenAlarms(ctx context.Context, limit int) ([]probe.Event, error) {
	return list(ctx, db, scanEvent, `SELECT `+eventColumns+` FROM posture_event e WHERE `+open+` ORDER BY id DESC LIMIT ?`, limit)
}

// LostSince returns how many destinations have lost their TLS since that time, with an
// alarm, and have it not back yet.
func (db *DB) LostSince(ctx context.Context, since time.Time) (n int, err error) {
	err = db.r.QueryRowContext(ctx, `SELECT count(DISTINCT e.dest) FROM posture_event e WHERE e.kind = ? AND e.at >= ? AND `+open,
		probe.TLSLost, micros(since)).Scan(&n)
	return n, db.explain(err)
}

// Destination is what a list of destinations shows of one.
type Destination struct {
	probe.Record              // without Result
	Changed      time.Time    // the last event; zero: none
	Alarms       []probe.Kind // that have not ended
}

// DestinationQuery asks for destinations. The zero value asks for all.
type DestinationQuery struct {
	Exactly  string       // this one alone
	Contains string       // within the name
	State    policy.State // only those of State
	HasState bool
	Alarmed  bool   // only those with an alarm that has not ended
	After    string // only those behind this one
	Limit    int    // 0: no limit
}

// Destinations returns what is known of destinations, sorted by name.
func (db *DB) Destinations(ctx context.Context, q DestinationQuery) ([]Destination, error) {
	query := `SELECT dest, state, checked_at, worked_at, lost_at, COALESCE(since_at, worked_at), expires_at, failures, '',
		(SELECT max(at) FROM posture_event e WHERE e.dest = posture.dest),
		(SELECT group_concat(e.kind, ' ') FROM posture_event e WHERE e.dest = posture.dest AND ` + open + `)
		FROM posture WHERE dest > ?`
	args := []any{q.After}
	if q.Exactly != "" {
		query += ` AND dest = ?`
		args = append(args, q.Exactly)
	}
	if q.Contains != "" {
		query += ` AND instr(dest, ?) > 0`
		args = append(args, q.Contains)
	}
	if q.HasState {
		query += ` AND state = ?`
		args = append(args, q.State.String())
	}
	if q.Alarmed {
		query += ` AND EXISTS (SELECT 1 FROM posture_event e WHERE e.dest = posture.dest AND ` + open + `)`
	}
	query += ` ORDER BY dest`
	if q.Limit > 0 {
		query += ` LIMIT ?`
		args = append(args, q.Limit)
	}
	all, err := list(ctx, db, scanDestination, query, args...)
	if err != nil {
		return nil, fmt.Errorf("read destinations: %w", err)
	}
	return all, nil
}

func scanDestination(row row) (*Destination, error) {
	var (
		d       Destination
		changed dbsql.NullInt64
		alarms  dbsql.NullString
	)
	r, err := scanPosture(with{row, []any{&changed, &alarms}})
	if _, odd := err.(oddState); err != nil && !odd {
		return nil, err
	}
	d.Record, d.Changed, d.Record.Result = *r, fromMicros(changed), nil
	for k := range strings.FieldsSeq(alarms.String) {
		d.Alarms = append(d.Alarms, probe.Kind(k))
	}
	return &d, nil
}

// with is a row with more columns behind those that are asked for.
type with struct {
	row
	more []any
}

func (w with) Scan(into ...any) error { return w.row.Scan(append(into, w.more...)...) }

// Posture returns what is known of one destination, nil for nothing.
func (db *DB) Posture(ctx context.Context, dest string) (*probe.Record, error) {
	all, err := list(ctx, db, func(row row) (*probe.Record, error) {
		r, err := scanPosture(row)
		if _, odd := err.(oddState); odd {
			err = nil // as unknown
		}
		return r, err
	}, `SELECT `+postureColumns+` FROM posture WHERE dest = ?`, dest)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return &all[0], nil
}
