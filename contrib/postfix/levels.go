package postfix

import (
	"context"
	"slices"
)

// tlsLevels are the levels of mandatory TLS from weak to strong.
var tlsLevels = []string{"encrypt", "dane-only", "fingerprint", "verify", "secure"}

// OwnTLSLevel returns the strongest smtp_tls_security_level that an SMTP client which asks
// our map tls-policy at maps has in master.cf, where it makes TLS mandatory and is above
// main.cf's; "" where there is none. The answer of a map takes the place of the level, also
// where it is weaker, and does not know which client asks.
func (p *Instance) OwnTLSLevel(ctx context.Context, maps string) (level string, err error) {
	c := &checker{CheckOptions: CheckOptions{Options: Options{Maps: maps}}, ctx: ctx, p: p}
	if err := c.read(); err != nil {
		return "", err
	}
	for _, s := range c.ownLevels() {
		if l := c.eff(s, "smtp_tls_security_level"); slices.Index(tlsLevels, l) > slices.Index(tlsLevels, level) {
			level = l
		}
	}
	return level, nil
}

// ownLevels are the clients with a mandatory level of their own that ask tls-policy.
func (c *checker) ownLevels() (all []Service) {
	main := slices.Index(tlsLevels, c.main["smtp_tls_security_level"])
	for _, s := range c.services {
		if s.Command == "smtp" && slices.Contains(splitList(c.eff(s, "smtp_tls_policy_maps")), c.ourMap("tls-policy")) &&
			slices.Index(tlsLevels, c.eff(s, "smtp_tls_security_level")) > main {
			all = append(all, s)
		}
	}
	return all
}

// checkOwnLevels finds SMTP clients whose own level keeps DANE from counting where it is
// weaker.
func (c *checker) checkOwnLevels() {
	for _, s := range c.ownLevels() {
		c.add(Warn, "own-level", s.where(), "set -o smtp_tls_policy_maps="+c.ourMap("secure-tls-policy")+" there, which never answers below encrypt; then restart Postseal",
			"smtp_tls_security_level=%s, and an answer of the map tls-policy takes its place: so no destination is answered with less than that (dane, where some hosts have no TLSA records)", c.eff(s, "smtp_tls_security_level"))
	}
}
