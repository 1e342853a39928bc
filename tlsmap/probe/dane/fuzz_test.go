package dane

import (
	"bytes"
	"crypto/x509"
	"testing"
	"time"
)

// FuzzMatch holds chains from strangers against records from strangers: a match needs
// a usable record, and DANE-EE the very bytes.
func FuzzMatch(f *testing.F) {
	root := issue(f, nil, "root", authority)
	leaf := issue(f, root, "host", names(base))
	for _, u := range []uint8{0, 1, 2, 3, 4} {
		for _, s := range []uint8{0, 1, 2} {
			for _, m := range []uint8{0, 1, 2, 3} {
				c := leaf.cert
				if u == DANETA {
					c = root.cert
				}
				f.Add(Of(c, u, s, m).String(), leaf.cert.Raw, root.cert.Raw)
			}
		}
	}
	f.Add("3 1 1", []byte{}, []byte{})
	f.Add("2 1 0 30", leaf.cert.Raw, []byte("no certificate"))
	now := time.Now()
	f.Fuzz(func(t *testing.T, text string, first, second []byte) {
		r, err := Parse(text)
		if err != nil {
			return
		}
		var chain []*x509.Certificate
		for _, der := range [][]byte{first, second} {
			if c, err := x509.ParseCertificate(der); err == nil {
				chain = append(chain, c)
			}
		}
		records := []Record{r, {DANEEE, SPKI, SHA256, make([]byte, 32)}}
		v := Match(records, chain, []string{base}, now)
		if len(v.Records) != 2 || v.Reason == "" || v.Records[1].Match {
			t.Fatalf("%+v", v)
		}
		if v.Match != v.Records[0].Match {
			t.Fatalf("verdict %+v", v)
		}
		if !v.Match {
			return
		}
		if r.Unusable() != "" || len(chain) == 0 {
			t.Fatalf("%s matches", r)
		}
		if r.Usage == DANEEE && !bytes.Equal(r.associate(chain[0]), r.Data) {
			t.Fatalf("%s matches another certificate", r)
		}
	})
}
