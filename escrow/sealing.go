package escrow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/postseal/postseal/escrow/notify"
	"github.com/postseal/postseal/escrow/seal"
	"github.com/postseal/postseal/policyd/policy"
)

// chunkSize is the length of a stored chunk of ciphertext, in bytes. It is the most that
// is held of a message while who reads it is slow; much smaller ones cost a query each,
// and SQLite more work at its index. Chunks from before have 1 MiB.
const chunkSize = 256 << 10

// partRaw is the part of an item that is the raw message.
const partRaw = "raw"

// Kinds of mails in the outbox.
const (
	mailNotice = "notice"
	mailCode   = "code"
	mailAnswer = "answer"

	mailReplyFailed = "reply-failed"
)

// Seal seals a message for all of its recipients, in one transaction: when it
// returns nil everything is on the disk, the notices in the outbox, and the
// recipients are settled. On an error nothing of it exists. The body is read
// once for each mode among the recipients, in constant memory, and its header once
// before.
//
// A *[RecipientError] names recipients that are settled already (ErrSettled), or
// lack the passphrase that is demanded (ErrNoPassphrase).
//
// Where the server's keys are rotated meanwhile, it starts anew with the new ones.
func (v *Vault) Seal(ctx context.Context, m Message) (ids []string, err error) {
	for try := 0; ; try++ {
		primary := v.keys.Primary()
		ids, err = v.seal(ctx, m)
		if !errors.Is(err, ErrKeyRetired) || try == sealTries || primary == v.keys.Primary() {
			return ids, err
		}
	}
}

// sealTries is how often a message is sealed anew because keys changed meanwhile.
const sealTries = 3

func (v *Vault) seal(ctx context.Context, m Message) (ids []string, err error) {
	if len(m.Recipients) == 0 {
		return nil, errors.New("seal: no recipients")
	}
	now := v.now()
	recipients, err := v.plan(ctx, m.Recipients)
	if err != nil {
		return nil, err
	}
	all := make([]string, len(m.Recipients))
	for i, r := range m.Recipients {
		all[i] = r.Address
	}
	// It is settled under the address that Postfix knows.
	envelope := m.Sender
	if writer, isReply, err := v.replyWriter(ctx, m.Sender); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	} else if isReply {
		m.Sender = writer
	}
	if err := v.unsettled(ctx, m.Digest, envelope, all); err != nil { // saves the work; Create asks again
		return nil, err
	}
	// Read each time: whoever else makes or retires one is heeded from the next message on.
	recovery, err := v.recoveryKeys(ctx)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	var items []NewItem
	about := inspect(m)
	for _, mode := range []string{ModeRecoverable, ModeSealed} {
		if len(recipients[mode]) == 0 {
			continue
		}
		item, err := v.newItem(m, about, mode, recipients[mode], recovery, now)
		if err != nil {
			return nil, fmt.Errorf("seal: %w", err)
		}
		if err := v.tellSealed(ctx, &item); err != nil {
			return nil, fmt.Errorf("seal: %w", err)
		}
		items, ids = append(items, item), append(ids, item.ID)
	}
	if v.pins != nil {
		v.pins.set(m.Digest, envelope, all)
	}
	if err := v.store.Create(ctx, items, m.Digest, envelope, all, v.quota); err != nil {
		v.countRefusal(err)
		if errors.Is(err, ErrSettled) { // just now, by another call
			if named := v.unsettled(ctx, m.Digest, envelope, all); named != nil {
				return nil, named
			}
		}
		return nil, fmt.Errorf("seal: %w", err)
	}
	v.crash("seal-after-commit")
	v.metrics.sealed.Add(float64(len(all)))
	v.log.Info("message sealed", "items", ids, "queue_id", m.QueueID, "recipients", len(all), "size", m.Size)
	v.wake()
	return ids, nil
}

func (v *Vault) unsettled(ctx context.Context, d Digest, sender string, all []string) error {
	settled, err := v.store.Settled(ctx, d, sender, all)
	if err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	if len(settled) == 0 {
		return nil
	}
	e := &RecipientError{Err: ErrSettled}
	for _, r := range all {
		if _, ok := settled[r]; ok {
			e.Recipients = append(e.Recipients, r)
		}
	}
	return e
}

