package probe

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/internal/lab/fakedns"
	"github.com/postseal/postseal/internal/lab/fakesmtp"
	"github.com/postseal/postseal/policyd/policy"
)

// TestSession is every way in which one host can take a probe.
func TestSession(t *testing.T) {
	w := newWorld(t, "d.example. 60 IN MX 10 mx.d.example.", "mx.d.example. 60 IN A 192.0.2.1")
	with := func(f func(*fakesmtp.Behaviour)) fakesmtp.Behaviour {
		b := w.good("mx.d.example")
		f(&b)
		return b
	}
	tests := []struct {
		name   string
		b      fakesmtp.Behaviour
		want   policy.State
		reason string
	}{
		{"good TLS", w.good("mx.d.example"), policy.Works, "TLSv1.3"},
		{"TLS 1.2", with(func(b *fakesmtp.Behaviour) { b.MaxTLS = tls.VersionTLS12 }), policy.Works, "TLSv1.2"},
		{"a certificate of anybody", with(func(b *fakesmtp.Behaviour) {
			b.Certificate = w.cert(fakesmtp.CertOptions{Names: []string{"other.example"}, SelfSigned: true, Expired: true})
		}), policy.Works, ""},
		{"an RSA key", with(func(b *fakesmtp.Behaviour) {
			b.Certificate = w.cert(fakesmtp.CertOptions{Names: []string{"mx.d.example"}, RSA: true})
			b.MaxTLS = tls.VersionTLS12
		}), policy.Works, ""},
		{"TLS 1.1 is below the floor", with(func(b *fakesmtp.Behaviour) {
			b.MinTLS, b.MaxTLS = tls.VersionTLS10, tls.VersionTLS11
		}), policy.Broken, "below the floor"},
		{"no STARTTLS", fakesmtp.Behaviour{Name: "mx.d.example"}, policy.Absent, "no STARTTLS"},
		{"a munged keyword is no STARTTLS", fakesmtp.Behaviour{Keywords: []string{"XXXXXXXA"}}, policy.Absent, ""},
		{"the keyword in lower case", with(func(b *fakesmtp.Behaviour) {
			b.STARTTLS, b.Keywords = false, []string{"starttls"}
			b.StartReply = ""
		}), policy.Broken, "502"}, // the fake refuses then: it was asked
		{"EHLO refused, HELO accepted", fakesmtp.Behaviour{RefuseEHLO: true}, policy.Absent, "HELO works"},
		{"a greeting of 421", fakesmtp.Behaviour{Banner: "421 4.3.2 busy"}, policy.Unreachable, "421"},
		{"a greeting of 450", fakesmtp.Behaviour{Banner: "450 4.3.2 busy"}, policy.Unreachable, "450"},
		{"a greeting of 554", fakesmtp.Behaviour{Banner: "554 5.7.1 go away"}, policy.Unreachable, "554"},
		{"silence", fakesmtp.Behaviour{Silent: true}, policy.Unreachable, "timeout"},
		{"a greeting too late", fakesmtp.Behaviour{BannerDelay: 400 * time.Millisecond}, policy.Unreachable, "timeout"},
		{"STARTTLS answered 454", with(func(b *fakesmtp.Behaviour) { b.StartReply = "454 4.7.0 not now" }), policy.Unreachable, "454"},
		{"STARTTLS answered 421", with(func(b *fakesmtp.Behaviour) { b.StartReply = "421 4.7.0 not now" }), policy.Unreachable, "421"},
		{"STARTTLS answered 502", with(func(b *fakesmtp.Behaviour) { b.StartReply = "502 5.5.1 no" }), policy.Broken, "502"},
		{"STARTTLS answered 354", with(func(b *fakesmtp.Behaviour) { b.StartReply = "354 what" }), policy.Broken, "354"},
		{"the connection closed in the handshake", with(func(b *fakesmtp.Behaviour) { b.Handshake = fakesmtp.HandshakeClose }), policy.Broken, "handshake"},
		{"garbage in the handshake", with(func(b *fakesmtp.Behaviour) { b.Handshake = fakesmtp.HandshakeGarbage }), policy.Broken, "handshake"},
		{"an alert in the handshake", with(func(b *fakesmtp.Behaviour) { b.Handshake = fakesmtp.HandshakeAlert }), policy.Broken, "handshake"},
		{"silence in the handshake", with(func(b *fakesmtp.Behaviour) { b.Handshake = fakesmtp.HandshakeSilent }), policy.Broken, "timeout"},
		{"a reply injected behind STARTTLS", with(func(b *fakesmtp.Behaviour) { b.Inject = "250 injected\r\n" }), policy.Broken, "plaintext"},
		{"a byte injected behind STARTTLS", with(func(b *fakesmtp.Behaviour) { b.Inject = "\n" }), policy.Broken, "plaintext"},
		{"greylisting is not seen", with(func(b *fakesmtp.Behaviour) { b.Greylist = time.Hour }), policy.Works, ""},
	}
	s := w.host("192.0.2.1", fakesmtp.Behaviour{})
	p := w.prober(impatient)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s.Set(tt.b)
			got := p.Probe(t.Context(), "d.example")
			if got.State != tt.want || !strings.Contains(got.Reason, tt.reason) {
				t.Errorf("got %s, %q; want %s, %q", got.State, got.Reason, tt.want, tt.reason)
			}
			if len(got.MX) != 1 || len(got.MX[0].Addresses) != 1 || got.MX[0].Addresses[0].State != tt.want {
				t.Errorf("hosts: %+v", got.MX)
			}
		})
	}
}

