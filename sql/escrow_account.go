package sql

import (
	"bytes"
	"context"
	dbsql "database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/audit"
)

// devicesKept is how many devices of each verification an address may have; the
// one unused the longest makes room.
const devicesKept = 50

const selectDevice = `SELECT id, address, how, name, created_at, seen_at, expires_at FROM escrow_device `

func scanDevice(row row) (*escrow.StoredDevice, error) {
	var (
		d                      escrow.StoredDevice
		created, seen, expires dbsql.NullInt64
	)
	err := row.Scan(&d.ID, &d.Address, &d.How, &d.Name, &created, &seen, &expires)
	if errors.Is(err, dbsql.ErrNoRows) {
		return nil, escrow.ErrUnknown
	} else if err != nil {
		return nil, fmt.Errorf("read a device: %w", err)
	}
	d.Created, d.Seen, d.Expires = fromMicros(created), fromMicros(seen), fromMicros(expires)
	return &d, nil
}

// Device finds a device that is not over.
func (db *DB) Device(ctx context.Context, id []byte, now time.Time) (*escrow.StoredDevice, error) {
	d, err := scanDevice(db.r.QueryRowContext(ctx, selectDevice+`WHERE id = ? AND expires_at > ?
		AND (how <> 'account' OR EXISTS (SELECT 1 FROM escrow_account a WHERE a.address = escrow_device.address))`, id, micros(now)))
	return d, db.explain(err)
}

// Devices lists those of an address, the newest first.
func (db *DB) Devices(ctx context.Context, address string, now time.Time) ([]escrow.StoredDevice, error) {
	return list(ctx, db, scanDevice, selectDevice+`WHERE address = ? AND expires_at > ? ORDER BY created_at DESC, id`, address, micros(now))
}

