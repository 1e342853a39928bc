package postfix

import (
	"context"
	"strings"
)

// STSOff says why Postfix can't verify a certificate as an MTA-STS policy demands it in
// all its SMTP clients that ask the socketmap server at maps (inet:127.0.0.1:8642): one of
// them knows no certificate authority, as Postfix does by itself. The level secure then
// refuses every host, and the mail waits for good. "" where it can, or where no client asks
// yet.
func (p *Instance) STSOff(ctx context.Context, maps string) (string, error) {
	c := &checker{CheckOptions: CheckOptions{Options: Options{Maps: maps}}, ctx: ctx, p: p}
	if err := c.read(); err != nil {
		return "", err
	}
	for _, s := range c.daneClients() {
		if c.noAuthorities(s) {
			return s.where() + ": " + noAuthorities, nil
		}
	}
	return "", nil
}

const noAuthorities = "it knows no certificate authority (smtp_tls_CAfile and smtp_tls_CApath are empty)"

// noAuthorities reports whether a client trusts no certificate at all.
func (c *checker) noAuthorities(s Service) bool {
	return strings.TrimSpace(c.eff(s, "smtp_tls_CAfile")) == "" && strings.TrimSpace(c.eff(s, "smtp_tls_CApath")) == "" &&
		c.eff(s, "tls_append_default_CA") != "yes"
}

// checkAuthorities finds SMTP clients that can't verify any certificate. Postseal answers
// them without MTA-STS then.
func (c *checker) checkAuthorities() {
	for _, s := range c.daneClients() {
		if c.noAuthorities(s) {
			c.add(Warn, "authorities", s.where(), "set smtp_tls_CAfile in main.cf to the system's authorities (such as /etc/ssl/certs/ca-certificates.crt); then restart Postseal",
				"%s. MTA-STS is off, and mail under a rule of level verify or secure waits", noAuthorities)
		}
	}
}