// TestRawSession is what no honest server does.
func TestRawSession(t *testing.T) {
	long := "220-" + strings.Repeat("x", 3000) + "\r\n220 ok\r\n"
	tests := []struct {
		name   string
		script []string
		want   policy.State
	}{
		{"not SMTP", []string{"SSH-2.0-OpenSSH\r\n"}, policy.Unreachable},
		{"HTTP", []string{"HTTP/1.1 400 Bad Request\r\n\r\n"}, policy.Unreachable},
		{"an endless line", []string{long}, policy.Unreachable},
		{"endless lines", []string{strings.Repeat("220-x\r\n", 200) + "220 x\r\n"}, policy.Unreachable},
		{"a reply to EHLO before it was sent", []string{"220 a\r\n250-a\r\n250 STARTTLS\r\n", "250 a\r\n"}, policy.Broken},
		{"a reply to EHLO without STARTTLS before it was sent", []string{"220 a\r\n250 a\r\n", "250-a\r\n250 STARTTLS\r\n", "221 bye\r\n"}, policy.Broken},
		{"a reply to STARTTLS before it was sent", []string{"220 a\r\n", "250-a\r\n250 STARTTLS\r\n220 go\r\n"}, policy.Broken},
		{"bare LF", []string{"220 a\n", "250-a\n250 PIPELINING\n", "221 bye\n"}, policy.Absent},
		{"code alone", []string{"220\r\n", "250\r\n", "221\r\n"}, policy.Absent},
		{"EHLO and HELO refused", []string{"220 a\r\n", "550 no\r\n", "550 no\r\n"}, policy.Unreachable},
		{"EHLO answered 421", []string{"220 a\r\n", "421 no\r\n"}, policy.Unreachable},
		{"EHLO answered with nonsense", []string{"220 a\r\n", "hello\r\n"}, policy.Unreachable},
		{"STARTTLS without an answer", []string{"220 a\r\n", "250-a\r\n250 STARTTLS\r\n"}, policy.Broken},
		{"STARTTLS only in the first line", []string{"220 a\r\n", "250 STARTTLS\r\n", "221 bye\r\n"}, policy.Absent},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.raw("192.0.2.1", tt.script...)
			if got := w.prober(impatient).Probe(t.Context(), "[192.0.2.1]"); got.State != tt.want {
				t.Errorf("got %s, %q; want %s", got.State, got.Reason, tt.want)
			}
		})
	}
}

// tlsThen speaks TLS and answers the EHLO over it with a given reply.
func (w *world) tlsThen(addr string, o *tls.Config, answer string) {
	w.t.Helper()
	o.Certificates = append(o.Certificates, *w.cert(fakesmtp.CertOptions{Names: []string{"mx.d.example"}}))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { ln.Close() })
	w.route(addr, ln.Addr().String())
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 4096)
				for _, s := range []string{"220 a\r\n", "250-a\r\n250 STARTTLS\r\n", "220 go\r\n"} {
					fmt.Fprint(c, s)
					if s != "220 go\r\n" {
						c.Read(buf)
					}
				}
				over := tls.Server(c, o)
				if _, err := over.Read(buf); err != nil {
					return
				}
				if answer == "" {
					return
				}
				fmt.Fprint(over, answer)
				over.Read(buf)
				fmt.Fprint(over, "221 bye\r\n")
			}()
		}
	}()
}

