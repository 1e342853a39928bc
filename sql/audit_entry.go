package sql

import (
	"cmp"
	"context"
	"crypto/sha256"
	dbsql "database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/policyd/policy"
)

// What the audit log is told of the changes in this package.

// auditTime is how details give a time.
func auditTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// endKinds are the kinds of entries of what ends a pickup.
var endKinds = map[string]string{escrow.StateRetracted: audit.Retracted, escrow.StateExpired: audit.Expired}

// sealedEntries tell of new items: of each recipient, and of each notice.
func sealedEntries(items []escrow.NewItem) []audit.Entry {
	var list []audit.Entry
	for i := range items {
		it := &items[i]
		sender, err := foldAddress(it.Sender)
		if err != nil {
			sender = it.Sender
		}
		for j := range it.Pickups {
			p := &it.Pickups[j]
			about := audit.Entry{Item: it.ID, Sender: sender, Recipient: p.Folded}
			sealed, notice := about, about
			sealed.Kind, sealed.Details = audit.Sealed, audit.Details{
				"mode": it.Mode, "verify": p.Link.Verify, "size": strconv.FormatInt(it.Size, 10), "queue_id": it.QueueID, "until": auditTime(it.Expires),
			}
			notice.Kind = audit.NoticeQueued
			list = append(list, sealed, notice)
		}
	}
	return list
}

// auditPickup appends an entry about a pickup, if there is such.
func auditPickup(ctx context.Context, tx *dbsql.Tx, now time.Time, pickup, kind string, d audit.Details) error {
	e, err := pickupEntry(ctx, tx, pickup)
	if err != nil || e.Item == "" {
		return err
	}
	e.Kind, e.Details = kind, d
	return appendAudit(ctx, tx, now, e)
}

// pickupEntry returns an entry that names what a pickup is of; the zero one where there
// is none.
func pickupEntry(ctx context.Context, tx *dbsql.Tx, pickup string) (e audit.Entry, err error) {
	err = tx.QueryRowContext(ctx, `SELECT p.item_id, i.sender_key, p.recipient_key FROM escrow_pickup p JOIN escrow_item i ON i.id = p.item_id
		WHERE p.id = ?`, pickup).Scan(&e.Item, &e.Sender, &e.Recipient)
	if errors.Is(err, dbsql.ErrNoRows) {
		return audit.Entry{}, nil
	}
	if err != nil {
		return audit.Entry{}, fmt.Errorf("audit log: %w", err)
	}
	return e, nil
}

// auditAccount tells of a change to an account: what was proved, then what was changed.
func auditAccount(ctx context.Context, tx *dbsql.Tx, c *escrow.AccountChange) error {
	pickup := c.Pickup
	if c.Code != nil {
		pickup = cmp.Or(pickup, c.Code.Pickup)
	}
	about := audit.Entry{Recipient: c.Address}
	if pickup != "" {
		e, err := pickupEntry(ctx, tx, pickup)
		if err != nil {
			return err
		}
		about.Item, about.Sender = e.Item, e.Sender
	}
	var list []audit.Entry
	add := func(kind string, d audit.Details) {
		e := about
		e.Kind, e.Details = kind, d
		list = append(list, e)
	}
	verified := slices.ContainsFunc(c.Events, func(e escrow.Event) bool { return e.What == escrow.EventVerified })
	if c.Code != nil && !verified {
		add(audit.TryRight, audit.Details{"how": escrow.VerifyCode})
	}
	for _, e := range c.Events {
		switch e.What {
		case escrow.EventVerified:
			add(audit.TryRight, audit.Details{"how": e.Detail})
		case escrow.EventReset:
			add(audit.AccountReset, audit.Details{"by": e.Detail})
		case escrow.EventEnrolled:
			add(audit.AccountEnrolled, audit.Details{"how": e.Detail})
		}
	}
	if c.Create == nil {
		for _, change := range []struct {
			what string
			made bool
		}{
			{"password changed", c.Password != nil}, {"totp set", c.TOTP != nil}, {"totp removed", c.DropTOTP},
			{"passkey added", c.AddPasskey != nil}, {"passkey removed", c.DropKey != nil},
		} {
			if change.made {
				add(audit.AccountChanged, audit.Details{"what": change.what})
			}
		}
	}
	return appendAudit(ctx, tx, c.Now, list...)
}

// auditReply tells of a reply that is about to change its state.
func auditReply(ctx context.Context, tx *dbsql.Tx, c *escrow.ReplyChange) error {
	var was, pickup string
	err := tx.QueryRowContext(ctx, `SELECT state, pickup_id FROM escrow_reply WHERE id = ? AND version = ?`, c.ID, c.Version).Scan(&was, &pickup)
	if errors.Is(err, dbsql.ErrNoRows) || err == nil && was == c.State {
		return nil
	}
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	kind, ok := map[string]string{
		escrow.ReplyQueued: audit.ReplyQueued, escrow.ReplySent: audit.ReplySent, escrow.ReplyFailed: audit.ReplyFailed,
	}[c.State]
	if !ok {
		return nil
	}
	return auditPickup(ctx, tx, c.Changed, pickup, kind, audit.Details{"reply": c.ID, "files_size": strconv.FormatInt(c.Size, 10)})
}

// rulesEach is how many rules of one change have an entry each. A larger import has one
// for all, with a hash of what it wrote.
const rulesEach = 10_000

