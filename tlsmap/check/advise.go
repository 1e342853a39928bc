package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/check/scan"
	"github.com/postseal/postseal/tlsmap/probe"
)

// Advice is one thing that the destination should do.
type Advice struct {
	Severity Severity `json:"severity"`
	About    string   `json:"about"` // an MX host with its address, a host, or the domain
	Text     string   `json:"text"`
}

// Severity is how much an advice matters.
type Severity string

// The severities, worst first.
const (
	Critical Severity = "critical" // mail is refused, or goes in plaintext
	Warning  Severity = "warning"  // weaker than it seems, or soon broken
	Notice   Severity = "notice"   // could be better
)

var severities = []Severity{Critical, Warning, Notice}

// expiresSoon is how many days before its end a certificate is spoken of: automatic
// renewal comes 30 days before.
const expiresSoon = 14

// adviser collects advice. The same text about the same thing is said once.
type adviser struct{ all []Advice }

func (d *adviser) add(s Severity, about, format string, args ...any) {
	a := Advice{s, about, fmt.Sprintf(format, args...)}
	if !slices.Contains(d.all, a) {
		d.all = append(d.all, a)
	}
}

// Advise says what the destination should do, worst first.
func Advise(r *Report) []Advice {
	d := &adviser{all: []Advice{}}
	d.domain(r)
	for i := range r.MX {
		h := &r.MX[i]
		d.host(r, h)
		for j := range h.Addresses {
			d.address(r, h, &h.Addresses[j])
		}
	}
	d.published(r)
	slices.SortStableFunc(d.all, func(a, b Advice) int {
		return cmp.Compare(slices.Index(severities, a.Severity), slices.Index(severities, b.Severity))
	})
	return d.all
}

func (d *adviser) domain(r *Report) {
	if r.State == policy.NoMail || !r.named() {
		return
	}
	if r.ImplicitMX {
		d.add(Notice, r.Domain, "publish an MX record: mail goes to the domain's own address only by default (RFC 5321, section 5.1)")
	}
	answers := 0
	for _, h := range r.MX {
		for _, a := range h.Addresses {
			if a.Class != ClassUnknown {
				answers++
			}
		}
	}
	if answers == 0 && len(r.MX) > 0 {
		d.add(Critical, r.Domain, "no MX host answers on port 25 from here: mail waits at its senders")
	}
}

func (d *adviser) host(r *Report, h *Host) {
	switch {
	case h.DNSFailed:
		d.add(Critical, h.Host, "repair the DNS of this host: %s", h.Error)
	case len(h.Addresses) == 0:
		d.add(Warning, h.Host, "take this host out of the MX records, or give it an address: %s", cmp.Or(h.Error, "no address"))
	case h.Canonical != "":
		d.add(Notice, h.Host, "an MX record must not name an alias (RFC 5321, section 5.1): name %s", h.Canonical)
	}
	if h.STSMatch != nil && !*h.STSMatch {
		s := Critical
		if r.STS.State != policy.STSEnforce {
			s = Warning
		}
		d.add(s, h.Host, "add this host to the mx lines of the MTA-STS policy, and change the id of the record: senders that look at the policy don't deliver to it")
	}
	if t := h.TLSA; t != nil {
		d.tlsa(h, t)
	}
}

func (d *adviser) tlsa(h *Host, t *probe.TLSAResult) {
	switch t.State {
	case policy.DANEFailed:
		d.add(Critical, h.Host, "repair DNSSEC: the TLSA lookup fails, and senders with DANE wait: %s", t.Error)
	case policy.DANEUnusable:
		d.add(Warning, h.Host, "publish a TLSA record that can be used, such as 3 1 1: of those that are there none can, so nobody is authenticated")
	case policy.DANEFull:
		for _, rec := range t.Records {
			if rec.Unusable != "" {
				d.add(Notice, h.Host, "take out the TLSA record %d %d %d: %s", rec.Usage, rec.Selector, rec.Matching, rec.Unusable)
			}
		}
		if t.Error != "" {
			d.add(Notice, h.Host, "publish fewer TLSA records: %s", t.Error)
		}
	default:
		if strings.HasPrefix(t.Error, "TLSA records") {
			d.add(Warning, h.Host, "sign the zone of the TLSA records: without DNSSEC they do not count")
		}
	}
}

