package escrow_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/sql"
)

// rotation returns one of the bench's keys, with the database open.
func (b *bench) rotation() *escrow.Rotation {
	return &escrow.Rotation{File: b.keys, Batch: 2, Store: func(f func(escrow.RotationStore) error) error { return f(b.db) }}
}

func (b *bench) rotate() string {
	b.t.Helper()
	id, err := b.rotation().Run(b.t.Context())
	b.must(err, "rotate:")
	return id
}

// serving follows the key file as serve does, until the test ends or stop is called.
func (b *bench) serving(keys *escrow.Keys) (stop func()) {
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan struct{})
	w := &escrow.KeyWatch{Keys: keys, Store: b.db, Holder: escrow.NewKeyHolder("mx.clinic.example", 4711), Log: slog.New(slog.NewTextHandler(b.logs, nil))}
	go func() { defer close(done); w.Run(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	b.t.Cleanup(stop)
	return stop
}

func (b *bench) boxKeys() map[string]int {
	b.t.Helper()
	m, err := b.db.BoxKeys(b.t.Context())
	b.must(err)
	return m
}

// messages fills a database with messages, notices and a draft, and returns what checks
// that all of them open.
func messages(t *testing.T) (b *bench, check func()) {
	b, check, queue := somethingOfEach(t)
	queue()
	return b, check
}

// somethingOfEach is messages; queue is to be called when no mail is taken out any more.
func somethingOfEach(t *testing.T) (b *bench, check, queue func()) {
	b, p, s := answering(t, nil)
	_, err := b.SaveDraft(t.Context(), p, s, "a draft", false)
	b.must(err)
	b.seal(message([]byte("sealed"), escrow.Recipient{Address: "sealed@old.example", Mode: escrow.ModeSealed}))
	sealed := b.pickup(b.link("sealed@old.example"))
	queue = func() { b.seal(message([]byte("in the outbox"), escrow.Recipient{Address: "queued@old.example"})) }
	return b, func() {
		t.Helper()
		b.reads(sealed, "sealed")
		b.reads(b.queuedFor("queued@old.example"), "in the outbox")
		draft, err := b.Draft(t.Context(), b.again(p), s)
		b.must(err, "draft:")
		if draft.Text != "a draft" {
			t.Errorf("draft %q", draft.Text)
		}
	}, queue
}

// reads checks what a verified recipient reads.
func (b *bench) reads(p *escrow.Pickup, want string) {
	b.t.Helper()
	p = b.again(p)
	r, err := b.Peek(b.t.Context(), p, escrow.SessionOf(p, b.clock().Add(time.Hour)))
	b.must(err, "peek:")
	got, err := io.ReadAll(r)
	b.must(err, "read:")
	if string(got) != want {
		b.t.Errorf("got %q", got)
	}
}

// everything fills a database with each kind of box; see messages.
func everything(t *testing.T) (b *bench, check func()) {
	b, more, queue := somethingOfEach(t)
	ctx := t.Context()
	account := b.accountItem("acc@old.example")
	d := b.enrolled(account)
	setup, err := b.NewTOTP(ctx, d)
	b.must(err)
	b.must(b.ConfirmTOTP(ctx, d, setup.Ceremony, b.totp(setup.Secret), stranger))
	ring, keyed := newKeyring(), b.accountItem("key@old.example")
	c, err := b.BeginEnrol(ctx, keyed, b.code(keyed), stranger)
	b.must(err)
	_, err = b.Enrol(ctx, keyed, escrow.Enrolment{Response: ring.creates(t, c), Ceremony: c.ID, Device: "Firefox"}, stranger)
	b.must(err)
	b.must(b.SetRecipient(ctx, "phrase@old.example", escrow.VerifyPassphrase, []byte("nine blue cranes")))
	b.seal(message([]byte("by passphrase"), escrow.Recipient{Address: "phrase@old.example"}))
	phrased := b.pickup(b.link("phrase@old.example"))
	queue()
	return b, func() {
		t.Helper()
		ctx := t.Context()
		more()
		b.pass(time.Minute)
		token, err := b.Verify(ctx, b.again(phrased), "nine blue cranes", stranger)
		b.must(err, "passphrase:")
		if got := string(b.read(b.again(phrased), token)); got != "by passphrase" {
			t.Errorf("by passphrase: %q", got)
		}
		b.pass(time.Minute) // another code
		if _, err := b.signIn(b.again(account), escrow.SignIn{Password: goodPassword, TOTP: b.totp(setup.Secret)}); err != nil {
			t.Errorf("password and TOTP: %v", err)
		}
		c, err := b.BeginSignIn(ctx, b.again(keyed), stranger)
		b.must(err, "passkey:")
		if _, err := b.signIn(b.again(keyed), escrow.SignIn{Response: ring.asserts(t, c), Ceremony: c.ID}); err != nil {
			t.Errorf("passkey: %v", err)
		}
		// The settings of recipients still make new links.
		b.must(b.Resend(ctx, phrased.ItemID, ""), "resend:")
		phrased = b.queuedFor("phrase@old.example")
	}
}

// queuedFor returns the pickup of the newest notice that waits in the outbox.
func (b *bench) queuedFor(to string) (p *escrow.Pickup) {
	b.t.Helper()
	list, _, err := b.Due(b.t.Context(), 1000)
	b.must(err)
	for _, e := range list {
		if e.To == to && e.Kind == "notice" {
			m := linkLine.FindSubmatch(e.Text)
			p = b.pickup(string(m[1]), string(m[2]))
		}
	}
	if p == nil {
		b.t.Fatalf("no notice to %s is in the outbox", to)
	}
	return p
}

// Everything that is kept opens before a rotation, for a process that serves meanwhile,
// and after, for one that has never seen the old key.
func TestRotation(t *testing.T) {
	b, check := everything(t)
	check()
	keys := escrow.KeysOf(b.Vault)
	b.serving(keys)
	old := keys.Primary()
	before := b.boxKeys()
	if len(before) != 1 || before[old] < 15 {
		t.Fatalf("boxes %v", before)
	}
	var steps []string
	r := b.rotation()
	r.Progress = func(p escrow.RotationProgress) {
		if !slices.Contains(steps, p.Step) {
			steps = append(steps, p.Step)
		}
	}
	id, err := r.Run(t.Context())
	b.must(err)
	if after := b.boxKeys(); len(after) != 1 || after[id] != before[old] || id == old {
		t.Errorf("boxes %v, then %v", before, after)
	}
	for _, want := range []string{escrow.StepAdded, escrow.StepPrimary, escrow.StepRewrap, escrow.StepFinished} {
		if !slices.Contains(steps, want) {
			t.Errorf("step %s was not told of, but %v", want, steps)
		}
	}
	check() // with the keys that were read anew
	fresh, err := escrow.LoadKeys(b.keys)
	b.must(err)
	if list := fresh.List(); len(list) != 1 || list[0].ID != id || !list[0].Primary {
		t.Errorf("the key file has %v", list)
	}
	for _, left := range []string{".old"} {
		if _, err := os.Stat(b.keys + left); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", left, err)
		}
	}
	check2 := b.Vault
	b.Vault = b.vault(b.keys, func(o *escrow.Options) { o.PortalURL = "https://portal.clinic.example/x" })
	check()
	b.Vault = check2
	log, err := b.db.AuditEntries(t.Context(), audit.Filter{Kinds: []string{audit.KeyChanged}, Oldest: true})
	b.must(err)
	var told []string
	for _, e := range log {
		told = append(told, e.Details["what"]+" "+e.Details["key"])
	}
	if want := []string{"rotation begun " + id, "key retired " + old, "rotation ended " + id}; !slices.Equal(told, want) {
		t.Errorf("the audit log tells %q, want %q", told, want)
	}
	// Once more, with nobody serving.
	if next := b.rotate(); next == id {
		t.Error("the second rotation made no new key")
	}
}

