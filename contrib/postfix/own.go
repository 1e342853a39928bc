package postfix

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/net/idna"

	"github.com/postseal/postseal/policyd/policy"
)

// OwnDomains knows the domains whose mail a Postfix delivers itself, as its
// settings and tables say. It implements policy.OwnDomains.
type OwnDomains struct{ p *Instance }

// NewOwnDomains returns the own domains of p.
func NewOwnDomains(p *Instance) *OwnDomains { return &OwnDomains{p} }

// Own reports whether domain is in mydestination, virtual_mailbox_domains or
// virtual_alias_domains, or an address literal of this host. A setting or table
// that cannot be read is an error.
func (o *OwnDomains) Own(ctx context.Context, domain string) (bool, error) {
	class, err := o.class(ctx, domain)
	return class != "" && class != "relay_domains", err
}

// class returns the parameter that lists domain, relay_domains among them; "" for
// a foreign domain.
func (o *OwnDomains) class(ctx context.Context, domain string) (string, error) {
	m, err := o.p.Params(ctx, "mydestination", "virtual_mailbox_domains", "virtual_alias_domains", "relay_domains",
		"myorigin", "parent_domain_matches_subdomains", "inet_interfaces", "proxy_interfaces")
	if err != nil {
		return "", err
	}
	domain = policy.CanonicalDomain(domain)
	if domain == "" {
		domain = policy.CanonicalDomain(m["myorigin"])
	}
	if strings.HasPrefix(domain, "[") {
		own, err := ownLiteral(domain, m["inet_interfaces"], m["proxy_interfaces"])
		if own && err == nil {
			return "mydestination", nil
		}
		if err != nil {
			return "", err
		}
	}
	parents := false
	for _, w := range splitList(m["parent_domain_matches_subdomains"]) {
		parents = parents || w == "relay_domains"
	}
	for _, list := range []string{"mydestination", "virtual_alias_domains", "virtual_mailbox_domains", "relay_domains"} {
		in, err := o.p.match(ctx, m[list], domain, list == "relay_domains", parents)
		if err != nil {
			return "", fmt.Errorf("%s: %w", list, err)
		}
		if in {
			return list, nil
		}
	}
	return "", nil
}

// match reports whether a Postfix match list has name: literal names, type:table,
// /file and !pattern, the first that matches. subdomains asks for parents too.
func (p *Instance) match(ctx context.Context, list, name string, subdomains, parents bool) (bool, error) {
	return p.matchWords(ctx, splitList(list), name, subdomains, parents, 0)
}

func (p *Instance) matchWords(ctx context.Context, words []string, name string, subdomains, parents bool, depth int) (bool, error) {
	names := []string{name}
	if u, err := idna.ToUnicode(name); err == nil && u != name {
		names = append(names, u)
	}
	if subdomains {
		rest := name
		for !strings.HasPrefix(name, "[") {
			_, after, ok := strings.Cut(rest, ".")
			if !ok {
				break
			}
			rest = after
			if parents {
				names = append(names, rest)
			} else {
				names = append(names, "."+rest)
			}
		}
	}
	for _, w := range words {
		not := false
		for strings.HasPrefix(w, "!") {
			not, w = !not, w[1:]
		}
		found := false
		switch {
		case strings.HasPrefix(w, "/"):
			if depth > 8 {
				return false, fmt.Errorf("%s: files name each other in a circle", w)
			}
			inner, err := readList(w)
			if err != nil {
				return false, err
			}
			if found, err = p.matchWords(ctx, inner, name, subdomains, parents, depth+1); err != nil {
				return false, err
			}
		case strings.Contains(w, ":") && !strings.HasPrefix(w, "["):
			m, err := p.lookup(ctx, w, names)
			if err != nil {
				return false, err
			}
			found = len(m) > 0
		default:
			literal := policy.CanonicalDomain(w)
			dotted := strings.HasPrefix(w, ".")
			for _, n := range names {
				found = found || n == literal || dotted && strings.EqualFold(n, w)
			}
		}
		if found {
			return !not, nil
		}
	}
	return false, nil
}

// readList reads a file of a match list: words parted as in main.cf, comments from
// # at the start of a line.
func readList(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var words []string
	s := bufio.NewScanner(f)
	for s.Scan() {
		if l := strings.TrimSpace(s.Text()); l != "" && l[0] != '#' {
			words = append(words, splitList(l)...)
		}
	}
	return words, s.Err()
}

// ownLiteral reports whether [address] is one of this host: of its interfaces, as
// inet_interfaces restricts them, or of a proxy in front.
func ownLiteral(literal, interfaces, proxies string) (bool, error) {
	text := strings.TrimSuffix(strings.TrimPrefix(literal, "["), "]")
	text = strings.TrimPrefix(text, "ipv6:")
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return false, nil // not an address: not ours, and no road either
	}
	addr = addr.Unmap()
	for _, w := range append(splitList(proxies), splitList(interfaces)...) {
		if a, err := netip.ParseAddr(strings.Trim(w, "[]")); err == nil && a.Unmap() == addr {
			return true, nil
		}
		switch strings.ToLower(w) {
		case "loopback-only", "localhost":
			if addr.IsLoopback() {
				return true, nil
			}
		case "all":
			if addr.IsLoopback() {
				return true, nil
			}
			as, err := net.InterfaceAddrs()
			if err != nil {
				return false, fmt.Errorf("addresses of this host: %w", err)
			}
			for _, a := range as {
				if n, ok := a.(*net.IPNet); ok {
					if i, ok := netip.AddrFromSlice(n.IP); ok && i.Unmap() == addr {
						return true, nil
					}
				}
			}
		}
	}
	return false, nil
}

// StaticDomains are own domains that an administrator has listed (--own-domain).
type StaticDomains map[string]bool

// NewStaticDomains returns the domains in their canonical form.
func NewStaticDomains(domains []string) StaticDomains {
	s := make(StaticDomains, len(domains))
	for _, d := range domains {
		s[policy.CanonicalDomain(d)] = true
	}
	return s
}

// Own reports whether domain is listed.
func (s StaticDomains) Own(_ context.Context, domain string) (bool, error) {
	return s[policy.CanonicalDomain(domain)], nil
}
