package escrow

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/postseal/postseal/escrow/compose"
	"github.com/postseal/postseal/escrow/intake/spool"
	"github.com/postseal/postseal/escrow/seal"
)

// replyContent is what is sealed of a reply, its files aside.
type replyContent struct {
	Plan  answerPlan  `json:"plan"`
	All   bool        `json:"all"`
	Text  string      `json:"text"`
	Files []ReplyFile `json:"files,omitempty"`
	Next  int         `json:"next"` // number of the next file, from 1
	Out   *outgoing   `json:"out,omitempty"`
}

// reply is a stored reply that has been opened.
type reply struct {
	StoredReply
	key     *seal.Key
	content replyContent
}

// parts of a reply, in the associated data of what is sealed of it.
const partContent = "content"

func partFile(n int) string { return "file " + strconv.Itoa(n) }

// replyName is the item in the associated data of a reply: no item of a message
// has this form.
func replyName(id string) string { return "reply " + id }

// openReply decrypts what is known of a reply; ErrUnknown where its key is gone.
func (v *Vault) openReply(s *StoredReply) (*reply, error) {
	if s.Wrap == nil {
		return nil, ErrUnknown
	}
	r := &reply{StoredReply: *s}
	var err error
	if r.key, err = seal.UnwrapRecover(v.keys.aead, s.Wrap, replyName(s.ID)); err != nil {
		return nil, fmt.Errorf("reply %s: %w", s.ID, err)
	}
	plain, err := r.key.Decrypt(bytes.NewReader(s.Sealed), replyName(s.ID), partContent)
	if err != nil {
		return nil, fmt.Errorf("reply %s: %w", s.ID, err)
	}
	if err := json.NewDecoder(plain).Decode(&r.content); err != nil {
		return nil, fmt.Errorf("reply %s: %w", s.ID, err)
	}
	return r, nil
}

// seal encrypts the content into r.Sealed.
func (r *reply) seal() error {
	plain, err := json.Marshal(&r.content)
	if err != nil {
		return err
	}
	var box bytes.Buffer
	w, err := r.key.Encrypt(&box, replyName(r.ID), partContent)
	if err != nil {
		return err
	}
	if _, err = w.Write(plain); err == nil {
		err = w.Close()
	}
	if err != nil {
		return fmt.Errorf("reply: %w", err)
	}
	r.Sealed = box.Bytes()
	return nil
}

// change returns the change that stores r as it is now.
func (r *reply) change() (ReplyChange, error) {
	if err := r.seal(); err != nil {
		return ReplyChange{}, err
	}
	return ReplyChange{
		ID: r.ID, Version: r.Version, State: r.State, Sealed: r.Sealed, Size: r.Size, Attempts: r.Attempts,
		Changed: r.Changed, Due: r.Due, QueuedAt: r.QueuedAt,
	}, nil
}

// shown is what the recipient sees of a reply.
func (v *Vault) shown(r *reply) *Reply {
	c := &r.content
	s := &Reply{
		ID: r.ID, State: r.State, All: c.All, Subject: c.Plan.Subject, Text: c.Text, Files: c.Files, Size: r.Size, Most: v.replies.Size,
		Created: r.Created, Changed: r.Changed, Sent: r.QueuedAt,
	}
	for _, m := range c.Plan.To {
		s.To = append(s.To, m.String())
	}
	for _, m := range c.Plan.Cc {
		s.AllTo = append(s.AllTo, m.String())
	}
	if c.All {
		s.Cc = s.AllTo
	}
	if c.Out != nil && r.State == ReplyFailed {
		s.Failed = c.Out.failed()
	}
	return s
}

// admitReply checks that the device may answer this message now.
func (v *Vault) admitReply(ctx context.Context, p *Pickup, s *Session) error {
	if p == nil || s == nil || s.pickup != p.id || !v.now().Before(s.Expires) {
		return ErrUnknown
	}
	// Not what p says: it may be over since, during a long upload.
	stored, err := v.store.PickupByID(ctx, p.id)
	if err != nil {
		return err
	}
	switch stateOf(stored, v.now()) {
	case StateRetracted:
		return ErrRetracted
	case StateExpired:
		return ErrExpired
	}
	// A form may be hours on its way; the device was signed out since, perhaps, or
	// the account was reset.
	if s.device != nil {
		_, err = v.store.Device(ctx, s.device, v.now())
	}
	return err
}

