// Package audit is the log that auditors read: what happened to mail that must be
// encrypted, who looked at it, and who changed what. Each entry holds the SHA-256 of
// itself and of the hash before it, so that no entry can be changed, taken out, put in
// or moved without breaking the chain; checkpoints that are signed once a day say how
// far the chain reached, so that it can't be cut at its end either.
//
// The way of an entry: whoever does something has an [Actor] in its context ([With]);
// package sql writes the entry in the transaction of the change it tells of, so that
// nothing is done unlogged. What is decided without a transaction goes through a
// [Writer]. [Verifier] checks what was written, as a stream.
//
// No entry holds a word of a message, a subject, a code, a password, a link or any
// other secret.
package audit

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"
	"time"
)

// HashSize is the length of a hash, in bytes.
const HashSize = sha256.Size

// Hash is that of an entry and of all before it. The zero Hash stands before the first.
type Hash [HashSize]byte

// Kinds of actors.
const (
	ActorServer    = "server"    // Postseal itself: expiry, the outbox
	ActorPostfix   = "postfix"   // mail that Postfix asks about or hands over
	ActorPortal    = "portal"    // somebody at the pickup pages; Client says from where
	ActorCommand   = "command"   // the command line; Name is the Unix user
	ActorAPI       = "api"       // a program; Name is the id of its key
	ActorAdminPage = "adminpage" // the admin pages; Name is the account
)

// Actor is who does something.
type Actor struct {
	Kind   string // one of the Actor constants
	Name   string // such as the Unix user
	Client string // IP address, "" where there is none
}

type actorKey struct{}

// With returns a context in which a does what is done.
func With(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// By returns who acts in ctx: the server itself where nobody is named.
func By(ctx context.Context) Actor {
	if a, ok := ctx.Value(actorKey{}).(Actor); ok {
		return a
	}
	return Actor{Kind: ActorServer}
}

type alsoKey struct{}

// Also returns a context whose next logged change is logged together with entries,
// which go before it: why something was done belongs into the transaction of the deed.
func Also(ctx context.Context, entries ...Entry) context.Context {
	return context.WithValue(ctx, alsoKey{}, append(slices.Clone(Pending(ctx)), entries...))
}

// Pending returns the entries that [Also] has put into ctx.
func Pending(ctx context.Context) []Entry {
	list, _ := ctx.Value(alsoKey{}).([]Entry)
	return list
}

// Details are what more there is to say, by short lower-case names, such as "how".
type Details map[string]string

// Entry is one thing that happened.
type Entry struct {
	At        time.Time // kept to the microsecond; zero: when it is written
	Kind      string    // one of [Kinds]
	Actor     Actor     // zero: who acts in the context
	Item      string    // id of the sealed message, or ""
	Sender    string    // envelope sender, folded, or ""
	Recipient string    // folded, or ""
	Details   Details
}

// Record is an entry as it stands in the log.
type Record struct {
	Seq int64 // its number, from 1 without gaps
	Entry
	Hash Hash
}

// Filter selects records: by what is not zero.
type Filter struct {
	Kinds     []string
	Item      string
	Sender    string // folded
	Recipient string // folded
	Actor     string // a kind of actor, a name or a client address
	Since     time.Time
	Until     time.Time // before it
	Before    int64     // numbers below it: the next page, the newest first
	After     int64     // numbers above it: the next page, the oldest first
	Oldest    bool      // the oldest first, else the newest
	Limit     int       // 0: all
}

// The most that is kept of a field, in bytes. An address has at most 320.
const (
	maxField  = 512
	maxDetail = 1024
	maxPairs  = 32
)

// Clean returns e as it is kept: times to the microsecond in UTC, texts as valid UTF-8
// in one line and not longer than they may be.
func (e Entry) Clean() Entry {
	e.At = time.UnixMicro(e.At.UnixMicro()).UTC()
	for _, s := range []*string{&e.Kind, &e.Actor.Kind, &e.Actor.Name, &e.Actor.Client, &e.Item, &e.Sender, &e.Recipient} {
		*s = line(*s, maxField)
	}
	kept := make(Details, len(e.Details))
	for _, k := range e.Details.names() {
		if v := e.Details[k]; v != "" && len(kept) < maxPairs {
			kept[line(k, maxField)] = line(v, maxDetail)
		}
	}
	e.Details = kept
	return e
}

// line returns s without control characters, cut to at most most bytes.
func line(s string, most int) string {
	if len(s) <= most && plain(s) {
		return s
	}
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most-len("…")], "") + "…"
	}
	return s
}

// plain reports whether s is printable ASCII, as nearly everything here is.
func plain(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func (d Details) names() []string {
	list := make([]string, 0, len(d))
	for k := range d {
		list = append(list, k)
	}
	slices.Sort(list)
	return list
}

// Format is the version of the encoding that is hashed.
const Format = 1

// Encode appends what is hashed of a record, format 1, to b: "postseal-audit/1" and a
// line feed, the hash before it, its number and its time in Unix microseconds as 64-bit
// integers, then kind, the actor's kind, name and client, item, sender and recipient,
// each as a 32-bit length and its bytes, then the number of details in 32 bits and each
// one's name and value likewise, in the order of the names' bytes. Integers are big
// endian.
func (r *Record) Encode(b []byte, before Hash) []byte {
	b = append(b, "postseal-audit/1\n"...)
	b = append(b, before[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Seq))
	b = binary.BigEndian.AppendUint64(b, uint64(r.At.UnixMicro()))
	for _, s := range [...]string{r.Kind, r.Actor.Kind, r.Actor.Name, r.Actor.Client, r.Item, r.Sender, r.Recipient} {
		b = appendText(b, s)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.Details)))
	for _, k := range r.Details.names() {
		b = appendText(appendText(b, k), r.Details[k])
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// Sum returns the hash of a record that stands behind before.
func (r *Record) Sum(before Hash) Hash {
	return sha256.Sum256(r.Encode(make([]byte, 0, 1<<10), before))
}
