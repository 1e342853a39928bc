package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/sql"
	"github.com/postseal/postseal/tlsmap"
)

// decideSettings are those that a decision depends on.
var decideSettings = append([]string{
	"own-domain", "secure-subject", "grace", "tls-floor", "resolver", "trusted-resolver", "dane", "mta-sts", "tlsrpt-attributes", "probe-from", "tls-roots", "fallback-listen", "notice-from", "portal-url", "message-lifetime",
	"lmtp-listen", "lmtp-escrow-listen", "lmtp-tls-listen", "lmtp-decide-listen",
}, storeSettings...)

func explainCommand() *cli.Command {
	return verb("explain", "", "say what would happen to a message, and why", with([]cli.Flag{
		&cli.StringFlag{Name: "sender", Usage: "envelope sender; empty for a bounce"},
		&cli.StringFlag{Name: "recipient", Usage: "envelope recipient"},
		&cli.StringFlag{Name: "login", Usage: "SASL login"},
		&cli.StringFlag{Name: "subject", Usage: "subject of the message"},
		headerFlag("`FIELD` of the message's header, 'Name: value' (repeatable)"),
		jsonFlag(),
	}, settingFlags(decideSettings...)), explain)
}

// explanation is what explain prints.
type explanation struct {
	Sender      string   `json:"sender"`
	Recipient   string   `json:"recipient"`
	Channel     string   `json:"channel"`         // tls, escrow, plain; "conflict"
	Transport   string   `json:"transport"`       // Postfix's transport:nexthop; "" for its own routing
	TLSPolicy   string   `json:"tls_policy"`      // as the map answers Postfix; "" for nothing
	TLSBy       string   `json:"tls_by"`          // whose demand it is: rule, dane, mta-sts, override, floor, table, nothing
	Waits       string   `json:"waits,omitempty"` // why the map answers "try again later"
	Destination string   `json:"destination"`
	Posture     string   `json:"posture"`
	Verify      string   `json:"verify,omitempty"`   // of the pickup, by rule; "" for the default
	Mode        string   `json:"mode,omitempty"`     // of the seal
	Language    string   `json:"language,omitempty"` // of notices and pages
	Lifetime    string   `json:"lifetime,omitempty"` // of a sealed message, by rule; "" for the setting
	MinLifetime string   `json:"min_lifetime,omitempty"`
	MaxLifetime string   `json:"max_lifetime,omitempty"`
	Triggers    []string `json:"triggers,omitempty"` // what the content sets off, and for whom it does not
	Reasons     []string `json:"reasons"`

	demand policy.TLSDemand // behind TLSPolicy
}

func explain(c *cli.Context) error {
	if err := wantArgs(c, 0, 0, "--sender and --recipient, no argument"); err != nil {
		return err
	}
	if !c.IsSet("sender") || !c.IsSet("recipient") {
		return errors.New("explain: want --sender A --recipient B")
	}
	x, err := openExplainer(c)
	if err != nil {
		return err
	}
	defer x.db.Close()
	engine := x.engine
	q := policy.Question{Login: c.String("login")}
	if q.Sender, err = policy.ParseAddress(c.String("sender")); err != nil {
		return fmt.Errorf("--sender: %w", err)
	}
	if q.Recipient, err = policy.ParseAddress(c.String("recipient")); err != nil {
		return fmt.Errorf("--recipient: %w", err)
	}
	if q.Recipient.Domain == "" {
		return errors.New("--recipient: want an address with a domain")
	}
	fired, err := explainContent(c, engine, q.Sender)
	if err != nil {
		return err
	}
	q.Content = policy.Rules(fired)
	e, err := x.explain(c.Context, q)
	if err != nil {
		return err
	}
	e.Triggers = policy.ExplainFired(fired)
	if c.Bool("json") {
		return printJSON(c, e)
	}
	out := c.App.Writer
	fmt.Fprintf(out, "channel:     %s\n", e.Channel)
	fmt.Fprintf(out, "transport:   %s\n", orDash(e.Transport))
	fmt.Fprintf(out, "tls policy:  %s\n", orDash(e.TLSPolicy))
	if e.Waits != "" {
		fmt.Fprintf(out, "waits:       %s\n", e.Waits)
	}
	fmt.Fprintf(out, "destination: %s (%s)\n", e.Destination, e.Posture)
	if p := pickupWords(e.Verify, e.Mode, e.Language, lifetimeWords(e.Lifetime, e.MinLifetime, e.MaxLifetime)); p != "" {
		fmt.Fprintf(out, "pickup:      %s\n", p)
	}
	for _, t := range e.Triggers {
		fmt.Fprintf(out, "trigger:     %s\n", t)
	}
	fmt.Fprintln(out, "because:")
	for _, r := range e.Reasons {
		fmt.Fprintf(out, "  - %s\n", r)
	}
	return nil
}

