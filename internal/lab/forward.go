package lab

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
)

// Relay joins every connection to ln with a new one to address, until ctx is
// done. It lets a browser outside a namespace reach the portal inside: Relay from
// a TCP listener to a unix socket below [Shared] on the outside, and from that
// socket to the portal on the inside.
func Relay(ctx context.Context, ln net.Listener, network, address string) {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	for {
		from, err := ln.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			defer from.Close()
			to, err := new(net.Dialer).DialContext(ctx, network, address)
			if err != nil {
				return
			}
			defer to.Close()
			defer context.AfterFunc(ctx, func() { from.Close(); to.Close() })()
			done := make(chan struct{})
			go func() {
				defer close(done)
				io.Copy(to, from)
				closeWrite(to)
			}()
			io.Copy(from, to)
			closeWrite(from)
			<-done
		})
	}
}

func closeWrite(c net.Conn) {
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		w.CloseWrite()
	}
}

// ListenUnix listens on a unix socket, in the place of a stale one.
func ListenUnix(path string) (net.Listener, error) {
	os.Remove(path)
	return net.Listen("unix", path)
}
