package mtasts

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postseal/postseal/policyd/policy"
)

func TestParsePolicy(t *testing.T) {
	const tail = "mx: mx.a.example\nmax_age: 86400\n"
	week := 604800 * time.Second
	day := 24 * time.Hour
	for _, tt := range []struct {
		name, text string
		want       *Policy
	}{
		{
			"of the RFC", // section 3.2
			"version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.example.net\r\nmx: backupmx.example.com\r\nmax_age: 604800\r\n",
			&Policy{Enforce, []string{"mail.example.com", "*.example.net", "backupmx.example.com"}, week},
		},
		{
			"of the RFC's appendix",
			"version: STSv1\nmode: enforce\nmx: mx1.example.com\nmx: mx2.example.com\nmx: mx.backup-example.com\nmax_age: 1296000\n",
			&Policy{Enforce, []string{"mx1.example.com", "mx2.example.com", "mx.backup-example.com"}, 1296000 * time.Second},
		},
		{"no final line end", "version: STSv1\nmode: testing\nmx: mx.a.example\nmax_age: 86400", &Policy{Testing, []string{"mx.a.example"}, day}},
		{"any order", "max_age: 86400\nmx: mx.a.example\nmode: enforce\nversion: STSv1\n", &Policy{Enforce, []string{"mx.a.example"}, day}},
		{"white space", "version:STSv1  \nmode: \t enforce\t\r\nmx:mx.a.example \nmax_age:  86400\n", &Policy{Enforce, []string{"mx.a.example"}, day}},
		{"empty lines", "\r\nversion: STSv1\n\nmode: enforce\n \t\n" + tail + "\n\n", &Policy{Enforce, []string{"mx.a.example"}, day}},
		{"unknown fields", "version: STSv1\nmode: enforce\nx-new.field_1: grün: ja\nempty:\n" + tail, &Policy{Enforce, []string{"mx.a.example"}, day}},
		{"none needs no mx", "version: STSv1\nmode: none\nmax_age: 86400\n", &Policy{None, nil, day}},
		{"mx of none means nothing", "version: STSv1\nmode: none\n" + tail, &Policy{None, nil, day}},
		{"the first of each counts", "version: STSv1\nversion: STSv2\nmode: enforce\nmode: none\nmode: x\nmax_age: 86400\nmax_age: x\n" + tail, &Policy{Enforce, []string{"mx.a.example"}, day}},
		{"repeated mx", "version: STSv1\nmode: enforce\nmx: MX.a.example\n" + tail, &Policy{Enforce, []string{"mx.a.example"}, day}},
		{"names in canonical form", "version: STSv1\nmode: enforce\nmx: *.BÜCHER.example\nmx: mx.xn--bcher-kva.example.\nmx: MX_1.a.example\nmax_age: 86400", &Policy{Enforce, []string{"*.xn--bcher-kva.example", "mx.xn--bcher-kva.example", "mx_1.a.example"}, day}},
		{"max_age 0", "version: STSv1\nmode: enforce\nmx: mx.a.example\nmax_age: 0\n", &Policy{Enforce, []string{"mx.a.example"}, 0}},
		{"the longest max_age", "version: STSv1\nmode: enforce\nmx: mx.a.example\nmax_age: 31557600\n", &Policy{Enforce, []string{"mx.a.example"}, MaxAge * time.Second}},
		{"max_age beyond it", "version: STSv1\nmode: enforce\nmx: mx.a.example\nmax_age: 9999999999\n", &Policy{Enforce, []string{"mx.a.example"}, MaxAge * time.Second}},

		{"empty", "", nil},
		{"no version", "mode: enforce\n" + tail, nil},
		{"another version", "version: STSv2\nmode: enforce\n" + tail, nil},
		{"another version first", "version: STSv2\nversion: STSv1\nmode: enforce\n" + tail, nil},
		{"version in lower case", "version: stsv1\nmode: enforce\n" + tail, nil},
		{"names in upper case", "Version: STSv1\nMode: enforce\n" + tail, nil},
		{"no mode", "version: STSv1\n" + tail, nil},
		{"unknown mode", "version: STSv1\nmode: report\n" + tail, nil},
		{"unknown mode first", "version: STSv1\nmode: report\nmode: enforce\n" + tail, nil},
		{"mode without a value", "version: STSv1\nmode:\nmode: enforce\n" + tail, nil},
		{"no max_age", "version: STSv1\nmode: enforce\nmx: mx.a.example\n", nil},
		{"negative max_age", "version: STSv1\nmode: enforce\nmx: mx.a.example\nmax_age: -1\n", nil},
		{"max_age in days", "version: STSv1\nmode: enforce\nmx: mx.a.example\nmax_age: 7d\n", nil},
		{"max_age of eleven digits", "version: STSv1\nmode: enforce\nmx: mx.a.example\nmax_age: 00000086400\n", nil},
		{"enforce without mx", "version: STSv1\nmode: enforce\nmax_age: 86400\n", nil},
		{"testing without mx", "version: STSv1\nmode: testing\nmax_age: 86400\n", nil},
		{"empty mx", "version: STSv1\nmode: enforce\nmx:\n" + tail, nil},
		{"an empty mx in mode none", "version: STSv1\nmode: none\nmx: \nmax_age: 1\n", nil},
		{"mx of everybody", "version: STSv1\nmode: enforce\nmx: *\n" + tail, nil},
		{"mx with a star alone", "version: STSv1\nmode: enforce\nmx: *.\n" + tail, nil},
		{"mx with two stars", "version: STSv1\nmode: enforce\nmx: *.*.a.example\n" + tail, nil},
		{"mx with a star in the middle", "version: STSv1\nmode: enforce\nmx: mx.*.example\n" + tail, nil},
		{"mx with a part of a label", "version: STSv1\nmode: enforce\nmx: mx*.a.example\n" + tail, nil},
		{"mx as Postfix writes it", "version: STSv1\nmode: enforce\nmx: .a.example\n" + tail, nil},
		{"several names in one mx", "version: STSv1\nmode: enforce\nmx: mx.a.example, mx.b.example\n" + tail, nil},
		{"several names parted by a colon", "version: STSv1\nmode: enforce\nmx: mx.a.example:mx.b.example\n" + tail, nil},
		{"mx with an empty label", "version: STSv1\nmode: enforce\nmx: mx..a.example\n" + tail, nil},
		{"mx of one label", "version: STSv1\nmode: enforce\nmx: mx\n" + tail, nil},
		{"mx that is a word of Postfix", "version: STSv1\nmode: enforce\nmx: hostname\n" + tail, nil},
		{"mx that is a word of Postfix, with a dot", "version: STSv1\nmode: enforce\nmx: dot-nexthop.\n" + tail, nil},
		{"mx in brackets", "version: STSv1\nmode: enforce\nmx: [192.0.2.1]\n" + tail, nil},
		{"mx too long", "version: STSv1\nmode: enforce\nmx: " + strings.Repeat("a.", 126) + "ab\n" + tail, nil},
		{"label too long", "version: STSv1\nmode: enforce\nmx: " + strings.Repeat("a", 64) + ".example\n" + tail, nil},
		{"not a field", "version: STSv1\nmode: enforce\nhello\n" + tail, nil},
		{"space before the colon", "version : STSv1\nmode: enforce\n" + tail, nil},
		{"space before a name", " version: STSv1\nmode: enforce\n" + tail, nil},
		{"a page", "<!DOCTYPE html>\n<html></html>", nil},
		{"CR alone", "version: STSv1\rmode: enforce\r" + tail, nil},
		{"a control character", "version: STSv1\nmode: enforce\nx: \x1b[2J\n" + tail, nil},
		{"a byte order mark", "\ufeffversion: STSv1\nmode: enforce\n" + tail, nil},
		{"not UTF-8", "version: STSv1\nmode: enforce\nx: \xff\n" + tail, nil},
		{"too long", "version: STSv1\nmode: enforce\n" + strings.Repeat("x: y\n", MaxPolicy/5) + tail, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParsePolicy([]byte(tt.text))
			if (err == nil) != (tt.want != nil) || err != nil && !errors.Is(err, ErrPolicy) {
				t.Fatalf("error %v", err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func FuzzParsePolicy(f *testing.F) {
	f.Add([]byte("version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.example.net\r\nmax_age: 604800\r\n"))
	f.Add([]byte("version: STSv1\nmode: none\nmax_age: 86400"))
	f.Add([]byte("version: STSv1\nmode: testing\nmode: none\nmx: *.B\u00fccher.example.\nx: y\n\nmax_age: 9999999999"))
	f.Add([]byte("mx: *.*\nmax_age: -1\r\r\n:\n"))
	f.Add([]byte("<html>\xff"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := ParsePolicy(text)
		if err != nil {
			if p != nil || !errors.Is(err, ErrPolicy) {
				t.Errorf("policy %v with error %v", p, err)
			}
			return
		}
		if p.MaxAge < 0 || p.MaxAge > MaxAge*time.Second {
			t.Errorf("max_age %s", p.MaxAge)
		}
		if (p.Mode == None) != (len(p.MX) == 0) {
			t.Errorf("mode %s with mx %q", p.Mode, p.MX)
		}
		for _, mx := range p.MX {
			name := strings.TrimPrefix(mx, "*.")
			// What Postfix takes for a list, a keyword or a line of its own must not come
			// through.
			if name == "" || strings.ContainsAny(mx, ":, \t\r\n=\"{}!") || strings.Contains(name, "*") || name[0] == '.' || !strings.Contains(mx, ".") || policy.CanonicalDomain(name) != name {
				t.Errorf("pattern %q", mx)
			}
		}
		// What was read reads the same when written again, with an unknown field and
		// later duplicates.
		again := fmt.Sprintf("version: STSv1\nmode: %s\n", p.Mode)
		for _, mx := range p.MX {
			again += "mx: " + mx + "\n"
		}
		again += fmt.Sprintf("unknown: 1\nmax_age: %d\nmax_age: 1\nmode: none\n", p.MaxAge/time.Second)
		if len(again) > MaxPolicy {
			return
		}
		q, err := ParsePolicy([]byte(again))
		if err != nil {
			t.Fatalf("%v: %q", err, again)
		}
		if d := cmp.Diff(p, q); d != "" {
			t.Error(d)
		}
	})
}
