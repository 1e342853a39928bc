package tlsrpt

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// memory is a Store in memory.
type memory struct {
	mu      sync.Mutex
	ail     error // of every call, while set
	counts  map[kind]int64
	reports []Report
}

func newMemory() *memory { return &memory{counts: make(map[kind]int64)} }

func (m *memory) lock() (func(), error) { m.mu.Lock(); return m.mu.Unlock, m.ail }

func (m *memory) AddTLSCounts(_ context.Context, counts []Count) error {
	unlock, err := m.lock()
	defer unlock()
	if err != nil {
		return err
	}
	for _, c := range counts {
		m.counts[kind{c.Day, c.Domain, c.Policy, c.Outcome}] += c.Sessions
	}
	return nil
}

func (m *memory) all(keep func(kind) bool) (list []Count) {
	for k, n := range m.counts {
		if keep(k) {
			list = append(list, Count{k.day, k.domain, k.policy, k.outcome, n})
		}
	}
	return list
}

func (m *memory) TLSCounts(_ context.Context, day, domain string) ([]Count, error) {
	unlock, err := m.lock()
	defer unlock()
	return m.all(func(k kind) bool { return k.day == day && k.domain == domain }), err
}

func (m *memory) TLSCounted(_ context.Context, before string) ([]Counted, error) {
	unlock, err := m.lock()
	defer unlock()
	sums := make(map[[2]string]*Counted)
	for _, c := range m.all(func(k kind) bool { return before == "" || k.day < before }) {
		at := [2]string{c.Day, c.Domain}
		if sums[at] == nil {
			sums[at] = &Counted{Day: c.Day, Domain: c.Domain}
		}
		sums[at].Sessions += c.Sessions
		if c.Outcome != "" {
			sums[at].Failures += c.Sessions
		}
	}
	var list []Counted
	for _, s := range sums {
		list = append(list, *s)
	}
	slices.SortFunc(list, func(a, b Counted) int { return cmp.Or(cmp.Compare(a.Day, b.Day), cmp.Compare(a.Domain, b.Domain)) })
	return list, err
}

func (m *memory) drop(day, domain string) {
	for k := range m.counts {
		if k.day == day && k.domain == domain {
			delete(m.counts, k)
		}
	}
}

func (m *memory) DropTLSCounts(_ context.Context, day string, domains []string) error {
	unlock, err := m.lock()
	defer unlock()
	for _, d := range domains {
		m.drop(day, d)
	}
	return err
}

func (m *memory) MakeTLSReports(_ context.Context, day, domain string, report func([]Count) ([]Report, error)) error {
	unlock, err := m.lock()
	defer unlock()
	counts := m.all(func(k kind) bool { return k.day == day && k.domain == domain })
	if err != nil || len(counts) == 0 {
		return err
	}
	list, err := report(counts)
	if err == nil {
		m.reports = append(m.reports, list...)
		m.drop(day, domain)
	}
	return err
}

func (m *memory) DueTLSReports(_ context.Context, now time.Time, limit int) (due []Report, err error) {
	unlock, err := m.lock()
	defer unlock()
	for _, r := range m.reports {
		if !r.Next.IsZero() && !r.Next.After(now) && len(due) < limit {
			due = append(due, r)
		}
	}
	return due, err
}

// report returns the nth report as it is now.
func (m *memory) report(n int) Report {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reports[n]
}

func (m *memory) find(r Report) *Report {
	for i := range m.reports {
		if m.reports[i].ID == r.ID && m.reports[i].URI == r.URI {
			return &m.reports[i]
		}
	}
	return nil
}

func (m *memory) ClaimTLSReport(_ context.Context, r Report, until time.Time) (bool, error) {
	unlock, err := m.lock()
	defer unlock()
	f := m.find(r)
	if err != nil || f == nil || !f.Next.Equal(r.Next) {
		return false, err
	}
	f.Next = until
	return true, nil
}

func (m *memory) SaveTLSReport(_ context.Context, r Report) error {
	unlock, err := m.lock()
	defer unlock()
	f := m.find(r)
	if f == nil {
		return errors.New("no such report")
	}
	*f = r
	return err
}

func (m *memory) TLSReports(_ context.Context, domain string) ([]Report, error) {
	unlock, err := m.lock()
	defer unlock()
	return slices.Clone(m.reports), err
}

func (m *memory) PurgeTLS(_ context.Context, day string, made time.Time) error {
	unlock, err := m.lock()
	defer unlock()
	for k := range m.counts {
		if k.day < day {
			delete(m.counts, k)
		}
	}
	m.reports = slices.DeleteFunc(m.reports, func(r Report) bool { return r.Created.Before(made) })
	return err
}
