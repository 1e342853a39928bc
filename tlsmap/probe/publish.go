package probe

import (
	"cmp"
	"context"

	"github.com/miekg/dns"

	"github.com/postseal/postseal/policyd/policy"
)

// TLSAResult is what a lookup of the TLSA records of one MX host found.
type TLSAResult struct {
	Base    string       `json:"base"`              // TLSA base domain, after CNAME expansion (RFC 7672, section 2.2.2)
	State   policy.DANE  `json:"state"`             // off, none, full (usable records), unusable or failed
	Records []TLSARecord `json:"records,omitempty"` // secure ones
	Error   string       `json:"error,omitempty"`
}

// TLSARecord is one TLSA record (RFC 6698, section 2.1).
type TLSARecord struct {
	Usage    uint8  `json:"usage"`
	Selector uint8  `json:"selector"`
	Matching uint8  `json:"matching_type"`
	Data     string `json:"data"` // hexadecimal
	// Unusable says why a sender cannot use it; "" where it can.
	Unusable string `json:"unusable,omitempty"`
}

// discover is the first half of a look: all that DNS and the web tell of a
// destination. It fills in Domain, MX with addresses and TLSA, DANE and STS. It reports
// false where r.State says all there is to say.
func (p *Prober) discover(ctx context.Context, r *Result, d destination, least func(*Answer)) bool {
	sts := make(chan *STSResult, 1)
	if p.o.STS != nil && d.name != "" && !d.host && d.port == 0 {
		go func() { sts <- p.stsPolicy(ctx, d.name) }()
	} else {
		sts <- &STSResult{State: policy.STSOff}
	}
	more := p.discoverHosts(ctx, r, d, least)
	if more {
		p.tlsa(ctx, r, cmp.Or(d.port, p.o.Port), least)
	}
	r.STS = <-sts
	p.sts(ctx, r)
	return more
}

// tlsa looks up the TLSA records of every MX host and sums them up in r.DANE.
func (p *Prober) tlsa(ctx context.Context, r *Result, port uint16, least func(*Answer)) {
	r.DANE = policy.DANEOff
}

// discoverHosts finds the MX hosts and their addresses.
func (p *Prober) discoverHosts(ctx context.Context, r *Result, d destination, least func(*Answer)) bool {
	gone := false // no MX, by NXDOMAIN
	switch {
	case d.addr.IsValid():
		r.Domain = d.addr.String()
		r.MX = []MXResult{{Addresses: []AddressResult{{Addr: d.addr}}}}
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
	if r.ImplicitMX && !r.MX[0].DNSFailed && len(r.MX[0].Addresses) == 0 {
		r.State, r.Reason = policy.NoMail, "the domain has neither MX nor address"
		if gone {
			r.Reason = "no such domain"
		}
		r.ImplicitMX, r.MX = false, []MXResult{}
		return false
	}
	return true
}

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
