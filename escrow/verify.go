package escrow

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/postseal/postseal/escrow/notify"
	"github.com/postseal/postseal/escrow/seal"
	"github.com/postseal/postseal/internal/audit"
)

// One-time codes.
const (
	codeDigits   = 8
	codeLifetime = 15 * time.Minute
	codesKept    = 5 // valid at a time
	// codeGrace is how long a used code works once more: a button pressed twice
	// must not show an error.
	codeGrace = time.Minute
	tagSize   = 16
)

// Limits on tries, within a day (an hour for a client's address, which many may
// share). A lock takes 5 minutes and doubles to a day; a week without tries
// forgets the doubling.
const (
	triesPickup    = 5
	triesRecipient = 10
	triesClient    = 20
	codesPickup    = 5
	codesRecipient = 15
	codesClient    = 30

	firstLock     = 5 * time.Minute
	longestLock   = 24 * time.Hour
	windowTries   = 24 * time.Hour
	windowClient  = time.Hour
	windowCodes   = time.Hour
	forgetDoubles = 7 * 24 * time.Hour
)

// guessLimits are the counters that a try counts against: of the pickup, of the
// recipient over all messages, and of the client's address (of its /64 network
// in IPv6), where it is known.
//
// Those of passphrases are apart: who reads the mailbox must not have them forgotten
// by entering a right code.
func (v *Vault) guessLimits(p *Pickup, c Client) []Limit {
	what := "try"
	if p.Verify == VerifyPassphrase {
		what = "passphrase"
	}
	return v.limits(p, c, what, windowTries, triesPickup, triesRecipient, triesClient)
}

// passwordLimits are those of an account. They are apart from those of codes: who
// reads the mailbox must not have them forgotten by entering a right code.
func (v *Vault) passwordLimits(p *Pickup, c Client) []Limit {
	return v.limits(p, c, "password", windowTries, triesPickup, triesRecipient, triesClient)
}

func (v *Vault) codeLimits(p *Pickup, c Client) []Limit {
	return v.limits(p, c, "code", windowCodes, codesPickup, codesRecipient, codesClient)
}

func (v *Vault) limits(p *Pickup, c Client, what string, window time.Duration, pickup, recipient, client int) []Limit {
	limit := func(tries int, kind, value string) Limit {
		// Keyed hashes: the table must not become a list of who came from where.
		key := hex.EncodeToString(v.keys.tag(tagSize, "limit/1", what, kind, value))
		return Limit{Key: key, Tries: tries, Window: window, First: firstLock, Most: longestLock, ForgetDoubles: forgetDoubles}
	}
	place := p.id
	if p.owner { // the inbox
		place = p.Tag
	}
	limits := []Limit{limit(pickup, "pickup", place), limit(recipient, "recipient", p.folded)}
	if a := c.Addr.Unmap(); a.IsValid() {
		if a.Is6() {
			a = netip.PrefixFrom(a.WithZone(""), 64).Masked().Addr()
		}
		l := limit(client, "client", a.String())
		l.Window = windowClient
		limits = append(limits, l)
	}
	return limits
}

func keysOf(limits []Limit) []string {
	keys := make([]string, len(limits))
	for i, l := range limits {
		keys[i] = l.Key
	}
	return keys
}

// live returns the pickup as it is now, or why it can't be opened.
func (v *Vault) live(p *Pickup) error {
	switch {
	case p.owner:
		return nil
	case p.State == StateRetracted:
		return ErrRetracted
	case p.State == StateExpired || !v.now().Before(p.Expires):
		return ErrExpired
	}
	return nil
}

// SendCode mails a one-time code to the recipient. Codes sent before stay valid,
// the last five at most. *LockedError if too many were asked for.
func (v *Vault) SendCode(ctx context.Context, p *Pickup, c Client) error {
	if err := v.live(p); err != nil {
		return err
	}
	if p.Verify == VerifyPassphrase || p.owner {
		return errors.New("send a code: no code is asked for here")
	}
	now := v.now()
	locked, _, err := v.store.Charge(ctx, v.codeLimits(p, c), now)
	if err != nil {
		return fmt.Errorf("send a code: %w", err)
	}
	if !locked.IsZero() {
		return &LockedError{Until: locked}
	}
	code, err := newCode()
	if err != nil {
		return fmt.Errorf("send a code: %w", err)
	}
	expires := now.Add(codeLifetime)
	id := seal.NewID()
	mail, err := v.newMail(id, mailCode, p.id, v.writer.Code(notify.Code{
		ID: id, Bounces: v.bounceAddress(bounceCode, p.id), To: p.Recipient, Code: code,
		Sender: p.Sender, Language: p.Language, Created: now, Expires: expires,
	}), now, expires)
	if err != nil {
		return fmt.Errorf("send a code: %w", err)
	}
	if err := v.store.AddCode(ctx, p.id, v.codeTag(p, code), expires, codesKept, mail); err != nil {
		return fmt.Errorf("send a code: %w", err)
	}
	v.note(ctx, p.ItemID, p.id, EventCode, "")
	v.log.Info("code queued", "item", p.ItemID)
	v.wake()
	return nil
}

