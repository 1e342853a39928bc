package postfix

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// DANEOff says why Postfix can't verify by TLSA records in all its SMTP clients that
// ask the socketmap server at maps (inet:127.0.0.1:8642): a level of dane or dane-only is
// then an error there, and the mail waits for good. "" where it can, or where no
// client asks yet.
func (p *Instance) DANEOff(ctx context.Context, maps string) (string, error) {
	c := &checker{CheckOptions: CheckOptions{Options: Options{Maps: maps}}, ctx: ctx, p: p}
	if err := c.read(); err != nil {
		return "", err
	}
	for _, s := range c.daneClients() {
		if why, _ := c.noDNSSEC(s); why != "" {
			return s.where() + ": " + why, nil
		}
	}
	return "", nil
}

// daneClients are the SMTP clients that our maps may tell to verify by TLSA records.
func (c *checker) daneClients() []Service {
	var all []Service
	for _, s := range c.services {
		if s.Command == "smtp" && strings.Contains(c.eff(s, "smtp_tls_policy_maps"), "socketmap:"+c.Maps+":") {
			all = append(all, s)
		}
	}
	return all
}

// noDNSSEC says why a client can't verify by TLSA records, as dane_init of Postfix's
// smtp_tls_policy.c does, and what to do.
func (c *checker) noDNSSEC(s Service) (why, fix string) {
	if v := c.eff(s, "smtp_dns_support_level"); v != "dnssec" {
		return fmt.Sprintf("smtp_dns_support_level is %q, not dnssec", v), "set smtp_dns_support_level = dnssec in main.cf, and take -o smtp_dns_support_level out of this service"
	}
	if v := c.eff(s, "smtp_host_lookup"); !slices.Contains(splitList(v), "dns") {
		return fmt.Sprintf("smtp_host_lookup=%s has no dns", v), "set smtp_host_lookup = dns, or dns, native"
	}
	if v := c.eff(s, "ignore_mx_lookup_error"); v == "yes" {
		return "ignore_mx_lookup_error=yes: what can't be validated would be passed by", "set ignore_mx_lookup_error = no"
	}
	for _, o := range splitList(c.eff(s, "smtp_dns_resolver_options")) {
		if o == "res_defnames" || o == "res_dnsrch" {
			return "smtp_dns_resolver_options has " + o + ": names are completed", "take " + o + " out of smtp_dns_resolver_options"
		}
	}
	return "", ""
}

// checkDANE finds SMTP clients that can't verify by TLSA records. Postseal answers them
// without DANE then, since Postfix would let such mail wait for good.
func (c *checker) checkDANE() {
	if !c.DANE {
		return
	}
	for _, s := range c.daneClients() {
		if why, fix := c.noDNSSEC(s); why != "" {
			c.add(Warn, "dane-dnssec", s.where(), fix+"; then restart Postseal", "DANE is off: %s. Destinations with TLSA records are not verified by them", why)
		}
	}
}

// ResolverFiles are the resolv.conf(5) files that Postfix's SMTP clients read: the
// system's, and where one runs in the queue directory (chroot), the one there.
func (p *Instance) ResolverFiles(ctx context.Context) ([]string, error) {
	files := []string{"/etc/resolv.conf"}
	services, err := p.Services(ctx)
	if err != nil {
		return nil, err
	}
	queue, err := p.Param(ctx, "queue_directory")
	if err != nil {
		return nil, err
	}
	for _, s := range services {
		if s.Command == "smtp" && s.Chroot == "y" {
			return append(files, filepath.Join(queue, "etc/resolv.conf")), nil
		}
	}
	return files, nil
}
