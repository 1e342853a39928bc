package lab

import (
	"fmt"
	"net"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// zoneServer answers with authority for every name there is.
type zoneServer struct {
	mu       sync.Mutex
	records  map[string]map[uint16][]dns.RR
	udp, tcp *dns.Server
}

func startZones(addr string) (*zoneServer, error) {
	z := &zoneServer{records: make(map[string]map[uint16][]dns.RR)}
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		pc.Close()
		return nil, err
	}
	z.udp = &dns.Server{PacketConn: pc, Handler: z}
	z.tcp = &dns.Server{Listener: ln, Handler: z}
	go z.udp.ActivateAndServe()
	go z.tcp.ActivateAndServe()
	return z, nil
}

func (z *zoneServer) Set(name, typ string, values ...string) error {
	t, ok := dns.StringToType[typ]
	if !ok {
		return fmt.Errorf("unknown record type %q", typ)
	}
	name = strings.ToLower(dns.Fqdn(name))
	var rrs []dns.RR
	for _, v := range values {
		rr, err := dns.NewRR(fmt.Sprintf("%s 1 IN %s %s", name, typ, v))
		if err != nil {
			return fmt.Errorf("record %s %s: %w", name, typ, err)
		}
		rrs = append(rrs, rr)
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.records[name] == nil {
		z.records[name] = make(map[uint16][]dns.RR)
	}
	z.records[name][t] = rrs
	return nil
}

func (z *zoneServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable, m.Authoritative = true, true
	z.mu.Lock()
	name := strings.ToLower(q.Question[0].Name)
	sets, ok := z.records[name]
	if !ok {
		m.Rcode = dns.RcodeNameError
		for known := range z.records { // an empty non-terminal exists
			if strings.HasSuffix(known, "."+name) {
				m.Rcode = dns.RcodeSuccess
			}
		}
	}
	m.Answer = append(m.Answer, sets[q.Question[0].Qtype]...)
	z.mu.Unlock()
	w.WriteMsg(m)
}

func (z *zoneServer) Close() error {
	z.udp.Shutdown()
	return z.tcp.Shutdown()
}
