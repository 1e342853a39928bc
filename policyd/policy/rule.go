package policy

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"
)

// Level is a TLS security level as smtp_tls_policy_maps knows it, from weak to
// strong.
type Level uint8

// The levels. Unset leaves it to the requirement: may where nothing is
// required, else encrypt.
const (
	LevelUnset    Level = iota
	LevelMay            // opportunistic
	LevelDANE           // DANE where there are TLSA records, else may (RFC 7672)
	LevelEncrypt        // mandatory, certificate not checked
	LevelDANEOnly       // mandatory DANE: hosts without usable TLSA records are passed by
	LevelVerify         // mandatory, certificate matches (the MX name by default)
	LevelSecure         // mandatory, certificate matches the domain, MX not trusted
)

var levelNames = [...]string{"", "may", "dane", "encrypt", "dane-only", "verify", "secure"}

func (l Level) String() string {
	if int(l) < len(levelNames) {
		return levelNames[l]
	}
	return fmt.Sprintf("level(%d)", l)
}

// ParseLevel reads one of Postfix's words, "" for LevelUnset.
func ParseLevel(s string) (Level, error) {
	for i, n := range levelNames {
		if s == n {
			return Level(i), nil
		}
	}
	return 0, fmt.Errorf("unknown TLS level %q: want may, encrypt, verify or secure", s)
}

// MarshalText writes Postfix's word.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// TLSParams is what a rule demands of the TLS of a destination, in the terms of
// Postfix's TLS policy table (TLS_README, "Client TLS security levels").
type TLSParams struct {
	Level      Level
	Match      []string // names for verify and secure: example.org, .example.org, hostname, nexthop, dot-nexthop
	Protocols  string   // such as ">=TLSv1.2"
	Ciphers    string   // low, medium or high: the least grade
	Servername string   // SNI: hostname, nexthop or a name
}

// Rule is one line of an administrator's policy.
type Rule struct {
	ID          int64
	Scope       Scope
	Pattern     string // canonical, see [CanonicalPattern]
	Requirement Requirement
	TLS         TLSParams
	Nexthop     string // [host]:port or domain, "" for the recipient's own; recipient scope only
	Verify      string // "code", "passphrase" or "account", "" for the default
	Mode        string // "recoverable" or "sealed", "" for the default
	Language    string // of notices and pages, BCP 47 in lower case, "" for the default
	Life        Lifetimes
	Weaken      bool // weaker than a broader rule, on purpose
	// Override lets opportunistic mail pass by what the destination publishes
	// (DANE, MTA-STS): for a partner whose TLS is broken. Requirement none alone, a
	// note, and an end at most 90 days away.
	Override bool
	Note     string    // why
	Until    time.Time // end, exclusive; zero: none
	Created  time.Time
}

// Active reports whether the rule is in force at now.
func (r *Rule) Active(now time.Time) bool { return r.Until.IsZero() || now.Before(r.Until) }

// String names the rule in reasons and errors, such as "recipient rule
// bank.example (tls)".
func (r *Rule) String() string {
	return fmt.Sprintf("%s rule %s (%s)", r.Scope, r.Pattern, r.Requirement)
}

// The forms of a pattern, from specific to broad.
const (
	formAddress = iota // user@domain, a login, <>
	formDomain         // domain
	formParent         // .parent
	formAny            // *
	forms
)

func patternForm(scope Scope, p string) int {
	switch {
	case p == "*":
		return formAny
	case strings.HasPrefix(p, "."):
		return formParent
	case p == "<>", scope == ByLogin && !strings.HasPrefix(p, "@"):
		return formAddress
	case scope == ByLogin: // @realm
		return formDomain
	case scope == ByContent, strings.Contains(p, "@"):
		return formAddress
	}
	return formDomain
}

// IsAddress reports whether the rule is for one address or login.
func (r *Rule) IsAddress() bool { return patternForm(r.Scope, r.Pattern) == formAddress }

// IsExplicit reports whether the rule names an address or an exact domain, and
// not merely covers it by a parent or *.
func (r *Rule) IsExplicit() bool { return patternForm(r.Scope, r.Pattern) <= formDomain }

