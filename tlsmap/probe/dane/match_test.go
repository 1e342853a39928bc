package dane

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

// pair is a certificate with its key.
type pair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func issue(t testing.TB, parent *pair, name string, change ...func(*x509.Certificate)) *pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().AddDate(0, 1, 0), BasicConstraintsValid: true,
	}
	for _, f := range change {
		f(tmpl)
	}
	up, signer := tmpl, key
	if parent != nil {
		up, signer = parent.cert, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, up, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &pair{c, key}
}

func authority(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }
func expired(c *x509.Certificate)   { c.NotAfter = time.Now().Add(-time.Hour) }
func names(dns ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.DNSNames, c.ExtKeyUsage = dns, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
}

const base, nexthop = "mx.d.example", "d.example"

func TestMatch(t *testing.T) {
	root := issue(t, nil, "root", authority)
	inter := issue(t, root, "intermediate", authority)
	leaf := issue(t, inter, "host", names(base))
	old := issue(t, inter, "host", names(base), expired)
	other := issue(t, inter, "host", names("mx.e.example"))
	self := issue(t, nil, "host", names(base))
	selfCA := issue(t, nil, "host", names(base), authority)
	oldInter := issue(t, root, "intermediate that ended", authority, expired)
	underOld := issue(t, oldInter, "host", names(base))
	notCA := issue(t, inter, "no authority", names("x.example"))
	underNotCA := issue(t, notCA, "host", names(base))
	chain := func(ps ...*pair) (cs []*x509.Certificate) {
		for _, p := range ps {
			cs = append(cs, p.cert)
		}
		return cs
	}
	of := func(p *pair, usage, selector, matching uint8) Record { return Of(p.cert, usage, selector, matching) }
	full := chain(leaf, inter, root)
	broken := func(r Record) Record { r.Data = slices.Clone(r.Data); r.Data[len(r.Data)-1] ^= 1; return r }
	tests := []struct {
		name    string
		chain   []*x509.Certificate
		records []Record
		want    bool
		reason  string // in the verdict's
	}{
		{"EE, the certificate", full, []Record{of(leaf, 3, 0, 1)}, true, "match"},
		{"EE, another certificate", full, []Record{of(other, 3, 0, 1)}, false, "another one"},
		{"EE does not match above the leaf", full, []Record{of(inter, 3, 0, 1)}, false, "another one"},
		{"EE, expired", chain(old, inter), []Record{of(old, 3, 1, 1)}, true, "match"},
		{"EE, another name", chain(other, inter), []Record{of(other, 3, 1, 2)}, true, "match"},
		{"EE, self-signed", chain(self), []Record{of(self, 3, 1, 0)}, true, "match"},
		{"no certificate", nil, []Record{of(self, 3, 1, 1)}, false, "no certificate"},

		{"TA, the issuer", full, []Record{of(inter, 2, 0, 1)}, true, "match"},
		{"TA, the root", full, []Record{of(root, 2, 1, 2)}, true, "match"},
		{"TA, the root was not sent", chain(leaf, inter), []Record{of(root, 2, 0, 1)}, false, "not in the chain"},
		{"TA, the root is in the record", chain(leaf, inter), []Record{of(root, 2, 0, 0)}, true, "match"},
		{"TA, the root's key is in the record", chain(leaf, inter), []Record{of(root, 2, 1, 0)}, true, "match"},
		{"TA, the issuer's key is in the record, leaf alone", chain(leaf), []Record{of(inter, 2, 1, 0)}, true, "match"},
		{"TA, the issuer is in the record, leaf alone", chain(leaf), []Record{of(inter, 2, 0, 0)}, true, "match"},
		{"TA, the root is in the record, an issuer is missing", chain(leaf), []Record{of(root, 2, 0, 0)}, false, "did not sign"},
		{"TA, a stranger's key", chain(leaf, inter), []Record{of(self, 2, 1, 0)}, false, "did not sign"},
		{"TA never matches the leaf", chain(self), []Record{of(self, 2, 0, 1)}, false, "not in the chain"},
		{"nor a copy of it", chain(selfCA, selfCA), []Record{of(selfCA, 2, 0, 0)}, false, "did not sign"},
		{"TA, expired leaf", chain(old, inter), []Record{of(inter, 2, 0, 1)}, false, "expired"},
		{"TA, expired anchor", chain(underOld, oldInter, root), []Record{of(oldInter, 2, 0, 1)}, false, "expired"},
		{"TA, another name", chain(other, inter), []Record{of(inter, 2, 1, 1)}, false, "not for " + base},
		{"TA, a stranger that was sent along", chain(leaf, selfCA), []Record{of(selfCA, 2, 1, 1)}, false, "did not sign"},
		{"TA, no authority", chain(underNotCA, notCA), []Record{of(notCA, 2, 1, 1)}, false, "not in the chain"},

		{"one of several", full, []Record{of(other, 3, 1, 1), of(inter, 2, 0, 1), of(leaf, 3, 0, 1)}, true, "match"},
		{"the strongest digest counts", full, []Record{of(leaf, 3, 1, 1), broken(of(leaf, 3, 1, 2))}, false, "another one"},
		{"of each selector alone", full, []Record{of(leaf, 3, 0, 1), broken(of(leaf, 3, 1, 2))}, true, "match"},
		{"of each usage alone", full, []Record{of(leaf, 3, 1, 1), broken(of(inter, 2, 1, 2))}, true, "match"},
		{"not before what is whole", full, []Record{of(leaf, 3, 1, 0), broken(of(leaf, 3, 1, 2))}, true, "match"},
		{"an unusable digest is no strongest", full, []Record{of(leaf, 3, 1, 1), {3, 1, 2, []byte("short")}}, true, "match"},
		{"the nearest reason", chain(other, inter), []Record{of(leaf, 3, 1, 1), of(inter, 2, 1, 1), of(leaf, 3, 0, 1)}, false, "not for"},
		{"PKIX usages", full, []Record{of(leaf, 1, 1, 1), of(inter, 0, 0, 1)}, false, NoUsable},
		{"none", full, nil, false, NoUsable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := Match(tt.records, tt.chain, []string{base, nexthop}, time.Now())
			if v.Match != tt.want || !strings.Contains(v.Reason, tt.reason) || len(v.Records) != len(tt.records) {
				t.Errorf("got %t, %q, want %t, %q\n%+v", v.Match, v.Reason, tt.want, tt.reason, v.Records)
			}
			for i, o := range v.Records {
				if o.Why == "" || o.Match && !v.Match {
					t.Errorf("record %d: %+v", i, o)
				}
			}
		})
	}
	t.Run("too many anchors", func(t *testing.T) {
		var records []Record
		for range maxAnchors {
			records = append(records, of(issue(t, nil, "a stranger", authority), 2, 1, 0))
		}
		for n, want := range map[int]bool{maxAnchors: false, maxAnchors - 1: true} {
			if v := Match(append(slices.Clone(records[:n]), of(inter, 2, 0, 1)), full, []string{base}, time.Now()); v.Match != want {
				t.Errorf("%d before: %+v", n, v)
			}
		}
	})
	t.Run("the next-hop's name", func(t *testing.T) {
		l := issue(t, inter, "host", names(nexthop))
		if v := Match([]Record{of(inter, 2, 1, 1)}, chain(l, inter), []string{base, nexthop}, time.Now()); !v.Match {
			t.Error(v)
		}
	})
}