func TestAfterHandshake(t *testing.T) {
	tests := []struct {
		name, answer string
		want         policy.State
	}{
		{"EHLO answered", "250 a\r\n", policy.Works},
		{"a temporary refusal", "421 busy\r\n", policy.Unreachable},
		{"a refusal", "550 no\r\n", policy.Broken},
		{"a closed connection", "", policy.Broken},
		{"nonsense", "hi\r\n", policy.Broken},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.tlsThen("192.0.2.1", &tls.Config{}, tt.answer)
			if got := w.prober().Probe(t.Context(), "[192.0.2.1]"); got.State != tt.want {
				t.Errorf("got %s, %q; want %s", got.State, got.Reason, tt.want)
			}
		})
	}
}

// TestUnknownServerName: Postfix sends no name by default, so a host that
// refuses ours still works.
func TestUnknownServerName(t *testing.T) {
	w := newWorld(t, "mx.d.example. 60 IN A 192.0.2.1")
	cert := w.cert(fakesmtp.CertOptions{Names: []string{"mx.d.example"}})
	w.tlsThen("192.0.2.1", &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		if h.ServerName == "" {
			return nil, nil
		}
		h.Conn.Write([]byte{21, 3, 3, 0, 2, 2, 112}) // unrecognized_name
		return nil, fmt.Errorf("go away")
	}}, "250 a\r\n")
	_ = cert
	if got := w.prober().Probe(t.Context(), "[mx.d.example]"); got.State != policy.Works || got.MX[0].Addresses[0].SNI != "" {
		t.Errorf("got %s, %q", got.State, got.Reason)
	}
}

// TestOldCiphers: what OpenSSL takes and Go by default does not.
func TestOldCiphers(t *testing.T) {
	w := newWorld(t)
	rsa := w.cert(fakesmtp.CertOptions{Names: []string{"mx.d.example"}, RSA: true})
	w.tlsThen("192.0.2.1", &tls.Config{
		MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA},
		Certificates: []tls.Certificate{*rsa},
	}, "250 a\r\n")
	got := w.prober().Probe(t.Context(), "[192.0.2.1]")
	if got.State != policy.Works || got.MX[0].Addresses[0].Cipher != "TLS_RSA_WITH_AES_128_CBC_SHA" {
		t.Errorf("got %s, %q", got.State, got.Reason)
	}
}

