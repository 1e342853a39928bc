package main

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/adminlogin"
	"github.com/postseal/postseal/internal/adminpages"
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/sql"
	"github.com/postseal/postseal/tlsmap/probe"
)

// adminPages are the pages that show what is held, to administrators who are signed in.
type adminPages struct{ *adminpages.Pages }

func (p adminPages) register(mux *http.ServeMux) { p.Register(mux) }

func newAdminPages(cfg *config, db *sql.DB, vault *escrow.Vault, rules func() *policy.Snapshot, login *adminlogin.Login, reg prometheus.Gatherer, checks []readiness, log *slog.Logger) adminPages {
	o := adminpages.Options{Log: log}
	o.Store, o.Rules, o.Wrap = db, rules, login.Require
	o.Quota, o.Locked = quotas(cfg), vault.LockedUntil
	o.Actions, o.Operate = vault, login.RequireOperator
	o.MayOperate = func(ctx context.Context) bool {
		v, ok := adminlogin.ViewerOf(ctx)
		return ok && v.Operator
	}
	for _, c := range checks {
		o.Checks = append(o.Checks, adminpages.Check{Name: c.name, OK: c.ok})
	}
	o.Alarms = func(ctx context.Context, limit int) ([]adminpages.Alarm, error) {
		open, err := db.OpenAlarms(ctx, limit)
		all := make([]adminpages.Alarm, len(open))
		for i := range open {
			all[i] = adminpages.Alarm{Dest: open[i].Dest, Text: open[i].String(), At: open[i].At}
		}
		return all, err
	}
	o.Trouble = func() int { return int(gathered(reg, "postseal_intake_alarms_total")) }
	return adminPages{adminpages.New(o)}
}

// lookAnew has a destination looked at by who keeps the postures, so that mail goes by what is found.
func lookAnew(m *probe.Manager) func(ctx context.Context, dest string) error {
	return func(ctx context.Context, dest string) error {
		_, _, err := m.Look(ctx, dest, policy.TLSParams{}, 0)
		return err
	}
}

// gathered returns a counter's value, over all labels.
func gathered(reg prometheus.Gatherer, name string) (sum float64) {
	families, _ := reg.Gather() // what could be gathered
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}
