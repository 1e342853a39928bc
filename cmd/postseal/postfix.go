package main

import (
	"context"
	"errors"
	"fmt"
	"net/mail"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/postseal/postseal/contrib/postfix"
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/sql"
)

// postfixSettings are those that setup writes into Postfix's configuration.
var postfixSettings = append([]string{
	"policy-listen", "map-listen", "lmtp-listen", "lmtp-escrow-listen", "lmtp-tls-listen", "lmtp-decide-listen",
	"fallback-listen", "reinject-plain", "reinject-secure", "reinject-forced", "notice-relay",
	"notice-from", "secure-subject", "tls-floor", "own-domain", "max-message-size", "resolver", "trusted-resolver", "dane", "mta-sts", "tls-roots",
}, storeSettings...)

func postfixCommand() *cli.Command {
	dir := &cli.StringFlag{Name: "config-dir", Usage: "Postfix's configuration `DIR` (default: the setting postfix-config-dir)"}
	settings := settingFlags(postfixSettings...)
	return noun("postfix", "the Postfix at our side",
		verb("setup", "", "add what Postseal needs to main.cf and master.cf, and show it",
			with([]cli.Flag{dir, &cli.BoolFlag{Name: "dry-run", Usage: "show what would change, and change nothing"}}, settings), setupPostfix),
		verb("check", "", "look for ways by which required mail could leak, loop or get lost",
			with([]cli.Flag{dir, jsonFlag()}, settings), checkPostfix),
		verb("undo", "", "take back what setup did; refused while required mail is queued",
			with([]cli.Flag{dir,
				&cli.BoolFlag{Name: "hold", Usage: "put queued mail on hold instead of refusing"},
				&cli.BoolFlag{Name: "dry-run", Usage: "show what would change, and change nothing"},
			}, settings), undoPostfix),
	)
}

func postfixInstance(c *cli.Context, cfg *config) (*postfix.Instance, error) {
	dir := c.String("config-dir")
	if dir == "" {
		dir = cfg.str("postfix-config-dir")
	}
	if _, err := os.Stat(filepath.Join(dir, "main.cf")); err != nil {
		return nil, fmt.Errorf("no configuration of a Postfix in %s, name its directory by --config-dir: %w", dir, err)
	}
	return &postfix.Instance{ConfigDir: dir, MapDir: cfg.str("map-dir")}, nil
}

// postfixOptions translates our settings into what Postfix's configuration says.
func postfixOptions(ctx context.Context, c *cli.Context, cfg *config, p *postfix.Instance) (postfix.Options, error) {
	triggers, err := storedTriggers(ctx, cfg)
	if err != nil {
		return postfix.Options{}, err
	}
	from, err := noticeAddress(ctx, cfg, p)
	if err != nil {
		return postfix.Options{}, err
	}
	return postfix.Options{
		Policy:     postfixHop(cfg.str("policy-listen")),
		Maps:       postfixHop(cfg.str("map-listen")),
		Splitter:   splitter(cfg),
		Fallback:   postfixRelay(cfg.str("fallback-listen")),
		Plain:      cfg.str("reinject-plain"),
		Secure:     cfg.str("reinject-secure"),
		Forced:     cfg.str("reinject-forced"),
		Notice:     cfg.str("notice-relay"),
		Floor:      ">=" + tlsVersionName(cfg.str("tls-floor")),
		Triggers:   triggers,
		DANE:       cfg.str("dane") != "off",
		STS:        cfg.str("mta-sts") != "off",
		NoticeFrom: from,
		DryRun:     c.Bool("dry-run"),
		Out:        c.App.Writer,
	}, nil
}

// splitter returns the next-hops of the escrow transport.
func splitter(cfg *config) policy.Splitter {
	return policy.Splitter{
		Decide:     postfixHop(cfg.str("lmtp-decide-listen")),
		Encryption: postfixHop(cfg.str("lmtp-listen")),
		Forced:     postfixHop(cfg.str("lmtp-tls-listen")),
		Escrow:     postfixHop(cfg.str("lmtp-escrow-listen")),
	}
}

// tlsVersionName returns Postfix's name of a TLS version: TLSv1, TLSv1.2.
func tlsVersionName(v string) string { return strings.TrimSuffix("TLSv"+v, ".0") }

func setupPostfix(c *cli.Context) error {
	if err := wantArgs(c, 0, 0, "no argument"); err != nil {
		return err
	}
	cfg, err := loadSettings(c, lookupEnv)
	if err != nil {
		return err
	}
	p, err := postfixInstance(c, cfg)
	if err != nil {
		return err
	}
	o, err := postfixOptions(c.Context, c, cfg, p)
	if err != nil {
		return err
	}
	if err := p.Setup(c.Context, o); err != nil {
		return err
	}
	if !o.DryRun {
		fmt.Fprintln(c.App.Writer, "now run: postfix reload (a new port in master.cf is opened by it), then: postseal postfix check")
	}
	return nil
}

func undoPostfix(c *cli.Context) error {
	if err := wantArgs(c, 0, 0, "no argument"); err != nil {
		return err
	}
	cfg, err := loadSettings(c, lookupEnv)
	if err != nil {
		return err
	}
	// Every queued message counts as required: what a login or a subject
	// required can't be told from the queue.
	p, err := postfixInstance(c, cfg)
	if err != nil {
		return err
	}
	return p.Undo(c.Context, postfix.UndoOptions{Hold: c.Bool("hold"), DryRun: c.Bool("dry-run"), Out: c.App.Writer})
}

// errFindings makes check exit 1 after it has printed what it found.
var errFindings = errors.New("postfix check: there are ways to leak, loop or lose mail, see above")

