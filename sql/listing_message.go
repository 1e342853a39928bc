package sql

import (
	"context"
	dbsql "database/sql"
	"errors"
	"strconv"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/listing"
)

const messageColumns = `p.item_id, i.queue_id, i.sender, p.recipient, p.state, p.verify, i.mode, p.notice, i.size, i.created_at, p.expires_at,
	p.read_at, p.ended_at, p.read_how, p.most_at, p.language, i.held_at, p.recipient_key`

// toDomain is the domain of a recipient, as the index of 0009 has it.
const toDomain = `substr(p.recipient_key, 1 + length(rtrim(p.recipient_key, replace(p.recipient_key, '@', ''))))`

// The tables of a list of messages, by the one whose index is followed.
const (
	byPickup = `escrow_pickup p CROSS JOIN escrow_item i`
	byItem   = `escrow_item i CROSS JOIN escrow_pickup p`
)

type listedMessage struct {
	listing.Message
	folded string
}

func scanMessage(row row) (*listedMessage, error) {
	var m listedMessage
	var sealed, expires, read, ended, most, held dbsql.NullInt64
	err := row.Scan(&m.Item, &m.QueueID, &m.Sender, &m.Recipient, &m.State, &m.Verify, &m.Mode, &m.Notice, &m.Size, &sealed, &expires,
		&read, &ended, &m.ReadHow, &most, &m.Language, &held, &m.folded)
	if err != nil {
		return nil, err
	}
	m.Sealed, m.Expires, m.Read, m.Ended, m.Most = fromMicros(sealed), fromMicros(expires), fromMicros(read), fromMicros(ended), fromMicros(most)
	m.Held = held.Valid
	return &m, nil
}

func isState(show string) bool {
	switch show {
	case escrow.StateHeld, escrow.StateRead, escrow.StateExpired, escrow.StateRetracted:
		return true
	}
	return false
}

// nullSender turns how the null sender is asked for into what it is.
func nullSender(s string) string {
	if s == "<>" {
		return ""
	}
	return s
}

// messageScan chooses the index: of what is asked for, that which the fewest messages
// have in common.
func messageScan(q *listing.MessageQuery) *scan {
	s := &scan{from: byPickup, desc: true, window: windowRows}
	s.along(`p.item_id = i.id`)
	pickup := []keyColumn{{"p.created_at", true}, {"p.item_id", false}, {"p.recipient_key", false}}
	item := []keyColumn{{"i.created_at", true}, {"i.id", false}, {"p.recipient_key", false}}
	ofItem := func() { s.from, s.key, s.outer = byItem, item, 2 }
	s.key = pickup
	type by struct {
		asked bool
		text  string
		args  []any
		item  bool // an index of the item
	}
	first := true
	for _, b := range []by{
		{q.Item != "", `p.item_id = ?`, []any{q.Item}, false},
		{q.QueueID != "", `i.queue_id = ?`, []any{q.QueueID}, true},
		{q.Recipient != "", `p.recipient_key = ?`, []any{q.Recipient}, false},
		{q.Sender != "", `i.sender_key = ?`, []any{nullSender(q.Sender)}, true},
		{q.Show == listing.OnHold, `i.held_at IS NOT NULL`, nil, true},
		{q.Show == listing.Bounced, `p.notice = 'bounced'`, nil, false},
		{q.ToDomain != "", toDomain + ` = ?`, []any{q.ToDomain}, false},
		{q.FromDomain != "", `i.sender_domain = ?`, []any{q.FromDomain}, true},
		{isState(q.Show), `p.state = ?`, []any{q.Show}, false},
	} {
		switch {
		case !b.asked:
			continue
		case first:
			first = false
			s.along(b.text, b.args...)
			if b.item {
				ofItem()
			}
			if q.Item != "" { // few, and in this order in an index
				s.key, s.desc = []keyColumn{{"p.recipient_key", false}}, false
			}
		default:
			s.filtered(b.text, b.args...)
		}
	}
	at := s.key[0].name
	if q.Item != "" {
		at = "p.created_at"
	}
	if !q.Since.IsZero() {
		s.along(at+` >= ?`, micros(q.Since))
	}
	if !q.Until.IsZero() && q.After == nil { // of a further page the key says more
		s.along(at+` < ?`, micros(q.Until))
	}
	return s
}

