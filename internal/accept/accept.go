// Package accept is what Postseal's two line-based servers (policy delegation and
// socketmap) share: an accept loop with a bound on connections, and a connection
// that reads requests and writes their answers, at little more than the cost of the
// system calls for that.
//
// Both protocols have one client, Postfix, which keeps its connections open and
// asks one thing at a time. So a connection spends its life waiting for a
// request (bounded by Idle), and neither a peer that stops in the middle of a
// request (Request) nor one that does not take its answer (Write) may hold it.
package accept

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"time"
)

// Limits bound what peers can take. Zero fields are replaced by the defaults of
// [Limits.WithDefaults].
type Limits struct {
	Connections int           // at a time
	Idle        time.Duration // between two requests, at least; up to two seconds more
	Request     time.Duration // from the first to the last byte of a request
	Write       time.Duration // for the peer to take an answer

	look time.Duration // how long a busy connection waits before it looks by itself; see Conn.ready
}

// WithDefaults fills in what is zero: 2000 connections, idle as given, 30 seconds
// for the rest of a request and for taking an answer.
func (l Limits) WithDefaults(idle time.Duration) Limits {
	if l.Connections == 0 {
		l.Connections = 2000
	}
	if l.Idle == 0 {
		l.Idle = idle
	}
	if l.Request == 0 {
		l.Request = 30 * time.Second
	}
	if l.Write == 0 {
		l.Write = 30 * time.Second
	}
	if l.look == 0 {
		l.look = 2 * time.Second
	}
	return l
}

// Loop accepts connections on ln, which it closes, until ctx is done, and serves
// each in a goroutine of its own. It returns when all of them have ended: nil after
// such a shutdown, else the error that ended ln. A connection over the limit is
// closed at once, as is one whose serve fails or panics, with a log line that
// names the peer; running out of file descriptors is waited out.
func Loop(ctx context.Context, ln net.Listener, l Limits, log *slog.Logger, serve func(*Conn) error) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // runs before Wait, and wakes the connections
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	slots := make(chan struct{}, l.Connections)
	pause := time.Duration(0)
	for {
		c, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) || pause >= 10*time.Second {
				ln.Close()
				return fmt.Errorf("accept on %s: %w", ln.Addr(), err)
			}
			pause = max(5*time.Millisecond, 2*pause)
			log.Warn("cannot accept, trying again", "listener", ln.Addr(), "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			continue
		}
		pause = 0
		select {
		case slots <- struct{}{}:
		default:
			log.Warn("too many connections, closing this one", "peer", peer(c), "limit", l.Connections)
			c.Close()
			continue
		}
		conns.Go(func() {
			defer func() { <-slots }()
			guard(ctx, c, l, log, serve)
		})
	}
}

func guard(ctx context.Context, c net.Conn, l Limits, log *slog.Logger, serve func(*Conn) error) {
	defer c.Close()
	defer func() {
		if p := recover(); p != nil {
			log.Error("panic while serving, connection closed", "peer", peer(c), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	// Postfix keeps idle connections open: wake the reader on shutdown.
	defer context.AfterFunc(ctx, func() { c.SetReadDeadline(past) })()
	if err := serve(&Conn{conn: c, ctx: ctx, limits: l}); err != nil {
		log.Warn("connection closed", "peer", peer(c), "error", err)
	}
}

// past wakes a reader: any moment before now.
var past = time.Unix(1, 0)

// peer names the other end, and for a unix socket, where it has no name, this one.
func peer(c net.Conn) string {
	if a := c.RemoteAddr(); a != nil && a.String() != "" && a.String() != "@" {
		return a.String()
	}
	return "unix:" + c.LocalAddr().String()
}
