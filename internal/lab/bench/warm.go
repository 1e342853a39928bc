package main

import (
	"fmt"
	"io"
	"net"
	"strings"
)

// queries are those of a map for the first n domains.
func queries(mapName, local string, n int) [][]byte {
	all := make([][]byte, n)
	for i := range all {
		all[i] = netstring(mapName + " " + local + domain(i))
	}
	return all
}

// warmMaps measures socketmap answers of what is known.
func warmMaps(s *settings, p *server) error {
	for _, q := range []string{"tls-policy " + domain(1), "secure-tls-policy " + domain(1), "transport joe@" + domain(1)} {
		text, _, err := one(p.maps, q)
		if err != nil {
			return err
		}
		fmt.Printf("\n%s: %s", q, text)
	}
	text, _, err := one(p.maps, "secure-tls-policy "+domain(1))
	if err != nil {
		return err
	}
	e, err := startEcho(',', false, string(netstring(text))) // as long an answer
	if err != nil {
		return err
	}
	defer e.stop()
	few := min(45_000, s.domains)
	type what struct {
		name, mapName, local string
		n                    int
	}
	sets := map[int][]what{
		16: {
			{"tls-policy, one key", "tls-policy", "", 1},
			{"secure-tls-policy, one key", "secure-tls-policy", "", 1},
			{"transport, one key", "transport", "joe@", 1},
			{fmt.Sprintf("secure-tls-policy, %d domains", few), "secure-tls-policy", "", few},
			{fmt.Sprintf("tls-policy, %d domains", s.domains), "tls-policy", "", s.domains},
			{fmt.Sprintf("secure-tls-policy, %d domains", s.domains), "secure-tls-policy", "", s.domains},
			{fmt.Sprintf("transport, %d domains", s.domains), "transport", "joe@", s.domains},
		},
		1: {
			{"tls-policy, one key", "tls-policy", "", 1},
			{"secure-tls-policy, one key", "secure-tls-policy", "", 1},
			{"transport, one key", "transport", "joe@", 1},
		},
	}
	for _, conns := range []int{16, 1} {
		heading(fmt.Sprintf("Warm socketmap answers, %d connections, %d rules, default logging and metrics", conns, s.rules))
		base := &turn{name: "echo", p: e, addr: e.maps, load: &load{conns: conns, end: ',', requests: queries("secure-tls-policy", "", 1)}}
		var turns []*turn
		for _, w := range sets[conns] {
			turns = append(turns, &turn{name: w.name, p: p, addr: p.maps, load: &load{conns: conns, end: ',', requests: queries(w.mapName, w.local, w.n)}})
		}
		if err := measure(s, base, turns); err != nil {
			return err
		}
		if conns == 16 {
			fmt.Println("  postfix-tlspol 1.13, as measured elsewhere: 0.57 of echo with one key, 0.63 with 45,000 domains, 2,883/s with 100,000; +5 to +11 µs CPU")
		}
	}
	return nil
}

// warmPolicy measures policy delegation: a recipient at whose domain rules look,
// from a sender without one.
func warmPolicy(s *settings, p *server) error {
	reply, err := askPolicy(p.policy, policyRequest(1))
	if err != nil {
		return err
	}
	e, err := startEcho('\n', true, reply)
	if err != nil {
		return err
	}
	defer e.stop()
	many := make([][]byte, min(20_000, s.rules))
	for i := range many {
		many[i] = policyRequest(i)
	}
	for _, conns := range []int{16, 1} {
		heading(fmt.Sprintf("Policy delegation, %d connections, %d rules, default logging and metrics: %s", conns, s.rules, strings.TrimSpace(reply)))
		base := &turn{name: "echo", p: e, addr: e.policy, load: &load{conns: conns, end: '\n', blank: true, requests: many[1:2]}}
		turns := []*turn{
			{name: "one recipient", p: p, addr: p.policy, load: &load{conns: conns, end: '\n', blank: true, requests: many[1:2]}},
			{name: fmt.Sprintf("%d recipients and transactions", len(many)), p: p, addr: p.policy, load: &load{conns: conns, end: '\n', blank: true, requests: many}},
		}
		if err := measure(s, base, turns); err != nil {
			return err
		}
	}
	return nil
}

func policyRequest(i int) []byte {
	return fmt.Appendf(nil, `request=smtpd_access_policy
protocol_state=RCPT
protocol_name=ESMTP
client_address=192.0.2.1
client_name=mail.own.example
client_port=54321
reverse_client_name=mail.own.example
server_address=192.0.2.2
server_port=25
helo_name=mail.own.example
sender=joe@own.example
recipient=someone@%s
recipient_count=0
queue_id=
instance=4d2.65f1a2b3.%x.0
size=12345
etrn_domain=
stress=
sasl_method=
sasl_username=
sasl_sender=
ccert_subject=
ccert_issuer=
ccert_fingerprint=
ccert_pubkey_fingerprint=
encryption_protocol=TLSv1.3
encryption_cipher=TLS_AES_256_GCM_SHA384
encryption_keysize=256
policy_context=

`, domain(i), i)
}

func askPolicy(addr string, request []byte) (string, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := c.Write(request); err != nil {
		return "", err
	}
	var reply []byte
	b := make([]byte, 1)
	for !strings.HasSuffix(string(reply), "\n\n") {
		if _, err := io.ReadFull(c, b); err != nil {
			return "", err
		}
		reply = append(reply, b[0])
	}
	return string(reply), nil
}
