package main

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/sql"
	"github.com/postseal/postseal/tlsmap/probe"
	"github.com/postseal/postseal/tlsmap/probe/mtasts"
)

// policyKeeper gives a prober its MTA-STS policies. Where mta-sts is off it has no
// cache, and does nothing.
type policyKeeper struct {
	cfg   *config
	o     mtasts.Options
	cache *mtasts.Cache
	err   error

	reports *tlsReports // of what could not be fetched; nil: none
}

// newPolicyKeeper makes a keeper; store may be nil.
func newPolicyKeeper(cfg *config, store mtasts.Store, log *slog.Logger, reg prometheus.Registerer) *policyKeeper {
	return &policyKeeper{cfg: cfg, o: mtasts.Options{Store: store, Log: log, Registerer: reg}}
}

// newPolicyReader makes a keeper for a command, which looks up what the policies are
// now, and changes nothing in the database; db may be nil.
func newPolicyReader(cfg *config, db *sql.DB, log *slog.Logger) *policyKeeper {
	k := newPolicyKeeper(cfg, nil, log, nil)
	k.o.Fresh, k.o.MaxEntries = true, 20_000
	if db != nil {
		k.o.Store = mtasts.ReadOnly(db)
	}
	return k
}

// give is for newProber: policies are fetched with the prober's resolver, its
// authorities and its way to the network.
func (k *policyKeeper) give(o *probe.Options) {
	if k.cfg.str("mta-sts") == "off" {
		return
	}
	dial := o.Dial
	if dial == nil {
		dial = probe.Dialer(o.Bind, o.BindOrAny)
	}
	k.o.Source = k.reports.watch(mtasts.NewFetcher(o.Resolver, o.Roots, dial, 0))
	if k.cache, k.err = mtasts.NewCache(k.o); k.err == nil {
		o.STS = k.cache
	}
}

// load reads what the store has. It must be called after newProber.
func (k *policyKeeper) load(ctx context.Context) error {
	if k.err != nil || k.cache == nil {
		return k.err
	}
	return k.cache.Load(ctx)
}

// run refreshes policies until ctx is done.
func (k *policyKeeper) run(ctx context.Context) error {
	if k.cache == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	return k.cache.Run(ctx)
}