// The database takes nothing under the old key once it is retired, from whomever.
func TestNothingIsStoredUnderARetiredKey(t *testing.T) {
	b := newBench(t)
	stale := b.Vault // never reads the file anew
	b.rotate()
	_, err := stale.Seal(t.Context(), message([]byte("x")))
	if !errors.Is(err, escrow.ErrKeyRetired) {
		t.Fatalf("a process that knows the old key alone: %v", err)
	}
	if err := stale.SetRecipient(t.Context(), recipient, escrow.VerifyPassphrase, []byte("nine blue cranes")); !errors.Is(err, escrow.ErrKeyRetired) {
		t.Errorf("a setting: %v", err)
	}
	if list, err := b.List(t.Context(), escrow.Filter{}); err != nil || len(list) != 0 {
		t.Errorf("it exists: %v, %v", list, err)
	}
	if _, err := escrow.KeysOf(stale).Reload(); err != nil {
		t.Fatal(err)
	}
	if _, err := stale.Seal(t.Context(), message([]byte("x"))); err != nil {
		t.Errorf("tried again after reading the file: %v", err)
	}
}

// A message that is being sealed while the keys change is sealed under the new one.
func TestSealingStartsAnewWhereTheKeyWasRetiredMeanwhile(t *testing.T) {
	b := newBench(t)
	done := false
	v := b.vault(b.keys, func(o *escrow.Options) {
		o.Store = &meddler{o.Store, func() { // between wrapping and storing
			if !done {
				done = true
				b.rotate()
				escrow.KeysOf(b.Vault).Reload()
			}
		}}
	})
	b.Vault = v
	b.seal(message([]byte("in flight")))
	p := b.pickup(b.link(recipient))
	if got := string(b.open(p, b.code(p))); got != "in flight" {
		t.Errorf("got %q", got)
	}
	if m := b.boxKeys(); len(m) != 1 || m[escrow.KeysOf(v).Primary()] == 0 {
		t.Errorf("boxes %v", m)
	}
}

