package escrow

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/postseal/postseal/escrow/seal"
)

// DefaultDeviceLifetime is how long a device stays verified by an account.
const DefaultDeviceLifetime = 30 * 24 * time.Hour

const (
	recipientTag = 12 // bytes: 20 letters
	deviceToken  = 32 // bytes
	// seenEvery is how exactly it is known when a device was last used.
	seenEvery = time.Hour
	// maxDeviceName bounds what a browser may be called, in characters.
	maxDeviceName = 60
)

// RecipientTag returns the name of a recipient, in any spelling, for paths and
// cookies: 20 letters and digits that tell nothing of the address to who has not
// the server's keys.
func (v *Vault) RecipientTag(address string) string {
	folded, err := fold(address)
	if err != nil {
		folded = address
	}
	return seal.EncodeTag(v.keys.tag(recipientTag, "recipient/1", folded))
}

// isTag reports whether tag names the recipient, by any of the server's keys.
func (v *Vault) isTag(tag, folded string) bool {
	b, err := seal.DecodeTag(tag)
	return err == nil && len(b) == recipientTag && v.keys.checkTag(b, "recipient/1", folded)
}

// newDevice makes a device and the token of its cookie.
func (v *Vault) newDevice(folded, how, name string, now time.Time) (*StoredDevice, Grant) {
	raw := make([]byte, deviceToken)
	rand.Read(raw)
	id := sha256.Sum256(raw)
	d := &StoredDevice{ID: id[:], Address: folded, How: how, Name: cleanName(name, maxDeviceName), Created: now, Seen: now, Expires: now.Add(sessionLifetime)}
	if how == VerifyAccount {
		d.Expires = now.Add(v.accounts.DeviceLifetime)
	}
	return d, Grant{Token: base64.RawURLEncoding.EncodeToString(raw), Expires: d.Expires, Device: true}
}

// cleanName makes a name that a browser or a person gave fit for a list.
func cleanName(s string, most int) string {
	s = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, ""), func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	}), " ")
	if r := []rune(s); len(r) > most {
		s = strings.TrimSpace(string(r[:most]))
	}
	return s
}

// CheckDevice finds the device that a cookie is of: tag names the recipient whose
// cookie it is, token is its value. ErrUnknown if there is no such, or its time is
// over. It counts against no limit and heeds no lock.
func (v *Vault) CheckDevice(ctx context.Context, tag, token string) (*Device, error) {
	if len(token) != base64.RawURLEncoding.EncodedLen(deviceToken) {
		return nil, ErrUnknown
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil {
		return nil, ErrUnknown
	}
	id, now := sha256.Sum256(raw), v.now()
	s, err := v.store.Device(ctx, id[:], now)
	if errors.Is(err, ErrUnknown) || err == nil && !v.isTag(tag, s.Address) {
		return nil, ErrUnknown
	} else if err != nil {
		return nil, fmt.Errorf("check a device: %w", err)
	}
	if now.Sub(s.Seen) >= seenEvery {
		if err := v.store.SeenDevice(ctx, s.ID, now); err != nil {
			v.log.Warn("it is not noted that a device was used", "error", err)
		}
	}
	return &Device{Address: s.Address, Tag: tag, How: s.How, Created: s.Created, Expires: s.Expires, id: s.ID}, nil
}

// Admit returns the session in which a device may open a message, by its link:
// ErrUnknown if it may not. A device verified by code opens what asks for a code,
// one verified by account what asks for a code or the account; a passphrase is
// asked for at each message. ErrExpired and ErrRetracted as in Pickup. It counts
// against no limit and heeds no lock.
func (v *Vault) Admit(ctx context.Context, p *Pickup, d *Device) (*Session, error) {
	if err := v.live(p); err != nil {
		return nil, err
	}
	switch {
	case d == nil || p.owner || p.folded == "" || d.Address != p.folded || !v.now().Before(d.Expires):
		return nil, ErrUnknown
	case p.Verify == VerifyCode:
	case p.Verify == VerifyAccount && d.How == VerifyAccount:
	default:
		return nil, ErrUnknown
	}
	s := &Session{Expires: d.Expires, How: d.How, pickup: p.id, device: d.id}
	if p.Expires.Before(s.Expires) {
		s.Expires = p.Expires
	}
	return s, nil
}

// SignOut makes a device unverified.
func (v *Vault) SignOut(ctx context.Context, d *Device) error {
	if _, err := v.store.DropDevice(ctx, d.Address, d.id); err != nil {
		return fmt.Errorf("sign out: %w", err)
	}
	return nil
}

// SignOutDevice makes another device of the same recipient unverified: id is of
// [DeviceInfo]. ErrUnknown if there is none. Only who has the account may.
func (v *Vault) SignOutDevice(ctx context.Context, d *Device, id string) error {
	raw, err := base64.RawURLEncoding.DecodeString(id)
	if err != nil || d.How != VerifyAccount && !bytes.Equal(raw, d.id) {
		return ErrUnknown
	}
	dropped, err := v.store.DropDevice(ctx, d.Address, raw)
	if err != nil {
		return fmt.Errorf("sign out: %w", err)
	}
	if !dropped {
		return ErrUnknown
	}
	return nil
}

// SignOutAll makes all devices of the recipient unverified, this one too. Only
// who has the account may.
func (v *Vault) SignOutAll(ctx context.Context, d *Device) error {
	if d.How != VerifyAccount {
		return ErrUnknown
	}
	if err := v.store.DropDevices(ctx, d.Address); err != nil {
		return fmt.Errorf("sign out: %w", err)
	}
	return nil
}
