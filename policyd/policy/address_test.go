package policy

import (
	"strings"
	"testing"
)

func TestParseAddress(t *testing.T) {
	tests := []struct {
		in            string
		local, domain string
		out           string
	}{
		{"", "", "", ""},
		{"<>", "", "", ""},
		{"joe@bank.example", "joe", "bank.example", "joe@bank.example"},
		{"<joe@bank.example>", "joe", "bank.example", "joe@bank.example"},
		{"Joe.Doe@BANK.Example.", "Joe.Doe", "bank.example", "Joe.Doe@bank.example"},
		{"joe@bank.example..", "joe", "bank.example", "joe@bank.example"},
		{"joe@bücher.example", "joe", "xn--bcher-kva.example", "joe@xn--bcher-kva.example"},
		{"joe@BÜCHER.Example", "joe", "xn--bcher-kva.example", "joe@xn--bcher-kva.example"},
		{"joe@bu\u0308cher.example", "joe", "xn--bcher-kva.example", "joe@xn--bcher-kva.example"},
		{"joe@XN--BCHER-KVA.example", "joe", "xn--bcher-kva.example", "joe@xn--bcher-kva.example"},
		{"joe@straße.example", "joe", "xn--strae-oqa.example", "joe@xn--strae-oqa.example"},
		{"joe@bank。example", "joe", "bank.example", "joe@bank.example"},
		{"joe@ｂａｎｋ.example", "joe", "bank.example", "joe@bank.example"},
		{"josé@bank.example", "josé", "bank.example", "josé@bank.example"},
		{"joe@[192.0.2.1]", "joe", "[192.0.2.1]", "joe@[192.0.2.1]"},
		{"joe@[IPv6:2001:DB8::1]", "joe", "[ipv6:2001:db8::1]", "joe@[ipv6:2001:db8::1]"},
		{"joe@[ipv6:2001:db8:0:0::1]", "joe", "[ipv6:2001:db8::1]", "joe@[ipv6:2001:db8::1]"},
		{"joe", "joe", "", "joe"},
		{`"john doe"@bank.example`, "john doe", "bank.example", `"john doe"@bank.example`},
		{`john doe@bank.example`, "john doe", "bank.example", `"john doe"@bank.example`},
		{`"joe"@bank.example`, "joe", "bank.example", "joe@bank.example"},
		{`"j\o\e"@bank.example`, "joe", "bank.example", "joe@bank.example"},
		{`"a\"b\\c"@bank.example`, `a"b\c`, "bank.example", `"a\"b\\c"@bank.example`},
		{`"joe@evil.example"@bank.example`, "joe@evil.example", "bank.example", `"joe@evil.example"@bank.example`},
		{`joe@evil.example@bank.example`, "joe@evil.example", "bank.example", `"joe@evil.example"@bank.example`},
		{`"joe@evil.example"`, "joe@evil.example", "", `"joe@evil.example"`},
		{`"x@evil.example> NOTIFY=NEVER X="@own.example`, "x@evil.example> NOTIFY=NEVER X=", "own.example", `"x@evil.example> NOTIFY=NEVER X="@own.example`},
		{`x@evil.example> NOTIFY=NEVER X=@own.example`, "x@evil.example> NOTIFY=NEVER X=", "own.example", `"x@evil.example> NOTIFY=NEVER X="@own.example`},
		{"@relay.example:joe@bank.example", "joe", "bank.example", "joe@bank.example"},
		{"<@a.example,@b.example:joe@bank.example>", "joe", "bank.example", "joe@bank.example"},
		{`"@a.example:joe"@bank.example`, "@a.example:joe", "bank.example", `"@a.example:joe"@bank.example`},
		{".joe@bank.example", ".joe", "bank.example", `".joe"@bank.example`},
		{"j..oe@bank.example", "j..oe", "bank.example", `"j..oe"@bank.example`},
		{"joe.@bank.example", "joe.", "bank.example", `"joe."@bank.example`},
		{`""@bank.example`, "", "bank.example", `""@bank.example`},
		{"user+ext@bank.example", "user+ext", "bank.example", "user+ext@bank.example"},
		{"a!b%c@bank.example", "a!b%c", "bank.example", "a!b%c@bank.example"},
		{"joe@a_b.example", "joe", "a_b.example", "joe@a_b.example"},
	}
	for _, tt := range tests {
		a, err := ParseAddress(tt.in)
		if err != nil || a != (Address{tt.local, tt.domain}) {
			t.Errorf("%q: %+v, %v; want %q at %q", tt.in, a, err, tt.local, tt.domain)
		}
		if got := a.String(); got != tt.out {
			t.Errorf("%q: String() = %q, want %q", tt.in, got, tt.out)
		}
		if again, err := ParseAddress(a.String()); err != nil || again != a {
			t.Errorf("%q: comes back as %+v, %v", tt.in, again, err)
		}
	}
}

