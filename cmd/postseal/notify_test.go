package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// notifySocket is what systemd would give us.
func notifySocket(t *testing.T) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return conn
}

func receive(t *testing.T, conn *net.UnixConn, wait time.Duration) string {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(wait))
	b := make([]byte, 1024)
	n, err := conn.Read(b)
	if err != nil {
		return ""
	}
	return string(b[:n])
}

func TestNotifyReady(t *testing.T) {
	conn := notifySocket(t)
	notifyReady(slog.New(slog.DiscardHandler))
	if got := receive(t, conn, 5*time.Second); got != "READY=1" {
		t.Errorf("systemd was told %q", got)
	}
}

func TestWatchdog(t *testing.T) {
	conn := notifySocket(t)
	t.Setenv("WATCHDOG_USEC", strconv.Itoa(100_000))
	t.Setenv("WATCHDOG_PID", "")
	well := make(chan error, 1)
	well <- nil
	state := error(nil)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- watchdog(ctx, slog.New(slog.DiscardHandler), func(context.Context) error {
			select {
			case state = <-well:
			default:
			}
			return state
		})
	}()
	if got := receive(t, conn, 5*time.Second); got != "WATCHDOG=1" {
		t.Errorf("systemd was told %q", got)
	}
	well <- errors.New("not well")
	for receive(t, conn, 300*time.Millisecond) != "" { // what was sent before
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got := receive(t, conn, 5*time.Second); got != "STOPPING=1" {
		t.Errorf("at the end systemd was told %q", got)
	}
}

func TestNoWatchdog(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "")
	if err := watchdog(t.Context(), slog.New(slog.DiscardHandler), nil); err != nil {
		t.Error(err)
	}
}
