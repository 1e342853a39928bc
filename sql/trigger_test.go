package sql

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/postseal/postseal/policyd/policy"
)

func TestTriggersComeBackAsTheyWere(t *testing.T) {
	db := openTest(t)
	created := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	want := []*policy.Trigger{
		{Kind: policy.OnHeader, Header: "x-secure", Pattern: "yes", Sender: "*", Requirement: policy.ForcedTLS, Remove: true, Created: created},
		{Kind: policy.OnSensitivity, Pattern: "any", Sender: ".clinic.example", Requirement: policy.EscrowOnly, Created: created},
		{Kind: policy.OnSubject, Pattern: "'; DROP TABLE content_rule --", Sender: "*", Requirement: policy.Encryption, Created: created},
		{Kind: policy.OnSubject, Pattern: "[größe]", Sender: "a@b.example", Requirement: policy.Encryption, Note: "why", Until: created.Add(time.Hour), Created: created},
	}
	if err := db.ImportTriggers(t.Context(), want, false); err != nil {
		t.Fatal(err)
	}
	p, err := db.Policy(t.Context(), "+", nil)
	if err != nil {
		t.Fatal(err)
	}
	if p.Rules.Version != 1 || version(t, db) != 1 {
		t.Errorf("version %d after the first change", p.Rules.Version)
	}
	if d := cmp.Diff(want, p.Triggers, cmpopts.IgnoreFields(policy.Trigger{}, "ID")); d != "" {
		t.Error(d)
	}

	// All or none.
	more := []*policy.Trigger{{Kind: policy.OnSubject, Pattern: "new", Sender: "*", Requirement: policy.Encryption}, want[2]}
	if err := db.ImportTriggers(t.Context(), more, false); !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), "DROP TABLE") {
		t.Errorf("a trigger that there is already: %v", err)
	}
	if err := db.ImportTriggers(t.Context(), []*policy.Trigger{{Pattern: "x", Sender: "*"}}, false); err == nil {
		t.Error("took a trigger that requires nothing")
	}
	if list, _ := db.Triggers(t.Context()); len(list) != len(want) || version(t, db) != 1 {
		t.Errorf("%d triggers, version %d, after a change that failed", len(list), version(t, db))
	}
	changed := *want[2]
	changed.Requirement, changed.Created = policy.EscrowOnly, created.Add(time.Hour)
	if err := db.ImportTriggers(t.Context(), []*policy.Trigger{&changed}, true); err != nil {
		t.Fatal(err)
	}
	list, err := db.Triggers(t.Context())
	if err != nil || len(list) != len(want) || list[2].Requirement != policy.EscrowOnly || !list[2].Created.Equal(created) || list[2].ID != p.Triggers[2].ID {
		t.Errorf("replaced: %+v, %v", list[2], err)
	}

	removed, err := db.RemoveTrigger(t.Context(), list[0].ID)
	if err != nil || !removed || version(t, db) != 3 {
		t.Errorf("removed %v, version %d: %v", removed, version(t, db), err)
	}
	if removed, err := db.RemoveTrigger(t.Context(), list[0].ID); err != nil || removed || version(t, db) != 3 {
		t.Errorf("removed twice: %v, version %d: %v", removed, version(t, db), err)
	}
}

// A trigger that can't be read is never read as none.
func TestDamagedTriggerIsAnError(t *testing.T) {
	db := openTest(t)
	mustExec(t, db.w, `PRAGMA ignore_check_constraints = ON`)
	mustExec(t, db.w, `INSERT INTO content_rule (kind, pattern, requirement, created_at) VALUES ('body', 'x', 'tls', 0)`)
	if _, err := db.Policy(t.Context(), "+", nil); err == nil {
		t.Error("an unknown kind was read")
	}
	mustExec(t, db.w, `UPDATE content_rule SET kind = 'subject', requirement = 'maybe'`)
	if _, err := db.Triggers(t.Context()); err == nil {
		t.Error("an unknown requirement was read")
	}
}

func TestAsOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can act for another user")
	}
	const service = 65534
	dir, err := os.MkdirTemp("/tmp", "postseal-owner-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chown(dir, service, service); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "x.db")
	fault := errors.New("fault")
	err = AsOwner(file, func() error {
		if os.Geteuid() != service || os.Getuid() != 0 {
			t.Errorf("effective user %d of %d", os.Geteuid(), os.Getuid())
		}
		return errors.Join(os.WriteFile(file, nil, 0o600), fault)
	})
	if !errors.Is(err, fault) {
		t.Errorf("error %v", err)
	}
	if fi, err := os.Stat(file); err != nil || fi.Sys().(*syscall.Stat_t).Uid != service || fi.Sys().(*syscall.Stat_t).Gid != service {
		t.Errorf("the file is of another: %v, %v", fi, err)
	}
	if groups, _ := syscall.Getgroups(); os.Geteuid() != 0 || os.Getegid() != 0 {
		t.Errorf("user %d, group %d, groups %v after it", os.Geteuid(), os.Getegid(), groups)
	}
}
