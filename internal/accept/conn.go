package accept

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

const (
	usualBuffer = 2 << 10 // bytes of a connection's buffer for requests
	keptBuffer  = 8 << 10 // what one may keep that had a longer request
	keptAnswer  = 16 << 10
)

// Answer answers the first request of in: it appends the answer to out, and returns that
// and the length of the request. 0 says that in does not hold a whole one yet. An error
// closes the connection, without what was appended. in is valid during the call.
type Answer func(in, out []byte) (n int, answer []byte, err error)

// Conn is one connection of [Loop].
type Conn struct {
	conn   net.Conn
	ctx    context.Context
	limits Limits

	most   int
	answer Answer
	in     []byte
	end    int // in[:end] is unanswered
	out    []byte
	phase  phase
	served bool  // since the deadline of busy was set
	failed error // of an answer
}

// phase says which deadline is in force. A deadline is set when the phase changes, and
// not with each request.
type phase int

const (
	idle    phase = iota // until a request comes: Idle
	busy                 // one after the other: look
	partial              // until the rest of a request comes: Request
)

// Context is done when the server shuts down. What has been read is still to be
// answered.
func (c *Conn) Context() context.Context { return c.ctx }

// Serve answers the requests of the connection, of most bytes each, in their order. It
// returns nil when the peer has left between two requests and when the server shuts
// down; else what was wrong with the peer, or the error of answer.
func (c *Conn) Serve(most int, answer Answer) error {
	c.most, c.answer = most, answer
	c.in = make([]byte, min(usualBuffer, most))
	c.deadline(c.limits.Idle)
	for {
		err := c.exchange()
		switch {
		case c.ctx.Err() != nil, errors.Is(err, net.ErrClosed):
			return nil
		case c.failed != nil:
			return c.failed
		case errors.Is(err, io.EOF) && c.end == 0:
			return nil
		case errors.Is(err, io.EOF):
			return errors.New("connection ended inside a request")
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("read request: %w", err)
		case c.phase == partial:
			return errors.New("the rest of a request did not come in time")
		case c.phase == idle:
			return errors.New("idle for too long")
		}
		if c.served {
			c.served = false
			c.deadline(c.limits.look)
		} else {
			c.phase = idle
			c.deadline(c.limits.Idle)
		}
	}
}

// took answers what is whole of the requests after n more bytes were read, and sets the
// deadline of the next read. It reports false where the connection is to be closed,
// and keeps why.
func (c *Conn) took(n int, write func([]byte) error) bool {
	c.end += n
	c.failed = c.answers(write)
	return c.failed == nil
}

func (c *Conn) answers(write func([]byte) error) error {
	from := 0
	for from < c.end {
		n, out, err := c.answer(c.in[from:c.end], c.out[:0])
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		from += n
		if err := write(out); err != nil {
			return fmt.Errorf("write answer: %w", err)
		}
		if c.out = out; cap(out) > keptAnswer {
			c.out = nil
		}
	}
	rest := c.in[from:c.end]
	switch {
	case len(c.in) > keptBuffer && len(rest) < usualBuffer:
		c.in = make([]byte, usualBuffer)
		copy(c.in, rest)
	case len(rest) == len(c.in) && len(rest) >= c.most:
		return fmt.Errorf("request longer than %d bytes", c.most)
	case len(rest) == len(c.in):
		c.in = append(c.in, make([]byte, min(len(rest), c.most-len(rest)))...)
	case from > 0:
		copy(c.in, rest)
	}
	c.end = len(rest)
	switch {
	case c.end > 0 && c.phase != partial:
		c.phase = partial
		c.deadline(c.limits.Request)
	case c.end == 0 && c.phase != busy:
		c.phase = busy
		c.deadline(c.limits.look)
	}
	c.served = true
	return nil
}

// deadline has the next read end after d.
func (c *Conn) deadline(d time.Duration) {
	c.conn.SetReadDeadline(time.Now().Add(d))
	if c.ctx.Err() != nil { // the shutdown's own wake-up may have come just before
		c.conn.SetReadDeadline(past)
	}
}

// exchangeByNet reads and answers by package net, until there is an error.
func (c *Conn) exchangeByNet() error {
	for {
		n, err := c.conn.Read(c.in[c.end:])
		if n > 0 {
			if !c.took(n, c.write) {
				return c.failed
			}
		}
		if err != nil {
			return err
		}
	}
}

// write writes b whole, or fails when the peer does not take it.
func (c *Conn) write(b []byte) error {
	c.conn.SetWriteDeadline(time.Now().Add(c.limits.Write))
	_, err := c.conn.Write(b)
	return err
}
