package probe

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/probe/dane"
)

// TLSAResult is what a lookup of the TLSA records of one MX host found.
type TLSAResult struct {
	Base    string       `json:"base"`              // TLSA base domain, after CNAME expansion (RFC 7672, section 2.2.2)
	State   policy.DANE  `json:"state"`             // off, none, full (usable records), unusable or failed
	Records []TLSARecord `json:"records,omitempty"` // secure ones
	Error   string       `json:"error,omitempty"`
}

// TLSARecord is one TLSA record (RFC 6698, section 2.1).
type TLSARecord struct {
	Usage    uint8  `json:"usage"`
	Selector uint8  `json:"selector"`
	Matching uint8  `json:"matching_type"`
	Data     string `json:"data"` // hexadecimal
	// Unusable says why a sender cannot use it; "" where it can.
	Unusable string `json:"unusable,omitempty"`
}

// maxTLSA bounds the TLSA records of a host that are looked at; a rollover of several
// certificates takes a handful.
const maxTLSA = 64

// DANE reports whether TLSA records count: the resolvers are trusted.
func (p *Prober) DANE() bool { return p.trusted() }

// trusted reports whether the AD bit of an answer is to be believed: every resolver
// that may have given it is trusted, and so is the way to it.
func (p *Prober) trusted() bool {
	servers := p.o.Resolver.Servers()
	return p.o.Trusts != nil && len(servers) > 0 && !slices.ContainsFunc(servers, func(s string) bool { return !p.o.Trusts(s) })
}

// noteTrust logs that DANE has come to an end, or is back: resolv.conf has changed since
// the start, and with DANE off required mail is verified by less.
func (p *Prober) noteTrust(trusted bool) {
	if p.o.Trusts == nil || p.distrusts.Swap(!trusted) == !trusted {
		return
	}
	if trusted {
		p.o.Log.Info("DANE is on again: all resolvers are trusted")
	} else {
		p.o.Log.Warn("DANE is off from now on: a resolver is neither on loopback nor named by trusted-resolver. See postseal postfix check", "resolver", p.Distrusted())
	}
}

// distrust takes back what rests on the AD bit.
func (r *Result) distrust() {
	r.DANE, r.Authentic = policy.DANEOff, false
	for i := range r.MX {
		r.MX[i].Authentic, r.MX[i].TLSA = false, nil
	}
}

// tlsa looks up the TLSA records of every MX host (RFC 7672, section 2.2), all at once,
// and sums them up in r.DANE.
func (p *Prober) tlsa(ctx context.Context, r *Result, d destination, least func(*Answer)) {
	r.DANE = policy.DANENone
	if d.addr.IsValid() || !p.trusted() {
		return
	}
	byMX := !d.host && !r.ImplicitMX
	port := cmp.Or(d.port, p.o.Port)
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i := range r.MX {
		mx := &r.MX[i]
		if byMX && !r.Authentic {
			// Whoever forges the MX answer names hosts of his own: their records
			// would authenticate him (section 2.2.1).
			mx.TLSA = &TLSAResult{State: policy.DANENone, Error: "the MX answer is not authenticated"}
			continue
		}
		wg.Go(func() {
			found, answers := p.hostTLSA(ctx, mx, port)
			mu.Lock()
			defer mu.Unlock()
			mx.TLSA = found
			for _, a := range answers {
				least(a)
			}
		})
	}
	wg.Wait()
	r.DANE = sumDANE(r)
}

// sumDANE is the DANE state of a destination with the states of its hosts. What
// becomes of it is DemandTLS's:
//
//   - Hosts that have no address take no mail and do not count.
//   - All have usable records: full. Some have: partial, whatever the others.
//   - None has, and of one the records can't be had: failed. Nobody knows whether mail
//     to that host must be authenticated, so required mail waits.
//   - Else one has records that can't be used: unusable, which demands TLS.
//   - Else none.
func sumDANE(r *Result) policy.DANE {
	counted, full := 0, 0
	sum := policy.DANENone
	for i := range r.MX {
		mx := &r.MX[i]
		if mx.TLSA == nil || len(mx.Addresses) == 0 && !mx.DNSFailed {
			continue
		}
		counted++
		switch mx.TLSA.State {
		case policy.DANEFull:
			full++
		case policy.DANEFailed:
			sum = policy.DANEFailed
		case policy.DANEUnusable:
			if sum == policy.DANENone {
				sum = policy.DANEUnusable
			}
		}
	}
	switch {
	case full > 0 && full == counted && r.Unprobed == 0:
		return policy.DANEFull
	case full > 0:
		return policy.DANEPartial
	}
	return sum
}

