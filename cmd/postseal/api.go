package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/urfave/cli/v2"

	"github.com/postseal/postseal/escrow/notify"
	"github.com/postseal/postseal/escrow/submit"
	"github.com/postseal/postseal/sql"
)

// newSubmitter gives what is composed here to the splitter.
func newSubmitter(cfg *config, hostname string) *submit.Submitter {
	return &submit.Submitter{
		Encryption: dialable(cfg.str("lmtp-listen")), Escrow: dialable(cfg.str("lmtp-escrow-listen")), Hostname: hostname,
	}
}

// newAPI makes the handler of /api/v1/.
func newAPI(cfg *config, db *sql.DB, from, hostname string, log *slog.Logger, reg *prometheus.Registry) (http.Handler, error) {
	_, address, err := notify.ParseFrom(from)
	if err != nil {
		return nil, err
	}
	return submit.NewAPI(submit.Config{
		Store: db, Submitter: newSubmitter(cfg, hostname), Domain: address.Domain,
		SpoolDir: cfg.spoolDir(), MaxSize: cfg.size("max-message-size"), Now: time.Now, Log: log, Registerer: reg, Crash: crash,
	})
}

func apiKeyCommand() *cli.Command {
	store := settingFlags(storeSettings...)
	return noun("api-key", "who may send by POST /api/v1/messages",
		verb("new", "", "make a key and show it, this once", with([]cli.Flag{
			&cli.StringSliceFlag{Name: "sender", Usage: "whom it may send as: `ADDRESS`, @DOMAIN, @.PARENT or *; repeatable"},
			&cli.StringFlag{Name: "note", Usage: "what it is for"},
			&cli.StringFlag{Name: "until", Usage: "last `DAY` that it counts, YYYY-MM-DD"},
		}, store), newAPIKey),
		verb("list", "", "list the keys, without what is secret of them", with([]cli.Flag{jsonFlag()}, store), listAPIKeys),
		verb("remove", "ID", "remove a key; it counts no more at once", store, removeAPIKey),
	)
}

func newAPIKey(c *cli.Context) error {
	if err := wantArgs(c, 0, 0, "no argument"); err != nil {
		return err
	}
	until, err := parseUntil(c.String("until"))
	if err != nil {
		return err
	}
	k, secret, err := submit.NewKey(c.StringSlice("sender"), c.String("note"), until, time.Now())
	if err != nil {
		return err
	}
	_, db, err := openStore(c)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := db.AddAPIKey(c.Context, k); err != nil {
		return err
	}
	fmt.Fprintf(c.App.ErrWriter, "key %s may send as %s. It is shown this once:\n", k.ID, strings.Join(k.Who(), ", "))
	fmt.Fprintln(c.App.Writer, secret)
	return nil
}

func listAPIKeys(c *cli.Context) error {
	if err := wantArgs(c, 0, 0, "no argument"); err != nil {
		return err
	}
	_, db, err := openStore(c)
	if err != nil {
		return err
	}
	defer db.Close()
	keys, err := db.APIKeys(c.Context)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		type listed struct {
			ID      string     `json:"id"`
			Senders []string   `json:"senders"`
			Note    string     `json:"note"`
			Created time.Time  `json:"created"`
			Used    *time.Time `json:"used,omitempty"`
			Until   *time.Time `json:"until,omitempty"`
		}
		all := []listed{}
		for _, k := range keys {
			all = append(all, listed{k.ID, k.Who(), k.Note, k.Created, orNil(k.Used), orNil(k.Until)})
		}
		return printJSON(c, all)
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tSENDERS\tCREATED\tUSED\tUNTIL\tNOTE")
	for _, k := range keys {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, strings.Join(k.Who(), ","), timeOrDash(k.Created), timeOrDash(k.Used), timeOrDash(k.Until), k.Note)
	}
	return w.Flush()
}

func orNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func timeOrDash(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

func removeAPIKey(c *cli.Context) error {
	if err := wantArgs(c, 1, 1, "one ID, as api-key list shows it"); err != nil {
		return err
	}
	_, db, err := openStore(c)
	if err != nil {
		return err
	}
	defer db.Close()
	removed, err := db.RemoveAPIKey(c.Context, c.Args().First())
	if err == nil && !removed {
		err = fmt.Errorf("there is no key %q; see postseal api-key list", c.Args().First())
	}
	return err
}

// errNotTaken reports that a message was taken for not all of its recipients.
var errNotTaken = errors.New("the message was not taken for every recipient; see above")
