package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/brand"
	"github.com/postseal/postseal/escrow/intake"
	"github.com/postseal/postseal/escrow/notify"
	"github.com/postseal/postseal/escrow/portal"
	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/policyd"
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/sql"
	"github.com/postseal/postseal/tlsmap"
	"github.com/postseal/postseal/tlsmap/probe"
)

func serveCommand() *cli.Command {
	return verb("serve", "", "run all servers", settingFlags(), func(c *cli.Context) error {
		if err := wantArgs(c, 0, 0, "no argument"); err != nil {
			return err
		}
		cfg, err := loadSettings(c, lookupEnv)
		if err != nil {
			return err
		}
		return serve(c.Context, cfg, newLog(c.App.ErrWriter, cfg.str("log-format")))
	})
}

// serve is the wiring. It opens what is kept (database, keys), asks Postfix what
// it must know, makes the parts, opens the listeners, and runs everything until
// ctx is done or a part fails: then all end, Postfix gets no answers, and mail
// waits.
func serve(ctx context.Context, cfg *config, log *slog.Logger) error {
	ctx = audit.With(ctx, audit.Actor{Kind: audit.ActorServer}) // whoever has started it
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	// What is kept.
	db, err := sql.Open(ctx, cfg.str("db"), sql.Options{Logger: log})
	if err != nil {
		return err
	}
	defer db.Close()
	keys, err := escrow.LoadKeys(cfg.str("key-file"))
	if err != nil {
		return err
	}

	health := newKeyHealth(keys, db, log, reg)
	health.look(ctx)

	// The audit log.
	auditor := audit.NewWriter(db.Audit, log, reg)
	keeper := newAuditKeeper(cfg, db, keys.AuditKey(), log, reg)

	// What Postfix tells.
	s, err := askPostfix(ctx, cfg, log)
	if err != nil {
		return err
	}
	from, err := noticeFrom(ctx, cfg)
	if err != nil {
		return err
	}

	// The decision: rules in memory, postures of destinations.
	var rules atomic.Pointer[policy.Snapshot]
	snapshot, err := loadRules(ctx, cfg, db, s.delimiters, nil)
	if err != nil {
		return err
	}
	rules.Store(snapshot)
	reports, err := newTLSReports(cfg, db, s.helo, log, reg)
	if err != nil {
		return err
	}
	policies := newPolicyKeeper(cfg, s, db, log, reg)
	policies.reports = reports
	prober, err := newProber(cfg, s, log, reg, reports.count, policies.give)
	if err != nil {
		return err
	}
	if err := policies.load(ctx); err != nil {
		return err
	}
	warnOff(cfg, s, prober, log)
	var mapsChanged func() // set where map files are kept
	alarms := newAlarms(cfg, db, from, s.helo, log, reg)
	postures := probe.NewManager(prober, db, probe.ManagerOptions{
		AlarmAfter: max(cfg.duration("alarm-after"), 1), // 0 would be the default
		OnAlarm:    alarms.Wake,
		OnChange: func() {
			if mapsChanged != nil {
				mapsChanged()
			}
		},
	})
	postures.LoadLater()
	engine := newEngine(cfg, s, rules.Load, postures)

	engine.Observe = countDecisions(reg)

	// The escrow: vault, outbox, what is pinned to it.
	pins, err := escrow.NewPins(ctx, db)
	if err != nil {
		return err
	}
	var outbox *notify.Sender
	var replier *escrow.Replier
	replies, err := replySize(cfg)
	if err != nil {
		return err
	}
	brands, err := loadBrands(cfg)
	if err != nil {
		return err
	}
	vault, err := newVault(cfg, db, keys, from, log, reg, pins, func(o *escrow.Options) {
		o.Brand = brands.Notice
		o.Wake = func() { outbox.Wake() }
		o.OwnDomain, o.MTA = s.own.Own, s.helo
		o.Replies = escrow.ReplyOptions{Size: replies, SpoolDir: cfg.spoolDir(), Wake: func() { replier.Wake() }}
	})
	if err != nil {
		return err
	}
	outbox = &notify.Sender{Outbox: vault, Relay: cfg.str("notice-relay"), ServerName: s.helo, Log: log, Registerer: reg, Crash: crash}
	replier = &escrow.Replier{Vault: vault, Splitter: dialable(cfg.str("lmtp-listen")), ServerName: s.helo, Registerer: reg, Crash: crash}

	// The servers.
	parts, err := newParts(ctx, cfg, log, reg, s, engine, postures, vault, pins, brands, auditor)
	if err != nil {
		return err
	}
	if parts.maps != nil {
		mapsChanged = parts.maps.Notify
	}
	if parts.api, err = newAPI(cfg, db, from, s.helo, log, reg); err != nil {
		return err
	}
	login, err := newLogin(cfg, db, keys, log, reg)
	if err != nil {
		return err
	}
	checks, err := newCheckPage(cfg, s, engine, parts.tls, db, login, log)
	if err != nil {
		return err
	}
	ready := []readiness{
		{"database", db.Writable},
		{"keys", health.ready},
		{"outbox", func(ctx context.Context) error {
			age, err := outbox.Oldest(ctx)
			if err == nil && age > outboxStuck {
				err = fmt.Errorf("the oldest mail waits since %s", age.Round(time.Second))
			}
			return err
		}},
	}
	held := newAdminPages(cfg, db, vault, rules.Load, login, reg, ready, log)
	parts.admin = adminHandler(reg, parts.api, allPages{loginPages{login}, held, &destinationPages{db, login, lookAnew(postures)}, checks}, ready)
	listeners, err := parts.listen(cfg)
	if err != nil {
		return err
	}

	started := keyDetails(keys)
	started["version"], started["audit_key"] = version, audit.FormatKey(keeper.key.Public().(ed25519.PublicKey))
	if err := db.Audit(ctx, audit.Entry{Kind: audit.Started, Details: started}); err != nil {
		return err
	}
	// It ends after all that adds to it.
	writing, stopWriting := context.WithCancel(context.WithoutCancel(ctx))
	written := make(chan struct{})
	go func() { defer close(written); auditor.Run(writing) }()
	defer func() { stopWriting(); <-written }()

	g, ctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		log.Info("listening", "for", l.name, "on", l.addr)
		g.Go(func() error { return named(l.name, l.run(ctx, l.ln)) })
	}
	g.Go(func() error { return named("postures", postures.Run(ctx)) })
	g.Go(func() error { return named("MTA-STS policies", policies.run(ctx)) })
	g.Go(func() error { return named("TLS reports", reports.run(ctx)) })
	g.Go(func() error { return named("alarms", alarms.Run(ctx)) })
	g.Go(func() error { return named("audit", keeper.run(ctx)) })
	g.Go(func() error { return named("outbox", outbox.Run(ctx)) })
	g.Go(func() error { return named("replies", replier.Run(ctx)) })
	g.Go(func() error { return named("escrow", vault.Run(ctx)) })
	if parts.maps != nil {
		g.Go(func() error { return named("map files", parts.maps.Run(ctx)) })
	}
	var rulesLock sync.Mutex // of whoever replaces them
	rulesChanged := func() {
		if mapsChanged != nil {
			mapsChanged()
		}
	}
	g.Go(func() error {
		return named("rules", keepRules(ctx, cfg, db, &rules, s.delimiters, &rulesLock, log, rulesChanged))
	})
	g.Go(func() error {
		verifyRules(ctx, cfg, db, &rules, s.delimiters, &rulesLock, log, rulesChanged)
		return nil
	})
	g.Go(func() error { return named("keys", health.watch(ctx, s.helo)) })
	g.Go(func() error { return watchTriggers(ctx, cfg, s, rules.Load, time.Minute, log) })
	g.Go(func() error { return paceCollector(ctx) })
	g.Go(func() error { return watchdog(ctx, log, func(context.Context) error { return ctx.Err() }) })
	notifyReady(log)
	log.Info("ready", "rules", rules.Load().Len())
	err = g.Wait()
	log.Info("stopped", "error", err)
	return err
}