// hostTLSA looks up the TLSA records of one host. Where the host is an alias, those of
// the name at the end of the CNAMEs count first, if all of the way there is
// authenticated, then those of the host's own name, if its CNAME is (section
// 2.2.2). A lookup that fails is the end: what it would have said may matter.
func (p *Prober) hostTLSA(ctx context.Context, mx *MXResult, port uint16) (*TLSAResult, []*Answer) {
	none := func(why string) *TLSAResult { return &TLSAResult{Base: mx.Host, State: policy.DANENone, Error: why} }
	failed := func(base string, err error) *TLSAResult {
		return &TLSAResult{Base: base, State: policy.DANEFailed, Error: clean(err.Error())}
	}
	var bases []string
	switch {
	case mx.DNSFailed:
		return &TLSAResult{Base: mx.Host, State: policy.DANEFailed, Error: mx.Error}, nil
	case len(mx.Addresses) == 0:
		return none(mx.Error), nil
	case mx.Authentic && mx.Canonical != "":
		bases = []string{mx.Canonical, mx.Host}
	case mx.Authentic:
		bases = []string{mx.Host}
	case mx.Canonical != "":
		a, err := p.o.Resolver.Lookup(ctx, mx.Host, dns.TypeCNAME)
		if err != nil {
			return failed(mx.Host, err), nil
		}
		if !a.Authentic || len(a.Records) == 0 {
			return none("neither its addresses nor its CNAME are authenticated"), nil
		}
		bases = []string{mx.Host}
	default:
		return none("its addresses are not authenticated"), nil
	}
	var answers []*Answer
	why := "no TLSA records"
	for _, base := range bases {
		name := fmt.Sprintf("_%d._tcp.%s", port, base)
		if _, ok := dns.IsDomainName(name); !ok {
			continue // a name so long has none
		}
		a, err := p.o.Resolver.Lookup(ctx, name, dns.TypeTLSA)
		if err != nil {
			return failed(base, err), answers
		}
		answers = append(answers, a)
		if len(a.Records) > 0 && !a.Authentic {
			why = "TLSA records that are not authenticated"
		} else if len(a.Records) > 0 {
			return usable(base, a.Records), answers
		}
	}
	return none(why), answers
}

// usable sorts records, and sums up whether any is of use.
func usable(base string, records []dns.RR) *TLSAResult {
	res := &TLSAResult{Base: base, State: policy.DANEUnusable}
	for _, rr := range records {
		tlsa, ok := rr.(*dns.TLSA)
		if !ok {
			continue
		}
		t := TLSARecord{Usage: tlsa.Usage, Selector: tlsa.Selector, Matching: tlsa.MatchingType, Data: strings.ToLower(tlsa.Certificate)}
		if t.Unusable = t.record().Unusable(); t.Unusable == "" {
			res.State = policy.DANEFull
		}
		res.Records = append(res.Records, t)
	}
	slices.SortFunc(res.Records, func(a, b TLSARecord) int {
		return cmp.Or(cmp.Compare(a.Usage, b.Usage), cmp.Compare(a.Selector, b.Selector), cmp.Compare(a.Matching, b.Matching), cmp.Compare(a.Data, b.Data))
	})
	if extra := len(res.Records) - maxTLSA; extra > 0 {
		res.Records = res.Records[:maxTLSA]
		res.Error = fmt.Sprintf("%d more records are not looked at", extra)
	}
	return res
}

// record is the TLSA record as package dane has it.
func (t *TLSARecord) record() dane.Record {
	data, _ := hex.DecodeString(t.Data) // package dns wrote it; what can't be read is unusable
	return dane.Record{Usage: t.Usage, Selector: t.Selector, Matching: t.Matching, Data: data}
}

// secure reports whether there are TLSA records that a certificate is held against.
func (t *TLSAResult) secure() bool { return t != nil && t.State == policy.DANEFull }

// matchTLSA holds the chain of a session against the TLSA records of its host.
func (r *Result) matchTLSA(mx *MXResult, a *AddressResult, now time.Time) {
	sent := a.Sent
	a.Sent = nil
	if !mx.TLSA.secure() || a.Version == "" {
		return
	}
	var chain []*x509.Certificate
	for _, der := range sent {
		if c, err := x509.ParseCertificate(der); err == nil { // as it did in the handshake
			chain = append(chain, c)
		}
	}
	// RFC 7672, section 3.2.2.
	names := []string{mx.TLSA.Base}
	if r.Authentic && !r.ImplicitMX {
		names = append(names, r.Domain)
		if r.Canonical != "" {
			names = append(names, r.Canonical)
		}
	}
	records := make([]dane.Record, len(mx.TLSA.Records))
	for i := range records {
		records[i] = mx.TLSA.Records[i].record()
	}
	v := dane.Match(records, chain, names, now)
	a.DANE, a.TLSA = clean(v.Reason), make([]TLSAMatch, len(v.Records))
	for i, o := range v.Records {
		a.TLSA[i] = TLSAMatch{o.Match, clean(o.Why)}
	}
}
