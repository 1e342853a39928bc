// Package httphost reads from a request's header where it comes from and whom it asks, as
// the pages for recipients and those for administrators both must.
package httphost

import (
	"net"
	"net/netip"
	"strings"
)

// Canonical returns a host as hosts are compared: in lower case, without a
// trailing dot and the scheme's own port.
func Canonical(host, scheme string) string {
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = strings.Trim(host, "[]"), ""
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if strings.Contains(name, ":") {
		name = "[" + name + "]"
	}
	if port == "" || scheme == "https" && port == "443" || scheme == "http" && port == "80" {
		return name
	}
	return name + ":" + port
}

// Forwarded reads one address of X-Forwarded-For, with or without a port; the zero Addr
// where it is none.
func Forwarded(s string) netip.Addr {
	s = strings.TrimSpace(s)
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return a.Unmap()
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap()
	}
	return netip.Addr{}
}
