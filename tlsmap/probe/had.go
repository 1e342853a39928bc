package probe

import "sync"

// Session is an SMTP session of a look: what came of it, and with which host.
type Session struct {
	MX      *MXResult
	Address *AddressResult
}

// sessions collects those of one look.
type sessions struct {
	mu   sync.Mutex
	list []Session
}

func (s *sessions) add(mx *MXResult, a *AddressResult) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, Session{mx, a})
}
