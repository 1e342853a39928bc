package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/postseal/postseal/internal/lab/fakedns"
	"github.com/postseal/postseal/internal/lab/fakesmtp"
	"github.com/postseal/postseal/tlsmap/check"
	"github.com/postseal/postseal/tlsmap/probe"
)

// bulkHosts are mail hosts that the domains of a check in bulk share; ownHosts of a
// hundred domains have one of their own.
const bulkHosts, ownHosts = 200, 10

// bulkRate measures what postseal check --file does, on an internet within this
// process: DNS and mail hosts on loopback take their share of the processors.
func bulkRate(ctx context.Context, s *settings) error {
	names, err := fakedns.Start("127.0.0.1:0")
	if err != nil {
		return err
	}
	defer names.Close()
	ca, err := fakesmtp.NewCA("")
	if err != nil {
		return err
	}
	cert, err := ca.Issue(fakesmtp.CertOptions{Names: []string{"*.hoster.example"}})
	if err != nil {
		return err
	}
	host, err := fakesmtp.Start("127.0.0.1:0", fakesmtp.Behaviour{Name: "mx.hoster.example", STARTTLS: true, Certificate: cert})
	if err != nil {
		return err
	}
	defer host.Close()
	var list strings.Builder
	var records []string
	for i := range bulkHosts {
		records = append(records, fmt.Sprintf("mx%d.hoster.example. 3600 IN A 198.18.0.%d", i, 1+i))
	}
	for i := range s.bulk {
		mx := fmt.Sprintf("mx%d.hoster.example", i%bulkHosts)
		if i%100 < ownHosts {
			mx = "mx." + domain(i)
			records = append(records, fmt.Sprintf("%s. 3600 IN A 198.18.%d.%d", mx, 1+i/200, 1+i%200))
		}
		records = append(records, fmt.Sprintf("%s. 3600 IN MX 10 %s.", domain(i), mx))
		fmt.Fprintln(&list, domain(i))
	}
	if err := names.Add(records...); err != nil {
		return err
	}
	resolver, err := probe.NewResolver([]string{names.Addr()})
	if err != nil {
		return err
	}
	resolver = resolver.Many(128, 50_000)
	prober, err := probe.NewProber(probe.Options{
		Resolver: resolver, Roots: ca.Pool(), MaxParallel: 128,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, host.Addr()) // they are all one
		},
	})
	if err != nil {
		return err
	}
	checker := check.New(check.Options{Prober: prober, Resolver: resolver, Shared: true})
	b := &check.Bulk{Look: func(ctx context.Context, asked string) *check.Row {
		return check.RowOf(asked, checker.Quick(ctx, asked), false)
	}}
	out := check.NewRowWriter(io.Discard, check.JSONLines, false)
	before, start := used(), time.Now()
	if err := b.Run(ctx, check.NewLines(strings.NewReader(list.String())), out); err != nil {
		return err
	}
	took := time.Since(start)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	heading("postseal check --file, DNS and mail hosts in this process")
	fmt.Printf("  %d domains, %d%% with a mail host of their own, the others at %d: %.1f s, %.0f/s, %d SMTP sessions, %v of CPU each, classes %v\n",
		s.bulk, ownHosts, bulkHosts, took.Seconds(), float64(s.bulk)/took.Seconds(), prober.Sessions(),
		((used() - before) / time.Duration(s.bulk)).Round(time.Microsecond), out.Summary.Classes)
	return nil
}

// used is the processor time of this process.
func used() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