// TestVerdict is the one verdict for a domain over all its hosts.
func TestVerdict(t *testing.T) {
	const (
		works  = "192.0.2.1"
		works6 = "2001:db8::1"
		absent = "192.0.2.2"
		broken = "192.0.2.3"
		busy   = "192.0.2.4"
		dead   = "192.0.2.5" // connection refused
		away6  = "2001:db8::6"
	)
	mx := func(hosts ...string) []string {
		var rrs []string
		for i, h := range hosts {
			rrs = append(rrs, fmt.Sprintf("d.example. 60 IN MX %d %s", 10*i, h))
		}
		return rrs
	}
	at := func(host string, addrs ...string) []string {
		var rrs []string
		for _, a := range addrs {
			typ := "A"
			if strings.Contains(a, ":") {
				typ = "AAAA"
			}
			rrs = append(rrs, fmt.Sprintf("%s. 60 IN %s %s", host, typ, a))
		}
		return rrs
	}
	join := slices.Concat[[]string]
	tests := []struct {
		name    string
		dest    string // d.example by default
		records []string
		faults  map[string]fakedns.Fault // name/type
		want    policy.State
		reason  string
	}{
		{"one host that works", "", join(mx("m1."), at("m1", works)), nil, policy.Works, "m1["},
		{"a worse host works", "", join(mx("m1.", "m2."), at("m1", broken), at("m2", works)), nil, policy.Works, "m2["},
		{"a worse host has no TLS", "", join(mx("m1.", "m2."), at("m1", works), at("m2", absent)), nil, policy.Works, ""},
		{"the best host is dead", "", join(mx("m1.", "m2.", "m3."), at("m1", dead), at("m2", busy), at("m3", works)), nil, policy.Works, ""},
		{"equal preferences", "", join([]string{"d.example. 60 IN MX 5 m1.", "d.example. 60 IN MX 5 m2."}, at("m1", absent), at("m2", works)), nil, policy.Works, ""},
		{"one address of a host works", "", join(mx("m1."), at("m1", absent, dead, works)), nil, policy.Works, ""},
		{"only IPv6 works", "", join(mx("m1."), at("m1", absent, works6)), nil, policy.Works, ""},
		{"IPv6 alone", "", join(mx("m1."), at("m1", works6)), nil, policy.Works, ""},
		{"no route to IPv6, IPv4 works", "", join(mx("m1."), at("m1", away6, works)), nil, policy.Works, ""},
		{"no route to IPv6, IPv4 without TLS", "", join(mx("m1."), at("m1", away6, absent)), nil, policy.Absent, "no STARTTLS"},
		{"no route at all", "", join(mx("m1."), at("m1", away6)), nil, policy.Unreachable, "network is unreachable"},
		{"broken beats absent", "", join(mx("m1.", "m2."), at("m1", absent), at("m2", broken)), nil, policy.Broken, ""},
		{"broken and dead", "", join(mx("m1.", "m2."), at("m1", dead), at("m2", broken)), nil, policy.Broken, ""},
		{"absent and dead", "", join(mx("m1.", "m2."), at("m1", dead), at("m2", absent)), nil, policy.Absent, ""},
		{"all dead", "", join(mx("m1.", "m2."), at("m1", dead), at("m2", dead)), nil, policy.Unreachable, "refused"},
		{"all busy or dead", "", join(mx("m1.", "m2."), at("m1", dead), at("m2", busy)), nil, policy.Unreachable, ""},

		{"the MX lookup fails", "", join(mx("m1."), at("m1", works)), map[string]fakedns.Fault{"d.example/MX": fakedns.Servfail}, policy.Unknown, "SERVFAIL"},
		{"the MX lookup is refused", "", join(mx("m1."), at("m1", works)), map[string]fakedns.Fault{"d.example/MX": fakedns.Refused}, policy.Unknown, "REFUSED"},
		{"the MX lookup is lame", "", join(mx("m1."), at("m1", works)), map[string]fakedns.Fault{"d.example/MX": fakedns.Referral}, policy.Unknown, "lame"},
		{"a host's lookup fails", "", join(mx("m1."), at("m1", works)), map[string]fakedns.Fault{"m1/": fakedns.Servfail}, policy.Unknown, "SERVFAIL"},
		{"a host's lookup fails, the other works", "", join(mx("m1.", "m2."), at("m2", works)), map[string]fakedns.Fault{"m1/": fakedns.Servfail}, policy.Works, ""},
		{"a host's lookup fails, the other has no TLS", "", join(mx("m1.", "m2."), at("m2", absent)), map[string]fakedns.Fault{"m1/": fakedns.Servfail}, policy.Unknown, "m1"},
		{"a host's lookup fails, the other is broken", "", join(mx("m1.", "m2."), at("m2", broken)), map[string]fakedns.Fault{"m1/": fakedns.Refused}, policy.Unknown, ""},
		{"AAAA fails, IPv4 has no TLS", "", join(mx("m1."), at("m1", absent)), map[string]fakedns.Fault{"m1/AAAA": fakedns.Servfail}, policy.Absent, ""},
		{"A fails, no AAAA", "", mx("m1."), map[string]fakedns.Fault{"m1/A": fakedns.Servfail}, policy.Unknown, ""},
		{"the lookup behind a CNAME fails", "", join(mx("m1."), []string{"m1. 60 IN CNAME m2."}, at("m2", works)), map[string]fakedns.Fault{"m2/": fakedns.Servfail}, policy.Unknown, ""},

		{"no such domain", "gone.example", nil, nil, policy.NoMail, "no such domain"},
		{"null MX", "", []string{"d.example. 60 IN MX 0 ."}, nil, policy.NoMail, "null MX"},
		{"null MX beside a host", "", join([]string{"d.example. 60 IN MX 0 ."}, mx("m1."), at("m1", works)), nil, policy.Works, ""},
		{"implicit MX", "", at("d.example", works), nil, policy.Works, "d.example["},
		{"implicit MX without TLS", "", at("d.example", absent), nil, policy.Absent, ""},
		{"neither MX nor address", "", []string{"d.example. 60 IN TXT x"}, nil, policy.NoMail, "neither"},
		{"implicit MX, address lookup fails", "", []string{"d.example. 60 IN TXT x"}, map[string]fakedns.Fault{"d.example/A": fakedns.Servfail}, policy.Unknown, ""},
		{"no implicit MX where there are MX", "", join(mx("m1."), at("d.example", works)), nil, policy.Unreachable, "no such host"},
		{"a host that does not exist beside one without TLS", "", join(mx("m1.", "m2."), at("m2", absent)), nil, policy.Absent, ""},
		{"CNAME at the domain", "", join([]string{"d.example. 60 IN CNAME e.example.", "e.example. 60 IN MX 5 m1."}, at("m1", works)), nil, policy.Works, ""},
		{"MX to a CNAME", "", join(mx("m1."), []string{"m1. 60 IN CNAME m2."}, at("m2", works)), nil, policy.Works, "m1["},
		{"CNAME loop", "", []string{"d.example. 60 IN CNAME e.example.", "e.example. 60 IN CNAME d.example."}, nil, policy.Unknown, ""},
		{"CNAME to nowhere", "", []string{"d.example. 60 IN CNAME gone.example."}, nil, policy.NoMail, "no such domain"},
		{"a host name that is none", "", []string{`d.example. 60 IN MX 5 bad\032name.example.`}, nil, policy.Unreachable, "not a host name"},
		{"an address that is none", "", join(mx("m1."), at("m1", "0.0.0.0", "224.0.0.1")), nil, policy.Unreachable, "not the address"},

		{"a host in brackets", "[m1]", at("m1", works), nil, policy.Works, ""},
		{"a host in brackets has no MX", "[d.example]", join(mx("m1."), at("m1", works), at("d.example", absent)), nil, policy.Absent, ""},
		{"a host in brackets that does not exist", "[gone.example]", nil, nil, policy.Unreachable, "no such host"},
		{"a port", "[m1]:587", at("m1", works), nil, policy.Broken, ""},
		{"a port by name", "[m1]:submission", at("m1", works), nil, policy.Broken, ""},
		{"a domain with a port", "d.example:587", join(mx("m1."), at("m1", works)), nil, policy.Broken, ""},
		{"an address literal", "[192.0.2.1]", nil, nil, policy.Works, ""},
		{"an IPv6 literal", "[IPv6:2001:db8::1]", nil, nil, policy.Works, ""},
		{"an IPv6 next-hop", "[2001:db8::1]:25", nil, nil, policy.Works, ""},
		{"case and a final dot", "D.Example.", join(mx("M1."), at("m1", works)), nil, policy.Works, "m1["},
		{"U-labels", "bücher.example", join([]string{"xn--bcher-kva.example. 60 IN MX 5 m1."}, at("m1", works)), nil, policy.Works, ""},
		{"an address without brackets", "192.0.2.1", nil, nil, policy.Unknown, "write [192.0.2.1]"},
		{"nonsense", "a b", nil, nil, policy.Unknown, "not a host name"},
		{"nothing", "", nil, nil, policy.Unknown, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, tt.records...)
			good := w.good("m1")
			w.host(works, good)
			w.host(works6, good)
			w.host(absent, fakesmtp.Behaviour{})
			bad := good
			bad.Handshake = fakesmtp.HandshakeAlert
			w.host(broken, bad)
			w.host("192.0.2.1:587", bad)
			w.host(busy, fakesmtp.Behaviour{Banner: "421 4.3.2 busy"})
			w.route(away6, "")
			for k, f := range tt.faults {
				name, typ, _ := strings.Cut(k, "/")
				w.dns.Fail(name, dns.StringToType[typ], f)
			}
			dest := tt.dest
			if dest == "" && tt.name != "nothing" {
				dest = "d.example"
			}
			got := w.prober().Probe(t.Context(), dest)
			if got.State != tt.want || !strings.Contains(got.Reason, tt.reason) {
				t.Errorf("got %s, %q; want %s, %q\n%+v", got.State, got.Reason, tt.want, tt.reason, got.MX)
			}
		})
	}
}

