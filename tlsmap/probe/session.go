package probe

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// target is one address of one mail host.
type target struct {
	host string // "" for an address literal; with dane the TLSA base domain
	addr netip.Addr
	port uint16
	dane bool // the host has TLSA records
}

// quitTime is how long a host may take over its reply to QUIT, which changes
// nothing any more.
const quitTime = 2 * time.Second

// cipherSuites are those of TLS 1.2 and older that OpenSSL's default, and so
// Postfix, takes and Go can do: what Go calls insecure for its key exchange or MAC
// is among them, RC4 and 3DES are not.
func cipherSuites() []uint16 {
	var ids []uint16
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if !strings.Contains(s.Name, "RC4") && !strings.Contains(s.Name, "3DES") {
			ids = append(ids, s.ID)
		}
	}
	return ids
}

// session speaks with one address as Postfix would, up to EHLO over TLS, sends
// QUIT, and says what it found. Each step has Options.Timeout, the whole three
// times as long. Where ctx ends first the state is Unknown: our own impatience
// says nothing of the host.
func (p *Prober) session(ctx context.Context, t target) (r AddressResult) {
	p.sessions.Add(1)
	defer func() {
		if fault := recover(); fault != nil { // foreign input must not end the program
			p.o.Log.Error("session with a mail host failed: please report this", "host", t.host, "addr", t.addr, "fault", fault, "stack", string(debug.Stack()))
			r = AddressResult{Addr: t.addr, State: policy.Unknown, Error: "internal fault"}
		}
	}()
	r = p.converse(ctx, t, t.host)
	// With TLSA records Postfix always names the TLSA base domain (RFC 7672, section 8.1).
	if t.host != "" && !t.dane && r.State == policy.Broken && strings.Contains(r.Error, "unrecognized name") {
		// Some hosts refuse a name that they do not know; Postfix sends none
		// unless told to.
		r = p.converse(ctx, t, "")
	}
	return r
}