type meddler struct {
	escrow.Store
	before func()
}

func (m *meddler) Create(ctx context.Context, items []escrow.NewItem, d escrow.Digest, sender string, recipients []string, q escrow.Quota) error {
	m.before()
	return m.Store.Create(ctx, items, d, sender, recipients, q)
}

// A rotation waits for a process that has not read the file, and goes on when it has.
func TestRotationWaitsForWhoServes(t *testing.T) {
	b := newBench(t)
	b.seal(message([]byte("x")))
	keys := escrow.KeysOf(b.Vault)
	h := escrow.NewKeyHolder("mx", 1)
	hold := func() {
		h.Keys, h.Primary, h.Seen = nil, keys.Primary(), time.Now()
		for _, k := range keys.List() {
			h.Keys = append(h.Keys, k.ID)
		}
		b.must(b.db.HoldKeys(t.Context(), h))
	}
	hold()
	old := keys.Primary()
	waits := 0
	r := b.rotation()
	r.Progress = func(p escrow.RotationProgress) {
		switch p.Step {
		case escrow.StepWaiting:
			waits++
			if len(p.Waiting) != 1 || !strings.Contains(p.Waiting[0], "process 1 on mx") {
				t.Errorf("waiting for %v", p.Waiting)
			}
			now, err := escrow.LoadKeys(b.keys)
			b.must(err)
			if waits == 1 && now.Primary() != old {
				t.Error("the new key encrypts before all know it")
			}
			if m := b.boxKeys(); m[old] == 0 {
				t.Error("a process that has not the new primary key can't open any more what there is")
			}
			if _, err := keys.Reload(); err != nil {
				t.Error(err)
			}
			hold()
		case escrow.StepRewrap:
			if waits != 2 {
				t.Errorf("encrypts anew after %d waits", waits)
			}
		}
	}
	_, err := r.Run(t.Context())
	b.must(err)
	// One that was killed is waited for no longer than it could still be alive.
	h.Seen = time.Now().Add(-31 * time.Second)
	b.must(b.db.HoldKeys(t.Context(), h))
	b.rotate()
	// And cut short while it waits, it says how to go on, and does.
	keys.Reload()
	hold()
	ctx, cancel := context.WithCancel(t.Context())
	r = b.rotation()
	r.Progress = func(p escrow.RotationProgress) { cancel() }
	if _, err := r.Run(ctx); err == nil || !strings.Contains(err.Error(), "run it again") {
		t.Errorf("cut short: %v", err)
	}
	b.must(b.db.LeaveKeys(t.Context(), h.ID))
	b.rotate()
	if m := b.boxKeys(); len(m) != 1 {
		t.Errorf("boxes %v", m)
	}
}

