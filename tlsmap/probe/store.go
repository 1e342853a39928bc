package probe

import (
	"context"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// Record is what is kept of a destination over a restart.
type Record struct {
	Dest    string // see Key
	State   policy.State
	Checked time.Time // when last looked at
	Worked  time.Time // when TLS was last seen to work; zero: never
	// Lost is when TLS was first found absent or broken after it had worked;
	// zero: it was not. Not reaching the host, or failing DNS, changes nothing here.
	Lost time.Time
	// Since is since when TLS has worked without a break, as of Worked; zero: never. It
	// stays as it is while TLS is lost.
	Since    time.Time
	Expires  time.Time // when the state is stale
	Result   []byte    // JSON of the last Result
	Failures int       // looks in a row with the same kind of bad outcome
	// Events are what happened since the record was last saved. They are saved with it
	// and never read back by it.
	Events []Event
}

// How much history is kept.
const (
	EventsFor  = 400 * 24 * time.Hour
	EventsMost = 1000 // of a destination, the newest
)

// Store keeps records. The Manager calls it from several goroutines.
type Store interface {
	// LoadPostures calls each with every record until that fails.
	LoadPostures(ctx context.Context, each func(Record) error) error
	// LoadPosture returns the record of one destination; false: there is none.
	LoadPosture(ctx context.Context, dest string) (Record, bool, error)
	// SavePosture puts r in the place of the record of its destination, and adds
	// r.Events to its history.
	SavePosture(ctx context.Context, r Record) error
	// SavePostures is SavePosture for many, all or none.
	SavePostures(ctx context.Context, rs []Record) error
	// DeletePostures forgets what was last looked at before that time.
	DeletePostures(ctx context.Context, before time.Time) error
	// DeleteEvents forgets the events before that time, and of each destination all but
	// the newest most.
	DeleteEvents(ctx context.Context, before time.Time, most int) error
}
