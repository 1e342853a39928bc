package escrow

import (
	"context"
	"errors"
	"io"

	"github.com/postseal/postseal/policyd/policy"
)

type Store interface{ Ledger }

type Keys struct{}

type Vault struct{}

func NewKeyFile(path string) error        { return errors.ErrUnsupported }
func LoadKeys(path string) (*Keys, error) { return nil, errors.ErrUnsupported }

func NewVault(o Options) (*Vault, error) { return nil, errors.ErrUnsupported }
func (v *Vault) Seal(ctx context.Context, m Message) (ids []string, err error) {
	return nil, errors.ErrUnsupported
}
func (v *Vault) Pickup(ctx context.Context, item, secret string) (*Pickup, error) {
	return nil, errors.ErrUnsupported
}
func (v *Vault) SendCode(ctx context.Context, p *Pickup, c Client) error {
	return errors.ErrUnsupported
}
func (v *Vault) Verify(ctx context.Context, p *Pickup, answer string, c Client) (token string, err error) {
	return "", errors.ErrUnsupported
}
func (v *Vault) CheckToken(ctx context.Context, p *Pickup, token string) (*Session, error) {
	return nil, errors.ErrUnsupported
}
func (v *Vault) Open(ctx context.Context, p *Pickup, s *Session) (io.ReadCloser, error) {
	return nil, errors.ErrUnsupported
}
func (v *Vault) List(ctx context.Context, f Filter) ([]Listed, error) {
	return nil, errors.ErrUnsupported
}
func (v *Vault) Show(ctx context.Context, id string) ([]Listed, error) {
	return nil, errors.ErrUnsupported
}

// Retract takes a message back, from one recipient or ("") from all.
func (v *Vault) Retract(ctx context.Context, id, recipient string) error {
	return errors.ErrUnsupported
}

// Resend mails a new link; the old one is dead.
func (v *Vault) Resend(ctx context.Context, id, recipient string) error { return errors.ErrUnsupported }
func (v *Vault) Expire(ctx context.Context) (n int, err error)          { return 0, errors.ErrUnsupported }
func (v *Vault) Run(ctx context.Context) error                          { return errors.ErrUnsupported }
func (v *Vault) SetRecipient(ctx context.Context, address, verify string, passphrase []byte) error {
	return errors.ErrUnsupported
}
func (v *Vault) ResetRecipient(ctx context.Context, address string) (bool, error) {
	return false, errors.ErrUnsupported
}
func (v *Vault) Recipient(ctx context.Context, address string) (RecipientSetting, error) {
	return RecipientSetting{}, errors.ErrUnsupported
}
func (v *Vault) Recipients(ctx context.Context) ([]RecipientSetting, error) {
	return nil, errors.ErrUnsupported
}

// IsBounceAddress: token is to be given to Bounced.
func (v *Vault) IsBounceAddress(address string) (token string, ok bool) { return "", false }

// Bounced takes what came to a bounce address. from is its envelope sender, ""
// for the null sender: then it is a bounce if its content says so.
func (v *Vault) Bounced(ctx context.Context, token, from string, report io.Reader) error {
	return errors.ErrUnsupported
}
func (v *Vault) Mark(r policy.Requirement, sender string) string { return "" }
func (v *Vault) VerifyMark(value, sender string) (policy.Requirement, bool) {
	return policy.None, false
}

// Pins implements Ledger on top of another, and knows the pinned recipients.
type Pins struct{ Ledger }

func NewPins(ctx context.Context, l PinLedger) (*Pins, error) { return nil, errors.ErrUnsupported }
func (p *Pins) Has(recipient string) bool                     { return false }

type PinLedger interface {
	Ledger
	Pinned(ctx context.Context, each func(d Digest, sender, recipient string) error) error
}
