package sql

import (
	"context"
	"crypto/ed25519"
	dbsql "database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/postseal/postseal/internal/audit"
)

// AuditCheckpoints returns the checkpoints, the oldest first.
func (db *DB) AuditCheckpoints(ctx context.Context) ([]audit.Checkpoint, error) {
	list, err := auditCheckpoints(ctx, db.r)
	return list, db.explain(err)
}

func auditCheckpoints(ctx context.Context, q querier) ([]audit.Checkpoint, error) {
	rows, err := q.QueryContext(ctx, `SELECT kind, at, seq, hash, signature FROM audit_checkpoint ORDER BY id`)
	if err != nil {
		return nil, fmt.Errorf("read checkpoints: %w", err)
	}
	defer rows.Close()
	var list []audit.Checkpoint
	for rows.Next() {
		var c audit.Checkpoint
		var at int64
		var hash []byte
		if err := rows.Scan(&c.Kind, &at, &c.Seq, &hash, &c.Signature); err != nil {
			return nil, fmt.Errorf("read checkpoints: %w", err)
		}
		c.At = time.UnixMicro(at).UTC()
		copy(c.Hash[:], hash)
		list = append(list, c)
	}
	return list, rows.Err()
}

// AuditCheckpoint makes a checkpoint of the log as it is, and keeps it.
func (db *DB) AuditCheckpoint(ctx context.Context, kind string, key ed25519.PrivateKey) (c audit.Checkpoint, err error) {
	err = db.write(ctx, func(tx *dbsql.Tx) error {
		seq, hash, err := auditHead(ctx, tx)
		if err != nil {
			return err
		}
		c = audit.Checkpoint{Kind: kind, At: db.now(), Seq: seq, Hash: hash}
		c.Sign(key)
		return putCheckpoint(ctx, tx, &c)
	})
	return c, err
}

func putCheckpoint(ctx context.Context, tx *dbsql.Tx, c *audit.Checkpoint) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO audit_checkpoint (kind, at, seq, hash, signature) VALUES (?, ?, ?, ?, ?)`,
		c.Kind, c.At.UnixMicro(), c.Seq, c.Hash[:], c.Signature)
	if err != nil {
		return fmt.Errorf("keep a checkpoint: %w", err)
	}
	return nil
}

// pruneMost is how many entries one transaction of PruneAudit deletes: other writers
// wait meanwhile.
const pruneMost = 5000

// PruneAudit deletes entries from before that time, in small transactions, each of which
// moves the signed cut behind which the log begins. Nothing is deleted behind an entry
// that is younger, and the newest entry always stays. n is how many it deleted.
func (db *DB) PruneAudit(ctx context.Context, before time.Time, key ed25519.PrivateKey) (n int64, err error) {
	// An entry out of time, of a clock that was wrong, keeps those behind it.
	var young dbsql.NullInt64
	if err := db.r.QueryRowContext(ctx, `SELECT min(seq) FROM audit WHERE at >= ?`, before.UnixMicro()).Scan(&young); err != nil {
		return 0, db.explain(err)
	}
	for {
		var some int64
		err := db.write(ctx, func(tx *dbsql.Tx) (err error) {
			some, err = pruneSome(ctx, tx, young, db.now(), key)
			return err
		})
		if err != nil {
			return n, err
		}
		if n += some; some < pruneMost {
			break
		}
	}
	if n == 0 {
		return 0, nil
	}
	return n, db.Audit(ctx, audit.Entry{Kind: audit.Pruned, Details: audit.Details{"entries": fmt.Sprint(n), "before": auditTime(before)}})
}

func pruneSome(ctx context.Context, tx *dbsql.Tx, young dbsql.NullInt64, now time.Time, key ed25519.PrivateKey) (int64, error) {
	cut := audit.Checkpoint{Kind: audit.Cut, At: now}
	var hash []byte
	err := tx.QueryRowContext(ctx, `SELECT seq, hash FROM (SELECT seq, hash FROM audit
		WHERE seq < coalesce(?, (SELECT max(seq) FROM audit)) ORDER BY seq LIMIT ?) ORDER BY seq DESC LIMIT 1`, young, pruneMost).Scan(&cut.Seq, &hash)
	if errors.Is(err, dbsql.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("prune the audit log: %w", err)
	}
	copy(cut.Hash[:], hash)
	cut.Sign(key)
	if _, err := tx.ExecContext(ctx, `DELETE FROM audit_checkpoint WHERE kind = ?`, audit.Cut); err != nil {
		return 0, fmt.Errorf("prune the audit log: %w", err)
	}
	if err := putCheckpoint(ctx, tx, &cut); err != nil {
		return 0, err
	}
	n, err := affected(tx.ExecContext(ctx, `DELETE FROM audit WHERE seq <= ?`, cut.Seq))
	if err != nil {
		return 0, fmt.Errorf("prune the audit log: %w", err)
	}
	return n, nil
}

// VerifyAudit checks the whole log against itself, its checkpoints, and more of them
// that were kept elsewhere. What is wrong is in the report; the error is that nothing
// could be read.
func (db *DB) VerifyAudit(ctx context.Context, key ed25519.PublicKey, more []audit.Checkpoint) (audit.Report, error) {
	tx, err := db.r.BeginTx(ctx, nil) // all of one moment
	if err != nil {
		return audit.Report{}, db.explain(err)
	}
	defer tx.Rollback()
	marks, err := auditCheckpoints(ctx, tx)
	if err != nil {
		return audit.Report{}, db.explain(err)
	}
	v := audit.NewVerifier(key, append(marks, more...))
	query, args := auditQuery(&audit.Filter{Oldest: true})
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return audit.Report{}, db.explain(err)
	}
	defer rows.Close()
	for rows.Next() {
		r, err := scanAudit(rows)
		if r == nil {
			return audit.Report{}, db.explain(err)
		}
		v.Next(r) // one that is damaged does not go with its hash
	}
	if err := rows.Err(); err != nil {
		return audit.Report{}, db.explain(err)
	}
	return v.Close(), nil
}
