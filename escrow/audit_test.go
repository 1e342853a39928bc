package escrow_test

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/submit"
	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/sql"
)

// audited returns the log from an entry on, as "kind how" and so on.
func (b *bench) audited(after int64) (words []string, all []audit.Record) {
	b.t.Helper()
	all, err := b.db.AuditEntries(b.t.Context(), audit.Filter{Oldest: true, After: after})
	b.must(err)
	for _, r := range all {
		w := r.Kind
		for _, k := range []string{"how", "by", "what", "part"} {
			if v := r.Details[k]; v != "" {
				w += " " + v
			}
		}
		words = append(words, w)
	}
	return words, all
}

// expect compares what was logged since the last call with want, apart by line feeds.
func (b *bench) expect(after *int64, what, want string) {
	b.t.Helper()
	words, all := b.audited(*after)
	if got := strings.Join(words, ", "); got != want {
		b.t.Errorf("%s:\n%s\nwant\n%s", what, got, want)
	}
	if len(all) > 0 {
		*after = all[len(all)-1].Seq
	}
}

// TestTheAuditLogHasEachStep goes through the life of messages, wants each step in the
// log in its order, and none of the secrets and words that were in use.
func TestTheAuditLogHasEachStep(t *testing.T) {
	const (
		text    = "the biopsy was benign"
		subject = "Your lab results"
		file    = "befund-mueller.pdf"
		phrase  = "correct horse battery staple"
		answer  = "thank you doctor"
	)
	b := newBench(t)
	b.withSenders()
	s := newSplitter(t, nil)
	ctx := audit.With(t.Context(), audit.Actor{Kind: audit.ActorPortal, Client: "192.0.2.7"})
	var at int64
	secrets := []string{text, subject, file, phrase, answer, goodPassword, "benign", "biopsy"}

	// By code.
	ids := b.seal(message([]byte("Subject: "+subject+"\r\nMessage-ID: <secret-id@clinic.example>\r\n\r\n"+text), escrow.Recipient{Address: recipient, Verify: escrow.VerifyCode}))
	b.expect(&at, "sealed", "sealed, notice-queued")
	item, secret := b.link(recipient)
	secrets = append(secrets, secret)
	b.expect(&at, "handed over", "notice-sent")
	p := b.pickup(item, secret)
	code := b.code(p)
	secrets = append(secrets, code)
	b.expect(&at, "a code", "code-queued")
	wrong := "00000000"
	if code == wrong {
		wrong = "11111111"
	}
	if _, err := b.Prove(ctx, p, wrong, stranger); !errors.Is(err, escrow.ErrWrong) {
		t.Fatal(err)
	}
	b.expect(&at, "a wrong code", "verify-failed code")
	g, err := b.Prove(ctx, p, code, stranger)
	b.must(err)
	secrets = append(secrets, g.Token)
	b.expect(&at, "the right code", "verified code")
	session, err := sessionOf(ctx, b.Vault, p, g.Token)
	b.must(err)
	open := func(download string) {
		t.Helper()
		on := ctx
		if download != "" {
			on = escrow.Downloading(ctx, download, map[string]string{escrow.DownloadFile: "2"}[download])
		}
		r, err := b.Open(on, p, session)
		b.must(err)
		_, err = io.ReadAll(r)
		b.must(errors.Join(err, r.Close()))
	}
	open("")
	open("")
	b.expect(&at, "read, and again at once", "read code")
	open(escrow.DownloadOriginal)
	open(escrow.DownloadOriginal)
	open(escrow.DownloadFile)
	b.expect(&at, "downloads", "downloaded original, downloaded file 2")
	b.pass(time.Hour)
	open("")
	open(escrow.DownloadOriginal)
	b.expect(&at, "an hour later", "opened code, downloaded original")
	ctx = audit.With(t.Context(), audit.Actor{Kind: audit.ActorPortal, Client: "192.0.2.99"})
	open("")
	b.expect(&at, "from elsewhere", "opened code")

	// A reply, the sender's side, the end.
	_, err = b.SaveDraft(ctx, p, session, answer, false)
	b.must(err)
	_, err = b.AddFile(ctx, p, session, file, "", strings.NewReader("scan"))
	b.must(err)
	b.expect(&at, "a draft", "")
	reply, err := b.SendReply(ctx, p, session)
	b.must(err)
	b.expect(&at, "a reply", "reply-queued")
	b.deliver(s, func() bool { return b.stateOf(reply.ID) == escrow.ReplySent })
	b.expect(&at, "arrived", "reply-sent")
	_, err = b.Extend(ctx, item, "", 60*24*time.Hour)
	b.must(err)
	b.must(b.Resend(ctx, item, ""))
	_, fresh := b.link(recipient)
	secrets = append(secrets, fresh)
	b.expect(&at, "extended, sent anew", "extended administrator, relinked, notice-queued, notice-sent")
	b.must(b.Retract(ctx, ids[0], ""))
	b.expect(&at, "retracted", "retracted administrator, purged")

	// By passphrase, until it is locked; expired.
	b.must(b.SetRecipient(ctx, "mo@old.example", escrow.VerifyPassphrase, []byte(phrase)))
	b.seal(message([]byte("two"), escrow.Recipient{Address: "mo@old.example"}))
	p = b.pickup(b.link("mo@old.example"))
	b.expect(&at, "a passphrase", "recipient-set, sealed, notice-queued, notice-sent")
	_, err = b.Prove(ctx, p, phrase, stranger)
	b.must(err)
	b.expect(&at, "the right one", "verified passphrase")
	for {
		_, err := b.Prove(ctx, p, "guess"+phrase[:8], stranger)
		if !errors.Is(err, escrow.ErrWrong) {
			break
		}
	}
	words, _ := b.audited(at)
	if len(words) < 3 || words[len(words)-1] != "locked" || slices.ContainsFunc(words[:len(words)-1], func(w string) bool { return w != "verify-failed passphrase" }) {
		t.Errorf("guesses: %q", words)
	}
	_, all := b.audited(0)
	at = all[len(all)-1].Seq
	b.pass(40 * 24 * time.Hour)
	_, err = b.Expire(t.Context())
	b.must(err)
	b.must2(b.ResetRecipient(ctx, "mo@old.example"))
	if words, _ := b.audited(at); len(words) == 0 || words[0] != "expired" || !slices.Contains(words, "recipient-reset") {
		t.Errorf("expired: %q", words)
	}
	_, all = b.audited(0)
	at = all[len(all)-1].Seq

	// By account.
	p = b.accountItem("kim@old.example")
	d := b.enrolled(p)
	if _, err := b.signIn(b.again(p), escrow.SignIn{Password: "not it at all"}); !errors.Is(err, escrow.ErrWrong) {
		t.Fatal(err)
	}
	if _, err := b.signIn(b.again(p), escrow.SignIn{Password: goodPassword}); err != nil {
		t.Fatal(err)
	}
	if err := b.ChangePassword(ctx, d, "not it at all", "eight blue herons", stranger); !errors.Is(err, escrow.ErrWrong) {
		t.Fatal(err)
	}
	b.must(b.ChangePassword(ctx, d, goodPassword, "eight blue herons", stranger))
	b.must(b.SignOut(ctx, d))
	b.must2(b.ResetAccount(ctx, "kim@old.example", escrow.ResetAdministrator))
	secrets = append(secrets, "eight blue herons", "not it at all")
	b.expect(&at, "an account", "sealed, notice-queued, notice-sent, code-queued, verified code, account-enrolled password, verify-failed password, "+
		"verified password, verify-failed account settings, account-changed password changed, device-dropped, account-reset administrator")

	// None of the secrets is in it, and the chain holds.
	_, all = b.audited(0)
	written, err := json.Marshal(all)
	b.must(err)
	for _, s := range secrets {
		if s == "" || strings.Contains(string(written), s) {
			t.Errorf("%q is in the audit log", s)
		}
	}
	if !strings.Contains(string(written), recipient) || !strings.Contains(string(written), "192.0.2.99") {
		t.Errorf("what is meant to be in it is not: %s", written)
	}
	keys, err := escrow.LoadKeys(b.keys)
	b.must(err)
	r, err := b.db.VerifyAudit(t.Context(), keys.AuditKey().Public().(ed25519.PublicKey), nil)
	if err != nil || !r.OK() || r.Entries != int64(len(all)) {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestWhatCannotBeLoggedIsNotDone holds that no answer is called right or wrong, and no
// message opened, of which the log has no word.
func TestWhatCannotBeLoggedIsNotDone(t *testing.T) {
	b := newBench(t)
	b.seal(message([]byte("one"), escrow.Recipient{Address: recipient, Verify: escrow.VerifyCode}))
	p := b.pickup(b.link(recipient))
	code := b.code(p)
	g := b.prove(p, code)
	b.seal(message([]byte("two"), escrow.Recipient{Address: recipient, Verify: escrow.VerifyCode}))
	second := b.pickup(b.link(recipient))
	b.exec(`ALTER TABLE audit RENAME TO elsewhere`)
	if _, err := b.Prove(t.Context(), second, "00000000", stranger); err == nil || errors.Is(err, escrow.ErrWrong) {
		t.Errorf("a wrong code: %v", err)
	}
	s, err := sessionOf(t.Context(), b.Vault, p, g.Token)
	b.must(err)
	for _, ctx := range []func() error{
		func() error { _, err := b.Open(t.Context(), p, s); return err },
		func() error {
			_, err := b.Open(escrow.Downloading(t.Context(), escrow.DownloadOriginal, ""), p, s)
			return err
		},
		func() error { _, err := b.Seal(t.Context(), message([]byte("three"))); return err },
		func() error { return b.Retract(t.Context(), p.ItemID, "") },
	} {
		if ctx() == nil {
			t.Error("was done unlogged")
		}
	}
	b.exec(`ALTER TABLE elsewhere RENAME TO audit`)
	if got := string(b.read(p, g.Token)); got != "one" {
		t.Errorf("%q", got)
	}
}

// TestTheAuditLogHasWhatIsNotAnswered goes through what leads to no page of its own: searches,
// passkeys that do not count, devices of those who have no account, codes and readings under
// a clock that was set back.
func TestTheAuditLogHasWhatIsNotAnswered(t *testing.T) {
	b := newBench(t)
	ctx := audit.With(t.Context(), audit.Actor{Kind: audit.ActorPortal, Client: "192.0.2.7"})
	b.seal(message([]byte("one"), escrow.Recipient{Address: recipient, Verify: escrow.VerifyCode}))
	p := b.pickup(b.link(recipient))
	code := b.code(p)
	g := b.prove(p, code)
	d := b.device(p, g)
	session, err := sessionOf(ctx, b.Vault, p, g.Token)
	b.must(err)
	read := func() {
		t.Helper()
		r, err := b.Open(ctx, p, session)
		b.must(err)
		b.must(r.Close())
	}
	read()
	_, all := b.audited(0)
	at := all[len(all)-1].Seq

	b.must(b.Searched(ctx, d, 3))
	b.must(b.Searched(ctx, d, 3))
	b.expect(&at, "a search, twice", "searched")

	// A clock that is set back makes no reading unseen, and no code good once more.
	b.pass(-time.Hour)
	read()
	read()
	b.expect(&at, "an hour before", "opened code")
	if _, err := b.Prove(ctx, p, code, stranger); !errors.Is(err, escrow.ErrWrong) {
		t.Errorf("a code that was used, before that: %v", err)
	}
	b.expect(&at, "the code again", "verify-failed code")
	b.pass(time.Hour)

	// Devices of a recipient without an account.
	if reset, err := b.ResetAccount(ctx, recipient, escrow.ResetAdministrator); reset || err != nil {
		t.Fatal(reset, err)
	}
	b.expect(&at, "no account, a device", "device-dropped administrator")
	if _, err := b.ResetAccount(ctx, recipient, escrow.ResetAdministrator); err != nil {
		t.Fatal(err)
	}
	b.expect(&at, "no account, no device", "")

	// Answers of passkeys: each is logged, whatever is wrong of it, but not without end.
	kim := b.accountItem("kim@old.example")
	b.enrolled(kim)
	_, all = b.audited(0)
	at = all[len(all)-1].Seq
	for range 50 {
		if _, err := b.SignIn(ctx, b.again(kim), escrow.SignIn{Ceremony: "none", Response: "{}"}, stranger); !errors.Is(err, escrow.ErrCeremony) {
			t.Fatal(err)
		}
	}
	words, all := b.audited(at)
	if len(words) < 3 || len(words) > 10 || words[0] != "verify-failed passkey" || all[len(all)-1].Details["next"] == "" {
		t.Errorf("%d answers of passkeys are logged: %q", len(words), words)
	}
	if _, err := b.signIn(b.again(kim), escrow.SignIn{Password: goodPassword}); err != nil {
		t.Errorf("they lock the account: %v", err)
	}
	b.exec(`ALTER TABLE audit RENAME TO elsewhere`)
	b.pass(25 * time.Hour)
	if _, err := b.SignIn(ctx, b.again(kim), escrow.SignIn{Ceremony: "none", Response: "{}"}, stranger); err == nil || errors.Is(err, escrow.ErrCeremony) {
		t.Errorf("an answer is called wrong unlogged: %v", err)
	}
	if err := b.Searched(ctx, d, 3); err == nil {
		t.Error("a search is answered unlogged")
	}
}

// TestAReleaseDeletesTheKeys: of a message that ended while it was on hold.
func TestAReleaseDeletesTheKeys(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	b.recoveryKey("safe")
	id := b.seal(message([]byte("evidence")))[0]
	b.must(b.Hold(ctx, id, "case 1"))
	b.must(b.Retract(ctx, id, ""))
	b.must(b.Release(ctx, id, "closed"))
	b.nothingToOpen(id)
	if list, err := b.Show(ctx, id); err != nil || list[0].State != escrow.StateRetracted {
		t.Errorf("%v, %v", list, err)
	}
}

// TestEachChangeIsLogged makes the changes that TestTheAuditLogHasEachStep does not, each by
// itself, and wants just the entries that tell of it.
func TestEachChangeIsLogged(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	keys, err := escrow.LoadKeys(b.keys)
	b.must(err)
	id := b.seal(message([]byte("x")))[0]
	b.mails()
	other := b.seal(message([]byte("y")))[0]
	p := b.pickup(b.link(recipient))
	stored, err := b.db.Pickups(ctx, escrow.PickupFilter{ItemID: other})
	b.must(err)
	b.enrolled(b.accountItem("kim@old.example"))
	var at int64
	recovery := ""
	var trigger int64
	change := func(c escrow.AccountChange) func() error {
		c.Address, c.Now = "kim@old.example", b.clock()
		return func() error { return b.db.ChangeAccount(ctx, c) }
	}
	ok := func(f func() (bool, error)) func() error {
		return func() error {
			if done, err := f(); err != nil || !done {
				return errors.Join(errors.New("nothing was done"), err)
			}
			return nil
		}
	}
	reply := func(state string) func() error {
		return func() error {
			r, err := b.db.ReplyByID(ctx, "reply")
			if err != nil {
				return err
			}
			return b.db.ChangeReply(ctx, escrow.ReplyChange{ID: r.ID, Version: r.Version, State: state, Sealed: []byte("s"), Changed: b.clock(), QueuedAt: b.clock()})
		}
	}
	for _, step := range []struct {
		want string
		do   func() error
	}{
		{"held", func() error { return b.Hold(ctx, id, "n") }},
		{"released", func() error { return b.Release(ctx, id, "n") }},
		{"retracted administrator, purged", func() error { return b.Retract(ctx, id, "") }},
		{"purged", func() error { _, _, err := b.Purge(ctx, id, time.Time{}, 0); return err }},
		{"notice-bounced", ok(func() (bool, error) { return b.db.NoticeBounced(ctx, stored[0].ID, nil) })},
		{"extended administrator", func() error { _, err := b.Extend(ctx, other, "", 90*24*time.Hour); return err }},
		{"", func() error {
			return b.db.CreateReply(ctx, escrow.StoredReply{ID: "reply", Pickup: stored[0].ID, Wrap: []byte("w"), Sealed: []byte("s"), Created: b.clock()})
		}},
		{"reply-queued", reply(escrow.ReplyQueued)},
		{"", reply(escrow.ReplyQueued)},
		{"reply-failed", reply(escrow.ReplyFailed)},
		{"account-changed passkey added", change(escrow.AccountChange{AddPasskey: &escrow.StoredPasskey{ID: []byte("k"), Credential: []byte("c"), Created: b.clock()}})},
		{"account-changed passkey removed", change(escrow.AccountChange{DropKey: []byte("k")})},
		{"account-changed totp set", change(escrow.AccountChange{TOTP: []byte("t"), Step: 1})},
		{"account-changed totp removed", change(escrow.AccountChange{DropTOTP: true})},
		{"device-dropped", func() error { return b.db.DropDevices(ctx, "kim@old.example") }},
		{"recipient-set", func() error { return b.SetRecipient(ctx, recipient, escrow.VerifyCode, nil) }},
		{"recipient-reset", ok(func() (bool, error) { return b.ResetRecipient(ctx, recipient) })},
		{"api-key-added", func() error {
			return b.db.AddAPIKey(ctx, submit.Key{ID: "k", Hash: []byte("k"), Senders: []string{"*"}, Created: b.clock()})
		}},
		{"api-key-removed", ok(func() (bool, error) { return b.db.RemoveAPIKey(ctx, "k") })},
		{"trigger-added", func() error {
			t := &policy.Trigger{Kind: policy.OnSubject, Pattern: "[secure]", Sender: "*", Requirement: policy.Encryption}
			if err := b.db.ImportTriggers(ctx, []*policy.Trigger{t}, false); err != nil {
				return err
			}
			list, err := b.db.Triggers(ctx)
			trigger = list[0].ID
			return err
		}},
		{"trigger-removed", ok(func() (bool, error) { return b.db.RemoveTrigger(ctx, trigger) })},
		{"key-changed recovery key made", func() error { recovery, _ = b.recoveryKey("n"); return nil }},
		{"recovered", func() error { return sql.NoteRecovery(ctx, "sqlite:"+b.path(), other, recovery) }},
		{"key-changed recovery key retired", ok(func() (bool, error) { return b.db.RetireRecoveryKey(ctx, recovery, b.clock()) })},
		{"key-changed rotation begun, key-changed key retired, key-changed rotation ended", func() error {
			b.exec(`DELETE FROM escrow_reply`) // of no key
			b.rotate()
			b.start()
			return nil
		}},
		{"backed-up", func() error { b.backup("backup"); return nil }},
		{"verify-failed code, locked", func() error {
			p := b.again(p)
			for range 4 {
				b.Prove(ctx, p, "0", stranger)
			}
			words, all := b.audited(0)
			if words[len(words)-1] != "verify-failed code" {
				return errors.New("locked too early")
			}
			at = all[len(all)-1].Seq
			b.Prove(ctx, p, "0", stranger)
			return nil
		}},
		{"pruned", func() error {
			n, err := b.db.PruneAudit(ctx, b.clock().Add(time.Hour), keys.AuditKey())
			if n == 0 {
				err = errors.Join(err, errors.New("none"))
			}
			return err
		}},
	} {
		_, all := b.audited(0)
		at = all[len(all)-1].Seq
		if err := step.do(); err != nil {
			t.Errorf("%s: %v", step.want, err)
		}
		words, _ := b.audited(at)
		if got := strings.Join(words, ", "); got != step.want {
			t.Errorf("logged is %q, want %q", got, step.want)
		}
		b.pass(time.Second)
	}
	file := filepath.Join(b.dir, "backup")
	if _, err := b.restore(file, sql.RestoreOptions{Discard: true}); err != nil {
		t.Fatal(err)
	}
	if words, _ := b.audited(0); words[len(words)-1] != "restored" {
		t.Errorf("the last of a restored log is %q", words[len(words)-1])
	}
}
