package fakedns

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func start(t *testing.T, rrs ...string) *Server {
	t.Helper()
	s, err := Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Add(rrs...); err != nil {
		t.Fatal(err)
	}
	return s
}

func ask(t *testing.T, s *Server, network, name string, qtype uint16, edns bool) (*dns.Msg, error) {
	t.Helper()
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	if edns {
		m.SetEdns0(1232, false)
	}
	r, _, err := (&dns.Client{Net: network, Timeout: 500 * time.Millisecond}).Exchange(m, s.Addr())
	return r, err
}

func TestAnswers(t *testing.T) {
	s := start(t,
		"a.example. 60 IN MX 10 mx.a.example.",
		"a.example. 60 IN MX 20 mx2.a.example.",
		"mx.a.example. 60 IN A 192.0.2.1",
		"deep.down.a.example. 60 IN A 192.0.2.2",
		"alias.example. 60 IN CNAME mx.a.example.",
		"dangling.example. 60 IN CNAME gone.a.example.",
		"loop.example. 60 IN CNAME loop2.example.",
		"loop2.example. 60 IN CNAME loop.example.",
		"*.wild.example. 60 IN A 192.0.2.3",
		"zone.example. 60 IN SOA ns.zone.example. h.zone.example. 1 2 3 4 5",
	)
	tests := []struct {
		name, ask string
		qtype     uint16
		rcode     int
		answers   int
		soa       string // owner of the SOA in the authority section
	}{
		{"all records of a set", "A.example", dns.TypeMX, dns.RcodeSuccess, 2, ""},
		{"a name without that type is no data", "a.example", dns.TypeA, dns.RcodeSuccess, 0, "a.example."},
		{"a name between others exists", "down.a.example", dns.TypeA, dns.RcodeSuccess, 0, "a.example."},
		{"the top of the names exists", "example", dns.TypeMX, dns.RcodeSuccess, 0, "example."},
		{"an unknown name does not exist", "b.example", dns.TypeA, dns.RcodeNameError, 0, "b.example."},
		{"nor one that only ends alike", "xa.example", dns.TypeMX, dns.RcodeNameError, 0, "xa.example."},
		{"a CNAME is followed", "alias.example", dns.TypeA, dns.RcodeSuccess, 2, ""},
		{"a CNAME itself is an answer", "alias.example", dns.TypeCNAME, dns.RcodeSuccess, 1, ""},
		{"a CNAME to nowhere does not exist", "dangling.example", dns.TypeA, dns.RcodeNameError, 1, "a.example."},
		{"a loop fails", "loop.example", dns.TypeA, dns.RcodeServerFailure, 0, ""},
		{"a wildcard covers", "any.wild.example", dns.TypeA, dns.RcodeSuccess, 1, ""},
		{"a given SOA is used", "no.zone.example", dns.TypeA, dns.RcodeNameError, 0, "zone.example."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := ask(t, s, "udp", tt.ask, tt.qtype, true)
			if err != nil {
				t.Fatal(err)
			}
			soa := ""
			if len(r.Ns) > 0 {
				soa = r.Ns[0].Header().Name
			}
			if r.Rcode != tt.rcode || len(r.Answer) != tt.answers || soa != tt.soa {
				t.Errorf("got %s, %d answers, SOA %q; want %s, %d, %q\n%s", dns.RcodeToString[r.Rcode], len(r.Answer), soa,
					dns.RcodeToString[tt.rcode], tt.answers, tt.soa, r)
			}
			if !r.RecursionAvailable {
				t.Error("no RA")
			}
		})
	}
	if got := s.Queries("A.EXAMPLE", dns.TypeMX); got != 1 {
		t.Errorf("counted %d MX queries, want 1", got)
	}
	if got := s.Queries("", 0); got != len(tests) {
		t.Errorf("counted %d queries, want %d", got, len(tests))
	}
}

func TestFaults(t *testing.T) {
	s := start(t, "a.example. 60 IN A 192.0.2.1", "alias.example. 60 IN CNAME a.example.")
	rcode := func(network, name string, edns bool) string {
		r, err := ask(t, s, network, name, dns.TypeA, edns)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return "timeout"
		case err != nil && r == nil:
			return "garbage"
		case r.Truncated:
			return "truncated"
		case len(r.Answer) == 0 && len(r.Ns) > 0 && r.Ns[0].Header().Rrtype == dns.TypeNS:
			return "referral"
		}
		return dns.RcodeToString[r.Rcode]
	}
	tests := []struct {
		fault         Fault
		udp, bare     string
		tcp, viaAlias string
	}{
		{Servfail, "SERVFAIL", "SERVFAIL", "SERVFAIL", "SERVFAIL"},
		{Refused, "REFUSED", "REFUSED", "REFUSED", "REFUSED"},
		{Referral, "referral", "referral", "referral", "referral"},
		{Silent, "timeout", "timeout", "timeout", "NOERROR"},
		{TruncateUDP, "truncated", "truncated", "NOERROR", "NOERROR"},
		{FormErrOnEDNS, "FORMERR", "NOERROR", "FORMERR", "NOERROR"},
		{Delay, "NOERROR", "NOERROR", "NOERROR", "NOERROR"},
		{NoFault, "NOERROR", "NOERROR", "NOERROR", "NOERROR"},
	}
	s.SetDelay(10 * time.Millisecond)
	for _, tt := range tests {
		s.Fail("a.example", dns.TypeA, tt.fault)
		if got := rcode("udp", "a.example", true); got != tt.udp {
			t.Errorf("fault %d: UDP with EDNS: %s, want %s", tt.fault, got, tt.udp)
		}
		if got := rcode("udp", "a.example", false); got != tt.bare {
			t.Errorf("fault %d: UDP without EDNS: %s, want %s", tt.fault, got, tt.bare)
		}
		if got := rcode("tcp", "a.example", true); got != tt.tcp {
			t.Errorf("fault %d: TCP: %s, want %s", tt.fault, got, tt.tcp)
		}
		if got := rcode("udp", "alias.example", true); got != tt.viaAlias {
			t.Errorf("fault %d: by CNAME: %s, want %s", tt.fault, got, tt.viaAlias)
		}
	}
	s.Fail("", 0, Servfail)
	if got := rcode("udp", "other.example", true); got != "SERVFAIL" {
		t.Errorf("every name: %s, want SERVFAIL", got)
	}
	s.Fail("", 0, NoFault)
	if got := rcode("udp", "other.example", true); got != "NXDOMAIN" {
		t.Errorf("fault gone: %s, want NXDOMAIN", got)
	}
	if s.TCPQueries("a.example", dns.TypeA) != len(tests) {
		t.Errorf("counted %d TCP queries, want %d", s.TCPQueries("a.example", dns.TypeA), len(tests))
	}
}

