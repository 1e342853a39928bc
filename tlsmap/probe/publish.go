package probe

import (
	"context"
	"time"

	"github.com/miekg/dns"

	"github.com/postseal/postseal/policyd/policy"
)

// discover is the first half of a look: all that DNS and the web tell of a
// destination. It fills in Domain, MX with addresses and TLSA, DANE, STS and TTL. more is
// false where r.State says all there is to say.
func (p *Prober) discover(ctx context.Context, r *Result) (d destination, more bool) {
	d, err := parseDestination(r.Dest)
	if err != nil {
		r.State, r.Reason = policy.Unknown, err.Error()
		return d, false
	}
	r.Domain = d.name
	ttl := time.Duration(-1)
	least := func(a *Answer) {
		if a != nil && len(a.Records) > 0 && (ttl < 0 || a.TTL < ttl) {
			ttl = a.TTL
		}
	}
	defer func() { r.TTL = int(max(0, ttl) / time.Second) }()
	trusted := p.trusted()
	sts := make(chan *STSResult, 1)
	if p.o.STS != nil && d.name != "" && !d.host && d.port == 0 {
		go func() { sts <- p.stsPolicy(ctx, d.name) }()
	} else {
		sts <- &STSResult{State: policy.STSOff}
	}
	more = p.discoverHosts(ctx, r, d, least)
	switch {
	case more:
		p.tlsa(ctx, r, d, least)
	case r.State == policy.NoMail:
		r.DANE = policy.DANENone
	}
	trusted = trusted && p.trusted() // resolv.conf may have changed meanwhile
	if !trusted {
		r.distrust()
	}
	p.noteTrust(trusted)
	r.STS = <-sts
	p.sts(ctx, r)
	return d, more
}

// discoverHosts finds the MX hosts and their addresses.
func (p *Prober) discoverHosts(ctx context.Context, r *Result, d destination, least func(*Answer)) bool {
	gone := false // no MX, by NXDOMAIN
	switch {
	case d.addr.IsValid():
		r.Domain = d.addr.String()
		r.MX = []MXResult{{Addresses: []AddressResult{{Addr: d.addr}}}}
		if d.addr.Is4() && p.o.SkipIPv4 || d.addr.Is6() && p.o.SkipIPv6 {
			a := &r.MX[0].Addresses[0]
			a.State, a.Error = policy.Unreachable, "the mail server does not use addresses of this family"
		}
	case d.host:
		r.MX = []MXResult{{Host: d.name}}
	default:
		a, err := p.o.Resolver.Lookup(ctx, d.name, dns.TypeMX)
		if err != nil {
			r.State, r.Reason = policy.Unknown, err.Error()
			return false
		}
		least(a)
		r.Authentic, gone = a.Authentic, a.NotFound
		if a.Canonical != d.name {
			r.Canonical = a.Canonical
		}
		if r.mxHosts(a.Records); r.NullMX {
			r.State, r.Reason = policy.NoMail, "null MX: the domain takes no mail"
			return false
		}
		if len(r.MX) == 0 {
			// Like Postfix also after NXDOMAIN: some servers say so for a name
			// that has other records.
			r.ImplicitMX = true
			r.MX = []MXResult{{Host: d.name}}
		}
	}
	if extra := len(r.MX) - maxHosts; extra > 0 {
		r.Unprobed += extra
		r.MX = r.MX[:maxHosts]
	}
	p.addresses(ctx, r, least)
	other := (p.o.SkipIPv4 || p.o.SkipIPv6) && len(r.MX) > 0 && r.MX[0].Error != noSuchHost // there may be addresses that we do not use
	if r.ImplicitMX && !r.MX[0].DNSFailed && len(r.MX[0].Addresses) == 0 && !other {
		r.State, r.Reason = policy.NoMail, "the domain has neither MX nor address"
		if gone {
			r.Reason = "no such domain"
		}
		r.ImplicitMX, r.MX = false, []MXResult{}
		return false
	}
	return true
}

// Published sums up what a result says of the destination's demands.
func (r *Result) Published() policy.Published { return r.published() }

// published sums up what a result says of the destination's demands.
func (r *Result) published() policy.Published {
	p := policy.Published{DANE: r.DANE}
	if r.STS != nil {
		p.STS = r.STS.State
		if p.STS == policy.STSEnforce || p.STS == policy.STSTesting {
			p.STSMatch = stsMatch(r.STS.MX)
		}
	}
	return p
}
