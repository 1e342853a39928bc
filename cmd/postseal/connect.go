package main

import (
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/postseal/postseal/tlsmap/probe"
)

// connectAsPostfix has the probe connect as Postfix's smtp(8) does, so that it sees what
// Postfix will see: from the same addresses, by the same families. Another firewall
// rule or another list of friends holds for another address.
func (s *surroundings) connectAsPostfix(cfg *config, o *probe.Options, log *slog.Logger) error {
	c := s.client
	if c.IPv4 || c.IPv6 { // else nothing is known
		o.SkipIPv4, o.SkipIPv6, o.PreferIPv4 = !c.IPv4, !c.IPv6, c.Prefer == "ipv4"
	}
	if cfg.values["probe-from"].Source == "default" {
		o.Bind, o.BindOrAny = c.Bind, !c.BindOrWait
		for _, a := range o.Bind {
			if err := probe.CheckBind(a); err != nil {
				log.Warn("Postfix's own bind address can't be used by the probe now; it does then as Postfix does", "error", err)
			}
		}
		return nil
	}
	for _, v := range cfg.strs("probe-from") {
		a, err := netip.ParseAddr(v)
		if err == nil {
			a = a.Unmap()
			err = probe.CheckBind(a)
		}
		if err != nil {
			return fmt.Errorf("probe-from (from %s): %w", cfg.values["probe-from"].Source, err)
		}
		for _, b := range o.Bind {
			if a.Is4() == b.Is4() {
				return fmt.Errorf("probe-from (from %s): %s and %s are of one family: want one address of each", cfg.values["probe-from"].Source, b, a)
			}
		}
		o.Bind = append(o.Bind, a)
	}
	return nil
}
