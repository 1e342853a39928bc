package adminpages

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/seal"
	"github.com/postseal/postseal/internal/adminpage"
	"github.com/postseal/postseal/internal/listing"
)

// Actions are what operators may do. Each logs what it did, with who acts in its context.
type Actions interface {
	// Retract takes a message back, from one recipient or from all ("").
	Retract(ctx context.Context, id, recipient string) error
	// Extend lets a message be read for lifetime from now on, by one recipient or by all ("").
	Extend(ctx context.Context, id, recipient string, lifetime time.Duration) (time.Time, error)
	// Hold and Release are of a legal hold.
	Hold(ctx context.Context, id, note string) error
	Release(ctx context.Context, id, note string) error
	// Unlock forgets the wrong tries of a recipient.
	Unlock(ctx context.Context, address string) error
}

// action is one of them, on a page that asks before it is done.
type action struct {
	name   string // in the path
	button string
	title  string
	text   []string // what it means
	note   bool     // asks why
	whom   bool     // asks for whom
	days   bool     // asks how long
	danger bool     // can't be undone
	done   string   // said afterwards
	do     func(ctx context.Context, a Actions, id string, f *asked) error
}

// asked is what an operator has typed.
type asked struct {
	Recipient, Note string
	Days            int
}

// mostDays bounds how long a message may be extended at a time.
const mostDays = 3650

// itemActions are those on messages.
var itemActions = []action{
	{
		name: "retract", button: "Take back", title: "Take the message back", whom: true, danger: true,
		text: []string{"Nobody can read it any more from that moment on: its keys are deleted, and then its text. That can't be undone, unless the message is on legal hold: then both are kept for who holds it.", "Who has read it already keeps what was downloaded. The sender is told where it was not read yet."},
		done: "The message was taken back.",
		do: func(ctx context.Context, a Actions, id string, f *asked) error {
			return a.Retract(ctx, id, f.Recipient)
		},
	},
	{
		name: "extend", button: "Extend", title: "Let the message be read longer", whom: true, days: true,
		text: []string{"From now on, but never beyond what the rules allowed when it was sealed. Who can read it longer already still can."},
		done: "The time was extended, as far as the rules allow: see below.",
		do: func(ctx context.Context, a Actions, id string, f *asked) error {
			_, err := a.Extend(ctx, id, f.Recipient, time.Duration(f.Days)*24*time.Hour)
			return err
		},
	},
	{
		name: "hold", button: "Put on legal hold", title: "Put the message on legal hold", note: true,
		text: []string{"Its keys and its encrypted text are kept, whatever ends, until the hold is released. For recipients and the sender nothing changes, and nothing is to be seen."},
		done: "The message is on legal hold.",
		do:   func(ctx context.Context, a Actions, id string, f *asked) error { return a.Hold(ctx, id, f.Note) },
	},
	{
		name: "release", button: "Release", title: "Release the message from its legal hold", note: true, danger: true,
		text: []string{"What has ended meanwhile is deleted at once, and for good."},
		done: "The message is not on legal hold any more.",
		do:   func(ctx context.Context, a Actions, id string, f *asked) error { return a.Release(ctx, id, f.Note) },
	},
}

// unlock is the one on recipients.
var unlock = action{
	name: "unlock", button: "Unlock", title: "Forget wrong tries",
	text: []string{"The recipient can try again at once. So can whoever it was that guessed: look at the tries in the audit log first. What clients' addresses have tried stays counted."},
	done: "Wrong tries are forgotten.",
	do:   func(ctx context.Context, a Actions, address string, _ *asked) error { return a.Unlock(ctx, address) },
}

