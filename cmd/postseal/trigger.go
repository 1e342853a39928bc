package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postseal/postseal/contrib/postfix"
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/sql"
)

func triggerCommand() *cli.Command {
	settings := settingFlags(postfixSettings...)
	what := []cli.Flag{
		&cli.StringFlag{Name: "subject", Usage: "a `PATTERN` in the subject: text, or /POSIX extended regular expression/"},
		headerFlag("`FIELD` of the header, 'Name: PATTERN'"),
		&cli.StringFlag{Name: "sensitivity", Usage: "the field Sensitivity says `VALUE`: personal, private, company-confidential or any"},
		&cli.StringFlag{Name: "sender", Usage: "who may use it: `ADDRESS`, @DOMAIN, @.PARENT or *", Value: "*"},
	}
	form := []cli.Flag{
		&cli.StringFlag{Name: "require", Usage: "`REQUIREMENT`: tls, encryption or escrow"},
		&cli.BoolFlag{Name: "remove", Usage: "take the tag out of the subject, or the field out of the header, before the message goes on"},
		&cli.StringFlag{Name: "until", Usage: "last `DATE` of the trigger: 2026-12-31, or a time as in RFC 3339"},
		&cli.StringFlag{Name: "note", Usage: "why there is this trigger"},
	}
	return noun("trigger", "content that requires something: subjects, header fields, sensitivity",
		verb("add", "", "add a trigger", with(what, form, settings), addTrigger),
		verb("list", "", "list the triggers, and whether they are in force", with([]cli.Flag{jsonFlag()}, settings), listTriggers),
		verb("show", "[ID]", "show one trigger, by its id or by what it looks at", with([]cli.Flag{jsonFlag()}, what, settings), showTrigger),
		verb("remove", "[ID]", "remove a trigger, by its id or by what it looks at", with(what, settings), removeTrigger),
		verb("import", "FILE|-", "add triggers from CSV, with the columns of export; all or nothing",
			with([]cli.Flag{&cli.BoolFlag{Name: "replace", Usage: "replace the triggers that exist already"}}, settings), importTriggers),
		verb("export", "", "write the triggers as CSV, for import", settings, exportTriggers),
	)
}

// headerFlag takes a field as it stands in a header, in which commas are no separators.
func headerFlag(usage string) cli.Flag {
	return &cli.GenericFlag{Name: "header", Usage: usage, Value: &headerList{}}
}

// headerList is the values of a header flag.
type headerList []string

func (l *headerList) Set(v string) error { *l = append(*l, v); return nil }
func (l *headerList) String() string     { return strings.Join(*l, ", ") }

func headers(c *cli.Context) []string {
	l, _ := c.Generic("header").(*headerList)
	if l == nil {
		return nil
	}
	return *l
}

// parseHeader parts a header field.
func parseHeader(typed string) (name, value string, err error) {
	name, value, ok := strings.Cut(typed, ":")
	if name = strings.TrimSpace(name); !ok || name == "" {
		return "", "", fmt.Errorf("--header %q: want 'Name: value'", typed)
	}
	return name, strings.TrimSpace(value), nil
}

// triggerOf reads what a trigger looks at, and who may use it.
func triggerOf(c *cli.Context) (*policy.Trigger, error) {
	t := &policy.Trigger{}
	kinds := 0
	for _, f := range []string{"subject", "header", "sensitivity"} {
		if c.IsSet(f) {
			kinds++
		}
	}
	if kinds != 1 || len(headers(c)) > 1 {
		return nil, errors.New("say what the trigger looks at: one of --subject PATTERN, --header 'Name: PATTERN', --sensitivity VALUE")
	}
	var err error
	switch {
	case c.IsSet("subject"):
		t.Pattern = strings.TrimSpace(c.String("subject"))
	case c.IsSet("header"):
		t.Kind = policy.OnHeader
		var name string
		if name, t.Pattern, err = parseHeader(headers(c)[0]); err == nil {
			t.Header, err = policy.CanonicalHeader(name)
		}
	default:
		t.Kind = policy.OnSensitivity
		t.Pattern, err = policy.CanonicalSensitivity(c.String("sensitivity"))
	}
	if err == nil {
		t.Sender, err = policy.CanonicalPattern(policy.BySender, c.String("sender"))
	}
	return t, err
}

