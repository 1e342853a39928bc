package escrow_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
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
