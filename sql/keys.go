package sql

import (
	"context"
	dbsql "database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/audit"
)

var (
	_ escrow.RotationStore = (*DB)(nil)
	_ escrow.KeyHolders    = (*DB)(nil)
)

// boxColumn is a column whose values are encrypted under the server's keys.
type boxColumn struct {
	table, column, purpose string
	parts                  []string // expressions: what is in the associated data
}

// boxColumns are all of them. A column that is not here would be lost with the old key;
// a test looks at every BLOB of the schema.
var boxColumns = []boxColumn{
	{"escrow_item", "recover", "recover/1", []string{"id"}},
	{"escrow_item", "summary", "summary/1", []string{"id"}},
	{"escrow_pickup", "wrap", "wrap/1", []string{"item_id", "id"}},
	{"escrow_pickup", "held_wrap", "wrap/1", []string{"item_id", "id"}},
	{"escrow_recipient", "hashed", "passphrase/1", []string{"address"}},
	{"outbox", "sealed", "mail/1", []string{"id"}},
	{"escrow_account", "password", "password/1", []string{"address"}},
	{"escrow_account", "totp", "totp/1", []string{"address"}},
	{"escrow_passkey", "credential", "passkey/1", []string{"address", "id"}},
	{"escrow_reply", "wrap", "recover/1", []string{"'reply ' || id"}},
	{"admin", "password", "admin-password/1", []string{"name"}},
	{"admin", "totp", "admin-totp/1", []string{"name"}},
}

// CountBoxes counts what is kept under the server's keys.
func (db *DB) CountBoxes(ctx context.Context) (total int, err error) {
	for _, c := range boxColumns {
		var n int
		q := fmt.Sprintf(`SELECT count(*) FROM %s WHERE %s IS NOT NULL`, c.table, c.column)
		if err := db.r.QueryRowContext(ctx, q).Scan(&n); err != nil {
			return 0, db.explain(err)
		}
		total += n
	}
	return total, nil
}

// RewrapBoxes walks over the boxes; see [escrow.RotationStore].
func (db *DB) RewrapBoxes(ctx context.Context, from escrow.BoxCursor, limit int, f func(escrow.Box) ([]byte, error)) (b escrow.BoxBatch, err error) {
	if from.Kind >= len(boxColumns) {
		return escrow.BoxBatch{Next: from, Done: true}, nil
	}
	c := boxColumns[from.Kind]
	err = db.write(ctx, func(tx *dbsql.Tx) error {
		b = escrow.BoxBatch{Next: from}
		boxes, rows, err := readBoxes(ctx, tx, c, from.Row, limit)
		if err != nil {
			return err
		}
		for i, box := range boxes {
			fresh, err := f(box)
			switch {
			case err != nil:
				b.Bad = append(b.Bad, fmt.Sprintf("%s.%s of %s", c.table, c.column, printable(box.Parts)))
			case fresh != nil:
				if _, err := tx.ExecContext(ctx, fmt.Sprintf(`UPDATE %s SET %s = ? WHERE rowid = ?`, c.table, c.column), fresh, rows[i]); err != nil {
					return err
				}
				b.Changed++
			}
			b.Next.Row = rows[i]
		}
		b.Seen = len(boxes)
		if len(boxes) < limit {
			b.Next = escrow.BoxCursor{Kind: from.Kind + 1}
			b.Done = b.Next.Kind == len(boxColumns)
		}
		return nil
	})
	return b, err
}

func readBoxes(ctx context.Context, q querier, c boxColumn, after int64, limit int) (boxes []escrow.Box, ids []int64, err error) {
	rows, err := q.QueryContext(ctx, fmt.Sprintf(`SELECT rowid, %s, %s FROM %s WHERE rowid > ? AND %[1]s IS NOT NULL ORDER BY rowid LIMIT ?`,
		c.column, strings.Join(c.parts, ", "), c.table), after, limit)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		box := escrow.Box{Purpose: c.purpose, Parts: make([]string, len(c.parts))}
		to := []any{&id, &box.Data}
		for i := range box.Parts {
			to = append(to, &box.Parts[i])
		}
		if err := rows.Scan(to...); err != nil {
			return nil, nil, err
		}
		boxes, ids = append(boxes, box), append(ids, id)
	}
	return boxes, ids, rows.Err()
}

// printable names a row; a passkey's id is bytes.
func printable(parts []string) string {
	named := make([]string, len(parts))
	for i, p := range parts {
		if named[i] = p; strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r > '~' }) {
			named[i] = hex.EncodeToString([]byte(p))
		}
	}
	return strings.Join(named, " ")
}

// BoxKeys counts the boxes under each key, by its id. It takes one look at each row, and
// reads nothing of what is in them.
func (db *DB) BoxKeys(ctx context.Context) (map[string]int, error) {
	counts := make(map[string]int)
	for _, c := range boxColumns {
		id := `substr(COLUMN, 3, 4)` // see 0006_keys.sql
		if c.purpose == "recover/1" {
			id = `substr(COLUMN, CASE WHEN substr(COLUMN, 3, 1) < x'80' THEN 5 ELSE 6 END, 4)`
		}
		query := strings.ReplaceAll(`SELECT lower(hex(`+id+`)), count(*) FROM `+c.table+` WHERE COLUMN IS NOT NULL GROUP BY 1`, "COLUMN", c.column)
		rows, err := db.r.QueryContext(ctx, query)
		if err != nil {
			return nil, db.explain(err)
		}
		for rows.Next() {
			var id string
			var n int
			if err := rows.Scan(&id, &n); err != nil {
				rows.Close()
				return nil, db.explain(err)
			}
			counts[id] += n
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return nil, db.explain(err)
		}
	}
	return counts, nil
}