func addTrigger(c *cli.Context) error {
	if err := wantArgs(c, 0, 0, "no argument"); err != nil {
		return err
	}
	t, err := triggerOf(c)
	if err != nil {
		return err
	}
	if !c.IsSet("require") {
		return errors.New("name a requirement: --require tls, encryption or escrow")
	}
	if t.Requirement, err = policy.ParseRequirement(c.String("require")); err != nil {
		return err
	}
	if t.Until, err = parseUntil(c.String("until")); err != nil {
		return err
	}
	if !t.Until.IsZero() && !t.Until.After(time.Now()) {
		return fmt.Errorf("--until %s is in the past", c.String("until"))
	}
	t.Remove, t.Note = c.Bool("remove"), c.String("note")
	if err := t.Validate(); err != nil {
		return err
	}
	if err := changeTriggers(c, func(db *sql.DB) error { return db.ImportTriggers(c.Context, []*policy.Trigger{t}, false) }); err != nil {
		return err
	}
	if t.Remove && t.Sender == "*" {
		fmt.Fprintln(c.App.ErrWriter, "note: mail that comes in from elsewhere is changed too; name your own by --sender @DOMAIN")
	}
	if t.Remove {
		fmt.Fprintln(c.App.ErrWriter, "note: a DKIM signature that is made before Postseal breaks where a tag is removed; see docs/triggers.md")
	}
	return nil
}

// changeTriggers changes the triggers in the database, with the rights of its owner,
// and then, with the caller's, brings Postfix's table up to date.
func changeTriggers(c *cli.Context, change func(*sql.DB) error) error {
	cfg, err := loadSettings(c, lookupEnv)
	if err != nil {
		return err
	}
	err = sql.AsOwner(cfg.dbPath(), func() error {
		db, err := sql.Open(c.Context, cfg.str("db"), sql.Options{})
		if err != nil {
			return err
		}
		return errors.Join(change(db), db.Close())
	})
	if err != nil {
		return err
	}
	p, o, err := triggerOptions(c, cfg)
	if err == nil {
		err = p.WriteTriggers(c.Context, o)
	}
	switch {
	case errors.Is(err, postfix.ErrNoHeaderChecks), errors.Is(err, fs.ErrPermission):
		fmt.Fprintln(c.App.ErrWriter, "NOT YET IN FORCE: Postfix does not know the change. As root run: postseal postfix setup, then postfix reload")
	case err != nil:
		fmt.Fprintf(c.App.ErrWriter, "NOT YET IN FORCE: Postfix does not know the change (%v). As root run: postseal postfix setup, then postfix reload\n", err)
	}
	return nil
}

// triggerOptions returns the Postfix at our side, and what its table must have.
func triggerOptions(c *cli.Context, cfg *config) (*postfix.Instance, postfix.Options, error) {
	p, err := postfixInstance(c, cfg)
	if err != nil {
		return nil, postfix.Options{}, err
	}
	triggers, err := storedTriggers(c.Context, cfg)
	return p, postfix.Options{Triggers: triggers, Splitter: splitter(cfg)}, err
}

