package main

import (
	"bufio"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/words"
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/sql"
)

func domainCommand() *cli.Command {
	return noun("domain", "rules for recipient domains and addresses", ruleVerbs(policy.ByRecipient)...)
}

func senderCommand() *cli.Command {
	return noun("sender", "rules for sender addresses, @domains and SASL logins (--login)", ruleVerbs(policy.BySender)...)
}

func ruleVerbs(scope policy.Scope) []*cli.Command {
	store := settingFlags(storeSettings...)
	var login []cli.Flag
	what := "DOMAIN|.PARENT|ADDRESS|*"
	if scope == policy.BySender {
		login = []cli.Flag{&cli.StringFlag{Name: "login", Usage: "the rule is for this SASL `LOGIN`, or @REALM"}}
		what = "ADDRESS|@DOMAIN|@.PARENT|*"
	}
	form := []cli.Flag{
		&cli.StringFlag{Name: "require", Usage: "`REQUIREMENT`: none, tls, encryption or escrow"},
		&cli.StringFlag{Name: "verify", Usage: "how recipients prove who they are: code, passphrase or account"},
		&cli.StringFlag{Name: "mode", Usage: "recoverable (a lost notice can be sent anew) or sealed"},
		&cli.StringFlag{Name: "language", Usage: "`LANGUAGE` of notices and pages, such as de; without, English mails and the browser's choice"},
		&cli.StringFlag{Name: "lifetime", Usage: "how long a sealed message can be picked up, as `DURATION`; of several rules the shortest counts"},
		&cli.StringFlag{Name: "min-lifetime", Usage: "at least `DURATION`, whatever another rule or the setting says"},
		&cli.StringFlag{Name: "max-lifetime", Usage: "at most `DURATION`, whoever extends it"},
		&cli.StringFlag{Name: "until", Usage: "last `DATE` of the rule: 2026-12-31, or a time as in RFC 3339"},
		&cli.StringFlag{Name: "note", Usage: "why there is this rule"},
		&cli.BoolFlag{Name: "weaken", Usage: "the rule is weaker than a broader one, on purpose; wants --note"},
	}
	if scope == policy.ByRecipient {
		form = append(form,
			&cli.StringFlag{Name: "level", Usage: "TLS level: may, encrypt, verify or secure"},
			&cli.BoolFlag{Name: "override", Usage: "mail of which nothing is required passes by what the domain publishes (DANE, MTA-STS), for a partner whose TLS is broken; wants --require none, --note and --until, at most 90 days away"},
			&cli.StringSliceFlag{Name: "match", Usage: "`NAME` that the certificate must have, for verify and secure (repeatable)"},
			&cli.StringFlag{Name: "protocols", Usage: "TLS versions, such as >=TLSv1.2"},
			&cli.StringFlag{Name: "ciphers", Usage: "least cipher grade: low, medium or high"},
			&cli.StringFlag{Name: "servername", Usage: "name sent in the handshake (SNI): hostname, nexthop or a name"},
			&cli.StringFlag{Name: "nexthop", Usage: "send to this `[HOST]:PORT` or domain instead of the MX"},
		)
	}
	list := func(c *cli.Context) error { return listRules(c, scope) }
	return []*cli.Command{
		verb("add", what, "add a rule", with(form, login, store), func(c *cli.Context) error { return putRule(c, scope, false) }),
		verb("set", what, "change a rule: what is not named stays", with(form, login, store), func(c *cli.Context) error { return putRule(c, scope, true) }),
		verb("list", "", "list the rules", with([]cli.Flag{jsonFlag()}, store), list),
		verb("show", what, "show one rule", with([]cli.Flag{jsonFlag()}, login, store), func(c *cli.Context) error { return showRule(c, scope) }),
		verb("remove", what, "remove a rule", with(login, store), func(c *cli.Context) error { return removeRule(c, scope) }),
		verb("import", "FILE|-", "add rules from CSV: pattern,requirement[,level[,match[,note]]]; all or nothing",
			with([]cli.Flag{&cli.BoolFlag{Name: "replace", Usage: "replace the rules that exist already"}}, store), func(c *cli.Context) error { return importRules(c, scope) }),
		verb("export", "", "write the rules as CSV, for import", store, func(c *cli.Context) error { return exportRules(c, scope) }),
	}
}

