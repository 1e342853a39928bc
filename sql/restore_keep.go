package sql

import (
	"context"
	dbsql "database/sql"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/adminlogin"
	"github.com/postseal/postseal/internal/audit"
)

// present is what [Restore] takes from the database that it puts aside: what was ended,
// put on hold or revoked there must not be undone by an older copy.
type present struct {
	rules   int64                // version of the rules, -1 where it can't be told
	over    map[string]string    // states of pickups that are over, by id
	ended   map[[2]string]string // the same by item and recipient: of what is forgotten by now too
	live    []string             // pickups that are not over, and queued replies
	items   map[string]bool      // items that there are
	holds   map[string]holdRow   // of items on hold
	apiKeys []string             // that were removed
	retired map[string]bool      // recovery keys
	handles map[string][]byte    // of accounts, by address
	devices map[string]bool      // ids
	admins  map[string]*adminlogin.Admin
	// descends says that it went on from the backup: then what is not there was taken
	// away. A database that was begun anew after a loss does not.
	descends bool
}

type holdRow struct {
	at       int64
	by, note string
}

// Migrations that brought what a restore looks at.
const (
	firstWithAudit = 5
	firstWithHolds = 7
	firstWithAdmin = 8
)

// readPresent reads it of a database of any version that has an escrow. The backup's audit
// log ends at seq.
func (db *DB) readPresent(ctx context.Context, seq int64, hash audit.Hash) (*present, error) {
	has, err := db.version(ctx, db.r)
	if err != nil {
		return nil, err
	}
	p := &present{
		rules: -1, over: make(map[string]string), ended: make(map[[2]string]string), items: make(map[string]bool), holds: make(map[string]holdRow),
		retired: make(map[string]bool), handles: make(map[string][]byte), devices: make(map[string]bool),
		admins: make(map[string]*adminlogin.Admin),
	}
	each := func(since int64, query string, row func(scan func(...any) error) error) {
		if err != nil || has < since {
			return
		}
		var rows *dbsql.Rows
		if rows, err = db.r.QueryContext(ctx, query); err != nil {
			return
		}
		defer rows.Close()
		for err == nil && rows.Next() {
			err = row(rows.Scan)
		}
		if err == nil {
			err = rows.Err()
		}
	}
	var a, b, c string
	each(0, `SELECT id, state FROM escrow_pickup WHERE wrap IS NULL AND state IN ('expired', 'retracted')`, func(scan func(...any) error) error {
		err := scan(&a, &b)
		p.over[a] = b
		return err
	})
	each(0, `SELECT id FROM escrow_pickup WHERE wrap IS NOT NULL UNION ALL SELECT id FROM escrow_reply WHERE state = 'queued'`, func(scan func(...any) error) error {
		err := scan(&a)
		p.live = append(p.live, a)
		return err
	})
	each(0, `SELECT id FROM escrow_item`, func(scan func(...any) error) error {
		err := scan(&a)
		p.items[a] = true
		return err
	})
	// The log outlives what it tells of.
	each(firstWithAudit, `SELECT kind, item, recipient FROM audit WHERE kind IN ('retracted', 'expired') AND item IS NOT NULL AND recipient IS NOT NULL`, func(scan func(...any) error) error {
		err := scan(&a, &b, &c)
		p.ended[[2]string{b, c}] = a // the kinds are the states
		return err
	})
	each(firstWithAudit, `SELECT json_extract(details, '$.key') FROM audit WHERE kind = 'api-key-removed'`, func(scan func(...any) error) error {
		err := scan(&a)
		p.apiKeys = append(p.apiKeys, a)
		return err
	})
	each(firstWithRecovery, `SELECT id FROM recovery_key WHERE retired_at IS NOT NULL`, func(scan func(...any) error) error {
		err := scan(&a)
		p.retired[a] = true
		return err
	})
	each(firstWithHolds, `SELECT id, held_at, held_by, held_note FROM escrow_item WHERE held_at IS NOT NULL`, func(scan func(...any) error) error {
		var h holdRow
		err := scan(&a, &h.at, &h.by, &h.note)
		p.holds[a] = h
		return err
	})
	each(0, `SELECT address, handle FROM escrow_account`, func(scan func(...any) error) error {
		var handle []byte
		err := scan(&a, &handle)
		p.handles[a] = handle
		return err
	})
	each(0, `SELECT id FROM escrow_device`, func(scan func(...any) error) error {
		var id []byte
		err := scan(&id)
		p.devices[string(id)] = true
		return err
	})
	each(firstWithAdmin, selectAdmin, func(scan func(...any) error) error {
		admin, err := scanAdmin(rowFunc(scan))
		if err == nil {
			p.admins[admin.Name] = admin
		}
		return err
	})
	if err == nil && has >= firstWithAudit && seq > 0 {
		err = db.r.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM audit WHERE seq = ? AND hash = ?)`, seq, hash[:]).Scan(&p.descends)
	}
	if err == nil {
		p.rules, err = rulesVersion(ctx, db.r)
	}
	return p, db.explain(err)
}

// rowFunc makes a row of its Scan.
type rowFunc func(...any) error

func (f rowFunc) Scan(to ...any) error { return f(to...) }

// keepHolds gives the items of a restored database the holds that they have in the
// present one: a hold that was put after the backup must not be lost, and what was released
// must not be kept.
func (db *DB) keepHolds(ctx context.Context, p *present, r *Restored) error {
	was := make(map[string]bool)
	ids, err := column(ctx, db.r, `SELECT id FROM escrow_item WHERE held_at IS NOT NULL`)
	if err != nil {
		return db.explain(err)
	}
	for _, id := range ids {
		was[id] = true
	}
	return db.write(ctx, func(tx *dbsql.Tx) error {
		for id, h := range p.holds {
			if was[id] {
				continue
			}
			n, err := affected(tx.ExecContext(ctx, `UPDATE escrow_item SET held_at = ?, held_by = ?, held_note = ? WHERE id = ? AND ended = 0`, h.at, h.by, h.note, id))
			if err != nil {
				return err
			}
			if n == 0 {
				continue // sealed after the backup
			}
			r.Holds++
			if err := auditItem(ctx, tx, db.now(), id, audit.Held, audit.Details{"note": h.note, "by": "restore"}); err != nil {
				return err
			}
		}
		return nil
	})
}

// keepReleases ends holds that were ended in the present database. What they kept ends
// by that, so it comes after what is over.
func (db *DB) keepReleases(ctx context.Context, p *present) error {
	ids, err := column(ctx, db.r, `SELECT id FROM escrow_item WHERE held_at IS NOT NULL`)
	if err != nil {
		return db.explain(err)
	}
	for _, id := range ids {
		if _, held := p.holds[id]; held || !p.items[id] && !p.forgotten(id) {
			continue
		}
		if err := db.Release(ctx, id, "released before the restore", db.now()); err != nil {
			return err
		}
	}
	return nil
}

// forgotten reports whether an item that is not there any more was there, and ended.
func (p *present) forgotten(item string) bool {
	for k := range p.ended {
		if k[0] == item {
			return true
		}
	}
	return false
}

// keepEnds ends what is over in the present database. Whoever had to be told was told by
// the server that ended it.
func (db *DB) keepEnds(ctx context.Context, p *present, r *Restored) error {
	over := make(map[string]string)
	rows, err := db.r.QueryContext(ctx, `SELECT id, item_id, recipient_key FROM escrow_pickup WHERE wrap IS NOT NULL`)
	if err != nil {
		return db.explain(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id, item, recipient string
		if err := rows.Scan(&id, &item, &recipient); err != nil {
			return err
		}
		if state, ok := p.over[id]; ok {
			over[id] = state
		} else if state, ok := p.ended[[2]string{item, recipient}]; ok {
			over[id] = state
		}
	}
	if err := rows.Err(); err != nil {
		return db.explain(err)
	}
	for id, state := range over {
		n, err := db.end(ctx, state, "", db.now(), `id = ?`, id)
		if err != nil {
			return err
		}
		if n == 0 {
			continue
		}
		r.Ended += n
		err = db.write(ctx, func(tx *dbsql.Tx) error {
			_, err := tx.ExecContext(ctx, `UPDATE escrow_pickup SET settled_at = coalesce(settled_at, ?) WHERE id = ?`, micros(db.now()), id)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// keepRevoked takes away what was taken away in the present database since: keys of the
// API, recovery keys, accounts that were reset, devices that were signed out, accounts of
// administrators. One of these that was reset has what it was reset to.
func (db *DB) keepRevoked(ctx context.Context, p *present, r *Restored) error {
	for _, id := range p.apiKeys {
		if removed, err := db.RemoveAPIKey(ctx, id); err != nil {
			return err
		} else if removed {
			r.Revoked++
		}
	}
	for id := range p.retired {
		if done, err := db.RetireRecoveryKey(ctx, id, db.now()); err != nil {
			return err
		} else if done {
			r.Revoked++
		}
	}
	if !p.descends {
		return nil
	}
	admins, err := db.Admins(ctx)
	if err != nil {
		return err
	}
	for _, a := range admins {
		switch now := p.admins[a.Name]; {
		case now == nil:
			if _, err := db.RemoveAdmin(ctx, a.Name); err != nil {
				return err
			}
		case !now.Changed.Equal(a.Changed):
			if err := db.ResetAdmin(ctx, *now); err != nil {
				return err
			}
		default:
			continue
		}
		r.Revoked++
	}
	accounts, err := db.Accounts(ctx)
	if err != nil {
		return err
	}
	for _, a := range accounts {
		if string(p.handles[a.Address]) == string(a.Handle) {
			continue
		}
		e := escrow.Event{At: db.now(), What: escrow.EventReset, Detail: escrow.ResetAdministrator}
		if _, err := db.DeleteAccount(ctx, a.Address, e); err != nil {
			return err
		}
		r.Revoked++
	}
	devices, err := list(ctx, db, scanDevice, selectDevice)
	if err != nil {
		return err
	}
	for _, d := range devices {
		if p.devices[string(d.ID)] || !db.now().Before(d.Expires) {
			continue
		}
		if dropped, err := db.DropDevice(ctx, d.Address, d.ID); err != nil {
			return err
		} else if dropped {
			r.Revoked++
		}
	}
	return nil
}

// lost counts what the present database has and this one has not.
func (db *DB) lost(ctx context.Context, p *present) (n int, err error) {
	for _, id := range p.live {
		var has bool
		err := db.r.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM escrow_pickup WHERE id = ?) OR EXISTS (SELECT 1 FROM escrow_reply WHERE id = ?)`, id, id).Scan(&has)
		if err != nil {
			return 0, db.explain(err)
		}
		if !has {
			n++
		}
	}
	return n, nil
}
