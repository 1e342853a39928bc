// Package adminpages shows administrators what Postseal holds: an overview, sealed
// messages, recipients, rules, the outbox and the audit log, each with search, filters
// and pages that cost the same however much there is.
//
// The pages show; what operators may do beside ([Actions]) is asked for on a page of its own, and done by
// a POST. They hold who writes to whom, when and how much; never a word of a message, a
// subject, a file name, a link, a code or a key: what they read ([Store]) does not have it.
//
// Who may ask is decided before: see [Options.Wrap].
package adminpages

import (
	"context"
	"embed"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/adminpage"
	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/internal/listing"
	"github.com/postseal/postseal/policyd/policy"
)

// Store is what the pages read. Each method reads a bounded number of rows.
type Store interface {
	Summary(ctx context.Context, soon time.Time) (listing.Summary, error)
	ListMessages(ctx context.Context, q listing.MessageQuery) (listing.Rows[listing.Message], error)
	// ItemOf returns what is known of a message; [escrow.ErrUnknown] if nothing is.
	ItemOf(ctx context.Context, id string) (listing.Item, error)
	ListPersons(ctx context.Context, q listing.PersonQuery) (listing.Rows[listing.Person], error)
	ListRules(ctx context.Context, q listing.RuleQuery) (listing.Rows[policy.Rule], error)
	ListMails(ctx context.Context, q listing.MailQuery) (listing.Rows[listing.Mail], error)
	QueuedReplies(ctx context.Context, limit int) ([]listing.Reply, error)
	ListAudit(ctx context.Context, q listing.AuditQuery) (listing.Rows[audit.Record], error)
}

// Check is one condition of readiness.
type Check struct {
	Name string
	OK   func(context.Context) error
}

// Alarm is one about a destination that has not ended.
type Alarm struct {
	Dest, Text string
	At         time.Time
}

// Options are what the pages need. Store, Rules and Wrap must be set.
type Options struct {
	Store Store
	Rules func() *policy.Snapshot // in force
	// Wrap lets only those through to a page who may see it.
	Wrap   func(http.Handler) http.Handler
	Checks []Check
	// Alarms returns those about destinations, the newest first; nil: there are none.
	Alarms func(ctx context.Context, limit int) ([]Alarm, error)
	// Trouble counts what the intake has met since the start that an administrator must look at.
	Trouble func() int
	// Locked returns until when too many wrong tries keep a recipient out, zero where none do.
	Locked func(ctx context.Context, address string) (time.Time, error)
	Quota  escrow.Quota

	// What operators may do; nil: nobody may do anything. Operate lets only operators through to a
	// page, and only from a page of ours to what changes something; MayOperate tells who they are.
	Actions    Actions
	Operate    func(http.Handler) http.Handler
	MayOperate func(context.Context) bool

	Log *slog.Logger     // nil: none
	Now func() time.Time // nil: time.Now
}

// Pages are the pages. They are made by New.
type Pages struct{ o Options }

// New makes the pages.
func New(o Options) *Pages {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Pages{o}
}

// Register puts the pages where they belong.
func (p *Pages) Register(mux *http.ServeMux) {
	for path, h := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /{$}":                  p.home,
		"GET /items":                p.messages,
		"GET /items/{id}":           p.message,
		"GET /recipients":           p.persons,
		"GET /recipients/{address}": p.person,
		"GET /rules":                p.rules,
		"GET /outbox":               p.outbox,
		"GET /audit":                p.audit,
	} {
		mux.Handle(path, p.o.Wrap(p.page(h)))
	}
	p.registerActions(mux)
}

// problem is what is shown in the place of a page.
type problem struct {
	status      int
	title, text string
	link, name  string // where to go on; "": nowhere
}

func (e *problem) Error() string { return e.text }

// page turns the error of a page into one that is shown.
func (p *Pages) page(h func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := h(w, r)
		var e *problem
		switch {
		case err == nil:
			return
		case errors.As(err, &e):
		case errors.Is(err, listing.ErrKey):
			e = &problem{http.StatusBadRequest, "No such page", "This list has no such place. It may have been cut off in the address.", r.URL.Path, "To the start of the list"}
		case r.Context().Err() != nil:
			return // nobody waits for it
		default:
			p.o.Log.Error("an admin page could not be made", "path", r.Pattern, "error", err)
			e = &problem{http.StatusInternalServerError, "Trouble", "The database could not be read: " + err.Error(), "", ""}
		}
		troublePage.Render(w, r, e.status, e.title, struct{ Text, Link, Name string }{e.text, e.link, e.name})
	})
}

//go:embed templates/*.html
var templates embed.FS

// parsed returns a page of the embedded ones, with what they have in common.
func parsed(name string) *adminpage.Template {
	var text strings.Builder
	for _, n := range []string{"common.html", name} {
		b, err := templates.ReadFile("templates/" + n)
		if err != nil {
			panic(err) // the names are constants
		}
		text.Write(b)
	}
	return adminpage.New(text.String())
}