// openStore loads the settings and opens the database as the user it belongs
// to.
func openStore(c *cli.Context) (*config, *sql.DB, error) {
	cfg, err := loadSettings(c, lookupEnv)
	if err != nil {
		return nil, nil, err
	}
	if err := sql.DropToOwner(cfg.dbPath()); err != nil {
		return nil, nil, err
	}
	db, err := sql.Open(c.Context, cfg.str("db"), sql.Options{})
	return cfg, db, err
}

// openKeys opens the key file and the database. The file is read before the drop of
// rights: it may be root's.
func openKeys(c *cli.Context) (*escrow.Keys, *sql.DB, error) {
	cfg, err := loadSettings(c, lookupEnv)
	if err != nil {
		return nil, nil, err
	}
	keys, err := escrow.LoadKeys(cfg.str("key-file"))
	if err != nil {
		return nil, nil, err
	}
	_, db, err := openStore(c)
	return keys, db, err
}

// rulePattern reads the one argument or --login and returns the rule's scope
// and canonical pattern.
func rulePattern(c *cli.Context, scope policy.Scope) (policy.Scope, string, error) {
	typed := c.Args().First()
	if scope == policy.BySender && c.IsSet("login") {
		if err := wantArgs(c, 0, 0, "no argument beside --login"); err != nil {
			return 0, "", err
		}
		scope, typed = policy.ByLogin, c.String("login")
	} else if err := wantArgs(c, 1, 1, "one "+c.Command.ArgsUsage); err != nil {
		return 0, "", err
	}
	p, err := policy.CanonicalPattern(scope, typed)
	return scope, p, err
}

// ruleFlags are the flags that say something of a rule.
var ruleFlags = []string{"require", "verify", "mode", "language", "lifetime", "min-lifetime", "max-lifetime", "until", "note", "weaken", "level", "match", "protocols", "ciphers", "servername", "nexthop", "override"}

func putRule(c *cli.Context, scope policy.Scope, set bool) error {
	scope, pattern, err := rulePattern(c, scope)
	if err != nil {
		return err
	}
	cfg, db, err := openStore(c)
	if err != nil {
		return err
	}
	defer db.Close()
	r := &policy.Rule{Scope: scope, Pattern: pattern, Created: time.Now()}
	if set {
		old, err := findRule(c.Context, db, scope, pattern)
		if err != nil {
			return err
		}
		r = old
	} else if !c.IsSet("require") {
		return errors.New("name a requirement: --require none, tls, encryption or escrow")
	}
	if set && !slices.ContainsFunc(ruleFlags, c.IsSet) {
		return errors.New("nothing to change: name what, such as --require or --note")
	}
	if err := applyFlags(c, r); err != nil {
		return err
	}
	if err := r.Validate(); err != nil {
		return err
	}
	change := sql.ChangeOptions{Delimiters: delimiters(c.Context, cfg)}
	if set {
		err = db.SetRule(c.Context, r, change)
	} else {
		err = db.AddRule(c.Context, r, change)
	}
	if err != nil {
		return err
	}
	if !set && strings.HasPrefix(pattern, ".") {
		fmt.Fprintf(c.App.ErrWriter, "note: %s covers the subdomains alone; for the domain itself add %s too\n", pattern, pattern[1:])
	}
	return nil
}

