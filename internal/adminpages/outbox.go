package adminpages

import (
	"net/http"

	"github.com/postseal/postseal/internal/listing"
)

// mailKinds are the mails that Postseal writes.
var mailKinds = []choice{
	{"notice", "notice of a message"}, {"code", "one-time code"}, {"answer", "answer to a reply to a notice"}, {"sealed", "to the sender: sealed"}, {"enrolled", "to the sender: account made"},
	{"read", "to the sender: read"}, {"reply", "to the sender: reply"}, {"expiring", "to the sender: about to expire"}, {"expired", "to the sender: expired"}, {"failure", "to the sender: failure"},
	{"lock", "to the sender: locked"}, {"reset", "to the sender: account reset"}, {"forgot", "to the sender: asks for a reset"},
}

func mailKind(word string) string {
	for _, k := range mailKinds {
		if k.Value == word {
			return k.Name
		}
	}
	return word
}

// shownMail is a row of the outbox.
type shownMail struct {
	listing.Mail
	What, ItemPath, PersonPath string
	Late                       bool
}

// pageReplies is how many replies the page has.
const pageReplies = 50

func (p *Pages) outbox(w http.ResponseWriter, r *http.Request) error {
	f, now := formOf(r), p.o.Now()
	q := listing.MailQuery{Failed: f.get("failed") != ""}
	var err error
	if q.Page, err = f.page(); err != nil {
		return err
	}
	if q.Kind, err = f.choice("kind", "kind of mail", mailKinds); err != nil {
		return err
	}
	found, err := p.o.Store.ListMails(r.Context(), q)
	if err != nil {
		return err
	}
	data := struct {
		Kind            string
		Failed          bool
		Kinds           []choice
		Filtered, First bool
		All             []shownMail
		Pager           pager
		Replies         []shownReply
		MoreReplies     bool
	}{Kind: q.Kind, Failed: q.Failed, Kinds: mailKinds, Filtered: f.filtered("kind", "failed"), First: q.After == nil, Pager: f.pager(found.Next, found.Partial, len(found.All))}
	for _, m := range found.All {
		s := shownMail{Mail: m, What: mailKind(m.Kind), Late: now.Sub(m.Queued) > late}
		if m.Item != "" {
			s.ItemPath = itemPath(m.Item)
		}
		if a := folded(m.Recipient); a != "" {
			s.PersonPath = personPath(a)
		}
		data.All = append(data.All, s)
	}
	if data.First {
		replies, err := p.o.Store.QueuedReplies(r.Context(), pageReplies+1)
		if err != nil {
			return err
		}
		if data.MoreReplies = len(replies) > pageReplies; data.MoreReplies {
			replies = replies[:pageReplies]
		}
		for _, x := range replies {
			data.Replies = append(data.Replies, shownReply{x, itemPath(x.Item)})
		}
	}
	outboxPage.Render(w, r, http.StatusOK, "Outbox", data)
	return nil
}

type shownReply struct {
	listing.Reply
	ItemPath string
}
