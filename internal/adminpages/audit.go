package adminpages

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/internal/listing"
	"github.com/postseal/postseal/policyd/policy"
)

// entryGroups are kinds of entries that belong together. What is in none of them is of
// administrators.
var entryGroups = []struct {
	choice
	kinds []string
}{
	{choice{"mail", "Mail: decided, sealed, notices"}, []string{audit.Submitted, audit.Decision, audit.Reinjected, audit.Sealed, audit.NoticeQueued, audit.NoticeSent, audit.NoticeBounced}},
	{choice{"pickup", "Pickup: proofs, reading, replies"}, []string{audit.CodeQueued, audit.TryRight, audit.TryWrong, audit.Locked, audit.Read, audit.Opened, audit.Downloaded, audit.Searched, audit.ReplyQueued, audit.ReplySent, audit.ReplyFailed}},
	{choice{"life", "Life of messages"}, []string{audit.Retracted, audit.Extended, audit.Recovered, audit.Expired, audit.Held, audit.Released, audit.Purged, audit.Relinked}},
	{choice{"account", "Accounts of recipients"}, []string{audit.AccountEnrolled, audit.AccountChanged, audit.AccountReset, audit.DeviceDropped, audit.RecipientSet, audit.RecipientReset, audit.Unlocked}},
	{choice{groupAdmin, "Administrators: rules, keys, access"}, nil},
	{choice{groupWrong, "Wrong tries and locks"}, []string{audit.TryWrong, audit.Locked, audit.AdminRefused}},
}

const (
	groupAdmin = "admin"
	groupWrong = "wrong" // whose entries are in other groups, too
)

// adminKinds are the kinds of no other group.
func adminKinds() []string {
	var others []string
	for _, g := range entryGroups {
		if g.Value != groupWrong {
			others = append(others, g.kinds...)
		}
	}
	return slices.DeleteFunc(slices.Clone(audit.Kinds), func(k string) bool { return slices.Contains(others, k) })
}

// kindsOf returns the kinds of a group or a kind.
func kindsOf(word string) []string {
	switch {
	case word == "":
		return nil
	case word == groupAdmin:
		return adminKinds()
	}
	for _, g := range entryGroups {
		if g.Value == word {
			return g.kinds
		}
	}
	return []string{word}
}

// entryLooks are those of entries that an administrator should see at once.
var entryLooks = map[string]look{
	audit.TryWrong: {"warn", ""}, audit.AdminRefused: {"warn", ""}, audit.AdminAdded: {"warn", ""}, audit.AdminReset: {"warn", ""}, audit.Locked: {"bad", ""}, audit.NoticeBounced: {"bad", ""}, audit.ReplyFailed: {"bad", ""},
	audit.Retracted: {"warn", ""}, audit.Recovered: {"warn", ""}, audit.KeyChanged: {"warn", ""}, audit.Restored: {"warn", ""}, audit.Pruned: {"warn", ""},
}

// firstDetails stand before the others, in this order.
var firstDetails = []string{"scope", "pattern", "trigger", "who", "what", "by", "how", "before", "after"}

func byWeight(a, b string) int {
	weight := func(s string) int {
		if i := slices.Index(firstDetails, s); i >= 0 {
			return i
		}
		return len(firstDetails)
	}
	return cmp.Or(cmp.Compare(weight(a), weight(b)), strings.Compare(a, b))
}

func showEntries(list []audit.Record) []shownEntry {
	all := make([]shownEntry, len(list))
	for i, r := range list {
		e := shownEntry{Record: r, Look: look{entryLooks[r.Kind].Class, r.Kind}}
		if r.Item != "" {
			e.ItemPath = itemPath(r.Item)
		}
		if r.Recipient != "" {
			e.PersonPath = personPath(r.Recipient)
		}
		for _, name := range slices.SortedFunc(maps.Keys(r.Details), byWeight) {
			e.More = append(e.More, pair{strings.ReplaceAll(name, "_", " "), r.Details[name]})
		}
		all[i] = e
	}
	return all
}

func (p *Pages) audit(w http.ResponseWriter, r *http.Request) error {
	f := formOf(r)
	var groups, kinds []choice
	for _, g := range entryGroups {
		groups = append(groups, g.choice)
	}
	for _, k := range audit.Kinds {
		kinds = append(kinds, choice{k, k})
	}
	var q listing.AuditQuery
	var err error
	if q.Page, err = f.page(); err != nil {
		return err
	}
	kind, err := f.choice("kind", "kind of entry", slices.Concat(groups, kinds))
	if err != nil {
		return err
	}
	q.Kinds = kindsOf(kind)
	if q.Since, q.Until, err = f.days(); err != nil {
		return err
	}
	for _, a := range []struct {
		name string
		to   *string
	}{{"from", &q.Sender}, {"to", &q.Recipient}} {
		v := f.get(a.name)
		if v == "" || v == "<>" {
			*a.to = v
			continue
		}
		address, err := policy.ParseAddress(v)
		if err != nil || len(v) > 320 {
			return f.bad("This is no address: write pat@example.org.")
		}
		*a.to = address.Folded().String()
	}
	q.Item, q.Actor = f.get("item"), f.get("actor")
	found, err := p.o.Store.ListAudit(r.Context(), q)
	if err != nil {
		return err
	}
	auditPage.Render(w, r, http.StatusOK, "Audit log", struct {
		From, To, Item, Actor, Kind, Since, Until string
		Groups, Kinds                             []choice
		Filtered                                  bool
		All                                       []shownEntry
		Pager                                     pager
	}{
		f.get("from"), f.get("to"), q.Item, q.Actor, kind, f.get("since"), f.get("until"), groups, kinds,
		f.filtered("from", "to", "item", "actor", "kind", "since", "until"), showEntries(found.All), f.pager(found.Next, found.Partial, len(found.All)),
	})
	return nil
}