// countDecisions registers a counter of verdicts by channel.
func countDecisions(reg prometheus.Registerer) func(policy.Channel) {
	all := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "postseal_decisions_total", Help: "Verdicts for one recipient, by channel: plain, tls, escrow, conflict.",
	}, []string{"channel"})
	reg.MustRegister(all)
	var by [policy.Plain + 1]prometheus.Counter // resolved once: a verdict costs no lookup
	for _, c := range []policy.Channel{policy.TLS, policy.Escrow, policy.Plain} {
		by[c] = all.WithLabelValues(c.String())
	}
	by[0] = all.WithLabelValues("conflict")
	return func(c policy.Channel) { by[c].Inc() }
}

// outboxStuck is the age of the oldest mail in the outbox from which on we are
// not ready.
const outboxStuck = 15 * time.Minute

func named(part string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return nil
	}
	return fmt.Errorf("%s: %w", part, err)
}

// keepRules follows changes of the rules. Rules that can't be read any more end
// the program: answering by old ones might let a message pass that a new rule
// forbids.
func keepRules(ctx context.Context, cfg *config, db *sql.DB, rules *atomic.Pointer[policy.Snapshot], d policy.Delimiters, lock *sync.Mutex, log *slog.Logger, changed func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	reload := func(version int64) {
		lock.Lock()
		defer lock.Unlock()
		if version == rules.Load().Version {
			return
		}
		fresh, err := loadRules(ctx, cfg, db, d, rules.Load())
		for try := 0; err != nil && try < 5 && ctx.Err() == nil; try++ {
			log.Warn("could not read the rules, trying again", "error", err)
			time.Sleep(time.Second)
			fresh, err = loadRules(ctx, cfg, db, d, rules.Load())
		}
		if err != nil {
			cancel(err)
			return
		}
		rules.Store(fresh)
		log.Info("rules changed", "version", fresh.Version, "rules", fresh.Len())
		changed()
	}
	db.Watch(ctx, 200*time.Millisecond, reload)
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// parts are the servers.
type parts struct {
	policy    *policyd.Server
	tls       *tlsmap.Server
	maps      *tlsmap.Keeper // nil without --map-dir
	splitters map[policy.Requirement]*intake.Splitter
	fallback  *intake.Fallback
	portal    http.Handler
	portalTLS *tls.Config
	admin     http.Handler
	adminTLS  *tls.Config // nil: plain HTTP
	api       http.Handler
}

func newParts(ctx context.Context, cfg *config, log *slog.Logger, reg *prometheus.Registry, s *surroundings, engine *policy.Engine, postures *probe.Manager, vault *escrow.Vault, pins *escrow.Pins, brands *brand.Set, auditor *audit.Writer) (*parts, error) {
	p := &parts{splitters: make(map[policy.Requirement]*intake.Splitter)}
	err := errors.Join(writableDir("spool-dir", cfg.spoolDir()), writableDir("map-dir", cfg.str("map-dir")))
	if err != nil {
		return nil, err
	}
	p.policy, err = policyd.New(policyd.Config{
		Engine: engine, Splitter: splitter(cfg), AddsRecipients: s.addsRecipients,
		ForcedUnreachable: cfg.str("forced-unreachable"), Origin: s.origin, Canonical: s.canonical(), Aliased: s.aliased(),
		Audit: auditor, Marker: vault, Log: log, Registerer: reg,
	})
	if err != nil {
		return nil, err
	}
	maps := mapConfig(cfg, s, engine, pins, log, reg)
	maps.Bounce = func(addr string) bool { _, ok := vault.IsBounceAddress(addr); return ok }
	maps.Reply = vault.IsReply
	if verifies(cfg) {
		maps.Published, maps.DANE = postures.Published, postures.DANE
	}
	if err := reportAttributes(ctx, cfg, s, &maps, postures.STS); err != nil {
		return nil, err
	}
	if p.tls, err = tlsmap.New(maps); err != nil {
		return nil, err
	}
	if dir := cfg.str("map-dir"); dir != "" {
		p.maps, err = tlsmap.NewKeeper(tlsmap.KeeperConfig{
			Server: p.tls, Dir: dir, Reload: reloadCommand(cfg, s), Log: log,
			Options: func(ctx context.Context) (tlsmap.Options, error) {
				known, err := postures.Known(ctx)
				if err != nil {
					return tlsmap.Options{}, err
				}
				return mapFileOptions(ctx, cfg, s, cfg.str("map-type"), known)
			},
		})
		if err != nil {
			return nil, err
		}
	}
	in := intake.Config{
		Decider: engine, Vault: vault, Ledger: pins, Triggers: func() *policy.Triggers { return engine.Rules().Triggers() }, Prober: looker{postures},
		Plain: cfg.str("reinject-plain"), Secure: cfg.str("reinject-secure"), Forced: cfg.str("reinject-forced"),
		MaxMessageSize: cfg.size("max-message-size"), SpoolDir: cfg.spoolDir(), Hostname: s.helo, RequeueUID: s.requeueUID, InHand: new(intake.InHand),
		Audit: auditor, Grace: cfg.duration("grace"), Aliases: s.aliases(), Now: time.Now, Log: log, Registerer: reg, Crash: crash,
	}
	for _, floor := range []policy.Requirement{policy.None, policy.ForcedTLS, policy.Encryption, policy.EscrowOnly} {
		p.splitters[floor] = intake.NewSplitter(in, floor)
	}
	p.fallback = intake.NewFallback(in)
	base, err := url.Parse(cfg.str("portal-url"))
	if err != nil {
		return nil, err
	}
	var proxies []netip.Prefix // none named: the portal's default
	for _, v := range cfg.strs("portal-proxy") {
		prefix, err := parsePrefix(v)
		if err != nil {
			return nil, err
		}
		proxies = append(proxies, prefix)
	}
	p.portal, err = portal.New(portal.Config{
		Vault: vault, Accounts: vault, Inbox: vault, Replies: vault, Senders: vault, BaseURL: base, TrustedProxies: proxies, SupportText: cfg.str("portal-support"), Brands: brands,
		Log: log, Registerer: reg, Now: time.Now,
	})
	if err != nil {
		return nil, err
	}
	cert, key := cfg.str("portal-cert"), cfg.str("portal-key")
	if (cert == "") != (key == "") {
		return nil, errors.New("portal-cert and portal-key go together")
	}
	if cert != "" {
		if p.portalTLS, err = keepTLS("portal", cert, key); err != nil {
			return nil, err
		}
	}
	if p.adminTLS, err = adminTLS(cfg); err != nil {
		return nil, err
	}
	if addr := cfg.str("api-listen"); addr != "" {
		if err := portal.CheckListen(addr, cert != ""); err != nil {
			return nil, fmt.Errorf("api-listen: %w", err)
		}
	}
	return p, portal.CheckListen(cfg.str("portal-listen"), cert != "")
}

// writableDir checks at the start what would else show as mail that waits.
func writableDir(setting, dir string) error {
	if dir == "" {
		return nil
	}
	f, err := os.CreateTemp(dir, ".postseal-*")
	if err != nil {
		return fmt.Errorf("%s %s: want a directory that the user of postseal serve can write to: %w", setting, dir, err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// reloadCommand makes Postfix read the map files anew.
func reloadCommand(cfg *config, s *surroundings) func(context.Context) error {
	words := strings.Fields(cfg.str("map-reload"))
	if len(words) == 0 {
		return s.instance.Reload
	}
	return func(ctx context.Context) error {
		out, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", words[0], err, bytes.TrimSpace(out))
		}
		return nil
	}
}

// looker lets the intake look at a destination now.
type looker struct{ m *probe.Manager }

func (l looker) Look(ctx context.Context, dest string, demand policy.TLSParams, maxAge time.Duration) (policy.Posture, error) {
	p, _, err := l.m.Look(ctx, dest, demand, maxAge)
	return p, err
}

// NullMX reports whether dest says by a null MX that it takes no mail.
func (l looker) NullMX(ctx context.Context, dest string) bool {
	_, r, err := l.m.Look(ctx, dest, policy.TLSParams{}, time.Minute)
	return err == nil && r != nil && r.NullMX
}

// Answers reports whether some mail host of dest answered at the last look.
func (l looker) Answers(ctx context.Context, dest string) bool {
	_, r, err := l.m.Look(ctx, dest, policy.TLSParams{}, time.Minute)
	return err == nil && r != nil && r.Answers()
}

// listener is an open listener and the server behind it.
type listener struct {
	name string
	addr string
	ln   net.Listener
	run  func(context.Context, net.Listener) error
}

// listen opens all listeners, or none.
func (p *parts) listen(cfg *config) (all []listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range all {
				l.ln.Close()
			}
		}
	}()
	wanted := []listener{
		{name: "policy", addr: cfg.str("policy-listen"), run: p.policy.Run},
		{name: "maps", addr: cfg.str("map-listen"), run: p.tls.Run},
		{name: "splitter", addr: cfg.str("lmtp-listen"), run: p.splitters[policy.Encryption].Run},
		{name: "splitter (escrow)", addr: cfg.str("lmtp-escrow-listen"), run: p.splitters[policy.EscrowOnly].Run},
		{name: "splitter (tls)", addr: cfg.str("lmtp-tls-listen"), run: p.splitters[policy.ForcedTLS].Run},
		{name: "splitter (decide)", addr: cfg.str("lmtp-decide-listen"), run: p.splitters[policy.None].Run},
		{name: "fallback", addr: cfg.str("fallback-listen"), run: p.fallback.Run},
		{name: "portal", addr: cfg.str("portal-listen"), run: func(ctx context.Context, ln net.Listener) error {
			return portal.Run(ctx, ln, p.portal, p.portalTLS)
		}},
		{name: "admin", addr: cfg.str("admin-listen"), run: func(ctx context.Context, ln net.Listener) error {
			return runHTTP(ctx, ln, p.admin, p.adminTLS)
		}},
	}
	if addr := cfg.str("api-listen"); addr != "" {
		wanted = append(wanted, listener{name: "api", addr: addr, run: func(ctx context.Context, ln net.Listener) error {
			return runHTTP(ctx, ln, p.api, p.portalTLS)
		}})
	}
	for _, l := range wanted {
		if l.ln, err = listen(l.addr); err != nil {
			return all, fmt.Errorf("%s: %w", l.name, err)
		}
		all = append(all, l)
	}
	return all, nil
}

// runHTTP serves h, by TLS with config, until ctx is done.
func runHTTP(ctx context.Context, ln net.Listener, h http.Handler, config *tls.Config) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	defer context.AfterFunc(ctx, func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		srv.Shutdown(stop)
	})()
	var err error
	if config != nil {
		srv.TLSConfig = config.Clone()
		err = srv.ServeTLS(ln, "", "")
	} else {
		err = srv.Serve(ln)
	}
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return err
}

