package probe

import "slices"

// Known returns the destinations in memory of which a posture is known, sorted.
func (m *Manager) Known() []string {
	var all []string
	m.mem.each(func(e *entry) {
		if e.known.Load().checked != 0 {
			all = append(all, e.dest())
		}
	})
	slices.Sort(all)
	return all
}