// explainContent returns the triggers that --subject and --header set off.
func explainContent(c *cli.Context, engine *policy.Engine, sender policy.Address) ([]policy.Fired, error) {
	triggers := engine.Rules().Triggers()
	fired := triggers.Match("Subject", c.String("subject"), sender, engine.Now())
	for _, h := range headers(c) {
		name, value, err := parseHeader(h)
		if err != nil {
			return nil, err
		}
		fired = append(fired, triggers.Match(name, value, sender, engine.Now())...)
	}
	return fired, nil
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// explainOne decides, and asks the TLS map that Postfix would ask for the answer.
func explainOne(ctx context.Context, cfg *config, engine *policy.Engine, maps *tlsmap.Server, q policy.Question) (explanation, error) {
	a, err := engine.Decide(ctx, q)
	if err != nil {
		return explanation{}, err
	}
	posture := a.Input.Posture
	if q.Fresh != nil {
		posture = *q.Fresh
	}
	e := explanation{
		Sender: q.Sender.String(), Recipient: q.Recipient.String(), Channel: a.Channel.String(),
		Transport: a.Transport(a.Nexthop, splitter(cfg)), Destination: a.Destination(q.Recipient),
		Posture: posture.State.String(), Reasons: policy.Explain(a.Input, a.Verdict), TLSBy: policy.FromNothing.String(),
		Verify: a.Verify, Mode: a.Mode, Language: a.Language,
		Lifetime: lifetimeText(a.Life.Usual), MinLifetime: lifetimeText(a.Life.Min), MaxLifetime: lifetimeText(a.Life.Max),
	}
	name := ""
	switch {
	case a.Channel == 0:
		e.Channel = "conflict"
	case a.Channel == policy.TLS:
		name = tlsmap.MapSecureTLSPolicy
	case a.Channel == policy.Plain && a.Reason != policy.OwnDomain:
		name = tlsmap.MapTLSPolicy
	}
	if name != "" {
		t, err := maps.TLSGiven(ctx, name, e.Destination, posture)
		if err != nil {
			return explanation{}, err
		}
		e.TLSPolicy, e.TLSBy, e.Waits, e.demand = t.Text, t.Demand.By.String(), t.Demand.Wait, t.Demand
		e.Reasons = append(e.Reasons, policy.ExplainTLS(t.Input, t.Demand)...)
		if t.Admin != "" {
			e.Reasons = append(e.Reasons, "your own TLS policy table says: "+t.Admin)
		}
	}
	if a.Blocked != "" {
		e.Reasons = append(e.Reasons, "but it can't go there: "+a.Blocked)
	}
	return e, nil
}

// explainer explains by what is in the database, and what destinations publish now.
type explainer struct {
	cfg       *config
	db        *sql.DB
	engine    *policy.Engine
	maps      *tlsmap.Server
	published func(ctx context.Context, dest string) policy.Published // nil: nothing is heeded
}

// openExplainer opens the store and makes an engine and maps of what is in it.
func openExplainer(c *cli.Context) (*explainer, error) {
	cfg, db, err := openStore(c)
	if err != nil {
		return nil, err
	}
	x := &explainer{cfg: cfg, db: db}
	if err := x.open(c); err != nil {
		db.Close()
		return nil, err
	}
	return x, nil
}

func (x *explainer) open(c *cli.Context) error {
	log := newLog(c.App.ErrWriter, "text")
	s, err := askPostfix(c.Context, x.cfg, log)
	if err != nil {
		return err
	}
	snapshot, err := loadRules(c.Context, x.cfg, x.db, s.delimiters, nil)
	if err != nil {
		return err
	}
	old, err := loadRemembered(c.Context, x.cfg, x.db)
	if err != nil {
		return err
	}
	policies := newPolicyReader(x.cfg, s, x.db)
	policies.o.Fresh = false // what counts is what the server keeps
	prober, err := newProber(x.cfg, s, log, nil, policies.give)
	if err != nil {
		return err
	}
	if err := policies.load(c.Context); err != nil {
		return err
	}
	x.engine = newEngine(x.cfg, s, func() *policy.Snapshot { return snapshot }, old)
	x.published = publishedBy(x.cfg, old, prober, policies)
	conf := mapConfig(x.cfg, s, x.engine, nil, log, nil)
	conf.Published, conf.DANE = x.published, prober.DANE
	if err := reportAttributes(c.Context, x.cfg, s, &conf, old.STS); err != nil {
		return err
	}
	x.maps, err = tlsmap.New(conf)
	return err
}

// explain is explainOne with what the destination publishes, looked up where no look
// is remembered.
func (x *explainer) explain(ctx context.Context, q policy.Question) (explanation, error) {
	a, err := x.engine.Decide(ctx, q)
	if err != nil {
		return explanation{}, err
	}
	dest := a.Destination(q.Recipient)
	if q.Fresh == nil && x.published != nil && a.Reason != policy.OwnDomain {
		p := x.engine.Postures.Posture(dest, a.TLS)
		p.Published = x.published(ctx, dest)
		q.Fresh = &p
	}
	return explainOne(ctx, x.cfg, x.engine, x.maps, q)
}
