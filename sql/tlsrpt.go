package sql

import (
	"context"
	dbsql "database/sql"
	"fmt"
	"time"

	"github.com/postseal/postseal/tlsmap/tlsrpt"
)

var _ tlsrpt.Store = (*DB)(nil)

// AddTLSCounts adds to what is counted, all or nothing.
func (db *DB) AddTLSCounts(ctx context.Context, counts []tlsrpt.Count) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		add, err := tx.PrepareContext(ctx, `INSERT INTO tlsrpt_count (day, domain, policy, outcome, sessions) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (day, domain, policy, outcome) DO UPDATE SET sessions = sessions + excluded.sessions`)
		if err != nil {
			return fmt.Errorf("count TLS sessions: %w", err)
		}
		defer add.Close()
		for _, c := range counts {
			if _, err := add.ExecContext(ctx, c.Day, c.Domain, c.Policy, c.Outcome, c.Sessions); err != nil {
				return fmt.Errorf("count TLS sessions of %s: %w", c.Domain, err)
			}
		}
		return nil
	})
}

const tlsCounts = `SELECT day, domain, policy, outcome, sessions FROM tlsrpt_count WHERE day = ? AND domain = ?`

func scanTLSCount(r row) (*tlsrpt.Count, error) {
	var c tlsrpt.Count
	return &c, r.Scan(&c.Day, &c.Domain, &c.Policy, &c.Outcome, &c.Sessions)
}

// TLSCounts returns what is counted of a domain and day, in no order.
func (db *DB) TLSCounts(ctx context.Context, day, domain string) ([]tlsrpt.Count, error) {
	return list(ctx, db, scanTLSCount, tlsCounts, day, domain)
}

// TLSCounted sums up all that is counted of days before one, or of all with "",
// sorted by day and domain.
func (db *DB) TLSCounted(ctx context.Context, before string) ([]tlsrpt.Counted, error) {
	scan := func(r row) (*tlsrpt.Counted, error) {
		var c tlsrpt.Counted
		return &c, r.Scan(&c.Day, &c.Domain, &c.Sessions, &c.Failures)
	}
	if before == "" {
		before = "~" // behind all days
	}
	return list(ctx, db, scan, `SELECT day, domain, SUM(sessions), SUM(CASE WHEN outcome = '' THEN 0 ELSE sessions END)
		FROM tlsrpt_count WHERE day < ? GROUP BY day, domain ORDER BY day, domain`, before)
}

// DropTLSCounts deletes the counts of domains of a day.
func (db *DB) DropTLSCounts(ctx context.Context, day string, domains []string) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		for _, d := range domains {
			if err := dropTLSCounts(ctx, tx, day, d); err != nil {
				return err
			}
		}
		return nil
	})
}

