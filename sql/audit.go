package sql

import (
	"context"
	dbsql "database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/postseal/postseal/internal/audit"
)

// Audit appends entries to the audit log, in a transaction of their own. What changes
// the database appends its entries in the transaction of that change instead.
func (db *DB) Audit(ctx context.Context, entries ...audit.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	return db.write(ctx, func(tx *dbsql.Tx) error { return appendAudit(ctx, tx, db.now(), entries...) })
}

// appendAudit appends entries in the transaction of what they tell of, behind those
// that [audit.Also] has put into ctx. now is the time of those that have none. The
// transaction has the write lock from its beginning, so nobody else appends meanwhile.
func appendAudit(ctx context.Context, tx *dbsql.Tx, now time.Time, entries ...audit.Entry) error {
	entries = append(audit.Pending(ctx), entries...)
	if len(entries) == 0 {
		return nil
	}
	seq, last, err := auditHead(ctx, tx)
	if err != nil {
		return err
	}
	put, err := tx.PrepareContext(ctx, `INSERT INTO audit (seq, format, at, kind, actor, name, client, item, sender, recipient, details, hash)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	defer put.Close()
	for _, e := range entries {
		if e.At.IsZero() {
			e.At = now
		}
		if e.Actor == (audit.Actor{}) {
			e.Actor = audit.By(ctx)
		}
		seq++
		r := audit.Record{Seq: seq, Entry: e.Clean()}
		r.Hash = r.Sum(last)
		details, err := json.Marshal(r.Details)
		if err != nil {
			return fmt.Errorf("audit log: %w", err)
		}
		_, err = put.ExecContext(ctx, r.Seq, audit.Format, r.At.UnixMicro(), r.Kind, r.Actor.Kind, r.Actor.Name, r.Actor.Client,
			orNull(r.Item), r.Sender, orNull(r.Recipient), string(details), r.Hash[:])
		if err != nil {
			return fmt.Errorf("audit log: %w", err)
		}
		last = r.Hash
	}
	return nil
}

// orNull makes "" NULL.
func orNull(s string) dbsql.NullString { return dbsql.NullString{String: s, Valid: s != ""} }

// auditHead returns number and hash of the newest entry: those of the cut where all
// were pruned, zero where there never was one.
func auditHead(ctx context.Context, q querier) (seq int64, h audit.Hash, err error) {
	var b []byte
	err = q.QueryRowContext(ctx, `SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1`).Scan(&seq, &b)
	if errors.Is(err, dbsql.ErrNoRows) {
		err = q.QueryRowContext(ctx, `SELECT seq, hash FROM audit_checkpoint WHERE kind = 'cut' ORDER BY seq DESC LIMIT 1`).Scan(&seq, &b)
	}
	if errors.Is(err, dbsql.ErrNoRows) {
		return 0, h, nil
	}
	if err != nil {
		return 0, h, fmt.Errorf("audit log: %w", err)
	}
	copy(h[:], b)
	return seq, h, nil
}

// AuditEntries returns records of the audit log.
func (db *DB) AuditEntries(ctx context.Context, f audit.Filter) ([]audit.Record, error) {
	var all []audit.Record
	for r, err := range db.AuditEach(ctx, f) {
		if err != nil {
			return nil, err
		}
		all = append(all, *r)
	}
	return all, nil
}

// AuditEach goes through records of the audit log without keeping them. A record is
// the caller's until the next one.
func (db *DB) AuditEach(ctx context.Context, f audit.Filter) iter.Seq2[*audit.Record, error] {
	return func(yield func(*audit.Record, error) bool) {
		query, args := auditQuery(&f)
		rows, err := db.r.QueryContext(ctx, query, args...)
		if err != nil {
			yield(nil, db.explain(err))
			return
		}
		defer rows.Close()
		for rows.Next() {
			r, err := scanAudit(rows)
			if err != nil {
				yield(nil, db.explain(err))
				return
			}
			if !yield(r, nil) {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(nil, db.explain(err))
		}
	}
}

func auditQuery(f *audit.Filter) (query string, args []any) {
	var where []string
	add := func(cond string, a ...any) {
		where = append(where, cond)
		args = append(args, a...)
	}
	if len(f.Kinds) > 0 {
		kinds := make([]any, len(f.Kinds))
		for i, k := range f.Kinds {
			kinds[i] = k
		}
		add(`kind IN (?`+strings.Repeat(`, ?`, len(kinds)-1)+`)`, kinds...)
	}
	for _, c := range []struct{ column, value string }{{`item`, f.Item}, {`sender`, f.Sender}, {`recipient`, f.Recipient}} {
		if c.value != "" {
			add(c.column+` = ?`, c.value)
		}
	}
	if f.Actor != "" {
		add(`(actor = ? OR name = ? OR client = ?)`, f.Actor, f.Actor, f.Actor)
	}
	if !f.Since.IsZero() {
		add(`at >= ?`, f.Since.UnixMicro())
	}
	if !f.Until.IsZero() {
		add(`at < ?`, f.Until.UnixMicro())
	}
	if f.Before > 0 {
		add(`seq < ?`, f.Before)
	}
	if f.After > 0 {
		add(`seq > ?`, f.After)
	}
	query = `SELECT ` + auditColumns + ` FROM audit`
	if where != nil {
		query += ` WHERE ` + strings.Join(where, ` AND `)
	}
	query += ` ORDER BY seq`
	if !f.Oldest {
		query += ` DESC`
	}
	if f.Limit > 0 {
		query += ` LIMIT ?`
		args = append(args, f.Limit)
	}
	return query, args
}

// scanAudit fails on what it does not know: who reads the log must not take what
// somebody has put there for what was written. A record beside an error is one that does
// not go with its hash.
func scanAudit(row row) (*audit.Record, error) {
	var (
		r       audit.Record
		format  int
		at      int64
		details dbsql.RawBytes
		hash    dbsql.RawBytes
	)
	err := row.Scan(&r.Seq, &format, &at, &r.Kind, &r.Actor.Kind, &r.Actor.Name, &r.Actor.Client, &r.Item, &r.Sender, &r.Recipient, &details, &hash)
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	r.At = time.UnixMicro(at).UTC()
	copy(r.Hash[:], hash)
	if format != audit.Format {
		return &r, fmt.Errorf("entry %d of the audit log has format %d, this postseal knows %d", r.Seq, format, audit.Format)
	}
	if err := json.Unmarshal(details, &r.Details); err != nil {
		r.Details = audit.Details{"damaged": ""} // which no entry has
		return &r, fmt.Errorf("entry %d of the audit log is damaged: %w", r.Seq, err)
	}
	return &r, nil
}
