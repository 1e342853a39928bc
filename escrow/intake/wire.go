package intake

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// maxLine is the longest command line, in bytes with its end. Postfix sends an
// address of up to 2 KiB, with an ORCPT of up to three times that.
const maxLine = 16 << 10

// wire stands between a connection and go-smtp, which reads commands and writes
// replies through it. It does what go-smtp 0.25 would do wrong or not at all:
//
//   - go-smtp's reader of DATA takes CR CR LF for no line end, and so misses the end
//     of a message whose last line ends in a CR, and keeps a stuffed dot behind one.
//     wire reads the text itself ([wire.text]), and shows go-smtp an empty message.
//   - go-smtp's BDAT takes a chunk that is cut off for a complete one, makes 554, a
//     bounce, of a read error within one, and mixes up the results of two messages
//     after RSET. wire reads the chunks itself and shows go-smtp a DATA in their place.
//   - An ORCPT of a type other than rfc822 or utf-8, or with octets above 127, becomes
//     501, a bounce. wire takes the parameter out and keeps it as it came.
//   - Lines of DATA count against the limit for command lines. wire limits command
//     lines alone.
//   - The read deadline is for a whole message. wire gives each read its own.
//   - There is no XFORWARD; wire takes the one attribute that is wanted, IDENT.
//
// What is read goes to go-smtp one command at a time, so that nothing of a text or a
// later command lies in go-smtp's buffers.
type wire struct {
	net.Conn
	br   *bufio.Reader
	log  *slog.Logger
	lmtp bool
	gate *gate

	// Used by one goroutine of go-smtp at a time, that which has the turn.
	pending  []byte    // given to go-smtp next
	text     io.Reader // of the message, between 354 and the end; a dotReader or a chunkReader
	chunk    *chunk    // the first chunk, while go-smtp thinks of the reply to DATA
	skip     int64     // bytes of a refused chunk
	next     string    // a command line that was read already
	orcpt    string    // of the RCPT command in hand, "" for none
	ident    string    // XFORWARD IDENT
	awaiting bool      // the reply to DATA
	greeting bool      // the reply to EHLO or LHLO

	confirmed func(read bool) // what to call at Close, see session

	muted  atomic.Bool // replies to a message that the client has taken back
	silent atomic.Bool // nothing is written any more
	gone   atomic.Bool // the peer can't have read our replies
	eof    atomic.Bool // the peer has closed

	mu      sync.Mutex
	busy    bool      // with a message
	until   time.Time // when the message must be here
	closing bool      // the server shuts down
	closed  bool      // Close was called
}

func newWire(c net.Conn, g *gate) *wire {
	w := &wire{Conn: c, lmtp: g.lmtp, gate: g}
	w.log = g.log.With("peer", peerName(c))
	w.br = bufio.NewReaderSize(armed{w}, maxLine)
	return w
}

func peerName(c net.Conn) string {
	if a := c.RemoteAddr(); a != nil && a.String() != "" && a.String() != "@" {
		return a.String()
	}
	return "local"
}

// armed gives each read a deadline.
type armed struct{ w *wire }

func (a armed) Read(p []byte) (int, error) {
	if err := a.w.arm(); err != nil {
		return 0, err
	}
	n, err := a.w.Conn.Read(p)
	if err == io.EOF {
		a.w.eof.Store(true)
	} else if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, net.ErrClosed) {
		a.w.gone.Store(true)
	}
	return n, err
}

func (w *wire) arm() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return net.ErrClosed // go-smtp reads on after QUIT
	}
	if w.closing && !w.busy {
		return os.ErrDeadlineExceeded
	}
	until := time.Now().Add(w.gate.limits.idle)
	if w.busy && w.until.Before(until) {
		until = w.until
	}
	return w.Conn.SetReadDeadline(until)
}

// setBusy notes that a message begins or is done.
func (w *wire) setBusy(busy bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if busy && !w.busy {
		w.until = time.Now().Add(w.gate.limits.message)
	}
	w.busy = busy
}

