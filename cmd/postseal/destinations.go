package main

import (
	_ "embed"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/postseal/postseal/internal/adminlogin"
	"github.com/postseal/postseal/internal/adminpage"
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/sql"
	"github.com/postseal/postseal/tlsmap/probe"
)

// destinationPages show what is known of destinations: a list, and each with its
// history. They change nothing.
type destinationPages struct {
	db    *sql.DB
	login *adminlogin.Login
}

//go:embed pages/destinations.html
var destinationsHTML string

//go:embed pages/destination.html
var destinationHTML string

var (
	listPage    = adminpage.New(destinationsHTML)
	onePage     = adminpage.New(destinationHTML)
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
	}{First: before <= 0}
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

func (p *destinationPages) trouble(w http.ResponseWriter, r *http.Request, err error) {
	troublePage.Render(w, r, http.StatusInternalServerError, "Trouble", "The database could not be read: "+err.Error())
}
