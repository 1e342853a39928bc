package fakedns

import (
	"strings"
	"time"

	"github.com/miekg/dns"
)

// ServeDNS implements [dns.Handler].
func (s *Server) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	if len(q.Question) != 1 {
		w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeFormatError))
		return
	}
	name, qtype := canonical(q.Question[0].Name), q.Question[0].Qtype
	tcp := w.LocalAddr().Network() == "tcp"

	s.mu.Lock()
	s.counts[query{name, qtype, tcp}]++
	f, delay := s.fault(name, qtype), s.delay
	m := s.answer(q, name, qtype)
	s.mu.Unlock()

	opt := q.IsEdns0()
	switch {
	case f == Silent:
		return
	case f == Garbage:
		w.Write([]byte("this is no dns message"))
		return
	case f == FormErrOnEDNS && opt != nil:
		w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeFormatError))
		return
	case f == TruncateUDP && !tcp:
		m.Answer, m.Ns, m.Truncated = nil, nil, true
	case f == Delay:
		select {
		case <-time.After(delay):
		case <-s.closing:
			return
		}
	}
	size := dns.MinMsgSize
	if opt != nil && f != FormErrOnEDNS {
		m.SetEdns0(4096, opt.Do())
		size = max(size, int(opt.UDPSize()))
	}
	m.Compress = true
	if !tcp {
		m.Truncate(size)
	}
	w.WriteMsg(m)
}

// answer makes the reply of a resolver: the chain of CNAMEs and the records at
// its end, or the SOA that tells NXDOMAIN and NODATA from failure.
func (s *Server) answer(q *dns.Msg, name string, qtype uint16) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	m.AuthenticatedData = true
	for range maxChain {
		m.AuthenticatedData = m.AuthenticatedData && s.authentic(name)
		switch s.fault(name, qtype) {
		case Servfail:
			return servfail(q)
		case Bogus:
			if !q.CheckingDisabled {
				return servfail(q)
			}
			m.AuthenticatedData = false
		case Refused:
			return new(dns.Msg).SetRcode(q, dns.RcodeRefused)
		case Referral:
			m.RecursionAvailable, m.Authoritative, m.AuthenticatedData = false, false, false
			m.Answer = nil
			m.Ns = []dns.RR{&dns.NS{
				Hdr: dns.RR_Header{Name: zoneOf(name), Rrtype: dns.TypeNS, Class: dns.ClassINET, Ttl: 60},
				Ns:  "ns.invalid.",
			}}
			return m
		}
		sets, exists := s.lookup(name)
		if rrs := sets[qtype]; len(rrs) > 0 {
			m.Answer = append(m.Answer, rrs...)
			return m
		}
		if qtype == dns.TypeANY {
			for _, rrs := range sets {
				m.Answer = append(m.Answer, rrs...)
			}
			return m
		}
		if cname := sets[dns.TypeCNAME]; len(cname) > 0 {
			m.Answer = append(m.Answer, cname[0])
			name = canonical(cname[0].(*dns.CNAME).Target)
			continue
		}
		if !exists {
			m.Rcode = dns.RcodeNameError
		}
		m.Ns = []dns.RR{s.soa(name)}
		return m
	}
	return servfail(q)
}

func servfail(q *dns.Msg) *dns.Msg {
	m := new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
	m.RecursionAvailable = true // as a recursive resolver whose upstream fails
	return m
}

// lookup returns the records of a name by type, those of a wildcard (RFC 4592)
// where there is no such name, and whether the name exists. A name exists too
// when it has no records but others lie below it.
func (s *Server) lookup(name string) (map[uint16][]dns.RR, bool) {
	if sets, ok := s.records[name]; ok {
		return sets, true
	}
	if name == "." || s.below[name] > 0 {
		return nil, true
	}
	for parent := name; ; {
		_, rest, ok := strings.Cut(parent, ".")
		if !ok || rest == "" {
			return nil, false
		}
		parent = rest
		if sets, ok := s.records["*."+parent]; ok {
			out := make(map[uint16][]dns.RR, len(sets))
			for t, rrs := range sets {
				for _, rr := range rrs {
					rr = dns.Copy(rr)
					rr.Header().Name = name
					out[t] = append(out[t], rr)
				}
			}
			return out, true
		}
		if _, ok := s.records[parent]; ok {
			return nil, false
		}
	}
}

// soa returns the SOA of the nearest zone above name that was added, or one made
// up for the name's last two labels. Its minimum is the negative TTL (RFC 2308).
func (s *Server) soa(name string) dns.RR {
	for at := name; at != ""; {
		if rrs := s.records[at][dns.TypeSOA]; len(rrs) > 0 {
			return rrs[0]
		}
		_, at, _ = strings.Cut(at, ".")
	}
	zone := zoneOf(name)
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60},
		Ns:  "ns.invalid.", Mbox: "hostmaster.invalid.",
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: 1,
	}
}

func zoneOf(name string) string {
	if labels := dns.SplitDomainName(name); len(labels) > 2 {
		return strings.Join(labels[len(labels)-2:], ".") + "."
	}
	return name
}
