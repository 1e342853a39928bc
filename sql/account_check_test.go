package sql

import "testing"

// TestVerifyTakesAccount holds the migration that edits a CHECK: the database is
// sound afterwards, takes the new word, and still refuses others.
func TestVerifyTakesAccount(t *testing.T) {
	db := openTest(t)
	var sound string
	if err := db.w.QueryRow(`PRAGMA integrity_check`).Scan(&sound); err != nil || sound != "ok" {
		t.Fatalf("integrity_check: %q, %v", sound, err)
	}
	if _, err := db.w.Exec(`INSERT INTO escrow_recipient (address, verify, changed_at) VALUES ('a@b.example', 'account', 1)`); err != nil {
		t.Error(err)
	}
	if _, err := db.w.Exec(`INSERT INTO escrow_recipient (address, verify, changed_at) VALUES ('c@b.example', 'other', 1)`); err == nil {
		t.Error("a verification that there is not was taken")
	}
}
