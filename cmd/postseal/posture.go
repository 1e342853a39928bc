package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/sql"
	"github.com/postseal/postseal/tlsmap/probe"
)

func postureCommand() *cli.Command {
	return noun("posture", "what is known of destinations, and their history",
		verb("list", "", "list the destinations, one a line", with([]cli.Flag{jsonFlag(),
			&cli.StringFlag{Name: "state", Usage: "only works, absent, broken, unreachable, nomail or unknown"},
			&cli.StringFlag{Name: "contains", Usage: "only those with `TEXT` in their name"},
			&cli.BoolFlag{Name: "alarm", Usage: "only those with an alarm that has not ended"},
		}, settingFlags(storeSettings...)), listPostures),
		verb("show", "DEST", "show one destination: what is known, what would happen to mail, and its history", with([]cli.Flag{jsonFlag()},
			settingFlags(decideSettings...)), showPosture),
	)
}

// postureLine is a destination as posture list --json prints it.
type postureLine struct {
	Dest    string       `json:"dest"`
	State   policy.State `json:"state"`
	Checked time.Time    `json:"checked,omitzero"`
	Since   time.Time    `json:"since,omitzero"`  // TLS has worked without a break since, as of worked
	Worked  time.Time    `json:"worked,omitzero"` // TLS was last seen to work
	Lost    time.Time    `json:"lost,omitzero"`   // it was first found not to, after that
	Changed time.Time    `json:"changed,omitzero"`
	Alarms  []probe.Kind `json:"alarms"` // that have not ended
}

func newPostureLine(d *sql.Destination) postureLine {
	l := postureLine{d.Dest, d.State, d.Checked, d.Since, d.Worked, d.Lost, d.Changed, d.Alarms}
	if l.Alarms == nil {
		l.Alarms = []probe.Kind{}
	}
	return l
}

func listPostures(c *cli.Context) error {
	if err := wantArgs(c, 0, 0, "no argument"); err != nil {
		return err
	}
	q := sql.DestinationQuery{Contains: strings.ToLower(c.String("contains")), Alarmed: c.Bool("alarm")}
	if w := c.String("state"); w != "" {
		var err error
		if q.State, err = policy.ParseState(w); err != nil {
			return fmt.Errorf("--state: %q: want works, absent, broken, unreachable, nomail or unknown", w)
		}
		q.HasState = true
	}
	_, db, err := openStore(c)
	if err != nil {
		return err
	}
	defer db.Close()
	all, err := db.Destinations(c.Context, q)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		lines := []postureLine{}
		for i := range all {
			lines = append(lines, newPostureLine(&all[i]))
		}
		return printJSON(c, lines)
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 8, 2, ' ', 0)
	for _, d := range all {
		alarms := ""
		for _, k := range d.Alarms {
			alarms += " ALARM " + string(k)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\tlooked at %s\t%s%s\n", d.Dest, d.State, tlsWords(&d.Record), stamp(d.Checked), changedWords(d.Changed), alarms)
	}
	return w.Flush()
}

// tlsWords says for how long a destination has had TLS.
func tlsWords(r *probe.Record) string {
	switch {
	case r.Worked.IsZero():
		return "TLS never seen to work"
	case r.Lost.IsZero():
		return "TLS since " + stamp(r.Since)
	}
	return "TLS from " + stamp(r.Since) + " to " + stamp(r.Worked) + ", lost " + stamp(r.Lost)
}

func changedWords(t time.Time) string {
	if t.IsZero() {
		return "no change noted"
	}
	return "changed " + stamp(t)
}

// stamp writes a time to the minute, in UTC.
func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04Z")
}

// eventLine is an event as posture show --json prints it.
type eventLine struct {
	At     time.Time    `json:"at"`
	Kind   probe.Kind   `json:"kind"`
	Text   string       `json:"text"`
	Alarm  bool         `json:"alarm"`
	Told   time.Time    `json:"told,omitzero"`
	Detail probe.Detail `json:"detail"`
}

// shownPosture is what posture show prints.
type shownPosture struct {
	postureLine
	Verdict *explanation    `json:"verdict,omitempty"` // for mail of which no sender's rule demands anything; none for a host in brackets
	Result  json.RawMessage `json:"result,omitempty"`  // of the last look
	History []eventLine     `json:"history"`           // the newest first
}

func showPosture(c *cli.Context) error {
	if err := wantArgs(c, 1, 1, "one DEST"); err != nil {
		return err
	}
	dest := probe.Key(c.Args().First())
	x, err := openExplainer(c)
	if err != nil {
		return err
	}
	db := x.db
	defer db.Close()
	all, err := db.Destinations(c.Context, sql.DestinationQuery{Exactly: dest})
	if err != nil {
		return err
	}
	events, err := db.History(c.Context, dest, 0, probe.EventsMost)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		if len(events) == 0 {
			return fmt.Errorf("nothing is known of %s: no mail went there lately; postseal check looks at it", dest)
		}
		all = []sql.Destination{{Record: probe.Record{Dest: dest}}}
	}
	s := shownPosture{postureLine: newPostureLine(&all[0]), History: []eventLine{}}
	r, err := db.Posture(c.Context, dest)
	if err != nil {
		return err
	}
	if r != nil && json.Valid(r.Result) {
		s.Result = r.Result
	}
	for i := range events {
		e := &events[i]
		s.History = append(s.History, eventLine{e.At, e.Kind, e.String(), e.Alarm, e.Told, e.Detail})
	}
	if rcpt, err := policy.ParseAddress("someone@" + dest); err == nil && rcpt.Domain != "" && !strings.ContainsAny(dest, "[:") {
		e, err := x.explain(c.Context, policy.Question{SenderUnknown: true, Recipient: rcpt})
		if err != nil {
			return err
		}
		s.Verdict = &e
	}
	if c.Bool("json") {
		return printJSON(c, s)
	}
	printPosture(c.App.Writer, &all[0], s)
	return nil
}

func printPosture(out io.Writer, d *sql.Destination, s shownPosture) {
	fmt.Fprintf(out, "%s: %s, looked at %s\n", d.Dest, d.State, stamp(d.Checked))
	fmt.Fprintf(out, "  %s\n", tlsWords(&d.Record))
	for _, k := range d.Alarms {
		fmt.Fprintf(out, "  ALARM: a destination %s\n", k.Headline())
	}
	if v := s.Verdict; v != nil {
		fmt.Fprintf(out, "  mail to it: %s", v.Channel)
		if v.Transport != "" {
			fmt.Fprintf(out, " by %s", v.Transport)
		}
		if v.TLSPolicy != "" {
			fmt.Fprintf(out, ", TLS policy %q", v.TLSPolicy)
		}
		fmt.Fprintln(out)
		for _, r := range v.Reasons {
			fmt.Fprintf(out, "    - %s\n", r)
		}
	}
	fmt.Fprintln(out, "  history:")
	for _, e := range s.History {
		mark := ""
		if e.Alarm {
			mark = "ALARM "
		}
		fmt.Fprintf(out, "    %s  %s%s\n", e.At.UTC().Format("2006-01-02 15:04:05Z"), mark, e.Text)
	}
	if len(s.History) == 0 {
		fmt.Fprintln(out, "    nothing has changed since the first look")
	}
}