func (p *Pages) registerActions(mux *http.ServeMux) {
	if p.o.Actions == nil || p.o.Operate == nil {
		return
	}
	page := func(path string, h func(http.ResponseWriter, *http.Request) error) {
		mux.Handle(path, p.o.Operate(p.page(h)))
	}
	for _, a := range itemActions {
		page("GET /items/{id}/"+a.name, func(w http.ResponseWriter, r *http.Request) error { return p.askItem(w, r, &a, "") })
		page("POST /items/{id}/"+a.name, func(w http.ResponseWriter, r *http.Request) error { return p.doItem(w, r, &a) })
	}
	page("GET /recipients/{address}/unlock", p.askUnlock)
	page("POST /recipients/{address}/unlock", p.doUnlock)
}

// mayOperate reports whether who asks may do something.
func (p *Pages) mayOperate(ctx context.Context) bool {
	return p.o.Actions != nil && p.o.Operate != nil && p.o.MayOperate != nil && p.o.MayOperate(ctx)
}

// link is to a page that asks before something is done.
type link struct {
	Path, Name string
	Danger     bool
}

// actionsOn are what can be done with a message as it is.
func (p *Pages) actionsOn(ctx context.Context, it *listing.Item) (list []link) {
	if !p.mayOperate(ctx) {
		return nil
	}
	for _, a := range itemActions {
		if possible(&a, it) {
			list = append(list, link{itemPath(it.ID) + "/" + a.name, a.title, a.danger})
		}
	}
	return list
}

func possible(a *action, it *listing.Item) bool {
	switch a.name {
	case "hold":
		return !it.Ended && it.HeldAt.IsZero()
	case "release":
		return !it.HeldAt.IsZero()
	}
	return !it.Ended
}

// question is the page that asks.
type question struct {
	Path, Back string
	Button     string
	Text       []string
	Danger     bool
	Item       *listing.Item // nil: it is of a recipient
	Whom       []choice
	Note, Days bool
	Error      string
	Recipient  string
	Typed      asked
}

func (p *Pages) itemOf(r *http.Request) (listing.Item, error) {
	id := r.PathValue("id")
	gone := &problem{http.StatusNotFound, "No such message", "No message with this id is known.", "/items", "To the messages"}
	if !seal.IsID(id) {
		return listing.Item{}, gone
	}
	it, err := p.o.Store.ItemOf(r.Context(), id)
	if errors.Is(err, escrow.ErrUnknown) {
		err = gone
	}
	return it, err
}

func (p *Pages) askItem(w http.ResponseWriter, r *http.Request, a *action, wrong string) error {
	it, err := p.itemOf(r)
	if err != nil {
		return err
	}
	q := question{Path: itemPath(it.ID) + "/" + a.name, Back: itemPath(it.ID), Button: a.button, Text: a.text, Danger: a.danger, Item: &it, Note: a.note, Days: a.days, Error: wrong, Typed: typed(r)}
	if !possible(a, &it) {
		return &problem{http.StatusConflict, a.title, "This can't be done with the message as it is now.", q.Back, "To the message"}
	}
	if a.whom {
		found, err := p.o.Store.ListMessages(r.Context(), listing.MessageQuery{Page: listing.Page{Limit: pageOfOne}, Item: it.ID, Now: p.o.Now()})
		if err != nil {
			return err
		}
		q.Whom = []choice{{everybody, "all recipients"}}
		for _, m := range found.All {
			if m.State == escrow.StateHeld || m.State == escrow.StateRead {
				q.Whom = append(q.Whom, choice{m.Recipient, m.Recipient + " (" + m.State + ")"})
			}
		}
	}
	status := http.StatusOK
	if wrong != "" {
		status = http.StatusUnprocessableEntity
	}
	actionPage.Render(w, r, status, a.title, q)
	return nil
}

// everybody stands for all recipients in the form: what is missing there must not mean all.
const everybody = "*"

// maxForm bounds what is posted, in bytes.
const maxForm = 16 << 10

// typed is what stands in the form. What it is not given is zero.
func typed(r *http.Request) asked {
	f := asked{Recipient: r.PostFormValue("recipient"), Note: strings.TrimSpace(r.PostFormValue("note"))}
	f.Days, _ = strconv.Atoi(r.PostFormValue("days"))
	return f
}

