package probe

import "slices"

// Known returns the destinations in memory of which a posture is known, sorted.
func (m *Manager) Known() []string {
	var all []string
	for i := range m.mem.shard {
		s := &m.mem.shard[i]
		s.RLock()
		for dest, e := range s.m {
			if !e.known.Load().checked.IsZero() {
				all = append(all, dest)
			}
		}
		s.RUnlock()
	}
	slices.Sort(all)
	return all
}
