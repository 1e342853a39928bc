package escrow

import (
	"context"
	"crypto/ed25519"

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