func checkDomain(d string) error {
	if strings.HasPrefix(d, "[") {
		in, ok := strings.CutSuffix(d[1:], "]")
		if ok && net.ParseIP(strings.TrimPrefix(in, "ipv6:")) != nil {
			return nil
		}
		return fmt.Errorf("%q is not an address literal: want [192.0.2.1] or [IPv6:2001:db8::1]", d)
	}
	if len(d) > 253 || !isDomainName(d) {
		return fmt.Errorf("%.300q is not a domain name", d)
	}
	if net.ParseIP(d) != nil {
		return fmt.Errorf("%q is an address: write [%s]", d, d)
	}
	for l := range strings.SplitSeq(d, ".") {
		if len(l) > 63 {
			return fmt.Errorf("label %q is longer than 63 bytes", l)
		}
	}
	return nil
}

// isDomainName reports whether d is labels of lower-case letters, digits, _ and
// inner hyphens. It runs for every rule of a snapshot, so it is no regexp.
func isDomainName(d string) bool {
	for l := range strings.SplitSeq(d, ".") {
		if l == "" || l[0] == '-' || l[len(l)-1] == '-' {
			return false
		}
		for i := 0; i < len(l); i++ {
			if c := l[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' && c != '-' {
				return false
			}
		}
	}
	return true
}

// CanonicalPattern reads what an administrator typed: for recipients
// bank.example, .bank.example, joe@bank.example or *; for senders
// joe@bank.example, @bank.example, @.bank.example, <> or *; for logins a name,
// @realm or *. What it returns is the form that rules are kept and looked up in:
// lower case, A-labels, no quotes, a domain without the @.
//
// It fails on what would not stay the same if read again, such as a local part
// with quotes of its own: a rule for the domain covers that.
func CanonicalPattern(scope Scope, typed string) (string, error) {
	p, err := canonicalPattern(scope, typed)
	if err != nil {
		return "", err
	}
	if again, err := canonicalPattern(scope, (&Rule{Scope: scope, Pattern: p}).typed()); err != nil || again != p {
		return "", fmt.Errorf("%q can't have a rule of its own; make one for its domain", typed)
	}
	return p, nil
}

func canonicalPattern(scope Scope, typed string) (string, error) {
	p := strings.TrimSpace(typed)
	switch {
	case p == "":
		return "", errors.New("empty pattern: name a domain, an address or *")
	case p == "*", p == "<>" && scope == BySender, scope == ByContent:
		return p, nil
	case strings.ContainsAny(p, "\t\r\n\x00"), !utf8.ValidString(p), len(p) > 512:
		return "", fmt.Errorf("%.80q: control characters, not UTF-8 or too long", p)
	case scope == ByLogin:
		return strings.ToLower(p), nil
	}
	if strings.Contains(p, "*") {
		return "", fmt.Errorf("%q: a pattern has no wildcard but a lone *: for a whole domain write its name, for its subdomains a leading dot", p)
	}
	at := lastAt(p)
	if at < 0 && scope == BySender && !strings.HasPrefix(p, ".") {
		return "", fmt.Errorf("%q: for a sender domain write @%s, for a SASL login --login %s", p, p, p)
	}
	if at > 0 {
		a, err := ParseAddress(p)
		if err != nil {
			return "", err
		}
		if err := checkDomain(a.Domain); err != nil {
			return "", err
		}
		if a.Local == "" {
			return "", fmt.Errorf("%q: empty local part", p)
		}
		a = a.Folded()
		return a.Local + "@" + a.Domain, nil
	}
	if at == 0 && scope == ByRecipient {
		return "", fmt.Errorf("%q: for a recipient domain write %s", p, p[1:])
	}
	d := strings.TrimPrefix(p, "@")
	d, parent := strings.CutPrefix(d, ".")
	d = CanonicalDomain(d)
	if err := checkDomain(d); err != nil {
		return "", err
	}
	if parent {
		if strings.HasPrefix(d, "[") {
			return "", fmt.Errorf("%q: an address literal has no subdomains", p)
		}
		return "." + d, nil
	}
	return d, nil
}

var (
	matchName  = regexp.MustCompile(`^\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*$`)
	tlsVersion = regexp.MustCompile(`^([<>]=)?(SSLv3|TLSv1|TLSv1\.[123])$|^[!]?(SSLv2|SSLv3|TLSv1|TLSv1\.[123])$`)
	// languageTag is the form of a language tag (RFC 5646, section 2.1), in lower
	// case; of which languages there are words is not known here.
	languageTag = regexp.MustCompile(`^[a-z]{2,8}(-[a-z0-9]{1,8})*$`)
	hostPort    = regexp.MustCompile(`^(\[[A-Za-z0-9._:-]+\]|[A-Za-z0-9._-]+)(:[A-Za-z0-9-]+)?$`)
)

