package words

import (
	"strconv"
	"strings"
	"time"

	"golang.org/x/text/number"
)

// Numbers, days and times are written as the language does, its digits included.
// Codes and numbers of messages are no numbers: they stay as they are, in strings.

// Number writes a whole number.
func (w *Words) Number(n int) string { return w.printer.Sprint(number.Decimal(n)) }

// Size writes a number of bytes as file managers do, in powers of 1000.
func (w *Words) Size(n int64) string {
	decimals := func(x float64, digits int) string {
		return w.printer.Sprint(number.Decimal(x, number.MinFractionDigits(digits), number.MaxFractionDigits(digits)))
	}
	switch {
	case n < 1000:
		return w.T("size.bytes", max(n, 0))
	case n < 999_500:
		return w.T("size.kb", decimals(float64(n)/1e3, 0))
	case n < 999_950_000:
		return w.T("size.mb", decimals(float64(n)/1e6, 1))
	default:
		return w.T("size.gb", decimals(float64(n)/1e9, 1))
	}
}

// Date writes a day and time for people who may be anywhere: in UTC, which is
// said. The zero time is "".
func (w *Words) Date(t time.Time) string { return w.time("time.date", t.UTC()) }

// Day writes a day alone, in UTC.
func (w *Words) Day(t time.Time) string { return w.time("time.day", t.UTC()) }

// Clock writes a time within the next days, the hour first, in UTC.
func (w *Words) Clock(t time.Time) string { return w.time("time.clock", t.UTC()) }

// Full writes a time with its day of the week, in its own time zone.
func (w *Words) Full(t time.Time) string { return w.time("time.full", t) }

func (w *Words) time(key string, t time.Time) string {
	if t.IsZero() {
		return ""
	}
	day := strconv.Itoa(t.Day())
	if t.Day() == 1 {
		day = w.T("time.first")
	}
	zone := "UTC"
	if _, offset := t.Zone(); offset != 0 {
		zone = t.Format("UTC-07:00") // the names of zones are known to few
	}
	return strings.NewReplacer(
		"{d}", w.digits(day),
		"{month}", nth(w.T("time.months"), int(t.Month())-1),
		"{y}", w.digits(strconv.Itoa(t.Year())),
		"{weekday}", nth(w.T("time.weekdays"), int(t.Weekday())),
		"{time}", w.digits(t.Format("15:04")),
		"{zone}", zone,
	).Replace(w.T(key))
}

// digits writes the digits of s with those of the language.
func (w *Words) digits(s string) string {
	var b strings.Builder
	for _, r := range s {
		if '0' <= r && r <= '9' {
			b.WriteString(w.figures[r-'0'])
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func nth(list string, n int) string {
	if names := strings.Fields(list); n < len(names) {
		return names[n]
	}
	return strconv.Itoa(n + 1)
}

// In tells how far ahead t is, roughly, as people do; "" once it is over.
func (w *Words) In(t, now time.Time) string {
	switch d := t.Sub(now); {
	case d <= 0 || t.IsZero():
		return ""
	case d < 2*time.Hour:
		return w.T("time.in-minutes", int((d+59*time.Second)/time.Minute))
	case d < 48*time.Hour:
		return w.T("time.in-hours", int(d/time.Hour))
	default:
		return w.T("time.in-days", int(d/(24*time.Hour)))
	}
}

// Until writes the day and time of t, and how far ahead it is.
func (w *Words) Until(t, now time.Time) string {
	if in := w.In(t, now); in != "" {
		return w.T("time.until", w.Date(t), in)
	}
	return w.Date(t)
}

// Ago tells how long ago t was, as people do; "" for the zero time.
func (w *Words) Ago(t, now time.Time) string {
	switch d := now.Sub(t); {
	case t.IsZero():
		return ""
	case d < time.Minute:
		return w.T("time.now")
	case d < 2*time.Hour:
		return w.T("time.ago-minutes", int(d/time.Minute))
	case d < 48*time.Hour:
		return w.T("time.ago-hours", int(d/time.Hour))
	default:
		return w.T("time.ago-days", int(d/(24*time.Hour)))
	}
}
