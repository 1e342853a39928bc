package tlsmap

import (
	"context"
	"fmt"
	"strings"

	"github.com/postseal/postseal/policyd/policy"
)

// adminLevels are Postfix's levels from weak to strong. dane counts as weaker than
// encrypt, since it falls back to it, or to less, where a domain has no TLSA records.
var adminLevels = []string{"none", "may", "dane", "encrypt", "dane-only", "fingerprint", "verify", "secure"}

func adminLevel(name string) int {
	for i, l := range adminLevels {
		if l == name {
			return i
		}
	}
	return -1
}

// tlsPolicy answers for a next-hop of an opportunistic transport: "" where no rule
// says anything. Mail that must be encrypted goes by the mandatory transports, so
// this is a second guard, and must not stand in the way of other mail for the same
// next-hop.
func (s *Server) tlsPolicy(ctx context.Context, key string) (string, error) {
	if s.isFallback(key) {
		return "none", nil
	}
	// Postfix asks for the domain first, and LookupDomain has considered its parents;
	// and a next-hop with brackets or a port is not the domain of a recipient.
	if key == "" || key == "*" || key[0] == '.' || strings.ContainsAny(key, "[]:@") {
		return "", nil
	}
	domain := policy.CanonicalDomain(key)
	rules, now := s.cfg.Engine.Rules(), s.cfg.Engine.Now()
	r := rules.LookupDomain(domain, now)
	switch {
	case r == nil:
		return "", nil
	case r.Requirement == policy.None:
		if !demands(r.TLS) {
			return "", nil
		}
		return s.merged(ctx, key, r.TLS, r.TLS.PostfixPolicy(policy.LevelMay))
	case rules.Exempts(domain, now):
		return "", nil // mail for the exempt address may go in plaintext
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DecisionTime)
	defer cancel()
	own, err := s.cfg.Engine.Own.Own(ctx, domain)
	if err != nil {
		return "", fmt.Errorf("own domains: %w", err)
	}
	if own {
		return "", nil
	}
	return s.merged(ctx, key, r.TLS, s.withFloor(r.TLS).PostfixPolicy(policy.LevelEncrypt))
}

// secureTLSPolicy answers for a next-hop of a mandatory transport: encrypt or above,
// for everything but our own fallback.
func (s *Server) secureTLSPolicy(ctx context.Context, key string) (string, error) {
	if s.isFallback(key) {
		return "none", nil
	}
	demand := s.demand(key)
	text := s.encrypt
	if demands(demand) {
		text = s.withFloor(demand).PostfixPolicy(policy.LevelEncrypt)
	}
	return s.merged(ctx, key, demand, text)
}

// demand returns the strongest that the rules demand of the TLS of a next-hop: those
// whose mail goes there, and the one for its domain.
func (s *Server) demand(key string) policy.TLSParams {
	rules, now := s.cfg.Engine.Rules(), s.cfg.Engine.Now()
	var demand policy.TLSParams
	// What a rule that requires nothing says of opportunistic TLS is no demand here.
	if r := rules.LookupDomain(policy.CanonicalDomain(hostOf(key)), now); r != nil && (r.Requirement != policy.None || r.TLS.Level >= policy.LevelEncrypt) {
		demand = r.TLS
	}
	for _, r := range rules.ByNexthop(key, now) {
		demand = stronger(demand, r.TLS)
	}
	return demand
}

// hostOf returns the host or domain of a next-hop: [host]:port, [host], domain:port,
// domain. An address in brackets keeps them.
func hostOf(hop string) string {
	if strings.HasPrefix(hop, "[") {
		in, _, ok := strings.Cut(hop[1:], "]")
		if !ok || strings.ContainsRune(in, ':') || strings.Trim(in, "0123456789.") == "" {
			return "[" + in + "]"
		}
		return in
	}
	host, _, _ := strings.Cut(hop, ":")
	return host
}

// stronger returns what satisfies a and b as well as one policy can: the higher level
// with its names, the higher TLS version, the higher grade of ciphers.
func stronger(a, b policy.TLSParams) policy.TLSParams {
	if b.Level > a.Level || b.Level == a.Level && len(a.Match) == 0 {
		a, b = b, a
	}
	if minVersion(b.Protocols) > minVersion(a.Protocols) {
		a.Protocols = b.Protocols
	}
	if cipherGrade(b.Ciphers) > cipherGrade(a.Ciphers) {
		a.Ciphers = b.Ciphers
	}
	if a.Servername == "" {
		a.Servername = b.Servername
	}
	return a
}

func demands(p policy.TLSParams) bool {
	return p.Level > policy.LevelEncrypt || p.Level == policy.LevelMay || len(p.Match) > 0 || p.Protocols != "" || p.Ciphers != "" || p.Servername != ""
}

func (s *Server) withFloor(p policy.TLSParams) policy.TLSParams {
	if p.Protocols == "" {
		p.Protocols = s.defaultProtocols
	}
	return p
}

