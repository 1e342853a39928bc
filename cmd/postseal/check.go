package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/postseal/postseal/contrib/postfix"
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/sql"
	"github.com/postseal/postseal/tlsmap"
	"github.com/postseal/postseal/tlsmap/check"
	"github.com/postseal/postseal/tlsmap/check/scan"
	"github.com/postseal/postseal/tlsmap/probe"
)

func checkCommand() *cli.Command {
	return verb("check", "DOMAIN|ADDRESS…", "look how a destination takes mail, and say what would happen", with([]cli.Flag{
		jsonFlag(),
		&cli.BoolFlag{Name: "quick", Usage: "one handshake with each address, without asking for every TLS version and cipher suite"},
		&cli.StringFlag{Name: "fail-below", Usage: "exit 2 where a destination's class is below `CLASS`: " + strings.Join(check.Classes(), ", ")},
		&cli.StringFlag{Name: "timeout", Usage: "give up on a destination after `DURATION`", Value: "2m"},
		&cli.StringFlag{Name: "pause", Usage: "wait this `DURATION` between two connections to one address", Value: "100ms"},
	}, checkFileFlags(), settingFlags(decideSettings...)), runCheck)
}

// parallelChecks is how many destinations are looked at at a time.
const parallelChecks = 16

// exitBelow is the exit code where a destination is below --fail-below.
const exitBelow = 2

// errBelow reports that a destination is below --fail-below. What is below was
// printed already.
var errBelow = exitError{errShown, exitBelow}

func runCheck(c *cli.Context) error {
	if c.String("file") != "" {
		return checkFile(c)
	}
	if err := wantArgs(c, 1, -1, "at least one DOMAIN or ADDRESS"); err != nil {
		return err
	}
	timeout, err := parseDuration(c.String("timeout"))
	if err != nil {
		return fmt.Errorf("--timeout: %w", err)
	}
	below, err := failBelow(c)
	if err != nil {
		return err
	}
	var asked []question
	for _, arg := range c.Args().Slice() {
		q, err := parseQuestion(arg)
		if err != nil {
			return err
		}
		asked = append(asked, q)
	}
	k, err := openCheckKit(c)
	if err != nil {
		return err
	}
	defer k.close()

	reports := make([]chan *check.Report, len(asked)) // printed in the order of the arguments
	slots := make(chan struct{}, parallelChecks)
	for i, q := range asked {
		reports[i] = make(chan *check.Report, 1)
		go func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(c.Context, timeout)
			defer cancel()
			reports[i] <- k.check(ctx, q, c.Bool("quick"))
		}()
	}
	all := []*check.Report{}
	failed := false
	style := check.Style{Color: colorful(c.App.Writer)}
	for i := range reports {
		r := <-reports[i]
		failed = failed || r.Class < below
		all = append(all, r)
		if c.Bool("json") {
			continue
		}
		if i > 0 {
			fmt.Fprintln(c.App.Writer)
		}
		if err := r.WriteText(c.App.Writer, style); err != nil {
			return err
		}
	}
	if c.Bool("json") {
		if err := printJSON(c, all); err != nil {
			return err
		}
	}
	if c.Context.Err() != nil {
		return errors.New("broken off")
	}
	if failed {
		return errBelow
	}
	return nil
}

// failBelow reads --fail-below; without it no class is below.
func failBelow(c *cli.Context) (check.Class, error) {
	w := c.String("fail-below")
	if w == "" {
		return 0, nil
	}
	class, err := check.ParseClass(w)
	if err != nil {
		return 0, fmt.Errorf("--fail-below: %w", err)
	}
	return class, nil
}

// colorful reports whether out takes colours: a terminal, unless NO_COLOR says
// no (no-color.org).
func colorful(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}

// question is one argument of check.
type question struct {
	asked string
	rcpt  policy.Address // whose rules count; zero for a next-hop with a port
	dest  string         // of a next-hop with a port
}

// parseQuestion reads a domain, an address, or a next-hop as Postfix writes it.
func parseQuestion(asked string) (question, error) {
	q := question{asked: asked}
	name := asked
	if i := strings.LastIndexByte(asked, '@'); i >= 0 {
		name = asked[i+1:]
	}
	if err := probe.CheckDestination(name); err != nil {
		return q, fmt.Errorf("%w; want a domain, an address, [HOST] or HOST:PORT", err)
	}
	if strings.Contains(strings.TrimPrefix(name, "[IPv6:"), ":") && !strings.HasSuffix(name, "]") {
		if name != asked {
			return q, fmt.Errorf("%q: an address has no port", asked)
		}
		q.dest = name
		return q, nil
	}
	if name == asked {
		asked = "someone@" + asked
	}
	var err error
	if q.rcpt, err = policy.ParseAddress(asked); err == nil && q.rcpt.Domain == "" {
		err = errors.New("want a domain or an address with one")
	}
	if err != nil {
		return q, fmt.Errorf("%q: %w", q.asked, err)
	}
	return q, nil
}

