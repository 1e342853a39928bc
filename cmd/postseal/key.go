package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/postseal/postseal/escrow"
)

func keyCommand() *cli.Command {
	return noun("key", "the server's keys",
		verb("new", "", "make a new key file; it must not exist yet", settingFlags(storeSettings...), func(c *cli.Context) error {
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
		}),
	)
}
