package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/mail"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/urfave/cli/v2"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/sql"
	"github.com/postseal/postseal/tlsmap"
)

func mapCommand() *cli.Command {
	settings := settingFlags(decideSettings...)
	return noun("map", "the tables that Postfix asks",
		verb("query", "NAME KEY", "ask transport, tls-policy, secure-tls-policy or sender-transport; exit 1 where it has no answer", settings, queryMap),
		verb("write", "", "write the tables as files", with([]cli.Flag{
			&cli.StringFlag{Name: "dir", Usage: "the `DIRECTORY` to write them to; the service's user must be able to"},
			&cli.StringFlag{Name: "type", Usage: "lmdb, cdb, texthash or hash", Value: "texthash"},
		}, settings), writeMaps),
	)
}

// mapSource is a map server that answers from what is in the database.
type mapSource struct {
	cfg      *config
	db       *sql.DB
	s        *surroundings
	postures remembered
	server   *tlsmap.Server
}

func openMaps(c *cli.Context) (*mapSource, error) {
	cfg, err := loadSettings(c, lookupEnv)
	if err != nil {
		return nil, err
	}
	keys, keyErr := escrow.LoadKeys(cfg.str("key-file")) // without, bounce addresses are not known
	if err := sql.DropToOwner(cfg.dbPath()); err != nil {
		return nil, err
	}
	db, err := sql.Open(c.Context, cfg.str("db"), sql.Options{})
	if err != nil {
		return nil, err
	}
	src := &mapSource{cfg: cfg, db: db}
	if err := src.open(c, keys, keyErr == nil); err != nil {
		db.Close()
		return nil, err
	}
	return src, nil
}

func (m *mapSource) open(c *cli.Context, keys *escrow.Keys, haveKeys bool) (err error) {
	log := newLog(c.App.ErrWriter, "text")
	if m.s, err = askPostfix(c.Context, m.cfg, log); err != nil {
		return err
	}
	snapshot, err := loadRules(c.Context, m.cfg, m.db, m.s.delimiters, nil)
	if err != nil {
		return err
	}
	if m.postures, err = loadRemembered(c.Context, m.cfg, m.db); err != nil {
		return err
	}
	engine := newEngine(m.cfg, m.s, func() *policy.Snapshot { return snapshot }, m.postures)
	pins, err := escrow.NewPins(c.Context, m.db)
	if err != nil {
		return err
	}
	policies := newPolicyReader(m.cfg, m.s, m.db)
	policies.o.Fresh = false // what counts is what the server keeps
	prober, err := newProber(m.cfg, m.s, log, nil, policies.give)
	if err != nil {
		return err
	}
	if err := policies.load(c.Context); err != nil {
		return err
	}
	conf := mapConfig(m.cfg, m.s, engine, pins, log, nil)
	conf.Published, conf.DANE = publishedBy(m.cfg, m.postures, prober, policies), prober.DANE
	if err := reportAttributes(c.Context, m.cfg, m.s, &conf, m.postures.STS); err != nil {
		return err
	}
	if haveKeys {
		from, err := noticeFrom(c.Context, m.cfg)
		if err != nil {
			return err
		}
		vault, err := newVault(m.cfg, m.db, keys, from, log, nil, nil, nil)
		if err != nil {
			return err
		}
		conf.Bounce = func(addr string) bool { _, ok := vault.IsBounceAddress(addr); return ok }
		conf.Reply = vault.IsReply
	}
	m.server, err = tlsmap.New(conf)
	return err
}

// mapConfig is what every map server needs, bounce addresses aside.
func mapConfig(cfg *config, s *surroundings, engine *policy.Engine, pins *escrow.Pins, log *slog.Logger, reg prometheus.Registerer) tlsmap.Config {
	c := tlsmap.Config{
		Engine: engine, Splitter: splitter(cfg), Fallback: []string{postfixRelay(cfg.str("fallback-listen"))},
		Floor: tlsVersionName(cfg.str("tls-floor")), AdminTLS: s.adminTLS(), AdminLevel: s.tlsLevel, OwnLevel: s.ownTLSLevel, Log: log, Registerer: reg,
	}
	if pins != nil {
		c.Pins = pins
	}
	return c
}

// mapFileOptions says what map files must know that a server asks for.
func mapFileOptions(ctx context.Context, cfg *config, s *surroundings, kind string, known []string) (tlsmap.Options, error) {
	o := tlsmap.Options{Type: kind, Known: known}
	if s.standalone() {
		o.Own = cfg.strs("own-domain")
	} else {
		own, err := s.instance.ListOwnDomains(ctx)
		if err != nil {
			return o, err
		}
		o.Own = append(own, cfg.strs("own-domain")...)
		keys, err := s.instance.AdminTLSKeys(ctx)
		if err != nil {
			return o, err
		}
		o.Known = append(o.Known, keys...)
		o.PostmapArgs = []string{"-c", cfg.str("postfix-config-dir")}
	}
	from, err := noticeFrom(ctx, cfg)
	if err != nil {
		return o, err
	}
	a, err := mail.ParseAddress(from)
	if err != nil {
		return o, err
	}
	if _, domain, ok := strings.Cut(a.Address, "@"); ok {
		o.Bounce = "postseal-bounce@" + domain
	}
	return o, nil
}

func queryMap(c *cli.Context) error {
	if err := wantArgs(c, 2, 2, "NAME and KEY"); err != nil {
		return err
	}
	m, err := openMaps(c)
	if err != nil {
		return err
	}
	defer m.db.Close()
	r, err := m.server.Query(c.Context, c.Args().Get(0), c.Args().Get(1))
	if err != nil {
		return err
	}
	if r.Status != tlsmap.OK {
		return fmt.Errorf("%s %s: %s", c.Args().Get(0), c.Args().Get(1), strings.TrimSpace(string(r.Status)+" "+r.Text))
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
	m, err := openMaps(c)
	if err != nil {
		return err
	}
	defer m.db.Close()
	m.s.instance.MapDir = c.String("dir")
	o, err := mapFileOptions(c.Context, m.cfg, m.s, c.String("type"), slices.Sorted(maps.Keys(m.postures.byDest)))
	if err != nil {
		return err
	}
	changed, err := m.server.Write(c.Context, c.String("dir"), o)
	if err != nil {
		return err
	}
	for _, name := range changed {
		fmt.Fprintln(c.App.Writer, name)
	}
	return nil
}
