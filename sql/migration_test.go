package sql

import (
	"context"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/pressly/goose/v3"
)

// version2 fills the tables that a database of version 2 had.
var version2 = []string{
	`INSERT INTO escrow_item (id, sender, sender_key, queue_id, mode, size, recover, ended, created_at, expires_at) VALUES
		('item1', 'Doc@clinic.example', 'doc@clinic.example', '4Q1', 'recoverable', 3, x'01', 0, 1, 9000000000000000),
		('item2', '', '', '4Q2', 'sealed', 3, NULL, 1, 2, 3)`,
	`INSERT INTO escrow_chunk (item_id, n, data) VALUES ('item1', 0, x'0a0b'), ('item1', 1, x'0c')`,
	`INSERT INTO escrow_pickup (id, item_id, recipient, recipient_key, verify, state, secret_hash, passphrase, wrap, notice, answered, expires_at, read_at, ended_at) VALUES
		('pick1', 'item1', 'Pat@old.example', 'pat@old.example', 'code', 'read', x'02', NULL, x'03', 'sent', 1, 9000000000000000, 5, NULL),
		('pick2', 'item1', 'mo@old.example', 'mo@old.example', 'passphrase', 'held', x'04', x'05', x'06', 'bounced', 0, 9000000000000000, NULL, NULL),
		('pick3', 'item2', 'mo@old.example', 'mo@old.example', 'code', 'expired', x'07', NULL, NULL, 'sent', 0, 3, NULL, 4)`,
	`INSERT INTO escrow_code (pickup_id, tag, expires_at, used_at) VALUES ('pick1', x'08', 9000000000000000, NULL)`,
	`INSERT INTO escrow_limit (key, tries, locks, since_at, locked_at, locked_until, told, last_at) VALUES ('k', 2, 1, 1, 2, 3, 1, 4)`,
	`INSERT INTO escrow_recipient (address, verify, passphrase, hashed, changed_at) VALUES
		('mo@old.example', 'passphrase', x'09', x'0a', 6), ('pat@old.example', 'code', NULL, NULL, 7)`,
	`INSERT INTO outbox (id, kind, pickup_id, sealed, attempts, created_at, due_at, until_at) VALUES ('mail1', 'notice', 'pick2', x'0b', 3, 1, 2, NULL)`,
	`INSERT INTO settlement (digest, sender, recipient, outcome, created_at, confirmed_at) VALUES (x'0c', 'a@b.example', 'c@d.example', 'sealed', 1, NULL)`,
}

// TestVersion2IsMigratedWithAllItsRows holds that a database as released before
// keeps every row and column, and is sound afterwards.
func TestVersion2IsMigratedWithAllItsRows(t *testing.T) {
	ctx, path := context.Background(), filepath.Join(t.TempDir(), "postseal.db")
	old, err := Open(ctx, "sqlite:"+path, Options{NoMigrate: true})
	if err != nil {
		t.Fatal(err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, old.w, sqliteMigrations(), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(ctx, 2); err != nil {
		t.Fatal(err)
	}
	for _, q := range version2 {
		mustExec(t, old.w, q)
	}
	mustExec(t, old.w, `INSERT INTO rule (scope, pattern, requirement, created_at) VALUES ('recipient', 'old.example', 'encryption', 1)`)
	tables, err := tableNames(old)
	if err != nil || len(tables) < 9 {
		t.Fatalf("tables %v, %v", tables, err)
	}
	columns, before := make(map[string]string), make(map[string][]string)
	for _, name := range tables {
		columns[name] = columnsOf(t, old, name)
		before[name] = rowsOf(t, old, name, columns[name])
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}

	db := openAt(t, path)
	for _, name := range tables {
		if got := rowsOf(t, db, name, columns[name]); !reflect.DeepEqual(got, before[name]) {
			t.Errorf("%s:\n%v\nwere\n%v", name, got, before[name])
		}
	}
	if got := one[string](t, db.w, `PRAGMA integrity_check`); got != "ok" {
		t.Errorf("integrity_check: %s", got)
	}
	rows, err := db.w.Query(`PRAGMA foreign_key_check`)
	if err != nil {
		t.Fatal(err)
	}
	if rows.Next() {
		t.Error("foreign_key_check finds rows")
	}
	rows.Close()
	mustExec(t, db.w, `UPDATE escrow_pickup SET verify = 'account' WHERE id = 'pick1'`)
	if _, err := db.w.Exec(`UPDATE escrow_pickup SET verify = 'other' WHERE id = 'pick1'`); err == nil {
		t.Error("a verification that there is not was taken")
	}
}

func tableNames(db *DB) ([]string, error) {
	return column(context.Background(), db.w, `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> ? ORDER BY name`, goose.DefaultTablename)
}

func columnsOf(t *testing.T, db *DB, table string) string {
	t.Helper()
	list, err := column(context.Background(), db.w, `SELECT name FROM pragma_table_info(?)`, table)
	if err != nil || len(list) == 0 {
		t.Fatalf("%s: %v, %v", table, list, err)
	}
	return strings.Join(list, ", ")
}

func rowsOf(t *testing.T, db *DB, table, columns string) []string {
	t.Helper()
	rows, err := db.w.Query(`SELECT ` + columns + ` FROM ` + table + ` ORDER BY 1, 2`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var out []string
	n := len(strings.Split(columns, ", "))
	for rows.Next() {
		values, at := make([]any, n), make([]any, n)
		for i := range values {
			at[i] = &values[i]
		}
		if err := rows.Scan(at...); err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprint(values))
	}
	return out
}
