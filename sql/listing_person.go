package sql

import (
	"cmp"
	"context"
	dbsql "database/sql"
	"slices"
	"strings"

	"github.com/postseal/postseal/internal/listing"
)

// addressesOf returns addresses of one of the tables that know recipients, in order.
func (db *DB) addressesOf(ctx context.Context, table string, q *listing.PersonQuery) (listing.Rows[string], error) {
	s := &scan{from: table, key: []keyColumn{{"address", false}}, window: windowRows}
	if q.Contains != "" {
		s.filtered(`instr(address, ?) > 0`, q.Contains)
	}
	return page(ctx, db, s, `address`, q.Page, func(row row) (*string, error) {
		var a string
		return &a, row.Scan(&a)
	}, func(a *string) listing.Key { return listing.Key{*a} })
}

// written is a query for those who were sent messages: it goes from one to the next
// along the index, past all messages of the same.
const written = `WITH RECURSIVE person (address, n) AS (
		SELECT (SELECT min(recipient_key) FROM escrow_pickup WHERE recipient_key > ?), 1
		UNION ALL
		SELECT (SELECT min(p.recipient_key) FROM escrow_pickup p WHERE p.recipient_key > person.address), n + 1
		FROM person WHERE person.address IS NOT NULL AND n < ?)
	SELECT address, n FROM person WHERE address IS NOT NULL AND (n = ? OR ? = '' OR instr(address, ?) > 0) LIMIT ?`

func (db *DB) addressesWritten(ctx context.Context, q *listing.PersonQuery) (out listing.Rows[string], err error) {
	after := ""
	if len(q.After) == 1 {
		after = q.After[0]
	}
	window := cmp.Or(db.window, windowRows)
	type step struct {
		address string
		n       int
	}
	found, err := list(ctx, db, func(row row) (*step, error) {
		var s step
		return &s, row.Scan(&s.address, &s.n)
	}, written, after, window, window, q.Contains, q.Contains, q.Limit+1)
	if err != nil {
		return out, err
	}
	for _, s := range found {
		if q.Contains == "" || strings.Contains(s.address, q.Contains) {
			out.All = append(out.All, s.address)
		}
		if s.n == window {
			out.Next, out.Partial = listing.Key{s.address}, true
		}
	}
	if len(out.All) > q.Limit {
		out.All, out.Partial = out.All[:q.Limit], false
		out.Next = listing.Key{out.All[q.Limit-1]}
	}
	return out, nil
}

// ListPersons returns recipients, sorted by address.
func (db *DB) ListPersons(ctx context.Context, q listing.PersonQuery) (listing.Rows[listing.Person], error) {
	var out listing.Rows[listing.Person]
	if len(q.After) > 1 {
		return out, listing.ErrKey
	}
	var addresses []string
	if q.Exactly != "" {
		addresses = []string{q.Exactly}
	} else {
		var sources []listing.Rows[string]
		for _, from := range []struct {
			asked bool
			read  func() (listing.Rows[string], error)
		}{
			{q.Show != listing.WithSetting, func() (listing.Rows[string], error) { return db.addressesOf(ctx, "escrow_account", &q) }},
			{q.Show != listing.WithAccount, func() (listing.Rows[string], error) { return db.addressesOf(ctx, "escrow_recipient", &q) }},
			{q.Show == "", func() (listing.Rows[string], error) { return db.addressesWritten(ctx, &q) }},
		} {
			if !from.asked {
				continue
			}
			rows, err := from.read()
			if err != nil {
				return out, err
			}
			sources = append(sources, rows)
		}
		merged := merge(sources, q.Limit, cmp.Compare[string], func(k listing.Key) string { return k[0] }, func(a string) listing.Key { return listing.Key{a} })
		addresses, out.Next, out.Partial = merged.All, merged.Next, merged.Partial
	}
	for _, a := range addresses {
		p, known, err := db.person(ctx, a, &q)
		if err != nil {
			return out, err
		}
		if known {
			out.All = append(out.All, p)
		}
	}
	return out, nil
}

// merge makes one page of pages of several lists, all in the order of compare. What stands
// beyond the place where one of them ended is not known yet, and is left to the next page.
func merge[T any](sources []listing.Rows[T], limit int, compare func(a, b T) int, place func(listing.Key) T, keyed func(T) listing.Key) (out listing.Rows[T]) {
	var all []T
	var end *T
	more := false
	for _, s := range sources {
		all = append(all, s.All...)
		if s.Next == nil {
			continue
		}
		more = true
		if at := place(s.Next); end == nil || compare(at, *end) < 0 {
			end = &at
			out.Partial = s.Partial
		}
	}
	slices.SortFunc(all, compare)
	all = slices.CompactFunc(all, func(a, b T) bool { return compare(a, b) == 0 })
	if end != nil {
		all = slices.DeleteFunc(all, func(v T) bool { return compare(v, *end) > 0 })
	}
	switch {
	case len(all) > limit:
		all, out.Partial = all[:limit], false
		out.Next = keyed(all[limit-1])
	case more:
		out.Next = keyed(*end)
		out.Partial = out.Partial && len(all) < limit
	default:
		out.Partial = false
	}
	out.All = all
	return out
}

// person returns what is known of an address. known is false where nothing is.
func (db *DB) person(ctx context.Context, address string, q *listing.PersonQuery) (p listing.Person, known bool, err error) {
	var (
		verify                    dbsql.NullString
		set, enrolled, last       dbsql.NullInt64
		phrase, password, totp    bool
		passkeys, devices, amount int
	)
	now := micros(q.Now)
	err = db.r.QueryRowContext(ctx, `SELECT
		(SELECT verify FROM escrow_recipient r WHERE r.address = a.address),
		coalesce((SELECT hashed IS NOT NULL FROM escrow_recipient r WHERE r.address = a.address), 0),
		(SELECT changed_at FROM escrow_recipient r WHERE r.address = a.address),
		(SELECT created_at FROM escrow_account e WHERE e.address = a.address),
		coalesce((SELECT password IS NOT NULL FROM escrow_account e WHERE e.address = a.address), 0),
		coalesce((SELECT totp IS NOT NULL FROM escrow_account e WHERE e.address = a.address), 0),
		(SELECT count(*) FROM escrow_passkey k WHERE k.address = a.address),
		(SELECT count(*) FROM escrow_device d WHERE d.address = a.address AND d.expires_at > ?),
		(SELECT count(*) FROM (SELECT state, expires_at FROM escrow_pickup p WHERE p.recipient_key = a.address ORDER BY p.created_at DESC, p.item_id DESC LIMIT ?) AS newest
			WHERE newest.state IN ('held', 'read') AND newest.expires_at > ?),
		(SELECT max(created_at) FROM escrow_pickup p WHERE p.recipient_key = a.address)
		FROM (SELECT ? AS address) AS a`, now, listing.MostCounted, now, address).
		Scan(&verify, &phrase, &set, &enrolled, &password, &totp, &passkeys, &devices, &amount, &last)
	if err != nil {
		return p, false, db.explain(err)
	}
	p = listing.Person{
		Address: address, Verify: verify.String, Passphrase: phrase, Set: fromMicros(set),
		Account: enrolled.Valid, Password: password, TOTP: totp, Passkeys: passkeys, Enrolled: fromMicros(enrolled),
		Devices: devices, Messages: amount, Last: fromMicros(last),
	}
	return p, verify.Valid || enrolled.Valid || last.Valid, nil
}