// merged returns the stronger of our policy text, made of demand, and the one the
// administrator's table has for key, or for a parent of it: as smtp(8) would find it,
// if ours did not stand in its place.
func (s *Server) merged(ctx context.Context, key string, demand policy.TLSParams, text string) (string, error) {
	if s.cfg.AdminTLS == nil {
		return text, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DecisionTime)
	defer cancel()
	for k := key; k != ""; {
		theirs, err := s.cfg.AdminTLS(ctx, k)
		if err != nil {
			return "", fmt.Errorf("the administrator's TLS policy: %w", err)
		}
		if theirs != "" {
			return merge(text, theirs, demand.Protocols != "")
		}
		if strings.ContainsAny(k, "[]:") {
			break // not a domain: smtp(8) asks no further
		}
		i := strings.IndexByte(k[1:], '.')
		if i < 0 {
			break
		}
		k = k[1+i:]
	}
	return text, nil
}

// merge merges our policy with theirs. The higher level wins, with its attributes; it
// takes over the other's attributes that it does not set itself, if the other is
// mandatory TLS too. Of two demands on the protocol version the higher counts, unless a
// rule (ruled) chose ours.
func merge(ours, theirs string, ruled bool) (string, error) {
	o, err := parsePolicy(ours)
	if err != nil {
		return "", err
	}
	t, err := parsePolicy(theirs)
	if err != nil {
		return "", fmt.Errorf("the administrator's TLS policy %q: %w", theirs, err)
	}
	if t.level < adminLevel("encrypt") {
		if t.level <= o.level || o.level >= adminLevel("encrypt") {
			return ours, nil
		}
		return theirs, nil // ours is "may", theirs dane
	}
	win, lose := o, t
	if t.level > o.level || t.level == o.level && o.get("match") == "" && t.get("match") != "" {
		win, lose = t, o
	}
	for _, a := range lose.attrs {
		if a.name == "match" || win.get(a.name) != "" {
			continue
		}
		if a.name == "servername" && adminLevels[win.level] == "dane-only" {
			continue // the TLSA base domain is the name there
		}
		if a.name == "tafile" && win.level < adminLevel("verify") {
			continue
		}
		win.attrs = append(win.attrs, a)
	}
	op, tp := o.get("protocols"), t.get("protocols")
	switch {
	case op == "" || tp == "":
	case ruled, minVersion(op) >= minVersion(tp):
		win.set("protocols", op)
	default:
		win.set("protocols", tp)
	}
	if cipherGrade(lose.get("ciphers")) > cipherGrade(win.get("ciphers")) {
		win.set("ciphers", lose.get("ciphers"))
	}
	return win.String(), nil
}

// tlsPolicyText is a value of smtp_tls_policy_maps.
type tlsPolicyText struct {
	level int // index of adminLevels
	attrs []attr
}

type attr struct{ name, value string }

func parsePolicy(s string) (p tlsPolicyText, err error) {
	fields := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '\t' || r == ',' })
	if len(fields) == 0 {
		return p, fmt.Errorf("empty TLS policy")
	}
	if p.level = adminLevel(strings.ToLower(fields[0])); p.level < 0 {
		return p, fmt.Errorf("unknown TLS level")
	}
	for _, f := range fields[1:] {
		name, value, ok := strings.Cut(f, "=")
		if !ok || name == "" || value == "" {
			return p, fmt.Errorf("attribute without name=value")
		}
		name = strings.ToLower(name)
		if name == "match" && p.get("match") != "" { // may be repeated
			sep := ":"
			if adminLevels[p.level] == "fingerprint" {
				sep = "|"
			}
			p.set("match", p.get("match")+sep+value)
			continue
		}
		p.set(name, value)
	}
	return p, nil
}

func (p *tlsPolicyText) get(name string) string {
	for _, a := range p.attrs {
		if a.name == name {
			return a.value
		}
	}
	return ""
}

func (p *tlsPolicyText) set(name, value string) {
	for i := range p.attrs {
		if p.attrs[i].name == name {
			p.attrs[i].value = value
			return
		}
	}
	p.attrs = append(p.attrs, attr{name, value})
}

func (p *tlsPolicyText) String() string {
	var b strings.Builder
	b.WriteString(adminLevels[p.level])
	for _, a := range p.attrs {
		b.WriteString(" " + a.name + "=" + a.value)
	}
	return b.String()
}

var versions = []string{"SSLv2", "SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"}

func version(name string) int {
	for i, v := range versions {
		if strings.EqualFold(v, name) {
			return i + 1
		}
	}
	return 0
}

// minVersion returns the rank of the lowest protocol version that a protocols=
// attribute lets through: >=TLSv1.2, TLSv1.2:TLSv1.3 or !SSLv3:!TLSv1; 0 where it does not
// say, or cannot be read.
func minVersion(protocols string) int {
	if protocols == "" {
		return 0
	}
	least, lowest := 0, 0
	var excluded [7]bool
	for f := range strings.FieldsFuncSeq(protocols, func(r rune) bool { return r == ':' || r == ' ' || r == ',' }) {
		switch {
		case strings.HasPrefix(f, ">="):
			least = max(least, version(f[2:]))
		case strings.HasPrefix(f, "<="):
		case strings.HasPrefix(f, "!"):
			excluded[version(f[1:])] = true
		default:
			if v := version(f); v > 0 && (lowest == 0 || v < lowest) {
				lowest = v
			}
		}
	}
	v := max(least, lowest)
	if excluded[version("SSLv3")] || v > 0 {
		for v = max(v, version("SSLv3")); v < len(versions) && excluded[v]; v++ {
		}
	}
	return v
}

func cipherGrade(name string) int {
	for i, g := range []string{"low", "medium", "high"} {
		if g == name {
			return i + 1
		}
	}
	return 0
}