func TestParseAddressRefuses(t *testing.T) {
	for _, in := range []string{
		"joe\n@bank.example", "joe@bank\x00.example", "joe@bank.example\r\nRCPT TO:<x@y>", "\x7f@bank.example",
		"joe@bank.example> NOTIFY=NEVER", "joe@bank example", `joe@bank".example`, `joe@bank\.example`, "joe@bank.example,x", "joe@bank.example:25",
		"joe@bank.example＞ｘ", "joe@bank\u3000.example", "joe@evil＠bank.example", // by IDNA's mapping > space @
		strings.Repeat("x", 1025) + "@bank.example",
		"x@" + strings.Repeat("y", 1025),
		"x@" + strings.Repeat("ü.", 300),
	} {
		if a, err := ParseAddress(in); err == nil {
			t.Errorf("%.60q was read as %+v", in, a)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{
		"", "<>", "joe@bank.example", `"john \"doe\\"@BÜCHER.example.`, "a@[IPv6:2001:db8::1]", "@a,@b:c@d", `"x> y"@z`, `"a@b"`,
		"a@b@c", `"a"b@c`, "a@b..", "a@\u3002", "\xff@\xff.Example", "a@xn--a", "a@XN--ZZZZ.", "<<a>>", `"@a:b"@c`, "a@[x> y]", "a@[IPv6:::1%a b]", "a@［x］",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		out := a.String()
		again, err := ParseAddress(out)
		if err != nil || again != a {
			t.Fatalf("%q: %+v became %q, and that %+v, %v", s, a, out, again, err)
		}
		quoted := false
		for i := 0; i < len(out); i++ {
			switch c := out[i]; {
			case c < ' ' || c == 0x7f:
				t.Fatalf("%q: %q has a control character", s, out)
			case quoted && c == '\\':
				i++
			case c == '"':
				quoted = !quoted
			case !quoted && strings.IndexByte(" <>", c) >= 0:
				t.Fatalf("%q: %q breaks out", s, out)
			}
		}
		if quoted {
			t.Fatalf("%q: %q has an open quote", s, out)
		}
		if c := CanonicalDomain(a.Domain); c != a.Domain {
			t.Fatalf("%q: domain %q is not canonical but %q", s, a.Domain, c)
		}
		if f := a.Folded(); f.Folded() != f {
			t.Fatalf("%q: folding twice differs", s)
		}
	})
}

func TestDelimitersSplit(t *testing.T) {
	tests := []struct {
		d           Delimiters
		local, base string
		ok          bool
	}{
		{"+", "user+x", "user", true},
		{"+", "user+x+y", "user", true},
		{"+", "user+", "user", true},
		{"+", "+x", "+x", false},
		{"+", "user", "user", false},
		{"", "user+x", "user+x", false},
		{"+-", "user-x+y", "user", true},
		{"-", "owner-list", "owner-list", false},
		{"-", "list-request", "list-request", false},
		{"-", "Mailer-Daemon", "Mailer-Daemon", false},
		{"-", "double-bounce", "double-bounce", false},
		{"-", "user-x", "user", true},
	}
	for _, tt := range tests {
		if base, ok := tt.d.Split(tt.local); base != tt.base || ok != tt.ok {
			t.Errorf("%q.Split(%q) = %q, %v; want %q, %v", tt.d, tt.local, base, ok, tt.base, tt.ok)
		}
	}
}
