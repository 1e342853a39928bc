package dane

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/internal/lab/fakesmtp"
)

// TestOpenSSL holds our verdict against that of OpenSSL, which Postfix has matched
// TLSA records by since 3.6, for every usage, selector and matching type and each
// fault of a certificate.
func TestOpenSSL(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Fatal("openssl is needed: ", err)
	}
	root := issue(t, nil, "root", authority)
	inter := issue(t, root, "intermediate", authority)
	hosts := []struct {
		name  string
		chain []*pair
	}{
		{"good", []*pair{issue(t, inter, "host", names(base)), inter, root}},
		{"issuer not sent", []*pair{issue(t, inter, "host", names(base))}},
		{"expired", []*pair{issue(t, inter, "host", names(base), expired), inter, root}},
		{"another name", []*pair{issue(t, inter, "host", names("mx.e.example")), inter, root}},
		{"the next-hop's name", []*pair{issue(t, inter, "host", names(nexthop)), inter, root}},
		{"a wildcard", []*pair{issue(t, inter, "host", names("*.d.example")), inter, root}},
		{"a wildcard too wide", []*pair{issue(t, inter, "host", names("*.example")), inter, root}},
		{"common name alone", []*pair{issue(t, inter, base), inter, root}},
		{"self-signed", []*pair{issue(t, nil, "host", names(base))}},
	}
	for _, h := range hosts {
		t.Run(h.name, func(t *testing.T) {
			t.Parallel()
			cert := &tls.Certificate{PrivateKey: h.chain[0].key}
			var chain []*x509.Certificate
			for _, p := range h.chain {
				cert.Certificate = append(cert.Certificate, p.cert.Raw)
				chain = append(chain, p.cert)
			}
			s, err := fakesmtp.Start("127.0.0.1:0", fakesmtp.Behaviour{STARTTLS: true, Certificate: cert})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			anchor := inter.cert // of the records, whether sent or not
			if len(chain) > 1 {
				anchor = chain[1]
			}
			if h.name == "self-signed" {
				anchor = chain[0]
			}
			for usage := uint8(DANETA); usage <= DANEEE; usage++ {
				for selector := uint8(Cert); selector <= SPKI; selector++ {
					for matching := uint8(Full); matching <= SHA512; matching++ {
						of := anchor
						if usage == DANEEE {
							of = chain[0]
						}
						good := Of(of, usage, selector, matching)
						bad := Record{usage, selector, matching, slices.Clone(good.Data)}
						if bad.Data[len(bad.Data)-1] ^= 1; matching == Full {
							bad = Of(root.cert, usage, selector, matching)
							if usage == DANETA {
								bad = Of(hosts[8].chain[0].cert, usage, selector, matching)
							}
						}
						weaker := Record{usage, selector, SHA512, make([]byte, 64)}
						for _, records := range [][]Record{{good}, {bad}, {good, weaker}} {
							compare(t, s.Addr(), chain, records)
						}
					}
				}
			}
		})
	}
}

func compare(t *testing.T, addr string, chain []*x509.Certificate, records []Record) {
	t.Helper()
	args := []string{"s_client", "-starttls", "smtp", "-connect", addr, "-servername", base, "-no-CAfile", "-no-CApath", "-no-CAstore",
		"-dane_tlsa_domain", base, "-dane_ee_no_namechecks"}
	for _, r := range records {
		args = append(args, "-dane_tlsa_rrdata", r.String())
	}
	cmd := exec.CommandContext(t.Context(), "openssl", args...)
	cmd.Stdin = strings.NewReader("QUIT\n")
	out, err := cmd.CombinedOutput()
	if !bytes.Contains(out, []byte("Verif")) {
		t.Fatalf("openssl %q: %v\n%s", args, err, out)
	}
	theirs := bytes.Contains(out, []byte("Verify return code: 0 (ok)")) || bytes.Contains(out, []byte("Verification: OK"))
	ours := Match(records, chain, []string{base}, time.Now())
	if ours.Match != theirs {
		t.Errorf("%.60v: we say %t (%s), OpenSSL %t\n%s", records, ours.Match, ours.Reason, theirs, out)
	}
}
