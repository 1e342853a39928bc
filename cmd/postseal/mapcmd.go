package main

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/urfave/cli/v2"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/sql"
	"github.com/postseal/postseal/tlsmap"
)

func mapCommand() *cli.Command {
	settings := settingFlags(decideSettings...)
	return noun("map", "the tables that Postfix asks",
		verb("query", "NAME KEY", "ask transport, tls-policy, secure-tls-policy or sender-transport; exit 1 where it has no answer", settings, queryMap),
		verb("write", "", "write the tables as files", with([]cli.Flag{
			&cli.StringFlag{Name: "dir", Usage: "the `DIRECTORY` to write them to"},
			&cli.StringFlag{Name: "type", Usage: "lmdb, cdb, texthash or hash", Value: "texthash"},
		}, settings), writeMaps),
	)
}

// openMaps makes a map server that answers from what is in the database.
func openMaps(c *cli.Context) (*sql.DB, *tlsmap.Server, error) {
	cfg, err := loadSettings(c, lookupEnv)
	if err != nil {
		return nil, nil, err
	}
	keys, keyErr := escrow.LoadKeys(cfg.str("key-file")) // without, bounce addresses are not known
	if err := sql.DropToOwner(cfg.dbPath()); err != nil {
		return nil, nil, err
	}
	db, err := sql.Open(c.Context, cfg.str("db"), sql.Options{})
	if err != nil {
		return nil, nil, err
	}
	server, err := func() (*tlsmap.Server, error) {
		log := slog.New(slog.NewTextHandler(c.App.ErrWriter, nil))
		s, err := askPostfix(c.Context, cfg, log)
		if err != nil {
			return nil, err
		}
		engine, err := storedEngine(c, cfg, db)
		if err != nil {
			return nil, err
		}
		pins, err := escrow.NewPins(c.Context, db)
		if err != nil {
			return nil, err
		}
		m := tlsmap.Config{
			Engine: engine, Splitter: splitter(cfg), Fallback: []string{postfixRelay(cfg.str("fallback-listen"))},
			Floor: tlsVersionName(cfg.str("tls-floor")), Pins: pins, AdminTLS: s.adminTLS(), Log: log,
		}
		if keyErr == nil {
			from, err := noticeFrom(c.Context, cfg)
			if err != nil {
				return nil, err
			}
			vault, err := newVault(cfg, db, keys, from, log, nil, nil, nil)
			if err != nil {
				return nil, err
			}
			m.Bounce = func(addr string) bool { _, ok := vault.IsBounceAddress(addr); return ok }
		}
		return tlsmap.New(m)
	}()
	if err != nil {
		db.Close()
		return nil, nil, err
	}
	return db, server, nil
}

func queryMap(c *cli.Context) error {
	if err := wantArgs(c, 2, 2, "NAME and KEY"); err != nil {
		return err
	}
	db, server, err := openMaps(c)
	if err != nil {
		return err
	}
	defer db.Close()
	r, err := server.Query(c.Context, c.Args().Get(0), c.Args().Get(1))
	if err != nil {
		return err
	}
	if r.Status != "OK" {
		return fmt.Errorf("%s", r)
	}
	fmt.Fprintln(c.App.Writer, r.Text)
	return nil
}

func writeMaps(c *cli.Context) error {
	if err := wantArgs(c, 0, 0, "--dir DIRECTORY, no argument"); err != nil {
		return err
	}
	if c.String("dir") == "" {
		return errors.New("name the directory: --dir DIRECTORY")
	}
	db, server, err := openMaps(c)
	if err != nil {
		return err
	}
	defer db.Close()
	return server.Write(c.Context, c.String("dir"), tlsmap.Options{Type: c.String("type")})
}
