package escrow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"golang.org/x/sys/unix"

	"github.com/postseal/postseal/escrow/seal"
)

// Box is something that the database keeps under the server's keys.
type Box struct {
	Purpose string   // as in its associated data
	Parts   []string // of its place, likewise
	Data    []byte
}

// Purposes of boxes that a rotation encrypts anew. Whoever adds one lists it here, and
// in package sql where it lies.
const (
	boxWrap       = "wrap/1"    // the outer layer
	boxRecover    = "recover/1" // of a message or a reply
	boxSummary    = "summary/1"
	boxMail       = "mail/1"
	boxPassphrase = "passphrase/1"
	boxPassword   = "password/1"
	boxTOTP       = "totp/1"
	boxPasskey    = "passkey/1"

	boxAdminPassword = "admin-password/1"
	boxAdminTOTP     = "admin-totp/1"
)

// RotatedPurposes are all of them.
var RotatedPurposes = []string{boxWrap, boxRecover, boxSummary, boxMail, boxPassphrase, boxPassword, boxTOTP, boxPasskey, boxAdminPassword, boxAdminTOTP}

// ShortLivedPurposes are those of boxes that no database keeps: a browser has them, for
// ten minutes (ceremony, admin-oidc), twelve hours (session), or in the address of a page
// (search). Under a key that is gone they count as over: the recipient verifies, and the
// administrator signs in, again, or types the words once more.
var ShortLivedPurposes = []string{"ceremony/1", "session/1", "search/1", "admin-oidc/1"}

// BoxKey returns the ID of the key that a box is under, "" where that can't be told.
func BoxKey(b Box) string {
	id, ok := seal.KeyID(b.Data)
	if b.Purpose == boxRecover {
		id, ok = seal.RecoverKeyID(b.Data)
	}
	if !ok {
		return ""
	}
	return keyName(id)
}

// errForeignBox reports a box that opens under none of the keys.
var errForeignBox = errors.New("opens under none of the server's keys")

// Rewrap returns a box anew under the primary key; nil where it is already.
func (k *Keys) Rewrap(b Box) ([]byte, error) {
	if BoxKey(b) == k.Primary() {
		return nil, nil
	}
	var fresh []byte
	var err error
	switch b.Purpose {
	case boxWrap:
		fresh, err = seal.Rewrap(k.aead, b.Data, b.Parts[0], b.Parts[1])
	case boxRecover:
		fresh, err = seal.RewrapRecover(k.aead, b.Data, b.Parts[0])
	default:
		var plain []byte
		if plain, err = k.open(b.Data, b.Purpose, b.Parts...); err == nil {
			fresh, err = k.seal(plain, b.Purpose, b.Parts...)
		}
	}
	if err != nil {
		return nil, errForeignBox
	}
	return fresh, nil
}

// BoxCursor is a place in the walk over all boxes. The zero cursor is the start.
type BoxCursor struct {
	Kind int // of table and column
	Row  int64
}

// BoxBatch is what was done in one transaction of the walk.
type BoxBatch struct {
	Next    BoxCursor
	Done    bool // there are no more
	Seen    int
	Changed int
	Bad     []string // where boxes are that open under no key; nothing secret
}

// RotationStore is what a rotation needs of the database.
type RotationStore interface {
	// BeginRotation notes that everything is to get under this key.
	BeginRotation(ctx context.Context, to string, now time.Time) error
	// EndRotation notes that it is; begun is false where there was none under way to
	// this key.
	EndRotation(ctx context.Context, to string, now time.Time) (begun bool, err error)
	// MakePrimary tells processes that have this key, and can't read the file anew, that it
	// encrypts from now on.
	MakePrimary(ctx context.Context, key string) error
	// OpenRotation returns the key that a rotation under way goes to, "" without one.
	OpenRotation(ctx context.Context) (to string, err error)
	// RetireKeys forbids, for good, to store anything under these keys.
	RetireKeys(ctx context.Context, ids []string, now time.Time) error
	// KeyHolders returns who has said since then which keys they have.
	KeyHolders(ctx context.Context, since time.Time) ([]KeyHolder, error)
	// CountBoxes counts what there is to walk over.
	CountBoxes(ctx context.Context) (int, error)
	// RewrapBoxes puts what f returns, where that is not nil, in the place of the next
	// boxes, at most limit, in one transaction. f's error is for one box: it stays.
	RewrapBoxes(ctx context.Context, from BoxCursor, limit int, f func(Box) ([]byte, error)) (BoxBatch, error)
	// Checkpoint clears overwritten content from the database's journal; not done where
	// somebody still reads an older state.
	Checkpoint(ctx context.Context) (done bool, err error)
}

