package tlsrpt

import (
	"context"
	"time"
)

// Count is sessions of one kind.
type Count struct {
	Day      string // see [DayOf]
	Domain   string // policy domain, canonical
	Policy   string // JSON of a [Policy]
	Outcome  string // JSON of a [Failure]; "": success
	Sessions int64
}

// Counted sums up what is counted of a domain and day, and not yet reported.
type Counted struct {
	Day      string `json:"day"`
	Domain   string `json:"domain"`
	Sessions int64  `json:"sessions"`
	Failures int64  `json:"failures"`
}

// Report is a report on its way to one URI, or of late.
type Report struct {
	ID      string // report-id, the same for all URIs of a report
	Day     string
	Domain  string
	URI     string    // as published
	JSON    []byte    // the [Document], gzip
	Tries   int       // that have ended
	Next    time.Time // when to send it; zero: it is done with
	Error   string    // of the last try; "" with a zero Next: it was taken
	Created time.Time
}

// Store keeps counts and reports. All days are as [DayOf] writes them.
type Store interface {
	// AddTLSCounts adds to what is counted, all or nothing.
	AddTLSCounts(ctx context.Context, counts []Count) error
	// TLSCounts returns what is counted of a domain and day, in no order.
	TLSCounts(ctx context.Context, day, domain string) ([]Count, error)
	// TLSCounted sums up all that is counted of days before one ("": of all days),
	// sorted by day and domain.
	TLSCounted(ctx context.Context, before string) ([]Counted, error)
	// DropTLSCounts deletes the counts of domains of a day.
	DropTLSCounts(ctx context.Context, day string, domains []string) error
	// MakeTLSReports calls report with what is counted of a domain and day, if
	// anything, keeps what it returns and deletes the counts, all in one
	// transaction. An error of report is returned, and nothing changes.
	MakeTLSReports(ctx context.Context, day, domain string, report func([]Count) ([]Report, error)) error
	// DueTLSReports returns reports whose time has come, the oldest first.
	DueTLSReports(ctx context.Context, now time.Time, limit int) ([]Report, error)
	// ClaimTLSReport puts a report off until then, and reports whether it was
	// still as r says: else somebody else sends it.
	ClaimTLSReport(ctx context.Context, r Report, until time.Time) (bool, error)
	// SaveTLSReport writes Tries, Next and Error of a report.
	SaveTLSReport(ctx context.Context, r Report) error
	// TLSReports returns the reports about a domain ("": about all), without
	// their JSON where domain is "", the newest first.
	TLSReports(ctx context.Context, domain string) ([]Report, error)
	// PurgeTLS deletes counts of days before day, and reports made before then.
	PurgeTLS(ctx context.Context, day string, made time.Time) error
}