// storedTriggers returns all triggers: of the settings, and of the database where there
// is one.
func storedTriggers(ctx context.Context, cfg *config) (*policy.Triggers, error) {
	list, err := readTriggers(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return policy.NewTriggers(cfg.strs("secure-subject"), list, "")
}

// readTriggers reads the triggers with the rights of the database's owner, and keeps
// those of the caller.
func readTriggers(ctx context.Context, cfg *config) (list []*policy.Trigger, err error) {
	if _, err := os.Stat(cfg.dbPath()); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	err = sql.AsOwner(cfg.dbPath(), func() error {
		db, err := sql.Open(ctx, cfg.str("db"), sql.Options{})
		if err != nil {
			return err
		}
		list, err = db.Triggers(ctx)
		return errors.Join(err, db.Close())
	})
	return list, err
}

// listedTrigger is a trigger as --json prints it.
type listedTrigger struct {
	ID          int64              `json:"id"` // 0: of the setting secure-subject
	Kind        policy.TriggerKind `json:"kind"`
	Header      string             `json:"header,omitempty"`
	Pattern     string             `json:"pattern"`
	Sender      string             `json:"sender"`
	Requirement policy.Requirement `json:"requirement"`
	Remove      bool               `json:"remove,omitempty"`
	InForce     bool               `json:"in_force"` // Postfix's table has it, and it is not over
	Note        string             `json:"note,omitempty"`
	Until       string             `json:"until,omitempty"`
	Expired     bool               `json:"expired,omitempty"`
	Created     string             `json:"created,omitempty"`
	what        string
}

// listedTriggers are those of the settings, then those of the database.
func listedTriggers(c *cli.Context) ([]listedTrigger, error) {
	cfg, err := loadSettings(c, lookupEnv)
	if err != nil {
		return nil, err
	}
	stored, err := readTriggers(c.Context, cfg)
	if err != nil {
		return nil, err
	}
	var all []*policy.Trigger
	for _, s := range cfg.strs("secure-subject") {
		all = append(all, &policy.Trigger{Pattern: s, Sender: "*", Requirement: policy.Encryption})
	}
	all = append(all, stored...)
	p, err := postfixInstance(c, cfg)
	if err != nil {
		p = nil
	}
	list := []listedTrigger{}
	for _, t := range all {
		l := listedTrigger{ID: t.ID, Kind: t.Kind, Header: t.Header, Pattern: t.Pattern, Sender: t.Who(), Requirement: t.Requirement,
			Remove: t.Remove, Note: t.Note, Expired: !t.Active(time.Now()), what: t.What()}
		if t.Kind != policy.OnHeader {
			l.what = t.Kind.String() + " " + t.Pattern
		}
		if !t.Until.IsZero() {
			l.Until = t.Until.UTC().Format(time.RFC3339)
		}
		if !t.Created.IsZero() {
			l.Created = t.Created.UTC().Format(time.RFC3339)
		}
		one, err := policy.NewTriggers(nil, []*policy.Trigger{t}, "")
		if err != nil {
			return nil, err
		}
		if p != nil {
			missing, err := p.Lacking(c.Context, postfix.Options{Triggers: one, Splitter: splitter(cfg)})
			l.InForce = err == nil && len(missing) == 0 && !l.Expired
		}
		list = append(list, l)
	}
	return list, nil
}

func listTriggers(c *cli.Context) error {
	if err := wantArgs(c, 0, 0, "no argument"); err != nil {
		return err
	}
	all, err := listedTriggers(c)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c, all)
	}
	return printTriggers(c.App.Writer, all)
}

func printTriggers(out io.Writer, all []listedTrigger) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tWHAT\tSENDER\tREQUIRES\tREMOVE\tIN FORCE\tUNTIL\tNOTE")
	for _, l := range all {
		id, remove, force := strconv.FormatInt(l.ID, 10), "-", "yes"
		if l.ID == 0 {
			id = "setting"
		}
		if l.Remove {
			remove = "yes"
		}
		switch {
		case l.Expired:
			force = "no: over"
		case !l.InForce:
			force = "NO: run postseal postfix setup"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", id, l.what, l.Sender, l.Requirement, remove, force, l.Until, l.Note)
	}
	return w.Flush()
}

// findTrigger returns the trigger that an ID or flags name.
func findTrigger(c *cli.Context) (listedTrigger, error) {
	all, err := listedTriggers(c)
	if err != nil {
		return listedTrigger{}, err
	}
	if c.NArg() > 0 {
		if err := wantArgs(c, 1, 1, "one ID"); err != nil {
			return listedTrigger{}, err
		}
		id, err := strconv.ParseInt(c.Args().First(), 10, 64)
		if err != nil || id <= 0 {
			return listedTrigger{}, fmt.Errorf("%q is no id: see postseal trigger list", c.Args().First())
		}
		for _, l := range all {
			if l.ID == id {
				return l, nil
			}
		}
		return listedTrigger{}, fmt.Errorf("there is no trigger %d", id)
	}
	t, err := triggerOf(c)
	if err != nil {
		return listedTrigger{}, err
	}
	for _, l := range slices.Backward(all) { // the database's first
		if l.Kind == t.Kind && l.Header == t.Header && l.Pattern == t.Pattern && l.Sender == t.Who() {
			return l, nil
		}
	}
	return listedTrigger{}, fmt.Errorf("there is no trigger %s for %s", t.What(), t.Who())
}

func showTrigger(c *cli.Context) error {
	l, err := findTrigger(c)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c, l)
	}
	return printTriggers(c.App.Writer, []listedTrigger{l})
}

func removeTrigger(c *cli.Context) error {
	l, err := findTrigger(c)
	if err != nil {
		return err
	}
	if l.ID == 0 {
		return fmt.Errorf("%s is of the setting secure-subject: take it out there", l.Pattern)
	}
	return changeTriggers(c, func(db *sql.DB) error {
		removed, err := db.RemoveTrigger(c.Context, l.ID)
		if err == nil && !removed {
			err = fmt.Errorf("there is no trigger %d", l.ID)
		}
		return err
	})
}

