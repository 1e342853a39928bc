package escrow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/escrow/account"
	"github.com/postseal/postseal/escrow/notify"
	"github.com/postseal/postseal/policyd/policy"
)

// DefaultLifetime is how long a message can be picked up.
const DefaultLifetime = 30 * 24 * time.Hour

// ErrNotRecoverable reports that no new link can be made: the message was
// sealed without a way back, or is over.
var ErrNotRecoverable = errors.New("escrow: no new link can be made for this message")

// RecipientError says which recipients of a message an error is about; nothing
// was done for any recipient. It wraps [ErrNoPassphrase] or [ErrSettled].
type RecipientError struct {
	Recipients []string // as they were given to Seal
	Err        error
}

func (e *RecipientError) Error() string {
	return fmt.Sprintf("%v: %s", e.Err, strings.Join(e.Recipients, ", "))
}

func (e *RecipientError) Unwrap() error { return e.Err }

// Options of [NewVault]. Store, Keys, PortalURL and NoticeFrom are needed.
type Options struct {
	Store      Store
	Keys       *Keys
	Pins       *Pins         // told of what Seal settles; nil: nobody
	Lifetime   time.Duration // of a message; zero: [DefaultLifetime]
	Quota      Quota
	PortalURL  string // https://HOST[:PORT][/PATH]
	NoticeFrom string // of notices: "Name <addr>" or addr, of a domain whose mail returns here
	ServerName string // named in mails; "": the domain of NoticeFrom
	Accounts   AccountOptions
	Replies    ReplyOptions
	Language   string // of mails to senders, and to recipients for whom no rule names one; "": English
	// Brand returns what the sender's organisation is called and whom to ask there
	// for help, for the notices; nil: the server's own name alone.
	Brand func(sender, language string) (name, support string)
	// OwnDomain reports whether this server delivers the mail of a domain
	// itself; nil: of none. Only senders there get links to their pages, and a reply may
	// go there. An error means that nobody knows.
	OwnDomain func(ctx context.Context, domain string) (bool, error)
	// SenderMail are the events that senders get a mail of, Mail constants; nil:
	// [DefaultSenderMail].
	SenderMail []string
	// ExpiringBefore is how long before the end the sender of an unread message is
	// reminded; zero: [DefaultExpiringBefore].
	ExpiringBefore time.Duration
	MTA            string // names this server in delivery reports; "": ServerName
	Now            func() time.Time
	Log            *slog.Logger
	Registerer     prometheus.Registerer // nil: no metrics
	Wake           func()                // called after mails were queued
	// Crash, where set, is called at named points, for tests that kill the
	// process there: seal-before-commit, seal-after-commit, reply-after-commit.
	Crash func(point string)
}

// Vault seals messages and opens them to their recipients. Its methods may be
// called at the same time.
type Vault struct {
	store      Store
	keys       *Keys
	pins       *Pins
	lifetime   time.Duration
	accounts   AccountOptions
	replies    ReplyOptions
	passkeys   *account.Passkeys // nil: browsers make none for this portal
	host       string            // of the portal
	noPassword []byte            // what a password is compared with where there is none
	url        string
	ownDomain  func(ctx context.Context, domain string) (bool, error)
	senders    senderMail
	writer     notify.Writer
	now        func() time.Time
	log        *slog.Logger
	wake       func()
	hashing    chan struct{} // a place for each passphrase that may be hashed at a time
	metrics    *metrics
	crash      func(point string)
	quota      Quota
	warned     map[string]float64 // of quotas, by whose; Run's alone
	unclean    atomic.Bool        // the journal still holds what was deleted
}

// parallelHashing bounds how many passphrases are hashed at a time: each takes
// 46 MiB.
const parallelHashing = 2

