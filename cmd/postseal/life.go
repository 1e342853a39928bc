package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postseal/postseal/escrow"
)

func escrowHold(store []cli.Flag) *cli.Command {
	return verb("hold", "ID", "keep a message's content and keys whatever ends, until it is released; recipients notice nothing", with([]cli.Flag{noteFlag()}, store), func(c *cli.Context) error {
		return changeHold(c, (*escrow.Vault).Hold, "on hold: it is not purged, its keys are kept; recipients can read it as long as before")
	})
}

func escrowRelease(store []cli.Flag) *cli.Command {
	return verb("release", "ID", "end a hold; what has ended meanwhile is purged at once", with([]cli.Flag{noteFlag()}, store), func(c *cli.Context) error {
		return changeHold(c, (*escrow.Vault).Release, "released")
	})
}

func noteFlag() cli.Flag {
	return &cli.StringFlag{Name: "note", Usage: "why (needed; shown in listings and in the audit log)"}
}

func changeHold(c *cli.Context, do func(*escrow.Vault, context.Context, string, string) error, done string) error {
	if err := wantArgs(c, 1, 1, "one ID, as escrow list shows it"); err != nil {
		return err
	}
	if c.String("note") == "" {
		return errors.New("--note WHY is needed")
	}
	_, db, vault, err := openVault(c)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := explainLife(c.Args().First(), do(vault, c.Context, c.Args().First(), c.String("note"))); err != nil {
		return err
	}
	fmt.Fprintln(c.App.Writer, done)
	return nil
}

// explainLife says of which message an error of the vault is.
func explainLife(id string, err error) error {
	switch {
	case errors.Is(err, escrow.ErrUnknown):
		return fmt.Errorf("there is no message %q; see postseal escrow list", id)
	case errors.Is(err, escrow.ErrOver):
		return fmt.Errorf("message %s is over: its content is deleted", id)
	case errors.Is(err, escrow.ErrNotOver):
		return fmt.Errorf("message %s can still be read: postseal escrow retract it first", id)
	case errors.Is(err, escrow.ErrHeld):
		return fmt.Errorf("message %s is on hold; postseal escrow release ends that", id)
	case errors.Is(err, escrow.ErrNotHeld):
		return fmt.Errorf("message %s is not on hold", id)
	}
	return err
}

// purgePatience is how long purge waits for who reads an older state of the database.
const purgePatience = 30 * time.Second

func escrowPurge(store []cli.Flag) *cli.Command {
	return verb("purge", "", "delete at once what is left of messages that have ended, in the journal too", with([]cli.Flag{
		&cli.StringFlag{Name: "item", Usage: "also forget this message: recipients, dates, events (ID; it must have ended)"},
		&cli.StringFlag{Name: "before", Usage: "also forget the messages that ended before `DATE` (YYYY-MM-DD)"},
	}, store), func(c *cli.Context) error {
		if err := wantArgs(c, 0, 0, "no argument"); err != nil {
			return err
		}
		var before time.Time
		if s := c.String("before"); s != "" {
			var err error
			if before, err = time.Parse(time.DateOnly, s); err != nil {
				return fmt.Errorf("--before %q: want a date such as 2026-11-27", s)
			}
		}
		_, db, vault, err := openVault(c)
		if err != nil {
			return err
		}
		defer db.Close()
		n, clean, err := vault.Purge(c.Context, c.String("item"), before, purgePatience)
		if err := explainLife(c.String("item"), err); err != nil {
			return err
		}
		if !clean {
			return errors.New("the content is deleted, but the database's journal still holds it, since another process (a backup?) reads: postseal serve clears it then, or run this again")
		}
		fmt.Fprintf(c.App.Writer, "no content of ended messages is left; %d messages were forgotten\n", n)
		return nil
	})
}
