package sql

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/postseal/postseal/internal/listing"
)

// How many rows a page of a list looks at, at most. Where a filter is met by none of them
// the page says so and where to go on.
const (
	windowRows  = 20_000
	windowIndex = 200_000 // where the index alone is read
)

// scan walks along an index.
type scan struct {
	from   string // tables, the one with the index first
	index  []cond // what the index knows
	filter []cond // what it does not know
	key    []keyColumn
	outer  int // how many columns of key are of the first table; 0: all
	desc   bool
	window int
}

type cond struct {
	text string
	args []any
}

type keyColumn struct {
	name   string
	number bool
}

func (s *scan) along(text string, args ...any) { s.index = append(s.index, cond{text, args}) }
func (s *scan) filtered(text string, a ...any) { s.filter = append(s.filter, cond{text, a}) }
func (s *scan) names(of []keyColumn) (l string) {
	return "(" + strings.Join(columnNames(of), ", ") + ")"
}

func columnNames(of []keyColumn) []string {
	list := make([]string, len(of))
	for i, c := range of {
		list[i] = c.name
	}
	return list
}

// values returns what a key is compared as.
func (s *scan) values(k listing.Key) ([]any, error) {
	if len(k) != len(s.key) {
		return nil, listing.ErrKey
	}
	list := make([]any, len(k))
	for i, c := range s.key {
		list[i] = k[i]
		if c.number {
			n, err := k.Int(i)
			if err != nil {
				return nil, err
			}
			list[i] = n
		}
	}
	return list, nil
}

// side returns the condition that a row stands on one side of key, as op (<, <=, >, >=)
// says. Where the key is of two tables the first one's part stands by itself, so that its index
// is used.
func (s *scan) side(op string, values []any) cond {
	n := s.outer
	if n == 0 || n == len(s.key) {
		return cond{s.names(s.key) + " " + op + " (?" + strings.Repeat(", ?", len(values)-1) + ")", values}
	}
	strict, marks := op[:1], "(?"+strings.Repeat(", ?", n-1)+")"
	first, rest := s.names(s.key[:n]), &scan{key: s.key[n:]}
	more := rest.side(op, values[n:])
	args := append(append(append([]any{}, values[:n]...), values[:n]...), more.args...)
	return cond{first + " " + strict + "= " + marks + " AND (" + first + " " + strict + " " + marks + " OR " + more.text + ")", args}
}

func (s *scan) query(columns string, conds []cond, tail string) (string, []any) {
	var where []string
	var args []any
	for _, c := range conds {
		where = append(where, c.text)
		args = append(args, c.args...)
	}
	q := "SELECT " + columns + " FROM " + s.from
	if where != nil {
		q += " WHERE " + strings.Join(where, " AND ")
	}
	way := ""
	if s.desc {
		way = " DESC"
	}
	return q + " ORDER BY " + strings.Join(columnNames(s.key), way+", ") + way + tail, args
}

// queries returns the two queries of a page: for the end of what it looks at (nil args:
// there is no need), and, given that end, for its rows.
func (s *scan) queries(columns string, p listing.Page) (end func() (string, []any), rows func(end []any) (string, []any), err error) {
	conds := append([]cond{}, s.index...)
	ahead, behind := ">", "<="
	if s.desc {
		ahead, behind = "<", ">="
	}
	if p.After != nil {
		values, err := s.values(p.After)
		if err != nil {
			return nil, nil, err
		}
		conds = append(conds, s.side(ahead, values))
	}
	end = func() (string, []any) {
		return s.query(strings.Join(columnNames(s.key), ", "), conds, fmt.Sprintf(" LIMIT 1 OFFSET %d", s.window-1))
	}
	rows = func(end []any) (string, []any) {
		all := append(append([]cond{}, conds...), s.filter...)
		if end != nil {
			all = append(all, s.side(behind, end))
		}
		return s.query(columns, all, fmt.Sprintf(" LIMIT %d", p.Limit+1))
	}
	return end, rows, nil
}

// page reads a page: scanned reads a row, and keyed says where it stands.
func page[T any](ctx context.Context, db *DB, s *scan, columns string, p listing.Page, scanned func(row) (*T, error), keyed func(*T) listing.Key) (listing.Rows[T], error) {
	var out listing.Rows[T]
	s.window = cmp.Or(db.window, s.window)
	endQuery, rowsQuery, err := s.queries(columns, p)
	if err != nil {
		return out, err
	}
	var end []any
	var last listing.Key
	if s.filter != nil {
		query, args := endQuery()
		found, err := list(ctx, db, func(r row) (*[]any, error) {
			values := make([]any, len(s.key))
			into := make([]any, len(s.key))
			for i := range values {
				into[i] = &values[i]
			}
			return &values, r.Scan(into...)
		}, query, args...)
		if err != nil {
			return out, err
		}
		if len(found) > 0 {
			end = found[0]
			for _, v := range end {
				last = append(last, fmt.Sprint(v))
			}
		}
	}
	query, args := rowsQuery(end)
	if out.All, err = list(ctx, db, scanned, query, args...); err != nil {
		return out, err
	}
	switch {
	case len(out.All) > p.Limit:
		out.All = out.All[:p.Limit]
		out.Next = keyed(&out.All[p.Limit-1])
	case end != nil:
		out.Next, out.Partial = last, len(out.All) < p.Limit
	}
	return out, nil
}
