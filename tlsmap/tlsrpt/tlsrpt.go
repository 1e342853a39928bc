// Package tlsrpt counts how TLS went and reports it to the destinations that ask
// for it (RFC 8460).
//
// What is counted are Postseal's own sessions: those of the probe, which are also
// the looks of the fallback, and the fetches of MTA-STS policies. Postfix's
// deliveries are not: Postfix 3.10 and later reports them itself, and would report
// them twice.
package tlsrpt
