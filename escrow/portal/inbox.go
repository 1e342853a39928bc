package portal

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/postseal/postseal/escrow"
)

// Inbox is all that is held for one recipient, for a browser that is verified for
// it. [escrow.Vault] is one.
type Inbox interface {
	// Inbox lists the messages, the newest first. It marks none as read.
	Inbox(ctx context.Context, d *escrow.Device, q escrow.InboxQuery) (items []escrow.InboxItem, total int, err error)
	// InboxOpen finds one, for Open: escrow.ErrUnknown, escrow.ErrNeedsLink, or
	// with the pickup escrow.ErrExpired or escrow.ErrRetracted.
	InboxOpen(ctx context.Context, d *escrow.Device, item string) (*escrow.Pickup, *escrow.Session, error)
	// SearchToken returns words that are looked for in a form for the address of a page,
	// and SearchOf what was in it, "" where it is of another recipient.
	SearchToken(d *escrow.Device, query string) (string, error)
	SearchOf(d *escrow.Device, token string) string
	// Searched notes in the audit log that so many messages were searched.
	Searched(ctx context.Context, d *escrow.Device, messages int) error
	// Peek is Open that does not count as reading.
	Peek(ctx context.Context, p *escrow.Pickup, s *escrow.Session) (io.ReadCloser, error)
}

// inboxPage is how many messages a page lists: with more it would be slow to come
// on a phone.
const inboxPage = 25

// closedDevice is what the cookie of a device holds once it was signed out here, for
// closedLifetime: so that other tabs say what happened, not that there is nothing.
const (
	closedDevice   = "closed"
	closedLifetime = 12 * time.Hour
)

// inboxVisit is a request to an inbox by a device that is verified for it.
type inboxVisit struct {
	*escrow.Device
	self string // path of the list, escaped
}

// inboxRoutes mounts the inbox.
func (p *portal) inboxRoutes(handle func(pattern, route string, h handler)) {
	const m = "/inbox/{tag}"
	handle("GET "+p.base+m, m, p.inInbox(p.listInbox))
	handle("POST "+p.base+m+"/search", m+"/search", p.inInbox(p.findInbox))
	handle("GET "+p.base+m+"/zip", m+"/zip", p.inInbox(p.zipInbox))
	handle("POST "+p.base+m+"/leave", m+"/leave", p.leaveInbox)
	p.messageRoutes(handle, m+"/m/{item}", p.inboxMessage)
}

func (p *portal) inboxPath(tag string) string { return p.base + "/inbox/" + url.PathEscape(tag) }

// inInbox calls h for a device that is verified for the recipient.
func (p *portal) inInbox(h func(http.ResponseWriter, *http.Request, *inboxVisit) error) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		tag := r.PathValue("tag")
		d, err := p.deviceOf(r, tag)
		if errors.Is(err, escrow.ErrUnknown) {
			return p.noDevice(w, r, tag)
		}
		if err != nil {
			return err
		}
		v := &inboxVisit{d, p.inboxPath(tag)}
		place(r.Context(), v.self, "")
		return h(w, r, v)
	}
}

// isTag reports whether s has the form of a recipient's tag: what has not, no
// cookie has a name for.
func isTag(s string) bool {
	return len(s) == 20 && strings.IndexFunc(s, func(c rune) bool { return (c < 'a' || c > 'z') && (c < '2' || c > '7') }) < 0
}

// noDevice answers a browser that is not verified, or no longer. Who has an account
// signs in; who was here before is told how to come back; any other sees the page
// of a stranger.
func (p *portal) noDevice(w http.ResponseWriter, r *http.Request, tag string) error {
	if !isTag(tag) {
		return escrow.ErrUnknown
	}
	query := r.URL.Query()
	closed := query.Has("closed")
	if known, err := p.hasAccount(r.Context(), tag); err != nil {
		return err
	} else if known {
		to := p.inboxPath(tag) + "/signin"
		switch {
		case closed:
			to += "?closed"
		case query.Has("verified"):
			to += "?cookies" // the cookie of a moment ago did not come back
		}
		return see(w, to)
	}
	if !closed && p.deviceToken(r, tag) == "" {
		return escrow.ErrUnknown
	}
	place(r.Context(), p.inboxPath(tag), "")
	return p.pages.write(w, r, http.StatusForbidden, "inbox-closed", closedView{Left: closed})
}