func TestUnusable(t *testing.T) {
	c := issue(t, nil, "root", authority)
	whole := hex.EncodeToString(c.cert.Raw)
	key := hex.EncodeToString(c.cert.RawSubjectPublicKeyInfo)
	const digest256 = "d2abde240d7cd3ee6b4b28c54df034b9 7983a1d16e8a410e4561cb106618e971"
	const digest512 = "92003ba34942dc74152e2f2c408d29ec a5a520e7f2e06bb944f4dca346baf63c 1b177615d466f6c4b71c216a50292bd5 8c9ebdd2f74e38fe51ffd48c43326cbc"
	tests := []struct{ name, record, want string }{
		{"RFC 6698, section 2.3, first", "0 0 1 " + digest256, "usage 0 is not for SMTP"},
		{"RFC 6698, section 2.3, second", "1 1 2 " + digest512, "usage 1 is not for SMTP"},
		{"RFC 6698, section 2.3, third, as cut short there", "3 0 0 30820307308201efa003020102020", "odd"},
		{"EE", "3 1 1 " + digest256, ""},
		{"EE, SHA-512", "3 0 2 " + digest512, ""},
		{"TA", "2 0 1 " + digest256, ""},
		{"unknown usage", "4 1 1 " + digest256, "unknown usage 4"},
		{"private usage", "255 1 1 " + digest256, "unknown usage 255"},
		{"unknown selector", "3 2 1 " + digest256, "unknown selector 2"},
		{"unknown matching type", "3 1 3 " + digest256, "unknown matching type 3"},
		{"private matching type", "3 1 255 " + digest256, "unknown matching type 255"},
		{"too short", "3 1 1 d2ab", "a digest of 2 bytes, not 32"},
		{"too long", "3 1 1 " + digest512, "a digest of 64 bytes, not 32"},
		{"a digest of the other kind", "3 1 2 " + digest256, "a digest of 32 bytes, not 64"},
		{"no data", "3 1 1", "a digest of 0 bytes, not 32"},
		{"no data, whole", "2 0 0", "the data is no certificate"},
		{"a certificate", "2 0 0 " + whole, ""},
		{"a certificate and more", "3 0 0 " + whole + "00", "the data is no certificate"},
		{"a key", "3 1 0 " + key, ""},
		{"a key of an anchor", "2 1 0 " + key, ""},
		{"a key and more", "3 1 0 " + key + "00", "the data is no public key"},
		{"a certificate for a key", "2 1 0 " + whole, "the data is no public key"},
		{"a key for a certificate", "3 0 0 " + key, "the data is no certificate"},
		{"not a record", "3 1", "want usage"},
		{"not a number", "x 1 1 00", "want a number"},
		{"a large number", "256 1 1 00", "want a number"},
		{"not hexadecimal", "3 1 1 zz", "association data"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := Parse(tt.record)
			got := ""
			if err != nil {
				got = err.Error()
			} else {
				got = r.Unusable()
			}
			if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if err == nil {
				if again, err := Parse(r.String()); err != nil || again.String() != r.String() {
					t.Errorf("read again: %v, %v", again, err)
				}
			}
		})
	}
}

func TestMatchName(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"mx.d.example", "MX.d.example", true},
		{"*.d.example", "mx.d.example", true},
		{"*.D.example", "mx.d.example", true},
		{"*.d.example", "a.mx.d.example", false},
		{"*.d.example", "d.example", false},
		{"*.d.example", ".d.example", false},
		{"*.example", "mx.example", false}, // as OpenSSL: too wide
		{"m*.d.example", "mx.d.example", false},
		{"mx.*.example", "mx.d.example", false},
		{"*", "mx", false},
		{"", "", false},
	} {
		if got := matchName(tt.pattern, tt.name); got != tt.want {
			t.Errorf("%q, %q: %t", tt.pattern, tt.name, got)
		}
	}
	if c := (&x509.Certificate{Subject: pkix.Name{CommonName: base}}); !matchesName(c, []string{base}) {
		t.Error("the common name counts where there is nothing else")
	}
	if c := (&x509.Certificate{Subject: pkix.Name{CommonName: base}, DNSNames: []string{"e.example"}}); matchesName(c, []string{base}) {
		t.Error("the common name counts beside DNS names")
	}
}