var (
	homePage     = parsed("home.html")
	messagesPage = parsed("messages.html")
	messagePage  = parsed("message.html")
	personsPage  = parsed("persons.html")
	personPage   = parsed("person.html")
	rulesPage    = parsed("rules.html")
	outboxPage   = parsed("outbox.html")
	auditPage    = parsed("audit.html")
	actionPage   = parsed("action.html")
	troublePage  = parsed("trouble.html")
)

// pageRows is how many rows a page has.
const pageRows = 50

// form is what is asked for in the query string.
type form struct {
	values url.Values
	path   string
}

func formOf(r *http.Request) form { return form{r.URL.Query(), r.URL.Path} }

// get returns a field, without what stands around it.
func (f form) get(name string) string { return strings.TrimSpace(f.values.Get(name)) }

// filtered reports whether one of the fields says something.
func (f form) filtered(names ...string) bool {
	for _, n := range names {
		if f.get(n) != "" {
			return true
		}
	}
	return false
}

// page returns which page is asked for.
func (f form) page() (listing.Page, error) {
	after, err := listing.ParseKey(f.values.Get("after"))
	return listing.Page{After: after, Limit: pageRows}, err
}

// choice returns a field that has to be one of the choices, or nothing.
func (f form) choice(name, what string, of []choice) (string, error) {
	v := f.get(name)
	for _, c := range of {
		if v == c.Value {
			return v, nil
		}
	}
	if v == "" {
		return "", nil
	}
	return "", f.bad("There is no such " + what + ".")
}

func (f form) bad(text string) error {
	return &problem{http.StatusBadRequest, "This can't be looked for", text, f.path, "Without filters"}
}

// day reads a date as browsers send it, as the beginning of that day in UTC.
func (f form) day(name string) (time.Time, error) {
	v := f.get(name)
	if v == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.DateOnly, v)
	if err != nil || t.Year() < 1970 || t.Year() > 9998 {
		return time.Time{}, f.bad("A day is written as 2026-11-27.")
	}
	return t, nil
}

// days reads a range of days; both are in it, so until is the beginning of the next one.
func (f form) days() (since, until time.Time, err error) {
	if since, err = f.day("since"); err != nil {
		return since, until, err
	}
	if until, err = f.day("until"); err == nil && !until.IsZero() {
		until = until.AddDate(0, 0, 1)
	}
	return since, until, err
}

// address reads a field that is an address, "<>" for the null sender, or a domain, with
// or without an @ before it.
func (f form) address(name string) (address, domain string, err error) {
	v := f.get(name)
	switch {
	case v == "", v == "<>":
		return v, "", nil
	case strings.HasPrefix(v, "@"):
		v = v[1:]
	}
	a, err := policy.ParseAddress(v)
	if err != nil || len(v) > 320 {
		return "", "", f.bad("This is no address and no domain: write pat@example.org, or example.org.")
	}
	if a.Domain != "" {
		return a.Folded().String(), "", nil
	}
	return "", policy.CanonicalDomain(v), nil
}

// choice is one of a list to choose from.
type choice struct{ Value, Name string }

// pager is what stands below a list.
type pager struct {
	Next, First string // addresses; "": there is none
	Partial     bool
	Found       int
}

func (f form) pager(next listing.Key, partial bool, found int) pager {
	with := func(after string) string {
		v := url.Values{}
		for name, list := range f.values {
			if name != "after" && len(list) > 0 && list[0] != "" {
				v.Set(name, list[0])
			}
		}
		if after != "" {
			v.Set("after", after)
		}
		if len(v) == 0 {
			return f.path
		}
		return f.path + "?" + v.Encode()
	}
	p := pager{Partial: partial, Found: found}
	if next != nil {
		p.Next = with(next.String())
	}
	if f.values.Get("after") != "" {
		p.First = with("")
	}
	return p
}

// look is how something is shown.
type look struct{ Class, Text string }

// stateLooks are those of the states of a message.
var stateLooks = map[string]look{
	escrow.StateHeld:      {"info", "held"},
	escrow.StateRead:      {"good", "read"},
	escrow.StateExpired:   {"faint", "expired"},
	escrow.StateRetracted: {"warn", "taken back"},
}

// noticeLooks are those of notices.
var noticeLooks = map[string]look{"queued": {"info", "queued"}, "sent": {"good", "sent"}, "bounced": {"bad", "bounced"}}

func lookOf(of map[string]look, word string) look {
	if l, ok := of[word]; ok {
		return l
	}
	return look{"faint", word}
}

// itemPath, personPath and destPath are pages.
func itemPath(id string) string { return "/items/" + url.PathEscape(id) }

func personPath(address string) string { return "/recipients/" + url.PathEscape(address) }

func destPath(dest string) string { return "/destinations/" + url.PathEscape(dest) }

// folded returns an address as it is a key, "" where it can't be one.
func folded(address string) string {
	a, err := policy.ParseAddress(address)
	if err != nil || a.IsNull() {
		return ""
	}
	return a.Folded().String()
}
