package words

import (
	"html/template"
	"strings"
	"testing"
	"time"
)

func TestFor(t *testing.T) {
	for tag, want := range map[string]string{"de": "de", "de-CH": "de", "DE": "de", "": "en", "nl": "en", "ja-JP": "ja"} {
		if got := For(tag).Tag; got != want {
			t.Errorf("For(%q) is %s, want %s", tag, got, want)
		}
	}
	if err := Check("tlh"); err == nil || !strings.Contains(err.Error(), "en, de, fr, es, ar, ja") {
		t.Errorf("Check(tlh): %v", err)
	}
}

func TestMatch(t *testing.T) {
	tests := []struct{ accept, want string }{
		{"", "en"},
		{"*", "en"},
		{"de", "de"},
		{"de-CH-1996", "de"},
		{"nl,de;q=0.5", "de"},
		{"zh-TW,zh;q=0.9,ja;q=0.3", "ja"},
		{"ar-EG,en;q=0.2", "ar"},
		{"es-419", "es"},
		{"fr;q=0,en", "en"},
		{"fr;q=abc,de", "de"},
		{"xx-garbage!!, fr", "fr"},
		{"gsw", "de"},
		{"pt-BR,pt;q=0.9", "en"},
		{strings.Repeat("nl, ", 60) + "de", "de"},
		{strings.Repeat("nl, ", 60) + "ja," + strings.Repeat("nl, ", 100), "ja"},
		{strings.Repeat("x", 5000), "en"},
	}
	for _, tt := range tests {
		if got := Match(tt.accept).Tag; got != tt.want {
			t.Errorf("Match(%.60q) is %s, want %s", tt.accept, got, tt.want)
		}
	}
}

func FuzzMatch(f *testing.F) {
	for _, s := range []string{"de-CH,fr;q=0.5", "*;q=0", "a;q=a,,;", "x-klingon", "en-a-bbb-x-a-ccc"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, accept string) {
		if Match(accept) == nil {
			t.Error("no words")
		}
	})
}

func TestTimes(t *testing.T) {
	at := time.Date(2026, 12, 25, 16, 4, 0, 0, time.FixedZone("CET", 3600))
	first := time.Date(2027, 3, 1, 9, 5, 0, 0, time.UTC)
	tests := []struct{ tag, date, full, first, clock string }{
		{"en", "25 December 2026, 15:04 UTC", "Friday, 25 December 2026, 16:04 (UTC+01:00)", "1 March 2027", "09:05 UTC, 1 March"},
		{"de", "25. Dezember 2026, 15:04 Uhr UTC", "Freitag, 25. Dezember 2026, 16:04 Uhr (UTC+01:00)", "1. März 2027", "09:05 Uhr UTC, 1. März"},
		{"fr", "25 décembre 2026 à 15:04 UTC", "vendredi 25 décembre 2026 à 16:04 (UTC+01:00)", "1er mars 2027", "09:05 UTC, 1er mars"},
		{"es", "25 de diciembre de 2026, 15:04 UTC", "viernes, 25 de diciembre de 2026, 16:04 (UTC+01:00)", "1 de marzo de 2027", "09:05 UTC, 1 de marzo"},
		{"ar", "٢٥ ديسمبر ٢٠٢٦، الساعة ١٥:٠٤ بتوقيت UTC", "الجمعة، ٢٥ ديسمبر ٢٠٢٦، الساعة ١٦:٠٤ (UTC+01:00)", "١ مارس ٢٠٢٧", "٠٩:٠٥ بتوقيت UTC، ١ مارس"},
		{"ja", "2026年12月25日 15:04 (UTC)", "2026年12月25日 金曜日 16:04 (UTC+01:00)", "2027年3月1日", "3月1日 09:05 (UTC)"},
	}
	for _, tt := range tests {
		w := For(tt.tag)
		for what, got := range map[string][2]string{"date": {w.Date(at), tt.date}, "full": {w.Full(at), tt.full}, "first": {w.Day(first), tt.first}, "clock": {w.Clock(first), tt.clock}} {
			if got[0] != got[1] {
				t.Errorf("%s %s: %q, want %q", tt.tag, what, got[0], got[1])
			}
		}
		for m := time.January; m <= time.December; m++ {
			if got := w.Day(time.Date(2026, m, 2, 0, 0, 0, 0, time.UTC)); strings.Contains(got, "{") {
				t.Errorf("%s: %q", tt.tag, got)
			}
		}
		if n := len(strings.Fields(w.T("time.months"))); n != 12 {
			t.Errorf("%s has %d months", tt.tag, n)
		}
		if n := len(strings.Fields(w.T("time.weekdays"))); n != 7 {
			t.Errorf("%s has %d days in a week", tt.tag, n)
		}
		if w.Date(time.Time{}) != "" || w.In(time.Time{}, at) != "" || w.Ago(time.Time{}, at) != "" {
			t.Errorf("%s tells of no time", tt.tag)
		}
	}
}