func newCode() (string, error) {
	n, err := rand.Int(rand.Reader, big.NewInt(100_000_000)) // codeDigits digits
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%0*d", codeDigits, n), nil
}

func (v *Vault) codeTag(p *Pickup, code string) []byte {
	return v.keys.tag(tagSize, "code/1", p.id, string(p.secretHash), code)
}

// Prove checks a code or a passphrase, as p.Verify says. A right code verifies the
// device for all messages to that recipient that ask for no more than a code; a
// passphrase for this message alone. A try is counted, and the count committed,
// before anything is checked: ErrWrong for a wrong answer, *LockedError if there
// were too many, whose last one checked nothing. The sender is told once of each
// lock. Nothing is destroyed by tries.
func (v *Vault) Prove(ctx context.Context, p *Pickup, answer string, c Client) (Grant, error) {
	if err := v.live(p); err != nil {
		return Grant{}, err
	}
	var g Grant
	switch p.Verify {
	case VerifyPassphrase:
		var hashed []byte
		err := v.try(ctx, p, VerifyPassphrase, v.guessLimits(p, c), nil, func() (err error) {
			if hashed, err = v.checkPassphrase(ctx, p, answer); err != nil {
				return err
			}
			return v.store.Audit(ctx, p.audited(audit.TryRight, audit.Details{"how": VerifyPassphrase}))
		})
		if err != nil {
			return Grant{}, err
		}
		if g, err = v.newToken(p, hashed); err != nil {
			return Grant{}, err
		}
		v.note(ctx, p.ItemID, p.id, EventVerified, VerifyPassphrase)
	case VerifyCode:
		err := v.try(ctx, p, VerifyCode, v.guessLimits(p, c), v.codeLimits(p, c), func() error {
			use, ok := v.codeUse(p, answer)
			if !ok {
				return ErrWrong
			}
			var d *StoredDevice
			d, g = v.newDevice(p.folded, VerifyCode, c.Device, v.now())
			return v.store.ChangeAccount(ctx, AccountChange{
				Address: p.folded, Now: v.now(), Code: use, Device: d,
				Pickup: p.id, Events: []Event{{At: v.now(), What: EventVerified, Detail: VerifyCode}},
			})
		})
		if err != nil {
			return Grant{}, err
		}
	default:
		return Grant{}, ErrWrong // a page from before the account was demanded
	}
	return g, nil
}

// try counts a try against limits, and checks it unless one of them is locked.
// check returns an error that wraps ErrWrong for a wrong answer. Who is right has
// the counters forgotten, those of codes asked for too where there are such. A wrong
// answer of the kind how is in the audit log before anybody is told that it was wrong.
func (v *Vault) try(ctx context.Context, p *Pickup, how string, limits, codes []Limit, check func() error) error {
	now := v.now()
	locked, locks, err := v.store.Charge(ctx, limits, now)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if !locked.IsZero() {
		// Of a lock whose try was cut by a crash nobody was told yet. A fresh one
		// may belong to a try that is right, and being checked.
		v.tell(ctx, p, limits, now.Add(-time.Minute), locked)
		return &LockedError{Until: locked}
	}
	v.metrics.locked.Add(float64(len(locks)))
	err = check()
	if errors.Is(err, ErrWrong) {
		v.metrics.wrong.Inc()
		if err := v.auditWrong(ctx, p, how, len(locks) > 0); err != nil {
			return fmt.Errorf("verify: %w", err)
		}
		if len(locks) > 0 {
			v.tell(ctx, p, limits, now, now.Add(firstLock))
		}
		return ErrWrong
	}
	if err != nil {
		// Not the recipient's fault; but the try stays counted.
		return fmt.Errorf("verify: %w", err)
	}
	v.forgive(ctx, p, limits, codes, locks)
	return nil
}

// checkPassphrase returns the hashed passphrase, ErrWrong if it is not the one.
func (v *Vault) checkPassphrase(ctx context.Context, p *Pickup, answer string) (hashed []byte, err error) {
	if len(answer) > seal.MaxPassphrase {
		return nil, ErrWrong
	}
	if hashed, err = v.hash(ctx, []byte(answer), p.passphrase); err != nil {
		return nil, err
	}
	if _, err = v.unwrap(ctx, p, hashed); errors.Is(err, seal.ErrOpen) {
		err = ErrWrong
	}
	return hashed, err
}

// codeUse reads a code that was typed. ok is false if it can't be one.
func (v *Vault) codeUse(p *Pickup, answer string) (use *CodeUse, ok bool) {
	code, ok := digits(answer)
	if !ok {
		return nil, false
	}
	return &CodeUse{Pickup: p.id, Tag: v.codeTag(p, code), Grace: codeGrace}, true
}

