package escrow

import (
	"context"
	"crypto/ed25519"
	"strconv"

	"github.com/postseal/postseal/internal/audit"
)

// AuditKey returns the key that signs checkpoints of the audit log. It is derived from
// the keyset that names recipients, which is never rotated: checkpoints of years ago
// are still this server's.
func (k *Keys) AuditKey() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(k.tag(ed25519.SeedSize, "audit/1"))
}

// audited returns an entry of the audit log about p.
func (p *Pickup) audited(kind string, d audit.Details) audit.Entry {
	e := audit.Entry{Kind: kind, Item: p.ItemID, Recipient: p.folded, Details: d}
	if sender, err := fold(p.Sender); err == nil {
		e.Sender = sender
	}
	return e
}

// auditWrong logs a wrong answer, and the lock that it made. It is logged even if who
// has answered does not wait for it.
func (v *Vault) auditWrong(ctx context.Context, p *Pickup, how string, locks bool) error {
	list := []audit.Entry{p.audited(audit.TryWrong, audit.Details{"how": how})}
	if locks {
		list = append(list, p.audited(audit.Locked, nil))
	}
	return v.store.Audit(context.WithoutCancel(ctx), list...)
}

// auditPasskey logs a passkey's response that does not count, whatever is wrong of it. No
// lock keeps passkeys out, so who has the link can send any number: after some the log says
// until when it has no more of them.
func (v *Vault) auditPasskey(ctx context.Context, p *Pickup, c Client) error {
	v.metrics.wrong.Inc()
	ctx = context.WithoutCancel(ctx)
	now := v.now()
	locked, locks, err := v.store.Charge(ctx, v.limits(p, c, "passkey", windowTries, triesPickup, triesRecipient, triesClient), now)
	if err != nil || !locked.IsZero() {
		return err
	}
	d := audit.Details{"how": "passkey"}
	if len(locks) > 0 {
		d["next"] = "further ones are not logged for minutes, up to a day"
	}
	return v.store.Audit(ctx, p.audited(audit.TryWrong, d))
}

// What is downloaded, as the audit log names it.
const (
	DownloadFile     = "file"
	DownloadOriginal = "original"
)

type downloadKey struct{}

// Downloading returns a context in which [Vault.Open] is a download: of the original, or
// of the file in the part of that number.
func Downloading(ctx context.Context, what, part string) context.Context {
	return context.WithValue(ctx, downloadKey{}, audit.Details{"what": what, "part": part})
}

// Searched logs that a device has searched the texts of messages in its inbox, so many of
// them: what is found by a word tells something of a message. The search must not be
// answered where that fails.
func (v *Vault) Searched(ctx context.Context, d *Device, messages int) error {
	return v.store.AuditAccess(ctx, audit.Entry{Kind: audit.Searched, Recipient: d.Address, Details: audit.Details{"messages": strconv.Itoa(messages)}})
}

// auditOpened logs that a message was opened. A first reading is logged already.
func (v *Vault) auditOpened(ctx context.Context, p *Pickup, s *Session, first bool) error {
	if d, ok := ctx.Value(downloadKey{}).(audit.Details); ok {
		return v.store.AuditAccess(ctx, p.audited(audit.Downloaded, d))
	}
	if first {
		return nil
	}
	return v.store.AuditAccess(ctx, p.audited(audit.Opened, audit.Details{"how": s.How}))
}
