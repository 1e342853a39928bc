package main

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/postseal/postseal/contrib/postfix"
	"github.com/postseal/postseal/tlsmap/probe"
)

func TestProbeConnectsAsPostfix(t *testing.T) {
	four, six, none := netip.MustParseAddr("127.0.0.7"), netip.IPv6Loopback(), netip.MustParseAddr("192.0.2.7")
	both := postfix.Client{IPv4: true, IPv6: true, Bind: []netip.Addr{four}}
	tests := []struct {
		name   string
		client postfix.Client
		args   []string
		want   probe.Options // Bind, BindOrAny and the families
		err    string
		log    string
	}{
		{name: "nothing known of Postfix"},
		{name: "Postfix's address", client: both, want: probe.Options{Bind: []netip.Addr{four}, BindOrAny: true}},
		{name: "Postfix's address, or not at all", client: postfix.Client{IPv4: true, IPv6: true, Bind: []netip.Addr{four}, BindOrWait: true}, want: probe.Options{Bind: []netip.Addr{four}}},
		{name: "Postfix's address is not there", client: postfix.Client{IPv4: true, IPv6: true, Bind: []netip.Addr{none}}, want: probe.Options{Bind: []netip.Addr{none}, BindOrAny: true}, log: "192.0.2.7"},
		{name: "families", client: postfix.Client{IPv4: true}, want: probe.Options{BindOrAny: true, SkipIPv6: true}},
		{name: "the other family", client: postfix.Client{IPv6: true}, want: probe.Options{BindOrAny: true, SkipIPv4: true}},
		{name: "IPv4 first", client: postfix.Client{IPv4: true, IPv6: true, Prefer: "ipv4"}, want: probe.Options{BindOrAny: true, PreferIPv4: true}},
		{name: "set", client: both, args: []string{"--probe-from", "127.0.0.8"}, want: probe.Options{Bind: []netip.Addr{netip.MustParseAddr("127.0.0.8")}}},
		{name: "set twice", args: []string{"--probe-from", "127.0.0.8", "--probe-from", "127.0.0.9"}, err: "are of one family"},
		{name: "set to what this machine does not have", args: []string{"--probe-from", "192.0.2.7"}, err: "probe-from (from flag --probe-from): no connection can be made from 192.0.2.7"},
	}
	if probe.CheckBind(six) == nil {
		tests = append(tests, tests[7])
		last := &tests[len(tests)-1]
		last.name, last.args, last.want.Bind = "set for both", []string{"--probe-from", "127.0.0.8", "--probe-from", "::1"}, []netip.Addr{netip.MustParseAddr("127.0.0.8"), six}
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := load(t, nil, tt.args...)
			if err != nil {
				t.Fatal(err)
			}
			var got probe.Options
			var log bytes.Buffer
			err = (&surroundings{client: tt.client}).connectAsPostfix(cfg, &got, newLog(&log, "text"))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if tt.name == "nothing known of Postfix" {
				got.BindOrAny = false // makes no difference without an address
			}
			if !slices.Equal(got.Bind, tt.want.Bind) || got.BindOrAny != tt.want.BindOrAny || got.SkipIPv4 != tt.want.SkipIPv4 ||
				got.SkipIPv6 != tt.want.SkipIPv6 || got.PreferIPv4 != tt.want.PreferIPv4 {
				t.Errorf("%v any=%v, skip %v %v, IPv4 first %v", got.Bind, got.BindOrAny, got.SkipIPv4, got.SkipIPv6, got.PreferIPv4)
			}
			if (log.Len() > 0) != (tt.log != "") || !strings.Contains(log.String(), tt.log) {
				t.Errorf("log %q", log.String())
			}
		})
	}
}
