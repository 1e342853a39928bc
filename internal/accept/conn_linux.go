package accept

import (
	"cmp"
	"io"
	"os"
	"syscall"
)

// exchange reads and answers until there is an error.
//
// Package net looks for more to read after each answer, finds nothing, and only then
// waits; and tells the scheduler of each system call, as if it could take long. Here
// the connection waits at once, for the poller to say that something has come since the
// last read, and the calls are those of a socket that never blocks. docs/bench.md has what an
// answer takes by that.
func (c *Conn) exchange() error {
	sc, ok := c.conn.(syscall.Conn)
	if !ok {
		return c.exchangeByNet()
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	var ended error
	err = raw.Read(func(fd uintptr) bool {
		var done bool
		done, ended = c.ready(int(fd))
		return done
	})
	return cmp.Or(ended, err)
}

// ready reads and answers what has come, and reports whether that is all for ever, and
// why.
//
// Who calls it again does so when something has come after this call, so what is there now
// must all be taken: a read that fills less of the buffer than there was room has taken
// it (epoll(7)). Only the end of the stream can be there still, if it came together with
// what was read: it is looked for at once after a part of a request. Postfix doesn't
// end the stream behind a request whose answer it wants; of anybody else that is found when
// a busy connection looks again.
func (c *Conn) ready(fd int) (done bool, why error) {
	for {
		room := c.in[c.end:]
		n, err := readNow(fd, room)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			return false, nil
		case err != nil:
			return true, os.NewSyscallError("read", err)
		case n == 0:
			return true, io.EOF
		case !c.took(n, func(b []byte) error { return c.send(fd, b) }):
			return true, c.failed
		case n < len(room) && c.phase != partial, c.ctx.Err() != nil:
			return false, nil
		}
	}
}

// send writes b: at once, as far as the peer takes it.
func (c *Conn) send(fd int, b []byte) error {
	n, err := writeNow(fd, b)
	switch {
	case err == nil && n == len(b):
		return nil
	case err == nil:
		b = b[n:]
	case err != syscall.EAGAIN && err != syscall.EINTR:
		return os.NewSyscallError("write", err)
	}
	return c.write(b)
}
