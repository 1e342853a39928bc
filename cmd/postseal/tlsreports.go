package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/mail"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/postseal/postseal/internal/relaymail"
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/probe"
	"github.com/postseal/postseal/tlsmap/probe/mtasts"
	"github.com/postseal/postseal/tlsmap/tlsrpt"
)

// tlsReports counts sessions and reports them (RFC 8460), where tlsrpt-from says
// so; else it is nil.
type tlsReports struct {
	counter  *tlsrpt.Counter
	reporter *tlsrpt.Reporter
}

func newTLSReports(cfg *config, store tlsrpt.Store, helo string, log *slog.Logger, reg prometheus.Registerer) (*tlsReports, error) {
	if cfg.str("tlsrpt-from") == "" {
		return nil, nil
	}
	reporter, err := newReporter(cfg, store, helo, log, reg)
	if err != nil {
		return nil, err
	}
	return &tlsReports{&tlsrpt.Counter{Store: store, Allow: mayPostTo, Log: log, Registerer: reg}, reporter}, nil
}

// newReporter makes what makes and sends reports. Without tlsrpt-from it can only
// show them.
func newReporter(cfg *config, store tlsrpt.Store, helo string, log *slog.Logger, reg prometheus.Registerer) (*tlsrpt.Reporter, error) {
	from := &mail.Address{}
	if s := cfg.str("tlsrpt-from"); s != "" {
		var err error
		if from, err = mail.ParseAddress(s); err != nil {
			return nil, fmt.Errorf("tlsrpt-from: %w", err)
		}
		a, err := policy.ParseAddress(from.Address)
		if err != nil || a.Domain == "" || !plainASCII(a.String()) {
			return nil, fmt.Errorf("tlsrpt-from %q: want an address whose local part is ASCII", s)
		}
		from.Address = a.String() // A-labels
	}
	resolver, err := probe.NewResolver(cfg.strs("resolver"))
	if err != nil {
		return nil, err
	}
	roots, err := tlsRoots(cfg)
	if err != nil {
		return nil, err
	}
	relay := relaymail.Relay{Addr: cfg.str("notice-relay"), ServerName: helo}
	return &tlsrpt.Reporter{
		Store: store, Resolver: resolver, From: from.Address, Name: from.Name, Mail: relay.Send, Now: reportClock,
		Poster: &tlsrpt.Poster{Resolver: resolver, Roots: roots, Allow: mayPostTo}, Log: log, Registerer: reg,
	}, nil
}

// mayPostTo keeps what strangers publish from making us connect to our own net, and
// tell them what is there.
func mayPostTo(a netip.Addr) bool { return tlsrpt.Public(a) || testNet(a) }

func plainASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// count has a prober's sessions counted.
func (t *tlsReports) count(o *probe.Options) {
	if t != nil {
		o.Looked = t.counter.Looked
	}
}

// watch has what is not fetched of MTA-STS policies counted.
func (t *tlsReports) watch(src mtasts.Source) mtasts.Source {
	if t == nil {
		return src
	}
	return t.counter.Watch(src)
}

// run counts and reports until ctx is done.
func (t *tlsReports) run(ctx context.Context) error {
	if t == nil {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return t.counter.Run(ctx) })
	g.Go(func() error { return t.reporter.Run(ctx) })
	return g.Wait()
}
