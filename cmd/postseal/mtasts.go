package main

import (
	"context"
	"log/slog"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/sql"
	"github.com/postseal/postseal/tlsmap/probe"
	"github.com/postseal/postseal/tlsmap/probe/mtasts"
)

// policyKeeper gives a prober its MTA-STS policies. Where mta-sts is off, or Postfix could
// not verify by them, it has no cache, and does nothing.
type policyKeeper struct {
	off   bool
	o     mtasts.Options
	cache *mtasts.Cache
	err   error

	reports *tlsReports // of what could not be fetched; nil: none
}

// newPolicyKeeper makes a keeper; store may be nil.
func newPolicyKeeper(cfg *config, s *surroundings, store mtasts.Store, log *slog.Logger, reg prometheus.Registerer) *policyKeeper {
	off := cfg.str("mta-sts") == "off" || s.stsOff != ""
	return &policyKeeper{off: off, o: mtasts.Options{Store: store, Log: log, Registerer: reg}}
}

// newPolicyReader makes a keeper for a command, which looks up what the policies are
// now, and changes nothing in the database; db may be nil. It logs nothing: what it
// finds is what the command prints.
func newPolicyReader(cfg *config, s *surroundings, db *sql.DB) *policyKeeper {
	k := newPolicyKeeper(cfg, s, nil, slog.New(slog.DiscardHandler), nil)
	k.o.Fresh, k.o.MaxEntries = true, 20_000
	if db != nil {
		k.o.Store = mtasts.ReadOnly(db)
	}
	return k
}

// give is for newProber: policies are fetched with the prober's resolver, its
// authorities and its way to the network.
func (k *policyKeeper) give(o *probe.Options) {
	if k.off {
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

// heed puts the policy in force of dest in the place of what the last look saw.
func (k *policyKeeper) heed(dest string, p policy.Published) policy.Published {
	if strings.ContainsAny(dest, "[:") {
		return p
	}
	if k.cache == nil {
		p.STS, p.STSMatch = policy.STSOff, nil
		return p
	}
	kept := k.cache.Kept(dest)
	switch {
	case kept.State != policy.STSUnknown:
		now := (&probe.Result{STS: kept}).Published()
		p.STS, p.STSMatch = now.STS, now.STSMatch
	case p.STS == policy.STSEnforce || p.STS == policy.STSTesting:
		p.STS, p.STSMatch = policy.STSUnknown, nil // expired since
	}
	return p
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
