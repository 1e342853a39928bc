package adminpages

import (
	"errors"
	"net/http"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/seal"
	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/internal/listing"
)

// messageShows are what a list of messages can be limited to.
var messageShows = []choice{
	{escrow.StateHeld, "held: waiting"}, {escrow.StateRead, "read"}, {escrow.StateExpired, "expired"}, {escrow.StateRetracted, "taken back"},
	{listing.OnHold, "on legal hold"}, {listing.Bounced, "notice bounced"},
}

// shownMessage is a row of the list.
type shownMessage struct {
	listing.Message
	Path, PersonPath string
	Look, NoticeLook look
}

func showMessages(list []listing.Message) []shownMessage {
	all := make([]shownMessage, len(list))
	for i, m := range list {
		all[i] = shownMessage{m, itemPath(m.Item), "", lookOf(stateLooks, m.State), lookOf(noticeLooks, m.Notice)}
		if a := folded(m.Recipient); a != "" {
			all[i].PersonPath = personPath(a)
		}
	}
	return all
}

func (p *Pages) messages(w http.ResponseWriter, r *http.Request) error {
	f := formOf(r)
	q := listing.MessageQuery{Now: p.o.Now()}
	var err error
	if q.Page, err = f.page(); err != nil {
		return err
	}
	if q.Show, err = f.choice("show", "kind of message", messageShows); err != nil {
		return err
	}
	if q.Sender, q.FromDomain, err = f.address("from"); err != nil {
		return err
	}
	if q.Recipient, q.ToDomain, err = f.address("to"); err != nil {
		return err
	}
	if q.Since, q.Until, err = f.days(); err != nil {
		return err
	}
	if id := f.get("id"); seal.IsID(id) {
		q.Item = id
	} else {
		q.QueueID = id
	}
	found, err := p.o.Store.ListMessages(r.Context(), q)
	if err != nil {
		return err
	}
	data := struct {
		From, To, ID, Show, Since, Until string
		Shows                            []choice
		Filtered                         bool
		All                              []shownMessage
		Pager                            pager
	}{
		f.get("from"), f.get("to"), f.get("id"), q.Show, f.get("since"), f.get("until"), messageShows,
		f.filtered("from", "to", "id", "show", "since", "until"), showMessages(found.All), f.pager(found.Next, found.Partial, len(found.All)),
	}
	messagesPage.Render(w, r, http.StatusOK, "Sealed messages", data)
	return nil
}

// pageHistory is how many entries of the audit log the page of a message or a recipient has.
const pageHistory = 50

// pageOfOne is how many recipients of one message a page has.
const pageOfOne = 100

func (p *Pages) message(w http.ResponseWriter, r *http.Request) error {
	ctx, id, f := r.Context(), r.PathValue("id"), formOf(r)
	gone := &problem{http.StatusNotFound, "No such message", "No message with this id is known. What has ended is forgotten after some months; the audit log still knows it.", "/audit?item=" + id, "Look in the audit log"}
	if !seal.IsID(id) {
		gone.link, gone.name, gone.text = "/items", "To the messages", "This is not the id of a message."
		return gone
	}
	item, err := p.o.Store.ItemOf(ctx, id)
	if errors.Is(err, escrow.ErrUnknown) {
		return gone
	} else if err != nil {
		return err
	}
	q := listing.MessageQuery{Item: id, Now: p.o.Now()}
	if q.Page, err = f.page(); err != nil {
		return err
	}
	q.Limit = pageOfOne
	found, err := p.o.Store.ListMessages(ctx, q)
	if err != nil {
		return err
	}
	history, err := p.o.Store.ListAudit(ctx, listing.AuditQuery{Page: listing.Page{Limit: pageHistory}, Item: id})
	if err != nil {
		return err
	}
	data := struct {
		listing.Item
		All         []shownMessage
		Pager       pager
		History     []shownEntry
		MoreHistory string
		Done        string
		Actions     []link
	}{item, showMessages(found.All), f.pager(found.Next, found.Partial, len(found.All)), showEntries(history.All), "", doneText(w, r), p.actionsOn(ctx, &item)}
	if history.Next != nil {
		data.MoreHistory = "/audit?item=" + id
	}
	messagePage.Render(w, r, http.StatusOK, "Message "+id, data)
	return nil
}

// shownEntry is a row of the audit log.
type shownEntry struct {
	audit.Record
	ItemPath, PersonPath string
	Look                 look
	More                 []pair
}

type pair struct{ Name, Value string }
