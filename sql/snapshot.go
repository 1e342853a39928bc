package sql

import (
	"context"
	dbsql "database/sql"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/postseal/postseal/policyd/policy"
)

// How rules get into memory: by what has changed since the snapshot before, as the table
// rule_change lists it; at the start by their pack (see pack.go) and what has changed
// since; else whole, many rows in one answer of SQLite, since a call of it for each
// column of a million rules takes longer than all else.

// mark is a moment of the rules.
type mark struct {
	version int64 // rules_version
	seq     int64 // of the newest entry there ever was in rule_change
}

func readMark(ctx context.Context, q querier) (m mark, err error) {
	err = q.QueryRowContext(ctx, `SELECT value, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'rule_change'), 0)
		FROM meta WHERE name = 'rules_version'`).Scan(&m.version, &m.seq)
	if err != nil {
		return mark{}, fmt.Errorf("version of the rules: %w", err)
	}
	return m, nil
}

// Snapshot returns all rules, to look up. d is Postfix's recipient_delimiter. have, if it
// is not nil, is a snapshot of this database, made with the same d: then no more than what
// has changed since is read, where that can be known. Triggers are not in it.
func (db *DB) Snapshot(ctx context.Context, d policy.Delimiters, have *policy.Snapshot) (*policy.Snapshot, error) {
	tx, err := db.r.BeginTx(ctx, nil)
	if err != nil {
		return nil, db.explain(err)
	}
	defer tx.Rollback()
	s, err := db.snapshot(ctx, tx, d, have, true)
	return s, db.explain(err)
}