// planned is a recipient with what is known of it.
type planned struct {
	address, folded, verify string
	notify, orcpt, language string
	life                    policy.Lifetimes
	setting                 *StoredRecipient // where a passphrase is needed
}

// strictness of verifications. A passphrase is agreed by other means and needed to
// decrypt; an account is made by who comes first with a mailed code.
var strictness = map[string]int{VerifyCode: 1, VerifyAccount: 2, VerifyPassphrase: 3}

// stricter returns the stricter one of two verifications; "" is none.
func stricter(a, b string) string {
	if strictness[b] > strictness[a] {
		return b
	}
	return a
}

// plan settles how each recipient verifies, and groups them by mode. The
// stricter of rule and setting counts, the default where there is neither. A
// recipient given twice is sealed once.
func (v *Vault) plan(ctx context.Context, recipients []Recipient) (map[string][]planned, error) {
	addresses := make([]string, len(recipients))
	for i, r := range recipients {
		f, err := fold(r.Address)
		if err != nil || f == "" {
			return nil, fmt.Errorf("seal: recipient can't be understood: %w", errors.Join(err, ErrUnknown))
		}
		addresses[i] = f
	}
	stored, err := v.store.Recipients(ctx, addresses)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	settings := make(map[string]*StoredRecipient, len(stored))
	for i := range stored {
		settings[stored[i].Address] = &stored[i]
	}
	plan, seen := make(map[string][]planned), make(map[string]bool)
	lacking := &RecipientError{Err: ErrNoPassphrase}
	for i, r := range recipients {
		p := planned{
			address: r.Address, folded: addresses[i], verify: r.Verify,
			notify: r.Notify, orcpt: r.ORCPT, language: r.Language, life: r.Life,
		}
		if seen[p.folded] {
			continue
		}
		seen[p.folded] = true
		set := settings[p.folded]
		if _, known := strictness[r.Verify]; !known && r.Verify != "" {
			return nil, fmt.Errorf("seal: unknown verification %q", r.Verify)
		}
		if set != nil {
			p.verify = stricter(p.verify, set.Verify)
		}
		if p.verify == "" {
			p.verify = v.accounts.Verify
		}
		if p.verify == VerifyPassphrase {
			p.setting = set
			if set == nil || set.Hashed == nil {
				lacking.Recipients = append(lacking.Recipients, r.Address)
				continue
			}
		}
		mode := r.Mode
		switch mode {
		case "":
			mode = ModeRecoverable
		case ModeRecoverable, ModeSealed:
		default:
			return nil, fmt.Errorf("seal: unknown mode %q", mode)
		}
		plan[mode] = append(plan[mode], p)
	}
	if lacking.Recipients != nil {
		return nil, lacking
	}
	return plan, nil
}

func (v *Vault) newItem(m Message, about about, mode string, recipients []planned, recovery []*seal.RecoveryPublic, now time.Time) (NewItem, error) {
	key, err := seal.NewKey()
	if err != nil {
		return NewItem{}, err
	}
	item := NewItem{
		ID: seal.NewID(), Sender: m.Sender, QueueID: m.QueueID, Mode: mode, Size: m.Size,
		Created: now, EnvID: m.EnvID, Ret: m.Ret,
		MessageID: about.messageID, Receipt: about.receipt,
	}
	if item.Recovery, err = wrapRecovery(recovery, key, item.ID); err != nil {
		return NewItem{}, err
	}
	if mode == ModeRecoverable {
		if item.Recover, err = seal.WrapRecover(v.keys.aead, key, item.ID); err != nil {
			return NewItem{}, err
		}
		if item.Summary, err = v.sealSummary(about.summary, item.ID); err != nil {
			return NewItem{}, err
		}
	}
	for _, r := range recipients {
		p := NewPickup{
			ID: seal.NewID(), Recipient: r.address, Folded: r.folded,
			Notify: r.notify, ORCPT: r.orcpt, Language: r.language,
		}
		life := r.life.Of(v.lifetime)
		p.Expires = now.Add(life)
		if life != v.lifetime {
			p.Lifetime = life
		}
		if r.life.Max > 0 {
			p.Most = now.Add(r.life.Max)
		}
		if p.Expires.After(item.Expires) {
			item.Expires = p.Expires
		}
		notice := notify.Notice{To: r.address, Sender: m.Sender, ItemID: item.ID, Verify: r.verify, Language: r.language, Created: now, Expires: p.Expires}
		if p.Link, err = v.newLink(key, p.ID, r.setting, notice); err != nil {
			return NewItem{}, err
		}
		item.Pickups = append(item.Pickups, p)
	}
	item.WriteOut = func(chunk func([]byte) error) error {
		if err := encrypt(key, item.ID, m, chunk); err != nil {
			return err
		}
		v.crash("seal-before-commit")
		return nil
	}
	return item, nil
}

