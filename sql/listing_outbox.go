package sql

import (
	"context"
	dbsql "database/sql"
	"strconv"

	"github.com/postseal/postseal/internal/listing"
)

func mailScan(q *listing.MailQuery) *scan {
	s := &scan{
		from: `outbox o LEFT JOIN escrow_pickup p ON p.id = o.pickup_id`, window: windowRows,
		key: []keyColumn{{"o.created_at", true}, {"o.id", false}},
	}
	if q.Kind != "" {
		s.filtered(`o.kind = ?`, q.Kind)
	}
	if q.Failed {
		s.filtered(`o.attempts > 0`)
	}
	return s
}

// ListMails returns mails that wait in the outbox, the oldest first: all but what they say and to
// whom they go, which is encrypted.
func (db *DB) ListMails(ctx context.Context, q listing.MailQuery) (listing.Rows[listing.Mail], error) {
	return page(ctx, db, mailScan(&q), `o.id, o.kind, coalesce(p.item_id, ''), coalesce(p.recipient, ''), o.attempts, o.created_at, o.due_at, o.until_at`, q.Page,
		func(row row) (*listing.Mail, error) {
			var m listing.Mail
			var queued, due, until dbsql.NullInt64
			err := row.Scan(&m.ID, &m.Kind, &m.Item, &m.Recipient, &m.Attempts, &queued, &due, &until)
			m.Queued, m.Due, m.Expiry = fromMicros(queued), fromMicros(due), fromMicros(until)
			return &m, err
		},
		func(m *listing.Mail) listing.Key {
			return listing.Key{strconv.FormatInt(m.Queued.UnixMicro(), 10), m.ID}
		})
}

// QueuedReplies returns replies on their way to senders, those that are tried next first.
func (db *DB) QueuedReplies(ctx context.Context, limit int) ([]listing.Reply, error) {
	return list(ctx, db, func(row row) (*listing.Reply, error) {
		var r listing.Reply
		var queued, due dbsql.NullInt64
		err := row.Scan(&r.ID, &r.Item, &r.Recipient, &r.State, &r.Attempts, &r.Size, &queued, &due)
		r.Queued, r.Due = fromMicros(queued), fromMicros(due)
		return &r, err
	}, `SELECT r.id, p.item_id, p.recipient, r.state, r.attempts, r.size, r.changed_at, r.due_at
		FROM escrow_reply r JOIN escrow_pickup p ON p.id = r.pickup_id WHERE r.state = 'queued' ORDER BY r.due_at, r.id LIMIT ?`, limit)
}
