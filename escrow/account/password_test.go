package account

import (
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

func TestCheckPassword(t *testing.T) {
	tests := []struct {
		name, password string
		want           Weakness
	}{
		{"nothing", "", TooShort},
		{"nine characters", "kqzvxtwrb", TooShort},
		{"ten characters", "kqzvxtwrbm", ""},
		{"ten characters, of more bytes", "äöüßéèêëñç", ""},
		{"nine characters that are more before they are composed", norm.NFD.String("äöüßéèêëñ"), TooShort},
		{"spaces around do not count", "  kqzvxtwrb  ", TooShort},
		{"spaces within do", "ab cd ef gh", ""},
		{"no kinds of characters are demanded", "horse mountain tulip", ""},
		{"digits alone, without order", "8261940375", ""},
		{"as long as may be", strings.Repeat("kqzvxtwr", 64), ""},
		{"longer", strings.Repeat("kqzvxtwr", 64) + "k", TooLong},
		{"in the list", "password123", Common},
		{"in the list, in capitals", "PassWord123", Common},
		{"in the list, in wide letters", "ｐａｓｓｗｏｒｄ123", Common},
		{"a word of the list and a year", "Summer2026!", Common},
		{"of another language", "Sommer2026!", Common},
		{"digits in front", "2026!monkey", Common},
		{"one character", "zzzzzzzzzzzz", Common},
		{"a short text repeated", "abcabcabcabc", Common},
		{"a word of the list repeated", "monkeymonkey", Common},
		{"counted", "1234567890", Common},
		{"counted on", "12345678901234", Common},
		{"counted down", "zyxwvutsrqp", Common},
		{"the address", "jane.roe@old.example", Personal},
		{"the local part", "Jane.Roe2026", Personal},
		{"the local part, written together", "janeroe-2026", Personal},
		{"the domain", "old.example1", Personal},
		{"the host of the portal", "portal.clinic.example!", Personal},
		{"the local part among enough else", "jane.roe rides a mule", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := CheckPassword(tt.password, "jane.roe@old.example", "portal.clinic.example"); got != tt.want {
				t.Errorf("%q: %q, want %q", tt.password, got, tt.want)
			}
		})
	}
}

func TestTheListIsThere(t *testing.T) {
	if n := len(common()); n < 10000 {
		t.Errorf("%d passwords", n)
	}
	for p := range common() {
		if strings.TrimSpace(p) != p || p == "" || p != strings.ToLower(p) {
			t.Errorf("%q", p)
		}
		if utf8.RuneCountInString(p) >= MinPassword && CheckPassword(p) == "" {
			t.Errorf("%q is taken", p)
		}
	}
}

func FuzzCheckPassword(f *testing.F) {
	f.Add("jane.roe2026!", "jane.roe@old.example", "portal.example")
	f.Add("\xff\xfe", "@", "")
	f.Fuzz(func(t *testing.T, password, address, host string) {
		switch w := CheckPassword(password, address, host); w {
		case "":
			if utf8.RuneCountInString(norm.NFC.String(password)) < MinPassword || len(password) > MaxPassword {
				t.Errorf("%q is taken", password)
			}
		case TooShort, TooLong, Common, Personal:
		default:
			t.Errorf("weakness %q", w)
		}
	})
}
