package adminlogin_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/adminlogin"
	"github.com/postseal/postseal/sql"
)

// A restore signs everybody out, and gives back neither an account that was removed since
// nor a password that was reset.
func TestARestoreGivesNoAdminBack(t *testing.T) {
	b := newBench(t)
	for _, name := range []string{"gone", "reset", "stays"} {
		b.add(name, adminlogin.RoleOperator)
	}
	w := b.browser()
	w.signIn("stays")
	dsn, file := "sqlite:"+filepath.Join(b.dir, "db"), filepath.Join(b.dir, "backup")
	if _, err := sql.Backup(t.Context(), dsn, file); err != nil {
		t.Fatal(err)
	}
	oldSecret := b.secrets["reset"]
	if err := b.accounts().Reset(t.Context(), b.credentials("reset", adminlogin.RoleViewer, "eight blue bicycles")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.db.RemoveAdmin(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	b.add("later", adminlogin.RoleViewer)
	b.db.Close()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := sql.Restore(t.Context(), dsn, f, sql.RestoreOptions{Now: b.now})
	if err != nil {
		t.Fatal(err)
	}
	if r.Revoked != 2 {
		t.Errorf("restored: %+v", r)
	}
	b.start()
	if who := w.as(); who != "" {
		t.Errorf("still signed in as %s", who)
	}
	w.signIn("stays")
	other := b.browser()
	if res := other.try("gone", password, b.fresh("gone")); res.StatusCode != http.StatusForbidden {
		t.Errorf("an account that was removed: %d", res.StatusCode)
	}
	now := b.secrets["reset"]
	b.secrets["reset"] = oldSecret
	if res := other.try("reset", password, b.fresh("reset")); res.StatusCode != http.StatusForbidden {
		t.Errorf("a password that was reset: %d", res.StatusCode)
	}
	b.secrets["reset"] = now
	if res := other.try("reset", "eight blue bicycles", b.fresh("reset")); res.StatusCode != http.StatusSeeOther {
		t.Errorf("the password that it was reset to: %d", res.StatusCode)
	}
	if res := other.post("/change", nil); res.StatusCode != http.StatusForbidden {
		t.Errorf("the role of before: %d", res.StatusCode)
	}
}

// A rotation of the server's keys takes the accounts along; sessions go on.
func TestARotationTakesAdminsAlong(t *testing.T) {
	b := newBench(t)
	b.add("jane", adminlogin.RoleViewer)
	w := b.browser()
	w.signIn("jane")
	file := filepath.Join(b.dir, "key")
	r := escrow.Rotation{File: file, Store: func(f func(escrow.RotationStore) error) error { return f(b.db) }}
	if _, err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	keys, err := escrow.LoadKeys(file)
	if err != nil {
		t.Fatal(err)
	}
	b.keys, b.config.Keys = keys, keys.Admin()
	b.start()
	if w.as() != "jane" {
		t.Error("signed out")
	}
	b.browser().signIn("jane")
}

// An administrator has so many browsers at most; the one unused the longest is signed out.
func TestBrowsersOfAnAdminAreBounded(t *testing.T) {
	b := newBench(t)
	b.add("jane", adminlogin.RoleViewer)
	jane, err := b.db.Admin(t.Context(), "jane")
	if err != nil {
		t.Fatal(err)
	}
	begin := func(i int) []byte {
		id := fmt.Appendf(nil, "%032d", i)
		b.pass(time.Second)
		s := adminlogin.Session{ID: id, Name: "jane", Admin: "jane", Created: b.now(), Seen: b.now(), Expires: b.now().Add(time.Hour)}
		if err := b.db.BeginSession(t.Context(), s, jane, int64(i+1), nil); err != nil {
			t.Fatal(err)
		}
		return id
	}
	first, second := begin(0), begin(1)
	if err := b.db.SeenSession(t.Context(), first, b.now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	for i := range 19 {
		begin(i + 2)
	}
	if _, err := b.db.Session(t.Context(), first); err != nil {
		t.Errorf("the one in use: %v", err)
	}
	if _, err := b.db.Session(t.Context(), second); err == nil {
		t.Error("there are 21")
	}
}
