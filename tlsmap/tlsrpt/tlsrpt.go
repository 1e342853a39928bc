// Package tlsrpt counts how TLS went and reports it to the destinations that ask
// for it (RFC 8460).
package tlsrpt
