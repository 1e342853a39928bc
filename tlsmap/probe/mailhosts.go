package probe

import (
	"context"
	"net/netip"

	"github.com/miekg/dns"
)

// MailHosts returns the addresses of a domain's MX hosts (RFC 5321, section
// 5.1), without connecting to them. A lookup that fails is an error; a domain
// that takes no mail has none.
func (p *Prober) MailHosts(ctx context.Context, domain string) ([]netip.Addr, error) {
	r := &Result{Dest: Key(domain), Domain: Key(domain)}
	a, err := p.o.Resolver.Lookup(ctx, r.Domain, dns.TypeMX)
	if err != nil {
		return nil, err
	}
	if r.mxHosts(a.Records); r.NullMX {
		return nil, nil
	}
	if len(r.MX) == 0 {
		r.MX = []MXResult{{Host: r.Domain}}
	}
	var all []netip.Addr
	for i := range r.MX {
		addrs, answers := p.hostAddresses(ctx, &r.MX[i])
		if len(addrs) == 0 && len(answers) == 0 {
			if _, err := p.o.Resolver.Lookup(ctx, r.MX[i].Host, dns.TypeA); err != nil {
				return nil, err
			}
		}
		all = append(all, addrs...)
	}
	return all, nil
}