// shut ends the connection when it is between messages.
func (w *wire) shut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closing = true
	if !w.busy {
		w.Conn.SetReadDeadline(time.Unix(1, 0))
	}
}

// SetReadDeadline does nothing: see armed.
func (w *wire) SetReadDeadline(time.Time) error { return nil }

// SetDeadline is not used by go-smtp.
func (w *wire) SetDeadline(t time.Time) error { return w.SetWriteDeadline(t) }

// Read gives go-smtp one command line at a time, or the end of an empty message in
// the place of a text.
func (w *wire) Read(p []byte) (int, error) {
	for len(w.pending) == 0 {
		if w.text != nil {
			if _, err := io.Copy(io.Discard, w.text); err != nil && !errors.Is(err, errTakenBack) {
				w.log.Warn("message cut off", "error", err)
				w.silent.Store(true) // go-smtp's words would come too late
				return 0, err
			}
			w.text, w.pending = nil, []byte(".\r\n")
			break
		}
		if err := w.command(); err != nil {
			return 0, err
		}
	}
	n := copy(p, w.pending)
	w.pending = w.pending[n:]
	return n, nil
}

// line reads one command line, without its end.
func (w *wire) line() (string, error) {
	if w.skip > 0 {
		if _, err := io.CopyN(io.Discard, w.br, w.skip); err != nil {
			return "", err
		}
		w.skip = 0
	}
	line, err := w.br.ReadSlice('\n')
	if err != nil {
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return "", w.garbage("command line too long")
		case err == io.EOF && len(line) > 0:
			w.log.Warn("connection closed within a command line")
		case errors.Is(err, os.ErrDeadlineExceeded):
			w.timedOut()
		case err != io.EOF && !errors.Is(err, net.ErrClosed):
			w.log.Info("connection lost", "error", err)
		}
		return "", err
	}
	text := strings.TrimRight(string(line), "\r\n")
	if verb, _, _ := strings.Cut(text, " "); !isVerb(verb) {
		return "", w.garbage("not a command")
	}
	return text, nil
}

// command reads one command line into pending.
func (w *wire) command() (err error) {
	text := w.next
	if w.next = ""; text == "" {
		if text, err = w.line(); err != nil {
			return err
		}
	}
	w.orcpt, w.awaiting, w.greeting, w.chunk = "", false, false, nil
	w.muted.Store(false)
	verb, arg, _ := strings.Cut(text, " ")
	switch strings.ToUpper(verb) {
	case "XFORWARD":
		return w.xforward(arg)
	case "EHLO", "LHLO":
		w.greeting = true
	case "DATA":
		w.awaiting = true
	case "RCPT":
		rest, orcpt := cutORCPT(strings.TrimSpace(arg))
		w.orcpt = orcpt
		text = verb + " " + rest
	case "BDAT":
		c, ok := parseChunk(arg)
		if !ok {
			return w.garbage("bad chunk size") // nobody knows where the next command is
		}
		w.chunk, w.awaiting, text = &c, true, "DATA"
	}
	w.pending = []byte(text + "\r\n")
	return nil
}

// say writes a reply of our own.
func (w *wire) say(reply string) error {
	if err := w.SetWriteDeadline(time.Now().Add(w.gate.limits.write)); err != nil {
		return err
	}
	_, err := io.WriteString(w.Conn, reply+"\r\n")
	return err
}

// isVerb reports whether v may be a command: letters alone, as many as the
// shortest and the longest have. What begins otherwise is no client of ours (TLS,
// HTTP, noise), and is not worth an answer for every line.
func isVerb(v string) bool {
	if len(v) < 4 || len(v) > 10 {
		return false
	}
	for i := 0; i < len(v); i++ {
		if c := v[i] | 0x20; c < 'a' || c > 'z' {
			return false
		}
	}
	return true
}

func (w *wire) timedOut() {
	w.mu.Lock()
	closing := w.closing
	w.mu.Unlock()
	if !closing {
		w.log.Warn("connection closed: the client was silent too long")
	}
}

