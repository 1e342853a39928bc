package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/policyd/policy"
)

func auditCommand() *cli.Command {
	store := settingFlags(storeSettings...)
	return noun("audit", "the log of what was decided, sealed, read and changed",
		verb("list", "", "list entries, the newest first", with([]cli.Flag{
			&cli.BoolFlag{Name: "json", Usage: "print JSON, a line each"},
			&cli.StringSliceFlag{Name: "kind", Usage: "only entries of this `KIND`; repeatable"},
			&cli.StringFlag{Name: "item", Usage: "only about the sealed message of this `ID`"},
			&cli.StringFlag{Name: "recipient", Usage: "only about this recipient's `ADDRESS`"},
			&cli.StringFlag{Name: "sender", Usage: "only about this sender's `ADDRESS`"},
			&cli.StringFlag{Name: "actor", Usage: "only what was done by `WHOM`: a kind of actor, a name or an IP address"},
			&cli.StringFlag{Name: "since", Usage: "only from this `TIME` on: YYYY-MM-DD, or RFC 3339"},
			&cli.StringFlag{Name: "until", Usage: "only before this `TIME`"},
			&cli.Int64Flag{Name: "before", Usage: "only entries below this `NUMBER`: the next page"},
			&cli.BoolFlag{Name: "oldest", Usage: "the oldest first"},
			&cli.IntFlag{Name: "limit", Usage: "at most so many; 0: all", Value: 100},
		}, store), listAudit),
		verb("export", "", "write all entries and checkpoints as JSON, a line each", with([]cli.Flag{
			&cli.StringFlag{Name: "output", Usage: "to this `FILE`, which must not exist (default: standard output)"},
		}, store), exportAudit),
		verb("verify", "", "check that no entry was changed, put in, taken out or cut off", with([]cli.Flag{jsonFlag(),
			&cli.StringFlag{Name: "file", Usage: "check this `EXPORT` and not the database"},
			&cli.StringSliceFlag{Name: "checkpoints", Usage: "hold it against the checkpoints in this `FILE` too, or in a log of postseal serve; repeatable"},
			&cli.StringFlag{Name: "public-key", Usage: "the `KEY` that audit key has printed (default: that of the key file)"},
		}, store), verifyAudit),
		verb("checkpoint", "", "make a signed checkpoint now and print it", store, checkpointAudit),
		verb("key", "", "print the public key of the checkpoints", store, func(c *cli.Context) error {
			if err := wantArgs(c, 0, 0, "no argument"); err != nil {
				return err
			}
			cfg, err := loadSettings(c, lookupEnv)
			if err != nil {
				return err
			}
			keys, err := escrow.LoadKeys(cfg.str("key-file"))
			if err != nil {
				return err
			}
			fmt.Fprintln(c.App.Writer, audit.FormatKey(keys.AuditKey().Public().(ed25519.PublicKey)))
			return nil
		}),
	)
}

// byCommand returns a context in which the command line acts: for the Unix user who has
// started the program, and for root also who became root by sudo(8).
func byCommand(ctx context.Context) context.Context {
	name := "uid " + strconv.Itoa(os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if by := os.Getenv("SUDO_USER"); by != "" && os.Getuid() == 0 {
		name += " by sudo of " + by
	}
	return audit.With(ctx, audit.Actor{Kind: audit.ActorCommand, Name: name})
}

func listAudit(c *cli.Context) error {
	if err := wantArgs(c, 0, 0, "no argument"); err != nil {
		return err
	}
	f := audit.Filter{
		Kinds: c.StringSlice("kind"), Item: c.String("item"), Actor: c.String("actor"),
		Before: c.Int64("before"), Oldest: c.Bool("oldest"), Limit: c.Int("limit"),
	}
	for _, k := range f.Kinds {
		if !slices.Contains(audit.Kinds, k) {
			return fmt.Errorf("--kind %s: there is no such kind; see docs/audit.md", k)
		}
	}
	for name, to := range map[string]*string{"recipient": &f.Recipient, "sender": &f.Sender} {
		if s := c.String(name); s != "" {
			a, err := policy.ParseAddress(s)
			if err != nil {
				return fmt.Errorf("--%s: %w", name, err)
			}
			*to = a.Folded().String()
		}
	}
	for name, to := range map[string]*time.Time{"since": &f.Since, "until": &f.Until} {
		if s := c.String(name); s != "" {
			t, err := parseTime(s)
			if err != nil {
				return fmt.Errorf("--%s: %w", name, err)
			}
			*to = t
		}
	}
	_, db, err := openStore(c)
	if err != nil {
		return err
	}
	defer db.Close()
	out := bufio.NewWriter(c.App.Writer)
	show := auditTable(out)
	if c.Bool("json") {
		show = jsonLines(out)
	}
	for r, err := range db.AuditEach(c.Context, f) {
		if err == nil {
			err = show(r)
		}
		if err != nil {
			return err
		}
	}
	if err := show(nil); err != nil {
		return err
	}
	return out.Flush()
}

// parseTime reads a day, which begins at midnight UTC, or a time.
func parseTime(s string) (time.Time, error) {
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("%q is no time: want YYYY-MM-DD or RFC 3339, such as 2026-11-27T09:00:00Z", s)
	}
	return t, nil
}

// jsonLines returns a function that writes records as JSON, a line each.
func jsonLines(w io.Writer) func(*audit.Record) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return func(r *audit.Record) error {
		if r == nil {
			return nil
		}
		return enc.Encode(r)
	}
}

