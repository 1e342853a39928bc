package sql

import (
	"context"
	dbsql "database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/postseal/postseal/internal/adminlogin"
	"github.com/postseal/postseal/internal/audit"
)

var _ adminlogin.Store = (*DB)(nil)

// adminSessions is how many browsers an administrator may be signed in with; the one
// unused the longest makes room.
const adminSessions = 20

const selectAdmin = `SELECT name, role, password, totp, totp_step, created_at, changed_at, used_at FROM admin `

func scanAdmin(row row) (*adminlogin.Admin, error) {
	var (
		a                      adminlogin.Admin
		created, changed, used dbsql.NullInt64
	)
	err := row.Scan(&a.Name, &a.Role, &a.Password, &a.TOTP, &a.Step, &created, &changed, &used)
	if errors.Is(err, dbsql.ErrNoRows) {
		return nil, adminlogin.ErrUnknown
	} else if err != nil {
		return nil, fmt.Errorf("read an administrator: %w", err)
	}
	a.Created, a.Changed, a.Used = fromMicros(created), fromMicros(changed), fromMicros(used)
	return &a, nil
}

// HasAdmins reports whether there is any administrator.
func (db *DB) HasAdmins(ctx context.Context) (has bool, err error) {
	err = db.r.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM admin)`).Scan(&has)
	return has, db.explain(err)
}

// Admin finds an administrator.
func (db *DB) Admin(ctx context.Context, name string) (*adminlogin.Admin, error) {
	a, err := scanAdmin(db.r.QueryRowContext(ctx, selectAdmin+`WHERE name = ?`, name))
	return a, db.explain(err)
}

// Admins lists the administrators, by name.
func (db *DB) Admins(ctx context.Context) ([]adminlogin.Admin, error) {
	return list(ctx, db, scanAdmin, selectAdmin+`ORDER BY name`)
}

// AddAdmin keeps a new administrator.
func (db *DB) AddAdmin(ctx context.Context, a adminlogin.Admin) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		n, err := affected(tx.ExecContext(ctx, `INSERT INTO admin (name, role, password, totp, totp_step, created_at, changed_at) VALUES (?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (name) DO NOTHING`,
			a.Name, a.Role, a.Password, a.TOTP, a.Step, micros(a.Created), micros(a.Changed)))
		if err != nil {
			return fmt.Errorf("keep an administrator: %w", err)
		}
		if n == 0 {
			return adminlogin.ErrExists
		}
		return auditAdmin(ctx, tx, db.now(), audit.AdminAdded, a.Name, a.Role)
	})
}

// ResetAdmin changes an administrator, and ends the sessions.
func (db *DB) ResetAdmin(ctx context.Context, a adminlogin.Admin) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		n, err := affected(tx.ExecContext(ctx, `UPDATE admin SET role = ?, password = ?, totp = ?, totp_step = ?, changed_at = max(?, changed_at + 1) WHERE name = ?`,
			a.Role, a.Password, a.TOTP, a.Step, micros(a.Changed), a.Name))
		if err != nil {
			return fmt.Errorf("reset an administrator: %w", err)
		}
		if n == 0 {
			return adminlogin.ErrUnknown
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM admin_session WHERE admin = ?`, a.Name); err != nil {
			return fmt.Errorf("reset an administrator: %w", err)
		}
		return auditAdmin(ctx, tx, db.now(), audit.AdminReset, a.Name, a.Role)
	})
}

// RemoveAdmin deletes an administrator, and with it the sessions.
func (db *DB) RemoveAdmin(ctx context.Context, name string) (removed bool, err error) {
	err = db.write(ctx, func(tx *dbsql.Tx) error {
		n, err := affected(tx.ExecContext(ctx, `DELETE FROM admin WHERE name = ?`, name))
		if removed = n > 0; err != nil || !removed {
			return err
		}
		return auditAdmin(ctx, tx, db.now(), audit.AdminRemoved, name, "")
	})
	return removed && err == nil, err
}

func auditAdmin(ctx context.Context, tx *dbsql.Tx, now time.Time, kind, name string, role adminlogin.Role) error {
	return appendAudit(ctx, tx, now, audit.Entry{Kind: kind, Details: audit.Details{"admin": name, "role": string(role)}})
}