// RotationProgress is told while a rotation runs.
type RotationProgress struct {
	Step    string   `json:"step"` // one of the Step constants
	Key     string   `json:"key"`  // the new one
	Old     []string `json:"old,omitempty"`
	Done    int      `json:"done"` // boxes looked at
	Total   int      `json:"total"`
	Changed int      `json:"changed"` // of them encrypted anew
	Waiting []string `json:"waiting,omitempty"`
	Resumed bool     `json:"resumed,omitempty"`
}

// Steps of a rotation.
const (
	StepAdded    = "added"    // the new key is in the file
	StepWaiting  = "waiting"  // for processes that have not read the file anew
	StepPrimary  = "primary"  // the new key encrypts
	StepRewrap   = "rewrap"   // what is there is encrypted anew
	StepFinished = "finished" // the old key is gone
)

// Rotation gives the server a new key, and puts all that is kept under the old one
// under the new. It goes by steps, each of which is safe to be cut short:
//
//  1. the new key is added to the file; every process that serves reads it, and can
//     open with both;
//  2. the new key becomes the one that encrypts; again every process reads the file, or is
//     told by the database where it has a copy of it;
//  3. the database is forbidden to store anything under the old key, by whomever;
//  4. every box is encrypted anew, in small transactions;
//  5. when a walk over all of them finds nothing under the old key, it is taken out
//     of the file.
//
// Cut short, the next rotation goes on where this one was: file and database say where.
type Rotation struct {
	File string
	// Store calls f with the database, open.
	Store    func(f func(RotationStore) error) error
	Progress func(RotationProgress)
	// KeepOld leaves the key file of before in File+".old"; else it is deleted in the
	// end.
	KeepOld bool
	// LeaveBad finishes though some boxes open under no key.
	LeaveBad bool
	Batch    int // boxes in one transaction; 0: 100
	Crash    func(point string)

	file keySets
	keys *Keys
	p    RotationProgress
}

// BadBoxes reports boxes that open under none of the keys; the old key was not taken
// out of the file.
type BadBoxes struct{ Where []string }

func (e *BadBoxes) Error() string {
	return fmt.Sprintf("%d things in the database open under none of the keys, so the old key stays: %s", len(e.Where), strings.Join(e.Where[:min(len(e.Where), 20)], ", "))
}

// Run rotates, or goes on with a rotation that was cut short. It returns the ID of the
// new key.
func (r *Rotation) Run(ctx context.Context) (id string, err error) {
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("cut short; run it again to go on: %w", err)
		}
	}()
	if r.Progress == nil {
		r.Progress = func(RotationProgress) {}
	}
	if r.Crash == nil {
		r.Crash = func(string) {}
	}
	if r.Batch <= 0 {
		r.Batch = 100
	}
	unlock, err := r.lock()
	if err != nil {
		return "", err
	}
	defer unlock()
	r.tidy()
	if err := r.load(); err != nil {
		return "", err
	}
	if err := r.begin(ctx); err != nil {
		return "", err
	}
	if r.keys.Primary() != r.p.Key {
		r.tell(StepAdded)
		if err := r.await(ctx, func(h *KeyHolder) bool { return h.has(r.p.Key) }); err != nil {
			return "", err
		}
		if err := r.makePrimary(); err != nil {
			return "", err
		}
		r.Crash("rotate-primary")
	}
	if err := r.Store(func(s RotationStore) error { return s.MakePrimary(ctx, r.p.Key) }); err != nil {
		return "", err
	}
	r.tell(StepPrimary)
	if err := r.await(ctx, func(h *KeyHolder) bool { return h.Primary == r.p.Key }); err != nil {
		return "", err
	}
	if err := r.rewrap(ctx); err != nil {
		return "", err
	}
	if err := r.finish(ctx); err != nil {
		return "", err
	}
	r.tell(StepFinished)
	return r.p.Key, nil
}

func (r *Rotation) tell(step string) {
	r.p.Step = step
	r.Progress(r.p)
}