// ListMessages returns messages, one for each recipient: the newest first, or those of one item by
// recipient.
func (db *DB) ListMessages(ctx context.Context, q listing.MessageQuery) (listing.Rows[listing.Message], error) {
	s := messageScan(&q)
	found, err := page(ctx, db, s, messageColumns, q.Page, scanMessage, func(m *listedMessage) listing.Key {
		if len(s.key) == 1 {
			return listing.Key{m.folded}
		}
		return listing.Key{strconv.FormatInt(m.Sealed.UnixMicro(), 10), m.Item, m.folded}
	})
	out := listing.Rows[listing.Message]{Next: found.Next, Partial: found.Partial}
	for _, m := range found.All {
		// It is over before the server has noted that it is.
		if (m.State == escrow.StateHeld || m.State == escrow.StateRead) && !q.Now.IsZero() && !q.Now.Before(m.Expires) {
			m.State = escrow.StateExpired
		}
		out.All = append(out.All, m.Message)
	}
	return out, err
}

// ItemOf returns what is known of a message; [escrow.ErrUnknown] if there is none.
func (db *DB) ItemOf(ctx context.Context, id string) (listing.Item, error) {
	var it listing.Item
	var sealed, expires, held dbsql.NullInt64
	err := db.r.QueryRowContext(ctx, `SELECT id, queue_id, sender, mode, size, created_at, expires_at, ended,
		EXISTS (SELECT 1 FROM escrow_chunk c WHERE c.item_id = escrow_item.id),
		(SELECT count(*) FROM escrow_recovery r WHERE r.item_id = escrow_item.id), held_at, held_by, held_note
		FROM escrow_item WHERE id = ?`, id).Scan(&it.ID, &it.QueueID, &it.Sender, &it.Mode, &it.Size, &sealed, &expires, &it.Ended,
		&it.Kept, &it.Recovery, &held, &it.HeldBy, &it.HeldNote)
	if errors.Is(err, dbsql.ErrNoRows) {
		return it, escrow.ErrUnknown
	} else if err != nil {
		return it, db.explain(err)
	}
	it.Sealed, it.Expires, it.HeldAt = fromMicros(sealed), fromMicros(expires), fromMicros(held)
	return it, nil
}

// counted counts rows, as far as most.
func (db *DB) counted(ctx context.Context, most int, from string, args ...any) (listing.Count, error) {
	var n int
	err := db.r.QueryRowContext(ctx, `SELECT count(*) FROM (SELECT 1 FROM `+from+` LIMIT `+strconv.Itoa(most+1)+`) AS some`, args...).Scan(&n)
	return listing.Count{N: min(n, most), More: n > most}, db.explain(err)
}

// Summary returns the overview. soon is when unread messages end of which it tells.
func (db *DB) Summary(ctx context.Context, soon time.Time) (s listing.Summary, err error) {
	s.States = make(map[string]listing.Count)
	for _, state := range []string{escrow.StateHeld, escrow.StateRead, escrow.StateExpired, escrow.StateRetracted} {
		if s.States[state], err = db.counted(ctx, listing.MostTold, `escrow_pickup WHERE state = ?`, state); err != nil {
			return s, err
		}
	}
	for _, c := range []struct {
		into *listing.Count
		from string
		args []any
	}{
		{&s.OnHold, `escrow_item WHERE held_at IS NOT NULL`, nil},
		{&s.Bounced, `escrow_pickup WHERE notice = 'bounced' AND state = 'held'`, nil},
		{&s.Ending, `escrow_pickup WHERE wrap IS NOT NULL AND expires_at <= ? AND state = 'held'`, []any{micros(soon)}},
		{&s.Mails, `outbox`, nil},
		{&s.Retried, `outbox WHERE attempts > 0`, nil},
		{&s.Replies, `escrow_reply WHERE state = 'queued'`, nil},
	} {
		if *c.into, err = db.counted(ctx, listing.MostTold, c.from, c.args...); err != nil {
			return s, err
		}
	}
	if s.Oldest, err = db.OldestMail(ctx); err != nil {
		return s, err
	}
	if err := db.r.QueryRowContext(ctx, `SELECT coalesce(sum(bytes), 0) FROM escrow_usage`).Scan(&s.Bytes); err != nil {
		return s, db.explain(err)
	}
	s.Domains, err = list(ctx, db, func(row row) (*listing.Usage, error) {
		var u listing.Usage
		return &u, row.Scan(&u.Domain, &u.Bytes, &u.Items)
	}, `SELECT domain, bytes, items FROM escrow_usage ORDER BY bytes DESC, domain LIMIT 10`)
	if err != nil {
		return s, err
	}
	if s.Checkpoint, err = db.lastCheckpoint(ctx); err != nil {
		return s, err
	}
	err = db.r.QueryRowContext(ctx, `SELECT coalesce(max(seq), 0) FROM audit`).Scan(&s.Entries)
	return s, db.explain(err)
}
