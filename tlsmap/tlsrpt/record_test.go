package tlsrpt

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/probe"
)

func TestParseRecord(t *testing.T) {
	mail := func(raw, to string) URI { return URI{Raw: raw, Mail: to} }
	post := func(raw string) URI { return URI{Raw: raw, Post: raw} }
	tests := []struct {
		name, text string
		want       []URI // nil: no record
		ignored    int
	}{
		{"RFC 8460, section 3.1.1", "v=TLSRPTv1;rua=mailto:reports@example.com", []URI{mail("mailto:reports@example.com", "reports@example.com")}, 0},
		{"RFC 8460, section 3.1.2", "v=TLSRPTv1; rua=https://reporting.example.com/v1/tlsrpt", []URI{post("https://reporting.example.com/v1/tlsrpt")}, 0},
		{"both, spaces about the comma, a delimiter at the end", "v=TLSRPTv1 ; rua=mailto:a@b.example ,\thttps://c.example/ ; ",
			[]URI{mail("mailto:a@b.example", "a@b.example"), post("https://c.example/")}, 0},
		{"extensions are skipped", "v=TLSRPTv1; x-y.z_1=abc/def; rua=mailto:a@b.example; 2=3", []URI{mail("mailto:a@b.example", "a@b.example")}, 0},
		{"percent-encoding", "v=TLSRPTv1;rua=mailto:a%2Bb%21c@b.example", []URI{mail("mailto:a%2Bb%21c@b.example", "a+b!c@b.example")}, 0},
		{"scheme in capitals", "v=TLSRPTv1;rua=MAILTO:a@b.example,HTTPS://c.example/r", []URI{mail("MAILTO:a@b.example", "a@b.example"), {Raw: "HTTPS://c.example/r", Post: "https://c.example/r"}}, 0},
		{"header fields of mailto do not count", "v=TLSRPTv1;rua=mailto:a@b.example?subject=x", []URI{mail("mailto:a@b.example?subject=x", "a@b.example")}, 0},
		{"one URI twice", "v=TLSRPTv1;rua=mailto:a@b.example,mailto:a@b.example", []URI{mail("mailto:a@b.example", "a@b.example")}, 0},
		{"a second rua field", "v=TLSRPTv1;rua=mailto:a@b.example;rua=mailto:c@b.example", []URI{mail("mailto:a@b.example", "a@b.example"), mail("mailto:c@b.example", "c@b.example")}, 0},
		{"one URI of two cannot be used", "v=TLSRPTv1;rua=ftp://x.example,mailto:a@b.example", []URI{mail("mailto:a@b.example", "a@b.example")}, 1},
		{"a field that is none", "v=TLSRPTv1;rua=mailto:a@b.example;what;;-a=b", []URI{mail("mailto:a@b.example", "a@b.example")}, 3},
		{"no size suffix as in DMARC", "v=TLSRPTv1;rua=mailto:a@b.example!10m", nil, 0},
		{"version in other letters", "V=tlsrptv1;rua=mailto:a@b.example", nil, 0},
		{"another version", "v=TLSRPTv2;rua=mailto:a@b.example", nil, 0},
		{"space before the version", " v=TLSRPTv1;rua=mailto:a@b.example", nil, 0},
		{"no delimiter", "v=TLSRPTv1 rua=mailto:a@b.example", nil, 0},
		{"no rua", "v=TLSRPTv1;", nil, 0},
		{"rua in capitals", "v=TLSRPTv1;RUA=mailto:a@b.example", nil, 0},
		{"empty rua", "v=TLSRPTv1;rua=", nil, 0},
		{"http", "v=TLSRPTv1;rua=http://c.example/", nil, 0},
		{"no host", "v=TLSRPTv1;rua=https:///r", nil, 0},
		{"a user in the URL", "v=TLSRPTv1;rua=https://u:p@c.example/", nil, 0},
		{"two mailboxes in one URI", "v=TLSRPTv1;rua=mailto:a@b.example%2Cc@d.example", nil, 0},
		{"line break in the address", "v=TLSRPTv1;rua=mailto:a%0d%0aX%3Ay@b.example", nil, 0},
		{"no domain", "v=TLSRPTv1;rua=mailto:a", nil, 0},
		{"too long", "v=TLSRPTv1;rua=mailto:a@b.example;x=" + strings.Repeat("y", maxRecord), nil, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := ParseRecord(tt.text)
			if tt.want == nil {
				if !errors.Is(err, ErrNoRecord) {
					t.Fatalf("got %+v, %v", r, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(r.RUA, tt.want) || len(r.Ignored) != tt.ignored || r.Text != printable(tt.text) {
				t.Errorf("got %+v", r)
			}
		})
	}
	t.Run("URIs are bounded", func(t *testing.T) {
		var uris []string
		for i := range 50 {
			uris = append(uris, fmt.Sprintf("mailto:a%d@b.example", i))
		}
		r, err := ParseRecord("v=TLSRPTv1;rua=" + strings.Join(uris, ","))
		if err != nil || len(r.RUA) != maxRUA || len(r.Ignored) == 0 {
			t.Errorf("got %+v, %v", r, err)
		}
	})
}

// fakeDNS answers TXT lookups: nil is a failed one.
type fakeDNS map[string][]string

func (f fakeDNS) Lookup(_ context.Context, name string, qtype uint16) (*probe.Answer, error) {
	lines, ok := f[name]
	if ok && lines == nil {
		return nil, fmt.Errorf("look up: %w", probe.ErrDNS)
	}
	a := &probe.Answer{NotFound: !ok}
	for _, l := range lines {
		rr, err := dns.NewRR(name + ". 60 IN TXT " + l)
		if err != nil {
			return nil, err
		}
		a.Records = append(a.Records, rr)
	}
	return a, nil
}

func TestLookup(t *testing.T) {
	r := fakeDNS{
		"_smtp._tls.one.example":   {`"v=TLSRPTv1;rua=mail" "to:a@one.example"`},
		"_smtp._tls.mixed.example": {`"hello"`, `"v=TLSRPTv1;rua=mailto:a@mixed.example"`, `"v=TLSRPTv2;x=y"`, `"v=TLSRPTv1"`},
		"_smtp._tls.two.example":   {`"v=TLSRPTv1;rua=mailto:a@two.example"`, `"v=TLSRPTv1;rua=mailto:b@two.example"`},
		"_smtp._tls.none.example":  {`"v=spf1 -all"`},
		"_smtp._tls.fails.example": nil,
		// A backslash of the library's own writing, and a byte that is none of ASCII.
		"_smtp._tls.odd.example": {`"v=TLSRPTv1\;rua=mailto:a@odd.example\; x=\200"`},
	}
	for domain, want := range map[string]string{
		"one.example": "a@one.example", "ONE.example.": "a@one.example", "mixed.example": "a@mixed.example",
		"two.example": "", "none.example": "", "absent.example": "", "odd.example": "a@odd.example",
	} {
		rec, err := Lookup(t.Context(), r, domain)
		switch {
		case want == "" && !errors.Is(err, ErrNoRecord):
			t.Errorf("%s: got %+v, %v", domain, rec, err)
		case want != "" && (err != nil || rec.RUA[0].Mail != want):
			t.Errorf("%s: got %+v, %v", domain, rec, err)
		}
	}
	if _, err := Lookup(t.Context(), r, "fails.example"); !errors.Is(err, probe.ErrDNS) || errors.Is(err, ErrNoRecord) {
		t.Errorf("a failed lookup: %v", err)
	}
}

func FuzzRecord(f *testing.F) {
	for _, s := range []string{
		"v=TLSRPTv1;rua=mailto:reports@example.com", "v=TLSRPTv1; rua=https://reporting.example.com/v1/tlsrpt",
		"v=TLSRPTv1;rua=mailto:a%2Bb%21c@b.example?x=y,https://[::1]:99/a?b#c;ext=1;", "v=TLSRPTv1;;=;rua=,", "v=TLSRPTv1;rua=mailto:%22a b%22@c.example", "v=TLSRPTv1;rua=https://u@h/",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRecord(text)
		if err != nil {
			if !errors.Is(err, ErrNoRecord) || r != nil {
				t.Errorf("%+v, %v", r, err)
			}
			return
		}
		if len(r.RUA) == 0 || len(r.RUA) > maxRUA || len(r.Ignored) > 2*maxRUA {
			t.Errorf("%+v", r)
		}
		for _, u := range r.RUA {
			if (u.Mail == "") == (u.Post == "") || !strings.Contains(text, u.Raw) {
				t.Errorf("%+v", u)
			}
			if u.Mail != "" {
				if a, err := policy.ParseAddress(u.Mail); err != nil || a.String() != u.Mail || !ascii(u.Mail) {
					t.Errorf("address %q: %v", u.Mail, err)
				}
			}
			if u.Post != "" && (!strings.HasPrefix(u.Post, "https://") || !ascii(u.Post)) {
				t.Errorf("URL %q", u.Post)
			}
			if again, err := parseURI(u.Raw); err != nil || again != u {
				t.Errorf("%q read again: %+v, %v", u.Raw, again, err)
			}
		}
		for _, s := range append(r.Ignored, r.Text) {
			if !ascii(s) {
				t.Errorf("unclean %q", s)
			}
		}
	})
}

// FuzzStrings: the strings of a TXT record come out as the bytes that are on the
// wire, whatever they are.
func FuzzStrings(f *testing.F) {
	for _, s := range []string{"v=TLSRPTv1;rua=mailto:reports@example.com", `a\"b\\;c`, "\x00\xff\\123", strings.Repeat("x", 600)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) == 0 || len(text) > 4000 {
			return
		}
		// The record by hand: name ".", type TXT, class IN, TTL 0.
		var data []byte
		for rest := text; len(rest) > 0; {
			n := min(len(rest), 255)
			data = append(append(data, byte(n)), rest[:n]...)
			rest = rest[n:]
		}
		wire := append([]byte{0, 0, 16, 0, 1, 0, 0, 0, 0, byte(len(data) >> 8), byte(len(data))}, data...)
		rr, _, err := dns.UnpackRR(wire, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := joined(rr.(*dns.TXT).Txt); got != string(text) {
			t.Errorf("got %q, want %q", got, text)
		}
	})
}