func (p *Prober) converse(ctx context.Context, t target, sni string) AddressResult {
	start := time.Now()
	r := AddressResult{Addr: t.addr}
	dialing, cancel := context.WithTimeout(ctx, p.o.Timeout)
	conn, err := p.o.Dial(dialing, "tcp", netip.AddrPortFrom(t.addr, t.port).String())
	cancel()
	if err != nil {
		r.State, r.Error = policy.Unreachable, "connect: "+reason(err)
	} else {
		if local, err := netip.ParseAddrPort(conn.LocalAddr().String()); err == nil {
			r.Local = local.Addr().Unmap()
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		c := newClient(conn, p.o.Timeout, start.Add(3*p.o.Timeout))
		r.State, r.Error = p.talk(c, sni, &r)
		stop()
		conn.Close()
	}
	r.Error = clean(r.Error)
	if !t.dane {
		r.Sent = nil // large, and kept with the session
	}
	if ctx.Err() != nil && r.State != policy.Works {
		r.State, r.Error = policy.Unknown, "not looked at to the end"
	}
	r.DurationMS = time.Since(start).Milliseconds()
	return r
}

// errEarly reports bytes that came before they were asked for. Taken for the
// reply to the next command they would shift the whole conversation, and behind
// the reply to STARTTLS they would count as said over TLS.
var errEarly = errors.New("the host speaks before it is spoken to")

// talk is the session in plaintext.
func (p *Prober) talk(c *client, sni string, r *AddressResult) (policy.State, string) {
	got, err := c.read()
	if err != nil {
		return policy.Unreachable, "greeting: " + reason(err)
	}
	r.Banner = got.String()
	if got.class() != 2 {
		c.quit()
		return policy.Unreachable, "greeting: " + got.String()
	}
	got, err = c.command("EHLO " + p.o.HELO)
	if err == nil && got.class() == 5 {
		refused := got
		if got, err = c.command("HELO " + p.o.HELO); err == nil && got.class() == 2 {
			c.quit()
			return policy.Absent, "EHLO: " + refused.String() + "; HELO works"
		}
	}
	switch {
	case errors.Is(err, errEarly):
		return policy.Broken, reason(err)
	case err != nil:
		return policy.Unreachable, "EHLO: " + reason(err)
	case got.class() != 2:
		c.quit()
		return policy.Unreachable, "EHLO: " + got.String()
	}
	r.EHLO, r.STARTTLS = got.keywords(), got.keyword("STARTTLS")
	if !r.STARTTLS {
		c.quit()
		return policy.Absent, "no STARTTLS"
	}
	got, err = c.command("STARTTLS")
	switch {
	case err != nil:
		return policy.Broken, "STARTTLS: " + reason(err)
	case got.class() == 4:
		c.quit()
		return policy.Unreachable, "STARTTLS: " + got.String()
	case got.class() != 2:
		c.quit()
		return policy.Broken, "STARTTLS: " + got.String()
	case c.r.Buffered() > 0:
		return policy.Broken, "plaintext behind the reply to STARTTLS"
	}
	return p.talkTLS(c, sni, r)
}

// talkTLS is the handshake and the session over it.
func (p *Prober) talkTLS(c *client, sni string, r *AddressResult) (policy.State, string) {
	conn := tls.Client(c.conn, &tls.Config{
		ServerName: sni,
		// Certificates are recorded and judged afterwards, by what each rule
		// demands; level encrypt checks none.
		InsecureSkipVerify: true,
		MinVersion:         tls.VersionTLS10, // to see old ones; the floor decides
		CipherSuites:       p.suites,
		// Without the post-quantum key shares, whose large ClientHello old
		// hosts do not survive.
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521},
	})
	r.SNI = sni
	c.arm()
	if err := conn.Handshake(); err != nil {
		return policy.Broken, "TLS handshake: " + reason(err)
	}
	state := conn.ConnectionState()
	r.Version, r.Cipher = versionName(state.Version), tls.CipherSuiteName(state.CipherSuite)
	r.Cert = describe(state.PeerCertificates, p.o.Roots, p.o.Now())
	for _, c := range state.PeerCertificates {
		r.Sent = append(r.Sent, c.Raw)
	}

	over := newClient(conn, c.timeout, c.end)
	got, err := over.command("EHLO " + p.o.HELO)
	switch {
	case err != nil:
		return policy.Broken, "EHLO over TLS: " + reason(err)
	case got.class() == 4:
		over.quit()
		return policy.Unreachable, "EHLO over TLS: " + got.String()
	case got.class() != 2:
		over.quit()
		return policy.Broken, "EHLO over TLS: " + got.String()
	}
	r.TLS, r.EHLO = true, got.keywords()
	over.quit()
	conn.Close() // close_notify
	if state.Version < p.o.TLSFloor {
		return policy.Broken, fmt.Sprintf("%s is below the floor of %s", r.Version, versionName(p.o.TLSFloor))
	}
	return policy.Works, ""
}

// client is one SMTP session. The timeout is for a whole reply, however slowly
// its bytes come.
type client struct {
	conn    net.Conn
	r       *bufio.Reader
	timeout time.Duration
	end     time.Time // of the session
}

func newClient(conn net.Conn, timeout time.Duration, end time.Time) *client {
	return &client{conn, bufio.NewReaderSize(conn, maxReplyLine), timeout, end}
}

func (c *client) arm() {
	t := time.Now().Add(c.timeout)
	if c.end.Before(t) {
		t = c.end
	}
	c.conn.SetDeadline(t)
}

func (c *client) read() (reply, error) {
	c.arm()
	return readReply(c.r)
}

func (c *client) command(line string) (reply, error) {
	if c.r.Buffered() > 0 {
		return reply{}, errEarly
	}
	c.arm()
	if _, err := io.WriteString(c.conn, line+"\r\n"); err != nil {
		return reply{}, err
	}
	return readReply(c.r)
}

// quit is good manners; what comes of it does not matter.
func (c *client) quit() {
	c.timeout = min(c.timeout, quitTime)
	c.command("QUIT")
}

// reason shortens an error for people: no addresses, which the result has, and
// no Go.
func reason(err error) string {
	var op *net.OpError
	var errno syscall.Errno
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed"
	case errors.As(err, &errno):
		return errno.Error()
	case errors.As(err, &op) && op.Op != "remote error":
		return op.Err.Error()
	}
	return err.Error()
}
