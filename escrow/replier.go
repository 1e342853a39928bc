package escrow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/escrow/lmtp"
	"github.com/postseal/postseal/escrow/notify"
	"github.com/postseal/postseal/escrow/seal"
)

// How replies are delivered.
const (
	replyParallel = 2                // connections to the splitter at a time
	replyBatch    = 16               // read from the database at a time
	replyTimeout  = 15 * time.Minute // for one try
	replyIdle     = 30 * time.Second // between looks: another process may queue
	replyRetry    = 2 * time.Second  // where the database has failed
	replyGrace    = 5 * time.Second  // that a shutdown waits for one in hand
	// replyLifetime is how long a reply is tried: as long as Postfix tries
	// (maximal_queue_lifetime). Then its writer is told.
	replyLifetime = 5 * 24 * time.Hour
)

// Replier gives queued replies to the splitter, by LMTP (RFC 2033). It decides for
// each recipient as for any other mail, with the requirement encryption, so that a
// reply never leaves in plaintext; and by its ledger it knows a reply that it has
// been given before. Fields are set before Run.
type Replier struct {
	Vault      *Vault
	Splitter   string                // HOST:PORT or unix:PATH, of the requirement encryption
	ServerName string                // for LHLO; "": localhost
	Registerer prometheus.Registerer // nil: no metrics
	// Crash, where set, is called at named points, for tests that kill the
	// process there: reply-before-send, reply-after-send, reply-after-record.
	Crash func(point string)

	timeout time.Duration // for tests
	once    sync.Once
	wake    chan struct{}
	results *prometheus.CounterVec
}

func (d *Replier) init() {
	d.once.Do(func() {
		d.wake = make(chan struct{}, 1)
		if d.ServerName == "" {
			d.ServerName = "localhost"
		}
		if d.Crash == nil {
			d.Crash = func(string) {}
		}
		if d.timeout == 0 {
			d.timeout = replyTimeout
		}
		d.results = prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postseal_replies_total", Help: "Recipients of replies, by what became of them: taken, deferred, failed.",
		}, []string{"result"})
		for _, r := range []string{"taken", "deferred", "failed"} {
			d.results.WithLabelValues(r) // there before the first reply
		}
		if d.Registerer != nil {
			d.Registerer.MustRegister(d.results)
		}
	})
}

// Wake makes Run look for replies at once. It never blocks.
func (d *Replier) Wake() {
	d.init()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Run delivers replies until ctx is done; one that is in hand then is finished, or
// stays queued. It returns nil after such a shutdown. Trouble is logged, and tried
// again.
func (d *Replier) Run(ctx context.Context) error {
	d.init()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-d.wake:
		}
		timer.Reset(d.round(ctx))
	}
}

// round delivers what is due and returns when to look again.
func (d *Replier) round(ctx context.Context) time.Duration {
	v := d.Vault
	due, next, err := v.store.DueReplies(ctx, v.now(), replyBatch)
	if err != nil {
		if ctx.Err() == nil {
			v.log.Error("replies can't be read, trying again", "error", err)
		}
		return replyRetry
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, replyParallel)
	for i := range due {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			d.one(ctx, &due[i])
		})
	}
	wg.Wait()
	switch {
	case len(due) > 0:
		return replyRetry // those that were put off are due before the next that was told
	case next.IsZero():
		return replyIdle
	}
	return max(min(replyIdle, next.Sub(v.now())), 10*time.Millisecond)
}

// one tries to deliver a reply, and records what came of it.
func (d *Replier) one(ctx context.Context, stored *StoredReply) {
	v := d.Vault
	r, err := v.openReply(stored)
	if err != nil {
		// Of other keys, or damaged: the others must not wait for it, and nothing
		// can be told to anybody.
		v.log.Error("a reply can't be decrypted; is the key file the right one?", "reply", stored.ID, "error", err)
		if err := v.putOffReply(ctx, stored, time.Hour); err != nil && ctx.Err() == nil {
			v.log.Error("a reply can't be put off", "reply", stored.ID, "error", err)
		}
		return
	}
	d.Crash("reply-before-send")
	results, err := d.send(ctx, r)
	if err != nil && ctx.Err() != nil {
		return // a shutdown; it is still due
	}
	d.Crash("reply-after-send")
	// What the splitter has taken must be recorded, shutdown or not.
	record, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	wait := notify.Backoff(r.Attempts)
	if err := v.recordTry(record, r.ID, results, wait); err != nil {
		v.log.Error("what became of a reply can't be recorded, it will be tried again", "reply", r.ID, "error", err)
		return
	}
	d.Crash("reply-after-record")
	if err != nil {
		d.results.WithLabelValues("deferred").Inc()
		v.log.Warn("a reply can't be handed to the splitter, it stays queued", "reply", r.ID, "splitter", d.Splitter, "attempt", r.Attempts+1, "again_in", wait, "error", err)
	}
	for _, res := range results {
		d.results.WithLabelValues(word(res)).Inc()
		level := slog.LevelInfo
		if !res.Taken() {
			level = slog.LevelWarn
		}
		v.log.Log(ctx, level, "reply", "reply", r.ID, "recipient", res.Address, "outcome", word(res), "code", res.Code, "text", res.Text)
	}
}

