package sql

import (
	"cmp"
	"context"
	dbsql "database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

var (
	// ErrExists reports a rule for the same pattern of the same scope.
	ErrExists = errors.New("there is a rule already")
	// ErrNotFound reports that there is no such rule.
	ErrNotFound = errors.New("there is no such rule")
)

// ChangeOptions are what a change of rules is checked with.
type ChangeOptions struct {
	// Delimiters is Postfix's recipient_delimiter: it says which rules an
	// address with an extension falls under.
	Delimiters policy.Delimiters
}

// RuleError reports a rule that can't be kept. Index is its place among those
// that were to be imported.
type RuleError struct {
	Index int
	Rule  *policy.Rule
	Err   error
}

func (e *RuleError) Error() string {
	return fmt.Sprintf("%s rule %s: %v", e.Rule.Scope, e.Rule.Pattern, e.Err)
}

func (e *RuleError) Unwrap() error { return e.Err }

// WeakeningError reports that a change would leave rules that are weaker than
// the broader rules they fall under, without being marked so. Nothing was
// changed.
type WeakeningError struct{ Weakenings []policy.Weakening }

func (e *WeakeningError) Error() string {
	const most = 10
	var b strings.Builder
	b.WriteString("this would weaken a broader rule: ")
	for i, w := range e.Weakenings {
		if i == most {
			fmt.Fprintf(&b, "; and %d more", len(e.Weakenings)-most)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(w.Why)
	}
	b.WriteString(". If that is meant, add or set the weaker rule with --weaken --note WHY")
	return b.String()
}

// key is what a rule is found by.
type key struct {
	scope   policy.Scope
	pattern string
}

func keyOf(r *policy.Rule) key { return key{r.Scope, r.Pattern} }

// change is what a plan does to the rules.
type change struct {
	remove []key
	set    []*policy.Rule // new ones, or in the place of those with the same key
	before *policy.Snapshot
}

// was returns the rule that there was; nil for none.
func (c *change) was(k key) *policy.Rule { return c.before.Get(k.scope, k.pattern).Rule() }

// Rules returns all rules, sorted by scope and pattern, and their version.
func (db *DB) Rules(ctx context.Context) (rules []*policy.Rule, version int64, err error) {
	tx, err := db.r.BeginTx(ctx, nil) // rules and version of the same moment
	if err != nil {
		return nil, 0, db.explain(err)
	}
	defer tx.Rollback()
	rules, version, err = loadRules(ctx, tx)
	return rules, version, db.explain(err)
}

// Rule returns the rule for a canonical pattern; nil: there is none.
func (db *DB) Rule(ctx context.Context, scope policy.Scope, pattern string) (*policy.Rule, error) {
	r, err := oneRule(db.r.QueryContext(ctx, selectRule+`WHERE scope = ? AND pattern = ?`, scope.String(), pattern))
	return r, db.explain(err)
}

// RulesVersion returns the version of the rules, which grows with every change.
func (db *DB) RulesVersion(ctx context.Context) (int64, error) {
	v, err := rulesVersion(ctx, db.r)
	return v, db.explain(err)
}

// querier is a connection pool, one of its connections or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*dbsql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *dbsql.Row
}

func rulesVersion(ctx context.Context, q querier) (v int64, err error) {
	if err := q.QueryRowContext(ctx, `SELECT value FROM meta WHERE name = 'rules_version'`).Scan(&v); err != nil {
		return 0, fmt.Errorf("version of the rules: %w", err)
	}
	return v, nil
}

const selectRule = `SELECT ` + ruleColumns + ` FROM rule `

func loadRules(ctx context.Context, q querier) ([]*policy.Rule, int64, error) {
	version, err := rulesVersion(ctx, q)
	if err != nil {
		return nil, 0, err
	}
	rows, err := q.QueryContext(ctx, selectRule+`ORDER BY scope, pattern`)
	if err != nil {
		return nil, 0, fmt.Errorf("read the rules: %w", err)
	}
	defer rows.Close()
	var rules []*policy.Rule
	for rows.Next() {
		r, err := scanRule(rows)
		if err != nil {
			return nil, 0, fmt.Errorf("read the rules: %w", err)
		}
		rules = append(rules, r)
	}
	if err := rows.Err(); err != nil {
		return nil, 0, fmt.Errorf("read the rules: %w", err)
	}
	return rules, version, nil
}

// ruleColumns are what scanRule reads.
const ruleColumns = `id, scope, pattern, requirement, level, match_names, protocols,
	ciphers, servername, nexthop, verify, mode, language, lifetime, min_lifetime, max_lifetime, weaken, override, note, until_at, created_at`

// scanRule fails on any word it does not know: an unreadable rule is never read
// as a weaker one.
func scanRule(rows *dbsql.Rows) (*policy.Rule, error) {
	var (
		r                         policy.Rule
		scope, requirement, level dbsql.RawBytes
		match                     string
		weaken, override          int64
		until, created            dbsql.NullInt64
		usual, least, most        dbsql.NullInt64
	)
	err := rows.Scan(&r.ID, &scope, &r.Pattern, &requirement, &level, &match, &r.TLS.Protocols,
		&r.TLS.Ciphers, &r.TLS.Servername, &r.Nexthop, &r.Verify, &r.Mode, &r.Language, &usual, &least, &most, &weaken, &override, &r.Note, &until, &created)
	if err != nil {
		return nil, err
	}
	var errs [3]error
	r.Scope, errs[0] = policy.ParseScope(string(scope))
	r.Requirement, errs[1] = policy.ParseRequirement(string(requirement))
	if len(level) > 0 {
		r.TLS.Level, errs[2] = policy.ParseLevel(string(level))
	}
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("rule %d (%s): %w", r.ID, r.Pattern, err)
	}
	if match != "" {
		r.TLS.Match = strings.Split(match, ":")
	}
	r.Life = policy.Lifetimes{Usual: fromDuration(usual), Min: fromDuration(least), Max: fromDuration(most)}
	r.Weaken, r.Override = weaken != 0, override != 0
	r.Until, r.Created = fromMicros(until), fromMicros(created)
	return &r, nil
}

