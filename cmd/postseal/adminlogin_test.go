package main

import (
	"testing"

	"github.com/postseal/postseal/internal/adminlogin"
	"github.com/postseal/postseal/sql"
)

// openLogin makes a login that nobody has an account for.
func openLogin(t *testing.T, db *sql.DB) *adminlogin.Login {
	t.Helper()
	l, err := adminlogin.New(adminlogin.Config{Store: db, Listen: "127.0.0.1:8646"})
	if err != nil {
		t.Fatal(err)
	}
	return l
}