// SeenDevice notes that a device was used.
func (db *DB) SeenDevice(ctx context.Context, id []byte, now time.Time) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE escrow_device SET seen_at = ? WHERE id = ?`, micros(now), id)
		return err
	})
}

// DropDevice forgets one device of an address.
func (db *DB) DropDevice(ctx context.Context, address string, id []byte) (dropped bool, err error) {
	err = db.write(ctx, func(tx *dbsql.Tx) error {
		n, err := affected(tx.ExecContext(ctx, `DELETE FROM escrow_device WHERE address = ? AND id = ?`, address, id))
		if dropped = n > 0; err != nil || !dropped {
			return err
		}
		return appendAudit(ctx, tx, db.now(), audit.Entry{Kind: audit.DeviceDropped, Recipient: address})
	})
	return dropped && err == nil, err
}

// DropDevices forgets all devices of an address.
func (db *DB) DropDevices(ctx context.Context, address string) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		n, err := affected(tx.ExecContext(ctx, `DELETE FROM escrow_device WHERE address = ?`, address))
		if err != nil || n == 0 {
			return err
		}
		return appendAudit(ctx, tx, db.now(), audit.Entry{Kind: audit.DeviceDropped, Recipient: address, Details: audit.Details{"which": "all"}})
	})
}

const selectAccount = `SELECT address, tag, handle, password, totp, totp_step, created_at, changed_at FROM escrow_account `

func scanAccount(row row) (*escrow.StoredAccount, error) {
	var (
		a                escrow.StoredAccount
		created, changed dbsql.NullInt64
	)
	err := row.Scan(&a.Address, &a.Tag, &a.Handle, &a.Password, &a.TOTP, &a.Step, &created, &changed)
	if errors.Is(err, dbsql.ErrNoRows) {
		return nil, escrow.ErrUnknown
	} else if err != nil {
		return nil, fmt.Errorf("read an account: %w", err)
	}
	a.Created, a.Changed = fromMicros(created), fromMicros(changed)
	return &a, nil
}

// AccountOf finds an account with its passkeys.
func (db *DB) AccountOf(ctx context.Context, address string) (*escrow.StoredAccount, error) {
	return db.account(ctx, `WHERE address = ?`, address)
}

// AccountByTag finds an account by its tag.
func (db *DB) AccountByTag(ctx context.Context, tag string) (*escrow.StoredAccount, error) {
	return db.account(ctx, `WHERE tag = ?`, tag)
}

func (db *DB) account(ctx context.Context, where string, arg any) (*escrow.StoredAccount, error) {
	a, err := scanAccount(db.r.QueryRowContext(ctx, selectAccount+where, arg))
	if err != nil {
		return nil, db.explain(err)
	}
	rows, err := db.r.QueryContext(ctx, `SELECT id, credential, name, created_at, used_at FROM escrow_passkey WHERE address = ? ORDER BY created_at, id`, a.Address)
	if err != nil {
		return nil, db.explain(err)
	}
	defer rows.Close()
	for rows.Next() {
		var p escrow.StoredPasskey
		var created, used dbsql.NullInt64
		if err := rows.Scan(&p.ID, &p.Credential, &p.Name, &created, &used); err != nil {
			return nil, db.explain(err)
		}
		p.Created, p.Used = fromMicros(created), fromMicros(used)
		a.Passkeys = append(a.Passkeys, p)
	}
	return a, db.explain(rows.Err())
}

// Accounts lists all accounts, without their passkeys.
func (db *DB) Accounts(ctx context.Context) ([]escrow.StoredAccount, error) {
	return list(ctx, db, scanAccount, selectAccount+`ORDER BY address`)
}

// ChangeAccount makes a change to an account, or nothing of it.
func (db *DB) ChangeAccount(ctx context.Context, c escrow.AccountChange) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		for _, step := range []func(context.Context, *dbsql.Tx, *escrow.AccountChange) error{
			accountHolds, accountUses, accountChanges, accountDevices,
		} {
			if err := step(ctx, tx, &c); err != nil {
				return err
			}
		}
		for _, e := range c.Events {
			if err := noteEvent(ctx, tx, c.Pickup, e); err != nil {
				return err
			}
		}
		if len(c.Events) > 0 {
			if err := trimEvents(ctx, tx, c.Pickup); err != nil {
				return err
			}
		}
		for i := range c.Mails {
			if err := queueMail(ctx, tx, &c.Mails[i]); err != nil {
				return err
			}
		}
		return auditAccount(ctx, tx, &c)
	})
}

// accountHolds checks that the account is as it was, and who changes it still signed in.
func accountHolds(ctx context.Context, tx *dbsql.Tx, c *escrow.AccountChange) error {
	if c.Holder != nil {
		d, err := scanDevice(tx.QueryRowContext(ctx, selectDevice+`WHERE id = ? AND address = ? AND expires_at > ?`, c.Holder, c.Address, micros(c.Now)))
		if err != nil {
			return err
		}
		if d.How != escrow.VerifyAccount {
			return escrow.ErrUnknown
		}
	}
	if c.Was == nil && !c.Absent {
		return nil
	}
	is, err := scanAccount(tx.QueryRowContext(ctx, selectAccount+`WHERE address = ?`, c.Address))
	switch {
	case errors.Is(err, escrow.ErrUnknown) && c.Absent:
		return nil
	case errors.Is(err, escrow.ErrUnknown):
		return escrow.ErrChanged
	case err != nil:
		return err
	case c.Absent, !bytes.Equal(is.Handle, c.Was.Handle), !bytes.Equal(is.Password, c.Was.Password), !bytes.Equal(is.TOTP, c.Was.TOTP):
		return escrow.ErrChanged
	}
	return nil
}

// accountUses uses up what proves that the change may be made.
func accountUses(ctx context.Context, tx *dbsql.Tx, c *escrow.AccountChange) error {
	if c.Code != nil {
		ok, err := useCode(ctx, tx, c.Code.Pickup, c.Code.Tag, c.Now, c.Code.Grace)
		if err != nil {
			return err
		}
		if !ok {
			return escrow.ErrWrong
		}
	}
	if c.Ceremony != nil {
		n, err := affected(tx.ExecContext(ctx, `INSERT INTO escrow_ceremony (id, expires_at) VALUES (?, ?) ON CONFLICT (id) DO NOTHING`,
			c.Ceremony.ID, micros(c.Ceremony.Expires)))
		if err != nil {
			return fmt.Errorf("use a ceremony: %w", err)
		}
		if n == 0 {
			return escrow.ErrCeremony
		}
	}
	if c.Step > 0 && c.TOTP == nil { // a new TOTP starts with its step
		n, err := affected(tx.ExecContext(ctx, `UPDATE escrow_account SET totp_step = ? WHERE address = ? AND totp_step < ?`, c.Step, c.Address, c.Step))
		if err != nil {
			return fmt.Errorf("use a TOTP step: %w", err)
		}
		if n == 0 {
			return escrow.ErrWrong
		}
	}
	return nil
}

func accountChanges(ctx context.Context, tx *dbsql.Tx, c *escrow.AccountChange) error {
	exec := func(query string, args ...any) (int64, error) {
		n, err := affected(tx.ExecContext(ctx, query, args...))
		if err != nil {
			err = fmt.Errorf("change an account: %w", err)
		}
		return n, err
	}
	if a := c.Create; a != nil {
		if err := deleteAccount(ctx, tx, a.Address); err != nil {
			return err
		}
		_, err := exec(`INSERT INTO escrow_account (address, tag, handle, password, totp, totp_step, created_at, changed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
			a.Address, a.Tag, a.Handle, a.Password, a.TOTP, a.Step, micros(a.Created), micros(a.Changed))
		if err != nil {
			return err
		}
	}
	if c.Password != nil {
		if _, err := exec(`UPDATE escrow_account SET password = ?, changed_at = ? WHERE address = ?`, c.Password, micros(c.Now), c.Address); err != nil {
			return err
		}
	}
	if c.TOTP != nil {
		if _, err := exec(`UPDATE escrow_account SET totp = ?, totp_step = ?, changed_at = ? WHERE address = ?`, c.TOTP, c.Step, micros(c.Now), c.Address); err != nil {
			return err
		}
	}
	if c.DropTOTP {
		if _, err := exec(`UPDATE escrow_account SET totp = NULL, changed_at = ? WHERE address = ?`, micros(c.Now), c.Address); err != nil {
			return err
		}
	}
	if k := c.AddPasskey; k != nil {
		n, err := exec(`INSERT INTO escrow_passkey (id, address, credential, name, created_at, used_at) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`,
			k.ID, c.Address, k.Credential, k.Name, micros(k.Created), micros(k.Used))
		if err != nil {
			return err
		}
		if n == 0 { // of this account or another: an id is unique (WebAuthn, section 7.1, step 26)
			return escrow.ErrCeremony
		}
	}
	if k := c.UsePasskey; k != nil {
		n, err := exec(`UPDATE escrow_passkey SET credential = ?, used_at = ? WHERE id = ? AND address = ? AND credential = ?`,
			k.Now, micros(c.Now), k.ID, c.Address, k.Was)
		if err != nil {
			return err
		}
		if n == 0 {
			return escrow.ErrCeremony
		}
	}
	if c.DropKey != nil {
		n, err := exec(`DELETE FROM escrow_passkey WHERE id = ? AND address = ? AND (
			EXISTS (SELECT 1 FROM escrow_account a WHERE a.address = escrow_passkey.address AND a.password IS NOT NULL)
			OR (SELECT count(*) FROM escrow_passkey o WHERE o.address = escrow_passkey.address) > 1)`, c.DropKey, c.Address)
		if err != nil {
			return err
		}
		if n == 0 {
			return escrow.ErrLastMeans
		}
	}
	return nil
}