// checkKit is what checks need. It works without Postfix and without a database,
// as on an administrator's own machine: then no rules are known.
type checkKit struct {
	decider
	prober  *probe.Prober
	checker *check.Checker
	old     remembered
	db      *sql.DB // nil where there is none
}

// decider says what Postseal would do, by a report of just now.
type decider struct {
	cfg    *config
	engine *policy.Engine
	maps   *tlsmap.Server // asked for the TLS policy, as Postfix would
	// known is what was known of a destination before.
	known func(ctx context.Context, dest string) policy.Posture
	// mandatory says that main.cf itself demands TLS of all mail.
	mandatory bool
	// without says what is not known here, for the reasons of a decision.
	without []string
}

func (k *checkKit) close() {
	if k.db != nil {
		k.db.Close()
	}
}

// openCheckKit opens what there is. change may alter how is looked.
func openCheckKit(c *cli.Context, change ...func(*probe.Options, *check.Options)) (k *checkKit, err error) {
	cfg, err := loadSettings(c, lookupEnv)
	if err != nil {
		return nil, err
	}
	pause, err := parsePause(c.String("pause"))
	if err != nil {
		return nil, fmt.Errorf("--pause: %w", err)
	}
	k = &checkKit{decider: decider{cfg: cfg}}
	defer func(opened *checkKit) { // not k, which a return of nil has set
		if err != nil {
			opened.close()
		}
	}(k)
	if err := k.openDB(c.Context); err != nil {
		return nil, err
	}
	log := newLog(c.App.ErrWriter, "text")
	s, err := k.askPostfix(c.Context, log)
	if err != nil {
		return nil, err
	}
	snapshot, err := policy.NewSnapshot(0, nil, s.delimiters)
	if err != nil {
		return nil, err
	}
	if k.db != nil {
		if snapshot, err = loadRules(c.Context, cfg, k.db, s.delimiters, nil); err != nil {
			return nil, err
		}
		if k.old, err = loadRemembered(c.Context, cfg, k.db); err != nil {
			return nil, err
		}
	}
	o := check.Options{Scan: scan.Options{Pause: pause}}
	policies := newPolicyReader(cfg, s, k.db)
	o.Prober, err = newProber(cfg, s, log, nil, policies.give, func(p *probe.Options) {
		for _, f := range change {
			f(p, &o)
		}
		o.Resolver = p.Resolver
	})
	if err != nil {
		return nil, err
	}
	if err := policies.load(c.Context); err != nil {
		return nil, err
	}
	k.engine = newEngine(cfg, s, func() *policy.Snapshot { return snapshot }, k.old)
	k.known = func(_ context.Context, dest string) policy.Posture { return k.old.byDest[dest].Posture }
	maps := mapConfig(cfg, s, k.engine, nil, log, nil)
	maps.Published, maps.DANE = publishedBy(cfg, k.old, o.Prober, policies), o.Prober.DANE
	if k.maps, err = tlsmap.New(maps); err != nil {
		return nil, err
	}
	k.mandatory = mandatory(s.tlsLevel)
	k.prober, k.checker = o.Prober, check.New(o)
	return k, nil
}

// openDB opens the database where there is one. Its absence is an error only where it
// was named on the command line.
func (k *checkKit) openDB(ctx context.Context) error {
	source := k.cfg.values["db"].Source
	f, err := os.Open(k.cfg.dbPath())
	if err == nil {
		f.Close()
	}
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist) && !strings.HasPrefix(source, "flag"),
		errors.Is(err, fs.ErrPermission) && source == "default":
		k.without = append(k.without, "no rules are known here: "+err.Error())
		return nil
	default:
		return fmt.Errorf("database: %w", err)
	}
	if err := sql.DropToOwner(k.cfg.dbPath()); err != nil {
		return err
	}
	k.db, err = sql.Open(ctx, k.cfg.str("db"), sql.Options{})
	return err
}

// askPostfix asks the Postfix at our side, where there is one.
func (k *checkKit) askPostfix(ctx context.Context, log *slog.Logger) (*surroundings, error) {
	p := &postfix.Instance{ConfigDir: k.cfg.str("postfix-config-dir"), MapDir: k.cfg.str("map-dir")}
	err := postfixThere(ctx, k.cfg, p)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return askPostfix(ctx, k.cfg, log)
	}
	k.without = append(k.without, "no Postfix is here: no relayhost or transport entries are known")
	helo, _ := os.Hostname()
	return &surroundings{
		instance: p, own: postfix.NewStaticDomains(k.cfg.strs("own-domain")), routes: noRoutes{},
		delimiters: policy.Delimiters(k.cfg.str("recipient-delimiter")), helo: helo,
	}, nil
}

