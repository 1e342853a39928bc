package adminlogin

// Hashed returns how many passwords were hashed.
func (l *Login) Hashed() int64 { return l.hashed.Load() }

// PathOf is pathOf.
func PathOf(to string) string { return pathOf(to) }

// The limits, for tests.
const (
	TriesName   = triesName
	TriesClient = triesClient
	TriesTotal  = triesTotal
)