// auditTable returns a function that writes records as a table, which nil ends.
func auditTable(out io.Writer) func(*audit.Record) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NUMBER\tTIME\tKIND\tBY\tITEM\tFROM\tTO\tDETAILS")
	return func(r *audit.Record) error {
		if r == nil {
			return w.Flush()
		}
		by := strings.Join(strings.Fields(r.Actor.Kind+" "+r.Actor.Name+" "+r.Actor.Client), " ")
		var details []string
		for _, k := range slices.Sorted(maps.Keys(r.Details)) {
			details = append(details, k+"="+r.Details[k])
		}
		_, err := fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Seq, r.At.Format(time.RFC3339), r.Kind, by, r.Item, r.Sender, r.Recipient, strings.Join(details, " "))
		return err
	}
}

func exportAudit(c *cli.Context) (err error) {
	if err := wantArgs(c, 0, 0, "no argument"); err != nil {
		return err
	}
	_, db, err := openStore(c)
	if err != nil {
		return err
	}
	defer db.Close()
	w := c.App.Writer
	if path := c.String("output"); path != "" {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		w = f
	}
	out := bufio.NewWriterSize(w, 1<<16)
	// Checkpoints before entries: what is appended meanwhile does no harm.
	marks, err := db.AuditCheckpoints(c.Context)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(out)
	for _, m := range marks {
		if err := enc.Encode(m); err != nil {
			return err
		}
	}
	show := jsonLines(out)
	for r, err := range db.AuditEach(c.Context, audit.Filter{Oldest: true}) {
		if err == nil {
			err = show(r)
		}
		if err != nil {
			return err
		}
	}
	return out.Flush()
}

// auditPublicKey returns the key that checkpoints must be signed by.
func auditPublicKey(c *cli.Context, cfg *config) (ed25519.PublicKey, error) {
	if s := c.String("public-key"); s != "" {
		k, err := audit.ParseKey(s)
		if err != nil {
			return nil, fmt.Errorf("--public-key: %w", err)
		}
		return k, nil
	}
	keys, err := escrow.LoadKeys(cfg.str("key-file"))
	if err != nil {
		return nil, fmt.Errorf("without --public-key the key file is needed: %w", err)
	}
	return keys.AuditKey().Public().(ed25519.PublicKey), nil
}

func verifyAudit(c *cli.Context) error {
	if err := wantArgs(c, 0, 0, "no argument; an export is named by --file"); err != nil {
		return err
	}
	cfg, err := loadSettings(c, lookupEnv)
	if err != nil {
		return err
	}
	key, err := auditPublicKey(c, cfg)
	if err != nil {
		return err
	}
	var more []audit.Checkpoint
	for _, path := range c.StringSlice("checkpoints") {
		list, err := checkpointsIn(path)
		if err != nil {
			return fmt.Errorf("--checkpoints %s: %w", path, err)
		}
		more = append(more, list...)
	}
	var report audit.Report
	if path := c.String("file"); path != "" {
		if report, err = verifyExport(path, key, more); err != nil {
			return fmt.Errorf("--file %s: %w", path, err)
		}
	} else {
		_, db, err := openStore(c)
		if err != nil {
			return err
		}
		defer db.Close()
		if report, err = db.VerifyAudit(c.Context, key, more); err != nil {
			return err
		}
	}
	if c.Bool("json") {
		if err := printJSON(c, report); err != nil {
			return err
		}
	} else {
		printReport(c.App.Writer, &report)
	}
	if !report.OK() {
		return errors.New("the audit log is not as it was written")
	}
	return nil
}

func checkpointsIn(path string) ([]audit.Checkpoint, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := audit.ReadCheckpoints(f)
	if err == nil && len(list) == 0 {
		err = errors.New("no checkpoint is in it")
	}
	return list, err
}

// verifyExport checks an export. Its checkpoints are read first, wherever they stand.
func verifyExport(path string, key ed25519.PublicKey, more []audit.Checkpoint) (audit.Report, error) {
	f, err := os.Open(path)
	if err != nil {
		return audit.Report{}, err
	}
	defer f.Close()
	err = audit.ReadExport(f, func(*audit.Record) error { return nil }, func(c audit.Checkpoint) error {
		more = append(more, c)
		return nil
	})
	if err != nil {
		return audit.Report{}, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return audit.Report{}, err
	}
	v := audit.NewVerifier(key, more)
	err = audit.ReadExport(f, func(r *audit.Record) error { v.Next(r); return nil }, func(audit.Checkpoint) error { return nil })
	return v.Close(), err
}

func printReport(w io.Writer, r *audit.Report) {
	if r.Entries == 0 {
		fmt.Fprintln(w, "no entries")
	} else {
		fmt.Fprintf(w, "%d entries, %d to %d, from %s to %s\n", r.Entries, r.First, r.Last, r.Since.Format(time.RFC3339), r.Until.Format(time.RFC3339))
	}
	fmt.Fprintf(w, "%d checkpoints agree", r.Checkpoints)
	if r.Pruned > 0 {
		fmt.Fprintf(w, ", %d are of entries pruned since", r.Pruned)
	}
	fmt.Fprintf(w, "\nlast hash %s\n", r.LastHash)
	for _, p := range r.Problems {
		fmt.Fprintln(w, "WRONG:", p.Why)
	}
	if r.More > 0 {
		fmt.Fprintf(w, "WRONG: and %d more\n", r.More)
	}
	if r.OK() {
		fmt.Fprintln(w, "nothing was changed, put in, taken out or cut off")
	}
}

func checkpointAudit(c *cli.Context) error {
	if err := wantArgs(c, 0, 0, "no argument"); err != nil {
		return err
	}
	keys, db, err := openKeys(c)
	if err != nil {
		return err
	}
	defer db.Close()
	mark, err := db.AuditCheckpoint(c.Context, audit.Asked, keys.AuditKey())
	if err != nil {
		return err
	}
	return json.NewEncoder(c.App.Writer).Encode(mark)
}