// Killed anywhere, nothing is lost, and the next run ends what was begun.
func TestRotationKilled(t *testing.T) {
	for _, point := range []string{
		"rotate-before-old", "rotate-begun", "rotate-before-rename", "rotate-added", "rotate-primary", "rotate-retired", "rotate-batch", "rotate-clean", "rotate-removed",
	} {
		t.Run(point, func(t *testing.T) {
			b, check := messages(t)
			keys := escrow.KeysOf(b.Vault)
			exe, err := os.Executable()
			b.must(err)
			cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestRotationChild$")
			cmd.Env = append(os.Environ(), "POSTSEAL_TEST_CRASH="+point, "POSTSEAL_TEST_DB="+b.path(), "POSTSEAL_TEST_KEYS="+b.keys)
			out, _ := cmd.CombinedOutput()
			if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
				t.Fatalf("was not killed: %v\n%s", cmd.ProcessState, out)
			}
			if _, err := keys.Reload(); err != nil {
				t.Fatal(err)
			}
			check() // as it was left
			var resumed bool
			r := b.rotation()
			r.Progress = func(p escrow.RotationProgress) { resumed = resumed || p.Resumed }
			id, err := r.Run(t.Context())
			b.must(err)
			if want := point != "rotate-before-old" && point != "rotate-begun" && point != "rotate-before-rename"; resumed != want {
				t.Errorf("resumed: %v", resumed)
			}
			_, err = keys.Reload()
			b.must(err)
			if m := b.boxKeys(); len(m) != 1 || m[id] == 0 {
				t.Errorf("boxes %v, the key is %s", m, id)
			}
			check()
			left, _ := filepath.Glob(filepath.Join(b.dir, "*key*"))
			hidden, _ := filepath.Glob(filepath.Join(b.dir, ".*key*"))
			if got := append(left, hidden...); len(got) != 2 { // keys, keys.lock
				t.Errorf("files left: %v", got)
			}
			if to, err := b.db.OpenRotation(t.Context()); err != nil || to != "" {
				t.Errorf("a rotation is still open: %s, %v", to, err)
			}
		})
	}
}