// maxNote is how long a reason may be, in bytes, as the vault has it.
const maxNote = 500

func (p *Pages) doItem(w http.ResponseWriter, r *http.Request, a *action) error {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	it, err := p.itemOf(r)
	if err != nil {
		return err
	}
	if err := r.ParseForm(); err != nil {
		return &problem{http.StatusBadRequest, a.title, "The form could not be read. Nothing was done.", itemPath(it.ID), "To the message"}
	}
	f := typed(r)
	switch {
	case a.whom && f.Recipient == "":
		return p.askItem(w, r, a, "Say for whom.")
	case a.note && (f.Note == "" || len(f.Note) > maxNote || !utf8.ValidString(f.Note) || strings.ContainsAny(f.Note, "\r\n\x00")):
		return p.askItem(w, r, a, fmt.Sprintf("Say why, in one line of at most %d bytes.", maxNote))
	case a.days && (f.Days < 1 || f.Days > mostDays):
		return p.askItem(w, r, a, fmt.Sprintf("Say for how many days: from 1 to %d.", mostDays))
	}
	if f.Recipient == everybody {
		f.Recipient = ""
	}
	// Who has pressed the button and gone away has pressed it.
	err = a.do(context.WithoutCancel(r.Context()), p.o.Actions, it.ID, &f)
	if why := words(err); why != "" {
		return &problem{http.StatusConflict, a.title, "This can't be done with the message as it is now: " + why + ".", itemPath(it.ID), "To the message"}
	} else if err != nil {
		return err
	}
	adminpage.Say(w, itemPath(it.ID), a.name)
	http.Redirect(w, r, itemPath(it.ID), http.StatusSeeOther)
	return nil
}

// stateErrors are errors of what can't be done with something as it is, and their words.
var stateErrors = []struct {
	err   error
	words string
}{
	{escrow.ErrUnknown, "there is nothing left of it that could be read"}, {escrow.ErrOver, "it is over, and its text deleted"}, {escrow.ErrHeld, "it is on legal hold"}, {escrow.ErrNotHeld, "it is not on legal hold"},
}

// words says why something can't be done; "" of another error, and of none.
func words(err error) string {
	i := slices.IndexFunc(stateErrors, func(s struct {
		err   error
		words string
	}) bool {
		return errors.Is(err, s.err)
	})
	if i < 0 {
		return ""
	}
	return stateErrors[i].words
}

// doneText is what is said after something was done.
func doneText(w http.ResponseWriter, r *http.Request) string {
	name := adminpage.Said(w, r)
	for _, a := range append(slices.Clone(itemActions), unlock) {
		if a.name == name {
			return a.done
		}
	}
	return ""
}

func (p *Pages) askUnlock(w http.ResponseWriter, r *http.Request) error {
	address := folded(r.PathValue("address"))
	if address == "" {
		return &problem{http.StatusNotFound, "Nothing known", "This is no address.", "/recipients", "To the recipients"}
	}
	actionPage.Render(w, r, http.StatusOK, unlock.title, question{
		Path: personPath(address) + "/unlock", Back: personPath(address), Button: unlock.button, Text: unlock.text, Recipient: address,
	})
	return nil
}

func (p *Pages) doUnlock(w http.ResponseWriter, r *http.Request) error {
	address := folded(r.PathValue("address"))
	if address == "" {
		return &problem{http.StatusNotFound, "Nothing known", "This is no address.", "/recipients", "To the recipients"}
	}
	err := unlock.do(context.WithoutCancel(r.Context()), p.o.Actions, address, nil)
	if errors.Is(err, escrow.ErrUnknown) {
		return &problem{http.StatusConflict, unlock.title, "There are no wrong tries of this recipient.", personPath(address), "To the recipient"}
	} else if err != nil {
		return err
	}
	adminpage.Say(w, personPath(address), unlock.name)
	http.Redirect(w, r, personPath(address), http.StatusSeeOther)
	return nil
}
