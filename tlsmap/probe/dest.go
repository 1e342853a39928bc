package probe

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/postseal/postseal/policyd/policy"
)

// destination is a next-hop as Postfix's smtp(8) reads it: domain, domain:port,
// [host], [host]:port or an address literal. Without brackets the MX records count.
type destination struct {
	name string     // canonical domain or host name; "" for an address
	addr netip.Addr // of an address literal
	host bool       // in brackets: no MX lookup
	port uint16     // 0 for the default
}

// Key returns the form under which a destination is kept: lower case, A-labels,
// no trailing dot. It does not allocate where dest has it already.
func Key(dest string) string { return policy.CanonicalDomain(dest) }

func parseDestination(dest string) (destination, error) {
	var d destination
	name, port := dest, ""
	if rest, ok := strings.CutPrefix(dest, "["); ok {
		in, after, ok := strings.Cut(rest, "]")
		if !ok {
			return d, fmt.Errorf("%q: no closing bracket", dest)
		}
		if after != "" {
			if port, ok = strings.CutPrefix(after, ":"); !ok || port == "" {
				return d, fmt.Errorf("%q: want [HOST] or [HOST]:PORT", dest)
			}
		}
		d.host, name = true, in
	} else if i := strings.IndexByte(dest, ':'); i >= 0 {
		name, port = dest[:i], dest[i+1:]
		if port == "" {
			return d, fmt.Errorf("%q: want DOMAIN or DOMAIN:PORT", dest)
		}
	}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			p, lookup := net.LookupPort("tcp", port)
			if lookup != nil {
				return d, fmt.Errorf("%q: unknown port %q", dest, port)
			}
			n = uint64(p)
		}
		if n == 0 {
			return d, fmt.Errorf("%q: port 0", dest)
		}
		d.port = uint16(n)
	}
	if d.host {
		literal := name
		if len(literal) > 5 && strings.EqualFold(literal[:5], "ipv6:") {
			literal = literal[5:]
		}
		if a, err := netip.ParseAddr(literal); err == nil {
			if a.Zone() != "" {
				return d, fmt.Errorf("%q: an address with a zone", dest)
			}
			d.addr = a.Unmap()
			return d, nil
		}
	} else if _, err := netip.ParseAddr(name); err == nil {
		return d, fmt.Errorf("%q is an address: write [%s]", dest, name)
	}
	d.name = policy.CanonicalDomain(name)
	if err := checkName(d.name); err != nil {
		return d, fmt.Errorf("%q: %w", dest, err)
	}
	return d, nil
}

// checkName tells a usable host or domain name (RFC 1123, section 2.1, with
// the underscores that are about) from what else DNS can carry.
func checkName(name string) error {
	if name == "" || len(name) > 253 {
		return errors.New("not a host name: empty or longer than 253 bytes")
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return errors.New("not a host name: bad label")
		}
		for i := 0; i < len(label); i++ {
			switch c := label[i]; {
			case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
			default:
				return errors.New("not a host name: bad character")
			}
		}
	}
	return nil
}
