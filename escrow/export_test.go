package escrow

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/postseal/postseal/escrow/notify"
	"github.com/postseal/postseal/escrow/seal"
)

// Classify is classify, for the fuzzer.
func Classify(from string, report io.Reader) string {
	what, _ := classify(from, report)
	return what.String()
}

// CleanName is cleanName for a device.
func CleanName(s string) string { return cleanName(s, maxDeviceName) }

// SessionOf returns a session for a pickup, as if its recipient had been verified.
func SessionOf(p *Pickup, until time.Time) *Session {
	return &Session{Expires: until, How: VerifyCode, pickup: p.id}
}

// PlanAnswer is planAnswer, for tests: whom an answer to a message with that header
// goes to, whom one to all adds, its subject and its thread.
func (v *Vault) PlanAnswer(ctx context.Context, sender, recipient, message string) (to, cc []string, subject, inReplyTo string, references []string, err error) {
	p, err := v.planAnswer(ctx, &Pickup{Sender: sender, Recipient: recipient}, strings.NewReader(message))
	if err != nil {
		return nil, nil, "", "", nil, err
	}
	return addressesIn(p.To), addressesIn(p.Cc), p.Subject, p.InReplyTo, p.References, nil
}

// Reload reads a pickup anew.
func (v *Vault) Reload(ctx context.Context, p *Pickup) (*Pickup, error) {
	return v.Pickup(ctx, p.ItemID, seal.EncodeSecret(p.secret))
}

// PickupID returns the id of a pickup.
func (p *Pickup) PickupID() string { return p.id }

// FailureStatus returns why a notice failed, as its bounce says.
func FailureStatus(report []byte) notify.Status {
	_, why := classify("", bytes.NewReader(report))
	return why.status
}

// OwnerOf is Owner of an address, whether or not there is an account.
func OwnerOf(v *Vault, address string) *Pickup {
	return &Pickup{Recipient: address, Verify: VerifyAccount, Tag: v.RecipientTag(address), folded: address, owner: true}
}

// KeysOf returns the keys of a vault.
func KeysOf(v *Vault) *Keys { return v.keys }

// CountHashes counts the passphrases and passwords that are hashed from now on, one at
// a time.
func CountHashes(v *Vault) (hashes func() int64) {
	var n atomic.Int64
	place := make(chan struct{})
	v.hashing = place
	go func() {
		for range place {
			n.Add(1)
			place <- struct{}{}
		}
	}()
	return n.Load
}
