package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/sql"
)

func dbBackup() *cli.Command {
	return verb("backup", "FILE", "copy the database to a new file, whole and checked, while the server runs", settingFlags(storeSettings...), func(c *cli.Context) error {
		if err := wantArgs(c, 1, 1, "one FILE, which must not exist yet"); err != nil {
			return err
		}
		cfg, err := loadSettings(c, lookupEnv)
		if err != nil {
			return err
		}
		file, err := filepath.Abs(c.Args().First())
		if err != nil {
			return err
		}
		if err := sql.DropToOwner(cfg.dbPath()); err != nil {
			return err
		}
		version, err := sql.Backup(c.Context, cfg.str("db"), file)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.App.Writer, "%s: checked, version %d\nIt opens no message without the key file, which is to be kept elsewhere.\n", file, version)
		return nil
	})
}

func dbRestore() *cli.Command {
	return verb("restore", "FILE", "put a backup in the database's place, which is kept aside; the server must be stopped", with([]cli.Flag{
		&cli.BoolFlag{Name: "discard", Usage: "even if mail that only the present database holds is lost"},
	}, settingFlags(storeSettings...)), func(c *cli.Context) error {
		if err := wantArgs(c, 1, 1, "one FILE, as db backup wrote it"); err != nil {
			return err
		}
		cfg, err := loadSettings(c, lookupEnv)
		if err != nil {
			return err
		}
		file := c.Args().First()
		if _, err := os.Stat(file + "-wal"); err == nil {
			return fmt.Errorf("%s has a journal (-wal) beside it: it is the copy of a database in use, not a backup of postseal db backup", file)
		}
		f, err := os.Open(file) // before the drop of rights: it may be root's
		if err != nil {
			return err
		}
		defer f.Close()
		keys, keysErr := escrow.LoadKeys(cfg.str("key-file")) // likewise
		if err := sql.DropToOwner(cfg.dbPath()); err != nil {
			return err
		}
		r, err := sql.Restore(c.Context, cfg.str("db"), f, sql.RestoreOptions{Discard: c.Bool("discard")})
		var newer *sql.NewerMailError
		if errors.As(err, &newer) {
			return fmt.Errorf("%w; nothing was changed; --discard restores all the same", err)
		}
		if err != nil {
			return err
		}
		tellRestored(c, cfg, file, r)
		if keysErr == nil {
			keysErr = tellKeys(c, cfg, keys)
		}
		if keysErr != nil {
			fmt.Fprintf(c.App.Writer, "WARNING: it could not be found out whether the key file goes with it: %v\n", keysErr)
		}
		return nil
	})
}

// tellKeys warns of a key file that does not go with what was restored.
func tellKeys(c *cli.Context, cfg *config, keys *escrow.Keys) error {
	db, err := sql.Open(c.Context, cfg.str("db"), sql.Options{})
	if err != nil {
		return err
	}
	defer db.Close()
	f, err := lookAtKeys(c.Context, keys, db, true)
	if err != nil {
		return err
	}
	if err := f.unusable(); err != nil {
		fmt.Fprintf(c.App.Writer, "WARNING: %v\n", err)
	}
	if text := f.missing(); text != "" {
		fmt.Fprintf(c.App.Writer, "WARNING: %s. Put the key file of the time of the backup in its place before the server starts\n", text)
	}
	return nil
}

func tellRestored(c *cli.Context, cfg *config, file string, r *sql.Restored) {
	w := c.App.Writer
	fmt.Fprintf(w, "%s is restored from %s (version %d)\n", cfg.dbPath(), file, r.Version)
	if r.Aside != "" {
		fmt.Fprintf(w, "The database that was there is now %s\n", r.Aside)
	}
	if r.Ended > 0 {
		fmt.Fprintf(w, "%d recipients' messages were retracted or had expired since the backup: they are over here too\n", r.Ended)
	}
	if r.Holds > 0 {
		fmt.Fprintf(w, "%d messages were put on legal hold since the backup: they are here too\n", r.Holds)
	}
	if r.Revoked > 0 {
		fmt.Fprintf(w, "%d accounts, devices and keys were taken away since the backup: they are here too\n", r.Revoked)
	}
	if r.Lost > 0 {
		fmt.Fprintf(w, "WARNING: %d messages or replies are in the old database alone\n", r.Lost)
	}
	if r.Unread != "" {
		fmt.Fprintf(w, "WARNING: the old database could not be read (%s): what was retracted since the backup can be read again, see postseal escrow list\n", r.Unread)
	}
	if r.Aside == "" {
		fmt.Fprintln(w, "There was no database before: what was retracted since the backup can be read again, see postseal escrow list")
	}
	if r.Rules || r.Unread != "" || r.Aside == "" {
		fmt.Fprintln(w, "WARNING: the rules are those of the backup: look at postseal domain list and postseal sender list before the server starts")
	}
}
