package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/sql"
	"github.com/postseal/postseal/tlsmap/tlsrpt"
)

func tlsrptCommand() *cli.Command {
	settings := settingFlags(append([]string{"tlsrpt-from", "resolver", "tls-roots", "notice-relay"}, storeSettings...)...)
	day := func(value string) cli.Flag {
		return &cli.StringFlag{Name: "day", Usage: "the `DAY`, UTC: 2026-12-31, today or yesterday", Value: value}
	}
	return noun("tlsrpt", "reports of how TLS went, to the destinations that ask for them (RFC 8460)",
		verb("list", "", "list what is counted and not yet reported, and the reports of the last 30 days", with([]cli.Flag{jsonFlag()}, settings), listTLSReports),
		verb("show", "DOMAIN", "show what is counted of a domain and day, as it would be reported, and what was reported",
			with([]cli.Flag{day("today"), jsonFlag()}, settings), showTLSReports),
		verb("send", "[DOMAIN...]", "make the reports of a day now, and send what is due", with([]cli.Flag{day("yesterday")}, settings), sendTLSReports),
	)
}

// openReports opens the database and makes what reads it.
func openReports(c *cli.Context) (*config, *sql.DB, *tlsrpt.Reporter, error) {
	cfg, err := loadSettings(c, lookupEnv)
	if err != nil {
		return nil, nil, nil, err
	}
	if err := sql.DropToOwner(cfg.dbPath()); err != nil {
		return nil, nil, nil, err
	}
	log := newLog(c.App.ErrWriter, "text")
	host, err := os.Hostname()
	if err != nil {
		return nil, nil, nil, err
	}
	db, err := sql.Open(c.Context, cfg.str("db"), sql.Options{Logger: log})
	if err != nil {
		return nil, nil, nil, err
	}
	r, err := newReporter(cfg, db, host, nil, nil)
	if err != nil {
		return nil, nil, nil, errors.Join(err, db.Close())
	}
	return cfg, db, r, nil
}

// sentReport is a report as the command line prints it.
type sentReport struct {
	Day      string           `json:"day"`
	Domain   string           `json:"domain"`
	ID       string           `json:"report_id"`
	URI      string           `json:"uri"`
	State    string           `json:"state"` // sent, waiting, given-up
	Tries    int              `json:"tries"`
	Next     time.Time        `json:"next,omitzero"` // of one that waits
	Error    string           `json:"error,omitempty"`
	Document *tlsrpt.Document `json:"report,omitempty"`
}

func asSent(r tlsrpt.Report) (sentReport, error) {
	s := sentReport{Day: r.Day, Domain: r.Domain, ID: r.ID, URI: r.URI, Tries: r.Tries, Next: r.Next, Error: r.Error}
	switch {
	case !r.Next.IsZero():
		s.State = "waiting"
	case r.Error == "":
		s.State = "sent"
	default:
		s.State = "given-up"
	}
	var err error
	if len(r.JSON) > 0 {
		s.Document, err = tlsrpt.ReadDocument(r.JSON)
	}
	return s, err
}

// says is the state with what there is to know of it.
func (s sentReport) says() string {
	switch s.State {
	case "waiting":
		if s.Error != "" {
			return fmt.Sprintf("waiting for %s: %s", s.Next.Format(time.RFC3339), s.Error)
		}
		return "waiting"
	case "given-up":
		return "given up: " + s.Error
	}
	return s.State
}

func listTLSReports(c *cli.Context) error {
	if err := wantArgs(c, 0, 0, "no argument"); err != nil {
		return err
	}
	cfg, db, _, err := openReports(c)
	if err != nil {
		return err
	}
	defer db.Close()
	counted, err := db.TLSCounted(c.Context, "")
	if err != nil {
		return err
	}
	reports, err := db.TLSReports(c.Context, "")
	if err != nil {
		return err
	}
	all := struct {
		Counted []tlsrpt.Counted `json:"counted"`
		Reports []sentReport     `json:"reports"`
	}{append([]tlsrpt.Counted{}, counted...), []sentReport{}}
	for _, r := range reports {
		s, err := asSent(r)
		if err != nil {
			return err
		}
		all.Reports = append(all.Reports, s)
	}
	if c.Bool("json") {
		return printJSON(c, all)
	}
	hintReportsOff(c, cfg)
	w := tabwriter.NewWriter(c.App.Writer, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "DAY\tDOMAIN\tSESSIONS\tFAILED\tREPORT")
	for _, k := range all.Counted {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\tnot yet\n", k.Day, k.Domain, k.Sessions, k.Failures)
	}
	for _, s := range all.Reports {
		fmt.Fprintf(w, "%s\t%s\t-\t-\t%s: %s\n", s.Day, s.Domain, s.URI, s.says())
	}
	return w.Flush()
}