func (d *adviser) address(r *Report, h *Host, a *Address) {
	about := at(h, a)
	switch a.State {
	case policy.Absent:
		d.add(Critical, about, "switch STARTTLS on: mail arrives in plaintext (%s)", a.Error)
		return
	case policy.Broken:
		if a.TLS {
			d.add(Critical, about, "switch TLS 1.2 and 1.3 on: %s", a.Error)
		} else {
			d.add(Critical, about, "repair TLS: %s", a.Error)
		}
	case policy.Unreachable, policy.Unknown:
		if a.Class == ClassUnknown {
			d.add(Warning, about, "this address does not take mail from here: %s", a.Error)
			return
		}
	}
	if a.Cert != nil {
		days := 0
		if a.DaysLeft != nil {
			days = *a.DaysLeft
		}
		d.certificate(r, about, a.Cert, a.NameMatch, days, a.DANE)
	}
	if a.DANE != "" && a.DANE != daneMatch {
		d.add(Critical, about, "publish TLSA records for this certificate: senders with DANE don't deliver (%s)", a.DANE)
	}
	for _, o := range a.Others {
		d.certificate(r, about, o.Certificate, o.NameMatch, o.DaysLeft, o.DANE)
		if o.DANE != "" && o.DANE != daneMatch {
			d.add(Critical, about, "publish TLSA records for the %s certificate too: senders that get it don't deliver (%s)", o.Certificate.KeyType, o.DANE)
		}
	}
	if a.Scan != nil {
		d.scan(about, a.Scan)
	}
}

// certificate looks at one certificate. One that TLSA records authenticate needs
// neither a known authority nor, for usage 3, dates and names.
func (d *adviser) certificate(r *Report, about string, c *probe.Certificate, nameMatch bool, days int, dane string) {
	enforced := r.STS != nil && r.STS.State == policy.STSEnforce
	severity := Warning
	if enforced && dane != daneMatch {
		severity = Critical
	}
	if dane == daneMatch {
		severity = Notice
	}
	switch {
	case days < 0:
		d.add(severity, about, "renew the %s certificate: it ended on %s", c.KeyType, c.NotAfter.Format("2006-01-02"))
	case days < expiresSoon:
		d.add(Warning, about, "renew the %s certificate: it ends on %s, in %d days", c.KeyType, c.NotAfter.Format("2006-01-02"), days)
	}
	switch {
	case c.Verified || days < 0:
	case c.Subject == c.Issuer:
		d.add(severity, about, "get a certificate of a public authority: this one is signed by itself")
	case len(c.Chain) == 0:
		d.add(severity, about, "send the intermediate certificates along: the chain ends at %s (%s)", c.Issuer, c.VerifyError)
	default:
		d.add(severity, about, "get a certificate that is trusted: %s", c.VerifyError)
	}
	if !nameMatch {
		d.add(severity, about, "get a certificate for the host's name: this one is for %s", some(c.Names))
	}
	if !chainOrdered(c) {
		d.add(Notice, about, "send the certificates in order, each signed by the next (RFC 5246, section 7.4.2)")
	}
	if c.KeyType == "RSA" && c.KeyBits < 2048 {
		d.add(Warning, about, "get a larger key: RSA with %d bits", c.KeyBits)
	}
	if s := strings.ToUpper(c.Signature); strings.Contains(s, "SHA1") || strings.Contains(s, "MD5") {
		d.add(Warning, about, "get a certificate that is not signed by %s", c.Signature)
	}
}

