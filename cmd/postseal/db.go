package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/postseal/postseal/sql"
)

func dbCommand() *cli.Command {
	return noun("db", "the database",
		dbBackup(),
		dbRestore(),
		verb("migrate", "", "bring the database to this program's version, or create it", settingFlags(storeSettings...), func(c *cli.Context) error {
			if err := wantArgs(c, 0, 0, "no argument; the database is named by --db"); err != nil {
				return err
			}
			cfg, err := loadSettings(c, lookupEnv)
			if err != nil {
				return err
			}
			if err := sql.DropToOwner(cfg.dbPath()); err != nil {
				return err
			}
			db, err := sql.Open(c.Context, cfg.str("db"), sql.Options{NoMigrate: true})
			if err != nil {
				return err
			}
			defer db.Close()
			from, to, err := db.Migrate(c.Context)
			if err != nil {
				return err
			}
			if from == to {
				fmt.Fprintf(c.App.Writer, "%s is at version %d\n", cfg.dbPath(), to)
			} else {
				fmt.Fprintf(c.App.Writer, "%s migrated from version %d to %d\n", cfg.dbPath(), from, to)
			}
			return nil
		}),
	)
}