func hintReportsOff(c *cli.Context, cfg *config) {
	if cfg.str("tlsrpt-from") == "" {
		fmt.Fprintln(c.App.ErrWriter, "tlsrpt-from is not set: nothing is counted and no report is sent")
	}
}

func showTLSReports(c *cli.Context) error {
	if err := wantArgs(c, 1, 1, "one DOMAIN"); err != nil {
		return err
	}
	day, err := tlsrpt.ParseDay(c.String("day"), time.Now())
	if err != nil {
		return fmt.Errorf("--day %q: want a date like 2026-12-31, today or yesterday", c.String("day"))
	}
	cfg, db, reporter, err := openReports(c)
	if err != nil {
		return err
	}
	defer db.Close()
	type shown struct {
		Domain  string           `json:"domain"`
		Day     string           `json:"day"`
		Record  *tlsrpt.Record   `json:"record"` // null: see error
		Error   string           `json:"error,omitempty"`
		Pending *tlsrpt.Document `json:"pending"` // null: nothing is counted
		Reports []sentReport     `json:"reports"`
	}
	show := shown{Domain: policy.CanonicalDomain(c.Args().First()), Day: day, Reports: []sentReport{}}
	if show.Pending, err = reporter.Preview(c.Context, day, show.Domain); err != nil {
		return err
	}
	reports, err := db.TLSReports(c.Context, show.Domain)
	if err != nil {
		return err
	}
	for _, r := range reports {
		if r.Day != day {
			continue
		}
		s, err := asSent(r)
		if err != nil {
			return err
		}
		show.Reports = append(show.Reports, s)
	}
	ask, cancel := context.WithTimeout(c.Context, 10*time.Second)
	defer cancel()
	var asked error
	if show.Record, asked = tlsrpt.Lookup(ask, reporter.Resolver, show.Domain); asked != nil {
		show.Error = asked.Error()
	}
	if c.Bool("json") {
		return printJSON(c, show)
	}
	hintReportsOff(c, cfg)
	out := c.App.Writer
	switch {
	case show.Record != nil:
		fmt.Fprintf(out, "%s asks for reports: %s\n", show.Domain, show.Record.Text)
	case errors.Is(asked, tlsrpt.ErrNoRecord):
		fmt.Fprintf(out, "%s asks for no reports: %s\n", show.Domain, show.Error)
	default:
		fmt.Fprintf(out, "nobody knows whether %s asks for reports: %s\n", show.Domain, show.Error)
	}
	if show.Pending == nil {
		fmt.Fprintf(out, "nothing is counted of %s that is not reported\n", day)
	} else {
		fmt.Fprintf(out, "counted of %s and not yet reported:\n", day)
		printDocument(c, show.Pending)
	}
	for _, s := range show.Reports {
		fmt.Fprintf(out, "report %s to %s: %s\n", s.ID, s.URI, s.says())
		printDocument(c, s.Document)
	}
	return nil
}

func printDocument(c *cli.Context, d *tlsrpt.Document) {
	if d == nil {
		return
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 8, 2, ' ', 0)
	for _, p := range d.Policies {
		fmt.Fprintf(w, "  policy %s: %d succeeded, %d failed\n", p.Policy.Type, p.Summary.Succeeded, p.Summary.Failed)
		for _, f := range p.Details {
			fmt.Fprintf(w, "    %d\t%s\t%s\t%s\t%s\n", f.Sessions, f.Type, cmp.Or(f.MX, "-"), cmp.Or(f.IP, "-"), f.Reason)
		}
	}
	w.Flush()
}

func sendTLSReports(c *cli.Context) error {
	day, err := tlsrpt.ParseDay(c.String("day"), time.Now())
	if err != nil {
		return fmt.Errorf("--day %q: want a date like 2026-12-31, today or yesterday", c.String("day"))
	}
	cfg, db, reporter, err := openReports(c)
	if err != nil {
		return err
	}
	defer db.Close()
	if cfg.str("tlsrpt-from") == "" {
		return errors.New("set tlsrpt-from: reports need an address that they are from")
	}
	made, err := reporter.Make(c.Context, day, c.Args().Slice()...)
	if err != nil {
		return err
	}
	done, err := reporter.Send(c.Context)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.App.Writer, "%d made, %d tried\n", made, len(done))
	for _, r := range done {
		s, err := asSent(r)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.App.Writer, "%s of %s to %s: %s\n", s.Domain, s.Day, s.URI, s.says())
	}
	return nil
}
