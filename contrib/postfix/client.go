package postfix

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// Client is how smtp(8), which delivers what must be encrypted, connects to
// destinations.
type Client struct {
	HELO string // smtp_helo_name
	// Bind are the local addresses of its connections, at most one of each family:
	// smtp_bind_address, smtp_bind_address6, else the only address of inet_interfaces.
	Bind []netip.Addr
	// BindOrWait says that where it can't bind it does not connect
	// (smtp_bind_address_enforce); else it connects from any address.
	BindOrWait bool
	IPv4, IPv6 bool   // used at all (inet_protocols)
	Prefer     string // smtp_address_preference: any, ipv4 or ipv6
}

// clientParams are what Client is made of.
var clientParams = []string{
	"smtp_helo_name", "smtp_bind_address", "smtp_bind_address6", "smtp_bind_address_enforce",
	"inet_interfaces", "inet_protocols", "smtp_address_preference",
}

// Client returns how securesmtp connects, by the options of its service in master.cf
// and main.cf; before setup, how smtp does.
func (p *Instance) Client(ctx context.Context) (Client, error) {
	m, err := p.Params(ctx, clientParams...)
	if err != nil {
		return Client{}, err
	}
	services, err := p.Services(ctx)
	if err != nil {
		return Client{}, err
	}
	service := "smtp/unix"
	for _, s := range services {
		if s.String() == "securesmtp/unix" {
			service = s.String()
		}
	}
	out, err := p.postconf(ctx, "-xP", service)
	if err != nil {
		return Client{}, err
	}
	for line := range strings.Lines(out) {
		name, value, ok := strings.Cut(line, "=")
		if name, ours := strings.CutPrefix(strings.TrimSpace(name), service+"/"); ok && ours {
			m[name] = strings.TrimSpace(value)
		}
	}
	return clientOf(ctx, m)
}

func clientOf(ctx context.Context, m map[string]string) (Client, error) {
	c := Client{HELO: m["smtp_helo_name"], BindOrWait: m["smtp_bind_address_enforce"] == "yes", Prefer: "any"}
	if v := m["smtp_address_preference"]; v == "ipv4" || v == "ipv6" {
		c.Prefer = v
	}
	for _, w := range splitList(m["inet_protocols"]) {
		switch strings.ToLower(w) {
		case "all":
			c.IPv4, c.IPv6 = true, true
		case "ipv4":
			c.IPv4 = true
		case "ipv6":
			c.IPv6 = true
		default:
			return c, fmt.Errorf("inet_protocols: %q is neither all, ipv4 nor ipv6", w)
		}
	}
	if !c.IPv4 && !c.IPv6 {
		c.IPv4, c.IPv6 = true, true
	}
	own := interfaces(ctx, m["inet_interfaces"])
	for _, family := range []struct {
		name string
		used bool
		is   func(netip.Addr) bool
	}{
		{"smtp_bind_address", c.IPv4, netip.Addr.Is4},
		{"smtp_bind_address6", c.IPv6, netip.Addr.Is6},
	} {
		if !family.used {
			continue
		}
		if v := m[family.name]; v != "" {
			a, err := netip.ParseAddr(v)
			if err != nil || !family.is(a) {
				return c, fmt.Errorf("%s: %q is no address of that family", family.name, v)
			}
			c.Bind = append(c.Bind, a)
			continue
		}
		// As smtp_connect.c does for a virtual host: the one address it has, unless
		// that is a loopback one.
		var only []netip.Addr
		for _, a := range own {
			if family.is(a) {
				only = append(only, a)
			}
		}
		if len(only) == 1 && !only[0].IsLoopback() {
			c.Bind = append(c.Bind, only[0])
		}
	}
	return c, nil
}

// interfaces returns the addresses that inet_interfaces names; none for all, and for
// loopback-only, which has no address to send from. A name that can't be looked up is
// left out: Postfix would not have started with it.
func interfaces(ctx context.Context, value string) (all []netip.Addr) {
	for _, w := range splitList(value) {
		switch strings.ToLower(w) {
		case "all", "loopback-only":
			return nil
		}
		w = strings.TrimSuffix(strings.TrimPrefix(w, "["), "]")
		if a, err := netip.ParseAddr(w); err == nil {
			all = append(all, a)
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		found, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", w)
		cancel()
		for _, a := range found {
			all = append(all, a.Unmap())
		}
	}
	return all
}