func applyFlags(c *cli.Context, r *policy.Rule) error {
	var err error
	text := func(flag string, to *string) {
		if c.IsSet(flag) {
			*to = c.String(flag)
		}
	}
	if c.IsSet("require") {
		if r.Requirement, err = policy.ParseRequirement(c.String("require")); err != nil {
			return err
		}
	}
	text("verify", &r.Verify)
	text("mode", &r.Mode)
	if c.IsSet("language") {
		if r.Language, err = parseLanguage(c.String("language")); err != nil {
			return err
		}
	}
	for flag, to := range lifetimes(r) {
		if !c.IsSet(flag) {
			continue
		}
		if *to, err = parseLifetime(c.String(flag)); err != nil {
			return fmt.Errorf("--%s: %w", flag, err)
		}
	}
	text("note", &r.Note)
	if c.IsSet("weaken") {
		r.Weaken = c.Bool("weaken")
	}
	if c.IsSet("until") {
		if r.Until, err = parseUntil(c.String("until")); err != nil {
			return err
		}
		if !r.Until.IsZero() && !r.Until.After(time.Now()) {
			return fmt.Errorf("--until %s is in the past", c.String("until"))
		}
	}
	if r.Scope != policy.ByRecipient {
		return nil
	}
	if c.IsSet("level") {
		if r.TLS.Level, err = policy.ParseLevel(c.String("level")); err != nil {
			return err
		}
	}
	if c.IsSet("match") {
		r.TLS.Match = nil
		for _, m := range c.StringSlice("match") {
			for name := range strings.SplitSeq(m, ":") {
				r.TLS.Match = append(r.TLS.Match, matchName(name))
			}
		}
	}
	text("protocols", &r.TLS.Protocols)
	text("ciphers", &r.TLS.Ciphers)
	text("servername", &r.TLS.Servername)
	text("nexthop", &r.Nexthop)
	if c.IsSet("override") {
		r.Override = c.Bool("override")
	}
	return nil
}

// lifetimes are the lifetimes of a rule by flag, which are columns of CSV too.
func lifetimes(r *policy.Rule) map[string]*time.Duration {
	return map[string]*time.Duration{"lifetime": &r.Life.Usual, "min-lifetime": &r.Life.Min, "max-lifetime": &r.Life.Max}
}

// parseLifetime reads a duration, "" for none.
func parseLifetime(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	if err := checkLifetime(s); err != nil {
		return 0, err
	}
	return parseDuration(s)
}

// lifetimeText writes a duration as parseLifetime reads it; "" for none.
func lifetimeText(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d == 0:
		return ""
	case d%day == 0:
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	return d.String()
}

// matchName brings a certificate name into the form in which names are
// compared.
func matchName(n string) string {
	n = strings.TrimSpace(n)
	if rest, ok := strings.CutPrefix(n, "."); ok {
		return "." + policy.CanonicalDomain(rest)
	}
	return policy.CanonicalDomain(n)
}

// parseLanguage reads a language that there are words in, or "" for none.
func parseLanguage(s string) (string, error) {
	if s = strings.ToLower(strings.TrimSpace(s)); s == "" {
		return "", nil
	}
	return s, words.Check(s)
}

// parseUntil reads the end of a rule: a day, which it outlasts (UTC), a time,
// or "" for none.
func parseUntil(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.Parse(time.DateOnly, s); err == nil {
		return d.AddDate(0, 0, 1), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("--until %q: want a day like 2026-12-31 or a time like 2026-12-31T18:00:00Z", s)
	}
	return t, nil
}

func findRule(ctx context.Context, db *sql.DB, scope policy.Scope, pattern string) (*policy.Rule, error) {
	r, err := db.Rule(ctx, scope, pattern)
	if err == nil && r == nil {
		err = fmt.Errorf("there is no %s rule for %s", scope, pattern)
	}
	return r, err
}

// listedRule is a rule as --json prints it.
type listedRule struct {
	Scope       policy.Scope       `json:"scope"`
	Pattern     string             `json:"pattern"`
	Requirement policy.Requirement `json:"requirement"`
	Level       string             `json:"level,omitempty"`
	Match       []string           `json:"match,omitempty"`
	Protocols   string             `json:"protocols,omitempty"`
	Ciphers     string             `json:"ciphers,omitempty"`
	Servername  string             `json:"servername,omitempty"`
	Nexthop     string             `json:"nexthop,omitempty"`
	Verify      string             `json:"verify,omitempty"`
	Mode        string             `json:"mode,omitempty"`
	Language    string             `json:"language,omitempty"`
	Lifetime    string             `json:"lifetime,omitempty"`
	MinLifetime string             `json:"min_lifetime,omitempty"`
	MaxLifetime string             `json:"max_lifetime,omitempty"`
	Weaker      bool               `json:"weaker,omitempty"`
	WeakerThan  string             `json:"weaker_than,omitempty"`
	Override    bool               `json:"override,omitempty"`
	Note        string             `json:"note,omitempty"`
	Until       string             `json:"until,omitempty"`
	Expired     bool               `json:"expired,omitempty"`
	Created     string             `json:"created"`
}

