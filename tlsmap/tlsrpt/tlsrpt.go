// Package tlsrpt counts how TLS went and reports it to the destinations that ask
// for it (RFC 8460).
//
// What is counted are Postseal's own sessions: those of the probe, which are also
// the looks of the fallback, and failures to get an MTA-STS policy. Postfix's
// deliveries are not: Postfix 3.10 and later reports them itself, and would report
// them twice.
//
// The way of a count: the [Counter] judges each session by the policy of its
// destination and adds it up in memory, and every few seconds in the [Store], a row
// for each kind of outcome. After the end of a day (UTC) and a delay of up to four
// hours, which differs from domain to domain, the [Reporter] looks up the domain's
// [Record], has the rows made into a report ([Document]) for each of its URIs, in
// the transaction that deletes them, and sends it by mail or HTTPS until that has
// worked or a day is over.
//
// The package decides nothing: mail goes the same way with it and without.
package tlsrpt

import "time"

// DayOf returns the day of a time as it is written here, UTC: 2026-11-27.
func DayOf(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// bounds returns the first and the last second of a day.
func bounds(day string) (start, end time.Time, err error) {
	start, err = time.Parse(time.DateOnly, day)
	return start, start.Add(24*time.Hour - time.Second), err
}