// AddRule adds a rule; ErrExists if there is one for its pattern. Its ID is not
// looked at; Created is now where it is zero.
func (db *DB) AddRule(ctx context.Context, r *policy.Rule, o ChangeOptions) error {
	return db.ImportRules(ctx, []*policy.Rule{r}, false, o)
}

// SetRule replaces the whole rule of r's pattern, Created aside; ErrNotFound if
// there is none.
func (db *DB) SetRule(ctx context.Context, r *policy.Rule, o ChangeOptions) error {
	return db.change(ctx, o, func(have *policy.Snapshot) (change, error) {
		if have.Get(r.Scope, r.Pattern).None() {
			return change{}, fmt.Errorf("%s rule %s: %w: use add to make one", r.Scope, r.Pattern, ErrNotFound)
		}
		return change{set: []*policy.Rule{r}}, nil
	})
}

// RemoveRule removes a rule. removed is false if there is none. It fails with a
// *WeakeningError where the rule stood between a broader and a weaker one.
func (db *DB) RemoveRule(ctx context.Context, scope policy.Scope, pattern string, o ChangeOptions) (removed bool, err error) {
	err = db.change(ctx, o, func(have *policy.Snapshot) (c change, err error) {
		if removed = !have.Get(scope, pattern).None(); removed {
			c.remove = []key{{scope, pattern}}
		}
		return c, nil
	})
	return removed && err == nil, err
}

// ImportRules adds rules, all or none. A pattern that has a rule already is
// ErrExists, or where replace is set has its rule replaced; other rules stay. A
// pattern that comes twice is an error. Errors about one rule are *RuleError.
func (db *DB) ImportRules(ctx context.Context, rules []*policy.Rule, replace bool, o ChangeOptions) error {
	return db.change(ctx, o, func(have *policy.Snapshot) (change, error) {
		seen := make(map[key]bool, len(rules))
		for i, r := range rules {
			k := keyOf(r)
			if seen[k] {
				return change{}, &RuleError{i, r, errors.New("comes twice")}
			}
			seen[k] = true
			if there := have.Get(r.Scope, r.Pattern); !replace && !there.None() {
				return change{}, &RuleError{i, r, fmt.Errorf("%w (%s): use set to change it", ErrExists, there.Requirement)}
			}
		}
		return change{set: rules}, nil
	})
}

// change carries out a plan if the rules that come of it are sound. The check is
// made before the write lock is taken, since with a million rules it takes a while,
// and once more under it where the rules were changed meanwhile.
func (db *DB) change(ctx context.Context, o ChangeOptions, plan func(have *policy.Snapshot) (change, error)) error {
	rules, err := db.Snapshot(ctx, o.Delimiters, nil)
	if err != nil {
		return fmt.Errorf("the rules in the database are damaged: %w", err)
	}
	c, checkErr := check(rules, db.now(), plan)
	return db.write(ctx, func(tx *dbsql.Tx) error {
		now, err := readMark(ctx, tx)
		if err != nil {
			return err
		}
		if now != (mark{rules.Version, rules.Seq}) {
			if rules, err = db.snapshot(ctx, tx, o.Delimiters, rules, false); err != nil {
				return err
			}
			c, checkErr = check(rules, db.now(), plan)
		}
		if checkErr != nil || len(c.remove)+len(c.set) == 0 {
			return checkErr
		}
		return db.apply(ctx, tx, c)
	})
}

