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
	Lost     time.Time
	Expires  time.Time // when the state is stale
	Result   []byte    // JSON of the last Result
	Failures int       // looks in a row with the same kind of bad outcome
}

// Store keeps records. The Manager calls it from several goroutines.
type Store interface {
	// LoadPostures calls each with every record until that fails.
	LoadPostures(ctx context.Context, each func(Record) error) error
	// SavePosture puts r in the place of the record of its destination.
	SavePosture(ctx context.Context, r Record) error
	// SavePostures is SavePosture for many, all or none.
	SavePostures(ctx context.Context, rs []Record) error
	// DeletePostures forgets what was last looked at before that time.
	DeletePostures(ctx context.Context, before time.Time) error
}