// garbage ends the connection.
func (w *wire) garbage(why string) error {
	w.log.Warn("connection closed: bad input", "reason", why)
	w.gate.metrics.garbage.Inc()
	w.SetWriteDeadline(time.Now().Add(time.Second))
	io.WriteString(w.Conn, "500 5.5.2 Error: "+why+", closing\r\n")
	w.silent.Store(true)
	return io.EOF // go-smtp goes without a word
}

// xforward answers XFORWARD, of which IDENT is kept: Postfix's queue id.
func (w *wire) xforward(arg string) error {
	reply := "250 2.0.0 Ok"
	for _, a := range strings.Fields(arg) {
		name, value, ok := strings.Cut(a, "=")
		if !ok {
			reply = "501 5.5.4 Bad XFORWARD syntax"
			break
		}
		if strings.EqualFold(name, "IDENT") {
			w.ident = ""
			if isIdent(value) {
				w.ident = value
			}
		}
	}
	return w.say(reply)
}

// isIdent reports whether s may be a queue id: it goes into logs and commands.
func isIdent(s string) bool {
	if s == "" || len(s) > 64 || strings.EqualFold(s, "[UNAVAILABLE]") {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return true
}

// Write passes on what go-smtp writes, one reply line in each call.
func (w *wire) Write(p []byte) (int, error) {
	if w.silent.Load() {
		return 0, net.ErrClosed
	}
	if w.muted.Load() {
		return len(p), nil
	}
	if w.awaiting {
		w.awaiting = false
		goOn := bytes.HasPrefix(p, []byte("354"))
		w.setBusy(goOn)
		switch c := w.chunk; {
		case goOn && c != nil:
			w.text = &chunkReader{w: w, chunk: *c}
			return len(p), nil // BDAT has no 354
		case goOn:
			w.text = newDotReader(w.br)
		case c != nil:
			w.skip = c.size // it follows all the same
		}
	}
	if w.greeting && len(p) > 3 && p[3] == ' ' {
		w.greeting = false
		if w.lmtp && bytes.HasPrefix(p, []byte("250 ")) {
			if _, err := io.WriteString(w.Conn, "250-XFORWARD IDENT\r\n"); err != nil {
				return 0, err
			}
		}
	}
	if bytes.HasPrefix(p, []byte("500 5.5.1 Too many errors")) {
		w.log.Warn("connection closed: bad input", "reason", "too many errors")
		w.gate.metrics.garbage.Inc()
	}
	n, err := w.Conn.Write(p)
	if err != nil {
		w.gone.Store(true)
	}
	return n, err
}

// Close closes the connection. Where replies to a message were written and the
// client went away without another command, it waits in the background for the
// client to close: that it has closed, and has not refused what we wrote, says that
// it has read the replies. (Postfix sends QUIT together with the end of the message,
// so the QUIT says nothing.)
//
// go-smtp calls it twice.
func (w *wire) Close() error {
	w.mu.Lock()
	again := w.closed
	w.closed = true
	w.mu.Unlock()
	if again {
		return nil
	}
	defer w.gate.leave(w)
	confirmed := w.confirmed
	if confirmed == nil {
		return w.Conn.Close()
	}
	half, ok := w.Conn.(interface{ CloseWrite() error })
	if w.gone.Load() || w.silent.Load() || !ok || half.CloseWrite() != nil {
		confirmed(false)
		return w.Conn.Close()
	}
	w.gate.background.Go(func() {
		defer w.Conn.Close()
		if w.eof.Load() {
			confirmed(true)
			return
		}
		w.Conn.SetReadDeadline(time.Now().Add(w.gate.limits.linger))
		_, err := io.Copy(io.Discard, io.LimitReader(w.Conn, maxLine))
		confirmed(err == nil)
	})
	return nil
}

// checkPeer notes, just before the replies to a message, whether the client has
// gone already: what is written now it will not read.
func (w *wire) checkPeer() {
	if hungUp(w.Conn) {
		w.gone.Store(true)
	}
}
