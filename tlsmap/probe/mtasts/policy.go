package mtasts

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postseal/postseal/policyd/policy"
)

// Policy is what a domain wants of those who send mail to it. It is immutable.
type Policy struct {
	Mode   Mode
	MX     []string // patterns, canonical: mx.a.example or *.a.example; never empty, but in mode none
	MaxAge time.Duration
}

// ErrPolicy is wrapped by the errors of [ParsePolicy].
var ErrPolicy = errors.New("not a valid policy")

// ParsePolicy reads the text of a policy (RFC 8461, section 3.2). It is all or
// nothing: a policy with one bad mx pattern is no policy, since nobody knows which
// hosts it meant. A max_age beyond [MaxAge] counts as that: who asks for longer
// than is allowed gets the longest.
//
// Empty lines are let pass, since many publish them.
func ParsePolicy(text []byte) (*Policy, error) {
	if len(text) > MaxPolicy {
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrPolicy, MaxPolicy)
	}
	if !utf8.Valid(text) {
		return nil, fmt.Errorf("%w: not UTF-8", ErrPolicy)
	}
	p := new(Policy)
	version, maxAge := "", ""
	n := 0
	for line := range strings.SplitSeq(string(text), "\n") {
		n++
		line = strings.TrimRight(strings.TrimSuffix(line, "\r"), " \t")
		if line == "" {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || !fieldName(name) || !printable(value) {
			return nil, fmt.Errorf("%w: line %d: want NAME: VALUE", ErrPolicy, n)
		}
		value = strings.TrimLeft(value, " \t")
		var first *string // what the first of several sets; the others do not count
		switch name {
		case "mx":
			mx, err := pattern(value)
			if err != nil {
				return nil, fmt.Errorf("%w: line %d: mx %.80q: %w", ErrPolicy, n, value, err)
			}
			if !slices.Contains(p.MX, mx) {
				p.MX = append(p.MX, mx)
			}
			continue
		case "version":
			first = &version
		case "mode":
			first = (*string)(&p.Mode)
		case "max_age":
			first = &maxAge
		default:
			continue // fields of versions to come
		}
		if value == "" {
			return nil, fmt.Errorf("%w: line %d: %s without a value", ErrPolicy, n, name)
		}
		if *first == "" {
			*first = value
		}
	}
	if version != "STSv1" {
		return nil, fmt.Errorf("%w: version %.40q: want STSv1", ErrPolicy, version)
	}
	switch p.Mode {
	case None:
		p.MX = nil // they would mean nothing
	case Enforce, Testing:
		if len(p.MX) == 0 {
			return nil, fmt.Errorf("%w: mode %s without mx", ErrPolicy, p.Mode)
		}
	default:
		return nil, fmt.Errorf("%w: mode %.40q: want enforce, testing or none", ErrPolicy, p.Mode)
	}
	age, err := seconds(maxAge)
	if err != nil {
		return nil, fmt.Errorf("%w: max_age %.40q: %w", ErrPolicy, maxAge, err)
	}
	p.MaxAge = age
	return p, nil
}

// seconds reads sts-policy-max-age-value: 1 to 10 digits.
func seconds(s string) (time.Duration, error) {
	if s == "" || len(s) > 10 || strings.Trim(s, "0123456789") != "" {
		return 0, fmt.Errorf("want seconds, 0 to %d", MaxAge)
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, err
	}
	return time.Duration(min(n, MaxAge)) * time.Second, nil
}

// pattern returns an mx pattern in canonical form: lower case, A-labels, no final
// dot.
func pattern(s string) (string, error) {
	name, wildcard := strings.CutPrefix(s, "*.")
	name = policy.CanonicalDomain(name)
	if name == "" || len(name) > 253 {
		return "", errors.New("not a host name: empty or longer than 253 bytes")
	}
	if !wildcard && !strings.Contains(name, ".") {
		// No MX host is called so, and Postfix would take "hostname" and "nexthop" for
		// words of its own.
		return "", errors.New("not a full host name")
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return "", errors.New("not a host name: bad label")
		}
		for i := 0; i < len(label); i++ {
			// The underscore is in no host name, but in the names of some hosts.
			if c := label[i]; !alnum(c) && c != '-' && c != '_' {
				return "", errors.New("not a host name: bad character")
			}
		}
	}
	if wildcard {
		return "*." + name, nil
	}
	return name, nil
}

// printable reports whether s is free of control characters but for tabs.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}
