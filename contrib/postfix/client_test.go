package postfix

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestClient(t *testing.T) {
	need(t)
	const smtp = "smtp unix - - n - - smtp\n"
	const secure = smtp + "securesmtp unix - - n - - smtp\n"
	addrs := func(list ...string) (all []netip.Addr) {
		for _, a := range list {
			all = append(all, netip.MustParseAddr(a))
		}
		return all
	}
	tests := []struct {
		name, main, master string
		want               Client
	}{
		{"defaults", "", secure, Client{HELO: "mx.own.example", IPv4: true, IPv6: true, Prefer: "any"}},
		{"addresses of main.cf", "smtp_bind_address = 192.0.2.1\nsmtp_bind_address6 = 2001:db8::1\nsmtp_bind_address_enforce = yes\n", secure,
			Client{HELO: "mx.own.example", Bind: addrs("192.0.2.1", "2001:db8::1"), BindOrWait: true, IPv4: true, IPv6: true, Prefer: "any"}},
		{"options of the service, expanded", "second = 192.0.2.2\nsmtp_bind_address = 192.0.2.1\nsmtp_helo_name = a.example\n",
			smtp + "securesmtp unix - - n - - smtp\n -o smtp_bind_address=$second\n -o smtp_helo_name=out.$mydomain\n -o inet_protocols=ipv4\n",
			Client{HELO: "out.own.example", Bind: addrs("192.0.2.2"), IPv4: true, Prefer: "any"}},
		{"before setup, those of smtp", "", "smtp unix - - n - - smtp\n -o smtp_helo_name=b.example\n",
			Client{HELO: "b.example", IPv4: true, IPv6: true, Prefer: "any"}},
		{"those of another service do not count", "", smtp + "relay unix - - n - - smtp\n -o smtp_helo_name=b.example\nsecuresmtp unix - - n - - smtp\n",
			Client{HELO: "mx.own.example", IPv4: true, IPv6: true, Prefer: "any"}},
		{"families", "inet_protocols = ipv6\nsmtp_bind_address = 192.0.2.1\nsmtp_address_preference = ipv6\n", secure,
			Client{HELO: "mx.own.example", IPv6: true, Prefer: "ipv6"}},
		{"both by name", "inet_protocols = ipv4, ipv6\nsmtp_address_preference = ipv4\n", secure,
			Client{HELO: "mx.own.example", IPv4: true, IPv6: true, Prefer: "ipv4"}},
		{"the only interface", "inet_interfaces = 192.0.2.7\n", secure,
			Client{HELO: "mx.own.example", Bind: addrs("192.0.2.7"), IPv4: true, IPv6: true, Prefer: "any"}},
		{"the only one of each family", "inet_interfaces = 192.0.2.7, [2001:db8::7], ::1\n", secure,
			Client{HELO: "mx.own.example", Bind: addrs("192.0.2.7"), IPv4: true, IPv6: true, Prefer: "any"}},
		{"the only one is loopback", "inet_interfaces = 127.0.0.1\n", secure, Client{HELO: "mx.own.example", IPv4: true, IPv6: true, Prefer: "any"}},
		{"two of a family", "inet_interfaces = 192.0.2.7 192.0.2.8\n", secure, Client{HELO: "mx.own.example", IPv4: true, IPv6: true, Prefer: "any"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := config(t, "myhostname = mx.own.example\nmydomain = own.example\n"+tt.main, "")
			if err := os.WriteFile(filepath.Join(p.ConfigDir, "master.cf"), []byte(tt.master), 0o644); err != nil {
				t.Fatal(err)
			}
			age(t, p)
			got, err := p.Client(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.Addr{})); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestClientRefusesWhatPostfixWould(t *testing.T) {
	for name, m := range map[string]map[string]string{
		"a name as address": {"smtp_bind_address": "mx.own.example"},
		"another family":    {"smtp_bind_address": "2001:db8::1"},
		"an odd protocol":   {"inet_protocols": "ipx"},
	} {
		if c, err := clientOf(t.Context(), m); err == nil {
			t.Errorf("%s: %+v", name, c)
		}
	}
}
