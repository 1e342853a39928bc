package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/postseal/postseal/internal/lab/fakedns"
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/sql"
	"github.com/postseal/postseal/tlsmap/probe"
)

// domain is the i-th domain. Each of the first has a posture and a rule; the further
// ones have a rule alone.
func domain(i int) string { return fmt.Sprintf("domain-%d.example", i) }

// coldDomain has neither.
func coldDomain(i int) string { return fmt.Sprintf("cold-%d.example", i) }

// coldDomains are asked for to measure cold answers.
const coldDomains = 4000

// hosts of many domains: nine domains of ten are at one of these, the tenth has a
// mail host of its own.
const hosters = 300

// prepare fills the database and the DNS.
func prepare(ctx context.Context, s *settings, dir string, names *fakedns.Server) error {
	db, err := sql.Open(ctx, "sqlite:"+filepath.Join(dir, "postseal.db"), sql.Options{})
	if err != nil {
		return err
	}
	defer db.Close()
	rules := make([]*policy.Rule, s.rules)
	for i := range rules {
		rules[i] = &policy.Rule{Scope: policy.ByRecipient, Pattern: domain(i), Requirement: policy.Encryption, Created: time.Now()}
	}
	if err := db.ImportRules(ctx, rules, false, sql.ChangeOptions{Delimiters: "+"}); err != nil {
		return err
	}
	records := make([]probe.Record, 0, 5000)
	for i := range s.domains {
		records = append(records, record(i))
		if len(records) == cap(records) || i == s.domains-1 {
			if err := db.SavePostures(ctx, records); err != nil {
				return err
			}
			records = records[:0]
		}
	}
	for i := range hosters {
		if err := names.Add(fmt.Sprintf("mx%d.hoster.example. 3600 IN A 127.0.9.%d", i, 1+i%250)); err != nil {
			return err
		}
	}
	for i := range coldDomains {
		if err := names.Add(fmt.Sprintf("%s. 3600 IN MX 10 mx%d.hoster.example.", coldDomain(i), i%hosters)); err != nil {
			return err
		}
	}
	return nil
}

// looked is when all were looked at: a moment ago.
var looked = time.Now().UTC().Truncate(time.Second).Add(-time.Minute)

// record is the posture of a domain, as a look at a usual mail host leaves it.
func record(i int) probe.Record {
	now := looked
	r := &probe.Result{
		Dest: domain(i), Domain: domain(i), State: policy.Works, Reason: "TLSv1.3", DANE: policy.DANENone,
		STS: &probe.STSResult{State: policy.STSNone}, Checked: now, TTL: 3600,
	}
	if i%10 == 0 {
		r.MX = []probe.MXResult{mxHost("mx."+domain(i), 10, i)}
	} else {
		h := (i * i) % hosters
		r.MX = []probe.MXResult{
			mxHost(fmt.Sprintf("mx%d.hoster.example", h), 10, h),
			mxHost(fmt.Sprintf("mx%d-backup.hoster.example", h), 20, h),
		}
	}
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // nothing in it fails to marshal
	}
	return probe.Record{
		Dest: r.Dest, State: r.State, Checked: now, Worked: now, Since: now.Add(-30 * 24 * time.Hour),
		Expires: now.Add(20 * time.Hour), Result: b,
	}
}

func mxHost(name string, preference uint16, i int) probe.MXResult {
	return probe.MXResult{Host: name, Preference: preference, Addresses: []probe.AddressResult{{
		Addr: netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), State: policy.Works, Banner: "220 " + name + " ESMTP", STARTTLS: true, SNI: name, TLS: true,
		EHLO:    []string{"PIPELINING", "SIZE 52428800", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES", "CHUNKING"},
		Version: "TLSv1.3", Cipher: "TLS_AES_256_GCM_SHA384", DurationMS: 80,
		Cert: &probe.Certificate{
			Names: []string{name}, Subject: "CN=" + name, Issuer: "CN=R11,O=Let's Encrypt,C=US", KeyType: "ECDSA", KeyBits: 256, Verified: true,
			NotBefore: time.Unix(1_790_000_000, 0).UTC(), NotAfter: time.Unix(1_797_000_000, 0).UTC(),
			Fingerprint: fmt.Sprintf("%064x", i), Chain: []probe.ChainCert{{Subject: "CN=R11", Issuer: "CN=ISRG Root X1", NotAfter: time.Unix(1_900_000_000, 0).UTC()}},
		},
	}}}
}
