package adminpages

import (
	"net/http"
	"strings"
	"time"

	"github.com/postseal/postseal/internal/listing"
	"github.com/postseal/postseal/policyd/policy"
)

var personShows = []choice{{listing.WithAccount, "with an account"}, {listing.WithSetting, "with a setting"}}

type shownPerson struct {
	listing.Person
	Path string
}

// Account names by what its owner can sign in.
func (p shownPerson) Means() string {
	var list []string
	if p.Password {
		list = append(list, "password")
	}
	if p.TOTP {
		list = append(list, "one-time codes of an app")
	}
	switch p.Passkeys {
	case 0:
	case 1:
		list = append(list, "a passkey")
	default:
		list = append(list, "passkeys")
	}
	return strings.Join(list, ", ")
}

func (p *Pages) persons(w http.ResponseWriter, r *http.Request) error {
	f := formOf(r)
	q := listing.PersonQuery{Contains: strings.ToLower(f.get("q")), Now: p.o.Now()}
	var err error
	if q.Page, err = f.page(); err != nil {
		return err
	}
	if q.Show, err = f.choice("show", "kind of recipient", personShows); err != nil {
		return err
	}
	if len(q.Contains) > 320 {
		return f.bad("No address is that long.")
	}
	found, err := p.o.Store.ListPersons(r.Context(), q)
	if err != nil {
		return err
	}
	data := struct {
		Q, Show  string
		Shows    []choice
		Filtered bool
		All      []shownPerson
		Exactly  *shownPerson // who has exactly the address that is looked for, whatever the list shows
		Pager    pager
	}{Q: f.get("q"), Show: q.Show, Shows: personShows, Filtered: f.filtered("q", "show"), Pager: f.pager(found.Next, found.Partial, len(found.All))}
	for _, person := range found.All {
		data.All = append(data.All, shownPerson{person, personPath(person.Address)})
	}
	if a := folded(q.Contains); a != "" && strings.Contains(q.Contains, "@") && q.After == nil {
		one, err := p.o.Store.ListPersons(r.Context(), listing.PersonQuery{Page: listing.Page{Limit: 1}, Exactly: a, Now: q.Now})
		if err != nil {
			return err
		}
		if len(one.All) == 1 && (len(found.All) == 0 || found.All[0].Address != a) {
			data.Exactly = &shownPerson{one.All[0], personPath(a)}
		}
	}
	personsPage.Render(w, r, http.StatusOK, "Recipients", data)
	return nil
}

// pageMessages is how many messages the page of a recipient has.
const pageMessages = 20

func (p *Pages) person(w http.ResponseWriter, r *http.Request) error {
	ctx, now := r.Context(), p.o.Now()
	unknown := &problem{http.StatusNotFound, "Nothing known", "Nothing is known of this recipient: no message was sealed for the address lately, nothing is set for it, and it has no account.", "/recipients", "To the recipients"}
	address := folded(r.PathValue("address"))
	if address == "" {
		return unknown
	}
	found, err := p.o.Store.ListPersons(ctx, listing.PersonQuery{Page: listing.Page{Limit: 1}, Exactly: address, Now: now})
	if err != nil {
		return err
	}
	history, err := p.o.Store.ListAudit(ctx, listing.AuditQuery{Page: listing.Page{Limit: pageHistory}, Recipient: address})
	if err != nil {
		return err
	}
	if len(found.All) == 0 && len(history.All) == 0 {
		return unknown
	}
	messages, err := p.o.Store.ListMessages(ctx, listing.MessageQuery{Page: listing.Page{Limit: pageMessages}, Recipient: address, Now: now})
	if err != nil {
		return err
	}
	data := struct {
		shownPerson
		Known         bool
		Locked        time.Time
		Done          string
		Unlock        string // the page that asks; "": who looks may not
		Rules         []shownRule
		Dest, DestURL string
		All           []shownMessage
		MoreMessages  string
		History       []shownEntry
		MoreHistory   string
	}{All: showMessages(messages.All), History: showEntries(history.All)}
	data.Address = address
	if data.Known = len(found.All) == 1; data.Known {
		data.Person = found.All[0]
	}
	if p.o.Locked != nil {
		if data.Locked, err = p.o.Locked(ctx, address); err != nil {
			return err
		}
	}
	data.Done = doneText(w, r)
	if p.mayOperate(ctx) && !data.Locked.IsZero() {
		data.Unlock = personPath(address) + "/unlock"
	}
	if a, err := policy.ParseAddress(address); err == nil {
		data.Rules = p.counting(policy.ByRecipient, a, now)
		if a.Domain != "" {
			data.Dest, data.DestURL = a.Domain, destPath(a.Domain)
		}
	}
	if messages.Next != nil {
		data.MoreMessages = "/items?" + form{}.with("to", address)
	}
	if history.Next != nil {
		data.MoreHistory = "/audit?" + form{}.with("to", address)
	}
	personPage.Render(w, r, http.StatusOK, address, data)
	return nil
}