func accountDevices(ctx context.Context, tx *dbsql.Tx, c *escrow.AccountChange) error {
	if c.SignOut {
		if _, err := tx.ExecContext(ctx, `DELETE FROM escrow_device WHERE address = ? AND id IS DISTINCT FROM ?`, c.Address, c.Keep); err != nil {
			return fmt.Errorf("sign devices out: %w", err)
		}
	}
	d := c.Device
	if d == nil {
		return nil
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO escrow_device (id, address, how, name, created_at, seen_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		d.ID, d.Address, d.How, d.Name, micros(d.Created), micros(d.Seen), micros(d.Expires))
	if err != nil {
		return fmt.Errorf("keep a device: %w", err)
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM escrow_device WHERE address = ? AND how = ? AND id IS DISTINCT FROM ? AND id NOT IN (
		SELECT id FROM escrow_device WHERE address = ? AND how = ? ORDER BY seen_at DESC, created_at DESC LIMIT ?)`,
		d.Address, d.How, d.ID, d.Address, d.How, devicesKept)
	if err != nil {
		return fmt.Errorf("keep a device: %w", err)
	}
	return nil
}

// deleteAccount deletes an account, its passkeys, and all devices of the address.
func deleteAccount(ctx context.Context, tx *dbsql.Tx, address string) error {
	for _, q := range []string{
		`DELETE FROM escrow_passkey WHERE address = ?`,
		`DELETE FROM escrow_account WHERE address = ?`,
		`DELETE FROM escrow_device WHERE address = ?`,
	} {
		if _, err := tx.ExecContext(ctx, q, address); err != nil {
			return fmt.Errorf("delete an account: %w", err)
		}
	}
	return nil
}

// DeleteAccount deletes an account with all that belongs to it.
func (db *DB) DeleteAccount(ctx context.Context, address string, e escrow.Event) (deleted bool, err error) {
	err = db.write(ctx, func(tx *dbsql.Tx) error {
		if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM escrow_account WHERE address = ?)`, address).Scan(&deleted); err != nil {
			return err
		}
		var devices int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM escrow_device WHERE address = ?`, address).Scan(&devices); err != nil {
			return err
		}
		if err := deleteAccount(ctx, tx, address); err != nil {
			return err
		}
		if !deleted {
			if devices == 0 {
				return nil
			}
			return appendAudit(ctx, tx, e.At, audit.Entry{Kind: audit.DeviceDropped, Recipient: address, Details: audit.Details{"which": "all", "by": e.Detail}})
		}
		err := appendAudit(ctx, tx, e.At, audit.Entry{Kind: audit.AccountReset, Recipient: address, Details: audit.Details{"by": e.Detail}})
		if err != nil {
			return err
		}
		ids, err := column(ctx, tx, `SELECT id FROM escrow_pickup WHERE recipient_key = ? AND wrap IS NOT NULL AND expires_at > ?`, address, micros(e.At))
		if err != nil {
			return err
		}
		for _, id := range ids {
			if err := noteEvent(ctx, tx, id, e); err != nil {
				return err
			}
		}
		return nil
	})
	return deleted && err == nil, err
}
