package portal

import (
	"context"
	"errors"
	"sync"
	"time"
)

// A recipient may have so many answers under way at a gate; further ones wait.
const (
	gatePlaces = 6 // as many as browsers open by themselves
	gateWait   = time.Minute
)

var errBusy = errors.New("too many requests for one message at a time")

// gate bounds how many requests of one kind are answered at a time for each key.
type gate struct {
	mu   sync.Mutex
	keys map[string]*places
	each int // places of a key
	wait time.Duration
}

// places are those of one key, forgotten when nobody uses them.
type places struct {
	free  chan struct{}
	users int // who has a place, or waits for one
}

func newGate() *gate {
	return &gate{keys: make(map[string]*places), each: gatePlaces, wait: gateWait}
}

// enter waits for a place. Whoever got one calls leave.
func (g *gate) enter(ctx context.Context, key string) (leave func(), err error) {
	g.mu.Lock()
	p := g.keys[key]
	if p == nil {
		p = &places{free: make(chan struct{}, g.each)}
		g.keys[key] = p
	}
	p.users++
	g.mu.Unlock()
	gone := func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if p.users--; p.users == 0 {
			delete(g.keys, key)
		}
	}
	timer := time.NewTimer(g.wait)
	defer timer.Stop()
	select {
	case p.free <- struct{}{}:
		return func() { <-p.free; gone() }, nil
	case <-timer.C:
		err = errBusy
	case <-ctx.Done():
		err = ctx.Err()
	}
	gone()
	return nil, err
}