// snapshot is Snapshot in a transaction. Where beside is set it may read with other
// connections too, which must see the same state: so not in a transaction that writes.
func (db *DB) snapshot(ctx context.Context, tx *dbsql.Tx, d policy.Delimiters, have *policy.Snapshot, beside bool) (*policy.Snapshot, error) {
	now, err := readMark(ctx, tx)
	if err != nil {
		return nil, err
	}
	if have != nil {
		s, err := since(ctx, tx, have, now)
		if err == nil {
			return s, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		db.log.Info("all rules are read anew", "reason", err)
	}
	if have == nil {
		s, err := db.readPack(ctx, tx, d, now, beside)
		switch {
		case err == nil:
			return s, nil
		case ctx.Err() != nil:
			return nil, err
		case !errors.Is(err, errNoPack):
			db.packBroken.Store(true)
			db.log.Info("the rules are read one by one, since their pack can't be used", "reason", err)
		}
	}
	return db.readWhole(ctx, tx, d, now, beside)
}

// errUnlisted reports that it can't be known which rules have changed.
var errUnlisted = errors.New("not every change is listed")

// changesMost is how many changes are read one by one; with more of them it is quicker to
// read everything.
const changesMost = 20_000

// since returns have with what has changed up to now.
func since(ctx context.Context, tx *dbsql.Tx, have *policy.Snapshot, now mark) (*policy.Snapshot, error) {
	if now.seq < have.Seq || now.version < have.Version || now.seq-have.Seq > changesMost {
		return nil, errUnlisted
	}
	var changes []policy.Change
	if now.seq > have.Seq {
		var err error
		if changes, err = changesAfter(ctx, tx, have.Seq, now.seq); err != nil {
			return nil, err
		}
	}
	s, err := have.With(now.version, changes)
	if err != nil {
		return nil, err
	}
	s.Seq = now.seq
	return s, nil
}

// changesAfter returns the rules, as they are now, that the entries after seq up to last
// are about.
func changesAfter(ctx context.Context, tx *dbsql.Tx, seq, last int64) ([]policy.Change, error) {
	rows, err := tx.QueryContext(ctx, `SELECT scope, pattern FROM rule_change WHERE seq > ? AND seq <= ?`, seq, last)
	if err != nil {
		return nil, fmt.Errorf("read the changes of the rules: %w", err)
	}
	defer rows.Close()
	var keys []key
	seen, entries := make(map[key]bool), int64(0)
	for rows.Next() {
		var scope string
		var k key
		if err := rows.Scan(&scope, &k.pattern); err != nil {
			return nil, fmt.Errorf("read the changes of the rules: %w", err)
		}
		if k.scope, err = policy.ParseScope(scope); err != nil {
			return nil, errUnlisted
		}
		entries++
		if !seen[k] {
			seen[k] = true
			keys = append(keys, k)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the changes of the rules: %w", err)
	}
	if entries != last-seq {
		return nil, errUnlisted // some were deleted already
	}
	get, err := tx.PrepareContext(ctx, selectRule+`WHERE scope = ? AND pattern = ?`)
	if err != nil {
		return nil, fmt.Errorf("read the rules: %w", err)
	}
	defer get.Close()
	changes := make([]policy.Change, len(keys))
	for i, k := range keys {
		r, err := oneRule(get.QueryContext(ctx, k.scope.String(), k.pattern))
		if err != nil {
			return nil, err
		}
		changes[i] = policy.Change{Scope: k.scope, Pattern: k.pattern, Rule: r}
	}
	return changes, nil
}

// oneRule reads the answer to a query for one rule; nil: there is none.
func oneRule(rows *dbsql.Rows, err error) (*policy.Rule, error) {
	if err != nil {
		return nil, fmt.Errorf("read the rules: %w", err)
	}
	defer rows.Close()
	var r *policy.Rule
	if rows.Next() {
		if r, err = scanRule(rows); err != nil {
			return nil, fmt.Errorf("read the rules: %w", err)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the rules: %w", err)
	}
	return r, nil
}

// packedRows is how many rules are in one answer.
const packedRows = 20_000

// selectPacked packs rules into one text: a line for each, of fields parted by 0x1f.
const selectPacked = `SELECT count(*), coalesce(max(id), 0), coalesce(group_concat(concat_ws(char(31), pattern, note, scope, requirement, level, match_names, protocols,
	ciphers, servername, nexthop, verify, mode, language, coalesce(lifetime, ''), coalesce(min_lifetime, ''), coalesce(max_lifetime, ''), weaken, override,
	coalesce(until_at, '')), char(10)), '')
	FROM (SELECT * FROM rule WHERE id >= ? AND id < ? ORDER BY id LIMIT ?)`

// packedFields is how many fields a line has.
const packedFields = 19

// readWhole reads all rules of the moment now, of which tx is.
func (db *DB) readWhole(ctx context.Context, tx *dbsql.Tx, d policy.Delimiters, now mark, beside bool) (*policy.Snapshot, error) {
	var first, last int64
	if err := tx.QueryRowContext(ctx, `SELECT coalesce(min(id), 0), coalesce(max(id), -1) FROM rule`).Scan(&first, &last); err != nil {
		return nil, fmt.Errorf("read the rules: %w", err)
	}
	if first < 0 || last > 1<<62 { // no database of ours gives such IDs
		r := ruleReader{tx: tx, to: policy.NewBuilder(d)}
		if err := r.readSingly(ctx, first, last); err != nil {
			return nil, err
		}
		return made(ctx, tx, now, r.to)
	}
	txs := []*dbsql.Tx{tx}
	if beside && last-first >= 2*packedRows {
		more := db.beside(ctx, now, min(runtime.GOMAXPROCS(0), readers/2)-1)
		for _, t := range more {
			defer t.Rollback()
		}
		txs = append(txs, more...)
	}
	builders := []*policy.Builder{policy.NewBuilder(d)}
	for range txs[1:] {
		builders = append(builders, builders[0].Beside())
	}
	// Whoever is done with some takes the next ones. IDs may have large gaps.
	step := max(packedRows, (last-first)/256+1)
	var next atomic.Int64
	g, reading := errgroup.WithContext(ctx)
	for i, t := range txs {
		g.Go(func() error {
			r := ruleReader{tx: t, to: builders[i], kinds: make(map[string]*policy.Kind)}
			for {
				n := next.Add(1) - 1
				from := first + n*step
				if n*step > last-first {
					return nil
				}
				if err := r.read(reading, from, min(from+step, last+1)); err != nil {
					return err
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return made(ctx, tx, now, builders...)
}

// made is the snapshot of what was read, if that is all that there is.
func made(ctx context.Context, tx *dbsql.Tx, now mark, b ...*policy.Builder) (*policy.Snapshot, error) {
	s, err := b[0].Snapshot(now.version, b[1:]...)
	if err != nil {
		return nil, err
	}
	s.Seq = now.seq
	return s, counted(ctx, tx, s)
}

// counted fails where there are more rules, or fewer, than s has.
func counted(ctx context.Context, tx *dbsql.Tx, s *policy.Snapshot) error {
	var n int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM rule`).Scan(&n); err != nil {
		return fmt.Errorf("read the rules: %w", err)
	}
	if n != s.Len() {
		return fmt.Errorf("there are %d rules in the database, and %d were read", n, s.Len())
	}
	return nil
}

// beside begins up to n more transactions that see the rules of the moment now. There may
// be fewer.
func (db *DB) beside(ctx context.Context, now mark, n int) (txs []*dbsql.Tx) {
	for range n {
		tx, err := db.r.BeginTx(ctx, nil)
		if err != nil {
			return txs
		}
		if m, err := readMark(ctx, tx); err != nil || m != now {
			tx.Rollback() // the rules have changed meanwhile
			return txs
		}
		txs = append(txs, tx)
	}
	return txs
}

// ruleReader reads rules for one builder.
type ruleReader struct {
	tx    *dbsql.Tx
	to    *policy.Builder
	kinds map[string]*policy.Kind // by what stands in a line behind pattern and note
	last  string                  // of the line before
	kind  *policy.Kind            // of it
}

// kindsMost bounds what is remembered of rules that all differ.
const kindsMost = 10_000

// read reads the rules with these IDs, without the last.
func (r *ruleReader) read(ctx context.Context, from, end int64) error {
	for from < end {
		var n, last int64
		var text string
		if err := r.tx.QueryRowContext(ctx, selectPacked, from, end, packedRows).Scan(&n, &last, &text); err != nil {
			return fmt.Errorf("read the rules: %w", err)
		}
		if n == 0 {
			return nil
		}
		sound, err := r.unpack(text, int(n))
		if err == nil && !sound {
			err = r.readSingly(ctx, from, last)
		}
		if err != nil {
			return err
		}
		from = last + 1
	}
	return nil
}

// unpack takes n packed rules. Where a field holds one of the characters that part fields
// or lines, sound is false, and none was taken: then there are more of them than part
// anything.
func (r *ruleReader) unpack(text string, n int) (sound bool, err error) {
	if strings.Count(text, "\n") != n-1 || strings.Count(text, "\x1f") != n*(packedFields-1) {
		return false, nil
	}
	for range n {
		var line string
		line, text, _ = strings.Cut(text, "\n")
		pattern, rest, _ := strings.Cut(line, "\x1f")
		note, rest, _ := strings.Cut(rest, "\x1f")
		if r.kind == nil || rest != r.last {
			if r.kind = r.kinds[rest]; r.kind == nil {
				rest := strings.Clone(rest) // not to keep all of text
				rule, err := parsePacked(rest)
				if err != nil {
					return true, fmt.Errorf("read the rules: rule for %s: %w", pattern, err)
				}
				r.kind = policy.NewKind(rule)
				if len(r.kinds) < kindsMost {
					r.kinds[rest] = r.kind
				}
			}
			r.last = rest
		}
		if err := r.to.AddLike(r.kind, pattern, note); err != nil {
			return true, err
		}
	}
	return true, nil
}

// parsePacked reads what stands in a line behind pattern and note. As scanRule it fails on
// what it does not know.
func parsePacked(rest string) (*policy.Rule, error) {
	f := strings.Split(rest, "\x1f")
	if len(f) != packedFields-2 {
		return nil, fmt.Errorf("%d fields", len(f))
	}
	var n [6]dbsql.NullInt64
	var errs [9]error
	for i, s := range f[11:] {
		if s != "" {
			n[i].Valid = true
			n[i].Int64, errs[i] = strconv.ParseInt(s, 10, 64)
		}
	}
	r := &policy.Rule{
		TLS: policy.TLSParams{Protocols: f[4], Ciphers: f[5], Servername: f[6]}, Nexthop: f[7], Verify: f[8], Mode: f[9], Language: f[10],
		Life:   policy.Lifetimes{Usual: fromDuration(n[0]), Min: fromDuration(n[1]), Max: fromDuration(n[2])},
		Weaken: n[3].Int64 != 0, Override: n[4].Int64 != 0, Until: fromMicros(n[5]),
	}
	r.Scope, errs[6] = policy.ParseScope(f[0])
	r.Requirement, errs[7] = policy.ParseRequirement(f[1])
	r.TLS.Level, errs[8] = policy.ParseLevel(f[2])
	if f[3] != "" {
		r.TLS.Match = strings.Split(f[3], ":")
	}
	return r, errors.Join(errs[:]...)
}

// readSingly reads rules row by row.
func (r *ruleReader) readSingly(ctx context.Context, from, last int64) error {
	rows, err := r.tx.QueryContext(ctx, selectRule+`WHERE id >= ? AND id <= ?`, from, last)
	if err != nil {
		return fmt.Errorf("read the rules: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		rule, err := scanRule(rows)
		if err != nil {
			return fmt.Errorf("read the rules: %w", err)
		}
		if err := r.to.Add(rule); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the rules: %w", err)
	}
	return nil
}