func listed(r *policy.Rule, s *policy.Snapshot, now time.Time) listedRule {
	l := listedRule{
		Scope: r.Scope, Pattern: r.Pattern, Requirement: r.Requirement, Level: r.TLS.Level.String(), Match: r.TLS.Match,
		Protocols: r.TLS.Protocols, Ciphers: r.TLS.Ciphers, Servername: r.TLS.Servername, Nexthop: r.Nexthop,
		Verify: r.Verify, Mode: r.Mode, Language: r.Language,
		Lifetime: lifetimeText(r.Life.Usual), MinLifetime: lifetimeText(r.Life.Min), MaxLifetime: lifetimeText(r.Life.Max), Weaker: r.Weaken, Override: r.Override, Note: r.Note, Expired: !r.Active(now),
		Created: r.Created.UTC().Format(time.RFC3339),
	}
	if !r.Until.IsZero() {
		l.Until = r.Until.UTC().Format(time.RFC3339)
	}
	f := r.Found()
	if b := s.Broader(f); !b.None() {
		if _, weaker := f.WeakerThan(b); weaker {
			l.WeakerThan = b.String()
		}
	}
	return l
}

// listedScopes are the scopes that a noun lists.
func listedScopes(scope policy.Scope) []policy.Scope {
	if scope == policy.BySender {
		return []policy.Scope{policy.BySender, policy.ByLogin}
	}
	return []policy.Scope{scope}
}

func readListed(c *cli.Context, db *sql.DB, cfg *config, scope policy.Scope) ([]listedRule, error) {
	rules, version, err := db.Rules(c.Context)
	if err != nil {
		return nil, err
	}
	s, err := policy.NewSnapshot(version, rules, delimiters(c.Context, cfg))
	if err != nil {
		return nil, err
	}
	all := []listedRule{}
	for _, sc := range listedScopes(scope) {
		for _, r := range rules {
			if r.Scope == sc {
				all = append(all, listed(r, s, time.Now()))
			}
		}
	}
	return all, nil
}

func listRules(c *cli.Context, scope policy.Scope) error {
	if err := wantArgs(c, 0, 0, "no argument"); err != nil {
		return err
	}
	cfg, db, err := openStore(c)
	if err != nil {
		return err
	}
	defer db.Close()
	all, err := readListed(c, db, cfg, scope)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c, all)
	}
	return printRules(c.App.Writer, all)
}

func printRules(out io.Writer, all []listedRule) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "SCOPE\tPATTERN\tREQUIRES\tTLS\tPICKUP\tUNTIL\tNOTE")
	for _, l := range all {
		tls := strings.TrimSpace(l.Level + " " + strings.Join(l.Match, ":"))
		if l.Nexthop != "" {
			tls = strings.TrimSpace(tls + " via " + l.Nexthop)
		}
		note := l.Note
		if l.WeakerThan != "" {
			note = strings.TrimSpace("WEAKER than " + l.WeakerThan + ". " + note)
		}
		if l.Override {
			note = strings.TrimSpace("OVERRIDES DANE and MTA-STS. " + note)
		}
		until := l.Until
		if l.Expired {
			until += " (over)"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.Scope, l.Pattern, l.Requirement, tls, pickupWords(l.Verify, l.Mode, l.Language, lifetimeWords(l.Lifetime, l.MinLifetime, l.MaxLifetime)), until, note)
	}
	return w.Flush()
}

// lifetimeWords says in short how long a message can be picked up: 7d, 7d(2d..30d).
func lifetimeWords(usual, least, most string) string {
	if least == "" && most == "" {
		return usual
	}
	return usual + "(" + least + ".." + most + ")"
}

// pickupWords says in short what a rule demands of the pickup.
func pickupWords(words ...string) string {
	return strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), " ")
}

func showRule(c *cli.Context, scope policy.Scope) error {
	ruleScope, pattern, err := rulePattern(c, scope)
	if err != nil {
		return err
	}
	cfg, db, err := openStore(c)
	if err != nil {
		return err
	}
	defer db.Close()
	r, err := findRule(c.Context, db, ruleScope, pattern)
	if err != nil {
		return err
	}
	s, err := db.Snapshot(c.Context, delimiters(c.Context, cfg), nil)
	if err != nil {
		return err
	}
	l := listed(r, s, time.Now())
	if c.Bool("json") {
		return printJSON(c, l)
	}
	return printRules(c.App.Writer, []listedRule{l})
}