// digits reads a code as people type and paste it.
func digits(s string) (code string, ok bool) {
	code = strings.Map(func(r rune) rune {
		switch r {
		case ' ', '-', '.', '\t', '\r', '\n', '\u00a0':
			return -1
		}
		return r
	}, s)
	if len(code) != codeDigits {
		return "", false
	}
	for i := range len(code) {
		if code[i] < '0' || code[i] > '9' {
			return "", false
		}
	}
	return code, true
}

// hash hashes a passphrase; few at a time.
func (v *Vault) hash(ctx context.Context, passphrase, hashing []byte) ([]byte, error) {
	select {
	case v.hashing <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-v.hashing }()
	return seal.HashPassphrase(passphrase, hashing)
}

// forgive forgets the tries of who turned out to be the recipient, and the codes
// asked for. The client's address only gets one of each back: others may be behind
// it.
func (v *Vault) forgive(ctx context.Context, p *Pickup, limits, codes []Limit, locks []string) {
	ctx = context.WithoutCancel(ctx)
	mine := keysOf(limits[:2])
	var err error
	if len(codes) > 0 {
		mine = append(mine, keysOf(codes[:2])...)
		for _, l := range codes[2:] {
			err = errors.Join(err, v.store.Refund(ctx, l, false))
		}
	}
	err = errors.Join(err, v.store.Forget(ctx, mine))
	for _, l := range limits[2:] {
		err = errors.Join(err, v.store.Refund(ctx, l, slices.Contains(locks, l.Key)))
	}
	if err != nil {
		v.log.Warn("tries before a right one stay counted", "item", p.ItemID, "error", err)
	}
}

// tell mails the sender of a lock of the pickup or the recipient, once for each.
func (v *Vault) tell(ctx context.Context, p *Pickup, limits []Limit, before, until time.Time) {
	ctx = context.WithoutCancel(ctx)
	if !v.canTell(&StoredPickup{Sender: p.Sender}) {
		return
	}
	now := v.now()
	keys := keysOf(limits[:2])
	if at, err := v.store.Locked(ctx, keys, now); err != nil || at.IsZero() {
		return // it is the client's address that is locked
	} else if at.After(until) {
		until = at
	}
	t := v.told(ctx, "lock", []StoredPickup{{ItemID: p.ItemID, Sender: p.Sender, Recipient: p.Recipient, Created: p.Created}})
	t.Expires = until
	mail, err := v.queued(t)
	if err == nil {
		var told bool
		if told, err = v.store.TellLock(ctx, keys, before, now, mail); told {
			v.note(ctx, p.ItemID, p.id, EventLocked, "")
			v.log.Warn("pickup locked after wrong tries", "item", p.ItemID, "until", until)
			v.wake()
		}
	}
	if err != nil {
		v.log.Error("the sender is not told of a lock", "item", p.ItemID, "error", err)
	}
}

const tokenVersion = 1

// newToken makes the content of a device's cookie: the end of the session and
// what opens the wrap, encrypted under the server's keys. It opens nothing
// without the link.
func (v *Vault) newToken(p *Pickup, hashed []byte) (Grant, error) {
	ends := v.now().Add(sessionLifetime)
	if p.Expires.Before(ends) {
		ends = p.Expires
	}
	plain := binary.BigEndian.AppendUint64([]byte{tokenVersion}, uint64(ends.Unix()))
	plain = append(plain, hashed...)
	box, err := v.keys.seal(plain, "session/1", p.ItemID, p.id, string(p.secretHash))
	if err != nil {
		return Grant{}, fmt.Errorf("verify: %w", err)
	}
	return Grant{Token: base64.RawURLEncoding.EncodeToString(box), Expires: time.Unix(ends.Unix(), 0).UTC()}, nil
}

// maxToken is more than any token has, in bytes.
const maxToken = 1024

// CheckToken reads the cookie of a device that is verified for one message:
// ErrUnknown if it is not of this pickup, or its time is over. It counts against no limit and heeds no lock.
func (v *Vault) CheckToken(ctx context.Context, p *Pickup, token string) (*Session, error) {
	if err := v.live(p); err != nil {
		return nil, err
	}
	if len(token) > maxToken {
		return nil, ErrUnknown
	}
	box, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil {
		return nil, ErrUnknown
	}
	plain, err := v.keys.open(box, "session/1", p.ItemID, p.id, string(p.secretHash))
	if err != nil || len(plain) < 9 || plain[0] != tokenVersion {
		return nil, ErrUnknown
	}
	s := &Session{Expires: time.Unix(int64(binary.BigEndian.Uint64(plain[1:])), 0).UTC(), How: VerifyCode, pickup: p.id}
	if len(plain) > 9 {
		s.How, s.hashed = VerifyPassphrase, plain[9:]
	} else if p.Verify != VerifyCode { // by code: a cookie from before there were devices
		return nil, ErrUnknown
	}
	if !v.now().Before(s.Expires) {
		return nil, ErrUnknown
	}
	return s, nil
}
