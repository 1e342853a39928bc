package sql

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/seal"
)

// otherBlobs are the columns of bytes that are not encrypted under the server's keys, and
// what they are instead.
var otherBlobs = map[string]string{
	"escrow_chunk.data":           "ciphertext under the message's key",
	"escrow_reply_chunk.data":     "ciphertext under the reply's key",
	"escrow_reply.sealed":         "ciphertext under the reply's key",
	"escrow_pickup.secret_hash":   "SHA-256",
	"escrow_pickup.passphrase":    "cost and salt",
	"escrow_recipient.passphrase": "cost and salt",
	"escrow_code.tag":             "keyed hash; the PRF's keys are not rotated",
	"escrow_account.handle":       "random",
	"escrow_passkey.id":           "credential id",
	"escrow_device.id":            "SHA-256",
	"escrow_ceremony.id":          "SHA-256",
	"settlement.digest":           "SHA-256",
	"api_key.hash":                "SHA-256",
	"api_request.digest":          "SHA-256",
	"api_request.answer":          "JSON, without secrets",
	"mta_sts.policy":              "public",
	"tlsrpt_report.report":        "gzip",
	"key_retired.id":              "key id",
	"recovery_key.public":         "public half",
	"recovery_key.tag":            "keyed hash; the PRF's keys are not rotated",
	"escrow_recovery.wrap":        "for the recovery key, which is not rotated",
	"audit.hash":                  "SHA-256",
	"posture.result":              "JSON",
	"rule_pack.data":              "rules",
	"audit_checkpoint.hash":       "SHA-256",
	"admin_session.id":            "keyed hash; the PRF's keys are not rotated",
	"audit_checkpoint.signature":  "of the log; the PRF's keys are not rotated",
}

// Each column of bytes is known: either a rotation encrypts it anew, or it does not
// depend on the keys that are rotated.
func TestEveryBlobIsKnownToTheRotation(t *testing.T) {
	db := openTest(t)
	tables, err := column(t.Context(), db.r, `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'`)
	if err != nil {
		t.Fatal(err)
	}
	boxes := map[string]bool{}
	for _, c := range boxColumns {
		boxes[c.table+"."+c.column] = true
	}
	for _, table := range tables {
		blobs, err := column(t.Context(), db.r, `SELECT name FROM pragma_table_info(?) WHERE upper(type) = 'BLOB'`, table)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range blobs {
			name := table + "." + b
			if !boxes[name] && otherBlobs[name] == "" {
				t.Errorf("%s is neither in boxColumns (and has triggers as in 0006_keys.sql) nor said to be none of the server's boxes", name)
			}
			delete(boxes, name)
		}
	}
	for name := range boxes {
		t.Errorf("%s does not exist", name)
	}
	var have []string
	for _, c := range boxColumns {
		have = append(have, c.purpose)
	}
	for _, p := range escrow.RotatedPurposes {
		if !slices.Contains(have, p) {
			t.Errorf("nothing is kept for purpose %s", p)
		}
	}
	for _, p := range have {
		if !slices.Contains(escrow.RotatedPurposes, p) {
			t.Errorf("purpose %s is not rotated", p)
		}
	}
}

