package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/postseal/postseal/internal/adminlogin"
	"github.com/postseal/postseal/internal/adminpage"
	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/sql"
	"github.com/postseal/postseal/tlsmap/probe"
)

// destinationPages show what is known of destinations: a list, and each with its
// history. They change nothing, but that an operator can have one looked at anew.
type destinationPages struct {
	db    *sql.DB
	login *adminlogin.Login
	look  func(ctx context.Context, dest string) error // nil: nobody can
}

//go:embed pages/destinations.html
var destinationsHTML string

//go:embed pages/destination.html
var destinationHTML string

//go:embed pages/look.html
var lookHTML string

var (
	listPage    = adminpage.New(destinationsHTML)
	onePage     = adminpage.New(destinationHTML)
	lookPage    = adminpage.New(lookHTML)
	troublePage = adminpage.New(`{{define "content"}}<p>{{.}}</p>{{end}}`)
)

// The lengths of pages.
const (
	pageDestinations = 100
	pageEvents       = 100
	pageAlarms       = 50
)

func (p *destinationPages) register(mux *http.ServeMux) {
	page := func(path string, h http.HandlerFunc) {
		mux.Handle(path, p.login.RequireOnceSetUp(h))
	}
	page("GET /destinations", p.list)
	page("GET /destinations/{dest}", p.one)
	if p.look != nil {
		mux.Handle("GET /destinations/{dest}/look", p.login.RequireOperator(http.HandlerFunc(p.askLook)))
		mux.Handle("POST /destinations/{dest}/look", p.login.RequireOperator(http.HandlerFunc(p.doLook)))
	}
}

// shownAlarm is an alarm on a page.
type shownAlarm struct {
	Dest, Path, Text string
	At               time.Time
}

// shownDest is a destination in the list.
type shownDest struct {
	sql.Destination
	Path, Class string
}

func (d shownDest) Headlines() (all []string) {
	for _, k := range d.Alarms {
		all = append(all, k.Headline())
	}
	return all
}

func (p *destinationPages) list(w http.ResponseWriter, r *http.Request) {
	form := r.URL.Query()
	q := sql.DestinationQuery{
		Contains: strings.ToLower(strings.TrimSpace(form.Get("q"))), Alarmed: form.Get("alarm") != "",
		After: form.Get("after"), Limit: pageDestinations + 1,
	}
	if word := form.Get("state"); word != "" {
		state, err := policy.ParseState(word)
		if err != nil {
			troublePage.Render(w, r, http.StatusBadRequest, "Destinations", "There is no such state.")
			return
		}
		q.State, q.HasState = state, true
	}
	alarms, err := p.db.OpenAlarms(r.Context(), pageAlarms+1)
	if err != nil {
		p.trouble(w, r, err)
		return
	}
	found, err := p.db.Destinations(r.Context(), q)
	if err != nil {
		p.trouble(w, r, err)
		return
	}
	data := struct {
		Q, State   string
		Alarm      bool
		States     []string
		Alarms     []shownAlarm
		MoreAlarms bool
		All        []shownDest
		Next       string // of the next page; "" on the last
		First      bool
	}{Q: form.Get("q"), State: form.Get("state"), Alarm: q.Alarmed, First: q.After == ""}
	for s := policy.Unknown; s <= policy.NoMail; s++ {
		data.States = append(data.States, s.String())
	}
	for i := range alarms {
		if i == pageAlarms {
			data.MoreAlarms = true
			break
		}
		data.Alarms = append(data.Alarms, shownAlarm{alarms[i].Dest, pathOf(alarms[i].Dest), alarms[i].String(), alarms[i].At})
	}
	for i := range found {
		if i == pageDestinations {
			form.Set("after", found[i-1].Dest)
			data.Next = "/destinations?" + form.Encode()
			break
		}
		data.All = append(data.All, shownDest{found[i], pathOf(found[i].Dest), classOf(found[i].State)})
	}
	listPage.Render(w, r, http.StatusOK, "Destinations", data)
}

// pathOf is the page of a destination.
func pathOf(dest string) string { return "/destinations/" + url.PathEscape(dest) }

// classOf says how a state looks.
func classOf(s policy.State) string {
	switch s {
	case policy.Works:
		return "good"
	case policy.Absent, policy.Broken:
		return "bad"
	}
	return "faint"
}

