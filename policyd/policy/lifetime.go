package policy

import (
	"errors"
	"fmt"
	"time"
)

// Lifetimes is for how long a sealed message can be picked up, by rule. Zero is: nothing
// said.
type Lifetimes struct {
	Usual time.Duration // of a new message
	Min   time.Duration // it is never shorter
	Max   time.Duration // it is never longer, whoever extends it
}

// LongestLifetime is the most that a rule may say.
const LongestLifetime = 10 * 366 * 24 * time.Hour

// Validate checks the lifetimes of one rule.
func (l Lifetimes) Validate() error {
	for _, f := range []struct {
		flag string
		d    time.Duration
	}{{"lifetime", l.Usual}, {"min-lifetime", l.Min}, {"max-lifetime", l.Max}} {
		if f.d < 0 || f.d > LongestLifetime || f.d%time.Second != 0 {
			return fmt.Errorf("--%s %s: want whole seconds, at most ten years", f.flag, f.d)
		}
	}
	switch {
	case l.Max > 0 && l.Min > l.Max:
		return errors.New("--min-lifetime is longer than --max-lifetime")
	case l.Usual > 0 && l.Usual < l.Min:
		return errors.New("--lifetime is shorter than --min-lifetime")
	case l.Max > 0 && l.Usual > l.Max:
		return errors.New("--lifetime is longer than --max-lifetime")
	}
	return nil
}

// With returns the strictest of two rules' lifetimes: the shorter usual one and maximum,
// the longer minimum.
func (l Lifetimes) With(m Lifetimes) Lifetimes {
	return Lifetimes{Usual: shorter(l.Usual, m.Usual), Min: max(l.Min, m.Min), Max: shorter(l.Max, m.Max)}
}

func shorter(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// Of returns the lifetime of a message that would have the lifetime d if no rule said
// anything. Where a minimum of one rule contradicts the maximum of another, the maximum
// counts: what is kept too long can't be unkept.
func (l Lifetimes) Of(d time.Duration) time.Duration {
	if l.Usual > 0 {
		d = l.Usual
	}
	d = max(d, l.Min)
	if l.Max > 0 {
		d = min(d, l.Max)
	}
	return d
}