// Validate checks a rule by itself and says what to do about what is wrong.
// The pattern must be canonical.
func (r *Rule) Validate() error {
	if r.Scope >= scopes || r.Requirement > EscrowOnly {
		return fmt.Errorf("unknown scope or requirement in rule %q", r.Pattern)
	}
	if p, err := canonicalPattern(r.Scope, r.typed()); err != nil || p != r.Pattern {
		return fmt.Errorf("pattern %q is not canonical", r.Pattern)
	}
	if err := cmp.Or(r.validateOverride(), r.checkNote(r.Note)); err != nil {
		return err
	}
	switch r.Verify {
	case "", "code", "passphrase", "account":
	default:
		return fmt.Errorf("unknown verification %q: want code, passphrase or account", r.Verify)
	}
	if r.Language != "" && (len(r.Language) > 35 || !languageTag.MatchString(r.Language)) {
		return fmt.Errorf("language %q: want a tag such as en or de (BCP 47), in lower case", r.Language)
	}
	switch r.Mode {
	case "", "recoverable", "sealed":
	default:
		return fmt.Errorf("unknown mode %q: want recoverable or sealed", r.Mode)
	}
	if err := r.Life.Validate(); err != nil {
		return err
	}
	if r.Nexthop != "" {
		switch {
		case r.Scope != ByRecipient:
			return errors.New("--nexthop belongs to a recipient rule (postseal domain)")
		case r.Requirement == None || r.Requirement == EscrowOnly:
			return errors.New("--nexthop goes with --require tls or encryption; for other mail use transport_maps")
		default:
			if err := checkNexthop(r.Nexthop); err != nil {
				return err
			}
		}
	}
	return r.validateTLS()
}

// checkNote checks what r says of a note, r's own or another.
func (r *Rule) checkNote(note string) error {
	switch {
	case r.Weaken && strings.TrimSpace(note) == "":
		return errors.New("--weaken wants a reason: add --note WHY")
	case r.Override && strings.TrimSpace(note) == "":
		return errors.New("--override wants a reason: add --note WHY")
	case strings.ContainsAny(note, "\r\n\x00") || len(note) > 1000:
		return errors.New("the note must be one line of at most 1000 bytes")
	}
	return nil
}

// MaxOverride is for how long a rule may pass by what a destination publishes, from the
// moment it is written: partners mend their TLS, and an exception that is forgotten is
// a hole.
const MaxOverride = 90 * 24 * time.Hour

// validateOverride checks what of an override does not depend on the time. It is for a
// domain, or the subdomains of one: Postfix asks for the TLS policy of a next-hop, so an
// address can't have one of its own, and one for * would switch DANE and MTA-STS off.
func (r *Rule) validateOverride() error {
	switch {
	case !r.Override:
		return nil
	case r.Scope != ByRecipient || r.IsAddress():
		return errors.New("--override belongs to a destination: give it to a domain, not to an address or a sender")
	case r.Pattern == "*":
		return errors.New("--override for * would switch DANE and MTA-STS off: name the domain, or set --dane off, --mta-sts off")
	case r.Requirement != None:
		return fmt.Errorf("--override contradicts --require %s: mail that must be encrypted never passes by what a destination publishes", r.Requirement)
	case strings.TrimSpace(r.Note) == "":
		return errors.New("--override wants a reason: add --note WHY")
	case r.Until.IsZero():
		return errors.New("--override wants an end at most 90 days away: add --until DATE")
	}
	return nil
}

// CheckOverride refuses an override that is being written at now and ends more than
// [MaxOverride] later. A day names its end, so up to a day more is let through.
func (r *Rule) CheckOverride(now time.Time) error {
	if r.Override && r.Until.After(now.Add(MaxOverride+24*time.Hour)) {
		return fmt.Errorf("--override ends at most 90 days from now: --until %s is too late", r.Until.UTC().Format(time.DateOnly))
	}
	return nil
}

