package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/postseal/postseal/internal/adminlogin"
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/sql"
	"github.com/postseal/postseal/tlsmap"
	"github.com/postseal/postseal/tlsmap/check"
	"github.com/postseal/postseal/tlsmap/check/page"
	"github.com/postseal/postseal/tlsmap/check/scan"
	"github.com/postseal/postseal/tlsmap/probe"
)

// checkPage is the checker on the admin port.
type checkPage struct {
	*page.Page
	login *adminlogin.Login
}

func (p checkPage) register(mux *http.ServeMux) {
	h := p.login.RequireOnceSetUp(p)
	mux.Handle("/check", h)
	mux.Handle("/check/", h)
}

// newCheckPage makes the page. It has a prober of its own, which connects to public
// addresses alone, and it reads the postures that mail goes by without a word to who
// keeps them: whatever is typed there would be looked at from then on.
func newCheckPage(cfg *config, s *surroundings, engine *policy.Engine, maps *tlsmap.Server, db *sql.DB, login *adminlogin.Login, log *slog.Logger) (checkPage, error) {
	o := check.Options{Scan: scan.Options{Timeout: 5 * time.Second}}
	var err error
	policies := newPolicyReader(cfg, s, db)
	o.Prober, err = newProber(cfg, s, log, nil, func(p *probe.Options) {
		p.Timeout = 5 * time.Second
		dial := p.Dial
		if dial == nil {
			dial = probe.Dialer(p.Bind, p.BindOrAny)
		}
		p.Dial = publicOnly(dial)
		o.Resolver = p.Resolver
	}, policies.give) // last, so that policies are fetched from public addresses alone, too
	if err != nil {
		return checkPage{}, err
	}
	if err := policies.load(context.Background()); err != nil {
		return checkPage{}, err
	}
	checker := check.New(o)
	d := &decider{cfg: cfg, engine: engine, maps: maps, mandatory: mandatory(s.tlsLevel), known: func(ctx context.Context, dest string) policy.Posture {
		r, err := db.Posture(ctx, dest)
		if err != nil || r == nil {
			return policy.Posture{} // as of a destination seen now for the first time
		}
		return policy.Posture{State: r.State, Checked: r.Checked, Worked: r.Worked, Lost: r.Lost, Since: r.Since}
	}}
	return checkPage{login: login, Page: page.New(page.Options{
		Listen: cfg.str("admin-listen"), Names: adminNames(cfg),
		Check: func(ctx context.Context, domain string) *check.Report {
			return d.check(ctx, question{asked: domain, rcpt: policy.Address{Local: "someone", Domain: domain}}, checker.Deep)
		},
	})}, nil
}

// publicOnly connects to public addresses alone.
func publicOnly(dial func(ctx context.Context, network, address string) (net.Conn, error)) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return nil, err
		}
		if !page.PublicAddress(to.Addr()) {
			return nil, fmt.Errorf("%s is no public address: this page does not look at it", to.Addr())
		}
		return dial(ctx, network, address)
	}
}