// Nothing gets into any of the columns under a retired key, by insert or by update; under
// another it does.
func TestTriggersRefuseARetiredKey(t *testing.T) {
	h, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		t.Fatal(err)
	}
	a, err := aead.New(h)
	if err != nil {
		t.Fatal(err)
	}
	e, err := h.Primary()
	if err != nil {
		t.Fatal(err)
	}
	id := fmt.Sprintf("%08x", e.KeyID())
	key, err := seal.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	wrap, err := seal.WrapRecover(a, key, "i")
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.Encrypt([]byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	box := append([]byte{1}, c...)
	// A short one has a length of one byte before it.
	short := append([]byte{1, 0x12, byte(len(c))}, c...)
	if k, ok := seal.RecoverKeyID(short); !ok || k != e.KeyID() {
		t.Fatal("the short one tells another key")
	}
	const item = `INSERT INTO escrow_item (id, sender, sender_key, queue_id, mode, size, recover, summary, created_at, expires_at) VALUES ('i', '', '', '', 'recoverable', 1, %s, %s, 0, 0)`
	const pickup = `INSERT INTO escrow_pickup (id, item_id, recipient, recipient_key, verify, secret_hash, wrap, expires_at) VALUES ('p', 'i', 'a', 'a', 'code', x'00', %s, 0)`
	const account = `INSERT INTO escrow_account (address, tag, handle, password, totp, created_at, changed_at) VALUES ('a', 't', x'01', %s, %s, 0, 0)`
	const admin = `INSERT INTO admin (name, role, password, totp, created_at, changed_at) VALUES ('a', 'viewer', %s, %s, 0, 0)`
	inserts := map[string]string{
		"escrow_item.recover":       fmt.Sprintf(item, "?", "NULL"),
		"escrow_item.summary":       fmt.Sprintf(item, "NULL", "?"),
		"escrow_pickup.wrap":        fmt.Sprintf(pickup, "?"),
		"escrow_pickup.held_wrap":   strings.Replace(fmt.Sprintf(pickup, "?"), "wrap", "held_wrap", 1),
		"escrow_recipient.hashed":   `INSERT INTO escrow_recipient (address, verify, hashed, changed_at) VALUES ('a', 'code', ?, 0)`,
		"outbox.sealed":             `INSERT INTO outbox (id, kind, sealed, created_at, due_at) VALUES ('m', 'x', ?, 0, 0)`,
		"escrow_account.password":   fmt.Sprintf(account, "?", "NULL"),
		"escrow_account.totp":       fmt.Sprintf(account, "NULL", "?"),
		"escrow_passkey.credential": `INSERT INTO escrow_passkey (id, address, credential, name, created_at) VALUES (x'01', 'a', ?, '', 0)`,
		"escrow_reply.wrap":         `INSERT INTO escrow_reply (id, pickup_id, wrap, sealed, created_at, changed_at) VALUES ('r', 'p', ?, x'00', 0, 0)`,
		"admin.password":            fmt.Sprintf(admin, "?", "x''"),
		"admin.totp":                fmt.Sprintf(admin, "x''", "?"),
	}
	needs := map[string][]string{
		"escrow_pickup.wrap":        {fmt.Sprintf(item, "NULL", "NULL")},
		"escrow_pickup.held_wrap":   {fmt.Sprintf(item, "NULL", "NULL")},
		"escrow_passkey.credential": {fmt.Sprintf(account, "NULL", "NULL")},
		"escrow_reply.wrap":         {fmt.Sprintf(item, "NULL", "NULL"), fmt.Sprintf(pickup, "NULL")},
	}
	for _, col := range boxColumns {
		name := col.table + "." + col.column
		values := [][]byte{box}
		if col.purpose == "recover/1" {
			values = [][]byte{wrap, short}
		}
		for _, value := range values {
			db := openTest(t)
			for _, q := range needs[name] {
				mustExec(t, db.w, q)
			}
			if inserts[name] == "" {
				t.Fatalf("%s: the test has no statement", name)
			}
			mustExec(t, db.w, inserts[name], value)
			if err := db.RetireKeys(t.Context(), []string{id}, time.Now()); err != nil {
				t.Fatal(err)
			}
			_, err := db.w.ExecContext(t.Context(), fmt.Sprintf(`UPDATE %s SET %s = ?`, col.table, col.column), value)
			if err := db.explain(err); !errors.Is(err, escrow.ErrKeyRetired) {
				t.Errorf("%s: update: %v", name, err)
			}
			mustExec(t, db.w, `DELETE FROM `+col.table)
			for _, q := range needs[name] {
				db.w.ExecContext(t.Context(), q) // what the deletion took along
			}
			_, err = db.w.ExecContext(t.Context(), inserts[name], value)
			if err := db.explain(err); !errors.Is(err, escrow.ErrKeyRetired) {
				t.Errorf("%s: insert: %v", name, err)
			}
			other := append([]byte{}, value...)
			at := strings.Index(string(other), string(binary.BigEndian.AppendUint32(nil, e.KeyID())))
			other[at] ^= 1
			if _, err := db.w.ExecContext(t.Context(), inserts[name], other); err != nil {
				t.Errorf("%s: under another key: %v", name, err)
			}
		}
	}
}

func TestKeyHolders(t *testing.T) {
	db := openTest(t)
	now := time.Date(2026, 12, 1, 9, 0, 0, 0, time.UTC)
	h := escrow.KeyHolder{ID: "a", Host: "mx", PID: 7, Keys: []string{"00000001", "00000002"}, Primary: "00000001", Seen: now}
	for _, err := range []error{
		db.HoldKeys(t.Context(), h),
		db.HoldKeys(t.Context(), escrow.KeyHolder{ID: "b", Host: "mx", PID: 8, Keys: []string{"00000001"}, Primary: "00000001", Seen: now.Add(-25 * time.Hour)}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	h.Primary, h.Seen = "00000002", now.Add(time.Second)
	if err := db.HoldKeys(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	got, err := db.KeyHolders(t.Context(), now.Add(-48*time.Hour))
	if err != nil || len(got) != 1 || fmt.Sprint(got[0]) != fmt.Sprint(h) {
		t.Errorf("got %v, %v", got, err)
	}
	if got, _ := db.KeyHolders(t.Context(), now.Add(time.Minute)); len(got) != 0 {
		t.Errorf("later: %v", got)
	}
	if err := db.LeaveKeys(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if got, _ := db.KeyHolders(t.Context(), time.Unix(0, 0)); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

// A backup is read where it can't be written, and where there is no journal; one of
// before there were recovery keys is said to be so.
func TestOpenBackup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.db")
	db := openAt(t, path)
	mustExec(t, db.w, `INSERT INTO escrow_item (id, sender, sender_key, queue_id, mode, size, created_at, expires_at) VALUES ('i', '', '', '', 'sealed', 1, 0, 0)`)
	b, err := OpenBackup(context.Background(), "sqlite:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, size, err := b.RecoveryWraps(t.Context(), "i"); err != nil || size != 1 {
		t.Errorf("size %d, %v", size, err)
	}
	if _, _, err := b.RecoveryWraps(t.Context(), "j"); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("unknown: %v", err)
	}
	if _, err := b.db.r.ExecContext(t.Context(), `DELETE FROM escrow_item`); err == nil {
		t.Error("it can be written")
	}
	mustExec(t, db.w, `DELETE FROM goose_db_version WHERE version_id >= 6`)
	if _, err := OpenBackup(t.Context(), "sqlite:"+path); err == nil || !strings.Contains(err.Error(), "from before there were recovery keys") {
		t.Errorf("an old one: %v", err)
	}
	if _, err := OpenBackup(t.Context(), "sqlite:"+path+".none"); err == nil {
		t.Error("a missing file opens")
	}
}
