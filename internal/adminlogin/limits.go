package adminlogin

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/postseal/postseal/escrow"
)

// Kinds of counters of tries.
const (
	limitName   = "name"
	limitClient = "client"
	limitTotal  = "total"
	limitOIDC   = "oidc"
)

// Limits on tries. Each counts before anything is computed, for names that nobody has
// too, and is kept over restarts. A lock doubles from time to time up to an hour, or, of
// the total, which keeps everybody out, to a quarter of an hour; who is signed in stays
// so. A week without tries forgets the doubling.
const (
	triesName   = 10  // in a day, at one name
	triesClient = 20  // in an hour, by one address (the /64 of IPv6)
	triesTotal  = 100 // in an hour, by all together
	triesOIDC   = 300 // in an hour: answers of the identity provider

	firstLock     = 5 * time.Minute
	firstTotal    = time.Minute
	longestLock   = time.Hour
	longestTotal  = 15 * time.Minute
	windowName    = 24 * time.Hour
	windowOthers  = time.Hour
	forgetDoubles = 7 * 24 * time.Hour
)

func (l *Login) limit(kind, value string, tries int) escrow.Limit {
	w := escrow.Limit{
		Key: l.keys.LimitKey(kind, value), Tries: tries, Window: windowOthers,
		First: firstLock, Most: longestLock, ForgetDoubles: forgetDoubles,
	}
	switch kind {
	case limitName:
		w.Window = windowName
	case limitTotal, limitOIDC:
		w.First, w.Most = firstTotal, longestTotal
	}
	return w
}

// passwordLimits are what a try at a name counts against; that of the name stands first.
func (l *Login) passwordLimits(name string, client netip.Addr) []escrow.Limit {
	return append([]escrow.Limit{l.limit(limitName, name, triesName), l.limit(limitTotal, "", triesTotal)}, l.clientLimit(client)...)
}

// oidcLimits are what an answer of the identity provider counts against. Nobody guesses
// there, but each costs requests.
func (l *Login) oidcLimits(client netip.Addr) []escrow.Limit {
	return append([]escrow.Limit{l.limit(limitOIDC, "", triesOIDC)}, l.clientLimit(client)...)
}

func (l *Login) clientLimit(client netip.Addr) []escrow.Limit {
	a := client.Unmap()
	if !a.IsValid() {
		return nil
	}
	if a.Is6() && !a.IsLoopback() {
		a = netip.PrefixFrom(a.WithZone(""), 64).Masked().Addr()
	}
	return []escrow.Limit{l.limit(limitClient, a.String(), triesClient)}
}

// forgive takes the try of who got in back: all tries at the name, one of the others.
func (l *Login) forgive(ctx context.Context, limits []escrow.Limit, locks []string, name bool) {
	ctx = context.WithoutCancel(ctx)
	if name {
		if err := l.store.Forget(ctx, []string{limits[0].Key}); err != nil {
			l.log.Warn("tries before a right one stay counted", "error", err)
		}
		limits = limits[1:]
	}
	for _, w := range limits {
		if err := l.store.Refund(ctx, w, slices.Contains(locks, w.Key)); err != nil {
			l.log.Warn("tries before a right one stay counted", "error", err)
		}
	}
}