// keepTLS loads the certificate of what, and again when its files change, so that a
// renewal needs no restart.
func keepTLS(what, certFile, keyFile string) (*tls.Config, error) {
	var current atomic.Pointer[tls.Certificate]
	var checked atomic.Int64
	load := func() error {
		cert, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err == nil {
			current.Store(&cert)
		}
		return err
	}
	if err := load(); err != nil {
		return nil, fmt.Errorf("%s certificate: %w", what, err)
	}
	checked.Store(time.Now().Unix())
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if last := checked.Load(); time.Now().Unix()-last > 60 && checked.CompareAndSwap(last, time.Now().Unix()) {
				_ = load() // a renewal half written: the old one goes on
			}
			return current.Load(), nil
		},
	}, nil
}

// canonical returns the rewriting that Postfix does after we have seen an
// address.
func (s *surroundings) canonical() func(context.Context, policy.Address, bool) (policy.Address, error) {
	if s.standalone() {
		return nil
	}
	return s.instance.Canonical
}

// aliased tells whose recipients virtual_alias_maps replace.
func (s *surroundings) aliased() func(context.Context, policy.Address) (bool, error) {
	if s.standalone() {
		return nil
	}
	return s.instance.Aliased
}

// aliases tells whom Postfix makes of a recipient.
func (s *surroundings) aliases() func(context.Context, policy.Address) ([]policy.Address, error) {
	if s.standalone() {
		return nil
	}
	return s.instance.Aliases
}

func (s *surroundings) adminTLS() func(context.Context, string) (string, error) {
	if s.standalone() {
		return nil
	}
	return s.instance.AdminTLSPolicy
}