func TestChange(t *testing.T) {
	s := start(t, "a.example. 60 IN A 192.0.2.1")
	s.Remove("A.example.")
	if r, err := ask(t, s, "udp", "a.example", dns.TypeA, true); err != nil || r.Rcode != dns.RcodeNameError {
		t.Errorf("removed name: %v %v", r, err)
	}
	if err := s.Set("b.example", "A", "192.0.2.7"); err != nil {
		t.Fatal(err)
	}
	if err := s.Set("b.example", "A", "192.0.2.8"); err != nil {
		t.Fatal(err)
	}
	s.SetAuthentic(true)
	r, err := ask(t, s, "udp", "b.example", dns.TypeA, true)
	if err != nil || len(r.Answer) != 1 || !r.Answer[0].(*dns.A).A.Equal(net.ParseIP("192.0.2.8")) || !r.AuthenticatedData {
		t.Errorf("replaced record: %v %v", r, err)
	}
	if err := s.Add("c.example. IN A 192.0.2.1", "nonsense"); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("bad record: error %v", err)
	}
	if r, _ := ask(t, s, "udp", "c.example", dns.TypeA, true); r == nil || r.Rcode != dns.RcodeNameError {
		t.Error("a refused Add added something")
	}
}

func TestAuthentic(t *testing.T) {
	s := start(t,
		"signed.example. 60 IN MX 10 mx.signed.example.", "mx.signed.example. 60 IN A 192.0.2.1",
		"plain.example. 60 IN A 192.0.2.2",
		"in.signed.example. 60 IN CNAME mx.signed.example.", "out.signed.example. 60 IN CNAME plain.example.",
		"alias.plain.example. 60 IN CNAME mx.signed.example.", "cut.signed.example. 60 IN A 192.0.2.3",
		"bogus.signed.example. 60 IN A 192.0.2.4",
	)
	s.SetAuthentic(true, "signed.example")
	s.SetAuthentic(false, "cut.signed.example")
	s.Fail("bogus.signed.example", dns.TypeA, Bogus)
	tests := []struct {
		name, ask string
		qtype     uint16
		rcode     int
		ad        bool
	}{
		{"a signed zone", "signed.example", dns.TypeMX, dns.RcodeSuccess, true},
		{"no data in it", "signed.example", dns.TypeA, dns.RcodeSuccess, true},
		{"no such name in it", "gone.signed.example", dns.TypeA, dns.RcodeNameError, true},
		{"an unsigned zone", "plain.example", dns.TypeA, dns.RcodeSuccess, false},
		{"a chain inside", "in.signed.example", dns.TypeA, dns.RcodeSuccess, true},
		{"a chain that leaves", "out.signed.example", dns.TypeA, dns.RcodeSuccess, false},
		{"its first link alone", "out.signed.example", dns.TypeCNAME, dns.RcodeSuccess, true},
		{"a chain that comes from outside", "alias.plain.example", dns.TypeA, dns.RcodeSuccess, false},
		{"an unsigned zone below", "cut.signed.example", dns.TypeA, dns.RcodeSuccess, false},
		{"bogus", "bogus.signed.example", dns.TypeA, dns.RcodeServerFailure, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := ask(t, s, "udp", tt.ask, tt.qtype, true)
			if err != nil {
				t.Fatal(err)
			}
			if r.Rcode != tt.rcode || r.AuthenticatedData != tt.ad {
				t.Errorf("got %s, AD %t; want %s, AD %t", dns.RcodeToString[r.Rcode], r.AuthenticatedData, dns.RcodeToString[tt.rcode], tt.ad)
			}
		})
	}
}

// TestStubResolver asks as a program that uses the system's stub resolver does.
func TestStubResolver(t *testing.T) {
	s := start(t,
		"a.example. 60 IN A 192.0.2.1", "a.example. 60 IN AAAA 2001:db8::1",
		"a.example. 60 IN MX 5 a.example.", "1.2.0.192.in-addr.arpa. 60 IN PTR a.example.")
	r := &net.Resolver{PreferGo: true, Dial: func(_ context.Context, network, _ string) (net.Conn, error) {
		return net.Dial(network, s.Addr())
	}}
	if got, err := r.LookupHost(t.Context(), "a.example"); err != nil || len(got) != 2 {
		t.Errorf("LookupHost: %v %v", got, err)
	}
	if got, err := r.LookupAddr(t.Context(), "192.0.2.1"); err != nil || len(got) != 1 || got[0] != "a.example." {
		t.Errorf("LookupAddr: %v %v", got, err)
	}
	if got, err := r.LookupMX(t.Context(), "a.example"); err != nil || len(got) != 1 {
		t.Errorf("LookupMX: %v %v", got, err)
	}
}
