package portal

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// maxPerClient is how many connections one client may have at a time, of an IPv6 client its
// /64 network: a quarter of all, since many recipients may come from behind one address. A
// browser opens six.
const maxPerClient = maxConns / 4

// perClient closes connections of clients that have too many, before anything is read of
// them, so that one machine can't take all that there are. Proxies, and whoever comes by a
// unix socket, are not counted: behind them is everybody.
type perClient struct {
	net.Listener
	most    int
	proxies func(netip.Addr) bool
	log     *slog.Logger

	mu   sync.Mutex
	open map[netip.Addr]int
	told time.Time
}

func (l *perClient) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		peer, err := netip.ParseAddrPort(c.RemoteAddr().String())
		if err != nil || l.proxies(peer.Addr()) {
			return c, nil
		}
		who := peer.Addr().Unmap().WithZone("")
		if who.Is6() {
			who = netip.PrefixFrom(who, 64).Masked().Addr()
		}
		if l.enter(who) {
			return &counted{Conn: c, leave: sync.OnceFunc(func() { l.leave(who) })}, nil
		}
		c.Close()
	}
}

func (l *perClient) enter(who netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[who] < l.most {
		if l.open == nil {
			l.open = make(map[netip.Addr]int)
		}
		l.open[who]++
		return true
	}
	if now := time.Now(); now.Sub(l.told) > time.Minute {
		l.told = now
		l.log.Warn("portal connections of a client that has too many are closed", "peer", who.String(), "open", l.most)
	}
	return false
}

func (l *perClient) leave(who netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[who]--; l.open[who] <= 0 {
		delete(l.open, who)
	}
}

// counted is a connection that counts.
type counted struct {
	net.Conn
	leave func()
}

func (c *counted) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
