package tlsrpt

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/probe"
)

// ErrNoRecord reports that a domain asks for no reports: it has no record, more
// than one, or one that cannot be used. It is an answer; a failed lookup is not.
var ErrNoRecord = errors.New("no TLSRPT record")

// The bounds of a record. A record that needs more is no record of a person.
const (
	maxRecord = 8 << 10 // bytes
	maxRUA    = 8       // URIs that are used; the others are left out
	maxURI    = 1000    // bytes
)

// Record is a TLSRPT record (RFC 8460, section 3).
type Record struct {
	Text string `json:"text"` // as published, its strings joined
	RUA  []URI  `json:"rua"`  // where reports go, at least one
	// Ignored says what of the record was left out, and why: an URI of an unknown
	// scheme, a field that is none. Extensions are not listed.
	Ignored []string `json:"ignored,omitempty"`
}

// URI is where reports go.
type URI struct {
	Raw string `json:"uri"` // as published
	// Mail is the address of a mailto URI, decoded, fit for an envelope.
	Mail string `json:"mail,omitempty"`
	// Post is the URL of an https URI.
	Post string `json:"post,omitempty"`
}

// Resolver looks records up; [probe.Resolver] does.
type Resolver interface {
	Lookup(ctx context.Context, name string, qtype uint16) (*probe.Answer, error)
}

// Lookup returns the record of a domain. The error wraps [ErrNoRecord] where the
// domain asks for no reports and [probe.ErrDNS] where nobody knows, or is that of
// ctx.
func Lookup(ctx context.Context, r Resolver, domain string) (*Record, error) {
	name := "_smtp._tls." + policy.CanonicalDomain(domain)
	a, err := r.Lookup(ctx, name, dns.TypeTXT)
	if err != nil {
		return nil, err
	}
	var texts []string
	for _, rr := range a.Records {
		if txt, ok := rr.(*dns.TXT); ok {
			texts = append(texts, joined(txt.Txt))
		}
	}
	rec, err := choose(texts)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return rec, nil
}

// choose takes the one record of those of a name. Texts that are none of
// TLSRPT are discarded; of what is left there must be exactly one.
func choose(texts []string) (*Record, error) {
	texts = slices.DeleteFunc(slices.Clone(texts), func(s string) bool { return !isRecord(s) })
	switch len(texts) {
	case 0:
		return nil, ErrNoRecord
	case 1:
		return ParseRecord(texts[0])
	}
	return nil, fmt.Errorf("%w that counts: there are %d", ErrNoRecord, len(texts))
}

const version = "v=TLSRPTv1"

// isRecord reports whether a text begins as a record must: the version, exactly
// so, and a delimiter.
func isRecord(s string) bool {
	rest, ok := strings.CutPrefix(s, version)
	return ok && strings.HasPrefix(strings.TrimLeft(rest, " \t"), ";")
}

// ParseRecord reads the text of a record. Fields it does not know are skipped,
// as the RFC demands; so are URIs it cannot use, as long as one is left. Any error
// wraps [ErrNoRecord].
func ParseRecord(text string) (*Record, error) {
	if len(text) > maxRecord {
		return nil, fmt.Errorf("%w that counts: it has %d bytes", ErrNoRecord, len(text))
	}
	if !isRecord(text) {
		return nil, fmt.Errorf("%w: it does not begin with %s;", ErrNoRecord, version)
	}
	rec := &Record{Text: printable(text)}
	fields := strings.Split(text, ";")[1:]
	for i, f := range fields {
		f = strings.Trim(f, " \t")
		if f == "" {
			if i < len(fields)-1 {
				rec.ignore("an empty field")
			}
			continue
		}
		name, value, ok := strings.Cut(f, "=")
		switch {
		case !ok || !isFieldName(name):
			rec.ignore(fmt.Sprintf("%q: not a field", printable(f)))
		case name == "rua":
			rec.addRUA(value)
		}
	}
	if len(rec.RUA) == 0 {
		why := "it has no rua"
		if len(rec.Ignored) > 0 {
			why = strings.Join(rec.Ignored, "; ")
		}
		return nil, fmt.Errorf("%w that counts: %s", ErrNoRecord, why)
	}
	return rec, nil
}

func (r *Record) addRUA(value string) {
	for raw := range strings.SplitSeq(value, ",") {
		raw = strings.Trim(raw, " \t")
		u, err := parseURI(raw)
		switch {
		case err != nil:
			r.ignore(fmt.Sprintf("rua %q: %v", printable(raw), err))
		case len(r.RUA) == maxRUA:
			r.ignore(fmt.Sprintf("rua %q: more than %d", raw, maxRUA))
		case !slices.Contains(r.RUA, u):
			r.RUA = append(r.RUA, u)
		}
	}
}

// ignore notes what is left out, up to a bound.
func (r *Record) ignore(what string) {
	if len(r.Ignored) < 2*maxRUA {
		r.Ignored = append(r.Ignored, what)
	}
}

// parseURI reads a tlsrpt-uri. What a URI must write encoded ("," "!" ";") the
// list around it has parted or refuses here. There are no size suffixes, unlike in
// DMARC.
func parseURI(raw string) (URI, error) {
	if raw == "" || len(raw) > maxURI {
		return URI{}, fmt.Errorf("want an URI of at most %d bytes", maxURI)
	}
	for i := 0; i < len(raw); i++ {
		if c := raw[i]; c <= ' ' || c >= 0x7f || c == '!' || c == '"' || c == '<' || c == '>' {
			return URI{}, fmt.Errorf("%q must be written encoded", c)
		}
	}
	u, err := url.Parse(raw)
	if err != nil {
		return URI{}, errors.New("not an URI")
	}
	switch u.Scheme { // lower case by url.Parse
	case "mailto":
		to, err := url.PathUnescape(u.Opaque) // header fields (?…) do not count
		if err != nil {
			return URI{}, errors.New("not an URI")
		}
		a, err := policy.ParseAddress(to)
		if err != nil || a.Local == "" || a.Domain == "" || !ascii(a.String()) || strings.HasPrefix(a.String(), `"`) != strings.HasPrefix(to, `"`) {
			return URI{}, errors.New("not the address of one mailbox")
		}
		return URI{Raw: raw, Mail: a.String()}, nil
	case "https":
		if u.Hostname() == "" || u.Opaque != "" || u.User != nil {
			return URI{}, errors.New("want https://HOST/")
		}
		u.Fragment, u.RawFragment = "", ""
		return URI{Raw: raw, Post: u.String()}, nil
	}
	return URI{}, errors.New("neither mailto nor https")
}

// isFieldName reports whether a field has a name by the grammar of
// tlsrpt-ext-name.
func isFieldName(s string) bool {
	if s == "" || len(s) > 32 || strings.IndexByte("_-.", s[0]) >= 0 {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && strings.IndexByte("_-.", c) < 0 {
			return false
		}
	}
	return true
}

// joined puts the strings of a TXT record together (RFC 7208, section 3.3), and
// undoes how the DNS library writes bytes that are not printable.
func joined(parts []string) string {
	s := strings.Join(parts, "")
	if !strings.Contains(s, `\`) {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			out = append(out, s[i])
			continue
		}
		if d := s[i+1:]; len(d) >= 3 && isDigit(d[0]) && isDigit(d[1]) && isDigit(d[2]) {
			out = append(out, (d[0]-'0')*100+(d[1]-'0')*10+d[2]-'0')
			i += 3
			continue
		}
		i++
		out = append(out, s[i])
	}
	return string(out)
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