// Draft returns the draft that there is, or a new one with whom it goes to; that has
// no ID, and is not saved. For a message that is over (ErrExpired, ErrRetracted) it
// returns the draft too, where there is one: for a day, so that nothing that was
// written is lost. Its To is empty where there is nobody to answer.
func (v *Vault) Draft(ctx context.Context, p *Pickup, s *Session) (*Reply, error) {
	over := v.admitReply(ctx, p, s)
	if over != nil && !errors.Is(over, ErrExpired) && !errors.Is(over, ErrRetracted) {
		return nil, fmt.Errorf("draft: %w", over)
	}
	r, err := v.draft(ctx, p)
	if over != nil {
		if err != nil {
			return nil, over
		}
		return v.shown(r), over
	}
	if errors.Is(err, ErrUnknown) {
		r, err = v.newDraft(ctx, p, s)
	}
	if err != nil {
		return nil, fmt.Errorf("draft: %w", err)
	}
	return v.shown(r), nil
}

// draft returns the stored draft of a pickup, ErrUnknown if there is none.
func (v *Vault) draft(ctx context.Context, p *Pickup) (*reply, error) {
	stored, err := v.store.ReplyDraft(ctx, p.id)
	if err != nil {
		return nil, err
	}
	return v.openReply(stored)
}

// newDraft makes a draft that is not stored.
func (v *Vault) newDraft(ctx context.Context, p *Pickup, s *Session) (*reply, error) {
	message, err := v.Peek(ctx, p, s)
	if err != nil {
		return nil, err
	}
	defer message.Close()
	plan, err := v.planAnswer(ctx, p, message)
	if err != nil {
		return nil, err
	}
	now := v.now()
	return &reply{
		StoredReply: StoredReply{Pickup: p.id, State: ReplyDraft, Created: now, Changed: now},
		content:     replyContent{Plan: *plan, Next: 1},
	}, nil
}

// storeDraft gives a new draft its id and key and stores it; ErrChanged if there is
// another by now.
func (v *Vault) storeDraft(ctx context.Context, r *reply) error {
	var err error
	if r.key, err = seal.NewKey(); err != nil {
		return err
	}
	r.ID = seal.NewID()
	if r.Wrap, err = seal.WrapRecover(v.keys.aead, r.key, replyName(r.ID)); err != nil {
		return err
	}
	if err := r.seal(); err != nil {
		return err
	}
	return v.store.CreateReply(ctx, r.StoredReply)
}

// draftTries is how often a change is made anew because another tab was faster.
const draftTries = 20

// changeDraft makes a change to the draft, which it creates if there is none. f
// is called again where another change came between.
func (v *Vault) changeDraft(ctx context.Context, p *Pickup, s *Session, f func(r *reply, c *ReplyChange) error) (*Reply, error) {
	if err := v.admitReply(ctx, p, s); err != nil {
		return nil, err
	}
	for range draftTries {
		r, err := v.draft(ctx, p)
		if errors.Is(err, ErrUnknown) {
			if r, err = v.newDraft(ctx, p, s); err == nil {
				err = v.storeDraft(ctx, r)
			}
		}
		if errors.Is(err, ErrChanged) {
			continue
		} else if err != nil {
			return nil, err
		}
		var c ReplyChange
		if err := f(r, &c); err != nil {
			return nil, err
		}
		r.Changed = v.now()
		sealed, err := r.change()
		if err != nil {
			return nil, err
		}
		sealed.Drop, sealed.Add, sealed.WriteOut, sealed.Quota = c.Drop, c.Add, c.WriteOut, v.quota
		if err = v.store.ChangeReply(ctx, sealed); errors.Is(err, ErrChanged) {
			continue
		} else if err != nil {
			if v.countRefusal(err) {
				v.log.Warn("a file of a reply is not taken: the escrow is full", "item", p.ItemID, "error", err)
			}
			return nil, err
		}
		return v.shown(r), nil
	}
	return nil, ErrChanged
}

