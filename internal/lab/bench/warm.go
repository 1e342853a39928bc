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
	for _, conns := range []int{16, 1} {
		heading(fmt.Sprintf("Warm socketmap answers, %d connections, %d rules, default logging and metrics", conns, s.rules))
		of := func(p *server, name, mapName, local string, n int) *turn {
			return &turn{name: name, p: p, addr: p.maps, load: &load{conns: conns, end: ',', requests: queries(mapName, local, n)}}
		}
		about := func(n int) group {
			keys := "one key"
			if n > 1 {
				keys = fmt.Sprintf("%d domains", n)
			}
			return group{of(e, "echo, "+keys, "secure-tls-policy", "", n), []*turn{
				of(p, "tls-policy, "+keys, "tls-policy", "", n), of(p, "secure-tls-policy, "+keys, "secure-tls-policy", "", n),
				of(p, "transport, "+keys, "transport", "joe@", n),
			}}
		}
		groups := []group{about(1)}
		if conns > 1 {
			groups = append(groups, about(min(45_000, s.domains)), about(s.domains))
		}
		if err := measure(s, groups...); err != nil {
			return err
		}
		if conns > 1 {
			fmt.Println("  postfix-tlspol 1.13, as measured elsewhere: 0.57 of echo with one key, 0.63 with 45,000 domains, 2,883/s with 100,000; +5 to +11 µs CPU")
		}
	}
	return nil
}

// warmPolicy measures policy delegation, from a sender without a rule: for recipients of
// whom nothing is required, and for those of whom a rule does, which is decided and goes to
// the audit log.
func warmPolicy(s *settings, p *server) error {
	const free = "other-%d.example"
	plain, err := askPolicy(p.policy, policyRequest(1, free))
	if err != nil {
		return err
	}
	required, err := askPolicy(p.policy, policyRequest(1, ruled))
	if err != nil {
		return err
	}
	e, err := startEcho('\n', true, required)
	if err != nil {
		return err
	}
	defer e.stop()
	many := func(domains string) [][]byte {
		all := make([][]byte, min(20_000, s.rules))
		for i := range all {
			all[i] = policyRequest(i, domains)
		}
		return all
	}
	none, some := many(free), many(ruled)
	for _, conns := range []int{16, 1} {
		heading(fmt.Sprintf("Policy delegation, %d connections, %d rules, default logging and metrics: %s", conns, s.rules, strings.TrimSpace(required)))
		of := func(p *server, name, want string, requests [][]byte) *turn {
			want, _, _ = strings.Cut(want, "\n")
			return &turn{name: name, p: p, addr: p.policy, load: &load{conns: conns, end: '\n', blank: true, requests: requests, want: want}}
		}
		about := func(name string, none, some [][]byte) group {
			return group{of(e, "echo, "+name, required, some), []*turn{
				of(p, name+", nothing required", plain, none), of(p, name+", decided and logged", required, some),
			}}
		}
		if err := measure(s, about("one recipient", none[1:2], some[1:2]), about(fmt.Sprintf("%d recipients", len(some)), none, some)); err != nil {
			return err
		}
	}
	return nil
}

// ruled are the domains that have a rule.
const ruled = "domain-%d.example"

func policyRequest(i int, domains string) []byte {
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

`, fmt.Sprintf(domains, i), i)
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
