package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/postseal/postseal/policyd/policy"
)

// peer is a listener that tells from where it was called.
func peer(t *testing.T, network, address string) (to string, from func() []string) {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var all []string
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			all = append(all, conn.RemoteAddr().(*net.TCPAddr).IP.String())
			mu.Unlock()
			conn.Close()
		}
	}()
	t.Cleanup(func() { ln.Close() })
	return ln.Addr().String(), func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

func TestConnectionsComeFromTheBoundAddress(t *testing.T) {
	// 192.0.2.0/24 is documentation: no machine has it.
	bound, none := netip.MustParseAddr("127.0.0.77"), netip.MustParseAddr("192.0.2.77")
	tests := []struct {
		name  string
		bind  []netip.Addr
		orAny bool
		want  string // "": it fails
	}{
		{"none", nil, false, "127.0.0.1"},
		{"bound", []netip.Addr{bound}, false, "127.0.0.77"},
		{"one of the other family does not count", []netip.Addr{netip.IPv6Loopback(), bound}, false, "127.0.0.77"},
		{"only one of the other family", []netip.Addr{netip.MustParseAddr("2001:db8::1")}, false, "127.0.0.1"},
		{"not an address of this machine", []netip.Addr{none}, false, ""},
		{"the same, as Postfix without smtp_bind_address_enforce", []netip.Addr{none}, true, "127.0.0.1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			to, from := peer(t, "tcp4", "127.0.0.1:0")
			conn, err := Dialer(tt.bind, tt.orAny)(t.Context(), "tcp", to)
			if err != nil {
				if tt.want != "" || !errors.Is(err, syscall.EADDRNOTAVAIL) {
					t.Errorf("%v, want from %q", err, tt.want)
				}
				return
			}
			conn.Read(make([]byte, 1)) // until the peer has seen us
			conn.Close()
			if got := from(); !slices.Equal(got, []string{tt.want}) {
				t.Errorf("from %v, want %q", got, tt.want)
			}
		})
	}
	if err := CheckBind(bound); err != nil {
		t.Error(err)
	}
	if err := CheckBind(none); err == nil || !strings.Contains(err.Error(), "no connection can be made from 192.0.2.77: cannot assign requested address") {
		t.Errorf("got %v", err)
	}
}

// What our own machine can't do is never the destination's fault.
func TestOwnAddressThatFailsIsNoMissingTLS(t *testing.T) {
	w := newWorld(t, "x.example MX 10 mx.x.example", "mx.x.example A 192.0.2.1")
	r := w.prober(func(o *Options) {
		o.Dial = Dialer([]netip.Addr{netip.MustParseAddr("192.0.2.77")}, false)
	}).Probe(t.Context(), "x.example")
	if r.State != policy.Unreachable || !strings.Contains(r.Reason, "cannot assign requested address") {
		t.Errorf("%s: %s", r.State, r.Reason)
	}
}

func TestFamilies(t *testing.T) {
	records := []string{
		"six.example MX 10 mx6.example", "mx6.example AAAA 2001:db8::1",
		"four.example MX 10 mx4.example", "mx4.example A 192.0.2.1",
		"both.example MX 10 mx.example", "mx.example A 192.0.2.2", "mx.example A 192.0.2.3", "mx.example AAAA 2001:db8::2", "mx.example AAAA 2001:db8::3",
		"bare6.example AAAA 2001:db8::4",
	}
	noRoute := func(_ context.Context, _, address string) (net.Conn, error) {
		if strings.HasPrefix(address, "[") {
			return nil, &net.OpError{Op: "dial", Err: syscall.ENETUNREACH}
		}
		return nil, errors.New("no answer")
	}
	skip4 := func(o *Options) { o.SkipIPv4 = true }
	skip6 := func(o *Options) { o.SkipIPv6 = true }
	tests := []struct {
		name   string
		change func(*Options)
		dest   string
		state  policy.State
		addrs  string
		reason string
	}{
		{"both", func(*Options) {}, "both.example", policy.Unreachable, "2001:db8::2 192.0.2.2 2001:db8::3 192.0.2.3", ""},
		{"IPv4 first", func(o *Options) { o.PreferIPv4 = true }, "both.example", policy.Unreachable, "192.0.2.2 2001:db8::2 192.0.2.3 2001:db8::3", ""},
		{"IPv4 alone", skip6, "both.example", policy.Unreachable, "192.0.2.2 192.0.2.3", ""},
		{"IPv6 alone", skip4, "both.example", policy.Unreachable, "2001:db8::2 2001:db8::3", ""},
		{"a machine without a route by IPv6", func(*Options) {}, "six.example", policy.Unreachable, "2001:db8::1", "network is unreachable"},
		{"a mail server that does not use IPv6", skip6, "six.example", policy.Unreachable, "", "no IPv4 address, and the mail server does not use IPv6"},
		{"a mail server that does not use IPv4", skip4, "four.example", policy.Unreachable, "", "no IPv6 address, and the mail server does not use IPv4"},
		{"the domain's own address is of the other family", skip6, "bare6.example", policy.Unreachable, "", "does not use IPv6"},
		{"no such domain", skip6, "nothing.example", policy.NoMail, "", "no such domain"},
		{"a literal of the other family", skip6, "[2001:db8::9]", policy.Unreachable, "2001:db8::9", "does not use addresses of this family"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, records...)
			r := w.prober(func(o *Options) { o.Dial = noRoute }, tt.change).Probe(t.Context(), tt.dest)
			var addrs []string
			for _, mx := range r.MX {
				for _, a := range mx.Addresses {
					addrs = append(addrs, fmt.Sprint(a.Addr))
				}
			}
			if got := strings.Join(addrs, " "); r.State != tt.state || got != tt.addrs || !strings.Contains(r.Reason, tt.reason) {
				t.Errorf("%s (%s), addresses %q", r.State, r.Reason, got)
			}
		})
	}
	if _, err := NewProber(Options{SkipIPv4: true, SkipIPv6: true}); err == nil {
		t.Error("a prober without a family")
	}
}