// NewVault makes a vault. Several may use one store at a time, in several
// processes.
func NewVault(o Options) (*Vault, error) {
	if o.Store == nil || o.Keys == nil {
		return nil, errors.New("vault: needs a store and keys")
	}
	name, from, err := notify.ParseFrom(o.NoticeFrom)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(o.PortalURL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.RawQuery != "" || u.Fragment != "" || len(o.PortalURL) > maxPortalURL {
		return nil, fmt.Errorf("portal URL %q: want https://HOST[:PORT][/PATH]", o.PortalURL)
	}
	v := &Vault{
		store: o.Store, keys: o.Keys, pins: o.Pins,
		lifetime: o.Lifetime, quota: o.Quota, warned: make(map[string]float64),
		url: strings.TrimRight(u.String(), "/"), // String escapes: it is ASCII
		now: o.Now, log: o.Log, wake: o.Wake,
		hashing: make(chan struct{}, parallelHashing),
		metrics: newMetrics(o.Registerer), crash: o.Crash,
	}
	if v.lifetime <= 0 {
		v.lifetime = DefaultLifetime
	}
	if v.accounts, err = o.Accounts.filled(); err != nil {
		return nil, err
	}
	if v.now == nil {
		v.now = time.Now
	}
	if v.log == nil {
		v.log = slog.New(slog.DiscardHandler)
	}
	if err := v.setAccounts(u); err != nil {
		return nil, err
	}
	if v.wake == nil {
		v.wake = func() {}
	}
	if v.crash == nil {
		v.crash = func(string) {}
	}
	v.replies = o.Replies.filled()
	server := o.ServerName
	if server == "" {
		server = from.Domain
	}
	if v.senders, err = newSenderMail(&o); err != nil {
		return nil, err
	}
	v.ownDomain = o.OwnDomain
	if v.ownDomain == nil {
		v.ownDomain = func(context.Context, string) (bool, error) { return false, nil }
	}
	v.writer = notify.Writer{From: from, Name: name, ServerName: server, PortalURL: v.url, Language: o.Language, Brand: o.Brand}
	return v, nil
}

// maxPortalURL keeps the line of a link below what SMTP allows (998 bytes, RFC
// 5321, section 4.5.3.1.6).
const maxPortalURL = 800

// Client is who tries a code, a passphrase or a password.
type Client struct {
	Addr   netip.Addr
	Device string // what the browser is called in the recipient's list of devices
}

// Pickup is one recipient's right to one message, got with the right secret.
type Pickup struct {
	ItemID    string
	Recipient string
	Sender    string // "" for the null sender
	Verify    string
	Mode      string
	State     string
	Created   time.Time
	Expires   time.Time
	ReadAt    time.Time // zero: not yet
	Locked    time.Time // no try counts before; zero: not locked. Client addresses have locks of their own
	Size      int64     // bytes of the raw message
	Language  string    // by rule, "" where none says
	Tag       string    // names the recipient in paths and cookies, see [Vault.RecipientTag]
	Account   AccountState
	Receipt   bool // the sender is told of the first reading, by a read receipt

	id         string // of the pickup
	folded     string // recipient
	owner      bool   // of no message, as [Vault.Owner] returns it
	secret     []byte // of the link
	secretHash []byte
	passphrase []byte // how the passphrase is hashed, nil where none is needed
}

// Session is a device that has proved to be the recipient.
type Session struct {
	Expires time.Time
	How     string // the verification: code, passphrase or account
	pickup  string
	hashed  []byte // the hashed passphrase, where one is needed to unwrap
	recover bool   // opened from the inbox, without its link
	device  []byte // id of the device, nil where it is verified for one message alone
}

// Filter selects pickups. The zero Filter selects all.
type Filter struct {
	ItemID    string
	Recipient string // any spelling
	Sender    string // any spelling
	State     string
	Limit     int // the newest; 0: all
}

// Listed is one pickup in listings.
type Listed struct {
	ID        string     `json:"id"` // of the item
	Sender    string     `json:"sender"`
	Recipient string     `json:"recipient"`
	State     string     `json:"state"`
	Created   time.Time  `json:"created"`
	Expires   time.Time  `json:"expires"`
	Size      int64      `json:"size"`
	Verify    string     `json:"verify"`
	Mode      string     `json:"mode"`
	ReadAt    *time.Time `json:"read_at,omitempty"`
	QueueID   string     `json:"queue_id,omitempty"`
	Notice    string     `json:"notice"` // queued, sent, bounced
	Hold      *Hold      `json:"hold,omitempty"`
}

// States of a notice.
const (
	NoticeQueued  = "queued"  // Postfix has not taken it yet
	NoticeSent    = "sent"    // Postfix has it
	NoticeBounced = "bounced" // it came back
)

// RecipientSetting is what was set beforehand for a recipient, and the account that
// the recipient has made.
type RecipientSetting struct {
	Address       string            `json:"address"`
	Verify        string            `json:"verify"` // "" where nothing was set
	HasPassphrase bool              `json:"has_passphrase"`
	Account       *RecipientAccount `json:"account,omitempty"`
	Changed       time.Time         `json:"changed"`
}

// RecipientAccount is what an administrator sees of an account.
type RecipientAccount struct {
	Password bool      `json:"password"`
	Passkeys int       `json:"passkeys"`
	TOTP     bool      `json:"totp"`
	Devices  int       `json:"devices"` // that are signed in, or verified by code
	Created  time.Time `json:"created"`
}

// fold returns the form in which addresses are compared and kept as keys.
func fold(address string) (string, error) {
	a, err := policy.ParseAddress(address)
	if err != nil {
		return "", err
	}
	return a.Folded().String(), nil
}
