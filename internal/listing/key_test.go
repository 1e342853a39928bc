package listing

import (
	"slices"
	"strings"
	"testing"
)

func TestKeysAreReadAsWritten(t *testing.T) {
	for _, k := range []Key{{"a"}, {"1", "item", "pat@old.example"}, {"", ""}, {"a b", `c\d`, ` \s `}, {`"odd name"@old.example`, "é"}} {
		got, err := ParseKey(k.String())
		if err != nil || !slices.Equal(got, k) {
			t.Errorf("%q: %q, %v", k, got, err)
		}
	}
	for _, s := range []string{`\`, `a\x`, "a\x00", strings.Repeat("a", maxKey+1)} {
		if k, err := ParseKey(s); err == nil {
			t.Errorf("%.20q is read as %q", s, k)
		}
	}
	if k, err := ParseKey(""); k != nil || err != nil {
		t.Errorf("nothing is %q, %v", k, err)
	}
	for _, k := range []Key{nil, {""}, {"x"}, {"9223372036854775808"}} {
		if n, err := k.Int(0); err == nil {
			t.Errorf("%q is %d", k, n)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add("")
	f.Add(`1700000000000000 item pat@old.example`)
	f.Add(`a\sb\\ `)
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParseKey(s)
		if err != nil {
			return
		}
		if got := k.String(); got != s {
			t.Errorf("%q is read as %q, which is written %q", s, k, got)
		}
	})
}
