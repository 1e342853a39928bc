// Package check is the TLS checker: what postseal check and the admin page say of
// a destination.
//
// The way of a check: a [Checker] has the prober look at the destination as it
// always does ([probe.Prober.Probe]), which is all of [Checker.Quick]. [Checker.Deep]
// then has package scan ask every address that answered which TLS versions and
// cipher suites it takes. [Build] makes a [Report] of what was found: the facts, a
// [Class] for scripts, the verdict by NIST SP 800-52r2, and what the destination
// should fix ([Advise]). What Postseal itself would do is put in by the caller, who
// has the rules. [Report.WriteText] writes it for a person; its JSON is described by
// docs/check.schema.json.
//
// All but the Checker is pure. The package never sends mail and decides nothing.
package check

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/check/scan"
	"github.com/postseal/postseal/tlsmap/probe"
	"github.com/postseal/postseal/tlsmap/tlsrpt"
)

// Options say how a Checker looks. Prober is needed; the rest has defaults.
type Options struct {
	Prober *probe.Prober
	// Resolver is asked for the TLSRPT record; nil: it is not looked at.
	Resolver *probe.Resolver
	Scan     scan.Options
	// Shared has Quick accept a session with a mail host that was had for another
	// destination, as long as its TTL lets that count.
	Shared bool
	// MaxScans is how many addresses of one destination are scanned at a time;
	// default 4.
	MaxScans int
	Now      func() time.Time // default time.Now
}

// Checker checks destinations. It remembers nothing, and serves many at a time.
type Checker struct{ o Options }

// New makes a checker.
func New(o Options) *Checker {
	if o.MaxScans == 0 {
		o.MaxScans = 4
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Checker{o}
}

// Quick checks a destination by one handshake with each address: a domain,
// domain:port, [host], [host]:port or an address literal. It never returns nil; it
// ends with ctx.
func (c *Checker) Quick(ctx context.Context, dest string) *Report {
	report := make(chan *TLSRPT, 1)
	go func() { report <- c.tlsrpt(ctx, dest) }()
	look := c.o.Prober.Probe
	if c.o.Shared {
		look = c.o.Prober.ProbeShared
	}
	result := look(ctx, dest)
	r := Build(result, nil, nil, c.o.Now())
	r.TLSRPT = <-report
	r.Advice = Advise(r)
	return r
}

// Deep is Quick, and then a scan of every address that offers STARTTLS. Where ctx
// ends first the scans say so.
func (c *Checker) Deep(ctx context.Context, dest string) *Report {
	report := make(chan *TLSRPT, 1)
	go func() { report <- c.tlsrpt(ctx, dest) }()
	result := c.o.Prober.Probe(ctx, dest)
	r := Build(result, c.scan(ctx, result), c.o.Prober.Describe, c.o.Now())
	r.TLSRPT = <-report
	r.Advice = Advise(r)
	return r
}

// Scans are the scans of one destination, by MX host and address.
type Scans map[ScanKey]*scan.Result

// ScanKey names one scan. The host counts too: it is the name asked for (SNI).
type ScanKey struct{ Host, Addr string }

func (c *Checker) scan(ctx context.Context, result *probe.Result) Scans {
	all := make(Scans)
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, c.o.MaxScans)
	for i := range result.MX {
		mx := &result.MX[i]
		for j := range mx.Addresses {
			a := &mx.Addresses[j]
			if !a.STARTTLS {
				continue
			}
			wg.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				o := c.o.Scan
				o.ServerName = mx.Host
				if a.Version != "" {
					o.ServerName = a.SNI // as in the session, which may have left it out
				}
				got := scan.Scan(ctx, c.o.Prober.Starter(result.Dest, mx.Host, a.Addr), o)
				mu.Lock()
				defer mu.Unlock()
				all[ScanKey{mx.Host, a.Addr.String()}] = got
			})
		}
	}
	wg.Wait()
	return all
}

// tlsrpt looks up where a domain wants reports of TLS failures (RFC 8460, section
// 3). It returns nil where dest is no domain.
func (c *Checker) tlsrpt(ctx context.Context, dest string) *TLSRPT {
	domain := probe.Key(dest)
	if c.o.Resolver == nil || strings.ContainsAny(domain, "[]:") || domain == "" {
		return nil
	}
	out := &TLSRPT{RUA: []string{}}
	rec, err := tlsrpt.Lookup(ctx, c.o.Resolver, domain)
	if err != nil {
		if !strings.HasSuffix(err.Error(), tlsrpt.ErrNoRecord.Error()) {
			out.Error = text(err.Error()) // there is one that does not count, or nobody knows
		}
		return out
	}
	out.Record, out.Ignored = text(rec.Text), rec.Ignored
	for _, u := range rec.RUA {
		out.RUA = append(out.RUA, text(u.Raw))
	}
	return out
}

// Decision is what Postseal would do with mail to the destination, as of this
// report.
type Decision struct {
	Channel   string `json:"channel"`    // plain, tls, escrow or conflict
	Transport string `json:"transport"`  // Postfix's transport:nexthop; "" for its own routing
	TLSPolicy string `json:"tls_policy"` // of Postfix's smtp_tls_policy_maps; "" for none
	// Outcome is what becomes of such a message; "" where nobody can say, as for a
	// conflict.
	Outcome Outcome  `json:"outcome"`
	Line    string   `json:"line"` // one sentence
	Reasons []string `json:"reasons"`
}

// state is the state of one address by what it said, whatever the floor.
func state(a *probe.AddressResult) policy.State {
	if a.TLS && a.State == policy.Broken {
		return policy.Works
	}
	return a.State
}
