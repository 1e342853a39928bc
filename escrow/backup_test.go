package escrow_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/submit"
	"github.com/postseal/postseal/internal/adminlogin"
	"github.com/postseal/postseal/sql"
)

// restore stops the vault, puts file in the place of its database, and starts it again.
func (b *bench) restore(file string, o sql.RestoreOptions) (*sql.Restored, error) {
	b.t.Helper()
	f, err := os.Open(file)
	b.must(err)
	defer f.Close()
	b.db.Close()
	b.db = nil
	o.Now = b.clock
	r, err := sql.Restore(b.t.Context(), "sqlite:"+b.path(), f, o)
	b.start()
	return r, err
}

// noRests fails where backup or restore left a file behind.
func (b *bench) noRests() {
	b.t.Helper()
	names, _ := filepath.Glob(filepath.Join(b.dir, ".postseal-*"))
	if len(names) > 0 {
		b.t.Errorf("left behind: %v", names)
	}
}

func TestABackupWhileMessagesAreSealedIsPickedUpAfterARestore(t *testing.T) {
	b := newBench(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	body := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	b.seal(message(body))
	item, secret := b.link(recipient)

	sealed := make(chan int)
	go func() {
		n := 0
		for ctx.Err() == nil {
			m := message(append([]byte(fmt.Sprint(n)), body...))
			if _, err := b.Seal(context.WithoutCancel(ctx), m); err != nil {
				t.Errorf("sealing during a backup: %v", err)
				break
			}
			n++
		}
		sealed <- n
	}()
	var files []string
	for i := range 3 {
		file := filepath.Join(b.dir, fmt.Sprintf("backup%d", i))
		if _, err := sql.Backup(t.Context(), "sqlite:"+b.path(), file); err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	stop()
	if n := <-sealed; n == 0 {
		t.Fatal("nothing was sealed meanwhile")
	}
	fi, err := os.Stat(files[2])
	b.must(err)
	if fi.Mode().Perm() != 0o600 {
		t.Errorf("mode of the backup is %v, want 0600", fi.Mode())
	}
	b.noRests()
	if _, err := sql.Backup(t.Context(), "sqlite:"+b.path(), files[2]); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a backup was replaced: %v", err)
	}

	b.seal(message([]byte("after the last backup")))
	var newer *sql.NewerMailError
	if _, err := b.restore(files[2], sql.RestoreOptions{}); !errors.As(err, &newer) || newer.Count == 0 {
		t.Fatalf("restore loses mail without a word: %v", err)
	}
	all, err := b.List(t.Context(), escrow.Filter{})
	b.must(err)
	r, err := b.restore(files[2], sql.RestoreOptions{Discard: true})
	b.must(err)
	b.noRests()
	left, err := b.List(t.Context(), escrow.Filter{})
	b.must(err)
	if r.Lost == 0 || len(left) != len(all)-r.Lost {
		t.Errorf("%d messages, %d after the restore, said to be lost are %d", len(all), len(left), r.Lost)
	}
	p := b.pickup(item, secret)
	if got := b.open(p, b.code(p)); !bytes.Equal(got, body) {
		t.Error("the message is another one after the restore")
	}
	old, err := os.Stat(r.Aside)
	b.must(err)
	if old.Mode().Perm() != 0o600 {
		t.Errorf("mode of the database aside is %v", old.Mode())
	}
	b.seal(message([]byte("it goes on"), escrow.Recipient{Address: "other@old.example"}))

	// And back again: what was kept aside is a database too.
	if _, err := b.restore(r.Aside, sql.RestoreOptions{Discard: true}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("what was kept aside was replaced: %v", err)
	}
	b.pass(time.Second)
	_, err = b.restore(filepath.Join(b.dir, filepath.Base(old.Name())), sql.RestoreOptions{Discard: true})
	b.must(err)
	if again, _ := b.List(t.Context(), escrow.Filter{}); len(again) != len(all) {
		t.Errorf("%d messages in what was kept aside, want %d", len(again), len(all))
	}
}

func TestARestoreDoesNotBringBackWhatWasRetracted(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	ids := b.seal(message([]byte("x"), escrow.Recipient{Address: "a@old.example"}, escrow.Recipient{Address: "b@old.example"}))
	b.mails()
	b.seal(message([]byte("y")))
	item, secret := b.link(recipient)
	file := filepath.Join(b.dir, "backup")
	_, err := sql.Backup(ctx, "sqlite:"+b.path(), file)
	b.must(err)
	b.must(b.Retract(ctx, ids[0], "a@old.example"))
	b.mails()
	r, err := b.restore(file, sql.RestoreOptions{})
	b.must(err)
	if r.Ended != 1 || r.Lost != 0 || r.Rules {
		t.Errorf("restored: %+v", r)
	}
	list, err := b.Show(ctx, ids[0])
	b.must(err)
	if list[0].State != escrow.StateRetracted || list[1].State != escrow.StateHeld {
		t.Errorf("states %s, %s", list[0].State, list[1].State)
	}
	b.Expire(ctx)
	if mails := b.mails(); len(mails) != 0 {
		t.Errorf("told again: %v", mails)
	}
	p := b.pickup(item, secret)
	if got := b.open(p, b.code(p)); string(got) != "y" {
		t.Errorf("%q", got)
	}
}

func TestARestoreOfSomethingElseChangesNothing(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	b.seal(message([]byte("x")))
	item, secret := b.link(recipient)
	good := filepath.Join(b.dir, "good")
	_, err := sql.Backup(ctx, "sqlite:"+b.path(), good)
	b.must(err)
	whole, err := os.ReadFile(good)
	b.must(err)
	broken := bytes.Clone(whole)
	for i := 8192; i < len(broken)-4096; i += 4096 {
		copy(broken[i:], bytes.Repeat([]byte{0xa5}, 64))
	}
	for name, content := range map[string][]byte{
		"empty": nil, "text": bytes.Repeat([]byte("no database\n"), 1000), "cut": whole[:len(whole)/2], "broken": broken,
	} {
		file := filepath.Join(b.dir, name)
		b.must(os.WriteFile(file, content, 0o600))
		if r, err := b.restore(file, sql.RestoreOptions{Discard: true}); err == nil {
			t.Errorf("%s was restored: %+v", name, r)
		}
		b.noRests()
		if p, err := b.Pickup(ctx, item, secret); err != nil || p.State != escrow.StateHeld {
			t.Fatalf("after %s: %v", name, err)
		}
	}
	// The present database is the damaged one.
	b.db.Close()
	b.db = nil
	b.must(os.WriteFile(b.path(), broken, 0o600))
	f, err := os.Open(good)
	b.must(err)
	defer f.Close()
	var newer *sql.NewerMailError
	if _, err := sql.Restore(ctx, "sqlite:"+b.path(), f, sql.RestoreOptions{Now: b.clock}); !errors.As(err, &newer) || newer.Unread == "" {
		t.Fatalf("what can't be read was put away without a word: %v", err)
	}
	r, err := b.restoreStopped(good)
	b.must(err)
	if aside, err := os.ReadFile(r.Aside); err != nil || !bytes.Equal(aside, broken) {
		t.Errorf("the damaged database was not kept as it was: %v", err)
	}
	b.start()
	if p, err := b.Pickup(ctx, item, secret); err != nil || p.State != escrow.StateHeld {
		t.Errorf("after the restore: %v", err)
	}
}

func (b *bench) restoreStopped(file string) (*sql.Restored, error) {
	f, err := os.Open(file)
	b.must(err)
	defer f.Close()
	return sql.Restore(b.t.Context(), "sqlite:"+b.path(), f, sql.RestoreOptions{Discard: true, Now: b.clock})
}

func (b *bench) backup(name string) string {
	b.t.Helper()
	file := filepath.Join(b.dir, name)
	_, err := sql.Backup(b.t.Context(), "sqlite:"+b.path(), file)
	b.must(err)
	return file
}

// What was retracted and then forgotten can't be read again either, nor what is retracted
// and then restored twice.
func TestARestoreDoesNotBringBackWhatWasForgotten(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	gone := b.seal(message([]byte("gone")))[0]
	item, secret := b.link(recipient)
	b.pass(time.Second)
	kept := b.seal(message([]byte("kept")))[0]
	file := b.backup("backup")
	b.must(b.Retract(ctx, gone, ""))
	if n, _, err := b.Purge(ctx, gone, time.Time{}, 0); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	for range 2 {
		b.pass(time.Second)
		r, err := b.restore(file, sql.RestoreOptions{})
		b.must(err)
		if r.Ended != 1 || r.Lost != 0 {
			t.Errorf("restored: %+v", r)
		}
		if _, err := b.Pickup(ctx, item, secret); !errors.Is(err, escrow.ErrRetracted) {
			t.Errorf("what was forgotten can be picked up: %v", err)
		}
		if list, err := b.Show(ctx, kept); err != nil || list[0].State != escrow.StateHeld {
			t.Errorf("%v, %v", list, err)
		}
	}
}

// A hold that was put after the backup holds, and one that was released does not come back.
func TestARestoreKeepsHolds(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	var ids []string
	for i := range 4 {
		ids = append(ids, b.seal(message(bytes.Repeat(fmt.Appendf(nil, "evidence %d ", i), 2000)))[0])
		b.mails()
	}
	put, putEnded, released, lasting := ids[0], ids[1], ids[2], ids[3]
	b.must(b.Hold(ctx, released, "n"))
	b.must(b.Hold(ctx, lasting, "stays"))
	b.must(b.Retract(ctx, lasting, ""))
	file := b.backup("backup")
	b.must(b.Hold(ctx, put, "case 1"))
	b.must(b.Hold(ctx, putEnded, "case 2"))
	b.must(b.Retract(ctx, putEnded, ""))
	b.must(b.Release(ctx, released, "closed"))
	b.must(b.Retract(ctx, released, ""))

	r, err := b.restore(file, sql.RestoreOptions{})
	b.must(err)
	if r.Holds != 2 || r.Ended != 2 {
		t.Errorf("restored: %+v", r)
	}
	traces := b.traces(putEnded)
	if len(traces) == 0 {
		t.Fatal("nothing of it is left")
	}
	b.must(b.Retract(ctx, put, ""))
	_, err = b.Expire(ctx)
	b.must(err)
	for _, id := range []string{put, putEnded, lasting} {
		list, err := b.Show(ctx, id)
		b.must(err)
		if list[0].Hold == nil || list[0].State != escrow.StateRetracted {
			t.Errorf("%s: %+v", list[0].State, list[0].Hold)
		}
		if n := b.count(`SELECT count(*) FROM escrow_pickup WHERE item_id = ? AND held_wrap IS NOT NULL`, id); n != 1 {
			t.Errorf("the keys of a held message are gone")
		}
		if n := b.count(`SELECT count(*) FROM escrow_chunk WHERE item_id = ?`, id); n == 0 {
			t.Errorf("the content of a held message is gone")
		}
	}
	list, err := b.Show(ctx, released)
	b.must(err)
	if list[0].Hold != nil || list[0].State != escrow.StateRetracted {
		t.Errorf("a hold that was released is back: %+v", list[0])
	}
	if n := b.count(`SELECT count(*) FROM escrow_chunk WHERE item_id = ?`, released); n != 0 {
		t.Error("the content of what was released and retracted is back")
	}
}

// What was taken away since the backup is not given back: keys of the API, recovery keys,
// accounts and devices.
func TestARestoreGivesBackNothingThatWasRevoked(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	first, second := b.accountItem(recipient), b.accountItem("other@old.example")
	thief := b.enrolled(first)
	stays := b.enrolled(second)
	for _, id := range []string{"revoked", "valid"} {
		b.must(b.db.AddAPIKey(ctx, submit.Key{ID: id, Hash: []byte(id), Senders: []string{"*"}, Created: b.clock()}))
	}
	old, _ := b.recoveryKey("lost")
	for _, name := range []string{"gone", "reset", "same"} {
		b.must(b.db.AddAdmin(ctx, adminlogin.Admin{Name: name, Role: adminlogin.RoleOperator, Password: []byte("old"), TOTP: []byte("old"), Created: b.clock(), Changed: b.clock()}))
	}
	b.exec(`INSERT INTO admin_session (id, name, admin, created_at, seen_at, expires_at) VALUES (x'01', 'gone', 'gone', 0, 0, 1e18)`)
	file := b.backup("backup")
	b.pass(time.Second)
	b.must2(b.db.RemoveAdmin(ctx, "gone"))
	b.must(b.db.ResetAdmin(ctx, adminlogin.Admin{Name: "reset", Role: adminlogin.RoleViewer, Password: []byte("new"), TOTP: []byte("new"), Changed: b.clock()}))

	if reset, err := b.ResetAccount(ctx, recipient, escrow.ResetAdministrator); !reset || err != nil {
		t.Fatal(reset, err)
	}
	b.device(second, b.must1(b.SignIn(ctx, b.again(second), escrow.SignIn{Password: goodPassword}, stranger)))
	b.must(b.SignOut(ctx, stays))
	b.must2(b.db.RemoveAPIKey(ctx, "revoked"))
	b.must2(b.db.RetireRecoveryKey(ctx, old, b.clock()))

	r, err := b.restore(file, sql.RestoreOptions{})
	b.must(err)
	if r.Revoked != 6 {
		t.Errorf("restored: %+v", r)
	}
	if keys, err := b.db.APIKeys(ctx); err != nil || len(keys) != 1 || keys[0].ID != "valid" {
		t.Errorf("keys of the API: %v, %v", keys, err)
	}
	if keys, err := b.db.RecoveryKeys(ctx); err != nil || len(keys) != 1 || keys[0].Retired.IsZero() {
		t.Errorf("recovery keys: %v, %v", keys, err)
	}
	if _, err := b.Account(ctx, thief); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("an account that was reset is back: %v", err)
	}
	if n := b.count(`SELECT count(*) FROM escrow_account WHERE address = 'other@old.example'`); n != 1 {
		t.Error("an account that nobody reset is gone")
	}
	if n := b.count(`SELECT count(*) FROM escrow_device`); n != 0 {
		t.Errorf("%d devices that were signed out are back", n)
	}

	admins, err := b.db.Admins(ctx)
	b.must(err)
	var have []string
	for _, a := range admins {
		have = append(have, fmt.Sprintf("%s %s %s %s", a.Name, a.Role, a.Password, a.TOTP))
	}
	if fmt.Sprint(have) != "[reset viewer new new same operator old old]" || b.count(`SELECT count(*) FROM admin_session`) != 0 {
		t.Errorf("administrators: %q", have)
	}

	// A database that was begun anew after a loss has none of them, and that says nothing.
	b.db.Close()
	b.db = nil
	b.must(os.Remove(b.path()))
	b.start()
	b.pass(time.Second)
	r, err = b.restore(file, sql.RestoreOptions{})
	b.must(err)
	if r.Revoked != 0 || b.count(`SELECT count(*) FROM escrow_account`) != 2 || b.count(`SELECT count(*) FROM escrow_device`) != 2 {
		t.Errorf("accounts were lost by a restore after a loss: %+v", r)
	}
}

