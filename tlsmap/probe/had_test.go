package probe

import (
	"context"
	"testing"
	"time"
)

// TestLooked: who counts sessions is told of each once, and not of those that a look
// shares with an earlier one.
func TestLooked(t *testing.T) {
	w := newWorld(t,
		"a.example. 60 IN MX 10 mx.example.", "b.example. 60 IN MX 10 mx.example.",
		"mx.example. 60 IN A 192.0.2.1", "mx.example. 60 IN A 192.0.2.2")
	w.host("192.0.2.1", w.good("mx.example")) // nobody at the other
	var had []Session
	looks := 0
	p := w.prober(func(o *Options) {
		o.Looked = func(r *Result, s []Session) { looks++; had = append(had, s...) }
	})
	p.Probe(t.Context(), "a.example")
	if len(had) != 2 {
		t.Fatalf("sessions %+v", had)
	}
	for _, s := range had {
		if s.MX.Host != "mx.example" || s.Address.Local.IsValid() != s.Address.TLS {
			t.Errorf("%+v of %+v", s.Address, s.MX)
		}
	}
	p.probe(context.Background(), "b.example", time.Hour)
	if looks != 2 || len(had) != 2 {
		t.Errorf("%d looks, %d sessions", looks, len(had))
	}
}
