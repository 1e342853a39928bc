package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/urfave/cli/v2"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/sql"
)

func escrowCommand() *cli.Command {
	store := settingFlags(append([]string{"portal-url", "notice-from", "own-domain", "message-lifetime", "sender-mail", "expiring-before"}, storeSettings...)...)
	to := &cli.StringFlag{Name: "recipient", Usage: "only this recipient's copy"}
	return noun("escrow", "the sealed messages",
		escrowSend(),
		verb("list", "", "list them, one line a recipient", with([]cli.Flag{jsonFlag(), to,
			&cli.StringFlag{Name: "sender", Usage: "only from this sender"},
			&cli.StringFlag{Name: "state", Usage: "only held, read, expired or retracted"},
		}, store), listEscrow),
		verb("show", "ID", "show one message's recipients", with([]cli.Flag{jsonFlag()}, store), showEscrow),
		verb("retract", "ID", "take a message back: its keys are deleted, nobody can read it any more", with([]cli.Flag{to}, store), func(c *cli.Context) error {
			return changeEscrow(c, (*escrow.Vault).Retract, func() string { return "retracted" })
		}),
		verb("extend", "ID", "let a message be read for longer, from now on; its links stay as they are", with([]cli.Flag{to,
			&cli.StringFlag{Name: "for", Usage: "for `DURATION` from now on (default: message-lifetime)"},
		}, store), func(c *cli.Context) error {
			var lifetime time.Duration
			if s := c.String("for"); s != "" {
				var err error
				if lifetime, err = parseDuration(s); err == nil {
					err = checkLifetime(s)
				}
				if err != nil {
					return fmt.Errorf("--for: %w", err)
				}
			}
			var until time.Time
			return changeEscrow(c, func(v *escrow.Vault, ctx context.Context, id, recipient string) (err error) {
				until, err = v.Extend(ctx, id, recipient, lifetime)
				return err
			}, func() string { return "can be read until " + until.UTC().Format(time.RFC3339) })
		}),
		recoverCommand(),
		verb("resend", "ID", "send the notice anew, with a new link (recoverable messages); the old link is dead", with([]cli.Flag{to}, store), func(c *cli.Context) error {
			return changeEscrow(c, (*escrow.Vault).Resend, func() string { return "the notice is queued" })
		}),
		escrowHold(store),
		escrowRelease(store),
		escrowPurge(store),
	)
}

// openVault opens the store, the keys and the vault, for commands.
func openVault(c *cli.Context) (*config, *sql.DB, *escrow.Vault, error) {
	cfg, err := loadSettings(c, lookupEnv)
	if err != nil {
		return nil, nil, nil, err
	}
	keys, err := escrow.LoadKeys(cfg.str("key-file")) // before the drop of rights: it may be root's
	if err != nil {
		return nil, nil, nil, err
	}
	from, err := noticeFrom(c.Context, cfg)
	if err != nil {
		return nil, nil, nil, err
	}
	if err := sql.DropToOwner(cfg.dbPath()); err != nil {
		return nil, nil, nil, err
	}
	db, err := sql.Open(c.Context, cfg.str("db"), sql.Options{})
	if err != nil {
		return nil, nil, nil, err
	}
	log := slog.New(slog.NewTextHandler(c.App.ErrWriter, nil))
	vault, err := newVault(cfg, db, keys, from, log, nil, nil, branded(cfg, log))
	if err != nil {
		db.Close()
		return nil, nil, nil, err
	}
	return cfg, db, vault, nil
}

// newVault makes the vault; more, where set, adds what only serve has.
func newVault(cfg *config, db *sql.DB, keys *escrow.Keys, from string, log *slog.Logger, reg prometheus.Registerer, pins *escrow.Pins, more func(*escrow.Options)) (*escrow.Vault, error) {
	o := escrow.Options{
		Store: db, Keys: keys, Pins: pins, Lifetime: cfg.duration("message-lifetime"), Quota: quotas(cfg),
		PortalURL: cfg.str("portal-url"), NoticeFrom: from, Language: cfg.str("language"),
		OwnDomain: ownDomains(cfg).Own, SenderMail: senderMail(cfg), ExpiringBefore: cfg.duration("expiring-before"),
		Accounts: escrow.AccountOptions{
			Verify: cfg.str("verify"), DeviceLifetime: cfg.duration("device-lifetime"), MailboxReset: cfg.str("account-reset") == "mailbox",
		},
		Log: log, Registerer: reg, Crash: crash,
	}
	if more != nil {
		more(&o)
	}
	return escrow.NewVault(o)
}

func quotas(cfg *config) escrow.Quota {
	total, _ := parseQuota(cfg.str("quota-total")) // loadSettings has checked them
	domain, _ := parseQuota(cfg.str("quota-domain"))
	return escrow.Quota{Total: total, Domain: domain}
}

// senderMail returns what senders get a mail of: nothing where it is none.
func senderMail(cfg *config) []string {
	list := slices.DeleteFunc(slices.Clone(cfg.strs("sender-mail")), func(s string) bool { return s == "none" })
	if list == nil {
		list = []string{}
	}
	return list
}

func listEscrow(c *cli.Context) error {
	if err := wantArgs(c, 0, 0, "no argument"); err != nil {
		return err
	}
	_, db, vault, err := openVault(c)
	if err != nil {
		return err
	}
	defer db.Close()
	all, err := vault.List(c.Context, escrow.Filter{Recipient: c.String("recipient"), Sender: c.String("sender"), State: c.String("state")})
	if err != nil {
		return err
	}
	return printEscrow(c, all)
}

func showEscrow(c *cli.Context) error {
	if err := wantArgs(c, 1, 1, "one ID, as escrow list shows it"); err != nil {
		return err
	}
	_, db, vault, err := openVault(c)
	if err != nil {
		return err
	}
	defer db.Close()
	all, err := vault.Show(c.Context, c.Args().First())
	if errors.Is(err, escrow.ErrUnknown) {
		return fmt.Errorf("there is no message %q; see postseal escrow list", c.Args().First())
	}
	if err != nil {
		return err
	}
	return printEscrow(c, all)
}

func printEscrow(c *cli.Context, all []escrow.Listed) error {
	if all == nil {
		all = []escrow.Listed{}
	}
	if c.Bool("json") {
		return printJSON(c, all)
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tFROM\tTO\tSTATE\tNOTICE\tCREATED\tEXPIRES\tBYTES\tHOLD")
	for _, l := range all {
		hold := "-"
		if l.Hold != nil {
			hold = l.Hold.Note
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", l.ID, orNull(l.Sender), l.Recipient, l.State, l.Notice,
			l.Created.UTC().Format(time.RFC3339), l.Expires.UTC().Format(time.RFC3339), l.Size, hold)
	}
	return w.Flush()
}

func orNull(sender string) string {
	if sender == "" {
		return "<>"
	}
	return sender
}

func changeEscrow(c *cli.Context, do func(*escrow.Vault, context.Context, string, string) error, done func() string) error {
	if err := wantArgs(c, 1, 1, "one ID, as escrow list shows it"); err != nil {
		return err
	}
	_, db, vault, err := openVault(c)
	if err != nil {
		return err
	}
	defer db.Close()
	err = do(vault, c.Context, c.Args().First(), c.String("recipient"))
	if errors.Is(err, escrow.ErrUnknown) {
		what := fmt.Sprintf("message %q", c.Args().First())
		if to := c.String("recipient"); to != "" {
			what += " for " + to
		}
		return fmt.Errorf("there is no %s that could still be read; see postseal escrow list", what)
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(c.App.Writer, done())
	return nil
}
