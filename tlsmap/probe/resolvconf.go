package probe

import (
	"os"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// resolvConf follows a resolv.conf(5). Like the C library it falls back to the
// local host where the file names no server, and looks for a change at most
// every few seconds. A file that can't be read leaves what was known.
type resolvConf struct {
	path string

	mu      sync.Mutex
	looked  time.Time
	changed time.Time
	list    []string
}

const resolvConfEvery = 5 * time.Second

func (f *resolvConf) servers() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.list != nil && time.Since(f.looked) < resolvConfEvery {
		return f.list
	}
	f.looked = time.Now()
	info, err := os.Stat(f.path)
	if err == nil && (f.list == nil || !info.ModTime().Equal(f.changed)) {
		if c, err := dns.ClientConfigFromFile(f.path); err == nil {
			f.changed, f.list = info.ModTime(), nil
			for _, s := range c.Servers {
				if addr, err := serverAddress(s); err == nil {
					f.list = append(f.list, addr)
				}
			}
		}
	}
	if len(f.list) == 0 {
		f.list = []string{"127.0.0.1:53"}
	}
	return f.list
}
