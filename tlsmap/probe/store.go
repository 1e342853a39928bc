package probe

import (
	"context"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

type Record struct {
	Dest                           string
	State                          policy.State
	Checked, Worked, Lost, Expires time.Time
	Result                         []byte
	Failures                       int
}

type Store interface {
	LoadPostures(ctx context.Context, each func(Record) error) error
	SavePosture(ctx context.Context, r Record) error
	SavePostures(ctx context.Context, rs []Record) error
	DeletePostures(ctx context.Context, before time.Time) error
}
