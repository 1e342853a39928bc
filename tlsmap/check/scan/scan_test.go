package scan

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/internal/lab/fakesmtp"
)

// starter speaks SMTP up to STARTTLS, and counts.
func starter(addr string, n *int) Starter {
	return func(ctx context.Context) (net.Conn, error) {
		*n++
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		r := bufio.NewReader(conn)
		for _, command := range []string{"", "EHLO us.example\r\n", "STARTTLS\r\n"} {
			if _, err := conn.Write([]byte(command)); err != nil {
				return nil, err
			}
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					return nil, err
				}
				if len(line) < 4 || line[3] != '-' {
					break
				}
			}
		}
		return conn, nil
	}
}

// issue makes a CA and a certificate of it.
func issue(t *testing.T, o fakesmtp.CertOptions) (*fakesmtp.CA, *tls.Certificate) {
	t.Helper()
	ca, err := fakesmtp.NewCA("")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(o)
	if err != nil {
		t.Fatal(err)
	}
	return ca, cert
}

func (r *Result) version(t *testing.T, name string) Version {
	t.Helper()
	i := slices.IndexFunc(r.Versions, func(v Version) bool { return v.Version == name })
	if i < 0 {
		t.Fatalf("%s was not asked", name)
	}
	return r.Versions[i]
}

func (v Version) names() []string {
	var out []string
	for _, s := range v.Suites {
		out = append(out, s.Name)
	}
	return out
}

// A host that is Go: its versions are as it is told, its suites those that it knows.
func TestScanOfGo(t *testing.T) {
	_, cert := issue(t, fakesmtp.CertOptions{Names: []string{"mx.a.example"}})
	s, err := fakesmtp.Start("127.0.0.1:0", fakesmtp.Behaviour{STARTTLS: true, Certificate: cert, MinTLS: tls.VersionTLS10})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	n := 0
	r := Scan(t.Context(), starter(s.Addr(), &n), Options{ServerName: "mx.a.example"})
	if !r.Complete || r.Error != "" || n != r.Connections {
		t.Errorf("complete %v, error %q, %d of %d connections counted", r.Complete, r.Error, r.Connections, n)
	}
	for name, want := range map[string]bool{"SSLv3": false, "TLSv1": true, "TLSv1.1": true, "TLSv1.2": true, "TLSv1.3": true} {
		if r.Has(name) != want {
			t.Errorf("%s: %v, want %v", name, r.Has(name), want)
		}
	}
	if v := r.version(t, "TLSv1.3"); len(v.Suites) != 3 || v.Order == "" || !v.Complete {
		t.Errorf("TLS 1.3: %v", v)
	}
	got := r.version(t, "TLSv1.2").names()
	want := []string{"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA"}
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("TLS 1.2 without %s: %v", w, got)
		}
	}
	if !slices.Contains(r.Groups, "X25519") || !slices.Contains(r.Groups, "P-256") || !r.PostQuantum {
		t.Errorf("groups %v, post-quantum %v", r.Groups, r.PostQuantum)
	}
	if len(r.Chains) != 1 || r.Chains[0][0].DNSNames[0] != "mx.a.example" {
		t.Errorf("chains %v", r.Chains)
	}
}

// The number of connections is bounded, and what there was none left for is not
// said to be complete.
func TestBudget(t *testing.T) {
	_, cert := issue(t, fakesmtp.CertOptions{Names: []string{"mx.a.example"}})
	s, err := fakesmtp.Start("127.0.0.1:0", fakesmtp.Behaviour{STARTTLS: true, Certificate: cert})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	n := 0
	r := Scan(t.Context(), starter(s.Addr(), &n), Options{Connections: 7})
	if n != 7 || r.Connections != 7 || r.Complete || r.Error == "" {
		t.Errorf("%d connections, %+v", n, r)
	}
	if !r.Has("TLSv1.3") || r.version(t, "TLSv1.3").Complete {
		t.Errorf("%+v", r.Versions)
	}
}

