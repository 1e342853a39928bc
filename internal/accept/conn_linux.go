package accept

import (
	"cmp"
	"io"
	"os"
	"syscall"
	"unsafe"
)

// exchange reads and answers until there is an error.
//
// Package net looks for more to read after each answer, finds nothing, and only then
// waits; and tells the scheduler of each system call, as if it could take long. Here
// the connection waits at once, for the poller to say that something has come since the
// last read, and the calls are those of a socket that never blocks. That is a third of the
// processor time of an answer.
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
		n, errno := transfer(syscall.SYS_READ, fd, room)
		switch {
		case errno == syscall.EINTR:
			continue
		case errno == syscall.EAGAIN:
			return false, nil
		case errno != 0:
			return true, os.NewSyscallError("read", errno)
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
	n, errno := transfer(syscall.SYS_WRITE, fd, b)
	switch {
	case errno == 0 && n == len(b):
		return nil
	case errno == 0:
		b = b[n:]
	case errno != syscall.EAGAIN && errno != syscall.EINTR:
		return os.NewSyscallError("write", errno)
	}
	return c.write(b)
}

// transfer reads or writes b, which is not empty, without a word to the scheduler: sockets
// of package net don't block.
func transfer(trap uintptr, fd int, b []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall(trap, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}
