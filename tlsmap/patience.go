package tlsmap

import (
	"context"
	"sync"
	"time"
)

// patience is a context that ends after a time, and costs no timer where nobody waits
// on it: most answers come from memory.
type patience struct {
	context.Context // of the values; its end is ignored: what was read is still answered
	limit           time.Duration
	once            sync.Once
	timed           context.Context
	cancel          context.CancelFunc
}

// within returns a patience that begins when it is first waited on. Its end is to be
// called.
func within(ctx context.Context, limit time.Duration) *patience {
	return &patience{Context: ctx, limit: limit}
}

func (p *patience) start() context.Context {
	p.once.Do(func() {
		p.timed, p.cancel = context.WithTimeout(context.WithoutCancel(p.Context), p.limit)
	})
	return p.timed
}

// Deadline implements [context.Context].
func (p *patience) Deadline() (time.Time, bool) { return p.start().Deadline() }

// Done implements [context.Context].
func (p *patience) Done() <-chan struct{} { return p.start().Done() }

// Err implements [context.Context].
func (p *patience) Err() error { return p.start().Err() }

// end ends it also for who comes to wait only now.
func (p *patience) end() {
	p.once.Do(func() { p.timed, p.cancel = over, func() {} })
	p.cancel()
}

var over = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()