// A host that has had enough of us amid the scan: what it said until then is kept, and
// what was not asked is not called refused.
func TestHostHasEnough(t *testing.T) {
	_, cert := issue(t, fakesmtp.CertOptions{Names: []string{"mx.a.example"}})
	s, err := fakesmtp.Start("127.0.0.1:0", fakesmtp.Behaviour{STARTTLS: true, Certificate: cert})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	n := 0
	start := starter(s.Addr(), &n)
	r := Scan(t.Context(), func(ctx context.Context) (net.Conn, error) {
		if n == 8 {
			return nil, errors.New("greeting: 421 too many connections")
		}
		return start(ctx)
	}, Options{})
	if !r.Has("TLSv1.2") || r.Complete || !strings.Contains(r.Error, "421") || r.version(t, "TLSv1.2").Complete {
		t.Errorf("%+v", r)
	}
}

// A fault of ours ends the scan, not the program.
func TestFault(t *testing.T) {
	r := Scan(t.Context(), func(context.Context) (net.Conn, error) { panic("a fault") }, Options{})
	if r == nil || r.Complete || !strings.Contains(r.Error, "internal fault") {
		t.Errorf("%+v", r)
	}
}

func TestFaults(t *testing.T) {
	_, cert := issue(t, fakesmtp.CertOptions{Names: []string{"mx.a.example"}})
	for _, tt := range []struct {
		name  string
		b     fakesmtp.Handshake
		error string // "" for a host that refuses all
	}{
		{"closes the connection", fakesmtp.HandshakeClose, ""},
		{"sends an alert", fakesmtp.HandshakeAlert, ""},
		{"talks of something else", fakesmtp.HandshakeGarbage, "not TLS"},
		{"keeps quiet", fakesmtp.HandshakeSilent, "no answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := fakesmtp.Start("127.0.0.1:0", fakesmtp.Behaviour{STARTTLS: true, Certificate: cert, Handshake: tt.b})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			n := 0
			r := Scan(t.Context(), starter(s.Addr(), &n), Options{Timeout: 200 * time.Millisecond})
			if r.Offered() || r.Complete != (tt.error == "") || !strings.Contains(r.Error, tt.error) {
				t.Errorf("offered %v, complete %v, error %q", r.Offered(), r.Complete, r.Error)
			}
		})
	}
}

// A scan that is broken off ends, and says so.
func TestBrokenOff(t *testing.T) {
	_, cert := issue(t, fakesmtp.CertOptions{Names: []string{"mx.a.example"}})
	s, err := fakesmtp.Start("127.0.0.1:0", fakesmtp.Behaviour{STARTTLS: true, Certificate: cert, Handshake: fakesmtp.HandshakeSilent})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	start := starter(s.Addr(), &n)
	r := Scan(ctx, func(ctx context.Context) (net.Conn, error) {
		defer time.AfterFunc(50*time.Millisecond, cancel)
		return start(ctx)
	}, Options{Timeout: time.Hour})
	if r.Complete || !strings.Contains(r.Error, "no time left") {
		t.Errorf("%+v", r)
	}
}

