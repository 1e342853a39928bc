package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"
)

func configCommand() *cli.Command {
	return verb("config", "", "print the settings in force, and where each came from",
		with([]cli.Flag{jsonFlag()}, settingFlags()), func(c *cli.Context) error {
			if err := wantArgs(c, 0, 0, "no argument"); err != nil {
				return err
			}
			cfg, err := loadSettings(c, lookupEnv)
			if err != nil {
				return err
			}
			all := make([]resolved, 0, len(cfg.order))
			for _, name := range cfg.order {
				all = append(all, cfg.values[name])
			}
			if c.Bool("json") {
				return printJSON(c, all)
			}
			w := tabwriter.NewWriter(c.App.Writer, 0, 8, 2, ' ', 0)
			for _, r := range all {
				fmt.Fprintf(w, "%s\t%s\t%s\n", r.Name, strings.Join(r.Values, " "), r.Source)
			}
			return w.Flush()
		})
}