// auditRules tells of a change of rules; set are those that were written, in order.
func auditRules(ctx context.Context, tx *dbsql.Tx, now time.Time, c *change, set []*policy.Rule) error {
	var list []audit.Entry
	for _, k := range c.remove {
		list = append(list, audit.Entry{Kind: audit.RuleRemoved, Details: audit.Details{
			"scope": k.scope.String(), "pattern": k.pattern, "before": ruleWords(c.was(k)),
		}})
	}
	sum, added, changed := sha256.New(), 0, 0
	for _, r := range set {
		before, after := ruleWords(c.was(keyOf(r))), ruleWords(r)
		if before == after {
			continue
		}
		kind := audit.RuleChanged
		if before == "" {
			kind = audit.RuleAdded
			added++
		} else {
			changed++
		}
		fmt.Fprintf(sum, "%s %s %s\n", r.Scope, r.Pattern, after)
		if added+changed <= rulesEach {
			list = append(list, audit.Entry{Kind: kind, Details: audit.Details{
				"scope": r.Scope.String(), "pattern": r.Pattern, "before": before, "after": after,
			}})
		}
	}
	if added+changed > rulesEach {
		list = []audit.Entry{{Kind: audit.RulesImported, Details: audit.Details{
			"added": strconv.Itoa(added), "changed": strconv.Itoa(changed), "sha256": hex.EncodeToString(sum.Sum(nil)),
		}}}
	}
	return appendAudit(ctx, tx, now, list...)
}

// ruleWords says in one line what a rule demands; "" of none.
func ruleWords(r *policy.Rule) string {
	if r == nil {
		return ""
	}
	words := []string{r.Requirement.String()}
	add := func(name, value string) {
		if value != "" {
			words = append(words, name+"="+value)
		}
	}
	add("level", r.TLS.Level.String())
	add("match", strings.Join(r.TLS.Match, ":"))
	add("protocols", r.TLS.Protocols)
	add("ciphers", r.TLS.Ciphers)
	add("servername", r.TLS.Servername)
	add("nexthop", r.Nexthop)
	add("verify", r.Verify)
	add("mode", r.Mode)
	add("language", r.Language)
	life := func(name string, d time.Duration) {
		if d != 0 {
			add(name, d.String())
		}
	}
	life("lifetime", r.Life.Usual)
	life("min-lifetime", r.Life.Min)
	life("max-lifetime", r.Life.Max)
	if r.Weaken {
		words = append(words, "weaken")
	}
	if r.Override {
		words = append(words, "override")
	}
	if !r.Until.IsZero() {
		add("until", auditTime(r.Until))
	}
	add("note", r.Note)
	return strings.Join(words, " ")
}

// triggerLike returns the trigger in whose place t would come, nil if there is none.
func triggerLike(ctx context.Context, tx *dbsql.Tx, t *policy.Trigger) (*policy.Trigger, error) {
	return triggerWhere(ctx, tx, `kind = ? AND header = ? AND pattern = ? AND sender = ?`, t.Kind.String(), t.Header, t.Pattern, t.Sender)
}

func triggerWhere(ctx context.Context, tx *dbsql.Tx, cond string, args ...any) (*policy.Trigger, error) {
	rows, err := tx.QueryContext(ctx, selectTrigger+`WHERE `+cond, args...)
	if err != nil {
		return nil, fmt.Errorf("read a trigger: %w", err)
	}
	defer rows.Close()
	if !rows.Next() {
		return nil, rows.Err()
	}
	return scanTrigger(rows)
}

// auditTrigger tells of a change of a trigger; before or after is nil where there was
// none, or is none any more.
func auditTrigger(ctx context.Context, tx *dbsql.Tx, now time.Time, before, after *policy.Trigger) error {
	e := audit.Entry{Kind: audit.TriggerChanged, Details: audit.Details{"before": triggerWords(before), "after": triggerWords(after)}}
	about := after
	switch {
	case before == nil:
		e.Kind = audit.TriggerAdded
	case after == nil:
		e.Kind, about = audit.TriggerRemoved, before
	}
	e.Details["trigger"], e.Details["who"] = about.What(), about.Who()
	return appendAudit(ctx, tx, now, e)
}

func triggerWords(t *policy.Trigger) string {
	if t == nil {
		return ""
	}
	words := []string{t.Kind.String(), t.Requirement.String()}
	if t.Remove {
		words = append(words, "remove")
	}
	if !t.Until.IsZero() {
		words = append(words, "until="+auditTime(t.Until))
	}
	if t.Note != "" {
		words = append(words, "note="+t.Note)
	}
	return strings.Join(words, " ")
}

// AuditAccess tells of a reading or a download, unless the same client has done the
// same within minutes: a browser that loads a page or a file in pieces does it once. A
// first reading is told of by MarkRead; the same client's next is none of its own.
func (db *DB) AuditAccess(ctx context.Context, e audit.Entry) error {
	now := db.now()
	e.At, e.Actor = now, audit.By(ctx)
	e = e.Clean()
	also := e.Kind
	if e.Kind == audit.Opened {
		also = audit.Read
	}
	recent, err := db.AuditEntries(ctx, audit.Filter{
		Kinds: []string{e.Kind, also}, Item: e.Item, Recipient: e.Recipient, Since: now.Add(-eventRepeats), Limit: 100,
	})
	if err != nil {
		return err
	}
	for _, r := range recent {
		if r.At.After(now) { // of a clock that was set back since
			continue
		}
		if r.Actor == e.Actor && r.Details["what"] == e.Details["what"] && r.Details["part"] == e.Details["part"] {
			return nil
		}
	}
	return db.Audit(ctx, e)
}