// openssl starts openssl s_server, with an RSA and an ECDSA certificate, and returns
// its address. It speaks TLS from the start: as a server OpenSSL has no STARTTLS.
func openssl(t *testing.T, args ...string) string {
	t.Helper()
	bin, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("no openssl on this machine")
	}
	dir := t.TempDir()
	_, rsa := issue(t, fakesmtp.CertOptions{Names: []string{"rsa.example"}, RSA: true})
	_, ec := issue(t, fakesmtp.CertOptions{Names: []string{"ec.example"}})
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, c := range map[string]*tls.Certificate{"rsa": rsa, "ec": ec} {
		if err := fakesmtp.WriteFiles(c, at(name+".pem"), at(name+".key")); err != nil {
			t.Fatal(err)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	cmd := exec.Command(bin, append([]string{"s_server", "-accept", addr, "-quiet",
		"-cert", at("rsa.pem"), "-key", at("rsa.key"), "-dcert", at("ec.pem"), "-dkey", at("ec.key")}, args...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for range 100 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return addr
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("openssl s_server does not start")
	return ""
}

func plain(addr string) Starter {
	return func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", addr) }
}

// client reports whether openssl s_client gets a handshake done.
func client(t *testing.T, addr string, args ...string) bool {
	t.Helper()
	cmd := exec.Command("openssl", append([]string{"s_client", "-connect", addr, "-brief"}, args...)...)
	out, _ := cmd.CombinedOutput()
	return strings.Contains(string(out), "CONNECTION ESTABLISHED")
}

// What a host of OpenSSL offers, as it is told, is what the scan finds: also what
// crypto/tls cannot do. s_client with one suite at a time agrees.
func TestScanOfOpenSSL(t *testing.T) {
	for _, tt := range []struct {
		name   string
		server []string
		has    []string // versions
		suites string   // of OpenSSL's names, of the newest version below 1.3
		order  string
	}{
		{"DHE and CAMELLIA", []string{"-tls1_2", "-cipher", "DHE-RSA-AES256-GCM-SHA384:DHE-RSA-CAMELLIA128-SHA:ECDHE-RSA-AES128-SHA256:@SECLEVEL=0", "-serverpref"},
			[]string{"TLSv1.2"}, "TLS_DHE_RSA_WITH_AES_256_GCM_SHA384 TLS_DHE_RSA_WITH_CAMELLIA_128_CBC_SHA TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256", "server"},
		{"NULL and anonymous", []string{"-tls1_2", "-cipher", "NULL-SHA256:ADH-AES128-SHA:AECDH-AES256-SHA:@SECLEVEL=0", "-serverpref"},
			[]string{"TLSv1.2"}, "TLS_RSA_WITH_NULL_SHA256 TLS_DH_anon_WITH_AES_128_CBC_SHA TLS_ECDH_anon_WITH_AES_256_CBC_SHA", "server"},
		{"RSA and ECDSA by the client's order", []string{"-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256"},
			[]string{"TLSv1.2"}, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "client"},
		{"TLS 1.0 only", []string{"-tls1", "-cipher", "AES128-SHA:@SECLEVEL=0"}, []string{"TLSv1"}, "TLS_RSA_WITH_AES_128_CBC_SHA", ""},
		{"TLS 1.1 and 1.2", []string{"-no_tls1", "-no_tls1_3", "-cipher", "ECDHE-RSA-AES256-SHA:@SECLEVEL=0"}, []string{"TLSv1.1", "TLSv1.2"}, "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA", ""},
		{"TLS 1.3 only", []string{"-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_SHA256:TLS_AES_128_CCM_8_SHA256"}, []string{"TLSv1.3"}, "", "client"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := openssl(t, tt.server...)
			r := Scan(t.Context(), plain(addr), Options{})
			if r.Error != "" {
				t.Errorf("error %q", r.Error)
			}
			var has []string
			for _, v := range slices.Backward(r.Versions) {
				if v.Offered {
					has = append(has, v.Version)
				}
			}
			if !slices.Equal(has, tt.has) {
				t.Fatalf("versions %v, want %v", has, tt.has)
			}
			newest := r.version(t, has[len(has)-1])
			if newest.Order != tt.order {
				t.Errorf("order %q, want %q", newest.Order, tt.order)
			}
			if newest.Version == "TLSv1.3" {
				if got := strings.Join(newest.names(), " "); got != "TLS_AES_128_CCM_SHA256 TLS_AES_128_CCM_8_SHA256" {
					t.Errorf("suites %s", got)
				}
				return
			}
			got, want := newest.names(), strings.Fields(tt.suites)
			if tt.order == "client" {
				slices.Sort(got)
				slices.Sort(want)
			}
			if !slices.Equal(got, want) {
				t.Errorf("suites %v, want %v", got, want)
			}
			if tt.name == "RSA and ECDSA by the client's order" && len(r.Chains) != 2 {
				t.Errorf("%d certificates, want that by RSA and that by ECDSA", len(r.Chains))
			}
		})
	}
}

// For the default of OpenSSL, one suite at a time, s_client finds what we find.
func TestAgainstOpenSSLClient(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped in short mode: many connections")
	}
	addr := openssl(t, "-dhparam", dhFile(t), "-cipher", "kDHE+AES:kECDHE+CHACHA20:kRSA+CAMELLIA:@SECLEVEL=0", "-no_tls1_3")
	r := Scan(t.Context(), plain(addr), Options{Connections: 200})
	got := r.version(t, "TLSv1.2").names()
	slices.Sort(got)
	out, err := exec.Command("openssl", "ciphers", "-stdname", "-tls1_2", "-s", "ALL:COMPLEMENTOFALL:@SECLEVEL=0").Output()
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		known := false
		for _, name := range suiteNames {
			known = known || name == f[0]
		}
		// Only kinds that the server may have: each is a process.
		if !known || !strings.Contains(f[0], "DHE_RSA_WITH_AES") && !strings.Contains(f[0], "DH_anon_WITH_AES") && !strings.Contains(f[0], "CHACHA") && !strings.HasPrefix(f[0], "TLS_RSA_WITH_CAMELLIA") {
			continue
		}
		if client(t, addr, "-tls1_2", "-cipher", f[2]+":@SECLEVEL=0") {
			want = append(want, f[0])
		}
	}
	slices.Sort(want)
	if len(want) < 8 || !slices.Equal(got, want) {
		t.Errorf("we find\n%s\ns_client finds\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, s := range r.version(t, "TLSv1.2").Suites {
		if strings.HasPrefix(s.Name, "TLS_DHE_") && (s.KeyExchange != "DHE 2048" || s.DHBits != 2048) {
			t.Errorf("%s: key exchange %q", s.Name, s.KeyExchange)
		}
	}
}

// dhFile writes the group ffdhe2048.
func dhFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "dh.pem")
	if out, err := exec.Command("openssl", "genpkey", "-genparam", "-algorithm", "DH", "-pkeyopt", "group:ffdhe2048", "-out", file).CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	return file
}

