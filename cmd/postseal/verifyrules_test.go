package main

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/sql"
)

// TestTheRowsCount: rules in force that are not those of the database, which is never to
// be, give way to them, and it is said.
func TestTheRowsCount(t *testing.T) {
	ctx := t.Context()
	cfg, err := load(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open(ctx, "sqlite:"+filepath.Join(t.TempDir(), "postseal.db"), sql.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rule := &policy.Rule{Scope: policy.ByRecipient, Pattern: "bank.example", Requirement: policy.Encryption}
	if err := db.AddRule(ctx, rule, sql.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	right, err := loadRules(ctx, cfg, db, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := right.With(right.Version, []policy.Change{{Scope: rule.Scope, Pattern: rule.Pattern}})
	if err != nil {
		t.Fatal(err)
	}
	var rules atomic.Pointer[policy.Snapshot]
	var lock sync.Mutex
	var said bytes.Buffer
	changed := 0
	verify := func() {
		t.Helper()
		log := slog.New(slog.NewTextHandler(&said, nil))
		if err := verifyOnce(ctx, cfg, db, &rules, "", &lock, false, log, func() { changed++ }); err != nil {
			t.Fatal(err)
		}
	}
	rules.Store(right)
	if verify(); rules.Load() != right || changed != 0 || said.Len() > 0 {
		t.Errorf("the right ones were replaced: %s", said.String())
	}
	rules.Store(wrong)
	if verify(); rules.Load().Get(rule.Scope, rule.Pattern).None() || changed != 1 || !strings.Contains(said.String(), "level=ERROR") {
		t.Errorf("the wrong ones are in force, or nothing was said: %s", said.String())
	}
	if rules.Load().Triggers() == nil {
		t.Error("without triggers")
	}
}