func removeRule(c *cli.Context, scope policy.Scope) error {
	scope, pattern, err := rulePattern(c, scope)
	if err != nil {
		return err
	}
	cfg, db, err := openStore(c)
	if err != nil {
		return err
	}
	defer db.Close()
	removed, err := db.RemoveRule(c.Context, scope, pattern, sql.ChangeOptions{Delimiters: delimiters(c.Context, cfg)})
	if err == nil && !removed {
		err = fmt.Errorf("there is no %s rule for %s", scope, pattern)
	}
	return err
}

// csvColumns are the columns of an export. An import without a header line has
// the first five.
var csvColumns = []string{"pattern", "requirement", "level", "match", "note", "scope", "protocols", "ciphers", "servername", "nexthop", "verify", "mode", "until", "weaken", "language", "override", "lifetime", "min-lifetime", "max-lifetime"}

func importRules(c *cli.Context, scope policy.Scope) error {
	if err := wantArgs(c, 1, 1, "one CSV file, or - for standard input"); err != nil {
		return err
	}
	name := c.Args().First()
	in := c.App.Reader
	if name != "-" {
		f, err := os.Open(name) // before the drop of rights: the file is the caller's
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	rules, err := readCSV(in, scope)
	if err != nil {
		return fmt.Errorf("%s: nothing was imported:\n%w", name, err)
	}
	cfg, db, err := openStore(c)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := db.ImportRules(c.Context, rules, c.Bool("replace"), sql.ChangeOptions{Delimiters: delimiters(c.Context, cfg)}); err != nil {
		return fmt.Errorf("nothing was imported: %w", err)
	}
	fmt.Fprintf(c.App.Writer, "%d rules imported\n", len(rules))
	return nil
}

// maxCSVErrors bounds what a person has to read.
const maxCSVErrors = 20

// readCSV reads rules, and on errors returns all of them (the first 20), each
// with its line.
func readCSV(in io.Reader, scope policy.Scope) ([]*policy.Rule, error) {
	var rules []*policy.Rule
	seen := map[string]int{}
	err := eachCSV(in, csvColumns[:5], csvColumns, func(field map[string]string, line int) error {
		rule, err := csvRule(field, scope)
		if err != nil {
			return err
		}
		key := rule.Scope.String() + " " + rule.Pattern
		prev, twice := seen[key]
		seen[key] = line
		if twice {
			return fmt.Errorf("%s stands in line %d already", rule.Pattern, prev)
		}
		rules = append(rules, rule)
		return nil
	})
	if err == nil && rules == nil {
		err = errors.New("the file holds no rules")
	}
	return rules, err
}

// eachCSV calls fn with the fields of each line, by column. Without a header line the
// columns are usual; one may name any of known. On errors it returns all of them (the
// first 20), each with its line.
func eachCSV(in io.Reader, usual, known []string, fn func(field map[string]string, line int) error) error {
	br := bufio.NewReader(in)
	if bom, _ := br.Peek(3); string(bom) == "\xef\xbb\xbf" {
		br.Discard(3)
	}
	r := csv.NewReader(br)
	r.FieldsPerRecord = -1
	r.Comment = '#'
	r.TrimLeadingSpace = true
	columns := usual
	var bad []error
	for first := true; ; first = false {
		rec, err := r.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			bad = append(bad, err)
			break
		}
		line, _ := r.FieldPos(0)
		if first && rec[0] == known[0] {
			if err := checkColumns(rec, known); err != nil {
				return fmt.Errorf("line %d: %w", line, err)
			}
			columns = rec
			continue
		}
		if len(rec) > len(columns) {
			err = fmt.Errorf("%d fields, want at most %d: %s", len(rec), len(columns), strings.Join(columns, ","))
		} else {
			field := map[string]string{}
			for i, v := range rec {
				field[columns[i]] = strings.TrimSpace(v)
			}
			err = fn(field, line)
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("line %d: %w", line, err))
			if len(bad) == maxCSVErrors {
				bad = append(bad, errors.New("and perhaps more"))
				break
			}
		}
	}
	return errors.Join(bad...)
}