// chainOrdered reports whether each certificate is issued by the next, by name.
func chainOrdered(c *probe.Certificate) bool {
	issuer := c.Issuer
	for _, next := range c.Chain {
		if next.Subject != issuer {
			return false
		}
		issuer = next.Issuer
	}
	return true
}

// scan looks at what is offered.
func (d *adviser) scan(about string, s *scan.Result) {
	var old []string
	for _, v := range []string{"SSLv3", "TLSv1", "TLSv1.1"} {
		if s.Has(v) {
			old = append(old, v)
		}
	}
	if s.Has("SSLv3") {
		d.add(Warning, about, "switch SSLv3 off (RFC 7568)")
	}
	if len(old) > 0 && (len(old) > 1 || old[0] != "SSLv3") {
		d.add(Notice, about, "switch %s off (RFC 8996), unless partners still need it", strings.Join(old, " and "))
	}
	if s.Offered() && !s.Has("TLSv1.3") && s.Error == "" {
		d.add(Notice, about, "switch TLS 1.3 on")
	}
	bad := map[string][]string{}
	var reasons []string
	strength := map[string]scan.Strength{}
	for _, v := range s.Versions {
		for _, u := range v.Suites {
			if u.Why == "" || u.Strength == scan.Fair {
				continue
			}
			if strength[u.Why] == "" {
				reasons = append(reasons, u.Why)
				strength[u.Why] = u.Strength
			}
			if !slices.Contains(bad[u.Why], u.Name) {
				bad[u.Why] = append(bad[u.Why], u.Name)
			}
		}
	}
	for _, why := range reasons {
		severity := Notice
		if strength[why] == scan.Insecure {
			severity = Warning
		}
		if strings.HasPrefix(why, "key exchange") {
			d.add(severity, about, "use a prime of 2048 bits at least: %s", why)
			continue
		}
		d.add(severity, about, "switch off cipher suites (%s): %s", why, some(bad[why]))
	}
}

// published looks at DANE, MTA-STS and TLSRPT of the domain.
func (d *adviser) published(r *Report) {
	if r.Class <= ClassNone || !r.named() {
		return
	}
	enforced := r.DANE == policy.DANEFull || r.STS != nil && r.STS.State == policy.STSEnforce
	if r.DANE == policy.DANEPartial {
		d.add(Warning, r.Domain, "publish TLSA records for every MX host: to those without, mail goes unauthenticated")
	}
	if s := r.STS; s != nil {
		switch {
		case s.State == policy.STSFailed:
			d.add(Warning, r.Domain, "repair the MTA-STS policy: %s", cmp.Or(s.Error, "it can't be fetched"))
		case s.Stale != "":
			d.add(Warning, r.Domain, "repair the MTA-STS policy: the last fetch failed: %s", s.Stale)
		case s.State == policy.STSTesting:
			d.add(Notice, r.Domain, "set the MTA-STS policy from testing to enforce")
		}
		if s.State == policy.STSEnforce && s.MaxAge > 0 && s.MaxAge < 86400 {
			d.add(Notice, r.Domain, "give the MTA-STS policy a max_age of weeks: with %d seconds it is gone when it is needed (RFC 8461, section 3.2)", s.MaxAge)
		}
	}
	if !enforced && r.STS != nil && r.STS.State != policy.STSOff && r.STS.State != policy.STSUnknown && r.STS.State != policy.STSTesting && r.STS.State != policy.STSFailed && r.DANE != policy.DANEPartial {
		d.add(Notice, r.Domain, "publish TLSA records (DANE) or an MTA-STS policy: until then TLS can be stripped on the way")
	}
	if t := r.TLSRPT; t != nil {
		switch {
		case t.Error != "":
			d.add(Notice, r.Domain, "repair the TLSRPT record: %s", t.Error)
		case t.Record == "":
			d.add(Notice, r.Domain, "publish a TLSRPT record (RFC 8460): you would hear of failed TLS")
		}
	}
}