// SaveDraft keeps the text of a draft, and whether it goes to all. What was saved
// last counts; the files stay. ErrTooLarge if the text is over [MaxReplyText].
func (v *Vault) SaveDraft(ctx context.Context, p *Pickup, s *Session, text string, all bool) (*Reply, error) {
	if len(text) > MaxReplyText {
		return nil, ErrTooLarge
	}
	if !utf8.ValidString(text) {
		text = string([]rune(text)) // U+FFFD for what is broken
	}
	r, err := v.changeDraft(ctx, p, s, func(r *reply, _ *ReplyChange) error {
		r.content.Text, r.content.All = text, all && len(r.content.Plan.Cc) > 0
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("save a draft: %w", err)
	}
	return r, nil
}

// AddFile adds a file to the draft, read as it comes. Where it fails, and where the
// stream is cut, nothing of it is left. ErrTooLarge as soon as the files of the
// draft are too many, or larger together than the limit.
func (v *Vault) AddFile(ctx context.Context, p *Pickup, s *Session, name, mediaType string, r io.Reader) (*Reply, error) {
	added, err := v.addFile(ctx, p, s, ReplyFile{Name: compose.FileName(name), MediaType: compose.MediaType(mediaType)}, r)
	if err != nil {
		return nil, fmt.Errorf("add a file: %w", err)
	}
	return added, nil
}

func (v *Vault) addFile(ctx context.Context, p *Pickup, s *Session, file ReplyFile, r io.Reader) (*Reply, error) {
	if err := v.admitReply(ctx, p, s); err != nil {
		return nil, err
	}
	room := v.replies.Size
	switch d, err := v.draft(ctx, p); {
	case err == nil:
		if room -= d.Size; room < 0 || len(d.content.Files) >= MaxReplyFiles {
			return nil, ErrTooLarge
		}
	case !errors.Is(err, ErrUnknown):
		return nil, err
	}
	// The database has one writer: a slow upload must not hold it.
	wait := spool.New(v.replies.SpoolDir)
	defer wait.Close()
	n, err := io.Copy(wait, io.LimitReader(r, room+1))
	if err != nil {
		return nil, fmt.Errorf("read the file: %w", err)
	}
	if n > room {
		return nil, ErrTooLarge
	}
	file.Size = n
	return v.changeDraft(ctx, p, s, func(r *reply, c *ReplyChange) error {
		if r.Size+n > v.replies.Size || len(r.content.Files) >= MaxReplyFiles {
			return ErrTooLarge
		}
		file.N = r.content.Next
		r.content.Next++
		r.content.Files = append(r.content.Files, file)
		r.Size += n
		c.Add = file.N
		c.WriteOut = func(chunk func([]byte) error) error {
			plain, err := wait.Open()
			if err != nil {
				return err
			}
			defer plain.Close()
			chunks := &chunker{buf: make([]byte, 0, chunkSize), put: chunk}
			w, err := r.key.Encrypt(chunks, replyName(r.ID), partFile(file.N))
			if err != nil {
				return err
			}
			if _, err := io.Copy(w, plain); err != nil {
				return fmt.Errorf("encrypt a file: %w", err)
			}
			if err := w.Close(); err != nil {
				return fmt.Errorf("encrypt a file: %w", err)
			}
			v.crash("reply-file-before-commit")
			return chunks.flush()
		}
		return nil
	})
}

// RemoveFile takes a file out of the draft. One that is not there is no error: the
// button was pressed twice.
func (v *Vault) RemoveFile(ctx context.Context, p *Pickup, s *Session, n int) (*Reply, error) {
	r, err := v.changeDraft(ctx, p, s, func(r *reply, c *ReplyChange) error {
		i := slices.IndexFunc(r.content.Files, func(f ReplyFile) bool { return f.N == n })
		if i >= 0 {
			r.Size -= r.content.Files[i].Size
			r.content.Files = slices.Delete(r.content.Files, i, i+1)
			c.Drop = n
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("remove a file: %w", err)
	}
	return r, nil
}

// DiscardDraft deletes the draft, with its files.
func (v *Vault) DiscardDraft(ctx context.Context, p *Pickup, s *Session) error {
	if err := v.admitReply(ctx, p, s); err != nil {
		return fmt.Errorf("discard a draft: %w", err)
	}
	for range draftTries {
		stored, err := v.store.ReplyDraft(ctx, p.id)
		if errors.Is(err, ErrUnknown) {
			return nil
		}
		if err == nil {
			err = v.store.DeleteReply(ctx, stored.ID, stored.Version)
		}
		if err == nil {
			return nil
		} else if !errors.Is(err, ErrChanged) {
			return fmt.Errorf("discard a draft: %w", err)
		}
	}
	return fmt.Errorf("discard a draft: %w", ErrChanged)
}

// Limits on replies, within a day: each may be some 60 MB, in the queue and in a
// mailbox.
const (
	repliesPickup    = 50
	repliesRecipient = 200
)

// pressedTwice is within what time the same reply once more is taken for the same
// button, pressed twice.
const pressedTwice = 10 * time.Minute

// SendReply sends the draft off: when it returns, the reply is queued, on the disk,
// and will be delivered whatever becomes of the message. Called again it returns
// the reply that is queued already. ErrEmpty if there is nothing to send, ErrNobody if
// there is nobody to send it to, *LockedError after very many: the draft stays.
func (v *Vault) SendReply(ctx context.Context, p *Pickup, s *Session) (*Reply, error) {
	r, err := v.sendReply(ctx, p, s)
	if err != nil {
		return nil, fmt.Errorf("send a reply: %w", err)
	}
	return r, nil
}

func (v *Vault) sendReply(ctx context.Context, p *Pickup, s *Session) (*Reply, error) {
	if err := v.admitReply(ctx, p, s); err != nil {
		return nil, err
	}
	charged := false
	for range draftTries {
		sent, err := v.lastSent(ctx, p)
		if err != nil {
			return nil, err
		}
		r, err := v.draft(ctx, p)
		if errors.Is(err, ErrUnknown) {
			if sent == nil {
				return nil, ErrEmpty
			}
			return v.shown(sent), nil
		} else if err != nil {
			return nil, err
		}
		if len(r.content.Files) == 0 && len(bytes.TrimSpace([]byte(r.content.Text))) == 0 {
			return nil, ErrEmpty
		}
		if sent != nil && v.now().Sub(sent.QueuedAt) < pressedTwice && sent.same(r) {
			if err := v.store.DeleteReply(ctx, r.ID, r.Version); errors.Is(err, ErrChanged) {
				continue
			} else if err != nil {
				return nil, err
			}
			return v.shown(sent), nil
		}
		if len(r.content.Plan.To) == 0 {
			return nil, ErrNobody
		}
		now := v.now()
		if !charged {
			locked, _, err := v.store.Charge(ctx, v.limits(p, Client{}, "reply", windowTries, repliesPickup, repliesRecipient, 0), now)
			if err != nil {
				return nil, err
			}
			if !locked.IsZero() {
				return nil, &LockedError{Until: locked}
			}
			charged = true
		}
		r.State, r.Changed, r.Due, r.QueuedAt = ReplyQueued, now, now, now
		if r.content.Out, err = v.outgoing(ctx, p, &r.content, now); err != nil {
			return nil, err
		}
		c, err := r.change()
		if err != nil {
			return nil, err
		}
		if c.Mail, err = v.replyMail(ctx, p); err != nil {
			return nil, err
		}
		if err := v.store.ChangeReply(ctx, c); errors.Is(err, ErrChanged) {
			continue
		} else if err != nil {
			return nil, err
		}
		v.crash("reply-after-commit")
		if c.Mail != nil {
			v.wake()
		}
		v.log.Info("reply queued", "reply", r.ID, "item", p.ItemID, "recipients", len(r.content.Out.Recipients), "files", len(r.content.Files), "size", r.Size)
		v.note(ctx, p.ItemID, p.id, EventReply, "")
		v.replies.Wake()
		return v.shown(r), nil
	}
	return nil, ErrChanged
}

// lastSent returns the newest reply that is no draft, nil if there is none.
func (v *Vault) lastSent(ctx context.Context, p *Pickup) (*reply, error) {
	list, err := v.store.SentReplies(ctx, p.id)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	r, err := v.openReply(&list[len(list)-1])
	if errors.Is(err, ErrUnknown) {
		return nil, nil
	}
	return r, err
}

// same reports whether other says what r says, or what it says without its files:
// they belong to the draft that was sent.
func (r *reply) same(other *reply) bool {
	a, b := &r.content, &other.content
	if a.Text != b.Text || a.All != b.All {
		return false
	}
	return len(b.Files) == 0 || slices.EqualFunc(a.Files, b.Files, func(x, y ReplyFile) bool { return x.Name == y.Name && x.Size == y.Size })
}

// Replies returns what the recipient has sent, the oldest first.
func (v *Vault) Replies(ctx context.Context, p *Pickup, s *Session) ([]Reply, error) {
	if err := v.admitReply(ctx, p, s); err != nil {
		return nil, fmt.Errorf("replies: %w", err)
	}
	stored, err := v.store.SentReplies(ctx, p.id)
	if err != nil {
		return nil, fmt.Errorf("replies: %w", err)
	}
	var list []Reply
	for i := range stored {
		r, err := v.openReply(&stored[i])
		if errors.Is(err, ErrUnknown) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("replies: %w", err)
		}
		list = append(list, *v.shown(r))
	}
	return list, nil
}