// TestManyHosts: beyond the limits nobody has looked, so nobody knows.
func TestManyHosts(t *testing.T) {
	build := func(t *testing.T, lastWorks bool) *Result {
		w := newWorld(t)
		for i := range 20 {
			w.add(fmt.Sprintf("d.example. 60 IN MX %d m%02d.", i, i), fmt.Sprintf("m%02d. 60 IN A 192.0.2.%d", i, i+1))
			w.host(fmt.Sprintf("192.0.2.%d", i+1), fakesmtp.Behaviour{})
		}
		if lastWorks {
			w.host("192.0.2.10", w.good("m09"))
		}
		for i := range 12 {
			w.add(fmt.Sprintf("m00. 60 IN AAAA 2001:db8::%x", i+1))
		}
		return w.prober().Probe(t.Context(), "d.example")
	}
	got := build(t, false)
	if got.State != policy.Unknown || got.Unprobed != 10+13-8 || len(got.MX) != 10 || len(got.MX[0].Addresses) != 8 {
		t.Errorf("none works: %s, %d unprobed, %d hosts", got.State, got.Unprobed, len(got.MX))
	}
	if !slices.ContainsFunc(got.MX[0].Addresses, func(a AddressResult) bool { return a.Addr.Is4() }) {
		t.Error("one family took all places")
	}
	if got := build(t, true); got.State != policy.Works {
		t.Errorf("the last one looked at works: %s", got.State)
	}
}