func TestRelative(t *testing.T) {
	const day = 24 * time.Hour
	now := time.Date(2026, 12, 25, 16, 4, 0, 0, time.UTC)
	tests := []struct {
		tag  string
		d    time.Duration // ahead; behind where negative
		want string
	}{
		{"en", time.Second, "in a minute"}, {"en", time.Minute, "in a minute"}, {"en", 61 * time.Second, "in 2 minutes"},
		{"en", 30 * day, "in 30 days"}, {"en", 3 * time.Hour, "in 3 hours"}, {"en", 0, ""},
		{"en", -time.Second, "just now"}, {"en", -time.Minute, "a minute ago"}, {"en", -5 * time.Minute, "5 minutes ago"},
		{"en", -36 * time.Hour, "36 hours ago"}, {"en", -72 * time.Hour, "3 days ago"},
		{"de", 3 * day, "in 3 Tagen"}, {"fr", 2 * time.Hour, "dans 2 heures"}, {"es", -time.Minute, "hace un minuto"},
		{"ar", 2 * time.Minute, "خلال دقيقتين"}, {"ar", 3 * day, "خلال ٣ أيام"}, {"ar", 30 * day, "خلال ٣٠ يومًا"}, {"ar", 100 * day, "خلال ١٠٠ يوم"},
		{"ja", 3 * day, "あと3日"}, {"ja", -5 * time.Minute, "5分前"},
	}
	for _, tt := range tests {
		w := For(tt.tag)
		got := w.In(now.Add(tt.d), now)
		if tt.d < 0 {
			got = w.Ago(now.Add(tt.d), now)
		}
		if got != tt.want {
			t.Errorf("%s, %s: %q, want %q", tt.tag, tt.d, got, tt.want)
		}
	}
}

func TestSize(t *testing.T) {
	tests := []struct {
		tag  string
		n    int64
		want string
	}{
		{"en", 1, "1 byte"}, {"en", 419, "419 bytes"}, {"en", 12_345, "12 kB"}, {"en", 999_499, "999 kB"}, {"en", 999_500, "1.0 MB"},
		{"en", 1_234_567, "1.2 MB"}, {"en", 999_949_999, "999.9 MB"}, {"en", 2_500_000_000, "2.5 GB"},
		{"de", 1_234_567, "1,2 MB"}, {"fr", 1_234_567, "1,2 Mo"}, {"es", 0, "0 bytes"},
		{"ar", 1_234_567, "١٫٢ ميغابايت"}, {"ar", 2, "بايتان"}, {"ja", 419, "419バイト"},
	}
	for _, tt := range tests {
		if got := For(tt.tag).Size(tt.n); got != tt.want {
			t.Errorf("%s, %d: %q, want %q", tt.tag, tt.n, got, tt.want)
		}
	}
}

func TestHTML(t *testing.T) {
	w := For("en")
	if got := w.HTML("size.mb", "<b>"); got != "<bdi>&lt;b&gt;</bdi> MB" {
		t.Errorf("text among the arguments: %q", got)
	}
	if got := w.HTML("size.mb", template.HTML("<b>1</b>")); got != "<b>1</b> MB" {
		t.Errorf("HTML among the arguments: %q", got)
	}
	if got := w.HTML("size.mb", "%d\x000\x00"); strings.Contains(string(got), "BADINDEX") || !strings.Contains(string(got), "%d") {
		t.Errorf("verbs in an argument: %q", got)
	}
	if got := w.HTML("no.<key>"); got != "no.&lt;key&gt;" {
		t.Errorf("no such key: %q", got)
	}
}
