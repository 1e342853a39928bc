// Package dane judges TLSA records: which of them a sender can use, and whether a
// certificate chain matches one (RFC 6698, RFC 7671, RFC 7672). It looks nothing up.
package dane
