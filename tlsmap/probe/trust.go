package probe

import (
	"net/netip"
	"slices"
)

// TrustResolvers returns an [Options].Trusts that believes resolvers on loopback and
// those at the named addresses: what they say of DNSSEC can't be changed on its way
// here, or the administrator says so (RFC 7672, section 2.1.1 leaves that to him).
func TrustResolvers(named []string) func(server string) bool {
	var addrs []netip.Addr
	for _, n := range named {
		if a, err := netip.ParseAddr(n); err == nil {
			addrs = append(addrs, a.Unmap())
		}
	}
	return func(server string) bool {
		ap, err := netip.ParseAddrPort(server)
		if err != nil {
			return false // a name: who resolves that?
		}
		a := ap.Addr().Unmap()
		return a.IsLoopback() || slices.Contains(addrs, a)
	}
}

// Resolvers returns the resolvers that are asked now, HOST:PORT each.
func (p *Prober) Resolvers() []string { return p.o.Resolver.Servers() }

// Distrusted returns the first resolver that is asked and not trusted, for which DANE
// is off; "" where there is none.
func (p *Prober) Distrusted() string {
	for _, s := range p.o.Resolver.Servers() {
		if p.o.Trusts == nil || !p.o.Trusts(s) {
			return s
		}
	}
	return ""
}