func checkPostfix(c *cli.Context) error {
	if err := wantArgs(c, 0, 0, "no argument"); err != nil {
		return err
	}
	cfg, err := loadSettings(c, lookupEnv)
	if err != nil {
		return err
	}
	p, err := postfixInstance(c, cfg)
	if err != nil {
		return err
	}
	o, err := postfixOptions(c.Context, c, cfg, p)
	if err != nil {
		return err
	}
	if err := sql.DropToOwner(cfg.dbPath()); err != nil {
		return err
	}
	db, err := sql.Open(c.Context, cfg.str("db"), sql.Options{})
	if err != nil {
		return err
	}
	defer db.Close()
	rules, version, err := db.Rules(c.Context)
	if err != nil {
		return err
	}
	snapshot, err := policy.NewSnapshot(version, rules, delimiters(c.Context, cfg))
	if err != nil {
		return err
	}
	check := postfix.CheckOptions{Options: o, Rules: snapshot}
	if own := cfg.strs("own-domain"); len(own) > 0 {
		check.Own = postfix.NewStaticDomains(own)
	}
	prober, err := newProber(cfg, nil, nil, nil)
	if err != nil {
		return err
	}
	check.MailHosts = prober.MailHosts
	found, err := p.Check(c.Context, check)
	if err != nil {
		return err
	}
	if f, ok, err := checkSizeLimit(c.Context, p, cfg); err != nil {
		return err
	} else if ok {
		found = append([]postfix.Finding{f}, found...)
	}
	trust, err := checkResolvers(c.Context, cfg, p, prober)
	if err != nil {
		return err
	}
	if len(trust) > 0 && found[0].Severity == postfix.OK {
		found = nil
	}
	found = append(found, trust...)
	bad := false
	for _, f := range found {
		bad = bad || f.Severity == postfix.Leak || f.Severity == postfix.Loop || f.Severity == postfix.Lose
	}
	if c.Bool("json") {
		if err := printJSON(c, found); err != nil {
			return err
		}
	} else {
		printFindings(c, found)
	}
	if bad {
		return errFindings
	}
	return nil
}

// checkSizeLimit finds a Postfix that accepts larger messages than Postseal takes.
func checkSizeLimit(ctx context.Context, p *postfix.Instance, cfg *config) (postfix.Finding, bool, error) {
	v, err := p.Param(ctx, "message_size_limit")
	if err != nil {
		return postfix.Finding{}, false, err
	}
	limit, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return postfix.Finding{}, false, fmt.Errorf("message_size_limit %q: %w", v, err)
	}
	// Postfix adds header lines to what it counted.
	if limit != 0 && limit+(64<<10) <= cfg.size("max-message-size") {
		return postfix.Finding{}, false, nil
	}
	return postfix.Finding{
		Severity: postfix.Lose, ID: "size-limit", Where: "main.cf: message_size_limit",
		What: fmt.Sprintf("Postfix takes messages of up to %s bytes (0: any), Postseal up to %d: a larger one can't be sealed", v, cfg.size("max-message-size")),
		Fix:  "raise max-message-size, or lower message_size_limit",
	}, true, nil
}

func printFindings(c *cli.Context, found []postfix.Finding) {
	w := tabwriter.NewWriter(c.App.Writer, 0, 8, 2, ' ', 0)
	for _, f := range found {
		fmt.Fprintf(w, "%s\t%s\t%s\n", strings.ToUpper(string(f.Severity)), f.Where, f.What)
		if f.Fix != "" {
			fmt.Fprintf(w, "\t\tdo: %s\n", f.Fix)
		}
	}
	w.Flush()
}

// noticeFrom returns the From of notices, "Name <addr>" or an address: the
// setting, else postseal@ of Postfix's myorigin.
func noticeFrom(ctx context.Context, cfg *config) (string, error) {
	if from := cfg.str("notice-from"); from != "" {
		if _, err := mail.ParseAddress(from); err != nil {
			return "", fmt.Errorf("notice-from %q: want ADDRESS or NAME <ADDRESS>", from)
		}
		return from, nil
	}
	p := &postfix.Instance{ConfigDir: cfg.str("postfix-config-dir"), MapDir: cfg.str("map-dir")}
	origin, err := p.Origin(ctx)
	if err != nil {
		return "", fmt.Errorf("set --notice-from, since Postfix can't be asked for its domain: %w", err)
	}
	return "postseal@" + origin, nil
}

// noticeAddress returns the address in the From of notices.
func noticeAddress(ctx context.Context, cfg *config, p *postfix.Instance) (string, error) {
	if cfg.str("notice-from") == "" {
		origin, err := p.Origin(ctx)
		if err != nil {
			return "", err
		}
		return "postseal@" + origin, nil
	}
	from, err := noticeFrom(ctx, cfg)
	if err != nil {
		return "", err
	}
	a, err := mail.ParseAddress(from)
	if err != nil {
		return "", err
	}
	return a.Address, nil
}

// delimiters returns Postfix's recipient_delimiter: the setting, else asked; ""
// where Postfix can't be asked, which covers least.
func delimiters(ctx context.Context, cfg *config) policy.Delimiters {
	if d := cfg.str("recipient-delimiter"); d != "" {
		return policy.Delimiters(d)
	}
	p := &postfix.Instance{ConfigDir: cfg.str("postfix-config-dir"), MapDir: cfg.str("map-dir")}
	if postfixThere(ctx, cfg, p) != nil {
		return ""
	}
	d, err := p.Delimiters(ctx)
	if err != nil {
		return ""
	}
	return d
}
