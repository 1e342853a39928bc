package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/probe"
)

func checkCommand() *cli.Command {
	return verb("check", "DOMAIN|ADDRESS…", "look how a destination takes mail, and say what would happen", with([]cli.Flag{
		jsonFlag(),
		&cli.StringFlag{Name: "timeout", Usage: "give up on a destination after `DURATION`", Value: "2m"},
	}, settingFlags(decideSettings...)), check)
}

// checked is what check prints for one destination.
type checked struct {
	Asked     string        `json:"asked"`
	Channel   string        `json:"channel"`
	Transport string        `json:"transport"`
	TLSPolicy string        `json:"tls_policy"`
	Reasons   []string      `json:"reasons"`
	Result    *probe.Result `json:"result"`
}

// parallelChecks is how many destinations are looked at at a time.
const parallelChecks = 16

func check(c *cli.Context) error {
	if err := wantArgs(c, 1, -1, "at least one DOMAIN or ADDRESS"); err != nil {
		return err
	}
	timeout, err := parseDuration(c.String("timeout"))
	if err != nil {
		return fmt.Errorf("--timeout: %w", err)
	}
	cfg, db, err := openStore(c)
	if err != nil {
		return err
	}
	defer db.Close()
	log := newLog(c.App.ErrWriter, "text")
	s, err := askPostfix(c.Context, cfg, log)
	if err != nil {
		return err
	}
	snapshot, err := loadRules(c.Context, cfg, db, s.delimiters)
	if err != nil {
		return err
	}
	prober, err := newProber(cfg, s.helo, log, nil)
	if err != nil {
		return err
	}
	old, err := loadRemembered(c.Context, db)
	if err != nil {
		return err
	}
	engine := newEngine(cfg, s, func() *policy.Snapshot { return snapshot }, old)
	all := make([]checked, c.NArg())
	g, ctx := errgroup.WithContext(c.Context)
	g.SetLimit(parallelChecks)
	for i, asked := range c.Args().Slice() {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			one, err := checkOne(ctx, cfg, engine, prober, old, asked)
			if err != nil {
				return fmt.Errorf("%s: %w", asked, err)
			}
			all[i] = one
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c, all)
	}
	for i, r := range all {
		if i > 0 {
			fmt.Fprintln(c.App.Writer)
		}
		printChecked(c.App.Writer, r)
	}
	return nil
}

// checkOne looks at one destination now, and decides by what it finds.
func checkOne(ctx context.Context, cfg *config, engine *policy.Engine, prober *probe.Prober, old remembered, asked string) (checked, error) {
	if !strings.Contains(asked, "@") {
		asked = "someone@" + asked
	}
	rcpt, err := policy.ParseAddress(asked)
	if err != nil {
		return checked{}, err
	}
	if rcpt.Domain == "" {
		return checked{}, errors.New("want a domain or an address with one")
	}
	q := policy.Question{SenderUnknown: true, Recipient: rcpt}
	a, err := engine.Decide(ctx, q)
	if err != nil {
		return checked{}, err
	}
	result := prober.Probe(ctx, a.Destination(rcpt))
	fresh := old[a.Destination(rcpt)]
	fresh.State, fresh.Checked = result.Judge(a.TLS, tlsVersions[cfg.str("tls-floor")]), result.Checked
	if fresh.State == policy.Works {
		fresh.Worked, fresh.Lost = result.Checked, time.Time{}
	}
	q.Fresh = &fresh
	e, err := explainOne(ctx, cfg, engine, q)
	if err != nil {
		return checked{}, err
	}
	return checked{Asked: asked, Channel: e.Channel, Transport: e.Transport, TLSPolicy: e.TLSPolicy, Reasons: e.Reasons, Result: result}, nil
}

func printChecked(out io.Writer, r checked) {
	res := r.Result
	fmt.Fprintf(out, "%s: %s (%s)\n", res.Dest, res.State, res.Reason)
	for _, mx := range res.MX {
		fmt.Fprintf(out, "  MX %d %s", mx.Preference, mx.Host)
		if mx.Error != "" {
			fmt.Fprintf(out, ": %s", mx.Error)
		}
		fmt.Fprintln(out)
		for _, a := range mx.Addresses {
			fmt.Fprintf(out, "    %s: %s", a.Addr, a.State)
			if a.Version != "" {
				fmt.Fprintf(out, ", %s %s", a.Version, a.Cipher)
			}
			if a.Error != "" {
				fmt.Fprintf(out, " (%s)", a.Error)
			}
			fmt.Fprintln(out)
			if c := a.Cert; c != nil {
				fmt.Fprintf(out, "      certificate %s, %s %d bits, until %s, issued by %s\n", strings.Join(c.Names, " "), c.KeyType, c.KeyBits, c.NotAfter.UTC().Format(time.DateOnly), c.Issuer)
				if c.Verified {
					fmt.Fprintln(out, "      the chain is trusted")
				} else {
					fmt.Fprintf(out, "      the chain is not trusted: %s\n", c.VerifyError)
				}
			}
		}
	}
	fmt.Fprintf(out, "  Postseal: %s", r.Channel)
	if r.Transport != "" {
		fmt.Fprintf(out, " by %s", r.Transport)
	}
	if r.TLSPolicy != "" {
		fmt.Fprintf(out, ", TLS policy %q", r.TLSPolicy)
	}
	fmt.Fprintln(out)
	for _, reason := range r.Reasons {
		fmt.Fprintf(out, "    - %s\n", reason)
	}
}
