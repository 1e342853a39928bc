package tlsmap

import (
	"cmp"
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

// extras are what of the administrator's own entry is no part of a demand.
type extras struct {
	attrs  []attr // attributes that we have no word for: exclude, tafile, connection_reuse …
	dane   bool   // the entry is dane-only
	joined bool   // the rule is no more what it was
	fixed  string // the whole answer: the entry says what can't be joined with anything
	// anchored is the entry joined with the rule, where it names its own trust anchors
	// (tafile): no probe of ours verifies by them, and dane-only has no place for them.
	anchored string
}

// joinAdmin joins a.Input.Rule with the entry that the administrator's own table has
// for key, or for a parent of it: as smtp(8) would find it, if our answer did not stand
// in its place. Without one, main.cf's own level (smtp_tls_security_level) counts as
// such, where it is mandatory. An entry below encrypt adds nothing.
func (s *Server) joinAdmin(ctx context.Context, key string, a *TLSAnswer) (x extras, err error) {
	if a.Admin, err = s.adminEntry(ctx, key); err != nil {
		return x, err
	}
	theirs := a.Admin
	if !a.Input.Required && a.Demand.By == policy.FromSTS && a.Input.Published.DANE == policy.DANEOff && isDANE(cmp.Or(theirs, s.cfg.AdminLevel)) {
		// Postfix looks TLSA records up and we do not: where there are some MTA-STS must
		// not stand in their place (RFC 8461, section 2).
		x.fixed = cmp.Or(theirs, s.cfg.AdminLevel)
		return x, nil
	}
	if theirs == "" && adminLevel(s.cfg.AdminLevel) >= adminLevel("encrypt") {
		theirs = s.cfg.AdminLevel
	}
	if theirs == "" {
		return x, nil
	}
	t, err := parsePolicy(theirs)
	if err != nil {
		return x, fmt.Errorf("the administrator's TLS policy %q: %w", theirs, err)
	}
	if t.level < adminLevel("encrypt") {
		if t.level == adminLevel("dane") && a.Demand.Level <= policy.LevelMay {
			x.fixed = theirs // ours is may, by rule or override
		}
		return x, nil
	}
	rule, level := a.Input.Rule, policy.LevelMay
	ruled := rule.Protocols != ""
	if a.Input.Required {
		rule, level = s.withFloor(rule), policy.LevelEncrypt
	}
	text, err := merge(rule.PostfixPolicy(level), theirs, ruled)
	if err != nil {
		return x, err
	}
	both, err := parsePolicy(text)
	if err != nil {
		return x, err
	}
	if both.level == adminLevel("fingerprint") {
		x.fixed = text // the very certificates are named
		return x, nil
	}
	x.dane = t.level == adminLevel("dane-only")
	if both.level >= adminLevel("verify") && both.get("tafile") != "" {
		x.anchored = text
	}
	var p policy.TLSParams
	if p.Level, err = policy.ParseLevel(adminLevels[both.level]); err != nil {
		return x, err
	}
	for _, at := range both.attrs {
		switch at.name {
		case "match":
			p.Match = strings.Split(at.value, ":")
		case "protocols":
			p.Protocols = at.value
		case "ciphers":
			p.Ciphers = at.value
		case "servername":
			p.Servername = at.value
		default:
			x.attrs = append(x.attrs, at)
		}
	}
	a.Input.Rule, x.joined = p, true
	return x, nil
}

// isDANE reports whether an entry or level is dane.
func isDANE(entry string) bool {
	t, err := parsePolicy(cmp.Or(entry, "none"))
	return err == nil && t.level == adminLevel("dane")
}

// adminEntry searches the administrator's own table as smtp(8) does.
func (s *Server) adminEntry(ctx context.Context, key string) (string, error) {
	if s.cfg.AdminTLS == nil {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DecisionTime)
	defer cancel()
	for k := key; k != ""; {
		theirs, err := s.cfg.AdminTLS(ctx, k)
		if err != nil {
			return "", fmt.Errorf("the administrator's TLS policy: %w", err)
		}
		if theirs != "" {
			return theirs, nil
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
	return "", nil
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