// lock keeps a second rotation away.
func (r *Rotation) lock() (unlock func(), err error) {
	// The directory may be another user's: no link of theirs is followed.
	f, err := os.OpenFile(r.File+".lock", os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err == nil {
		if err = own(f, r.File); err != nil {
			f.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("rotate the keys: the directory of the key file must be writable, run it as its owner or as root: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, errors.New("rotate the keys: a rotation is running already")
	}
	// The file stays: to delete it would let two rotations each hold a lock.
	return func() { f.Close() }, nil
}

// tidy deletes what a rotation that was killed has written and not put in place.
func (r *Rotation) tidy() {
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(r.File), tempPattern(r.File)))
	for _, name := range left {
		os.Remove(name)
	}
}

func tempPattern(path string) string { return "." + filepath.Base(path) + ".new-*" }

func (r *Rotation) load() error {
	data, err := readKeyFile(r.File)
	if err != nil {
		return err
	}
	if r.file, r.keys, err = parseKeys(data); err != nil {
		return fmt.Errorf("key file %s: %w", r.File, err)
	}
	r.keys.path = r.File
	return nil
}

// begin finds where a rotation under way is, or adds the new key.
func (r *Rotation) begin(ctx context.Context) error {
	var under string
	if err := r.Store(func(s RotationStore) (err error) {
		under, err = s.OpenRotation(ctx)
		return err
	}); err != nil {
		return err
	}
	list := r.keys.List()
	last := list[len(list)-1].ID
	r.p.Key = last
	for _, k := range list[:len(list)-1] {
		r.p.Old = append(r.p.Old, k.ID)
	}
	if len(list) > 1 || under == last {
		r.p.Resumed = true
		if under == last {
			return nil
		}
		return r.Store(func(s RotationStore) error { return s.BeginRotation(ctx, last, time.Now()) })
	}
	if err := r.keepOld(); err != nil {
		return err
	}
	m := keyset.NewManagerFromHandle(r.file.aead)
	id, err := m.Add(aead.AES256GCMKeyTemplate())
	if err != nil {
		return fmt.Errorf("new key: %w", err)
	}
	r.p.Key, r.p.Old = keyName(id), []string{last}
	// First the database, so that the log has every key that the file ever had.
	if err := r.Store(func(s RotationStore) error { return s.BeginRotation(ctx, r.p.Key, time.Now()) }); err != nil {
		return err
	}
	r.Crash("rotate-begun")
	if err := r.change(m); err != nil {
		return err
	}
	r.Crash("rotate-added")
	return nil
}

func (r *Rotation) makePrimary() error {
	m := keyset.NewManagerFromHandle(r.file.aead)
	for i := range r.file.aead.Len() {
		if e, err := r.file.aead.Entry(i); err != nil {
			return err
		} else if keyName(e.KeyID()) == r.p.Key {
			if err := m.SetPrimary(e.KeyID()); err != nil {
				return err
			}
		}
	}
	return r.change(m)
}

// change writes the key file with what m has.
func (r *Rotation) change(m *keyset.Manager) error {
	h, err := m.Handle()
	if err != nil {
		return fmt.Errorf("new keys: %w", err)
	}
	data, err := keySets{h, r.file.prf}.marshal()
	if err != nil {
		return fmt.Errorf("new keys: %w", err)
	}
	// What can't be read again is never put in the place of what can.
	_, check, err := parseKeys(data)
	if err != nil || !bytes.Equal(check.fingerprint(), r.keys.fingerprint()) {
		return errors.New("new keys: they do not come back as they were written; the key file is as it was")
	}
	if err := replaceKeyFile(r.File, data, r.Crash); err != nil {
		return err
	}
	return r.load()
}

// oldFile is where the key file of before is kept.
func (r *Rotation) oldFile() string { return r.File + ".old" }

func (r *Rotation) keepOld() error {
	data, err := readKeyFile(r.File)
	if err != nil {
		return err
	}
	if was, err := os.ReadFile(r.oldFile()); err == nil && bytes.Equal(was, data) {
		return nil // of a rotation that was cut short
	}
	// It appears whole, or not at all: what is cut short must not look like another's.
	f, err := os.CreateTemp(filepath.Dir(r.File), tempPattern(r.File))
	if err != nil {
		return fmt.Errorf("keep the old keys: %w", err)
	}
	defer os.Remove(f.Name())
	if err := fill(f, r.File, data); err != nil {
		f.Close()
		return fmt.Errorf("keep the old keys: %w", err)
	}
	r.Crash("rotate-before-old")
	err = unix.Renameat2(unix.AT_FDCWD, f.Name(), unix.AT_FDCWD, r.oldFile(), unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // a file system without it
		err = os.Link(f.Name(), r.oldFile())
	}
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s exists: it is the key file from before an earlier rotation; move it to a safe place, or delete it if no backup of the database is left from before", r.oldFile())
	} else if err != nil {
		return fmt.Errorf("keep the old keys: %w", err)
	}
	return syncDir(filepath.Dir(r.File))
}