// Every name here is OpenSSL's too.
func TestNames(t *testing.T) {
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if got := suiteNames[s.ID]; got != s.Name {
			t.Errorf("%#04x is %q, and Go's %q", s.ID, got, s.Name)
		}
	}
	out, err := exec.Command("openssl", "ciphers", "-V", "-stdname", "ALL:COMPLEMENTOFALL:@SECLEVEL=0").Output()
	if err != nil {
		t.Skip("no openssl on this machine")
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		var hi, lo uint16
		if _, err := fmt.Sscanf(f[0], "0x%x,0x%x", &hi, &lo); err != nil {
			t.Fatal(err)
		}
		if got := suiteNames[hi<<8|lo]; got != f[2] && !strings.Contains(f[2], "PSK") && !strings.Contains(f[2], "SRP") {
			t.Errorf("%s is %q, and OpenSSL's %s", f[0], got, f[2])
		}
	}
}

func TestStrength(t *testing.T) {
	for _, tt := range []struct {
		name string
		bits int
		want Strength
	}{
		{"TLS_AES_256_GCM_SHA384", 0, Strong},
		{"TLS_CHACHA20_POLY1305_SHA256", 0, Strong},
		{"TLS_AES_128_CCM_8_SHA256", 0, Fair},
		{"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", 0, Strong},
		{"TLS_DHE_RSA_WITH_AES_128_GCM_SHA256", 2048, Strong},
		{"TLS_DHE_RSA_WITH_AES_128_GCM_SHA256", 1024, Weak},
		{"TLS_DHE_RSA_WITH_AES_128_GCM_SHA256", 768, Insecure},
		{"TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", 0, Fair},
		{"TLS_RSA_WITH_AES_128_GCM_SHA256", 0, Weak},
		{"TLS_ECDH_RSA_WITH_AES_128_GCM_SHA256", 0, Weak},
		{"TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA", 0, Weak},
		{"TLS_ECDHE_RSA_WITH_RC4_128_SHA", 0, Insecure},
		{"TLS_DH_anon_WITH_AES_128_GCM_SHA256", 0, Weak},
		{"TLS_DH_anon_EXPORT_WITH_RC4_40_MD5", 512, Insecure},
		{"TLS_RSA_WITH_NULL_SHA256", 0, Insecure},
		{"TLS_RSA_WITH_DES_CBC_SHA", 0, Insecure},
		{"TLS_RSA_EXPORT1024_WITH_DES_CBC_SHA", 0, Insecure},
		{"TLS_RSA_WITH_SEED_CBC_SHA", 0, Weak},
	} {
		if got, _ := judge(tt.name, tt.bits); got != tt.want {
			t.Errorf("%s with %d bits: %s, want %s", tt.name, tt.bits, got, tt.want)
		}
	}
}
