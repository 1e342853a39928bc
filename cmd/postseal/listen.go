package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
)

// listen opens HOST:PORT or unix:PATH. The socket of an earlier run that nobody
// listens on is removed; one that is in use is an error. Sockets are open to
// every local user, as TCP on loopback is; the directory says who gets near.
func listen(addr string) (net.Listener, error) {
	path, unix := strings.CutPrefix(addr, "unix:")
	if !unix {
		ln, err := net.Listen("tcp", addr)
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("listen on %s: the address is in use; is postseal running already?", addr)
		}
		return ln, err
	}
	fi, err := os.Lstat(path)
	if err == nil && fi.Mode()&fs.ModeSocket == 0 {
		return nil, fmt.Errorf("listen on %s: something that is no socket is there; name another path, or move it away", addr)
	}
	if err == nil {
		if conn, err := net.Dial("unix", path); err == nil {
			conn.Close()
			return nil, fmt.Errorf("listen on %s: the socket is in use; is postseal running already?", addr)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", addr, err)
		}
	}
	ln, err := net.Listen("unix", path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: its directory does not exist: create it, open to Postfix's user", addr)
	}
	if errors.Is(err, syscall.EINVAL) {
		return nil, fmt.Errorf("listen on %s: the path is too long for a socket: want less than 108 bytes", addr)
	}
	if err != nil {
		return nil, err
	}
	return ln, os.Chmod(path, 0o666)
}

// postfixHop writes a listener as a next-hop of Postfix's lmtp(8).
func postfixHop(listen string) string {
	if path, ok := strings.CutPrefix(listen, "unix:"); ok {
		return "unix:" + path
	}
	host, port, _ := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "inet:" + net.JoinHostPort(host, port)
}

// postfixRelay writes a TCP listener as a next-hop of Postfix's smtp(8).
func postfixRelay(listen string) string {
	host, port, _ := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "[" + host + "]:" + port
}

// dialable returns where this program reaches a listener of its own: HOST:PORT or
// unix:PATH.
func dialable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if strings.HasPrefix(listen, "unix:") || err != nil {
		return listen
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		if ip.To4() == nil {
			host = "::1"
		}
	}
	return net.JoinHostPort(host, port)
}