func TestManners(t *testing.T) {
	w := newWorld(t, "d.example. 60 IN MX 10 mx.d.example.", "mx.d.example. 60 IN A 192.0.2.1")
	s := w.host("192.0.2.1", w.good("mx.d.example"))
	p := w.prober()
	got := p.Probe(t.Context(), "d.example")
	want := []string{"EHLO us.example", "STARTTLS", "EHLO us.example", "QUIT"}
	if d := cmp.Diff(want, s.Sessions()[0].Commands); d != "" {
		t.Errorf("with TLS:\n%s", d)
	}
	s.Set(fakesmtp.Behaviour{})
	p.Probe(t.Context(), "d.example")
	if d := cmp.Diff([]string{"EHLO us.example", "QUIT"}, s.Sessions()[1].Commands); d != "" {
		t.Errorf("without:\n%s", d)
	}
	a := got.MX[0].Addresses[0]
	c := a.Cert
	if !a.STARTTLS || !a.TLS || a.Version != "TLSv1.3" || a.Cipher == "" || a.SNI != "mx.d.example" || !slices.Contains(a.EHLO, "PIPELINING") ||
		!strings.HasPrefix(a.Banner, "220 mx.d.example") {
		t.Errorf("address: %+v", a)
	}
	if c == nil || !c.Verified || !slices.Equal(c.Names, []string{"mx.d.example"}) || c.KeyType != "ECDSA" || c.KeyBits != 256 || len(c.Fingerprint) != 64 ||
		!c.NotAfter.After(time.Now()) || !strings.Contains(c.Issuer, "Fake Internet CA") {
		t.Errorf("certificate: %+v", c)
	}
	if got.TTL != 60 || got.Domain != "d.example" {
		t.Errorf("TTL %d, domain %q", got.TTL, got.Domain)
	}
	b, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	var back Result
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(*got, back, cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("JSON loses something:\n%s", d)
	}
}

// TestSlowLoris: one byte now and then does not hold a session up.
func TestSlowLoris(t *testing.T) {
	w := newWorld(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	w.route("192.0.2.1", ln.Addr().String())
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for {
					if _, err := c.Write([]byte("2")); err != nil {
						return
					}
					time.Sleep(20 * time.Millisecond)
				}
			}()
		}
	}()
	done := make(chan *Result)
	go func() { done <- w.prober(impatient).Probe(t.Context(), "[192.0.2.1]") }()
	select {
	case got := <-done:
		if got.State != policy.Unreachable {
			t.Errorf("got %s", got.State)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the session goes on for ever")
	}
}