// TestRotationChild is the process that TestRotationKilled kills.
func TestRotationChild(t *testing.T) {
	point := os.Getenv("POSTSEAL_TEST_CRASH")
	if !strings.HasPrefix(point, "rotate-") {
		return // it runs in a process that another test starts
	}
	db, err := sql.Open(t.Context(), "sqlite:"+os.Getenv("POSTSEAL_TEST_DB"), sql.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := &escrow.Rotation{
		File: os.Getenv("POSTSEAL_TEST_KEYS"), Batch: 2, Store: func(f func(escrow.RotationStore) error) error { return f(db) },
		Crash: func(at string) {
			if at == point {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		},
	}
	if _, err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// What opens under no key keeps the old one, until somebody who was told says otherwise.
func TestRotationKeepsTheOldKeyForWhatIsDamaged(t *testing.T) {
	b := newBench(t)
	ids := b.seal(message([]byte("x")))
	b.exec(`UPDATE escrow_item SET summary = x'0101deadbeef00' WHERE id = ?`, ids[0])
	_, err := b.rotation().Run(t.Context())
	var bad *escrow.BadBoxes
	if !errors.As(err, &bad) || len(bad.Where) != 1 || !strings.Contains(err.Error(), "escrow_item.summary of "+ids[0]) {
		t.Fatalf("error: %v", err)
	}
	keys, err := escrow.LoadKeys(b.keys)
	b.must(err)
	if len(keys.List()) != 2 {
		t.Errorf("keys %v", keys.List())
	}
	r := b.rotation()
	r.LeaveBad = true
	_, err = r.Run(t.Context())
	b.must(err)
	if keys, err = escrow.LoadKeys(b.keys); err != nil || len(keys.List()) != 1 {
		t.Errorf("keys %v, %v", keys.List(), err)
	}
}

func TestRotationKeepsTheOldFileOnDemand(t *testing.T) {
	b := newBench(t)
	was, err := os.ReadFile(b.keys)
	b.must(err)
	r := b.rotation()
	r.KeepOld = true
	_, err = r.Run(t.Context())
	b.must(err)
	got, err := os.ReadFile(b.keys + ".old")
	b.must(err)
	if string(got) != string(was) {
		t.Error("it is another file")
	}
	if fi, err := os.Stat(b.keys + ".old"); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	if _, err := b.rotation().Run(t.Context()); err == nil || !strings.Contains(err.Error(), "move it to a safe place") {
		t.Errorf("the next rotation: %v", err)
	}
	if keys, err := escrow.LoadKeys(b.keys); err != nil || len(keys.List()) != 1 {
		t.Errorf("it has begun all the same: %v", err)
	}
}

func TestOneRotationAtATime(t *testing.T) {
	b := newBench(t)
	r := b.rotation()
	r.Crash = func(at string) {
		if at == "rotate-added" {
			if _, err := b.rotation().Run(t.Context()); err == nil || !strings.Contains(err.Error(), "running already") {
				t.Errorf("a second one: %v", err)
			}
		}
	}
	_, err := r.Run(t.Context())
	b.must(err)
}

// A key file that can't be used, or is another server's, changes nothing.
func TestReloadIsAllOrNothing(t *testing.T) {
	b := newBench(t)
	b.seal(message([]byte("x")))
	p := b.pickup(b.link(recipient))
	keys := escrow.KeysOf(b.Vault)
	whole, err := os.ReadFile(b.keys)
	b.must(err)
	other := filepath.Join(b.dir, "other")
	b.must(escrow.NewKeyFile(other))
	foreign, err := os.ReadFile(other)
	b.must(err)
	var mixed, theirs map[string]json.RawMessage
	b.must(json.Unmarshal(whole, &mixed))
	b.must(json.Unmarshal(foreign, &theirs))
	mixed["prf"] = theirs["prf"]
	half, err := json.Marshal(mixed)
	b.must(err)
	primary := keys.Primary()
	for name, data := range map[string][]byte{
		"cut": whole[:len(whole)/2], "empty": nil, "of another server": foreign, "half of another server": half, "newer": []byte(`{"postseal_keys": 9}`),
	} {
		b.must(os.WriteFile(b.keys, data, 0o600))
		if changed, err := keys.Reload(); err == nil || changed {
			t.Errorf("%s: changed %v, %v", name, changed, err)
		} else if strings.Contains(err.Error(), `"key"`) || len(err.Error()) > 300 {
			t.Errorf("%s: the error quotes the file: %v", name, err)
		}
		if keys.Primary() != primary {
			t.Errorf("%s: the keys are others", name)
		}
	}
	b.must(os.Remove(b.keys))
	if _, err := keys.Reload(); err == nil {
		t.Error("a missing file is no error")
	}
	if got := string(b.open(p, b.code(p))); got != "x" {
		t.Errorf("got %q", got)
	}
	b.must(os.WriteFile(b.keys, whole, 0o644))
	b.must(os.Chmod(b.keys, 0o644))
	if _, err := keys.Reload(); err == nil {
		t.Error("a file that all can read is no error")
	}
	b.must(os.Chmod(b.keys, 0o600))
	if changed, err := keys.Reload(); err != nil || changed {
		t.Errorf("as it was: changed %v, %v", changed, err)
	}
}

// What serves says so once, and goes on with what it has.
func TestADamagedFileIsLoggedOnce(t *testing.T) {
	b := newBench(t)
	keys := escrow.KeysOf(b.Vault)
	whole, err := os.ReadFile(b.keys)
	b.must(err)
	failed := make(chan error, 10)
	w := &escrow.KeyWatch{Keys: keys, Store: b.db, Holder: escrow.NewKeyHolder("mx", 1), Log: slog.New(slog.NewTextHandler(b.logs, nil)), Failed: func(err error) { failed <- err }}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.Run(ctx) }()
	b.must(os.WriteFile(b.keys, whole[:100], 0o600))
	if err := <-failed; err == nil {
		t.Error("told of no error")
	}
	time.Sleep(1200 * time.Millisecond) // more polls
	b.must(os.WriteFile(b.keys, whole, 0o600))
	if err := <-failed; err != nil {
		t.Errorf("told of %v", err)
	}
	cancel()
	<-done
	if n := strings.Count(b.logs.String(), "the keys of before stay in force"); n != 1 {
		t.Errorf("logged %d times", n)
	}
	if h, err := b.db.KeyHolders(context.WithoutCancel(t.Context()), time.Time{}.Add(time.Hour)); err != nil || len(h) != 0 {
		t.Errorf("it stays in the list: %v, %v", h, err)
	}
}

// The cookie of a device that was verified for one message is under the server's keys:
// after a rotation the recipient verifies again, and nothing worse.
func TestSessionsEndWithTheirKey(t *testing.T) {
	b := newBench(t)
	b.must(b.SetRecipient(t.Context(), recipient, escrow.VerifyPassphrase, []byte("nine blue cranes")))
	b.seal(message([]byte("x")))
	p := b.pickup(b.link(recipient))
	token, err := b.Verify(t.Context(), p, "nine blue cranes", stranger)
	b.must(err)
	if _, err := b.CheckToken(t.Context(), p, token); err != nil {
		t.Fatal(err)
	}
	b.rotate()
	b.Vault = b.vault(b.keys)
	if _, err := b.CheckToken(t.Context(), p, token); !errors.Is(err, escrow.ErrUnknown) {
		t.Errorf("a session under the old key: %v", err)
	}
	b.pass(time.Minute)
	if got := string(b.open(b.again(p), "nine blue cranes")); got != "x" {
		t.Errorf("verified again: %q", got)
	}
}

// Each purpose for which something is encrypted under the server's keys is listed: as
// one that a rotation encrypts anew, or one that nobody keeps for long.
func TestEveryPurposeIsRotatedOrShortLived(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") || strings.HasPrefix(name, "keys") {
			continue
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			at := set.Position(call.Pos())
			on := fmt.Sprint(sel.X)
			if x, ok := sel.X.(*ast.SelectorExpr); ok {
				on = x.Sel.Name
			}
			switch {
			case on == "keys" && sel.Sel.Name == "seal":
				lit, ok := call.Args[1].(*ast.BasicLit)
				if !ok {
					t.Errorf("%s: the purpose is no literal", at)
					return true
				}
				purpose, _ := strconv.Unquote(lit.Value)
				found[purpose] = true
			case on == "seal" && sel.Sel.Name == "Wrap":
				found["wrap/1"] = true
			case on == "seal" && sel.Sel.Name == "WrapRecover":
				found["recover/1"] = true
			case on == "aead":
				t.Errorf("%s: encrypts under the server's keys past Keys.seal", at)
			}
			return true
		})
	}
	listed := append(slices.Clone(escrow.RotatedPurposes), escrow.ShortLivedPurposes...)
	for p := range found {
		if !slices.Contains(listed, p) {
			t.Errorf("purpose %q is in no list of keys_rotate.go: a rotation would lose it", p)
		}
	}
	for _, p := range listed {
		if !found[p] {
			t.Errorf("nothing is encrypted for purpose %q any more", p)
		}
	}
}

