package main

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"
)

// load is what asks: one request at a time on each connection.
type load struct {
	conns    int
	requests [][]byte // of which one is taken at random
	end      byte     // of a reply
	blank    bool     // twice in a row
	check    func(reply []byte) error
}

// figures are what a measurement gave.
type figures struct {
	rate           float64 // answers a second
	p50, p99, p999 time.Duration
	cpu            time.Duration // of the server, for one answer
	answers        int
}

// run asks the server at addr for a while.
func (l *load) run(p *server, addr string, each time.Duration) (figures, error) {
	var wg sync.WaitGroup
	took := make([][]time.Duration, l.conns)
	errs := make([]error, l.conns)
	cpu, start := p.cpu(), time.Now()
	for i := range l.conns {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return figures{}, err
		}
		wg.Go(func() {
			defer c.Close()
			took[i], errs[i] = l.ask(c, start.Add(each))
		})
	}
	wg.Wait()
	passed := time.Since(start)
	for _, err := range errs {
		if err != nil {
			return figures{}, err
		}
	}
	all := slices.Concat(took...)
	if len(all) == 0 {
		return figures{}, fmt.Errorf("no answer")
	}
	slices.Sort(all)
	at := func(q float64) time.Duration { return all[int(q*float64(len(all)-1))] }
	return figures{
		rate: float64(len(all)) / passed.Seconds(), p50: at(0.5), p99: at(0.99), p999: at(0.999),
		cpu: (p.cpu() - cpu) / time.Duration(len(all)), answers: len(all),
	}, nil
}

func (l *load) ask(c net.Conn, until time.Time) (took []time.Duration, err error) {
	in := bufio.NewReader(c)
	took = make([]time.Duration, 0, 1<<16)
	random := rand.New(rand.NewPCG(rand.Uint64(), 1))
	for at := time.Now(); at.Before(until); {
		if _, err := c.Write(l.requests[random.IntN(len(l.requests))]); err != nil {
			return took, err
		}
		var reply []byte
		for {
			part, err := in.ReadSlice(l.end)
			if err != nil {
				return took, err
			}
			if !l.blank || len(part) == 1 {
				break
			}
			reply = part
		}
		if l.check != nil {
			if err := l.check(reply); err != nil {
				return took, err
			}
		}
		now := time.Now()
		took = append(took, now.Sub(at))
		at = now
	}
	return took, nil
}

// turn is one thing that is measured in turns with others.
type turn struct {
	name  string
	load  *load
	p     *server
	addr  string
	all   []figures
	ratio []float64 // to the baseline of the same round
}

// measure runs all turns again and again, each time begun with the baseline, and prints
// medians. The ratio is that of one round, since the rate of the machine drifts.
func measure(s *settings, base *turn, turns []*turn) error {
	for _, t := range append([]*turn{base}, turns...) { // warm up
		if _, err := t.load.run(t.p, t.addr, s.each); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	for range s.rounds {
		var before float64
		for i, t := range turns {
			if i%2 == 0 { // a baseline on one side or the other of each
				f, err := base.load.run(base.p, base.addr, s.each)
				if err != nil {
					return err
				}
				base.all = append(base.all, f)
				before = f.rate
			}
			f, err := t.load.run(t.p, t.addr, s.each)
			if err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			t.all = append(t.all, f)
			t.ratio = append(t.ratio, f.rate/before)
		}
	}
	fmt.Printf("  %-44s %9s %8s %9s %9s %9s %8s\n", "", "answers/s", "of echo", "p50 µs", "p99 µs", "p99.9 µs", "CPU µs")
	base.print()
	for _, t := range turns {
		t.print()
	}
	return nil
}

func (t *turn) print() {
	ratio := 1.0
	if len(t.ratio) > 0 {
		ratio = median(t.ratio)
	}
	of := func(f func(figures) float64) float64 {
		var v []float64
		for _, x := range t.all {
			v = append(v, f(x))
		}
		return median(v)
	}
	micros := func(f func(figures) time.Duration) float64 {
		return of(func(x figures) float64 { return float64(f(x).Nanoseconds()) / 1000 })
	}
	fmt.Printf("  %-44s %9.0f %8.2f %9.0f %9.0f %9.0f %8.1f\n", t.name, of(func(x figures) float64 { return x.rate }), ratio,
		micros(func(x figures) time.Duration { return x.p50 }), micros(func(x figures) time.Duration { return x.p99 }),
		micros(func(x figures) time.Duration { return x.p999 }), micros(func(x figures) time.Duration { return x.cpu }))
}

func median(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	if len(v) == 0 {
		return 0
	}
	return v[len(v)/2]
}

// netstring frames a socketmap query or reply.
func netstring(text string) []byte { return fmt.Appendf(nil, "%d:%s,", len(text), text) }

// one asks the map server one thing.
func one(addr, query string) (string, time.Duration, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return "", 0, err
	}
	defer c.Close()
	start := time.Now()
	if _, err := c.Write(netstring(query)); err != nil {
		return "", 0, err
	}
	reply, err := bufio.NewReader(c).ReadBytes(',')
	_, text, _ := bytes.Cut(bytes.TrimSuffix(reply, []byte(",")), []byte(":"))
	return string(text), time.Since(start), err
}