// checkColumns reads a header line. A name that is not known would drop a field
// and make the rule another than is meant.
func checkColumns(header, known []string) error {
	for i, name := range header {
		if !slices.Contains(known, name) {
			return fmt.Errorf("unknown column %.80q: want some of %s", name, strings.Join(known, ","))
		}
		if slices.Contains(header[:i], name) {
			return fmt.Errorf("column %s stands there twice", name)
		}
	}
	return nil
}

func csvRule(field map[string]string, scope policy.Scope) (*policy.Rule, error) {
	r := &policy.Rule{Scope: scope, Created: time.Now()}
	var err error
	if w := field["scope"]; w != "" {
		if r.Scope, err = policy.ParseScope(w); err != nil {
			return nil, err
		}
		if !contains(listedScopes(scope), r.Scope) {
			return nil, fmt.Errorf("a %s rule does not belong here", r.Scope)
		}
	}
	if r.Pattern, err = policy.CanonicalPattern(r.Scope, field["pattern"]); err != nil {
		return nil, err
	}
	if field["requirement"] == "" {
		return nil, errors.New("want pattern,requirement[,level[,match[,note]]]")
	}
	if r.Requirement, err = policy.ParseRequirement(field["requirement"]); err != nil {
		return nil, err
	}
	if r.TLS.Level, err = policy.ParseLevel(field["level"]); err != nil {
		return nil, err
	}
	for m := range strings.FieldsFuncSeq(field["match"], func(c rune) bool { return c == ':' || c == ' ' }) {
		r.TLS.Match = append(r.TLS.Match, matchName(m))
	}
	if r.Until, err = parseUntil(field["until"]); err != nil {
		return nil, err
	}
	r.Note, r.Nexthop, r.Verify, r.Mode = field["note"], field["nexthop"], field["verify"], field["mode"]
	if r.Language, err = parseLanguage(field["language"]); err != nil {
		return nil, err
	}
	for column, to := range lifetimes(r) {
		if *to, err = parseLifetime(field[column]); err != nil {
			return nil, fmt.Errorf("%s: %w", column, err)
		}
	}
	r.TLS.Protocols, r.TLS.Ciphers, r.TLS.Servername = field["protocols"], field["ciphers"], field["servername"]
	for column, to := range map[string]*bool{"weaken": &r.Weaken, "override": &r.Override} {
		switch field[column] {
		case "", "no":
		case "yes":
			*to = true
		default:
			return nil, fmt.Errorf("%s %.80q: want yes, or no", column, field[column])
		}
	}
	return r, r.Validate()
}

func contains(list []policy.Scope, s policy.Scope) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

func exportRules(c *cli.Context, scope policy.Scope) error {
	if err := wantArgs(c, 0, 0, "no argument"); err != nil {
		return err
	}
	_, db, err := openStore(c)
	if err != nil {
		return err
	}
	defer db.Close()
	rules, _, err := db.Rules(c.Context)
	if err != nil {
		return err
	}
	w := csv.NewWriter(c.App.Writer)
	w.Write(csvColumns)
	for _, r := range rules {
		if !contains(listedScopes(scope), r.Scope) {
			continue
		}
		pattern, until := r.Pattern, ""
		if r.Scope == policy.BySender && pattern != "*" && pattern != "<>" && !strings.Contains(pattern, "@") {
			pattern = "@" + pattern
		}
		if !r.Until.IsZero() {
			until = r.Until.UTC().Format(time.RFC3339)
		}
		w.Write([]string{pattern, r.Requirement.String(), r.TLS.Level.String(), strings.Join(r.TLS.Match, ":"), r.Note, r.Scope.String(),
			r.TLS.Protocols, r.TLS.Ciphers, r.TLS.Servername, r.Nexthop, r.Verify, r.Mode, until, yes(r.Weaken), r.Language, yes(r.Override),
			lifetimeText(r.Life.Usual), lifetimeText(r.Life.Min), lifetimeText(r.Life.Max)})
	}
	w.Flush()
	return w.Error()
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}
