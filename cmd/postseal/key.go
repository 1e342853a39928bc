package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/sql"
)

func keyCommand() *cli.Command {
	store := settingFlags(storeSettings...)
	return noun("key", "the server's keys, and recovery keys",
		verb("new", "", "make a new key file; it must not exist yet", store, newKey),
		verb("list", "", "list the keys, what is under each, and who has them", with([]cli.Flag{jsonFlag()}, store), listKeys),
		verb("rotate", "", "put a new key in the place of the old one, and all that is kept under it, while the server runs; goes on where it was cut short", with([]cli.Flag{
			&cli.BoolFlag{Name: "json", Usage: "progress as JSON lines"},
			&cli.BoolFlag{Name: "keep-old", Usage: "leave the key file of before beside the new one, .old: backups from before need it"},
			&cli.BoolFlag{Name: "leave-damaged", Usage: "take the old key out though some things open under no key"},
		}, store), rotateKey),
		verb("recovery-new", "", "make a recovery key: the private half is printed, this once, and kept nowhere", with([]cli.Flag{
			&cli.StringFlag{Name: "note", Usage: "where the private half is kept, or by whom"},
		}, store), newRecovery),
		verb("recovery-list", "", "list the recovery keys", with([]cli.Flag{jsonFlag()}, store), listRecovery),
		verb("recovery-retire", "ID", "seal no new message for a recovery key; those that are keep it", store, retireRecovery),
	)
}

func newKey(c *cli.Context) error {
	if err := wantArgs(c, 0, 0, "no argument; the file is named by --key-file"); err != nil {
		return err
	}
	cfg, err := loadSettings(c, lookupEnv)
	if err != nil {
		return err
	}
	path := cfg.str("key-file")
	if err := escrow.NewKeyFile(path); err != nil {
		return err
	}
	fmt.Fprintf(c.App.Writer, "new keys in %s\nKeep a copy in a safe place apart from the database's backups: without this file no sealed message can be opened.\n", path)
	return nil
}

func listKeys(c *cli.Context) error {
	if err := wantArgs(c, 0, 0, "no argument"); err != nil {
		return err
	}
	keys, db, err := openKeys(c)
	if err != nil {
		return err
	}
	defer db.Close()
	counts, err := db.BoxKeys(c.Context)
	if err != nil {
		return err
	}
	holders, err := db.KeyHolders(c.Context, time.Now().Add(-time.Minute))
	if err != nil {
		return err
	}
	under, err := db.OpenRotation(c.Context)
	if err != nil {
		return err
	}
	type listed struct {
		ID      string   `json:"id"`
		Use     string   `json:"use"`
		Boxes   int      `json:"boxes"` // things in the database that are under it
		Held    []string `json:"held_by"`
		Rotates bool     `json:"rotation_under_way"`
	}
	all := []listed{}
	for _, k := range keys.List() {
		l := listed{ID: k.ID, Use: "opens", Boxes: counts[k.ID], Held: []string{}, Rotates: under == k.ID}
		if k.Primary {
			l.Use = "encrypts"
		}
		all = append(all, l)
		delete(counts, k.ID)
	}
	for id, n := range counts {
		if id == "" {
			id = "unknown"
		}
		all = append(all, listed{ID: id, Use: "missing", Boxes: n, Held: []string{}})
	}
	for i := range all {
		for _, h := range holders {
			if slices.Contains(h.Keys, all[i].ID) {
				all[i].Held = append(all[i].Held, fmt.Sprintf("%s[%d]", h.Host, h.PID))
			}
		}
	}
	if c.Bool("json") {
		return printJSON(c, all)
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "KEY\tUSE\tTHINGS UNDER IT\tHELD BY")
	for _, l := range all {
		held := strings.Join(l.Held, ", ")
		if held == "" {
			held = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", l.ID, l.Use, l.Boxes, held)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if under != "" {
		fmt.Fprintln(c.App.Writer, "A rotation was begun and has not ended: postseal key rotate goes on with it.")
	}
	return nil
}

func rotateKey(c *cli.Context) error {
	if err := wantArgs(c, 0, 0, "no argument; the file is named by --key-file"); err != nil {
		return err
	}
	cfg, err := loadSettings(c, lookupEnv)
	if err != nil {
		return err
	}
	file, err := filepath.Abs(cfg.str("key-file"))
	if err != nil {
		return err
	}
	if target, err := filepath.EvalSymlinks(file); err == nil {
		file = target // a link stays one
	}
	r := &escrow.Rotation{
		File: file, KeepOld: c.Bool("keep-old"), LeaveBad: c.Bool("leave-damaged"), Crash: crash,
		Progress: rotationProgress(c),
		// The key file may be root's, the database is the service's.
		Store: func(f func(escrow.RotationStore) error) error {
			return sql.AsOwner(cfg.dbPath(), func() error {
				db, err := sql.Open(c.Context, cfg.str("db"), sql.Options{})
				if err != nil {
					return err
				}
				return errors.Join(f(db), db.Close())
			})
		},
	}
	id, err := r.Run(c.Context)
	var bad *escrow.BadBoxes
	if errors.As(err, &bad) {
		return fmt.Errorf("%w; restore them from a backup, or take the old key out all the same: postseal key rotate --leave-damaged", err)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(c.App.ErrWriter, "Everything is under key %s now.\nPut a new copy of %s in the safe place at once: with an older copy what is sealed from now on can't be opened.\n", id, file)
	if r.KeepOld {
		fmt.Fprintf(c.App.ErrWriter, "Backups of the database from before need %s.old: keep it apart, as long as them, then delete it.\n", file)
	} else {
		fmt.Fprintln(c.App.ErrWriter, "Backups of the database from before need the older copy of the key file: keep it as long as them.")
	}
	return nil
}

// rotationProgress prints how a rotation goes: each step, and a line a second.
func rotationProgress(c *cli.Context) func(escrow.RotationProgress) {
	var step string
	var told time.Time
	return func(p escrow.RotationProgress) {
		walking := p.Step == escrow.StepRewrap
		if p.Step == step && walking && p.Done < p.Total && time.Since(told) < time.Second {
			return
		}
		step, told = p.Step, time.Now()
		if c.Bool("json") {
			json.NewEncoder(c.App.Writer).Encode(p)
			return
		}
		w := c.App.ErrWriter
		switch p.Step {
		case escrow.StepAdded:
			if p.Resumed {
				fmt.Fprintf(w, "going on with a rotation to key %s\n", p.Key)
			} else {
				fmt.Fprintf(w, "new key %s is in the key file\n", p.Key)
			}
		case escrow.StepWaiting:
			fmt.Fprintf(w, "waiting for %s to read the key file anew; where it gets the file as a systemd credential, restart it\n", strings.Join(p.Waiting, ", "))
		case escrow.StepPrimary:
			fmt.Fprintf(w, "key %s encrypts\n", p.Key)
		case escrow.StepRewrap:
			fmt.Fprintf(w, "%d of %d looked at, %d encrypted anew\n", p.Done, p.Total, p.Changed)
		case escrow.StepFinished:
			fmt.Fprintln(w, "the old key is gone from the key file")
		}
	}
}
