package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Address is an envelope address (RFC 5321, section 4.1.2) in the form that
// rules are looked up by: the local part without quotes, the domain canonical
// ([CanonicalDomain]). The zero Address is the null sender "<>".
type Address struct {
	Local  string // unquoted, as typed
	Domain string // canonical; empty for a bare local part and the null sender
}

// ParseAddress reads an address as Postfix hands it over: in its internal form
// (john doe@example.org) or its external one ("john doe"@example.org), with or
// without angle brackets, any case, the domain as A-labels or U-labels, with or
// without a trailing dot, or as an address literal ([192.0.2.1]). The last @
// outside quotes parts it, as in Postfix. A source route is skipped (RFC 5321,
// appendix F.2).
//
// It fails on control characters, on over-long addresses (local part over 1024
// bytes, domain over 1024: more than Postfix lets through) and on a domain with
// characters that would end the command it is put into (RFC 5321, section 4.1.2),
// also where only IDNA's mapping makes them; never on odd but possible ones.
func ParseAddress(s string) (Address, error) {
	if strings.HasPrefix(s, "<") && strings.HasSuffix(s, ">") {
		s = s[1 : len(s)-1]
	}
	if s == "" {
		return Address{}, nil
	}
	if strings.HasPrefix(s, "@") {
		if i := strings.IndexByte(s, ':'); i > 0 && strings.LastIndexByte(s, '@') > i {
			s = s[i+1:]
		}
	}
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] == 0x7f {
			return Address{}, fmt.Errorf("address has a control character")
		}
	}
	local, domain := s, ""
	if i := lastAt(s); i >= 0 {
		local, domain = s[:i], s[i+1:]
	}
	local = unquote(local)
	if len(local) > 1024 || len(domain) > 1024 {
		return Address{}, fmt.Errorf("address is too long")
	}
	if domain = CanonicalDomain(domain); len(domain) > 1024 {
		return Address{}, fmt.Errorf("address is too long")
	}
	if strings.ContainsFunc(domain, breaksOut) || strings.Contains(domain, ":") && domain[0] != '[' {
		return Address{}, fmt.Errorf("the domain of the address has a character that no domain has")
	}
	return Address{Local: local, Domain: domain}, nil
}

// breaksOut reports the characters that have a meaning of their own in an SMTP
// path, and so can't stand in a domain.
func breaksOut(c rune) bool {
	switch c {
	case '<', '>', '(', ')', '@', ',', ';', '\\', '"', 0x7f:
		return true
	}
	return c <= ' '
}

// lastAt returns the index of the last @ of s that is not inside a quoted
// string at its front, or -1.
func lastAt(s string) int {
	from := 0
	if strings.HasPrefix(s, `"`) {
		for i := 1; i < len(s); i++ {
			if s[i] == '\\' {
				i++
			} else if s[i] == '"' {
				from = i + 1
				break
			}
		}
		if from == len(s) {
			return -1 // a quoted local part without a domain
		}
		if from > 0 && s[from] != '@' {
			from = 0 // no quoted local part after all: the internal form may hold quotes
		}
	}
	if i := strings.LastIndexByte(s[from:], '@'); i >= 0 {
		return from + i
	}
	return -1
}

func unquote(local string) string {
	if len(local) < 2 || local[0] != '"' || local[len(local)-1] != '"' {
		return local
	}
	in := local[1 : len(local)-1]
	if !strings.ContainsAny(in, `\"`) {
		return in
	}
	var b strings.Builder
	for i := 0; i < len(in); i++ {
		switch {
		case in[i] == '\\' && i+1 < len(in):
			i++
		case in[i] == '"':
			return local // a bare quote inside: not a quoted string
		}
		b.WriteByte(in[i])
	}
	return b.String()
}

// IsNull reports whether a is the null sender "<>".
func (a Address) IsNull() bool { return a.Local == "" && a.Domain == "" }