// shownEvent is an event on a page.
type shownEvent struct {
	At   time.Time
	Kind probe.Kind
	Text string
	// Alarm and Told are those of the event.
	Alarm bool
	Told  time.Time
}

func (p *destinationPages) one(w http.ResponseWriter, r *http.Request) {
	dest := probe.Key(r.PathValue("dest"))
	form := r.URL.Query()
	before, _ := strconv.ParseInt(form.Get("before"), 10, 64) // what is no number: from the newest on
	events, err := p.db.History(r.Context(), dest, max(0, before), pageEvents+1)
	if err != nil {
		p.trouble(w, r, err)
		return
	}
	found, err := p.db.Destinations(r.Context(), sql.DestinationQuery{Exactly: dest})
	if err != nil {
		p.trouble(w, r, err)
		return
	}
	if len(found) == 0 && len(events) == 0 {
		troublePage.Render(w, r, http.StatusNotFound, "Nothing known", "Nothing is known of this destination: no mail went there lately.")
		return
	}
	data := struct {
		shownDest
		TLS    string
		Result *probe.Result // nil: none
		Events []shownEvent
		Next   string
		First  bool
		Look   string // the page that asks whether to look anew; "": who looks may not
		Done   bool   // it was
	}{First: before <= 0, Done: adminpage.Said(w, r) == "look"}
	if v, ok := adminlogin.ViewerOf(r.Context()); ok && v.Operator && p.look != nil && len(found) > 0 {
		data.Look = pathOf(dest) + "/look"
	}
	if len(found) > 0 {
		data.shownDest = shownDest{found[0], pathOf(dest), classOf(found[0].State)}
		data.TLS = tlsWords(&found[0].Record)
	} else {
		data.Dest, data.TLS = dest, "it was forgotten, since no mail went there for long"
	}
	rec, err := p.db.Posture(r.Context(), dest)
	if err != nil {
		p.trouble(w, r, err)
		return
	}
	if rec != nil {
		var res probe.Result
		if json.Unmarshal(rec.Result, &res) == nil && res.Dest == dest {
			data.Result = &res
		}
	}
	for i := range events {
		e := &events[i]
		if i == pageEvents {
			data.Next = pathOf(dest) + "?before=" + strconv.FormatInt(events[i-1].ID, 10)
			break
		}
		data.Events = append(data.Events, shownEvent{e.At, e.Kind, e.String(), e.Alarm, e.Told})
	}
	onePage.Render(w, r, http.StatusOK, dest, data)
}

// lookPatience is how long a browser waits for a look. The look goes on after that.
const lookPatience = 20 * time.Second

// known returns the destination that the path names, if something is known of it: nobody has others
// looked at from here.
func (p *destinationPages) known(w http.ResponseWriter, r *http.Request) (dest string, ok bool) {
	dest = probe.Key(r.PathValue("dest"))
	rec, err := p.db.Posture(r.Context(), dest)
	switch {
	case err != nil:
		p.trouble(w, r, err)
	case rec == nil:
		troublePage.Render(w, r, http.StatusNotFound, "Nothing known", "Nothing is known of this destination: no mail went there lately. postseal check looks at any domain.")
	default:
		return dest, true
	}
	return "", false
}

func (p *destinationPages) askLook(w http.ResponseWriter, r *http.Request) {
	if dest, ok := p.known(w, r); ok {
		lookPage.Render(w, r, http.StatusOK, "Look anew", struct{ Dest, Path string }{dest, pathOf(dest)})
	}
}

func (p *destinationPages) doLook(w http.ResponseWriter, r *http.Request) {
	dest, ok := p.known(w, r)
	if !ok {
		return
	}
	if err := p.db.Audit(r.Context(), audit.Entry{Kind: audit.LookedAt, Details: audit.Details{"destination": dest}}); err != nil {
		p.trouble(w, r, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), lookPatience)
	defer cancel()
	if err := p.look(ctx, dest); err != nil && ctx.Err() == nil {
		troublePage.Render(w, r, http.StatusInternalServerError, "Trouble", "It could not be looked at: "+err.Error())
		return
	}
	adminpage.Say(w, pathOf(dest), "look")
	http.Redirect(w, r, pathOf(dest), http.StatusSeeOther)
}

func (p *destinationPages) trouble(w http.ResponseWriter, r *http.Request, err error) {
	troublePage.Render(w, r, http.StatusInternalServerError, "Trouble", "The database could not be read: "+err.Error())
}
