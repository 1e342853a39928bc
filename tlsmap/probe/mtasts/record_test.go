package mtasts

import (
	"errors"
	"strings"
	"testing"
)

func TestParseRecord(t *testing.T) {
	id32 := strings.Repeat("a1", 16)
	for _, tt := range []struct {
		name    string
		records []string
		want    string // "": none
	}{
		{"of the RFC", []string{"v=STSv1; id=20160831085700Z;"}, "20160831085700Z"}, // section 3.1
		{"of the RFC's example", []string{"v=STSv1; id=20160831085700Z"}, "20160831085700Z"},
		{"no spaces", []string{"v=STSv1;id=1"}, "1"},
		{"white space round delimiters", []string{"v=STSv1; \t id=1 \t ; \t "}, "1"},
		{"extension fields", []string{"v=STSv1; a.b-c_d=x:y; id=1; e=<f>"}, "1"},
		{"the longest id", []string{"v=STSv1; id=" + id32 + ";"}, id32},
		{"the first id counts", []string{"v=STSv1; id=1; id=2;"}, "1"},
		{"beside other records", []string{"google-site-verification=x", "v=STSv1; id=1", "v=STSv2; id=3", "v=spf1 -all"}, "1"},

		{"none", nil, ""},
		{"another record", []string{"v=spf1 -all"}, ""},
		{"two records", []string{"v=STSv1; id=1", "v=STSv1; id=1"}, ""},
		{"two records, of which one is bad", []string{"v=STSv1; id=1", "v=STSv1; garbage"}, ""},
		{"another version", []string{"v=STSv2; id=1"}, ""},
		{"version in lower case", []string{"v=stsv1; id=1"}, ""},
		{"version not first", []string{"id=1; v=STSv1;"}, ""},
		{"space before the version", []string{" v=STSv1; id=1"}, ""},
		{"space behind the version", []string{"v=STSv1 ; id=1"}, ""}, // MUST begin with "v=STSv1;"
		{"no id", []string{"v=STSv1;"}, ""},
		{"no id but an extension", []string{"v=STSv1; x=y;"}, ""},
		{"empty id", []string{"v=STSv1; id=;"}, ""},
		{"id too long", []string{"v=STSv1; id=" + id32 + "a;"}, ""},
		{"bad id", []string{"v=STSv1; id=2016-08-31;"}, ""},
		{"bad first id", []string{"v=STSv1; id=2016-08-31; id=1"}, ""},
		{"ID in upper case", []string{"v=STSv1; ID=1"}, ""},
		{"space within a field", []string{"v=STSv1; id = 1"}, ""},
		{"no field", []string{"v=STSv1; id=1; garbage"}, ""},
		{"empty field", []string{"v=STSv1;; id=1"}, ""},
		{"two delimiters at the end", []string{"v=STSv1; id=1;;"}, ""},
		{"extension without a value", []string{"v=STSv1; id=1; a="}, ""},
		{"extension with an equals sign", []string{"v=STSv1; id=1; a=b=c"}, ""},
		{"extension with a space", []string{"v=STSv1; id=1; a=b c"}, ""},
		{"extension beyond ASCII", []string{"v=STSv1; id=1; a=\xc3\xa4"}, ""},
		{"name too long", []string{"v=STSv1; id=1; " + strings.Repeat("n", 33) + "=1"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseRecord(tt.records)
			if got != tt.want || (err != nil) != (tt.want == "") || err != nil && !errors.Is(err, ErrNoRecord) {
				t.Errorf("%q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add("v=STSv1; id=20160831085700Z;", "")
	f.Add("v=STSv1; a=b ; id=1", "v=spf1 -all")
	f.Add("v=STSv1; id=1; id=2", "v=STSv1; id=1")
	f.Add("v=STSv1;;id=\x00", ";")
	f.Fuzz(func(t *testing.T, a, b string) {
		id, err := ParseRecord([]string{a, b})
		if err != nil {
			if id != "" || !errors.Is(err, ErrNoRecord) {
				t.Errorf("id %q with error %v", id, err)
			}
			return
		}
		if !validID(id) {
			t.Errorf("bad id %q", id)
		}
		// The order of records means nothing.
		if again, err := ParseRecord([]string{b, a}); err != nil || again != id {
			t.Errorf("the other way round: %q, %v; want %q", again, err, id)
		}
		// One more record makes it undecided.
		if _, err := ParseRecord([]string{a, b, "v=STSv1; id=1"}); err == nil {
			t.Error("two records are taken")
		}
	})
}

func TestBound(t *testing.T) {
	if got := bound("a\x1b[2J\u009b\u202e\u200bb\xff é"); got != "a?[2J???b? é" {
		t.Errorf("%q", got)
	}
}