func (b *bench) must1(g escrow.Grant, err error) escrow.Grant {
	b.t.Helper()
	b.must(err)
	return g
}

// A backup or restore that was killed leaves no copy of the database for good.
func TestWhatAKilledBackupLeftIsDeleted(t *testing.T) {
	b := newBench(t)
	old := time.Now().Add(-time.Hour)
	leave := func(name string, age time.Time) string {
		name = filepath.Join(b.dir, name)
		b.must(os.WriteFile(name, []byte("a whole database"), 0o600))
		b.must(os.Chtimes(name, age, age))
		return name
	}
	leave(".postseal-backup-1", old)
	leave(".postseal-backup-1-journal", old)
	busy, err := os.Open(leave(".postseal-backup-2", old))
	b.must(err)
	defer busy.Close()
	b.must(syscall.Flock(int(busy.Fd()), syscall.LOCK_EX))
	leave(".postseal-backup-3", time.Now())
	file := b.backup("backup")
	if left, _ := filepath.Glob(filepath.Join(b.dir, ".postseal-*")); len(left) != 2 {
		t.Errorf("left: %v, want those of backups that may run", left)
	}
	for _, name := range []string{".postseal-backup-2", ".postseal-backup-3"} {
		b.must(os.Remove(filepath.Join(b.dir, name)))
	}
	leave(".postseal-restore-1", old)
	_, err = b.restore(file, sql.RestoreOptions{})
	b.must(err)
	b.noRests()
}