// What root's rotation writes belongs to whom the key file belongs.
func TestRotationByRootKeepsTheOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	b := newBench(t)
	b.must(os.Chown(b.keys, 65534, 65534))
	r := b.rotation()
	r.KeepOld = true
	_, err := r.Run(t.Context())
	b.must(err)
	for _, name := range []string{b.keys, b.keys + ".old", b.keys + ".lock"} {
		fi, err := os.Stat(name)
		b.must(err)
		if st := fi.Sys().(*syscall.Stat_t); st.Uid != 65534 || st.Gid != 65534 || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s belongs to %d:%d, mode %v", name, st.Uid, st.Gid, fi.Mode())
		}
	}
}

// TestRotationWithACopyOfTheKeyFile: a process that has a copy of the file from its start, as
// systemd makes one of a credential, is started anew once, and seals and opens meanwhile.
func TestRotationWithACopyOfTheKeyFile(t *testing.T) {
	b, check := messages(t)
	credential := filepath.Join(b.dir, "credential")
	restart := func() (stop func()) {
		data, err := os.ReadFile(b.keys)
		b.must(err)
		os.Remove(credential)
		b.must(os.WriteFile(credential, data, 0o600))
		b.Vault = b.vault(credential)
		return b.serving(escrow.KeysOf(b.Vault))
	}
	stop := restart()
	old := escrow.KeysOf(b.Vault).Primary()
	for len(b.holders()) == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	restarts := 0
	r := b.rotation()
	r.Progress = func(p escrow.RotationProgress) {
		if p.Step == escrow.StepWaiting && !slices.Contains(b.holders()[0].Keys, p.Key) {
			if restarts++; restarts > 1 {
				return
			}
			stop()
			stop = restart()
			if escrow.KeysOf(b.Vault).Primary() != old {
				t.Error("the new key encrypts before all know it")
			}
			check()
		}
	}
	id, err := r.Run(t.Context())
	b.must(err)
	if restarts != 1 {
		t.Errorf("started anew %d times", restarts)
	}
	if k := escrow.KeysOf(b.Vault); k.Primary() != id || len(k.List()) != 2 {
		t.Errorf("the process has %v", k.List())
	}
	b.seal(message([]byte("after the rotation")))
	if m := b.boxKeys(); len(m) != 1 || m[id] == 0 {
		t.Errorf("boxes %v, the key is %s", m, id)
	}
	check()
	if to, err := b.db.PrimaryKey(t.Context()); err != nil || to != "" {
		t.Errorf("after the end: %q, %v", to, err)
	}
	stop()
	stop = restart() // with the new key alone
	check()
	stop()
}

func (b *bench) holders() []escrow.KeyHolder {
	b.t.Helper()
	list, err := b.db.KeyHolders(b.t.Context(), time.Now().Add(-time.Minute))
	b.must(err)
	return list
}