// RetiredKeys returns the ids of the keys under which nothing may be stored any more.
func (db *DB) RetiredKeys(ctx context.Context) (map[string]bool, error) {
	ids, err := column(ctx, db.r, `SELECT lower(hex(id)) FROM key_retired`)
	if err != nil {
		return nil, db.explain(err)
	}
	retired := make(map[string]bool, len(ids))
	for _, id := range ids {
		retired[id] = true
	}
	return retired, nil
}

// BeginRotation notes a rotation under way.
func (db *DB) BeginRotation(ctx context.Context, to string, now time.Time) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO key_rotation (to_key, begun_at) VALUES (?, ?)`, to, micros(now)); err != nil {
			return err
		}
		return auditKey(ctx, tx, now, audit.Details{"what": "rotation begun", "key": to})
	})
}

// EndRotation notes the end of it, and of those before that were never done.
func (db *DB) EndRotation(ctx context.Context, to string, now time.Time) (begun bool, err error) {
	err = db.write(ctx, func(tx *dbsql.Tx) error {
		n, err := affected(tx.ExecContext(ctx, `UPDATE key_rotation SET done_at = ? WHERE to_key = ? AND done_at IS NULL`, micros(now), to))
		if begun = n > 0; err != nil {
			return err
		}
		if _, err = tx.ExecContext(ctx, `DELETE FROM key_rotation WHERE done_at IS NULL`); err != nil {
			return err
		}
		return auditKey(ctx, tx, now, audit.Details{"what": "rotation ended", "key": to})
	})
	return begun, err
}

// MakePrimary tells processes that this key encrypts, until the rotation to it ends.
func (db *DB) MakePrimary(ctx context.Context, key string) error {
	id, err := strconv.ParseUint(key, 16, 32)
	if err != nil {
		return fmt.Errorf("key %q is none", key)
	}
	return db.write(ctx, func(tx *dbsql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO meta (name, value) VALUES ('primary_key', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, int64(id))
		return err
	})
}

// PrimaryKey returns the key that is to encrypt, of the rotation under way.
func (db *DB) PrimaryKey(ctx context.Context) (key string, err error) {
	err = db.r.QueryRowContext(ctx, `SELECT coalesce((SELECT r.to_key FROM key_rotation r JOIN meta m ON m.name = 'primary_key' AND m.value >= 0
		AND r.to_key = printf('%08x', m.value) WHERE r.done_at IS NULL), '')`).Scan(&key)
	return key, db.explain(err)
}

// OpenRotation returns where a rotation under way goes to.
func (db *DB) OpenRotation(ctx context.Context) (to string, err error) {
	err = db.r.QueryRowContext(ctx, `SELECT coalesce((SELECT to_key FROM key_rotation WHERE done_at IS NULL ORDER BY id DESC LIMIT 1), '')`).Scan(&to)
	return to, db.explain(err)
}

// RetireKeys forbids to store anything under these keys.
func (db *DB) RetireKeys(ctx context.Context, ids []string, now time.Time) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		for _, id := range ids {
			raw, err := hex.DecodeString(id)
			if err != nil || len(raw) != 4 {
				return fmt.Errorf("key %q is none", id)
			}
			n, err := affected(tx.ExecContext(ctx, `INSERT INTO key_retired (id, retired_at) VALUES (?, ?) ON CONFLICT DO NOTHING`, raw, micros(now)))
			if err != nil {
				return err
			}
			if n == 0 { // by a rotation that was cut short
				continue
			}
			if err := auditKey(ctx, tx, now, audit.Details{"what": "key retired", "key": id}); err != nil {
				return err
			}
		}
		return nil
	})
}

// auditKey tells of a change of the server's keys or of recovery keys.
func auditKey(ctx context.Context, tx *dbsql.Tx, now time.Time, d audit.Details) error {
	return appendAudit(ctx, tx, now, audit.Entry{Kind: audit.KeyChanged, Details: d})
}

// holdersKept is how long a holder that says no more is remembered.
const holdersKept = 24 * time.Hour

// HoldKeys keeps which keys a process has.
func (db *DB) HoldKeys(ctx context.Context, h escrow.KeyHolder) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO key_holder (id, host, pid, keys, primary_key, seen_at) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (id) DO UPDATE SET keys = excluded.keys, primary_key = excluded.primary_key, seen_at = excluded.seen_at`,
			h.ID, h.Host, h.PID, strings.Join(h.Keys, ","), h.Primary, micros(h.Seen))
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM key_holder WHERE seen_at < ?`, micros(h.Seen.Add(-holdersKept)))
		return err
	})
}

// LeaveKeys drops a process.
func (db *DB) LeaveKeys(ctx context.Context, id string) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM key_holder WHERE id = ?`, id)
		return err
	})
}

// KeyHolders lists the processes that were seen since then.
func (db *DB) KeyHolders(ctx context.Context, since time.Time) ([]escrow.KeyHolder, error) {
	return list(ctx, db, func(row row) (*escrow.KeyHolder, error) {
		var h escrow.KeyHolder
		var keys string
		var seen dbsql.NullInt64
		if err := row.Scan(&h.ID, &h.Host, &h.PID, &keys, &h.Primary, &seen); err != nil {
			return nil, err
		}
		h.Keys, h.Seen = strings.Split(keys, ","), fromMicros(seen)
		return &h, nil
	}, `SELECT id, host, pid, keys, primary_key, seen_at FROM key_holder WHERE seen_at >= ? ORDER BY host, pid`, micros(since))
}
