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
	want     string   // what a reply begins with; "": anything
}

// figures are what a measurement gave.
type figures struct {
	rate           float64 // answers a second
	p50, p99, p999 time.Duration
	cpu            time.Duration // of the server, for one answer
	answers        int
	others         int // of them, replies that were not what was wanted
}

// run asks the server at addr for a while.
func (l *load) run(p *server, addr string, each time.Duration) (figures, error) {
	var wg sync.WaitGroup
	took := make([][]time.Duration, l.conns)
	errs := make([]error, l.conns)
	others := make([]int, l.conns)
	cpu, start := p.cpu(), time.Now()
	for i := range l.conns {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return figures{}, err
		}
		wg.Go(func() {
			defer c.Close()
			took[i], others[i], errs[i] = l.ask(c, start.Add(each))
		})
	}
	wg.Wait()
	passed := time.Since(start)
	for _, err := range errs {
		if err != nil {
			return figures{}, err
		}
	}
	unwanted := 0
	for _, n := range others {
		unwanted += n
	}
	all := slices.Concat(took...)
	if len(all) == 0 {
		return figures{}, fmt.Errorf("no answer")
	}
	slices.Sort(all)
	at := func(q float64) time.Duration { return all[int(q*float64(len(all)-1))] }
	return figures{
		rate: float64(len(all)) / passed.Seconds(), p50: at(0.5), p99: at(0.99), p999: at(0.999),
		cpu: (p.cpu() - cpu) / time.Duration(len(all)), answers: len(all), others: unwanted,
	}, nil
}

func (l *load) ask(c net.Conn, until time.Time) (took []time.Duration, others int, err error) {
	in := bufio.NewReader(c)
	took = make([]time.Duration, 0, 1<<16)
	reply := make([]byte, 0, 1<<10)
	random := rand.New(rand.NewPCG(rand.Uint64(), 1))
	for at := time.Now(); at.Before(until); {
		if _, err := c.Write(l.requests[random.IntN(len(l.requests))]); err != nil {
			return took, others, err
		}
		for {
			part, err := in.ReadSlice(l.end)
			if err != nil {
				return took, others, err
			}
			if l.blank && len(part) == 1 {
				break
			}
			reply = append(reply[:0], part...)
			if !l.blank {
				break
			}
		}
		if !bytes.HasPrefix(reply, []byte(l.want)) {
			others++
		}
		now := time.Now()
		took = append(took, now.Sub(at))
		at = now
	}
	return took, others, nil
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

// group is what is measured in turns with one baseline: the echo server asked the same.
type group struct {
	base  *turn
	turns []*turn
}

// measure runs all turns again and again, each beside its baseline, and prints medians. The
// ratio is that of one round, since the rate of the machine drifts.
func measure(s *settings, groups ...group) error {
	run := func(t *turn) (figures, error) {
		f, err := t.load.run(t.p, t.addr, s.each)
		if err != nil {
			return f, fmt.Errorf("%s: %w", t.name, err)
		}
		return f, nil
	}
	for _, g := range groups {
		for _, t := range append([]*turn{g.base}, g.turns...) { // warm up
			if _, err := run(t); err != nil {
				return err
			}
		}
	}
	for range s.rounds {
		for _, g := range groups {
			var before float64
			for i, t := range g.turns {
				if i%2 == 0 { // a baseline on one side or the other of each
					f, err := run(g.base)
					if err != nil {
						return err
					}
					g.base.all = append(g.base.all, f)
					before = f.rate
				}
				f, err := run(t)
				if err != nil {
					return err
				}
				t.all = append(t.all, f)
				t.ratio = append(t.ratio, f.rate/before)
			}
		}
	}
	fmt.Printf("  %-44s %9s %8s %9s %9s %9s %8s\n", "", "answers/s", "of echo", "p50 µs", "p99 µs", "p99.9 µs", "CPU µs")
	for _, g := range groups {
		g.base.print()
		for _, t := range g.turns {
			t.print()
		}
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
	others, answers := 0, 0
	for _, f := range t.all {
		others, answers = others+f.others, answers+f.answers
	}
	if others > 0 {
		fmt.Printf("    of these, %d of %d answers were others than %q\n", others, answers, t.load.want)
	}
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
