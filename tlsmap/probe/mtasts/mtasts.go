// Package mtasts reads, fetches and keeps MTA-STS policies (RFC 8461).
package mtasts
