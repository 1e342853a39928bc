package intake

import (
	"sync"

	"github.com/postseal/postseal/escrow"
)

// delivery is what must not be done twice: one message to one recipient.
type delivery struct {
	digest            escrow.Digest
	sender, recipient string // folded
}

// InHand holds the deliveries that are in hand in this process. Postfix may try
// again while we still work on its first try, where it has lost patience. All
// listeners of a process share one. Its zero value is ready.
type InHand struct {
	mu  sync.Mutex
	set map[delivery]struct{}
}

// take reports whether d was free, and takes it.
func (h *InHand) take(d delivery) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, taken := h.set[d]; taken {
		return false
	}
	if h.set == nil {
		h.set = make(map[delivery]struct{})
	}
	h.set[d] = struct{}{}
	return true
}

func (h *InHand) free(d delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.set, d)
}