func dropTLSCounts(ctx context.Context, tx *dbsql.Tx, day, domain string) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM tlsrpt_count WHERE day = ? AND domain = ?`, day, domain); err != nil {
		return fmt.Errorf("delete the TLS counts of %s: %w", domain, err)
	}
	return nil
}

// MakeTLSReports keeps the reports that report makes of what is counted of a
// domain and day, and deletes the counts, in one transaction. Where nothing is
// counted it does nothing.
func (db *DB) MakeTLSReports(ctx context.Context, day, domain string, report func([]tlsrpt.Count) ([]tlsrpt.Report, error)) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		counts, err := tlsCountsOf(ctx, tx, day, domain)
		if err != nil || len(counts) == 0 {
			return err
		}
		reports, err := report(counts)
		if err != nil {
			return err
		}
		for _, r := range reports {
			_, err := tx.ExecContext(ctx, `INSERT INTO tlsrpt_report (id, day, domain, uri, report, tries, next_at, error, created_at)
				VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`, r.ID, r.Day, r.Domain, r.URI, r.JSON, r.Tries, micros(r.Next), r.Error, micros(r.Created))
			if err != nil {
				return fmt.Errorf("write the TLS report of %s: %w", domain, err)
			}
		}
		return dropTLSCounts(ctx, tx, day, domain)
	})
}

func tlsCountsOf(ctx context.Context, tx *dbsql.Tx, day, domain string) (counts []tlsrpt.Count, err error) {
	rows, err := tx.QueryContext(ctx, tlsCounts, day, domain)
	if err != nil {
		return nil, fmt.Errorf("read the TLS counts of %s: %w", domain, err)
	}
	defer rows.Close()
	for rows.Next() {
		c, err := scanTLSCount(rows)
		if err != nil {
			return nil, fmt.Errorf("read the TLS counts of %s: %w", domain, err)
		}
		counts = append(counts, *c)
	}
	return counts, rows.Err()
}

func scanTLSReport(r row) (*tlsrpt.Report, error) {
	var rep tlsrpt.Report
	var next, created dbsql.NullInt64
	err := r.Scan(&rep.ID, &rep.Day, &rep.Domain, &rep.URI, &rep.JSON, &rep.Tries, &next, &rep.Error, &created)
	rep.Next, rep.Created = fromMicros(next), fromMicros(created)
	return &rep, err
}

// DueTLSReports returns at most limit reports whose time has come, the oldest
// first.
func (db *DB) DueTLSReports(ctx context.Context, now time.Time, limit int) ([]tlsrpt.Report, error) {
	return list(ctx, db, scanTLSReport, `SELECT id, day, domain, uri, report, tries, next_at, error, created_at
		FROM tlsrpt_report WHERE next_at IS NOT NULL AND next_at <= ? ORDER BY next_at, id, uri LIMIT ?`, micros(now), limit)
}

// ClaimTLSReport puts a report off until then, unless somebody else did.
func (db *DB) ClaimTLSReport(ctx context.Context, r tlsrpt.Report, until time.Time) (ours bool, err error) {
	err = db.write(ctx, func(tx *dbsql.Tx) error {
		done, err := tx.ExecContext(ctx, `UPDATE tlsrpt_report SET next_at = ? WHERE id = ? AND uri = ? AND next_at = ?`,
			micros(until), r.ID, r.URI, micros(r.Next))
		if err != nil {
			return fmt.Errorf("claim TLS report %s: %w", r.ID, err)
		}
		n, err := done.RowsAffected()
		ours = n == 1
		return err
	})
	return ours && err == nil, err
}

// SaveTLSReport writes what came of a try to send a report.
func (db *DB) SaveTLSReport(ctx context.Context, r tlsrpt.Report) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE tlsrpt_report SET tries = ?, next_at = ?, error = ? WHERE id = ? AND uri = ?`,
			r.Tries, micros(r.Next), r.Error, r.ID, r.URI)
		if err != nil {
			return fmt.Errorf("write TLS report %s: %w", r.ID, err)
		}
		return nil
	})
}

// TLSReports returns the reports about a domain, or without their JSON about all,
// the newest first.
func (db *DB) TLSReports(ctx context.Context, domain string) ([]tlsrpt.Report, error) {
	return list(ctx, db, scanTLSReport, `SELECT id, day, domain, uri, CASE WHEN ? = '' THEN x'' ELSE report END, tries, next_at, error, created_at
		FROM tlsrpt_report WHERE ? IN ('', domain) ORDER BY created_at DESC, domain, id, uri`, domain, domain)
}

// PurgeTLS deletes counts of days before one, and reports made before a time.
func (db *DB) PurgeTLS(ctx context.Context, day string, made time.Time) error {
	return db.write(ctx, func(tx *dbsql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM tlsrpt_count WHERE day < ?`, day); err != nil {
			return fmt.Errorf("delete old TLS counts: %w", err)
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM tlsrpt_report WHERE created_at < ?`, micros(made)); err != nil {
			return fmt.Errorf("delete old TLS reports: %w", err)
		}
		return nil
	})
}