// closedView is the page of an inbox, or of a message in it, that can't be opened
// here.
type closedView struct {
	Inbox  string // to go back to, "" where it is the inbox that is closed
	Left   bool   // it was closed just now
	Sender string // of the message
	Item   string
}

// leaveInbox makes this browser forget that it is verified, for computers that
// others use too.
func (p *portal) leaveInbox(w http.ResponseWriter, r *http.Request) error {
	tag := r.PathValue("tag")
	d, err := p.deviceOf(r, tag)
	if errors.Is(err, escrow.ErrUnknown) {
		if p.deviceToken(r, tag) == "" {
			return escrow.ErrUnknown
		}
		return see(w, p.inboxPath(tag)+"?closed") // another tab was first
	}
	if err == nil {
		err = p.vault.SignOut(r.Context(), d)
	}
	if err != nil {
		return err
	}
	p.setDevice(w, tag, closedDevice, p.now().Add(closedLifetime))
	return see(w, p.inboxPath(tag)+"?closed")
}

// inboxMessage finds a message in the inbox, for the pages of a message.
func (p *portal) inboxMessage(at *gate, h opened) handler {
	return p.inInbox(func(w http.ResponseWriter, r *http.Request, in *inboxVisit) error {
		got, session, err := p.inbox.InboxOpen(r.Context(), in.Device, r.PathValue("item"))
		if got != nil {
			found(r.Context(), got.ItemID, got.Language)
		}
		switch {
		case got == nil && err == nil:
			return escrow.ErrUnknown
		case got == nil:
			return err
		case errors.Is(err, escrow.ErrExpired), errors.Is(err, escrow.ErrRetracted):
			place(r.Context(), in.self, got.Sender)
			return &overError{overView{Sender: clean(got.Sender), Retracted: errors.Is(err, escrow.ErrRetracted), Expires: got.Expires, Item: got.ItemID, Inbox: in.self}}
		case errors.Is(err, escrow.ErrNeedsLink):
			place(r.Context(), in.self, got.Sender)
			return p.pages.write(w, r, http.StatusForbidden, "inbox-closed", closedView{Inbox: in.self, Sender: clean(got.Sender), Item: got.ItemID})
		case err != nil:
			return err
		}
		v := &visit{Pickup: got, self: in.self + "/m/" + url.PathEscape(got.ItemID), inbox: true, device: in.Device}
		v.Tag = in.Tag
		place(r.Context(), v.self+"/message", got.Sender)
		leave, err := at.enter(r.Context(), v.key())
		if err != nil {
			return err
		}
		defer leave()
		return h(w, r, v, session)
	})
}

// inboxView is the list.
type inboxView struct {
	Self    string
	Address string
	Account bool   // there are pages of the account
	Query   string // what is looked for, "" if nothing is
	token   string // the same in addresses

	Entries     []inboxEntry
	Total       int
	First, Last int    // of the total, that are listed; 0: none
	Newer       string // queries of the pages around, "" where there is none
	Older       string

	Texts   []inboxEntry // of a search: found in the text alone
	Looked  int          // how many messages that search looked into
	Partly  bool         // into some not as far as their end
	Further string       // query that looks into the others, "" if there are none
	Onward  bool         // it is such a query
}

// inboxEntry is a message in the list.
type inboxEntry struct {
	escrow.InboxItem
	URL  string // of the message in the inbox
	From string
}

