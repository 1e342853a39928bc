package check

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/postseal/postseal/internal/lab/fakesmtp"
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/probe"
)

// schema is docs/check.schema.json. Strict, it takes no field that is not described:
// readers must take those, since fields are added.
func schema(t *testing.T, strict bool) *jsonschema.Schema {
	t.Helper()
	b, err := os.ReadFile("../../docs/check.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if strict {
		closeObjects(doc)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("check.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("check.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeObjects(v any) {
	switch v := v.(type) {
	case map[string]any:
		if v["type"] == "object" {
			v["additionalProperties"] = false
		}
		for _, e := range v {
			closeObjects(e)
		}
	case []any:
		for _, e := range v {
			closeObjects(e)
		}
	}
}

// instance is reports as postseal check --json prints them.
func instance(t *testing.T, all []*Report) any {
	t.Helper()
	b, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// What checks print is what the schema describes, to the last field.
func TestSchema(t *testing.T) {
	w := newWorld(t,
		"a.example. 300 IN MX 10 mx.a.example.", "mx.a.example. 300 IN A 192.0.2.1",
		"_25._tcp.mx.a.example. 300 IN TLSA 3 1 1 "+strings.Repeat("ab", 32), "_25._tcp.mx.a.example. 300 IN TLSA 1 1 1 abcd",
		`_smtp._tls.a.example. 300 IN TXT "v=TLSRPTv1; rua=mailto:tls@a.example, ftp://a.example"`,
		"b.example. 300 IN MX 10 mx.b.example.", "b.example. 300 IN MX 20 gone.b.example.", "mx.b.example. 300 IN CNAME c.b.example.", "c.b.example. 300 IN A 192.0.2.2",
		"null.example. 300 IN MX 0 .", "c.example. 300 IN A 192.0.2.3",
	)
	w.dns.SetAuthentic(true)
	two := w.good("mx.a.example")
	two.Second = w.cert(fakesmtp.CertOptions{Names: []string{"mx.a.example"}, RSA: true})
	w.host("192.0.2.1", two)
	w.host("192.0.2.2", fakesmtp.Behaviour{STARTTLS: true, Certificate: w.cert(fakesmtp.CertOptions{Names: []string{"x"}, SelfSigned: true})})
	w.host("192.0.2.3", fakesmtp.Behaviour{})
	w.policies["a.example"] = &probe.STSResult{State: policy.STSEnforce, Mode: "enforce", ID: "1", MX: []string{"*.a.example"}, MaxAge: 1, Stale: "it does not answer"}
	w.policies["b.example"] = &probe.STSResult{State: policy.STSFailed, Error: "no", Failure: "sts-policy-fetch-error"}
	c := w.checker()
	all := []*Report{}
	for _, dest := range []string{"a.example", "b.example", "c.example", "null.example", "gone.example", "[192.0.2.1]", "[192.0.2.9]"} {
		all = append(all, c.Deep(t.Context(), dest), c.Quick(t.Context(), dest))
	}
	all[0].Decision = &Decision{Channel: "tls", Reasons: []string{"because"}}
	if err := schema(t, true).Validate(instance(t, all)); err != nil {
		t.Errorf("%#v", err)
	}
	if err := schema(t, true).Validate(instance(t, nil)); err == nil {
		t.Error("null is taken for a list of reports")
	}
	// The test can fail.
	for name, spoil := range map[string]func(map[string]any){
		"a class that is none": func(r map[string]any) { r["class"] = "splendid" },
		"a field missing":      func(r map[string]any) { delete(r, "mx") },
		"a wrong type":         func(r map[string]any) { r["ttl"] = "60" },
		"a bad date":           func(r map[string]any) { r["checked"] = "yesterday" },
		"an unknown field":     func(r map[string]any) { r["surprise"] = true },
	} {
		v := instance(t, all)
		spoil(v.([]any)[0].(map[string]any))
		if err := schema(t, true).Validate(v); err == nil {
			t.Errorf("%s is not noticed", name)
		}
	}
	v := instance(t, all)
	v.([]any)[0].(map[string]any)["surprise"] = true
	if err := schema(t, false).Validate(v); err != nil {
		t.Errorf("the schema as it is forbids fields to be added: %v", err)
	}
}