// check returns what plan does to rules, if it leaves them valid and no rule
// weaker than a broader one that was not so before.
func check(before *policy.Snapshot, now time.Time, plan func(have *policy.Snapshot) (change, error)) (change, error) {
	c, err := plan(before)
	if err != nil {
		return change{}, err
	}
	c.set, c.before = slices.Clone(c.set), before
	changes := make([]policy.Change, 0, len(c.remove)+len(c.set))
	for _, k := range c.remove {
		changes = append(changes, policy.Change{Scope: k.scope, Pattern: k.pattern})
	}
	for i, r := range c.set {
		if end := r.Until.Truncate(time.Microsecond); !end.Equal(r.Until) {
			kept := *r // checked as it will be kept
			kept.Until = end
			r, c.set[i] = &kept, &kept
		}
		err := cmp.Or(r.Validate(), r.CheckOverride(now))
		if err == nil && r.Scope == policy.ByContent {
			err = errors.New("subject patterns are a setting (--secure-subject), not rules")
		}
		if err != nil {
			return change{}, &RuleError{i, r, err}
		}
		changes = append(changes, policy.Change{Scope: r.Scope, Pattern: r.Pattern, Rule: r})
	}
	after, err := before.With(before.Version, changes)
	if err != nil {
		return change{}, err
	}
	if made := newWeakenings(before.WeakeningsUnder(changes), after.WeakeningsUnder(changes)); len(made) > 0 {
		return change{}, &WeakeningError{made}
	}
	return c, nil
}

// newWeakenings returns those that were not there before, to the word: a change to
// either rule makes it new.
func newWeakenings(before, now []policy.Weakening) []policy.Weakening {
	if len(now) == 0 {
		return nil
	}
	type id struct {
		rule, broader key
		why           string
	}
	keyOf := func(f policy.Found) key { return key{f.Scope, f.Pattern} }
	idOf := func(w policy.Weakening) id { return id{keyOf(w.Rule), keyOf(w.Broader), w.Why} }
	old := make(map[id]bool)
	for _, w := range before {
		old[idOf(w)] = true
	}
	var made []policy.Weakening
	for _, w := range now {
		if !old[idOf(w)] {
			made = append(made, w)
		}
	}
	return made
}

// listedMost is how many rules may change at once and be listed one by one for those who
// follow. A larger import is read whole by them.
const listedMost = 1000

// changesKept is how many entries of rule_change are kept.
const changesKept = changesMost

func (db *DB) apply(ctx context.Context, tx *dbsql.Tx, c change) error {
	if len(c.remove)+len(c.set) <= listedMost {
		return db.put(ctx, tx, c)
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO meta (name, value) VALUES ('rules_unlisted', 1)`); err != nil {
		return err
	}
	if err := db.put(ctx, tx, c); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM meta WHERE name = 'rules_unlisted'`); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO rule_change (scope, pattern) VALUES ('', '')`)
	return err
}

func (db *DB) put(ctx context.Context, tx *dbsql.Tx, c change) error {
	for _, k := range c.remove {
		if _, err := tx.ExecContext(ctx, `DELETE FROM rule WHERE scope = ? AND pattern = ?`, k.scope.String(), k.pattern); err != nil {
			return fmt.Errorf("remove %s rule %s: %w", k.scope, k.pattern, err)
		}
	}
	set, err := tx.PrepareContext(ctx, `INSERT INTO rule (scope, pattern, requirement, level, match_names, protocols,
		ciphers, servername, nexthop, verify, mode, language, lifetime, min_lifetime, max_lifetime, weaken, override, note, until_at, created_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (scope, pattern) DO UPDATE SET requirement = excluded.requirement, level = excluded.level,
		match_names = excluded.match_names, protocols = excluded.protocols, ciphers = excluded.ciphers,
		servername = excluded.servername, nexthop = excluded.nexthop, verify = excluded.verify, mode = excluded.mode,
		language = excluded.language, lifetime = excluded.lifetime, min_lifetime = excluded.min_lifetime, max_lifetime = excluded.max_lifetime, weaken = excluded.weaken, override = excluded.override, note = excluded.note, until_at = excluded.until_at`)
	if err != nil {
		return fmt.Errorf("write a rule: %w", err)
	}
	defer set.Close()
	// In the order of the index, which keeps a big import short.
	rules := slices.SortedFunc(slices.Values(c.set), func(a, b *policy.Rule) int {
		return cmp.Or(strings.Compare(a.Scope.String(), b.Scope.String()), strings.Compare(a.Pattern, b.Pattern))
	})
	for _, r := range rules {
		created := r.Created
		if created.IsZero() {
			created = db.now()
		}
		var weaken, override int
		if r.Weaken {
			weaken = 1
		}
		if r.Override {
			override = 1
		}
		_, err := set.ExecContext(ctx, r.Scope.String(), r.Pattern, r.Requirement.String(), r.TLS.Level.String(),
			strings.Join(r.TLS.Match, ":"), r.TLS.Protocols, r.TLS.Ciphers, r.TLS.Servername, r.Nexthop,
			r.Verify, r.Mode, r.Language, duration(r.Life.Usual), duration(r.Life.Min), duration(r.Life.Max), weaken, override, r.Note, micros(r.Until), micros(created))
		if err != nil {
			return fmt.Errorf("write %s: %w", r, err)
		}
	}
	if err := auditRules(ctx, tx, db.now(), &c, rules); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM rule_change WHERE seq <= (SELECT seq FROM sqlite_sequence WHERE name = 'rule_change') - ?`, changesKept); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `UPDATE meta SET value = value + 1 WHERE name = 'rules_version'`)
	return err
}
