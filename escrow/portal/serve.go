package portal

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"
)

// Limits of the server. There is none on the time of a whole answer: each write
// has its own, so that a large download on a slow phone ends well.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 16 << 10 // bytes
	maxConns      = 1024
	drainTimeout  = 10 * time.Second
)

// CheckListen reports whether the portal may listen on addr, HOST:PORT or
// unix:PATH: without a certificate on loopback and unix sockets only, for a proxy
// in front.
func CheckListen(addr string, hasCert bool) error {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		if path == "" {
			return errors.New("portal: unix: wants a path")
		}
		return nil
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("portal: listen address %q: want HOST:PORT or unix:PATH", addr)
	}
	if hasCert || strings.EqualFold(host, "localhost") {
		return nil
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.Unmap().IsLoopback() {
		return nil
	}
	return fmt.Errorf("portal: %q is not on loopback and there is no certificate: set --portal-cert and --portal-key, or listen on 127.0.0.1 behind a proxy that has one", addr)
}

// Run serves h, from [New], on ln, which it closes, until ctx is done; downloads
// under way get ten seconds more. With config it speaks TLS. It returns nil after
// such a shutdown, else the error that ended ln. Plaintext on anything but
// loopback or a unix socket is refused.
func Run(ctx context.Context, ln net.Listener, h http.Handler, config *tls.Config) error {
	if config == nil {
		if a, ok := ln.Addr().(*net.TCPAddr); ok && !a.IP.IsLoopback() {
			ln.Close()
			return CheckListen(a.String(), false)
		}
	}
	log, proxies := slog.New(slog.DiscardHandler), netip.Addr.IsLoopback
	if s, ok := h.(*site); ok {
		log, proxies = s.log, s.proxies
	}
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn), // names peers, never paths
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, servedKey{}, c)
		},
	}
	ln = &perClient{Listener: netutil.LimitListener(ln, maxConns), most: maxPerClient, proxies: proxies, log: log}
	ln = &listener{Listener: ln, log: log}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		if srv.Shutdown(drain) != nil {
			srv.Close()
		}
	})
	var err error
	if config != nil {
		srv.TLSConfig = config.Clone()
		err = srv.ServeTLS(ln, "", "")
	} else {
		err = srv.Serve(ln)
	}
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) && ctx.Err() != nil {
		return nil
	}
	ln.Close()
	return fmt.Errorf("portal: %w", err)
}

// listener wraps connections in ones that tell in the log if they went away
// without a request that could be read: net/http itself is silent about garbage.
type listener struct {
	net.Listener
	log *slog.Logger
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, log: l.log}, nil
}

type conn struct {
	net.Conn
	log    *slog.Logger
	got    atomic.Bool // some bytes, or waited for in vain
	served atomic.Bool // a request
	closed atomic.Bool
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		c.got.Store(true)
	}
	return n, err
}

func (c *conn) Close() error {
	if c.closed.CompareAndSwap(false, true) && c.got.Load() && !c.served.Load() {
		c.log.Info("portal connection without a readable request", "peer", c.RemoteAddr().String())
	}
	return c.Conn.Close()
}

type servedKey struct{}

// markServed notes that the connection brought a request.
func markServed(ctx context.Context) {
	c, _ := ctx.Value(servedKey{}).(net.Conn)
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if c, ok := c.(*conn); ok {
		c.served.Store(true)
	}
}
