package probe

import (
	"context"
	"slices"
)

// Known returns the destinations in memory of which a posture is known, sorted. After
// [Manager.LoadLater] it waits until all are there, or ctx is done.
func (m *Manager) Known(ctx context.Context) ([]string, error) {
	if m.loading.Load() {
		select {
		case <-m.loaded:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	var all []string
	m.mem.each(func(e *entry) {
		if e.known.Load().checked != 0 {
			all = append(all, e.dest())
		}
	})
	slices.Sort(all)
	return all, nil
}