// Unread reports a message that waits to be read.
func (e inboxEntry) Unread() bool { return e.State == escrow.StateHeld }

// Over reports a message that can't be read any more.
func (e inboxEntry) Over() bool {
	return e.State == escrow.StateExpired || e.State == escrow.StateRetracted
}

// Retracted reports a message that was taken back.
func (e inboxEntry) Retracted() bool { return e.State == escrow.StateRetracted }

// Name tells a message from others, for who can't see where its link stands.
func (e inboxEntry) Name() string {
	if e.Subject != "" {
		return e.Subject
	}
	return e.From
}

// When is the time that stands in the list.
func (e inboxEntry) When() time.Time {
	if e.Date.IsZero() || e.Date.After(e.Created.Add(24*time.Hour)) {
		return e.Created // a clock that is wrong, or none
	}
	return e.Date
}

func (v *inboxVisit) entries(items []escrow.InboxItem) []inboxEntry {
	list := make([]inboxEntry, len(items))
	for i, it := range items {
		list[i] = inboxEntry{InboxItem: it, URL: v.self + "/m/" + url.PathEscape(it.ItemID), From: clean(it.From)}
		if list[i].From == "" {
			list[i].From = clean(it.Sender)
		}
		list[i].Subject = clean(it.Subject)
	}
	return list
}

// listInbox shows the list, or what a search finds. It marks nothing as read.
func (p *portal) listInbox(w http.ResponseWriter, r *http.Request, v *inboxVisit) error {
	if r.Method == http.MethodHead {
		return headOnly(w, "text/html; charset=utf-8")
	}
	leave, err := p.reading.enter(r.Context(), "inbox/"+v.Tag)
	if err != nil {
		return err
	}
	defer leave()
	q := r.URL.Query()
	view := inboxView{Self: v.self, Address: v.Address, Account: p.accounts != nil && v.How == escrow.VerifyAccount}
	if view.token = q.Get("s"); view.token != "" {
		view.Query = shorten(clean(p.inbox.SearchOf(v.Device, view.token)), escrow.MaxSearch)
	}
	search := escrow.NewSearch(view.Query)
	if search.Empty() {
		view.Query = ""
	}
	from := queryNumber(q.Get("text"))
	if view.Onward = !search.Empty() && from > 0; !view.Onward {
		if err := p.listPage(r.Context(), v, &view, max(queryNumber(q.Get("page")), 1)); err != nil {
			return err
		}
	}
	if !search.Empty() && view.First <= 1 { // not on the further pages of what was found at once
		if err := p.searchTexts(r.Context(), v, &view, search, from); err != nil {
			return err
		}
		if view.Looked > 0 {
			if err := p.inbox.Searched(r.Context(), v.Device, view.Looked); err != nil {
				return err
			}
		}
	}
	return p.pages.write(w, r, http.StatusOK, "inbox", view)
}

// findInbox takes the words that are looked for, and sends the browser to where they are in
// the address encrypted: the page can be gone back to, and no log has them.
func (p *portal) findInbox(w http.ResponseWriter, r *http.Request, v *inboxVisit) error {
	if err := form(w, r); err != nil {
		return err
	}
	query := shorten(clean(r.PostForm.Get("q")), escrow.MaxSearch)
	if escrow.NewSearch(query).Empty() {
		return see(w, v.self)
	}
	token, err := p.inbox.SearchToken(v.Device, query)
	if err != nil {
		return err
	}
	return see(w, v.self+"?s="+token)
}