// Routed reports whether the local part holds an operator by which Postfix sends
// mail for its own domains on to elsewhere (user%elsewhere@own, elsewhere!user@own,
// user@elsewhere@own: allow_percent_hack, swap_bangpath and
// resolve_dequoted_address are on by default). A recipient of an own domain that
// is Routed may leave the server after all.
func (a Address) Routed() bool { return strings.ContainsAny(a.Local, "@%!") }

// String returns the address as SMTP wants it between angle brackets: the local
// part quoted where RFC 5321, section 4.1.2 demands it, so that no local part
// can break out of the command it is put into.
func (a Address) String() string {
	if a.IsNull() {
		return ""
	}
	local := a.Local
	if !isDotString(local) {
		var b strings.Builder
		b.WriteByte('"')
		for i := 0; i < len(local); i++ {
			if local[i] == '"' || local[i] == '\\' {
				b.WriteByte('\\')
			}
			b.WriteByte(local[i])
		}
		b.WriteByte('"')
		local = b.String()
	}
	if a.Domain == "" {
		return local
	}
	return local + "@" + a.Domain
}

// isDotString reports whether s needs no quotes: atoms parted by single dots.
// Octets above 127 are allowed where they are UTF-8 (RFC 6531, section 3.3).
func isDotString(s string) bool {
	if s == "" || s[0] == '.' || s[len(s)-1] == '.' || strings.Contains(s, "..") || !utf8.ValidString(s) {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c >= 0x80, c == '.':
		case strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0:
		default:
			return false
		}
	}
	return true
}

// Folded returns a with its local part in lower case, the form in which rules
// are kept: Postfix folds the keys of its tables too.
func (a Address) Folded() Address {
	a.Local = strings.ToLower(a.Local)
	return a
}

var domainProfile = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.StrictDomainName(false))

// CanonicalDomain returns the form in which domains are compared: lower-case
// A-labels without trailing dots; an address literal in lower case, IPv6 in its
// short form (RFC 5952). What is no domain name at all comes back in lower case,
// so that it equals itself. It does not allocate for a domain that is canonical
// already.
func CanonicalDomain(s string) string {
	s = strings.TrimRight(s, ".")
	ascii, canonical := true, true
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c >= 0x80:
			ascii, canonical = false, false
		case c >= 'A' && c <= 'Z', c == ':':
			canonical = false
		}
	}
	switch {
	case canonical:
		return s
	case strings.HasPrefix(s, "["):
		s = strings.ToLower(s)
		if in, ok := strings.CutPrefix(s, "[ipv6:"); ok {
			if ip, err := netip.ParseAddr(strings.TrimSuffix(in, "]")); err == nil && ip.Zone() == "" && strings.HasSuffix(in, "]") {
				return "[ipv6:" + ip.String() + "]"
			}
		}
		return s
	case ascii:
		return strings.ToLower(s)
	}
	if a, err := domainProfile.ToASCII(s); err == nil {
		return strings.TrimRight(strings.ToLower(a), ".")
	}
	return strings.TrimRight(strings.ToLower(s), ".")
}

// Delimiters is Postfix's recipient_delimiter: each of its bytes starts an
// address extension.
type Delimiters string

// Split returns the local part without its extension, as Postfix's
// split_addr: the reserved names and an extension at the very start are left
// alone, and with "-" owner-list and list-request are too. ok is false where
// there is no extension.
func (d Delimiters) Split(local string) (base string, ok bool) {
	i := strings.IndexAny(local, string(d))
	if d == "" || i <= 0 {
		return local, false
	}
	for _, reserved := range []string{"postmaster", "mailer-daemon", "double-bounce"} {
		if strings.EqualFold(local, reserved) {
			return local, false
		}
	}
	if local[i] == '-' {
		lower := strings.ToLower(local)
		if strings.HasPrefix(lower, "owner-") || strings.HasSuffix(lower, "-request") {
			return local, false
		}
	}
	return local[:i], true
}
