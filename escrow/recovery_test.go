package escrow_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/seal"
	"github.com/postseal/postseal/sql"
)

// recoveryKey makes a recovery key and returns its ID and private half.
func (b *bench) recoveryKey(note string) (id, text string) {
	b.t.Helper()
	r, text, err := escrow.KeysOf(b.Vault).NewRecoveryKey(note, b.clock())
	b.must(err)
	b.must(b.db.AddRecoveryKey(b.t.Context(), r))
	b.pass(time.Second)
	return r.ID, text
}

// recovered opens an item with the private half, from a database alone.
func recovered(t *testing.T, path, text, item string) (string, error) {
	t.Helper()
	private, err := seal.ParseRecoveryText(text)
	if err != nil {
		t.Fatal(err)
	}
	b, err := sql.OpenBackup(context.Background(), "sqlite:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	r, err := escrow.OpenRecovery(t.Context(), b, private, item)
	if err != nil {
		return "", err
	}
	got, err := io.ReadAll(r)
	return string(got), err
}

// Messages of both modes that were sealed while there was a recovery key open with its
// private half and a copy of the database, without key file and link; others do not.
func TestRecovery(t *testing.T) {
	b := newBench(t)
	before := b.seal(message([]byte("before")))[0]
	first, one := b.recoveryKey("safe of the board")
	a := b.seal(message([]byte("sealed "+strings.Repeat("x", 3<<20)), escrow.Recipient{Address: recipient, Mode: escrow.ModeSealed}))[0]
	_, two := b.recoveryKey("safe of the auditors")
	both := b.seal(message([]byte("both")))[0]
	if ok, err := b.db.RetireRecoveryKey(t.Context(), first, b.clock()); err != nil || !ok {
		t.Fatal(ok, err)
	}
	after := b.seal(message([]byte("after")))[0]
	b.checkpoint()

	// Elsewhere: the file of the database alone, in a directory that can't be written.
	dir := filepath.Join(t.TempDir(), "backup")
	b.must(os.Mkdir(dir, 0o755))
	data, err := os.ReadFile(b.path())
	b.must(err)
	copied := filepath.Join(dir, "copy.db")
	b.must(os.WriteFile(copied, data, 0o400))
	b.must(os.Chmod(dir, 0o555))
	for _, tt := range []struct {
		name, item, text, want string
		err                    error
	}{
		{"sealed mode", a, one, "sealed " + strings.Repeat("x", 3<<20), nil},
		{"the first of two", both, one, "both", nil},
		{"the second of two", both, two, "both", nil},
		{"after the first was retired", after, two, "after", nil},
		{"for a retired key", after, one, "", escrow.ErrOtherRecoveryKey},
		{"for a later key", a, two, "", escrow.ErrOtherRecoveryKey},
		{"from before", before, one, "", escrow.ErrNoRecovery},
		{"unknown", seal.NewID(), one, "", escrow.ErrUnknown},
		{"no id", "x", one, "", escrow.ErrUnknown},
	} {
		got, err := recovered(t, copied, tt.text, tt.item)
		if !errors.Is(err, tt.err) || got != tt.want {
			t.Errorf("%s: %d bytes, %v", tt.name, len(got), err)
		}
	}
	if counts, err := b.db.CountRecovery(t.Context()); err != nil || counts[first] != 2 {
		t.Errorf("counts %v, %v", counts, err)
	}
	// A rotation of the server's keys changes nothing of that.
	b.rotate()
	if got, err := recovered(t, b.path(), one, both); err != nil || got != "both" {
		t.Errorf("after a rotation: %q, %v", got, err)
	}
}

// What is over can't be recovered: its wraps go with its keys.
func TestRecoveryEndsWithTheMessage(t *testing.T) {
	b := newBench(t)
	_, text := b.recoveryKey("")
	two := b.seal(message([]byte("two"), escrow.Recipient{Address: "a@old.example"}, escrow.Recipient{Address: "b@old.example"}))[0]
	short := b.seal(message([]byte("short")))[0]
	b.must(b.Retract(t.Context(), two, "a@old.example"))
	if got, err := recovered(t, b.path(), text, two); err != nil || got != "two" {
		t.Errorf("while another recipient has it: %q, %v", got, err)
	}
	b.must(b.Retract(t.Context(), two, "b@old.example"))
	if _, err := recovered(t, b.path(), text, two); !errors.Is(err, escrow.ErrNoRecovery) {
		t.Errorf("retracted: %v", err)
	}
	b.pass(escrow.DefaultLifetime + time.Hour)
	if _, err := b.db.ExpireDue(t.Context(), b.clock()); err != nil {
		t.Fatal(err)
	}
	if _, err := recovered(t, b.path(), text, short); !errors.Is(err, escrow.ErrNoRecovery) {
		t.Errorf("expired: %v", err)
	}
	if n := b.count(`SELECT count(*) FROM escrow_recovery`); n != 0 {
		t.Errorf("%d wraps are left", n)
	}
}

// Who can write to the database, and has not the server's keys, can't have messages
// sealed for a key of their own.
func TestAForeignRecoveryKeyIsNotSealedFor(t *testing.T) {
	b := newBench(t)
	own, _ := b.recoveryKey("")
	dir := filepath.Join(b.dir, "evil")
	b.must(escrow.NewKeyFile(dir))
	theirs, err := escrow.LoadKeys(dir)
	b.must(err)
	evil, text, err := theirs.NewRecoveryKey("", b.clock())
	b.must(err)
	b.must(b.db.AddRecoveryKey(t.Context(), evil))
	// And one that takes the tag and name of a key of ours.
	b.exec(`UPDATE recovery_key SET tag = (SELECT tag FROM recovery_key WHERE id = ?) WHERE id = ?`, own, evil.ID)
	item := b.seal(message([]byte("x")))[0]
	if got, err := recovered(t, b.path(), text, item); !errors.Is(err, escrow.ErrOtherRecoveryKey) {
		t.Errorf("it opens: %q, %v", got, err)
	}
	b.exec(`UPDATE recovery_key SET public = ? WHERE id = ?`, evil.Public, own)
	item = b.seal(message([]byte("y")))[0]
	if _, err := recovered(t, b.path(), text, item); !errors.Is(err, escrow.ErrNoRecovery) {
		t.Errorf("in the place of ours: %v", err)
	}
	if !strings.Contains(b.logs.String(), "was not made by this server") {
		t.Error("nothing is logged")
	}
}

// A message that was cut or changed in the database is not given out as whole.
func TestRecoveryOfADamagedMessage(t *testing.T) {
	b := newBench(t)
	_, text := b.recoveryKey("")
	item := b.seal(message(bytes.Repeat([]byte("0123456789abcdef"), 3<<16)))[0]
	b.exec(`DELETE FROM escrow_chunk WHERE item_id = ? AND n = (SELECT max(n) FROM escrow_chunk)`, item)
	if _, err := recovered(t, b.path(), text, item); err == nil {
		t.Error("a message without its end is whole")
	}
	b.exec(`UPDATE escrow_recovery SET wrap = substr(wrap, 1, 60) WHERE item_id = ?`, item)
	if got, err := recovered(t, b.path(), text, item); err == nil || got != "" {
		t.Errorf("a damaged wrap opens: %d bytes", len(got))
	}
}

// The private half is nowhere but in the text.
func TestThePrivateHalfIsNotKept(t *testing.T) {
	b := newBench(t)
	_, text := b.recoveryKey("")
	b.seal(message([]byte("x")))
	private, err := seal.ParseRecoveryText(text)
	b.must(err)
	files, _ := filepath.Glob(filepath.Join(b.dir, "*"))
	if len(files) < 2 {
		t.Fatalf("files %v", files)
	}
	raw, err := seal.DecodeTag(strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(text, "POSTSEAL-RECOVERY"), "-", "")))
	b.must(err)
	for _, f := range append(files, "the log") {
		data := []byte(b.logs.String())
		if f != "the log" {
			data, err = os.ReadFile(f)
			b.must(err)
		}
		if bytes.Contains(data, raw[1:33]) || bytes.Contains(data, []byte(text[18:40])) {
			t.Errorf("%s has the private half", f)
		}
	}
	b.checkpoint()
	data, err := os.ReadFile(b.path())
	b.must(err)
	if !bytes.Contains(data, private.Public().Bytes()) {
		t.Error("the public half is not found where it is")
	}
}