// TestSessionLimit: the steps of a session share a limit.
func TestSessionLimit(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	if _, err := newClient(ours, time.Hour, time.Now().Add(time.Millisecond)).read(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

// TestCancelled: what we broke off says nothing of the host.
func TestCancelled(t *testing.T) {
	for _, b := range []fakesmtp.Behaviour{{Silent: true}, {STARTTLS: true, Handshake: fakesmtp.HandshakeSilent}} {
		w := newWorld(t)
		w.host("192.0.2.1", b)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if got := w.prober().Probe(ctx, "[192.0.2.1]"); got.State != policy.Unknown {
			t.Errorf("got %s, %q; want unknown", got.State, got.Reason)
		}
	}
}

func TestHostLimits(t *testing.T) {
	w := newWorld(t)
	s := w.host("192.0.2.1", fakesmtp.Behaviour{BannerDelay: 20 * time.Millisecond})
	for i := range 10 {
		w.add(fmt.Sprintf("d%d.example. 60 IN MX 10 mx%d.example.", i, i), fmt.Sprintf("mx%d.example. 60 IN A 192.0.2.1", i))
	}
	all := func(p *Prober, f func(p *Prober, dest string)) {
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() { f(p, fmt.Sprintf("d%d.example", i)) })
		}
		wg.Wait()
	}
	all(w.prober(func(o *Options) { o.MaxPerHost = 3 }), func(p *Prober, dest string) {
		if got := p.Probe(t.Context(), dest); got.State != policy.Absent {
			t.Errorf("%s: %s", dest, got.State)
		}
	})
	if most := w.most.Load(); most > 3 {
		t.Errorf("%d sessions with one address at a time, want at most 3", most)
	}
	if n := len(s.Sessions()); n != 10 {
		t.Errorf("%d sessions, want 10", n)
	}
	w.most.Store(0)
	for i := range 10 {
		w.host(fmt.Sprintf("192.0.2.%d", 10+i), fakesmtp.Behaviour{BannerDelay: 20 * time.Millisecond})
	}
	all(w.prober(func(o *Options) { o.MaxParallel = 4 }), func(p *Prober, dest string) {
		p.Probe(t.Context(), fmt.Sprintf("[192.0.2.%d]", 10+int(dest[1]-'0')))
	})
	if most := w.most.Load(); most > 4 || most < 2 {
		t.Errorf("%d sessions at a time, want 4", most)
	}

	// A busy background does not hold up who looks now.
	p := w.prober(func(o *Options) { o.MaxParallel = 1 })
	p.hosts.background <- struct{}{}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if got := p.probe(ctx, "[192.0.2.10]", backgroundReuse); got.State != policy.Unknown {
		t.Errorf("in the background: %s", got.State)
	}
	if got := p.Probe(t.Context(), "[192.0.2.10]"); got.State != policy.Absent {
		t.Errorf("now: %s, %s", got.State, got.Reason)
	}
}

// TestSharedHost: domains with one mail host in common share a session, for those
// who accept it.
func TestSharedHost(t *testing.T) {
	w := newWorld(t, "mx.example. 60 IN A 192.0.2.1")
	s := w.host("192.0.2.1", w.good("mx.example"))
	p := w.prober()
	var wg sync.WaitGroup
	for i := range 20 {
		w.add(fmt.Sprintf("d%d.example. 60 IN MX 10 mx.example.", i))
	}
	for i := range 20 {
		wg.Go(func() {
			if got := p.probe(t.Context(), fmt.Sprintf("d%d.example", i), time.Minute); got.State != policy.Works {
				t.Errorf("%s: %s", got.Dest, got.Reason)
			}
		})
	}
	wg.Wait()
	if n := len(s.Sessions()); n > 2 {
		t.Errorf("%d sessions, want at most one for each slot", n)
	}
	before := len(s.Sessions())
	p.Probe(t.Context(), "d1.example")
	if n := len(s.Sessions()); n != before+1 {
		t.Errorf("Probe did not look itself")
	}
}

func TestMetrics(t *testing.T) {
	w := newWorld(t)
	w.host("192.0.2.1", fakesmtp.Behaviour{})
	reg := prometheus.NewRegistry()
	p := w.prober(func(o *Options) { o.Registerer = reg })
	p.Probe(t.Context(), "[192.0.2.1]")
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, f := range families {
		if f.GetName() != "postseal_probe_outcomes_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == "absent" && m.GetCounter().GetValue() == 1 {
				found = true
			}
		}
	}
	if !found {
		t.Errorf("outcome not counted: %v", families)
	}
	if _, err := NewProber(Options{Registerer: reg}); err == nil {
		t.Error("registered twice without an error")
	}
}

func TestOptions(t *testing.T) {
	if _, err := NewProber(Options{HELO: "a\r\nMAIL FROM:<>"}); err == nil {
		t.Error("a name with a line break was taken")
	}
	for _, s := range []string{"", "::", "host:", ":53", "a:b:c"} {
		if _, err := NewResolver([]string{s}); err == nil && s != "::" {
			t.Errorf("resolver %q was taken", s)
		}
	}
}
