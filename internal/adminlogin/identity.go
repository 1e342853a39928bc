package adminlogin

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Identity is who somebody is, by the word of an identity provider.
type Identity struct {
	Issuer  string
	Subject string // unique at the issuer, never given to another
	Email   string // that the issuer has verified; else ""
}

// name is how the identity is shown and logged.
func (i Identity) name() string {
	if i.Email != "" {
		return lower(i.Email)
	}
	return "sub:" + i.Subject
}

// Errors of a [Provider]. Their texts may be shown to anybody.
var (
	// ErrProviderDown reports that the identity provider could not be asked.
	ErrProviderDown = errors.New("the identity provider can't be reached")
	// ErrProviderSays reports that what the identity provider says does not count.
	ErrProviderSays = errors.New("what the identity provider says does not count")
)

// Provider is an identity provider (OpenID Connect Core 1.0), which is asked by
// authorization code, with PKCE.
type Provider interface {
	// Issuer is its name, as it stands in [Identity].
	Issuer() string
	// Host is how the provider is called on the login page.
	Host() string
	// AuthURL returns where the browser is sent. It may ask the provider first:
	// ErrProviderDown.
	AuthURL(ctx context.Context, state, nonce, verifier string) (string, error)
	// Exchange gives the code that the browser came back with for an identity. issuer is
	// the parameter iss (RFC 9207), "" where there was none. ErrProviderDown, or
	// ErrProviderSays.
	Exchange(ctx context.Context, code, issuer, nonce, verifier string) (Identity, error)
}

// Named is who may sign in by the identity provider: a value of the setting
// oidc-admins.
type Named struct {
	Email    string // folded, or ""
	Subject  string // or ""
	Operator bool
}

// ParseNamed reads EMAIL or sub:SUBJECT, with =operator (or =viewer) behind.
func ParseNamed(s string) (n Named, err error) {
	who, role, ok := s, "", false
	if i := strings.LastIndexByte(s, '='); i >= 0 && (s[i:] == "=operator" || s[i:] == "=viewer") {
		who, role, ok = s[:i], s[i+1:], true
	}
	n.Operator = ok && Role(role) == RoleOperator
	bad := fmt.Errorf("%q: want EMAIL or sub:SUBJECT, and =operator behind it for who may change things", s)
	if subject, ok := strings.CutPrefix(who, "sub:"); ok {
		if n.Subject = subject; subject == "" || strings.ContainsFunc(subject, control) {
			return Named{}, bad
		}
		return n, nil
	}
	local, domain, ok := strings.Cut(who, "@")
	if !ok || local == "" || domain == "" || strings.ContainsAny(who, " =<>\"") || strings.Contains(domain, "@") || strings.ContainsFunc(who, control) {
		return Named{}, bad
	}
	n.Email = lower(who)
	return n, nil
}

// lower folds the letters a to z alone: of others, some fold to these, and would make
// two addresses one.
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

func control(r rune) bool { return r < ' ' || r == 0x7f }

// roleOf returns what an identity may do; ok is false where it is not named.
func roleOf(all []Named, i Identity) (role Role, ok bool) {
	for _, n := range all {
		if n.Subject != "" && n.Subject == i.Subject || n.Email != "" && n.Email == lower(i.Email) {
			if n.Operator {
				return RoleOperator, true
			}
			role, ok = RoleViewer, true
		}
	}
	return role, ok
}
