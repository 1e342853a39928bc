package sql

import (
	"context"

	"github.com/postseal/postseal/escrow"
)

// InboxPickups lists the pickups of a recipient, the newest first.
func (db *DB) InboxPickups(ctx context.Context, recipient string, offset, limit int) ([]escrow.StoredInboxItem, error) {
	// The page is cut from the index before anything is read of the items.
	rows, err := db.r.QueryContext(ctx, `SELECT `+pickupColumns+`, i.summary,
			EXISTS (SELECT 1 FROM escrow_reply r WHERE r.pickup_id = p.id AND r.state IN ('queued', 'sent'))
		FROM (SELECT id FROM escrow_pickup WHERE recipient_key = ? ORDER BY created_at DESC, item_id DESC LIMIT ? OFFSET ?) page
		JOIN escrow_pickup p ON p.id = page.id
		JOIN escrow_item i ON i.id = p.item_id
		ORDER BY p.created_at DESC, p.item_id DESC`, recipient, limit, offset)
	if err != nil {
		return nil, db.explain(err)
	}
	defer rows.Close()
	var list []escrow.StoredInboxItem
	for rows.Next() {
		var it escrow.StoredInboxItem
		p, err := scanPickup(scanner(func(to ...any) error { return rows.Scan(append(to, &it.Summary, &it.Replied)...) }))
		if err != nil {
			return nil, db.explain(err)
		}
		it.StoredPickup = *p
		list = append(list, it)
	}
	return list, db.explain(rows.Err())
}

// scanner is a row with more columns than its reader asks for.
type scanner func(to ...any) error

func (s scanner) Scan(to ...any) error { return s(to...) }

// InboxCount returns how many pickups a recipient has.
func (db *DB) InboxCount(ctx context.Context, recipient string) (n int, err error) {
	err = db.r.QueryRowContext(ctx, `SELECT COUNT(*) FROM escrow_pickup WHERE recipient_key = ?`, recipient).Scan(&n)
	return n, db.explain(err)
}
