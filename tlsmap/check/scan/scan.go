// Package scan asks a mail host which TLS versions and cipher suites it takes.
//
// It writes ClientHellos and reads what comes back, by itself: it has to see what
// crypto/tls cannot do, such as DHE, 3DES and export suites. No handshake is
// finished, so nothing is ever sent that needs keys.
package scan

import (
	"context"
	"net"
	"time"
)

// Starter opens a connection to the host that is ready for a ClientHello: for SMTP
// after the reply to STARTTLS.
type Starter func(ctx context.Context) (net.Conn, error)

// Options say how to scan.
type Options struct {
	ServerName  string        // SNI; "" for none
	Connections int           // at most; default 40
	Pause       time.Duration // between connections
	Timeout     time.Duration // for each answer; default 10 s
}

// Result is what a host takes.
type Result struct {
	Connections int    `json:"connections"`
	Complete    bool   `json:"complete"`
	Error       string `json:"error,omitempty"`
}

// Scan asks a host.
func Scan(ctx context.Context, start Starter, o Options) *Result { return &Result{} }