// checkNexthop refuses what Postfix could never reach, since mail would wait
// there until it bounces.
func checkNexthop(hop string) error {
	m := hostPort.FindStringSubmatch(hop)
	if m == nil {
		return fmt.Errorf("next-hop %q: want DOMAIN, [HOST] or [HOST]:PORT", hop)
	}
	if net.ParseIP(m[1]) != nil {
		return fmt.Errorf("next-hop %q: write an address in brackets: [%s]%s", hop, m[1], m[2])
	}
	if in, ok := strings.CutPrefix(m[1], "["); ok && strings.Contains(in, ":") {
		in = strings.TrimSuffix(in, "]")
		if len(in) > 5 && strings.EqualFold(in[:5], "ipv6:") {
			in = in[5:]
		}
		if net.ParseIP(in) == nil {
			return fmt.Errorf("next-hop %q: %q is no IPv6 address", hop, in)
		}
	}
	if m[2] == "" {
		return nil
	}
	if n, err := net.LookupPort("tcp", m[2][1:]); err != nil || n == 0 {
		return fmt.Errorf("next-hop %q: %q is no port", hop, m[2][1:])
	}
	return nil
}

func (r *Rule) typed() string {
	if r.Scope == BySender && patternForm(r.Scope, r.Pattern) == formDomain {
		return "@" + r.Pattern
	}
	return r.Pattern
}

func (r *Rule) validateTLS() error {
	t := r.TLS
	if t.Level == LevelUnset && len(t.Match) == 0 && t.Protocols == "" && t.Ciphers == "" && t.Servername == "" {
		return nil
	}
	switch {
	case t.Level == LevelDANE || t.Level == LevelDANEOnly:
		return fmt.Errorf("--level %s: what a destination publishes is heeded without a rule; want may, encrypt, verify or secure", t.Level)
	case r.Scope != ByRecipient || r.IsAddress():
		return errors.New("TLS levels belong to a destination: give --level, --match and the like to a domain, not to an address or a sender")
	case r.Requirement == EscrowOnly:
		return errors.New("--require escrow never uses TLS: drop --level and the like")
	case r.Requirement != None && t.Level == LevelMay:
		return fmt.Errorf("--level may contradicts --require %s: want encrypt, verify or secure", r.Requirement)
	case len(t.Match) > 0 && t.Level < LevelVerify:
		return errors.New("--match needs --level verify or secure")
	}
	for _, m := range t.Match {
		switch m {
		case "hostname", "nexthop", "dot-nexthop":
		default:
			if !matchName.MatchString(m) {
				return fmt.Errorf("match name %q: want a host name, .domain, hostname, nexthop or dot-nexthop", m)
			}
		}
	}
	if t.Protocols != "" {
		for p := range strings.FieldsFuncSeq(t.Protocols, func(c rune) bool { return c == ':' || c == ',' || c == ' ' }) {
			if !tlsVersion.MatchString(p) {
				return fmt.Errorf("protocol %q: want something like >=TLSv1.2 or TLSv1.3", p)
			}
		}
		if strings.ContainsAny(t.Protocols, ", ") {
			return errors.New("--protocols: part several by a colon, as Postfix's policy table wants them")
		}
	}
	switch t.Ciphers {
	case "", "low", "medium", "high":
	default:
		return fmt.Errorf("cipher grade %q: want low, medium or high", t.Ciphers)
	}
	switch t.Servername {
	case "", "hostname", "nexthop":
	default:
		if err := checkDomain(t.Servername); err != nil {
			return fmt.Errorf("servername: %w", err)
		}
	}
	return nil
}

// PostfixPolicy returns the right-hand side of smtp_tls_policy_maps for p at
// level atLeast or above, such as "secure match=.bank.example ciphers=high".
func (p TLSParams) PostfixPolicy(atLeast Level) string {
	level := max(p.Level, atLeast)
	var b strings.Builder
	b.Grow(64)
	b.WriteString(level.String())
	add := func(name, value string) {
		if value != "" {
			b.WriteByte(' ')
			b.WriteString(name)
			b.WriteByte('=')
			b.WriteString(value)
		}
	}
	if level >= LevelVerify {
		add("match", strings.Join(p.Match, ":"))
	}
	add("protocols", p.Protocols)
	add("ciphers", p.Ciphers)
	add("servername", p.Servername)
	return b.String()
}
