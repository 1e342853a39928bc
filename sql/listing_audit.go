package sql

import (
	"cmp"
	"context"
	dbsql "database/sql"
	"strconv"

	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/internal/listing"
)

// auditScan is of the entries of a kind, or of all ("").
func auditScan(q *listing.AuditQuery, kind string) *scan {
	s := &scan{from: `audit`, key: []keyColumn{{"at", true}, {"seq", true}}, desc: true, window: windowRows}
	since, until := s.along, s.along
	switch {
	case q.Item != "" || q.Recipient != "":
		// These indexes have the entries in the order in which they were written.
		s.key = s.key[1:]
		since, until = s.filtered, s.filtered
		if q.Item != "" {
			s.along(`item = ?`, q.Item)
			if q.Recipient != "" {
				s.filtered(`recipient = ?`, q.Recipient)
			}
		} else {
			s.along(`recipient = ?`, q.Recipient)
		}
	case kind != "":
		s.along(`kind = ?`, kind)
	}
	if len(s.key) == 1 && len(q.Kinds) > 0 {
		marks, args := "", []any(nil)
		for i, k := range q.Kinds {
			if i > 0 {
				marks += ", "
			}
			marks, args = marks+"?", append(args, k)
		}
		s.filtered(`kind IN (`+marks+`)`, args...)
	}
	if q.Sender != "" {
		s.filtered(`sender = ?`, nullSender(q.Sender))
	}
	if q.Actor != "" {
		s.filtered(`(actor = ? OR name = ? OR client = ?)`, q.Actor, q.Actor, q.Actor)
	}
	if !q.Since.IsZero() {
		since(`at >= ?`, micros(q.Since))
	}
	if !q.Until.IsZero() && (q.After == nil || len(s.key) == 1) {
		until(`at < ?`, micros(q.Until))
	}
	return s
}

const auditColumns = `seq, format, at, kind, actor, name, client, coalesce(item, ''), sender, coalesce(recipient, ''), details, hash`

// ListAudit returns entries of the audit log, the newest first.
func (db *DB) ListAudit(ctx context.Context, q listing.AuditQuery) (listing.Rows[audit.Record], error) {
	one := func(s *scan) (listing.Rows[audit.Record], error) {
		return page(ctx, db, s, auditColumns, q.Page,
			func(row row) (*audit.Record, error) { return scanAudit(row) },
			func(r *audit.Record) listing.Key { return auditPlace(*r)[2-len(s.key):] })
	}
	if q.Item != "" || q.Recipient != "" || len(q.Kinds) == 0 {
		return one(auditScan(&q, ""))
	}
	var sources []listing.Rows[audit.Record]
	for _, kind := range q.Kinds {
		rows, err := one(auditScan(&q, kind))
		if err != nil || len(q.Kinds) == 1 {
			return rows, err
		}
		sources = append(sources, rows)
	}
	newest := func(a, b audit.Record) int { return cmp.Or(b.At.Compare(a.At), cmp.Compare(b.Seq, a.Seq)) }
	return merge(sources, q.Limit, newest, func(k listing.Key) (r audit.Record) {
		at, _ := k.Int(0) // of a key that was made here
		r.At = fromMicros(dbsql.NullInt64{Int64: at, Valid: true})
		r.Seq, _ = k.Int(1)
		return r
	}, auditPlace), nil
}

func auditPlace(r audit.Record) listing.Key {
	return listing.Key{strconv.FormatInt(r.At.UnixMicro(), 10), strconv.FormatInt(r.Seq, 10)}
}

// lastCheckpoint returns the newest daily one, nil if there is none.
func (db *DB) lastCheckpoint(ctx context.Context) (*listing.Checkpoint, error) {
	found, err := list(ctx, db, func(row row) (*listing.Checkpoint, error) {
		var c listing.Checkpoint
		var at dbsql.NullInt64
		err := row.Scan(&c.Kind, &at, &c.Seq)
		c.At = fromMicros(at)
		return &c, err
	}, `SELECT kind, at, seq FROM audit_checkpoint WHERE kind = ? ORDER BY at DESC LIMIT 1`, audit.Daily)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}