// check looks at a destination now, and decides by what it finds.
func (k *checkKit) check(ctx context.Context, q question, quick bool) *check.Report {
	look := k.checker.Deep
	if quick {
		look = k.checker.Quick
	}
	return k.decider.check(ctx, q, look)
}

// check has look look at a destination, and decides by what it finds.
func (d *decider) check(ctx context.Context, q question, look func(context.Context, string) *check.Report) *check.Report {
	if q.dest != "" {
		r := look(ctx, q.dest)
		r.Asked = q.asked
		return r
	}
	dest := q.rcpt.Domain
	a, err := d.engine.Decide(ctx, policy.Question{SenderUnknown: true, Recipient: q.rcpt})
	if err == nil {
		dest = a.Destination(q.rcpt)
	}
	r := look(ctx, dest)
	r.Asked = q.asked
	if err != nil {
		r.Decision = undecided(err)
	} else {
		r.Decision = d.decide(ctx, q.rcpt, r)
	}
	return r
}

func undecided(err error) *check.Decision {
	return &check.Decision{Channel: "unknown", Line: "nobody knows: " + err.Error(), Reasons: []string{}}
}

// decide says what Postseal would do with mail for rcpt, by a report of just now.
func (d *decider) decide(ctx context.Context, rcpt policy.Address, r *check.Report) *check.Decision {
	q := policy.Question{SenderUnknown: true, Recipient: rcpt}
	a, err := d.engine.Decide(ctx, q)
	if err != nil {
		return undecided(err)
	}
	result := r.Result()
	fresh := d.known(ctx, r.Dest)
	floor := tlsVersions[d.cfg.str("tls-floor")]
	fresh.Published, fresh.RuleMet = result.Published(), result.RuleMet(a.TLS, floor)
	fresh.State, fresh.Checked = result.Judge(a.TLS, floor), result.Checked
	if fresh.State == policy.Works {
		fresh.Worked, fresh.Lost = result.Checked, time.Time{}
	}
	q.Fresh = &fresh
	e, err := explainOne(ctx, d.cfg, d.engine, d.maps, q)
	if err != nil {
		return undecided(err)
	}
	out := &check.Decision{Channel: e.Channel, Transport: e.Transport, TLSPolicy: e.TLSPolicy, Reasons: append(e.Reasons, d.without...)}
	out.Outcome = d.foretell(result, a, e, fresh.State)
	said := out.Sentence()
	switch out.Line = said; {
	case e.Waits != "":
		out.Line = "waits: " + e.Waits
	case r.Class == check.ClassNoMail && out.Channel == "plain":
		out.Line = "Postfix returns it: the domain takes no mail"
	}
	out.Reasons = slices.DeleteFunc(out.Reasons, func(reason string) bool { return strings.HasPrefix(said, reason) })
	return out
}

// mandatory reports whether a smtp_tls_security_level demands TLS.
func mandatory(level string) bool {
	l, err := policy.ParseLevel(level)
	return err == nil && l >= policy.LevelEncrypt || level == "fingerprint"
}

// foretell says what would become of a message, where a look can tell.
func (d *decider) foretell(r *probe.Result, a policy.Answer, e explanation, state policy.State) check.Outcome {
	sealable := a.Allowed.Has(policy.Escrow)
	switch a.Channel {
	case policy.Escrow:
		return check.Sealed
	case policy.TLS:
		if state == policy.Unknown && policy.ProofTLS(r.Domain, a.TLS, r.Published()).Hopeless && r.Answers() {
			state = policy.Broken // as the fallback takes it
		}
		return check.ForetellRequired(r, state, sealable)
	case policy.Plain:
		if a.Reason == policy.OwnDomain {
			return ""
		}
		demand := e.demand
		if demand.None() && d.mandatory {
			demand.Level = policy.LevelEncrypt
		}
		if demand.Wait != "" {
			return check.Waits
		}
		return check.ForetellOpportunistic(r, demand, r.Judge(demand.TLSParams, tls.VersionTLS10))
	}
	return ""
}

// parsePause reads a duration that may be 0.
func parsePause(s string) (time.Duration, error) {
	if s == "" || s == "0" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > time.Minute {
		return 0, fmt.Errorf("%q: want a duration up to a minute, such as 100ms", cmp.Or(s, "0"))
	}
	return d, nil
}
