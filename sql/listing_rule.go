package sql

import (
	"context"
	dbsql "database/sql"

	"github.com/postseal/postseal/internal/listing"
	"github.com/postseal/postseal/policyd/policy"
)

func ruleScan(q *listing.RuleQuery) *scan {
	s := &scan{from: `rule`, key: []keyColumn{{"scope", false}, {"pattern", false}}, window: windowRows}
	if cond, ok := map[string]string{listing.Weaker: `weaken = 1`, listing.Overrides: `override = 1`, listing.Ending: `until_at IS NOT NULL`}[q.Show]; ok {
		s.along(cond)
	}
	if q.Scope != "" {
		s.along(`scope = ?`, q.Scope)
	}
	if q.Contains != "" {
		s.filtered(`instr(pattern, ?) > 0`, q.Contains)
		s.window = windowIndex
	}
	if q.Requirement != "" {
		s.filtered(`requirement = ?`, q.Requirement)
		s.window = windowRows
	}
	return s
}

// ListRules returns rules, sorted by scope and pattern.
func (db *DB) ListRules(ctx context.Context, q listing.RuleQuery) (listing.Rows[policy.Rule], error) {
	return page(ctx, db, ruleScan(&q), ruleColumns, q.Page,
		func(row row) (*policy.Rule, error) { return scanRule(row.(*dbsql.Rows)) },
		func(r *policy.Rule) listing.Key { return listing.Key{r.Scope.String(), r.Pattern} })
}
