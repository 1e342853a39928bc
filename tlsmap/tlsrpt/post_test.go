package tlsrpt

import (
	"context"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/postseal/postseal/tlsmap/probe"
)

// hosts answers address lookups of names.
type hosts map[string]string

func (h hosts) Lookup(_ context.Context, name string, qtype uint16) (*probe.Answer, error) {
	a := &probe.Answer{}
	if ip, ok := h[name]; ok && qtype == dns.TypeA {
		rr, err := dns.NewRR(name + ". 60 IN A " + ip)
		if err != nil {
			return nil, err
		}
		a.Records = []dns.RR{rr}
	}
	return a, nil
}

func TestPost(t *testing.T) {
	var served atomic.Int32
	var got atomic.Value
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		body, _ := io.ReadAll(r.Body)
		got.Store(r.Method + " " + r.URL.RequestURI() + " " + r.Header.Get("Content-Type") + " " + string(body))
		switch r.URL.Path {
		case "/created":
			w.WriteHeader(http.StatusCreated)
		case "/busy":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/moved":
			http.Redirect(w, r, "/ok", http.StatusTemporaryRedirect)
		case "/slow":
			select {
			case <-r.Context().Done():
			case <-time.After(10 * time.Second):
			}
		case "/endless":
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}
	}))
	defer server.Close()
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate()) // of example.com
	loopback := func(a netip.Addr) bool { return a.IsLoopback() }
	resolver := hosts{"example.com": "127.0.0.1", "wrong.example": "127.0.0.1"}
	tests := []struct {
		name, url string
		p         Poster
		want      string // part of the error; "": taken
		served    int32
	}{
		{"200", "https://example.com:" + port + "/ok?a=b", Poster{Roots: roots, Allow: loopback}, "", 1},
		{"201", "https://example.com:" + port + "/created", Poster{Roots: roots, Allow: loopback}, "", 1},
		{"503", "https://example.com:" + port + "/busy", Poster{Roots: roots, Allow: loopback}, "503", 1},
		{"a redirect is not followed", "https://example.com:" + port + "/moved", Poster{Roots: roots, Allow: loopback}, "307", 1},
		{"a server that does not answer", "https://example.com:" + port + "/slow", Poster{Roots: roots, Allow: loopback, timeout: 300 * time.Millisecond}, "deadline", 1},
		{"an answer without end", "https://example.com:" + port + "/endless", Poster{Roots: roots, Allow: loopback}, "", 1},
		{"a certificate of nobody known", "https://example.com:" + port + "/ok", Poster{Roots: x509.NewCertPool(), Allow: loopback}, "certificate", 0},
		{"a certificate for another name", "https://wrong.example:" + port + "/ok", Poster{Roots: roots, Allow: loopback}, "certificate", 0},
		{"our own net by name", "https://example.com:" + port + "/ok", Poster{Roots: roots}, "no public address", 0},
		{"our own net by address", "https://127.0.0.1:" + port + "/ok", Poster{Roots: roots}, "no public address", 0},
		{"and that address mapped", "https://[::ffff:127.0.0.1]:" + port + "/ok", Poster{Roots: roots}, "no public address", 0},
		{"a name that has no address", "https://none.example/ok", Poster{Roots: roots, Allow: loopback}, "no address", 0},
		{"http", "http://example.com:" + port + "/ok", Poster{Roots: roots, Allow: loopback}, "not https", 0},
	}
	// A proxy of the environment would see the reports, and reach what we may not.
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := served.Load()
			tt.p.Resolver = resolver
			err := tt.p.Post(t.Context(), tt.url, []byte("gz"))
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v", err)
			}
			if n := served.Load() - before; n != tt.served {
				t.Errorf("%d requests", n)
			}
			if tt.name == "200" && got.Load() != "POST /ok?a=b application/tlsrpt+gzip gz" {
				t.Errorf("got %v", got.Load())
			}
		})
	}
}

func TestPublic(t *testing.T) {
	for s, want := range map[string]bool{
		"8.8.8.8": true, "93.184.215.14": true, "2606:2800:220:1::1": true, "::ffff:8.8.8.8": true, "64:ff9b::8.8.8.8": true,
		"127.0.0.1": false, "10.1.2.3": false, "192.168.0.1": false, "172.16.0.1": false, "169.254.169.254": false, "100.64.0.1": false,
		"0.0.0.0": false, "0.1.2.3": false, "224.0.0.1": false, "255.255.255.255": false, "198.18.0.1": false, "240.0.0.1": false,
		"::": false, "::1": false, "fe80::1": false, "fc00::1": false, "fd00:ec2::254": false, "ff02::1": false, "fec0::1": false,
		"::ffff:127.0.0.1": false, "::ffff:169.254.169.254": false, "::127.0.0.1": false, "64:ff9b::127.0.0.1": false, "64:ff9b::10.0.0.1": false,
		"64:ff9b:1::1": false, "2002:7f00:1::": false, "2001::1": false, "fe80::1%lo": false,
	} {
		if got := Public(netip.MustParseAddr(s)); got != want {
			t.Errorf("%s: %v", s, got)
		}
	}
	if Public(netip.Addr{}) {
		t.Error("no address")
	}
}