// BeginSession keeps a session.
func (db *DB) BeginSession(ctx context.Context, s adminlogin.Session, was *adminlogin.Admin, step int64, replaces []byte) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		how := "oidc"
		if was != nil {
			how = "password"
			n, err := affected(tx.ExecContext(ctx, `UPDATE admin SET totp_step = ?, used_at = ? WHERE name = ? AND changed_at = ? AND totp_step < ?`,
				step, micros(s.Created), was.Name, micros(was.Changed), step))
			if err != nil {
				return fmt.Errorf("sign in: %w", err)
			}
			if n == 0 {
				return adminlogin.ErrChanged
			}
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM admin_session WHERE expires_at <= ? OR id = ?`, micros(s.Created), replaces)
		if err != nil {
			return fmt.Errorf("sign in: %w", err)
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO admin_session (id, name, admin, issuer, subject, email, created_at, seen_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			s.ID, s.Name, orNull(s.Admin), s.Identity.Issuer, s.Identity.Subject, s.Identity.Email, micros(s.Created), micros(s.Seen), micros(s.Expires))
		if err != nil {
			return fmt.Errorf("sign in: %w", err)
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM admin_session WHERE name = ? AND id NOT IN
			(SELECT id FROM admin_session WHERE name = ? ORDER BY seen_at DESC, created_at DESC LIMIT ?)`, s.Name, s.Name, adminSessions)
		if err != nil {
			return fmt.Errorf("sign in: %w", err)
		}
		return appendAudit(ctx, tx, db.now(), audit.Entry{Kind: audit.AdminSignedIn, Actor: actorNamed(ctx, s.Name), Details: audit.Details{"how": how, "role": string(s.Role)}})
	})
}

// actorNamed returns who acts in ctx, by the name that is known only now.
func actorNamed(ctx context.Context, name string) audit.Actor {
	a := audit.By(ctx)
	a.Name = name
	return a
}

// Session finds a session, with the role that its account has now.
func (db *DB) Session(ctx context.Context, id []byte) (*adminlogin.Session, error) {
	var (
		s                      adminlogin.Session
		admin, role            dbsql.NullString
		created, seen, expires dbsql.NullInt64
	)
	err := db.r.QueryRowContext(ctx, `SELECT s.id, s.name, s.admin, a.role, s.issuer, s.subject, s.email, s.created_at, s.seen_at, s.expires_at
		FROM admin_session s LEFT JOIN admin a ON a.name = s.admin WHERE s.id = ?`, id).
		Scan(&s.ID, &s.Name, &admin, &role, &s.Identity.Issuer, &s.Identity.Subject, &s.Identity.Email, &created, &seen, &expires)
	if errors.Is(err, dbsql.ErrNoRows) {
		return nil, adminlogin.ErrUnknown
	} else if err != nil {
		return nil, db.explain(fmt.Errorf("read a session: %w", err))
	}
	s.Admin, s.Role = admin.String, adminlogin.Role(role.String)
	s.Created, s.Seen, s.Expires = fromMicros(created), fromMicros(seen), fromMicros(expires)
	return &s, nil
}

// SeenSession notes that a session was used.
func (db *DB) SeenSession(ctx context.Context, id []byte, now time.Time) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE admin_session SET seen_at = ? WHERE id = ?`, micros(now), id)
		return err
	})
}

// EndSession ends a session.
func (db *DB) EndSession(ctx context.Context, id []byte) (ended bool, err error) {
	err = db.write(ctx, func(tx *dbsql.Tx) error {
		var name string
		err := tx.QueryRowContext(ctx, `DELETE FROM admin_session WHERE id = ? RETURNING name`, id).Scan(&name)
		if errors.Is(err, dbsql.ErrNoRows) {
			return nil
		} else if err != nil {
			return fmt.Errorf("sign out: %w", err)
		}
		ended = true
		return appendAudit(ctx, tx, db.now(), audit.Entry{Kind: audit.AdminSignedOut, Actor: actorNamed(ctx, name)})
	})
	return ended && err == nil, err
}