// replaceKeyFile puts a new key file in the place of one, at once and on the disk. It
// belongs to whom the old one belongs.
func replaceKeyFile(path string, data []byte, crash func(string)) error {
	f, err := os.CreateTemp(filepath.Dir(path), tempPattern(path))
	if err != nil {
		return fmt.Errorf("write the key file: %w", err)
	}
	defer os.Remove(f.Name()) // nothing once it is renamed
	if err := fill(f, path, data); err != nil {
		f.Close()
		return fmt.Errorf("write the key file: %w", err)
	}
	crash("rotate-before-rename")
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write the key file: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// await waits until each process that serves meets ok.
func (r *Rotation) await(ctx context.Context, ok func(*KeyHolder) bool) error {
	defer func() { r.p.Waiting = nil }()
	for told := (time.Time{}); ; {
		var lacking []string
		err := r.Store(func(s RotationStore) error {
			lacking = nil
			holders, err := s.KeyHolders(ctx, time.Now().Add(-holderLost))
			for i := range holders {
				if !ok(&holders[i]) {
					lacking = append(lacking, fmt.Sprintf("process %d on %s", holders[i].PID, holders[i].Host))
				}
			}
			return err
		})
		if err != nil || len(lacking) == 0 {
			return err
		}
		if r.p.Waiting = lacking; time.Since(told) > 5*time.Second {
			told = time.Now()
			r.tell(StepWaiting)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited for %s to read the key file: %w", strings.Join(lacking, ", "), ctx.Err())
		case <-time.After(keyPoll / 2):
		}
	}
}

// maxWalks bounds how often all boxes are walked over. The first finds all that is under
// the old key, since nothing new gets there; the last finds nothing.
const maxWalks = 5

func (r *Rotation) rewrap(ctx context.Context) error {
	return r.Store(func(s RotationStore) error {
		if err := s.RetireKeys(ctx, r.p.Old, time.Now()); err != nil {
			return err
		}
		r.Crash("rotate-retired")
		for range maxWalks {
			total, err := s.CountBoxes(ctx)
			if err != nil {
				return err
			}
			r.p.Done, r.p.Total = 0, total
			changed, bad, err := r.walk(ctx, s)
			switch {
			case err != nil:
				return err
			case changed > 0:
				continue
			case len(bad) > 0 && !r.LeaveBad:
				return &BadBoxes{bad}
			}
			// What lay under the old key is gone from the journal too.
			if err := clearJournal(ctx, s); err != nil {
				return err
			}
			r.Crash("rotate-clean")
			return nil
		}
		return errors.New("rotate the keys: something is still stored under the old key; run it again")
	})
}

func (r *Rotation) walk(ctx context.Context, s RotationStore) (changed int, bad []string, err error) {
	for at := (BoxCursor{}); ; {
		if err := ctx.Err(); err != nil {
			return changed, bad, err
		}
		b, err := s.RewrapBoxes(ctx, at, r.Batch, r.keys.Rewrap)
		if err != nil {
			return changed, bad, err
		}
		at, changed, bad = b.Next, changed+b.Changed, append(bad, b.Bad...)
		r.p.Done, r.p.Changed = r.p.Done+b.Seen, r.p.Changed+b.Changed
		if b.Changed > 0 {
			r.Crash("rotate-batch")
			time.Sleep(2 * time.Millisecond) // others write too
		}
		if b.Seen > 0 {
			r.tell(StepRewrap)
		}
		if b.Done {
			return changed, bad, nil
		}
	}
}

// finish takes the old keys out of the file.
func (r *Rotation) finish(ctx context.Context) error {
	if len(r.keys.List()) > 1 {
		m := keyset.NewManagerFromHandle(r.file.aead)
		for i := range r.file.aead.Len() {
			e, err := r.file.aead.Entry(i)
			if err != nil {
				return err
			}
			if keyName(e.KeyID()) != r.p.Key {
				if err := m.Delete(e.KeyID()); err != nil {
					return err
				}
			}
		}
		if err := r.change(m); err != nil {
			return err
		}
	}
	r.Crash("rotate-removed")
	if !r.KeepOld {
		if err := os.Remove(r.oldFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("rotate the keys: %w", err)
		}
	}
	return r.Store(func(s RotationStore) error {
		_, err := s.EndRotation(ctx, r.p.Key, time.Now())
		return err
	})
}

// clearJournal waits for who reads an older state of the database, such as a backup.
func clearJournal(ctx context.Context, s RotationStore) error {
	for range 600 {
		if done, err := s.Checkpoint(ctx); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
	return errors.New("rotate the keys: another process, such as a backup, has read an old state of the database for ten minutes: run it again")
}
