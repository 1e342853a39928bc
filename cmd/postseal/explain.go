package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/sql"
)

// decideSettings are those that a decision depends on.
var decideSettings = append([]string{
	"own-domain", "secure-subject", "grace", "tls-floor", "resolver", "trusted-resolver", "dane", "mta-sts", "probe-from", "tls-roots", "fallback-listen", "notice-from", "portal-url", "message-lifetime",
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
	Channel     string   `json:"channel"`   // tls, escrow, plain; "conflict"
	Transport   string   `json:"transport"` // Postfix's transport:nexthop; "" for its own routing
	TLSPolicy   string   `json:"tls_policy"`
	Destination string   `json:"destination"`
	Posture     string   `json:"posture"`
	Verify      string   `json:"verify,omitempty"`   // of the pickup, by rule; "" for the default
	Mode        string   `json:"mode,omitempty"`     // of the seal
	Language    string   `json:"language,omitempty"` // of notices and pages
	Triggers    []string `json:"triggers,omitempty"` // what the content sets off, and for whom it does not
	Reasons     []string `json:"reasons"`
}

func explain(c *cli.Context) error {
	if err := wantArgs(c, 0, 0, "--sender and --recipient, no argument"); err != nil {
		return err
	}
	if !c.IsSet("sender") || !c.IsSet("recipient") {
		return errors.New("explain: want --sender A --recipient B")
	}
	cfg, db, engine, err := openEngine(c)
	if err != nil {
		return err
	}
	defer db.Close()
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
	e, err := explainOne(c.Context, cfg, engine, q)
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
	fmt.Fprintf(out, "destination: %s (%s)\n", e.Destination, e.Posture)
	if p := pickupWords(e.Verify, e.Mode, e.Language); p != "" {
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

func explainOne(ctx context.Context, cfg *config, engine *policy.Engine, q policy.Question) (explanation, error) {
	a, err := engine.Decide(ctx, q)
	if err != nil {
		return explanation{}, err
	}
	e := explanation{
		Sender: q.Sender.String(), Recipient: q.Recipient.String(), Channel: a.Channel.String(),
		Transport: a.Transport(a.Nexthop, splitter(cfg)), Destination: a.Destination(q.Recipient),
		Posture: a.Input.Posture.State.String(), Reasons: policy.Explain(a.Input, a.Verdict),
		Verify: a.Verify, Mode: a.Mode, Language: a.Language,
	}
	switch a.Channel {
	case 0:
		e.Channel = "conflict"
	case policy.TLS:
		t := a.TLS
		if t.Protocols == "" {
			t.Protocols = ">=" + tlsVersionName(cfg.str("tls-floor"))
		}
		e.TLSPolicy = t.PostfixPolicy(policy.LevelEncrypt)
	}
	if a.Blocked != "" {
		e.Reasons = append(e.Reasons, "but it can't go there: "+a.Blocked)
	}
	return e, nil
}

// openEngine opens the store and makes an engine of what is in it.
func openEngine(c *cli.Context) (*config, *sql.DB, *policy.Engine, error) {
	cfg, db, err := openStore(c)
	if err != nil {
		return nil, nil, nil, err
	}
	engine, err := storedEngine(c, cfg, db)
	if err != nil {
		db.Close()
		return nil, nil, nil, err
	}
	return cfg, db, engine, nil
}

func storedEngine(c *cli.Context, cfg *config, db *sql.DB) (*policy.Engine, error) {
	s, err := askPostfix(c.Context, cfg, newLog(c.App.ErrWriter, "text"))
	if err != nil {
		return nil, err
	}
	snapshot, err := loadRules(c.Context, cfg, db, s.delimiters)
	if err != nil {
		return nil, err
	}
	postures, err := loadRemembered(c.Context, db)
	if err != nil {
		return nil, err
	}
	return newEngine(cfg, s, func() *policy.Snapshot { return snapshot }, postures), nil
}
