package tlsrpt

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A schema is what RFC 8460, section 4.4 says of a JSON value: field names with
// the schema of each, a check, or a list of one schema.
type schema any

type field struct {
	required bool
	schema   schema
}

var (
	text   = func(v any) bool { s, ok := v.(string); return ok && s != "" }
	number = func(v any) bool { n, ok := v.(float64); return ok && n >= 0 && n == float64(int64(n)) }
	ip     = func(v any) bool { s, _ := v.(string); _, err := netip.ParseAddr(s); return err == nil }
	stamp  = func(v any) bool {
		s, _ := v.(string)
		return regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`).MatchString(s)
	}
	oneOf = func(words ...string) func(any) bool {
		return func(v any) bool { s, _ := v.(string); return slices.Contains(words, s) }
	}
	must = func(s schema) field { return field{true, s} }
	may  = func(s schema) field { return field{false, s} }

	rfc8460 = map[string]field{
		"organization-name": must(text),
		"date-range":        must(map[string]field{"start-datetime": must(stamp), "end-datetime": must(stamp)}),
		"contact-info":      must(text),
		"report-id":         must(text),
		"policies": must([]schema{map[string]field{
			"policy": must(map[string]field{
				"policy-type":   must(oneOf("tlsa", "sts", "no-policy-found")),
				"policy-string": may([]schema{text}),
				"policy-domain": must(text),
				"mx-host":       may([]schema{text}),
			}),
			"summary": must(map[string]field{
				"total-successful-session-count": must(number),
				"total-failure-session-count":    must(number),
			}),
			"failure-details": may([]schema{map[string]field{
				"result-type": must(oneOf("starttls-not-supported", "certificate-host-mismatch", "certificate-expired", "certificate-not-trusted", "validation-failure",
					"tlsa-invalid", "dnssec-invalid", "dane-required", "sts-policy-fetch-error", "sts-policy-invalid", "sts-webpki-invalid")),
				"sending-mta-ip":         may(ip),
				"receiving-mx-hostname":  may(text),
				"receiving-mx-helo":      may(text),
				"receiving-ip":           may(ip),
				"failed-session-count":   must(number),
				"additional-information": may(text),
				"failure-reason-code":    may(text),
			}}),
		}}),
	}
)

// against returns where a JSON value is not as a schema says.
func against(path string, s schema, v any) (wrong []string) {
	switch s := s.(type) {
	case func(any) bool:
		if !s(v) {
			wrong = append(wrong, fmt.Sprintf("%s is %v", path, v))
		}
	case []schema:
		all, ok := v.([]any)
		if !ok {
			return []string{path + " is no array"}
		}
		for i, e := range all {
			wrong = append(wrong, against(fmt.Sprintf("%s[%d]", path, i), s[0], e)...)
		}
	case map[string]field:
		object, ok := v.(map[string]any)
		if !ok {
			return []string{path + " is no object"}
		}
		for name, f := range s {
			if e, ok := object[name]; ok {
				wrong = append(wrong, against(path+"."+name, f.schema, e)...)
			} else if f.required {
				wrong = append(wrong, path+" lacks "+name)
			}
		}
		for name := range object {
			if _, ok := s[name]; !ok {
				wrong = append(wrong, path+" has "+name)
			}
		}
	}
	return wrong
}

func decoded(t *testing.T, b []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestRFCExample reads and writes the report of RFC 8460, appendix B: nothing is
// lost but the field that is not used here.
func TestRFCExample(t *testing.T) {
	b, err := os.ReadFile("testdata/rfc8460-appendix-b.json")
	if err != nil {
		t.Fatal(err)
	}
	if wrong := against("report", rfc8460, decoded(t, b)); wrong != nil {
		t.Fatal("the schema refuses the example: ", wrong)
	}
	var d Document
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	want := decoded(t, b)
	details := want.(map[string]any)["policies"].([]any)[0].(map[string]any)["failure-details"].([]any)
	delete(details[1].(map[string]any), "additional-information")
	if diff := cmp.Diff(want, decoded(t, again)); diff != "" {
		t.Error(diff)
	}
	if d.Total() != (Summary{5326, 303}) {
		t.Errorf("total %+v", d.Total())
	}
}

// exampleCounts is what must have been counted for the report of appendix B.
func exampleCounts() []Count {
	p := encode(Policy{
		Type: STS, Domain: "company-y.example", MXHost: []string{"*.mail.company-y.example"},
		Text: []string{"version: STSv1", "mode: testing", "mx: *.mail.company-y.example", "max_age: 86400"},
	})
	f := func(n int64, f Failure) Count {
		return Count{Day: "2016-04-01", Domain: "company-y.example", Policy: p, Outcome: encode(f), Sessions: n}
	}
	return []Count{
		f(3, Failure{Type: ValidationFailure, SendingIP: "198.51.100.62", IP: "203.0.113.58", MX: "mx-backup.mail.company-y.example", Reason: "X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED"}),
		{Day: "2016-04-01", Domain: "company-y.example", Policy: p, Sessions: 5326},
		f(200, Failure{Type: STARTTLSNotSupported, SendingIP: "2001:db8:abcd:0013::1", MX: "mx2.mail.company-y.example", IP: "203.0.113.56"}),
		f(100, Failure{Type: CertificateExpired, SendingIP: "2001:db8:abcd:0012::1", MX: "mx1.mail.company-y.example"}),
	}
}

func TestDocument(t *testing.T) {
	r := &Reporter{From: "sts-reporting@company-x.example", Name: "Company-X"}
	r.init()
	d, err := r.document("2016-04-01", "company-y.example", exampleCounts(), time.Date(2016, 4, 2, 1, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(d.ID, "@company-x.example") || len(d.ID) < 32 {
		t.Errorf("report-id %q", d.ID)
	}
	d.ID = "5065427c-23d3-47ca-b6e0-946ea0e8c4be"
	b, _ := os.ReadFile("testdata/rfc8460-appendix-b.json")
	want := decoded(t, b)
	details := want.(map[string]any)["policies"].([]any)[0].(map[string]any)["failure-details"].([]any)
	delete(details[1].(map[string]any), "additional-information")
	details[0], details[1] = details[1], details[0] // the most frequent first
	if diff := cmp.Diff(want, decoded(t, []byte(encode(d)))); diff != "" {
		t.Error(diff)
	}
	if name := r.filename("company-y.example", d); name != "company-x.example!company-y.example!1459468800!1459555199!5065427c-23d3-47ca-b6e0-946ea0e8c4be.json.gz" {
		t.Errorf("file name %s", name)
	}
	z, err := d.compressed()
	if err != nil {
		t.Fatal(err)
	}
	if back, err := ReadDocument(z); err != nil || cmp.Diff(d, back) != "" || !bytes.HasPrefix(z, []byte{0x1f, 0x8b}) {
		t.Errorf("read again: %v %s", err, cmp.Diff(d, back))
	}

	t.Run("a day that is not over ends now", func(t *testing.T) {
		now := time.Date(2016, 4, 1, 12, 30, 0, 999, time.UTC)
		d, err := r.document("2016-04-01", "company-y.example", exampleCounts(), now)
		if err != nil || !d.Range.End.Equal(now.Truncate(time.Second)) || against("report", rfc8460, decoded(t, []byte(encode(d)))) != nil {
			t.Errorf("%+v, %v", d.Range, err)
		}
	})
	t.Run("what is damaged is no report", func(t *testing.T) {
		if _, err := r.document("2016-04-01", "a.example", []Count{{Policy: "{"}}, time.Now()); err == nil {
			t.Error("a policy that is none")
		}
		if _, err := r.document("2016-04-01", "a.example", []Count{{Policy: "{}", Outcome: "x"}}, time.Now()); err == nil {
			t.Error("an outcome that is none")
		}
		if _, err := r.document("yesterday", "a.example", nil, time.Now()); err == nil {
			t.Error("a day that is none")
		}
	})
}

// TestSumsAreKept: whatever is counted, in whatever order and however often it is
// flushed, every session is in the report, once, and the summaries are the sums
// of the details.
func TestSumsAreKept(t *testing.T) {
	types := []ResultType{STARTTLSNotSupported, CertificateExpired, ValidationFailure, TLSAInvalid}
	for seed := range uint64(30) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		store := newMemory()
		c := &Counter{Store: store}
		reasons := 1 + rnd.IntN(400) // more than maxKinds, often
		var want Summary
		for range rnd.IntN(3000) {
			p := Policy{Type: []PolicyType{TLSA, STS, NoPolicy}[rnd.IntN(3)], Domain: "a.example", MXHost: []string{fmt.Sprint("mx", rnd.IntN(3))}}
			if rnd.IntN(3) > 0 {
				c.Add(p, &Failure{Type: types[rnd.IntN(len(types))], Reason: fmt.Sprint(rnd.IntN(reasons))})
				want.Failed++
			} else {
				c.Add(p, nil)
				want.Succeeded++
			}
			if rnd.IntN(100) == 0 {
				if rnd.IntN(3) == 0 {
					store.ail = fmt.Errorf("full")
				}
				c.Flush(t.Context()) // that fails at times
				store.ail = nil
			}
		}
		if err := c.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		r := &Reporter{Store: store, From: "a@us.example"}
		d, err := r.Preview(t.Context(), DayOf(time.Now()), "a.example")
		if err != nil {
			t.Fatal(err)
		}
		if d == nil {
			d = &Document{}
		}
		if d.Total() != want {
			t.Errorf("seed %d: %+v, want %+v", seed, d.Total(), want)
		}
		kinds := 0
		for _, p := range d.Policies {
			var sum int64
			for i, f := range p.Details {
				sum += f.Sessions
				if i > 0 && f.Sessions > p.Details[i-1].Sessions {
					t.Errorf("seed %d: details out of order", seed)
				}
			}
			kinds += len(p.Details) + 1
			if sum != p.Summary.Failed {
				t.Errorf("seed %d: details sum up to %d of %d", seed, sum, p.Summary.Failed)
			}
		}
		if most := maxKinds + 3*(len(types)+1); len(store.counts) > most || kinds > 2*most {
			t.Errorf("seed %d: %d kinds stored", seed, len(store.counts))
		}
		if len(d.Policies) > 0 {
			if wrong := against("report", rfc8460, decoded(t, []byte(encode(d)))); wrong != nil {
				t.Errorf("seed %d: %v", seed, wrong)
			}
		}
	}
}
