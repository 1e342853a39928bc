package sql

import (
	"context"
	dbsql "database/sql"
	"fmt"
	"strings"

	"github.com/postseal/postseal/escrow"
)

// domainOf returns the domain of a folded address, "" of the null sender.
func domainOf(folded string) string { return folded[strings.LastIndexByte(folded, '@')+1:] }

// keepQuota fails where items would be more than may be held. The transaction has the
// write lock, so nobody else adds any meanwhile.
func keepQuota(ctx context.Context, tx *dbsql.Tx, items []escrow.NewItem, q escrow.Quota) error {
	if q == (escrow.Quota{}) {
		return nil
	}
	needs := make(map[string]int64)
	for i := range items {
		key, err := foldAddress(items[i].Sender)
		if err != nil {
			return fmt.Errorf("sender: %w", err)
		}
		needs[domainOf(key)] += items[i].Size
	}
	var all int64
	for domain, n := range needs {
		all += n
		if q.Domain <= 0 {
			continue
		}
		var used int64
		err := tx.QueryRowContext(ctx, `SELECT coalesce(sum(bytes), 0) FROM escrow_usage WHERE domain = ?`, domain).Scan(&used)
		if err != nil {
			return fmt.Errorf("quota: %w", err)
		}
		if used+n > q.Domain {
			return &escrow.QuotaError{Domain: domain, Used: used, Needs: n, Quota: q.Domain}
		}
	}
	if q.Total <= 0 {
		return nil
	}
	var used int64
	if err := tx.QueryRowContext(ctx, `SELECT coalesce(sum(bytes), 0) FROM escrow_usage`).Scan(&used); err != nil {
		return fmt.Errorf("quota: %w", err)
	}
	if used+all > q.Total {
		return &escrow.QuotaError{Total: true, Used: used, Needs: all, Quota: q.Total}
	}
	return nil
}

// keepReplyQuota fails where a file of a reply would be more than may be held. Replies take
// what messages leave of the total, and keep no message from being sealed: who may write one
// must not be able to hold up the mail of others. The reply has its new size already.
func keepReplyQuota(ctx context.Context, tx *dbsql.Tx, c *escrow.ReplyChange) error {
	if c.Quota.Total <= 0 {
		return nil
	}
	var held, replies int64
	// Each by its index.
	err := tx.QueryRowContext(ctx, `SELECT (SELECT coalesce(sum(bytes), 0) FROM escrow_usage),
		(SELECT coalesce(sum(size), 0) FROM escrow_reply WHERE state = 'draft') + (SELECT coalesce(sum(size), 0) FROM escrow_reply WHERE state = 'queued')`).Scan(&held, &replies)
	if err != nil {
		return fmt.Errorf("quota: %w", err)
	}
	if held+replies > c.Quota.Total {
		return &escrow.QuotaError{Total: true, Used: held + replies - c.Size, Needs: c.Size, Quota: c.Quota.Total}
	}
	return nil
}

// Usage returns what is held of each sender domain, in bytes.
func (db *DB) Usage(ctx context.Context) (map[string]int64, error) {
	rows, err := db.r.QueryContext(ctx, `SELECT domain, bytes FROM escrow_usage`)
	if err != nil {
		return nil, db.explain(err)
	}
	defer rows.Close()
	all := make(map[string]int64)
	for rows.Next() {
		var domain string
		var bytes int64
		if err := rows.Scan(&domain, &bytes); err != nil {
			return nil, db.explain(err)
		}
		all[domain] = bytes
	}
	return all, db.explain(rows.Err())
}