// word is how metrics and logs call what became of a recipient.
func word(r lmtp.Result) string {
	switch {
	case r.Taken():
		return "taken"
	case r.Refused():
		return "failed"
	}
	return "deferred"
}

// send gives a reply to the splitter, for the recipients that still wait. A
// recipient that is not among the results is as it was; the error says why.
func (d *Replier) send(ctx context.Context, r *reply) ([]lmtp.Result, error) {
	shutdown := ctx
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(shutdown, func() { time.AfterFunc(replyGrace, cancel) })()
	m := d.Vault.message(ctx, r)
	e := lmtp.Envelope{
		From: d.Vault.bounceAddress(bounceReply, r.ID), To: r.content.Out.open(), UTF8: m.UTF8(),
		Notify: []smtp.DSNNotify{smtp.DSNNotifyFailure},
	}
	return lmtp.Deliver(ctx, d.Splitter, d.ServerName, d.timeout, e, func(w io.Writer) error {
		_, err := m.WriteTo(w)
		return err
	})
}

// putOffReply leaves a reply as it is, for later.
func (v *Vault) putOffReply(ctx context.Context, s *StoredReply, wait time.Duration) error {
	return v.store.ChangeReply(ctx, ReplyChange{
		ID: s.ID, Version: s.Version, State: s.State, Sealed: s.Sealed, Size: s.Size, Attempts: s.Attempts + 1,
		Changed: s.Changed, Due: v.now().Add(wait), QueuedAt: s.QueuedAt,
	})
}

// recordTry records what became of a try. Whoever still waits is tried again, after
// wait; but not for ever.
func (v *Vault) recordTry(ctx context.Context, id string, results []lmtp.Result, wait time.Duration) error {
	_, err := v.settleReply(ctx, id, func(r *reply) bool {
		if r.State != ReplyQueued {
			return false
		}
		now := v.now()
		r.Attempts++
		r.Due = now.Add(wait)
		late := now.Sub(r.QueuedAt) >= replyLifetime
		for i := range r.content.Out.Recipients {
			to := &r.content.Out.Recipients[i]
			if to.State != outWaits {
				continue // it came back already
			}
			for _, res := range results {
				if res.Address == to.Address {
					switch {
					case res.Taken():
						to.State = outTaken
					case res.Refused():
						to.State = outFails
					}
				}
			}
			if to.State == outWaits && late {
				to.State = outFails
			}
		}
		return true
	})
	return err
}

// settleReply changes what is known of a reply's recipients, and with it the
// reply's state: as long as one waits it is queued, then sent, or failed, of which
// its writer is told. f is called again where another change came between; false
// changes nothing.
func (v *Vault) settleReply(ctx context.Context, id string, f func(r *reply) bool) (changed bool, err error) {
	for range draftTries {
		stored, err := v.store.ReplyByID(ctx, id)
		if err != nil {
			return false, err
		}
		r, err := v.openReply(stored)
		if err != nil {
			return false, err
		}
		if r.content.Out == nil || !f(r) {
			return false, nil
		}
		failed := r.content.Out.failed()
		told := r.content.Out.Told
		r.content.Out.Told = len(failed)
		c, err := v.settled(r)
		if err != nil {
			return false, err
		}
		if len(failed) > told {
			// Those who were told of before are named again: the mail says how it is.
			if c.Mail, err = v.replyFailure(ctx, &r.StoredReply, failed); err != nil {
				return false, err
			}
		}
		if err := v.store.ChangeReply(ctx, c); errors.Is(err, ErrChanged) {
			continue
		} else if err != nil {
			return false, err
		}
		if c.Mail != nil {
			v.log.Warn("a reply has not arrived", "reply", r.ID, "recipients", failed)
			v.wake()
		}
		return true, nil
	}
	return false, ErrChanged
}