// newLink makes a secret, wraps key with it, and writes the notice that carries
// it. setting is that of a recipient who needs a passphrase, else nil.
func (v *Vault) newLink(key *seal.Key, pickup string, setting *StoredRecipient, n notify.Notice) (Link, error) {
	secret := seal.NewSecret()
	opener := seal.Opener{Item: n.ItemID, Pickup: pickup, Secret: secret}
	link := Link{Verify: n.Verify, SecretHash: seal.HashSecret(secret)}
	if setting != nil {
		hashed, err := v.keys.open(setting.Hashed, "passphrase/1", setting.Address)
		if err != nil {
			return Link{}, fmt.Errorf("passphrase of %s: %w", setting.Address, err)
		}
		opener.Hashed, link.Passphrase = hashed, setting.Passphrase
	}
	var err error
	if link.Wrap, err = seal.Wrap(v.keys.aead, key, opener); err != nil {
		return Link{}, err
	}
	n.ID = seal.NewID()
	n.Bounces = v.bounceAddress(bounceNotice, pickup)
	n.Link = v.url + "/m/" + n.ItemID + "/" + seal.EncodeSecret(secret)
	link.Mail, err = v.newMail(n.ID, mailNotice, pickup, v.writer.Notice(n), n.Created, n.Expires)
	return link, err
}

// newMail encrypts a mail for the outbox.
func (v *Vault) newMail(id, kind, pickup string, m notify.Mail, now, until time.Time) (NewMail, error) {
	plain, err := json.Marshal(m)
	if err != nil {
		return NewMail{}, fmt.Errorf("mail: %w", err)
	}
	box, err := v.keys.seal(plain, "mail/1", id)
	return NewMail{ID: id, Kind: kind, Pickup: pickup, Sealed: box, Created: now, Until: until}, err
}

// encrypt gives the ciphertext of a message in chunks.
func encrypt(key *seal.Key, item string, m Message, chunk func([]byte) error) (err error) {
	body, err := m.Body()
	if err != nil {
		return fmt.Errorf("open the message: %w", err)
	}
	defer body.Close()
	chunks := &chunker{buf: make([]byte, 0, chunkSize), put: chunk}
	w, err := key.Encrypt(chunks, item, partRaw)
	if err != nil {
		return err
	}
	n, err := io.Copy(w, body)
	if err != nil {
		return fmt.Errorf("encrypt the message: %w", err)
	}
	if n != m.Size {
		return fmt.Errorf("the message has %d bytes, announced were %d", n, m.Size)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("encrypt the message: %w", err)
	}
	return chunks.flush()
}

// chunker cuts a stream into chunks.
type chunker struct {
	buf []byte
	put func([]byte) error
}

func (c *chunker) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		k := copy(c.buf[len(c.buf):cap(c.buf)], p)
		c.buf = c.buf[:len(c.buf)+k]
		n, p = n+k, p[k:]
		if len(c.buf) == cap(c.buf) {
			if err := c.flush(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

func (c *chunker) flush() error {
	if len(c.buf) == 0 {
		return nil
	}
	err := c.put(c.buf)
	c.buf = c.buf[:0]
	return err
}