// triggerColumns are the columns of an export, and of an import without a header line.
var triggerColumns = []string{"kind", "pattern", "requirement", "sender", "header", "remove", "until", "note"}

func exportTriggers(c *cli.Context) error {
	if err := wantArgs(c, 0, 0, "no argument"); err != nil {
		return err
	}
	all, err := listedTriggers(c)
	if err != nil {
		return err
	}
	w := csv.NewWriter(c.App.Writer)
	w.Write(triggerColumns)
	for _, l := range all {
		if l.ID == 0 {
			continue
		}
		remove := ""
		if l.Remove {
			remove = "yes"
		}
		w.Write([]string{l.Kind.String(), l.Pattern, l.Requirement.String(), l.Sender, l.Header, remove, l.Until, l.Note})
	}
	w.Flush()
	return w.Error()
}

func importTriggers(c *cli.Context) error {
	if err := wantArgs(c, 1, 1, "one CSV file, or - for standard input"); err != nil {
		return err
	}
	name := c.Args().First()
	in := c.App.Reader
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	list, err := readTriggerCSV(in)
	if err != nil {
		return fmt.Errorf("%s: nothing was imported:\n%w", name, err)
	}
	err = changeTriggers(c, func(db *sql.DB) error { return db.ImportTriggers(c.Context, list, c.Bool("replace")) })
	if err != nil {
		return fmt.Errorf("nothing was imported: %w", err)
	}
	fmt.Fprintf(c.App.Writer, "%d triggers imported\n", len(list))
	return nil
}

// readTriggerCSV reads triggers, and on errors returns all of them (the first 20), each
// with its line.
func readTriggerCSV(in io.Reader) ([]*policy.Trigger, error) {
	var list []*policy.Trigger
	err := eachCSV(in, triggerColumns, triggerColumns, func(field map[string]string, _ int) error {
		t, err := csvTrigger(field)
		if err == nil {
			for _, other := range list {
				if other.Kind == t.Kind && other.Header == t.Header && other.Pattern == t.Pattern && other.Sender == t.Sender {
					return fmt.Errorf("%s for %s stands there twice", t.What(), t.Who())
				}
			}
			list = append(list, t)
		}
		return err
	})
	if err == nil && list == nil {
		err = errors.New("the file holds no triggers")
	}
	return list, err
}

func csvTrigger(field map[string]string) (*policy.Trigger, error) {
	t := &policy.Trigger{Pattern: field["pattern"], Note: field["note"]}
	var err error
	if t.Kind, err = policy.ParseTriggerKind(field["kind"]); err != nil {
		return nil, err
	}
	switch t.Kind {
	case policy.OnHeader:
		t.Header, err = policy.CanonicalHeader(field["header"])
	case policy.OnSensitivity:
		t.Pattern, err = policy.CanonicalSensitivity(t.Pattern)
	}
	if err != nil {
		return nil, err
	}
	if t.Kind != policy.OnHeader && field["header"] != "" {
		return nil, fmt.Errorf("a header field goes with kind header, not %s", t.Kind)
	}
	sender := field["sender"]
	if sender == "" {
		sender = "*"
	}
	if t.Sender, err = policy.CanonicalPattern(policy.BySender, sender); err != nil {
		return nil, err
	}
	if t.Requirement, err = policy.ParseRequirement(field["requirement"]); err != nil {
		return nil, err
	}
	switch field["remove"] {
	case "", "no":
	case "yes":
		t.Remove = true
	default:
		return nil, fmt.Errorf("remove %.80q: want yes, or no", field["remove"])
	}
	if t.Until, err = parseUntil(field["until"]); err != nil {
		return nil, err
	}
	return t, t.Validate()
}

// watchTriggers logs it when Postfix's table does not have the triggers, and when it
// has them again: until then they are in force only for what comes to the splitter.
func watchTriggers(ctx context.Context, cfg *config, s *surroundings, rules func() *policy.Snapshot, every time.Duration, log *slog.Logger) error {
	if s.standalone() {
		return nil
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for stale := false; ; {
		missing, err := s.instance.Lacking(ctx, postfix.Options{Triggers: rules().Triggers(), Splitter: splitter(cfg)})
		switch now := err != nil || len(missing) > 0; {
		case ctx.Err() != nil:
			return nil
		case now && !stale:
			log.Error("triggers are not in force: Postfix's header_checks does not have them; run postseal postfix setup", "lines", len(missing), "error", err)
			stale = true
		case !now && stale:
			log.Info("triggers are in force")
			stale = false
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
