package escrow

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/postseal/postseal/escrow/notify"
)

var _ notify.Outbox = (*Vault)(nil)

// Due decrypts mails whose time to send has come.
func (v *Vault) Due(ctx context.Context, limit int) (entries []notify.Entry, next time.Time, err error) {
	mails, next, err := v.store.DueMails(ctx, v.now(), limit)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("outbox: %w", err)
	}
	for _, m := range mails {
		e, err := v.entry(&m)
		if err != nil {
			// Of other keys, or damaged: the others must not wait for it.
			v.log.Error("a mail of the outbox can't be decrypted; is the key file the right one?", "mail", m.ID, "kind", m.Kind, "error", err)
			if err := v.store.MailFailed(ctx, m.ID, v.now().Add(time.Hour)); err != nil {
				return nil, time.Time{}, fmt.Errorf("outbox: %w", err)
			}
			continue
		}
		entries = append(entries, e)
	}
	return entries, next, nil
}

func (v *Vault) entry(m *StoredMail) (notify.Entry, error) {
	plain, err := v.keys.open(m.Sealed, "mail/1", m.ID)
	if err != nil {
		return notify.Entry{}, err
	}
	e := notify.Entry{ID: m.ID, Kind: m.Kind, Attempts: m.Attempts, Created: m.Created}
	return e, json.Unmarshal(plain, &e.Mail)
}

// Sent deletes a mail that Postfix has taken, and with it the last place where a
// link is kept.
func (v *Vault) Sent(ctx context.Context, id string) error {
	return v.store.MailSent(ctx, id, v.now())
}

// Failed puts a mail off.
func (v *Vault) Failed(ctx context.Context, id string, due time.Time) error {
	return v.store.MailFailed(ctx, id, due)
}

// OldestMail returns when the oldest mail was queued, zero if there is none.
func (v *Vault) OldestMail(ctx context.Context) (time.Time, error) { return v.store.OldestMail(ctx) }
