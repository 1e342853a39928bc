package escrow

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
)

// PinLedger is a ledger that can list its pins.
type PinLedger interface {
	Ledger
	// Pinned calls each with every recipient (folded) that was settled as sealed
	// and not confirmed.
	Pinned(ctx context.Context, each func(d Digest, sender, recipient string) error) error
}

// Pins is a ledger that keeps in memory which recipients are pinned (see
// [Ledger.Confirm]). It wraps the stored ledger; intake and vault use it in that
// one's place, tlsmap asks Has.
type Pins struct {
	ledger PinLedger
	mu     sync.Mutex
	pinned map[pin]struct{}
	counts sync.Map     // folded recipient → *atomic.Int64, read without a lock
	all    atomic.Int64 // of counts; raised before them and lowered after them
}

type pin struct {
	digest            Digest
	sender, recipient string
}

// NewPins loads the pins of a ledger.
func NewPins(ctx context.Context, l PinLedger) (*Pins, error) {
	p := &Pins{ledger: l, pinned: make(map[pin]struct{})}
	err := l.Pinned(ctx, func(d Digest, sender, recipient string) error {
		p.set(d, sender, []string{recipient})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load pinned recipients: %w", err)
	}
	return p, nil
}

// Has reports whether mail to a recipient, in any spelling, must come to the
// splitter. It takes no lock, and next to no time where nobody is pinned, as nearly always.
func (p *Pins) Has(recipient string) bool {
	if p.all.Load() == 0 {
		return false
	}
	r, err := fold(recipient)
	if err != nil {
		return false
	}
	n, ok := p.counts.Load(r)
	return ok && n.(*atomic.Int64).Load() > 0
}

// Settled asks the stored ledger.
func (p *Pins) Settled(ctx context.Context, d Digest, sender string, recipients []string) (map[string]Outcome, error) {
	return p.ledger.Settled(ctx, d, sender, recipients)
}

// Settle records an outcome in the stored ledger.
func (p *Pins) Settle(ctx context.Context, d Digest, sender string, recipients []string, o Outcome) error {
	if o == OutcomeSealed {
		p.set(d, sender, recipients)
	}
	return p.ledger.Settle(ctx, d, sender, recipients, o)
}

// Confirm records it in the stored ledger, and unpins.
func (p *Pins) Confirm(ctx context.Context, d Digest, sender string, recipients []string) error {
	if err := p.ledger.Confirm(ctx, d, sender, recipients); err != nil {
		return err
	}
	p.clear(d, sender, recipients)
	return nil
}

// set pins before the commit, so that there is no moment in between. A pin too
// many, of a commit that failed, does no harm: the splitter decides anew.
func (p *Pins) set(d Digest, sender string, recipients []string) {
	p.change(d, sender, recipients, func(k pin, n *atomic.Int64) {
		if _, have := p.pinned[k]; !have {
			p.pinned[k] = struct{}{}
			p.all.Add(1)
			n.Add(1)
		}
	})
}

func (p *Pins) clear(d Digest, sender string, recipients []string) {
	p.change(d, sender, recipients, func(k pin, n *atomic.Int64) {
		if _, have := p.pinned[k]; have {
			delete(p.pinned, k)
			if n.Add(-1) == 0 {
				p.counts.Delete(k.recipient)
			}
			p.all.Add(-1)
		}
	})
}

func (p *Pins) change(d Digest, sender string, recipients []string, do func(pin, *atomic.Int64)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	sender, err := fold(sender)
	if err != nil {
		return
	}
	for _, r := range recipients {
		r, err := fold(r)
		if err != nil {
			continue
		}
		n, _ := p.counts.LoadOrStore(r, new(atomic.Int64))
		do(pin{d, sender, r}, n.(*atomic.Int64))
	}
}