// listPage fills in one page of the list, the last where there are fewer.
func (p *portal) listPage(ctx context.Context, v *inboxVisit, view *inboxView, page int) error {
	for {
		q := escrow.InboxQuery{Search: view.Query, Offset: (page - 1) * inboxPage, Limit: inboxPage}
		items, total, err := p.inbox.Inbox(ctx, v.Device, q)
		if err != nil {
			return err
		}
		last := max((total+inboxPage-1)/inboxPage, 1)
		if page > last {
			page = last
			continue
		}
		view.Entries, view.Total = v.entries(items), total
		if len(items) > 0 {
			view.First, view.Last = q.Offset+1, q.Offset+len(items)
		}
		at := func(page int) string {
			u := url.Values{"page": {strconv.Itoa(page)}}
			if view.Query != "" {
				u.Set("s", view.token)
			}
			return "?" + u.Encode()
		}
		if page > 1 {
			view.Newer = at(page - 1)
		}
		if page < last {
			view.Older = at(page + 1)
		}
		return nil
	}
}

// queryNumber reads a small number of a query, 0 where there is none.
func queryNumber(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > 1_000_000 {
		return 0
	}
	return n
}

// shorten cuts a text to so many characters.
func shorten(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most])
	}
	return s
}

// Limits of a search in texts, for one answer. The page says how to go on.
const (
	searchMessages = 50
	searchBytes    = 64 << 20
	searchEach     = 8 << 20 // bytes of one message: the text comes before the attachments
	searchTime     = 3 * time.Second
	searchBatch    = 100
)

// searchTexts looks into the messages that can be opened, from the from-th on, for
// words that sender and subject alone lack. It marks none as read.
func (p *portal) searchTexts(ctx context.Context, v *inboxVisit, view *inboxView, search escrow.Search, from int) error {
	start, left := time.Now(), int64(searchBytes)
	var hits []escrow.InboxItem
	defer func() { view.Texts = v.entries(hits) }()
	for offset := from; ; offset += searchBatch {
		items, total, err := p.inbox.Inbox(ctx, v.Device, escrow.InboxQuery{Offset: offset, Limit: searchBatch})
		if err != nil {
			return err
		}
		for i, it := range items {
			if !it.Openable || search.Match(it.Sender, it.From, it.Subject) {
				continue
			}
			size := min(it.Size, searchEach)
			if view.Looked > 0 && (view.Looked >= searchMessages || size > left || time.Since(start) > searchTime) {
				view.Further = "?" + url.Values{"s": {view.token}, "text": {strconv.Itoa(offset + i)}}.Encode()
				return nil
			}
			left -= size
			found, partly, err := p.searchText(ctx, v.Device, it, search)
			if err != nil {
				return err
			}
			view.Looked++
			if found {
				hits = append(hits, it)
			} else if partly {
				view.Partly = true
			}
		}
		if offset+len(items) >= total || len(items) == 0 {
			return nil
		}
	}
}

// searchText looks into one message. partly reports that it was not read to its end.
func (p *portal) searchText(ctx context.Context, d *escrow.Device, it escrow.InboxItem, search escrow.Search) (found, partly bool, err error) {
	leave, err := p.render(ctx)
	if err != nil {
		return false, false, err
	}
	defer leave()
	pickup, session, err := p.inbox.InboxOpen(ctx, d, it.ItemID)
	if err != nil {
		return false, false, ctx.Err() // over since it was listed
	}
	body, err := p.inbox.Peek(ctx, pickup, session)
	if err != nil {
		return false, true, p.notSearched(ctx, it, err)
	}
	defer body.Close()
	c, err := scan(io.LimitReader(body, searchEach))
	if err != nil {
		return false, true, p.notSearched(ctx, it, err)
	}
	texts := []string{it.Sender, it.From, it.Subject, c.text()}
	for _, f := range c.files {
		texts = append(texts, f.Name)
	}
	return search.Match(texts...), it.Size > searchEach || c.cut || c.truncated, nil
}

// notSearched keeps one damaged message from hiding the others.
func (p *portal) notSearched(ctx context.Context, it escrow.InboxItem, err error) error {
	if ctx.Err() == nil {
		p.log.Warn("a message could not be searched", "item", it.ItemID, "error", err)
	}
	return ctx.Err()
}