// settled returns the change to the state that follows from r's recipients.
func (v *Vault) settled(r *reply) (ReplyChange, error) {
	if len(r.content.Out.open()) == 0 {
		r.State, r.Due = ReplySent, time.Time{}
		if len(r.content.Out.failed()) > 0 {
			r.State = ReplyFailed
		}
	}
	r.Changed = v.now()
	c, err := r.change()
	c.DropAll = r.State != ReplyQueued
	return c, err
}

// replyFailure writes the mail that tells who wrote a reply that it did not arrive, at
// these recipients; nil: at some.
func (v *Vault) replyFailure(ctx context.Context, r *StoredReply, failed []string) (*NewMail, error) {
	p, err := v.store.PickupByID(ctx, r.Pickup)
	if err != nil {
		return nil, err
	}
	now, id := v.now(), seal.NewID()
	m, err := v.newMail(id, mailReplyFailed, "", v.writer.ReplyFailed(notify.ReplyFailed{
		ID: id, To: p.Recipient, Language: p.Language, Recipients: failed, Sent: r.QueuedAt, Created: now, Over: r.Wrap == nil || stateOf(p, now) != p.State || p.State != StateHeld && p.State != StateRead,
	}), now, time.Time{})
	return &m, err
}

// replyWriter returns whose reply an envelope sender stands for; ok is false where it
// is no address of a reply. The address is "" if the reply is gone.
func (v *Vault) replyWriter(ctx context.Context, sender string) (address string, ok bool, err error) {
	token, ours := v.IsBounceAddress(sender)
	if !ours {
		return "", false, nil
	}
	kind, id, _ := v.bounceToken(token)
	if kind != bounceReply {
		return "", false, nil
	}
	r, err := v.store.ReplyByID(ctx, id)
	if err == nil {
		var p *StoredPickup
		if p, err = v.store.PickupByID(ctx, r.Pickup); err == nil {
			return p.Recipient, true, nil
		}
	}
	if errors.Is(err, ErrUnknown) {
		return "", true, nil
	}
	return "", true, err
}

// IsReply reports whether an address, in any spelling, is the envelope sender of a
// reply of ours. It does no I/O.
func (v *Vault) IsReply(address string) bool {
	token, ok := v.IsBounceAddress(address)
	return ok && token[0] == bounceReply
}

// replyBounced takes a report that a reply has failed: for those of its recipients
// that the report names, or where it names none of them, for all that had been taken.
func (v *Vault) replyBounced(ctx context.Context, id string, named []string) error {
	reported := make(map[string]bool)
	for _, a := range named {
		if f, err := fold(a); err == nil && f != "" {
			reported[f] = true
		}
	}
	_, err := v.settleReply(ctx, id, func(r *reply) bool {
		return r.content.Out.fail(func(folded string) bool { return reported[folded] }) ||
			!r.content.Out.knows(reported) && r.content.Out.failTaken()
	})
	if errors.Is(err, ErrUnknown) {
		err = v.sealedReplyBounced(ctx, id)
	}
	if errors.Is(err, ErrUnknown) {
		return ErrUnknown
	} else if err != nil {
		return fmt.Errorf("bounce of a reply: %w", err)
	}
	return nil
}

// sealedReplyBounced is replyBounced for a reply whose message is over, so that its
// key is gone: whom it went to nobody knows any more, but not that it failed.
func (v *Vault) sealedReplyBounced(ctx context.Context, id string) error {
	for range draftTries {
		r, err := v.store.ReplyByID(ctx, id)
		if err != nil {
			return err
		}
		if r.State != ReplySent {
			return nil // told already
		}
		mail, err := v.replyFailure(ctx, r, nil)
		if err != nil {
			return err
		}
		err = v.store.ChangeReply(ctx, ReplyChange{
			ID: r.ID, Version: r.Version, State: ReplyFailed, Sealed: r.Sealed, Size: r.Size, Attempts: r.Attempts,
			Changed: v.now(), QueuedAt: r.QueuedAt, Mail: mail,
		})
		if errors.Is(err, ErrChanged) {
			continue
		}
		if err == nil {
			v.log.Warn("a reply has not arrived", "reply", r.ID)
			v.wake()
		}
		return err
	}
	return ErrChanged
}
